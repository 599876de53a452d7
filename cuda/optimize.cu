/* optimize.cu - AdamW: one pass over weights, gradient and moments. The CPU's: lib/optimize.c; its kernel, and the
 * order of operations: v16_adamw of lib/simd/vector_template.h, fused multiply-adds and all.
 *
 * Limit: 28 bytes a parameter (16 read, 12 written) / bandwidth.
 */
#include "sums.h"

namespace {

template <bool ALIGNED>
__global__ void __launch_bounds__(HYB_SUM_THREADS)
    adamw_kernel(hyb_cuda_adam a, size_t n, const float *gradient, float *weights, float *first_moment,
                 float *second_moment, volatile int *not_finite) {
    bool is_finite = true;
    size_t stride = (size_t)gridDim.x * HYB_SUM_THREADS * 4;
    for (size_t i = ((size_t)blockIdx.x * HYB_SUM_THREADS + threadIdx.x) * 4; i < n; i += stride) {
        hyb_four g = hyb_load_four<ALIGNED>(gradient + i, n - i), w = hyb_load_four<ALIGNED>(weights + i, n - i);
        hyb_four m = hyb_load_four<ALIGNED>(first_moment + i, n - i);
        hyb_four v = hyb_load_four<ALIGNED>(second_moment + i, n - i);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            float scaled = g.at[j] * a.gradient_scale;
            m.at[j] = fmaf(a.beta1, m.at[j], a.one_minus_beta1 * scaled);
            v.at[j] = fmaf(a.beta2, v.at[j], a.one_minus_beta2 * (scaled * scaled));
            float size = fmaf(sqrtf(v.at[j]), a.inv_sqrt_correction2, a.epsilon);
            w.at[j] = fmaf(w.at[j], a.decay, -a.step_size * (m.at[j] / size));
            is_finite &= hyb_is_finite(w.at[j]);
        }
        hyb_store_four<ALIGNED>(weights + i, n - i, w);
        hyb_store_four<ALIGNED>(first_moment + i, n - i, m);
        hyb_store_four<ALIGNED>(second_moment + i, n - i, v);
    }
    if (!is_finite) *not_finite = 1;
}

} // namespace

int hyb_module_adamw(hyb_cuda_state *state, const hyb_cuda_adam *adam, size_t n, const float *gradient, float *weights,
                     float *first_moment, float *second_moment, void *stream) {
    HYB_CUDA_BEGIN(state);
    /* 8 blocks of 256 threads fill a processor; each thread has 64 bytes on their way. */
    unsigned grid = hyb_resident_blocks(state, hyb_blocks_for(n, 4 * HYB_SUM_THREADS), 8);
    auto kernel =
        hyb_are_aligned(gradient, weights, first_moment, second_moment) ? adamw_kernel<true> : adamw_kernel<false>;
    HYB_LAUNCH(kernel, grid, HYB_SUM_THREADS, 0, stream, *adam, n, gradient, weights, first_moment, second_moment,
               state->not_finite);
    return (int)cudaGetLastError();
}
