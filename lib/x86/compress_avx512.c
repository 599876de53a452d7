/* compress_avx512.c - the kernels of gradient compression for AVX-512: lib/simd/compress_template.h, instantiated.
 */
#include "../common.h"

#if HYB_X86

#include "../simd/v16_avx512.h"

#define SIMD_NAME(op) hyb_##op##_avx512
#define SIMD_TARGET static HYB_TARGET_AVX512
#define SIMD_ISA HYB_ISA_AVX512

V16_FUNCTION v16 v16_where_above(v16 a, v16 t, v16 x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, t, _CMP_GT_OQ), x);
}
V16_FUNCTION v16 v16_add_above(v16 sum, v16 a, v16 t, v16 x) {
    return _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask(a, t, _CMP_GT_OQ), sum, x);
}
V16_FUNCTION v16 v16_ternary(v16 x, v16 t) {
    v16 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f));
    return _mm512_maskz_or_ps(_mm512_cmp_ps_mask(v16_abs(x), t, _CMP_GT_OQ), sign, _mm512_set1_ps(1.0f));
}
V16_FUNCTION v16 v16_count_above(v16 count, v16 a, v16 t) {
    __m512i lanes = _mm512_castps_si512(count);
    __mmask16 above = _mm512_cmp_ps_mask(a, t, _CMP_GT_OQ);
    return _mm512_castsi512_ps(_mm512_mask_add_epi32(lanes, above, lanes, _mm512_set1_epi32(1)));
}
V16_FUNCTION v16 v16_counts(v16 count) { return _mm512_cvtepi32_ps(_mm512_castps_si512(count)); }
V16_FUNCTION void v16_store_digits(uint8_t *p, size_t n, v16 x) {
    __m128i digits = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
    if (n == HYB_LANES)
        _mm_storeu_si128((__m128i *)(void *)p, digits);
    else
        _mm_mask_storeu_epi8(p, v16_mask(n), digits);
}

#include "../simd/compress_template.h"

void hyb_install_compress_avx512(hyb_kernels *table) { compress_install(table); }

#else

typedef int hyb_compress_avx512_is_for_x86; /* C99 wants a declaration in every file */

#endif
