/* nn.h - the decoder's insides: tensors, layers, what a forward pass keeps, and the passes themselves.
 *
 * Data flow: tokens -> nn/forward.c (embedding, layers, head; attention.c and linear.c below it) -> logits;
 * training adds nn/backward.c, which walks the same buffers the other way. Networks (language_model.c, train.c,
 * session.c) own the memory and call these. Functions here trust their arguments and never allocate.
 */
#ifndef HYB_NN_H
#define HYB_NN_H

#include <hybrid/language_model.h>
#include <hybrid/optimize.h>

#include "../common.h"
#include "../gemm.h"
#include "../matmul.h"

#define HYB_N_OPTIMIZERS (HYB_OPTIMIZER_L2 + 1)

/* Tokens that one task of a parallel loop handles: enough work to hide the hand-out, few enough to share evenly. */
#define HYB_TOKENS_PER_TASK 8

/* A parameter. Quantised ones have codes, scales and packed weights; F32 ones work on `values` directly. */
typedef struct hyb_tensor {
    char name[32];
    uint32_t n_rows, n_cols;
    hyb_quantizer quantizer; /* format F32: not quantised */
    int is_linear;           /* a layer's matrix: counted as such, and subject to weight decay */
    float *values;           /* [n_rows][n_cols] master weights; NULL in a loaded model unless F32 */
    float *gradient;         /* [n_rows][n_cols], after prepare; the same for the moments */
    float *first_moment;
    float *second_moment;  /* NULL where the optimiser has none, as are the next three */
    float *last_change;    /* [n_rows][n_cols] */
    float *row_moment;     /* [n_rows] */
    float *spectral_bound; /* [1] */
    int8_t *codes;         /* [n_rows][n_cols] in a trainable model, NULL in a loaded one */
    float *scales;         /* [n_scales] */
    size_t n_scales;
    hyb_weights *packed;
} hyb_tensor;

HYB_INLINE size_t hyb_tensor_size(const hyb_tensor *t) { return (size_t)t->n_rows * t->n_cols; }
HYB_INLINE int hyb_tensor_is_quantized(const hyb_tensor *t) { return t->quantizer.format != HYB_FORMAT_F32; }

typedef struct hyb_layer {
    hyb_tensor *attn_norm, *attn_q, *attn_k, *attn_v, *attn_sub_norm, *attn_output; /* sub-norms may be NULL */
    hyb_tensor *ffn_norm, *ffn_gate, *ffn_up, *ffn_sub_norm, *ffn_down;
} hyb_layer;

/* Input of a linear layer for n tokens: fp32 rows for F32 weights, int8 codes otherwise. */
typedef struct hyb_input {
    float *x; /* [n][n_cols]; NULL when the codes say it all */
    hyb_activations codes;
} hyb_input;

/* What a layer computes on its way. Training has one set a layer (backward reads them), inference one set for all, in
 * which the three residual buffers are the same memory. [n] tokens. */
typedef struct hyb_layer_state {
    float *residual_in;                                     /* [n][dim] */
    float *residual_mid;                                    /* [n][dim] after attention */
    float *attn_rms, *attn_sub_rms, *ffn_rms, *ffn_sub_rms; /* [n] what rms_norm returned */
    hyb_input attn_input;                                   /* normalised, quantised: of q, k, v */
    float *q, *k, *v;                                       /* [n][dim], [n][kv_dim], rotated */
    float *attn_out;                                        /* [n][dim] before sub-norm */
    float *attn_softmax;                                    /* [n][n_heads][2], training only: attention_training's */
    hyb_input out_input;                                    /* of attn_output */
    hyb_input ffn_input;                                    /* of gate and up */
    float *gate, *up;                                       /* [n][ffn_dim] */
    float *gated;         /* [n][ffn_dim] act(gate) * up; NULL if no one reads it again */
    hyb_input down_input; /* of down */
} hyb_layer_state;

/* Keys and values that attention reads: position p of sequence s of a layer at (s * n_context + p) * kv_dim. INT8
 * caches have one scale per position and head at (s * n_context + p) * n_kv_heads. */
typedef struct hyb_kv {
    int format; /* hyb_cache_format */
    size_t n_context;
    /* Elements from a position to the next, and from a head to the next, of one sequence's n_context * kv_dim: a cache
     * keeps a head's rows side by side, since generation reads all of them for each token. */
    size_t row_stride, head_stride;
    float *keys, *values;
    int8_t *key_codes, *value_codes;
    float *key_scales, *value_scales; /* [sequence][head][position] */
} hyb_kv;

/* The tokens of one pass and where they stand. */
typedef struct hyb_batch {
    size_t n_tokens;
    const uint32_t *tokens;
    const uint32_t *sequences; /* [n_tokens]; NULL in a training step, whose sequences follow one another */
    const uint32_t *positions; /* [n_tokens] */
} hyb_batch;

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

struct hyb_language_model {
    hyb_ctx *ctx;
    hyb_language_model_config config;
    size_t head_dim, kv_dim;
    hyb_tensor *tensors; /* [n_tensors] in the order of the file */
    size_t n_tensors;
    hyb_layer *layers;                         /* [n_layers] */
    hyb_tensor *embedding, *final_norm, *head; /* head == embedding when tied */
    int trainable;
    int stale;              /* master weights changed since they were quantised */
    float *cosines, *sines; /* [n_positions][head_dim / 2] */
    float *minus_sines;     /* for the way back */
    size_t n_positions;     /* length of the rotary tables */
    hyb_tokenizer *tokenizer;
    char *metadata;
    size_t metadata_bytes;
    int8_t *next_codes;                    /* the largest tensor's codes, for counting flips */
    int backward;                          /* hyb_backward of the next prepare */
    int optimizer;                         /* hyb_optimizer of the next prepare */
    int moments_optimizer;                 /* whose state the tensors point to */
    float master_share;                    /* 1 - the ternary blend of training steps */
    struct hyb_training *training;         /* train.c; NULL before prepare */
    hyb_session *evaluation;               /* session.c; for loss and logits, made on demand */
    void *parameter_memory;                /* one block: values, codes and scales */
    void *moment_memory[HYB_N_OPTIMIZERS]; /* one block for each optimiser that was prepared: gradients and state */
};

/* A bump allocator that also works without memory, to measure: base NULL gives NULL pointers and the right `used`. */
typedef struct hyb_arena {
    uint8_t *base;
    size_t used;
    int overflow;
} hyb_arena;
void *hyb_arena_take(hyb_arena *arena, size_t n, size_t size);

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

/* ---- attention.c ---- */

/* out [n][dim] from q [n][dim] and the keys and values of each token's sequence up to its own position. */
void hyb_attention_forward(const hyb_language_model *model, const hyb_batch *batch, const float *q, const hyb_kv *kv,
                           const hyb_work *work, float *out);
/* The same in a training step, whose tokens are whole sequences of n_context: from state->q, k, v to attn_out, and
 * attn_softmax for the way back. */
void hyb_attention_training(const hyb_language_model *model, const hyb_batch *batch, size_t n_context,
                            const hyb_layer_state *state, const hyb_work *work);
/* 1 / sqrt(head_dim), computed in fp64 and rounded once. */
float hyb_attention_scale(size_t head_dim);
/* Rotates the heads of one token in place. x [n_heads * head_dim]. */
void hyb_rotate_token(const hyb_language_model *model, float *x, size_t n_heads, size_t position, const float *sines);
/* Rotates n tokens' heads in place by their positions; sines or minus_sines of the model. x [n][n_heads * head_dim]. */
void hyb_rotate_forward(const hyb_language_model *model, const hyb_batch *batch, float *x, size_t n_heads,
                        const float *sines);

/* ---- forward.c ---- */

/* x [n][dim] = embedding rows of the batch's tokens. */
void hyb_embedding_forward(const hyb_language_model *model, const hyb_batch *batch, float *x);
/* One layer: state->residual_in to residual_out [n][dim] (may be residual_in). Keys and values are written to kv at the
 * tokens' places; with an F32 kv whose keys are state->k they are there already. */
void hyb_layer_forward(const hyb_language_model *model, const hyb_layer *layer, const hyb_batch *batch,
                       hyb_layer_state *state, const hyb_kv *kv, const hyb_work *work, float *residual_out);
/* logits [n][vocab_size] from residual rows [n][dim]; fills *input (of the head) and rms [n]. */
void hyb_head_forward(const hyb_language_model *model, const float *residual, size_t n_tokens, const hyb_work *work,
                      float *rms, hyb_input *input, float *logits);

#endif /* HYB_NN_H */
