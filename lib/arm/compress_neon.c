/* compress_neon.c - the kernels of gradient compression for NEON: lib/simd/compress_template.h, instantiated. */
#include "../common.h"

#if HYB_ARM64

#include "../simd/v16_neon.h"

#define SIMD_NAME(op) hyb_##op##_neon
#define SIMD_TARGET static
#define SIMD_ISA HYB_ISA_NEON

V16_FUNCTION float32x4_t v16_and_quarter(uint32x4_t mask, float32x4_t x) {
    return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(x)));
}
V16_FUNCTION v16 v16_where_above(v16 a, v16 t, v16 x) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) x.part[i] = v16_and_quarter(vcgtq_f32(a.part[i], t.part[i]), x.part[i]);
    return x;
}
V16_FUNCTION v16 v16_add_above(v16 sum, v16 a, v16 t, v16 x) { return v16_add(sum, v16_where_above(a, t, x)); }
V16_FUNCTION v16 v16_ternary(v16 x, v16 t) {
    const uint32x4_t sign = vdupq_n_u32(0x80000000u);
    v16 one = v16_set1(1.0f);
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) one.part[i] = vbslq_f32(sign, x.part[i], one.part[i]);
    return v16_where_above(v16_abs(x), t, one);
}
V16_FUNCTION v16 v16_count_above(v16 count, v16 a, v16 t) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) { /* minus -1 where above */
        uint32x4_t lanes = vreinterpretq_u32_f32(count.part[i]);
        count.part[i] = vreinterpretq_f32_u32(vsubq_u32(lanes, vcgtq_f32(a.part[i], t.part[i])));
    }
    return count;
}
V16_FUNCTION v16 v16_counts(v16 count) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) count.part[i] = vcvtq_f32_u32(vreinterpretq_u32_f32(count.part[i]));
    return count;
}
V16_FUNCTION void v16_store_digits(uint8_t *p, size_t n, v16 x) {
    uint16x4_t part[4];
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) part[i] = vmovn_u32(vcvtq_u32_f32(x.part[i]));
    uint8x8_t low = vmovn_u16(vcombine_u16(part[0], part[1])), high = vmovn_u16(vcombine_u16(part[2], part[3]));
    if (n == HYB_LANES) {
        vst1q_u8(p, vcombine_u8(low, high));
    } else {
        uint8_t digits[HYB_LANES];
        vst1q_u8(digits, vcombine_u8(low, high));
        memcpy(p, digits, n);
    }
}

#include "../simd/compress_template.h"

void hyb_install_compress_neon(hyb_kernels *table) { compress_install(table); }

#else

typedef int hyb_compress_neon_is_for_aarch64; /* C99 wants a declaration in every file */

#endif
