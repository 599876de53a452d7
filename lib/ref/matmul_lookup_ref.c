/* matmul_lookup_ref.c - ternary weights in the layout for table look-ups x int8 activations in plain C99: the
 * specification of that product, and what a context without vpermw does with weights that another one packed.
 */
#include "../common.h"

/* Sum of the row whose words begin at `words`, and a token. */
static int32_t multiply_row(const uint8_t *words, size_t n_words, const int8_t *x, size_t n_cols) {
    int32_t sum = 0;
    size_t c = 0;
    for (size_t w = 0; w < n_words; ++w, words += (size_t)2 * HYB_LOOKUP_BLOCK_ROWS) {
        unsigned word = (unsigned)words[0] | (unsigned)words[1] << 8;
        for (unsigned i = 0; i < 3; ++i, word >>= 5) {
            unsigned index = word & 31;
            for (unsigned j = 0; j < 3 && c < n_cols; ++j, ++c, index /= 3) sum += ((int32_t)(index % 3) - 1) * x[c];
        }
    }
    return sum;
}

void hyb_matmul_lookup_ref(const hyb_matmul_job *job) {
    size_t n_words = HYB_LOOKUP_WORDS(job->n_k16), n_cols = job->n_k16 * HYB_BLOCK_COLS;
    for (size_t t = 0; t < job->n_tokens; ++t)
        for (size_t r = 0; r < job->n_rows; ++r) {
            size_t block = r / HYB_LOOKUP_BLOCK_ROWS, in_block = r % HYB_LOOKUP_BLOCK_ROWS;
            const uint8_t *words = job->weights + block * HYB_LOOKUP_BLOCK_BYTES(job->n_k16) + 2 * in_block;
            int32_t sum = multiply_row(words, n_words, job->x + t * job->ld_x, n_cols);
            if (job->y != NULL) {
                float scale = job->x_scales[t] * job->row_scales[r], result = (float)sum * scale;
                float *y = job->y + t * job->ld_y + r;
                *y = job->accumulate ? *y + result : result;
            } else {
                job->y_i32[t * job->ld_y + r] = sum;
            }
        }
}
