/* matmul_dotprod.c - packed integer weights x int8 activations with SDOT. Specification: ref/matmul_ref.c.
 *
 * A vector of packed weights holds 4 rows x 4 bytes; SDOT multiplies the four bytes of every row with four activations,
 * taken from a register of 16 by lane. Ternary codes are used as code + 1; the excess, the sum of the token's
 * activations, is subtracted at the end. int32 cannot overflow: 65536 columns x 32 x 127 / 4 (below) is 6.7e7.
 */
#include "../common.h"

#if HYB_ARM64
#include "int8_neon.h"

#define TILE_TOKENS 8
#define TILE_ROWS 8

HYB_INLINE int8x16_t masked(uint8x16_t w, uint8x16_t mask) { return vreinterpretq_s8_u8(vandq_u8(w, mask)); }

/* One token and one row block. Planes 1 and 2 are taken where they lie, 4 and 16 times too large, into sums of their
 * own, which saves their shifts; plane 3 would be too large for a signed byte and is shifted. */
static HYB_TARGET_DOTPROD void ternary_token(const hyb_matmul_job *job, size_t block) {
    const uint8x16_t mask0 = vdupq_n_u8(3), mask1 = vdupq_n_u8(12), mask2 = vdupq_n_u8(48);
    const uint8_t *weights = job->weights + block * job->n_k16 * NEON_BLOCK_LINE;
    const int8_t *x = job->x;
    int32x4_t once[4], times4[4], times16[4];
    NEON_UNROLL
    for (size_t q = 0; q < 4; ++q) once[q] = times4[q] = times16[q] = vdupq_n_s32(0);
    for (size_t k = 0; k < job->n_k16; ++k, x += HYB_BLOCK_COLS, weights += NEON_BLOCK_LINE) {
        int8x16_t x_k = vld1q_s8(x);
        NEON_UNROLL
        for (size_t q = 0; q < 4; ++q) {
            uint8x16_t w = vld1q_u8(weights + 16 * q);
            once[q] = NEON_SDOT_LANE(once[q], masked(w, mask0), x_k, 0);
            times4[q] = NEON_SDOT_LANE(times4[q], masked(w, mask1), x_k, 1);
            times16[q] = NEON_SDOT_LANE(times16[q], masked(w, mask2), x_k, 2);
            once[q] = NEON_SDOT_LANE(once[q], vreinterpretq_s8_u8(vshrq_n_u8(w, 6)), x_k, 3);
        }
    }
    const int32x4_t excess = vdupq_n_s32(job->x_sums[0]);
    for (size_t q = 0, row = block * HYB_BLOCK_ROWS; q < 4; ++q, row += 4) {
        int32x4_t sum = vaddq_s32(vshrq_n_s32(times4[q], 2), vshrq_n_s32(times16[q], 4));
        neon_store_rows(job, row, 0, vaddq_s32(sum, vsubq_s32(once[q], excess)));
    }
}

/* 8 rows x n_tokens, ternary: the weights as they lie in memory, unpacked for 8 tokens at a time. */
HYB_INLINE HYB_TARGET_DOTPROD void ternary_tile(const hyb_matmul_job *job, size_t row, size_t token,
                                                const size_t n_tokens) {
    const uint8x16_t mask = vdupq_n_u8(3);
    const uint8_t *weights =
        job->weights + row / HYB_BLOCK_ROWS * job->n_k16 * NEON_BLOCK_LINE + row % HYB_BLOCK_ROWS * 4;
    const int8_t *x = job->x + token * job->ld_x;
    int32x4_t sums[TILE_TOKENS][2];
    NEON_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) sums[t][0] = sums[t][1] = vdupq_n_s32(0);
    for (size_t k = 0; k < job->n_k16; ++k, x += HYB_BLOCK_COLS, weights += NEON_BLOCK_LINE) {
        int8x16_t w[2][4];
        NEON_UNROLL
        for (size_t q = 0; q < 2; ++q) {
            uint8x16_t packed = vld1q_u8(weights + 16 * q);
            w[q][0] = masked(packed, mask);
            w[q][1] = masked(vshrq_n_u8(packed, 2), mask);
            w[q][2] = masked(vshrq_n_u8(packed, 4), mask);
            w[q][3] = vreinterpretq_s8_u8(vshrq_n_u8(packed, 6));
        }
        NEON_UNROLL
        for (size_t t = 0; t < n_tokens; ++t) {
            int8x16_t x_k = vld1q_s8(x + t * job->ld_x);
            NEON_UNROLL
            for (size_t q = 0; q < 2; ++q) {
                sums[t][q] = NEON_SDOT_LANE(sums[t][q], w[q][0], x_k, 0);
                sums[t][q] = NEON_SDOT_LANE(sums[t][q], w[q][1], x_k, 1);
                sums[t][q] = NEON_SDOT_LANE(sums[t][q], w[q][2], x_k, 2);
                sums[t][q] = NEON_SDOT_LANE(sums[t][q], w[q][3], x_k, 3);
            }
        }
    }
    NEON_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) {
        int32x4_t excess = vdupq_n_s32(job->x_sums[token + t]);
        neon_store_rows(job, row, token + t, vsubq_s32(sums[t][0], excess));
        neon_store_rows(job, row + 4, token + t, vsubq_s32(sums[t][1], excess));
    }
}

/* 8 rows x n_tokens, int8. */
HYB_INLINE HYB_TARGET_DOTPROD void int8_tile(const hyb_matmul_job *job, size_t row, size_t token,
                                             const size_t n_tokens) {
    const int8_t *weights = (const int8_t *)job->weights + row / HYB_BLOCK_ROWS * job->n_k16 * 4 * NEON_BLOCK_LINE +
                            row % HYB_BLOCK_ROWS * 4;
    const int8_t *x = job->x + token * job->ld_x;
    int32x4_t sums[TILE_TOKENS][2];
    NEON_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) sums[t][0] = sums[t][1] = vdupq_n_s32(0);
    for (size_t k = 0; k < job->n_k16; ++k, x += HYB_BLOCK_COLS, weights += (size_t)4 * NEON_BLOCK_LINE) {
        int8x16_t w[2][4];
        NEON_UNROLL
        for (size_t p = 0; p < 4; ++p) {
            w[0][p] = vld1q_s8(weights + p * NEON_BLOCK_LINE);
            w[1][p] = vld1q_s8(weights + p * NEON_BLOCK_LINE + 16);
        }
        NEON_UNROLL
        for (size_t t = 0; t < n_tokens; ++t) {
            int8x16_t x_k = vld1q_s8(x + t * job->ld_x);
            NEON_UNROLL
            for (size_t q = 0; q < 2; ++q) {
                sums[t][q] = NEON_SDOT_LANE(sums[t][q], w[q][0], x_k, 0);
                sums[t][q] = NEON_SDOT_LANE(sums[t][q], w[q][1], x_k, 1);
                sums[t][q] = NEON_SDOT_LANE(sums[t][q], w[q][2], x_k, 2);
                sums[t][q] = NEON_SDOT_LANE(sums[t][q], w[q][3], x_k, 3);
            }
        }
    }
    NEON_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) {
        neon_store_rows(job, row, token + t, sums[t][0]);
        neon_store_rows(job, row + 4, token + t, sums[t][1]);
    }
}

/* One token, 16 rows: twice as many sums that do not wait for each other. */
static HYB_TARGET_DOTPROD void int8_token(const hyb_matmul_job *job, size_t block) {
    const int8_t *weights = (const int8_t *)job->weights + block * job->n_k16 * 4 * NEON_BLOCK_LINE, *x = job->x;
    int32x4_t sums[4];
    NEON_UNROLL
    for (size_t q = 0; q < 4; ++q) sums[q] = vdupq_n_s32(0);
    for (size_t k = 0; k < job->n_k16; ++k, x += HYB_BLOCK_COLS, weights += (size_t)4 * NEON_BLOCK_LINE) {
        int8x16_t x_k = vld1q_s8(x);
        NEON_UNROLL
        for (size_t q = 0; q < 4; ++q) {
            const int8_t *w = weights + 16 * q;
            sums[q] = NEON_SDOT_LANE(sums[q], vld1q_s8(w), x_k, 0);
            sums[q] = NEON_SDOT_LANE(sums[q], vld1q_s8(w + NEON_BLOCK_LINE), x_k, 1);
            sums[q] = NEON_SDOT_LANE(sums[q], vld1q_s8(w + 2 * NEON_BLOCK_LINE), x_k, 2);
            sums[q] = NEON_SDOT_LANE(sums[q], vld1q_s8(w + 3 * NEON_BLOCK_LINE), x_k, 3);
        }
    }
    for (size_t q = 0, row = block * HYB_BLOCK_ROWS; q < 4; ++q, row += 4) neon_store_rows(job, row, 0, sums[q]);
}

HYB_TARGET_DOTPROD void hyb_matmul_ternary_dotprod(const hyb_matmul_job *job) {
    if (job->n_tokens == 1) {
        for (size_t block = 0; block * HYB_BLOCK_ROWS < job->n_rows; ++block) ternary_token(job, block);
        return;
    }
    for (size_t row = 0; row < job->n_rows; row += TILE_ROWS) NEON_TILES_OF_8(ternary_tile, job, row);
}

HYB_TARGET_DOTPROD void hyb_matmul_int8_dotprod(const hyb_matmul_job *job) {
    if (job->n_tokens == 1) {
        for (size_t block = 0; block * HYB_BLOCK_ROWS < job->n_rows; ++block) int8_token(job, block);
        return;
    }
    for (size_t row = 0; row < job->n_rows; row += TILE_ROWS) NEON_TILES_OF_8(int8_tile, job, row);
}

void hyb_install_matmul_dotprod(hyb_kernels *table) {
    HYB_INSTALL(table, matmul_ternary, dotprod, HYB_ISA_NEON_DOTPROD);
    HYB_INSTALL(table, matmul_int8, dotprod, HYB_ISA_NEON_DOTPROD);
}

#else

typedef int hyb_matmul_dotprod_is_for_aarch64; /* C99 wants a declaration in every file */

#endif
