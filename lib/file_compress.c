/* file_compress.c - a model file in its compressed form (format version 3 of hybrid/file.h): how each tensor is coded
 * is decided by size, all coded tensors go into one stream, the directory follows without what its reader can work out.
 */
#include "file_compress.h"

#include <math.h>

#define MAX_SYMBOLS ((uint64_t)1 << 31) /* of a coded tensor */

hyb_symbols hyb_file_symbols(uint32_t packing) {
    return packing == HYB_PACKING_TERNARY_BASE3 ? (hyb_symbols){3, 5} : (hyb_symbols){0, 1};
}

/* ---- one tensor ---- */

/* A tensor of the source, and how it is written. */
typedef struct part {
    hyb_file_tensor tensor;
    int32_t kind; /* hyb_coding_kind */
    hyb_coding coding;
} part;

static int fits_half(const hyb_file_tensor *t) {
    const uint8_t *bytes = t->payload;
    for (size_t i = 0; i < t->payload_bytes; i += 4) {
        uint32_t bits = hyb_load_u32(bytes + i);
        if (hyb_bits_of(hyb_round_to_half(hyb_float_of(bits))) != bits) return 0;
    }
    return 1;
}

static hyb_status plan_part(hyb_ctx *ctx, const hyb_file *file, size_t index, part *p) {
    *p = (part){.kind = HYB_CODING_NONE};
    HYB_TRY(hyb_file_tensor_at(file, index, &p->tensor));
    if (p->tensor.format == HYB_FORMAT_F32) {
        if (fits_half(&p->tensor)) p->kind = HYB_CODING_HALF;
        return HYB_OK;
    }
    if (p->tensor.payload_bytes >= MAX_SYMBOLS) return HYB_OK;
    HYB_TRY(hyb_coding_plan(ctx, hyb_file_symbols((uint32_t)p->tensor.packing), p->tensor.payload,
                            p->tensor.payload_bytes, &p->coding));
    if (hyb_coding_bytes(&p->coding) + 1 < p->tensor.payload_bytes) p->kind = HYB_CODING_ENTROPY;
    return HYB_OK;
}

/* Bytes in the uncoded data. */
static size_t raw_bytes(const part *p) {
    size_t payload = p->tensor.payload_bytes;
    if (p->kind == HYB_CODING_HALF) payload /= 2;
    if (p->kind == HYB_CODING_ENTROPY) payload = 0;
    return payload + 2 * (size_t)p->tensor.n_scales;
}

/* ---- the whole ---- */

typedef struct compression {
    hyb_ctx *ctx;
    const hyb_file *file;
    part *parts;
    size_t n_parts;
    uint8_t *buffer; /* in which the stream is made */
    const uint8_t *stream;
    size_t n_stream;
    uint32_t n_lanes;
    uint8_t *directory;
    size_t n_directory, n_raw, n_bytes;
} compression;

static hyb_status fail_memory(const compression *c) {
    return hyb_fail(c->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to compress a model file");
}

static hyb_status make_stream(compression *c) {
    hyb_rans_encoder encoder;
    uint64_t n = 0;
    for (size_t i = 0; i < c->n_parts; ++i)
        if (c->parts[i].kind == HYB_CODING_ENTROPY) n += c->parts[i].coding.cost >> 19;
    const uint64_t room = n + n / 64 + 8 * c->n_parts + 1024; /* costs are estimated, to far less than that */
    hyb_free(c->ctx, c->buffer);
    c->buffer = room <= SIZE_MAX / 2 ? hyb_alloc(c->ctx, (size_t)room, 1) : NULL;
    if (c->buffer == NULL) return fail_memory(c);
    c->n_lanes = hyb_rans_lanes(n);
    hyb_rans_encoder_init(&encoder, c->buffer, (size_t)room, c->n_lanes);
    int done = 1;
    for (size_t i = c->n_parts; done && i-- > 0;)
        if (c->parts[i].kind == HYB_CODING_ENTROPY) done = hyb_coding_encode(&c->parts[i].coding, &encoder);
    c->stream = done ? hyb_rans_encoder_finish(&encoder, &c->n_stream) : NULL;
    if (c->stream == NULL) return hyb_fail(c->ctx, HYB_ERROR_UNSUPPORTED, "the stream is longer than it can be");
    if (c->n_stream == 0) c->n_lanes = 1;
    return HYB_OK;
}

static size_t put_entry(const part *p, const char *name_before, uint8_t *bytes) {
    size_t n_shared = 0, n_name = strlen(p->tensor.name), n = 0;
    while (n_shared < n_name && name_before[n_shared] == p->tensor.name[n_shared]) ++n_shared;
    bytes[n++] = (uint8_t)n_shared;
    bytes[n++] = (uint8_t)(n_name - n_shared);
    memcpy(bytes + n, p->tensor.name + n_shared, n_name - n_shared);
    n += n_name - n_shared;
    bytes[n++] = (uint8_t)(p->tensor.format | p->tensor.granularity << 4);
    bytes[n++] = (uint8_t)(p->tensor.packing | p->kind << 4);
    n += hyb_put_varint(p->tensor.n_rows, bytes + n);
    n += hyb_put_varint(p->tensor.n_cols, bytes + n);
    if (p->kind != HYB_CODING_ENTROPY) return n;
    memcpy(bytes + n, p->coding.head, p->coding.n_head);
    return n + p->coding.n_head;
}

static hyb_status make_directory(compression *c) {
    size_t room = 0;
    for (size_t i = 0; i < c->n_parts; ++i)
        room += 4 + HYB_FILE_NAME_BYTES + 2 * HYB_VARINT_BYTES + c->parts[i].coding.n_head;
    hyb_free(c->ctx, c->directory);
    c->directory = hyb_alloc(c->ctx, room, 1);
    if (c->directory == NULL) return fail_memory(c);
    c->n_directory = c->n_raw = 0;
    for (size_t i = 0; i < c->n_parts; ++i) {
        c->n_directory +=
            put_entry(&c->parts[i], i > 0 ? c->parts[i - 1].tensor.name : "", c->directory + c->n_directory);
        c->n_raw += raw_bytes(&c->parts[i]);
    }
    return HYB_OK;
}

static size_t sections_bytes(const hyb_file *file, size_t *tokenizer, size_t *metadata) {
    (void)hyb_file_tokenizer(file, tokenizer);
    (void)hyb_file_metadata(file, metadata);
    return HYB_HEADER_BYTES + HYB_CONFIG_BYTES + *tokenizer + *metadata;
}

/* Leaves one coded tensor packed, if the file would expand beyond the limit: the smallest that is enough, or the
 * largest. Returns 1 if it did. */
static int keep_below_limit(compression *c) {
    const uint64_t original = hyb_file_expanded_bytes(c->file);
    if (original <= (uint64_t)c->n_bytes * HYB_FILE_EXPANSION + HYB_COMPRESSED_FREE_BYTES) return 0;
    uint64_t need = (original - HYB_COMPRESSED_FREE_BYTES) / HYB_FILE_EXPANSION + 1 - c->n_bytes;
    part *found = NULL;
    for (size_t i = 0; i < c->n_parts; ++i) {
        part *p = &c->parts[i];
        if (p->kind != HYB_CODING_ENTROPY) continue;
        uint64_t gain = p->tensor.payload_bytes - hyb_coding_bytes(&p->coding);
        uint64_t best = found != NULL ? found->tensor.payload_bytes - hyb_coding_bytes(&found->coding) : 0;
        if (found == NULL || (best < need ? gain > best : gain >= need && gain < best)) found = p;
    }
    if (found == NULL) return 0;
    found->kind = HYB_CODING_NONE;
    return 1;
}

static hyb_status plan_file(compression *c) {
    size_t tokenizer, metadata;
    for (size_t i = 0; i < c->n_parts; ++i) HYB_TRY(plan_part(c->ctx, c->file, i, &c->parts[i]));
    do {
        HYB_TRY(make_stream(c));
        HYB_TRY(make_directory(c));
        c->n_bytes = sections_bytes(c->file, &tokenizer, &metadata) + c->n_directory + c->n_raw + c->n_stream;
    } while (keep_below_limit(c));
    return HYB_OK;
}

static void make_header(const compression *c, uint8_t *h) {
    const uint8_t *image = hyb_file_image(c->file);
    size_t tokenizer, metadata;
    (void)sections_bytes(c->file, &tokenizer, &metadata);
    memset(h, 0, HYB_HEADER_BYTES);
    memcpy(h, hyb_file_magic, HYB_MAGIC_BYTES);
    hyb_store_u32(h + HYB_HEADER_VERSION, HYB_COMPRESSED_VERSION);
    hyb_store_u32(h + HYB_HEADER_HEADER_BYTES, HYB_HEADER_BYTES);
    hyb_store_u64(h + HYB_HEADER_FILE_BYTES, c->n_bytes);
    hyb_store_u32(h + HYB_COMPRESSED_ORIGINAL_VERSION, hyb_load_u32(image + HYB_HEADER_VERSION));
    hyb_store_u32(h + HYB_COMPRESSED_ORIGINAL_CRC, hyb_load_u32(image + HYB_HEADER_BODY_CRC));
    hyb_store_u64(h + HYB_COMPRESSED_ORIGINAL_BYTES, hyb_file_expanded_bytes(c->file));
    hyb_store_u64(h + HYB_COMPRESSED_TOKENIZER, tokenizer);
    hyb_store_u64(h + HYB_COMPRESSED_METADATA, metadata);
    hyb_store_u64(h + HYB_COMPRESSED_DIRECTORY, c->n_directory);
    hyb_store_u64(h + HYB_COMPRESSED_N_TENSORS, c->n_parts);
    hyb_store_u64(h + HYB_COMPRESSED_RAW, c->n_raw);
    hyb_store_u64(h + HYB_COMPRESSED_STREAM, c->n_stream);
    hyb_store_u32(h + HYB_COMPRESSED_LANES, c->n_lanes);
    hyb_store_u32(h + HYB_HEADER_BODY_CRC, hyb_crc32c(0, h + HYB_HEADER_BYTES, c->n_bytes - HYB_HEADER_BYTES));
    hyb_store_u32(h + HYB_HEADER_CRC, hyb_crc32c(0, h, HYB_HEADER_CRC));
}

static uint8_t *put(uint8_t *to, const void *from, size_t n) {
    if (n > 0) memcpy(to, from, n);
    return to + n;
}

static uint8_t *put_raw(uint8_t *to, const part *p) {
    const uint8_t *payload = p->tensor.payload;
    if (p->kind == HYB_CODING_NONE) to = put(to, payload, p->tensor.payload_bytes);
    if (p->kind == HYB_CODING_HALF)
        for (size_t i = 0; i < p->tensor.payload_bytes; i += 4) {
            uint16_t half = hyb_half_from_float(hyb_float_of(hyb_load_u32(payload + i)));
            *to++ = (uint8_t)half;
            *to++ = (uint8_t)(half >> 8);
        }
    return put(to, p->tensor.scales, 2 * (size_t)p->tensor.n_scales);
}

/* The compressed form of an open file, in [n_bytes] of memory that the caller frees. */
static hyb_status compress_image(compression *c, uint8_t **result) {
    size_t tokenizer, metadata;
    if (hyb_file_version(c->file) == HYB_COMPRESSED_VERSION)
        return hyb_fail(c->ctx, HYB_ERROR_FORMAT, "the file is compressed already (format version 3)");
    c->n_parts = hyb_file_tensor_count(c->file);
    c->parts = hyb_alloc_zeroed(c->ctx, c->n_parts, sizeof *c->parts);
    if (c->parts == NULL) return fail_memory(c);
    HYB_TRY(plan_file(c));
    uint8_t *bytes = hyb_alloc(c->ctx, c->n_bytes, 1);
    if (bytes == NULL) return fail_memory(c);
    uint8_t *to = bytes + HYB_HEADER_BYTES;
    (void)sections_bytes(c->file, &tokenizer, &metadata);
    to = put(to, hyb_file_config_bytes(c->file), HYB_CONFIG_BYTES);
    to = put(to, hyb_file_tokenizer(c->file, NULL), tokenizer);
    to = put(to, hyb_file_metadata(c->file, NULL), metadata);
    to = put(to, c->directory, c->n_directory);
    for (size_t i = 0; i < c->n_parts; ++i) to = put_raw(to, &c->parts[i]);
    (void)put(to, c->stream, c->n_stream);
    make_header(c, bytes);
    *result = bytes;
    return HYB_OK;
}

static hyb_status compress_file(hyb_ctx *ctx, const hyb_file *file, uint8_t **bytes, size_t *n_bytes) {
    compression c = {.ctx = ctx, .file = file};
    hyb_status status = compress_image(&c, bytes);
    *n_bytes = c.n_bytes;
    for (size_t i = 0; c.parts != NULL && i < c.n_parts; ++i) hyb_coding_free(ctx, &c.parts[i].coding);
    hyb_free(ctx, c.parts);
    hyb_free(ctx, c.buffer);
    hyb_free(ctx, c.directory);
    return status;
}

/* ---- public ---- */

hyb_status hyb_file_replace(hyb_ctx *ctx, const char *path, const uint8_t *bytes, size_t n_bytes) {
    hyb_output output;
    HYB_TRY(hyb_output_begin(ctx, path, &output));
    hyb_status status = hyb_output_write(&output, bytes, n_bytes);
    if (status == HYB_OK) return hyb_output_commit(&output);
    hyb_output_abort(&output);
    return status;
}

hyb_status hyb_file_put_bytes(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, void *target, size_t capacity,
                              size_t *n_target) {
    *n_target = n_bytes;
    if (n_bytes > capacity)
        return hyb_fail(ctx, HYB_ERROR_TOO_SMALL, "%zu bytes are needed, there is room for %zu", n_bytes, capacity);
    memcpy(target, bytes, n_bytes);
    return HYB_OK;
}

hyb_status hyb_file_compress(hyb_ctx *ctx, const char *source, const char *target, hyb_file_sizes *sizes) {
    hyb_file *file = NULL;
    uint8_t *bytes = NULL;
    size_t n_bytes = 0;
    if (ctx == NULL || source == NULL || target == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_compress: ctx, source and target must not be NULL");
    HYB_TRY(hyb_file_open(ctx, source, &file));
    hyb_status status = compress_file(ctx, file, &bytes, &n_bytes);
    if (status != HYB_OK) status = hyb_fail_file(ctx, status, source);
    if (status == HYB_OK) status = hyb_file_replace(ctx, target, bytes, n_bytes);
    if (status == HYB_OK && sizes != NULL) *sizes = (hyb_file_sizes){hyb_file_expanded_bytes(file), n_bytes};
    hyb_free(ctx, bytes);
    hyb_file_close(file);
    return status;
}

hyb_status hyb_file_compress_memory(hyb_ctx *ctx, const void *source, size_t n_source, void *target, size_t capacity,
                                    size_t *n_bytes) {
    hyb_file *file = NULL;
    uint8_t *bytes = NULL;
    size_t n = 0;
    if (ctx == NULL || source == NULL || n_bytes == NULL || (target == NULL && capacity > 0))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_compress_memory: ctx, source or n_bytes is NULL");
    HYB_TRY(hyb_file_open_memory(ctx, source, n_source, &file));
    hyb_status status = compress_file(ctx, file, &bytes, &n);
    if (status == HYB_OK) status = hyb_file_put_bytes(ctx, bytes, n, target, capacity, n_bytes);
    hyb_free(ctx, bytes);
    hyb_file_close(file);
    return status;
}

/* ---- what coding makes of a tensor ---- */

/* Counts codes: a piece of whole bytes at a time. */
static hyb_status count_codes(hyb_ctx *ctx, const hyb_file_tensor *t, size_t counts[256]) {
    int8_t codes[40 * 64]; /* whole bytes in every packing */
    const uint8_t *bytes = t->payload;
    const size_t n = (size_t)t->n_rows * t->n_cols;
    for (size_t i = 0; i < n; i += sizeof codes) {
        size_t n_now = hyb_min_size(n - i, sizeof codes);
        HYB_TRY(hyb_unpack(ctx, (hyb_packing)t->packing, bytes, n_now, codes));
        for (size_t j = 0; j < n_now; ++j) ++counts[(uint8_t)codes[j]];
        bytes += hyb_packed_bytes((hyb_packing)t->packing, n_now);
    }
    return HYB_OK;
}

static void count_zeros(const hyb_file_tensor *t, size_t *n_zeros) {
    const uint8_t *bytes = t->payload;
    for (size_t i = 0; i < t->payload_bytes; i += 4) *n_zeros += (hyb_load_u32(bytes + i) & 0x7fffffffu) == 0;
}

hyb_status hyb_file_tensor_coding(const hyb_file *file, size_t index, hyb_file_coding *coding) {
    size_t counts[256] = {0};
    part p;
    if (file == NULL || coding == NULL)
        return hyb_fail(file != NULL ? hyb_file_ctx(file) : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_file_tensor_coding: file and coding must not be NULL");
    hyb_ctx *ctx = hyb_file_ctx(file);
    hyb_status status = plan_part(ctx, file, index, &p);
    if (status == HYB_OK) {
        *coding = (hyb_file_coding){.kind = p.kind, .coded_bits = 8.0 * (double)p.tensor.payload_bytes};
        if (p.kind == HYB_CODING_HALF) coding->coded_bits /= 2;
        if (p.kind == HYB_CODING_ENTROPY) {
            coding->coded_bits = 8.0 * (double)p.coding.n_head + (double)p.coding.cost / 65536.0;
            coding->n_groups = (uint32_t)p.coding.n_groups;
        }
        if (p.tensor.format == HYB_FORMAT_F32)
            count_zeros(&p.tensor, &coding->n_zeros);
        else
            status = count_codes(ctx, &p.tensor, counts);
        if (p.tensor.format != HYB_FORMAT_F32) coding->n_zeros = counts[0];
        const double n = (double)p.tensor.n_rows * (double)p.tensor.n_cols;
        for (size_t s = 0; s < 256; ++s)
            if (counts[s] != 0) coding->entropy_bits -= (double)counts[s] * log2((double)counts[s] / n);
        hyb_coding_free(ctx, &p.coding);
    }
    return status;
}
