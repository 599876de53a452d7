/* matmul_ref.c - packed integer weights x int8 activations in plain C99: the specification of both products.
 *
 * Every variant gives the bits of these functions. Codes of the job's rows are unpacked once, row-major, into the job's
 * scratch; each token then takes one dot product a row. int32 cannot overflow: |code * x| <= 127 * 127 and at most
 * HYB_MATMUL_MAX_COLS = 65536 columns give 1.06e9.
 */
#include "../common.h"

/* Result of row `row` and token `token`. The two roundings of the product come in this order in every variant. */
static void store_result(const hyb_matmul_job *job, size_t token, size_t row, int32_t sum) {
    if (job->y != NULL) {
        float scale = job->x_scales[token] * job->row_scales[row], result = (float)sum * scale;
        float *y = job->y + token * job->ld_y + row;
        *y = job->accumulate ? *y + result : result;
    } else {
        job->y_i32[token * job->ld_y + row] = sum;
    }
}

static void multiply_unpacked(const hyb_matmul_job *job) {
    const int8_t *codes = (const int8_t *)job->scratch;
    size_t n_cols = job->n_k16 * HYB_BLOCK_COLS;
    for (size_t t = 0; t < job->n_tokens; ++t) {
        const int8_t *x = job->x + t * job->ld_x;
        for (size_t r = 0; r < job->n_rows; ++r) {
            const int8_t *row = codes + r * n_cols;
            int32_t sum = 0;
            for (size_t c = 0; c < n_cols; ++c) sum += row[c] * x[c];
            store_result(job, t, r, sum);
        }
    }
}

void hyb_matmul_ternary_ref(const hyb_matmul_job *job) {
    int8_t *codes = (int8_t *)job->scratch;
    size_t n_cols = job->n_k16 * HYB_BLOCK_COLS;
    for (size_t r = 0; r < job->n_rows; ++r) {
        size_t block = r / HYB_BLOCK_ROWS, in_block = r % HYB_BLOCK_ROWS;
        const uint8_t *words = job->weights + (block * job->n_k16 * HYB_BLOCK_ROWS + in_block) * 4;
        for (size_t k = 0; k < job->n_k16; ++k, words += (size_t)HYB_BLOCK_ROWS * 4) {
            int8_t *out = codes + r * n_cols + k * HYB_BLOCK_COLS;
            for (size_t c = 0; c < HYB_BLOCK_COLS; ++c) out[c] = (int8_t)((words[c % 4] >> (c / 4 * 2) & 3) - 1);
        }
    }
    multiply_unpacked(job);
}

void hyb_matmul_int8_ref(const hyb_matmul_job *job) {
    int8_t *codes = (int8_t *)job->scratch;
    size_t n_cols = job->n_k16 * HYB_BLOCK_COLS;
    for (size_t r = 0; r < job->n_rows; ++r) {
        size_t block = r / HYB_BLOCK_ROWS, in_block = r % HYB_BLOCK_ROWS;
        const uint8_t *words = job->weights + (block * n_cols * HYB_BLOCK_ROWS) + in_block * 4;
        for (size_t c = 0; c < n_cols; c += 4, words += (size_t)HYB_BLOCK_ROWS * 4)
            memcpy(codes + r * n_cols + c, words, 4);
    }
    multiply_unpacked(job);
}
