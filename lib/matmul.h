/* matmul.h - packed weights and int8 activations inside the library: what the networks (lib/nn) use between the public
 * edge and the kernels. Nothing here validates its arguments; nothing but hyb_weights_alloc allocates.
 */
#ifndef HYB_MATMUL_INTERNAL_H
#define HYB_MATMUL_INTERNAL_H

#include <hybrid/matmul.h>

#include "common.h"

/* How the codes of TERNARY weights lie in memory (kernels.h); other formats have but one layout. Whatever changes codes
 * in place, or makes them for the backward pass, works on PLANES. */
typedef enum hyb_layout { HYB_LAYOUT_PLANES = 0, HYB_LAYOUT_LOOKUP } hyb_layout;

/* One allocation: this struct, then blocks, then row_scales. Layout of blocks: kernels.h. */
struct hyb_weights {
    void (*release)(void *user, void *memory); /* the allocator of the context that made them */
    void *release_user;
    hyb_format format;
    hyb_layout layout;
    size_t n_rows, n_cols;
    size_t n_k16;       /* groups of 16 columns, the last one padded with code 0 */
    size_t block_bytes; /* bytes of a row block: 64 n_k16 for TERNARY, 256 n_k16 for the other formats; see layout */
    uint8_t *blocks;    /* aligned to 64 */
    float *row_scales;  /* [n_rows rounded up to whole blocks] */
};

/* Quantised tokens, ready for the kernels. codes aligned to 16. */
typedef struct hyb_activations {
    int8_t *codes; /* [n_tokens][ld], -127..127, zero from n_cols to ld */
    size_t ld;     /* hyb_activations_ld */
    int32_t *sums; /* [n_tokens] sum of a token's codes */
    float *scales; /* [n_tokens] */
} hyb_activations;

/* INVALID_ARGUMENT for a format or sizes that no packed weights can have. */
hyb_status hyb_weights_check_shape(hyb_ctx *ctx, hyb_format format, size_t n_rows, size_t n_cols);

/* Allocates weights with every code and scale 0. Errors: INVALID_ARGUMENT (sizes, F32), OUT_OF_MEMORY. */
hyb_status hyb_weights_alloc(hyb_ctx *ctx, hyb_format format, size_t n_rows, size_t n_cols, hyb_weights **weights);

/* The same for weights that hyb_weights_fill_rows fills and that are only read and multiplied from then on: in the
 * layout that the context multiplies fastest. Every context can use them. */
hyb_status hyb_weights_alloc_fixed(hyb_ctx *ctx, hyb_format format, size_t n_rows, size_t n_cols,
                                   hyb_weights **weights);

/* Packs rows 16 first_block .. 16 (first_block + n_blocks) - 1 (as far as they exist) in place. codes and scales are
 * those of the whole matrix: int8 [n_rows][n_cols], fp32 [n_scales] with n_scales 1 or n_rows. Different row blocks may
 * be filled at the same time. Codes must fit the format. */
void hyb_weights_fill_rows(const hyb_ctx *ctx, hyb_weights *weights, const int8_t *codes, const float *scales,
                           size_t n_scales, size_t first_block, size_t n_blocks);

/* out[c] = (float)code * scale for a row; out [n_cols]. */
void hyb_weights_gather_row(const hyb_weights *weights, size_t row, float *out);

/* The codes of a row; codes [n_cols]. */
void hyb_weights_unpack_codes(const hyb_weights *weights, size_t row, int8_t *codes);

/* weights_lookup.c: the words of a row (64 bytes apart) in the layout for look-ups from all its codes; the codes of
 * columns first .. first + n - 1 back; and n_words words of padding. */
void hyb_lookup_fill_row(uint8_t *words, const int8_t *codes, size_t n_cols);
void hyb_lookup_unpack(const uint8_t *words, size_t first, size_t n, int8_t *codes);
void hyb_lookup_clear(uint8_t *words, size_t n_words);

/* Index of the first code that is not one of the format's (not F32), or n. */
size_t hyb_find_bad_code(hyb_format format, const int8_t *codes, size_t n);

/* pack.c: index of the first of whole fours of codes that have not exactly one 0; else the end of the whole fours. */
size_t hyb_find_not_three_of_four(const int8_t *codes, size_t n);

/* Leading dimension of activations with n_cols values a token: a multiple of 16, never one of 1024 (tokens that lie a
 * multiple of 4 KiB apart would compete for the same few lines of the first-level cache). */
size_t hyb_activations_ld(size_t n_cols);

/* Quantises one token by its largest magnitude: inverse = 127 / absmax, scale = absmax / 127,
 * code = clamp(round_half_even(x * inverse), -127, 127); codes [ld] with zeros behind n_cols, *sum their sum.
 * An absmax of 0, or so small (below 3.8e-37) that the inverse overflows: codes 0, scale 0. A NaN or an infinity in x:
 * codes 0, scale NaN, so that it shows in every result. */
void hyb_quantize_token(const hyb_kernels *kernels, const float *x, size_t n_cols, int8_t *codes, size_t ld,
                        int32_t *sum, float *scale);

/* Bytes of work memory of hyb_matmul_parallel for every worker of the context, for weights of up to max_n_cols. Grows
 * with the context's number of threads: ask again after hyb_ctx_set_n_threads. */
size_t hyb_matmul_scratch_bytes(const hyb_ctx *ctx, size_t max_n_cols);

/* y[t][r] = (float)sum * (x_scale[t] * row_scale[r]) into y, or with y NULL the sums into y_i32; ld_y elements from one
 * token to the next; with accumulate (y only) y += instead. Splits rows and tokens over the context's threads; the
 * result does not depend on the split. Not to be called inside a parallel loop. scratch: hyb_matmul_scratch_bytes,
 * aligned to 64. */
void hyb_matmul_parallel(hyb_ctx *ctx, const hyb_weights *weights, const hyb_activations *x, size_t n_tokens, float *y,
                         int32_t *y_i32, size_t ld_y, int accumulate, uint8_t *scratch);

#endif /* HYB_MATMUL_INTERNAL_H */
