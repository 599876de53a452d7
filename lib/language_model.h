/* language_model.h (internal) - what the files that make up the language model share with each other. */
#ifndef HYB_LANGUAGE_MODEL_INTERNAL_H
#define HYB_LANGUAGE_MODEL_INTERNAL_H

#include <math.h>

#include "nn/training.h"

enum { HYB_TENSOR_GAIN = 0, HYB_TENSOR_LINEAR = 1, HYB_TENSOR_EMBEDDING = 2 };

/* ---- language_model.c ---- */
/* Reads an extensible configuration (defaults for what is not given) and checks every field. */
hyb_status hyb_config_read(hyb_ctx *ctx, const hyb_language_model_config *given, hyb_language_model_config *config);
size_t hyb_tensors_plan(const hyb_language_model_config *config, hyb_tensor *tensors, hyb_layer *layers,
                        hyb_language_model *model);
/* A model with memory for its parameters and nothing else. */
hyb_status hyb_model_alloc(hyb_ctx *ctx, const hyb_language_model_config *config, int trainable,
                           hyb_language_model **model);
hyb_status hyb_model_default_tokenizer(hyb_language_model *model);
/* Rotary tables for at least n_positions. */
hyb_status hyb_model_rotary(hyb_language_model *model, size_t n_positions);
/* Quantises master weights if they changed; adds to the counts (may be NULL) over the layers' matrices. */
hyb_status hyb_model_refresh(hyb_language_model *model, uint64_t *n_flipped, uint64_t *n_zeros);

/* ---- train.c ---- */
hyb_status hyb_training_check(hyb_ctx *ctx, const hyb_language_model_config *config, size_t n_sequences,
                              size_t n_context);
hyb_status hyb_backward_check(hyb_ctx *ctx, hyb_backward backward);
void hyb_training_free(hyb_language_model *model);
/* INVALID_ARGUMENT if a token is outside the vocabulary. */
hyb_status hyb_check_tokens(hyb_ctx *ctx, const uint32_t *tokens, size_t n, uint32_t vocab_size);

/* ---- session.c ---- */
/* The positions that sequences hold, in a session on the processor or on a device. */
typedef struct hyb_places {
    size_t n_sequences, n_context;
    size_t *lengths; /* [n_sequences] */
} hyb_places;
/* What session_create, truncate, feed and step refuse: INVALID_ARGUMENT, and truncate then does its work. */
hyb_status hyb_places_check(hyb_language_model *model, size_t n_sequences, size_t n_context, int cache_format);
hyb_status hyb_places_truncate(hyb_ctx *ctx, const hyb_places *places, size_t sequence, size_t length);
hyb_status hyb_places_check_feed(const hyb_language_model *model, const hyb_places *places, size_t sequence,
                                 const uint32_t *tokens, size_t n_tokens);
hyb_status hyb_places_check_step(const hyb_language_model *model, const hyb_places *places, const uint32_t *sequences,
                                 const uint32_t *tokens, size_t n);
/* Most rows of a pass of a session. */
size_t hyb_session_pass_tokens(size_t n_sequences, size_t n_context);

/* ---- generate.c ---- */
/* Selects the random number of a draw, as in hyb_sample. */
typedef struct hyb_pick {
    uint64_t stream, position;
} hyb_pick;
/* What text is generated with. Logits of a feed or step are for the draw that follows: in `logits`, or wherever the
 * session keeps them; NULL where none follows. */
typedef struct hyb_decoder {
    void *session;
    const hyb_language_model *model;
    const hyb_places *places;
    hyb_status (*truncate)(void *session, size_t sequence, size_t length);
    hyb_status (*feed)(void *session, size_t sequence, const uint32_t *tokens, size_t n_tokens, float *logits);
    hyb_status (*step)(void *session, const uint32_t *sequences, const uint32_t *tokens, size_t n, float *logits);
    /* tokens [n], as hyb_sample draws them from logits [n][vocab_size] by picks [n]; logits is work memory where they
     * are elsewhere. */
    hyb_status (*draw)(void *session, const hyb_sampler *sampler, const hyb_pick *picks, size_t n, float *logits,
                       uint32_t *tokens);
} hyb_decoder;
/* hyb_generate, with a session that is not NULL. */
hyb_status hyb_generate_with(const hyb_decoder *decoder, const uint32_t *const *prompts, const size_t *prompt_tokens,
                             size_t n, const hyb_generate_options *options, uint32_t *tokens, size_t *n_tokens);
/* A session of the processor as a decoder. */
hyb_decoder hyb_session_decoder(hyb_session *session);
/* The decoder's draw from logits in the host's memory. */
hyb_status hyb_draw_from_logits(hyb_ctx *ctx, const hyb_sampler *sampler, const float *logits, size_t vocab_size,
                                const hyb_pick *picks, size_t n, uint32_t *tokens);

/* ---- sampler.c ---- */
hyb_status hyb_sampler_check(hyb_ctx *ctx, const hyb_sampler *given, hyb_sampler *sampler);
/* What a checked sampler comes to: the first of the largest logits, a draw from the whole vocabulary, or less of it. */
typedef enum hyb_sampler_kind { HYB_SAMPLER_GREEDY = 0, HYB_SAMPLER_WHOLE, HYB_SAMPLER_CUT } hyb_sampler_kind;
hyb_sampler_kind hyb_sampler_kind_of(const hyb_sampler *sampler, size_t vocab_size);

#endif /* HYB_LANGUAGE_MODEL_INTERNAL_H */
