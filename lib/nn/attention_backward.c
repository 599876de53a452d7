/* attention_backward.c - gradients of causal attention, as small matrix products per sequence and head.
 *
 * With S = scale Q K^T (masked), P = softmax(S):  dV = P^T dO,  dP = dO V^T,  dS = P (dP - rowsum(P dP)) scale,
 * dQ = dS K,  dK = dS^T Q. Rows come in blocks so that about half of each T x T matrix is never touched.
 */
#include "training.h"

#define ROW_BLOCK ((size_t)64)

typedef struct backward_loop {
    const hyb_language_model *model;
    const hyb_layer_state *state;
    size_t n_context;
    const float *d_out;
    hyb_training *training;
    float scale;
} backward_loop;

/* One head of one sequence: strided views into [n][dim] and [n][kv_dim] buffers. */
typedef struct head_view {
    const float *q, *k, *v, *d_out;
    float *d_q, *d_k, *d_v;
    size_t ld_q, ld_k, n, head_dim;
    float *p, *dp; /* [n][n] */
    void *gemm_scratch;
    const hyb_kernels *kernels;
    float scale;
} head_view;

static void product(const head_view *h, int transpose, size_t m, size_t n, size_t k, const float *a, size_t lda,
                    const float *b, size_t ldb, int accumulate, float *c, size_t ldc) {
    hyb_gemm_job job = {transpose, m, n, k, a, lda, b, ldb, accumulate, c, ldc, h->gemm_scratch};
    h->kernels->gemm(&job);
}

/* Rows first .. end-1 of P and dS (in dp), zero above the diagonal up to column `end`. */
static void probability_rows(const head_view *h, size_t first, size_t end) {
    const hyb_kernels *kernels = h->kernels;
    size_t rows = end - first, ld = h->n;
    product(h, HYB_GEMM_NT, rows, end, h->head_dim, h->q + first * h->ld_q, h->ld_q, h->k, h->ld_k, 0,
            h->p + first * ld, ld);
    product(h, HYB_GEMM_NT, rows, end, h->head_dim, h->d_out + first * h->ld_q, h->ld_q, h->v, h->ld_k, 0,
            h->dp + first * ld, ld);
    for (size_t i = first; i < end; i++) {
        float *p = h->p + i * ld, *dp = h->dp + i * ld;
        size_t n = i + 1;
        kernels->scale_f32(p, p, n, h->scale);
        float sum = kernels->exp_sum(p, n, kernels->max_f32(p, n), p);
        kernels->scale_f32(p, p, n, 1.0f / sum);
        kernels->softmax_backward(p, dp, n, h->scale);
        memset(p + n, 0, (end - n) * sizeof *p);
        memset(dp + n, 0, (end - n) * sizeof *dp);
    }
}

static void head_backward(const head_view *h, int accumulate_kv) {
    size_t ld = h->n;
    for (size_t first = 0; first < h->n; first += ROW_BLOCK) {
        size_t end = hyb_min_size(first + ROW_BLOCK, h->n);
        probability_rows(h, first, end);
        product(h, HYB_GEMM_NN, end - first, h->head_dim, end, h->dp + first * ld, ld, h->k, h->ld_k, 0,
                h->d_q + first * h->ld_q, h->ld_q);
    }
    for (size_t first = 0; first < h->n; first += ROW_BLOCK) {
        size_t end = hyb_min_size(first + ROW_BLOCK, h->n), corner = first * ld + first;
        product(h, HYB_GEMM_TN, end - first, h->head_dim, h->n - first, h->p + corner, ld, h->d_out + first * h->ld_q,
                h->ld_q, accumulate_kv, h->d_v + first * h->ld_k, h->ld_k);
        product(h, HYB_GEMM_TN, end - first, h->head_dim, h->n - first, h->dp + corner, ld, h->q + first * h->ld_q,
                h->ld_q, accumulate_kv, h->d_k + first * h->ld_k, h->ld_k);
    }
}

static void backward_task(void *argument, size_t index, size_t worker) {
    const backward_loop *loop = argument;
    const hyb_language_model *model = loop->model;
    hyb_training *t = loop->training;
    size_t group = model->config.n_heads / model->config.n_kv_heads, head_dim = model->head_dim;
    size_t kv_head = index % model->config.n_kv_heads, row = index / model->config.n_kv_heads * loop->n_context;
    size_t kv_at = row * model->kv_dim + kv_head * head_dim;
    head_view h = {.ld_q = model->config.dim, .ld_k = model->kv_dim, .n = loop->n_context, .head_dim = head_dim};
    h.kernels = &model->ctx->kernels;
    h.scale = loop->scale;
    h.p = t->attention_rows + worker * 2 * t->max_context * t->max_context;
    h.dp = h.p + loop->n_context * loop->n_context;
    h.gemm_scratch = (uint8_t *)t->work.gemm_scratch + worker * HYB_GEMM_SCRATCH_BYTES;
    h.k = loop->state->k + kv_at;
    h.v = loop->state->v + kv_at;
    h.d_k = t->d_k + kv_at;
    h.d_v = t->d_v + kv_at;
    for (size_t g = 0; g < group; g++) {
        size_t q_at = row * model->config.dim + (kv_head * group + g) * head_dim;
        h.q = loop->state->q + q_at;
        h.d_out = loop->d_out + q_at;
        h.d_q = t->d_q + q_at;
        head_backward(&h, g > 0);
    }
}

void hyb_attention_backward(const hyb_language_model *model, const hyb_layer_state *state, const hyb_batch *batch,
                            size_t n_context, const float *d_out, hyb_training *training) {
    backward_loop loop = {model, state, n_context, d_out, training, hyb_attention_scale(model->head_dim)};
    hyb_parallel(model->ctx, batch->n_tokens / n_context * model->config.n_kv_heads, backward_task, &loop);
    hyb_rotate_forward(model, batch, training->d_q, model->config.n_heads, model->minus_sines);
    hyb_rotate_forward(model, batch, training->d_k, model->config.n_kv_heads, model->minus_sines);
}
