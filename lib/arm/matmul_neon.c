/* matmul_neon.c - packed integer weights x int8 activations with what every AArch64 has. Specification:
 * ref/matmul_ref.c.
 *
 * Products of bytes are added up in 16 bits by SMLAL and widened before they can overflow:
 *   ternary, one token       code + 1 in {0, 1, 2}: 254 a product, 4 products a group of 16 columns: 32 groups, 32512
 *   ternary, several tokens  code in {-1, 0, 1}: 127 a product, 2 products a group: 128 groups, 32512
 *   int8                     16129 a product: two of them, 32258
 */
#include "../common.h"

#if HYB_ARM64
#include "int8_neon.h"

#define TOKEN_GROUPS 32
#define TILE_GROUPS 128
#define TILE_TOKENS 4
#define TILE_ROWS 4

/* For fewer tokens unpacking costs more than it saves: 343 against 273 instructions per 1000 multiply-accumulates for
 * two tokens of int8 weights, 291 for four, 276 for eight (tools/count_instructions); 352 against 308 for two of
 * ternary. */
#define MIN_TILED_TERNARY 3
#define MIN_TILED_INT8 9

/* Activations 4 i .. 4 i + 3, four times: for 4 rows. */
#define BROADCAST_4(x, i) vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), i))

/* The four planes of 4 rows, code + 1. */
HYB_INLINE int8x16x4_t unpack_planes(const uint8_t *weights) {
    const uint8x16_t mask = vdupq_n_u8(3), w = vld1q_u8(weights);
    int8x16x4_t planes;
    planes.val[0] = vreinterpretq_s8_u8(vandq_u8(w, mask));
    planes.val[1] = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(w, 2), mask));
    planes.val[2] = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(w, 4), mask));
    planes.val[3] = vreinterpretq_s8_u8(vshrq_n_u8(w, 6));
    return planes;
}

/* ---- one token ---- */

static void ternary_token(const hyb_matmul_job *job, size_t block, size_t token) {
    const uint8_t *weights = job->weights + block * job->n_k16 * NEON_BLOCK_LINE;
    const int8_t *x = job->x + token * job->ld_x;
    int32x4_t low_i32[4], high_i32[4]; /* rows 0, 0, 1, 1 and 2, 2, 3, 3 of each group of 4 */
    NEON_UNROLL
    for (size_t q = 0; q < 4; ++q) low_i32[q] = high_i32[q] = vdupq_n_s32(0);
    for (size_t k = 0; k < job->n_k16;) {
        size_t end = hyb_min_size(k + TOKEN_GROUPS, job->n_k16);
        int16x8_t low[4], high[4];
        NEON_UNROLL
        for (size_t q = 0; q < 4; ++q) low[q] = high[q] = vdupq_n_s16(0);
        for (; k < end; ++k, x += HYB_BLOCK_COLS, weights += NEON_BLOCK_LINE) {
            int8x16_t x_k = vld1q_s8(x);
            int8x16_t x_p[4] = {BROADCAST_4(x_k, 0), BROADCAST_4(x_k, 1), BROADCAST_4(x_k, 2), BROADCAST_4(x_k, 3)};
            NEON_UNROLL
            for (size_t q = 0; q < 4; ++q) {
                int8x16x4_t w = unpack_planes(weights + 16 * q);
                NEON_UNROLL
                for (size_t p = 0; p < 4; ++p) {
                    low[q] = vmlal_s8(low[q], vget_low_s8(w.val[p]), vget_low_s8(x_p[p]));
                    high[q] = vmlal_high_s8(high[q], w.val[p], x_p[p]);
                }
            }
        }
        NEON_UNROLL
        for (size_t q = 0; q < 4; ++q) {
            low_i32[q] = vpadalq_s16(low_i32[q], low[q]);
            high_i32[q] = vpadalq_s16(high_i32[q], high[q]);
        }
    }
    const int32x4_t excess = vdupq_n_s32(job->x_sums[token]);
    for (size_t q = 0, row = block * HYB_BLOCK_ROWS; q < 4; ++q, row += 4)
        neon_store_rows(job, row, token, vsubq_s32(vpaddq_s32(low_i32[q], high_i32[q]), excess));
}

static void int8_token(const hyb_matmul_job *job, size_t block, size_t token) {
    const int8_t *weights = (const int8_t *)job->weights + block * job->n_k16 * 4 * NEON_BLOCK_LINE;
    const int8_t *x = job->x + token * job->ld_x;
    int32x4_t low_i32[4], high_i32[4];
    NEON_UNROLL
    for (size_t q = 0; q < 4; ++q) low_i32[q] = high_i32[q] = vdupq_n_s32(0);
    for (size_t k = 0; k < job->n_k16; ++k, x += HYB_BLOCK_COLS) {
        int8x16_t x_k = vld1q_s8(x);
        int8x16_t x_p[4] = {BROADCAST_4(x_k, 0), BROADCAST_4(x_k, 1), BROADCAST_4(x_k, 2), BROADCAST_4(x_k, 3)};
        NEON_UNROLL
        for (size_t p = 0; p < 4; p += 2, weights += (size_t)2 * NEON_BLOCK_LINE) {
            NEON_UNROLL
            for (size_t q = 0; q < 4; ++q) {
                int8x16_t w0 = vld1q_s8(weights + 16 * q), w1 = vld1q_s8(weights + NEON_BLOCK_LINE + 16 * q);
                int16x8_t low = vmull_s8(vget_low_s8(w0), vget_low_s8(x_p[p]));
                int16x8_t high = vmull_high_s8(w0, x_p[p]);
                low = vmlal_s8(low, vget_low_s8(w1), vget_low_s8(x_p[p + 1]));
                high = vmlal_high_s8(high, w1, x_p[p + 1]);
                low_i32[q] = vpadalq_s16(low_i32[q], low);
                high_i32[q] = vpadalq_s16(high_i32[q], high);
            }
        }
    }
    for (size_t q = 0, row = block * HYB_BLOCK_ROWS; q < 4; ++q, row += 4)
        neon_store_rows(job, row, token, vpaddq_s32(low_i32[q], high_i32[q]));
}

/* ---- several tokens ---- */

/* Both into the scratch as [k16][16 rows][16 columns]: rows then meet activations as these lie in memory. */
static void unpack_ternary(const hyb_matmul_job *job, size_t block) {
    const int8x16_t one = vdupq_n_s8(1);
    const uint8_t *weights = job->weights + block * job->n_k16 * NEON_BLOCK_LINE;
    int32_t *out = (int32_t *)(void *)job->scratch;
    for (size_t i = 0; i < job->n_k16 * 4; ++i, weights += 16, out += 16) {
        int8x16x4_t w = unpack_planes(weights);
        int32x4x4_t rows; /* a 4 x 4 transpose, by the store */
        NEON_UNROLL
        for (size_t p = 0; p < 4; ++p) rows.val[p] = vreinterpretq_s32_s8(vsubq_s8(w.val[p], one));
        vst4q_s32(out, rows);
    }
}

static void unpack_int8(const hyb_matmul_job *job, size_t block) {
    const int8_t *weights = (const int8_t *)job->weights + block * job->n_k16 * 4 * NEON_BLOCK_LINE;
    int32_t *out = (int32_t *)(void *)job->scratch;
    for (size_t k = 0; k < job->n_k16; ++k, weights += (size_t)4 * NEON_BLOCK_LINE) {
        for (size_t q = 0; q < 4; ++q, out += 16) {
            int32x4x4_t rows;
            NEON_UNROLL
            for (size_t p = 0; p < 4; ++p)
                rows.val[p] = vreinterpretq_s32_s8(vld1q_s8(weights + p * NEON_BLOCK_LINE + 16 * q));
            vst4q_s32(out, rows);
        }
    }
}

/* Sums of the lanes of four vectors. */
HYB_INLINE int32x4_t add_across(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
    return vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
}

/* 4 rows x n_tokens from the unpacked codes of the rows' block. */
HYB_INLINE void ternary_tile(const hyb_matmul_job *job, size_t row, size_t token, const size_t n_tokens) {
    const int8_t *weights = (const int8_t *)job->scratch + row % HYB_BLOCK_ROWS * HYB_BLOCK_COLS;
    const int8_t *x = job->x + token * job->ld_x;
    int32x4_t sums[TILE_TOKENS][TILE_ROWS];
    for (size_t t = 0; t < n_tokens; ++t)
        for (size_t r = 0; r < TILE_ROWS; ++r) sums[t][r] = vdupq_n_s32(0);
    for (size_t k = 0; k < job->n_k16;) {
        size_t end = hyb_min_size(k + TILE_GROUPS, job->n_k16);
        int16x8_t part[TILE_TOKENS][TILE_ROWS];
        NEON_UNROLL
        for (size_t t = 0; t < n_tokens; ++t) {
            NEON_UNROLL
            for (size_t r = 0; r < TILE_ROWS; ++r) part[t][r] = vdupq_n_s16(0);
        }
        for (; k < end; ++k, x += HYB_BLOCK_COLS, weights += (size_t)HYB_BLOCK_ROWS * HYB_BLOCK_COLS) {
            int8x16_t w[TILE_ROWS];
            NEON_UNROLL
            for (size_t r = 0; r < TILE_ROWS; ++r) w[r] = vld1q_s8(weights + r * HYB_BLOCK_COLS);
            NEON_UNROLL
            for (size_t t = 0; t < n_tokens; ++t) {
                int8x16_t x_k = vld1q_s8(x + t * job->ld_x);
                NEON_UNROLL
                for (size_t r = 0; r < TILE_ROWS; ++r)
                    part[t][r] = vmlal_s8(part[t][r], vget_low_s8(w[r]), vget_low_s8(x_k));
                NEON_UNROLL
                for (size_t r = 0; r < TILE_ROWS; ++r) part[t][r] = vmlal_high_s8(part[t][r], w[r], x_k);
            }
        }
        NEON_UNROLL
        for (size_t t = 0; t < n_tokens; ++t) {
            NEON_UNROLL
            for (size_t r = 0; r < TILE_ROWS; ++r) sums[t][r] = vpadalq_s16(sums[t][r], part[t][r]);
        }
    }
    for (size_t t = 0; t < n_tokens; ++t)
        neon_store_rows(job, row, token + t, add_across(sums[t][0], sums[t][1], sums[t][2], sums[t][3]));
}

HYB_INLINE void int8_tile(const hyb_matmul_job *job, size_t row, size_t token, const size_t n_tokens) {
    const int8_t *weights = (const int8_t *)job->scratch + row % HYB_BLOCK_ROWS * HYB_BLOCK_COLS;
    const int8_t *x = job->x + token * job->ld_x;
    int32x4_t sums[TILE_TOKENS][TILE_ROWS];
    NEON_UNROLL
    for (size_t t = 0; t < n_tokens; ++t) {
        NEON_UNROLL
        for (size_t r = 0; r < TILE_ROWS; ++r) sums[t][r] = vdupq_n_s32(0);
    }
    for (size_t k = 0; k < job->n_k16; ++k, x += HYB_BLOCK_COLS, weights += (size_t)HYB_BLOCK_ROWS * HYB_BLOCK_COLS) {
        int8x16_t w[TILE_ROWS];
        NEON_UNROLL
        for (size_t r = 0; r < TILE_ROWS; ++r) w[r] = vld1q_s8(weights + r * HYB_BLOCK_COLS);
        NEON_UNROLL
        for (size_t t = 0; t < n_tokens; ++t) {
            int8x16_t x_k = vld1q_s8(x + t * job->ld_x);
            NEON_UNROLL
            for (size_t r = 0; r < TILE_ROWS; ++r) {
                int16x8_t pair = vmull_s8(vget_low_s8(w[r]), vget_low_s8(x_k));
                sums[t][r] = vpadalq_s16(sums[t][r], vmlal_high_s8(pair, w[r], x_k));
            }
        }
    }
    for (size_t t = 0; t < n_tokens; ++t)
        neon_store_rows(job, row, token + t, add_across(sums[t][0], sums[t][1], sums[t][2], sums[t][3]));
}

static void hyb_matmul_ternary_neon(const hyb_matmul_job *job) {
    for (size_t block = 0; block * HYB_BLOCK_ROWS < job->n_rows; ++block) {
        if (job->n_tokens < MIN_TILED_TERNARY) {
            for (size_t token = 0; token < job->n_tokens; ++token) ternary_token(job, block, token);
            continue;
        }
        unpack_ternary(job, block);
        size_t row = block * HYB_BLOCK_ROWS, end = hyb_min_size(row + HYB_BLOCK_ROWS, job->n_rows);
        for (; row < end; row += TILE_ROWS) NEON_TILES_OF_4(ternary_tile, job, row);
    }
}

static void hyb_matmul_int8_neon(const hyb_matmul_job *job) {
    for (size_t block = 0; block * HYB_BLOCK_ROWS < job->n_rows; ++block) {
        if (job->n_tokens < MIN_TILED_INT8) {
            for (size_t token = 0; token < job->n_tokens; ++token) int8_token(job, block, token);
            continue;
        }
        unpack_int8(job, block);
        size_t row = block * HYB_BLOCK_ROWS, end = hyb_min_size(row + HYB_BLOCK_ROWS, job->n_rows);
        for (; row < end; row += TILE_ROWS) NEON_TILES_OF_4(int8_tile, job, row);
    }
}

void hyb_install_matmul_neon(hyb_kernels *table) {
    HYB_INSTALL(table, matmul_ternary, neon, HYB_ISA_NEON);
    HYB_INSTALL(table, matmul_int8, neon, HYB_ISA_NEON);
}

#else

typedef int hyb_matmul_neon_is_for_aarch64; /* C99 wants a declaration in every file */

#endif
