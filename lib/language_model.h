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
hyb_language_model *hyb_session_model(const hyb_session *session);
size_t hyb_session_context(const hyb_session *session);
size_t hyb_session_sequences(const hyb_session *session);

/* ---- sampler.c ---- */
hyb_status hyb_sampler_check(hyb_ctx *ctx, const hyb_sampler *given, hyb_sampler *sampler);

#endif /* HYB_LANGUAGE_MODEL_INTERNAL_H */
