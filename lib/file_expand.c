/* file_expand.c - the original of a compressed model file (format version 3 of hybrid/file.h), put together in memory:
 * sections are copied, entries and offsets follow from the sizes, packed codes come out of the stream.
 *
 * Nothing is believed: every length is checked against the bytes that are left, the original's against the limit. What
 * comes out then goes through file_read.c like any other file.
 */
#include "file_compress.h"

/* What is being put together. */
typedef struct expansion {
    hyb_ctx *ctx;
    uint32_t version;
    hyb_file_layout layout;
    uint8_t *image;
    uint64_t n_image, place;                  /* end of the tensor before */
    const uint8_t *directory, *directory_end; /* of the compressed file; they move on */
    const uint8_t *raw, *raw_end;
    char name[HYB_FILE_NAME_BYTES];
    hyb_rans_decoder *decoder;
} expansion;

static hyb_status fail_tensor(const expansion *e, size_t index, const char *problem) {
    return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: tensor %zu: %s", index, problem);
}

/* ---- one tensor ---- */

/* Its name, from what it shares with the one before. */
static int read_name(expansion *e) {
    size_t left = (size_t)(e->directory_end - e->directory);
    if (left < 2) return 0;
    size_t n_shared = e->directory[0], n_new = e->directory[1];
    if (n_shared + n_new >= sizeof e->name || left - 2 < n_new || n_shared > strlen(e->name)) return 0;
    memset(e->name + n_shared, 0, sizeof e->name - n_shared);
    memcpy(e->name + n_shared, e->directory + 2, n_new);
    e->directory += 2 + n_new;
    return 1;
}

/* Its shape and how it is coded; NULL, or what is wrong. */
static const char *read_shape(expansion *e, hyb_file_shape *shape, int32_t *kind) {
    uint64_t n_rows, n_cols;
    if (e->directory_end - e->directory < 2) return "the directory ends inside it";
    uint8_t format = e->directory[0], packing = e->directory[1];
    e->directory += 2;
    if (!hyb_get_varint(&e->directory, e->directory_end, &n_rows) ||
        !hyb_get_varint(&e->directory, e->directory_end, &n_cols))
        return "the directory ends inside it";
    if (n_rows > UINT32_MAX || n_cols > UINT32_MAX) return "its rows or columns are beyond 2^32";
    *shape = (hyb_file_shape){.format = format & 15,
                              .granularity = format >> 4,
                              .packing = packing & 15,
                              .n_rows = (uint32_t)n_rows,
                              .n_cols = (uint32_t)n_cols};
    *kind = packing >> 4;
    if (*kind > HYB_CODING_ENTROPY || (*kind == HYB_CODING_HALF && shape->format != HYB_FORMAT_F32) ||
        (*kind == HYB_CODING_ENTROPY && shape->format == HYB_FORMAT_F32))
        return "its coding is unknown";
    return hyb_file_measure(shape, e->n_image);
}

/* The next uncoded bytes; NULL if there are not so many. */
static const uint8_t *take_raw(expansion *e, uint64_t n_bytes) {
    const uint8_t *bytes = e->raw;
    if ((uint64_t)(e->raw_end - e->raw) < n_bytes) return NULL;
    e->raw += n_bytes;
    return bytes;
}

static const char *read_raw(expansion *e, uint64_t n_bytes, uint8_t *to) {
    const uint8_t *from = take_raw(e, n_bytes);
    if (from == NULL) return "its data end behind the file";
    memcpy(to, from, (size_t)n_bytes);
    return NULL;
}

static const char *read_half(expansion *e, size_t n_values, uint8_t *to) {
    const uint8_t *from = take_raw(e, (uint64_t)n_values * 2);
    if (from == NULL) return "its data end behind the file";
    for (size_t i = 0; i < n_values; ++i) {
        float value = hyb_float_from_half((uint16_t)(from[2 * i] | from[2 * i + 1] << 8));
        hyb_store_u32(to + 4 * i, hyb_bits_of(value));
    }
    return NULL;
}

static const char *read_coded(expansion *e, const hyb_file_shape *shape, uint8_t *to) {
    hyb_coded coded;
    size_t n = (size_t)shape->payload_bytes;
    if (!hyb_coded_begin(hyb_file_symbols(shape->packing), n, &e->directory, e->directory_end, &coded))
        return "its coding is no such";
    if (!hyb_coded_read(&coded, e->decoder, &e->directory, e->directory_end, n, to))
        return "its probabilities or the stream are damaged";
    return NULL;
}

static void put_entry(const expansion *e, size_t index, const hyb_file_shape *shape, uint64_t offset) {
    uint8_t *entry = e->image + e->layout.directory + index * HYB_ENTRY_BYTES;
    memset(entry, 0, HYB_ENTRY_BYTES);
    memcpy(entry, e->name, sizeof e->name);
    entry[HYB_ENTRY_FORMAT] = (uint8_t)shape->format;
    entry[HYB_ENTRY_PACKING] = (uint8_t)shape->packing;
    entry[HYB_ENTRY_GRANULARITY] = (uint8_t)shape->granularity;
    hyb_store_u32(entry + HYB_ENTRY_ROWS, shape->n_rows);
    hyb_store_u32(entry + HYB_ENTRY_COLS, shape->n_cols);
    hyb_store_u64(entry + HYB_ENTRY_OFFSET, offset);
    hyb_store_u64(entry + HYB_ENTRY_DATA_BYTES, shape->data_bytes);
}

static const char *expand_tensor(expansion *e, size_t index) {
    hyb_file_shape shape;
    int32_t kind;
    if (!read_name(e)) return "its name is no such";
    const char *problem = read_shape(e, &shape, &kind);
    if (problem != NULL) return problem;
    uint64_t end = e->place;
    if (!hyb_file_place(&e->place, shape.data_bytes, HYB_FILE_ALIGNMENT, e->n_image))
        return "it ends behind the original";
    uint64_t offset = e->place - shape.data_bytes;
    memset(e->image + end, 0, (size_t)(offset - end));
    put_entry(e, index, &shape, offset);
    uint8_t *to = e->image + offset;
    if (kind == HYB_CODING_ENTROPY)
        problem = read_coded(e, &shape, to);
    else if (kind == HYB_CODING_HALF)
        problem = read_half(e, shape.n_values, to);
    else
        problem = read_raw(e, shape.payload_bytes, to);
    return problem != NULL ? problem : read_raw(e, (uint64_t)shape.n_scales * 2, to + shape.payload_bytes);
}

/* ---- the whole ---- */

static hyb_status check_lanes(hyb_ctx *ctx, const uint8_t *header) {
    uint32_t lanes = hyb_load_u32(header + HYB_COMPRESSED_LANES);
    if (lanes == 0 || lanes > HYB_RANS_LANES || (hyb_load_u64(header + HYB_COMPRESSED_STREAM) == 0 && lanes != 1))
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "compressed file: the stream has %u lanes", lanes);
    for (size_t i = HYB_COMPRESSED_ZERO; i < HYB_HEADER_BODY_CRC; ++i)
        if (header[i] != 0) return hyb_fail(ctx, HYB_ERROR_FORMAT, "byte %zu is %u, must be zero", i, header[i]);
    return HYB_OK;
}

/* Where the sections of the compressed file begin, and the sizes of the original's. */
static hyb_status read_header(expansion *e, const uint8_t *bytes, size_t n_bytes, const uint8_t *sections[6]) {
    static const uint8_t fields[] = {HYB_COMPRESSED_TOKENIZER, HYB_COMPRESSED_METADATA, HYB_COMPRESSED_DIRECTORY,
                                     HYB_COMPRESSED_RAW, HYB_COMPRESSED_STREAM};
    uint64_t at = HYB_HEADER_BYTES + HYB_CONFIG_BYTES, limit = (uint64_t)n_bytes * HYB_FILE_EXPANSION;
    e->version = hyb_load_u32(bytes + HYB_COMPRESSED_ORIGINAL_VERSION);
    e->n_image = hyb_load_u64(bytes + HYB_COMPRESSED_ORIGINAL_BYTES);
    if (e->version == 0 || e->version >= HYB_COMPRESSED_VERSION)
        return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: the original's format version is %u", e->version);
    if (e->n_image > limit + HYB_COMPRESSED_FREE_BYTES || e->n_image > SIZE_MAX / 2)
        return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: %llu bytes are too many for the original of %zu",
                        (unsigned long long)e->n_image, n_bytes);
    HYB_TRY(check_lanes(e->ctx, bytes));
    for (size_t i = 0; i < 5; ++i) {
        uint64_t n = hyb_load_u64(bytes + fields[i]);
        if (at > n_bytes || n > n_bytes - at)
            return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: its sections are longer than its %zu bytes",
                            n_bytes);
        sections[i] = bytes + at;
        at += n;
    }
    sections[5] = bytes + at;
    if (at != n_bytes)
        return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: its sections end at byte %llu of %zu",
                        (unsigned long long)at, n_bytes);
    e->layout.tokenizer_bytes = hyb_load_u64(bytes + HYB_COMPRESSED_TOKENIZER);
    e->layout.metadata_bytes = hyb_load_u64(bytes + HYB_COMPRESSED_METADATA);
    e->layout.n_tensors = hyb_load_u64(bytes + HYB_COMPRESSED_N_TENSORS);
    if (e->layout.n_tensors == 0 || !hyb_file_place_sections(&e->layout, e->n_image))
        return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: the sections do not fit into the original");
    return HYB_OK;
}

/* Fills the image; its memory and the decoder are there. */
static hyb_status fill_image(expansion *e, const uint8_t *bytes, const uint8_t *const sections[6]) {
    const hyb_file_layout *l = &e->layout;
    memset(e->image, 0, (size_t)l->data);
    memcpy(e->image + HYB_HEADER_BYTES, bytes + HYB_HEADER_BYTES, HYB_CONFIG_BYTES);
    if (l->tokenizer != 0) memcpy(e->image + l->tokenizer, sections[0], (size_t)l->tokenizer_bytes);
    if (l->metadata != 0) memcpy(e->image + l->metadata, sections[1], (size_t)l->metadata_bytes);
    e->directory = sections[2];
    e->directory_end = e->raw = sections[3];
    e->raw_end = sections[4];
    e->place = l->data;
    if (!hyb_rans_decoder_init(e->decoder, &e->ctx->kernels, sections[4], (size_t)(sections[5] - sections[4]),
                               hyb_load_u32(bytes + HYB_COMPRESSED_LANES)))
        return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: the stream's beginning is no such");
    for (size_t i = 0; i < (size_t)l->n_tensors; ++i) {
        const char *problem = expand_tensor(e, i);
        if (problem != NULL) return fail_tensor(e, i, problem);
    }
    if (e->directory != e->directory_end || e->raw != e->raw_end || e->place != e->n_image)
        return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: something is left behind the last tensor");
    if (!hyb_rans_decoder_finish(e->decoder))
        return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: the stream is damaged");
    hyb_file_put_header(e->version, e->n_image, l, hyb_load_u32(bytes + HYB_COMPRESSED_ORIGINAL_CRC), e->image);
    return HYB_OK;
}

hyb_status hyb_file_expand_image(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, uint8_t **image, size_t *n_image) {
    expansion e = {.ctx = ctx};
    const uint8_t *sections[6];
    if (hyb_load_u32(bytes + HYB_HEADER_BODY_CRC) !=
        hyb_crc32c(0, bytes + HYB_HEADER_BYTES, n_bytes - HYB_HEADER_BYTES))
        return hyb_fail(ctx, HYB_ERROR_CHECKSUM, "the checksum is wrong: the file is damaged");
    HYB_TRY(read_header(&e, bytes, n_bytes, sections));
    e.image = hyb_alloc(ctx, (size_t)e.n_image, 1);
    e.decoder = hyb_alloc(ctx, 1, sizeof *e.decoder);
    hyb_status status = HYB_OK;
    if (e.image == NULL || e.decoder == NULL)
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the original's %llu bytes",
                          (unsigned long long)e.n_image);
    if (status == HYB_OK) status = fill_image(&e, bytes, sections);
    hyb_free(ctx, e.decoder);
    if (status == HYB_OK) {
        *image = e.image;
        *n_image = (size_t)e.n_image;
    } else {
        hyb_free(ctx, e.image);
    }
    return status;
}

/* ---- writing it down ---- */

static hyb_status check_compressed(hyb_ctx *ctx, const hyb_file *file) {
    if (hyb_file_version(file) == HYB_COMPRESSED_VERSION) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_FORMAT, "the file is not compressed: its format version is %u",
                    hyb_file_version(file));
}

hyb_status hyb_file_expand(hyb_ctx *ctx, const char *source, const char *target, hyb_file_sizes *sizes) {
    hyb_file *file = NULL;
    if (ctx == NULL || source == NULL || target == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_expand: ctx, source and target must not be NULL");
    HYB_TRY(hyb_file_open(ctx, source, &file));
    hyb_status status = check_compressed(ctx, file);
    if (status != HYB_OK) status = hyb_fail_file(ctx, status, source);
    if (status == HYB_OK) status = hyb_file_replace(ctx, target, hyb_file_image(file), hyb_file_expanded_bytes(file));
    if (status == HYB_OK && sizes != NULL)
        *sizes = (hyb_file_sizes){hyb_file_expanded_bytes(file), hyb_file_bytes(file)};
    hyb_file_close(file);
    return status;
}

hyb_status hyb_file_expand_memory(hyb_ctx *ctx, const void *source, size_t n_source, void *target, size_t capacity,
                                  size_t *n_bytes) {
    hyb_file *file = NULL;
    if (ctx == NULL || source == NULL || n_bytes == NULL || (target == NULL && capacity > 0))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_expand_memory: ctx, source or n_bytes is NULL");
    HYB_TRY(hyb_file_open_memory(ctx, source, n_source, &file));
    hyb_status status = check_compressed(ctx, file);
    if (status == HYB_OK)
        status =
            hyb_file_put_bytes(ctx, hyb_file_image(file), hyb_file_expanded_bytes(file), target, capacity, n_bytes);
    hyb_file_close(file);
    return status;
}
