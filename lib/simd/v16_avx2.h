/* v16_avx2.h - v16, sixteen floats, as two AVX2 registers, and the operations that the templates are written in.
 * Lane i is element i in memory. _part takes the number of lanes in use, 0 to 16: lanes behind it are neither read nor
 * written. Each operation rounds every lane by itself, as C does. Included by lib/x86 files only.
 */
#ifndef HYB_V16_AVX2_H
#define HYB_V16_AVX2_H

#include <immintrin.h>

#include "../common.h"

#define V16_FUNCTION HYB_INLINE HYB_TARGET_AVX2

typedef struct v16 {
    __m256 low, high;
} v16;

V16_FUNCTION v16 v16_join(__m256 low, __m256 high) {
    v16 r = {low, high};
    return r;
}

V16_FUNCTION v16 v16_zero(void) { return v16_join(_mm256_setzero_ps(), _mm256_setzero_ps()); }
V16_FUNCTION v16 v16_set1(float x) { return v16_join(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
V16_FUNCTION v16 v16_load(const float *p) { return v16_join(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
V16_FUNCTION void v16_store(float *p, v16 x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
}

/* Lanes base .. base + 7 that are below n, as all-ones. */
V16_FUNCTION __m256i v16_mask(size_t n, int base) {
    __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(base));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}
/* The lanes not in use are +0. */
V16_FUNCTION v16 v16_load_part(const float *p, size_t n) {
    return v16_join(_mm256_maskload_ps(p, v16_mask(n, 0)), _mm256_maskload_ps(p + 8, v16_mask(n, 8)));
}
/* The lanes not in use are those of `otherwise`. */
V16_FUNCTION v16 v16_load_part_or(const float *p, size_t n, v16 otherwise) {
    __m256i low = v16_mask(n, 0), high = v16_mask(n, 8);
    return v16_join(_mm256_blendv_ps(otherwise.low, _mm256_maskload_ps(p, low), _mm256_castsi256_ps(low)),
                    _mm256_blendv_ps(otherwise.high, _mm256_maskload_ps(p + 8, high), _mm256_castsi256_ps(high)));
}
V16_FUNCTION void v16_store_part(float *p, size_t n, v16 x) {
    _mm256_maskstore_ps(p, v16_mask(n, 0), x.low);
    _mm256_maskstore_ps(p + 8, v16_mask(n, 8), x.high);
}
/* x with the lanes not in use set to +0. */
V16_FUNCTION v16 v16_keep(size_t n, v16 x) {
    return v16_join(_mm256_and_ps(x.low, _mm256_castsi256_ps(v16_mask(n, 0))),
                    _mm256_and_ps(x.high, _mm256_castsi256_ps(v16_mask(n, 8))));
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

#define V16_BINARY(name, instruction)                                                                                  \
    V16_FUNCTION v16 v16_##name(v16 a, v16 b) {                                                                        \
        return v16_join(instruction(a.low, b.low), instruction(a.high, b.high));                                       \
    }
V16_BINARY(add, _mm256_add_ps)
V16_BINARY(sub, _mm256_sub_ps)
V16_BINARY(mul, _mm256_mul_ps)
V16_BINARY(div, _mm256_div_ps)
V16_BINARY(max, _mm256_max_ps) /* a > b ? a : b, so that a NaN in b stays */
V16_BINARY(min, _mm256_min_ps) /* a < b ? a : b */
#undef V16_BINARY

V16_FUNCTION v16 v16_sqrt(v16 a) { return v16_join(_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)); }
/* a * b + c, rounded once: RELAXED kernels only. */
V16_FUNCTION v16 v16_fma(v16 a, v16 b, v16 c) {
    return v16_join(_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high));
}
V16_FUNCTION v16 v16_abs(v16 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return v16_join(_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high));
}
V16_FUNCTION v16 v16_negate(v16 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return v16_join(_mm256_xor_ps(sign, a.low), _mm256_xor_ps(sign, a.high));
}

/* t * 2^n for whole n in [-126, 128] with shifted = n + 1.5 * 2^23, whose low bits hold n. 2^128 is no float, so n =
 * 128 goes in two exact steps. */
V16_FUNCTION __m256 v16_exp_scale_half(__m256 t, __m256 n, __m256 shifted) {
    __m256 above = _mm256_cmp_ps(n, _mm256_set1_ps(127.0f), _CMP_GT_OQ);
    __m256i bias = _mm256_set1_epi32(127 - 0x4b400000); /* 0x4b400000: the bits of 1.5 * 2^23 */
    __m256i exponent = _mm256_add_epi32(_mm256_castps_si256(shifted), bias);
    exponent = _mm256_add_epi32(exponent, _mm256_castps_si256(above)); /* -1 where above */
    __m256 last = _mm256_blendv_ps(_mm256_set1_ps(1.0f), _mm256_set1_ps(2.0f), above);
    return _mm256_mul_ps(_mm256_mul_ps(t, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))), last);
}
V16_FUNCTION v16 v16_exp_scale(v16 t, v16 n, v16 shifted) {
    return v16_join(v16_exp_scale_half(t.low, n.low, shifted.low), v16_exp_scale_half(t.high, n.high, shifted.high));
}

/* Larger bit pattern, lane by lane, as unsigned integers. */
V16_FUNCTION __m256 v16_max_bits_half(__m256 a, __m256 b) {
    return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
V16_FUNCTION v16 v16_max_bits(v16 a, v16 b) {
    return v16_join(v16_max_bits_half(a.low, b.low), v16_max_bits_half(a.high, b.high));
}
V16_FUNCTION uint32_t v16_reduce_max_bits(v16 x) {
    __m256i y = _mm256_castps_si256(v16_max_bits_half(x.low, x.high));
    __m128i z = _mm_max_epu32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    z = _mm_max_epu32(z, _mm_shuffle_epi32(z, 0x4e));
    z = _mm_max_epu32(z, _mm_shuffle_epi32(z, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(z);
}

/* The tree of kernels.h: lane[l] += lane[l + 8], then 4, 2, 1. */
V16_FUNCTION float v16_reduce_add(v16 x) {
    __m256 y = _mm256_add_ps(x.low, x.high);
    __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_add_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
}
/* Any of the lanes that are largest; no NaN. */
V16_FUNCTION float v16_reduce_max(v16 x) {
    __m256 y = _mm256_max_ps(x.low, x.high);
    __m128 z = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_max_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_max_ss(z, _mm_movehdup_ps(z)));
}

/* Lane i of the result is v16_reduce_add(x[i]), by the same additions. */
V16_FUNCTION __m256 v16_reduce_add_8(const v16 *x) {
    __m256 f[4];
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) {
        __m256 a = _mm256_add_ps(x[i].low, x[i].high), b = _mm256_add_ps(x[4 + i].low, x[4 + i].high);
        f[i] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
    /* Half h of f[i] holds the 4 lanes that are left of x[4 h + i]: transposed within halves while adding. */
    __m256 a = _mm256_add_ps(_mm256_shuffle_ps(f[0], f[1], 0x44), _mm256_shuffle_ps(f[0], f[1], 0xee));
    __m256 b = _mm256_add_ps(_mm256_shuffle_ps(f[2], f[3], 0x44), _mm256_shuffle_ps(f[2], f[3], 0xee));
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}
V16_FUNCTION v16 v16_reduce_add_16(const v16 *x) { return v16_join(v16_reduce_add_8(x), v16_reduce_add_8(x + 8)); }

/* Turns 8 rows of 8 into columns. */
V16_FUNCTION void v16_transpose_8(const __m256 *x, __m256 *y) {
    __m256 t[8], u[8];
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) {
        t[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    HYB_UNROLL
    for (int i = 0; i < 2; ++i) {
        u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    HYB_UNROLL
    for (int i = 0; i < 4; ++i) {
        y[i] = _mm256_permute2f128_ps(u[i], u[4 + i], 0x20);
        y[4 + i] = _mm256_permute2f128_ps(u[i], u[4 + i], 0x31);
    }
}
/* Turns 16 rows of 16 into columns, in place. */
V16_FUNCTION void v16_transpose(v16 *x) {
    __m256 quarter[8], a[8], b[8], c[8], d[8];
    for (int i = 0; i < 8; ++i) quarter[i] = x[i].low;
    v16_transpose_8(quarter, a);
    for (int i = 0; i < 8; ++i) quarter[i] = x[8 + i].low;
    v16_transpose_8(quarter, b);
    for (int i = 0; i < 8; ++i) quarter[i] = x[i].high;
    v16_transpose_8(quarter, c);
    for (int i = 0; i < 8; ++i) quarter[i] = x[8 + i].high;
    v16_transpose_8(quarter, d);
    for (int i = 0; i < 8; ++i) {
        x[i] = v16_join(a[i], b[i]);
        x[8 + i] = v16_join(c[i], d[i]);
    }
}

/* Sixteen sums in double precision. */
typedef struct v16_f64 {
    __m256d part[4];
} v16_f64;
V16_FUNCTION v16_f64 v16_f64_zero(void) {
    v16_f64 r = {{_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()}};
    return r;
}
V16_FUNCTION __m256d v16_f64_square(__m256d sum, __m128 x) {
    __m256d wide = _mm256_cvtps_pd(x);
    return _mm256_fmadd_pd(wide, wide, sum);
}
/* sum += x * x, lane by lane: the product of two floats is exact in double precision. */
V16_FUNCTION v16_f64 v16_f64_add_squares(v16_f64 sum, v16 x) {
    sum.part[0] = v16_f64_square(sum.part[0], _mm256_castps256_ps128(x.low));
    sum.part[1] = v16_f64_square(sum.part[1], _mm256_extractf128_ps(x.low, 1));
    sum.part[2] = v16_f64_square(sum.part[2], _mm256_castps256_ps128(x.high));
    sum.part[3] = v16_f64_square(sum.part[3], _mm256_extractf128_ps(x.high, 1));
    return sum;
}
V16_FUNCTION void v16_f64_store(double *p, v16_f64 sum) {
    for (int i = 0; i < 4; ++i) _mm256_storeu_pd(p + 4 * i, sum.part[i]);
}

/* Sixteen 32-bit integers, modulo 2^32; lane i as above. Shifts are by constants and logical. */
typedef struct v16i {
    __m256i low, high;
} v16i;

V16_FUNCTION v16i v16i_join(__m256i low, __m256i high) {
    v16i r = {low, high};
    return r;
}
V16_FUNCTION v16i v16i_set1(uint32_t x) { return v16i_join(_mm256_set1_epi32((int)x), _mm256_set1_epi32((int)x)); }
/* first, first + 1, ... */
V16_FUNCTION v16i v16i_count(uint32_t first) {
    __m256i low = _mm256_add_epi32(_mm256_set1_epi32((int)first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return v16i_join(low, _mm256_add_epi32(low, _mm256_set1_epi32(8)));
}
V16_FUNCTION v16i v16i_bits(v16 x) { return v16i_join(_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)); }
V16_FUNCTION v16 v16i_floats(v16i x) { return v16_join(_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)); }

#define V16I_BINARY(name, instruction)                                                                                 \
    V16_FUNCTION v16i v16i_##name(v16i a, v16i b) {                                                                    \
        return v16i_join(instruction(a.low, b.low), instruction(a.high, b.high));                                      \
    }
V16I_BINARY(add, _mm256_add_epi32)
V16I_BINARY(sub, _mm256_sub_epi32)
V16I_BINARY(mul, _mm256_mullo_epi32)
V16I_BINARY(and, _mm256_and_si256)
V16I_BINARY(xor, _mm256_xor_si256)
#undef V16I_BINARY
V16_FUNCTION v16i v16i_shift_left(v16i x, int count) {
    return v16i_join(_mm256_slli_epi32(x.low, count), _mm256_slli_epi32(x.high, count));
}
V16_FUNCTION v16i v16i_shift_right(v16i x, int count) {
    return v16i_join(_mm256_srli_epi32(x.low, count), _mm256_srli_epi32(x.high, count));
}

/* 16 bytes as integers, and integers below 256 as bytes. */
V16_FUNCTION v16i v16i_load_bytes(const uint8_t *p) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    return v16i_join(_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)));
}
V16_FUNCTION void v16i_store_bytes(uint8_t *p, v16i x) {
    __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(x.low, x.high), 0xd8);
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)(void *)p, bytes);
}

#endif /* HYB_V16_AVX2_H */
