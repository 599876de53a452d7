/* file_requantize.c - writes a language model's file again with embedding, head and gains in other formats: what a
 * compressed file is made of where 8 bits an embedding, or fp32 gains, are more than the model needs.
 */
#include <hybrid/file.h>

#include "common.h"

enum { PIECES = 5 }; /* of memory that a tensor takes, at most */

/* A tensor as it is, its place in the new file, and their memory. */
typedef struct piece {
    hyb_file_tensor found;
    void *memory[PIECES];
    size_t n;
} piece;

typedef struct job {
    hyb_ctx *ctx;
    hyb_requantize options;
    hyb_file *file;
    size_t n_tensors;
    piece *pieces;            /* [n_tensors] */
    hyb_file_source *sources; /* [n_tensors] */
} job;

static int is_embedding(const hyb_file_tensor *t) {
    return strcmp(t->name, "embedding") == 0 || strcmp(t->name, "head") == 0;
}

static size_t n_values(const hyb_file_tensor *t) { return (size_t)t->n_rows * t->n_cols; }

static void *take(job *j, piece *p, size_t n, size_t size) {
    void *memory = hyb_alloc(j->ctx, n, size);
    if (memory == NULL)
        (void)hyb_fail(j->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the %zu values of %s", n, p->found.name);
    p->memory[p->n++] = memory;
    return memory;
}

/* fp32 values of a tensor of any format. Errors: OUT_OF_MEMORY. */
static hyb_status read_values(job *j, piece *p, const hyb_file_source *as_it_is, float **values) {
    const hyb_file_tensor *t = &p->found;
    const uint8_t *payload = t->payload;
    *values = take(j, p, n_values(t), sizeof **values);
    if (*values == NULL) return HYB_ERROR_OUT_OF_MEMORY;
    if (t->format != HYB_FORMAT_F32)
        return hyb_dequantize(j->ctx, as_it_is->codes, as_it_is->scales, t->n_scales, t->n_rows, t->n_cols, *values);
    for (size_t i = 0; i < n_values(t); i++) (*values)[i] = hyb_float_of(hyb_load_u32(payload + 4 * i));
    return HYB_OK;
}

static hyb_status read_codes(job *j, piece *p, hyb_file_source *source) {
    const hyb_file_tensor *t = &p->found;
    const uint8_t *halves = t->scales;
    int8_t *codes = take(j, p, n_values(t), 1);
    float *scales = take(j, p, t->n_scales, sizeof *scales);
    if (codes == NULL || scales == NULL) return HYB_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < t->n_scales; i++)
        scales[i] = hyb_float_from_half((uint16_t)(halves[2 * i] | halves[2 * i + 1] << 8));
    source->codes = codes;
    source->scales = scales;
    return hyb_unpack(j->ctx, (hyb_packing)t->packing, t->payload, n_values(t), codes);
}

/* Ternary by Lloyd's thresholds, which lose least: nothing is trained behind it. */
static hyb_status code_embedding(job *j, piece *p, const float *values, hyb_file_source *source) {
    hyb_quantizer quantizer = {j->options.embedding_format, HYB_SCALE_PER_ROW, HYB_THRESHOLD_ABSMEAN, 0.0f};
    if (quantizer.format == HYB_FORMAT_TERNARY) quantizer.threshold = HYB_THRESHOLD_LLOYD;
    source->format = quantizer.format;
    source->granularity = HYB_SCALE_PER_ROW;
    source->values = values;
    if (quantizer.format == HYB_FORMAT_F32) return HYB_OK;
    int8_t *codes = take(j, p, n_values(&p->found), 1);
    float *scales = take(j, p, p->found.n_rows, sizeof *scales);
    if (codes == NULL || scales == NULL) return HYB_ERROR_OUT_OF_MEMORY;
    source->codes = codes;
    source->scales = scales;
    return hyb_quantize(j->ctx, &quantizer, values, p->found.n_rows, p->found.n_cols, codes, scales);
}

static hyb_status convert(job *j, size_t index) {
    piece *p = &j->pieces[index];
    hyb_file_source *source = &j->sources[index];
    float *values = NULL;
    HYB_TRY(hyb_file_tensor_at(j->file, index, &p->found));
    const hyb_file_tensor *t = &p->found;
    *source = (hyb_file_source){
        .name = t->name, .format = t->format, .granularity = t->granularity, .n_rows = t->n_rows, .n_cols = t->n_cols};
    int recoded = is_embedding(t) && j->options.embedding_format >= 0 && j->options.embedding_format != t->format;
    if (t->format != HYB_FORMAT_F32) HYB_TRY(read_codes(j, p, source));
    if (t->format != HYB_FORMAT_F32 && !recoded) return HYB_OK;
    HYB_TRY(read_values(j, p, source, &values));
    if (recoded) return code_embedding(j, p, values, source);
    for (size_t i = 0; j->options.half_vectors && t->n_rows == 1 && i < t->n_cols; i++)
        values[i] = hyb_round_to_half(values[i]);
    source->values = values;
    return HYB_OK;
}

static hyb_status write_converted(job *j, const char *target) {
    hyb_language_model_config config = {.struct_size = sizeof config};
    hyb_file_contents contents = {
        .struct_size = sizeof contents, .config = &config, .tensors = j->sources, .n_tensors = j->n_tensors};
    HYB_TRY(hyb_file_config(j->file, &config));
    if (j->options.embedding_format >= 0) config.embedding_format = j->options.embedding_format;
    contents.tokenizer = hyb_file_tokenizer(j->file, &contents.tokenizer_bytes);
    contents.metadata = hyb_file_metadata(j->file, &contents.metadata_bytes);
    for (size_t i = 0; i < j->n_tensors; i++) HYB_TRY(convert(j, i));
    return hyb_file_write(j->ctx, target, &contents);
}

hyb_status hyb_file_requantize(hyb_ctx *ctx, const hyb_requantize *options, const char *source, const char *target) {
    if (ctx == NULL || options == NULL || source == NULL || target == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "ctx, options, source and target must not be NULL");
    job j = {.ctx = ctx, .options = {.embedding_format = -1}};
    HYB_TRY(hyb_read_struct(ctx, "hyb_requantize", &j.options, options, sizeof j.options));
    if (j.options.embedding_format < -1 || j.options.embedding_format > HYB_FORMAT_INT8)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "embedding_format is %d: give a hyb_format, or -1 to keep it",
                        (int)j.options.embedding_format);
    HYB_TRY(hyb_file_open(ctx, source, &j.file));
    j.n_tensors = hyb_file_tensor_count(j.file);
    j.pieces = hyb_alloc_zeroed(ctx, j.n_tensors, sizeof *j.pieces);
    j.sources = hyb_alloc_zeroed(ctx, j.n_tensors, sizeof *j.sources);
    hyb_status status = j.pieces != NULL && j.sources != NULL
                            ? write_converted(&j, target)
                            : hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %zu tensors", j.n_tensors);
    for (size_t i = 0; j.pieces != NULL && i < j.n_tensors; i++)
        for (size_t k = 0; k < j.pieces[i].n; k++) hyb_free(ctx, j.pieces[i].memory[k]);
    hyb_free(ctx, j.sources);
    hyb_free(ctx, j.pieces);
    hyb_file_close(j.file);
    return status;
}
