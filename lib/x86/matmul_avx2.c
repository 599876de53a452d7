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

/* sum += products of the bytes or words of x and w, added in pairs; w lies in memory ("m") or a register ("x"). As one
 * statement, since gcc 12 would load the weights once for all tokens, or compute products ahead, and so run out of
 * registers; clang 14 does well by itself and badly with the statement. x is the unsigned side of vpmaddubsw.
 * MASKED_PRODUCTS masks the weights first; 8 sums, 4 activations and 2 masks leave two registers. */
#if defined(__clang__)
#define MULTIPLY_ADD(multiply, add, sum, x, place, w) ((sum) = _mm256_##add(sum, _mm256_##multiply(x, w)))
#define MASKED_PRODUCTS(sum, mask, place, w, x)                                                                        \
    ((sum) = _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_and_si256(w, mask), x)))
#else
#define INSTRUCTION_maddubs_epi16 "vpmaddubsw"
#define INSTRUCTION_madd_epi16 "vpmaddwd"
#define INSTRUCTION_add_epi16 "vpaddw"
#define INSTRUCTION_add_epi32 "vpaddd"
#define MULTIPLY_ADD(multiply, add, sum, x, place, w)                                                                  \
    do {                                                                                                               \
        __m256i product;                                                                                               \
        __asm__(INSTRUCTION_##multiply " {%3, %2, %1|%1, %2, %3}\n\t" INSTRUCTION_##add " {%1, %0, %0|%0, %0, %1}"     \
                : "+x"(sum), "=&x"(product)                                                                            \
                : "x"(x), place(w));                                                                                   \
    } while (0)
#define MASKED_PRODUCTS(sum, mask, place, w, x)                                                                        \
    do {                                                                                                               \
        __m256i product;                                                                                               \
        __asm__("vpand {%3, %2, %1|%1, %2, %3}\n\tvpmaddubsw {%4, %1, %1|%1, %1, %4}\n\t"                              \
                "vpaddw {%1, %0, %0|%0, %0, %1}"                                                                       \
                : "+x"(sum), "=&x"(product)                                                                            \
                : "x"(mask), place(w), "x"(x));                                                                        \
    } while (0)
#endif

#define LINE 64
#define TILE_TOKENS 3
#define FEW_TOKENS 4
/* Tokens up to which decoding panels does not pay. Those of int8 pay 1.0 to 1.15 times up to 512 columns; beyond, they
 * took 0.95 to 1.05 of the speed, so the plain tiles stay. */
#define MAX_FEW_TERNARY 12
#define MAX_FEW_INT8 63
#define MAX_PANEL_INT8_K16 32
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

HYB_INLINE HYB_TARGET_AVX2 void put_results(float *y, __m256 results, int accumulate) {
    _mm256_storeu_ps(y, accumulate ? _mm256_add_ps(_mm256_loadu_ps(y), results) : results);
}

/* Results of 8 rows from `row` on for one token. */
HYB_INLINE HYB_TARGET_AVX2 void store_8_rows(const hyb_matmul_job *job, size_t row, size_t token, __m256i sum) {
    size_t at = token * job->ld_y + row;
    if (job->y == NULL) {
        _mm256_storeu_si256((__m256i *)(void *)(job->y_i32 + at), sum);
    } else {
        __m256 scale = _mm256_mul_ps(_mm256_set1_ps(job->x_scales[token]), _mm256_loadu_ps(job->row_scales + row));
        put_results(job->y + at, _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale), job->accumulate);
    }
}

/* The same where fewer than 8 rows are left. */
static HYB_TARGET_AVX2 void store_last_rows(const hyb_matmul_job *job, size_t row, size_t token, __m256i sum) {
    size_t at = token * job->ld_y + row;
    int32_t sums[8];
    _mm256_storeu_si256((__m256i *)(void *)sums, sum);
    for (size_t i = 0; row + i < job->n_rows; ++i) {
        if (job->y == NULL) {
            job->y_i32[at + i] = sums[i];
        } else {
            float scale = job->x_scales[token] * job->row_scales[row + i];
            float result = (float)sums[i] * scale;
            job->y[at + i] = job->accumulate ? job->y[at + i] + result : result;
        }
    }
}

HYB_INLINE HYB_TARGET_AVX2 void store_rows(const hyb_matmul_job *job, size_t row, size_t token, __m256i sum) {
    if (row + 8 <= job->n_rows)
        store_8_rows(job, row, token, sum);
    else
        store_last_rows(job, row, token, sum);
}

/* ---- one token ---- */

/* One token and n_blocks row blocks, weights as they lie in memory. Planes 0 and 2 are added as they are, planes 1 and
 * 3 four times too large (masked with 12), which saves their shift; widening weighs the two 4 : 1, so everything is
 * four times too large, exactly, until the shift at the end. Two blocks share the broadcasts: 1.1 times the speed in
 * cache. Prefetches run on into the next blocks. */
HYB_INLINE HYB_TARGET_AVX2 void ternary_token(const hyb_matmul_job *job, size_t block, const size_t n_blocks,
                                              __m256i *sums) {
    const __m256i mask3 = _mm256_set1_epi8(3), mask12 = _mm256_set1_epi8(12);
    const size_t n_k16 = job->n_k16, block_bytes = n_k16 * LINE;
    const uint8_t *weights = job->weights + block * block_bytes, *weights1 = weights + (n_blocks - 1) * block_bytes;
    const int8_t *x = job->x;
    HYB_UNROLL
    for (size_t h = 0; h < n_blocks * 2; ++h) sums[h] = _mm256_setzero_si256();
    for (size_t k = 0; k < n_k16;) {
        size_t ahead =
            k + PREFETCH_BYTES / LINE < n_k16 ? PREFETCH_BYTES : PREFETCH_BYTES + (n_blocks - 1) * block_bytes;
        size_t end = hyb_min_size(k + TOKEN_GROUPS, n_k16);
        __m256i even[4], odd[4];
        HYB_UNROLL
        for (size_t h = 0; h < n_blocks * 2; ++h) even[h] = odd[h] = _mm256_setzero_si256();
        for (; k < end; ++k, x += HYB_BLOCK_COLS, weights += LINE, weights1 += LINE) {
            __m256i x0 = broadcast_i8x4(x), x1 = broadcast_i8x4(x + 4);
            __m256i x2 = broadcast_i8x4(x + 8), x3 = broadcast_i8x4(x + 12);
            _mm_prefetch((const char *)(weights + ahead), _MM_HINT_T0);
            if (n_blocks == 2) _mm_prefetch((const char *)(weights1 + ahead), _MM_HINT_T0);
            HYB_UNROLL
            for (size_t h = 0; h < n_blocks * 2; ++h) {
                const __m256i *w = (const __m256i *)(const void *)((h < 2 ? weights : weights1) + h % 2 * 32);
                __m256i w4 = _mm256_srli_epi16(*w, 4);
                MASKED_PRODUCTS(even[h], mask3, "m", *w, x0);
                MASKED_PRODUCTS(odd[h], mask12, "m", *w, x1);
                MASKED_PRODUCTS(even[h], mask3, "x", w4, x2);
                MASKED_PRODUCTS(odd[h], mask12, "x", w4, x3);
            }
        }
        HYB_UNROLL
        for (size_t h = 0; h < n_blocks * 2; ++h) {
            __m256i wide = _mm256_madd_epi16(even[h], _mm256_set1_epi16(4));
            wide = _mm256_add_epi32(wide, _mm256_madd_epi16(odd[h], _mm256_set1_epi16(1)));
            sums[h] = _mm256_add_epi32(sums[h], wide);
        }
    }
}

/* Functions of their own, with the int32 sums in memory: inlined into a bigger one gcc 12 spills accumulators. */
static HYB_NO_INLINE HYB_TARGET_AVX2 void one_block(const hyb_matmul_job *job, size_t block, __m256i *sums) {
    ternary_token(job, block, 1, sums);
}
static HYB_NO_INLINE HYB_TARGET_AVX2 void two_blocks(const hyb_matmul_job *job, size_t block, __m256i *sums) {
    ternary_token(job, block, 2, sums);
}

static HYB_TARGET_AVX2 void one_token(const hyb_matmul_job *job) {
    const __m256i excess = _mm256_set1_epi32(job->x_sums[0]);
    for (size_t row = 0; row < job->n_rows;) {
        __m256i sums[4];
        size_t end = hyb_min_size(row + 32, job->n_rows);
        if (end - row > HYB_BLOCK_ROWS)
            two_blocks(job, row / HYB_BLOCK_ROWS, sums);
        else
            one_block(job, row / HYB_BLOCK_ROWS, sums);
        for (size_t h = 0; row < end; ++h, row += 8)
            store_rows(job, row, 0, _mm256_sub_epi32(_mm256_srai_epi32(sums[h], 2), excess));
    }
}

/* ---- many tokens ----
 * Panels of 256 columns x 32 rows are decoded once into the level-1 cache and multiplied with all tokens, 3 at a time:
 * 12 accumulators, 3 registers of activations, and the weights as operands in memory. A product so costs 2.25
 * instructions; 2 row registers x 6 tokens cost 2.7 and reached 83 % of the peak of multiply + add on Cascade Lake,
 * this 95 %. With unpacking and storing 75 % remain: 1.2 to 1.45 times the speed of tiles that read whole rows of
 * unpacked weights from the level-2 cache. ternary  vpmaddubsw takes its operand in memory as signed bytes: codes -1,
 * 0, 1, and activations + 128. A pair is at most 2 * 255, so a panel's 64 fit int16 (32640). The excess is 128 times
 * the sum of a row's codes. int8     both as int16, in the order 0, 2, 1, 3 of each 4 columns, which is cheap to
 * unpack; vpmaddwd, int32. The codes of a panel fill at most HYB_MATMUL_SCRATCH_BYTES: 32 rows, of 2 bytes a column for
 * int8. */

#define GROUP_HALVES 4 /* of 8 rows */
#define GROUP_ROWS 32
#define STEP_BYTES 128  /* a group's weights: 4 bytes a row, which are 4 columns, or 2 of int8 */
#define PANEL_STEPS 128 /* at most; ternary has 64 */
#define TERNARY_PANEL_K16 16
#define INT8_PANEL_K16 16
/* Tokens that share a decoded panel: it costs about as much as multiplying it with two. A multiple of 3. */
#define PART_TOKENS 144

typedef struct panel {
    const hyb_matmul_job *job;
    size_t n_steps, first_token;
    int first, last; /* of the panels of some rows */
    HYB_ALIGNED(32) int32_t excess[GROUP_ROWS];
    HYB_ALIGNED(32) int8_t x[TILE_TOKENS * PANEL_STEPS * 4];
    __m256i sums[PART_TOKENS][GROUP_HALVES]; /* of the panels so far */
} panel;

/* Codes -1, 0, 1 of n_k16 groups of one row block to [step][half], and what they add to the sums. */
static HYB_TARGET_AVX2 void unpack_ternary(const uint8_t *weights, size_t n_k16, uint8_t *out, int32_t *excess) {
    const __m256i mask = _mm256_set1_epi8(3), one = _mm256_set1_epi8(1), wide = _mm256_set1_epi16(128);
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}; /* at most 64 codes: they fit a byte */
    for (size_t k = 0; k < n_k16; ++k, weights += LINE, out += (size_t)4 * STEP_BYTES) {
        _mm_prefetch((const char *)(weights + PREFETCH_BYTES), _MM_HINT_T1);
        HYB_UNROLL
        for (size_t h = 0; h < 2; ++h) {
            __m256i w = load_half(weights + h * 32);
            HYB_UNROLL
            for (size_t plane = 0; plane < 4; ++plane) {
                __m256i codes = _mm256_sub_epi8(_mm256_and_si256(w, mask), one);
                _mm256_store_si256((__m256i *)(void *)(out + plane * STEP_BYTES + h * 32), codes);
                sums[h] = _mm256_add_epi8(sums[h], codes);
                w = _mm256_srli_epi16(w, 2);
            }
        }
    }
    for (size_t h = 0; h < 2; ++h) {
        __m256i total = _mm256_madd_epi16(_mm256_maddubs_epi16(one, sums[h]), wide);
        _mm256_store_si256((__m256i *)(void *)(excess + h * 8), total);
    }
}

static HYB_TARGET_AVX2 void unpack_int8(const uint8_t *weights, size_t n_k16, uint8_t *out) {
    for (size_t k4 = 0; k4 < n_k16 * 4; ++k4, weights += LINE, out += (size_t)2 * STEP_BYTES) {
        _mm_prefetch((const char *)(weights + 2 * PREFETCH_BYTES), _MM_HINT_T1);
        HYB_UNROLL
        for (size_t h = 0; h < 2; ++h) {
            __m256i w = load_half(weights + h * 32);
            __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), odd = _mm256_srai_epi16(w, 8);
            _mm256_store_si256((__m256i *)(void *)(out + h * 32), even);
            _mm256_store_si256((__m256i *)(void *)(out + STEP_BYTES + h * 32), odd);
        }
    }
}

/* A panel's activations of some tokens, as the products want them. */
HYB_INLINE HYB_TARGET_AVX2 void prepare_tokens(panel *p, const int8_t *x, size_t n_k16, size_t n_tokens,
                                               const int ternary) {
    const __m256i flip = _mm256_set1_epi8((char)0x80);
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (size_t t = 0; t < n_tokens; ++t, x += p->job->ld_x) {
        int8_t *out = p->x + t * PANEL_STEPS * 4;
        size_t k = 0;
        for (; ternary && k + 4 <= n_k16; k += 4) {
            const __m256i *from = (const __m256i *)(const void *)(x + k * 16);
            __m256i *to = (__m256i *)(void *)(out + k * 16);
            _mm_prefetch((const char *)(x + k * 16 + TILE_TOKENS * p->job->ld_x), _MM_HINT_T0);
            _mm256_store_si256(to, _mm256_xor_si256(_mm256_loadu_si256(from), flip));
            _mm256_store_si256(to + 1, _mm256_xor_si256(_mm256_loadu_si256(from + 1), flip));
        }
        HYB_NO_UNROLL
        for (; k < n_k16; ++k) {
            __m128i codes = _mm_load_si128((const __m128i *)(const void *)(x + k * 16));
            if (ternary)
                _mm_store_si128((__m128i *)(void *)(out + k * 16), _mm_xor_si128(codes, _mm256_castsi256_si128(flip)));
            else
                _mm256_store_si256((__m256i *)(void *)(out + k * 32),
                                   _mm256_cvtepi8_epi16(_mm_shuffle_epi8(codes, order)));
        }
    }
}

/* Adds a panel's part to the int32 sums [token][half] of n_halves x 8 rows and n_tokens tokens. */
HYB_INLINE HYB_TARGET_AVX2 void multiply_tile(const panel *p, __m256i (*out)[GROUP_HALVES], const size_t n_halves,
                                              const size_t n_tokens, const int ternary) {
    const uint8_t *weights = p->job->scratch;
    const int8_t *x = p->x;
    __m256i sums[TILE_TOKENS][GROUP_HALVES];
    HYB_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) {
        HYB_UNROLL
        for (size_t h = 0; h < n_halves; ++h) sums[t][h] = _mm256_setzero_si256();
    }
    for (const int8_t *end = x + p->n_steps * 4; x != end; x += 8, weights += 2 * STEP_BYTES) {
        HYB_UNROLL
        for (size_t step = 0; step < 2; ++step) {
            __m256i x_t[TILE_TOKENS];
            HYB_UNROLL
            for (size_t t = 0; t < n_tokens; ++t) x_t[t] = broadcast_i8x4(x + t * PANEL_STEPS * 4 + step * 4);
            HYB_UNROLL
            for (size_t h = 0; h < n_halves; ++h) {
                const __m256i *w = (const __m256i *)(const void *)(weights + step * STEP_BYTES + h * 32);
                HYB_UNROLL
                for (size_t t = 0; t < n_tokens; ++t) {
                    if (ternary)
                        MULTIPLY_ADD(maddubs_epi16, add_epi16, sums[t][h], x_t[t], "m", *w);
                    else
                        MULTIPLY_ADD(madd_epi16, add_epi32, sums[t][h], x_t[t], "m", *w);
                }
            }
        }
    }
    const int first = p->first;
    HYB_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) {
        HYB_UNROLL
        for (size_t h = 0; h < n_halves; ++h) {
            __m256i sum = sums[t][h];
            if (ternary) {
                __m256i excess = _mm256_load_si256((const __m256i *)(const void *)p->excess + h);
                sum = _mm256_sub_epi32(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)), excess);
            }
            out[t][h] = first ? sum : _mm256_add_epi32(sum, out[t][h]);
        }
    }
}

/* As functions of their own, called by way of a table, since inlined into a bigger one gcc 12 spills accumulators. */
#define TILE(n_halves, n_tokens)                                                                                       \
    static HYB_TARGET_AVX2 void ternary_tile_##n_halves##x##n_tokens(const panel *p, __m256i(*out)[GROUP_HALVES]) {    \
        multiply_tile(p, out, n_halves, n_tokens, 1);                                                                  \
    }                                                                                                                  \
    static HYB_TARGET_AVX2 void int8_tile_##n_halves##x##n_tokens(const panel *p, __m256i(*out)[GROUP_HALVES]) {       \
        multiply_tile(p, out, n_halves, n_tokens, 0);                                                                  \
    }
TILE(2, 1)
TILE(2, 2)
TILE(2, 3)
TILE(4, 1)
TILE(4, 2)
TILE(4, 3)
/* [row blocks - 1][tokens - 1] */
typedef void (*tile_function)(const panel *p, __m256i (*out)[GROUP_HALVES]);
static const tile_function ternary_tiles[2][TILE_TOKENS] = {
    {ternary_tile_2x1, ternary_tile_2x2, ternary_tile_2x3},
    {ternary_tile_4x1, ternary_tile_4x2, ternary_tile_4x3},
};
static const tile_function int8_tiles[2][TILE_TOKENS] = {
    {int8_tile_2x1, int8_tile_2x2, int8_tile_2x3},
    {int8_tile_4x1, int8_tile_4x2, int8_tile_4x3},
};

/* The sums of n_halves x 8 rows, of which the last may not exist, and n_tokens tokens to results. */
HYB_INLINE HYB_TARGET_AVX2 void finish_tile(const hyb_matmul_job *job, size_t row, size_t token,
                                            const __m256i (*sums)[GROUP_HALVES], const size_t n_halves,
                                            size_t n_tokens) {
    const __m256i(*end)[GROUP_HALVES] = sums + n_tokens;
    if (job->y == NULL || row + n_halves * 8 > job->n_rows) {
        for (; sums != end; ++token, ++sums)
            for (size_t h = 0; h < n_halves && row + h * 8 < job->n_rows; ++h)
                store_rows(job, row + h * 8, token, (*sums)[h]);
        return;
    }
    float *y = job->y + token * job->ld_y + row;
    const float *x_scales = job->x_scales + token;
    const size_t ld_y = job->ld_y;
    const int accumulate = job->accumulate;
    __m256 scales[GROUP_HALVES];
    HYB_UNROLL
    for (size_t h = 0; h < n_halves; ++h) scales[h] = _mm256_loadu_ps(job->row_scales + row + h * 8);
    for (; sums != end; ++sums, ++x_scales, y += ld_y) {
        __m256 x_scale = _mm256_set1_ps(*x_scales);
        HYB_UNROLL
        for (size_t h = 0; h < n_halves; ++h)
            put_results(y + h * 8, _mm256_mul_ps(_mm256_cvtepi32_ps((*sums)[h]), _mm256_mul_ps(x_scale, scales[h])),
                        accumulate);
    }
}

/* All tokens of a part of them with a panel. */
HYB_INLINE HYB_TARGET_AVX2 void panel_tiles(panel *p, size_t row, size_t k, size_t n_k16, size_t end_token,
                                            const size_t n_halves, const int ternary) {
    const hyb_matmul_job *job = p->job;
    const int one_panel = p->first && p->last;
    for (size_t token = p->first_token, n; token < end_token; token += n) {
        __m256i(*sums)[GROUP_HALVES] = p->sums + (one_panel ? 0 : token - p->first_token);
        n = hyb_min_size(TILE_TOKENS, end_token - token);
        if (end_token - token == 4) n = 2; /* 2 + 2, not 3 + 1 */
        prepare_tokens(p, job->x + token * job->ld_x + k * HYB_BLOCK_COLS, n_k16, n, ternary);
        if (ternary)
            ternary_tiles[n_halves / 2 - 1][n - 1](p, sums);
        else
            int8_tiles[n_halves / 2 - 1][n - 1](p, sums);
        if (p->last) finish_tile(job, row, token, (const __m256i(*)[GROUP_HALVES])sums, n_halves, n);
    }
}

/* 32 rows, or the last 16, x a part of the tokens. */
HYB_INLINE HYB_TARGET_AVX2 void group(panel *p, size_t row, size_t end_token, const size_t n_blocks,
                                      const int ternary) {
    const hyb_matmul_job *job = p->job;
    const size_t panel_k16 = ternary ? TERNARY_PANEL_K16 : INT8_PANEL_K16, line = ternary ? LINE : (size_t)4 * LINE;
    for (size_t k = 0; k < job->n_k16; k += panel_k16) {
        size_t n_k16 = hyb_min_size(panel_k16, job->n_k16 - k);
        p->n_steps = n_k16 * (ternary ? 4 : 8);
        p->first = k == 0;
        p->last = k + n_k16 == job->n_k16;
        for (size_t b = 0; b < n_blocks; ++b) {
            const uint8_t *weights = job->weights + ((row / HYB_BLOCK_ROWS + b) * job->n_k16 + k) * line;
            if (ternary)
                unpack_ternary(weights, n_k16, job->scratch + b * LINE, p->excess + b * HYB_BLOCK_ROWS);
            else
                unpack_int8(weights, n_k16, job->scratch + b * LINE);
        }
        panel_tiles(p, row, k, n_k16, end_token, n_blocks * 2, ternary);
    }
}

HYB_INLINE HYB_TARGET_AVX2 void many_tokens(const hyb_matmul_job *job, const int ternary) {
    panel p;
    p.job = job;
    const size_t panel_k16 = ternary ? TERNARY_PANEL_K16 : INT8_PANEL_K16;
    size_t n_parts = job->n_k16 <= panel_k16 ? 1 : hyb_ceil_div(job->n_tokens, PART_TOKENS);
    size_t n = hyb_round_up(hyb_ceil_div(job->n_tokens, n_parts), TILE_TOKENS);
    for (p.first_token = 0; p.first_token < job->n_tokens; p.first_token += n) {
        size_t end_token = hyb_min_size(p.first_token + n, job->n_tokens);
        for (size_t row = 0; row < job->n_rows; row += GROUP_ROWS) {
            if (row + HYB_BLOCK_ROWS < job->n_rows)
                group(&p, row, end_token, 2, ternary);
            else
                group(&p, row, end_token, 1, ternary);
        }
    }
}

/* ---- few tokens ---- */

/* 16 rows x n_tokens, decoded on the way: 1.35 times the speed of panels for 2 and 4 tokens, equal at 12. */
HYB_INLINE HYB_TARGET_AVX2 void multiply_few(const hyb_matmul_job *job, size_t block, size_t token,
                                             const size_t n_tokens, __m256i (*sums)[2]) {
    const __m256i mask = _mm256_set1_epi8(3);
    const size_t n_k16 = job->n_k16, ld_x = job->ld_x;
    const uint8_t *weights = job->weights + block * n_k16 * LINE;
    const int8_t *x = job->x + token * ld_x;
    for (size_t t = 0; t < n_tokens; ++t) sums[t][0] = sums[t][1] = _mm256_setzero_si256();
    for (size_t k = 0; k < n_k16;) {
        size_t end = hyb_min_size(k + TERNARY_PANEL_K16, n_k16); /* 64 pairs of at most 508 */
        __m256i pairs[FEW_TOKENS][2];
        HYB_UNROLL
        for (size_t t = 0; t < n_tokens; ++t) pairs[t][0] = pairs[t][1] = _mm256_setzero_si256();
        for (; k < end; ++k, x += HYB_BLOCK_COLS, weights += LINE) {
            __m256i w0 = load_half(weights), w1 = load_half(weights + 32);
            _mm_prefetch((const char *)(weights + PREFETCH_BYTES), _MM_HINT_T0);
            HYB_UNROLL
            for (size_t plane = 0; plane < 4; ++plane) {
                __m256i codes0 = _mm256_and_si256(w0, mask), codes1 = _mm256_and_si256(w1, mask);
                HYB_UNROLL
                for (size_t t = 0; t < n_tokens; ++t) {
                    __m256i x_t = broadcast_i8x4(x + t * ld_x + plane * 4);
                    MULTIPLY_ADD(maddubs_epi16, add_epi16, pairs[t][0], codes0, "x", x_t);
                    MULTIPLY_ADD(maddubs_epi16, add_epi16, pairs[t][1], codes1, "x", x_t);
                }
                w0 = _mm256_srli_epi16(w0, 2);
                w1 = _mm256_srli_epi16(w1, 2);
            }
        }
        HYB_UNROLL
        for (size_t t = 0; t < n_tokens; ++t) {
            const __m256i one = _mm256_set1_epi16(1);
            sums[t][0] = _mm256_add_epi32(sums[t][0], _mm256_madd_epi16(pairs[t][0], one));
            sums[t][1] = _mm256_add_epi32(sums[t][1], _mm256_madd_epi16(pairs[t][1], one));
        }
    }
}

#define FEW(n_tokens)                                                                                                  \
    static HYB_NO_INLINE HYB_TARGET_AVX2 void multiply_##n_tokens(const hyb_matmul_job *job, size_t block,             \
                                                                  size_t token, __m256i(*sums)[2]) {                   \
        multiply_few(job, block, token, n_tokens, sums);                                                               \
    }
FEW(2)
FEW(3)
FEW(4)

static HYB_TARGET_AVX2 void few_tokens(const hyb_matmul_job *job, size_t block) {
    size_t n_tiles = hyb_ceil_div(job->n_tokens, FEW_TOKENS);
    for (size_t i = 0, token = 0, n; i < n_tiles; ++i) {
        __m256i sums[FEW_TOKENS][2];
        n = (job->n_tokens - token) / (n_tiles - i); /* tiles as even as they go */
        if (n == 2) multiply_2(job, block, token, sums);
        if (n == 3) multiply_3(job, block, token, sums);
        if (n == 4) multiply_4(job, block, token, sums);
        for (size_t end = token + n, t = 0; token < end; ++token, ++t) {
            __m256i excess = _mm256_set1_epi32(job->x_sums[token]);
            for (size_t h = 0, row = block * HYB_BLOCK_ROWS; h < 2 && row < job->n_rows; ++h, row += 8)
                store_rows(job, row, token, _mm256_sub_epi32(sums[t][h], excess));
        }
    }
}

/* 16 rows x n_tokens from packed int8 weights. */
HYB_INLINE HYB_TARGET_AVX2 void int8_tile(const hyb_matmul_job *job, size_t block, size_t token,
                                          const size_t n_tokens) {
    const __m256i one = _mm256_set1_epi16(1);
    const size_t n_k4 = job->n_k16 * 4;
    const int8_t *x = job->x + token * job->ld_x;
    const uint8_t *weights = job->weights + block * n_k4 * LINE;
    __m256i sums[FEW_TOKENS][2];
    HYB_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) sums[t][0] = sums[t][1] = _mm256_setzero_si256();
    for (size_t k = 0; k < n_k4; ++k, x += 4, weights += LINE) {
        __m256i w0 = load_half(weights), w1 = load_half(weights + 32);
        __m256i abs0 = _mm256_abs_epi8(w0), abs1 = _mm256_abs_epi8(w1);
        _mm_prefetch((const char *)(weights + PREFETCH_BYTES), _MM_HINT_T0);
        HYB_UNROLL
        for (size_t t = 0; t < n_tokens; ++t) {
            __m256i x_t = broadcast_i8x4(x + t * job->ld_x);
            __m256i pairs0 = _mm256_maddubs_epi16(abs0, _mm256_sign_epi8(x_t, w0));
            __m256i pairs1 = _mm256_maddubs_epi16(abs1, _mm256_sign_epi8(x_t, w1));
            sums[t][0] = _mm256_add_epi32(sums[t][0], _mm256_madd_epi16(pairs0, one));
            sums[t][1] = _mm256_add_epi32(sums[t][1], _mm256_madd_epi16(pairs1, one));
        }
    }
    size_t row = block * HYB_BLOCK_ROWS;
    HYB_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) {
        store_rows(job, row, token + t, sums[t][0]);
        if (row + 8 < job->n_rows) store_rows(job, row + 8, token + t, sums[t][1]);
    }
}

static HYB_TARGET_AVX2 void hyb_matmul_ternary_avx2(const hyb_matmul_job *job) {
    if (job->n_tokens == 1)
        one_token(job);
    else if (job->n_tokens > MAX_FEW_TERNARY)
        many_tokens(job, 1);
    else
        for (size_t block = 0; block * HYB_BLOCK_ROWS < job->n_rows; ++block) few_tokens(job, block);
}

static HYB_TARGET_AVX2 void hyb_matmul_int8_avx2(const hyb_matmul_job *job) {
    if (job->n_tokens > MAX_FEW_INT8 && job->n_k16 <= MAX_PANEL_INT8_K16) {
        many_tokens(job, 0);
        return;
    }
    size_t n_tiles = hyb_ceil_div(job->n_tokens, FEW_TOKENS);
    for (size_t block = 0; block * HYB_BLOCK_ROWS < job->n_rows; ++block)
        for (size_t i = 0, token = 0, n; i < n_tiles; ++i, token += n) {
            n = (job->n_tokens - token) / (n_tiles - i);
            if (n == 4) int8_tile(job, block, token, 4);
            if (n == 3) int8_tile(job, block, token, 3);
            if (n == 2) int8_tile(job, block, token, 2);
            if (n == 1) int8_tile(job, block, token, 1);
        }
}

void hyb_install_matmul_avx2(hyb_kernels *table) {
    HYB_INSTALL(table, matmul_ternary, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, matmul_int8, avx2, HYB_ISA_AVX2);
}
#endif
