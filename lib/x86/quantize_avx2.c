/* quantize_avx2.c - elementwise kernels between floats and int8 codes, AVX2. Specification: ref/quantize_ref.c, whose
 * functions also do the last n % 32 elements.
 *
 * Source: Intel 64 instruction set reference; vcvtps2dq rounds half to even in the default rounding mode.
 */
#include "../common.h"

#if HYB_X86
#include <immintrin.h>

/* Dwords of a pack of four groups come out in the order 0 4 1 5 2 6 3 7: this undoes it. */
#define UNZIP_PACKED _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)

HYB_INLINE HYB_TARGET_AVX2 __m256i scaled_i32x8(const float *x, __m256 scale) {
    __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x), scale);
    v = _mm256_max_ps(_mm256_min_ps(v, _mm256_set1_ps(127.0f)), _mm256_set1_ps(-127.0f));
    return _mm256_cvtps_epi32(v);
}

static HYB_TARGET_AVX2 int32_t hyb_quantize_i8_avx2(const float *x, size_t n, float inverse_scale, int8_t *codes) {
    __m256 scale = _mm256_set1_ps(inverse_scale);
    __m256i sum_i32x8 = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i a = scaled_i32x8(x + i, scale), b = scaled_i32x8(x + i + 8, scale);
        __m256i c = scaled_i32x8(x + i + 16, scale), d = scaled_i32x8(x + i + 24, scale);
        __m256i ab = _mm256_packs_epi32(a, b), cd = _mm256_packs_epi32(c, d);
        __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), UNZIP_PACKED);
        _mm256_storeu_si256((__m256i *)(void *)(codes + i), packed);
        sum_i32x8 = _mm256_add_epi32(sum_i32x8, _mm256_madd_epi16(_mm256_add_epi16(ab, cd), _mm256_set1_epi16(1)));
    }
    int32_t lanes[8], sum = 0;
    _mm256_storeu_si256((__m256i *)(void *)lanes, sum_i32x8);
    for (size_t l = 0; l < 8; ++l) sum += lanes[l];
    return sum + hyb_quantize_i8_ref(x + i, n - i, inverse_scale, codes + i);
}

HYB_INLINE HYB_TARGET_AVX2 __m256i ternary_i32x8(const float *w, __m256 high, __m256 low) {
    __m256 v = _mm256_loadu_ps(w);
    __m256i above = _mm256_castps_si256(_mm256_cmp_ps(v, high, _CMP_GT_OQ)); /* -1 where true */
    __m256i below = _mm256_castps_si256(_mm256_cmp_ps(v, low, _CMP_LT_OQ));
    return _mm256_sub_epi32(below, above);
}

static HYB_TARGET_AVX2 void hyb_ternarize_avx2(const float *w, size_t n, float threshold, int8_t *codes) {
    __m256 high = _mm256_set1_ps(threshold), low = _mm256_set1_ps(-threshold);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i ab = _mm256_packs_epi32(ternary_i32x8(w + i, high, low), ternary_i32x8(w + i + 8, high, low));
        __m256i cd = _mm256_packs_epi32(ternary_i32x8(w + i + 16, high, low), ternary_i32x8(w + i + 24, high, low));
        __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), UNZIP_PACKED);
        _mm256_storeu_si256((__m256i *)(void *)(codes + i), packed);
    }
    hyb_ternarize_ref(w + i, n - i, threshold, codes + i);
}

static HYB_TARGET_AVX2 size_t hyb_count_flips_avx2(const int8_t *a, const int8_t *b, size_t n, size_t *n_zeros) {
    __m256i zero = _mm256_setzero_si256(), one = _mm256_set1_epi8(1);
    __m256i same_i64x4 = zero, zeros_i64x4 = zero;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i u = _mm256_loadu_si256((const __m256i *)(const void *)(a + i));
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(b + i));
        __m256i same = _mm256_and_si256(_mm256_cmpeq_epi8(u, v), one);
        __m256i zeros = _mm256_and_si256(_mm256_cmpeq_epi8(v, zero), one);
        same_i64x4 = _mm256_add_epi64(same_i64x4, _mm256_sad_epu8(same, zero));
        zeros_i64x4 = _mm256_add_epi64(zeros_i64x4, _mm256_sad_epu8(zeros, zero));
    }
    uint64_t lanes[8];
    _mm256_storeu_si256((__m256i *)(void *)lanes, same_i64x4);
    _mm256_storeu_si256((__m256i *)(void *)(lanes + 4), zeros_i64x4);
    size_t n_same = (size_t)(lanes[0] + lanes[1] + lanes[2] + lanes[3]);
    *n_zeros += (size_t)(lanes[4] + lanes[5] + lanes[6] + lanes[7]);
    return i - n_same + hyb_count_flips_ref(a + i, b + i, n - i, n_zeros);
}

static HYB_TARGET_AVX2 void hyb_dequantize_i8_avx2(const int8_t *codes, size_t n, float s, float *y) {
    __m256 scale = _mm256_set1_ps(s);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(const void *)(codes + i));
        __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(c));
        __m256 high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(c, 8)));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(low, scale));
        _mm256_storeu_ps(y + i + 8, _mm256_mul_ps(high, scale));
    }
    hyb_dequantize_i8_ref(codes + i, n - i, s, y + i);
}

void hyb_install_quantize_avx2(hyb_kernels *table) {
    HYB_INSTALL(table, quantize_i8, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, ternarize, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, count_flips, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, dequantize_i8, avx2, HYB_ISA_AVX2);
}
#endif
