/* constrain_norm.cu - sums of squares and the shortening of a vector to a Euclidean ball, with the bits of
 * lib/optimize.c and lib/constrain_norm.c: chunks of 65536 values, each summed in fp64 over 16 lanes one value after
 * the other, then lanes and chunks in ascending order.
 *
 * A block sums a chunk: all threads square values on the way into shared memory, 16 of them add. Limit: bytes /
 * bandwidth where there are chunks enough for all processors; below, the 4096 additions of a lane, one after the other.
 * Norm and factor stay on the device.
 */
#include <cmath>

#include "sums.h"

#define CHUNK ((size_t)65536)
#define LANES 16
#define TILE_THREADS 128
/* Values of a tile: 8 for each thread. Another tile is on its way from memory while the 16 lanes add. */
#define TILE 1024
#define PER_THREAD (TILE / TILE_THREADS)
/* Sums of squares within these have neither overflowed nor lost what matters to subnormals. */
#define SMALLEST_SUM 1e-280
#define LARGEST_SUM 1e300

namespace {

/* What is known of a vector, and what becomes of it. */
struct verdict {
    double unit;   /* doubles are multiplied by this power of 2 before they are squared */
    double factor; /* of the result */
    int is_longer;
    int is_finite;
};

/* ---- sums ---- */

/* Reads a thread's values of a tile, zeros from n on: neighbours by neighbours, wherever x begins. */
template <class T> __device__ __forceinline__ void read_values(const T *x, size_t first, size_t n, T *values) {
#pragma unroll
    for (int v = 0; v < PER_THREAD; ++v) {
        size_t i = first + (size_t)v * TILE_THREADS + threadIdx.x;
        values[v] = i < n ? __ldcs(x + i) : (T)0;
    }
}

/* The larger of a magnitude so far and |x|; a NaN becomes infinite, as in no maximum would it stay. */
__device__ __forceinline__ double larger(double largest, double x) {
    double magnitude = fabs(x);
    return magnitude <= largest ? largest : magnitude <= HYB_DBL_MAX ? magnitude : (double)INFINITY;
}

/* sums[chunk], and for doubles largest[chunk]. `known`: of the first pass, which says whether another is needed; or
 * nullptr in the first. A zero added to a sum of squares leaves its bits: a tile may be filled up with them. */
template <class T>
__global__ void __launch_bounds__(TILE_THREADS)
    chunk_kernel(const T *x, size_t n, const verdict *known, double *sums, double *largest) {
    __shared__ double squares[TILE];
    __shared__ double of_warps[TILE_THREADS / HYB_WARP];
    double unit = known != nullptr ? known->unit : 1.0, sum = 0.0, most = 0.0;
    if (known != nullptr && unit == 1.0) return;
    size_t first = blockIdx.x * CHUNK, end = n - first < CHUNK ? n : first + CHUNK;
    T next[PER_THREAD];
    read_values(x, first, end, next);
    for (; first < end; first += TILE) {
#pragma unroll
        for (int v = 0; v < PER_THREAD; ++v) {
            double value = sizeof(T) == 8 ? (double)next[v] * unit : (double)next[v];
            squares[v * TILE_THREADS + (int)threadIdx.x] = value * value;
            if (sizeof(T) == 8 && known == nullptr) most = larger(most, (double)next[v]);
        }
        __syncthreads();
        read_values(x, first + TILE, end, next);
        if (threadIdx.x < LANES)
#pragma unroll 16
            for (int i = 0; i < TILE; i += LANES) sum += squares[i + (int)threadIdx.x];
        __syncthreads();
    }
    if (threadIdx.x < LANES) squares[threadIdx.x] = sum;
    most = hyb_max_warp(most);
    if (threadIdx.x % HYB_WARP == 0) of_warps[threadIdx.x / HYB_WARP] = most;
    __syncthreads();
    if (threadIdx.x != 0) return;
    sum = 0.0;
    for (int l = 0; l < LANES; ++l) sum += squares[l];
    for (int w = 1; w < TILE_THREADS / HYB_WARP; ++w) most = of_warps[w] > most ? of_warps[w] : most;
    sums[blockIdx.x] = sum;
    if (largest != nullptr) largest[blockIdx.x] = most;
}

/* One block; what its first thread finds in the chunks' sums, added in ascending order, and in the largest magnitude,
 * goes to `plan`. skip: a verdict that needs no second pass. */
template <class Plan>
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    total_kernel(const double *sums, const double *largest, size_t n_chunks, const verdict *skip, Plan plan) {
    __shared__ double some[HYB_SUM_THREADS], magnitudes[HYB_SUM_THREADS];
    double total = 0.0, most = 0.0;
    if (skip != nullptr && skip->unit == 1.0) return;
    for (size_t first = 0; first < n_chunks; first += HYB_SUM_THREADS) {
        size_t i = first + threadIdx.x;
        some[threadIdx.x] = i < n_chunks ? sums[i] : 0.0;
        magnitudes[threadIdx.x] = largest != nullptr && i < n_chunks ? largest[i] : 0.0;
        __syncthreads();
        if (threadIdx.x == 0)
            for (int j = 0; j < HYB_SUM_THREADS; ++j) {
                total += some[j];
                most = magnitudes[j] > most ? magnitudes[j] : most;
            }
        __syncthreads();
    }
    if (threadIdx.x == 0) plan(total, most);
}

template <class T>
int queue_sums(const T *x, size_t n, const verdict *known, double *sums, double *largest, void *stream) {
    auto kernel = chunk_kernel<T>;
    if (n == 0) return 0;
    HYB_LAUNCH(kernel, (unsigned)hyb_blocks_for(n, CHUNK), TILE_THREADS, 0, stream, x, n, known, sums, largest);
    return (int)cudaGetLastError();
}

template <class Plan>
int queue_total(const double *sums, const double *largest, size_t n, const verdict *skip, const Plan &plan,
                void *stream) {
    auto kernel = total_kernel<Plan>;
    HYB_LAUNCH(kernel, 1, HYB_SUM_THREADS, 0, stream, sums, largest, hyb_blocks_for(n, CHUNK), skip, plan);
    return (int)cudaGetLastError();
}

/* ---- the ball ---- */

/* lib/constrain_norm.c: safe_factor. */
__device__ double safe_factor(size_t n, bool is_f64, double radius, double norm, double unit) {
    double additions = (double)((n < CHUNK ? n : CHUNK) / LANES + n / CHUNK + 64);
    double slack = additions * 0x1p-52 + (is_f64 ? 0.0 : 0.5 * 0x1p-23);
    double factor = radius / norm * (1.0 - slack) * unit;
    if (is_f64) return factor;
    float rounded = (float)factor;
    return (double)((double)rounded > factor ? nextafterf(rounded, 0.0f) : rounded);
}

/* From sum and largest magnitude to norm and factor; of doubles whose squares leave the range of doubles, in the first
 * pass only to the unit of the second. */
struct ball_plan {
    size_t n;
    double radius;
    bool is_f64, is_second;
    verdict *found;
    double *norm;
    int *is_active;
    volatile int *not_finite;
    __device__ void operator()(double sum, double largest) const {
        bool is_finite = is_f64 && !is_second ? largest <= HYB_DBL_MAX : sum <= HYB_DBL_MAX;
        double unit = is_second ? found->unit : 1.0;
        found->is_finite = is_finite;
        found->unit = unit;
        if (!is_finite) {
            *not_finite = 1;
            return;
        }
        if (is_f64 && !is_second && !(sum >= SMALLEST_SUM && sum <= LARGEST_SUM)) {
            int exponent = 0;
            (void)frexp(largest, &exponent);
            found->unit = ldexp(1.0, exponent < -1000 ? 1000 : -exponent);
            if (found->unit != 1.0) return;
        }
        double length = sqrt(sum), measured = length / unit; /* infinite where no double is so large */
        found->is_longer = measured > radius;
        found->factor = found->is_longer ? safe_factor(n, is_f64, radius, length, unit) : 1.0;
        if (norm != nullptr) *norm = measured;
        if (is_active != nullptr) *is_active = found->is_longer;
    }
};

template <class T> __global__ void constrain_kernel(size_t n, const T *x, const verdict *found, T *out) {
    if (!found->is_finite || (!found->is_longer && x == out)) return;
    bool is_longer = found->is_longer;
    T factor = (T)found->factor;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        out[i] = is_longer ? x[i] * factor : x[i];
}

template <class T>
int constrain(hyb_cuda_state *state, double radius, size_t n, const T *x, T *out, double *norm, int *is_active,
              void *stream) {
    constexpr bool IS_F64 = sizeof(T) == 8;
    size_t n_chunks = hyb_blocks_for(n, CHUNK);
    double *sums, *largest;
    verdict *found;
    HYB_CUDA_TRY(hyb_cuda_lay_out(state, [&](hyb_cuda_arena &arena) {
        arena.take(sums, n_chunks);
        arena.take(largest, n_chunks);
        arena.take(found, 1);
    }));
    if (!IS_F64) largest = nullptr;
    ball_plan plan = {n, radius, IS_F64, false, found, norm, is_active, state->not_finite};
    HYB_CUDA_TRY(queue_sums(x, n, nullptr, sums, largest, stream));
    HYB_CUDA_TRY(queue_total(sums, largest, n, nullptr, plan, stream));
    if (IS_F64) {
        plan.is_second = true;
        HYB_CUDA_TRY(queue_sums(x, n, found, sums, (double *)nullptr, stream));
        HYB_CUDA_TRY(queue_total(sums, nullptr, n, found, plan, stream));
    }
    if (n == 0) return 0;
    auto kernel = constrain_kernel<T>;
    unsigned grid = hyb_resident_blocks(state, hyb_blocks_for(n, HYB_SUM_VALUES), 8);
    HYB_LAUNCH(kernel, grid, HYB_SUM_THREADS, 0, stream, n, x, found, out);
    return (int)cudaGetLastError();
}

} // namespace

/* ---- the table's ---- */

int hyb_module_constrain_norm_f32(hyb_cuda_state *state, double radius, size_t n, const float *x, float *out,
                                  double *norm, int *is_active, void *stream) {
    HYB_CUDA_BEGIN(state);
    return constrain(state, radius, n, x, out, norm, is_active, stream);
}

int hyb_module_constrain_norm_f64(hyb_cuda_state *state, double radius, size_t n, const double *x, double *out,
                                  double *norm, int *is_active, void *stream) {
    HYB_CUDA_BEGIN(state);
    return constrain(state, radius, n, x, out, norm, is_active, stream);
}

namespace {

struct total_plan {
    double *sum;
    volatile int *not_finite;
    __device__ void operator()(double total, double) const {
        *sum = total;
        if (!(total <= HYB_DBL_MAX)) *not_finite = 1;
    }
};

} // namespace

int hyb_module_sum_squares(hyb_cuda_state *state, size_t n, const float *values, double *sum, void *stream) {
    HYB_CUDA_BEGIN(state);
    double *sums;
    HYB_CUDA_TRY(hyb_cuda_lay_out(state, [&](hyb_cuda_arena &arena) { arena.take(sums, hyb_blocks_for(n, CHUNK)); }));
    total_plan plan = {sum, state->not_finite};
    HYB_CUDA_TRY(queue_sums(values, n, nullptr, sums, nullptr, stream));
    return queue_total(sums, nullptr, n, nullptr, plan, stream);
}
