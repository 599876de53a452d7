/* transpose_ref.c - kernels of the integer backward pass in plain C99: the specification of each.
 *
 * Both gradient products of a linear layer sum over what is the outer index of a stored matrix, so their operands are
 * transposed on the way to the matmul kernels: gradients while they are quantised, codes while they are packed.
 */
#include "../common.h"

/* Adding and subtracting 1.5 * 2^23 rounds a float of magnitude below 2^22 to an integer, ties to even. */
#define ROUND_MAGIC 12582912.0f

uint32_t hyb_column_max_bits_ref(const float *x, size_t n, float s, uint32_t *column_bits) {
    uint32_t largest = 0;
    for (size_t i = 0; i < n; ++i) {
        uint32_t own = hyb_bits_of(x[i]) & 0x7fffffffu, scaled = hyb_bits_of(x[i] * s) & 0x7fffffffu;
        if (own > largest) largest = own;
        if (scaled > column_bits[i]) column_bits[i] = scaled;
    }
    return largest;
}

void hyb_quantize_transposed_ref(const hyb_quantize_transposed_job *job) {
    size_t n_padded = hyb_round_up(job->n_tokens, HYB_BLOCK_COLS);
    for (size_t c = 0; c < job->n_cols; ++c) {
        int8_t *codes = job->codes + c * job->ld_codes;
        int32_t sum = 0;
        for (size_t t = 0; t < job->n_tokens; ++t) {
            float v = (job->x[t * job->ld_x + c] * job->token_scales[t]) * job->inverses[c];
            v = v > -127.0f ? v : -127.0f; /* a NaN becomes -127 */
            v = v < 127.0f ? v : 127.0f;
            codes[t] = (int8_t)((v + ROUND_MAGIC) - ROUND_MAGIC);
            sum += codes[t];
        }
        memset(codes + job->n_tokens, 0, n_padded - job->n_tokens);
        job->sums[c] += sum;
    }
}

void hyb_pack_transposed_i8_ref(const hyb_pack_transposed_job *job) {
    size_t n_inner = hyb_round_up(job->n_inner, HYB_BLOCK_COLS), n_rows = hyb_round_up(job->n_rows, HYB_BLOCK_ROWS);
    for (size_t r = 0; r < n_rows; ++r) {
        uint8_t *words = job->blocks + r / HYB_BLOCK_ROWS * job->block_bytes + r % HYB_BLOCK_ROWS * 4;
        for (size_t k = 0; k < n_inner; ++k) {
            int inside = k < job->n_inner && r < job->n_rows;
            words[k / 4 * 64 + k % 4] = inside ? (uint8_t)job->codes[k * job->ld + r] : 0;
        }
    }
}

void hyb_pack_transposed_ternary_ref(const hyb_pack_transposed_job *job) {
    size_t n_inner = hyb_round_up(job->n_inner, HYB_BLOCK_COLS), n_rows = hyb_round_up(job->n_rows, HYB_BLOCK_ROWS);
    for (size_t r = 0; r < n_rows; ++r) {
        uint8_t *words = job->blocks + r / HYB_BLOCK_ROWS * job->block_bytes + r % HYB_BLOCK_ROWS * 4;
        for (size_t k = 0; k < n_inner; k += HYB_BLOCK_COLS) {
            uint32_t word = 0;
            for (size_t i = 0; i < HYB_BLOCK_COLS; ++i) {
                int inside = k + i < job->n_inner && r < job->n_rows;
                uint32_t code = inside ? (uint32_t)(job->codes[(k + i) * job->ld + r] + 1) : 1u;
                word |= code << (i % 4 * 8 + i / 4 * 2);
            }
            hyb_store_u32(words + k * 4, word);
        }
    }
}
