/* cuda_session.c - a language model that generates on a device: copies its parameters there, checks arguments, keeps
 * the books of what is in the caches, and gives text generation (generate.c) a decoder.
 *
 * Matrices that read the same input (queries, keys and values; gate and up) become one on the device, since a launch
 * costs as much as a small matrix. The passes are cuda/session.cu.
 */
#include "../cuda/session.h"

#include "cuda.h"
#include "language_model.h"

struct hyb_cuda_session {
    hyb_cuda *cuda;
    hyb_language_model *model;
    hyb_places places;
    hyb_session_plan plan;
    hyb_device_layer *layers; /* [n_layers] */
    void *parameters;         /* device: what plan and layers point to */
    hyb_device_session *device;
    size_t cache_bytes;
    void *memory;    /* host: layers, lengths and the next two */
    uint32_t *rows;  /* [3][max_tokens] */
    uint64_t *picks; /* [2][n_sequences] */
};

/* ---- parameters ---- */

/* Goes through all parameters, first to measure, then to copy them. */
typedef struct parameter_copy {
    hyb_cuda_session *session;
    uint8_t *base; /* device; NULL: measure */
    size_t used, largest;
    uint8_t *staging; /* host [largest]: one part at a time */
    int8_t *codes;    /* host [n_threads][HYB_MATMUL_MAX_COLS]: of a row */
} parameter_copy;

/* The place of a part on the device. */
static uint8_t *take_part(parameter_copy *copy, size_t n_bytes) {
    uint8_t *place = copy->base != NULL ? copy->base + copy->used : NULL;
    copy->used += hyb_round_up(n_bytes, 256);
    if (n_bytes > copy->largest) copy->largest = n_bytes;
    return place;
}

static hyb_status upload_part(parameter_copy *copy, void *to, const void *from, size_t n_bytes) {
    if (copy->base == NULL) return HYB_OK;
    return HYB_CUDA_CALL(copy->session->cuda, session_upload, to, from, n_bytes);
}

static hyb_status copy_floats(parameter_copy *copy, const float *values, size_t n, const float **place) {
    uint8_t *to = take_part(copy, n * sizeof *values);
    *place = (const float *)(const void *)to;
    return upload_part(copy, to, values, n * sizeof *values);
}

static hyb_status copy_gain(parameter_copy *copy, const hyb_tensor *gain, const float **place) {
    *place = NULL;
    return gain != NULL ? copy_floats(copy, gain->values, gain->n_cols, place) : HYB_OK;
}

/* Rows of one tensor in the layout of cuda/matmul.h. */
typedef struct convert_loop {
    const hyb_tensor *tensor;
    size_t ld_bytes;
    int8_t *codes; /* per worker */
    uint8_t *to;
} convert_loop;

static void ternary_words(const int8_t *codes, size_t n_cols, size_t ld_bytes, uint8_t *to) {
    memset(to, 0x55, ld_bytes); /* code 0 is stored as 1 */
    for (size_t c = 0; c < n_cols; c++) {
        uint8_t *byte = to + c / 16 * 4 + c % 4;
        *byte = (uint8_t)(*byte + codes[c] * (1 << c % 16 / 4 * 2));
    }
}

static void convert_task(void *argument, size_t row, size_t worker) {
    const convert_loop *loop = argument;
    const hyb_tensor *t = loop->tensor;
    uint8_t *to = loop->to + row * loop->ld_bytes;
    int8_t *codes = loop->codes + worker * HYB_MATMUL_MAX_COLS;
    memset(to, 0, loop->ld_bytes);
    if (!hyb_tensor_is_quantized(t)) {
        memcpy(to, t->values + row * t->n_cols, t->n_cols * sizeof(float));
        return;
    }
    hyb_weights_unpack_codes(t->packed, row, codes);
    if (t->quantizer.format == HYB_FORMAT_TERNARY)
        ternary_words(codes, t->n_cols, loop->ld_bytes, to);
    else
        memcpy(to, codes, t->n_cols);
}

static size_t row_bytes(const hyb_tensor *t) {
    size_t n = t->n_cols;
    if (t->quantizer.format == HYB_FORMAT_TERNARY) return hyb_round_up(hyb_ceil_div(n, 4), 16);
    return hyb_round_up(hyb_tensor_is_quantized(t) ? n : n * sizeof(float), 16);
}

/* n tensors of one width and format, one below the other; their scales behind them. */
static hyb_status copy_matrix(parameter_copy *copy, const hyb_tensor *const *tensors, size_t n,
                              hyb_device_weights *to) {
    const hyb_tensor *first = tensors[0];
    size_t n_rows = 0, at = 0;
    for (size_t i = 0; i < n; i++) n_rows += tensors[i]->n_rows;
    *to = (hyb_device_weights){first->quantizer.format, (uint32_t)n_rows, first->n_cols, row_bytes(first), NULL, NULL};
    size_t code_bytes = n_rows * to->ld_bytes, n_bytes = code_bytes + n_rows * sizeof(float);
    uint8_t *place = take_part(copy, n_bytes);
    if (copy->base == NULL) return HYB_OK;
    to->codes = place;
    to->row_scales = (const float *)(const void *)(place + code_bytes);
    memset(copy->staging + code_bytes, 0, n_rows * sizeof(float));
    for (size_t i = 0; i < n; at += tensors[i++]->n_rows) {
        convert_loop loop = {tensors[i], to->ld_bytes, copy->codes, copy->staging + at * to->ld_bytes};
        hyb_parallel(copy->session->model->ctx, tensors[i]->n_rows, convert_task, &loop);
        if (hyb_tensor_is_quantized(tensors[i]))
            memcpy(copy->staging + code_bytes + at * sizeof(float), tensors[i]->packed->row_scales,
                   tensors[i]->n_rows * sizeof(float));
    }
    return upload_part(copy, place, copy->staging, n_bytes);
}

static hyb_status copy_layer(parameter_copy *copy, const hyb_layer *layer, hyb_device_layer *to) {
    const hyb_tensor *qkv[3] = {layer->attn_q, layer->attn_k, layer->attn_v};
    const hyb_tensor *gate_up[2] = {layer->ffn_gate, layer->ffn_up}, *output = layer->attn_output;
    const hyb_tensor *down = layer->ffn_down;
    HYB_TRY(copy_matrix(copy, qkv, 3, &to->qkv));
    HYB_TRY(copy_matrix(copy, &output, 1, &to->output));
    HYB_TRY(copy_matrix(copy, gate_up, 2, &to->gate_up));
    HYB_TRY(copy_matrix(copy, &down, 1, &to->down));
    HYB_TRY(copy_gain(copy, layer->attn_norm, &to->attn_norm));
    HYB_TRY(copy_gain(copy, layer->attn_sub_norm, &to->attn_sub_norm));
    HYB_TRY(copy_gain(copy, layer->ffn_norm, &to->ffn_norm));
    return copy_gain(copy, layer->ffn_sub_norm, &to->ffn_sub_norm);
}

static hyb_status copy_parameters(parameter_copy *copy) {
    hyb_cuda_session *s = copy->session;
    const hyb_language_model *m = s->model;
    const hyb_tensor *embedding = m->embedding, *head = m->head;
    size_t table = s->places.n_context * (m->head_dim / 2);
    copy->used = 0;
    HYB_TRY(copy_matrix(copy, &embedding, 1, &s->plan.embedding));
    for (uint32_t l = 0; l < m->config.n_layers; l++) HYB_TRY(copy_layer(copy, &m->layers[l], &s->layers[l]));
    HYB_TRY(copy_gain(copy, m->final_norm, &s->plan.final_norm));
    HYB_TRY(copy_floats(copy, m->cosines, table, &s->plan.cosines));
    HYB_TRY(copy_floats(copy, m->sines, table, &s->plan.sines));
    s->plan.head = s->plan.embedding;
    return head != embedding ? copy_matrix(copy, &head, 1, &s->plan.head) : HYB_OK;
}

static hyb_status upload_parameters(hyb_cuda_session *s) {
    hyb_ctx *ctx = s->model->ctx;
    parameter_copy copy = {.session = s};
    HYB_TRY(copy_parameters(&copy));
    HYB_TRY(HYB_CUDA_CALL(s->cuda, allocate, copy.used, &s->parameters));
    copy.base = s->parameters;
    copy.staging = hyb_alloc(ctx, copy.largest, 1);
    copy.codes = hyb_alloc(ctx, ctx->options.n_threads, HYB_MATMUL_MAX_COLS);
    hyb_status status = HYB_OK;
    if (copy.staging == NULL || copy.codes == NULL)
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to copy a model (%zu bytes)", copy.largest);
    else
        status = copy_parameters(&copy);
    hyb_free(ctx, copy.codes);
    hyb_free(ctx, copy.staging);
    return status;
}

/* ---- life ---- */

static void layout(hyb_cuda_session *s, hyb_arena *arena) {
    s->layers = hyb_arena_take(arena, s->plan.n_layers, sizeof *s->layers);
    s->places.lengths = hyb_arena_take(arena, s->places.n_sequences, sizeof *s->places.lengths);
    s->rows = hyb_arena_take(arena, 3 * s->plan.max_tokens, sizeof *s->rows);
    s->picks = hyb_arena_take(arena, 2 * s->places.n_sequences, sizeof *s->picks);
}

static void make_plan(hyb_cuda_session *s, int cache_format) {
    const hyb_language_model *m = s->model;
    const hyb_language_model_config *c = &m->config;
    hyb_session_plan *p = &s->plan;
    p->vocab_size = c->vocab_size;
    p->dim = c->dim;
    p->n_layers = c->n_layers;
    p->n_heads = c->n_heads;
    p->n_kv_heads = c->n_kv_heads;
    p->ffn_dim = c->ffn_dim;
    p->norm_epsilon = c->norm_epsilon;
    p->attention_scale = hyb_attention_scale(m->head_dim);
    p->activation = c->activation;
    p->cache_format = cache_format;
    p->n_sequences = s->places.n_sequences;
    p->n_context = s->places.n_context;
    p->max_tokens = hyb_session_pass_tokens(p->n_sequences, p->n_context);
}

static hyb_status fill_session(hyb_cuda_session *s) {
    hyb_ctx *ctx = s->model->ctx;
    hyb_arena arena = {NULL, 0, 0};
    layout(s, &arena);
    s->memory = arena.base = hyb_alloc_zeroed(ctx, 1, arena.used);
    if (arena.base == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a session");
    arena.used = 0;
    layout(s, &arena);
    s->plan.layers = s->layers;
    HYB_TRY(upload_parameters(s));
    return HYB_CUDA_CALL(s->cuda, session_create, &s->plan, &s->device, &s->cache_bytes);
}

static hyb_status check_create(hyb_cuda *cuda, hyb_language_model *model, size_t n_sequences, size_t n_context,
                               int cache_format) {
    HYB_TRY(hyb_places_check(model, n_sequences, n_context, cache_format));
    if (cuda->ctx != model->ctx)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "the model and the device are of different contexts");
    /* A row of a head is padded to at most 8 times its elements; scales are less than its codes. */
    const hyb_language_model_config *c = &model->config;
    if (hyb_mul_overflows(n_sequences * n_context, (size_t)c->n_layers * c->dim * 8 * 4 * sizeof(float)))
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu sequences of %zu positions do not fit in memory",
                        n_sequences, n_context);
    return HYB_OK;
}

hyb_status hyb_cuda_session_create(hyb_cuda *cuda, hyb_language_model *model, size_t n_sequences, size_t n_context,
                                   hyb_cache_format cache_format, hyb_cuda_session **session) {
    if (cuda == NULL || model == NULL || session == NULL)
        return hyb_fail(cuda ? cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "cuda, model and session must not be NULL");
    hyb_ctx *ctx = cuda->ctx;
    HYB_TRY(check_create(cuda, model, n_sequences, n_context, (int)cache_format));
    HYB_TRY(hyb_model_rotary(model, n_context));
    HYB_TRY(hyb_model_refresh(model, NULL, NULL));
    hyb_cuda_session *s = hyb_alloc_zeroed(ctx, 1, sizeof *s);
    if (s == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a session");
    s->cuda = cuda;
    s->model = model;
    s->places = (hyb_places){n_sequences, n_context, NULL};
    make_plan(s, (int)cache_format);
    hyb_status status = fill_session(s);
    if (status != HYB_OK) {
        hyb_cuda_session_destroy(s);
        return status;
    }
    *session = s;
    return HYB_OK;
}

void hyb_cuda_session_destroy(hyb_cuda_session *session) {
    if (session == NULL) return;
    hyb_cuda *cuda = session->cuda;
    cuda->table->session_destroy(cuda->state, session->device);
    cuda->table->release(cuda->state, session->parameters);
    hyb_free(cuda->ctx, session->memory);
    hyb_free(cuda->ctx, session);
}

size_t hyb_cuda_session_bytes(const hyb_cuda_session *session) { return session ? session->cache_bytes : 0; }

size_t hyb_cuda_session_length(const hyb_cuda_session *session, size_t sequence) {
    return session && sequence < session->places.n_sequences ? session->places.lengths[sequence] : 0;
}

hyb_status hyb_cuda_session_truncate(hyb_cuda_session *session, size_t sequence, size_t length) {
    if (session == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    return hyb_places_truncate(session->cuda->ctx, &session->places, sequence, length);
}

/* ---- passes ---- */

/* Queues a pass over rows whose tokens and sequences are in s->rows; they count as fed once they are queued. */
static hyb_status queue_pass(hyb_cuda_session *s, size_t n, int is_feed, int has_logits) {
    const uint32_t *sequences = s->rows + n;
    hyb_session_pass pass = {s->rows, n, is_feed, has_logits};
    for (size_t i = 0; i < n; i++) s->rows[2 * n + i] = (uint32_t)(s->places.lengths[sequences[i]] + (is_feed ? i : 0));
    HYB_TRY(HYB_CUDA_CALL(s->cuda, session_run, s->device, &pass));
    for (size_t i = 0; i < n; i++) s->places.lengths[sequences[i]]++;
    return HYB_OK;
}

static hyb_status queue_feed(hyb_cuda_session *s, size_t sequence, const uint32_t *tokens, size_t n_tokens,
                             int has_logits) {
    HYB_TRY(hyb_places_check_feed(s->model, &s->places, sequence, tokens, n_tokens));
    for (size_t done = 0, n; done < n_tokens; done += n) {
        n = hyb_min_size(s->plan.max_tokens, n_tokens - done);
        memcpy(s->rows, tokens + done, n * sizeof *tokens);
        for (size_t i = 0; i < n; i++) s->rows[n + i] = (uint32_t)sequence;
        HYB_TRY(queue_pass(s, n, 1, has_logits && done + n == n_tokens));
    }
    return HYB_OK;
}

static hyb_status queue_step(hyb_cuda_session *s, const uint32_t *sequences, const uint32_t *tokens, size_t n,
                             int has_logits) {
    HYB_TRY(hyb_places_check_step(s->model, &s->places, sequences, tokens, n));
    memcpy(s->rows, tokens, n * sizeof *tokens);
    memcpy(s->rows + n, sequences, n * sizeof *sequences);
    return queue_pass(s, n, 0, has_logits);
}

static hyb_status check_finite(const hyb_cuda_session *s, int not_finite) {
    if (!not_finite) return HYB_OK;
    return hyb_fail(s->cuda->ctx, HYB_ERROR_NOT_FINITE, "GPU: an activation or a logit is not finite");
}

/* Waits. */
static hyb_status fetch_logits(hyb_cuda_session *s, size_t n, float *logits) {
    int not_finite = 0;
    HYB_TRY(HYB_CUDA_CALL(s->cuda, session_logits, s->device, n, logits, &not_finite));
    return check_finite(s, not_finite);
}

hyb_status hyb_cuda_session_feed(hyb_cuda_session *session, size_t sequence, const uint32_t *tokens, size_t n_tokens,
                                 float *logits) {
    if (session == NULL || tokens == NULL || n_tokens == 0)
        return hyb_fail(session ? session->cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "session and at least one token are needed");
    HYB_TRY(queue_feed(session, sequence, tokens, n_tokens, logits != NULL));
    return fetch_logits(session, 1, logits);
}

hyb_status hyb_cuda_session_step(hyb_cuda_session *session, const uint32_t *sequences, const uint32_t *tokens, size_t n,
                                 float *logits) {
    if (session == NULL || sequences == NULL || tokens == NULL || n == 0 || n > session->places.n_sequences)
        return hyb_fail(session ? session->cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "1 to n_sequences tokens are needed, each with its sequence");
    HYB_TRY(queue_step(session, sequences, tokens, n, logits != NULL));
    return fetch_logits(session, n, logits);
}

/* ---- generation ---- */

static hyb_status decoder_truncate(void *session, size_t sequence, size_t length) {
    return hyb_cuda_session_truncate(session, sequence, length);
}

static hyb_status decoder_feed(void *session, size_t sequence, const uint32_t *tokens, size_t n_tokens, float *logits) {
    return queue_feed(session, sequence, tokens, n_tokens, logits != NULL);
}

static hyb_status decoder_step(void *session, const uint32_t *sequences, const uint32_t *tokens, size_t n,
                               float *logits) {
    return queue_step(session, sequences, tokens, n, logits != NULL);
}

static hyb_status decoder_draw(void *session, const hyb_sampler *sampler, const hyb_pick *picks, size_t n,
                               float *logits, uint32_t *tokens) {
    hyb_cuda_session *s = session;
    hyb_sampler_kind kind = hyb_sampler_kind_of(sampler, s->plan.vocab_size);
    int not_finite = 0;
    if (kind == HYB_SAMPLER_CUT) {
        HYB_TRY(fetch_logits(s, n, logits));
        return hyb_draw_from_logits(s->cuda->ctx, sampler, logits, s->plan.vocab_size, picks, n, tokens);
    }
    hyb_device_draw draw = {kind == HYB_SAMPLER_GREEDY ? 0.0f : sampler->temperature, sampler->seed};
    for (size_t i = 0; i < n; i++) {
        s->picks[i] = picks[i].stream;
        s->picks[n + i] = picks[i].position;
    }
    HYB_TRY(HYB_CUDA_CALL(s->cuda, session_draw, s->device, &draw, s->picks, n, tokens, &not_finite));
    return check_finite(s, not_finite);
}

hyb_status hyb_cuda_generate(hyb_cuda_session *session, const uint32_t *const *prompts, const size_t *prompt_tokens,
                             size_t n, const hyb_generate_options *options, uint32_t *tokens, size_t *n_tokens) {
    if (session == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_decoder decoder = {session,      session->model, &session->places, decoder_truncate,
                           decoder_feed, decoder_step,   decoder_draw};
    return hyb_generate_with(&decoder, prompts, prompt_tokens, n, options, tokens, n_tokens);
}
