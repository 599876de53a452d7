/* test_optimize.c - AdamW against its formula in double precision, schedules against their definitions, sums of
 * squares, and what each function says to bad input.
 */
#include "testing.h"

#include <math.h>

#include <hybrid/optimize.h>

#define N 150001 /* more than two chunks, and a tail */

static hyb_ctx *make_ctx(uint32_t n_threads, uint32_t isa_mask) {
    hyb_ctx_options options = {.struct_size = sizeof options, .n_threads = n_threads, .isa_mask = isa_mask};
    hyb_ctx *ctx = NULL;
    if (hyb_ctx_create(&options, &ctx) != HYB_OK) abort();
    return ctx;
}

typedef struct state {
    float *gradient, *weights, *first, *second;
} state;

static state state_make(void) {
    state s = {malloc(N * sizeof(float)), malloc(N * sizeof(float)), calloc(N, sizeof(float)),
               calloc(N, sizeof(float))};
    uint64_t seed = 5;
    for (size_t i = 0; i < N; ++i) {
        s.weights[i] = test_random_float(&seed);
        s.gradient[i] = test_random_float(&seed);
    }
    return s;
}
static void state_free(state s) {
    free(s.gradient);
    free(s.weights);
    free(s.first);
    free(s.second);
}
static void state_update(hyb_ctx *ctx, state s, uint64_t step) {
    hyb_adamw options = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.5f, step};
    CHECK_OK(hyb_adamw_update(ctx, &options, N, s.gradient, s.weights, s.first, s.second));
}

/* Five updates agree with the formula of the header, computed in double precision, within a few roundings a step. */
static void test_adamw_formula(uint32_t isa_mask) {
    hyb_ctx *ctx = make_ctx(1, isa_mask);
    state s = state_make();
    double w[8], m[8] = {0}, v[8] = {0}, worst = 0;
    for (size_t j = 0; j < 8; ++j) w[j] = (double)s.weights[j * 21428];
    for (uint64_t t = 1; t <= 5; ++t) {
        state_update(ctx, s, t);
        for (size_t j = 0; j < 8; ++j) {
            double g = 0.5 * (double)s.gradient[j * 21428];
            double b1 = (double)0.9f, b2 = (double)0.95f, rate = (double)1e-2f, power = (double)t;
            m[j] = b1 * m[j] + (1 - b1) * g;
            v[j] = b2 * v[j] + (1 - b2) * g * g;
            double direction = (m[j] / (1 - pow(b1, power))) / (sqrt(v[j] / (1 - pow(b2, power))) + 1e-8);
            w[j] -= rate * (direction + (double)0.1f * w[j]);
            worst = fmax(worst, fabs(w[j] - (double)s.weights[j * 21428]));
        }
    }
    CHECK(worst < 1e-6); /* 5 steps, each a few roundings of numbers below 1 */
    state_free(s);
    hyb_ctx_destroy(ctx);
}

/* The bits of an update do not depend on the number of threads. */
static void test_adamw_threads(void) {
    state s[2];
    for (uint32_t i = 0; i < 2; ++i) {
        hyb_ctx *ctx = make_ctx(1 + 2 * i, 0);
        s[i] = state_make();
        state_update(ctx, s[i], 1);
        state_update(ctx, s[i], 2);
        hyb_ctx_destroy(ctx);
    }
    CHECK(memcmp(s[0].weights, s[1].weights, N * sizeof(float)) == 0);
    CHECK(memcmp(s[0].first, s[1].first, N * sizeof(float)) == 0);
    CHECK(memcmp(s[0].second, s[1].second, N * sizeof(float)) == 0);
    state_free(s[0]);
    state_free(s[1]);
}

/* Options outside their range are refused, with the name of the field, and nothing is changed. */
static void test_adamw_errors(void) {
    hyb_ctx *ctx = make_ctx(1, 0);
    const hyb_adamw good = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 1};
    float one[4] = {1, 1, 1, 1};
    hyb_adamw bad[8];
    for (size_t i = 0; i < 8; ++i) bad[i] = good;
    bad[0].learning_rate = NAN;
    bad[1].beta1 = 1.0f;
    bad[2].beta2 = -0.1f;
    bad[3].epsilon = 0.0f;
    bad[4].weight_decay = -1.0f;
    bad[5].gradient_scale = INFINITY;
    bad[6].step = 0;
    bad[7].epsilon = NAN;
    for (size_t i = 0; i < 8; ++i) {
        CHECK_STATUS(hyb_adamw_update(ctx, &bad[i], 1, one, one + 1, one + 2, one + 3), HYB_ERROR_INVALID_ARGUMENT);
    }
    CHECK(strstr(hyb_ctx_last_error(ctx), "epsilon") != NULL);
    CHECK_STATUS(hyb_adamw_update(ctx, &good, 1, one, NULL, one, one), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_adamw_update(ctx, NULL, 1, one, one, one, one), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_adamw_update(NULL, &good, 1, one, one, one, one), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_adamw_update(ctx, &good, 0, NULL, NULL, NULL, NULL));
    CHECK(one[0] == 1 && one[1] == 1 && one[2] == 1 && one[3] == 1);
    hyb_ctx_destroy(ctx);
}

static double multiplier(int32_t shape, uint64_t step) {
    hyb_schedule schedule = {shape, 0.1f, 1000, 100, 200};
    double value = -1;
    CHECK_OK(hyb_schedule_multiplier(&schedule, step, &value));
    return value;
}
static int near(double a, double b) { return fabs(a - b) < 1e-7; } /* final_ratio is a float */

/* Warm-up, shape and end of every schedule are where the header says. */
static void test_schedule_shapes(void) {
    for (int32_t shape = HYB_SCHEDULE_CONSTANT; shape <= HYB_SCHEDULE_WSD; ++shape) {
        CHECK(near(multiplier(shape, 1), 0.01) && near(multiplier(shape, 50), 0.5) &&
              near(multiplier(shape, 100), 1.0));
        double end = shape == HYB_SCHEDULE_CONSTANT ? 1.0 : 0.1;
        CHECK(near(multiplier(shape, 1000), end) && near(multiplier(shape, 5000), end));
        for (uint64_t step = 101; step < 1000; ++step) CHECK(multiplier(shape, step + 1) <= multiplier(shape, step));
    }
    CHECK(near(multiplier(HYB_SCHEDULE_COSINE, 550), 0.55));
    CHECK(near(multiplier(HYB_SCHEDULE_COSINE, 325), 0.1 + 0.9 * 0.5 * (1 + cos(3.14159265358979 * 0.25))));
    CHECK(near(multiplier(HYB_SCHEDULE_LINEAR, 550), 0.55) && near(multiplier(HYB_SCHEDULE_LINEAR, 325), 0.775));
    CHECK(multiplier(HYB_SCHEDULE_WSD, 800) == 1.0 && near(multiplier(HYB_SCHEDULE_WSD, 900), 0.55));
}

/* No warm-up, only warm-up, and no decay are valid; contradictions are not. */
static void test_schedule_edges(void) {
    double value = -1;
    hyb_schedule none = {HYB_SCHEDULE_COSINE, 0.0f, 1, 0, 0}, only = {HYB_SCHEDULE_LINEAR, 0.5f, 10, 10, 0};
    hyb_schedule flat = {HYB_SCHEDULE_WSD, 0.0f, 10, 0, 0};
    CHECK_OK(hyb_schedule_multiplier(&none, 1, &value));
    CHECK(value == 0.0);
    CHECK_OK(hyb_schedule_multiplier(&only, 10, &value));
    CHECK(value == 1.0);
    CHECK_OK(hyb_schedule_multiplier(&only, 11, &value));
    CHECK(near(value, 0.5));
    CHECK_OK(hyb_schedule_multiplier(&flat, 9, &value));
    CHECK(value == 1.0);
    hyb_schedule bad[] = {{4, 0.1f, 10, 0, 0}, {-1, 0.1f, 10, 0, 0}, {1, 1.5f, 10, 0, 0}, {1, NAN, 10, 0, 0},
                          {1, 0.1f, 0, 0, 0},  {1, 0.1f, 10, 11, 0}, {3, 0.1f, 10, 5, 6}, {1, -0.1f, 10, 0, 0}};
    value = -1;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        CHECK_STATUS(hyb_schedule_multiplier(&bad[i], 1, &value), HYB_ERROR_INVALID_ARGUMENT);
    }
    CHECK_STATUS(hyb_schedule_multiplier(&none, 0, &value), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_schedule_multiplier(NULL, 1, &value), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_schedule_multiplier(&none, 1, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(value == -1);
}

/* The sum of squares is right, the same for any number of threads, and names a value that is not finite. */
static void test_sum_squares(void) {
    hyb_ctx *one = make_ctx(1, 0), *three = make_ctx(3, 0);
    state s = state_make();
    double expected = 0, sum = -1, again = -2;
    for (size_t i = 0; i < N; ++i) expected += (double)s.weights[i] * (double)s.weights[i];
    CHECK_OK(hyb_sum_squares(one, s.weights, N, &sum));
    CHECK_OK(hyb_sum_squares(three, s.weights, N, &again));
    CHECK(sum == again && fabs(sum / expected - 1) < 1e-12);
    CHECK_OK(hyb_sum_squares(one, NULL, 0, &sum));
    CHECK(sum == 0);
    s.weights[0] = 3.4e38f;
    CHECK_OK(hyb_sum_squares(one, s.weights, N, &sum));
    CHECK(sum > 1e77 && isfinite(sum));
    s.weights[100000] = NAN;
    CHECK_STATUS(hyb_sum_squares(one, s.weights, N, &again), HYB_ERROR_NOT_FINITE);
    CHECK(strstr(hyb_ctx_last_error(one), "100000") != NULL);
    s.weights[100000] = -INFINITY;
    CHECK_STATUS(hyb_sum_squares(three, s.weights, N, &again), HYB_ERROR_NOT_FINITE);
    CHECK_STATUS(hyb_sum_squares(one, NULL, 3, &sum), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_sum_squares(one, s.weights, N, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_sum_squares(NULL, s.weights, N, &sum), HYB_ERROR_INVALID_ARGUMENT);
    state_free(s);
    hyb_ctx_destroy(one);
    hyb_ctx_destroy(three);
}

int main(void) {
    test_adamw_formula(HYB_ISA_MASK_SCALAR);
    test_adamw_formula(0);
    test_adamw_threads();
    test_adamw_errors();
    test_schedule_shapes();
    test_schedule_edges();
    test_sum_squares();
    return TEST_RESULT();
}
