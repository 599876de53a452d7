/* v16_avx512.h - v16, sixteen floats, as one AVX-512 register. The same operations as v16_avx2.h; what each does is
 * said there. Included by lib/x86 files only.
 */
#ifndef HYB_V16_AVX512_H
#define HYB_V16_AVX512_H

#include <immintrin.h>

#include "../common.h"

#define V16_FUNCTION HYB_INLINE HYB_TARGET_AVX512

typedef __m512 v16;

V16_FUNCTION v16 v16_zero(void) { return _mm512_setzero_ps(); }
V16_FUNCTION v16 v16_set1(float x) { return _mm512_set1_ps(x); }
V16_FUNCTION v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
V16_FUNCTION void v16_store(float *p, v16 x) { _mm512_storeu_ps(p, x); }

V16_FUNCTION __mmask16 v16_mask(size_t n) { return (__mmask16)((1u << n) - 1u); }
V16_FUNCTION v16 v16_load_part(const float *p, size_t n) { return _mm512_maskz_loadu_ps(v16_mask(n), p); }
V16_FUNCTION v16 v16_load_part_or(const float *p, size_t n, v16 otherwise) {
    return _mm512_mask_loadu_ps(otherwise, v16_mask(n), p);
}
V16_FUNCTION void v16_store_part(float *p, size_t n, v16 x) { _mm512_mask_storeu_ps(p, v16_mask(n), x); }
V16_FUNCTION v16 v16_keep(size_t n, v16 x) { return _mm512_maskz_mov_ps(v16_mask(n), x); }

/* All 16 lanes, or the first n. */
V16_FUNCTION v16 v16_get(const float *p, size_t n) { return n == HYB_LANES ? v16_load(p) : v16_load_part(p, n); }
V16_FUNCTION void v16_put(float *p, size_t n, v16 x) {
    if (n == HYB_LANES) {
        v16_store(p, x);
    } else {
        v16_store_part(p, n, x);
    }
}

V16_FUNCTION v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
V16_FUNCTION v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
V16_FUNCTION v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
V16_FUNCTION v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
V16_FUNCTION v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
V16_FUNCTION v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
V16_FUNCTION v16 v16_sqrt(v16 a) { return _mm512_sqrt_ps(a); }
V16_FUNCTION v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
V16_FUNCTION v16 v16_abs(v16 a) { return _mm512_abs_ps(a); }
V16_FUNCTION v16 v16_negate(v16 a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }

/* t * 2^n in one instruction, rounded once. */
V16_FUNCTION v16 v16_exp_scale(v16 t, v16 n, v16 shifted) {
    (void)shifted;
    return _mm512_scalef_ps(t, n);
}

V16_FUNCTION v16 v16_max_bits(v16 a, v16 b) {
    return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
V16_FUNCTION uint32_t v16_reduce_max_bits(v16 x) { return _mm512_reduce_max_epu32(_mm512_castps_si512(x)); }

V16_FUNCTION __m128 v16_fold_to_4(v16 x) {
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    return _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
}
V16_FUNCTION float v16_reduce_add(v16 x) {
    __m128 z = v16_fold_to_4(x);
    z = _mm_add_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
}
V16_FUNCTION float v16_reduce_max(v16 x) { return _mm512_reduce_max_ps(x); }

/* Four 4-lane pieces of four sums each: lane i + 2 joins lane i, then lane i + 1. */
V16_FUNCTION v16 v16_fold_pairs(v16 a, v16 b) {
    v16 low = _mm512_shuffle_f32x4(a, b, 0x44), high = _mm512_shuffle_f32x4(a, b, 0xee);
    return _mm512_add_ps(low, high); /* lanes 0-7: a[l] + a[l + 8]; lanes 8-15: the same of b */
}
V16_FUNCTION v16 v16_fold_fours(v16 a, v16 b) {
    v16 even = _mm512_shuffle_f32x4(a, b, 0x88), odd = _mm512_shuffle_f32x4(a, b, 0xdd);
    return _mm512_add_ps(even, odd); /* quarters: two of a's vectors, then two of b's, 4 lanes left of each */
}
V16_FUNCTION v16 v16_reduce_add_16(const v16 *x) {
    v16 f[4];
    for (int i = 0; i < 4; ++i) {
        f[i] = v16_fold_fours(v16_fold_pairs(x[i], x[4 + i]), v16_fold_pairs(x[8 + i], x[12 + i]));
    }
    /* Quarter q of f[i] holds 4 lanes of vector 4 q + i: transpose within quarters while adding. */
    v16 a = _mm512_add_ps(_mm512_shuffle_ps(f[0], f[1], 0x44), _mm512_shuffle_ps(f[0], f[1], 0xee));
    v16 b = _mm512_add_ps(_mm512_shuffle_ps(f[2], f[3], 0x44), _mm512_shuffle_ps(f[2], f[3], 0xee));
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

/* Turns 16 rows of 16 into columns, in place. */
V16_FUNCTION void v16_transpose(v16 *x) {
    v16 t[16];
    HYB_UNROLL
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) {
        x[4 * i] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        x[4 * i + 1] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        x[4 * i + 2] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        x[4 * i + 3] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_f32x4(x[i], x[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_f32x4(x[i], x[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0xdd);
    }
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) {
        x[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
        x[8 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
        x[4 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0x88);
        x[12 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* Sum of squares in double precision: adds the squares of 16 floats to 16 lanes. */
typedef struct v16_f64 {
    __m512d low, high;
} v16_f64;
V16_FUNCTION v16_f64 v16_f64_zero(void) {
    v16_f64 r = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    return r;
}
V16_FUNCTION v16_f64 v16_f64_add_squares(v16_f64 sum, v16 x) {
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(x)), high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
    sum.low = _mm512_fmadd_pd(low, low, sum.low);
    sum.high = _mm512_fmadd_pd(high, high, sum.high);
    return sum;
}
V16_FUNCTION void v16_f64_store(double *p, v16_f64 sum) {
    _mm512_storeu_pd(p, sum.low);
    _mm512_storeu_pd(p + 8, sum.high);
}

/* Sixteen 32-bit integers. */
typedef __m512i v16i;

V16_FUNCTION v16i v16i_set1(uint32_t x) { return _mm512_set1_epi32((int)x); }
V16_FUNCTION v16i v16i_count(uint32_t first) {
    __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_epi32(_mm512_set1_epi32((int)first), lanes);
}
V16_FUNCTION v16i v16i_bits(v16 x) { return _mm512_castps_si512(x); }
V16_FUNCTION v16 v16i_floats(v16i x) { return _mm512_castsi512_ps(x); }
V16_FUNCTION v16i v16i_add(v16i a, v16i b) { return _mm512_add_epi32(a, b); }
V16_FUNCTION v16i v16i_sub(v16i a, v16i b) { return _mm512_sub_epi32(a, b); }
V16_FUNCTION v16i v16i_mul(v16i a, v16i b) { return _mm512_mullo_epi32(a, b); }
V16_FUNCTION v16i v16i_and(v16i a, v16i b) { return _mm512_and_si512(a, b); }
V16_FUNCTION v16i v16i_xor(v16i a, v16i b) { return _mm512_xor_si512(a, b); }
V16_FUNCTION v16i v16i_shift_left(v16i x, unsigned count) { return _mm512_slli_epi32(x, count); }
V16_FUNCTION v16i v16i_shift_right(v16i x, unsigned count) { return _mm512_srli_epi32(x, count); }
V16_FUNCTION v16i v16i_load_bytes(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
V16_FUNCTION void v16i_store_bytes(uint8_t *p, v16i x) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(x));
}

#endif /* HYB_V16_AVX512_H */
