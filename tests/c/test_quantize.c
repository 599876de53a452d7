/* test_quantize.c - the matrix quantisers against their definitions in double precision, the same bits for every tier
 * and number of threads, binary16 conversion over every half, activations, and bad input.
 */
#include "testing.h"

#include <math.h>

#include <hybrid/quantize.h>

#include "matmul.h"
#include "tier_context.h"

static const uint32_t isa_masks[] = {HYB_ISA_MASK_SCALAR, HYB_ISA_AVX2, 0, HYB_ISA_AVX512_LOOKUP};

/* Sum of twelve uniform values: close to a Gaussian of deviation 2. */
static float gaussian(uint64_t *state) {
    float sum = 0.0f;
    for (int i = 0; i < 12; ++i) sum += test_random_float(state);
    return sum;
}

/* ---- binary16 ---- */

/* Every half survives the way to float and back; NaN stays NaN; values are sign * fraction * 2^e. */
static void test_half_every_value(void) {
    size_t n_wrong = 0;
    for (unsigned half = 0; half < 65536; ++half) {
        float value = hyb_float_from_half((uint16_t)half);
        unsigned exponent = half >> 10 & 31, fraction = half & 1023;
        if (exponent == 31 && fraction != 0) {
            n_wrong += value == value || (hyb_half_from_float(value) & 0x7c00) != 0x7c00;
            continue;
        }
        double expected = exponent == 31  ? INFINITY
                          : exponent == 0 ? ldexp((double)fraction, -24)
                                          : ldexp((double)(1024 + fraction), (int)exponent - 25);
        if (half & 0x8000) expected = -expected;
        n_wrong += (double)value != expected || hyb_half_from_float(value) != half;
    }
    CHECK(n_wrong == 0);
}

/* Between two neighbouring halves the nearer one is taken, the even one in the middle. */
static void test_half_rounding(void) {
    size_t n_wrong = 0;
    for (unsigned half = 0; half < 0x7bff; ++half) {
        float low = hyb_float_from_half((uint16_t)half), high = hyb_float_from_half((uint16_t)(half + 1));
        float middle = (low + high) * 0.5f; /* exact: 12 bits */
        unsigned even = half % 2 == 0 ? half : half + 1;
        n_wrong += hyb_half_from_float(middle) != even;
        n_wrong += hyb_half_from_float(nextafterf(middle, 0.0f)) != half;
        n_wrong += hyb_half_from_float(nextafterf(middle, INFINITY)) != half + 1;
        n_wrong += hyb_half_from_float(-middle) != (even | 0x8000);
    }
    CHECK(n_wrong == 0);
    CHECK(hyb_round_to_half(65519.9f) == 65504.0f && isinf(hyb_round_to_half(65520.0f)));
    CHECK(hyb_half_from_float(1e-45f) == 0 && hyb_half_from_float(-1e-45f) == 0x8000);
    CHECK(hyb_half_from_float(INFINITY) == 0x7c00 && hyb_half_from_float(3e38f) == 0x7c00);
}

/* ---- definitions ---- */

typedef struct matrix {
    size_t n_rows, n_cols;
    float *weights, *scales;
    int8_t *codes;
} matrix;

static matrix make_matrix(size_t n_rows, size_t n_cols, uint64_t *state) {
    matrix m = {n_rows, n_cols, test_guarded_alloc(n_rows * n_cols * 4), test_guarded_alloc(n_rows * 4),
                test_guarded_alloc(n_rows * n_cols)};
    for (size_t i = 0; i < n_rows * n_cols; ++i) m.weights[i] = gaussian(state) * 0.01f;
    return m;
}

static void free_matrix(matrix *m) {
    test_guarded_free(m->weights, m->n_rows * m->n_cols * 4);
    test_guarded_free(m->scales, m->n_rows * 4);
    test_guarded_free(m->codes, m->n_rows * m->n_cols);
}

/* Mean of |w| over |w| > threshold, n values, in double precision. */
static double mean_above(const float *w, size_t n, double threshold) {
    double sum = 0, count = 0;
    for (size_t i = 0; i < n; ++i)
        if (fabs((double)w[i]) > threshold) {
            sum += fabs((double)w[i]);
            ++count;
        }
    return count > 0 ? sum / count : 0;
}

static double largest(const float *w, size_t n) {
    double result = 0;
    for (size_t i = 0; i < n; ++i) result = fmax(result, fabs((double)w[i]));
    return result;
}

static double exact_scale(const hyb_quantizer *q, const float *w, size_t n) {
    double mean = mean_above(w, n, -1.0), sigma = mean * sqrt(acos(-1.0) / 2);
    switch (q->format) {
    case HYB_FORMAT_INT2:
        return 0.996 * sigma / 2;
    case HYB_FORMAT_INT4:
        return 0.335 * sigma / 2;
    case HYB_FORMAT_INT8:
        return largest(w, n) / 127;
    default:
        return mean;
    }
}

static int exact_code(int format, float w, float scale) {
    double ratio = (double)w / (double)scale;
    switch (format) {
    case HYB_FORMAT_TERNARY:
        return fabs(ratio) > 0.5 ? (w > 0 ? 1 : -1) : 0;
    case HYB_FORMAT_BINARY:
        return w >= 0 ? 1 : -1;
    case HYB_FORMAT_INT2:
        return 2 * (int)fmax(fmin(floor(ratio / 2), 1), -2) + 1;
    case HYB_FORMAT_INT4:
        return 2 * (int)fmax(fmin(floor(ratio / 2), 7), -8) + 1;
    default:
        return (int)fmax(fmin(nearbyint(ratio), 127), -127);
    }
}

/* Every format and granularity: the scale is the definition's within a unit of binary16, and every code is that of the
 * definition with this scale. */
static void test_definitions(hyb_ctx *ctx) {
    static const size_t sizes[][2] = {{1, 1}, {1, 100}, {7, 33}, {40, 129}, {3, 1000}};
    uint64_t state = 21;
    for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format)
        for (int granularity = 0; granularity < 2; ++granularity)
            for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; ++s) {
                matrix m = make_matrix(sizes[s][0], sizes[s][1], &state);
                hyb_quantizer q = {format, granularity, HYB_THRESHOLD_ABSMEAN, 0.0f};
                CHECK_OK(hyb_quantize(ctx, &q, m.weights, m.n_rows, m.n_cols, m.codes, m.scales));
                size_t n_wrong = 0, scope_rows = granularity ? 1 : m.n_rows;
                for (size_t r = 0; r < m.n_rows; r += scope_rows) {
                    float scale = m.scales[r];
                    double exact = exact_scale(&q, m.weights + r * m.n_cols, scope_rows * m.n_cols);
                    /* half a unit of 11 bits, and a little for the fp32 sums */
                    n_wrong += fabs((double)scale - exact) > exact * (1.0 / 2048 + 1e-5) + 3e-8;
                    n_wrong += hyb_round_to_half(scale) != scale;
                    for (size_t i = r * m.n_cols; i < (r + scope_rows) * m.n_cols; ++i)
                        n_wrong += m.codes[i] != exact_code(format, m.weights[i], scale);
                }
                CHECK(n_wrong == 0);
                free_matrix(&m);
            }
}

/* Lloyd: the scale is a fixed point of its definition, and the squared error is below absmean's. */
static void test_lloyd(hyb_ctx *ctx) {
    uint64_t state = 22;
    for (int granularity = 0; granularity < 2; ++granularity) {
        matrix m = make_matrix(20, 700, &state);
        double errors[2];
        for (int threshold = 0; threshold < 2; ++threshold) {
            hyb_quantizer q = {HYB_FORMAT_TERNARY, granularity, threshold, 0.0f};
            CHECK_OK(hyb_quantize(ctx, &q, m.weights, m.n_rows, m.n_cols, m.codes, m.scales));
            errors[threshold] = 0;
            for (size_t i = 0; i < m.n_rows * m.n_cols; ++i) {
                float scale = m.scales[granularity ? i / m.n_cols : 0];
                errors[threshold] += pow((double)m.weights[i] - (double)scale * m.codes[i], 2);
            }
        }
        CHECK(errors[1] < errors[0]);
        size_t scope_rows = granularity ? 1 : m.n_rows;
        for (size_t r = 0; r < m.n_rows; r += scope_rows) {
            double s = (double)m.scales[r];
            double again = mean_above(m.weights + r * m.n_cols, scope_rows * m.n_cols, s / 2);
            CHECK(fabs(again - s) <= s * (1.0 / 2048 + 1e-5));
        }
        free_matrix(&m);
    }
}

/* A dead zone moves the thresholds and nothing else; 0.5 is what there is without one. */
static void test_dead_zone(hyb_ctx *ctx) {
    static const float zones[] = {0.0f, 0.5f, 0.25f, 0.75f, 1.0f, 4.0f};
    uint64_t state = 24;
    for (int granularity = 0; granularity < 2; ++granularity) {
        matrix m = make_matrix(20, 701, &state);
        size_t n = m.n_rows * m.n_cols;
        float scales[20];
        for (size_t z = 0; z < sizeof zones / sizeof *zones; ++z) {
            hyb_quantizer q = {HYB_FORMAT_TERNARY, granularity, HYB_THRESHOLD_ABSMEAN, zones[z]};
            float zone = zones[z] != 0.0f ? zones[z] : 0.5f;
            CHECK_OK(hyb_quantize(ctx, &q, m.weights, m.n_rows, m.n_cols, m.codes, m.scales));
            if (z == 0) memcpy(scales, m.scales, (granularity ? m.n_rows : 1) * sizeof *scales);
            CHECK(memcmp(scales, m.scales, (granularity ? m.n_rows : 1) * sizeof *scales) == 0);
            size_t n_wrong = 0, n_zeros = 0;
            for (size_t i = 0; i < n; ++i) {
                float threshold = zone * m.scales[granularity ? i / m.n_cols : 0];
                int code = (m.weights[i] > threshold) - (m.weights[i] < -threshold);
                n_wrong += m.codes[i] != code;
                n_zeros += code == 0;
            }
            CHECK(n_wrong == 0);
            CHECK(n_zeros > 0 && (zone == 4.0f || n_zeros < n));
        }
        free_matrix(&m);
    }
}

/* Three of four: one zero in each four, at the smallest; the scale is the mean of the rest; zeros are weights, too. */
static void test_three_of_four(hyb_ctx *ctx) {
    uint64_t state = 25;
    for (int granularity = 0; granularity < 2; ++granularity) {
        matrix m = make_matrix(37, 612, &state);
        hyb_quantizer q = {HYB_FORMAT_TERNARY, granularity, HYB_THRESHOLD_THREE_OF_FOUR, 0.0f};
        memset(m.weights, 0, 612 * sizeof *m.weights);
        m.weights[612] = m.weights[613] = m.weights[614] = m.weights[615] = -0.25f;
        CHECK_OK(hyb_quantize(ctx, &q, m.weights, m.n_rows, m.n_cols, m.codes, m.scales));
        size_t n_wrong = 0, scope_rows = granularity ? 1 : m.n_rows;
        for (size_t i = granularity ? 612 : 0; i < m.n_rows * m.n_cols; i += 4) {
            size_t least = i;
            for (size_t j = i; j < i + 4; ++j)
                if (fabsf(m.weights[j]) < fabsf(m.weights[least])) least = j;
            for (size_t j = i; j < i + 4; ++j)
                n_wrong += m.codes[j] != (j == least ? 0 : m.weights[j] >= 0.0f ? 1 : -1);
        }
        CHECK(n_wrong == 0);
        for (size_t r = 0; r < m.n_rows; r += scope_rows) {
            double sum = 0;
            size_t n = scope_rows * m.n_cols;
            for (size_t i = r * m.n_cols; i < r * m.n_cols + n; ++i)
                if (m.codes[i] != 0) sum += fabs((double)m.weights[i]);
            CHECK(fabs(sum / (0.75 * (double)n) - (double)m.scales[r]) <= (double)m.scales[r] * (1.0 / 2048 + 1e-5));
        }
        CHECK_STATUS(hyb_quantize(ctx, &q, m.weights, 4, 6, m.codes, m.scales), HYB_ERROR_INVALID_ARGUMENT);
        m.weights[700] = NAN;
        CHECK_STATUS(hyb_quantize(ctx, &q, m.weights, m.n_rows, m.n_cols, m.codes, m.scales), HYB_ERROR_NOT_FINITE);
        free_matrix(&m);
    }
}

/* The same codes and scales, bit for bit, on every tier and number of threads. */
static void test_same_everywhere(void) {
    uint64_t state = 23;
    matrix m = make_matrix(301, 517, &state);
    size_t n = m.n_rows * m.n_cols;
    int8_t *codes = malloc(n);
    float *scales = malloc(m.n_rows * 4);
    for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format)
        for (int option = 0; option < 4; ++option) {
            hyb_quantizer q = {format, option % 2, option / 2, 0.0f};
            size_t n_scales = q.granularity ? m.n_rows : 1;
            for (size_t i = 0; i < 9; ++i) {
                hyb_ctx *ctx = make_ctx(isa_masks[i % 3], 1 + 2 * (uint32_t)(i / 3));
                memset(m.codes, 0x5a, n);
                CHECK_OK(hyb_quantize(ctx, &q, m.weights, m.n_rows, m.n_cols, m.codes, m.scales));
                if (i == 0) {
                    memcpy(codes, m.codes, n);
                    memcpy(scales, m.scales, n_scales * 4);
                }
                CHECK(memcmp(codes, m.codes, n) == 0 && memcmp(scales, m.scales, n_scales * 4) == 0);
                hyb_ctx_destroy(ctx);
            }
        }
    free(codes);
    free(scales);
    free_matrix(&m);
}

/* Zeros have scale 0 and code 0, or the sign's code where a format has no zero; so have values too small for a half. */
static void test_zero_scale(hyb_ctx *ctx) {
    float weights[4] = {0.0f, -0.0f, 1e-30f, -1e-30f}, scale;
    int8_t codes[4];
    for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format)
        for (int threshold = 0; threshold < 2; ++threshold) {
            hyb_quantizer q = {format, HYB_SCALE_PER_TENSOR, threshold, 0.0f};
            int has_zero = format == HYB_FORMAT_TERNARY || format == HYB_FORMAT_INT8;
            scale = -1.0f;
            CHECK_OK(hyb_quantize(ctx, &q, weights, 2, 2, codes, &scale));
            CHECK(scale == 0.0f && codes[0] == !has_zero && codes[1] == !has_zero && codes[2] == !has_zero);
            CHECK(codes[3] == -!has_zero);
        }
}

/* Dequantising multiplies each code by its scale, rounded once. */
static void test_dequantize(hyb_ctx *ctx) {
    uint64_t state = 24;
    enum { N_ROWS = 5, N_COLS = 37 };
    int8_t codes[N_ROWS * N_COLS];
    float scales[N_ROWS], values[N_ROWS * N_COLS];
    for (size_t i = 0; i < N_ROWS * N_COLS; ++i) codes[i] = (int8_t)((int)test_random_below(&state, 255) - 127);
    for (size_t r = 0; r < N_ROWS; ++r) scales[r] = test_random_float(&state);
    for (size_t n_scales = 1; n_scales <= N_ROWS; n_scales += N_ROWS - 1) {
        CHECK_OK(hyb_dequantize(ctx, codes, scales, n_scales, N_ROWS, N_COLS, values));
        for (size_t i = 0; i < N_ROWS * N_COLS; ++i)
            CHECK(values[i] == (float)codes[i] * scales[n_scales == 1 ? 0 : i / N_COLS]);
    }
    CHECK_STATUS(hyb_dequantize(ctx, codes, scales, 2, N_ROWS, N_COLS, values), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_dequantize(ctx, NULL, scales, 1, N_ROWS, N_COLS, values), HYB_ERROR_INVALID_ARGUMENT);
}

/* Activations: absmax maps to 127, every value is within half a step, a NaN is refused with its token. */
static void test_activations(hyb_ctx *ctx) {
    uint64_t state = 25;
    enum { N_TOKENS = 3, N_COLS = 41 };
    float x[N_TOKENS * N_COLS], scales[N_TOKENS];
    int8_t codes[N_TOKENS * N_COLS];
    for (size_t i = 0; i < N_TOKENS * N_COLS; ++i) x[i] = i / N_COLS == 1 ? 0.0f : gaussian(&state);
    CHECK_OK(hyb_quantize_activations(ctx, x, N_TOKENS, N_COLS, codes, scales));
    for (size_t t = 0; t < N_TOKENS; ++t) {
        CHECK((double)scales[t] == (double)((float)largest(x + t * N_COLS, N_COLS) / 127.0f));
        int most = 0;
        for (size_t i = t * N_COLS; i < (t + 1) * N_COLS; ++i) {
            most = abs(codes[i]) > most ? abs(codes[i]) : most;
            CHECK(fabs((double)x[i] - (double)scales[t] * codes[i]) <= (double)scales[t] * 0.50001);
        }
        CHECK(most == (t == 1 ? 0 : 127));
    }
    x[2 * N_COLS + 5] = NAN;
    CHECK_STATUS(hyb_quantize_activations(ctx, x, N_TOKENS, N_COLS, codes, scales), HYB_ERROR_NOT_FINITE);
    CHECK(strstr(hyb_ctx_last_error(ctx), "token 2") != NULL);
    CHECK_STATUS(hyb_quantize_activations(ctx, x, 0, N_COLS, codes, scales), HYB_ERROR_INVALID_ARGUMENT);
}

/* Bad input: a status, a detail that names the place, outputs as they were. */
static void test_bad_input(hyb_ctx *ctx) {
    uint64_t state = 26;
    matrix m = make_matrix(9, 70, &state);
    hyb_quantizer q = {HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR, HYB_THRESHOLD_ABSMEAN, 0.0f};
    const hyb_status invalid = HYB_ERROR_INVALID_ARGUMENT;
    m.scales[0] = 9.0f;
    memset(m.codes, 0x5a, m.n_rows * m.n_cols);
    for (int i = 0; i < 3; ++i) {
        float before = m.weights[4 * 70 + 69];
        m.weights[4 * 70 + 69] = i == 0 ? NAN : i == 1 ? INFINITY : -INFINITY;
        CHECK_STATUS(hyb_quantize(ctx, &q, m.weights, 9, 70, m.codes, m.scales), HYB_ERROR_NOT_FINITE);
        CHECK(strstr(hyb_ctx_last_error(ctx), "row 4, column 69") != NULL);
        m.weights[4 * 70 + 69] = before;
    }
    for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format)
        for (int threshold = 0; threshold < 2; ++threshold) {
            hyb_quantizer large = {format, HYB_SCALE_PER_ROW, threshold, 0.0f};
            float row[2] = {3e38f, -3e38f};
            CHECK_STATUS(hyb_quantize(ctx, &large, row, 1, 2, m.codes, m.scales), HYB_ERROR_NOT_FINITE);
        }
    static const hyb_quantizer wrong[] = {{0, 0, 0, 0},    {6, 0, 0, 0},   {1, 2, 0, 0},  {1, 0, 3, 0},
                                          {-1, 0, 0, 0},   {1, -1, 0, 0},  {1, 0, 0, -1}, {1, 0, 0, 4.01f},
                                          {1, 0, 1, 0.7f}, {5, 0, 0, 0.7f}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; ++i)
        CHECK_STATUS(hyb_quantize(ctx, &wrong[i], m.weights, 9, 70, m.codes, m.scales), invalid);
    CHECK_STATUS(hyb_quantize(ctx, &q, m.weights, 0, 70, m.codes, m.scales), invalid);
    CHECK_STATUS(hyb_quantize(ctx, &q, m.weights, 9, 0, m.codes, m.scales), invalid);
    CHECK_STATUS(hyb_quantize(ctx, &q, m.weights, SIZE_MAX / 4, 8, m.codes, m.scales), invalid);
    CHECK_STATUS(hyb_quantize(NULL, &q, m.weights, 9, 70, m.codes, m.scales), invalid);
    CHECK_STATUS(hyb_quantize(ctx, NULL, m.weights, 9, 70, m.codes, m.scales), invalid);
    CHECK_STATUS(hyb_quantize(ctx, &q, NULL, 9, 70, m.codes, m.scales), invalid);
    CHECK_STATUS(hyb_quantize(ctx, &q, m.weights, 9, 70, NULL, m.scales), invalid);
    CHECK_STATUS(hyb_quantize(ctx, &q, m.weights, 9, 70, m.codes, NULL), invalid);
    CHECK(m.scales[0] == 9.0f && m.codes[0] == 0x5a);
    free_matrix(&m);
}

/* ---- straight to packed weights ---- */

static int same_weights(const hyb_weights *a, const hyb_weights *b) {
    size_t block_rows = a->layout == HYB_LAYOUT_LOOKUP ? HYB_LOOKUP_BLOCK_ROWS : HYB_BLOCK_ROWS;
    size_t n_blocks = hyb_ceil_div(a->n_rows, block_rows);
    if (a->layout != b->layout) return 0;
    return a->n_rows == b->n_rows && a->n_cols == b->n_cols && a->format == b->format &&
           memcmp(a->blocks, b->blocks, n_blocks * a->block_bytes) == 0 &&
           memcmp(a->row_scales, b->row_scales, n_blocks * block_rows * sizeof(float)) == 0;
}

/* Quantising in one call gives what quantising and packing in two gives: every byte. */
static void check_create(hyb_ctx *ctx, const hyb_quantizer *q, size_t n_rows, size_t n_cols, uint64_t *state) {
    float *w = malloc(n_rows * n_cols * 4), *scales = malloc(n_rows * 4);
    int8_t *codes = malloc(n_rows * n_cols);
    for (size_t i = 0; i < n_rows * n_cols; ++i) w[i] = gaussian(state) * 0.02f;
    for (size_t i = 0; i < n_cols; ++i) w[i] = n_rows > 2 ? 0.0f : w[i]; /* a row without scale */
    hyb_weights *one = NULL, *two = NULL;
    CHECK_OK(hyb_weights_create_quantized(ctx, q, n_rows, n_cols, w, &one));
    CHECK_OK(hyb_quantize(ctx, q, w, n_rows, n_cols, codes, scales));
    size_t n_scales = q->granularity == HYB_SCALE_PER_ROW ? n_rows : 1;
    CHECK_OK(hyb_weights_create(ctx, (hyb_format)q->format, n_rows, n_cols, codes, scales, n_scales, &two));
    CHECK(same_weights(one, two));
    hyb_weights_destroy(one);
    hyb_weights_destroy(two);
    free(codes);
    free(scales);
    free(w);
}

static void test_create_quantized(void) {
    static const size_t sizes[][2] = {{1, 1}, {1, 100}, {16, 16}, {17, 33}, {70, 64}, {300, 257}, {5, 40000}};
    for (size_t i = 0; i < sizeof isa_masks / sizeof isa_masks[0]; ++i)
        for (uint32_t n_threads = 1; n_threads <= 3; n_threads += 2) {
            hyb_ctx *ctx = make_ctx(isa_masks[i], n_threads);
            uint64_t state = 17;
            for (int32_t format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format)
                for (int32_t options = 0; options < 4; ++options)
                    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; ++s) {
                        hyb_quantizer q = {format, options & 1, options >> 1, 0.0f};
                        check_create(ctx, &q, sizes[s][0], sizes[s][1], &state);
                    }
            hyb_ctx_destroy(ctx);
        }
}

static void test_create_quantized_bad_input(hyb_ctx *ctx) {
    hyb_quantizer q = {HYB_FORMAT_TERNARY, 0, 0, 0.0f}, f32 = {HYB_FORMAT_F32, 0, 0, 0.0f};
    float w[6] = {1, -2, 3, 0, 5, 6};
    hyb_weights *made = NULL;
    hyb_status invalid = HYB_ERROR_INVALID_ARGUMENT;
    CHECK_STATUS(hyb_weights_create_quantized(NULL, &q, 2, 3, w, &made), invalid);
    CHECK_STATUS(hyb_weights_create_quantized(ctx, NULL, 2, 3, w, &made), invalid);
    CHECK_STATUS(hyb_weights_create_quantized(ctx, &q, 2, 3, NULL, &made), invalid);
    CHECK_STATUS(hyb_weights_create_quantized(ctx, &q, 2, 3, w, NULL), invalid);
    CHECK_STATUS(hyb_weights_create_quantized(ctx, &f32, 2, 3, w, &made), invalid);
    CHECK_STATUS(hyb_weights_create_quantized(ctx, &q, 0, 3, w, &made), invalid);
    CHECK_STATUS(hyb_weights_create_quantized(ctx, &q, 1, HYB_MATMUL_MAX_COLS + 1, w, &made), invalid);
    for (int32_t granularity = 0; granularity < 2; ++granularity) {
        q.granularity = granularity;
        w[4] = hyb_float_of(0x7fc00000u);
        CHECK_STATUS(hyb_weights_create_quantized(ctx, &q, 2, 3, w, &made), HYB_ERROR_NOT_FINITE);
        CHECK(strstr(hyb_ctx_last_error(ctx), "row 1, column 1") != NULL);
        w[4] = 1e30f;
        CHECK_STATUS(hyb_weights_create_quantized(ctx, &q, 2, 3, w, &made), HYB_ERROR_NOT_FINITE);
    }
    CHECK(made == NULL);
}

int main(void) {
    hyb_ctx *ctx = make_ctx(0, 2);
    test_half_every_value();
    test_half_rounding();
    test_definitions(ctx);
    test_lloyd(ctx);
    test_dead_zone(ctx);
    test_three_of_four(ctx);
    test_same_everywhere();
    test_zero_scale(ctx);
    test_dequantize(ctx);
    test_activations(ctx);
    test_bad_input(ctx);
    test_create_quantized();
    test_create_quantized_bad_input(ctx);
    hyb_ctx_destroy(ctx);
    return TEST_RESULT();
}
