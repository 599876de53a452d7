/* attention.c - rotary embedding and grouped-query causal attention, forward.
 *
 * A task is a few tokens of one key-value head; the query heads of its group read the same keys and values. Tokens that
 * follow one another in a sequence go to the kernel as a block, others (generation) one by one: the bits are the same.
 * A training step, whose sequences are whole, has a kernel of its own: a task is a head of a sequence.
 * The arithmetic is the kernels' (kernels.h, hyb_attention_job, hyb_attention_training_job). Sources: Su et al. 2021
 * (rotary); Ainslie et al. 2023 (grouped queries).
 */
#include <math.h>

#include "nn.h"

float hyb_attention_scale(size_t head_dim) { return (float)(1.0 / sqrt((double)head_dim)); }

void hyb_rotate_token(const hyb_language_model *model, float *x, size_t n_heads, size_t position, const float *sines) {
    size_t half = model->head_dim / 2, row = position * half;
    for (size_t h = 0; h < n_heads; h++)
        model->ctx->kernels.rotate(x + h * model->head_dim, model->cosines + row, sines + row, half);
}

typedef struct rotate_loop {
    const hyb_language_model *model;
    const hyb_batch *batch;
    float *x;
    size_t n_heads;
    const float *sines;
} rotate_loop;

static void rotate_task(void *argument, size_t index, size_t worker) {
    const rotate_loop *loop = argument;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->batch->n_tokens);
    (void)worker;
    for (size_t i = first; i < end; i++)
        hyb_rotate_token(loop->model, loop->x + i * loop->n_heads * loop->model->head_dim, loop->n_heads,
                         loop->batch->positions[i], loop->sines);
}

void hyb_rotate_forward(const hyb_language_model *model, const hyb_batch *batch, float *x, size_t n_heads,
                        const float *sines) {
    rotate_loop loop = {model, batch, x, n_heads, sines};
    hyb_parallel(model->ctx, hyb_ceil_div(batch->n_tokens, HYB_TOKENS_PER_TASK), rotate_task, &loop);
}

typedef struct attention_loop {
    const hyb_language_model *model;
    const hyb_batch *batch;
    const float *q;
    const hyb_kv *kv;
    const hyb_work *work;
    float *out;
    float scale;
    size_t tokens_per_task;
} attention_loop;

/* The keys and values of one sequence and head as fp32 rows: in place, or dequantised into the worker's memory. */
static void attention_rows(const attention_loop *loop, size_t worker, size_t sequence, size_t head, size_t n_keys,
                           hyb_attention_block_job *job) {
    const hyb_kv *kv = loop->kv;
    size_t head_dim = loop->model->head_dim, kv_dim = loop->model->kv_dim;
    size_t start = sequence * kv->n_context * kv_dim + head * kv->head_stride;
    size_t scales = (sequence * loop->model->config.n_kv_heads + head) * kv->n_context;
    if (kv->format == HYB_CACHE_F32) {
        job->keys = kv->keys + start;
        job->values = kv->values + start;
        job->ld = kv->row_stride;
        return;
    }
    float *keys = loop->work->kv_rows + worker * 2 * loop->work->kv_row_floats;
    float *values = keys + loop->work->kv_row_floats;
    for (size_t j = 0; j < n_keys; j++) {
        size_t at = start + j * kv->row_stride;
        const hyb_kernels *kernels = &loop->model->ctx->kernels;
        kernels->dequantize_i8(kv->key_codes + at, head_dim, kv->key_scales[scales + j], keys + j * head_dim);
        kernels->dequantize_i8(kv->value_codes + at, head_dim, kv->value_scales[scales + j], values + j * head_dim);
    }
    job->keys = keys;
    job->values = values;
    job->ld = head_dim;
}

/* Tokens from `first` on, at most `limit`, whose positions follow one another in one sequence. */
static size_t run_length(const hyb_batch *batch, size_t first, size_t limit) {
    size_t n = 1;
    while (n < limit && batch->sequences[first + n] == batch->sequences[first] &&
           batch->positions[first + n] == batch->positions[first] + n) {
        n++;
    }
    return n;
}

/* The queries of one head: a block, or one alone. */
static void attention_head(const hyb_kernels *kernels, const hyb_attention_block_job *job) {
    if (job->n_queries > 1) {
        kernels->attention_block(job);
        return;
    }
    hyb_attention_job one = {.q = job->q, .keys = job->keys, .values = job->values, .ld = job->ld};
    one.n_keys = job->first_position + 1;
    one.head_dim = job->head_dim;
    one.scale = job->scale;
    one.probabilities = job->scratch;
    one.out = job->out;
    kernels->attention(&one);
}

static void attention_task(void *argument, size_t index, size_t worker) {
    const attention_loop *loop = argument;
    const hyb_batch *batch = loop->batch;
    const hyb_language_model_config *config = &loop->model->config;
    size_t head_dim = loop->model->head_dim, group = config->n_heads / config->n_kv_heads;
    size_t kv_head = index % config->n_kv_heads, first = index / config->n_kv_heads * loop->tokens_per_task;
    size_t end = hyb_min_size(first + loop->tokens_per_task, batch->n_tokens);
    hyb_attention_block_job job = {.head_dim = head_dim, .scale = loop->scale, .ld_q = config->dim};
    job.scratch = loop->work->attention + worker * loop->work->attention_floats;
    for (size_t i = first; i < end; i += job.n_queries) {
        job.n_queries = run_length(batch, i, end - i);
        job.first_position = batch->positions[i];
        attention_rows(loop, worker, batch->sequences[i], kv_head, job.first_position + job.n_queries, &job);
        for (size_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
            job.q = loop->q + i * config->dim + h * head_dim;
            job.out = loop->out + i * config->dim + h * head_dim;
            attention_head(&loop->model->ctx->kernels, &job);
        }
    }
}

typedef struct training_loop {
    const hyb_language_model *model;
    const hyb_layer_state *state;
    const hyb_work *work;
    size_t n_context;
    float scale;
} training_loop;

static void training_task(void *argument, size_t index, size_t worker) {
    const training_loop *loop = argument;
    const hyb_language_model *model = loop->model;
    const hyb_language_model_config *config = &model->config;
    size_t head = index % config->n_heads, kv_head = head / (config->n_heads / config->n_kv_heads);
    size_t row = index / config->n_heads * loop->n_context, q_at = row * config->dim + head * model->head_dim;
    size_t kv_at = row * model->kv_dim + kv_head * model->head_dim;
    hyb_attention_training_job job = {.ld_q = config->dim, .ld_k = model->kv_dim, .n = loop->n_context};
    job.head_dim = model->head_dim;
    job.scale = loop->scale;
    job.q = loop->state->q + q_at;
    job.keys = loop->state->k + kv_at;
    job.values = loop->state->v + kv_at;
    job.out = loop->state->attn_out + q_at;
    job.softmax = loop->state->attn_softmax + 2 * (row * config->n_heads + head);
    job.ld_softmax = (size_t)2 * config->n_heads;
    job.scratch = loop->work->attention + worker * loop->work->attention_floats;
    model->ctx->kernels.attention_training(&job);
}

void hyb_attention_training(const hyb_language_model *model, const hyb_batch *batch, size_t n_context,
                            const hyb_layer_state *state, const hyb_work *work) {
    training_loop loop = {model, state, work, n_context, hyb_attention_scale(model->head_dim)};
    hyb_parallel(model->ctx, batch->n_tokens / n_context * model->config.n_heads, training_task, &loop);
}

void hyb_attention_forward(const hyb_language_model *model, const hyb_batch *batch, const float *q, const hyb_kv *kv,
                           const hyb_work *work, float *out) {
    attention_loop loop = {model, batch, q, kv, work, out, hyb_attention_scale(model->head_dim), HYB_TOKENS_PER_TASK};
    if (run_length(batch, 0, batch->n_tokens) > 1) loop.tokens_per_task = HYB_ATTENTION_BLOCK_QUERIES;
    hyb_parallel(model->ctx, hyb_ceil_div(batch->n_tokens, loop.tokens_per_task) * model->config.n_kv_heads,
                 attention_task, &loop);
}
