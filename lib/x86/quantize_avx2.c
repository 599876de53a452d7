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

/* Codes + 1 of eight columns in dwords. */
HYB_INLINE HYB_TARGET_AVX2 __m256i fields_i32x8(const float *w, __m256 high, __m256 low) {
    return _mm256_add_epi32(ternary_i32x8(w, high, low), _mm256_set1_epi32(1));
}

/* The words of two groups of 16 columns, as the halves of a 64-bit number. The packs put planes 0, 2 of both groups
 * into the low lane and planes 1, 3 into the high one: two shifts bring the planes of a group together. */
HYB_INLINE HYB_TARGET_AVX2 __m128i two_words(const float *w, __m256 high, __m256 low) {
    __m256i ab = _mm256_packs_epi32(fields_i32x8(w, high, low), fields_i32x8(w + 8, high, low));
    __m256i cd = _mm256_packs_epi32(fields_i32x8(w + 16, high, low), fields_i32x8(w + 24, high, low));
    __m256i planes = _mm256_packs_epi16(ab, cd);
    __m128i odd = _mm_slli_epi32(_mm256_extracti128_si256(planes, 1), 2);
    __m128i pairs = _mm_or_si128(_mm256_castsi256_si128(planes), odd); /* dwords: p01, p23 of a group each */
    return _mm_or_si128(pairs, _mm_srli_epi64(pairs, 28));             /* the low dword of each half is the word */
}

/* 12 times the reference; in memory the reads are the limit. */
static HYB_TARGET_AVX2 size_t hyb_ternarize_pack_avx2(const float *w, size_t n, float threshold, uint8_t *words,
                                                      size_t *n_zeros) {
    const size_t step = HYB_BLOCK_ROWS * 4;
    __m256 high = _mm256_set1_ps(threshold), low = _mm256_set1_ps(-threshold);
    size_t n_flips = 0, zeros = 0, i = 0;
    for (; i + 32 <= n; i += 32, words += 2 * step) {
        __m128i both = two_words(w + i, high, low);
        uint32_t first = (uint32_t)_mm_cvtsi128_si32(both), second = (uint32_t)_mm_extract_epi32(both, 2);
        uint32_t change = first ^ hyb_load_u32(words), change2 = second ^ hyb_load_u32(words + step);
        hyb_store_u32(words, first);
        hyb_store_u32(words + step, second);
        /* A field's lower bit says zero; two such sets of bits fill one word to be counted. */
        change = ((change | change >> 1) & 0x55555555u) | ((change2 | change2 << 1) & 0xaaaaaaaau);
        n_flips += (size_t)__builtin_popcount(change);
        zeros += (size_t)__builtin_popcount((first & 0x55555555u) | (second & 0x55555555u) << 1);
    }
    *n_zeros += zeros;
    return n_flips + hyb_ternarize_pack_ref(w + i, n - i, threshold, words, n_zeros);
}

/* 6 to 7 times the reference. */
static HYB_TARGET_AVX2 void hyb_divide_i8_avx2(const float *x, size_t n, float scale, int8_t *codes) {
    __m256 divisor = _mm256_set1_ps(scale), high = _mm256_set1_ps(127.0f), low = _mm256_set1_ps(-127.0f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 a = _mm256_div_ps(_mm256_loadu_ps(x + i), divisor);
        __m256 b = _mm256_div_ps(_mm256_loadu_ps(x + i + 8), divisor);
        __m256i ra = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(a, high), low));
        __m256i rb = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(b, high), low));
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(ra, rb), 0xd8); /* lanes 0 2 1 3: in order */
        __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
        _mm_storeu_si128((__m128i *)(void *)(codes + i), bytes);
    }
    hyb_divide_i8_ref(x + i, n - i, scale, codes + i);
}

/* Sums of 16 lanes plus the last n values (n < 16), folded as the contract says. */
static HYB_TARGET_AVX2 float fold_lanes(__m256 low, __m256 high, const float *rest, size_t n, float threshold) {
    float lanes[HYB_LANES];
    _mm256_storeu_ps(lanes, low);
    _mm256_storeu_ps(lanes + 8, high);
    for (size_t l = 0; l < n; ++l) {
        float magnitude = hyb_float_of(hyb_bits_of(rest[l]) & 0x7fffffffu);
        lanes[l] += magnitude <= threshold ? 0.0f : magnitude; /* in this form a NaN is added */
    }
    for (size_t width = HYB_LANES / 2; width != 0; width /= 2)
        for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    return lanes[0];
}

/* 6 to 13 times the reference in the caches, 3 in memory. */
static HYB_TARGET_AVX2 hyb_magnitudes hyb_magnitudes_avx2(const float *x, size_t n) {
    __m256 low = _mm256_setzero_ps(), high = low, sign = _mm256_set1_ps(-0.0f);
    __m256i most = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 a = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)),
               b = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i + 8));
        low = _mm256_add_ps(low, a);
        high = _mm256_add_ps(high, b);
        most = _mm256_max_epu32(most, _mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
    }
    uint32_t bits[8];
    _mm256_storeu_si256((__m256i *)(void *)bits, most);
    hyb_magnitudes result = {fold_lanes(low, high, x + i, n - i, -1.0f), hyb_magnitudes_ref(x + i, n - i).max_bits};
    for (size_t l = 0; l < 8; ++l) result.max_bits = bits[l] > result.max_bits ? bits[l] : result.max_bits;
    return result;
}

/* 25 times the reference. */
static HYB_TARGET_AVX2 float hyb_sum_above_f32_avx2(const float *x, size_t n, float threshold, size_t *n_above) {
    __m256 low = _mm256_setzero_ps(), high = low, sign = _mm256_set1_ps(-0.0f), limit = _mm256_set1_ps(threshold);
    size_t count, i = 0;
    size_t n_whole = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 a = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)),
               b = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i + 8));
        __m256 a_is = _mm256_cmp_ps(a, limit, _CMP_GT_OQ), b_is = _mm256_cmp_ps(b, limit, _CMP_GT_OQ);
        low = _mm256_add_ps(low, _mm256_and_ps(a, a_is));
        high = _mm256_add_ps(high, _mm256_and_ps(b, b_is));
        unsigned mask = (unsigned)_mm256_movemask_ps(a_is) | (unsigned)_mm256_movemask_ps(b_is) << 8;
        n_whole += (size_t)__builtin_popcount(mask);
    }
    (void)hyb_sum_above_f32_ref(x + i, n - i, threshold, &count);
    *n_above = n_whole + count;
    return fold_lanes(low, high, x + i, n - i, threshold);
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
    HYB_INSTALL(table, ternarize_pack, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, divide_i8, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, magnitudes, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, sum_above_f32, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, count_flips, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, dequantize_i8, avx2, HYB_ISA_AVX2);
}
#endif
