/* v8_avx512.h - v8, eight doubles, as one AVX-512 register, and what K-means needs of v16 beyond v16_avx512.h. The same
 * operations as v8_avx2.h; what each does is said there. Included by lib/x86 files only.
 */
#ifndef HYB_V8_AVX512_H
#define HYB_V8_AVX512_H

#include "v16_avx512.h"

typedef __m512d v8;

V16_FUNCTION v8 v8_set1(double x) { return _mm512_set1_pd(x); }
V16_FUNCTION v8 v8_load(const double *p) { return _mm512_loadu_pd(p); }
V16_FUNCTION v8 v8_load_f32(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
V16_FUNCTION void v8_store(double *p, v8 x) { _mm512_storeu_pd(p, x); }
V16_FUNCTION void v8_store_f32(float *p, v8 x) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(x)); }
V16_FUNCTION void v8_store_i32(int32_t *p, v8 x) { _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtpd_epi32(x)); }
V16_FUNCTION v8 v8_add(v8 a, v8 b) { return _mm512_add_pd(a, b); }
V16_FUNCTION v8 v8_sub(v8 a, v8 b) { return _mm512_sub_pd(a, b); }
V16_FUNCTION v8 v8_mul(v8 a, v8 b) { return _mm512_mul_pd(a, b); }
V16_FUNCTION v8 v8_max(v8 a, v8 b) { return _mm512_max_pd(a, b); }
V16_FUNCTION v8 v8_min(v8 a, v8 b) { return _mm512_min_pd(a, b); }
V16_FUNCTION v8 v8_sqrt(v8 a) { return _mm512_sqrt_pd(a); }
V16_FUNCTION v8 v8_fma(v8 a, v8 b, v8 c) { return _mm512_fmadd_pd(a, b, c); }
V16_FUNCTION v8 v8_pick(v8 otherwise, v8 a, v8 b, v8 x) {
    return _mm512_mask_mov_pd(otherwise, _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ), x);
}

V16_FUNCTION v16 v16_pick(v16 otherwise, v16 a, v16 b, v16 x) {
    return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), x);
}
V16_FUNCTION void v16_store_f32(float *p, v16 x) { v16_store(p, x); }
V16_FUNCTION void v16_store_i32(int32_t *p, v16 x) { _mm512_storeu_si512(p, _mm512_cvtps_epi32(x)); }

#endif /* HYB_V8_AVX512_H */
