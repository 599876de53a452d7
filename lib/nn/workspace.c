/* workspace.c - where the buffers of a pass lie: one layout function serves to measure and to place, so that the memory
 * estimate and the allocation cannot differ.
 */
#include "training.h"

void *hyb_arena_take(hyb_arena *arena, size_t n, size_t size) {
    if (hyb_mul_overflows(n, size) || n * size > SIZE_MAX / 4 - arena->used) {
        arena->overflow = 1;
        return NULL;
    }
    void *memory = arena->base ? arena->base + arena->used : NULL;
    arena->used += hyb_round_up(n * size, HYB_CACHE_LINE);
    return memory;
}

static float *take_floats(hyb_arena *arena, size_t rows, size_t cols) {
    if (hyb_mul_overflows(rows, cols)) {
        arena->overflow = 1;
        return NULL;
    }
    return hyb_arena_take(arena, rows * cols, sizeof(float));
}

/* Input of linear layers: codes for integer formats; fp32 rows if `keep_values` and no other buffer holds them. */
static void take_input(hyb_arena *arena, int format, int own_rows, size_t n, size_t n_cols, float *rows,
                       hyb_input *input) {
    memset(input, 0, sizeof *input);
    if (format == HYB_FORMAT_F32) {
        input->x = own_rows ? take_floats(arena, n, n_cols) : rows;
        return;
    }
    input->codes.ld = hyb_activations_ld(n_cols);
    input->codes.codes = hyb_arena_take(arena, n, input->codes.ld);
    input->codes.sums = hyb_arena_take(arena, n, sizeof(int32_t));
    input->codes.scales = hyb_arena_take(arena, n, sizeof(float));
}

static void layout_state(const hyb_language_model_config *c, size_t n, hyb_arena *arena, hyb_layer_state *s) {
    size_t dim = c->dim, kv_dim = (size_t)c->dim / c->n_heads * c->n_kv_heads, width = c->ffn_dim;
    int format = c->linear_format;
    s->attn_rms = take_floats(arena, n, 1);
    s->attn_sub_rms = take_floats(arena, n, 1);
    s->ffn_rms = take_floats(arena, n, 1);
    s->ffn_sub_rms = take_floats(arena, n, 1);
    s->q = take_floats(arena, n, dim);
    s->k = take_floats(arena, n, kv_dim);
    s->v = take_floats(arena, n, kv_dim);
    s->attn_out = take_floats(arena, n, dim);
    s->gate = take_floats(arena, n, width);
    s->up = take_floats(arena, n, width);
    s->gated = take_floats(arena, n, width);
    take_input(arena, format, 1, n, dim, NULL, &s->attn_input);
    take_input(arena, format, c->sub_norms, n, dim, s->attn_out, &s->out_input);
    take_input(arena, format, 1, n, dim, NULL, &s->ffn_input);
    take_input(arena, format, c->sub_norms, n, width, s->gated, &s->down_input);
}

static size_t widest(const hyb_language_model_config *c) { return c->dim > c->ffn_dim ? c->dim : c->ffn_dim; }

static void layout_work(const hyb_language_model_config *c, const hyb_ctx *ctx, size_t n_tokens, size_t n_context,
                        size_t attention_floats, size_t max_cols, hyb_arena *arena, hyb_work *work) {
    size_t row = widest(c) > n_context ? widest(c) : n_context;
    memset(work, 0, sizeof *work);
    work->projected = take_floats(arena, n_tokens, c->dim);
    work->row_floats = hyb_round_up(row, 16);
    work->rows = take_floats(arena, ctx->options.n_threads, work->row_floats);
    work->attention_floats = hyb_round_up(attention_floats, 16);
    work->attention = take_floats(arena, ctx->options.n_threads, work->attention_floats);
    work->matmul_scratch = hyb_arena_take(arena, 1, hyb_matmul_scratch_bytes(ctx, max_cols));
}

void hyb_inference_layout(const hyb_language_model_config *c, const hyb_ctx *ctx, size_t n_tokens, size_t n_context,
                          int cache_format, hyb_arena *arena, hyb_layer_state *state, hyb_input *head_input,
                          hyb_work *work) {
    memset(state, 0, sizeof *state);
    state->residual_in = state->residual_mid = take_floats(arena, n_tokens, c->dim);
    layout_state(c, n_tokens, arena, state);
    take_input(arena, c->embedding_format, 1, n_tokens, c->dim, NULL, head_input);
    size_t n_queries = hyb_min_size(n_tokens, HYB_ATTENTION_BLOCK_QUERIES);
    size_t attention_floats = HYB_ATTENTION_BLOCK_FLOATS(n_queries, n_context, c->dim / c->n_heads);
    layout_work(c, ctx, n_tokens, n_context, attention_floats, widest(c), arena, work);
    if (cache_format == HYB_CACHE_INT8) {
        work->kv_row_floats = n_context * (c->dim / c->n_heads);
        work->kv_rows = take_floats(arena, (size_t)ctx->options.n_threads * 2, work->kv_row_floats);
    }
}

/* What the fp32 gradient products of quantised matrices need: of the layers' unless they are integer products, and of
 * the head. */
static void layout_dequantized(const hyb_language_model_config *c, int layers_too, size_t n, hyb_arena *arena,
                               hyb_training *t) {
    size_t cols = 0, matrix = 0;
    if (c->embedding_format != HYB_FORMAT_F32) {
        cols = c->dim;
        matrix = (size_t)c->vocab_size * c->dim;
    }
    if (layers_too && c->linear_format != HYB_FORMAT_F32) {
        cols = widest(c);
        if ((size_t)c->dim * widest(c) > matrix) matrix = (size_t)c->dim * widest(c);
    }
    t->input_values = take_floats(arena, n, cols);
    t->effective = take_floats(arena, matrix, 1);
}

void hyb_training_layout(const hyb_language_model_config *c, const hyb_ctx *ctx, int backward, size_t n_sequences,
                         size_t n_context, hyb_arena *arena, hyb_training *t) {
    size_t n = n_sequences * n_context, dim = c->dim, kv_dim = dim / c->n_heads * c->n_kv_heads;
    hyb_layer_state measured, *state = &measured;
    t->inputs = hyb_arena_take(arena, n, sizeof(uint32_t));
    t->targets = hyb_arena_take(arena, n, sizeof(uint32_t));
    t->sequences = hyb_arena_take(arena, n, sizeof(uint32_t));
    t->positions = hyb_arena_take(arena, n, sizeof(uint32_t));
    t->states = hyb_arena_take(arena, c->n_layers, sizeof *t->states);
    for (size_t l = 0; l < c->n_layers; l++) {
        if (t->states != NULL) state = &t->states[l];
        memset(state, 0, sizeof *state);
        state->residual_in = take_floats(arena, n, dim);
        state->residual_mid = take_floats(arena, n, dim);
        layout_state(c, n, arena, state);
        state->attn_softmax = take_floats(arena, n, (size_t)2 * c->n_heads);
    }
    t->residual_final = take_floats(arena, n, dim);
    t->final_rms = take_floats(arena, n, 1);
    take_input(arena, c->embedding_format, 1, n, dim, NULL, &t->head_input);
    t->head_tokens = hyb_min_size(n, HYB_HEAD_LOGITS / c->vocab_size ? HYB_HEAD_LOGITS / c->vocab_size : 1);
    t->logits = take_floats(arena, t->head_tokens, c->vocab_size);
    t->losses = hyb_arena_take(arena, n, sizeof(double));
    t->d_residual = take_floats(arena, n, dim);
    t->d_input = take_floats(arena, n, dim);
    t->d_wide = take_floats(arena, n, c->ffn_dim);
    t->d_q = take_floats(arena, n, dim);
    t->d_k = take_floats(arena, n, kv_dim);
    t->d_v = take_floats(arena, n, kv_dim);
    int integer = backward == HYB_BACKWARD_INT8 && c->linear_format != HYB_FORMAT_F32;
    layout_dequantized(c, !integer, n, arena, t);
    t->gain_partials = take_floats(arena, hyb_ceil_div(n, HYB_GAIN_CHUNK), widest(c));
    size_t longest = integer ? hyb_backward_int8_longest(c, n) : 0;
    size_t there = HYB_ATTENTION_TRAINING_FLOATS(n_context, dim / c->n_heads);
    size_t back = HYB_ATTENTION_BACKWARD_FLOATS(n_context, dim / c->n_heads);
    layout_work(c, ctx, n, n_context, there > back ? there : back, longest > widest(c) ? longest : widest(c), arena,
                &t->work);
    if (integer) hyb_backward_int8_layout(c, ctx, n, arena, &t->int8);
    t->work.gemm_scratch = hyb_arena_take(arena, 1, hyb_gemm_scratch_bytes(ctx));
    t->work.training = 1;
}
