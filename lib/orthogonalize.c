/* orthogonalize.c - matrices with all singular values near 1, and bounds of the largest one, from matrix products
 * alone.
 *
 * With the Gram matrix A of X over its shorter side, (a I + b A + c A^2) X has the singular vectors of X and the values
 * a s + b s^3 + c s^5: a Newton-Schulz step. W, the factor of X, is a symmetric matrix over the shorter side, and the
 * next step's Gram matrix is W A W: so several steps work on squares, and X is multiplied once, by the product of their
 * factors. Every product is a GEMM, so the bits do not depend on the number of threads.
 *
 * Sources: Jordan et al. 2024, "Muon" (momentum orthogonalised by quintics); Amsel et al. 2025, "The Polar Express"
 * (coefficients fitted to the number of steps); Bjorck & Bowie 1971 (the cubic); Schatten norms for the bounds: Horn &
 * Johnson, "Matrix Analysis", 7.4.
 */
#include <math.h>

#include "gemm.h"
#include "orthogonalize.h"

/* Symmetric products are computed above the diagonal, in blocks of columns as wide as the widest kernel's tile, and
 * mirrored: 1.03 to 1.07 times as fast over all with sides of 128, 1.2 to 1.3 with 512. Wider blocks gained nothing. */
#define SYMMETRIC_MIN_SIDE 128
#define SYMMETRIC_COLS 48

static const hyb_polynomial two_quintics[] = HYB_TWO_QUINTICS;
static const hyb_polynomial three_quintics[] = HYB_THREE_QUINTICS;
#define N_STEPS(steps) (sizeof(steps) / sizeof *(steps))

/* ---- symmetric products ---- */

typedef struct symmetric_product {
    const hyb_kernels *kernels;
    hyb_gemm_job whole;
} symmetric_product;

/* The columns of one block down to the diagonal, and the rows that mirror them. The last block comes first: it is the
 * longest. */
static void symmetric_task(void *argument, size_t index, size_t worker) {
    const symmetric_product *product = argument;
    hyb_gemm_job job = product->whole;
    size_t side = job.n, ld = job.ldc, first = (hyb_ceil_div(side, SYMMETRIC_COLS) - 1 - index) * SYMMETRIC_COLS;
    size_t end = hyb_min_size(first + SYMMETRIC_COLS, side);
    float *c = job.c;
    job.m = end;
    job.n = end - first;
    job.b += job.transpose == HYB_GEMM_NT ? first * job.ldb : first;
    job.c += first;
    job.scratch = (uint8_t *)job.scratch + worker * HYB_GEMM_SCRATCH_BYTES;
    product->kernels->gemm(&job);
    for (size_t i = 0; i < end; i += HYB_LANES) /* squares of 16, which fit the first-level cache */
        for (size_t j = first; j < end; j++)
            for (size_t k = i; k < hyb_min_size(i + HYB_LANES, j); k++) c[j * ld + k] = c[k * ld + j];
}

/* C = op(A) op(B) [m][m], known to be symmetric but for rounding; exactly symmetric. */
static void multiply_symmetric(hyb_ctx *ctx, hyb_transpose transpose, size_t m, size_t k, const float *a, size_t lda,
                               const float *b, size_t ldb, float *c, void *scratch) {
    if (m < SYMMETRIC_MIN_SIDE) {
        hyb_gemm_parallel(ctx, transpose, m, m, k, a, lda, b, ldb, 0, c, m, scratch);
        return;
    }
    symmetric_product product = {.kernels = &ctx->kernels,
                                 .whole = {(int)transpose, m, m, k, a, lda, b, ldb, 0, c, m, scratch}};
    hyb_parallel(ctx, hyb_ceil_div(m, SYMMETRIC_COLS), symmetric_task, &product);
}

/* gram = X X^T or X^T X, whichever is smaller. */
static void gram_matrix(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const float *x, float *gram, void *scratch) {
    if (n_rows <= n_cols)
        multiply_symmetric(ctx, HYB_GEMM_NT, n_rows, n_cols, x, n_cols, x, n_cols, gram, scratch);
    else
        multiply_symmetric(ctx, HYB_GEMM_TN, n_cols, n_rows, x, n_cols, x, n_cols, gram, scratch);
}

/* The product of two symmetric matrices that commute. */
static void multiply_squares(hyb_ctx *ctx, size_t m, const float *a, const float *b, float *c, void *scratch) {
    multiply_symmetric(ctx, HYB_GEMM_NN, m, m, a, m, b, m, c, scratch);
}

/* ---- steps ---- */

static void swap(float **a, float **b) {
    float *other = *a;
    *a = *b;
    *b = other;
}

/* factor = the polynomial of the Gram matrix; with normalize, of X divided by a bound of its largest singular value:
 * the 8th root of the sum of their 8th powers, for nothing but a sum over A^2. */
static void evaluate(hyb_ctx *ctx, size_t m, hyb_polynomial p, int normalize, const hyb_orthogonal_work *work) {
    size_t n = m * m;
    float *factor = work->factor;
    if (p.quintic != 0.0) multiply_squares(ctx, m, work->gram, work->gram, factor, work->gemm);
    if (normalize) {
        double bound = pow(ctx->kernels.sum_squares_f64(factor, n), 0.125) * HYB_BOUND_MARGIN, square = bound * bound;
        p.linear /= bound;
        p.cubic /= bound * square;
        p.quintic /= bound * square * square;
    }
    if (p.quintic != 0.0) {
        ctx->kernels.scale_f32(factor, factor, n, (float)p.quintic);
        ctx->kernels.axpy_f32(factor, work->gram, n, (float)p.cubic);
    } else {
        ctx->kernels.scale_f32(factor, work->gram, n, (float)p.cubic);
    }
    for (size_t i = 0; i < m; i++) factor[i * m + i] += (float)p.linear;
}

/* work->product = the product of the factors of all steps, from the Gram matrix in work->gram. */
static void multiply_factors(hyb_ctx *ctx, size_t m, const hyb_polynomial *p, size_t n_steps, int normalize,
                             hyb_orthogonal_work *work) {
    for (size_t i = 0; i < n_steps; i++) {
        evaluate(ctx, m, p[i], normalize && i == 0, work);
        if (i + 1 < n_steps) {
            multiply_squares(ctx, m, work->factor, work->gram, work->spare, work->gemm);
            multiply_squares(ctx, m, work->factor, work->spare, work->gram, work->gemm);
        }
        if (i == 0) {
            swap(&work->product, &work->factor);
        } else {
            multiply_squares(ctx, m, work->factor, work->product, work->spare, work->gemm);
            swap(&work->product, &work->spare);
        }
    }
}

/* x goes through n_steps steps with one Gram matrix. */
static void apply_steps(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const hyb_polynomial *p, size_t n_steps,
                        int normalize, float **x, hyb_orthogonal_work *work) {
    size_t m = hyb_min_size(n_rows, n_cols);
    gram_matrix(ctx, n_rows, n_cols, *x, work->gram, work->gemm);
    multiply_factors(ctx, m, p, n_steps, normalize, work);
    if (n_rows <= n_cols)
        hyb_gemm_parallel(ctx, HYB_GEMM_NN, n_rows, n_cols, m, work->product, m, *x, n_cols, 0, work->next, n_cols,
                          work->gemm);
    else
        hyb_gemm_parallel(ctx, HYB_GEMM_NN, n_rows, n_cols, m, *x, n_cols, work->product, m, 0, work->next, n_cols,
                          work->gemm);
    swap(x, &work->next);
}

static void through_steps(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const hyb_polynomial *steps, size_t n_steps,
                          float **x, hyb_orthogonal_work *work) {
    size_t shorter = hyb_min_size(n_rows, n_cols), longer = n_rows + n_cols - shorter;
    size_t at_once = (double)longer >= HYB_LONG_RATIO * (double)shorter ? n_steps : 1;
    for (size_t i = 0; i < n_steps; i += at_once) apply_steps(ctx, n_rows, n_cols, steps + i, at_once, i == 0, x, work);
}

void hyb_orthogonal_direction(hyb_ctx *ctx, size_t n_rows, size_t n_cols, float **x, hyb_orthogonal_work *work) {
    through_steps(ctx, n_rows, n_cols, two_quintics, N_STEPS(two_quintics), x, work);
}

void hyb_newton_schulz_cubic(hyb_ctx *ctx, size_t n_rows, size_t n_cols, float **x, hyb_orthogonal_work *work) {
    apply_steps(ctx, n_rows, n_cols, &two_quintics[N_STEPS(two_quintics) - 1], 1, 0, x, work);
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
    if (!(squares > HYB_BOUND_MIN_SQUARES && squares < 1.0 / HYB_BOUND_MIN_SQUARES)) return sqrt(squares);
    float *a = work->gram, *next = work->factor;
    gram_matrix(ctx, n_rows, n_cols, x, a, work->gemm);
    double log_scale = log(divide_by_trace(ctx, m, a));
    for (int i = 0; i < HYB_BOUND_SQUARINGS; i++) {
        multiply_squares(ctx, m, a, a, next, work->gemm);
        swap(&a, &next);
        power *= 2.0;
        log_scale = 2.0 * log_scale + log(divide_by_trace(ctx, m, a));
    }
    /* The squared Frobenius norm of the last one is the trace of its square. */
    squares = ctx->kernels.sum_squares_f64(a, m * m);
    return exp((2.0 * log_scale + log(squares)) / (4.0 * power)) * HYB_BOUND_MARGIN;
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
    float *memory = hyb_alloc(ctx, gemm_floats + 2 * n + 4 * square, sizeof *memory);
    if (memory == NULL) {
        hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to orthogonalise %zu x %zu values", n_rows, n_cols);
        return NULL;
    }
    work->gemm = memory;
    work->gram = memory + gemm_floats;
    work->factor = work->gram + square;
    work->product = work->factor + square;
    work->spare = work->product + square;
    work->next = work->spare + square;
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
        for (int i = 0; i < HYB_ORTHOGONAL_ROUNDS; i++)
            through_steps(ctx, n_rows, n_cols, three_quintics, N_STEPS(three_quintics), &values, &work);
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
