/* matmul.h - packed integer weights x int8 activations, and a plain fp32 matrix product.
 *
 * The integer product is exact: int8 codes, int32 sums, so every processor gives the same bits. The result is
 *   y[t][r] = (float)sum_c(code[r][c] * x[t][c]) * (x_scale[t] * row_scale[r])
 * with the two roundings of the float conversion and products in exactly that order.
 */
#ifndef HYBRID_MATMUL_H
#define HYBRID_MATMUL_H

#include <hybrid/base.h>
#include <hybrid/quantize.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* Largest n_cols of packed weights: the longest sum that cannot overflow int32 in any kernel. */
#define HYB_MATMUL_MAX_COLS 65536

/* Packed weights in the processor's layout: 2 bits a ternary weight, 8 bits for the other formats. Immutable. */
typedef struct hyb_weights hyb_weights;

/* Packs codes int8 [n_rows][n_cols] of an integer format (not F32) with scales fp32 [n_scales], n_scales 1 or n_rows.
 * The codes may be freed afterwards. The caller destroys *weights.
 * Errors: INVALID_ARGUMENT (sizes; a code outside the format), NOT_FINITE (scales), OUT_OF_MEMORY. */
HYB_API hyb_status hyb_weights_create(hyb_ctx *ctx, hyb_format format, size_t n_rows, size_t n_cols,
                                      const int8_t *codes, const float *scales, size_t n_scales, hyb_weights **weights);

/* Quantises fp32 values [n_rows][n_cols] (finite, row-major) as hyb_quantize does, and packs them: the same as
 * hyb_quantize followed by hyb_weights_create, without codes in between for TERNARY. The caller destroys *weights.
 * Errors: INVALID_ARGUMENT, NOT_FINITE (also when a scale exceeds 65504), OUT_OF_MEMORY. */
HYB_API hyb_status hyb_weights_create_quantized(hyb_ctx *ctx, const hyb_quantizer *quantizer, size_t n_rows,
                                                size_t n_cols, const float *values, hyb_weights **weights);

/* Frees packed weights, with the allocator of the context that made them. NULL is allowed. */
HYB_API void hyb_weights_destroy(hyb_weights *weights);

/* Shape and memory of packed weights. */
HYB_API size_t hyb_weights_n_rows(const hyb_weights *weights);
HYB_API size_t hyb_weights_n_cols(const hyb_weights *weights);
HYB_API size_t hyb_weights_bytes(const hyb_weights *weights);

/* y[t][r] as above: x int8 [n_tokens][n_cols] in -127..127, x_scales fp32 [n_tokens], y fp32 [n_tokens][n_rows].
 * y must not overlap x. Parallel over rows and tokens; allocates nothing after the first call of a shape.
 * Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_matmul(hyb_ctx *ctx, const hyb_weights *weights, const int8_t *x, const float *x_scales,
                              size_t n_tokens, float *y);

/* The exact integer sums: y int32 [n_tokens][n_rows]. */
HYB_API hyb_status hyb_matmul_i32(hyb_ctx *ctx, const hyb_weights *weights, const int8_t *x, size_t n_tokens,
                                  int32_t *y);

/* Which operand of hyb_gemm is stored transposed. */
typedef enum hyb_transpose { HYB_GEMM_NN = 0, HYB_GEMM_NT = 1, HYB_GEMM_TN = 2 } hyb_transpose;

/* C = A B (+ C if accumulate), fp32, row-major, m x n, inner length k. Leading dimensions in elements.
 *   NN  A [m][lda >= k],  B [k][ldb >= n]
 *   NT  A [m][lda >= k],  B [n][ldb >= k]   (B transposed)
 *   TN  A [k][lda >= m],  B [k][ldb >= n]   (A transposed)
 * C [m][ldc >= n] must not overlap A or B. Accumulates in fp32 with fused multiply-add where the processor has it, in
 * an order that depends on k only: the same bits for any number of threads, not across instruction sets. */
HYB_API hyb_status hyb_gemm(hyb_ctx *ctx, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a,
                            size_t lda, const float *b, size_t ldb, int accumulate, float *c, size_t ldc);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_MATMUL_H */
