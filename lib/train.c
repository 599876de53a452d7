/* train.c - one training step: gradients of a batch, then an update (nn/update.c) and new ternary weights.
 *
 * The caller owns the loop. After hyb_language_model_prepare a step allocates nothing.
 */
#include "language_model.h"
#include "quantize.h"

hyb_status hyb_check_tokens(hyb_ctx *ctx, const uint32_t *tokens, size_t n, uint32_t vocab_size) {
    for (size_t i = 0; i < n; i++)
        if (tokens[i] >= vocab_size)
            return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "token %u at index %zu, the vocabulary has %u", tokens[i],
                            i, vocab_size);
    return HYB_OK;
}

hyb_status hyb_training_check(hyb_ctx *ctx, const hyb_language_model_config *config, size_t n_sequences,
                              size_t n_context) {
    if (n_context < 1 || n_context > config->max_context)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_context is %zu, must be 1 to max_context (%u)", n_context,
                        config->max_context);
    if (n_sequences < 1 || n_sequences > ((size_t)1 << 30) / n_context)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_sequences is %zu, must be 1 to 2^30 / n_context",
                        n_sequences);
    return HYB_OK;
}

hyb_status hyb_backward_check(hyb_ctx *ctx, hyb_backward backward) {
    if (backward == HYB_BACKWARD_INT8 || backward == HYB_BACKWARD_F32) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "backward is %d, must be HYB_BACKWARD_F32 or HYB_BACKWARD_INT8",
                    (int)backward);
}

hyb_status hyb_language_model_set_backward(hyb_language_model *model, hyb_backward backward) {
    if (model == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(hyb_backward_check(model->ctx, backward));
    model->backward = (int)backward;
    return HYB_OK;
}

hyb_status hyb_language_model_set_optimizer(hyb_language_model *model, hyb_optimizer optimizer) {
    if (model == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(hyb_optimizer_check(model->ctx, optimizer));
    model->optimizer = (int)optimizer;
    return HYB_OK;
}

hyb_status hyb_language_model_set_state_bits(hyb_language_model *model, int32_t state_bits) {
    if (model == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(hyb_state_bits_check(model->ctx, state_bits));
    model->is_8bit = state_bits == 8;
    return HYB_OK;
}

hyb_status hyb_language_model_set_ternary_blend(hyb_language_model *model, float blend) {
    if (model == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (!(blend >= 0.0f && blend <= 1.0f))
        return hyb_fail(model->ctx, HYB_ERROR_INVALID_ARGUMENT, "the ternary blend is %g, must be 0 to 1", blend);
    model->master_share = 1.0f - blend;
    return HYB_OK;
}

hyb_status hyb_language_model_set_dead_zone(hyb_language_model *model, float dead_zone) {
    if (model == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    const hyb_language_model_config *c = &model->config;
    hyb_quantizer quantizer = {c->linear_format, c->linear_granularity, c->linear_threshold, dead_zone};
    if (!model->trainable)
        return hyb_fail(model->ctx, HYB_ERROR_STATE, "a loaded model has its codes and no master weights to code");
    if (dead_zone == 0.0f)
        return hyb_fail(model->ctx, HYB_ERROR_INVALID_ARGUMENT, "the dead zone is 0, must be above 0 and at most 4");
    HYB_TRY(hyb_check_dead_zone(model->ctx, &quantizer));
    for (size_t i = 0; i < model->n_tensors; i++) {
        hyb_tensor *t = &model->tensors[i];
        if (!t->is_linear || t->quantizer.dead_zone == dead_zone) continue;
        t->quantizer.dead_zone = dead_zone;
        model->stale = 1;
    }
    return HYB_OK;
}

/* Memory for steps of this size, in *training. */
static hyb_status training_alloc(const hyb_language_model *model, int blends, size_t n_sequences, size_t n_context,
                                 hyb_training **training) {
    hyb_ctx *ctx = model->ctx;
    hyb_training *t = hyb_alloc_zeroed(ctx, 1, sizeof *t);
    if (t == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a training step");
    hyb_arena arena = {NULL, 0, 0};
    hyb_training_layout(&model->config, ctx, model->backward, model->optimizer, blends, n_sequences, n_context, &arena,
                        t);
    t->memory = arena.base = arena.overflow ? NULL : hyb_alloc(ctx, 1, arena.used);
    if (arena.base == NULL) {
        hyb_free(ctx, t);
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %zu x %zu tokens a step (%zu bytes)", n_sequences,
                        n_context, arena.used);
    }
    arena.used = 0;
    hyb_training_layout(&model->config, ctx, model->backward, model->optimizer, blends, n_sequences, n_context, &arena,
                        t);
    t->max_sequences = n_sequences;
    t->max_context = n_context;
    t->n_threads = ctx->options.n_threads;
    *training = t;
    return HYB_OK;
}

static void training_free(hyb_ctx *ctx, hyb_training *t) {
    if (t == NULL) return;
    hyb_free(ctx, t->memory);
    hyb_free(ctx, t);
}

void hyb_training_free(hyb_language_model *model) {
    training_free(model->ctx, model->training);
    model->training = NULL;
}

static hyb_status prepare(hyb_language_model *model, int blends, size_t n_sequences, size_t n_context) {
    hyb_training *t = NULL;
    hyb_ctx *ctx = model->ctx;
    if (!model->trainable)
        return hyb_fail(ctx, HYB_ERROR_STATE, "a loaded model has no master weights: create one to train");
    HYB_TRY(hyb_training_check(ctx, &model->config, n_sequences, n_context));
    HYB_TRY(hyb_model_rotary(model, n_context));
    HYB_TRY(training_alloc(model, blends, n_sequences, n_context, &t));
    hyb_status status =
        hyb_moments_prepare(ctx, model->tensors, model->n_tensors, model->optimizer, model->is_8bit, &model->moments);
    if (status != HYB_OK) {
        training_free(ctx, t);
        return status;
    }
    hyb_training_free(model);
    model->training = t;
    return HYB_OK;
}

hyb_status hyb_language_model_prepare(hyb_language_model *model, size_t n_sequences, size_t n_context) {
    if (model == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    return prepare(model, model->master_share > 0.0f, n_sequences, n_context);
}

/* Beyond this a multiplier is a mistake: rates differ between the rows of a matrix by less. */
#define MAX_ROW_MULTIPLIER 10.0f

hyb_status hyb_language_model_set_row_multipliers(hyb_language_model *model, size_t index, const float *multipliers) {
    if (model == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_ctx *ctx = model->ctx;
    if (index >= model->n_tensors)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "parameter index %zu, the model has %zu", index,
                        model->n_tensors);
    hyb_tensor *t = &model->tensors[index];
    if (!t->is_linear)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%s has no row multipliers: only a layer's matrix has",
                        t->name);
    if (t->row_multipliers == NULL) return hyb_fail(ctx, HYB_ERROR_STATE, "call hyb_language_model_prepare first");
    for (uint32_t r = 0; multipliers != NULL && r < t->n_rows; r++)
        if (!(multipliers[r] >= 0.0f && multipliers[r] <= MAX_ROW_MULTIPLIER))
            return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%s: the multiplier of row %u is %g, must be 0 to %g",
                            t->name, r, (double)multipliers[r], (double)MAX_ROW_MULTIPLIER);
    if (multipliers != NULL) memcpy(t->row_multipliers, multipliers, t->n_rows * sizeof *multipliers);
    t->has_row_multipliers = multipliers != NULL;
    return HYB_OK;
}

/* ---- gradients ---- */

static hyb_status check_step(hyb_language_model *model, const uint32_t *tokens, size_t n_sequences, size_t n_context) {
    hyb_ctx *ctx = model->ctx;
    hyb_training *t = model->training;
    if (t == NULL) return hyb_fail(ctx, HYB_ERROR_STATE, "call hyb_language_model_prepare first");
    if (model->master_share > 0.0f && !t->blends)
        return hyb_fail(ctx, HYB_ERROR_STATE,
                        "the ternary blend is below 1: call hyb_language_model_prepare after setting it");
    if (n_sequences < 1 || n_sequences > t->max_sequences || n_context < 1 || n_context > t->max_context)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu x %zu tokens, prepared for at most %zu x %zu",
                        n_sequences, n_context, t->max_sequences, t->max_context);
    HYB_TRY(hyb_check_tokens(ctx, tokens, n_sequences * (n_context + 1), model->config.vocab_size));
    /* More threads than at prepare: the per-worker buffers must grow. */
    if (ctx->options.n_threads > t->n_threads) HYB_TRY(prepare(model, t->blends, t->max_sequences, t->max_context));
    return HYB_OK;
}

/* The micro-batch of n_sequences sequences from `first`. */
static hyb_batch fill_batch(hyb_training *t, size_t dim, const uint32_t *tokens, size_t first, size_t n_sequences,
                            size_t n_context) {
    uint32_t *inputs = t->inputs + first * n_context;
    tokens += first * (n_context + 1);
    t->d_residual = t->d_embedded + first * n_context * dim;
    for (size_t s = 0; s < n_sequences; s++)
        for (size_t p = 0; p < n_context; p++) {
            size_t i = s * n_context + p;
            inputs[i] = tokens[s * (n_context + 1) + p];
            t->targets[i] = tokens[s * (n_context + 1) + p + 1];
            t->positions[i] = (uint32_t)p;
        }
    return (hyb_batch){n_sequences * n_context, inputs, NULL, t->positions};
}

static void forward(hyb_language_model *model, const hyb_batch *batch, size_t n_context) {
    hyb_training *t = model->training;
    size_t n_layers = model->config.n_layers;
    hyb_embedding_forward(model, batch, t->states[0].residual_in);
    for (size_t l = 0; l < n_layers; l++) {
        float *out = l + 1 < n_layers ? t->states[l + 1].residual_in : t->residual_final;
        for (size_t first = 0; first < batch->n_tokens; first += t->slice) {
            hyb_batch slice = hyb_slice(t, batch, first);
            hyb_layer_state state = hyb_slice_state(model, &t->states[l], first);
            hyb_kv kv = {.n_context = n_context, .keys = state.k};
            hyb_layer_forward(model, &model->layers[l], &slice, &state, &kv, &t->work, out + first * model->config.dim);
        }
    }
}

/* Keeps the mean loss of each sequence of a micro-batch, and adds all their tokens' losses to the total. */
static void sum_losses(hyb_training *t, size_t first, size_t n_sequences, size_t n_context, double *total) {
    for (size_t s = 0; s < n_sequences; s++) {
        double sum = 0.0;
        for (size_t p = 0; p < n_context; p++) {
            sum += t->losses[s * n_context + p];
            *total += t->losses[s * n_context + p];
        }
        t->sequence_losses[first + s] = sum / (double)n_context;
    }
}

hyb_status hyb_language_model_gradients(hyb_language_model *model, const uint32_t *tokens, size_t n_sequences,
                                        size_t n_context, hyb_gradient_statistics *statistics) {
    if (model == NULL || tokens == NULL || statistics == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "no argument may be NULL");
    HYB_TRY(check_step(model, tokens, n_sequences, n_context));
    HYB_TRY(hyb_model_refresh(model, NULL, NULL));
    hyb_training *t = model->training;
    t->has_gradients = 0;
    t->n_losses = 0;
    t->work.master_share = model->master_share;
    double loss = 0.0, norm = 0.0;
    size_t n_micro = hyb_training_begin(&model->config, n_context, t) / n_context;
    for (size_t s = 0; s < n_sequences; s += n_micro) {
        size_t n = hyb_min_size(n_micro, n_sequences - s);
        hyb_batch batch = fill_batch(t, model->config.dim, tokens, s, n, n_context);
        t->accumulate = s > 0;
        forward(model, &batch, n_context);
        hyb_backward_pass(model, &batch, n_context, n_sequences * n_context);
        sum_losses(t, s, n, n_context, &loss);
    }
    hyb_embedding_backward(model, n_sequences * n_context);
    loss /= (double)(n_sequences * n_context);
    if (!hyb_is_finite((float)loss)) return hyb_fail(model->ctx, HYB_ERROR_NOT_FINITE, "the loss is not finite");
    HYB_TRY(hyb_tensors_gradient_norm(model->ctx, model->tensors, model->n_tensors, &norm));
    statistics->loss = loss;
    statistics->gradient_norm = t->gradient_norm = norm;
    t->has_gradients = 1;
    t->n_losses = n_sequences;
    return HYB_OK;
}

hyb_status hyb_language_model_sequence_losses(const hyb_language_model *model, size_t n_sequences, double *losses) {
    if (model == NULL || losses == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "no argument may be NULL");
    const hyb_training *t = model->training;
    if (t == NULL || t->n_losses == 0)
        return hyb_fail(model->ctx, HYB_ERROR_STATE, "call hyb_language_model_gradients first");
    if (n_sequences != t->n_losses)
        return hyb_fail(model->ctx, HYB_ERROR_INVALID_ARGUMENT, "losses of %zu sequences, the last batch had %zu",
                        n_sequences, t->n_losses);
    memcpy(losses, t->sequence_losses, n_sequences * sizeof *losses);
    return HYB_OK;
}

/* ---- update ---- */

static hyb_status check_update(hyb_language_model *model, int adamw) {
    if (model->training == NULL || !model->training->has_gradients)
        return hyb_fail(model->ctx, HYB_ERROR_STATE, "call hyb_language_model_gradients first");
    if ((model->moments.optimizer == HYB_OPTIMIZER_ADAMW) == adamw) return HYB_OK;
    return hyb_fail(model->ctx, HYB_ERROR_STATE, "the model was prepared for %s: call hyb_language_model_%s",
                    adamw ? "a trust-region optimiser" : "AdamW", adamw ? "apply_trust_region" : "apply");
}

static hyb_update update_begin(hyb_language_model *model) {
    const hyb_training *t = model->training;
    return (hyb_update){.ctx = model->ctx,
                        .tensors = model->tensors,
                        .n_tensors = model->n_tensors,
                        .optimizer = model->moments.optimizer,
                        .gradient_norm = t->gradient_norm,
                        .next_codes = model->next_codes,
                        .work = &t->update,
                        .rows = t->work.rows,
                        .row_floats = t->work.row_floats};
}

static hyb_status update_end(hyb_language_model *model, const hyb_update *update, hyb_status status) {
    if (!update->began) return status;
    model->training->has_gradients = 0;
    model->training->int8.current = 0; /* the transposed weights are of the codes before */
    model->stale = status != HYB_OK;
    return status;
}

hyb_status hyb_language_model_apply(hyb_language_model *model, const hyb_adamw *adamw, float clip_norm,
                                    hyb_update_statistics *statistics) {
    if (model == NULL || adamw == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "model and adamw must not be NULL");
    HYB_TRY(check_update(model, 1));
    hyb_update update = update_begin(model);
    return update_end(model, &update, hyb_update_adamw(&update, adamw, clip_norm, statistics));
}

hyb_status hyb_language_model_apply_trust_region(hyb_language_model *model, const hyb_trust_region *options,
                                                 hyb_trust_statistics *statistics) {
    if (model == NULL || options == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "model and options must not be NULL");
    HYB_TRY(check_update(model, 0));
    hyb_update update = update_begin(model);
    return update_end(model, &update, hyb_update_trust_region(&update, options, statistics));
}

hyb_status hyb_language_model_alignment(hyb_language_model *model, double *cosine) {
    if (model == NULL || cosine == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "model and cosine must not be NULL");
    HYB_TRY(check_update(model, 0));
    hyb_update update = update_begin(model);
    *cosine = hyb_update_alignment(&update);
    return HYB_OK;
}
