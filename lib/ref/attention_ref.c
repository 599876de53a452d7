/* attention_ref.c - causal attention of one head and its gradients, in plain C99: the specification (kernels.h). */
#include "../common.h"
#include "float_ref.h"

#define LOG2_E 1.44269504f

void hyb_attention_ref(const hyb_attention_job *job) {
    float *p = job->probabilities;
    for (size_t j = 0; j < job->n_keys; ++j) {
        p[j] = hyb_dot_f32_ref(job->q, job->keys + j * job->ld, job->head_dim) * job->scale;
    }
    float sum = hyb_exp_sum_ref(p, job->n_keys, hyb_max_f32_ref(p, job->n_keys), p);
    float r = 1.0f / sum;
    for (size_t d = 0; d < job->head_dim; ++d) job->out[d] = 0.0f;
    for (size_t j = 0; j < job->n_keys; ++j) {
        const float *value = job->values + j * job->ld;
        for (size_t d = 0; d < job->head_dim; ++d) job->out[d] += p[j] * value[d];
    }
    for (size_t d = 0; d < job->head_dim; ++d) job->out[d] *= r;
    for (size_t j = 0; j < job->n_keys; ++j) p[j] *= r;
}

void hyb_attention_block_ref(const hyb_attention_block_job *job) {
    for (size_t i = 0; i < job->n_queries; ++i) {
        hyb_attention_job one = {.q = job->q + i * job->ld_q, .keys = job->keys, .values = job->values, .ld = job->ld};
        one.n_keys = job->first_position + i + 1;
        one.head_dim = job->head_dim;
        one.scale = job->scale;
        one.probabilities = job->scratch;
        one.out = job->out + i * job->ld_q;
        hyb_attention_ref(&one);
    }
}

/* y += s x */
static void add_scaled(float *y, const float *x, size_t n, float s) {
    for (size_t i = 0; i < n; ++i) y[i] += s * x[i];
}

/* Scores of n keys, times log2(e). */
static void training_scores(const float *q, const float *keys, size_t ld_k, size_t n, size_t head_dim, float scale,
                            float *s) {
    for (size_t j = 0; j < n; ++j) s[j] = hyb_dot_f32_ref(q, keys + j * ld_k, head_dim) * (scale * LOG2_E);
}

static void powers_of_2(float *x, size_t n, float offset) {
    for (size_t j = 0; j < n; ++j) x[j] = hyb_exp_f32((x[j] - offset) * (1.0f / LOG2_E));
}

void hyb_attention_training_ref(const hyb_attention_training_job *job) {
    size_t width = job->head_dim;
    float *p = job->scratch;
    for (size_t i = 0; i < job->n; ++i) {
        const float *q = job->q + i * job->ld_q;
        float *out = job->out + i * job->ld_q, *softmax = job->softmax + i * job->ld_softmax, sum = 0.0f;
        training_scores(q, job->keys, job->ld_k, i + 1, width, job->scale, p);
        softmax[0] = hyb_max_f32_ref(p, i + 1);
        powers_of_2(p, i + 1, softmax[0]);
        for (size_t j = 0; j <= i; ++j) sum += p[j];
        softmax[1] = 1.0f / sum;
        memset(out, 0, width * sizeof *out);
        for (size_t j = 0; j <= i; ++j) add_scaled(out, job->values + j * job->ld_k, width, p[j] * softmax[1]);
    }
}

void hyb_attention_backward_ref(const hyb_attention_backward_job *job) {
    size_t width = job->head_dim;
    float *p = job->scratch;
    for (size_t j = 0; j < job->n && !job->accumulate; ++j) {
        memset(job->d_keys + j * job->ld_k, 0, width * sizeof(float));
        memset(job->d_values + j * job->ld_k, 0, width * sizeof(float));
    }
    for (size_t i = 0; i < job->n; ++i) {
        const float *q = job->q + i * job->ld_q, *d_out = job->d_out + i * job->ld_q;
        const float *softmax = job->softmax + i * job->ld_softmax;
        float mean = hyb_dot_f32_ref(d_out, job->out + i * job->ld_q, width);
        training_scores(q, job->keys, job->ld_k, i + 1, width, job->scale, p);
        powers_of_2(p, i + 1, softmax[0]);
        memset(job->d_q + i * job->ld_q, 0, width * sizeof(float));
        for (size_t j = 0; j <= i; ++j) {
            float dp = hyb_dot_f32_ref(d_out, job->values + j * job->ld_k, width);
            float probability = p[j] * softmax[1], ds = probability * (dp - mean) * job->scale;
            add_scaled(job->d_q + i * job->ld_q, job->keys + j * job->ld_k, width, ds);
            add_scaled(job->d_keys + j * job->ld_k, q, width, ds);
            add_scaled(job->d_values + j * job->ld_k, d_out, width, probability);
        }
    }
}
