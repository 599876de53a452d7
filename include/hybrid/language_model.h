/* language_model.h - a Llama-shaped decoder whose linear layers are ternary: create, train, evaluate, save, load,
 * generate.
 *
 * The model, for a token sequence:  h = embedding[token];  for each layer
 *     n = rms_norm(h) * attention_norm;  q, k, v = Wq n, Wk n, Wv n;  rotate(q), rotate(k)
 *     a = causal attention over heads;  [a = rms_norm(a) * attention_sub_norm];  h += Wo a
 *     n = rms_norm(h) * ffn_norm;  u = act(Wgate n) * (Wup n);  [u = rms_norm(u) * ffn_sub_norm];  h += Wdown u
 *   logits = head (rms_norm(h) * final_norm)
 * Every W works on int8 activations (absmax per token) unless its format is F32. The square brackets are the optional
 * sub-norms of BitNet b1.58 2B4T. Rotation is over halves of a head (GPT-NeoX order).
 *
 * Training keeps fp32 master weights and quantises them before every forward pass (gradually, with a ternary blend);
 * gradients pass the quantisers unchanged (straight-through estimator). C owns the step, the caller the loop:
 *     hyb_language_model_gradients(...)  ->  look at the loss  ->  hyb_language_model_apply(...)
 *
 * Sources: Touvron et al. 2023 (Llama); Ma et al. 2024 (BitNet b1.58); Su et al. 2021 (rotary embedding); Shazeer 2020
 * (gated FFN); Ainslie et al. 2023 (grouped queries); Bengio et al. 2013 (straight-through estimator).
 */
#ifndef HYBRID_LANGUAGE_MODEL_H
#define HYBRID_LANGUAGE_MODEL_H

#include <hybrid/base.h>
#include <hybrid/optimize.h>
#include <hybrid/quantize.h>
#include <hybrid/tokenizer.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* Activation of the gated FFN, or of a perceptron (mlp.h). */
typedef enum hyb_activation {
    HYB_ACTIVATION_SILU = 0,         /* x / (1 + exp(-x)): SwiGLU */
    HYB_ACTIVATION_SQUARED_RELU = 1, /* max(x, 0)^2 */
    HYB_ACTIVATION_RELU = 2          /* max(x, 0): perceptrons only */
} hyb_activation;

/* Arithmetic of the two gradient products of each quantised layer's matrix. INT8 quantises the gradients of a layer's
 * outputs by their largest magnitude (per token for the input's gradient, per output for the weights') and multiplies
 * them exactly with the forward pass's codes; F32 multiplies the dequantised values. The head, and matrices in F32
 * format, always use F32. */
typedef enum hyb_backward { HYB_BACKWARD_INT8 = 0, HYB_BACKWARD_F32 = 1 } hyb_backward;

/* Shape and formats of a model. Names of the fields are those of the file (file.h). */
typedef struct hyb_language_model_config {
    size_t struct_size;
    uint32_t vocab_size;        /* 1 .. 2^24 */
    uint32_t dim;               /* width of the residual stream; a multiple of n_heads; at most 65536 */
    uint32_t n_layers;          /* 1 .. 1024 */
    uint32_t n_heads;           /* head_dim = dim / n_heads, even, at most 256 */
    uint32_t n_kv_heads;        /* divides n_heads; equal to it without grouped queries */
    uint32_t ffn_dim;           /* at most 65536 */
    uint32_t max_context;       /* positions: 1 .. 2^20 */
    float rope_theta;           /* base of the rotary frequencies, > 1 (10000) */
    float norm_epsilon;         /* > 0 (1e-5) */
    int32_t activation;         /* hyb_activation */
    int32_t sub_norms;          /* 0 or 1 */
    int32_t tied_embeddings;    /* 1: the head is the embedding matrix */
    int32_t linear_format;      /* hyb_format of the layers' matrices */
    int32_t linear_granularity; /* hyb_granularity */
    int32_t linear_threshold;   /* hyb_threshold */
    int32_t embedding_format;   /* hyb_format of embedding and head, one scale a row; F32 for none */
} hyb_language_model_config;

/* A model. Made by create it has fp32 master weights and can be trained; made by load it has packed weights only. */
typedef struct hyb_language_model hyb_language_model;

/* HYB_OK if the configuration is valid; else INVALID_ARGUMENT, and the detail names the field and its range. */
HYB_API hyb_status hyb_language_model_config_check(hyb_ctx *ctx, const hyb_language_model_config *config);

/* Number of parameters: all of them, and those in the layers' matrices. Errors: INVALID_ARGUMENT. */
HYB_API hyb_status hyb_language_model_count(hyb_ctx *ctx, const hyb_language_model_config *config,
                                            uint64_t *n_parameters, uint64_t *n_linear_parameters);

/* Bytes that a model takes: its weights, and what hyb_language_model_prepare adds for batches of n_sequences x
 * n_context tokens (0, 0: no training). An estimate from the same formulas that the allocations use. */
HYB_API hyb_status hyb_language_model_memory(hyb_ctx *ctx, const hyb_language_model_config *config, size_t n_sequences,
                                             size_t n_context, uint64_t *weight_bytes, uint64_t *training_bytes);

/* The same for training that is not the default; not what a step computes, but what it needs. */
typedef struct hyb_training_kind {
    size_t struct_size;
    int32_t backward;   /* hyb_backward; INT8 */
    int32_t optimizer;  /* hyb_optimizer; ADAMW */
    int32_t blends;     /* 1: the ternary blend will be below 1; 0 */
    int32_t state_bits; /* of the optimiser's moments, 32 or 8; 32 */
} hyb_training_kind;
HYB_API hyb_status hyb_language_model_memory_for(hyb_ctx *ctx, const hyb_language_model_config *config,
                                                 const hyb_training_kind *kind, size_t n_sequences, size_t n_context,
                                                 uint64_t *weight_bytes, uint64_t *training_bytes);

/* Creates a trainable model. Matrices are drawn from N(0, 1 / n_cols), Wo and Wdown also divided by sqrt(2 n_layers),
 * embedding and head from N(0, 0.02^2), norm gains are 1; the generator is seeded by `seed` and portable.
 * The model keeps a reference to ctx. The caller destroys *model. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_language_model_create(hyb_ctx *ctx, const hyb_language_model_config *config, uint64_t seed,
                                             hyb_language_model **model);

/* Loads a .hyb file for inference. The data go into the kernels' layout in pieces, decoded on the way if the file is
 * compressed, so that beside the model and the sections before the data about 0.3 MB are needed, and less from memory.
 * A file is read twice, for its checksum and then its data, and must not change in between (FORMAT, CHECKSUM or
 * TRUNCATED if it does). Errors: those of hyb_file_open, and FORMAT (a tensor is missing or misshapen). */
HYB_API hyb_status hyb_language_model_load(hyb_ctx *ctx, const char *path, hyb_language_model **model);
HYB_API hyb_status hyb_language_model_load_memory(hyb_ctx *ctx, const void *bytes, size_t n_bytes,
                                                  hyb_language_model **model);

/* Writes the model as a .hyb file with its tokenizer and `metadata` (UTF-8, may be NULL). A trainable model is
 * quantised first. Errors: those of hyb_file_write, NOT_FINITE (a weight; the detail names the tensor). */
HYB_API hyb_status hyb_language_model_save(hyb_language_model *model, const char *path, const char *metadata,
                                           size_t metadata_bytes);

/* Frees a model. NULL is allowed. */
HYB_API void hyb_language_model_destroy(hyb_language_model *model);

/* The configuration (struct_size of *config must be set). */
HYB_API hyb_status hyb_language_model_get_config(const hyb_language_model *model, hyb_language_model_config *config);

/* The model's tokenizer; owned by the model; never NULL (bytes by default if vocab_size is 256 or more, else a
 * decode-only table). set copies the tokenizer; its vocabulary must not be larger than vocab_size. */
HYB_API const hyb_tokenizer *hyb_language_model_tokenizer(const hyb_language_model *model);
HYB_API hyb_status hyb_language_model_set_tokenizer(hyb_language_model *model, const hyb_tokenizer *tokenizer);

/* The metadata of the file that the model was loaded from; "" otherwise. Owned by the model. */
HYB_API const char *hyb_language_model_metadata(const hyb_language_model *model, size_t *n_bytes);

/* ---- parameters ---- */

/* One parameter tensor of a model. Pointers are NULL where the model has no such array: values in a loaded model,
 * gradient and moments before hyb_language_model_prepare. They stay valid until the model is destroyed.
 * Names: embedding, head (untied), final_norm, and blk.N. + attn_norm, attn_q, attn_k, attn_v, attn_sub_norm,
 * attn_output, ffn_norm, ffn_gate, ffn_up, ffn_sub_norm, ffn_down. */
typedef struct hyb_parameter {
    char name[32];
    uint32_t n_rows;       /* outputs; 1 for a norm gain */
    uint32_t n_cols;       /* inputs */
    int32_t format;        /* hyb_format it is stored in */
    int32_t granularity;   /* hyb_granularity */
    float *values;         /* fp32 master weights [n_rows][n_cols]; call hyb_language_model_touch after writing */
    float *gradient;       /* fp32 [n_rows][n_cols]: of the last hyb_language_model_gradients */
    float *first_moment;   /* fp32 [n_rows][n_cols]: of the optimiser; momentum with SPECTRAL; NULL in 8 bits */
    float *second_moment;  /* fp32 [n_rows][n_cols]; NULL for a layer's matrix with SPECTRAL; NULL in 8 bits */
    float *last_change;    /* fp32 [n_rows][n_cols]: of the last trust-region step; with SPECTRAL of layers' matrices */
    float *row_moment;     /* fp32 [n_rows]: running mean squares of the directions' rows, the same matrices */
    float *spectral_bound; /* fp32 [1]: of the values' largest singular value, the same matrices; 0: not known */
} hyb_parameter;

HYB_API size_t hyb_language_model_parameter_count(const hyb_language_model *model);
HYB_API hyb_status hyb_language_model_parameter(hyb_language_model *model, size_t index, hyb_parameter *parameter);

/* The moments of parameter `index` in 8 bits (optimize.h): pointers as in hyb_parameter, NULL in 32 bits and where the
 * optimiser has no such moment. Errors: INVALID_ARGUMENT. */
HYB_API hyb_status hyb_language_model_parameter_state(hyb_language_model *model, size_t index, hyb_state_8bit *state);

/* The effective weights (scale * code, or the fp32 values) of parameter `index`: values fp32 [n_rows][n_cols]. */
HYB_API hyb_status hyb_language_model_effective(hyb_language_model *model, size_t index, float *values);

/* Says that master weights were written from outside: they are quantised again before the next use. */
HYB_API hyb_status hyb_language_model_touch(hyb_language_model *model);

/* ---- training ---- */

/* Chooses the arithmetic of the backward pass (default INT8) from the next hyb_language_model_prepare on.
 * Errors: INVALID_ARGUMENT. */
HYB_API hyb_status hyb_language_model_set_backward(hyb_language_model *model, hyb_backward backward);

/* Chooses the optimiser (default ADAMW) from the next hyb_language_model_prepare on. Errors: INVALID_ARGUMENT. */
HYB_API hyb_status hyb_language_model_set_optimizer(hyb_language_model *model, hyb_optimizer optimizer);

/* Chooses the bits of each of the optimiser's moments, 32 (default) or 8 (optimize.h), from the next
 * hyb_language_model_prepare on. In 8 bits AdamW's state takes a quarter of the memory, and an update 1.1 to 1.6 times
 * as long; momentum and Adam's moments of a trust-region step likewise, its last change stays fp32. Errors:
 * INVALID_ARGUMENT. */
HYB_API hyb_status hyb_language_model_set_state_bits(hyb_language_model *model, int32_t state_bits);

/* Sets the share b, 0 to 1 (the default), that quantisation has in the steps from the next hyb_language_model_gradients
 * on: the layers' quantised matrices then act as W + b (Q(W) - W), W the master and Q(W) the quantised weights, on int8
 * activations as ever. Raised slowly from 0 to 1 during a run, it makes the weights gradually ternary (or whatever the
 * format is). Below 1 these matrices are multiplied in fp32, forward and for the gradients of their inputs (those of
 * the weights are as chosen for the backward pass): a step takes about 1.6 times as long. At 1 nothing differs from a
 * run that never set it. Embedding, head and F32 matrices do not take part. Evaluation, generation and files always
 * have the quantised weights. No allocation: steps below 1 need a hyb_language_model_prepare that was called with the
 * blend below 1. Errors: INVALID_ARGUMENT (NaN, out of range). */
HYB_API hyb_status hyb_language_model_set_ternary_blend(hyb_language_model *model, float blend);

/* Sets the dead zone (quantize.h; default 0.5) of the layers' ternary matrices: above 0, at most 4, by the scale. It
 * holds from the next hyb_language_model_gradients, evaluation or save on. It belongs to the run, not to the file,
 * which keeps the codes. Errors: INVALID_ARGUMENT (out of range; matrices that are not ternary, or have Lloyd's
 * thresholds), STATE (a loaded model). */
HYB_API hyb_status hyb_language_model_set_dead_zone(hyb_language_model *model, float dead_zone);

/* Allocates gradients, the optimiser's state (zero) and activations for batches of at most n_sequences x n_context
 * tokens. After it a step allocates nothing. May be called again with another size (the state is kept, unless the
 * optimiser or its bits changed).
 * Errors: INVALID_ARGUMENT, STATE (a loaded model), OUT_OF_MEMORY. */
HYB_API hyb_status hyb_language_model_prepare(hyb_language_model *model, size_t n_sequences, size_t n_context);

/* Multiplies the learning rate of each row of a layer's matrix from the next update on, weight decay included:
 * multipliers fp32 [n_rows] of parameter `index`, 0 to 10, which are copied; NULL: 1 each, as after the first prepare
 * and when the optimiser changes. The ball of a trust-region step holds all the same: it shortens what the multipliers
 * made of the step. With SPECTRAL the norm is taken to grow by the largest multiplier, so that where the radius binds,
 * rows of smaller ones make shorter steps and none makes a longer one. Errors: INVALID_ARGUMENT, STATE (not prepared).
 */
HYB_API hyb_status hyb_language_model_set_row_multipliers(hyb_language_model *model, size_t index,
                                                          const float *multipliers);

/* What hyb_language_model_gradients saw. */
typedef struct hyb_gradient_statistics {
    double loss;          /* mean cross-entropy in nats per token */
    double gradient_norm; /* Euclidean norm over all parameters */
} hyb_gradient_statistics;

/* Forward and backward over tokens uint32 [n_sequences][n_context + 1]: position t predicts token t + 1. Replaces the
 * gradients. Errors: INVALID_ARGUMENT (a token outside the vocabulary, sizes beyond prepare), STATE (no prepare, or one
 * without memory for the ternary blend), NOT_FINITE (loss or gradient; the detail names the tensor). On an error the
 * weights are unchanged. */
HYB_API hyb_status hyb_language_model_gradients(hyb_language_model *model, const uint32_t *tokens, size_t n_sequences,
                                                size_t n_context, hyb_gradient_statistics *statistics);

/* Mean cross-entropy of each sequence that the last hyb_language_model_gradients saw, in nats per token: losses fp64
 * [n_sequences], as many as it had. They hold until the next one, beyond the update. Errors: INVALID_ARGUMENT (NULL,
 * another number), STATE (no gradients yet). */
HYB_API hyb_status hyb_language_model_sequence_losses(const hyb_language_model *model, size_t n_sequences,
                                                      double *losses);

/* What hyb_language_model_apply changed, over the layers' quantised matrices. */
typedef struct hyb_update_statistics {
    double flipped_share; /* share of codes that differ from those before the update */
    double zero_share;    /* share of codes that are 0 */
} hyb_update_statistics;

/* One AdamW update from the current gradients (ADAMW only). Weight decay applies to the layers' matrices only. If
 * clip_norm > 0, gradients are scaled by min(1, clip_norm / gradient_norm). adamw->gradient_scale is multiplied on top.
 * statistics may be NULL. Errors: STATE, INVALID_ARGUMENT, NOT_FINITE. */
HYB_API hyb_status hyb_language_model_apply(hyb_language_model *model, const hyb_adamw *adamw, float clip_norm,
                                            hyb_update_statistics *statistics);

/* What a trust-region step did. */
typedef struct hyb_trust_statistics {
    double flipped_share; /* as in hyb_update_statistics */
    double zero_share;
    double change_norm;     /* Euclidean norm of the change of the layers' matrices */
    double shortened_share; /* of the parts with a ball of their own (matrices, tensors, or all at once with L2), the
                             * share that the radius shortened */
} hyb_trust_statistics;

/* One trust-region step from the current gradients, in the norm of the model's optimiser. statistics may be NULL.
 * Errors: STATE (no gradients; the optimiser is ADAMW), INVALID_ARGUMENT, STRUCT_SIZE, NOT_FINITE. */
HYB_API hyb_status hyb_language_model_apply_trust_region(hyb_language_model *model, const hyb_trust_region *options,
                                                         hyb_trust_statistics *statistics);

/* Cosine of the angle between the current gradient and the last trust-region step's change, over the layers' matrices;
 * 0 before the first step. Above 0 the step went too far: the loss now rises along it (a hypergradient: Baydin et al.
 * 2018). Errors: STATE (no gradients; the optimiser is ADAMW). */
HYB_API hyb_status hyb_language_model_alignment(hyb_language_model *model, double *cosine);

/* ---- evaluation ---- */

/* Sum of the cross-entropy in nats over tokens uint32 [n_sequences][n_context + 1], with the inference path (a training
 * step's loss up to rounding). Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_language_model_loss(hyb_language_model *model, const uint32_t *tokens, size_t n_sequences,
                                           size_t n_context, double *loss_sum);

/* Logits fp32 [n_tokens][vocab_size] for one sequence of tokens from position 0. Bit-identical on every processor,
 * thread count and compiler, and equal to those of a session fed with the same tokens in any portions. */
HYB_API hyb_status hyb_language_model_logits(hyb_language_model *model, const uint32_t *tokens, size_t n_tokens,
                                             float *logits);

/* ---- generation ---- */

/* Number format of a session's key-value cache. INT8: absmax per position and head. */
typedef enum hyb_cache_format { HYB_CACHE_F32 = 0, HYB_CACHE_INT8 = 1 } hyb_cache_format;

/* Key-value caches of n_sequences independent sequences on one model. */
typedef struct hyb_session hyb_session;

/* Creates a session with room for n_context positions a sequence (at most max_context). The model must outlive it.
 * Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_session_create(hyb_language_model *model, size_t n_sequences, size_t n_context,
                                      hyb_cache_format cache_format, hyb_session **session);
HYB_API void hyb_session_destroy(hyb_session *session);

/* Bytes of the session's caches, and the number of positions that a sequence holds. */
HYB_API size_t hyb_session_bytes(const hyb_session *session);
HYB_API size_t hyb_session_length(const hyb_session *session, size_t sequence);

/* Forgets the positions of a sequence from `length` on. */
HYB_API hyb_status hyb_session_truncate(hyb_session *session, size_t sequence, size_t length);

/* Feeds tokens [n_tokens] to one sequence; logits fp32 [vocab_size] of the last token (may be NULL).
 * Errors: INVALID_ARGUMENT (token, full cache). */
HYB_API hyb_status hyb_session_feed(hyb_session *session, size_t sequence, const uint32_t *tokens, size_t n_tokens,
                                    float *logits);

/* Feeds one token to each of n sequences at once: sequences [n] (distinct), tokens [n], logits fp32 [n][vocab_size]. */
HYB_API hyb_status hyb_session_step(hyb_session *session, const uint32_t *sequences, const uint32_t *tokens, size_t n,
                                    float *logits);

/* How the next token is drawn. */
typedef struct hyb_sampler {
    size_t struct_size;
    float temperature; /* 0: the most likely token (the lowest id on a tie); else logits / temperature */
    uint32_t top_k;    /* keep the k most likely; 0: all */
    float top_p;       /* keep the smallest set whose probability reaches top_p; 0 or 1: all */
    uint64_t seed;     /* sequence i of a batch draws from stream i of this seed */
} hyb_sampler;

/* Draws one token from logits [vocab_size]. `stream` and `position` select the random number: the same arguments give
 * the same token everywhere. Errors: INVALID_ARGUMENT, NOT_FINITE, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_sample(hyb_ctx *ctx, const hyb_sampler *sampler, const float *logits, size_t vocab_size,
                              uint64_t stream, uint64_t position, uint32_t *token);

/* Why a sequence ended. */
typedef enum hyb_stop_reason {
    HYB_STOP_LENGTH = 0, /* max_tokens, or the cache is full without shift_context */
    HYB_STOP_STRING = 1, /* a stop string; it is not part of the text */
    HYB_STOP_TOKEN = 2,  /* stop_token */
    HYB_STOP_CALLBACK = 3
} hyb_stop_reason;

/* Receives text as soon as it is certain (never part of a possible stop string), in pieces that may be empty; the last
 * call of a sequence has finished = 1. Returns 0 to go on, anything else to end this sequence. */
typedef int (*hyb_text_callback)(void *user, size_t sequence, const char *text, size_t n_bytes, uint32_t token,
                                 int finished, int stop_reason);

/* Options of hyb_generate. */
typedef struct hyb_generate_options {
    size_t struct_size;
    hyb_sampler sampler;
    size_t max_tokens;       /* new tokens a sequence */
    const char *const *stop; /* NUL-terminated stop strings [n_stop], none empty */
    size_t n_stop;
    int64_t stop_token;         /* token id that ends a sequence; -1: none */
    hyb_text_callback callback; /* may be NULL */
    void *user;
    int32_t shift_context; /* 1: a full cache is emptied, and its newer half fed again, so that text goes on */
    int32_t reserved;      /* 0 */
} hyb_generate_options;

/* Generates from n prompts at once, sequences 0 .. n-1 of the session, which are truncated to 0 first.
 *   prompts [n] and prompt_tokens [n]: token ids (at least one each) and their numbers
 *   tokens uint32 [n][max_tokens], n_tokens size_t [n]: what was generated, the stop token or string's tokens included
 * A batch gives each sequence the tokens that it would get alone. tokens and n_tokens may be NULL with a callback.
 * Errors: INVALID_ARGUMENT, OUT_OF_MEMORY, NOT_FINITE. */
HYB_API hyb_status hyb_generate(hyb_session *session, const uint32_t *const *prompts, const size_t *prompt_tokens,
                                size_t n, const hyb_generate_options *options, uint32_t *tokens, size_t *n_tokens);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_LANGUAGE_MODEL_H */
