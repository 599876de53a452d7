/* sums.h - what passes over vectors share: sums of fp64 over a block and over all blocks in an order that depends on
 * the number of values only.
 *
 * A block works on HYB_SUM_VALUES values and writes one sum; the next kernel, of one block, adds them up and draws from
 * them what the rest of the call needs (a norm, a factor), in device memory: the host waits for nothing.
 */
#ifndef HYB_CUDA_SUMS_H
#define HYB_CUDA_SUMS_H

#include <cmath>

#include "fours.h"

/* Of every kernel here. */
#define HYB_SUM_THREADS 256
/* Values of a block: 4 groups of 4 for each thread. */
#define HYB_SUM_VALUES ((size_t)4096)

#define HYB_DBL_MAX 1.7976931348623157e308

__device__ __forceinline__ double hyb_squares_of(const hyb_four &x) {
    double sum = 0.0;
    for (int i = 0; i < 4; ++i) sum += (double)x.at[i] * (double)x.at[i];
    return sum;
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

#endif /* HYB_CUDA_SUMS_H */
