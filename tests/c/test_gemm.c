/* test_gemm.c - the public matrix product: all layouts against plain loops, the same bits for any number of threads,
 * and what it says to bad input. (check_gemm.c goes through the shapes of each tier's kernel.)
 */
#include "testing.h"

#include <math.h>

#include <hybrid/matmul.h>

static hyb_ctx *make_ctx(uint32_t n_threads) {
    hyb_ctx_options options = {.struct_size = sizeof options, .n_threads = n_threads};
    hyb_ctx *ctx = NULL;
    if (hyb_ctx_create(&options, &ctx) != HYB_OK) abort();
    return ctx;
}

static float *random_floats(size_t n, uint64_t *state) {
    float *values = malloc(n * sizeof *values);
    for (size_t i = 0; i < n; ++i) values[i] = test_random_float(state);
    return values;
}

/* One, two and five threads give one result, for shapes that are cut along rows, columns, both, or not at all. */
static void test_gemm_threads(void) {
    static const size_t shapes[][3] = {{3, 5, 7},      {513, 65, 129}, {64, 700, 300},  {130, 390, 1030},
                                       {1, 2000, 300}, {2000, 1, 300}, {333, 1500, 64}, {49, 49, 2000}};
    const uint32_t n_threads[] = {1, 2, 5};
    hyb_ctx *ctx[3];
    uint64_t state = 11;
    for (size_t t = 0; t < 3; ++t) ctx[t] = make_ctx(n_threads[t]);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
        size_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
        float *a = random_floats(m * k, &state), *b = random_floats(k * n, &state),
              *before = random_floats(m * n, &state);
        float *c[3] = {malloc(m * n * sizeof(float)), malloc(m * n * sizeof(float)), malloc(m * n * sizeof(float))};
        for (int transpose = 0; transpose < 3; ++transpose) {
            size_t lda = transpose == HYB_GEMM_TN ? m : k, ldb = transpose == HYB_GEMM_NT ? k : n;
            for (size_t t = 0; t < 3; ++t) {
                memcpy(c[t], before, m * n * sizeof(float));
                CHECK_OK(hyb_gemm(ctx[t], (hyb_transpose)transpose, m, n, k, a, lda, b, ldb, (int)(i & 1u), c[t], n));
                CHECK(memcmp(c[0], c[t], m * n * sizeof(float)) == 0);
            }
            size_t wrong = 0;
            for (size_t e = 0; e < m * n; e += 101) {
                double sum = i & 1u ? (double)before[e] : 0, magnitude = 1;
                for (size_t p = 0; p < k; ++p) {
                    double x = (double)(transpose == HYB_GEMM_TN ? a[p * m + e / n] : a[e / n * k + p]);
                    double y = (double)(transpose == HYB_GEMM_NT ? b[e % n * k + p] : b[p * n + e % n]);
                    sum += x * y;
                    magnitude += fabs(x * y);
                }
                wrong += fabs((double)c[0][e] - sum) > (double)(k + 2) * 5.9604645e-8 * magnitude;
            }
            CHECK(wrong == 0);
        }
        free(a);
        free(b);
        free(before);
        for (size_t t = 0; t < 3; ++t) free(c[t]);
    }
    for (size_t t = 0; t < 3; ++t) hyb_ctx_destroy(ctx[t]);
}

/* An inner length of 0 clears C, or leaves it; empty results need no pointers. */
static void test_gemm_empty(void) {
    hyb_ctx *ctx = make_ctx(1);
    float c[6] = {1, 2, 3, 4, 5, 6};
    CHECK_OK(hyb_gemm(ctx, HYB_GEMM_NN, 2, 2, 0, NULL, 0, NULL, 2, 1, c, 3));
    CHECK(c[0] == 1 && c[4] == 5);
    CHECK_OK(hyb_gemm(ctx, HYB_GEMM_NN, 2, 2, 0, NULL, 0, NULL, 2, 0, c, 3));
    CHECK(c[0] == 0 && c[1] == 0 && c[2] == 3 && c[3] == 0 && c[4] == 0 && c[5] == 6);
    CHECK_OK(hyb_gemm(ctx, HYB_GEMM_NT, 0, 5, 5, NULL, 5, c, 5, 0, NULL, 5));
    hyb_ctx_destroy(ctx);
}

/* NULLs, short leading dimensions, absurd sizes and unknown layouts are refused with the operand's name. */
static void test_gemm_errors(void) {
    hyb_ctx *ctx = make_ctx(1);
    float x[16] = {0};
    CHECK_STATUS(hyb_gemm(NULL, HYB_GEMM_NN, 2, 2, 2, x, 2, x + 4, 2, 0, x + 8, 2), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_gemm(ctx, HYB_GEMM_NN, 2, 2, 2, NULL, 2, x, 2, 0, x, 2), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "A is NULL") != NULL);
    CHECK_STATUS(hyb_gemm(ctx, HYB_GEMM_NN, 2, 2, 2, x, 2, NULL, 2, 0, x, 2), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_gemm(ctx, HYB_GEMM_NN, 2, 2, 2, x, 2, x, 2, 0, NULL, 2), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_gemm(ctx, HYB_GEMM_TN, 3, 2, 2, x, 2, x, 2, 0, x, 2), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_gemm(ctx, HYB_GEMM_NT, 2, 2, 3, x, 3, x, 2, 0, x, 2), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "leading dimension of B") != NULL);
    CHECK_STATUS(hyb_gemm(ctx, HYB_GEMM_NN, 2, 4, 2, x, 2, x, 4, 0, x, 3), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_gemm(ctx, (hyb_transpose)7, 2, 2, 2, x, 2, x, 2, 0, x, 2), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_gemm(ctx, HYB_GEMM_NN, SIZE_MAX / 2, 2, 8, x, 8, x, 2, 0, x, 2), HYB_ERROR_INVALID_ARGUMENT);
    hyb_ctx_destroy(ctx);
}

int main(void) {
    test_gemm_threads();
    test_gemm_empty();
    test_gemm_errors();
    return TEST_RESULT();
}
