/* matmul.h - weights in a device's memory times quantised or fp32 tokens: what the .cu files share. The structs are
 * also what lib/cuda_matmul.c hands to the module.
 *
 * Device layout, row-major so that neighbouring threads read neighbouring bytes:
 *   TERNARY       a 32-bit word holds 16 columns as in lib/kernels.h: bits 2p, 2p + 1 of byte b hold code + 1 of
 *                 column 16 k16 + 4 p + b; rows padded with code 0 to whole 16 bytes (64 columns)
 *   other formats int8 codes, rows padded with 0 to whole 16 bytes
 *   F32           values, rows padded with 0 to whole 16 bytes
 */
#ifndef HYB_CUDA_MATMUL_H
#define HYB_CUDA_MATMUL_H

#include <stddef.h>
#include <stdint.h>

#include <hybrid/matmul.h>

/* Weights in a device's memory. */
typedef struct hyb_device_weights {
    int32_t format; /* hyb_format */
    uint32_t n_rows, n_cols;
    size_t ld_bytes;         /* from a row to the next, a multiple of 16 */
    const void *codes;       /* device, aligned to 16 */
    const float *row_scales; /* device [n_rows]; unused by F32 */
} hyb_device_weights;

/* Quantised tokens. */
typedef struct hyb_device_activations {
    const int8_t *codes; /* [n_tokens][ld], zero from n_cols to ld; aligned to 16 */
    size_t ld;           /* a multiple of 64, at least n_cols */
    const int32_t *sums; /* [n_tokens] sum of a token's codes */
    const float *scales; /* [n_tokens]; unused with y_i32 */
} hyb_device_activations;

/* Which kernel of packed weights; all give the same bits, so only tests and benchmarks ask. WGMMA: ternary weights on
 * capability 9.0, else HYB_ERROR_UNSUPPORTED. */
enum { HYB_MATMUL_CHOOSE = 0, HYB_MATMUL_PLAIN, HYB_MATMUL_VECTOR, HYB_MATMUL_TILES, HYB_MATMUL_WGMMA };

#ifdef __cplusplus
struct hyb_cuda_state;

/* Bytes from a token's codes to the next. */
inline size_t hyb_device_codes_ld(size_t n_cols) { return (n_cols + 63) / 64 * 64; }

/* y[t][r] = (float)sum * (x_scale[t] * row_scale[r]) into y, or with y NULL the sums into y_i32; ld_y elements from one
 * token to the next; with accumulate (y only) y += instead. Asynchronous; needs no work memory. n_cols at most
 * HYB_MATMUL_MAX_COLS. */
int hyb_launch_matmul(hyb_cuda_state *state, const hyb_device_weights *weights, const hyb_device_activations *x,
                      size_t n_tokens, float *y, int32_t *y_i32, size_t ld_y, int accumulate, void *stream);

/* F32 weights: y[t][r] = dot product of x fp32 [n_tokens][n_cols] in the contract's order (16 virtual lanes). */
int hyb_launch_matmul_f32(hyb_cuda_state *state, const hyb_device_weights *weights, const float *x, size_t n_tokens,
                          float *y, size_t ld_y, int accumulate, void *stream);
#endif

#endif /* HYB_CUDA_MATMUL_H */
