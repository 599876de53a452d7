/* v16_neon.h - v16, sixteen floats, as four NEON registers. The same operations as v16_avx2.h; what each does is said
 * there. Included by lib/arm files only.
 */
#ifndef HYB_V16_NEON_H
#define HYB_V16_NEON_H

#include <arm_neon.h>

#include "../common.h"

#define V16_FUNCTION HYB_INLINE

typedef struct v16 {
    float32x4_t part[4];
} v16;

V16_FUNCTION v16 v16_set1(float x) {
    float32x4_t y = vdupq_n_f32(x);
    v16 r = {{y, y, y, y}};
    return r;
}
V16_FUNCTION v16 v16_zero(void) { return v16_set1(0.0f); }
V16_FUNCTION v16 v16_load(const float *p) {
    v16 r = {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
    return r;
}
V16_FUNCTION void v16_store(float *p, v16 x) {
    vst1q_f32(p, x.part[0]);
    vst1q_f32(p + 4, x.part[1]);
    vst1q_f32(p + 8, x.part[2]);
    vst1q_f32(p + 12, x.part[3]);
}

/* There are no masked loads: the last n % 4 lanes go one by one. */
V16_FUNCTION float32x4_t v16_load_quarter(const float *p, size_t n, float32x4_t otherwise) {
    float32x4_t x = otherwise;
    if (n >= 4) return vld1q_f32(p);
    if (n > 0) x = vld1q_lane_f32(p, x, 0);
    if (n > 1) x = vld1q_lane_f32(p + 1, x, 1);
    if (n > 2) x = vld1q_lane_f32(p + 2, x, 2);
    return x;
}
V16_FUNCTION size_t v16_lanes_from(size_t n, size_t first) { return n > first ? n - first : 0; }
V16_FUNCTION v16 v16_load_part_or(const float *p, size_t n, v16 otherwise) {
    v16 r;
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) {
        size_t n_here = v16_lanes_from(n, 4 * i);
        r.part[i] = n_here == 0 ? otherwise.part[i] : v16_load_quarter(p + 4 * i, n_here, otherwise.part[i]);
    }
    return r;
}
V16_FUNCTION v16 v16_load_part(const float *p, size_t n) { return v16_load_part_or(p, n, v16_zero()); }
V16_FUNCTION void v16_store_part(float *p, size_t n, v16 x) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) {
        size_t n_here = v16_lanes_from(n, 4 * i);
        if (n_here >= 4) {
            vst1q_f32(p + 4 * i, x.part[i]);
            continue;
        }
        if (n_here > 0) vst1q_lane_f32(p + 4 * i, x.part[i], 0);
        if (n_here > 1) vst1q_lane_f32(p + 4 * i + 1, x.part[i], 1);
        if (n_here > 2) vst1q_lane_f32(p + 4 * i + 2, x.part[i], 2);
    }
}
V16_FUNCTION v16 v16_keep(size_t n, v16 x) {
    static const uint32_t lanes[4] = {0, 1, 2, 3};
    uint32x4_t lane = vld1q_u32(lanes), limit = vdupq_n_u32((uint32_t)n);
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) {
        uint32x4_t mask = vcltq_u32(vaddq_u32(lane, vdupq_n_u32((uint32_t)(4 * i))), limit);
        x.part[i] = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x.part[i]), mask));
    }
    return x;
}

/* All 16 lanes, or the first n. */
V16_FUNCTION v16 v16_get(const float *p, size_t n) { return n == HYB_LANES ? v16_load(p) : v16_load_part(p, n); }
V16_FUNCTION void v16_put(float *p, size_t n, v16 x) {
    if (n == HYB_LANES) {
        v16_store(p, x);
    } else {
        v16_store_part(p, n, x);
    }
}

/* FMAX and FMIN treat NaN and signed zeros otherwise than C's a > b ? a : b, which the reference has. */
V16_FUNCTION float32x4_t v16_max_quarter(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
V16_FUNCTION float32x4_t v16_min_quarter(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }

#define V16_BINARY(name, instruction)                                                                                  \
    V16_FUNCTION v16 v16_##name(v16 a, v16 b) {                                                                        \
        v16 r = {{instruction(a.part[0], b.part[0]), instruction(a.part[1], b.part[1]),                                \
                  instruction(a.part[2], b.part[2]), instruction(a.part[3], b.part[3])}};                              \
        return r;                                                                                                      \
    }
V16_BINARY(add, vaddq_f32)
V16_BINARY(sub, vsubq_f32)
V16_BINARY(mul, vmulq_f32)
V16_BINARY(div, vdivq_f32)
V16_BINARY(max, v16_max_quarter)
V16_BINARY(min, v16_min_quarter)
#undef V16_BINARY

#define V16_UNARY(name, instruction)                                                                                   \
    V16_FUNCTION v16 v16_##name(v16 a) {                                                                               \
        v16 r = {{instruction(a.part[0]), instruction(a.part[1]), instruction(a.part[2]), instruction(a.part[3])}};    \
        return r;                                                                                                      \
    }
V16_UNARY(sqrt, vsqrtq_f32)
V16_UNARY(abs, vabsq_f32)
V16_UNARY(negate, vnegq_f32)
#undef V16_UNARY

V16_FUNCTION v16 v16_fma(v16 a, v16 b, v16 c) {
    v16 r = {{vfmaq_f32(c.part[0], a.part[0], b.part[0]), vfmaq_f32(c.part[1], a.part[1], b.part[1]),
              vfmaq_f32(c.part[2], a.part[2], b.part[2]), vfmaq_f32(c.part[3], a.part[3], b.part[3])}};
    return r;
}

V16_FUNCTION float32x4_t v16_exp_scale_quarter(float32x4_t t, float32x4_t n, float32x4_t shifted) {
    uint32x4_t above = vcgtq_f32(n, vdupq_n_f32(127.0f)); /* all ones: -1 */
    uint32x4_t bias = vdupq_n_u32(127u - 0x4b400000u);    /* 0x4b400000: the bits of 1.5 * 2^23 */
    uint32x4_t exponent = vaddq_u32(vaddq_u32(vreinterpretq_u32_f32(shifted), bias), above);
    float32x4_t last = vbslq_f32(above, vdupq_n_f32(2.0f), vdupq_n_f32(1.0f));
    return vmulq_f32(vmulq_f32(t, vreinterpretq_f32_u32(vshlq_n_u32(exponent, 23))), last);
}
V16_FUNCTION v16 v16_exp_scale(v16 t, v16 n, v16 shifted) {
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) t.part[i] = v16_exp_scale_quarter(t.part[i], n.part[i], shifted.part[i]);
    return t;
}

V16_FUNCTION float32x4_t v16_max_bits_quarter(float32x4_t a, float32x4_t b) {
    return vreinterpretq_f32_u32(vmaxq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)));
}
V16_FUNCTION v16 v16_max_bits(v16 a, v16 b) {
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) a.part[i] = v16_max_bits_quarter(a.part[i], b.part[i]);
    return a;
}
V16_FUNCTION uint32_t v16_reduce_max_bits(v16 x) {
    float32x4_t y =
        v16_max_bits_quarter(v16_max_bits_quarter(x.part[0], x.part[1]), v16_max_bits_quarter(x.part[2], x.part[3]));
    return vmaxvq_u32(vreinterpretq_u32_f32(y));
}

/* Lanes l, l + 8, l + 4, l + 12 of l < 4, added in the order of the tree in kernels.h. */
V16_FUNCTION float32x4_t v16_fold_to_4(v16 x) {
    return vaddq_f32(vaddq_f32(x.part[0], x.part[2]), vaddq_f32(x.part[1], x.part[3]));
}
V16_FUNCTION float v16_reduce_add(v16 x) {
    float32x4_t y = v16_fold_to_4(x);
    float32x2_t z = vadd_f32(vget_low_f32(y), vget_high_f32(y));
    return vget_lane_f32(z, 0) + vget_lane_f32(z, 1);
}
V16_FUNCTION float v16_reduce_max(v16 x) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.part[0], x.part[1]), vmaxq_f32(x.part[2], x.part[3])));
}

/* Turns 4 rows of 4 into columns. */
V16_FUNCTION void v16_transpose_4(const float32x4_t *x, float32x4_t *y) {
    float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(x[0], x[1])), b = vreinterpretq_f64_f32(vtrn2q_f32(x[0], x[1]));
    float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(x[2], x[3])), d = vreinterpretq_f64_f32(vtrn2q_f32(x[2], x[3]));
    y[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    y[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    y[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    y[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

V16_FUNCTION v16 v16_reduce_add_16(const v16 *x) {
    v16 r;
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) {
        float32x4_t rows[4], lanes[4];
        HYB_UNROLL
        for (int j = 0; j < 4; ++j) rows[j] = v16_fold_to_4(x[4 * i + j]);
        v16_transpose_4(rows, lanes);
        r.part[i] = vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3]));
    }
    return r;
}

V16_FUNCTION void v16_transpose(v16 *x) {
    v16 y[HYB_LANES];
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) {
        HYB_UNROLL
        for (int j = 0; j < 4; ++j) {
            float32x4_t rows[4], columns[4];
            HYB_UNROLL
            for (int r = 0; r < 4; ++r) rows[r] = x[4 * i + r].part[j];
            v16_transpose_4(rows, columns);
            HYB_UNROLL
            for (int r = 0; r < 4; ++r) y[4 * j + r].part[i] = columns[r];
        }
    }
    HYB_UNROLL
    for (int i = 0; i < HYB_LANES; ++i) x[i] = y[i];
}

/* Sixteen sums in double precision. */
typedef struct v16_f64 {
    float64x2_t part[8];
} v16_f64;
V16_FUNCTION v16_f64 v16_f64_zero(void) {
    v16_f64 r;
    HYB_UNROLL
    for (int i = 0; i < 8; ++i) r.part[i] = vdupq_n_f64(0.0);
    return r;
}
V16_FUNCTION v16_f64 v16_f64_add_squares(v16_f64 sum, v16 x) {
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) {
        float64x2_t low = vcvt_f64_f32(vget_low_f32(x.part[i])), high = vcvt_high_f64_f32(x.part[i]);
        sum.part[2 * i] = vfmaq_f64(sum.part[2 * i], low, low);
        sum.part[2 * i + 1] = vfmaq_f64(sum.part[2 * i + 1], high, high);
    }
    return sum;
}
V16_FUNCTION void v16_f64_store(double *p, v16_f64 sum) {
    HYB_UNROLL
    for (int i = 0; i < 8; ++i) vst1q_f64(p + 2 * i, sum.part[i]);
}

/* Sixteen 32-bit integers. */
typedef struct v16i {
    uint32x4_t part[4];
} v16i;

V16_FUNCTION v16i v16i_set1(uint32_t x) {
    uint32x4_t y = vdupq_n_u32(x);
    v16i r = {{y, y, y, y}};
    return r;
}
V16_FUNCTION v16i v16i_count(uint32_t first) {
    static const uint32_t lanes[4] = {0, 1, 2, 3};
    v16i r;
    HYB_UNROLL
    for (uint32_t i = 0; i < 4; ++i) r.part[i] = vaddq_u32(vld1q_u32(lanes), vdupq_n_u32(first + 4 * i));
    return r;
}
V16_FUNCTION v16i v16i_bits(v16 x) {
    v16i r;
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) r.part[i] = vreinterpretq_u32_f32(x.part[i]);
    return r;
}
V16_FUNCTION v16 v16i_floats(v16i x) {
    v16 r;
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) r.part[i] = vreinterpretq_f32_u32(x.part[i]);
    return r;
}

#define V16I_BINARY(name, instruction)                                                                                 \
    V16_FUNCTION v16i v16i_##name(v16i a, v16i b) {                                                                    \
        v16i r = {{instruction(a.part[0], b.part[0]), instruction(a.part[1], b.part[1]),                               \
                   instruction(a.part[2], b.part[2]), instruction(a.part[3], b.part[3])}};                             \
        return r;                                                                                                      \
    }
V16I_BINARY(add, vaddq_u32)
V16I_BINARY(sub, vsubq_u32)
V16I_BINARY(mul, vmulq_u32)
V16I_BINARY(and, vandq_u32)
V16I_BINARY(xor, veorq_u32)
#undef V16I_BINARY
V16_FUNCTION v16i v16i_shift_left(v16i x, int count) {
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) x.part[i] = vshlq_u32(x.part[i], vdupq_n_s32(count));
    return x;
}
V16_FUNCTION v16i v16i_shift_right(v16i x, int count) { return v16i_shift_left(x, -count); }

V16_FUNCTION v16i v16i_load_bytes(const uint8_t *p) {
    uint8x16_t bytes = vld1q_u8(p);
    uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    v16i r = {{vmovl_u16(vget_low_u16(low)), vmovl_u16(vget_high_u16(low)), vmovl_u16(vget_low_u16(high)),
               vmovl_u16(vget_high_u16(high))}};
    return r;
}
V16_FUNCTION void v16i_store_bytes(uint8_t *p, v16i x) {
    uint16x8_t low = vcombine_u16(vmovn_u32(x.part[0]), vmovn_u32(x.part[1]));
    uint16x8_t high = vcombine_u16(vmovn_u32(x.part[2]), vmovn_u32(x.part[3]));
    vst1q_u8(p, vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
}

#endif /* HYB_V16_NEON_H */
