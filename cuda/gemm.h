/* gemm.h - the fp32 matrix product for other .cu files: gemm.cu. */
#ifndef HYB_CUDA_GEMM_H
#define HYB_CUDA_GEMM_H

#include "device.h"

/* C = op(A) op(B) (+ C if accumulate), row-major; layouts and leading dimensions: hyb_gemm in hybrid/matmul.h. Sizes
 * may be 0. C does not overlap A or B. No TF32: products of 24 bits, sums in fp32. */
int hyb_cuda_gemm_f32(hyb_cuda_state *state, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a,
                      size_t lda, const float *b, size_t ldb, int accumulate, float *c, size_t ldc, void *stream);

/* Destroys the handle of cuBLAS, if there is one. */
void hyb_cuda_gemm_close(hyb_cuda_state *state);

#endif /* HYB_CUDA_GEMM_H */
