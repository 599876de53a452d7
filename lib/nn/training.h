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
    float *input_values;  /* [n][max(dim, ffn_dim)] dequantised inputs */
    float *effective;     /* the largest matrix's effective weights */
    float *gain_partials; /* [n / HYB_GAIN_CHUNK][max(dim, ffn_dim)] */
    float *attention;     /* [n_threads][attention_floats]: of the kernel attention_backward */
    size_t attention_floats;
    hyb_work work;
    int has_gradients;
    double gradient_norm;
} hyb_training;

/* Places a training step's buffers in the arena (or measures them, arena->base NULL). states [n_layers] must exist. */
void hyb_training_layout(const hyb_language_model_config *config, const hyb_ctx *ctx, size_t n_sequences,
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

/* Gradients of every parameter from the states of a forward pass; fills training->losses. */
void hyb_backward(hyb_language_model *model, const hyb_batch *batch, size_t n_context);

#endif /* HYB_TRAINING_H */
