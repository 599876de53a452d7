/* file_write.c - writes a .hyb file in one pass: everything is checked and laid out first, then streamed through a
 * buffer that feeds the checksum, and the header, which holds it, comes last. file_system.c replaces the old file at
 * the end.
 */
#include <hybrid/file.h>

#include <stdio.h>

#include "common.h"
#include "file_layout.h"
#include "file_system.h"
#include "matmul.h"

/* Bytes written at a time, and codes packed at a time (a multiple of 40, so that every packing ends at a whole byte).
 */
#define BUFFER_BYTES ((size_t)65536)
#define PACKED_CODES ((size_t)40 * 1024)

/* What is written, checked and completed. */
typedef struct plan {
    hyb_ctx *ctx;
    hyb_file_contents contents;
    uint32_t version;
    uint8_t config[HYB_CONFIG_BYTES];
    hyb_file_layout layout;
    uint64_t file_bytes;
} plan;

/* The stream: bytes go through the buffer into the checksum and the file. */
typedef struct writer {
    hyb_output output;
    uint8_t *buffer; /* [BUFFER_BYTES] */
    uint8_t *packed; /* [PACKED_CODES] */
    size_t n_buffered;
    uint64_t offset; /* of the next byte put */
    uint32_t crc;    /* of the bytes from 128 on that were flushed */
} writer;

/* ---- checking what is given ---- */

static hyb_status fail_tensor(const plan *p, hyb_status status, size_t index, const char *problem) {
    const char *name = p->contents.tensors[index].name;
    return hyb_fail(p->ctx, status, "tensor %zu (%.64s): %s", index, name != NULL ? name : "no name", problem);
}

static const char *source_shape(const hyb_file_source *source, hyb_file_shape *shape) {
    if (source->format < 0 || source->format > HYB_FORMAT_INT8) return "its format is unknown";
    if (source->granularity < 0 || source->granularity > HYB_SCALE_PER_ROW) return "its granularity is unknown";
    *shape = (hyb_file_shape){.format = (uint32_t)source->format,
                              .packing = hyb_file_packing_of((uint32_t)source->format),
                              .granularity = (uint32_t)source->granularity,
                              .n_rows = source->n_rows,
                              .n_cols = source->n_cols};
    if (shape->format == HYB_FORMAT_F32) shape->granularity = 0;
    const char *problem = hyb_file_measure(shape, INT64_MAX);
    int fours = problem == NULL && shape->format == HYB_FORMAT_TERNARY && shape->n_values % 4 == 0;
    if (!fours || source->codes == NULL || hyb_find_not_three_of_four(source->codes, shape->n_values) < shape->n_values)
        return problem;
    shape->packing = HYB_PACKING_TERNARY_3OF4;
    return hyb_file_measure(shape, INT64_MAX);
}

static hyb_status check_floats(const plan *p, size_t index, const float *values, size_t n, const char *what, int half) {
    for (size_t i = 0; i < n; ++i) {
        char problem[128];
        int finite = hyb_is_finite(values[i]);
        if (finite && !(half && hyb_bits_of(hyb_round_to_half(values[i])) != hyb_bits_of(values[i]))) continue;
        (void)snprintf(problem, sizeof problem, "%s %zu is %g, %s", what, i, (double)values[i],
                       finite ? "which binary16 does not hold exactly: apply hyb_round_to_half" : "not finite");
        return fail_tensor(p, finite ? HYB_ERROR_INVALID_ARGUMENT : HYB_ERROR_NOT_FINITE, index, problem);
    }
    return HYB_OK;
}

static hyb_status check_source(const plan *p, size_t index, uint64_t *cursor) {
    const hyb_file_source *source = &p->contents.tensors[index];
    hyb_file_shape shape = {0};
    const char *problem =
        source->name == NULL ? "name is NULL" : hyb_file_check_name(source->name, HYB_FILE_NAME_BYTES);
    if (problem == NULL) problem = source_shape(source, &shape);
    if (problem == NULL && shape.format == HYB_FORMAT_F32 && source->values == NULL) problem = "values is NULL";
    if (problem == NULL && shape.format != HYB_FORMAT_F32 && (source->codes == NULL || source->scales == NULL))
        problem = "codes or scales is NULL";
    if (problem == NULL && !hyb_file_place(cursor, shape.data_bytes, HYB_FILE_ALIGNMENT, INT64_MAX))
        problem = "the file would be too large";
    if (problem != NULL) return fail_tensor(p, HYB_ERROR_INVALID_ARGUMENT, index, problem);
    if (shape.format == HYB_FORMAT_F32) return check_floats(p, index, source->values, shape.n_values, "value", 0);
    return check_floats(p, index, source->scales, shape.n_scales, "scale", 1);
}

static hyb_status check_names(const plan *p) {
    size_t n = p->contents.n_tensors;
    const char **names = hyb_alloc(p->ctx, n, sizeof *names);
    if (names == NULL) return hyb_fail(p->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the names of %zu tensors", n);
    for (size_t i = 0; i < n; ++i) names[i] = p->contents.tensors[i].name;
    const char *twice = hyb_file_sort_names(names, n);
    hyb_free(p->ctx, names);
    return twice != NULL ? hyb_fail(p->ctx, HYB_ERROR_INVALID_ARGUMENT, "two tensors are called %s", twice) : HYB_OK;
}

static void encode_config(const hyb_language_model_config *c, uint8_t *b) {
    memset(b, 0, HYB_CONFIG_BYTES);
    hyb_store_u32(b, c->vocab_size);
    hyb_store_u32(b + 4, c->dim);
    hyb_store_u32(b + 8, c->n_layers);
    hyb_store_u32(b + 12, c->n_heads);
    hyb_store_u32(b + 16, c->n_kv_heads);
    hyb_store_u32(b + 20, c->ffn_dim);
    hyb_store_u32(b + 24, c->max_context);
    hyb_store_u32(b + 28, hyb_bits_of(c->rope_theta));
    hyb_store_u32(b + 32, hyb_bits_of(c->norm_epsilon));
    b[36] = (uint8_t)c->activation; /* checked: each below 256 */
    b[37] = (uint8_t)c->sub_norms;
    b[38] = (uint8_t)c->tied_embeddings;
    b[39] = (uint8_t)c->linear_format;
    b[40] = (uint8_t)c->linear_granularity;
    b[41] = (uint8_t)c->linear_threshold;
    b[42] = (uint8_t)c->embedding_format;
}

/* The configuration, checked, as bytes. */
static hyb_status plan_config(plan *p) {
    const hyb_file_contents *c = &p->contents;
    if (c->mlp != NULL) {
        hyb_mlp_config mlp = {0};
        HYB_TRY(hyb_read_struct(p->ctx, "hyb_mlp_config", &mlp, c->mlp, sizeof mlp));
        mlp.struct_size = sizeof mlp;
        for (size_t i = 0; i < sizeof mlp.sizes / sizeof *mlp.sizes; ++i) mlp.sizes[i] = 1;
        HYB_TRY(hyb_mlp_config_check(p->ctx, &mlp));
        hyb_file_put_mlp(&mlp, p->config);
        p->version = 2;
        return HYB_OK;
    }
    hyb_language_model_config config = {0};
    HYB_TRY(hyb_read_struct(p->ctx, "hyb_language_model_config", &config, c->config, sizeof config));
    config.struct_size = sizeof config;
    HYB_TRY(hyb_language_model_config_check(p->ctx, &config));
    encode_config(&config, p->config);
    p->version = 1;
    return HYB_OK;
}

static hyb_status make_plan(hyb_ctx *ctx, const hyb_file_contents *contents, plan *p) {
    *p = (plan){.ctx = ctx};
    HYB_TRY(hyb_read_struct(ctx, "hyb_file_contents", &p->contents, contents, sizeof p->contents));
    const hyb_file_contents *c = &p->contents;
    if ((c->config == NULL) == (c->mlp == NULL) || c->tensors == NULL || c->n_tensors == 0)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_write: a configuration and a tensor are needed");
    if (hyb_mul_overflows(c->n_tensors, sizeof *c->tensors))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_write: %zu tensors are no array", c->n_tensors);
    if ((c->tokenizer == NULL && c->tokenizer_bytes > 0) || (c->metadata == NULL && c->metadata_bytes > 0))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_write: tokenizer or metadata is NULL with a size");
    HYB_TRY(plan_config(p));
    p->layout.tokenizer_bytes = c->tokenizer_bytes;
    p->layout.metadata_bytes = c->metadata_bytes;
    p->layout.n_tensors = c->n_tensors;
    if (!hyb_file_place_sections(&p->layout, INT64_MAX))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_write: the sections' sizes are beyond any file");
    p->file_bytes = p->layout.data;
    for (size_t i = 0; i < c->n_tensors; ++i) HYB_TRY(check_source(p, i, &p->file_bytes));
    return check_names(p);
}

/* ---- the stream ---- */

static hyb_status flush(writer *w) {
    w->crc = hyb_crc32c(w->crc, w->buffer, w->n_buffered);
    hyb_status status = hyb_output_write(&w->output, w->buffer, w->n_buffered);
    w->n_buffered = 0;
    return status;
}

/* Room for n <= BUFFER_BYTES bytes, which the caller fills completely; NULL after an error in *status. */
static uint8_t *reserve(writer *w, size_t n, hyb_status *status) {
    *status = w->n_buffered + n > BUFFER_BYTES ? flush(w) : HYB_OK;
    uint8_t *room = w->buffer + w->n_buffered;
    w->n_buffered += n;
    w->offset += n;
    return *status == HYB_OK ? room : NULL;
}

static hyb_status put(writer *w, const void *bytes, size_t n_bytes) {
    const uint8_t *from = bytes;
    while (n_bytes > 0) {
        hyb_status status;
        size_t n = hyb_min_size(n_bytes, BUFFER_BYTES / 2);
        uint8_t *room = reserve(w, n, &status);
        if (room == NULL) return status;
        memcpy(room, from, n);
        from += n;
        n_bytes -= n;
    }
    return HYB_OK;
}

/* Zeros up to the next multiple of a small alignment. */
static hyb_status align(writer *w, uint64_t alignment) {
    static const uint8_t zeros[HYB_FILE_ALIGNMENT];
    return put(w, zeros, (size_t)((alignment - w->offset % alignment) % alignment));
}

/* ---- the parts ---- */

static hyb_status put_directory(writer *w, const plan *p) {
    uint64_t cursor = p->layout.data;
    for (size_t i = 0; i < p->contents.n_tensors; ++i) {
        const hyb_file_source *source = &p->contents.tensors[i];
        uint8_t e[HYB_ENTRY_BYTES] = {0};
        hyb_file_shape shape = {0};
        (void)source_shape(source, &shape); /* checked by make_plan, as the place */
        (void)hyb_file_place(&cursor, shape.data_bytes, HYB_FILE_ALIGNMENT, INT64_MAX);
        memcpy(e, source->name, strlen(source->name));
        e[HYB_ENTRY_FORMAT] = (uint8_t)shape.format;
        e[HYB_ENTRY_PACKING] = (uint8_t)shape.packing;
        e[HYB_ENTRY_GRANULARITY] = (uint8_t)shape.granularity;
        hyb_store_u32(e + HYB_ENTRY_ROWS, shape.n_rows);
        hyb_store_u32(e + HYB_ENTRY_COLS, shape.n_cols);
        hyb_store_u64(e + HYB_ENTRY_OFFSET, cursor - shape.data_bytes);
        hyb_store_u64(e + HYB_ENTRY_DATA_BYTES, shape.data_bytes);
        HYB_TRY(put(w, e, sizeof e));
    }
    return HYB_OK;
}

static hyb_status put_values(writer *w, const float *values, size_t n) {
    while (n > 0) {
        hyb_status status;
        size_t n_now = hyb_min_size(n, BUFFER_BYTES / 8);
        uint8_t *room = reserve(w, n_now * 4, &status);
        if (room == NULL) return status;
        for (size_t i = 0; i < n_now; ++i) hyb_store_u32(room + i * 4, hyb_bits_of(values[i]));
        values += n_now;
        n -= n_now;
    }
    return HYB_OK;
}

static hyb_status put_codes(writer *w, const plan *p, size_t index, const hyb_file_shape *shape) {
    const hyb_file_source *source = &p->contents.tensors[index];
    hyb_packing packing = (hyb_packing)shape->packing;
    for (size_t i = 0; i < shape->n_values; i += PACKED_CODES) {
        size_t n = hyb_min_size(shape->n_values - i, PACKED_CODES);
        if (hyb_pack(p->ctx, packing, source->codes + i, n, w->packed) != HYB_OK) {
            char problem[96];
            (void)snprintf(problem, sizeof problem, "a code among %zu to %zu is outside format %d", i, i + n - 1,
                           (int)source->format);
            return fail_tensor(p, HYB_ERROR_INVALID_ARGUMENT, index, problem);
        }
        HYB_TRY(put(w, w->packed, hyb_packed_bytes(packing, n)));
    }
    for (size_t i = 0; i < shape->n_scales; ++i) {
        uint16_t half = hyb_half_from_float(source->scales[i]);
        uint8_t bytes[2] = {(uint8_t)half, (uint8_t)(half >> 8)};
        HYB_TRY(put(w, bytes, sizeof bytes));
    }
    return HYB_OK;
}

static hyb_status put_body(writer *w, const plan *p) {
    const hyb_file_contents *c = &p->contents;
    HYB_TRY(put(w, p->config, sizeof p->config));
    HYB_TRY(put(w, c->tokenizer, c->tokenizer_bytes));
    HYB_TRY(align(w, HYB_SECTION_ALIGNMENT));
    HYB_TRY(put(w, c->metadata, c->metadata_bytes));
    HYB_TRY(align(w, HYB_SECTION_ALIGNMENT));
    HYB_TRY(put_directory(w, p));
    for (size_t i = 0; i < c->n_tensors; ++i) {
        hyb_file_shape shape = {0};
        (void)source_shape(&c->tensors[i], &shape);
        HYB_TRY(align(w, HYB_FILE_ALIGNMENT));
        if (shape.format == HYB_FORMAT_F32)
            HYB_TRY(put_values(w, c->tensors[i].values, shape.n_values));
        else
            HYB_TRY(put_codes(w, p, i, &shape));
    }
    return flush(w);
}

/* A header of zeros first: until the end the temporary is no model file. */
static hyb_status put_file(writer *w, const plan *p) {
    uint8_t header[HYB_HEADER_BYTES] = {0};
    HYB_TRY(hyb_output_write(&w->output, header, sizeof header));
    w->offset = sizeof header;
    HYB_TRY(put_body(w, p));
    hyb_file_put_header(p->version, p->file_bytes, &p->layout, w->crc, header);
    HYB_TRY(hyb_output_rewind(&w->output));
    return hyb_output_write(&w->output, header, sizeof header);
}

hyb_status hyb_file_write(hyb_ctx *ctx, const char *path, const hyb_file_contents *contents) {
    plan p;
    writer w = {0};
    if (ctx == NULL || path == NULL || contents == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_write: ctx, path and contents must not be NULL");
    HYB_TRY(make_plan(ctx, contents, &p));
    w.buffer = hyb_alloc(ctx, BUFFER_BYTES + PACKED_CODES, 1);
    if (w.buffer == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to write a model file");
    w.packed = w.buffer + BUFFER_BYTES;
    hyb_status status = hyb_output_begin(ctx, path, &w.output);
    if (status == HYB_OK) {
        status = put_file(&w, &p);
        if (status == HYB_OK)
            status = hyb_output_commit(&w.output);
        else
            hyb_output_abort(&w.output);
    }
    hyb_free(ctx, w.buffer);
    return status;
}
