/* workspace.c - where the buffers of a pass lie, and the slices in which a training step goes through them: one layout
 * function serves to measure and to place, so that the memory estimate and the allocation cannot differ.
 */
#include "training.h"

static void layout_state(const hyb_language_model_config *c, size_t n, hyb_arena *arena, hyb_layer_state *s) {
    size_t dim = c->dim, kv_dim = (size_t)c->dim / c->n_heads * c->n_kv_heads, width = c->ffn_dim;
    int format = c->linear_format;
    s->attn_rms = hyb_take_floats(arena, n, 1);
    s->attn_sub_rms = hyb_take_floats(arena, n, 1);
    s->ffn_rms = hyb_take_floats(arena, n, 1);
    s->ffn_sub_rms = hyb_take_floats(arena, n, 1);
    s->q = hyb_take_floats(arena, n, dim);
    s->k = hyb_take_floats(arena, n, kv_dim);
    s->v = hyb_take_floats(arena, n, kv_dim);
    s->attn_out = hyb_take_floats(arena, n, dim);
    s->gate = hyb_take_floats(arena, n, width);
    s->up = hyb_take_floats(arena, n, width);
    s->gated = format == HYB_FORMAT_F32 || c->sub_norms ? hyb_take_floats(arena, n, width) : NULL;
    hyb_take_input(arena, format, 1, n, dim, NULL, &s->attn_input);
    hyb_take_input(arena, format, c->sub_norms, n, dim, s->attn_out, &s->out_input);
    hyb_take_input(arena, format, 1, n, dim, NULL, &s->ffn_input);
    hyb_take_input(arena, format, c->sub_norms, n, width, s->gated, &s->down_input);
}

static size_t widest(const hyb_language_model_config *c) { return c->dim > c->ffn_dim ? c->dim : c->ffn_dim; }

static void layout_work(const hyb_language_model_config *c, const hyb_ctx *ctx, size_t attention_floats,
                        size_t max_cols, hyb_arena *arena, hyb_work *work) {
    memset(work, 0, sizeof *work);
    work->row_floats = hyb_round_up(widest(c), 16);
    work->rows = hyb_take_floats(arena, ctx->options.n_threads, work->row_floats);
    work->attention_floats = hyb_round_up(attention_floats, 16);
    work->attention = hyb_take_floats(arena, ctx->options.n_threads, work->attention_floats);
    work->matmul_scratch = hyb_arena_take(arena, 1, hyb_matmul_scratch_bytes(ctx, max_cols));
}

void hyb_inference_layout(const hyb_language_model_config *c, const hyb_ctx *ctx, size_t n_tokens, size_t n_context,
                          int cache_format, hyb_arena *arena, hyb_layer_state *state, hyb_input *head_input,
                          hyb_work *work) {
    memset(state, 0, sizeof *state);
    state->residual_in = state->residual_mid = hyb_take_floats(arena, n_tokens, c->dim);
    layout_state(c, n_tokens, arena, state);
    hyb_take_input(arena, c->embedding_format, 1, n_tokens, c->dim, NULL, head_input);
    size_t n_queries = hyb_min_size(n_tokens, HYB_ATTENTION_BLOCK_QUERIES);
    size_t attention_floats = HYB_ATTENTION_BLOCK_FLOATS(n_queries, n_context, c->dim / c->n_heads);
    layout_work(c, ctx, attention_floats, widest(c), arena, work);
    if (cache_format == HYB_CACHE_INT8) {
        work->kv_row_floats = n_context * (c->dim / c->n_heads);
        work->kv_rows = hyb_take_floats(arena, (size_t)ctx->options.n_threads * 2, work->kv_row_floats);
    }
}

/* What the fp32 products of quantised matrices need: of the layers' unless they are integer products, and of the head.
 */
static void layout_dequantized(const hyb_language_model_config *c, int layers_too, size_t n, hyb_arena *arena,
                               hyb_work *work) {
    size_t cols = 0, matrix = 0;
    if (c->embedding_format != HYB_FORMAT_F32) {
        cols = c->dim;
        matrix = (size_t)c->vocab_size * c->dim;
    }
    if (layers_too && c->linear_format != HYB_FORMAT_F32) {
        cols = widest(c);
        if ((size_t)c->dim * widest(c) > matrix) matrix = (size_t)c->dim * widest(c);
    }
    work->input_values = hyb_take_floats(arena, n, cols);
    work->effective = hyb_take_floats(arena, matrix, 1);
}

/* The gradients of a scope are read four times: few enough stay in a second-level cache (1.08 times as fast a step as
 * all 2048 tokens at once, preset small). Each scope also adds to the gradients of the weights: where a matrix does not
 * fit that cache, twice as many tokens cost less (1.015 times, preset base; 0.95 with as few). */
#define SMALL_MATRIX_BYTES ((size_t)512 << 10)

size_t hyb_scope_tokens(const hyb_language_model_config *c) {
    return (size_t)c->dim * widest(c) * sizeof(float) <= SMALL_MATRIX_BYTES ? 256 : 512;
}

size_t hyb_training_begin(const hyb_language_model_config *c, size_t n_context, hyb_training *t) {
    size_t tokens = hyb_scope_tokens(c);
    t->scope = n_context >= tokens ? n_context : tokens / n_context * n_context;
    t->slice = t->scope * (t->max_slice > t->scope ? t->max_slice / t->scope : 1);
    if (t->max_tokens >= t->max_sequences * t->max_context) return hyb_round_up(t->max_tokens, t->slice);
    return t->slice * (t->max_tokens > t->slice ? t->max_tokens / t->slice : 1);
}

hyb_batch hyb_slice(const hyb_training *t, const hyb_batch *batch, size_t first) {
    size_t n = hyb_min_size(t->slice, batch->n_tokens - first);
    return (hyb_batch){n, batch->tokens + first, NULL, batch->positions + first};
}

static float *rows_from(float *rows, size_t first, size_t n_cols) {
    return rows != NULL ? rows + first * n_cols : NULL;
}

hyb_input hyb_input_from(hyb_input input, size_t first, size_t n_cols) {
    input.x = rows_from(input.x, first, n_cols);
    if (input.codes.codes == NULL) return input;
    input.codes.codes += first * input.codes.ld;
    input.codes.sums += first;
    input.codes.scales += first;
    return input;
}

hyb_layer_state hyb_slice_state(const hyb_language_model *model, const hyb_layer_state *state, size_t first) {
    hyb_layer_state s = *state;
    size_t dim = model->config.dim, width = model->config.ffn_dim;
    s.residual_in = rows_from(s.residual_in, first, dim);
    s.residual_mid = rows_from(s.residual_mid, first, dim);
    s.attn_rms += first;
    s.attn_sub_rms += first;
    s.ffn_rms += first;
    s.ffn_sub_rms += first;
    s.q = rows_from(s.q, first, dim);
    s.k = rows_from(s.k, first, model->kv_dim);
    s.v = rows_from(s.v, first, model->kv_dim);
    s.attn_out = rows_from(s.attn_out, first, dim);
    s.attn_softmax = rows_from(s.attn_softmax, first, (size_t)2 * model->config.n_heads);
    s.gate = rows_from(s.gate, first, width);
    s.up = rows_from(s.up, first, width);
    s.gated = rows_from(s.gated, first, width);
    s.attn_input = hyb_input_from(s.attn_input, first, dim);
    s.out_input = hyb_input_from(s.out_input, first, dim);
    s.ffn_input = hyb_input_from(s.ffn_input, first, dim);
    s.down_input = hyb_input_from(s.down_input, first, width);
    return s;
}

/* Every thread works on a scope. */
static size_t slice_tokens(const hyb_language_model_config *c, const hyb_ctx *ctx, size_t n_sequences,
                           size_t n_context) {
    size_t scope = hyb_scope_tokens(c);
    return hyb_min_size(n_sequences * n_context, ctx->options.n_threads * (n_context > scope ? n_context : scope));
}

/* Where what the layers keep of a slice (but for residuals) stays in the last-level cache until the way back, a
 * micro-batch is a slice (1.05 times as fast, preset small). Where they do not, it is the whole batch: a layer's
 * gradients, to which every scope adds, stay in the cache then (1.05 times or more, preset base). */
#define CACHED_STATE_BYTES ((size_t)32 << 20)

static size_t micro_batch_tokens(const hyb_language_model_config *c, size_t slice, size_t n_tokens) {
    hyb_arena states = {NULL, 0, 0};
    hyb_layer_state state;
    layout_state(c, slice, &states, &state);
    return states.overflow || states.used > CACHED_STATE_BYTES / c->n_layers ? n_tokens : slice;
}

void hyb_training_layout(const hyb_language_model_config *c, const hyb_ctx *ctx, int backward, int optimizer,
                         int blends, size_t n_sequences, size_t n_context, hyb_arena *arena, hyb_training *t) {
    size_t n_tokens = n_sequences * n_context, m = slice_tokens(c, ctx, n_sequences, n_context);
    size_t n = micro_batch_tokens(c, m, n_tokens), dim = c->dim, kv_dim = dim / c->n_heads * c->n_kv_heads;
    hyb_layer_state measured, *state = &measured;
    t->max_tokens = n;
    t->max_slice = m;
    t->inputs = hyb_arena_take(arena, n_tokens, sizeof(uint32_t));
    t->d_embedded = hyb_take_floats(arena, n_tokens, dim);
    t->targets = hyb_arena_take(arena, n, sizeof(uint32_t));
    t->positions = hyb_arena_take(arena, n, sizeof(uint32_t));
    t->states = hyb_arena_take(arena, c->n_layers, sizeof *t->states);
    for (size_t l = 0; l < c->n_layers; l++) {
        if (t->states != NULL) state = &t->states[l];
        memset(state, 0, sizeof *state);
        state->residual_in = hyb_take_floats(arena, n, dim);
        state->residual_mid = hyb_take_floats(arena, n, dim);
        layout_state(c, n, arena, state);
        state->attn_softmax = hyb_take_floats(arena, n, (size_t)2 * c->n_heads);
    }
    t->residual_final = hyb_take_floats(arena, n, dim);
    t->final_rms = hyb_take_floats(arena, m, 1);
    hyb_take_input(arena, c->embedding_format, 1, m, dim, NULL, &t->head_input);
    t->head_tokens = hyb_min_size(m, HYB_HEAD_LOGITS / c->vocab_size ? HYB_HEAD_LOGITS / c->vocab_size : 1);
    t->logits = hyb_take_floats(arena, t->head_tokens, c->vocab_size);
    t->losses = hyb_arena_take(arena, n, sizeof(double));
    t->sequence_losses = hyb_arena_take(arena, n_sequences, sizeof(double));
    t->d_input = hyb_take_floats(arena, m, dim);
    t->d_wide = hyb_take_floats(arena, m, c->ffn_dim);
    t->d_q = hyb_take_floats(arena, m, dim);
    t->d_k = hyb_take_floats(arena, m, kv_dim);
    t->d_v = hyb_take_floats(arena, m, kv_dim);
    int integer = backward == HYB_BACKWARD_INT8 && c->linear_format != HYB_FORMAT_F32;
    /* A scope of more than HYB_GAIN_CHUNK tokens may end with a short chunk. */
    t->gain_partials = hyb_take_floats(arena, 2 * m / HYB_GAIN_CHUNK + 1, widest(c));
    size_t longest = integer ? hyb_backward_int8_longest(c, m) : 0;
    size_t there = HYB_ATTENTION_TRAINING_FLOATS(n_context, dim / c->n_heads);
    size_t back = HYB_ATTENTION_BACKWARD_FLOATS(n_context, dim / c->n_heads);
    layout_work(c, ctx, there > back ? there : back, longest > widest(c) ? longest : widest(c), arena, &t->work);
    layout_dequantized(c, blends || !integer, m, arena, &t->work);
    t->blends = blends;
    if (integer) hyb_backward_int8_layout(c, ctx, m, arena, &t->int8);
    t->work.gemm_scratch = hyb_arena_take(arena, 1, hyb_gemm_scratch_bytes(ctx));
    hyb_update_layout(optimizer, widest(c) > c->vocab_size ? widest(c) : c->vocab_size, dim * widest(c), dim,
                      t->work.gemm_scratch, arena, &t->update);
    t->work.training = 1;
}
