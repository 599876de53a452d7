/* moments.c - an optimiser's moments in 8 bits; the codes and their source: hybrid/optimize.h, their bits: kernels.h.
 *
 * A block of both moments is 2 KiB in fp32: it stays in the first-level cache between decoding, the fp32 kernel of the
 * update and encoding, so that the memory sees the codes only.
 */
#include "moments.h"

/* Values that one task handles. */
#define TASK_VALUES ((size_t)32768)
/* The largest value of a block counts as at least this, so that no scale, nor the inverse of one, is subnormal. */
#define SMALLEST 0x1p-94f
/* And as at most this: its code times its scale is finite, however they are rounded. */
#define LARGEST 3e38f

hyb_status hyb_state_bits_check(hyb_ctx *ctx, int32_t state_bits) {
    if (state_bits == 32 || state_bits == 8) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "state_bits is %d, must be 32 or 8", (int)state_bits);
}

/* ---- blocks ---- */

/* The scale of a block from its largest magnitude's bits, and the inverse of the scale. */
static float block_scale(uint32_t max_bits, float top, float *inverse) {
    const uint32_t infinity = 0x7f800000u;
    *inverse = 0.0f;
    if (max_bits == 0) return 0.0f;
    float largest = hyb_float_of(max_bits);
    if (max_bits > infinity) return largest; /* NaN */
    largest = largest < SMALLEST ? SMALLEST : largest > LARGEST ? LARGEST : largest;
    float scale = largest / top;
    *inverse = 1.0f / scale;
    return scale;
}

static float encode_first(const hyb_kernels *kernels, const float *x, size_t n, uint32_t seed, uint8_t *codes) {
    float inverse, scale = block_scale(kernels->max_abs_bits(x, n), HYB_SIGNED_TOP, &inverse);
    kernels->encode_signed(x, n, inverse, seed, codes);
    return scale;
}

static float encode_second(const hyb_kernels *kernels, const float *x, size_t n, uint32_t seed, uint8_t *codes) {
    float inverse, scale = block_scale(kernels->max_abs_bits(x, n), HYB_POSITIVE_TOP, &inverse);
    kernels->encode_positive(x, n, inverse, seed, codes);
    return scale;
}

/* ---- rows ---- */

static hyb_state_row row_at(const hyb_state_8bit *state, uint32_t first_seed, uint32_t second_seed, size_t row,
                            size_t n_cols) {
    size_t at = row * n_cols, block = row * hyb_state_blocks(n_cols);
    hyb_state_row r = {{state->first_codes + at, state->first_scales + block, NULL, NULL},
                       first_seed + (uint32_t)at,
                       second_seed + (uint32_t)at};
    if (state->second_codes != NULL) {
        r.at.second_codes = state->second_codes + at;
        r.at.second_scales = state->second_scales + block;
    }
    return r;
}

hyb_state_row hyb_state_row_of(const hyb_state_8bit *state, uint64_t step, size_t row, size_t n_cols) {
    uint64_t seeds = hyb_hash64(step);
    return row_at(state, (uint32_t)seeds, (uint32_t)(seeds >> 32), row, n_cols);
}

/* The fp32 moments of a block of at most HYB_STATE_BLOCK values. */
typedef struct block {
    float first[HYB_STATE_BLOCK] HYB_ALIGNED(64);
    float second[HYB_STATE_BLOCK] HYB_ALIGNED(64);
} block;

static size_t read_block(const hyb_kernels *kernels, const hyb_state_row *row, size_t first, size_t n_cols, block *b) {
    size_t n = hyb_min_size(HYB_STATE_BLOCK, n_cols - first), at = first / HYB_STATE_BLOCK;
    kernels->decode_signed(row->at.first_codes + first, n, row->at.first_scales[at], b->first);
    if (row->at.second_codes != NULL)
        kernels->decode_positive(row->at.second_codes + first, n, row->at.second_scales[at], b->second);
    return n;
}

static void write_block(const hyb_kernels *kernels, const hyb_state_row *row, size_t first, size_t n, const block *b) {
    size_t at = first / HYB_STATE_BLOCK;
    uint32_t offset = (uint32_t)first;
    row->at.first_scales[at] =
        encode_first(kernels, b->first, n, row->first_seed + offset, row->at.first_codes + first);
    if (row->at.second_codes != NULL)
        row->at.second_scales[at] =
            encode_second(kernels, b->second, n, row->second_seed + offset, row->at.second_codes + first);
}

hyb_magnitudes hyb_adamw_row_8bit(const hyb_kernels *kernels, const hyb_adamw_job *job, const hyb_state_row *row) {
    block b;
    hyb_adamw_job part = *job;
    part.first_moment = b.first;
    part.second_moment = b.second;
    for (size_t first = 0; first < job->n; first += part.n) {
        part.gradient = job->gradient + first;
        part.weights = job->weights + first;
        part.n = read_block(kernels, row, first, job->n, &b);
        (void)kernels->adamw(&part);
        write_block(kernels, row, first, part.n, &b);
    }
    /* Sums of blocks would be another sum than that of the row, by which the weights are quantised. */
    return kernels->magnitudes(job->weights, job->n);
}

double hyb_momentum_row_8bit(const hyb_kernels *kernels, const hyb_momentum_job *job, const hyb_state_row *row) {
    block b;
    hyb_momentum_job part = *job;
    double sum = 0.0;
    part.momentum = b.first;
    for (size_t first = 0; first < job->n; first += part.n) {
        part.gradient = job->gradient + first;
        part.u = job->u + first;
        part.n = read_block(kernels, row, first, job->n, &b);
        sum += kernels->momentum(&part);
        write_block(kernels, row, first, part.n, &b);
    }
    return sum;
}

double hyb_adam_change_row_8bit(const hyb_kernels *kernels, const hyb_adam_change_job *job, const hyb_state_row *row) {
    block b;
    hyb_adam_change_job part = *job;
    double sum = 0.0;
    part.first_moment = b.first;
    part.second_moment = b.second;
    for (size_t first = 0; first < job->n; first += part.n) {
        part.gradient = job->gradient + first;
        part.weights = job->weights + first;
        part.change = job->change + first;
        part.n = read_block(kernels, row, first, job->n, &b);
        sum += kernels->adam_change(&part);
        write_block(kernels, row, first, part.n, &b);
    }
    return sum;
}

/* ---- whole arrays ---- */

typedef struct code_loop {
    const hyb_kernels *kernels;
    hyb_moment moment;
    size_t n_rows, n_cols, rows_per_task;
    uint32_t seed;
    const float *values;
    float *decoded;
    uint8_t *codes;
    float *scales;
} code_loop;

static void encode_task(void *argument, size_t index, size_t worker) {
    const code_loop *l = argument;
    size_t row = index * l->rows_per_task, end = hyb_min_size(row + l->rows_per_task, l->n_rows);
    (void)worker;
    for (; row < end; row++)
        for (size_t c = 0, n; c < l->n_cols; c += n) {
            size_t at = row * l->n_cols + c;
            float *scale = l->scales + row * hyb_state_blocks(l->n_cols) + c / HYB_STATE_BLOCK;
            n = hyb_min_size(HYB_STATE_BLOCK, l->n_cols - c);
            *scale = (l->moment == HYB_MOMENT_FIRST ? encode_first : encode_second)(
                l->kernels, l->values + at, n, l->seed + (uint32_t)at, l->codes + at);
        }
}

static void decode_task(void *argument, size_t index, size_t worker) {
    const code_loop *l = argument;
    size_t row = index * l->rows_per_task, end = hyb_min_size(row + l->rows_per_task, l->n_rows);
    (void)worker;
    for (; row < end; row++)
        for (size_t c = 0, n; c < l->n_cols; c += n) {
            size_t at = row * l->n_cols + c;
            float scale = l->scales[row * hyb_state_blocks(l->n_cols) + c / HYB_STATE_BLOCK];
            n = hyb_min_size(HYB_STATE_BLOCK, l->n_cols - c);
            (l->moment == HYB_MOMENT_FIRST ? l->kernels->decode_signed
                                           : l->kernels->decode_positive)(l->codes + at, n, scale, l->decoded + at);
        }
}

static hyb_status run(hyb_ctx *ctx, code_loop *loop, hyb_task task) {
    const void *values = loop->values != NULL ? (const void *)loop->values : loop->decoded;
    if (loop->moment != HYB_MOMENT_FIRST && loop->moment != HYB_MOMENT_SECOND)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "moment is %d, must be one of hyb_moment", (int)loop->moment);
    if (hyb_mul_overflows(loop->n_rows, loop->n_cols))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "state: %zu x %zu values", loop->n_rows, loop->n_cols);
    if (loop->n_rows == 0 || loop->n_cols == 0) return HYB_OK;
    if (values == NULL || loop->codes == NULL || loop->scales == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "state: %s is NULL",
                        values == NULL        ? "values"
                        : loop->codes == NULL ? "codes"
                                              : "scales");
    loop->kernels = &ctx->kernels;
    loop->rows_per_task = loop->n_cols < TASK_VALUES ? TASK_VALUES / loop->n_cols : 1;
    hyb_parallel(ctx, hyb_ceil_div(loop->n_rows, loop->rows_per_task), task, loop);
    return HYB_OK;
}

hyb_status hyb_state_encode(hyb_ctx *ctx, hyb_moment moment, size_t n_rows, size_t n_cols, const float *values,
                            uint32_t seed, uint8_t *codes, float *scales) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    code_loop loop = {.moment = moment, .n_rows = n_rows, .n_cols = n_cols, .seed = seed};
    loop.values = values;
    loop.codes = codes;
    loop.scales = scales;
    return run(ctx, &loop, encode_task);
}

hyb_status hyb_state_decode(hyb_ctx *ctx, hyb_moment moment, size_t n_rows, size_t n_cols, const uint8_t *codes,
                            const float *scales, float *values) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    code_loop loop = {.moment = moment, .n_rows = n_rows, .n_cols = n_cols, .decoded = values};
    loop.codes = (uint8_t *)codes; /* read only there */
    loop.scales = (float *)scales;
    return run(ctx, &loop, decode_task);
}
