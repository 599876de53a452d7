/* trust_region.cu - steps that stay in a ball around the weights, a tensor at a time; the CPU's, with the equations:
 * lib/trust_region.c and lib/nn/update.c, whose bounds these are.
 *
 *   SPECTRAL, a matrix   momentum -> Newton-Schulz (orthogonalize.cu) -> rows -> what the radius leaves -> applied
 *   SPECTRAL, others     Adam's step, every element limited: one pass of 28 bytes a parameter
 *   RMS, L2              Adam's change (28 bytes a parameter), then its part that the radius leaves (16)
 * Norms, and the factors that follow from them, stay on the device. Elements are computed as on a CPU with fused
 * multiply-add; sums of squares run in another order, fixed by the number of values.
 */
#include "../lib/step_constants.h"
#include "adam.h"
#include "orthogonalize.h"

namespace {

/* The arrays of a tensor, or nullptr. */
struct tensor_arrays {
    size_t n;
    const float *gradient;
    float *weights, *first_moment, *second_moment, *change, *row_moment, *spectral_bound;
    int *is_shortened;
    explicit tensor_arrays(const hyb_cuda_trust_tensor *t)
        : n(t->n_rows * t->n_cols), gradient(floats(t->gradient)), weights(floats(t->weights)),
          first_moment(floats(t->first_moment)), second_moment(floats(t->second_moment)), change(floats(t->change)),
          row_moment(floats(t->row_moment)), spectral_bound(floats(t->spectral_bound)),
          is_shortened(reinterpret_cast<int *>(t->is_shortened)) {}

  private:
    static float *floats(hyb_device_address address) { return reinterpret_cast<float *>(address); }
};

/* What passes tell those that follow, and what is known of a step. */
struct trust_scalars {
    float scale;         /* of the momentum on its way into the steps; 0: too small to have a direction */
    float factor, decay; /* of apply_kernel */
    double row_scale;
    double bound; /* of the weights, computed in this step */
};

/* ---- applying ---- */

/* change = factor x + decay w; w += change. */
template <bool ALIGNED>
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    apply_kernel(size_t n, const float *x, const trust_scalars *scalars, float *weights, float *change) {
    size_t stride = (size_t)gridDim.x * HYB_SUM_THREADS * 4;
    float a = scalars->factor, b = scalars->decay;
    for (size_t i = ((size_t)blockIdx.x * HYB_SUM_THREADS + threadIdx.x) * 4; i < n; i += stride) {
        hyb_four c = hyb_load_four<ALIGNED>(x + i, n - i), w = hyb_load_four<ALIGNED>(weights + i, n - i);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            c.at[j] = fmaf(a, c.at[j], b * w.at[j]);
            w.at[j] += c.at[j];
        }
        hyb_store_four<ALIGNED>(change + i, n - i, c);
        hyb_store_four<ALIGNED>(weights + i, n - i, w);
    }
}

/* Blocks for a pass of groups of four values in turn. */
unsigned pass_blocks(const hyb_cuda_state *state, size_t n) {
    return hyb_resident_blocks(state, hyb_blocks_for(n, 4 * HYB_SUM_THREADS), 8);
}

int apply(const hyb_cuda_state *state, size_t n, const float *x, const trust_scalars *scalars, float *weights,
          float *change, void *stream) {
    auto kernel = hyb_are_aligned(x, weights, change) ? apply_kernel<true> : apply_kernel<false>;
    HYB_LAUNCH(kernel, pass_blocks(state, n), HYB_SUM_THREADS, 0, stream, n, x, scalars, weights, change);
    return (int)cudaGetLastError();
}

/* ---- SPECTRAL: a matrix ---- */

/* m = beta m + (1 - beta) g; u = beta m + (1 - beta) g; partials: sums of squares of u. */
template <bool ALIGNED>
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    momentum_kernel(size_t n, float beta, const float *gradient, float *momentum, float *u, double *partials) {
    size_t first = blockIdx.x * HYB_SUM_VALUES;
    float one_minus_beta = 1.0f - beta;
    double sum = 0.0;
    for (size_t v = 4 * threadIdx.x; v < HYB_SUM_VALUES && first + v < n; v += 4 * HYB_SUM_THREADS) {
        size_t i = first + v;
        hyb_four g = hyb_load_four<ALIGNED>(gradient + i, n - i), m = hyb_load_four<ALIGNED>(momentum + i, n - i), x;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            float part = one_minus_beta * g.at[j];
            m.at[j] = fmaf(beta, m.at[j], part);
            x.at[j] = fmaf(beta, m.at[j], part);
        }
        hyb_store_four<ALIGNED>(momentum + i, n - i, m);
        hyb_store_four<ALIGNED>(u + i, n - i, x);
        sum += hyb_squares_of(x);
    }
    sum = hyb_sum_block(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

struct momentum_plan {
    trust_scalars *scalars;
    volatile int *not_finite;
    __device__ void operator()(const double *sums) const {
        double norm = sqrt(sums[0]);
        bool is_plain = norm >= 1.0 / HYB_TRUST_PLAIN_NORM && norm <= HYB_TRUST_PLAIN_NORM;
        scalars->scale = !(norm > HYB_TRUST_SMALLEST_NORM) ? 0.0f : is_plain ? 1.0f : (float)(1.0 / norm);
        if (!(sums[0] <= HYB_DBL_MAX)) *not_finite = 1;
    }
};

/* Brings the momentum into the range of the steps. */
__global__ void scale_kernel(size_t n, const trust_scalars *scalars, float *x) {
    float scale = scalars->scale;
    if (scale == 1.0f) return;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        x[i] = scale != 0.0f ? x[i] * scale : 0.0f;
}

/* A warp a row: sums of squares. */
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    row_squares_kernel(size_t n_rows, size_t n_cols, const float *x, double *sums) {
    size_t row = ((size_t)blockIdx.x * HYB_SUM_THREADS + threadIdx.x) / HYB_WARP;
    if (row >= n_rows) return;
    double sum = 0.0;
    for (size_t c = threadIdx.x % HYB_WARP; c < n_cols; c += HYB_WARP) {
        double value = (double)x[row * n_cols + c];
        sum += value * value;
    }
    sum = hyb_sum_warp(sum);
    if (threadIdx.x % HYB_WARP == 0) sums[row] = sum;
}

__device__ __forceinline__ double row_factor(float moment) {
    return 1.0 / (sqrt((double)moment) + HYB_TRUST_ROW_EPSILON);
}

/* One block: running means of the rows' mean squares, and the scale that keeps the Frobenius norm. A matrix without a
 * direction leaves them as they are. */
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    row_moment_kernel(size_t n_rows, size_t n_cols, double beta, const double *row_sums, float *row_moment,
                      trust_scalars *scalars) {
    double before = 0.0, after = 0.0;
    if (scalars->scale == 0.0f) return;
    for (size_t r = threadIdx.x; r < n_rows; r += HYB_SUM_THREADS) {
        double mean = row_sums[r] / (double)n_cols, past = (double)row_moment[r];
        row_moment[r] = (float)(past > 0.0 ? beta * past + (1.0 - beta) * mean : mean);
        double factor = row_factor(row_moment[r]);
        before += row_sums[r];
        after += row_sums[r] * factor * factor;
    }
    before = hyb_sum_block(before);
    after = hyb_sum_block(after);
    if (threadIdx.x == 0) scalars->row_scale = after > 0.0 ? sqrt(before / after) : 1.0;
}

__global__ void __launch_bounds__(HYB_SUM_THREADS)
    row_scale_kernel(size_t n_rows, size_t n_cols, const float *row_moment, const trust_scalars *scalars, float *x) {
    size_t row = ((size_t)blockIdx.x * HYB_SUM_THREADS + threadIdx.x) / HYB_WARP;
    if (row >= n_rows || scalars->scale == 0.0f) return;
    float factor = (float)fmin(row_factor(row_moment[row]) * scalars->row_scale, HYB_TRUST_MAX_ROW_FACTOR);
    for (size_t c = threadIdx.x % HYB_WARP; c < n_cols; c += HYB_WARP) x[row * n_cols + c] *= factor;
}

/* What bounds the step of a matrix. */
struct matrix_limits {
    double learning_rate, radius, weight_decay, shape;
    bool is_new; /* scalars->bound is the weights' */
    float *spectral_bound;
    int *is_shortened;
};

/* One block: the part of a step that the radius leaves, and the bound of the weights behind it. */
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    matrix_plan_kernel(matrix_limits l, const double *weight_squares, size_t n_partials, trust_scalars *scalars) {
    double decay = l.weight_decay, squares, bound = (double)*l.spectral_bound;
    bool is_unknown = !l.is_new && decay > 0.0 && bound == 0.0;
    hyb_sum_partials<1>(weight_squares, is_unknown ? n_partials : 0, &squares);
    if (threadIdx.x != 0) return;
    if (l.is_new) bound = scalars->bound;
    if (is_unknown) bound = sqrt(squares);
    double longest = HYB_ORTHOGONAL_BOUND + decay * bound / l.shape;
    double rate = fmin(l.learning_rate, l.radius / longest);
    scalars->factor = (float)(-rate * l.shape);
    scalars->decay = (float)(-rate * decay);
    /* The next one, rounded up. */
    bound = (fabs(1.0 - rate * decay) * bound + rate * l.shape * HYB_ORTHOGONAL_BOUND) * (1.0 + HYB_TRUST_MARGIN);
    *l.spectral_bound = decay > 0.0 ? (float)bound : 0.0f;
    if (l.is_shortened != nullptr) *l.is_shortened = rate < l.learning_rate;
}

/* Queues what makes x the direction of the step. */
int direction(hyb_cuda_state *state, const hyb_trust_region *o, const hyb_cuda_trust_tensor *t, trust_scalars *scalars,
              double *row_sums, float **x, hyb_cuda_orthogonal_work *work, void *stream) {
    const tensor_arrays at(t);
    auto momentum = hyb_are_aligned(at.gradient, at.first_moment, *x) ? momentum_kernel<true> : momentum_kernel<false>;
    HYB_LAUNCH(momentum, (unsigned)hyb_sum_blocks(at.n), HYB_SUM_THREADS, 0, stream, at.n, o->momentum, at.gradient,
               at.first_moment, *x, work->partials);
    momentum_plan plan = {scalars, state->not_finite};
    HYB_CUDA_TRY(hyb_finish<1>(work->partials, hyb_sum_blocks(at.n), plan, stream));
    HYB_LAUNCH(scale_kernel, pass_blocks(state, at.n), HYB_SUM_THREADS, 0, stream, at.n, scalars, *x);
    HYB_CUDA_TRY(cudaGetLastError());
    HYB_CUDA_TRY(hyb_orthogonal_direction(state, t->n_rows, t->n_cols, x, work, stream));
    if (!(o->row_beta > 0.0f)) return 0;
    unsigned row_blocks = (unsigned)hyb_blocks_for(t->n_rows, HYB_SUM_THREADS / HYB_WARP);
    HYB_LAUNCH(row_squares_kernel, row_blocks, HYB_SUM_THREADS, 0, stream, t->n_rows, t->n_cols, *x, row_sums);
    HYB_LAUNCH(row_moment_kernel, 1, HYB_SUM_THREADS, 0, stream, t->n_rows, t->n_cols, (double)o->row_beta, row_sums,
               at.row_moment, scalars);
    HYB_LAUNCH(row_scale_kernel, row_blocks, HYB_SUM_THREADS, 0, stream, t->n_rows, t->n_cols, at.row_moment, scalars,
               *x);
    HYB_CUDA_TRY(cudaGetLastError());
    return hyb_newton_schulz_cubic(state, t->n_rows, t->n_cols, x, work, stream);
}

} // namespace

int hyb_module_matrix_step(hyb_cuda_state *state, const hyb_trust_region *o, const hyb_cuda_trust_tensor *t,
                           void *stream) {
    HYB_CUDA_BEGIN(state);
    const tensor_arrays at(t);
    hyb_cuda_orthogonal_work work;
    trust_scalars *scalars;
    double *row_sums, *weight_squares;
    float *x;
    HYB_CUDA_TRY(hyb_cuda_lay_out(state, [&](hyb_cuda_arena &arena) {
        hyb_orthogonal_layout(arena, t->n_rows, t->n_cols, &work);
        arena.take(scalars, 1);
        arena.take(row_sums, t->n_rows);
        arena.take(weight_squares, hyb_sum_blocks(at.n));
        arena.take(x, at.n);
    }));
    bool has_decay = o->weight_decay > 0.0f;
    matrix_limits limits = {(double)o->learning_rate,
                            (double)o->radius,
                            (double)o->weight_decay,
                            t->n_rows > t->n_cols ? sqrt((double)t->n_rows / (double)t->n_cols) : 1.0,
                            has_decay && (o->step == 1 || o->step % HYB_TRUST_BOUND_STEPS == 0),
                            at.spectral_bound,
                            at.is_shortened};
    if (limits.is_new)
        HYB_CUDA_TRY(hyb_spectral_bound_of(state, t->n_rows, t->n_cols, at.weights, &scalars->bound, &work, stream));
    else if (has_decay)
        HYB_CUDA_TRY(hyb_queue_squares(at.weights, at.n, at.spectral_bound, weight_squares, stream));
    HYB_CUDA_TRY(direction(state, o, t, scalars, row_sums, &x, &work, stream));
    HYB_LAUNCH(matrix_plan_kernel, 1, HYB_SUM_THREADS, 0, stream, limits, weight_squares, hyb_sum_blocks(at.n),
               scalars);
    HYB_CUDA_TRY(cudaGetLastError());
    return apply(state, at.n, x, scalars, at.weights, at.change, stream);
}

/* ---- Adam's direction ---- */

namespace {

/* v16_adam_change of lib/simd/vector_template.h. */
__device__ __forceinline__ float adam_change(const hyb_cuda_adam &a, float g, float w, float *m, float *v) {
    *m = fmaf(a.beta1, *m, a.one_minus_beta1 * g);
    *v = fmaf(a.beta2, *v, a.one_minus_beta2 * (g * g));
    float size = fmaf(sqrtf(*v), a.inv_sqrt_correction2, a.epsilon);
    float step = -a.step_size * (*m / size);
    step = step > a.limit ? a.limit : step < -a.limit ? -a.limit : step;
    return fmaf(-a.decay, w, step);
}

/* change: Adam's, not applied; a block's partials: sums of squares of the change and of the weights. */
template <bool ALIGNED>
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    adam_change_kernel(hyb_cuda_adam a, size_t n, const float *gradient, const float *weights, float *first_moment,
                       float *second_moment, float *change, double *partials) {
    size_t first = blockIdx.x * HYB_SUM_VALUES;
    double changes = 0.0, squares = 0.0;
    for (size_t o = 4 * threadIdx.x; o < HYB_SUM_VALUES && first + o < n; o += 4 * HYB_SUM_THREADS) {
        size_t i = first + o, n_left = n - i;
        hyb_four g = hyb_load_four<ALIGNED>(gradient + i, n_left), w = hyb_load_four<ALIGNED>(weights + i, n_left);
        hyb_four m = hyb_load_four<ALIGNED>(first_moment + i, n_left);
        hyb_four v = hyb_load_four<ALIGNED>(second_moment + i, n_left), c;
#pragma unroll
        for (int j = 0; j < 4; ++j) c.at[j] = adam_change(a, g.at[j], w.at[j], &m.at[j], &v.at[j]);
        hyb_store_four<ALIGNED>(first_moment + i, n_left, m);
        hyb_store_four<ALIGNED>(second_moment + i, n_left, v);
        hyb_store_four<ALIGNED>(change + i, n_left, c);
        changes += hyb_squares_of(c);
        squares += hyb_squares_of(w);
    }
    changes = hyb_sum_block(changes);
    squares = hyb_sum_block(squares);
    if (threadIdx.x != 0) return;
    partials[2 * blockIdx.x] = changes;
    partials[2 * blockIdx.x + 1] = squares;
}

/* lib/nn/update.c: shorten. n values: of the tensor with RMS; 0 with L2. */
struct ball_plan {
    size_t n;
    double radius;
    trust_scalars *scalars;
    int *is_shortened;
    volatile int *not_finite;
    __device__ void operator()(const double *sums) const {
        double length = sqrt(sums[0]);
        if (n != 0) length = sqrt(sums[0] / (double)n) / fmax(sqrt(sums[1] / (double)n), HYB_TRUST_SMALLEST_RMS);
        bool is_longer = length > radius;
        scalars->factor = is_longer ? (float)(radius / length * (1.0 - HYB_TRUST_MARGIN)) : 1.0f;
        scalars->decay = 0.0f;
        if (is_shortened != nullptr) *is_shortened = is_longer;
        if (!(sums[0] + sums[1] <= HYB_DBL_MAX)) *not_finite = 1;
    }
};

int queue_change(const hyb_cuda_adam *adam, const tensor_arrays &t, double *partials, void *stream) {
    bool is_aligned = hyb_are_aligned(t.gradient, t.weights, t.first_moment, t.second_moment, t.change);
    auto kernel = is_aligned ? adam_change_kernel<true> : adam_change_kernel<false>;
    HYB_LAUNCH(kernel, (unsigned)hyb_sum_blocks(t.n), HYB_SUM_THREADS, 0, stream, *adam, t.n, t.gradient, t.weights,
               t.first_moment, t.second_moment, t.change, partials);
    return (int)cudaGetLastError();
}

} // namespace

int hyb_module_ball_step(hyb_cuda_state *state, const hyb_cuda_adam *matrix, const hyb_cuda_adam *vector,
                         int is_one_ball, double radius, size_t n_tensors, const hyb_cuda_trust_tensor *tensors,
                         void *stream) {
    HYB_CUDA_BEGIN(state);
    size_t n_blocks = 0;
    double *partials;
    trust_scalars *scalars;
    for (size_t i = 0; i < n_tensors; ++i) n_blocks += hyb_sum_blocks(tensors[i].n_rows * tensors[i].n_cols);
    HYB_CUDA_TRY(hyb_cuda_lay_out(state, [&](hyb_cuda_arena &arena) {
        arena.take(partials, 2 * n_blocks);
        arena.take(scalars, 1);
    }));
    double *at = partials;
    for (size_t i = 0; i < n_tensors; ++i) {
        const tensor_arrays t(&tensors[i]);
        HYB_CUDA_TRY(queue_change(tensors[i].kind == HYB_TRUST_MATRIX ? matrix : vector, t, at, stream));
        if (is_one_ball) {
            at += 2 * hyb_sum_blocks(t.n);
            continue;
        }
        ball_plan plan = {t.n, radius, scalars, t.is_shortened, state->not_finite};
        HYB_CUDA_TRY(hyb_finish<2>(partials, hyb_sum_blocks(t.n), plan, stream));
        HYB_CUDA_TRY(apply(state, t.n, t.change, scalars, t.weights, t.change, stream));
    }
    if (!is_one_ball) return 0;
    ball_plan plan = {0, radius, scalars, tensor_arrays(&tensors[0]).is_shortened, state->not_finite};
    HYB_CUDA_TRY(hyb_finish<2>(partials, n_blocks, plan, stream));
    for (size_t i = 0; i < n_tensors; ++i) {
        const tensor_arrays t(&tensors[i]);
        HYB_CUDA_TRY(apply(state, t.n, t.change, scalars, t.weights, t.change, stream));
    }
    return 0;
}

/* ---- SPECTRAL: embedding, head, gains ---- */

namespace {

struct vector_step {
    hyb_cuda_adam a;
    __device__ __forceinline__ void operator()(float g, float *w, float *m, float *v) const {
        *w += adam_change(a, g, *w, m, v);
    }
};

} // namespace

int hyb_module_vector_step(hyb_cuda_state *state, const hyb_cuda_adam *adam, const hyb_cuda_trust_tensor *tensor,
                           void *stream) {
    HYB_CUDA_BEGIN(state);
    const tensor_arrays t(tensor);
    return hyb_adam_pass(state, vector_step{*adam}, t.n, t.gradient, t.weights, t.first_moment, t.second_moment,
                         stream);
}
