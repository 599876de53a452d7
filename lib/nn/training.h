/* training.h - the memory of a training step and the backward pass over it.
 *
 * workspace.c lays the memory out (once to measure, once to place), forward.c fills it, backward.c consumes it.
 */
#ifndef HYB_TRAINING_H
#define HYB_TRAINING_H

#include "nn.h"

/* Tokens whose gain gradients are summed together before the chunks are added in order: fixed, so that the result does
 * not depend on the number of threads. */
#define HYB_GAIN_CHUNK 64
/* The head works on so many tokens at a time that logits stay below 8 M elements. */
#define HYB_HEAD_LOGITS ((size_t)1 << 23)

/* Linear layers that share an input. */
enum { HYB_GROUP_QKV, HYB_GROUP_OUTPUT, HYB_GROUP_GATE_UP, HYB_GROUP_DOWN, HYB_N_GROUPS };
#define HYB_GROUP_TENSORS 3

typedef struct hyb_linear_group {
    size_t n_tensors;
    hyb_tensor *tensors[HYB_GROUP_TENSORS];
    const float *dy[HYB_GROUP_TENSORS]; /* [n][n_rows of the tensor] */
    const hyb_input *input;             /* what the forward pass gave them */
    const hyb_weights *transposed;      /* integer backward only */
} hyb_linear_group;

/* Memory of the integer backward pass. Outputs of a group: those of its tensors side by side, each tensor's rounded up
 * to a multiple of 16. */
typedef struct hyb_backward_int8 {
    hyb_weights *transposed;   /* [n_layers][HYB_N_GROUPS]: rows are inputs, columns outputs; NULL in fp32 mode */
    int current;               /* they are those of the tensors' codes */
    size_t max_outputs;        /* of the largest group */
    size_t chunk;              /* hyb_backward_int8_chunk */
    hyb_activations by_token;  /* [chunk][outputs]: dY * weight scale, quantised per token */
    hyb_activations by_output; /* [outputs][chunk]: dY * input scale, quantised per output */
    hyb_weights inputs;        /* the forward pass's codes: rows are inputs, columns tokens of the chunk */
    float *inverses;           /* [outputs] */
    uint32_t *maxima;          /* per worker [outputs] bits of the largest magnitude */
    int32_t *sums;             /* per worker [outputs] */
    float *rows;               /* per worker [outputs], with one weight scale a row */
    float *partial;            /* the largest matrix: gradient of a chunk beyond the first */
} hyb_backward_int8;

typedef struct hyb_training {
    void *memory;
    size_t max_sequences, max_context; /* as prepared */
    size_t n_threads;                  /* that the per-worker buffers were made for */
    uint32_t *inputs, *targets;        /* [n] */
    uint32_t *sequences, *positions;   /* [n] */
    hyb_layer_state *states;           /* [n_layers] */
    float *residual_final;             /* [n][dim] */
    float *final_rms;                  /* [n] */
    hyb_input head_input;
    size_t head_tokens; /* tokens of one head chunk */
    float *logits;      /* [head_tokens][vocab_size] */
    double *losses;     /* [n] nats */
    float *d_residual;  /* [n][dim] */
    float *d_input;     /* [n][dim]: gradient of a layer input; also of attn_out */
    float *d_wide;      /* [n][ffn_dim] */
    float *d_q, *d_k, *d_v;
    float *input_values; /* [n][columns] dequantised inputs of the layers that work in fp32 */
    float *effective;    /* effective weights of the largest matrix of those */
    hyb_backward_int8 int8;
    float *gain_partials; /* [n / HYB_GAIN_CHUNK][max(dim, ffn_dim)] */
    hyb_work work;
    int has_gradients;
    double gradient_norm;
} hyb_training;

/* Places a training step's buffers in the arena (or measures them, arena->base NULL). states [n_layers] must exist.
 * backward: hyb_backward. */
void hyb_training_layout(const hyb_language_model_config *config, const hyb_ctx *ctx, int backward, size_t n_sequences,
                         size_t n_context, hyb_arena *arena, hyb_training *training);
/* Places an inference pass's buffers for up to n_tokens at once. */
void hyb_inference_layout(const hyb_language_model_config *config, const hyb_ctx *ctx, size_t n_tokens,
                          size_t n_context, int cache_format, hyb_arena *arena, hyb_layer_state *state,
                          hyb_input *head_input, hyb_work *work);

/* Cross-entropy of n rows of logits [n][vocab_size]: losses fp64 [n] in nats (NaN where a logit is not finite). With
 * gradient_scale != 0 the rows become (softmax - one hot) * gradient_scale, else they are destroyed. */
void hyb_cross_entropy(hyb_ctx *ctx, float *logits, const uint32_t *targets, size_t n, size_t vocab_size,
                       double *losses, float gradient_scale);

/* dq, dk, dv (unrotated again) from d_out; n_context tokens a sequence. */
void hyb_attention_backward(const hyb_language_model *model, const hyb_layer_state *state, const hyb_batch *batch,
                            size_t n_context, const float *d_out, hyb_training *training);

/* ---- backward_int8.c ---- */

size_t hyb_group_tensors(const hyb_layer *layer, int group, hyb_tensor *tensors[HYB_GROUP_TENSORS]);
/* Packs the transposed weights if codes changed since. */
void hyb_backward_int8_refresh(hyb_language_model *model);
/* Gradients of a group's tensors, and dx [n][n_cols]; neither is added to what was there. */
void hyb_linear_backward_int8(hyb_ctx *ctx, const hyb_linear_group *group, size_t n_tokens, float *dx,
                              hyb_training *training);
/* Tokens of one integer product of a weight gradient, which is also the scope of its scales. They depend on nothing but
 * the model's shape, so neither do the results. */
size_t hyb_backward_int8_chunk(const hyb_language_model_config *config);
/* The longest sum of its products, for the size of the matmul's scratch. */
size_t hyb_backward_int8_longest(const hyb_language_model_config *config, size_t n_tokens);
void hyb_backward_int8_layout(const hyb_language_model_config *config, const hyb_ctx *ctx, size_t n_tokens,
                              hyb_arena *arena, hyb_backward_int8 *backward);

/* ---- backward.c ---- */

/* Gradients of every parameter from the states of a forward pass; fills training->losses. */
void hyb_backward_pass(hyb_language_model *model, const hyb_batch *batch, size_t n_context);

#endif /* HYB_TRAINING_H */
