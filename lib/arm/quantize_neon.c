/* quantize_neon.c - elementwise kernels between floats and int8 codes, NEON. Specification: ref/quantize_ref.c, whose
 * functions also do the last n % 16 elements.
 */
#include "../common.h"

#if HYB_ARM64
#include <arm_neon.h>

HYB_INLINE int32x4_t scaled_i32x4(const float *x, float scale) {
    float32x4_t v = vmulq_n_f32(vld1q_f32(x), scale);
    v = vmaxq_f32(vminq_f32(v, vdupq_n_f32(127.0f)), vdupq_n_f32(-127.0f));
    return vcvtnq_s32_f32(v); /* to nearest, ties to even */
}

/* The low bytes of 16 integers. */
HYB_INLINE int8x16_t narrow(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
    int16x8_t low = vuzp1q_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
    int16x8_t high = vuzp1q_s16(vreinterpretq_s16_s32(c), vreinterpretq_s16_s32(d));
    return vuzp1q_s8(vreinterpretq_s8_s16(low), vreinterpretq_s8_s16(high));
}

static int32_t hyb_quantize_i8_neon(const float *x, size_t n, float inverse_scale, int8_t *codes) {
    int32x4_t sum = vdupq_n_s32(0);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        int8x16_t packed = narrow(scaled_i32x4(x + i, inverse_scale), scaled_i32x4(x + i + 4, inverse_scale),
                                  scaled_i32x4(x + i + 8, inverse_scale), scaled_i32x4(x + i + 12, inverse_scale));
        vst1q_s8(codes + i, packed);
        sum = vpadalq_s16(sum, vpaddlq_s8(packed));
    }
    return vaddvq_s32(sum) + hyb_quantize_i8_ref(x + i, n - i, inverse_scale, codes + i);
}

HYB_INLINE int32x4_t ternary_i32x4(const float *w, float32x4_t high, float32x4_t low) {
    float32x4_t v = vld1q_f32(w);
    /* a comparison is -1 where it holds */
    return vreinterpretq_s32_u32(vsubq_u32(vcltq_f32(v, low), vcgtq_f32(v, high)));
}

static void hyb_ternarize_neon(const float *w, size_t n, float threshold, int8_t *codes) {
    float32x4_t high = vdupq_n_f32(threshold), low = vdupq_n_f32(-threshold);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        vst1q_s8(codes + i, narrow(ternary_i32x4(w + i, high, low), ternary_i32x4(w + i + 4, high, low),
                                   ternary_i32x4(w + i + 8, high, low), ternary_i32x4(w + i + 12, high, low)));
    }
    hyb_ternarize_ref(w + i, n - i, threshold, codes + i);
}

static size_t hyb_count_flips_neon(const int8_t *a, const int8_t *b, size_t n, size_t *n_zeros) {
    uint64x2_t same = vdupq_n_u64(0), zeros = vdupq_n_u64(0);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        int8x16_t u = vld1q_s8(a + i), v = vld1q_s8(b + i);
        uint8x16_t same_16 = vshrq_n_u8(vceqq_s8(u, v), 7), zeros_16 = vshrq_n_u8(vceqzq_s8(v), 7);
        same = vpadalq_u32(same, vpaddlq_u16(vpaddlq_u8(same_16)));
        zeros = vpadalq_u32(zeros, vpaddlq_u16(vpaddlq_u8(zeros_16)));
    }
    *n_zeros += (size_t)vaddvq_u64(zeros);
    return i - (size_t)vaddvq_u64(same) + hyb_count_flips_ref(a + i, b + i, n - i, n_zeros);
}

static void hyb_dequantize_i8_neon(const int8_t *codes, size_t n, float s, float *y) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        int8x16_t c = vld1q_s8(codes + i);
        int16x8_t low = vmovl_s8(vget_low_s8(c)), high = vmovl_high_s8(c);
        vst1q_f32(y + i, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), s));
        vst1q_f32(y + i + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(low)), s));
        vst1q_f32(y + i + 8, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), s));
        vst1q_f32(y + i + 12, vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(high)), s));
    }
    hyb_dequantize_i8_ref(codes + i, n - i, s, y + i);
}

void hyb_install_quantize_neon(hyb_kernels *table) {
    HYB_INSTALL(table, quantize_i8, neon, HYB_ISA_NEON);
    HYB_INSTALL(table, ternarize, neon, HYB_ISA_NEON);
    HYB_INSTALL(table, count_flips, neon, HYB_ISA_NEON);
    HYB_INSTALL(table, dequantize_i8, neon, HYB_ISA_NEON);
}

#else

typedef int hyb_quantize_neon_is_for_aarch64; /* C99 wants a declaration in every file */

#endif
