/* compress.h - gradients in few bits: ternary or five-level codes with 16-bit scales, and the error fed back.
 *
 * In plain words: what a step's codes cannot say is kept in a residual, and added to the next step's gradient. One
 * step's direction is then approximate, the sum over many steps is not.
 *
 * Sources: Seide et al. 2014, "1-Bit Stochastic Gradient Descent" (error feedback); Karimireddy et al. 2019, "Error
 * Feedback Fixes SignSGD"; Lloyd 1982, "Least squares quantization in PCM" (threshold and scale); Wang & Kanwar 2019,
 * "BFloat16" (the scales' format: the range of binary32, which gradients need and binary16 lacks).
 */
#ifndef HYBRID_COMPRESS_H
#define HYBRID_COMPRESS_H

#include <hybrid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* How values become codes; x is the gradient, with error feedback plus the residual.
 *   ROW    codes -1, 0, +1 with one scale a row: s sign(x) where |x| > t, else 0. t and s are the least-squares
 *          optimum t = s / 2, s = mean of |x| above t, approached by four evaluations of s (see lib/kernels.h,
 *          ternary_blocks)
 *   BLOCK  the same with a scale for every block_size columns of a row; a row's last block may be shorter
 *   FIVE   codes -2 ... +2 with one scale a row, s = root mean square of x: s clamp(round_half_even(x / s), -2, 2)
 * Every scale is rounded to bfloat16. */
typedef enum hyb_compression {
    HYB_COMPRESSION_ROW = 1,
    HYB_COMPRESSION_BLOCK = 2,
    HYB_COMPRESSION_FIVE = 3
} hyb_compression;

/* A way to compress. */
typedef struct hyb_compressor {
    int32_t scheme;     /* hyb_compression */
    int32_t block_size; /* BLOCK: 32 or 64; otherwise 0 */
} hyb_compressor;

/* Sums over a compressed matrix: its cosine to the gradient is product / sqrt(gradient_squares * compressed_squares),
 * the ratio of the norms sqrt(compressed_squares / gradient_squares). Added per row in fp32, rows in fp64. */
typedef struct hyb_compression_sums {
    double gradient_squares;   /* of the gradient itself, without the residual */
    double compressed_squares; /* of scale * code */
    double product;            /* of both */
} hyb_compression_sums;

/* Bytes of a compressed matrix; 0 for an unknown scheme or block size, an empty matrix, or on overflow. The codes come
 * first, row after row, each from a new byte on: 5 ternary codes a byte as HYB_PACKING_TERNARY_BASE3 stores them
 * (1.6 bits a code), or 3 five-level codes in 7 bits, sum of (code + 2) 5^i, lowest bits first (2.33 bits). Then the
 * scales, row after row, bfloat16, little-endian. */
HYB_API size_t hyb_compressed_bytes(const hyb_compressor *compressor, size_t n_rows, size_t n_cols);

/* Compresses a matrix.
 *   gradient  fp32 [n_rows][n_cols], row-major, magnitudes at most 1e16
 *   residual  fp32 [n_rows][n_cols], the same: what former steps left; receives what this one leaves. NULL: no feedback
 *   bytes     uint8 [hyb_compressed_bytes]; NULL: not wanted
 *   values    fp32 [n_rows][n_cols], receives scale * code; may be the gradient itself; NULL: not wanted
 *   sums      NULL: not wanted
 * The same bits on every processor and for any number of threads. Parallel over rows. Allocates nothing once the
 * context has worked on a matrix as large. With FIVE a row whose RMS is below 1e-19 or so may count as zeros.
 * Errors: INVALID_ARGUMENT, OUT_OF_MEMORY; NOT_FINITE: rows with a NaN, an infinity or too large a value are left as
 * they were, in values and residual, while the others are done: set the residual to zeros before going on. */
HYB_API hyb_status hyb_compress(hyb_ctx *ctx, const hyb_compressor *compressor, const float *gradient, size_t n_rows,
                                size_t n_cols, float *residual, uint8_t *bytes, float *values,
                                hyb_compression_sums *sums);

/* The values of a compressed matrix. Safe on bytes from anywhere: all are checked before the first value is written.
 *   bytes   [n_bytes], n_bytes = hyb_compressed_bytes
 *   values  fp32 [n_rows][n_cols]
 * Parallel over rows. Errors: INVALID_ARGUMENT; OUT_OF_MEMORY; FORMAT (a byte, a tail or a scale that hyb_compress does
 * not write). */
HYB_API hyb_status hyb_decompress(hyb_ctx *ctx, const hyb_compressor *compressor, const uint8_t *bytes, size_t n_bytes,
                                  size_t n_rows, size_t n_cols, float *values);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_COMPRESS_H */
