/* gemm_ref.c - fp32 matrix product in plain C99. Rows of C are built from rows of B, so that a compiler can use
 * whatever vectors the machine has; a transposed B is turned around block by block in the scratch first.
 */
#include <hybrid/matmul.h>

#include "../common.h"

/* A block of B of BLOCK_K x BLOCK_N floats stays in a second-level cache while every row of A passes over it. */
#define BLOCK_K 128
#define BLOCK_N 512

/* Rows k0 .. k0 + k - 1 and columns j0 .. j0 + n - 1 of op(B), as rows with *ld elements from one to the next. */
static const float *rows_of_b(const hyb_gemm_job *job, size_t k0, size_t k, size_t j0, size_t n, size_t *ld) {
    *ld = job->ldb;
    if (job->transpose != HYB_GEMM_NT) return job->b + k0 * job->ldb + j0;
    float *block = job->scratch;
    for (size_t j = 0; j < n; ++j) {
        const float *source = job->b + (j0 + j) * job->ldb + k0;
        for (size_t p = 0; p < k; ++p) block[p * BLOCK_N + j] = source[p];
    }
    *ld = BLOCK_N;
    return block;
}

void hyb_gemm_ref(const hyb_gemm_job *job) {
    size_t a_row = job->transpose == HYB_GEMM_TN ? 1 : job->lda, a_col = job->transpose == HYB_GEMM_TN ? job->lda : 1;
    for (size_t j0 = 0; j0 < job->n; j0 += BLOCK_N) {
        size_t n = hyb_min_size(BLOCK_N, job->n - j0);
        for (size_t k0 = 0; k0 < job->k; k0 += BLOCK_K) {
            size_t k = hyb_min_size(BLOCK_K, job->k - k0), ld;
            const float *b = rows_of_b(job, k0, k, j0, n, &ld);
            for (size_t i = 0; i < job->m; ++i) {
                float *c = job->c + i * job->ldc + j0;
                const float *a = job->a + i * a_row + k0 * a_col;
                if (k0 == 0 && !job->accumulate) memset(c, 0, n * sizeof *c);
                for (size_t p = 0; p < k; ++p) {
                    float factor = a[p * a_col];
                    const float *row = b + p * ld;
                    for (size_t j = 0; j < n; ++j) c[j] += factor * row[j];
                }
            }
        }
    }
}
