/* transpose_avx2.c - kernels of the integer backward pass, AVX2. Specification: ref/transpose_ref.c, whose functions
 * also do what is left of columns and rows beyond whole vectors.
 *
 * Time of the reference by this variant's, Cascade Lake, 2048 x 1280: column_max_bits 2.6, quantize_transposed 6,
 * pack_transposed_i8 50, pack_transposed_ternary 15.
 */
#include "../common.h"

#if HYB_X86
#include <immintrin.h>

#define STRIP 8 /* columns of a vector of floats */
#define LINE 64

static HYB_TARGET_AVX2 uint32_t hyb_column_max_bits_avx2(const float *x, size_t n, float s, uint32_t *column_bits) {
    __m256 scale = _mm256_set1_ps(s);
    __m256i largest = _mm256_setzero_si256(), magnitude = _mm256_set1_epi32(0x7fffffff);
    size_t i = 0;
    for (; i + STRIP <= n; i += STRIP) {
        __m256 v = _mm256_loadu_ps(x + i);
        __m256i *to = (__m256i *)(void *)(column_bits + i);
        __m256i scaled = _mm256_and_si256(_mm256_castps_si256(_mm256_mul_ps(v, scale)), magnitude);
        largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(v), magnitude));
        _mm256_storeu_si256(to, _mm256_max_epu32(_mm256_loadu_si256(to), scaled));
    }
    uint32_t lanes[STRIP], result = hyb_column_max_bits_ref(x + i, n - i, s, column_bits + i);
    _mm256_storeu_si256((__m256i *)(void *)lanes, largest);
    for (size_t l = 0; l < STRIP; ++l) result = lanes[l] > result ? lanes[l] : result;
    return result;
}

/* ---- quantisation ---- */

/* Four tokens of 8 columns: lane l holds columns 4 l .. 4 l + 3, each as a dword of its four tokens' codes. */
HYB_INLINE HYB_TARGET_AVX2 __m256i four_tokens(const hyb_quantize_transposed_job *job, size_t token, size_t column,
                                               __m256 inverses, __m256i *sum) {
    const __m256 high = _mm256_set1_ps(127.0f), low = _mm256_set1_ps(-127.0f);
    const __m256i interleave =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const float *x = job->x + token * job->ld_x + column;
    __m256i rounded[4];
    HYB_UNROLL for (size_t i = 0; i < 4; ++i) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i * job->ld_x), _mm256_set1_ps(job->token_scales[token + i]));
        v = _mm256_max_ps(_mm256_mul_ps(v, inverses), low); /* max gives its second operand for a NaN */
        rounded[i] = _mm256_cvtps_epi32(_mm256_min_ps(v, high));
        *sum = _mm256_add_epi32(*sum, rounded[i]);
    }
    __m256i low_half = _mm256_packs_epi32(rounded[0], rounded[1]),
            high_half = _mm256_packs_epi32(rounded[2], rounded[3]);
    return _mm256_shuffle_epi8(_mm256_packs_epi16(low_half, high_half), interleave);
}

HYB_INLINE HYB_TARGET_AVX2 void store_columns(const hyb_quantize_transposed_job *job, size_t token, size_t column,
                                              __m256i codes) {
    int8_t *to = job->codes + column * job->ld_codes + token;
    _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(codes));
    _mm_storeu_si128((__m128i *)(void *)(to + 4 * job->ld_codes), _mm256_extracti128_si256(codes, 1));
}

/* 16 tokens of 8 columns; returns the sums of their codes. */
HYB_INLINE HYB_TARGET_AVX2 __m256i quantize_tile(const hyb_quantize_transposed_job *job, size_t token, size_t column) {
    __m256 inverses = _mm256_loadu_ps(job->inverses + column);
    __m256i sum = _mm256_setzero_si256();
    __m256i a = four_tokens(job, token, column, inverses, &sum);
    __m256i b = four_tokens(job, token + 4, column, inverses, &sum);
    __m256i c = four_tokens(job, token + 8, column, inverses, &sum);
    __m256i d = four_tokens(job, token + 12, column, inverses, &sum);
    __m256i ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
    __m256i cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
    store_columns(job, token, column, _mm256_unpacklo_epi64(ab_low, cd_low));
    store_columns(job, token, column + 1, _mm256_unpackhi_epi64(ab_low, cd_low));
    store_columns(job, token, column + 2, _mm256_unpacklo_epi64(ab_high, cd_high));
    store_columns(job, token, column + 3, _mm256_unpackhi_epi64(ab_high, cd_high));
    return sum;
}

/* A part of a job by the reference. */
static void quantize_rest(const hyb_quantize_transposed_job *job, size_t token, size_t n_tokens, size_t column,
                          size_t n_cols) {
    hyb_quantize_transposed_job rest = *job;
    rest.x += token * job->ld_x + column;
    rest.token_scales += token;
    rest.inverses += column;
    rest.codes += column * job->ld_codes + token;
    rest.sums += column;
    rest.n_tokens = n_tokens;
    rest.n_cols = n_cols;
    if (n_tokens != 0 && n_cols != 0) hyb_quantize_transposed_ref(&rest);
}

static HYB_TARGET_AVX2 void hyb_quantize_transposed_avx2(const hyb_quantize_transposed_job *job) {
    size_t n_tokens = job->n_tokens / 16 * 16, n_cols = job->n_cols / STRIP * STRIP;
    for (size_t column = 0; column < n_cols; column += STRIP) {
        __m256i *sums = (__m256i *)(void *)(job->sums + column), sum = _mm256_loadu_si256(sums);
        for (size_t token = 0; token < n_tokens; token += 16)
            sum = _mm256_add_epi32(sum, quantize_tile(job, token, column));
        _mm256_storeu_si256(sums, sum);
    }
    quantize_rest(job, n_tokens, job->n_tokens - n_tokens, 0, n_cols);
    quantize_rest(job, 0, job->n_tokens, n_cols, job->n_cols - n_cols);
}

/* ---- packing ---- */

/* Rows inner .. inner + 3 of a block of 16 columns, interleaved: the line as two halves. */
HYB_INLINE HYB_TARGET_AVX2 void interleave_four(const hyb_pack_transposed_job *job, size_t inner, size_t row,
                                                __m256i out[2]) {
    __m128i codes[4];
    HYB_UNROLL for (size_t i = 0; i < 4; ++i) {
        const int8_t *from = job->codes + (inner + i) * job->ld + row;
        codes[i] =
            inner + i < job->n_inner ? _mm_loadu_si128((const __m128i *)(const void *)from) : _mm_setzero_si128();
    }
    __m128i ab_low = _mm_unpacklo_epi8(codes[0], codes[1]), ab_high = _mm_unpackhi_epi8(codes[0], codes[1]);
    __m128i cd_low = _mm_unpacklo_epi8(codes[2], codes[3]), cd_high = _mm_unpackhi_epi8(codes[2], codes[3]);
    out[0] = _mm256_set_m128i(_mm_unpackhi_epi16(ab_low, cd_low), _mm_unpacklo_epi16(ab_low, cd_low));
    out[1] = _mm256_set_m128i(_mm_unpackhi_epi16(ab_high, cd_high), _mm_unpacklo_epi16(ab_high, cd_high));
}

/* The last row block, if it is not whole. */
static hyb_pack_transposed_job rest_of_pack(const hyb_pack_transposed_job *job, size_t n_done) {
    hyb_pack_transposed_job rest = *job;
    rest.codes += n_done;
    rest.n_rows -= n_done;
    rest.blocks += n_done / HYB_BLOCK_ROWS * job->block_bytes;
    return rest;
}

static HYB_TARGET_AVX2 void hyb_pack_transposed_i8_avx2(const hyb_pack_transposed_job *job) {
    size_t n_inner = hyb_round_up(job->n_inner, HYB_BLOCK_COLS), n_rows = job->n_rows / HYB_BLOCK_ROWS * HYB_BLOCK_ROWS;
    for (size_t inner = 0; inner < n_inner; inner += 4)
        for (size_t row = 0; row < n_rows; row += HYB_BLOCK_ROWS) {
            uint8_t *to = job->blocks + row / HYB_BLOCK_ROWS * job->block_bytes + inner / 4 * LINE;
            __m256i halves[2];
            interleave_four(job, inner, row, halves);
            _mm256_storeu_si256((__m256i *)(void *)to, halves[0]);
            _mm256_storeu_si256((__m256i *)(void *)(to + 32), halves[1]);
        }
    hyb_pack_transposed_job rest = rest_of_pack(job, n_rows);
    if (rest.n_rows != 0) hyb_pack_transposed_i8_ref(&rest);
}

static HYB_TARGET_AVX2 void hyb_pack_transposed_ternary_avx2(const hyb_pack_transposed_job *job) {
    const __m256i ones = _mm256_set1_epi8(1);
    size_t n_rows = job->n_rows / HYB_BLOCK_ROWS * HYB_BLOCK_ROWS;
    for (size_t inner = 0; inner < job->n_inner; inner += HYB_BLOCK_COLS)
        for (size_t row = 0; row < n_rows; row += HYB_BLOCK_ROWS) {
            uint8_t *to = job->blocks + row / HYB_BLOCK_ROWS * job->block_bytes + inner / HYB_BLOCK_COLS * LINE;
            __m256i low = _mm256_setzero_si256(), high = low, halves[2];
            HYB_UNROLL for (int p = 0; p < 4; ++p) { /* at most 2 << 6: no bit leaves its byte */
                interleave_four(job, inner + 4 * (size_t)p, row, halves);
                low = _mm256_or_si256(low, _mm256_slli_epi32(_mm256_add_epi8(halves[0], ones), 2 * p));
                high = _mm256_or_si256(high, _mm256_slli_epi32(_mm256_add_epi8(halves[1], ones), 2 * p));
            }
            _mm256_storeu_si256((__m256i *)(void *)to, low);
            _mm256_storeu_si256((__m256i *)(void *)(to + 32), high);
        }
    hyb_pack_transposed_job rest = rest_of_pack(job, n_rows);
    if (rest.n_rows != 0) hyb_pack_transposed_ternary_ref(&rest);
}

void hyb_install_transpose_avx2(hyb_kernels *table) {
    HYB_INSTALL(table, column_max_bits, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, quantize_transposed, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, pack_transposed_i8, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, pack_transposed_ternary, avx2, HYB_ISA_AVX2);
}
#endif
