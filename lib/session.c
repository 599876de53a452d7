/* session.c - running a model over tokens with a key-value cache; logits and loss of whole sequences use it too.
 *
 * Feeding tokens one by one, in portions or all at once gives the same bits: every token goes through the same exact
 * kernels and sees the same cache.
 */
#include "language_model.h"

/* Tokens of one pass: enough for the matrix product to reuse its weights, few enough for small work memory. */
#define FEED_TOKENS ((size_t)128)

struct hyb_session {
    hyb_language_model *model;
    hyb_places places;
    size_t n_threads, max_tokens, cache_bytes;
    int cache_format;
    void *memory; /* everything below, and the lengths */
    void *work_memory;
    hyb_kv *layers; /* [n_layers] */
    uint32_t *tokens, *sequences, *positions;
    float *rms;
    hyb_layer_state state;
    hyb_input head_input;
    hyb_work work;
};

static void layout_caches(hyb_session *s, hyb_arena *arena) {
    const hyb_language_model *m = s->model;
    size_t places = s->places.n_sequences * s->places.n_context, size = places * m->kv_dim;
    size_t scales = places * m->config.n_kv_heads;
    s->places.lengths = hyb_arena_take(arena, s->places.n_sequences, sizeof *s->places.lengths);
    s->layers = hyb_arena_take(arena, m->config.n_layers, sizeof *s->layers);
    s->tokens = hyb_arena_take(arena, s->max_tokens, sizeof(uint32_t));
    s->sequences = hyb_arena_take(arena, s->max_tokens, sizeof(uint32_t));
    s->positions = hyb_arena_take(arena, s->max_tokens, sizeof(uint32_t));
    s->rms = hyb_arena_take(arena, s->max_tokens, sizeof(float));
    size_t before = arena->used;
    for (size_t l = 0; l < m->config.n_layers; l++) {
        hyb_kv measured, *kv = s->layers ? &s->layers[l] : &measured;
        memset(kv, 0, sizeof *kv);
        kv->format = s->cache_format;
        kv->n_context = s->places.n_context;
        kv->row_stride = m->head_dim;
        kv->head_stride = s->places.n_context * m->head_dim;
        if (s->cache_format == HYB_CACHE_F32) {
            kv->keys = hyb_arena_take(arena, size, sizeof(float));
            kv->values = hyb_arena_take(arena, size, sizeof(float));
        } else {
            kv->key_codes = hyb_arena_take(arena, size, 1);
            kv->value_codes = hyb_arena_take(arena, size, 1);
            kv->key_scales = hyb_arena_take(arena, scales, sizeof(float));
            kv->value_scales = hyb_arena_take(arena, scales, sizeof(float));
        }
    }
    s->cache_bytes = arena->used - before;
}

/* Work memory depends on the number of threads; it is made again when that grows. */
static hyb_status make_work(hyb_session *s) {
    hyb_ctx *ctx = s->model->ctx;
    if (s->work_memory != NULL && ctx->options.n_threads <= s->n_threads) return HYB_OK;
    hyb_arena arena = {NULL, 0, 0};
    for (int pass = 0; pass < 2; pass++) {
        hyb_inference_layout(&s->model->config, ctx, s->max_tokens, s->places.n_context, s->cache_format, &arena,
                             &s->state, &s->head_input, &s->work);
        if (pass == 1) break;
        hyb_free(ctx, s->work_memory);
        s->work_memory = arena.base = arena.overflow ? NULL : hyb_alloc(ctx, 1, arena.used);
        if (arena.base == NULL)
            return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a session's work (%zu bytes)", arena.used);
        arena.used = 0;
    }
    s->n_threads = ctx->options.n_threads;
    return HYB_OK;
}

hyb_status hyb_places_check(hyb_language_model *model, size_t n_sequences, size_t n_context, int cache_format) {
    hyb_ctx *ctx = model->ctx;
    if (n_sequences < 1 || n_sequences > 65536)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_sequences is %zu, must be 1 to 65536", n_sequences);
    if (n_context < 1 || n_context > model->config.max_context)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_context is %zu, must be 1 to max_context (%u)", n_context,
                        model->config.max_context);
    if (cache_format != HYB_CACHE_F32 && cache_format != HYB_CACHE_INT8)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "cache_format is %d, must be 0 (F32) or 1 (INT8)",
                        cache_format);
    if (hyb_mul_overflows(n_sequences * n_context, model->config.dim * sizeof(float) * 2))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu sequences of %zu positions do not fit in memory",
                        n_sequences, n_context);
    return HYB_OK;
}

static hyb_status check_sequence(hyb_ctx *ctx, const hyb_places *places, size_t sequence) {
    if (sequence < places->n_sequences) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "sequence %zu, the session has %zu", sequence,
                    places->n_sequences);
}

hyb_status hyb_places_truncate(hyb_ctx *ctx, const hyb_places *places, size_t sequence, size_t length) {
    HYB_TRY(check_sequence(ctx, places, sequence));
    if (length < places->lengths[sequence]) places->lengths[sequence] = length;
    return HYB_OK;
}

hyb_status hyb_places_check_feed(const hyb_language_model *model, const hyb_places *places, size_t sequence,
                                 const uint32_t *tokens, size_t n_tokens) {
    HYB_TRY(check_sequence(model->ctx, places, sequence));
    if (n_tokens > places->n_context - places->lengths[sequence])
        return hyb_fail(model->ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu tokens do not fit: sequence %zu holds %zu of %zu",
                        n_tokens, sequence, places->lengths[sequence], places->n_context);
    return hyb_check_tokens(model->ctx, tokens, n_tokens, model->config.vocab_size);
}

hyb_status hyb_places_check_step(const hyb_language_model *model, const hyb_places *places, const uint32_t *sequences,
                                 const uint32_t *tokens, size_t n) {
    for (size_t i = 0; i < n; i++) {
        HYB_TRY(hyb_places_check_feed(model, places, sequences[i], &tokens[i], 1));
        for (size_t j = 0; j < i; j++)
            if (sequences[i] == sequences[j])
                return hyb_fail(model->ctx, HYB_ERROR_INVALID_ARGUMENT, "sequence %u is named twice", sequences[i]);
    }
    return HYB_OK;
}

size_t hyb_session_pass_tokens(size_t n_sequences, size_t n_context) {
    return n_sequences > FEED_TOKENS ? n_sequences : hyb_min_size(FEED_TOKENS, n_sequences * n_context);
}

hyb_status hyb_session_create(hyb_language_model *model, size_t n_sequences, size_t n_context,
                              hyb_cache_format cache_format, hyb_session **session) {
    if (model == NULL || session == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "model and session must not be NULL");
    hyb_ctx *ctx = model->ctx;
    HYB_TRY(hyb_places_check(model, n_sequences, n_context, (int)cache_format));
    HYB_TRY(hyb_model_rotary(model, n_context));
    hyb_session *s = hyb_alloc_zeroed(ctx, 1, sizeof *s);
    if (s == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a session");
    s->model = model;
    s->places = (hyb_places){n_sequences, n_context, NULL};
    s->cache_format = (int)cache_format;
    s->max_tokens = hyb_session_pass_tokens(n_sequences, n_context);
    hyb_arena arena = {NULL, 0, 0};
    layout_caches(s, &arena);
    s->memory = arena.base = arena.overflow ? NULL : hyb_alloc_zeroed(ctx, 1, arena.used);
    hyb_status status = HYB_OK;
    if (arena.base == NULL) {
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for key-value caches (%zu bytes)", arena.used);
    } else {
        arena.used = 0;
        layout_caches(s, &arena);
        status = make_work(s);
    }
    if (status != HYB_OK) {
        hyb_session_destroy(s);
        return status;
    }
    *session = s;
    return HYB_OK;
}

void hyb_session_destroy(hyb_session *session) {
    if (session == NULL) return;
    hyb_ctx *ctx = session->model->ctx;
    hyb_free(ctx, session->work_memory);
    hyb_free(ctx, session->memory);
    hyb_free(ctx, session);
}

size_t hyb_session_bytes(const hyb_session *session) { return session ? session->cache_bytes : 0; }

size_t hyb_session_length(const hyb_session *session, size_t sequence) {
    return session && sequence < session->places.n_sequences ? session->places.lengths[sequence] : 0;
}

hyb_status hyb_session_truncate(hyb_session *session, size_t sequence, size_t length) {
    if (session == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    return hyb_places_truncate(session->model->ctx, &session->places, sequence, length);
}

/* Runs the n tokens in s->tokens, sequences, positions; residual rows stay in s->state.residual_in. */
static void run_layers(hyb_session *s, size_t n) {
    const hyb_language_model *m = s->model;
    hyb_batch batch = {n, s->tokens, s->sequences, s->positions};
    hyb_embedding_forward(m, &batch, s->state.residual_in);
    for (size_t l = 0; l < m->config.n_layers; l++)
        hyb_layer_forward(m, &m->layers[l], &batch, &s->state, &s->layers[l], &s->work, s->state.residual_in);
}

static void run_head(hyb_session *s, size_t first, size_t n, float *logits) {
    hyb_head_forward(s->model, s->state.residual_in + first * s->model->config.dim, n, &s->work, s->rms, &s->head_input,
                     logits);
}

/* What the next pass works with, once its arguments have been checked. */
static hyb_status make_ready(hyb_session *s) {
    HYB_TRY(hyb_model_refresh(s->model, NULL, NULL));
    return make_work(s);
}

static hyb_status check_feed(hyb_session *s, size_t sequence, const uint32_t *tokens, size_t n_tokens) {
    HYB_TRY(hyb_places_check_feed(s->model, &s->places, sequence, tokens, n_tokens));
    return make_ready(s);
}

/* Feeds up to max_tokens tokens of one sequence. */
static void feed_part(hyb_session *s, size_t sequence, const uint32_t *tokens, size_t n) {
    for (size_t i = 0; i < n; i++) {
        s->tokens[i] = tokens[i];
        s->sequences[i] = (uint32_t)sequence;
        s->positions[i] = (uint32_t)(s->places.lengths[sequence] + i);
    }
    run_layers(s, n);
    s->places.lengths[sequence] += n;
}

hyb_status hyb_session_feed(hyb_session *session, size_t sequence, const uint32_t *tokens, size_t n_tokens,
                            float *logits) {
    if (session == NULL || tokens == NULL || n_tokens == 0)
        return hyb_fail(session ? session->model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "session and at least one token are needed");
    HYB_TRY(check_feed(session, sequence, tokens, n_tokens));
    for (size_t done = 0; done < n_tokens;) {
        size_t n = hyb_min_size(session->max_tokens, n_tokens - done);
        feed_part(session, sequence, tokens + done, n);
        done += n;
        if (done == n_tokens && logits != NULL) run_head(session, n - 1, 1, logits);
    }
    return HYB_OK;
}

hyb_status hyb_session_step(hyb_session *session, const uint32_t *sequences, const uint32_t *tokens, size_t n,
                            float *logits) {
    if (session == NULL || sequences == NULL || tokens == NULL || n == 0 || n > session->places.n_sequences)
        return hyb_fail(session ? session->model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "1 to n_sequences tokens are needed, each with its sequence");
    HYB_TRY(hyb_places_check_step(session->model, &session->places, sequences, tokens, n));
    HYB_TRY(make_ready(session));
    for (size_t i = 0; i < n; i++) {
        session->tokens[i] = tokens[i];
        session->sequences[i] = sequences[i];
        session->positions[i] = (uint32_t)session->places.lengths[sequences[i]]++;
    }
    run_layers(session, n);
    if (logits != NULL) run_head(session, 0, n, logits);
    return HYB_OK;
}

/* ---- generation ---- */

static hyb_status decoder_truncate(void *session, size_t sequence, size_t length) {
    return hyb_session_truncate(session, sequence, length);
}
static hyb_status decoder_feed(void *session, size_t sequence, const uint32_t *tokens, size_t n_tokens, float *logits) {
    return hyb_session_feed(session, sequence, tokens, n_tokens, logits);
}
static hyb_status decoder_step(void *session, const uint32_t *sequences, const uint32_t *tokens, size_t n,
                               float *logits) {
    return hyb_session_step(session, sequences, tokens, n, logits);
}
static hyb_status decoder_draw(void *session, const hyb_sampler *sampler, const hyb_pick *picks, size_t n,
                               float *logits, uint32_t *tokens) {
    const hyb_language_model *model = ((hyb_session *)session)->model;
    return hyb_draw_from_logits(model->ctx, sampler, logits, model->config.vocab_size, picks, n, tokens);
}

hyb_decoder hyb_session_decoder(hyb_session *session) {
    return (hyb_decoder){session,      session->model, &session->places, decoder_truncate,
                         decoder_feed, decoder_step,   decoder_draw};
}

/* ---- whole sequences ---- */

/* The model's own session of one sequence with room for n_tokens, emptied. */
static hyb_status evaluation_session(hyb_language_model *model, size_t n_tokens, hyb_session **session) {
    if (model->evaluation == NULL || model->evaluation->places.n_context < n_tokens) {
        hyb_session_destroy(model->evaluation);
        model->evaluation = NULL;
        HYB_TRY(hyb_session_create(model, 1, n_tokens, HYB_CACHE_F32, &model->evaluation));
    }
    *session = model->evaluation;
    return hyb_session_truncate(*session, 0, 0);
}

hyb_status hyb_language_model_logits(hyb_language_model *model, const uint32_t *tokens, size_t n_tokens,
                                     float *logits) {
    hyb_session *session;
    if (model == NULL || tokens == NULL || logits == NULL || n_tokens == 0)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "model, logits and at least one token are needed");
    HYB_TRY(evaluation_session(model, n_tokens, &session));
    HYB_TRY(check_feed(session, 0, tokens, n_tokens));
    for (size_t done = 0; done < n_tokens;) {
        size_t n = hyb_min_size(session->max_tokens, n_tokens - done);
        feed_part(session, 0, tokens + done, n);
        run_head(session, 0, n, logits + done * model->config.vocab_size);
        done += n;
    }
    return HYB_OK;
}

/* Adds the cross-entropy of one sequence; logits and losses are work memory for max_tokens rows. */
static hyb_status sequence_loss(hyb_session *s, const uint32_t *tokens, size_t n_context, float *logits, double *losses,
                                double *sum) {
    HYB_TRY(hyb_session_truncate(s, 0, 0));
    HYB_TRY(check_feed(s, 0, tokens, n_context));
    HYB_TRY(hyb_check_tokens(s->model->ctx, tokens + n_context, 1, s->model->config.vocab_size));
    for (size_t done = 0; done < n_context;) {
        size_t n = hyb_min_size(s->max_tokens, n_context - done);
        feed_part(s, 0, tokens + done, n);
        run_head(s, 0, n, logits);
        hyb_cross_entropy(s->model->ctx, logits, tokens + done + 1, n, s->model->config.vocab_size, losses, 0.0f);
        for (size_t i = 0; i < n; i++) *sum += losses[i];
        done += n;
    }
    return HYB_OK;
}

hyb_status hyb_language_model_loss(hyb_language_model *model, const uint32_t *tokens, size_t n_sequences,
                                   size_t n_context, double *loss_sum) {
    hyb_session *session;
    if (model == NULL || tokens == NULL || loss_sum == NULL || n_sequences == 0 || n_context == 0)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "model, loss_sum and at least one sequence of at least one token are needed");
    HYB_TRY(evaluation_session(model, n_context, &session));
    hyb_ctx *ctx = model->ctx;
    float *logits = hyb_alloc(ctx, session->max_tokens * model->config.vocab_size, sizeof *logits);
    double *losses = hyb_alloc(ctx, session->max_tokens, sizeof *losses), sum = 0.0;
    hyb_status status = HYB_OK;
    if (logits == NULL || losses == NULL)
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %zu rows of logits", session->max_tokens);
    for (size_t s = 0; status == HYB_OK && s < n_sequences; s++)
        status = sequence_loss(session, tokens + s * (n_context + 1), n_context, logits, losses, &sum);
    hyb_free(ctx, losses);
    hyb_free(ctx, logits);
    if (status != HYB_OK) return status;
    if (!(sum <= 1e300)) return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "the loss is not finite");
    *loss_sum = sum;
    return HYB_OK;
}
