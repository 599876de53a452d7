/* orthogonalize.cu - matrices with all singular values near 1, and bounds of the largest one: Newton-Schulz steps on
 * the device. Method, sources and constants: lib/orthogonalize.c, lib/step_constants.h.
 *
 * The products are gemm.cu's and set the pace; between them lie passes over squares of the shorter side. Norms stay on
 * the device. Squares are computed whole: cuBLAS multiplies faster than half of one would gain.
 */
#include <utility>

#include "../lib/step_constants.h"
#include "gemm.h"
#include "orthogonalize.h"

static const hyb_polynomial two_quintics[] = HYB_TWO_QUINTICS;
static const hyb_polynomial three_quintics[] = HYB_THREE_QUINTICS;
static const int N_TWO = sizeof two_quintics / sizeof *two_quintics;
static const int N_THREE = sizeof three_quintics / sizeof *three_quintics;

struct hyb_orthogonal_scalars {
    float scale;           /* of the matrix on its way into the first step */
    float coefficients[3]; /* linear, cubic, quintic of a step that normalises */
    float inverse_trace;
    double squares, log_scale; /* of the bound */
};

void hyb_orthogonal_layout(hyb_cuda_arena &arena, size_t n_rows, size_t n_cols, hyb_cuda_orthogonal_work *work) {
    size_t m = n_rows < n_cols ? n_rows : n_cols;
    arena.take(work->next, n_rows * n_cols);
    arena.take(work->gram, m * m);
    arena.take(work->factor, m * m);
    arena.take(work->product, m * m);
    arena.take(work->spare, m * m);
    arena.take(work->partials, hyb_sum_blocks(n_rows * n_cols));
    arena.take(work->scalars, 1);
}

/* ---- sums of squares ---- */

namespace {

template <bool ALIGNED>
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    squares_kernel(const float *x, size_t n, const float *skip_unless_zero, double *partials) {
    if (skip_unless_zero != nullptr && *skip_unless_zero != 0.0f) return;
    size_t first = blockIdx.x * HYB_SUM_VALUES;
    double sum = 0.0;
#pragma unroll
    for (size_t v = 4 * threadIdx.x; v < HYB_SUM_VALUES; v += 4 * HYB_SUM_THREADS)
        if (first + v < n) sum += hyb_squares_of(hyb_load_four<ALIGNED>(x + first + v, n - first - v));
    sum = hyb_sum_block(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

} // namespace

int hyb_queue_squares(const float *x, size_t n, const float *skip_unless_zero, double *partials, void *stream) {
    auto kernel = hyb_are_aligned(x) ? squares_kernel<true> : squares_kernel<false>;
    HYB_LAUNCH(kernel, (unsigned)hyb_sum_blocks(n), HYB_SUM_THREADS, 0, stream, x, n, skip_unless_zero, partials);
    return (int)cudaGetLastError();
}

/* ---- products ---- */

namespace {

/* gram = X X^T or X^T X, whichever is smaller. */
int gram_matrix(hyb_cuda_state *state, size_t n_rows, size_t n_cols, const float *x, float *gram, void *stream) {
    bool is_wide = n_rows <= n_cols;
    size_t m = is_wide ? n_rows : n_cols, k = is_wide ? n_cols : n_rows;
    return hyb_cuda_gemm_f32(state, is_wide ? HYB_GEMM_NT : HYB_GEMM_TN, m, m, k, x, n_cols, x, n_cols, 0, gram, m,
                             stream);
}

int multiply_squares(hyb_cuda_state *state, size_t m, const float *a, const float *b, float *c, void *stream) {
    return hyb_cuda_gemm_f32(state, HYB_GEMM_NN, m, m, m, a, m, b, m, 0, c, m, stream);
}

/* ---- steps ---- */

/* factor = linear I + cubic gram + quintic factor; `normalized`, if there, has the coefficients instead. */
__global__ void polynomial_kernel(size_t m, const float *gram, float *factor, float linear, float cubic, float quintic,
                                  const float *normalized) {
    if (normalized != nullptr) {
        linear = normalized[0];
        cubic = normalized[1];
        quintic = normalized[2];
    }
    for (size_t row = blockIdx.x; row < m; row += gridDim.x)
        for (size_t col = threadIdx.x; col < m; col += blockDim.x) {
            size_t at = row * m + col;
            float value = quintic != 0.0f ? fmaf(cubic, gram[at], factor[at] * quintic) : gram[at] * cubic;
            factor[at] = row == col ? value + linear : value;
        }
}

/* From the sum of squares of A^2: the coefficients for X divided by a bound of its largest singular value, the 8th root
 * of that sum. For zeros, they stay as they are. */
struct normalize_plan {
    hyb_polynomial p;
    float *coefficients;
    __device__ void operator()(const double *sums) const {
        double bound = sqrt(sqrt(sqrt(sums[0]))) * HYB_BOUND_MARGIN, square = bound * bound;
        if (!(bound > 0.0)) bound = square = 1.0;
        coefficients[0] = (float)(p.linear / bound);
        coefficients[1] = (float)(p.cubic / (bound * square));
        coefficients[2] = (float)(p.quintic / (bound * square * square));
    }
};

int evaluate(hyb_cuda_state *state, size_t m, hyb_polynomial p, bool normalize, const hyb_cuda_orthogonal_work *work,
             void *stream) {
    float *normalized = normalize ? work->scalars->coefficients : nullptr;
    if (p.quintic != 0.0) HYB_CUDA_TRY(multiply_squares(state, m, work->gram, work->gram, work->factor, stream));
    if (normalize) {
        HYB_CUDA_TRY(hyb_queue_squares(work->factor, m * m, nullptr, work->partials, stream));
        normalize_plan plan = {p, normalized};
        HYB_CUDA_TRY(hyb_finish<1>(work->partials, hyb_sum_blocks(m * m), plan, stream));
    }
    unsigned n_blocks = (unsigned)(m < 65535 ? m : 65535);
    HYB_LAUNCH(polynomial_kernel, n_blocks, HYB_SUM_THREADS, 0, stream, m, work->gram, work->factor, (float)p.linear,
               (float)p.cubic, (float)p.quintic, normalized);
    return (int)cudaGetLastError();
}

/* work->product = the product of the factors of all steps, from the Gram matrix in work->gram. */
int multiply_factors(hyb_cuda_state *state, size_t m, const hyb_polynomial *p, int n_steps, bool normalize,
                     hyb_cuda_orthogonal_work *work, void *stream) {
    for (int i = 0; i < n_steps; ++i) {
        HYB_CUDA_TRY(evaluate(state, m, p[i], normalize && i == 0, work, stream));
        if (i + 1 < n_steps) {
            HYB_CUDA_TRY(multiply_squares(state, m, work->factor, work->gram, work->spare, stream));
            HYB_CUDA_TRY(multiply_squares(state, m, work->factor, work->spare, work->gram, stream));
        }
        if (i == 0) {
            std::swap(work->product, work->factor);
        } else {
            HYB_CUDA_TRY(multiply_squares(state, m, work->factor, work->product, work->spare, stream));
            std::swap(work->product, work->spare);
        }
    }
    return 0;
}

/* x goes through n_steps steps with one Gram matrix. */
int apply_steps(hyb_cuda_state *state, size_t n_rows, size_t n_cols, const hyb_polynomial *p, int n_steps,
                bool normalize, float **x, hyb_cuda_orthogonal_work *work, void *stream) {
    bool is_wide = n_rows <= n_cols;
    size_t m = is_wide ? n_rows : n_cols;
    HYB_CUDA_TRY(gram_matrix(state, n_rows, n_cols, *x, work->gram, stream));
    HYB_CUDA_TRY(multiply_factors(state, m, p, n_steps, normalize, work, stream));
    HYB_CUDA_TRY(hyb_cuda_gemm_f32(state, HYB_GEMM_NN, n_rows, n_cols, m, is_wide ? work->product : *x, m,
                                   is_wide ? *x : work->product, n_cols, 0, work->next, n_cols, stream));
    std::swap(*x, work->next);
    return 0;
}

int through_steps(hyb_cuda_state *state, size_t n_rows, size_t n_cols, const hyb_polynomial *steps, int n_steps,
                  float **x, hyb_cuda_orthogonal_work *work, void *stream) {
    size_t shorter = n_rows < n_cols ? n_rows : n_cols, longer = n_rows + n_cols - shorter;
    int at_once = (double)longer >= HYB_LONG_RATIO * (double)shorter ? n_steps : 1;
    for (int i = 0; i < n_steps; i += at_once)
        HYB_CUDA_TRY(apply_steps(state, n_rows, n_cols, steps + i, at_once, i == 0, x, work, stream));
    return 0;
}

} // namespace

int hyb_orthogonal_direction(hyb_cuda_state *state, size_t n_rows, size_t n_cols, float **x,
                             hyb_cuda_orthogonal_work *work, void *stream) {
    return through_steps(state, n_rows, n_cols, two_quintics, N_TWO, x, work, stream);
}

int hyb_newton_schulz_cubic(hyb_cuda_state *state, size_t n_rows, size_t n_cols, float **x,
                            hyb_cuda_orthogonal_work *work, void *stream) {
    return apply_steps(state, n_rows, n_cols, &two_quintics[N_TWO - 1], 1, false, x, work, stream);
}

/* ---- the bound ---- */

namespace {

/* Where squares could leave the range of floats, the Frobenius norm is a bound, too. */
__device__ __forceinline__ bool is_plain(double squares) {
    return squares > HYB_BOUND_MIN_SQUARES && squares < 1.0 / HYB_BOUND_MIN_SQUARES;
}

struct squares_plan {
    double *squares;
    volatile int *not_finite;
    __device__ void operator()(const double *sums) const {
        *squares = sums[0];
        if (!(sums[0] <= HYB_DBL_MAX)) *not_finite = 1;
    }
};

/* The trace of a symmetric positive matrix, which keeps its powers in range when they are divided by it. */
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    trace_kernel(size_t m, const float *a, bool is_first, hyb_orthogonal_scalars *scalars) {
    double sum = 0.0;
    for (size_t i = threadIdx.x; i < m; i += HYB_SUM_THREADS) sum += (double)a[i * m + i];
    sum = hyb_sum_block(sum);
    if (threadIdx.x != 0 || !is_plain(scalars->squares)) return;
    scalars->inverse_trace = (float)(1.0 / sum);
    scalars->log_scale = (is_first ? 0.0 : 2.0 * scalars->log_scale) + log(sum);
}

__global__ void scale_kernel(size_t n, const float *x, const float *factor, float *out) {
    float f = *factor;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        out[i] = f != 0.0f ? x[i] * f : 0.0f;
}

int divide_by_trace(hyb_cuda_state *state, size_t m, float *a, bool is_first, hyb_orthogonal_scalars *scalars,
                    void *stream) {
    HYB_LAUNCH(trace_kernel, 1, HYB_SUM_THREADS, 0, stream, m, a, is_first, scalars);
    unsigned grid = hyb_resident_blocks(state, hyb_blocks_for(m * m, HYB_SUM_VALUES), 8);
    HYB_LAUNCH(scale_kernel, grid, HYB_SUM_THREADS, 0, stream, m * m, a, &scalars->inverse_trace, a);
    return (int)cudaGetLastError();
}

/* The squared Frobenius norm of the last square is the trace of its square. */
struct bound_plan {
    const hyb_orthogonal_scalars *scalars;
    double power;
    double *bound;
    __device__ void operator()(const double *sums) const {
        if (is_plain(scalars->squares))
            *bound = exp((2.0 * scalars->log_scale + log(sums[0])) / (4.0 * power)) * HYB_BOUND_MARGIN;
        else
            *bound = sqrt(scalars->squares);
    }
};

} // namespace

int hyb_spectral_bound_of(hyb_cuda_state *state, size_t n_rows, size_t n_cols, const float *x, double *bound,
                          hyb_cuda_orthogonal_work *work, void *stream) {
    size_t m = n_rows < n_cols ? n_rows : n_cols, n = n_rows * n_cols;
    float *a = work->gram, *next = work->factor;
    double power = 1.0; /* of X X^T */
    squares_plan whole = {&work->scalars->squares, state->not_finite};
    HYB_CUDA_TRY(hyb_queue_squares(x, n, nullptr, work->partials, stream));
    HYB_CUDA_TRY(hyb_finish<1>(work->partials, hyb_sum_blocks(n), whole, stream));
    HYB_CUDA_TRY(gram_matrix(state, n_rows, n_cols, x, a, stream));
    HYB_CUDA_TRY(divide_by_trace(state, m, a, true, work->scalars, stream));
    for (int i = 0; i < HYB_BOUND_SQUARINGS; ++i) {
        HYB_CUDA_TRY(multiply_squares(state, m, a, a, next, stream));
        std::swap(a, next);
        power *= 2.0;
        HYB_CUDA_TRY(divide_by_trace(state, m, a, false, work->scalars, stream));
    }
    bound_plan plan = {work->scalars, power, bound};
    HYB_CUDA_TRY(hyb_queue_squares(a, m * m, nullptr, work->partials, stream));
    return hyb_finish<1>(work->partials, hyb_sum_blocks(m * m), plan, stream);
}

/* ---- the table's ---- */

namespace {

/* 1 / norm; 0 for a matrix of zeros. In fp64 beyond the range of floats: the matrix is scaled in fp64. */
struct inverse_norm_plan {
    double *inverse;
    volatile int *not_finite;
    __device__ void operator()(const double *sums) const {
        *inverse = sums[0] > 0.0 ? 1.0 / sqrt(sums[0]) : 0.0;
        if (!(sums[0] <= HYB_DBL_MAX)) *not_finite = 1;
    }
};

__global__ void normalize_kernel(size_t n, const float *x, const double *inverse, float *out) {
    double f = *inverse;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        out[i] = f != 0.0 ? (float)((double)x[i] * f) : 0.0f;
}

} // namespace

int hyb_module_orthogonalize(hyb_cuda_state *state, size_t n_rows, size_t n_cols, const float *x, float *out,
                             void *stream) {
    HYB_CUDA_BEGIN(state);
    hyb_cuda_orthogonal_work work;
    float *values;
    size_t n = n_rows * n_cols;
    HYB_CUDA_TRY(hyb_cuda_lay_out(state, [&](hyb_cuda_arena &arena) {
        hyb_orthogonal_layout(arena, n_rows, n_cols, &work);
        arena.take(values, n);
    }));
    inverse_norm_plan plan = {&work.scalars->squares, state->not_finite};
    HYB_CUDA_TRY(hyb_queue_squares(x, n, nullptr, work.partials, stream));
    HYB_CUDA_TRY(hyb_finish<1>(work.partials, hyb_sum_blocks(n), plan, stream));
    unsigned grid = hyb_resident_blocks(state, hyb_sum_blocks(n), 8);
    HYB_LAUNCH(normalize_kernel, grid, HYB_SUM_THREADS, 0, stream, n, x, &work.scalars->squares, values);
    HYB_CUDA_TRY(cudaGetLastError());
    for (int i = 0; i < HYB_ORTHOGONAL_ROUNDS; ++i)
        HYB_CUDA_TRY(through_steps(state, n_rows, n_cols, three_quintics, N_THREE, &values, &work, stream));
    HYB_CUDA_TRY(hyb_newton_schulz_cubic(state, n_rows, n_cols, &values, &work, stream));
    return cudaMemcpyAsync(out, values, n * sizeof *out, cudaMemcpyDeviceToDevice, (cudaStream_t)stream);
}

int hyb_module_spectral_bound(hyb_cuda_state *state, size_t n_rows, size_t n_cols, const float *x, double *bound,
                              void *stream) {
    HYB_CUDA_BEGIN(state);
    hyb_cuda_orthogonal_work work;
    HYB_CUDA_TRY(
        hyb_cuda_lay_out(state, [&](hyb_cuda_arena &arena) { hyb_orthogonal_layout(arena, n_rows, n_cols, &work); }));
    return hyb_spectral_bound_of(state, n_rows, n_cols, x, bound, &work, stream);
}
