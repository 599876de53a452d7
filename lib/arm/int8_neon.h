/* int8_neon.h - what the integer products of lib/arm share: one row of sums into the result, the tiles of tokens, and
 * the two instructions that arm_neon.h hides from a function with its own target under older compilers.
 */
#ifndef HYB_INT8_NEON_H
#define HYB_INT8_NEON_H

#include <arm_neon.h>

#include "../common.h"

/* sum[i] += dot product of bytes 4 i .. 4 i + 3 of a with dword `lane` of b. Clang up to 15 declares vdotq_s32 only
 * with the target on the command line, so it gets the builtin; a broadcast folds into the instruction. */
#if defined(__clang__) && __clang_major__ < 16
#define NEON_SDOT(sum, a, b) ((int32x4_t)__builtin_neon_vdotq_v((int8x16_t)(sum), (a), (b), 34)) /* 34: int32x4_t */
#define NEON_SDOT_LANE(sum, a, b, lane)                                                                                \
    NEON_SDOT(sum, a, vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(b), lane)))
/* sum (2 x 2) += a (2 x 8 bytes) times the transpose of b (2 x 8 bytes). */
#define NEON_SMMLA(sum, a, b) ((int32x4_t)__builtin_neon_vmmlaq_v((int8x16_t)(sum), (a), (b), 34))
#else
#define NEON_SDOT_LANE(sum, a, b, lane) vdotq_laneq_s32(sum, a, b, lane)
#define NEON_SMMLA(sum, a, b) vmmlaq_s32(sum, a, b)
#endif

/* Before a loop of few turns over an array of registers: the number of turns is known only after inlining, for which
 * clang wants more than HYB_UNROLL. */
#if defined(__clang__)
#define NEON_UNROLL _Pragma("clang loop unroll(full)")
#else
#define NEON_UNROLL HYB_UNROLL
#endif

/* gcc 12 copies accumulators of a loop about; an empty statement that "changes" one keeps it where it is. Clang needs
 * none of it. It takes 14 % of the instructions off the loop of SMMLA tiles; other loops gained nothing or spilled. */
#if defined(__clang__)
#define NEON_HOLD(v) ((void)0)
#else
#define NEON_HOLD(v) __asm__("" : "+w"(v))
#endif

/* Bytes of a 16-row block per group of 16 columns (ternary), and of 4 columns (int8). */
#define NEON_BLOCK_LINE 64

/* matmul_dotprod.c, for the variant that leaves single tokens to it. */
void hyb_matmul_ternary_dotprod(const hyb_matmul_job *job);
void hyb_matmul_int8_dotprod(const hyb_matmul_job *job);

/* Results of fewer than 4 rows: rare, and not worth a copy in each of the many tiles. */
static void neon_store_last_rows(const hyb_matmul_job *job, size_t row, size_t token, int32x4_t sum) {
    int32_t sums[4];
    vst1q_s32(sums, sum);
    for (size_t i = 0; row + i < job->n_rows; ++i) {
        size_t at = token * job->ld_y + row + i;
        if (job->y == NULL) {
            job->y_i32[at] = sums[i];
        } else {
            float scale = job->x_scales[token] * job->row_scales[row + i];
            float result = (float)sums[i] * scale;
            job->y[at] = job->accumulate ? job->y[at] + result : result;
        }
    }
}

/* Results of up to 4 rows from `row` on for one token; nothing if there is no such row. */
HYB_INLINE void neon_store_rows(const hyb_matmul_job *job, size_t row, size_t token, int32x4_t sum) {
    size_t at = token * job->ld_y + row;
    if (row + 4 > job->n_rows) {
        neon_store_last_rows(job, row, token, sum);
    } else if (job->y == NULL) {
        vst1q_s32(job->y_i32 + at, sum);
    } else {
        float32x4_t scale = vmulq_n_f32(vld1q_f32(job->row_scales + row), job->x_scales[token]);
        float32x4_t result = vmulq_f32(vcvtq_f32_s32(sum), scale);
        if (job->accumulate) result = vaddq_f32(vld1q_f32(job->y + at), result);
        vst1q_f32(job->y + at, result);
    }
}

/* tile_function(job, row, token, n) over all tokens for the rows from `row` on, in tiles of up to 4 tokens, as even as
 * they go; n is a constant in each call. */
#define NEON_TILES_OF_4(tile_function, job, row)                                                                       \
    do {                                                                                                               \
        size_t neon_n_tiles = hyb_ceil_div((job)->n_tokens, 4);                                                        \
        for (size_t i = 0, token = 0; i < neon_n_tiles; ++i) {                                                         \
            size_t n = ((job)->n_tokens - token) / (neon_n_tiles - i);                                                 \
            if (n == 4) tile_function(job, row, token, 4);                                                             \
            if (n == 3) tile_function(job, row, token, 3);                                                             \
            if (n == 2) tile_function(job, row, token, 2);                                                             \
            if (n == 1) tile_function(job, row, token, 1);                                                             \
            token += n;                                                                                                \
        }                                                                                                              \
    } while (0)

/* The same with tiles of up to 8. */
#define NEON_TILES_OF_8(tile_function, job, row)                                                                       \
    do {                                                                                                               \
        size_t neon_n_tiles = hyb_ceil_div((job)->n_tokens, 8);                                                        \
        for (size_t i = 0, token = 0; i < neon_n_tiles; ++i) {                                                         \
            size_t n = ((job)->n_tokens - token) / (neon_n_tiles - i);                                                 \
            if (n == 8) tile_function(job, row, token, 8);                                                             \
            if (n == 7) tile_function(job, row, token, 7);                                                             \
            if (n == 6) tile_function(job, row, token, 6);                                                             \
            if (n == 5) tile_function(job, row, token, 5);                                                             \
            if (n == 4) tile_function(job, row, token, 4);                                                             \
            if (n == 3) tile_function(job, row, token, 3);                                                             \
            if (n == 2) tile_function(job, row, token, 2);                                                             \
            if (n == 1) tile_function(job, row, token, 1);                                                             \
            token += n;                                                                                                \
        }                                                                                                              \
    } while (0)

#endif /* HYB_INT8_NEON_H */
