/* v8_avx2.h - v8, eight doubles, as two AVX2 registers, and what K-means needs of v16 beyond v16_avx2.h. Lane i is
 * element i in memory. Each operation but fma rounds every lane by itself, as C does. Included by lib/x86 files only.
 */
#ifndef HYB_V8_AVX2_H
#define HYB_V8_AVX2_H

#include "v16_avx2.h"

typedef struct v8 {
    __m256d low, high;
} v8;

V16_FUNCTION v8 v8_join(__m256d low, __m256d high) {
    v8 r = {low, high};
    return r;
}

V16_FUNCTION v8 v8_set1(double x) { return v8_join(_mm256_set1_pd(x), _mm256_set1_pd(x)); }
V16_FUNCTION v8 v8_load(const double *p) { return v8_join(_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)); }
/* Eight floats, widened. */
V16_FUNCTION v8 v8_load_f32(const float *p) {
    return v8_join(_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4)));
}
V16_FUNCTION void v8_store(double *p, v8 x) {
    _mm256_storeu_pd(p, x.low);
    _mm256_storeu_pd(p + 4, x.high);
}
/* Rounded to floats. */
V16_FUNCTION void v8_store_f32(float *p, v8 x) {
    _mm_storeu_ps(p, _mm256_cvtpd_ps(x.low));
    _mm_storeu_ps(p + 4, _mm256_cvtpd_ps(x.high));
}
/* Whole numbers, as integers. */
V16_FUNCTION void v8_store_i32(int32_t *p, v8 x) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtpd_epi32(x.low));
    _mm_storeu_si128((__m128i *)(void *)(p + 4), _mm256_cvtpd_epi32(x.high));
}

#define V8_BINARY(name, instruction)                                                                                   \
    V16_FUNCTION v8 v8_##name(v8 a, v8 b) { return v8_join(instruction(a.low, b.low), instruction(a.high, b.high)); }
V8_BINARY(add, _mm256_add_pd)
V8_BINARY(sub, _mm256_sub_pd)
V8_BINARY(mul, _mm256_mul_pd)
V8_BINARY(max, _mm256_max_pd)
V8_BINARY(min, _mm256_min_pd)
#undef V8_BINARY

V16_FUNCTION v8 v8_sqrt(v8 a) { return v8_join(_mm256_sqrt_pd(a.low), _mm256_sqrt_pd(a.high)); }
/* a * b + c, rounded once: RELAXED kernels only. */
V16_FUNCTION v8 v8_fma(v8 a, v8 b, v8 c) {
    return v8_join(_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high));
}
/* a > b ? x : otherwise, lane by lane; a NaN is not above anything. */
V16_FUNCTION v8 v8_pick(v8 otherwise, v8 a, v8 b, v8 x) {
    return v8_join(_mm256_blendv_pd(otherwise.low, x.low, _mm256_cmp_pd(a.low, b.low, _CMP_GT_OQ)),
                   _mm256_blendv_pd(otherwise.high, x.high, _mm256_cmp_pd(a.high, b.high, _CMP_GT_OQ)));
}

V16_FUNCTION v16 v16_pick(v16 otherwise, v16 a, v16 b, v16 x) {
    return v16_join(_mm256_blendv_ps(otherwise.low, x.low, _mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ)),
                    _mm256_blendv_ps(otherwise.high, x.high, _mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ)));
}
V16_FUNCTION void v16_store_f32(float *p, v16 x) { v16_store(p, x); }
V16_FUNCTION void v16_store_i32(int32_t *p, v16 x) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_cvtps_epi32(x.low));
    _mm256_storeu_si256((__m256i *)(void *)(p + 8), _mm256_cvtps_epi32(x.high));
}

#endif /* HYB_V8_AVX2_H */
