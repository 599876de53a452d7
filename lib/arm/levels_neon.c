/* levels_neon.c - rounding to 3 or 5 levels for NEON: lib/simd/levels_template.h, for floats and for doubles. FMAX and
 * FMIN keep a NaN.
 */
#include "../common.h"

#if HYB_ARM64

#include <arm_neon.h>

#define LEVELS_NAME_OF(op) hyb_##op##_neon
#define LEVELS_NAME(op) LEVELS_NAME_OF(op)
#define LEVELS_REF_OF(op) hyb_##op##_ref
#define LEVELS_REF(op) LEVELS_REF_OF(op)
#define LEVELS_TARGET static

#define LEVELS_OP quantize_levels_f32
#define LEVELS_SCALAR float
#define LEVELS_VECTOR float32x4_t
#define LEVELS_LANES 4
#define LEVELS_LOAD vld1q_f32
#define LEVELS_STORE vst1q_f32
#define LEVELS_SET(value) vdupq_n_f32((float)(value))
#define LEVELS_MAX vmaxq_f32
#define LEVELS_MIN vminq_f32
#define LEVELS_MUL vmulq_f32
#define LEVELS_OR(a, b) vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)))
#define LEVELS_ROUND vrndnq_f32
#include "../simd/levels_template.h"

#define LEVELS_OP quantize_levels_f64
#define LEVELS_SCALAR double
#define LEVELS_VECTOR float64x2_t
#define LEVELS_LANES 2
#define LEVELS_LOAD vld1q_f64
#define LEVELS_STORE vst1q_f64
#define LEVELS_SET(value) vdupq_n_f64(value)
#define LEVELS_MAX vmaxq_f64
#define LEVELS_MIN vminq_f64
#define LEVELS_MUL vmulq_f64
#define LEVELS_OR(a, b) vreinterpretq_f64_u64(vorrq_u64(vreinterpretq_u64_f64(a), vreinterpretq_u64_f64(b)))
#define LEVELS_ROUND vrndnq_f64
#include "../simd/levels_template.h"

void hyb_install_levels_neon(hyb_kernels *table) {
    HYB_INSTALL(table, quantize_levels_f32, neon, HYB_ISA_NEON);
    HYB_INSTALL(table, quantize_levels_f64, neon, HYB_ISA_NEON);
}

#else

typedef int hyb_levels_neon_is_for_aarch64; /* C99 wants a declaration in every file */

#endif
