/* tensor.h - what every network is made of: parameters, their memory, quantised linear layers, norms, losses and
 * updates.
 *
 * The decoder (nn.h, training.h) and the perceptron (mlp.h) own the memory and call these. Functions here trust their
 * arguments and, but for those that say so, never allocate.
 */
#ifndef HYB_TENSOR_H
#define HYB_TENSOR_H

#include <hybrid/language_model.h>
#include <hybrid/optimize.h>

#include "../common.h"
#include "../gemm.h"
#include "../matmul.h"
#include "../moments.h"
#include "../orthogonalize.h"

#define HYB_N_OPTIMIZERS (HYB_OPTIMIZER_L2 + 1)

/* Tokens that one task of a parallel loop handles: enough work to hide the hand-out, few enough to share evenly. */
#define HYB_TOKENS_PER_TASK 8

/* A parameter. Quantised ones have codes, scales and packed weights; F32 ones work on `values` directly. */
typedef struct hyb_tensor {
    char name[32];
    uint32_t n_rows, n_cols;
    hyb_quantizer quantizer; /* format F32: not quantised */
    int is_linear;           /* a layer's matrix: counted as such, and subject to weight decay */
    int is_gain;             /* of a norm */
    float *values;           /* [n_rows][n_cols] master weights; NULL in a loaded model unless F32 */
    float *gradient;         /* [n_rows][n_cols], after prepare; the same for the moments */
    float *first_moment;
    float *second_moment;    /* NULL where the optimiser has none, as are the next three */
    hyb_state_8bit state;    /* instead of both moments where they have 8 bits; NULL otherwise */
    float *last_change;      /* [n_rows][n_cols] */
    float *row_moment;       /* [n_rows] */
    float *spectral_bound;   /* [1] */
    float *row_multipliers;  /* [n_rows] of the learning rate, after prepare, a layer's matrix only; */
    int has_row_multipliers; /* 0: all are 1, whatever stands there */
    int8_t *codes;           /* [n_rows][n_cols] in a trainable model, NULL in a loaded one */
    float *scales;           /* [n_scales] */
    size_t n_scales;
    hyb_weights *packed;
} hyb_tensor;

HYB_INLINE size_t hyb_tensor_size(const hyb_tensor *t) { return (size_t)t->n_rows * t->n_cols; }
HYB_INLINE int hyb_tensor_is_quantized(const hyb_tensor *t) { return t->quantizer.format != HYB_FORMAT_F32; }
HYB_INLINE const float *hyb_tensor_multipliers(const hyb_tensor *t) {
    return t->has_row_multipliers ? t->row_multipliers : NULL;
}

/* Input of a linear layer for n tokens: fp32 rows for F32 weights, int8 codes otherwise. */
typedef struct hyb_input {
    float *x; /* [n][n_cols]; NULL when the codes say it all */
    hyb_activations codes;
} hyb_input;

/* Work memory of a pass that no later step reads. Per-worker parts are indexed by worker. */
typedef struct hyb_work {
    float *rows;             /* [n_threads][row_floats] */
    size_t row_floats;       /* max(dim, ffn_dim) rounded up to a cache line */
    float *attention;        /* [n_threads][attention_floats]: of the attention kernels */
    size_t attention_floats; /* what they ask for */
    float *kv_rows;          /* [n_threads][2][n_context][head_dim], INT8 caches only */
    size_t kv_row_floats;    /* n_context * head_dim */
    uint8_t *matmul_scratch; /* per worker */
    void *gemm_scratch;      /* per worker, training only */
    int training;            /* F32 layers use the GEMM (relaxed bits) instead of exact dot products */
    /* Training only: of the master weights in a layer's quantised matrices, which are multiplied in fp32 unless it is
     * 0, and what that and the fp32 backward pass need. */
    float master_share;
    float *input_values; /* [m][columns] dequantised inputs */
    float *effective;    /* effective weights of the largest matrix */
} hyb_work;

/* A bump allocator that also works without memory, to measure: base NULL gives NULL pointers and the right `used`. */
typedef struct hyb_arena {
    uint8_t *base;
    size_t used;
    int overflow;
} hyb_arena;
void *hyb_arena_take(hyb_arena *arena, size_t n, size_t size);
float *hyb_take_floats(hyb_arena *arena, size_t n_rows, size_t n_cols);
/* Input of linear layers: codes for integer formats; for F32 rows of its own, or those of another buffer. */
void hyb_take_input(hyb_arena *arena, int format, int own_rows, size_t n, size_t n_cols, float *rows, hyb_input *input);

/* ---- tensors.c ---- */

/* Bytes of the values, codes and scales of n tensors are taken from the arena; returns those of their packed weights
 * and of next_codes, which have memory of their own. trainable: master weights and codes. */
size_t hyb_tensors_layout(hyb_tensor *tensors, size_t n, int trainable, hyb_arena *arena);
/* Allocates packed weights for all that are quantised, and room for the largest one's codes (NULL if none is) unless
 * next_codes is NULL. */
hyb_status hyb_tensors_add_packed(hyb_ctx *ctx, hyb_tensor *tensors, size_t n, int8_t **next_codes);
/* hyb_tensor_quantize of all that are quantised; the counts are those of the layers' matrices. */
hyb_status hyb_tensors_quantize(hyb_ctx *ctx, hyb_tensor *tensors, size_t n, int8_t *next_codes, uint64_t *n_flipped,
                                uint64_t *n_zeros);
/* Forgets the bounds of values that were written from outside. */
void hyb_tensors_touch(hyb_tensor *tensors, size_t n);
/* values [n] from N(0, deviation^2), the same on every machine for one stream. */
void hyb_draw_normal(uint64_t stream, size_t n, double deviation, float *values);
/* What a parameter shows of itself. */
void hyb_tensor_describe(const hyb_tensor *tensor, hyb_parameter *parameter);
/* Euclidean norm of all gradients, tensor by tensor. Errors: NOT_FINITE (names the tensor). */
hyb_status hyb_tensors_gradient_norm(hyb_ctx *ctx, const hyb_tensor *tensors, size_t n, double *norm);

/* Gradients and the state of an optimiser: one block of memory for each optimiser, and bits of moments, that was
 * prepared. */
typedef struct hyb_moments {
    void *memory[HYB_N_OPTIMIZERS][2];
    int optimizer; /* whose state the tensors point to */
    int is_8bit;   /* its moments */
} hyb_moments;
void hyb_moments_layout(hyb_tensor *tensors, size_t n, int optimizer, int is_8bit, hyb_arena *arena);
/* Points the tensors to the state of an optimiser, zero unless it was there already. */
hyb_status hyb_moments_prepare(hyb_ctx *ctx, hyb_tensor *tensors, size_t n, int optimizer, int is_8bit,
                               hyb_moments *moments);
/* Sets negligible first moments, which must be fp32, to 0. Those of units that never fire any more decay to subnormal
 * numbers, with which the products of a trust-region step take ten times as long. */
void hyb_moments_flush(hyb_ctx *ctx, hyb_tensor *tensors, size_t n);
void hyb_moments_free(hyb_ctx *ctx, hyb_moments *moments);

/* ---- update.c ---- */

/* Work memory of a trust-region step, for the largest of the tensors. */
typedef struct hyb_update_work {
    hyb_orthogonal_work orthogonal; /* SPECTRAL only, as is the next */
    float *direction;               /* [n_rows][n_cols] of a matrix */
    double *row_sums;               /* [n_rows] */
} hyb_update_work;
/* max_rows: of any tensor; values and shorter side of the largest matrix. gemm_scratch: hyb_gemm_scratch_bytes. */
void hyb_update_layout(int optimizer, size_t max_rows, size_t matrix_values, size_t shorter_side, void *gemm_scratch,
                       hyb_arena *arena, hyb_update_work *work);

/* What an update works on. */
typedef struct hyb_update {
    hyb_ctx *ctx;
    hyb_tensor *tensors; /* [n_tensors] with gradients */
    size_t n_tensors;
    int optimizer; /* whose state they have */
    double gradient_norm;
    int8_t *next_codes;
    const hyb_update_work *work; /* trust-region steps, as the next two: per worker [row_floats] */
    float *rows;
    size_t row_floats;
    int began; /* result: 1 once a weight may have changed */
} hyb_update;
/* hyb_language_model_apply and hyb_language_model_apply_trust_region. */
hyb_status hyb_update_adamw(hyb_update *update, const hyb_adamw *adamw, float clip_norm,
                            hyb_update_statistics *statistics);
hyb_status hyb_update_trust_region(hyb_update *update, const hyb_trust_region *options,
                                   hyb_trust_statistics *statistics);
/* hyb_language_model_alignment. */
double hyb_update_alignment(const hyb_update *update);
hyb_status hyb_optimizer_check(hyb_ctx *ctx, hyb_optimizer optimizer);

/* ---- loss.c ---- */

/* Cross-entropy of n rows of logits [n][n_classes]: losses fp64 [n] in nats (NaN where a logit is not finite). With
 * gradient_scale != 0 the rows become (softmax - one hot) * gradient_scale, else they are destroyed. */
void hyb_cross_entropy(hyb_ctx *ctx, float *logits, const uint32_t *targets, size_t n, size_t n_classes, double *losses,
                       float gradient_scale);

/* ---- norm.c ---- */

/* Sums over rows for a gain's gradient are made of so many at a time, none across the end of a scope. */
#define HYB_GAIN_CHUNK 64
typedef struct hyb_norm_backward_job {
    const float *x;   /* [n][n_cols] what was normalised */
    const float *rms; /* [n] what rms_norm returned */
    hyb_tensor *gain; /* its gradient is added to if `accumulate`, else overwritten */
    float *dy;        /* [n][n_cols] of the normalised rows */
    float *dx;        /* [n][n_cols], added to; NULL: the result replaces dy */
    size_t n, scope;
    int accumulate;
    float *partials; /* [hyb_norm_chunks(n, scope)][n_cols] */
    float *rows;     /* per worker [row_floats]; dx NULL only */
    size_t row_floats;
} hyb_norm_backward_job;
size_t hyb_norm_chunks(size_t n, size_t scope);
/* Gradients of y = rms_norm(x) * gain. */
void hyb_norm_backward(hyb_ctx *ctx, const hyb_norm_backward_job *job);

/* ---- linear.c ---- */

/* Rows per task such that a task is about 16k elements. */
size_t hyb_rows_per_task(size_t n_cols);
/* Makes codes, scales and packed weights from master weights; *n_flipped and *n_zeros (may be NULL) count against the
 * codes before. next_codes: int8 [n_rows * n_cols] of work memory. Errors: NOT_FINITE (names the tensor). */
hyb_status hyb_tensor_quantize(hyb_ctx *ctx, hyb_tensor *tensor, int8_t *next_codes, uint64_t *n_flipped,
                               uint64_t *n_zeros);
/* The same in two parts: room for the magnitudes [n_rows] of the rows, which whoever writes new values fills on his way
 * (valid until the context's scratch is used again; NULL when memory is out); then the rest. */
hyb_magnitudes *hyb_tensor_magnitudes(hyb_ctx *ctx, const hyb_tensor *tensor);
hyb_status hyb_tensor_quantize_with(hyb_ctx *ctx, hyb_tensor *tensor, const hyb_magnitudes *magnitudes,
                                    int8_t *next_codes, uint64_t *n_flipped, uint64_t *n_zeros);
/* One AdamW update of the tensor, then hyb_tensor_quantize unless it is F32, which reads the new weights once, while
 * they are in the cache. Errors: as hyb_adamw_update, before anything changes; NOT_FINITE. */
hyb_status hyb_tensor_update(hyb_ctx *ctx, const hyb_adamw *adamw, hyb_tensor *tensor, int8_t *next_codes,
                             uint64_t *n_flipped, uint64_t *n_zeros);
/* values[r][c] = effective weight; with a share of the master weights: share * master + (1 - share) * quantised. */
void hyb_tensor_effective(hyb_ctx *ctx, const hyb_tensor *tensor, float master_share, float *values);
/* Whether a training step blends the tensor's master and quantised weights, and so multiplies it in fp32. */
HYB_INLINE int hyb_is_blended(const hyb_tensor *tensor, const hyb_work *work) {
    return work->master_share > 0.0f && tensor->is_linear && hyb_tensor_is_quantized(tensor);
}
/* The operands of a training step's fp32 products: an input as the layer sees it [n_tokens][n_cols], and the effective
 * weights. What is not fp32 already is made in the work memory, which the next call overwrites. */
const float *hyb_training_input(hyb_ctx *ctx, const hyb_tensor *tensor, const hyb_input *input, size_t n_tokens,
                                const hyb_work *work);
const float *hyb_training_weights(hyb_ctx *ctx, const hyb_tensor *tensor, const hyb_work *work);
/* y[t][r] = (or += with accumulate) sum_c weight[r][c] * input[t][c], n tokens; y has n_rows columns. */
void hyb_linear_forward(hyb_ctx *ctx, const hyb_tensor *tensor, const hyb_input *input, size_t n_tokens,
                        const hyb_work *work, int accumulate, float *y);
/* What an input is made from, row by row: [n][n_cols] as they lie, or act(gate) * up, which then also goes to `gated`
 * unless that is NULL. */
typedef struct hyb_source {
    const float *x; /* NULL: gated */
    const float *gate, *up;
    float *gated;
    void (*activate)(const float *gate, const float *up, size_t n, float *out);
} hyb_source;
/* Optional rms_norm (gain NULL: none), then quantisation for an integer format: fills *input. With F32 and no gain,
 * input->x must be the source itself. */
void hyb_input_forward(hyb_ctx *ctx, const hyb_source *source, const hyb_tensor *gain, float epsilon, float *rms,
                       size_t n_tokens, size_t n_cols, const hyb_work *work, hyb_input *input);

#endif /* HYB_TENSOR_H */
