/* adam.h - a pass of one of Adam's steps over a tensor: gradient, weights and both moments, four elements a thread.
 *
 * Limit: 28 bytes a parameter (16 read, 12 written) / bandwidth.
 */
#ifndef HYB_CUDA_ADAM_H
#define HYB_CUDA_ADAM_H

#include "sums.h"

/* step(g, &w, &m, &v) makes an element's step in place. */
template <bool ALIGNED, class Step>
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    hyb_adam_pass_kernel(Step step, size_t n, const float *gradient, float *weights, float *first_moment,
                         float *second_moment, volatile int *not_finite) {
    bool is_finite = true;
    size_t stride = (size_t)gridDim.x * HYB_SUM_THREADS * 4;
    for (size_t i = ((size_t)blockIdx.x * HYB_SUM_THREADS + threadIdx.x) * 4; i < n; i += stride) {
        hyb_four g = hyb_load_four<ALIGNED>(gradient + i, n - i), w = hyb_load_four<ALIGNED>(weights + i, n - i);
        hyb_four m = hyb_load_four<ALIGNED>(first_moment + i, n - i);
        hyb_four v = hyb_load_four<ALIGNED>(second_moment + i, n - i);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            step(g.at[j], &w.at[j], &m.at[j], &v.at[j]);
            is_finite &= hyb_is_finite(w.at[j]);
        }
        hyb_store_four<ALIGNED>(weights + i, n - i, w);
        hyb_store_four<ALIGNED>(first_moment + i, n - i, m);
        hyb_store_four<ALIGNED>(second_moment + i, n - i, v);
    }
    if (!is_finite) *not_finite = 1;
}

template <class Step>
inline int hyb_adam_pass(hyb_cuda_state *state, const Step &step, size_t n, const float *gradient, float *weights,
                         float *first_moment, float *second_moment, void *stream) {
    /* 8 blocks of 256 threads fill a processor; each thread has 64 bytes on their way. */
    unsigned grid = hyb_resident_blocks(state, hyb_blocks_for(n, 4 * HYB_SUM_THREADS), 8);
    auto kernel = hyb_are_aligned(gradient, weights, first_moment, second_moment) ? hyb_adam_pass_kernel<true, Step>
                                                                                  : hyb_adam_pass_kernel<false, Step>;
    HYB_LAUNCH(kernel, grid, HYB_SUM_THREADS, 0, stream, step, n, gradient, weights, first_moment, second_moment,
               state->not_finite);
    return (int)cudaGetLastError();
}

#endif /* HYB_CUDA_ADAM_H */
