/* compress_avx2.c - the kernels of gradient compression for AVX2: lib/simd/compress_template.h, instantiated. */
#include "../common.h"

#if HYB_X86

#include "../simd/v16_avx2.h"

#define SIMD_NAME(op) hyb_##op##_avx2
#define SIMD_TARGET static HYB_TARGET_AVX2
#define SIMD_ISA HYB_ISA_AVX2

V16_FUNCTION v16 v16_where_above(v16 a, v16 t, v16 x) {
    return v16_join(_mm256_and_ps(_mm256_cmp_ps(a.low, t.low, _CMP_GT_OQ), x.low),
                    _mm256_and_ps(_mm256_cmp_ps(a.high, t.high, _CMP_GT_OQ), x.high));
}
V16_FUNCTION v16 v16_add_above(v16 sum, v16 a, v16 t, v16 x) { return v16_add(sum, v16_where_above(a, t, x)); }
V16_FUNCTION __m256 v16_signed_one(__m256 x) {
    return _mm256_or_ps(_mm256_and_ps(x, _mm256_set1_ps(-0.0f)), _mm256_set1_ps(1.0f));
}
V16_FUNCTION v16 v16_ternary(v16 x, v16 t) {
    return v16_where_above(v16_abs(x), t, v16_join(v16_signed_one(x.low), v16_signed_one(x.high)));
}
V16_FUNCTION __m256 v16_count_half(__m256 count, __m256 a, __m256 t) {
    __m256i above = _mm256_castps_si256(_mm256_cmp_ps(a, t, _CMP_GT_OQ)); /* -1 where true */
    return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(count), above));
}
V16_FUNCTION v16 v16_count_above(v16 count, v16 a, v16 t) {
    return v16_join(v16_count_half(count.low, a.low, t.low), v16_count_half(count.high, a.high, t.high));
}
V16_FUNCTION v16 v16_counts(v16 count) {
    return v16_join(_mm256_cvtepi32_ps(_mm256_castps_si256(count.low)),
                    _mm256_cvtepi32_ps(_mm256_castps_si256(count.high)));
}
V16_FUNCTION void v16_store_digits(uint8_t *p, size_t n, v16 x) {
    __m256i both = _mm256_packs_epi32(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high));
    both = _mm256_permute4x64_epi64(both, 0xd8); /* packing took four of each in turn */
    __m128i digits = _mm_packus_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    if (n == HYB_LANES) {
        _mm_storeu_si128((__m128i *)(void *)p, digits);
    } else {
        uint8_t part[HYB_LANES];
        _mm_storeu_si128((__m128i *)(void *)part, digits);
        memcpy(p, part, n);
    }
}

#include "../simd/compress_template.h"

void hyb_install_compress_avx2(hyb_kernels *table) { compress_install(table); }

#else

typedef int hyb_compress_avx2_is_for_x86; /* C99 wants a declaration in every file */

#endif
