/* sums.h - what passes over vectors share: groups of four values, sums of fp64 over a block and over all blocks in an
 * order that depends on the number of values only, and the parts of a call's work memory.
 *
 * A block works on HYB_SUM_VALUES values and writes one sum; the next kernel, of one block, adds them up and draws from
 * them what the rest of the call needs (a norm, a factor), in device memory: the host waits for nothing.
 */
#ifndef HYB_CUDA_SUMS_H
#define HYB_CUDA_SUMS_H

#include <cmath>

#include "device.h"

/* Of every kernel here; hyb_sum_block counts on it. */
#define HYB_SUM_THREADS 256
/* Values of a block: 4 groups of 4 for each thread. */
#define HYB_SUM_VALUES ((size_t)4096)

#define HYB_DBL_MAX 1.7976931348623157e308

/* ---- groups of four ---- */

struct alignas(16) hyb_four {
    float at[4];
};

/* Four values, zeros from n_left on. ALIGNED: p is a multiple of 16. */
template <bool ALIGNED> __device__ __forceinline__ hyb_four hyb_load_four(const float *p, size_t n_left) {
    if (ALIGNED && n_left >= 4) return *reinterpret_cast<const hyb_four *>(p);
    hyb_four values;
    for (int i = 0; i < 4; ++i) values.at[i] = (size_t)i < n_left ? p[i] : 0.0f;
    return values;
}

template <bool ALIGNED>
__device__ __forceinline__ void hyb_store_four(float *p, size_t n_left, const hyb_four &values) {
    if (ALIGNED && n_left >= 4) {
        *reinterpret_cast<hyb_four *>(p) = values;
        return;
    }
    for (int i = 0; i < 4; ++i)
        if ((size_t)i < n_left) p[i] = values.at[i];
}

template <class... P> inline bool hyb_are_aligned(const P *...pointers) {
    return ((uintptr_t)0 | ... | (uintptr_t)pointers) % 16 == 0;
}

__device__ __forceinline__ double hyb_squares_of(const hyb_four &x) {
    double sum = 0.0;
    for (int i = 0; i < 4; ++i) sum += (double)x.at[i] * (double)x.at[i];
    return sum;
}

__device__ __forceinline__ bool hyb_is_finite(float value) {
    return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

/* ---- sums ---- */

/* Sum over the threads of a block, in its first thread. All threads call it. */
static __device__ __forceinline__ double hyb_sum_block(double value) {
    __shared__ double sums[HYB_SUM_THREADS / HYB_WARP];
    value = hyb_sum_warp(value);
    __syncthreads(); /* the last sum's readers are done */
    if (threadIdx.x % HYB_WARP == 0) sums[threadIdx.x / HYB_WARP] = value;
    __syncthreads();
    if (threadIdx.x != 0) return 0.0;
    for (int w = 1; w < HYB_SUM_THREADS / HYB_WARP; ++w) value += sums[w];
    return value;
}

/* sums[i] of a kernel with these many sums a block, n_blocks * N of them; in the first thread. */
template <int N>
static __device__ __forceinline__ void hyb_sum_partials(const double *partials, size_t n_blocks, double *sums) {
    for (int i = 0; i < N; ++i) {
        double sum = 0.0;
        for (size_t b = threadIdx.x; b < n_blocks; b += HYB_SUM_THREADS) sum += partials[b * N + i];
        sums[i] = hyb_sum_block(sum);
    }
}

/* One block; its first thread gives the sums of all blocks to `plan`, which draws what follows from them. */
template <int N, class Plan>
static __global__ void __launch_bounds__(HYB_SUM_THREADS)
    hyb_finish_kernel(const double *partials, size_t n_blocks, Plan plan) {
    double sums[N];
    hyb_sum_partials<N>(partials, n_blocks, sums);
    if (threadIdx.x == 0) plan(sums);
}

template <int N, class Plan>
inline int hyb_finish(const double *partials, size_t n_blocks, const Plan &plan, void *stream) {
    auto kernel = hyb_finish_kernel<N, Plan>;
    HYB_LAUNCH(kernel, 1, HYB_SUM_THREADS, 0, stream, partials, n_blocks, plan);
    return (int)cudaGetLastError();
}

inline size_t hyb_sum_blocks(size_t n) { return hyb_blocks_for(n, HYB_SUM_VALUES); }

/* ---- work memory ---- */

/* Hands out parts of a call's work memory, each aligned to 256; with no memory, it counts. */
class hyb_cuda_arena {
    char *memory_;
    size_t used_ = 0;

  public:
    explicit hyb_cuda_arena(void *memory) : memory_(static_cast<char *>(memory)) {}
    size_t used() const { return used_; }
    template <class T> T *take(size_t n) {
        T *part = memory_ != nullptr ? reinterpret_cast<T *>(memory_ + used_) : nullptr;
        used_ += (n * sizeof(T) + 255) / 256 * 256;
        return part;
    }
};

/* Work memory laid out by `layout(arena)`. */
template <class Layout> inline int hyb_cuda_lay_out(hyb_cuda_state *state, const Layout &layout) {
    hyb_cuda_arena counted(nullptr);
    layout(counted);
    void *memory = nullptr;
    HYB_CUDA_TRY(hyb_cuda_scratch(state, counted.used(), &memory));
    hyb_cuda_arena arena(memory);
    layout(arena);
    return 0;
}

#endif /* HYB_CUDA_SUMS_H */
