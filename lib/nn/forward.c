/* forward.c - embedding, one decoder layer, head: the forward pass of training, evaluation and generation.
 *
 * With integer formats every step between token and logits is an EXACT kernel, so the bits are the same everywhere;
 * but for attention of a training step, which multiplies and adds in one operation.
 */
#include "nn.h"

typedef struct embedding_loop {
    const hyb_language_model *model;
    const hyb_batch *batch;
    float *x;
} embedding_loop;

static void embedding_task(void *argument, size_t index, size_t worker) {
    const embedding_loop *loop = argument;
    const hyb_tensor *t = loop->model->embedding;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->batch->n_tokens);
    (void)worker;
    for (size_t i = first; i < end; i++) {
        float *row = loop->x + i * t->n_cols;
        size_t token = loop->batch->tokens[i];
        if (hyb_tensor_is_quantized(t))
            hyb_weights_gather_row(t->packed, token, row);
        else
            memcpy(row, t->values + token * t->n_cols, t->n_cols * sizeof *row);
    }
}

void hyb_embedding_forward(const hyb_language_model *model, const hyb_batch *batch, float *x) {
    embedding_loop loop = {model, batch, x};
    hyb_parallel(model->ctx, hyb_ceil_div(batch->n_tokens, HYB_TOKENS_PER_TASK), embedding_task, &loop);
}

/* Writes the new tokens' keys and values to where attention reads them. */
typedef struct store_loop {
    const hyb_language_model *model;
    const hyb_batch *batch;
    const float *k, *v;
    const hyb_kv *kv;
} store_loop;

static void store_head(const store_loop *loop, size_t token, size_t head) {
    const hyb_kv *kv = loop->kv;
    const hyb_kernels *kernels = &loop->model->ctx->kernels;
    size_t head_dim = loop->model->head_dim, kv_dim = loop->model->kv_dim, from = token * kv_dim + head * head_dim;
    size_t sequence = loop->batch->sequences[token], position = loop->batch->positions[token];
    size_t to = sequence * kv->n_context * kv_dim + head * kv->head_stride + position * kv->row_stride;
    if (kv->format == HYB_CACHE_F32) {
        memcpy(kv->keys + to, loop->k + from, head_dim * sizeof(float));
        memcpy(kv->values + to, loop->v + from, head_dim * sizeof(float));
        return;
    }
    size_t scale = (sequence * loop->model->config.n_kv_heads + head) * kv->n_context + position;
    int32_t sum;
    hyb_quantize_token(kernels, loop->k + from, head_dim, kv->key_codes + to, head_dim, &sum, &kv->key_scales[scale]);
    hyb_quantize_token(kernels, loop->v + from, head_dim, kv->value_codes + to, head_dim, &sum,
                       &kv->value_scales[scale]);
}

static void store_task(void *argument, size_t index, size_t worker) {
    const store_loop *loop = argument;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->batch->n_tokens);
    (void)worker;
    for (size_t i = first; i < end; i++)
        for (size_t h = 0; h < loop->model->config.n_kv_heads; h++) store_head(loop, i, h);
}

typedef struct copy_loop {
    const float *from;
    float *to;
    size_t n_tokens, n_cols;
} copy_loop;

static void copy_task(void *argument, size_t index, size_t worker) {
    const copy_loop *loop = argument;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n_tokens);
    size_t at = first * loop->n_cols;
    (void)worker;
    memcpy(loop->to + at, loop->from + at, (end - first) * loop->n_cols * sizeof *loop->to);
}

/* out = residual + the output of a linear layer; out may be residual. */
static void add_output(hyb_ctx *ctx, const hyb_tensor *tensor, const hyb_input *input, const float *residual,
                       size_t n_tokens, const hyb_work *work, float *out) {
    copy_loop copy = {residual, out, n_tokens, tensor->n_rows};
    if (out != residual) hyb_parallel(ctx, hyb_ceil_div(n_tokens, HYB_TOKENS_PER_TASK), copy_task, &copy);
    hyb_linear_forward(ctx, tensor, input, n_tokens, work, 1, out);
}

static void attention_block(const hyb_language_model *model, const hyb_layer *layer, const hyb_batch *batch,
                            hyb_layer_state *s, const hyb_kv *kv, const hyb_work *work) {
    hyb_ctx *ctx = model->ctx;
    const hyb_language_model_config *config = &model->config;
    size_t n = batch->n_tokens, dim = config->dim;
    hyb_input_forward(ctx, &(hyb_source){.x = s->residual_in}, layer->attn_norm, config->norm_epsilon, s->attn_rms, n,
                      dim, work, &s->attn_input);
    hyb_linear_forward(ctx, layer->attn_q, &s->attn_input, n, work, 0, s->q);
    hyb_linear_forward(ctx, layer->attn_k, &s->attn_input, n, work, 0, s->k);
    hyb_linear_forward(ctx, layer->attn_v, &s->attn_input, n, work, 0, s->v);
    hyb_rotate_forward(model, batch, s->q, config->n_heads, model->sines);
    hyb_rotate_forward(model, batch, s->k, config->n_kv_heads, model->sines);
    if (kv->keys != s->k) {
        store_loop loop = {model, batch, s->k, s->v, kv};
        hyb_parallel(ctx, hyb_ceil_div(n, HYB_TOKENS_PER_TASK), store_task, &loop);
    }
    if (s->attn_softmax != NULL)
        hyb_attention_training(model, batch, kv->n_context, s, work);
    else
        hyb_attention_forward(model, batch, s->q, kv, work, s->attn_out);
    hyb_input_forward(ctx, &(hyb_source){.x = s->attn_out}, layer->attn_sub_norm, config->norm_epsilon, s->attn_sub_rms,
                      n, dim, work, &s->out_input);
    add_output(ctx, layer->attn_output, &s->out_input, s->residual_in, n, work, s->residual_mid);
}

static void ffn_block(const hyb_language_model *model, const hyb_layer *layer, size_t n, hyb_layer_state *s,
                      const hyb_work *work, float *residual_out) {
    hyb_ctx *ctx = model->ctx;
    const hyb_language_model_config *config = &model->config;
    hyb_input_forward(ctx, &(hyb_source){.x = s->residual_mid}, layer->ffn_norm, config->norm_epsilon, s->ffn_rms, n,
                      config->dim, work, &s->ffn_input);
    hyb_linear_forward(ctx, layer->ffn_gate, &s->ffn_input, n, work, 0, s->gate);
    hyb_linear_forward(ctx, layer->ffn_up, &s->ffn_input, n, work, 0, s->up);
    hyb_source gated = {.gate = s->gate, .up = s->up, .gated = s->gated};
    gated.activate = config->activation == HYB_ACTIVATION_SILU ? ctx->kernels.gated_silu : ctx->kernels.gated_relu2;
    hyb_input_forward(ctx, &gated, layer->ffn_sub_norm, config->norm_epsilon, s->ffn_sub_rms, n, config->ffn_dim, work,
                      &s->down_input);
    add_output(ctx, layer->ffn_down, &s->down_input, s->residual_mid, n, work, residual_out);
}

void hyb_layer_forward(const hyb_language_model *model, const hyb_layer *layer, const hyb_batch *batch,
                       hyb_layer_state *state, const hyb_kv *kv, const hyb_work *work, float *residual_out) {
    attention_block(model, layer, batch, state, kv, work);
    ffn_block(model, layer, batch->n_tokens, state, work, residual_out);
}

void hyb_head_forward(const hyb_language_model *model, const float *residual, size_t n_tokens, const hyb_work *work,
                      float *rms, hyb_input *input, float *logits) {
    hyb_input_forward(model->ctx, &(hyb_source){.x = residual}, model->final_norm, model->config.norm_epsilon, rms,
                      n_tokens, model->config.dim, work, input);
    hyb_linear_forward(model->ctx, model->head, input, n_tokens, work, 0, logits);
}
