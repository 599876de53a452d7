/* quantize.c - matrices of floats to integer codes with fp16-representable scales, and back; binary16 conversion.
 *
 * One pass over the rows gathers sums (or maxima) of |w|, one thread combines them in row order in fp64, a second pass
 * writes the codes. The order of every addition is fixed, so the result depends on neither threads nor processor.
 *
 * Sources: absmean ternary: Ma et al. 2024 (BitNet b1.58); Lloyd 1982 (optimal thresholds); Max 1960, "Quantizing for
 * minimum distortion" (step of the uniform 2- and 4-bit quantisers for Gaussian values).
 */
#include <hybrid/quantize.h>

#include "matmul.h"

/* Max 1960: step of the optimal uniform quantiser of a unit Gaussian with 4 and 16 levels. The standard deviation of a
 * Gaussian is sqrt(pi / 2) times its mean magnitude. Half the step is the scale, as codes are odd numbers. */
#define GAUSS_SIGMA_BY_MEAN 1.2533141
#define INT2_SCALE_BY_MEAN (0.996 * GAUSS_SIGMA_BY_MEAN / 2)
#define INT4_SCALE_BY_MEAN (0.335 * GAUSS_SIGMA_BY_MEAN / 2)

/* Lloyd's iteration is monotone and settles within about 30 rounds on any data seen; the bound is for the rest. */
#define LLOYD_MAX_ROUNDS 64
#define HALF_MAX 65504.0f
/* Adding and subtracting 1.5 * 2^23 rounds a float below 2^22 to an integer, ties to even. */
#define ROUND_MAGIC 12582912.0f
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
    double sum;        /* of |w|, or of |w| above the row's threshold */
    uint64_t n_above;  /* number of |w| above it */
    uint32_t max_bits; /* largest |w|, as in the kernel max_abs_bits */
    float threshold;   /* Lloyd: s / 2 of the row's scope */
} row_statistics;

typedef struct quantize_loop {
    const hyb_ctx *ctx;
    const hyb_quantizer *quantizer;
    const float *weights;
    size_t n_rows, n_cols, rows_per_task;
    row_statistics *rows;
    int8_t *codes;
    float *scales;
} quantize_loop;

static size_t rows_per_task(size_t n_cols) {
    size_t rows = VALUES_PER_TASK / n_cols;
    return rows != 0 ? rows : 1;
}

static size_t task_end(const quantize_loop *loop, size_t index) {
    return hyb_min_size((index + 1) * loop->rows_per_task, loop->n_rows);
}

static void run(hyb_ctx *ctx, quantize_loop *loop, hyb_task task) {
    hyb_parallel(ctx, hyb_ceil_div(loop->n_rows, loop->rows_per_task), task, loop);
}

static void magnitude_task(void *argument, size_t index, size_t worker) {
    const quantize_loop *loop = argument;
    const hyb_kernels *kernels = &loop->ctx->kernels;
    (void)worker;
    for (size_t r = index * loop->rows_per_task; r < task_end(loop, index); ++r) {
        const float *row = loop->weights + r * loop->n_cols;
        loop->rows[r].max_bits = kernels->max_abs_bits(row, loop->n_cols);
        loop->rows[r].sum = (double)kernels->sum_abs_f32(row, loop->n_cols);
        loop->rows[r].n_above = loop->n_cols;
    }
}

/* Sum and number of |w| above the threshold, in 16 lanes as in the kernels: fp32, lane i % 16, then halves. */
static void sum_above(const float *w, size_t n, float threshold, row_statistics *result) {
    float lanes[HYB_LANES] = {0};
    uint32_t counts[HYB_LANES] = {0}; /* a row has fewer than 2^32 groups of 16 on any machine that holds it */
    size_t n_whole = n / HYB_LANES * HYB_LANES;
    for (size_t i = 0; i < n_whole; i += HYB_LANES)
        for (size_t l = 0; l < HYB_LANES; ++l) {
            float magnitude = hyb_float_of(hyb_bits_of(w[i + l]) & 0x7fffffffu);
            lanes[l] += magnitude > threshold ? magnitude : 0.0f;
            counts[l] += magnitude > threshold ? 1u : 0u;
        }
    for (size_t i = n_whole; i < n; ++i) {
        float magnitude = hyb_float_of(hyb_bits_of(w[i]) & 0x7fffffffu);
        if (magnitude > threshold) {
            lanes[i % HYB_LANES] += magnitude;
            ++counts[i % HYB_LANES];
        }
    }
    result->n_above = 0;
    for (size_t l = 0; l < HYB_LANES; ++l) result->n_above += counts[l];
    for (size_t width = HYB_LANES / 2; width != 0; width /= 2)
        for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    result->sum = (double)lanes[0];
}

static void above_task(void *argument, size_t index, size_t worker) {
    const quantize_loop *loop = argument;
    (void)worker;
    for (size_t r = index * loop->rows_per_task; r < task_end(loop, index); ++r)
        sum_above(loop->weights + r * loop->n_cols, loop->n_cols, loop->rows[r].threshold, &loop->rows[r]);
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
    if (loop->quantizer->format == HYB_FORMAT_INT8) {
        uint32_t bits = 0;
        for (size_t r = first; r < first + n; ++r)
            if (loop->rows[r].max_bits > bits) bits = loop->rows[r].max_bits;
        return hyb_round_to_half(hyb_float_of(bits) / 127.0f);
    }
    float mean = mean_of_rows(loop->rows, first, n);
    if (loop->quantizer->format == HYB_FORMAT_INT2) mean = (float)(INT2_SCALE_BY_MEAN * (double)mean);
    if (loop->quantizer->format == HYB_FORMAT_INT4) mean = (float)(INT4_SCALE_BY_MEAN * (double)mean);
    return hyb_round_to_half(mean);
}

/* One round for every scope; returns the number of scales that changed. */
static size_t lloyd_round(hyb_ctx *ctx, quantize_loop *loop, size_t n_scales, size_t rows_per_scale) {
    size_t n_changed = 0;
    for (size_t r = 0; r < loop->n_rows; ++r) loop->rows[r].threshold = loop->scales[r / rows_per_scale] * 0.5f;
    run(ctx, loop, above_task);
    for (size_t i = 0; i < n_scales; ++i) {
        float scale = hyb_round_to_half(mean_of_rows(loop->rows, i * rows_per_scale, rows_per_scale));
        if (scale == 0.0f || scale == loop->scales[i]) continue; /* 0: nothing lies above; keep what there is */
        loop->scales[i] = scale;
        ++n_changed;
    }
    return n_changed;
}

static hyb_status find_scales(hyb_ctx *ctx, quantize_loop *loop, size_t n_scales) {
    size_t rows_per_scale = n_scales == 1 ? loop->n_rows : 1;
    const hyb_quantizer *q = loop->quantizer;
    for (size_t i = 0; i < n_scales; ++i) {
        loop->scales[i] = first_scale(loop, i * rows_per_scale, rows_per_scale);
        if (!(loop->scales[i] <= HALF_MAX))
            return hyb_fail(ctx, HYB_ERROR_NOT_FINITE,
                            "the scale of row %zu and its scope exceeds 65504, the largest binary16 number: the "
                            "weights are too large, divide them first",
                            i * rows_per_scale);
    }
    if (q->format == HYB_FORMAT_TERNARY && q->threshold == HYB_THRESHOLD_LLOYD)
        for (int round = 0; round < LLOYD_MAX_ROUNDS; ++round)
            if (lloyd_round(ctx, loop, n_scales, rows_per_scale) == 0) break;
    for (size_t i = 0; i < n_scales; ++i)
        if (!(loop->scales[i] <= HALF_MAX)) /* Lloyd's scale is larger than the mean */
            return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "the Lloyd scale of row %zu and its scope exceeds 65504",
                            i * rows_per_scale);
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

static void int8_codes(const float *w, size_t n, float scale, int8_t *codes) {
    for (size_t i = 0; i < n; ++i) {
        float v = w[i] / scale;
        v = v > 127.0f ? 127.0f : v;
        v = v < -127.0f ? -127.0f : v;
        codes[i] = (int8_t)((v + ROUND_MAGIC) - ROUND_MAGIC);
    }
}

static void code_task(void *argument, size_t index, size_t worker) {
    const quantize_loop *loop = argument;
    size_t n = loop->n_cols;
    int per_row = loop->quantizer->granularity == HYB_SCALE_PER_ROW;
    (void)worker;
    for (size_t r = index * loop->rows_per_task; r < task_end(loop, index); ++r) {
        const float *w = loop->weights + r * n;
        int8_t *codes = loop->codes + r * n;
        float scale = loop->scales[per_row ? r : 0];
        int has_zero = loop->quantizer->format == HYB_FORMAT_TERNARY || loop->quantizer->format == HYB_FORMAT_INT8;
        if (scale == 0.0f && has_zero)
            memset(codes, 0, n);
        else if (scale == 0.0f || loop->quantizer->format == HYB_FORMAT_BINARY)
            sign_codes(w, n, codes);
        else if (loop->quantizer->format == HYB_FORMAT_TERNARY)
            loop->ctx->kernels.ternarize(w, n, scale * 0.5f, codes);
        else if (loop->quantizer->format == HYB_FORMAT_INT8)
            int8_codes(w, n, scale, codes);
        else
            odd_codes(w, n, scale, loop->quantizer->format == HYB_FORMAT_INT2 ? 2 : 8, codes);
    }
}

/* ---- public ---- */

static hyb_status check_quantizer(hyb_ctx *ctx, const hyb_quantizer *q) {
    if (q->format < HYB_FORMAT_TERNARY || q->format > HYB_FORMAT_INT8)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "quantizer format %d: use HYB_FORMAT_TERNARY to _INT8",
                        (int)q->format);
    if (q->granularity != HYB_SCALE_PER_TENSOR && q->granularity != HYB_SCALE_PER_ROW)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "quantizer granularity %d: use 0 (per tensor) or 1 (per row)",
                        (int)q->granularity);
    if (q->threshold != HYB_THRESHOLD_ABSMEAN && q->threshold != HYB_THRESHOLD_LLOYD)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "quantizer threshold %d: use 0 (absmean) or 1 (Lloyd)",
                        (int)q->threshold);
    return HYB_OK;
}

static hyb_status check_sizes(hyb_ctx *ctx, size_t n_rows, size_t n_cols) {
    if (n_rows == 0 || n_cols == 0 || hyb_mul_overflows(n_rows, n_cols) ||
        hyb_mul_overflows(n_rows * n_cols, sizeof(float)))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "a matrix of %zu x %zu: both sizes must be at least 1 and fit in memory", n_rows, n_cols);
    return HYB_OK;
}

static hyb_status find_not_finite(hyb_ctx *ctx, const quantize_loop *loop) {
    for (size_t r = 0; r < loop->n_rows; ++r) {
        if (loop->rows[r].max_bits < 0x7f800000u) continue;
        const float *row = loop->weights + r * loop->n_cols;
        size_t c = 0;
        while (c + 1 < loop->n_cols && hyb_is_finite(row[c])) ++c;
        return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "the weight at row %zu, column %zu is %s", r, c,
                        row[c] != row[c] ? "NaN" : "infinite");
    }
    return HYB_OK;
}

hyb_status hyb_quantize(hyb_ctx *ctx, const hyb_quantizer *quantizer, const float *weights, size_t n_rows,
                        size_t n_cols, int8_t *codes, float *scales) {
    if (ctx == NULL || quantizer == NULL || weights == NULL || codes == NULL || scales == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_quantize: ctx, quantizer, weights, codes or scales is NULL");
    HYB_TRY(check_quantizer(ctx, quantizer));
    HYB_TRY(check_sizes(ctx, n_rows, n_cols));
    quantize_loop loop = {0};
    loop.ctx = ctx;
    loop.quantizer = quantizer;
    loop.weights = weights;
    loop.n_rows = n_rows;
    loop.n_cols = n_cols;
    loop.rows_per_task = rows_per_task(n_cols);
    loop.codes = codes;
    if (hyb_mul_overflows(n_rows, sizeof(row_statistics) + sizeof(float)) ||
        (loop.rows = hyb_scratch(ctx, n_rows * (sizeof(row_statistics) + sizeof(float)))) == NULL)
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the statistics of %zu rows", n_rows);
    size_t n_scales = quantizer->granularity == HYB_SCALE_PER_ROW ? n_rows : 1;
    loop.scales = (float *)(void *)(loop.rows + n_rows); /* the caller's stay untouched on an error */
    run(ctx, &loop, magnitude_task);
    HYB_TRY(find_not_finite(ctx, &loop));
    HYB_TRY(find_scales(ctx, &loop, n_scales));
    run(ctx, &loop, code_task);
    memcpy(scales, loop.scales, n_scales * sizeof *scales);
    return HYB_OK;
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
    HYB_TRY(check_sizes(ctx, n_rows, n_cols));
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
    HYB_TRY(check_sizes(ctx, n_tokens, n_cols));
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
