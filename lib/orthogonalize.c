/* orthogonalize.c - matrices with all singular values near 1, and bounds of the largest one, from matrix products
 * alone.
 *
 * With the Gram matrix A of X over its shorter side, (a I + b A + c A^2) X has the singular vectors of X and the values
 * a s + b s^3 + c s^5. Every product is a GEMM, so the bits do not depend on the number of threads.
 *
 * Sources: Jordan et al. 2024, "Muon" (coefficients of the quintic); Bjorck & Bowie 1971 (the cubic); Schatten norms
 * for the bound: Horn & Johnson, "Matrix Analysis", 7.4.
 */
#include <math.h>

#include "gemm.h"
#include "orthogonalize.h"

/* Of hyb_orthogonalize: each multiplies small singular values by 3.4. */
#define QUINTIC_STEPS 5
/* Squarings of the Gram matrix behind the bound: the 128th root of a sum of 128th powers of singular values. */
#define BOUND_SQUARINGS 5
/* Covers the rounding of the bound's products in fp32: relative errors of 2^-24 a product, doubled by each squaring and
 * divided by the root, stay below 1e-5 for sides up to 65536; ten times that. */
#define BOUND_MARGIN 1.0001
/* Squares of single values and their products with others of the matrix stay in the range of normal floats. */
#define MIN_SQUARES 1e-20

typedef struct polynomial {
    float linear, cubic, quintic;
} polynomial;

/* Steep at 0, so that small values grow 3.4 times a step, and between 0.68 and 1.21 behind five steps. */
static const polynomial quintic = {3.4445f, -4.7750f, 2.0315f};
/* 1.5 s - 0.5 s^3: at most 1 on 0..2, its maximum at s = 1. */
static const polynomial cubic = {1.5f, -0.5f, 0.0f};

/* gram = X X^T or X^T X, whichever is smaller. */
static void gram_matrix(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const float *x, float *gram, void *scratch) {
    if (n_rows <= n_cols)
        hyb_gemm_parallel(ctx, HYB_GEMM_NT, n_rows, n_rows, n_cols, x, n_cols, x, n_cols, 0, gram, n_rows, scratch);
    else
        hyb_gemm_parallel(ctx, HYB_GEMM_TN, n_cols, n_cols, n_rows, x, n_cols, x, n_cols, 0, gram, n_cols, scratch);
}

static void apply_polynomial(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const polynomial *p, float **x,
                             hyb_orthogonal_work *work) {
    size_t m = hyb_min_size(n_rows, n_cols), n = m * m;
    float *factor = work->gram;
    gram_matrix(ctx, n_rows, n_cols, *x, work->gram, work->gemm);
    if (p->quintic != 0.0f) { /* c ((b / c) A + A A) */
        factor = work->squared;
        ctx->kernels.scale_f32(factor, work->gram, n, p->cubic / p->quintic);
        hyb_gemm_parallel(ctx, HYB_GEMM_NN, m, m, m, work->gram, m, work->gram, m, 1, factor, m, work->gemm);
        ctx->kernels.scale_f32(factor, factor, n, p->quintic);
    } else {
        ctx->kernels.scale_f32(factor, factor, n, p->cubic);
    }
    for (size_t i = 0; i < m; i++) factor[i * m + i] += p->linear;
    if (n_rows <= n_cols)
        hyb_gemm_parallel(ctx, HYB_GEMM_NN, n_rows, n_cols, m, factor, m, *x, n_cols, 0, work->next, n_cols,
                          work->gemm);
    else
        hyb_gemm_parallel(ctx, HYB_GEMM_NN, n_rows, n_cols, m, *x, n_cols, factor, m, 0, work->next, n_cols,
                          work->gemm);
    float *result = work->next;
    work->next = *x;
    *x = result;
}

void hyb_newton_schulz(hyb_ctx *ctx, size_t n_rows, size_t n_cols, int n_steps, float **x, hyb_orthogonal_work *work) {
    for (int i = 0; i < n_steps; i++) apply_polynomial(ctx, n_rows, n_cols, &quintic, x, work);
}

void hyb_newton_schulz_cubic(hyb_ctx *ctx, size_t n_rows, size_t n_cols, float **x, hyb_orthogonal_work *work) {
    apply_polynomial(ctx, n_rows, n_cols, &cubic, x, work);
}

/* Divides a symmetric positive matrix by its trace, which keeps its powers in range; the trace. */
static double divide_by_trace(hyb_ctx *ctx, size_t m, float *a) {
    double trace = 0.0;
    for (size_t i = 0; i < m; i++) trace += (double)a[i * m + i];
    ctx->kernels.scale_f32(a, a, m * m, (float)(1.0 / trace));
    return trace;
}

double hyb_spectral_bound_of(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const float *x, hyb_orthogonal_work *work) {
    size_t m = hyb_min_size(n_rows, n_cols);
    double squares = 0.0, power = 1.0; /* of X X^T */
    for (size_t r = 0; r < n_rows; r++) squares += ctx->kernels.sum_squares_f64(x + r * n_cols, n_cols);
    /* Where squares could leave the range of floats, the Frobenius norm is a bound, too. */
    if (!(squares > MIN_SQUARES && squares < 1.0 / MIN_SQUARES)) return sqrt(squares);
    float *a = work->gram, *next = work->squared;
    gram_matrix(ctx, n_rows, n_cols, x, a, work->gemm);
    double log_scale = log(divide_by_trace(ctx, m, a));
    for (int i = 0; i < BOUND_SQUARINGS; i++) {
        hyb_gemm_parallel(ctx, HYB_GEMM_NN, m, m, m, a, m, a, m, 0, next, m, work->gemm);
        float *swap = a;
        a = next;
        next = swap;
        power *= 2.0;
        log_scale = 2.0 * log_scale + log(divide_by_trace(ctx, m, a));
    }
    /* The squared Frobenius norm of the last one is the trace of its square. */
    squares = ctx->kernels.sum_squares_f64(a, m * m);
    return exp((2.0 * log_scale + log(squares)) / (4.0 * power)) * BOUND_MARGIN;
}

/* ---- public ---- */

static hyb_status check_matrix(hyb_ctx *ctx, const char *name, size_t n_rows, size_t n_cols, const float *x,
                               const void *out) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (x == NULL || out == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%s: %s is NULL", name, x == NULL ? "x" : "the result");
    if (n_rows == 0 || n_cols == 0 || n_cols > SIZE_MAX / sizeof(float) / 4 / n_rows)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "%s: a matrix of %zu x %zu; give at least 1 x 1, within memory", name, n_rows, n_cols);
    double sum = 0.0;
    return hyb_sum_squares(ctx, x, n_rows * n_cols, &sum);
}

/* Memory for work and one more matrix, *x; NULL when memory is out. The caller frees what is returned. */
static void *work_alloc(hyb_ctx *ctx, size_t n_rows, size_t n_cols, float **x, hyb_orthogonal_work *work) {
    size_t m = hyb_min_size(n_rows, n_cols), n = hyb_round_up(n_rows * n_cols, 16), square = hyb_round_up(m * m, 16);
    size_t gemm_floats = hyb_gemm_scratch_bytes(ctx) / sizeof(float);
    float *memory = hyb_alloc(ctx, gemm_floats + 2 * n + 2 * square, sizeof *memory);
    if (memory == NULL) {
        hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to orthogonalise %zu x %zu values", n_rows, n_cols);
        return NULL;
    }
    work->gemm = memory;
    work->gram = memory + gemm_floats;
    work->squared = work->gram + square;
    work->next = work->squared + square;
    *x = work->next + n;
    return memory;
}

hyb_status hyb_orthogonalize(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const float *x, float *out) {
    HYB_TRY(check_matrix(ctx, "orthogonalize", n_rows, n_cols, x, out));
    hyb_orthogonal_work work;
    float *values;
    void *memory = work_alloc(ctx, n_rows, n_cols, &values, &work);
    if (memory == NULL) return HYB_ERROR_OUT_OF_MEMORY;
    double squares = ctx->kernels.sum_squares_f64(x, n_rows * n_cols);
    if (squares > 0.0) {
        double inverse = 1.0 / sqrt(squares); /* beyond the range of floats for very small values */
        for (size_t i = 0; i < n_rows * n_cols; i++) values[i] = (float)((double)x[i] * inverse);
        hyb_newton_schulz(ctx, n_rows, n_cols, QUINTIC_STEPS, &values, &work);
        hyb_newton_schulz_cubic(ctx, n_rows, n_cols, &values, &work);
        memcpy(out, values, n_rows * n_cols * sizeof *out);
    } else {
        memset(out, 0, n_rows * n_cols * sizeof *out);
    }
    hyb_free(ctx, memory);
    return HYB_OK;
}

hyb_status hyb_spectral_bound(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const float *x, double *bound) {
    HYB_TRY(check_matrix(ctx, "spectral_bound", n_rows, n_cols, x, bound));
    hyb_orthogonal_work work;
    float *unused;
    void *memory = work_alloc(ctx, n_rows, n_cols, &unused, &work);
    if (memory == NULL) return HYB_ERROR_OUT_OF_MEMORY;
    *bound = hyb_spectral_bound_of(ctx, n_rows, n_cols, x, &work);
    hyb_free(ctx, memory);
    return HYB_OK;
}
