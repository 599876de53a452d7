/* generate.c - text from prompts: feeds a session, draws tokens, looks for stop strings, streams text.
 *
 * Text is held back while it could be the beginning of a stop string, and sent as soon as it cannot.
 */
#include "language_model.h"

/* One sequence on its way. */
typedef struct stream {
    uint32_t token;    /* drawn, not yet fed */
    uint32_t *history; /* [n_context] tokens in the cache; NULL without shift_context */
    size_t n_tokens;
    int finished;
    char *held; /* decoded text that was not sent yet */
    size_t n_held, capacity;
} stream;

typedef struct generation {
    const hyb_decoder *decoder;
    const hyb_language_model *model;
    hyb_generate_options options;
    stream *streams;
    size_t n, n_context;
    float *logits;       /* [n][vocab_size] */
    uint32_t *sequences; /* [n] active ones of a step, and their tokens and random numbers */
    uint32_t *tokens;
    hyb_pick *picks;
    uint32_t *out_tokens;
} generation;

static hyb_status hold_text(generation *g, stream *s, uint32_t token) {
    hyb_ctx *ctx = g->model->ctx;
    size_t n_bytes = 0;
    if (g->options.callback == NULL && g->options.n_stop == 0) return HYB_OK;
    /* Ids of the model beyond the tokenizer's vocabulary have no text. */
    if (token >= hyb_tokenizer_vocab_size(g->model->tokenizer)) return HYB_OK;
    hyb_status status =
        hyb_tokenizer_decode(g->model->tokenizer, &token, 1, s->held + s->n_held, s->capacity - s->n_held, &n_bytes);
    if (status == HYB_ERROR_TOO_SMALL) {
        size_t capacity = 2 * (s->n_held + n_bytes);
        char *larger = hyb_alloc(ctx, capacity, 1);
        if (larger == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for generated text");
        memcpy(larger, s->held, s->n_held);
        hyb_free(ctx, s->held);
        s->held = larger;
        s->capacity = capacity;
        status =
            hyb_tokenizer_decode(g->model->tokenizer, &token, 1, s->held + s->n_held, capacity - s->n_held, &n_bytes);
    }
    if (status == HYB_OK) s->n_held += n_bytes;
    return status;
}

/* Position of the first stop string in the held text; n_held if there is none. */
static size_t find_stop(const generation *g, const stream *s) {
    for (size_t at = 0; at < s->n_held; at++)
        for (size_t i = 0; i < g->options.n_stop; i++) {
            size_t length = strlen(g->options.stop[i]);
            if (length <= s->n_held - at && memcmp(s->held + at, g->options.stop[i], length) == 0) return at;
        }
    return s->n_held;
}

/* Number of held bytes that cannot become part of a stop string. */
static size_t certain_bytes(const generation *g, const stream *s) {
    for (size_t at = 0; at < s->n_held; at++)
        for (size_t i = 0; i < g->options.n_stop; i++)
            if (strlen(g->options.stop[i]) > s->n_held - at &&
                memcmp(s->held + at, g->options.stop[i], s->n_held - at) == 0)
                return at;
    return s->n_held;
}

/* Sends the first n_bytes of the held text. */
static void send_text(generation *g, size_t index, size_t n_bytes, uint32_t token, int finished, int reason) {
    stream *s = &g->streams[index];
    s->finished = finished;
    if (g->options.callback != NULL &&
        g->options.callback(g->options.user, index, s->held, n_bytes, token, finished, reason) != 0)
        s->finished = 1;
    s->n_held -= n_bytes;
    memmove(s->held, s->held + n_bytes, s->n_held);
}

static size_t length_of(const generation *g, size_t index) { return g->decoder->places->lengths[index]; }

/* Takes the next token of a sequence, and ends the sequence where it ends. */
static hyb_status take_token(generation *g, size_t index, uint32_t token) {
    stream *s = &g->streams[index];
    s->token = token;
    if (g->out_tokens != NULL) g->out_tokens[index * g->options.max_tokens + s->n_tokens] = s->token;
    s->n_tokens++;
    if (g->options.stop_token >= 0 && s->token == (uint64_t)g->options.stop_token) {
        send_text(g, index, s->n_held, s->token, 1, HYB_STOP_TOKEN);
        return HYB_OK;
    }
    HYB_TRY(hold_text(g, s, s->token));
    size_t stop = find_stop(g, s);
    int full =
        s->n_tokens == g->options.max_tokens || (!g->options.shift_context && length_of(g, index) == g->n_context);
    if (stop < s->n_held)
        send_text(g, index, stop, s->token, 1, HYB_STOP_STRING);
    else if (full)
        send_text(g, index, s->n_held, s->token, 1, HYB_STOP_LENGTH);
    else
        send_text(g, index, certain_bytes(g, s), s->token, 0, HYB_STOP_LENGTH);
    return HYB_OK;
}

/* Draws the next token of each of n sequences from the logits of what was fed last. */
static hyb_status draw_next(generation *g, const uint32_t *sequences, size_t n) {
    for (size_t i = 0; i < n; i++) g->picks[i] = (hyb_pick){sequences[i], g->streams[sequences[i]].n_tokens};
    HYB_TRY(g->decoder->draw(g->decoder->session, &g->options.sampler, g->picks, n, g->logits, g->tokens));
    for (size_t i = 0; i < n; i++) HYB_TRY(take_token(g, sequences[i], g->tokens[i]));
    return HYB_OK;
}

/* Makes room in a full cache: the newer half of its tokens is fed again from position 0. */
static hyb_status make_room(generation *g, size_t index) {
    stream *s = &g->streams[index];
    size_t length = length_of(g, index), keep = g->n_context / 2;
    if (!g->options.shift_context) return HYB_OK;
    if (length == g->n_context) {
        memmove(s->history, s->history + (length - keep), keep * sizeof *s->history);
        HYB_TRY(g->decoder->truncate(g->decoder->session, index, 0));
        if (keep > 0) HYB_TRY(g->decoder->feed(g->decoder->session, index, s->history, keep, NULL));
        length = keep;
    }
    s->history[length] = s->token;
    return HYB_OK;
}

static hyb_status run_generation(generation *g, const uint32_t *const *prompts, const size_t *prompt_tokens) {
    const hyb_decoder *decoder = g->decoder;
    for (uint32_t i = 0; i < g->n; i++) {
        HYB_TRY(decoder->truncate(decoder->session, i, 0));
        HYB_TRY(decoder->feed(decoder->session, i, prompts[i], prompt_tokens[i], g->logits));
        if (g->options.shift_context) memcpy(g->streams[i].history, prompts[i], prompt_tokens[i] * sizeof(uint32_t));
        HYB_TRY(draw_next(g, &i, 1));
    }
    for (;;) {
        size_t active = 0;
        for (size_t i = 0; i < g->n; i++) {
            if (g->streams[i].finished) continue;
            HYB_TRY(make_room(g, i));
            g->sequences[active] = (uint32_t)i;
            g->tokens[active++] = g->streams[i].token;
        }
        if (active == 0) return HYB_OK;
        HYB_TRY(decoder->step(decoder->session, g->sequences, g->tokens, active, g->logits));
        HYB_TRY(draw_next(g, g->sequences, active));
    }
}

static hyb_status check_options(hyb_ctx *ctx, const hyb_generate_options *given, generation *g) {
    g->options = (hyb_generate_options){.struct_size = sizeof g->options, .stop_token = -1};
    HYB_TRY(hyb_read_struct(ctx, "hyb_generate_options", &g->options, given, sizeof g->options));
    HYB_TRY(hyb_sampler_check(ctx, &given->sampler, &g->options.sampler));
    if (g->options.shift_context != 0 && g->options.shift_context != 1)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "shift_context is %d, must be 0 or 1",
                        (int)g->options.shift_context);
    if (g->options.max_tokens == 0)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "max_tokens is 0, must be at least 1");
    for (size_t i = 0; i < g->options.n_stop; i++)
        if (g->options.stop == NULL || g->options.stop[i] == NULL || g->options.stop[i][0] == '\0')
            return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "stop string %zu is empty", i);
    return HYB_OK;
}

static hyb_status alloc_generation(hyb_ctx *ctx, generation *g) {
    g->streams = hyb_alloc_zeroed(ctx, g->n, sizeof *g->streams);
    g->logits = hyb_alloc(ctx, g->n * g->model->config.vocab_size, sizeof *g->logits);
    g->sequences = hyb_alloc(ctx, g->n, sizeof *g->sequences);
    g->tokens = hyb_alloc(ctx, g->n, sizeof *g->tokens);
    g->picks = hyb_alloc(ctx, g->n, sizeof *g->picks);
    int complete =
        g->streams != NULL && g->logits != NULL && g->sequences != NULL && g->tokens != NULL && g->picks != NULL;
    for (size_t i = 0; complete && i < g->n; i++) {
        g->streams[i].capacity = 64;
        g->streams[i].held = hyb_alloc(ctx, g->streams[i].capacity, 1);
        if (g->options.shift_context) g->streams[i].history = hyb_alloc(ctx, g->n_context, sizeof(uint32_t));
        complete = g->streams[i].held != NULL && (g->streams[i].history != NULL || !g->options.shift_context);
    }
    return complete ? HYB_OK : hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to generate %zu sequences", g->n);
}

static void free_generation(hyb_ctx *ctx, generation *g) {
    for (size_t i = 0; g->streams != NULL && i < g->n; i++) {
        hyb_free(ctx, g->streams[i].held);
        hyb_free(ctx, g->streams[i].history);
    }
    hyb_free(ctx, g->picks);
    hyb_free(ctx, g->tokens);
    hyb_free(ctx, g->sequences);
    hyb_free(ctx, g->logits);
    hyb_free(ctx, g->streams);
}

hyb_status hyb_draw_from_logits(hyb_ctx *ctx, const hyb_sampler *sampler, const float *logits, size_t vocab_size,
                                const hyb_pick *picks, size_t n, uint32_t *tokens) {
    for (size_t i = 0; i < n; i++)
        HYB_TRY(hyb_sample(ctx, sampler, logits + i * vocab_size, vocab_size, picks[i].stream, picks[i].position,
                           &tokens[i]));
    return HYB_OK;
}

hyb_status hyb_generate_with(const hyb_decoder *decoder, const uint32_t *const *prompts, const size_t *prompt_tokens,
                             size_t n, const hyb_generate_options *options, uint32_t *tokens, size_t *n_tokens) {
    generation g = {.decoder = decoder, .model = decoder->model, .n = n, .out_tokens = tokens};
    g.n_context = decoder->places->n_context;
    hyb_ctx *ctx = g.model->ctx;
    if (prompts == NULL || prompt_tokens == NULL || options == NULL || n == 0 || n > decoder->places->n_sequences)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "1 to %zu prompts and options are needed",
                        decoder->places->n_sequences);
    for (size_t i = 0; i < n; i++)
        if (prompts[i] == NULL || prompt_tokens[i] == 0)
            return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "prompt %zu is empty: at least one token is needed", i);
    HYB_TRY(check_options(ctx, options, &g));
    hyb_status status = alloc_generation(ctx, &g);
    if (status == HYB_OK) status = run_generation(&g, prompts, prompt_tokens);
    for (size_t i = 0; status == HYB_OK && n_tokens != NULL && i < n; i++) n_tokens[i] = g.streams[i].n_tokens;
    free_generation(ctx, &g);
    return status;
}

hyb_status hyb_generate(hyb_session *session, const uint32_t *const *prompts, const size_t *prompt_tokens, size_t n,
                        const hyb_generate_options *options, uint32_t *tokens, size_t *n_tokens) {
    if (session == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_decoder decoder = hyb_session_decoder(session);
    return hyb_generate_with(&decoder, prompts, prompt_tokens, n, options, tokens, n_tokens);
}
