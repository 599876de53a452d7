/* matmul_avx2.c - packed integer weights x int8 activations with AVX2. Specification: ref/matmul_ref.c.
 *
 * vpmaddubsw multiplies unsigned by signed bytes and adds pairs to int16 with saturation, which must never happen:
 *   ternary  code + 1 in {0, 1, 2}: a pair is at most 2 * 2 * 127 = 508, so 64 of them fit (32512 < 32767); then they
 *            are widened to int32. The excess, the sum of the token's activations, is subtracted at the end.
 *   int8     |w| x sign(x, w): a pair is at most 2 * 127 * 127 = 32258; widened at once by vpmaddwd.
 */
#include "../common.h"

#if HYB_X86
#include <immintrin.h>

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* gcc 12 keeps two copies of each accumulator of a loop and spills them; an empty statement that "changes" the one
 * leaves it no second. Clang needs none of it. */
#if defined(__clang__)
#define HOLD(v) ((void)0)
#else
#define HOLD(v) __asm__("" : "+x"(v))
#endif

#define LINE 64
#define TILE_TOKENS 4
#define MAX_SAFE_PAIRS 64
/* Groups of 16 columns whose pairs fit an accumulator that takes two planes of a group, the larger four times too
 * large: 2 * 4 * 508 * 8 = 32512. */
#define TOKEN_GROUPS 8
/* Bytes that software prefetch runs ahead in each row block. */
#define PREFETCH_BYTES 2048

HYB_INLINE HYB_TARGET_AVX2 __m256i broadcast_i8x4(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

HYB_INLINE HYB_TARGET_AVX2 __m256i load_half(const uint8_t *p) {
    return _mm256_load_si256((const __m256i *)(const void *)p);
}

/* Results of up to 8 rows from `row` on for one token. */
HYB_INLINE HYB_TARGET_AVX2 void store_rows(const hyb_matmul_job *job, size_t row, size_t token, __m256i sum) {
    size_t at = token * job->ld_y + row;
    if (row + 8 <= job->n_rows) {
        if (job->y == NULL) {
            _mm256_storeu_si256((__m256i *)(void *)(job->y_i32 + at), sum);
        } else {
            __m256 scale = _mm256_mul_ps(_mm256_set1_ps(job->x_scales[token]), _mm256_loadu_ps(job->row_scales + row));
            _mm256_storeu_ps(job->y + at, _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale));
        }
        return;
    }
    int32_t sums[8];
    _mm256_storeu_si256((__m256i *)(void *)sums, sum);
    for (size_t i = 0; row + i < job->n_rows; ++i) {
        if (job->y == NULL) {
            job->y_i32[at + i] = sums[i];
        } else {
            float scale = job->x_scales[token] * job->row_scales[row + i];
            job->y[at + i] = (float)sums[i] * scale;
        }
    }
}

/* One token and one row block, weights as they lie in memory. Planes 0 and 2 are added as they are, planes 1 and 3 four
 * times too large (masked with 12), which saves their shift; widening weighs the two 4 : 1, so everything is four times
 * too large, exactly, until the shift at the end. */
static HYB_TARGET_AVX2 void ternary_token(const hyb_matmul_job *job, size_t block) {
    const __m256i mask3 = _mm256_set1_epi8(3), mask12 = _mm256_set1_epi8(12);
    const __m256i four = _mm256_set1_epi16(4), one = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
    const uint8_t *weights = job->weights + block * job->n_k16 * LINE;
    const int8_t *x = job->x;
    __m256i sums[2] = {zero, zero};
    for (size_t k = 0; k < job->n_k16;) {
        size_t end = hyb_min_size(k + TOKEN_GROUPS, job->n_k16);
        __m256i even[2] = {zero, zero}, odd[2] = {zero, zero};
        for (; k < end; ++k, x += HYB_BLOCK_COLS, weights += LINE) {
            __m256i x0 = broadcast_i8x4(x), x1 = broadcast_i8x4(x + 4);
            __m256i x2 = broadcast_i8x4(x + 8), x3 = broadcast_i8x4(x + 12);
            _mm_prefetch((const char *)(weights + PREFETCH_BYTES), _MM_HINT_T0);
            UNROLL for (size_t h = 0; h < 2; ++h) {
                __m256i w = load_half(weights + h * 32), w4 = _mm256_srli_epi16(w, 4);
                even[h] = _mm256_add_epi16(even[h], _mm256_maddubs_epi16(_mm256_and_si256(w, mask3), x0));
                odd[h] = _mm256_add_epi16(odd[h], _mm256_maddubs_epi16(_mm256_and_si256(w, mask12), x1));
                even[h] = _mm256_add_epi16(even[h], _mm256_maddubs_epi16(_mm256_and_si256(w4, mask3), x2));
                odd[h] = _mm256_add_epi16(odd[h], _mm256_maddubs_epi16(_mm256_and_si256(w4, mask12), x3));
                HOLD(even[h]);
                HOLD(odd[h]);
            }
        }
        UNROLL for (size_t h = 0; h < 2; ++h) {
            __m256i wide = _mm256_add_epi32(_mm256_madd_epi16(even[h], four), _mm256_madd_epi16(odd[h], one));
            sums[h] = _mm256_add_epi32(sums[h], wide);
        }
    }
    const __m256i excess = _mm256_set1_epi32(job->x_sums[0]);
    for (size_t h = 0, row = block * HYB_BLOCK_ROWS; h < 2 && row < job->n_rows; ++h, row += 8)
        store_rows(job, row, 0, _mm256_sub_epi32(_mm256_srai_epi32(sums[h], 2), excess));
}

/* ---- several tokens ---- */

/* Scratch: [k4][16 rows][4 columns] codes + 1 of one row block. */
static HYB_TARGET_AVX2 void unpack_ternary(const hyb_matmul_job *job, size_t block) {
    const __m256i mask = _mm256_set1_epi8(3);
    const uint8_t *weights = job->weights + block * job->n_k16 * LINE;
    uint8_t *out = job->scratch;
    for (size_t k = 0; k < job->n_k16; ++k, weights += LINE, out += (size_t)4 * LINE) {
        for (size_t half = 0; half < LINE; half += 32) {
            __m256i w = load_half(weights + half);
            __m256i *to = (__m256i *)(void *)(out + half);
            _mm256_store_si256(to, _mm256_and_si256(w, mask));
            _mm256_store_si256(to + 2, _mm256_and_si256(_mm256_srli_epi16(w, 2), mask));
            _mm256_store_si256(to + 4, _mm256_and_si256(_mm256_srli_epi16(w, 4), mask));
            _mm256_store_si256(to + 6, _mm256_and_si256(_mm256_srli_epi16(w, 6), mask));
        }
    }
}

/* 16 rows x n_tokens from unpacked codes. */
HYB_INLINE HYB_TARGET_AVX2 void ternary_tile(const hyb_matmul_job *job, size_t block, size_t token,
                                             const size_t n_tokens) {
    const __m256i one = _mm256_set1_epi16(1);
    const size_t n_k4 = job->n_k16 * 4;
    const int8_t *x = job->x + token * job->ld_x;
    const uint8_t *weights = job->scratch;
    __m256i sums[TILE_TOKENS][2];
    UNROLL for (size_t t = 0; t < n_tokens; ++t) sums[t][0] = sums[t][1] = _mm256_setzero_si256();
    for (size_t k = 0; k < n_k4;) {
        size_t end = hyb_min_size(k + MAX_SAFE_PAIRS, n_k4);
        __m256i pairs[TILE_TOKENS][2];
        UNROLL for (size_t t = 0; t < n_tokens; ++t) pairs[t][0] = pairs[t][1] = _mm256_setzero_si256();
        for (; k < end; ++k, x += 4, weights += LINE) {
            __m256i w0 = load_half(weights), w1 = load_half(weights + 32);
            UNROLL for (size_t t = 0; t < n_tokens; ++t) {
                __m256i x_t = broadcast_i8x4(x + t * job->ld_x);
                pairs[t][0] = _mm256_add_epi16(pairs[t][0], _mm256_maddubs_epi16(w0, x_t));
                pairs[t][1] = _mm256_add_epi16(pairs[t][1], _mm256_maddubs_epi16(w1, x_t));
                HOLD(pairs[t][0]);
                HOLD(pairs[t][1]);
            }
        }
        UNROLL for (size_t t = 0; t < n_tokens; ++t) {
            sums[t][0] = _mm256_add_epi32(sums[t][0], _mm256_madd_epi16(pairs[t][0], one));
            sums[t][1] = _mm256_add_epi32(sums[t][1], _mm256_madd_epi16(pairs[t][1], one));
        }
    }
    size_t row = block * HYB_BLOCK_ROWS;
    UNROLL for (size_t t = 0; t < n_tokens; ++t) {
        __m256i excess = _mm256_set1_epi32(job->x_sums[token + t]);
        store_rows(job, row, token + t, _mm256_sub_epi32(sums[t][0], excess));
        if (row + 8 < job->n_rows) store_rows(job, row + 8, token + t, _mm256_sub_epi32(sums[t][1], excess));
    }
}

/* 16 rows x n_tokens from packed int8 weights. */
HYB_INLINE HYB_TARGET_AVX2 void int8_tile(const hyb_matmul_job *job, size_t block, size_t token,
                                          const size_t n_tokens) {
    const __m256i one = _mm256_set1_epi16(1);
    const size_t n_k4 = job->n_k16 * 4;
    const int8_t *x = job->x + token * job->ld_x;
    const uint8_t *weights = job->weights + block * n_k4 * LINE;
    __m256i sums[TILE_TOKENS][2];
    UNROLL for (size_t t = 0; t < n_tokens; ++t) sums[t][0] = sums[t][1] = _mm256_setzero_si256();
    for (size_t k = 0; k < n_k4; ++k, x += 4, weights += LINE) {
        __m256i w0 = load_half(weights), w1 = load_half(weights + 32);
        __m256i abs0 = _mm256_abs_epi8(w0), abs1 = _mm256_abs_epi8(w1);
        _mm_prefetch((const char *)(weights + PREFETCH_BYTES), _MM_HINT_T0);
        UNROLL for (size_t t = 0; t < n_tokens; ++t) {
            __m256i x_t = broadcast_i8x4(x + t * job->ld_x);
            __m256i pairs0 = _mm256_maddubs_epi16(abs0, _mm256_sign_epi8(x_t, w0));
            __m256i pairs1 = _mm256_maddubs_epi16(abs1, _mm256_sign_epi8(x_t, w1));
            sums[t][0] = _mm256_add_epi32(sums[t][0], _mm256_madd_epi16(pairs0, one));
            sums[t][1] = _mm256_add_epi32(sums[t][1], _mm256_madd_epi16(pairs1, one));
        }
    }
    size_t row = block * HYB_BLOCK_ROWS;
    UNROLL for (size_t t = 0; t < n_tokens; ++t) {
        store_rows(job, row, token + t, sums[t][0]);
        if (row + 8 < job->n_rows) store_rows(job, row + 8, token + t, sums[t][1]);
    }
}

/* All tokens of a row block, in tiles as even as they go. */
#define HYB_FOR_TILES(tile_function)                                                                                   \
    do {                                                                                                               \
        size_t n_tiles = hyb_ceil_div(job->n_tokens, TILE_TOKENS);                                                     \
        for (size_t i = 0, token = 0; i < n_tiles; ++i) {                                                              \
            size_t n = (job->n_tokens - token) / (n_tiles - i);                                                        \
            if (n == 4) tile_function(job, block, token, 4);                                                           \
            if (n == 3) tile_function(job, block, token, 3);                                                           \
            if (n == 2) tile_function(job, block, token, 2);                                                           \
            if (n == 1) tile_function(job, block, token, 1);                                                           \
            token += n;                                                                                                \
        }                                                                                                              \
    } while (0)

static HYB_TARGET_AVX2 void hyb_matmul_ternary_avx2(const hyb_matmul_job *job) {
    size_t n_blocks = hyb_ceil_div(job->n_rows, HYB_BLOCK_ROWS), block = 0;
    if (job->n_tokens == 1) {
        for (; block < n_blocks; ++block) ternary_token(job, block);
        return;
    }
    for (; block < n_blocks; ++block) {
        unpack_ternary(job, block);
        HYB_FOR_TILES(ternary_tile);
    }
}

static HYB_TARGET_AVX2 void hyb_matmul_int8_avx2(const hyb_matmul_job *job) {
    size_t n_blocks = hyb_ceil_div(job->n_rows, HYB_BLOCK_ROWS);
    for (size_t block = 0; block < n_blocks; ++block) HYB_FOR_TILES(int8_tile);
}

void hyb_install_matmul_avx2(hyb_kernels *table) {
    HYB_INSTALL(table, matmul_ternary, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, matmul_int8, avx2, HYB_ISA_AVX2);
}
#endif
