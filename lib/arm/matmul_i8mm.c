/* matmul_i8mm.c - packed integer weights x int8 activations for several tokens with SMMLA. Specification:
 * ref/matmul_ref.c. Few tokens stay with SDOT (matmul_dotprod.c), which has no cost of preparation.
 *
 * SMMLA multiplies 2 rows x 8 columns by 2 tokens x 8 columns. Both sides are brought into that order once, in the
 * scratch: a row block takes a quarter of it, up to 48 tokens the rest.
 */
#include "../common.h"

#if HYB_ARM64
#include "int8_neon.h"

/* Scratch: weights [k16][4 groups of 4 rows][2 halves][2 pairs of rows][2 rows][8 columns], then
 *          tokens [pairs][k16][2 halves][2 tokens][8 columns]. */
#define TILE_ROWS 8
#define TILE_TOKENS 8 /* divides GROUP_TOKENS */
#define GROUP_BYTES ((size_t)HYB_BLOCK_ROWS * HYB_BLOCK_COLS)
#define GROUP_TOKENS ((size_t)(HYB_MATMUL_JOB_ROWS - HYB_BLOCK_ROWS))

/* From here on the two need equally many instructions for ternary weights, and SMMLA half as many multiplications: 94
 * and 92 per 1000 multiply-accumulates, 74 and 92 for 16 tokens, 141 and 108 for 4 (tools/count_instructions). */
#define MIN_TOKENS 8

/* Planes 2 h and 2 h + 1 of 4 rows: each row's 8 columns side by side. */
HYB_INLINE void store_pairs(int8_t *out, int8x16_t a, int8x16_t b) {
    int32x4x2_t planes = {{vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)}};
    vst2q_s32((int32_t *)(void *)out, planes);
}

static void unpack_ternary(const hyb_matmul_job *job, size_t block) {
    const uint8x16_t mask = vdupq_n_u8(3);
    const int8x16_t one = vdupq_n_s8(1);
    const uint8_t *weights = job->weights + block * job->n_k16 * NEON_BLOCK_LINE;
    int8_t *out = (int8_t *)job->scratch;
    for (size_t i = 0; i < job->n_k16 * 4; ++i, weights += 16, out += 64) {
        uint8x16_t w = vld1q_u8(weights);
        int8x16_t p0 = vreinterpretq_s8_u8(vandq_u8(w, mask));
        int8x16_t p1 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(w, 2), mask));
        int8x16_t p2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(w, 4), mask));
        int8x16_t p3 = vreinterpretq_s8_u8(vshrq_n_u8(w, 6));
        store_pairs(out, vsubq_s8(p0, one), vsubq_s8(p1, one));
        store_pairs(out + 32, vsubq_s8(p2, one), vsubq_s8(p3, one));
    }
}

static void unpack_int8(const hyb_matmul_job *job, size_t block) {
    const int8_t *weights = (const int8_t *)job->weights + block * job->n_k16 * 4 * NEON_BLOCK_LINE;
    int8_t *out = (int8_t *)job->scratch;
    for (size_t k = 0; k < job->n_k16; ++k, weights += (size_t)4 * NEON_BLOCK_LINE) {
        for (size_t q = 0; q < 4; ++q, out += 64) {
            const int8_t *w = weights + 16 * q;
            store_pairs(out, vld1q_s8(w), vld1q_s8(w + NEON_BLOCK_LINE));
            store_pairs(out + 32, vld1q_s8(w + 2 * NEON_BLOCK_LINE), vld1q_s8(w + 3 * NEON_BLOCK_LINE));
        }
    }
}

/* Tokens first .. first + n - 1, an odd last one beside zeros. */
static int8_t *interleave_tokens(const hyb_matmul_job *job, size_t first, size_t n) {
    int8_t *begin = (int8_t *)job->scratch + job->n_k16 * GROUP_BYTES, *out = begin;
    for (size_t t = 0; t < n; t += 2) {
        const int8_t *x = job->x + (first + t) * job->ld_x, *y = t + 1 < n ? x + job->ld_x : NULL;
        for (size_t k = 0; k < job->n_k16; ++k, x += HYB_BLOCK_COLS, out += 32) {
            int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(x));
            int64x2_t b = vreinterpretq_s64_s8(y != NULL ? vld1q_s8(y + k * HYB_BLOCK_COLS) : vdupq_n_s8(0));
            vst1q_s8(out, vreinterpretq_s8_s64(vzip1q_s64(a, b)));
            vst1q_s8(out + 16, vreinterpretq_s8_s64(vzip2q_s64(a, b)));
        }
    }
    return begin;
}

/* 8 rows x n_pairs pairs of tokens from x on, which are tokens `token` .. end - 1 of the job. */
HYB_INLINE HYB_TARGET_I8MM void pair_tile(const hyb_matmul_job *job, size_t row, size_t token, size_t end,
                                          const int8_t *x, const size_t n_pairs) {
    const int8_t *weights = (const int8_t *)job->scratch + row % HYB_BLOCK_ROWS * HYB_BLOCK_COLS;
    const size_t ld_x = job->n_k16 * 32;
    int32x4_t sums[4][4]; /* [pair of tokens][pair of rows]: row a token 0, 1, row b token 0, 1 */
    NEON_UNROLL
    for (size_t t = 0; t < n_pairs; ++t) {
        NEON_UNROLL
        for (size_t r = 0; r < 4; ++r) sums[t][r] = vdupq_n_s32(0);
    }
    for (size_t k = 0; k < job->n_k16; ++k, x += 32, weights += GROUP_BYTES) {
        NEON_UNROLL
        for (size_t h = 0; h < 2; ++h) {
            int8x16_t w[4];
            NEON_UNROLL
            for (size_t r = 0; r < 4; ++r) w[r] = vld1q_s8(weights + r / 2 * 64 + h * 32 + r % 2 * 16);
            NEON_UNROLL
            for (size_t t = 0; t < n_pairs; ++t) {
                int8x16_t x_t = vld1q_s8(x + t * ld_x + h * 16);
                NEON_UNROLL
                for (size_t r = 0; r < 4; ++r) {
                    sums[t][r] = NEON_SMMLA(sums[t][r], w[r], x_t);
                    NEON_HOLD(sums[t][r]);
                }
            }
        }
    }
    NEON_UNROLL
    for (size_t t = 0; t < n_pairs; ++t) {
        NEON_UNROLL
        for (size_t r = 0; r < 4; r += 2) {
            size_t at = token + 2 * t;
            neon_store_rows(job, row + 2 * r, at, vuzp1q_s32(sums[t][r], sums[t][r + 1]));
            if (at + 1 < end) neon_store_rows(job, row + 2 * r, at + 1, vuzp2q_s32(sums[t][r], sums[t][r + 1]));
        }
    }
}

/* Tokens first .. end - 1, interleaved at x, with the block whose rows begin at `row` and lie unpacked. */
static HYB_TARGET_I8MM void block_product(const hyb_matmul_job *job, size_t row, size_t first, size_t end,
                                          const int8_t *x) {
    for (size_t last = hyb_min_size(row + HYB_BLOCK_ROWS, job->n_rows); row < last; row += TILE_ROWS) {
        size_t n_pairs = hyb_ceil_div(end - first, 2), n_tiles = hyb_ceil_div(n_pairs, 4), pair = 0;
        for (size_t i = 0; i < n_tiles; ++i) {
            size_t n = (n_pairs - pair) / (n_tiles - i), token = first + 2 * pair;
            const int8_t *x_tile = x + pair * job->n_k16 * 32;
            if (n == 4) pair_tile(job, row, token, end, x_tile, 4);
            if (n == 3) pair_tile(job, row, token, end, x_tile, 3);
            if (n == 2) pair_tile(job, row, token, end, x_tile, 2);
            if (n == 1) pair_tile(job, row, token, end, x_tile, 1);
            pair += n;
        }
    }
}

static HYB_TARGET_I8MM void multiply(const hyb_matmul_job *job, void (*unpack)(const hyb_matmul_job *, size_t)) {
    /* Groups as even as they go, of whole tiles. */
    size_t n_groups = hyb_ceil_div(job->n_tokens, GROUP_TOKENS);
    size_t n = hyb_round_up(hyb_ceil_div(job->n_tokens, n_groups), TILE_TOKENS);
    for (size_t first = 0; first < job->n_tokens; first += n) {
        size_t end = hyb_min_size(first + n, job->n_tokens);
        const int8_t *x = interleave_tokens(job, first, end - first);
        for (size_t block = 0; block * HYB_BLOCK_ROWS < job->n_rows; ++block) {
            unpack(job, block);
            block_product(job, block * HYB_BLOCK_ROWS, first, end, x);
        }
    }
}

static void hyb_matmul_ternary_i8mm(const hyb_matmul_job *job) {
    if (job->n_tokens < MIN_TOKENS) {
        hyb_matmul_ternary_dotprod(job);
    } else {
        multiply(job, unpack_ternary);
    }
}

static void hyb_matmul_int8_i8mm(const hyb_matmul_job *job) {
    if (job->n_tokens < MIN_TOKENS) {
        hyb_matmul_int8_dotprod(job);
    } else {
        multiply(job, unpack_int8);
    }
}

void hyb_install_matmul_i8mm(hyb_kernels *table) {
    HYB_INSTALL(table, matmul_ternary, i8mm, HYB_ISA_NEON_I8MM);
    HYB_INSTALL(table, matmul_int8, i8mm, HYB_ISA_NEON_I8MM);
}

#else

typedef int hyb_matmul_i8mm_is_for_aarch64; /* C99 wants a declaration in every file */

#endif
