/* backward.c - gradients of every parameter, hand-written, from the buffers that forward.c left.
 *
 * The quantisers are passed straight through (Bengio et al. 2013): the gradient of a layer's effective weights goes to
 * its master weights, the gradient of its quantised input to the input. Per linear layer y = W x:
 *   dW = dY^T X (TN product),  dX = dY W (NN product), with the dequantised X and effective W of the forward pass,
 * or the integer products of backward_int8.c; dX in fp32 where W is blended with the master weights. The head's
 * products are always fp32: most gradients of its logits are far smaller than the target's, and their codes would be 0.
 */
#include "training.h"

/* ---- linear layers ---- */

static void weight_gradient(hyb_ctx *ctx, hyb_tensor *tensor, const float *x, size_t n_tokens, const float *dy,
                            hyb_training *t) {
    size_t rows = tensor->n_rows, cols = tensor->n_cols;
    for (size_t first = 0, n; first < n_tokens; first += n) {
        n = hyb_tokens_in_scope(t, first, n_tokens, t->scope);
        hyb_gemm_parallel(ctx, HYB_GEMM_TN, rows, cols, n, dy + first * rows, rows, x + first * cols, cols,
                          t->accumulate || first > 0, tensor->gradient, cols, t->work.gemm_scratch);
    }
}

static void input_gradient(hyb_ctx *ctx, const hyb_linear_group *group, size_t n_tokens, float *dx, hyb_training *t) {
    for (size_t i = 0; i < group->n_tensors; i++) {
        size_t rows = group->tensors[i]->n_rows, cols = group->tensors[i]->n_cols;
        const float *weights = hyb_training_weights(ctx, group->tensors[i], &t->work);
        hyb_gemm_parallel(ctx, HYB_GEMM_NN, n_tokens, cols, rows, group->dy[i], rows, weights, cols, i > 0, dx, cols,
                          t->work.gemm_scratch);
    }
}

typedef struct finish_loop {
    const hyb_linear_group *group;
    size_t n_tokens;
} finish_loop;

static void finish_task(void *argument, size_t index, size_t worker) {
    const finish_loop *loop = argument;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n_tokens);
    (void)worker;
    for (size_t i = first; i < end; i++) loop->group->finish(loop->group->user, i);
}

/* Gradients of the group's tensors, and dx [n][n_cols] of their common input. finish(user, i), unless it is NULL, makes
 * row i of the dy. */
static void group_backward(hyb_language_model *model, size_t layer, int which, const float *const *dy,
                           void (*finish)(void *user, size_t token), void *user, const hyb_input *input,
                           size_t n_tokens, float *dx) {
    hyb_training *t = model->training;
    hyb_linear_group group = {.input = input, .finish = finish, .user = user};
    group.n_tensors = hyb_group_tensors(&model->layers[layer], which, group.tensors);
    for (size_t i = 0; i < group.n_tensors; i++) group.dy[i] = dy[i];
    if (t->int8.transposed != NULL) {
        int blended = hyb_is_blended(group.tensors[0], &t->work);
        group.transposed = blended ? NULL : &t->int8.transposed[layer * HYB_N_GROUPS + (size_t)which];
        hyb_linear_backward_int8(model->ctx, &group, n_tokens, dx, t);
        if (blended) input_gradient(model->ctx, &group, n_tokens, dx, t);
        return;
    }
    finish_loop loop = {&group, n_tokens};
    if (finish != NULL) hyb_parallel(model->ctx, hyb_ceil_div(n_tokens, HYB_TOKENS_PER_TASK), finish_task, &loop);
    const float *x = hyb_training_input(model->ctx, group.tensors[0], input, n_tokens, &t->work);
    for (size_t i = 0; i < group.n_tensors; i++) weight_gradient(model->ctx, group.tensors[i], x, n_tokens, dy[i], t);
    input_gradient(model->ctx, &group, n_tokens, dx, t);
}

/* dx += (or dy = ) gradient of y = rms_norm(x) * gain. */
static void norm_backward(hyb_ctx *ctx, const float *x, hyb_tensor *gain, const float *rms, size_t n_tokens, float *dy,
                          float *dx, hyb_training *t) {
    hyb_norm_backward_job job = {.x = x, .rms = rms, .gain = gain, .dy = dy, .dx = dx, .n = n_tokens};
    job.scope = t->scope;
    job.accumulate = t->accumulate;
    job.partials = t->gain_partials;
    job.rows = t->work.rows;
    job.row_floats = t->work.row_floats;
    hyb_norm_backward(ctx, &job);
}

/* ---- a layer ---- */

typedef struct gate_rows {
    const hyb_language_model *model;
    hyb_layer_state *state;
    const float *d_gated;
} gate_rows;

static void finish_gate(void *user, size_t token) {
    const gate_rows *rows = user;
    const hyb_kernels *kernels = &rows->model->ctx->kernels;
    size_t width = rows->model->config.ffn_dim, at = token * width;
    float *gate = rows->state->gate + at, *up = rows->state->up + at;
    if (rows->model->config.activation == HYB_ACTIVATION_SILU)
        kernels->gated_silu_backward(gate, up, rows->d_gated + at, width, gate, up);
    else
        kernels->gated_relu2_backward(gate, up, rows->d_gated + at, width, gate, up);
}

/* s: the slice's state of layer l. d_residual [n][dim]: gradient after the layer on entry, after attention on return.
 */
static void ffn_backward(hyb_language_model *model, size_t l, hyb_layer_state *s, size_t n, float *d_residual,
                         hyb_training *t) {
    hyb_ctx *ctx = model->ctx;
    const hyb_layer *layer = &model->layers[l];
    const float *const d_down[1] = {d_residual}, *const d_gate_up[2] = {s->gate, s->up};
    group_backward(model, l, HYB_GROUP_DOWN, d_down, NULL, NULL, &s->down_input, n, t->d_wide);
    if (layer->ffn_sub_norm != NULL)
        norm_backward(ctx, s->gated, layer->ffn_sub_norm, s->ffn_sub_rms, n, t->d_wide, NULL, t);
    gate_rows rows = {model, s, t->d_wide};
    group_backward(model, l, HYB_GROUP_GATE_UP, d_gate_up, finish_gate, &rows, &s->ffn_input, n, t->d_input);
    norm_backward(ctx, s->residual_mid, layer->ffn_norm, s->ffn_rms, n, t->d_input, d_residual, t);
}

typedef struct rotated_rows {
    const hyb_language_model *model;
    const hyb_batch *batch;
    float *d_q, *d_k;
} rotated_rows;

static void finish_rotation(void *user, size_t token) {
    const rotated_rows *rows = user;
    const hyb_language_model *model = rows->model;
    size_t position = rows->batch->positions[token];
    hyb_rotate_token(model, rows->d_q + token * model->config.dim, model->config.n_heads, position, model->minus_sines);
    hyb_rotate_token(model, rows->d_k + token * model->kv_dim, model->config.n_kv_heads, position, model->minus_sines);
}

/* d_residual: gradient after attention on entry, before the layer on return. */
static void attention_block_backward(hyb_language_model *model, size_t l, const hyb_layer_state *s,
                                     const hyb_batch *batch, size_t n_context, float *d_residual, hyb_training *t) {
    hyb_ctx *ctx = model->ctx;
    const hyb_layer *layer = &model->layers[l];
    size_t n = batch->n_tokens;
    const float *const d_out[1] = {d_residual}, *const d_qkv[3] = {t->d_q, t->d_k, t->d_v};
    group_backward(model, l, HYB_GROUP_OUTPUT, d_out, NULL, NULL, &s->out_input, n, t->d_input);
    if (layer->attn_sub_norm != NULL)
        norm_backward(ctx, s->attn_out, layer->attn_sub_norm, s->attn_sub_rms, n, t->d_input, NULL, t);
    hyb_attention_backward(model, s, batch, n_context, t->d_input, t);
    rotated_rows rows = {model, batch, t->d_q, t->d_k};
    group_backward(model, l, HYB_GROUP_QKV, d_qkv, finish_rotation, &rows, &s->attn_input, n, t->d_input);
    norm_backward(ctx, s->residual_in, layer->attn_norm, s->attn_rms, n, t->d_input, d_residual, t);
}

/* ---- head and embedding ---- */

/* Losses, gradient of the head, and d_residual, of the slice of n tokens that begins with token `start` of the
 * micro-batch. weights: the head's, effective. The mean loss is of n_all tokens. */
static void head_backward(hyb_language_model *model, const float *weights, size_t start, size_t n, size_t n_all,
                          hyb_training *t) {
    hyb_ctx *ctx = model->ctx;
    hyb_tensor *head = model->head;
    size_t dim = head->n_cols, vocab = head->n_rows;
    float *d_residual = t->d_residual + start * dim;
    const float *residual = t->residual_final + start * dim;
    hyb_input_forward(ctx, &(hyb_source){.x = residual}, model->final_norm, model->config.norm_epsilon, t->final_rms, n,
                      dim, &t->work, &t->head_input);
    const float *x = hyb_training_input(ctx, head, &t->head_input, n, &t->work);
    for (size_t first = 0, count; first < n; first += count) {
        count = hyb_tokens_in_scope(t, first, n, t->head_tokens);
        hyb_input part = hyb_input_from(t->head_input, first, dim);
        hyb_linear_forward(ctx, head, &part, count, &t->work, 0, t->logits);
        hyb_cross_entropy(ctx, t->logits, t->targets + start + first, count, vocab, t->losses + start + first,
                          1.0f / (float)n_all);
        hyb_gemm_parallel(ctx, HYB_GEMM_TN, vocab, dim, count, t->logits, vocab, x + first * dim, dim,
                          t->accumulate || first > 0, head->gradient, dim, t->work.gemm_scratch);
        hyb_gemm_parallel(ctx, HYB_GEMM_NN, count, dim, vocab, t->logits, vocab, weights, dim, 0,
                          t->d_input + first * dim, dim, t->work.gemm_scratch);
    }
    memset(d_residual, 0, n * dim * sizeof *d_residual);
    norm_backward(ctx, residual, model->final_norm, t->final_rms, n, t->d_input, d_residual, t);
}

#define COLUMNS_PER_TASK ((size_t)16)

typedef struct scatter_loop {
    const hyb_ctx *ctx;
    const hyb_training *training;
    size_t n_tokens;
    float *gradient;
    size_t dim;
} scatter_loop;

/* A task owns columns and goes through the tokens in order: no two tasks touch one element. */
static void scatter_task(void *argument, size_t index, size_t worker) {
    const scatter_loop *loop = argument;
    size_t first = index * COLUMNS_PER_TASK, n = hyb_min_size(COLUMNS_PER_TASK, loop->dim - first);
    (void)worker;
    for (size_t i = 0; i < loop->n_tokens; i++)
        loop->ctx->kernels.add_f32(loop->gradient + loop->training->inputs[i] * loop->dim + first,
                                   loop->training->d_embedded + i * loop->dim + first, n);
}

void hyb_embedding_backward(hyb_language_model *model, size_t n_all) {
    hyb_tensor *embedding = model->embedding;
    size_t dim = model->config.dim;
    if (model->head != embedding) memset(embedding->gradient, 0, hyb_tensor_size(embedding) * sizeof(float));
    scatter_loop loop = {model->ctx, model->training, n_all, embedding->gradient, dim};
    hyb_parallel(model->ctx, hyb_ceil_div(dim, COLUMNS_PER_TASK), scatter_task, &loop);
}

void hyb_backward_pass(hyb_language_model *model, const hyb_batch *batch, size_t n_context, size_t n_all) {
    hyb_training *t = model->training;
    int accumulate = t->accumulate;
    if (!(t->work.master_share > 0.0f)) hyb_backward_int8_refresh(model);
    const float *weights = hyb_training_weights(model->ctx, model->head, &t->work); /* until a layer needs the memory */
    for (size_t first = 0; first < batch->n_tokens; first += t->slice) {
        t->accumulate = accumulate || first > 0;
        head_backward(model, weights, first, hyb_slice(t, batch, first).n_tokens, n_all, t);
    }
    for (size_t l = model->config.n_layers; l-- > 0;)
        for (size_t first = 0; first < batch->n_tokens; first += t->slice) {
            hyb_batch slice = hyb_slice(t, batch, first);
            hyb_layer_state state = hyb_slice_state(model, &t->states[l], first);
            float *d_residual = t->d_residual + first * model->config.dim;
            t->accumulate = accumulate || first > 0;
            ffn_backward(model, l, &state, slice.n_tokens, d_residual, t);
            attention_block_backward(model, l, &state, &slice, n_context, d_residual, t);
        }
}
