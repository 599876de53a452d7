/* transpose_avx512.c - kernels of the integer backward pass, AVX-512 F, BW, DQ, VL. Specification:
 * ref/transpose_ref.c. Tails are masked loads and stores, which touch nothing outside the arrays.
 *
 * Time of the AVX2 variant by this one's, Cascade Lake, 2048 x 384: column_max_bits 1.5, quantize_transposed 1.2,
 * pack_transposed_i8 1.4, pack_transposed_ternary 1.2 (2048 x 1280).
 */
#include "../common.h"

#if HYB_X86
#include <immintrin.h>

/* The lowest n bits, n <= 16. */
#define MASK16(n) ((__mmask16)((1u << (n)) - 1u))
#define LINE 64
/* Tokens that fill a line of transposed codes. */
#define GROUP_TOKENS 64
/* Strips of 16 columns (a line a row) that prefetch runs ahead: 64 rows are more streams than the hardware follows. */
#define PREFETCH_FLOATS 32

static HYB_TARGET_AVX512 uint32_t hyb_column_max_bits_avx512(const float *x, size_t n, float s, uint32_t *column_bits) {
    __m512 scale = _mm512_set1_ps(s);
    __m512i largest = _mm512_setzero_si512(), magnitude = _mm512_set1_epi32(0x7fffffff);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) { /* without masks: 1.1 times as fast, from memory */
        __m512 v = _mm512_loadu_ps(x + i);
        __m512i scaled = _mm512_and_si512(_mm512_castps_si512(_mm512_mul_ps(v, scale)), magnitude);
        largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(v), magnitude));
        __m512i before = _mm512_loadu_si512((const void *)(column_bits + i));
        _mm512_storeu_si512((void *)(column_bits + i), _mm512_max_epu32(before, scaled));
    }
    if (i < n) {
        __mmask16 mask = MASK16(n - i);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        __m512i own = _mm512_and_si512(_mm512_castps_si512(v), magnitude);
        __m512i scaled = _mm512_and_si512(_mm512_castps_si512(_mm512_mul_ps(v, scale)), magnitude);
        largest = _mm512_max_epu32(largest, own);
        __m512i before = _mm512_maskz_loadu_epi32(mask, column_bits + i);
        _mm512_mask_storeu_epi32(column_bits + i, mask, _mm512_max_epu32(before, scaled));
    }
    return _mm512_reduce_max_epu32(largest);
}

/* ---- quantisation ---- */

/* Four tokens of 16 columns: lane l holds columns 4 l .. 4 l + 3, each as a dword of its four tokens' codes. */
HYB_INLINE HYB_TARGET_AVX512 __m512i four_tokens(const hyb_quantize_transposed_job *job, size_t token, size_t n_valid,
                                                 size_t column, __mmask16 mask, __m512 inverses, __m512i *sum) {
    const __m512 high = _mm512_set1_ps(127.0f), low = _mm512_set1_ps(-127.0f);
    const __m512i interleave =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const float *x = job->x + token * job->ld_x + column;
    __m512i rounded[4];
    HYB_UNROLL for (size_t i = 0; i < 4; ++i) {
        rounded[i] = _mm512_setzero_si512();
        if (i < n_valid) {
            _mm_prefetch((const char *)(x + i * job->ld_x + PREFETCH_FLOATS), _MM_HINT_T0);
            __m512 v = _mm512_maskz_loadu_ps(mask, x + i * job->ld_x);
            v = _mm512_mul_ps(_mm512_mul_ps(v, _mm512_set1_ps(job->token_scales[token + i])), inverses);
            /* max gives its second operand for a NaN */
            rounded[i] = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, low), high));
            *sum = _mm512_add_epi32(*sum, rounded[i]);
        }
    }
    __m512i low_half = _mm512_packs_epi32(rounded[0], rounded[1]),
            high_half = _mm512_packs_epi32(rounded[2], rounded[3]);
    return _mm512_shuffle_epi8(_mm512_packs_epi16(low_half, high_half), interleave);
}

/* 16 tokens of 16 columns: lane l of out[i] holds the 16 codes of column 4 l + i. */
HYB_INLINE HYB_TARGET_AVX512 void sixteen_tokens(const hyb_quantize_transposed_job *job, size_t token, size_t column,
                                                 __mmask16 mask, __m512 inverses, __m512i *sum, __m512i out[4]) {
    size_t n = job->n_tokens - token;
    __m512i a, b, c, d;
    if (n >= 16) {
        a = four_tokens(job, token, 4, column, mask, inverses, sum);
        b = four_tokens(job, token + 4, 4, column, mask, inverses, sum);
        c = four_tokens(job, token + 8, 4, column, mask, inverses, sum);
        d = four_tokens(job, token + 12, 4, column, mask, inverses, sum);
    } else {
        a = four_tokens(job, token, n, column, mask, inverses, sum);
        b = four_tokens(job, token + 4, n > 4 ? n - 4 : 0, column, mask, inverses, sum);
        c = four_tokens(job, token + 8, n > 8 ? n - 8 : 0, column, mask, inverses, sum);
        d = four_tokens(job, token + 12, n > 12 ? n - 12 : 0, column, mask, inverses, sum);
    }
    __m512i ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
    __m512i cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
    out[0] = _mm512_unpacklo_epi64(ab_low, cd_low);
    out[1] = _mm512_unpackhi_epi64(ab_low, cd_low);
    out[2] = _mm512_unpacklo_epi64(ab_high, cd_high);
    out[3] = _mm512_unpackhi_epi64(ab_high, cd_high);
}

/* Lane l of rows[g] becomes lane g of rows[l]. */
HYB_INLINE HYB_TARGET_AVX512 void transpose_lanes(__m512i rows[4]) {
    __m512i ab_low = _mm512_shuffle_i32x4(rows[0], rows[1], 0x44),
            ab_high = _mm512_shuffle_i32x4(rows[0], rows[1], 0xee);
    __m512i cd_low = _mm512_shuffle_i32x4(rows[2], rows[3], 0x44),
            cd_high = _mm512_shuffle_i32x4(rows[2], rows[3], 0xee);
    rows[0] = _mm512_shuffle_i32x4(ab_low, cd_low, 0x88);
    rows[1] = _mm512_shuffle_i32x4(ab_low, cd_low, 0xdd);
    rows[2] = _mm512_shuffle_i32x4(ab_high, cd_high, 0x88);
    rows[3] = _mm512_shuffle_i32x4(ab_high, cd_high, 0xdd);
}

/* Up to 64 tokens of up to 16 columns. */
HYB_INLINE HYB_TARGET_AVX512 void quantize_strip(const hyb_quantize_transposed_job *job, size_t token, size_t n_tokens,
                                                 size_t column) {
    size_t n_cols = hyb_min_size(job->n_cols - column, 16), n_bytes = hyb_round_up(n_tokens, HYB_BLOCK_COLS);
    __mmask16 mask = MASK16(n_cols);
    __mmask64 line_mask = n_bytes == LINE ? ~(__mmask64)0 : ((__mmask64)1 << n_bytes) - 1;
    __m512 inverses = _mm512_maskz_loadu_ps(mask, job->inverses + column);
    const __m512i zero = _mm512_setzero_si512();
    __m512i sum = zero, groups[4][4];
    HYB_UNROLL for (size_t g = 0; g < 4; ++g) {
        __m512i quarter[4] = {zero, zero, zero, zero};
        if (g * 16 < n_tokens) sixteen_tokens(job, token + g * 16, column, mask, inverses, &sum, quarter);
        HYB_UNROLL for (size_t i = 0; i < 4; ++i) groups[i][g] = quarter[i];
    }
    HYB_UNROLL for (size_t i = 0; i < 4; ++i) {
        transpose_lanes(groups[i]); /* groups[i][l] is now column 4 l + i, all tokens */
        HYB_UNROLL for (size_t l = 0; l < 4; ++l) {
            size_t c = 4 * l + i;
            if (c >= n_cols) continue;
            int8_t *to = job->codes + (column + c) * job->ld_codes + token;
            _mm512_mask_storeu_epi8(to, line_mask, groups[i][l]);
        }
    }
    __m512i before = _mm512_maskz_loadu_epi32(mask, job->sums + column);
    _mm512_mask_storeu_epi32(job->sums + column, mask, _mm512_add_epi32(before, sum));
}

static HYB_TARGET_AVX512 void hyb_quantize_transposed_avx512(const hyb_quantize_transposed_job *job) {
    for (size_t token = 0; token < job->n_tokens; token += GROUP_TOKENS) {
        size_t n_tokens = hyb_min_size(job->n_tokens - token, GROUP_TOKENS);
        for (size_t column = 0; column < job->n_cols; column += 16) quantize_strip(job, token, n_tokens, column);
    }
}

/* ---- packing ---- */

/* Rows inner .. inner + 3 of 64 columns, interleaved: out[b] is the line of row block b, its dwords four codes each. */
HYB_INLINE HYB_TARGET_AVX512 void interleave_four(const hyb_pack_transposed_job *job, size_t inner, size_t row,
                                                  __mmask64 mask, __m512i out[4]) {
    __m512i codes[4];
    HYB_UNROLL for (size_t i = 0; i < 4; ++i) {
        codes[i] = _mm512_setzero_si512();
        if (inner + i < job->n_inner)
            codes[i] = _mm512_maskz_loadu_epi8(mask, job->codes + (inner + i) * job->ld + row);
    }
    __m512i ab_low = _mm512_unpacklo_epi8(codes[0], codes[1]), ab_high = _mm512_unpackhi_epi8(codes[0], codes[1]);
    __m512i cd_low = _mm512_unpacklo_epi8(codes[2], codes[3]), cd_high = _mm512_unpackhi_epi8(codes[2], codes[3]);
    out[0] = _mm512_unpacklo_epi16(ab_low, cd_low); /* lane l: columns 16 l .. 16 l + 3 */
    out[1] = _mm512_unpackhi_epi16(ab_low, cd_low);
    out[2] = _mm512_unpacklo_epi16(ab_high, cd_high);
    out[3] = _mm512_unpackhi_epi16(ab_high, cd_high);
    transpose_lanes(out);
}

HYB_INLINE __mmask64 row_mask(size_t n) { return n >= LINE ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1; }

static HYB_TARGET_AVX512 void hyb_pack_transposed_i8_avx512(const hyb_pack_transposed_job *job) {
    size_t n_inner = hyb_round_up(job->n_inner, HYB_BLOCK_COLS);
    for (size_t inner = 0; inner < n_inner; inner += 4) {
        for (size_t row = 0; row < job->n_rows; row += LINE) {
            size_t n = hyb_min_size(job->n_rows - row, LINE);
            uint8_t *to = job->blocks + row / HYB_BLOCK_ROWS * job->block_bytes + inner / 4 * LINE;
            __m512i lines[4];
            interleave_four(job, inner, row, row_mask(n), lines);
            HYB_UNROLL for (size_t b = 0; b < 4; ++b) {
                if (b * HYB_BLOCK_ROWS < n) _mm512_store_si512((void *)(to + b * job->block_bytes), lines[b]);
            }
        }
    }
}

static HYB_TARGET_AVX512 void hyb_pack_transposed_ternary_avx512(const hyb_pack_transposed_job *job) {
    const __m512i ones = _mm512_set1_epi8(1);
    for (size_t inner = 0; inner < job->n_inner; inner += HYB_BLOCK_COLS) {
        for (size_t row = 0; row < job->n_rows; row += LINE) {
            size_t n = hyb_min_size(job->n_rows - row, LINE);
            uint8_t *to = job->blocks + row / HYB_BLOCK_ROWS * job->block_bytes + inner / HYB_BLOCK_COLS * LINE;
            __m512i words[4], plane[4];
            interleave_four(job, inner, row, row_mask(n), words);
            HYB_UNROLL for (size_t b = 0; b < 4; ++b) words[b] = _mm512_add_epi8(words[b], ones);
            HYB_UNROLL for (unsigned p = 1; p < 4; ++p) {
                interleave_four(job, inner + 4 * p, row, row_mask(n), plane);
                HYB_UNROLL for (size_t b = 0; b < 4; ++b) { /* at most 2 << 6: no bit leaves its byte */
                    __m512i shifted = _mm512_slli_epi32(_mm512_add_epi8(plane[b], ones), 2 * p);
                    words[b] = _mm512_or_si512(words[b], shifted);
                }
            }
            HYB_UNROLL for (size_t b = 0; b < 4; ++b) {
                if (b * HYB_BLOCK_ROWS < n) _mm512_store_si512((void *)(to + b * job->block_bytes), words[b]);
            }
        }
    }
}

void hyb_install_transpose_avx512(hyb_kernels *table) {
    HYB_INSTALL(table, column_max_bits, avx512, HYB_ISA_AVX512);
    HYB_INSTALL(table, quantize_transposed, avx512, HYB_ISA_AVX512);
    HYB_INSTALL(table, pack_transposed_i8, avx512, HYB_ISA_AVX512);
    HYB_INSTALL(table, pack_transposed_ternary, avx512, HYB_ISA_AVX512);
}
#endif
