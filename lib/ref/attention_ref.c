/* attention_ref.c - one query of one head over its keys and values, in plain C99: the specification (kernels.h). */
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
