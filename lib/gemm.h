/* gemm.h - the fp32 matrix product inside the library, for callers that validated their arguments and own the work
 * memory. Layouts: hyb_gemm in hybrid/matmul.h.
 */
#ifndef HYB_GEMM_INTERNAL_H
#define HYB_GEMM_INTERNAL_H

#include <hybrid/matmul.h>

#include "common.h"

/* Bytes of work memory for every worker of the context: HYB_GEMM_SCRATCH_BYTES each. Grows with the context's number of
 * threads: ask again after hyb_ctx_set_n_threads. */
size_t hyb_gemm_scratch_bytes(const hyb_ctx *ctx);

/* C = op(A) op(B) (+ C if accumulate), split over the context's threads; the bits do not depend on the split. Sizes may
 * be 0. Never allocates. Not to be called inside a parallel loop: there, call the kernel. scratch:
 * hyb_gemm_scratch_bytes, aligned to 64. */
void hyb_gemm_parallel(hyb_ctx *ctx, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a, size_t lda,
                       const float *b, size_t ldb, int accumulate, float *c, size_t ldc, void *scratch);

/* INVALID_ARGUMENT for operands that make no sense; none of them is read. */
hyb_status hyb_gemm_check(hyb_ctx *ctx, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a,
                          size_t lda, const float *b, size_t ldb, const float *c, size_t ldc);

#endif /* HYB_GEMM_INTERNAL_H */
