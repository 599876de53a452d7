/* v8_neon.h - v8, eight doubles, as four NEON registers, and what K-means needs of v16 beyond v16_neon.h. The same
 * operations as v8_avx2.h; what each does is said there. Included by lib/arm files only.
 */
#ifndef HYB_V8_NEON_H
#define HYB_V8_NEON_H

#include "v16_neon.h"

typedef struct v8 {
    float64x2_t part[4];
} v8;

V16_FUNCTION v8 v8_set1(double x) {
    float64x2_t y = vdupq_n_f64(x);
    v8 r = {{y, y, y, y}};
    return r;
}
V16_FUNCTION v8 v8_load(const double *p) {
    v8 r = {{vld1q_f64(p), vld1q_f64(p + 2), vld1q_f64(p + 4), vld1q_f64(p + 6)}};
    return r;
}
V16_FUNCTION v8 v8_load_f32(const float *p) {
    float32x4_t low = vld1q_f32(p), high = vld1q_f32(p + 4);
    v8 r = {{vcvt_f64_f32(vget_low_f32(low)), vcvt_high_f64_f32(low), vcvt_f64_f32(vget_low_f32(high)),
             vcvt_high_f64_f32(high)}};
    return r;
}
V16_FUNCTION void v8_store(double *p, v8 x) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) vst1q_f64(p + 2 * i, x.part[i]);
}
V16_FUNCTION void v8_store_f32(float *p, v8 x) {
    vst1q_f32(p, vcvt_high_f32_f64(vcvt_f32_f64(x.part[0]), x.part[1]));
    vst1q_f32(p + 4, vcvt_high_f32_f64(vcvt_f32_f64(x.part[2]), x.part[3]));
}
V16_FUNCTION void v8_store_i32(int32_t *p, v8 x) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) vst1_s32(p + 2 * i, vmovn_s64(vcvtnq_s64_f64(x.part[i])));
}

#define V8_BINARY(name, instruction)                                                                                   \
    V16_FUNCTION v8 v8_##name(v8 a, v8 b) {                                                                            \
        HYB_UNROLL                                                                                                     \
        for (size_t i = 0; i < 4; ++i) a.part[i] = instruction(a.part[i], b.part[i]);                                  \
        return a;                                                                                                      \
    }
V8_BINARY(add, vaddq_f64)
V8_BINARY(sub, vsubq_f64)
V8_BINARY(mul, vmulq_f64)
V8_BINARY(max, vmaxnmq_f64)
V8_BINARY(min, vminnmq_f64)
#undef V8_BINARY

V16_FUNCTION v8 v8_sqrt(v8 a) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) a.part[i] = vsqrtq_f64(a.part[i]);
    return a;
}
V16_FUNCTION v8 v8_fma(v8 a, v8 b, v8 c) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) c.part[i] = vfmaq_f64(c.part[i], a.part[i], b.part[i]);
    return c;
}
V16_FUNCTION v8 v8_pick(v8 otherwise, v8 a, v8 b, v8 x) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) {
        otherwise.part[i] = vbslq_f64(vcgtq_f64(a.part[i], b.part[i]), x.part[i], otherwise.part[i]);
    }
    return otherwise;
}

V16_FUNCTION v16 v16_pick(v16 otherwise, v16 a, v16 b, v16 x) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) {
        otherwise.part[i] = vbslq_f32(vcgtq_f32(a.part[i], b.part[i]), x.part[i], otherwise.part[i]);
    }
    return otherwise;
}
V16_FUNCTION void v16_store_f32(float *p, v16 x) { v16_store(p, x); }
V16_FUNCTION void v16_store_i32(int32_t *p, v16 x) {
    HYB_UNROLL
    for (size_t i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, vcvtnq_s32_f32(x.part[i]));
}

#endif /* HYB_V8_NEON_H */
