/* training.h - the memory of a training step and the backward pass over it.
 *
 * workspace.c lays the memory out (once to measure, once to place), forward.c fills it, backward.c consumes it.
 */
#ifndef HYB_TRAINING_H
#define HYB_TRAINING_H

#include "nn.h"

/* How a step goes through its batch: in micro-batches, each forward through all layers and back, and a layer in slices,
 * each through all stages of the layer, so that what one leaves is still in cache for the next. Sums over tokens are
 * made of so many at a time, and then added in order: for gains HYB_GAIN_CHUNK, for weights a scope (or a part of a
 * long one), neither across the end of a scope. Scopes are given by the shapes alone; slices and micro-batches are
 * whole scopes. So the result depends neither on the number of threads nor on the sizes of slices and micro-batches. */
/* The head works on so many tokens at a time that logits stay below 8 M elements. */
#define HYB_HEAD_LOGITS ((size_t)1 << 23)

/* Linear layers that share an input. */
enum { HYB_GROUP_QKV, HYB_GROUP_OUTPUT, HYB_GROUP_GATE_UP, HYB_GROUP_DOWN, HYB_N_GROUPS };
#define HYB_GROUP_TENSORS 3

typedef struct hyb_linear_group {
    size_t n_tensors;
    hyb_tensor *tensors[HYB_GROUP_TENSORS];
    const float *dy[HYB_GROUP_TENSORS];       /* [n][n_rows of the tensor] */
    const hyb_input *input;                   /* what the forward pass gave them */
    const hyb_weights *transposed;            /* integer backward only; NULL: no dx */
    void (*finish)(void *user, size_t token); /* NULL, or makes a token's row of every dy, which is read next */
    void *user;
} hyb_linear_group;

/* Memory of the integer backward pass. Outputs of a group: those of its tensors side by side, each tensor's rounded up
 * to a multiple of 16. */
typedef struct hyb_backward_int8 {
    hyb_weights *transposed;   /* [n_layers][HYB_N_GROUPS]: rows are inputs, columns outputs; NULL in fp32 mode */
    int current;               /* they are those of the tensors' codes */
    size_t max_outputs;        /* of the largest group */
    size_t chunk;              /* the most tokens of a product */
    hyb_activations by_token;  /* [chunk][outputs]: dY * weight scale, quantised per token */
    hyb_activations by_output; /* [outputs][chunk]: dY * input scale, quantised per output */
    hyb_weights inputs;        /* the forward pass's codes: rows are inputs, columns tokens of the chunk */
    float *inverses;           /* [outputs] */
    uint32_t *maxima;          /* per worker [outputs] bits of the largest magnitude */
    int32_t *sums;             /* per worker [outputs] */
    float *rows;               /* per worker [outputs], with one weight scale a row */
} hyb_backward_int8;

typedef struct hyb_training {
    void *memory;
    size_t max_sequences, max_context; /* as prepared */
    size_t max_tokens, max_slice;      /* of a micro-batch, of a slice: [n] and [m] below */
    size_t scope, slice;               /* tokens, of this step: hyb_training_begin */
    int accumulate;                    /* behind the first slice: gradients are added to */
    size_t n_threads;                  /* that the per-worker buffers were made for */
    int blends;                        /* there is memory for blended weights */
    uint32_t *inputs;                  /* [max_sequences * max_context] */
    float *d_embedded;                 /* [max_sequences * max_context][dim]: of the residual of every token */
    uint32_t *targets;                 /* [n] */
    uint32_t *positions;               /* [n] */
    hyb_layer_state *states;           /* [n_layers] */
    float *residual_final;             /* [n][dim] */
    float *final_rms;                  /* [m] */
    hyb_input head_input;
    size_t head_tokens;     /* tokens of one head chunk */
    float *logits;          /* [head_tokens][vocab_size] */
    double *losses;         /* [n] nats */
    float *d_residual;      /* [n][dim]: the micro-batch's part of d_embedded */
    float *d_input;         /* [m][dim]: gradient of a layer input; also of attn_out */
    float *d_wide;          /* [m][ffn_dim] */
    float *d_q, *d_k, *d_v; /* [m][dim], [m][kv_dim] */
    hyb_backward_int8 int8;
    float *gain_partials;   /* [chunks of m][max(dim, ffn_dim)] */
    hyb_update_work update; /* trust-region optimisers only */
    hyb_work work;
    double *sequence_losses; /* [max_sequences] nats per token */
    size_t n_losses;         /* sequences of the last step; 0: there was none */
    int has_gradients;
    double gradient_norm;
} hyb_training;

/* Places a training step's buffers in the arena (or measures them, arena->base NULL). states [n_layers] must exist.
 * backward: hyb_backward; optimizer: hyb_optimizer; blends: quantised matrices may be blended with master weights. */
void hyb_training_layout(const hyb_language_model_config *config, const hyb_ctx *ctx, int backward, int optimizer,
                         int blends, size_t n_sequences, size_t n_context, hyb_arena *arena, hyb_training *training);
/* Places an inference pass's buffers for up to n_tokens at once. */
void hyb_inference_layout(const hyb_language_model_config *config, const hyb_ctx *ctx, size_t n_tokens,
                          size_t n_context, int cache_format, hyb_arena *arena, hyb_layer_state *state,
                          hyb_input *head_input, hyb_work *work);

/* A scope: tokens whose part of a weight gradient is one product, but for long sequences, which are divided. As many
 * whole sequences as these tokens hold, at least one. */
size_t hyb_scope_tokens(const hyb_language_model_config *config);
/* Tokens from `first` of a slice to the end of its scope or of the n tokens, at most `limit`. */
HYB_INLINE size_t hyb_tokens_in_scope(const hyb_training *t, size_t first, size_t n, size_t limit) {
    size_t left = hyb_min_size(t->scope - first % t->scope, n - first);
    return hyb_min_size(left, limit);
}
/* Sets scope and slice of a step; returns the tokens of its micro-batches. */
size_t hyb_training_begin(const hyb_language_model_config *config, size_t n_context, hyb_training *training);
/* The slice of a micro-batch that begins with token `first`, and its part of what a layer keeps. */
hyb_batch hyb_slice(const hyb_training *training, const hyb_batch *batch, size_t first);
hyb_input hyb_input_from(hyb_input input, size_t first, size_t n_cols);
hyb_layer_state hyb_slice_state(const hyb_language_model *model, const hyb_layer_state *state, size_t first);

/* dq, dk (still rotated), dv from d_out; n_context tokens a sequence. */
void hyb_attention_backward(const hyb_language_model *model, const hyb_layer_state *state, const hyb_batch *batch,
                            size_t n_context, const float *d_out, hyb_training *training);

/* ---- backward_int8.c ---- */

size_t hyb_group_tensors(const hyb_layer *layer, int group, hyb_tensor *tensors[HYB_GROUP_TENSORS]);
/* Packs the transposed weights if codes changed since. */
void hyb_backward_int8_refresh(hyb_language_model *model);
/* Gradients of a group's tensors, added to if training->accumulate, and dx [n][n_cols], overwritten, unless the group
 * has no transposed weights. */
void hyb_linear_backward_int8(hyb_ctx *ctx, const hyb_linear_group *group, size_t n_tokens, float *dx,
                              hyb_training *training);
/* The longest sum of its products, for the size of the matmul's scratch. */
size_t hyb_backward_int8_longest(const hyb_language_model_config *config, size_t n_tokens);
void hyb_backward_int8_layout(const hyb_language_model_config *config, const hyb_ctx *ctx, size_t n_tokens,
                              hyb_arena *arena, hyb_backward_int8 *backward);

/* ---- backward.c ---- */

/* Gradients of the mean loss of n_all tokens for every parameter but the embedding, from the states of a micro-batch's
 * forward pass; added to if training->accumulate. Fills training->losses. */
void hyb_backward_pass(hyb_language_model *model, const hyb_batch *batch, size_t n_context, size_t n_all);
/* The embedding's gradient from d_embedded of the step's n_all tokens; behind the last micro-batch, since a tied head
 * adds to the same gradient. */
void hyb_embedding_backward(hyb_language_model *model, size_t n_all);

#endif /* HYB_TRAINING_H */
