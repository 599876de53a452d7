/* linear.c - quantised linear layers: master weights to packed weights, inputs to int8, and the product.
 *
 * One forward pass serves training and inference, except that F32 layers, and quantised ones whose weights are blended
 * with the master weights, use the GEMM while training.
 */
#include "../quantize.h"
#include "nn.h"

size_t hyb_rows_per_task(size_t n_cols) {
    size_t rows = 16384 / (n_cols ? n_cols : 1);
    rows = rows / HYB_BLOCK_ROWS * HYB_BLOCK_ROWS; /* whole row blocks, so that packing may use the same split */
    return rows ? rows : HYB_BLOCK_ROWS;
}

static hyb_status quantize(hyb_ctx *ctx, hyb_tensor *t, const hyb_magnitudes *magnitudes, int8_t *next_codes,
                           uint64_t *n_flipped, uint64_t *n_zeros, void *work) {
    hyb_quantize_job job = {.quantizer = &t->quantizer, .weights = t->values, .n_rows = t->n_rows, .n_cols = t->n_cols};
    job.magnitudes = magnitudes;
    job.codes = t->codes;
    job.packed = t->packed;
    job.scales = t->scales;
    job.next_codes = next_codes;
    job.counts = n_flipped != NULL || n_zeros != NULL;
    hyb_status status = hyb_quantize_run(ctx, &job, work);
    if (status != HYB_OK) {
        char detail[sizeof ctx->last_error];
        memcpy(detail, ctx->last_error, sizeof detail);
        return hyb_fail(ctx, status, "%s: %.200s", t->name, detail);
    }
    if (n_flipped) *n_flipped += job.n_flips;
    if (n_zeros) *n_zeros += job.n_zeros;
    return HYB_OK;
}

/* Work memory of `quantize`, behind room for the magnitudes of the rows. */
static void *quantize_work(hyb_ctx *ctx, const hyb_tensor *t, size_t *magnitude_bytes) {
    *magnitude_bytes = hyb_round_up(t->n_rows * sizeof(hyb_magnitudes), HYB_CACHE_LINE);
    return hyb_scratch(ctx, *magnitude_bytes + hyb_quantize_work_bytes(ctx, &t->quantizer, t->n_rows, t->n_cols));
}

hyb_magnitudes *hyb_tensor_magnitudes(hyb_ctx *ctx, const hyb_tensor *tensor) {
    size_t unused;
    return quantize_work(ctx, tensor, &unused);
}

hyb_status hyb_tensor_quantize_with(hyb_ctx *ctx, hyb_tensor *tensor, const hyb_magnitudes *magnitudes,
                                    int8_t *next_codes, uint64_t *n_flipped, uint64_t *n_zeros) {
    size_t magnitude_bytes;
    uint8_t *work = quantize_work(ctx, tensor, &magnitude_bytes);
    if (work == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to quantise %s", tensor->name);
    return quantize(ctx, tensor, magnitudes, next_codes, n_flipped, n_zeros, work + magnitude_bytes);
}

hyb_status hyb_tensor_quantize(hyb_ctx *ctx, hyb_tensor *tensor, int8_t *next_codes, uint64_t *n_flipped,
                               uint64_t *n_zeros) {
    return hyb_tensor_quantize_with(ctx, tensor, NULL, next_codes, n_flipped, n_zeros);
}

hyb_status hyb_tensor_update(hyb_ctx *ctx, const hyb_adamw *adamw, hyb_tensor *tensor, int8_t *next_codes,
                             uint64_t *n_flipped, uint64_t *n_zeros) {
    hyb_magnitudes *magnitudes = hyb_tensor_magnitudes(ctx, tensor);
    if (magnitudes == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to quantise %s", tensor->name);
    HYB_TRY(hyb_adamw_update_rows(ctx, adamw, tensor->n_rows, tensor->n_cols, tensor->gradient, tensor->values,
                                  tensor->first_moment, tensor->second_moment, &tensor->state,
                                  hyb_tensor_multipliers(tensor), magnitudes));
    if (!hyb_tensor_is_quantized(tensor)) return HYB_OK;
    return hyb_tensor_quantize_with(ctx, tensor, magnitudes, next_codes, n_flipped, n_zeros);
}

typedef struct effective_loop {
    const hyb_ctx *ctx;
    const hyb_tensor *tensor;
    float master_share;
    float *values;
    size_t rows_per_task;
} effective_loop;

static void effective_task(void *argument, size_t index, size_t worker) {
    const effective_loop *loop = argument;
    const hyb_tensor *t = loop->tensor;
    size_t first = index * loop->rows_per_task, end = first + hyb_min_size(loop->rows_per_task, t->n_rows - first);
    (void)worker;
    for (size_t r = first; r < end; r++) {
        float *row = loop->values + r * t->n_cols;
        if (t->codes != NULL) {
            float scale = t->scales[t->n_scales > 1 ? r : 0] * (1.0f - loop->master_share);
            loop->ctx->kernels.dequantize_i8(t->codes + r * t->n_cols, t->n_cols, scale, row);
            if (loop->master_share > 0.0f)
                loop->ctx->kernels.axpy_f32(row, t->values + r * t->n_cols, t->n_cols, loop->master_share);
        } else if (t->packed != NULL) {
            hyb_weights_gather_row(t->packed, r, row);
        } else {
            memcpy(row, t->values + r * t->n_cols, t->n_cols * sizeof *row);
        }
    }
}

void hyb_tensor_effective(hyb_ctx *ctx, const hyb_tensor *tensor, float master_share, float *values) {
    effective_loop loop = {ctx, tensor, master_share, values, hyb_rows_per_task(tensor->n_cols)};
    hyb_parallel(ctx, hyb_ceil_div(tensor->n_rows, loop.rows_per_task), effective_task, &loop);
}

/* ---- operands of a training step's fp32 products ---- */

typedef struct values_loop {
    const hyb_ctx *ctx;
    const hyb_activations *codes;
    size_t n_tokens, n_cols;
    float *values;
} values_loop;

static void values_task(void *argument, size_t index, size_t worker) {
    const values_loop *loop = argument;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n_tokens);
    (void)worker;
    for (size_t i = first; i < end; i++)
        loop->ctx->kernels.dequantize_i8(loop->codes->codes + i * loop->codes->ld, loop->n_cols, loop->codes->scales[i],
                                         loop->values + i * loop->n_cols);
}

const float *hyb_training_input(hyb_ctx *ctx, const hyb_tensor *tensor, const hyb_input *input, size_t n_tokens,
                                const hyb_work *work) {
    if (!hyb_tensor_is_quantized(tensor)) return input->x;
    values_loop loop = {ctx, &input->codes, n_tokens, tensor->n_cols, work->input_values};
    hyb_parallel(ctx, hyb_ceil_div(n_tokens, HYB_TOKENS_PER_TASK), values_task, &loop);
    return work->input_values;
}

const float *hyb_training_weights(hyb_ctx *ctx, const hyb_tensor *tensor, const hyb_work *work) {
    float share = hyb_is_blended(tensor, work) ? work->master_share : 0.0f;
    if (!hyb_tensor_is_quantized(tensor) || share == 1.0f) return tensor->values;
    hyb_tensor_effective(ctx, tensor, share, work->effective);
    return work->effective;
}

/* ---- products ---- */

/* F32 weights in inference: every dot product in the contract's order. */
typedef struct dense_loop {
    const hyb_ctx *ctx;
    const hyb_tensor *tensor;
    const float *x;
    size_t n_tokens, rows_per_task, n_row_tasks;
    int accumulate;
    float *y;
} dense_loop;

static void dense_task(void *argument, size_t index, size_t worker) {
    const dense_loop *loop = argument;
    const hyb_tensor *t = loop->tensor;
    size_t first_token = index / loop->n_row_tasks * HYB_TOKENS_PER_TASK;
    size_t end_token = hyb_min_size(first_token + HYB_TOKENS_PER_TASK, loop->n_tokens);
    size_t first = index % loop->n_row_tasks * loop->rows_per_task;
    size_t end = hyb_min_size(first + loop->rows_per_task, t->n_rows);
    (void)worker;
    for (size_t r = first; r < end; r++)
        for (size_t i = first_token; i < end_token; i++) {
            float *y = loop->y + i * t->n_rows + r;
            float sum = loop->ctx->kernels.dot_f32(loop->x + i * t->n_cols, t->values + r * t->n_cols, t->n_cols);
            *y = loop->accumulate ? *y + sum : sum;
        }
}

void hyb_linear_forward(hyb_ctx *ctx, const hyb_tensor *tensor, const hyb_input *input, size_t n_tokens,
                        const hyb_work *work, int accumulate, float *y) {
    if (hyb_tensor_is_quantized(tensor) && !hyb_is_blended(tensor, work)) {
        hyb_matmul_parallel(ctx, tensor->packed, &input->codes, n_tokens, y, NULL, tensor->n_rows, accumulate,
                            work->matmul_scratch);
    } else if (work->training) {
        const float *x = hyb_training_input(ctx, tensor, input, n_tokens, work);
        const float *weights = hyb_training_weights(ctx, tensor, work);
        hyb_gemm_parallel(ctx, HYB_GEMM_NT, n_tokens, tensor->n_rows, tensor->n_cols, x, tensor->n_cols, weights,
                          tensor->n_cols, accumulate, y, tensor->n_rows, work->gemm_scratch);
    } else {
        dense_loop loop = {.ctx = ctx, .tensor = tensor, .x = input->x, .n_tokens = n_tokens, .y = y};
        loop.accumulate = accumulate;
        loop.rows_per_task = hyb_rows_per_task(tensor->n_cols);
        loop.n_row_tasks = hyb_ceil_div(tensor->n_rows, loop.rows_per_task);
        hyb_parallel(ctx, loop.n_row_tasks * hyb_ceil_div(n_tokens, HYB_TOKENS_PER_TASK), dense_task, &loop);
    }
}

typedef struct input_loop {
    const hyb_ctx *ctx;
    const hyb_source *source;
    const float *gain;
    float epsilon;
    float *rms;
    size_t n_tokens, n_cols;
    const hyb_work *work;
    const hyb_input *input;
} input_loop;

/* Row i of the source, made in `row` if it has no place of its own; a norm may then replace it there. */
static const float *source_row(const input_loop *loop, size_t i, float *row) {
    const hyb_source *s = loop->source;
    size_t at = i * loop->n_cols;
    if (s->x != NULL) return s->x + at;
    float *gated = s->gated != NULL ? s->gated + at : row;
    s->activate(s->gate + at, s->up + at, loop->n_cols, gated);
    return gated;
}

static void input_task(void *argument, size_t index, size_t worker) {
    const input_loop *loop = argument;
    const hyb_kernels *kernels = &loop->ctx->kernels;
    const hyb_input *input = loop->input;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n_tokens);
    float *row = loop->work->rows + worker * loop->work->row_floats;
    for (size_t i = first; i < end; i++) {
        const float *x = source_row(loop, i, row);
        if (loop->gain != NULL) {
            float *y = input->x ? input->x + i * loop->n_cols : row;
            float r = kernels->rms_norm(x, loop->gain, loop->n_cols, loop->epsilon, y);
            if (loop->rms != NULL) loop->rms[i] = r;
            x = y;
        }
        if (input->codes.codes != NULL)
            hyb_quantize_token(kernels, x, loop->n_cols, input->codes.codes + i * input->codes.ld, input->codes.ld,
                               &input->codes.sums[i], &input->codes.scales[i]);
    }
}

void hyb_input_forward(hyb_ctx *ctx, const hyb_source *source, const hyb_tensor *gain, float epsilon, float *rms,
                       size_t n_tokens, size_t n_cols, const hyb_work *work, hyb_input *input) {
    input_loop loop = {ctx, source, gain ? gain->values : NULL, epsilon, rms, n_tokens, n_cols, work, input};
    if (gain == NULL && input->codes.codes == NULL && source->x != NULL) return;
    hyb_parallel(ctx, hyb_ceil_div(n_tokens, HYB_TOKENS_PER_TASK), input_task, &loop);
}
