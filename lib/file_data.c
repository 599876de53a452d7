/* file_data.c - the data of an open model file, tensor after tensor in pieces that stay in a cache (file_data.h): bytes
 * as they are in the file, from binary16, or out of the stream -> codes and values, checked.
 *
 * The bytes come from memory, or from a disk through windows. A file on a disk may have changed since its checksum was
 * looked at: nothing here relies on that, and what was read is summed again.
 */
#include "file_compress.h"
#include "file_open.h"

struct hyb_file_data {
    const hyb_file *file;
    hyb_window raw, stream;    /* all data of a file that is not compressed are raw */
    hyb_rans_decoder *decoder; /* NULL for such a file */
    size_t index;              /* of the next tensor */
    hyb_file_tensor tensor;
    hyb_file_part part;
    hyb_coded coded;
    size_t n_codes; /* that were read */
    uint64_t place; /* in the original */
    int has_crc;    /* it was not checked before, and is not in memory */
    uint32_t crc;   /* of the original's bytes before `place` */
    uint8_t piece[HYB_PIECE_CODES];
};

static hyb_status fail_memory(hyb_ctx *ctx) {
    return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to read a model file");
}

/* ---- windows ---- */

hyb_status hyb_window_open(const hyb_input *input, uint64_t begin, uint64_t end, hyb_window *window) {
    *window = (hyb_window){.input = input, .at = begin, .end = end};
    if (input->bytes != NULL) {
        window->next = input->bytes + begin;
        window->n = (size_t)(end - begin);
        window->at = end;
        return HYB_OK;
    }
    window->next = window->buffer = hyb_alloc(input->ctx, HYB_WINDOW_BYTES, 1);
    return window->buffer != NULL ? HYB_OK : fail_memory(input->ctx);
}

void hyb_window_close(hyb_window *window) {
    if (window->buffer != NULL) hyb_free(window->input->ctx, window->buffer);
    window->buffer = NULL;
}

hyb_status hyb_window_fill(hyb_window *w, size_t n_bytes) {
    if (w->n >= n_bytes || w->at == w->end) return HYB_OK;
    memmove(w->buffer, w->next, w->n);
    w->next = w->buffer;
    size_t n = HYB_WINDOW_BYTES - w->n;
    if (n > w->end - w->at) n = (size_t)(w->end - w->at);
    HYB_TRY(hyb_input_read(w->input, w->at, w->buffer + w->n, n));
    w->n += n;
    w->at += n;
    return HYB_OK;
}

void hyb_window_pass(hyb_window *w, size_t n_bytes) {
    w->next += n_bytes;
    w->n -= n_bytes;
}

/* ---- bytes ---- */

static hyb_status fail_tensor(const hyb_file_data *d, const char *problem) {
    return hyb_fail(d->file->ctx, HYB_ERROR_FORMAT, "tensor %s: %s", d->tensor.name, problem);
}

/* Counts bytes of the original. */
static void pass_bytes(hyb_file_data *d, const uint8_t *bytes, size_t n) {
    if (d->has_crc) d->crc = hyb_crc32c(d->crc, bytes, n);
    d->place += n;
}

/* The next bytes of the raw data, at most HYB_WINDOW_BYTES, valid until the next call. */
static hyb_status take_raw(hyb_file_data *d, size_t n, const uint8_t **bytes) {
    HYB_TRY(hyb_window_fill(&d->raw, n));
    if (d->raw.n < n) return fail_tensor(d, "its data end behind the file");
    *bytes = d->raw.next;
    hyb_window_pass(&d->raw, n);
    return HYB_OK;
}

static void put_floats(const uint8_t *halves, size_t n_bytes, uint8_t *to) {
    for (size_t i = 0; i < n_bytes; i += 4) {
        float value = hyb_float_from_half((uint16_t)(halves[i / 2] | halves[i / 2 + 1] << 8));
        hyb_store_u32(to + i, hyb_bits_of(value));
    }
}

static hyb_status decode(hyb_file_data *d, size_t n, uint8_t *to) {
    hyb_window *w = &d->stream;
    HYB_TRY(hyb_window_fill(w, 2 * (n + HYB_RANS_LANES))); /* no symbol takes more than a word */
    hyb_rans_decoder_feed(d->decoder, w->next, w->n / 2);
    if (!hyb_coded_read(&d->coded, d->decoder, &d->part.coding, d->file->parts_end, n, to))
        return fail_tensor(d, "its probabilities or the stream are damaged");
    hyb_window_pass(w, (size_t)(d->decoder->words - w->next));
    return HYB_OK;
}

/* The next n bytes of the payload, at most HYB_PIECE_CODES, and a multiple of 64 but for the last ones: where they are,
 * or in `to`. */
static hyb_status take_payload(hyb_file_data *d, size_t n, uint8_t *to, const uint8_t **bytes) {
    if (d->part.kind == HYB_CODING_ENTROPY) {
        HYB_TRY(decode(d, n, to));
        *bytes = to;
    } else if (d->part.kind == HYB_CODING_HALF) {
        HYB_TRY(take_raw(d, n / 2, bytes));
        put_floats(*bytes, n, to);
        *bytes = to;
    } else {
        HYB_TRY(take_raw(d, n, bytes));
    }
    pass_bytes(d, *bytes, n);
    return HYB_OK;
}

/* All bytes of a tensor. */
static hyb_status copy_tensor(hyb_file_data *d, uint8_t *to) {
    const uint8_t *from = NULL;
    for (size_t left = d->tensor.payload_bytes, n; left > 0; left -= n, to += n) {
        n = hyb_min_size(left, HYB_PIECE_CODES);
        HYB_TRY(take_payload(d, n, to, &from));
        if (from != to) memcpy(to, from, n);
    }
    for (size_t left = 2 * (size_t)d->tensor.n_scales, n; left > 0; left -= n, to += n) {
        n = hyb_min_size(left, HYB_PIECE_CODES);
        HYB_TRY(take_raw(d, n, &from));
        pass_bytes(d, from, n);
        memcpy(to, from, n);
    }
    return HYB_OK;
}

/* ---- from tensor to tensor ---- */

static hyb_status begin_stream(hyb_file_data *d) {
    const hyb_file *file = d->file;
    d->decoder = hyb_alloc(file->ctx, 1, sizeof *d->decoder);
    if (d->decoder == NULL) return fail_memory(file->ctx);
    HYB_TRY(hyb_window_open(&file->input, file->stream, file->input.n_bytes, &d->stream));
    HYB_TRY(hyb_window_fill(&d->stream, 4 * (size_t)HYB_RANS_LANES));
    if (!hyb_rans_decoder_init(d->decoder, &file->ctx->kernels, d->stream.next, d->stream.n, file->n_lanes))
        return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "compressed file: the stream's beginning is no such");
    hyb_window_pass(&d->stream, (size_t)(d->decoder->words - d->stream.next));
    return HYB_OK;
}

static hyb_status begin(hyb_file_data *d) {
    const hyb_file *file = d->file;
    int is_compressed = file->parts != NULL;
    d->place = file->layout.data;
    d->has_crc = is_compressed || file->input.bytes == NULL;
    if (d->has_crc)
        d->crc = hyb_crc32c(0, file->bytes + HYB_HEADER_BYTES, (size_t)file->layout.data - HYB_HEADER_BYTES);
    HYB_TRY(hyb_window_open(&file->input, is_compressed ? file->raw : file->layout.data,
                            is_compressed ? file->stream : file->n_bytes, &d->raw));
    return is_compressed ? begin_stream(d) : HYB_OK;
}

hyb_status hyb_file_data_begin(const hyb_file *file, hyb_file_data **data) {
    hyb_file_data *d = hyb_alloc(file->ctx, 1, sizeof *d);
    if (d == NULL) return fail_memory(file->ctx);
    *d = (hyb_file_data){.file = file};
    hyb_status status = begin(d);
    if (status == HYB_OK)
        *data = d;
    else
        hyb_file_data_free(d);
    return status;
}

void hyb_file_data_free(hyb_file_data *data) {
    if (data == NULL) return;
    hyb_window_close(&data->raw);
    hyb_window_close(&data->stream);
    hyb_free(data->file->ctx, data->decoder);
    hyb_free(data->file->ctx, data);
}

/* The zeros between two tensors. */
static hyb_status pass_gap(hyb_file_data *d) {
    static const uint8_t zeros[HYB_FILE_ALIGNMENT] = {0};
    size_t n = (size_t)(0 - d->place) & (HYB_FILE_ALIGNMENT - 1); /* up to its next multiple */
    const uint8_t *gap = zeros;
    if (d->file->parts == NULL) HYB_TRY(take_raw(d, n, &gap));
    for (size_t i = 0; i < n; ++i)
        if (gap[i] != 0)
            return hyb_fail(d->file->ctx, HYB_ERROR_FORMAT, "byte %llu is %u, must be zero",
                            (unsigned long long)(d->place + i), (unsigned)gap[i]);
    pass_bytes(d, gap, n);
    return HYB_OK;
}

hyb_status hyb_file_data_next(hyb_file_data *d, hyb_file_tensor *tensor) {
    const hyb_file *file = d->file;
    HYB_TRY(hyb_file_tensor_at(file, d->index, &d->tensor));
    HYB_TRY(pass_gap(d));
    d->part = file->parts != NULL ? file->parts[d->index] : (hyb_file_part){.kind = HYB_CODING_NONE};
    d->n_codes = 0;
    ++d->index;
    *tensor = d->tensor;
    if (d->part.kind == HYB_CODING_ENTROPY &&
        !hyb_coded_begin(hyb_file_symbols((uint32_t)d->tensor.packing), d->tensor.payload_bytes, &d->part.coding,
                         file->parts_end, &d->coded))
        return fail_tensor(d, "its coding is no such");
    return HYB_OK;
}

/* All was read, and the stream's states are where the encoder began. */
static hyb_status check_end(hyb_file_data *d) {
    hyb_ctx *ctx = d->file->ctx;
    if (d->raw.n != 0 || d->raw.at != d->raw.end)
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "compressed file: something is left behind the last tensor");
    if (d->stream.n != 0 || d->stream.at != d->stream.end ||
        (d->decoder != NULL && !hyb_rans_decoder_finish(d->decoder)))
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "compressed file: the stream is damaged");
    return HYB_OK;
}

hyb_status hyb_file_data_end(hyb_file_data *d) {
    HYB_TRY(check_end(d));
    if (!d->has_crc || d->crc == hyb_load_u32(d->file->bytes + HYB_HEADER_BODY_CRC)) return HYB_OK;
    return hyb_fail(d->file->ctx, HYB_ERROR_CHECKSUM, "the checksum is wrong: the file is damaged");
}

/* ---- contents ---- */

hyb_status hyb_file_data_values(hyb_file_data *d, float *values) {
    const size_t n_values = d->tensor.payload_bytes / 4;
    for (size_t i = 0, n; i < n_values; i += n) {
        const uint8_t *bytes = NULL;
        n = hyb_min_size(n_values - i, sizeof d->piece / 4);
        HYB_TRY(take_payload(d, 4 * n, d->piece, &bytes));
        for (size_t j = 0; j < n; ++j) {
            float value = hyb_float_of(hyb_load_u32(bytes + 4 * j));
            if (!hyb_is_finite(value))
                return hyb_fail(d->file->ctx, HYB_ERROR_FORMAT, "tensor %s: value %zu is not finite", d->tensor.name,
                                i + j);
            if (values != NULL) values[i + j] = value;
        }
    }
    return HYB_OK;
}

hyb_status hyb_file_data_codes(hyb_file_data *d, size_t n, int8_t *codes) {
    const uint8_t *bytes = NULL;
    const hyb_packing packing = (hyb_packing)d->tensor.packing;
    HYB_TRY(take_payload(d, hyb_packed_bytes(packing, n), d->piece, &bytes));
    if (hyb_unpack(d->file->ctx, packing, bytes, n, codes) != HYB_OK)
        return hyb_fail(d->file->ctx, HYB_ERROR_FORMAT, "tensor %s: an invalid byte among codes %zu to %zu",
                        d->tensor.name, d->n_codes, d->n_codes + n - 1);
    d->n_codes += n;
    return HYB_OK;
}

hyb_status hyb_file_data_scales(hyb_file_data *d, float *scales) {
    for (size_t i = 0, n; i < d->tensor.n_scales; i += n) {
        const uint8_t *bytes = NULL;
        n = hyb_min_size(d->tensor.n_scales - i, sizeof d->piece / 2);
        HYB_TRY(take_raw(d, 2 * n, &bytes));
        pass_bytes(d, bytes, 2 * n);
        for (size_t j = 0; j < n; ++j) {
            uint16_t half = (uint16_t)(bytes[2 * j] | bytes[2 * j + 1] << 8);
            if ((half & 0x7c00) == 0x7c00) /* binary16: all bits of the exponent */
                return hyb_fail(d->file->ctx, HYB_ERROR_FORMAT, "tensor %s: scale %zu is not finite", d->tensor.name,
                                i + j);
            if (scales != NULL) scales[i + j] = hyb_float_from_half(half);
        }
    }
    return HYB_OK;
}

/* ---- all of it ---- */

static hyb_status check_tensor(hyb_file_data *d, int8_t *codes) {
    hyb_file_tensor t;
    HYB_TRY(hyb_file_data_next(d, &t));
    if (t.format == HYB_FORMAT_F32) return hyb_file_data_values(d, NULL);
    for (size_t left = (size_t)t.n_rows * t.n_cols, n; left > 0; left -= n) {
        n = hyb_min_size(left, HYB_PIECE_CODES);
        HYB_TRY(hyb_file_data_codes(d, n, codes));
    }
    return hyb_file_data_scales(d, NULL);
}

hyb_status hyb_file_check_data(const hyb_file *file) {
    hyb_file_data *d = NULL;
    int8_t *codes = hyb_alloc(file->ctx, HYB_PIECE_CODES, 1);
    hyb_status status = codes != NULL ? hyb_file_data_begin(file, &d) : fail_memory(file->ctx);
    for (size_t i = 0; status == HYB_OK && i < hyb_file_tensor_count(file); ++i) status = check_tensor(d, codes);
    if (status == HYB_OK) status = hyb_file_data_end(d);
    hyb_file_data_free(d);
    hyb_free(file->ctx, codes);
    return status;
}

static hyb_status expand_tensor(hyb_file_data *d, uint8_t *image) {
    hyb_file_tensor tensor;
    size_t end = (size_t)d->place;
    HYB_TRY(hyb_file_data_next(d, &tensor));
    memset(image + end, 0, (size_t)d->place - end);
    return copy_tensor(d, image + d->place);
}

hyb_status hyb_file_expand_image(const hyb_file *file, uint8_t **image, uint32_t *crc) {
    hyb_file_data *d = NULL;
    uint8_t *bytes = hyb_alloc(file->ctx, file->n_bytes, 1);
    if (bytes == NULL)
        return hyb_fail(file->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the original's %zu bytes", file->n_bytes);
    memcpy(bytes, file->bytes, (size_t)file->layout.data);
    hyb_status status = hyb_file_data_begin(file, &d);
    for (size_t i = 0; status == HYB_OK && i < hyb_file_tensor_count(file); ++i) status = expand_tensor(d, bytes);
    if (status == HYB_OK) status = check_end(d);
    if (status == HYB_OK) {
        *image = bytes;
        *crc = d->crc;
    } else {
        hyb_free(file->ctx, bytes);
    }
    hyb_file_data_free(d);
    return status;
}
