/* nn.h - the decoder's insides: tensors, layers, what a forward pass keeps, and the passes themselves.
 *
 * Data flow: tokens -> nn/forward.c (embedding, layers, head; attention.c and linear.c below it) -> logits;
 * training adds nn/backward.c, which walks the same buffers the other way. Networks (language_model.c, train.c,
 * session.c) own the memory and call these. Functions here trust their arguments and never allocate.
 */
#ifndef HYB_NN_H
#define HYB_NN_H

#include "tensor.h"

typedef struct hyb_layer {
    hyb_tensor *attn_norm, *attn_q, *attn_k, *attn_v, *attn_sub_norm, *attn_output; /* sub-norms may be NULL */
    hyb_tensor *ffn_norm, *ffn_gate, *ffn_up, *ffn_sub_norm, *ffn_down;
} hyb_layer;

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
    int8_t *next_codes;            /* the largest tensor's codes, for counting flips */
    int backward;                  /* hyb_backward of the next prepare */
    int optimizer;                 /* hyb_optimizer of the next prepare */
    int is_8bit;                   /* its moments have 8 bits, not 32 */
    float master_share;            /* 1 - the ternary blend of training steps */
    struct hyb_training *training; /* train.c; NULL before prepare */
    hyb_session *evaluation;       /* session.c; for loss and logits, made on demand */
    void *parameter_memory;        /* one block: values, codes and scales */
    hyb_moments moments;           /* gradients and the optimisers' state */
};

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
