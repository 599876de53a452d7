/* optimize.cu - AdamW: one pass over weights, gradient and moments. The CPU's: lib/optimize.c; its kernel, and the
 * order of operations: v16_adamw of lib/simd/vector_template.h, fused multiply-adds and all.
 */
#include "adam.h"

namespace {

struct adamw_step {
    hyb_cuda_adam a;
    __device__ __forceinline__ void operator()(float g, float *w, float *m, float *v) const {
        float scaled = g * a.gradient_scale;
        *m = fmaf(a.beta1, *m, a.one_minus_beta1 * scaled);
        *v = fmaf(a.beta2, *v, a.one_minus_beta2 * (scaled * scaled));
        float size = fmaf(sqrtf(*v), a.inv_sqrt_correction2, a.epsilon);
        *w = fmaf(*w, a.decay, -a.step_size * (*m / size));
    }
};

} // namespace

int hyb_module_adamw(hyb_cuda_state *state, const hyb_cuda_adam *adam, size_t n, const float *gradient, float *weights,
                     float *first_moment, float *second_moment, void *stream) {
    HYB_CUDA_BEGIN(state);
    return hyb_adam_pass(state, adamw_step{*adam}, n, gradient, weights, first_moment, second_moment, stream);
}
