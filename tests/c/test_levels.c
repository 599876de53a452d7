/* test_levels.c - the documents' element-wise operations as a caller sees them: rounding to levels and the bound of a
 * norm, against the plain formulas; the same bits for any tier and number of threads; what is refused.
 */
#include "testing.h"

#include <float.h>
#include <math.h>

#include <hybrid/optimize.h>
#include <hybrid/quantize.h>

#include "tier_context.h"

enum { N = 300001 };

static double *values(double size) {
    uint64_t state = 11;
    double *x = malloc(N * sizeof *x);
    for (size_t i = 0; i < N; ++i) x[i] = (double)test_random_float(&state) * size;
    return x;
}

static void test_levels_formula(uint32_t isa, uint32_t n_threads) {
    hyb_ctx *ctx = make_ctx(isa, n_threads);
    double *x = values(1.5), *out = malloc(N * sizeof *out);
    float *x32 = malloc(N * sizeof *x32), *out32 = malloc(N * sizeof *out32);
    for (int levels = 3; levels <= 5; levels += 2) {
        double steps = levels == 5 ? 2 : 1;
        size_t n_wrong = 0;
        for (size_t i = 0; i < N; ++i) x32[i] = (float)x[i];
        CHECK_OK(hyb_quantize_levels_f64(ctx, levels, 0.7, N, x, out));
        CHECK_OK(hyb_quantize_levels_f32(ctx, levels, 0.7f, N, x32, out32));
        for (size_t i = 0; i < N; ++i) {
            double expected = 0.7 * (rint(steps * fmin(1.0, fmax(-1.0, x[i]))) / steps);
            float expected32 = 0.7f * (rintf((float)steps * fminf(1.0f, fmaxf(-1.0f, x32[i]))) / (float)steps);
            n_wrong += expected != out[i] || signbit(expected) != signbit(out[i]);
            n_wrong += expected32 != out32[i] || signbit(expected32) != signbit(out32[i]);
        }
        CHECK(n_wrong == 0);
        CHECK_OK(hyb_quantize_levels_f32(ctx, levels, 0.7f, N, x32, x32)); /* in place */
        CHECK(memcmp(x32, out32, N * sizeof *x32) == 0);
    }
    free(out32), free(x32), free(out), free(x);
    hyb_ctx_destroy(ctx);
}

static void test_levels_ties_and_errors(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    const float ties[] = {0.25f, 0.75f, -0.25f, -0.75f, 0.5f, INFINITY, -INFINITY, -0.0f};
    const float expected[] = {0, 1, -0.0f, -1, 0.5f, 1, -1, -0.0f};
    float out[8], bad[] = {0, 1, NAN, 2};
    CHECK_OK(hyb_quantize_levels_f32(ctx, 5, 1.0f, 8, ties, out));
    CHECK(memcmp(out, expected, sizeof out) == 0);
    CHECK_OK(hyb_quantize_levels_f32(ctx, 3, 1.0f, 0, NULL, NULL));
    CHECK_STATUS(hyb_quantize_levels_f32(ctx, 5, 1.0f, 4, bad, out), HYB_ERROR_NOT_FINITE);
    CHECK(strstr(hyb_ctx_last_error(ctx), "value 2 is NaN") != NULL);
    CHECK_STATUS(hyb_quantize_levels_f32(ctx, 5, 1.0f, 4, bad, bad), HYB_ERROR_NOT_FINITE); /* found in place, too */
    CHECK(strstr(hyb_ctx_last_error(ctx), "value 2 is NaN") != NULL);
    CHECK_STATUS(hyb_quantize_levels_f32(ctx, 4, 1.0f, 4, ties, out), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_quantize_levels_f64(ctx, 5, (double)NAN, 0, NULL, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_quantize_levels_f32(ctx, 5, 1.0f, 4, NULL, out), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_quantize_levels_f32(ctx, 5, 1.0f, 4, ties, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_quantize_levels_f32(NULL, 5, 1.0f, 4, ties, out), HYB_ERROR_INVALID_ARGUMENT);
    hyb_ctx_destroy(ctx);
}

static long double norm_of(const double *x, const float *x32) {
    long double sum = 0;
    for (size_t i = 0; i < N; ++i) sum += x != NULL ? (long double)x[i] * x[i] : (long double)x32[i] * x32[i];
    return sqrtl(sum);
}

/* Never longer than the radius, hardly shorter, at the sizes that overflow when squared, too. */
static void test_constrain_bound(void) {
    static const double sizes[] = {1.0, 1e-30, 1e30, 1e-200, 1e250};
    hyb_ctx *ctx = make_ctx(0, 2), *scalar = make_ctx(HYB_ISA_MASK_SCALAR, 1);
    double *out = malloc(N * sizeof *out), *again = malloc(N * sizeof *again), norm, other;
    float *x32 = malloc(N * sizeof *x32), *out32 = malloc(N * sizeof *out32), *again32 = malloc(N * sizeof *again32);
    int32_t active;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s) {
        double *x = values(sizes[s]), radius = sizes[s] * 3.3;
        CHECK_OK(hyb_constrain_norm_f64(ctx, radius, N, x, out, &norm, &active));
        CHECK_OK(hyb_constrain_norm_f64(scalar, radius, N, x, again, &other, NULL));
        CHECK(active == 1 && norm == other && memcmp(out, again, N * sizeof *out) == 0);
        CHECK(fabs((double)((long double)norm / norm_of(x, NULL)) - 1) < 1e-13);
        CHECK(norm_of(out, NULL) <= radius && norm_of(out, NULL) > radius * (1 - 1e-10L));
        if (s < 3) {
            for (size_t i = 0; i < N; ++i) x32[i] = (float)x[i];
            CHECK_OK(hyb_constrain_norm_f32(ctx, radius, N, x32, out32, &norm, &active));
            CHECK_OK(hyb_constrain_norm_f32(scalar, radius, N, x32, again32, &other, NULL));
            CHECK(active == 1 && norm == other && memcmp(out32, again32, N * sizeof *out32) == 0);
            CHECK(norm_of(NULL, out32) <= radius && norm_of(NULL, out32) > radius * (1 - 1e-6L));
        }
        CHECK_OK(hyb_constrain_norm_f64(ctx, norm * 1.001, N, x, x, NULL, &active));
        CHECK(active == 0);
        free(x);
    }
    free(again32), free(out32), free(x32), free(again), free(out);
    hyb_ctx_destroy(scalar);
    hyb_ctx_destroy(ctx);
}

static void test_constrain_edges(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    double huge[] = {DBL_MAX, -DBL_MAX, DBL_MAX}, tiny[] = {5e-324, 0, 0}, out[3] = {7, 7, 7}, norm = -1;
    float x[] = {3, 4, 0}, bad[] = {1, INFINITY, NAN}, out32[3] = {7, 7, 7};
    int32_t active = -1;
    CHECK_OK(hyb_constrain_norm_f64(ctx, 2.0, 3, huge, out, &norm, &active));
    CHECK(active == 1 && isinf(norm) && fabs(out[0] - 2 / sqrt(3.0)) < 1e-9 && out[1] == -out[0]);
    CHECK_OK(hyb_constrain_norm_f64(ctx, 0.0, 3, tiny, out, &norm, &active));
    CHECK(active == 1 && norm == 5e-324 && out[0] == 0);
    CHECK_OK(hyb_constrain_norm_f32(ctx, 5.0, 3, x, out32, &norm, &active));
    CHECK(active == 0 && norm == 5 && memcmp(x, out32, sizeof x) == 0);
    CHECK_OK(hyb_constrain_norm_f32(ctx, INFINITY, 0, NULL, NULL, &norm, &active));
    CHECK(active == 0 && norm == 0);
    CHECK_STATUS(hyb_constrain_norm_f32(ctx, 1.0, 3, bad, out32, &norm, &active), HYB_ERROR_NOT_FINITE);
    CHECK(out32[0] == 3);
    huge[1] = NAN;
    CHECK_STATUS(hyb_constrain_norm_f64(ctx, 1.0, 3, huge, out, &norm, &active), HYB_ERROR_NOT_FINITE);
    CHECK(strstr(hyb_ctx_last_error(ctx), "value 1 is NaN") != NULL);
    CHECK_STATUS(hyb_constrain_norm_f32(ctx, -1.0, 3, x, out32, NULL, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_constrain_norm_f32(ctx, (double)NAN, 3, x, out32, NULL, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_constrain_norm_f32(ctx, 1.0, 3, NULL, out32, NULL, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_constrain_norm_f64(ctx, 1.0, 3, tiny, NULL, NULL, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_constrain_norm_f64(NULL, 1.0, 3, tiny, out, NULL, NULL), HYB_ERROR_INVALID_ARGUMENT);
    hyb_ctx_destroy(ctx);
}

int main(void) {
    test_levels_formula(0, 1);
    test_levels_formula(0, 3);
    test_levels_formula(HYB_ISA_MASK_SCALAR, 1);
    test_levels_ties_and_errors();
    test_constrain_bound();
    test_constrain_edges();
    return TEST_RESULT();
}
