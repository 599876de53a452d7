/* nn_backward_ref.c - derivatives of the float operators, and updates of weights, in plain C99. RELAXED: the faster
 * variants may use fused multiply-add and sum in another order.
 */
#include <math.h>

#include "../common.h"
#include "float_ref.h"

/* With y = x r g and r = (mean(x^2) + e)^(-1/2):  dx = r (g dy) - x r^3 mean(x g dy). */
void hyb_rms_norm_backward_ref(const float *x, const float *gain, const float *dy, size_t n, float r, float *dx,
                               float *dgain) {
    float lanes[HYB_LANES] = {0};
    for (size_t i = 0; i < n; ++i) lanes[i % HYB_LANES] += x[i] * (gain[i] * dy[i]);
    float pull = hyb_lanes_sum(lanes) / (float)n * r * r * r;
    for (size_t i = 0; i < n; ++i) {
        dx[i] += gain[i] * dy[i] * r - x[i] * pull;
        dgain[i] += dy[i] * (x[i] * r);
    }
}

/* With s = 1 / (1 + exp(-g)) and out = g s u:  du = dout g s,  dg = dout u s (1 + g (1 - s)). */
void hyb_gated_silu_backward_ref(const float *gate, const float *up, const float *dout, size_t n, float *dgate,
                                 float *dup) {
    for (size_t i = 0; i < n; ++i) {
        float g = gate[i], u = up[i], s = 1.0f / (1.0f + hyb_exp_f32(-g));
        dgate[i] = dout[i] * u * (s * (1.0f + g * (1.0f - s)));
        dup[i] = dout[i] * (g * s);
    }
}

/* With p = max(g, 0) and out = p^2 u:  du = dout p^2,  dg = dout u 2 p. */
void hyb_gated_relu2_backward_ref(const float *gate, const float *up, const float *dout, size_t n, float *dgate,
                                  float *dup) {
    for (size_t i = 0; i < n; ++i) {
        float p = 0.0f > gate[i] ? 0.0f : gate[i], u = up[i];
        dgate[i] = dout[i] * u * (p + p);
        dup[i] = dout[i] * (p * p);
    }
}

hyb_magnitudes hyb_adamw_ref(const hyb_adamw_job *job) {
    for (size_t i = 0; i < job->n; ++i) {
        float g = job->gradient[i] * job->gradient_scale;
        float m = job->beta1 * job->first_moment[i] + job->one_minus_beta1 * g;
        float v = job->beta2 * job->second_moment[i] + job->one_minus_beta2 * (g * g);
        job->first_moment[i] = m;
        job->second_moment[i] = v;
        job->weights[i] =
            job->weights[i] * job->decay - job->step_size * (m / (sqrtf(v) * job->inv_sqrt_correction2 + job->epsilon));
    }
    return hyb_magnitudes_ref(job->weights, job->n);
}

double hyb_momentum_ref(const hyb_momentum_job *job) {
    double sum = 0;
    for (size_t i = 0; i < job->n; ++i) {
        float g = job->one_minus_beta * job->gradient[i];
        float m = job->beta * job->momentum[i] + g, u = job->beta * m + g;
        job->momentum[i] = m;
        job->u[i] = u;
        sum += (double)u * (double)u;
    }
    return sum;
}

double hyb_adam_change_ref(const hyb_adam_change_job *job) {
    double sum = 0;
    for (size_t i = 0; i < job->n; ++i) {
        float g = job->gradient[i];
        float m = job->beta1 * job->first_moment[i] + job->one_minus_beta1 * g;
        float v = job->beta2 * job->second_moment[i] + job->one_minus_beta2 * (g * g);
        float step = -job->step_size * (m / (sqrtf(v) * job->inv_sqrt_correction2 + job->epsilon));
        step = step > job->limit ? job->limit : step < -job->limit ? -job->limit : step;
        job->first_moment[i] = m;
        job->second_moment[i] = v;
        job->change[i] = step - job->decay * job->weights[i];
        sum += (double)job->change[i] * (double)job->change[i];
    }
    return sum;
}

hyb_magnitudes hyb_apply_change_ref(const float *x, size_t n, float a, float b, float *w, float *change) {
    for (size_t i = 0; i < n; ++i) {
        change[i] = a * x[i] + b * w[i];
        w[i] += change[i];
    }
    return hyb_magnitudes_ref(w, n);
}
