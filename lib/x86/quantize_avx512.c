/* quantize_avx512.c - elementwise kernels between floats and int8 codes, AVX-512 F, BW, DQ, VL. Specification:
 * ref/quantize_ref.c. Kernels that were no faster than their AVX2 variant are not here. Tails are masked loads and
 * stores, which touch nothing outside the arrays.
 */
#include "../common.h"

#if HYB_X86
#include <immintrin.h>

/* The lowest n bits, n <= 16 or 64. */
#define MASK16(n) ((__mmask16)((1u << (n)) - 1u))
#define MASK64(n) ((n) == 64 ? ~(__mmask64)0 : ((__mmask64)1 << (n)) - 1)

/* 64 codes at a time, as far as that goes: *end values. Saturation bounds them below, and to -127 in a byte each. */
HYB_INLINE HYB_TARGET_AVX512 int32_t quantize_64s(const float *x, size_t n, __m512 scale, int8_t *codes, size_t *end) {
    const __m512 high = _mm512_set1_ps(127.0f);
    const __m512i lowest = _mm512_set1_epi8(-127), flip = _mm512_set1_epi8((char)0x80), zero = _mm512_setzero_si512();
    /* Packing leaves four values of each vector in turn. */
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i sum = zero;
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512i rounded[4];
        HYB_UNROLL for (size_t j = 0; j < 4; ++j) {
            __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i + 16 * j), scale);
            rounded[j] = _mm512_cvtps_epi32(_mm512_min_ps(v, high));
        }
        __m512i low = _mm512_packs_epi32(rounded[0], rounded[1]), top = _mm512_packs_epi32(rounded[2], rounded[3]);
        __m512i packed = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, top));
        packed = _mm512_max_epi8(packed, lowest);
        _mm512_storeu_si512((void *)(codes + i), packed);
        sum = _mm512_add_epi64(sum, _mm512_sad_epu8(_mm512_xor_si512(packed, flip), zero)); /* of code + 128 */
    }
    *end = i;
    return (int32_t)(_mm512_reduce_add_epi64(sum) - 128 * (int64_t)i);
}

static HYB_TARGET_AVX512 int32_t hyb_quantize_i8_avx512(const float *x, size_t n, float inverse_scale, int8_t *codes) {
    __m512 scale = _mm512_set1_ps(inverse_scale), high = _mm512_set1_ps(127.0f), low = _mm512_set1_ps(-127.0f);
    __m512i sum_i32x16 = _mm512_setzero_si512();
    size_t i = 0;
    int32_t sum = 0;
    if (n >= 64) sum = quantize_64s(x, n, scale, codes, &i);
    for (; i < n; i += 16) {
        __mmask16 mask = MASK16(hyb_min_size(n - i, 16));
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);
        v = _mm512_maskz_mov_ps(mask, _mm512_max_ps(_mm512_min_ps(v, high), low));
        __m512i rounded = _mm512_cvtps_epi32(v);
        _mm_mask_storeu_epi8(codes + i, mask, _mm512_cvtepi32_epi8(rounded));
        sum_i32x16 = _mm512_add_epi32(sum_i32x16, rounded);
    }
    return sum + _mm512_reduce_add_epi32(sum_i32x16);
}

static HYB_TARGET_AVX512 void hyb_ternarize_avx512(const float *w, size_t n, float threshold, int8_t *codes) {
    __m512 high = _mm512_set1_ps(threshold), low = _mm512_set1_ps(-threshold);
    __m128i one = _mm_set1_epi8(1), minus_one = _mm_set1_epi8(-1);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = MASK16(hyb_min_size(n - i, 16));
        __m512 v = _mm512_maskz_loadu_ps(mask, w + i);
        __m128i above = _mm_maskz_mov_epi8(_mm512_cmp_ps_mask(v, high, _CMP_GT_OQ), one);
        __m128i below = _mm_maskz_mov_epi8(_mm512_cmp_ps_mask(v, low, _CMP_LT_OQ), minus_one);
        _mm_mask_storeu_epi8(codes + i, mask, _mm_add_epi8(above, below));
    }
}

static HYB_TARGET_AVX512 float fold_lanes(__m512 sum) {
    float lanes[HYB_LANES];
    _mm512_storeu_ps(lanes, sum);
    for (size_t width = HYB_LANES / 2; width != 0; width /= 2)
        for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    return lanes[0];
}

/* 1.3 times the AVX2 variant in the first cache, where Lloyd with a scale per row works. */
static HYB_TARGET_AVX512 float hyb_sum_above_f32_avx512(const float *x, size_t n, float threshold, size_t *n_above) {
    __m512 sum = _mm512_setzero_ps(), limit = _mm512_set1_ps(threshold);
    size_t count = 0;
    for (size_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_abs_ps(n - i >= 16 ? _mm512_loadu_ps(x + i) : _mm512_maskz_loadu_ps(MASK16(n - i), x + i));
        __mmask16 above = _mm512_cmp_ps_mask(v, limit, _CMP_GT_OQ);
        sum = _mm512_mask_add_ps(sum, above, sum, v);
        count += (size_t)__builtin_popcount(above);
    }
    *n_above = count;
    return fold_lanes(sum);
}

static HYB_TARGET_AVX512 size_t hyb_count_flips_avx512(const int8_t *a, const int8_t *b, size_t n, size_t *n_zeros) {
    size_t n_flips = 0, zeros = 0;
    for (size_t i = 0; i < n; i += 64) {
        size_t count = hyb_min_size(n - i, 64);
        __mmask64 mask = MASK64(count);
        __m512i u = _mm512_maskz_loadu_epi8(mask, a + i), v = _mm512_maskz_loadu_epi8(mask, b + i);
        uint64_t differ = _mm512_mask_cmpneq_epi8_mask(mask, u, v), zero = _mm512_mask_testn_epi8_mask(mask, v, v);
        n_flips += (size_t)__builtin_popcountll(differ);
        zeros += (size_t)__builtin_popcountll(zero);
    }
    *n_zeros += zeros;
    return n_flips;
}

static HYB_TARGET_AVX512 void hyb_dequantize_i8_avx512(const int8_t *codes, size_t n, float s, float *y) {
    __m512 scale = _mm512_set1_ps(s);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = MASK16(hyb_min_size(n - i, 16));
        __m512i wide = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, codes + i));
        _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(_mm512_cvtepi32_ps(wide), scale));
    }
}

void hyb_install_quantize_avx512(hyb_kernels *table) {
    HYB_INSTALL(table, quantize_i8, avx512, HYB_ISA_AVX512);
    HYB_INSTALL(table, ternarize, avx512, HYB_ISA_AVX512);
    HYB_INSTALL(table, sum_above_f32, avx512, HYB_ISA_AVX512);
    HYB_INSTALL(table, count_flips, avx512, HYB_ISA_AVX512);
    HYB_INSTALL(table, dequantize_i8, avx512, HYB_ISA_AVX512);
}
#endif
