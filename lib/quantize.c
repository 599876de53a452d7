/* quantize.c - matrices of floats to integer codes with fp16-representable scales, and back; binary16 conversion.
 *
 * One pass over the rows gathers sums (or maxima) of |w|, one thread combines them in row order in fp64, a second pass
 * writes the codes; with a scale per row, one pass does both. The order of every addition is fixed, so the result
 * depends on neither threads nor processor.
 *
 * Sources: absmean ternary: Ma et al. 2024 (BitNet b1.58); Lloyd 1982 (optimal thresholds); Max 1960, "Quantizing for
 * minimum distortion" (step of the uniform 2- and 4-bit quantisers for Gaussian values).
 */
#include <float.h>
#include <math.h>

#include "quantize.h"

/* Max 1960: step of the optimal uniform quantiser of a unit Gaussian with 4 and 16 levels. The standard deviation of a
 * Gaussian is sqrt(pi / 2) times its mean magnitude. Half the step is the scale, as codes are odd numbers. */
#define GAUSS_SIGMA_BY_MEAN 1.2533141
#define INT2_SCALE_BY_MEAN (0.996 * GAUSS_SIGMA_BY_MEAN / 2)
#define INT4_SCALE_BY_MEAN (0.335 * GAUSS_SIGMA_BY_MEAN / 2)

/* Lloyd's iteration is monotone and settles within about 30 rounds on any data seen; the bound is for the rest. */
#define LLOYD_MAX_ROUNDS 64
#define HALF_MAX 65504.0f
/* Values a task handles: long enough to hide the hand-over, short enough to share a small matrix. */
#define VALUES_PER_TASK 32768

/* ---- binary16 ---- */

uint16_t hyb_half_from_float(float value) {
    uint32_t bits = hyb_bits_of(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);  /* NaN, made quiet */
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (magnitude < 0x38800000u) {                                   /* below 2^-14: subnormal, in units of 2^-24 */
        /* 0.5 has a last place of 2^-24: adding it rounds to that unit, ties to even. */
        float sum = hyb_float_of(magnitude) + 0.5f;
        return (uint16_t)(sign | (hyb_bits_of(sum) - 0x3f000000u));
    }
    uint32_t odd = magnitude >> 13 & 1;
    uint32_t rounded = magnitude + 0xfffu + odd;               /* nearest 13 bits up, ties to even */
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13)); /* exponent bias 127 to 15 */
}

float hyb_float_from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3ffu;
    if (exponent == 31) return hyb_float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return hyb_float_of(sign | (exponent + 112) << 23 | fraction << 13);
    float magnitude = (float)fraction * (1.0f / 16777216.0f); /* 2^-24, exact */
    return hyb_float_of(sign | hyb_bits_of(magnitude));
}

float hyb_round_to_half(float value) { return hyb_float_from_half(hyb_half_from_float(value)); }

/* ---- statistics of rows ---- */

typedef struct row_statistics {
    double sum;        /* of |w|, or of |w| above Lloyd's threshold */
    uint64_t n_above;  /* number of |w| in the sum */
    uint32_t max_bits; /* largest |w|, as in the kernel max_abs_bits */
} row_statistics;

typedef struct quantize_loop {
    const hyb_ctx *ctx;
    const hyb_quantize_job *job;
    size_t n_tasks, rows_per_task;
    row_statistics *rows;
    float *scales;
    float *kept;                                                 /* THREE_OF_FOUR: a row for each thread; else NULL */
    uint64_t n_flips[HYB_MAX_THREADS], n_zeros[HYB_MAX_THREADS]; /* integers: order does not matter */
} quantize_loop;

static size_t rows_per_task(size_t n_cols) {
    size_t rows = VALUES_PER_TASK / n_cols;
    return rows != 0 ? rows : 1;
}

static size_t task_end(const quantize_loop *loop, size_t index) {
    return hyb_min_size((index + 1) * loop->rows_per_task, loop->job->n_rows);
}

static const float *row_of(const quantize_loop *loop, size_t r) { return loop->job->weights + r * loop->job->n_cols; }

/* ---- three of four ---- */

static int is_three_of_four(const hyb_quantizer *q) {
    return q->format == HYB_FORMAT_TERNARY && q->threshold == HYB_THRESHOLD_THREE_OF_FOUR;
}

static size_t kept_floats(size_t n_cols) { return hyb_round_up(n_cols, HYB_CACHE_LINE / sizeof(float)); }

/* The row that codes are made of: with THREE_OF_FOUR a copy in which just what has code 0 is 0. */
static const float *coded_row(const quantize_loop *loop, size_t r, size_t worker) {
    const float *w = row_of(loop, r);
    if (loop->kept == NULL) return w;
    float *kept = loop->kept + worker * kept_floats(loop->job->n_cols);
    for (size_t c = 0; c < loop->job->n_cols; c += 4) {
        size_t least = c;
        for (size_t i = c; i < c + 4; ++i) {
            kept[i] = w[i] == 0.0f ? FLT_MIN : w[i];
            if (fabsf(w[i]) < fabsf(w[least])) least = i;
        }
        kept[least] = 0.0f;
    }
    return kept;
}

static void gather_kept(const quantize_loop *loop, size_t r, size_t worker) {
    loop->rows[r].max_bits = loop->ctx->kernels.max_abs_bits(row_of(loop, r), loop->job->n_cols);
    loop->rows[r].sum = (double)loop->ctx->kernels.sum_abs_f32(coded_row(loop, r, worker), loop->job->n_cols);
    loop->rows[r].n_above = loop->job->n_cols / 4 * 3;
}

static void gather_magnitudes(const quantize_loop *loop, size_t r, size_t worker) {
    const hyb_quantize_job *job = loop->job;
    if (loop->kept != NULL) {
        gather_kept(loop, r, worker);
        return;
    }
    hyb_magnitudes found =
        job->magnitudes != NULL ? job->magnitudes[r] : loop->ctx->kernels.magnitudes(row_of(loop, r), job->n_cols);
    loop->rows[r].max_bits = found.max_bits;
    loop->rows[r].sum = (double)found.sum;
    loop->rows[r].n_above = job->n_cols;
}

static void magnitude_task(void *argument, size_t index, size_t worker) {
    const quantize_loop *loop = argument;
    for (size_t r = index * loop->rows_per_task; r < task_end(loop, index); ++r) gather_magnitudes(loop, r, worker);
}

static void gather_above(const quantize_loop *loop, size_t r, float threshold) {
    size_t n_above;
    loop->rows[r].sum =
        (double)loop->ctx->kernels.sum_above_f32(row_of(loop, r), loop->job->n_cols, threshold, &n_above);
    loop->rows[r].n_above = n_above;
}

/* Lloyd with one scale for all. */
static void above_task(void *argument, size_t index, size_t worker) {
    const quantize_loop *loop = argument;
    (void)worker;
    for (size_t r = index * loop->rows_per_task; r < task_end(loop, index); ++r)
        gather_above(loop, r, loop->scales[0] * 0.5f);
}

/* ---- scales ---- */

/* Mean of the gathered magnitudes of rows [first, first + n), added in row order; 0 where none was gathered. */
static float mean_of_rows(const row_statistics *rows, size_t first, size_t n) {
    double sum = 0;
    uint64_t count = 0;
    for (size_t r = first; r < first + n; ++r) {
        sum += rows[r].sum;
        count += rows[r].n_above;
    }
    return count != 0 ? (float)(sum / (double)count) : 0.0f;
}

static float first_scale(const quantize_loop *loop, size_t first, size_t n) {
    int format = loop->job->quantizer->format;
    if (format == HYB_FORMAT_INT8) {
        uint32_t bits = 0;
        for (size_t r = first; r < first + n; ++r)
            if (loop->rows[r].max_bits > bits) bits = loop->rows[r].max_bits;
        return hyb_round_to_half(hyb_float_of(bits) / 127.0f);
    }
    float mean = mean_of_rows(loop->rows, first, n);
    if (format == HYB_FORMAT_INT2) mean = (float)(INT2_SCALE_BY_MEAN * (double)mean);
    if (format == HYB_FORMAT_INT4) mean = (float)(INT4_SCALE_BY_MEAN * (double)mean);
    return hyb_round_to_half(mean);
}

static int is_lloyd(const hyb_quantizer *q) {
    return q->format == HYB_FORMAT_TERNARY && q->threshold == HYB_THRESHOLD_LLOYD;
}

/* Takes the scale that the gathered sums of a scope give; 0 if it is the one there was. */
static int lloyd_moves(const quantize_loop *loop, size_t first, size_t n, float *scale) {
    float next = hyb_round_to_half(mean_of_rows(loop->rows, first, n));
    if (next == 0.0f || next == *scale) return 0; /* 0: nothing lies above; keep what there is */
    *scale = next;
    return 1;
}

/* Scale of a row by itself, which stays in the cache for all rounds. */
static float scale_of_row(const quantize_loop *loop, size_t r) {
    float scale = first_scale(loop, r, 1);
    if (!(scale <= HALF_MAX) || !is_lloyd(loop->job->quantizer)) return scale;
    for (int round = 0; round < LLOYD_MAX_ROUNDS; ++round) {
        gather_above(loop, r, scale * 0.5f);
        if (!lloyd_moves(loop, r, 1, &scale)) break;
    }
    return scale;
}

static float scale_of_tensor(hyb_ctx *ctx, quantize_loop *loop) {
    size_t n_rows = loop->job->n_rows;
    loop->scales[0] = first_scale(loop, 0, n_rows);
    if (!(loop->scales[0] <= HALF_MAX) || !is_lloyd(loop->job->quantizer)) return loop->scales[0];
    for (int round = 0; round < LLOYD_MAX_ROUNDS; ++round) {
        hyb_parallel(ctx, loop->n_tasks, above_task, loop);
        if (!lloyd_moves(loop, 0, n_rows, &loop->scales[0])) break;
    }
    return loop->scales[0];
}

static hyb_status check_scales(hyb_ctx *ctx, const quantize_loop *loop, size_t n_scales) {
    for (size_t i = 0; i < n_scales; ++i)
        if (!(loop->scales[i] <= HALF_MAX))
            return hyb_fail(ctx, HYB_ERROR_NOT_FINITE,
                            "the scale of row %zu and its scope exceeds 65504, the largest binary16 number: the "
                            "weights are too large, divide them first",
                            i);
    return HYB_OK;
}

/* ---- codes ---- */

/* 2 * clamp(floor(w / (2 scale)), -levels, levels - 1) + 1: the middle of the step that w lies in. */
static void odd_codes(const float *w, size_t n, float scale, int levels, int8_t *codes) {
    float step = 2.0f * scale, low = (float)-levels, high = (float)(levels - 1);
    for (size_t i = 0; i < n; ++i) {
        float position = w[i] / step;
        position = position < low ? low : position;
        position = position > high ? high : position;
        int whole = (int)position;
        whole -= (float)whole > position; /* towards minus infinity */
        codes[i] = (int8_t)(2 * whole + 1);
    }
}

static void sign_codes(const float *w, size_t n, int8_t *codes) {
    for (size_t i = 0; i < n; ++i) codes[i] = w[i] >= 0.0f ? 1 : -1;
}

static float dead_zone(const hyb_quantizer *q) {
    if (is_three_of_four(q)) return 0.0f; /* the zeros are zeros already */
    return q->dead_zone != 0.0f ? q->dead_zone : 0.5f;
}

static void make_codes(const quantize_loop *loop, const float *w, float scale, int8_t *codes) {
    size_t n = loop->job->n_cols;
    int format = loop->job->quantizer->format;
    if (scale == 0.0f && (format == HYB_FORMAT_TERNARY || format == HYB_FORMAT_INT8))
        memset(codes, 0, n);
    else if (scale == 0.0f || format == HYB_FORMAT_BINARY)
        sign_codes(w, n, codes);
    else if (format == HYB_FORMAT_TERNARY)
        loop->ctx->kernels.ternarize(w, n, scale * dead_zone(loop->job->quantizer), codes);
    else if (format == HYB_FORMAT_INT8)
        loop->ctx->kernels.divide_i8(w, n, scale, codes);
    else
        odd_codes(w, n, scale, format == HYB_FORMAT_INT2 ? 2 : 8, codes);
}

/* Codes and packed words of a ternary row, which is read from the cache the second time. */
static size_t ternary_row(const quantize_loop *loop, size_t r, float scale, size_t *n_zeros, size_t worker) {
    const hyb_quantize_job *job = loop->job;
    const float *w = coded_row(loop, r, worker);
    if (job->codes != NULL) make_codes(loop, w, scale, job->codes + r * job->n_cols);
    if (job->packed == NULL || job->packed->layout != HYB_LAYOUT_PLANES) return 0;
    uint8_t *words = job->packed->blocks + r / HYB_BLOCK_ROWS * job->packed->block_bytes + r % HYB_BLOCK_ROWS * 4;
    float threshold = scale * dead_zone(job->quantizer);
    if (scale == 0.0f) threshold = hyb_float_of(0x7f800000u); /* nothing exceeds infinity */
    job->packed->row_scales[r] = scale;
    return loop->ctx->kernels.ternarize_pack(w, job->n_cols, threshold, words, n_zeros);
}

static size_t other_row(const quantize_loop *loop, size_t r, float scale, size_t *n_zeros) {
    const hyb_quantize_job *job = loop->job;
    int8_t *codes = job->codes + r * job->n_cols;
    if (!job->counts) {
        make_codes(loop, row_of(loop, r), scale, codes);
        return 0;
    }
    int8_t *next = job->next_codes + r * job->n_cols;
    make_codes(loop, row_of(loop, r), scale, next);
    size_t n_flips = loop->ctx->kernels.count_flips(codes, next, job->n_cols, n_zeros);
    memcpy(codes, next, job->n_cols);
    return n_flips;
}

static void code_rows(quantize_loop *loop, size_t first, size_t end, size_t worker) {
    const hyb_quantize_job *job = loop->job;
    int per_row = job->quantizer->granularity == HYB_SCALE_PER_ROW;
    int is_ternary = job->quantizer->format == HYB_FORMAT_TERNARY;
    size_t n_flips = 0, n_zeros = 0;
    for (size_t r = first; r < end; ++r) {
        float scale = loop->scales[per_row ? r : 0];
        if (per_row) {
            gather_magnitudes(loop, r, worker);
            scale = loop->scales[r] = scale_of_row(loop, r);
            if (loop->rows[r].max_bits >= 0x7f800000u || !(scale <= HALF_MAX)) continue; /* reported afterwards */
        }
        n_flips += is_ternary ? ternary_row(loop, r, scale, &n_zeros, worker) : other_row(loop, r, scale, &n_zeros);
    }
    loop->n_flips[worker] += n_flips;
    loop->n_zeros[worker] += n_zeros;
    if (job->packed != NULL && (!is_ternary || job->packed->layout != HYB_LAYOUT_PLANES))
        hyb_weights_fill_rows(loop->ctx, job->packed, job->codes, loop->scales, per_row ? job->n_rows : 1,
                              first / HYB_BLOCK_ROWS, hyb_ceil_div(end - first, HYB_BLOCK_ROWS));
}

/* From the last rows to the first: those that the pass before read last are still in the cache. */
static void code_task(void *argument, size_t index, size_t worker) {
    quantize_loop *loop = argument;
    index = loop->n_tasks - 1 - index;
    code_rows(loop, index * loop->rows_per_task, task_end(loop, index), worker);
}

/* ---- public ---- */

hyb_status hyb_check_dead_zone(hyb_ctx *ctx, const hyb_quantizer *q) {
    int is_absmean = q->format == HYB_FORMAT_TERNARY && q->threshold == HYB_THRESHOLD_ABSMEAN;
    if (!(q->dead_zone >= 0.0f && q->dead_zone <= 4.0f))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "the dead zone is %g, must be above 0 and at most 4",
                        (double)q->dead_zone);
    if (q->dead_zone != 0.0f && q->dead_zone != 0.5f && !is_absmean)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "the dead zone is %g: only ternary codes with the absmean scale have another than 0.5",
                        (double)q->dead_zone);
    return HYB_OK;
}

static hyb_status check_quantizer(hyb_ctx *ctx, const hyb_quantizer *q) {
    if (q->format < HYB_FORMAT_TERNARY || q->format > HYB_FORMAT_INT8)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "quantizer format %d: use HYB_FORMAT_TERNARY to _INT8",
                        (int)q->format);
    if (q->granularity != HYB_SCALE_PER_TENSOR && q->granularity != HYB_SCALE_PER_ROW)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "quantizer granularity %d: use 0 (per tensor) or 1 (per row)",
                        (int)q->granularity);
    if (q->threshold < HYB_THRESHOLD_ABSMEAN || q->threshold > HYB_THRESHOLD_THREE_OF_FOUR)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "quantizer threshold %d: use 0 (absmean), 1 (Lloyd) or 2 (three of four)", (int)q->threshold);
    return hyb_check_dead_zone(ctx, q);
}

hyb_status hyb_quantize_check_sizes(hyb_ctx *ctx, size_t n_rows, size_t n_cols) {
    if (n_rows == 0 || n_cols == 0 || hyb_mul_overflows(n_rows, n_cols) ||
        hyb_mul_overflows(n_rows * n_cols, sizeof(float)))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "a matrix of %zu x %zu: both sizes must be at least 1 and fit in memory", n_rows, n_cols);
    return HYB_OK;
}

static hyb_status find_not_finite(hyb_ctx *ctx, const quantize_loop *loop) {
    for (size_t r = 0; r < loop->job->n_rows; ++r) {
        if (loop->rows[r].max_bits < 0x7f800000u) continue;
        const float *row = row_of(loop, r);
        size_t c = 0;
        while (c + 1 < loop->job->n_cols && hyb_is_finite(row[c])) ++c;
        return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "the weight at row %zu, column %zu is %s", r, c,
                        row[c] != row[c] ? "NaN" : "infinite");
    }
    return HYB_OK;
}

static size_t kept_bytes(const hyb_ctx *ctx, const hyb_quantizer *quantizer, size_t n_cols) {
    return is_three_of_four(quantizer) ? (size_t)ctx->options.n_threads * kept_floats(n_cols) * sizeof(float) : 0;
}

size_t hyb_quantize_work_bytes(const hyb_ctx *ctx, const hyb_quantizer *quantizer, size_t n_rows, size_t n_cols) {
    size_t kept = kept_bytes(ctx, quantizer, n_cols); /* fits: a few rows of a matrix that does */
    if (hyb_mul_overflows(n_rows, sizeof(row_statistics) + sizeof(float))) return 0;
    size_t rows = n_rows * (sizeof(row_statistics) + sizeof(float));
    return rows <= SIZE_MAX - kept ? rows + kept : 0;
}

hyb_status hyb_quantize_run(hyb_ctx *ctx, hyb_quantize_job *job, void *work) {
    size_t n_kept_bytes = kept_bytes(ctx, job->quantizer, job->n_cols);
    quantize_loop loop = {.ctx = ctx, .job = job, .kept = n_kept_bytes != 0 ? work : NULL};
    int per_row = job->quantizer->granularity == HYB_SCALE_PER_ROW;
    loop.rows = (row_statistics *)(void *)((uint8_t *)work + n_kept_bytes);
    loop.scales = (float *)(void *)(loop.rows + job->n_rows); /* the caller's stay untouched on an error */
    loop.rows_per_task = rows_per_task(job->n_cols);
    if (job->packed != NULL) loop.rows_per_task = hyb_round_up(loop.rows_per_task, HYB_BLOCK_ROWS);
    loop.n_tasks = hyb_ceil_div(job->n_rows, loop.rows_per_task);
    if (per_row) {
        hyb_parallel(ctx, loop.n_tasks, code_task, &loop); /* everything, row by row */
        HYB_TRY(find_not_finite(ctx, &loop));
        HYB_TRY(check_scales(ctx, &loop, job->n_rows));
    } else {
        if (job->magnitudes == NULL)
            hyb_parallel(ctx, loop.n_tasks, magnitude_task, &loop);
        else
            for (size_t r = 0; r < job->n_rows; ++r) gather_magnitudes(&loop, r, 0);
        HYB_TRY(find_not_finite(ctx, &loop));
        loop.scales[0] = scale_of_tensor(ctx, &loop);
        HYB_TRY(check_scales(ctx, &loop, 1));
        hyb_parallel(ctx, loop.n_tasks, code_task, &loop);
    }
    for (size_t i = 0; i < HYB_MAX_THREADS; ++i) {
        job->n_flips += loop.n_flips[i];
        job->n_zeros += loop.n_zeros[i];
    }
    memcpy(job->scales, loop.scales, (per_row ? job->n_rows : 1) * sizeof *job->scales);
    return HYB_OK;
}

hyb_status hyb_quantize_check(hyb_ctx *ctx, const hyb_quantizer *quantizer, size_t n_rows, size_t n_cols) {
    HYB_TRY(check_quantizer(ctx, quantizer));
    if (is_three_of_four(quantizer) && n_cols % 4 != 0)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu columns: three of four needs a multiple of 4", n_cols);
    return hyb_quantize_check_sizes(ctx, n_rows, n_cols);
}

hyb_status hyb_quantize(hyb_ctx *ctx, const hyb_quantizer *quantizer, const float *weights, size_t n_rows,
                        size_t n_cols, int8_t *codes, float *scales) {
    if (ctx == NULL || quantizer == NULL || weights == NULL || codes == NULL || scales == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_quantize: ctx, quantizer, weights, codes or scales is NULL");
    HYB_TRY(hyb_quantize_check(ctx, quantizer, n_rows, n_cols));
    hyb_quantize_job job = {.quantizer = quantizer, .weights = weights, .n_rows = n_rows, .n_cols = n_cols};
    job.codes = codes;
    job.scales = scales;
    size_t n_bytes = hyb_quantize_work_bytes(ctx, quantizer, n_rows, n_cols);
    void *work = n_bytes != 0 ? hyb_scratch(ctx, n_bytes) : NULL;
    if (work == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the statistics of %zu rows", n_rows);
    return hyb_quantize_run(ctx, &job, work);
}

typedef struct dequantize_loop {
    const hyb_ctx *ctx;
    const int8_t *codes;
    const float *scales;
    size_t n_scales, n_rows, n_cols, rows_per_task;
    float *weights;
} dequantize_loop;

static void dequantize_task(void *argument, size_t index, size_t worker) {
    const dequantize_loop *loop = argument;
    size_t first = index * loop->rows_per_task, end = hyb_min_size(first + loop->rows_per_task, loop->n_rows);
    (void)worker;
    for (size_t r = first; r < end; ++r)
        loop->ctx->kernels.dequantize_i8(loop->codes + r * loop->n_cols, loop->n_cols,
                                         loop->scales[loop->n_scales == 1 ? 0 : r], loop->weights + r * loop->n_cols);
}

hyb_status hyb_dequantize(hyb_ctx *ctx, const int8_t *codes, const float *scales, size_t n_scales, size_t n_rows,
                          size_t n_cols, float *weights) {
    if (ctx == NULL || codes == NULL || scales == NULL || weights == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_dequantize: ctx, codes, scales or weights is NULL");
    HYB_TRY(hyb_quantize_check_sizes(ctx, n_rows, n_cols));
    if (n_scales != 1 && n_scales != n_rows)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_scales is %zu: give 1, or one of each of the %zu rows",
                        n_scales, n_rows);
    dequantize_loop loop = {ctx, codes, scales, n_scales, n_rows, n_cols, rows_per_task(n_cols), weights};
    hyb_parallel(ctx, hyb_ceil_div(n_rows, loop.rows_per_task), dequantize_task, &loop);
    return HYB_OK;
}

hyb_status hyb_quantize_activations(hyb_ctx *ctx, const float *activations, size_t n_tokens, size_t n_cols,
                                    int8_t *codes, float *scales) {
    if (ctx == NULL || activations == NULL || codes == NULL || scales == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_quantize_activations: ctx, activations, codes or scales is NULL");
    HYB_TRY(hyb_quantize_check_sizes(ctx, n_tokens, n_cols));
    for (size_t t = 0; t < n_tokens; ++t)
        if (ctx->kernels.max_abs_bits(activations + t * n_cols, n_cols) >= 0x7f800000u)
            return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "token %zu holds a NaN or an infinity", t);
    for (size_t t = 0; t < n_tokens; ++t) {
        int32_t sum;
        hyb_quantize_token(&ctx->kernels, activations + t * n_cols, n_cols, codes + t * n_cols, n_cols, &sum,
                           &scales[t]);
    }
    return HYB_OK;
}
