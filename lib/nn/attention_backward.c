/* attention_backward.c - gradients of causal attention: a task is a key-value head of a sequence.
 *
 * With S = scale Q K^T (masked), P = softmax(S), O = P V:  dV = P^T dO,  dP = dO V^T,  dS = P (dP - rowsum(dO O))
 * scale, dQ = dS K,  dK = dS^T Q: the kernel attention_backward (kernels.h), which needs O and what attention_training
 * kept of the softmax. The query heads of a group add to the same dK, dV.
 */
#include "training.h"

typedef struct backward_loop {
    const hyb_language_model *model;
    const hyb_layer_state *state;
    size_t n_context;
    const float *d_out;
    hyb_training *training;
    float scale;
} backward_loop;

static void backward_task(void *argument, size_t index, size_t worker) {
    const backward_loop *loop = argument;
    const hyb_language_model *model = loop->model;
    hyb_training *t = loop->training;
    size_t group = model->config.n_heads / model->config.n_kv_heads, head_dim = model->head_dim;
    size_t kv_head = index % model->config.n_kv_heads, row = index / model->config.n_kv_heads * loop->n_context;
    size_t kv_at = row * model->kv_dim + kv_head * head_dim;
    hyb_attention_backward_job job = {.ld_q = model->config.dim, .ld_k = model->kv_dim, .n = loop->n_context};
    job.head_dim = head_dim;
    job.scale = loop->scale;
    job.scratch = t->work.attention + worker * t->work.attention_floats;
    job.ld_softmax = (size_t)2 * model->config.n_heads;
    job.keys = loop->state->k + kv_at;
    job.values = loop->state->v + kv_at;
    job.d_keys = t->d_k + kv_at;
    job.d_values = t->d_v + kv_at;
    for (size_t g = 0; g < group; g++) {
        size_t q_at = row * model->config.dim + (kv_head * group + g) * head_dim;
        job.q = loop->state->q + q_at;
        job.out = loop->state->attn_out + q_at;
        job.softmax = loop->state->attn_softmax + 2 * (row * model->config.n_heads + kv_head * group + g);
        job.d_out = loop->d_out + q_at;
        job.d_q = t->d_q + q_at;
        job.accumulate = g > 0;
        model->ctx->kernels.attention_backward(&job);
    }
}

void hyb_attention_backward(const hyb_language_model *model, const hyb_layer_state *state, const hyb_batch *batch,
                            size_t n_context, const float *d_out, hyb_training *training) {
    backward_loop loop = {model, state, n_context, d_out, training, hyb_attention_scale(model->head_dim)};
    hyb_parallel(model->ctx, batch->n_tokens / n_context * model->config.n_kv_heads, backward_task, &loop);
}
