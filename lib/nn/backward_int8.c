/* backward_int8.c - both gradient products of quantised linear layers as integer products.
 *
 * Layers that share an input form a group: their outputs lie side by side, so that each product is one. With the
 * forward pass's codes Wq, Xq and their scales s_w, s_x:
 *   dX = (dY s_w) Wq    dY s_w is quantised per token; Wq^T is packed once after each update
 *   dW = (dY s_x)^T Xq  dY s_x is quantised per output over a chunk of tokens; Xq is used as it is, transposed
 * All scales by the largest magnitude, rounding to nearest; sums are exact, so nothing depends on threads. A NaN or an
 * infinity in dY becomes a NaN scale, and so a NaN in dX and dW.
 */
#include "training.h"

/* Of the quantising and packing loop: whole lines of transposed codes. */
#define TOKENS_PER_PACK 64

size_t hyb_group_tensors(const hyb_layer *layer, int group, hyb_tensor *tensors[HYB_GROUP_TENSORS]) {
    switch (group) {
    case HYB_GROUP_QKV:
        tensors[0] = layer->attn_q;
        tensors[1] = layer->attn_k;
        tensors[2] = layer->attn_v;
        return 3;
    case HYB_GROUP_GATE_UP:
        tensors[0] = layer->ffn_gate;
        tensors[1] = layer->ffn_up;
        return 2;
    case HYB_GROUP_OUTPUT:
        tensors[0] = layer->attn_output;
        return 1;
    default:
        tensors[0] = layer->ffn_down;
        return 1;
    }
}

/* ---- transposed weights ---- */

typedef struct transpose_loop {
    const hyb_ctx *ctx;
    const hyb_tensor *tensor;
    hyb_weights *to;
    size_t offset, rows_per_task; /* column of `to` where the tensor begins */
} transpose_loop;

static void transpose_task(void *argument, size_t index, size_t worker) {
    const transpose_loop *loop = argument;
    const hyb_tensor *t = loop->tensor;
    size_t first = index * loop->rows_per_task, group = (loop->offset + first) / HYB_BLOCK_COLS;
    hyb_pack_transposed_job job = {.ld = t->n_cols, .n_rows = t->n_cols, .block_bytes = loop->to->block_bytes};
    (void)worker;
    job.codes = t->codes + first * t->n_cols;
    job.n_inner = hyb_min_size(loop->rows_per_task, t->n_rows - first);
    job.blocks = loop->to->blocks + group * (loop->to->block_bytes / loop->to->n_k16);
    if (loop->to->format == HYB_FORMAT_TERNARY)
        loop->ctx->kernels.pack_transposed_ternary(&job);
    else
        loop->ctx->kernels.pack_transposed_i8(&job);
}

void hyb_backward_int8_refresh(hyb_language_model *model) {
    hyb_backward_int8 *b = &model->training->int8;
    if (b->transposed == NULL || b->current) return;
    for (size_t l = 0; l < model->config.n_layers; l++)
        for (int group = 0; group < HYB_N_GROUPS; group++) {
            hyb_tensor *tensors[HYB_GROUP_TENSORS];
            size_t n = hyb_group_tensors(&model->layers[l], group, tensors), offset = 0;
            for (size_t i = 0; i < n; i++) {
                transpose_loop loop = {model->ctx, tensors[i], &b->transposed[l * HYB_N_GROUPS + (size_t)group], offset,
                                       hyb_rows_per_task(tensors[i]->n_cols)};
                hyb_parallel(model->ctx, hyb_ceil_div(tensors[i]->n_rows, loop.rows_per_task), transpose_task, &loop);
                offset += hyb_round_up(tensors[i]->n_rows, HYB_BLOCK_COLS);
            }
        }
    b->current = 1;
}

/* ---- gradients to codes ---- */

typedef struct group_loop {
    const hyb_ctx *ctx;
    const hyb_linear_group *group;
    hyb_backward_int8 *b;
    size_t first, n_tokens;            /* of the chunk */
    size_t offsets[HYB_GROUP_TENSORS]; /* of a tensor's outputs among those of the group, multiples of 16 */
    size_t n_outputs;                  /* with padding: a multiple of 16 */
} group_loop;

static int has_row_scales(const hyb_tensor *tensor) { return tensor->n_scales > 1; }

/* Quantises the outputs' gradients of one token, times the weight scales. rows[i] begin as dy and bits[i] as their
 * largest magnitudes. */
static void quantize_token(const group_loop *loop, const float *const *rows, const float *scales, const uint32_t *bits,
                           size_t token) {
    const hyb_linear_group *g = loop->group;
    hyb_activations *to = &loop->b->by_token;
    int8_t *codes = to->codes + token * to->ld;
    float largest = 0.0f, largest_scale = 0.0f;
    int finite = 1;
    for (size_t i = 0; i < g->n_tensors; i++) {
        float magnitude = hyb_float_of(bits[i]) * scales[i];
        finite &= bits[i] < 0x7f800000u && hyb_is_finite(magnitude);
        if (magnitude > largest) largest = magnitude;
        if (scales[i] > largest_scale) largest_scale = scales[i];
    }
    float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    to->sums[token] = 0;
    if (!finite || largest == 0.0f || !hyb_is_finite(inverse * largest_scale)) { /* as hyb_quantize_token */
        to->scales[token] = finite ? 0.0f : hyb_float_of(0x7fc00000u);
        memset(codes, 0, to->ld);
        return;
    }
    to->scales[token] = largest / 127.0f;
    for (size_t i = 0; i < g->n_tensors; i++) {
        size_t n = g->tensors[i]->n_rows, end = loop->offsets[i] + n;
        to->sums[token] += loop->ctx->kernels.quantize_i8(rows[i], n, inverse * scales[i], codes + loop->offsets[i]);
        memset(codes + end, 0, hyb_round_up(end, HYB_BLOCK_COLS) - end);
    }
}

/* Per token: its codes for dX, and its part in the largest magnitude of each output for dW. */
static void token_task(void *argument, size_t index, size_t worker) {
    const group_loop *loop = argument;
    const hyb_linear_group *g = loop->group;
    const hyb_kernels *kernels = &loop->ctx->kernels;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n_tokens);
    uint32_t *maxima = loop->b->maxima + worker * loop->b->max_outputs;
    for (size_t t = first; t < end; t++) {
        if (g->finish != NULL) g->finish(g->user, loop->first + t);
        const float *rows[HYB_GROUP_TENSORS];
        float scales[HYB_GROUP_TENSORS];
        uint32_t bits[HYB_GROUP_TENSORS];
        for (size_t i = 0; i < g->n_tensors; i++) {
            const hyb_tensor *tensor = g->tensors[i];
            size_t n = tensor->n_rows, at = loop->offsets[i];
            rows[i] = g->dy[i] + (loop->first + t) * n;
            scales[i] = tensor->scales[0];
            bits[i] = kernels->column_max_bits(rows[i], n, g->input->codes.scales[loop->first + t], maxima + at);
            if (!has_row_scales(tensor) || g->transposed == NULL) continue;
            float *scaled = loop->b->rows + worker * loop->b->max_outputs + at;
            for (size_t r = 0; r < n; r++) scaled[r] = rows[i][r] * tensor->scales[r];
            rows[i] = scaled;
            scales[i] = 1.0f;
            bits[i] = kernels->max_abs_bits(scaled, n);
        }
        if (g->transposed != NULL) quantize_token(loop, rows, scales, bits, t);
    }
}

/* Scale and inverse of each output from the workers' maxima. */
static void find_output_scales(const group_loop *loop) {
    hyb_backward_int8 *b = loop->b;
    for (size_t r = 0; r < loop->n_outputs; r++) {
        uint32_t bits = 0;
        for (size_t w = 0; w < loop->ctx->options.n_threads; w++)
            if (b->maxima[w * b->max_outputs + r] > bits) bits = b->maxima[w * b->max_outputs + r];
        float largest = hyb_float_of(bits), inverse = bits == 0 ? 0.0f : 127.0f / largest;
        int usable = bits < 0x7f800000u && hyb_is_finite(inverse);
        b->inverses[r] = usable ? inverse : 0.0f;
        b->by_output.scales[r] = bits >= 0x7f800000u ? hyb_float_of(0x7fc00000u) : usable ? largest / 127.0f : 0.0f;
    }
}

/* The transposed codes of some tokens: of the gradients, and of the inputs as packed weights. */
static void pack_task(void *argument, size_t index, size_t worker) {
    const group_loop *loop = argument;
    const hyb_linear_group *g = loop->group;
    const hyb_activations *x = &g->input->codes;
    hyb_backward_int8 *b = loop->b;
    size_t at = index * TOKENS_PER_PACK, first = loop->first + at;
    size_t n = hyb_min_size(TOKENS_PER_PACK, loop->n_tokens - at);
    hyb_pack_transposed_job pack = {
        x->codes + first * x->ld, x->ld, n, g->tensors[0]->n_cols, b->inputs.blocks + at / 4 * 64,
        b->inputs.block_bytes};
    loop->ctx->kernels.pack_transposed_i8(&pack);
    for (size_t i = 0; i < g->n_tensors; i++) {
        size_t n_rows = g->tensors[i]->n_rows, offset = loop->offsets[i];
        hyb_quantize_transposed_job job = {.x = g->dy[i] + first * n_rows, .ld_x = n_rows, .n_tokens = n};
        job.n_cols = n_rows;
        job.token_scales = x->scales + first;
        job.inverses = b->inverses + offset;
        job.codes = b->by_output.codes + offset * b->by_output.ld + at;
        job.ld_codes = b->by_output.ld;
        job.sums = b->sums + worker * b->max_outputs + offset;
        loop->ctx->kernels.quantize_transposed(&job);
    }
}

static void add_sums(const group_loop *loop) {
    hyb_backward_int8 *b = loop->b;
    for (size_t r = 0; r < loop->n_outputs; r++) {
        int32_t sum = 0;
        for (size_t w = 0; w < loop->ctx->options.n_threads; w++) sum += b->sums[w * b->max_outputs + r];
        b->by_output.sums[r] = sum;
    }
}

static void quantize_group(hyb_ctx *ctx, group_loop *loop) {
    hyb_backward_int8 *b = loop->b;
    size_t n_partials = ctx->options.n_threads * b->max_outputs;
    b->inputs.n_rows = loop->group->tensors[0]->n_cols;
    b->inputs.n_cols = loop->n_tokens;
    b->inputs.n_k16 = hyb_ceil_div(loop->n_tokens, HYB_BLOCK_COLS);
    b->inputs.block_bytes = b->inputs.n_k16 * HYB_BLOCK_ROWS * HYB_BLOCK_COLS;
    b->by_token.ld = hyb_activations_ld(loop->n_outputs);
    memset(b->maxima, 0, n_partials * sizeof *b->maxima);
    memset(b->sums, 0, n_partials * sizeof *b->sums);
    hyb_parallel(ctx, hyb_ceil_div(loop->n_tokens, HYB_TOKENS_PER_TASK), token_task, loop);
    find_output_scales(loop);
    hyb_parallel(ctx, hyb_ceil_div(loop->n_tokens, TOKENS_PER_PACK), pack_task, loop);
    add_sums(loop);
}

/* ---- products ---- */

/* dW of tensor i, from a chunk of tokens. */
static void weight_gradient(hyb_ctx *ctx, const group_loop *loop, size_t i, int accumulate, uint8_t *scratch) {
    hyb_backward_int8 *b = loop->b;
    const hyb_tensor *tensor = loop->group->tensors[i];
    size_t offset = loop->offsets[i];
    hyb_activations outputs = {b->by_output.codes + offset * b->by_output.ld, b->by_output.ld,
                               b->by_output.sums + offset, b->by_output.scales + offset};
    hyb_matmul_parallel(ctx, &b->inputs, &outputs, tensor->n_rows, tensor->gradient, NULL, tensor->n_cols, accumulate,
                        scratch);
}

void hyb_linear_backward_int8(hyb_ctx *ctx, const hyb_linear_group *group, size_t n_tokens, float *dx,
                              hyb_training *training) {
    hyb_backward_int8 *b = &training->int8;
    size_t n_cols = group->tensors[0]->n_cols;
    group_loop loop = {.ctx = ctx, .group = group, .b = b};
    for (size_t i = 0; i < group->n_tensors; i++) {
        loop.offsets[i] = loop.n_outputs;
        loop.n_outputs += hyb_round_up(group->tensors[i]->n_rows, HYB_BLOCK_COLS);
    }
    for (; loop.first < n_tokens; loop.first += loop.n_tokens) {
        int accumulate = training->accumulate || loop.first > 0;
        loop.n_tokens = hyb_tokens_in_scope(training, loop.first, n_tokens, b->chunk);
        quantize_group(ctx, &loop);
        if (group->transposed != NULL)
            hyb_matmul_parallel(ctx, group->transposed, &b->by_token, loop.n_tokens, dx + loop.first * n_cols, NULL,
                                n_cols, 0, training->work.matmul_scratch);
        for (size_t i = 0; i < group->n_tensors; i++)
            weight_gradient(ctx, &loop, i, accumulate, training->work.matmul_scratch);
    }
}

/* ---- layout ---- */

/* Outputs of a group, each tensor's rounded up to a multiple of 16, and its inputs. */
static size_t group_shape(const hyb_language_model_config *c, int group, size_t *n_inputs) {
    size_t dim = hyb_round_up(c->dim, HYB_BLOCK_COLS), width = hyb_round_up(c->ffn_dim, HYB_BLOCK_COLS);
    size_t kv_dim = hyb_round_up((size_t)c->dim / c->n_heads * c->n_kv_heads, HYB_BLOCK_COLS);
    *n_inputs = group == HYB_GROUP_DOWN ? c->ffn_dim : c->dim;
    return group == HYB_GROUP_QKV ? dim + 2 * kv_dim : group == HYB_GROUP_GATE_UP ? 2 * width : dim;
}

size_t hyb_backward_int8_longest(const hyb_language_model_config *c, size_t n_tokens) {
    size_t longest = hyb_min_size(n_tokens, hyb_scope_tokens(c)), n_inputs;
    for (int group = 0; group < HYB_N_GROUPS; group++)
        if (group_shape(c, group, &n_inputs) > longest) longest = group_shape(c, group, &n_inputs);
    return longest;
}

static void layout_transposed(const hyb_language_model_config *c, hyb_arena *arena, float *ones, hyb_backward_int8 *b) {
    int ternary = c->linear_format == HYB_FORMAT_TERNARY;
    b->transposed = hyb_arena_take(arena, (size_t)c->n_layers * HYB_N_GROUPS, sizeof *b->transposed);
    for (size_t i = 0; i < (size_t)c->n_layers * HYB_N_GROUPS; i++) {
        hyb_weights w = {.format = ternary ? HYB_FORMAT_TERNARY : HYB_FORMAT_INT8, .row_scales = ones};
        w.n_cols = group_shape(c, (int)(i % HYB_N_GROUPS), &w.n_rows);
        w.n_k16 = w.n_cols / HYB_BLOCK_COLS;
        w.block_bytes = w.n_k16 * HYB_BLOCK_ROWS * (ternary ? 4 : HYB_BLOCK_COLS);
        w.blocks = hyb_arena_take(arena, hyb_ceil_div(w.n_rows, HYB_BLOCK_ROWS), w.block_bytes);
        if (b->transposed != NULL) b->transposed[i] = w;
    }
}

void hyb_backward_int8_layout(const hyb_language_model_config *c, const hyb_ctx *ctx, size_t n_tokens, hyb_arena *arena,
                              hyb_backward_int8 *b) {
    size_t chunk = hyb_min_size(n_tokens, hyb_scope_tokens(c)), outputs = 0, inputs = 0, ld = 0, n_inputs, n_threads;
    for (int group = 0; group < HYB_N_GROUPS; group++) {
        size_t n = group_shape(c, group, &n_inputs);
        if (hyb_activations_ld(n) > ld) ld = hyb_activations_ld(n); /* not always that of the largest group */
        if (n > outputs) outputs = n;
        if (n_inputs > inputs) inputs = n_inputs;
    }
    n_threads = ctx->options.n_threads;
    b->chunk = chunk;
    b->max_outputs = outputs;
    float *ones = hyb_arena_take(arena, hyb_round_up(inputs, HYB_BLOCK_ROWS), sizeof(float));
    layout_transposed(c, arena, ones, b);
    b->by_token.codes = hyb_arena_take(arena, chunk, ld);
    b->by_token.sums = hyb_arena_take(arena, chunk, sizeof(int32_t));
    b->by_token.scales = hyb_arena_take(arena, chunk, sizeof(float));
    b->by_output.ld = hyb_activations_ld(hyb_round_up(chunk, TOKENS_PER_PACK));
    b->by_output.codes = hyb_arena_take(arena, outputs, b->by_output.ld);
    b->by_output.sums = hyb_arena_take(arena, outputs, sizeof(int32_t));
    b->by_output.scales = hyb_arena_take(arena, outputs, sizeof(float));
    b->inverses = hyb_arena_take(arena, outputs, sizeof(float));
    b->maxima = hyb_arena_take(arena, n_threads * outputs, sizeof *b->maxima);
    b->sums = hyb_arena_take(arena, n_threads * outputs, sizeof *b->sums);
    int row_scales = c->linear_granularity == HYB_SCALE_PER_ROW;
    b->rows = row_scales ? hyb_arena_take(arena, n_threads * outputs, sizeof(float)) : NULL;
    b->inputs = (hyb_weights){.format = HYB_FORMAT_INT8, .row_scales = ones};
    b->inputs.blocks = hyb_arena_take(arena, hyb_round_up(inputs, HYB_BLOCK_ROWS), hyb_round_up(chunk, HYB_BLOCK_COLS));
    if (arena->base != NULL)
        for (size_t i = 0; i < hyb_round_up(inputs, HYB_BLOCK_ROWS); i++) ones[i] = 1.0f;
}
