/* attention_ref.c - causal attention of one head and its gradients, in plain C99: the specification (kernels.h). */
#include "../common.h"
#include "float_ref.h"

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

void hyb_attention_backward_ref(const hyb_attention_backward_job *job) {
    size_t width = job->head_dim;
    float *p = job->scratch, *ds = p + job->n;
    for (size_t j = 0; j < job->n && !job->accumulate; ++j) {
        memset(job->d_keys + j * job->ld_k, 0, width * sizeof(float));
        memset(job->d_values + j * job->ld_k, 0, width * sizeof(float));
    }
    for (size_t i = 0; i < job->n; ++i) {
        const float *q = job->q + i * job->ld_q, *d_out = job->d_out + i * job->ld_q;
        size_t n = i + 1;
        for (size_t j = 0; j < n; ++j) {
            p[j] = hyb_dot_f32_ref(q, job->keys + j * job->ld_k, width) * job->scale;
            ds[j] = hyb_dot_f32_ref(d_out, job->values + j * job->ld_k, width);
        }
        float sum = hyb_exp_sum_ref(p, n, hyb_max_f32_ref(p, n), p);
        hyb_scale_f32_ref(p, p, n, 1.0f / sum);
        hyb_softmax_backward_ref(p, ds, n, job->scale);
        memset(job->d_q + i * job->ld_q, 0, width * sizeof(float));
        for (size_t j = 0; j < n; ++j) {
            add_scaled(job->d_q + i * job->ld_q, job->keys + j * job->ld_k, width, ds[j]);
            add_scaled(job->d_keys + j * job->ld_k, q, width, ds[j]);
            add_scaled(job->d_values + j * job->ld_k, d_out, width, p[j]);
        }
    }
}
