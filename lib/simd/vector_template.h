/* vector_template.h - the float kernels over vectors, written once in v16 operations. A file of lib/x86 includes a
 * v16_<isa>.h, defines SIMD_NAME(op) (hyb_<op>_<isa>), SIMD_TARGET, V16_KEYS, V16_VALUES, and then includes this file.
 *
 * EXACT kernels do what lib/ref does, lane by lane: element i in lane i % 16. A lane that a tail leaves out adds +0,
 * which changes nothing, since sums begin at +0 and so are never -0.
 */
#ifndef SIMD_NAME
#error "include through a file of lib/x86"
#endif

/* for (i = 0, 16, ...) with n_lanes = 16, then one turn for the tail; the body is compiled once for each. */
#define V16_FOR(i, n, full, tail)                                                                                      \
    do {                                                                                                               \
        size_t i = 0;                                                                                                  \
        for (; i + HYB_LANES <= (n); i += HYB_LANES) full;                                                             \
        if (i < (n)) tail;                                                                                             \
    } while (0)

/* Exponentials that are computed together. */
#ifndef V16_EXPS
#define V16_EXPS 2
#endif

/* ---- EXACT ---- */

/* x[i] = exp(x[i]) for n vectors, a constant, step by step together: one exp is a chain of 25 operations, of which the
 * processor's scheduler holds too few to overlap one with the next. */
V16_FUNCTION void v16_exp_all(v16 *x, size_t n) {
    static const float terms[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                                  5.0000001201e-1f};
    const v16 magic = v16_set1(12582912.0f); /* 1.5 * 2^23 */
    v16 shifted[V16_EXPS], whole[V16_EXPS], r[V16_EXPS], p[V16_EXPS];
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) x[i] = v16_min(v16_set1(88.72283f), v16_max(v16_set1(-87.33654f), x[i]));
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) shifted[i] = v16_add(v16_mul(x[i], v16_set1(1.44269504f)), magic);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) whole[i] = v16_sub(shifted[i], magic);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) r[i] = v16_sub(x[i], v16_mul(whole[i], v16_set1(0.693359375f)));
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) r[i] = v16_sub(r[i], v16_mul(whole[i], v16_set1(-2.12194440e-4f)));
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) p[i] = v16_set1(1.9875691500e-4f);
    HYB_UNROLL
    for (size_t t = 0; t < sizeof terms / sizeof *terms; ++t) {
        HYB_UNROLL
        for (size_t i = 0; i < n; ++i) p[i] = v16_add(v16_mul(p[i], r[i]), v16_set1(terms[t]));
    }
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) p[i] = v16_add(v16_mul(p[i], v16_mul(r[i], r[i])), r[i]);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) x[i] = v16_exp_scale(v16_add(p[i], v16_set1(1.0f)), whole[i], shifted[i]);
}

/* The same with fused operations: RELAXED kernels only. */
V16_FUNCTION void v16_exp_fused_all(v16 *x, size_t n) {
    static const float terms[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                                  5.0000001201e-1f};
    const v16 magic = v16_set1(12582912.0f); /* 1.5 * 2^23 */
    v16 shifted[V16_EXPS], whole[V16_EXPS], r[V16_EXPS], p[V16_EXPS];
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) x[i] = v16_min(v16_set1(88.72283f), v16_max(v16_set1(-87.33654f), x[i]));
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) shifted[i] = v16_fma(x[i], v16_set1(1.44269504f), magic);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) whole[i] = v16_sub(shifted[i], magic);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) r[i] = v16_fma(whole[i], v16_set1(-0.693359375f), x[i]);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) r[i] = v16_fma(whole[i], v16_set1(2.12194440e-4f), r[i]);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) p[i] = v16_set1(1.9875691500e-4f);
    HYB_UNROLL
    for (size_t t = 0; t < sizeof terms / sizeof *terms; ++t) {
        HYB_UNROLL
        for (size_t i = 0; i < n; ++i) p[i] = v16_fma(p[i], r[i], v16_set1(terms[t]));
    }
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) p[i] = v16_fma(p[i], v16_mul(r[i], r[i]), r[i]);
    HYB_UNROLL
    for (size_t i = 0; i < n; ++i) x[i] = v16_exp_scale(v16_add(p[i], v16_set1(1.0f)), whole[i], shifted[i]);
}

V16_FUNCTION v16 v16_exp(v16 x) {
    v16_exp_all(&x, 1);
    return x;
}

SIMD_TARGET uint32_t SIMD_NAME(max_abs_bits)(const float *x, size_t n) {
    v16 a = v16_zero(), b = v16_zero();
    size_t i = 0;
    for (; i + 2 * HYB_LANES <= n; i += 2 * HYB_LANES) {
        a = v16_max_bits(a, v16_abs(v16_load(x + i)));
        b = v16_max_bits(b, v16_abs(v16_load(x + i + HYB_LANES)));
    }
    for (; i < n; i += HYB_LANES) {
        a = v16_max_bits(a, v16_abs(v16_load_part(x + i, hyb_min_size(n - i, HYB_LANES))));
    }
    return v16_reduce_max_bits(v16_max_bits(a, b));
}

SIMD_TARGET float SIMD_NAME(max_f32)(const float *x, size_t n) {
    v16 a = v16_set1(x[0]), b = a;
    size_t i = 0;
    for (; i + 2 * HYB_LANES <= n; i += 2 * HYB_LANES) {
        a = v16_max(v16_load(x + i), a);
        b = v16_max(v16_load(x + i + HYB_LANES), b);
    }
    for (; i < n; i += HYB_LANES) a = v16_max(v16_load_part_or(x + i, hyb_min_size(n - i, HYB_LANES), a), a);
    return v16_reduce_max(v16_max(a, b)) + 0.0f; /* whichever zero it is becomes +0 */
}

SIMD_TARGET float SIMD_NAME(sum_abs_f32)(const float *x, size_t n) {
    v16 sum = v16_zero();
    V16_FOR(i, n, sum = v16_add(sum, v16_abs(v16_load(x + i))),
            sum = v16_add(sum, v16_abs(v16_load_part(x + i, n - i))));
    return v16_reduce_add(sum);
}

V16_FUNCTION float v16_dot(const float *a, const float *b, size_t n) {
    v16 sum = v16_zero();
    V16_FOR(i, n, sum = v16_add(sum, v16_mul(v16_load(a + i), v16_load(b + i))),
            sum = v16_add(sum, v16_mul(v16_load_part(a + i, n - i), v16_load_part(b + i, n - i))));
    return v16_reduce_add(sum);
}
SIMD_TARGET float SIMD_NAME(dot_f32)(const float *a, const float *b, size_t n) { return v16_dot(a, b, n); }

SIMD_TARGET void SIMD_NAME(add_f32)(float *y, const float *x, size_t n) {
    V16_FOR(i, n, v16_store(y + i, v16_add(v16_load(y + i), v16_load(x + i))),
            v16_store_part(y + i, n - i, v16_add(v16_load_part(y + i, n - i), v16_load_part(x + i, n - i))));
}

SIMD_TARGET void SIMD_NAME(scale_f32)(float *y, const float *x, size_t n, float s) {
    v16 factor = v16_set1(s);
    V16_FOR(i, n, v16_store(y + i, v16_mul(v16_load(x + i), factor)),
            v16_store_part(y + i, n - i, v16_mul(v16_load_part(x + i, n - i), factor)));
}

SIMD_TARGET float SIMD_NAME(rms_norm)(const float *x, const float *gain, size_t n, float epsilon, float *y) {
    v16 mean = v16_set1(v16_dot(x, x, n) / (float)n + epsilon);
    v16 r = v16_div(v16_set1(1.0f), v16_sqrt(mean));
    V16_FOR(
        i, n, v16_store(y + i, v16_mul(v16_mul(v16_load(x + i), r), v16_load(gain + i))),
        v16_store_part(y + i, n - i, v16_mul(v16_mul(v16_load_part(x + i, n - i), r), v16_load_part(gain + i, n - i))));
    float result[HYB_LANES];
    v16_store(result, r);
    return result[0];
}

V16_FUNCTION float v16_exp_sum(const float *x, size_t n, float offset, float *y) {
    v16 sum = v16_zero(), shift = v16_set1(offset), group[V16_EXPS];
    size_t i = 0;
    for (; i + V16_EXPS * HYB_LANES <= n; i += V16_EXPS * HYB_LANES) {
        HYB_UNROLL
        for (size_t v = 0; v < V16_EXPS; ++v) group[v] = v16_sub(v16_load(x + i + v * HYB_LANES), shift);
        v16_exp_all(group, V16_EXPS);
        HYB_UNROLL
        for (size_t v = 0; v < V16_EXPS; ++v) {
            v16_store(y + i + v * HYB_LANES, group[v]);
            sum = v16_add(sum, group[v]);
        }
    }
    for (; i + HYB_LANES <= n; i += HYB_LANES) {
        v16 e = v16_exp(v16_sub(v16_load(x + i), shift));
        v16_store(y + i, e);
        sum = v16_add(sum, e);
    }
    if (i < n) {
        v16 e = v16_exp(v16_sub(v16_load_part(x + i, n - i), shift));
        v16_store_part(y + i, n - i, e);
        sum = v16_add(sum, v16_keep(n - i, e));
    }
    return v16_reduce_add(sum);
}
SIMD_TARGET float SIMD_NAME(exp_sum)(const float *x, size_t n, float offset, float *y) {
    return v16_exp_sum(x, n, offset, y);
}

V16_FUNCTION v16 v16_one_plus_exp_minus(v16 g) { return v16_add(v16_set1(1.0f), v16_exp(v16_negate(g))); }
V16_FUNCTION v16 v16_gated_silu(v16 g, v16 u) { return v16_mul(v16_div(g, v16_one_plus_exp_minus(g)), u); }
SIMD_TARGET void SIMD_NAME(gated_silu)(const float *gate, const float *up, size_t n, float *out) {
    const size_t step = V16_EXPS * HYB_LANES;
    for (; n >= step; n -= step, gate += step, up += step, out += step) {
        v16 e[V16_EXPS];
        HYB_UNROLL
        for (size_t v = 0; v < V16_EXPS; ++v) e[v] = v16_negate(v16_load(gate + v * HYB_LANES));
        v16_exp_all(e, V16_EXPS);
        HYB_UNROLL
        for (size_t v = 0; v < V16_EXPS; ++v) {
            size_t at = v * HYB_LANES;
            v16 quotient = v16_div(v16_load(gate + at), v16_add(v16_set1(1.0f), e[v]));
            v16_store(out + at, v16_mul(quotient, v16_load(up + at)));
        }
    }
    V16_FOR(
        i, n, v16_store(out + i, v16_gated_silu(v16_load(gate + i), v16_load(up + i))),
        v16_store_part(out + i, n - i, v16_gated_silu(v16_load_part(gate + i, n - i), v16_load_part(up + i, n - i))));
}

V16_FUNCTION v16 v16_gated_relu2(v16 g, v16 u) {
    v16 positive = v16_max(v16_zero(), g); /* in this order a NaN stays */
    return v16_mul(v16_mul(positive, positive), u);
}
SIMD_TARGET void SIMD_NAME(gated_relu2)(const float *gate, const float *up, size_t n, float *out) {
    V16_FOR(
        i, n, v16_store(out + i, v16_gated_relu2(v16_load(gate + i), v16_load(up + i))),
        v16_store_part(out + i, n - i, v16_gated_relu2(v16_load_part(gate + i, n - i), v16_load_part(up + i, n - i))));
}

V16_FUNCTION void v16_rotate(float *x, float *y, const float *cosines, const float *sines, size_t n) {
    v16 a = v16_get(x, n), b = v16_get(y, n), c = v16_get(cosines, n), s = v16_get(sines, n);
    v16_put(x, n, v16_sub(v16_mul(a, c), v16_mul(b, s)));
    v16_put(y, n, v16_add(v16_mul(a, s), v16_mul(b, c)));
}
SIMD_TARGET void SIMD_NAME(rotate)(float *x, const float *cosines, const float *sines, size_t half) {
    V16_FOR(i, half, v16_rotate(x + i, x + half + i, cosines + i, sines + i, HYB_LANES),
            v16_rotate(x + i, x + half + i, cosines + i, sines + i, half - i));
}

#include "moments_template.h"

#include "attention_template.h"

#include "attention_training_template.h"

#include "attention_backward_template.h"

/* ---- RELAXED ---- */

/* Returns |w| of the new weights, +0 in lanes not in use. */
V16_FUNCTION v16 v16_adamw(const hyb_adamw_job *job, size_t i, size_t n) {
    v16 g = v16_mul(v16_get(job->gradient + i, n), v16_set1(job->gradient_scale));
    v16 m = v16_get(job->first_moment + i, n), v = v16_get(job->second_moment + i, n);
    m = v16_fma(v16_set1(job->beta1), m, v16_mul(v16_set1(job->one_minus_beta1), g));
    v = v16_fma(v16_set1(job->beta2), v, v16_mul(v16_set1(job->one_minus_beta2), v16_mul(g, g)));
    v16_put(job->first_moment + i, n, m);
    v16_put(job->second_moment + i, n, v);
    v16 size = v16_fma(v16_sqrt(v), v16_set1(job->inv_sqrt_correction2), v16_set1(job->epsilon));
    v16 step = v16_mul(v16_set1(-job->step_size), v16_div(m, size));
    v16 w = v16_fma(v16_get(job->weights + i, n), v16_set1(job->decay), step);
    v16_put(job->weights + i, n, w);
    return v16_keep(n, v16_abs(w));
}
/* The magnitudes cost nothing here: the square root and the division take longer. */
SIMD_TARGET hyb_magnitudes SIMD_NAME(adamw)(const hyb_adamw_job *job) {
    v16 sum = v16_zero(), most = v16_zero();
    size_t i = 0;
    for (; i + HYB_LANES <= job->n; i += HYB_LANES) {
        v16 magnitude = v16_adamw(job, i, HYB_LANES);
        sum = v16_add(sum, magnitude);
        most = v16_max_bits(most, magnitude);
    }
    if (i < job->n) {
        v16 magnitude = v16_adamw(job, i, job->n - i);
        sum = v16_add(sum, magnitude);
        most = v16_max_bits(most, magnitude);
    }
    hyb_magnitudes result = {v16_reduce_add(sum), v16_reduce_max_bits(most)};
    return result;
}

V16_FUNCTION v16 v16_momentum(const hyb_momentum_job *job, size_t i, size_t n) {
    v16 g = v16_mul(v16_set1(job->one_minus_beta), v16_get(job->gradient + i, n)), beta = v16_set1(job->beta);
    v16 m = v16_fma(beta, v16_get(job->momentum + i, n), g), u = v16_fma(beta, m, g);
    v16_put(job->momentum + i, n, m);
    v16_put(job->u + i, n, u);
    return u;
}
V16_FUNCTION double v16_f64_sum(v16_f64 sums) {
    double lanes[HYB_LANES], sum = 0;
    v16_f64_store(lanes, sums);
    for (int l = 0; l < HYB_LANES; ++l) sum += lanes[l];
    return sum;
}
SIMD_TARGET double SIMD_NAME(momentum)(const hyb_momentum_job *job) {
    v16_f64 sum = v16_f64_zero();
    V16_FOR(i, job->n, sum = v16_f64_add_squares(sum, v16_momentum(job, i, HYB_LANES)),
            sum = v16_f64_add_squares(sum, v16_keep(job->n - i, v16_momentum(job, i, job->n - i))));
    return v16_f64_sum(sum);
}

V16_FUNCTION v16 v16_adam_change(const hyb_adam_change_job *job, size_t i, size_t n) {
    v16 g = v16_get(job->gradient + i, n), limit = v16_set1(job->limit);
    v16 m = v16_get(job->first_moment + i, n), v = v16_get(job->second_moment + i, n);
    m = v16_fma(v16_set1(job->beta1), m, v16_mul(v16_set1(job->one_minus_beta1), g));
    v = v16_fma(v16_set1(job->beta2), v, v16_mul(v16_set1(job->one_minus_beta2), v16_mul(g, g)));
    v16_put(job->first_moment + i, n, m);
    v16_put(job->second_moment + i, n, v);
    v16 size = v16_fma(v16_sqrt(v), v16_set1(job->inv_sqrt_correction2), v16_set1(job->epsilon));
    v16 step = v16_mul(v16_set1(-job->step_size), v16_div(m, size));
    step = v16_max(v16_negate(limit), v16_min(limit, step));
    step = v16_fma(v16_set1(-job->decay), v16_get(job->weights + i, n), step);
    v16_put(job->change + i, n, step);
    return step;
}
SIMD_TARGET double SIMD_NAME(adam_change)(const hyb_adam_change_job *job) {
    v16_f64 sum = v16_f64_zero();
    V16_FOR(i, job->n, sum = v16_f64_add_squares(sum, v16_adam_change(job, i, HYB_LANES)),
            sum = v16_f64_add_squares(sum, v16_keep(job->n - i, v16_adam_change(job, i, job->n - i))));
    return v16_f64_sum(sum);
}

V16_FUNCTION v16 v16_apply_change(const float *x, size_t n, v16 a, v16 b, float *w, float *change) {
    v16 before = v16_get(w, n), step = v16_fma(a, v16_get(x, n), v16_mul(b, before)), after = v16_add(before, step);
    v16_put(change, n, step);
    v16_put(w, n, after);
    return v16_keep(n, v16_abs(after));
}
SIMD_TARGET hyb_magnitudes SIMD_NAME(apply_change)(const float *x, size_t n, float a, float b, float *w,
                                                   float *change) {
    v16 sum = v16_zero(), most = v16_zero(), va = v16_set1(a), vb = v16_set1(b), magnitude;
    size_t i = 0;
    for (; i < n; i += HYB_LANES) {
        magnitude = n - i >= HYB_LANES ? v16_apply_change(x + i, HYB_LANES, va, vb, w + i, change + i)
                                       : v16_apply_change(x + i, n - i, va, vb, w + i, change + i);
        sum = v16_add(sum, magnitude);
        most = v16_max_bits(most, magnitude);
    }
    hyb_magnitudes result = {v16_reduce_add(sum), v16_reduce_max_bits(most)};
    return result;
}

SIMD_TARGET double SIMD_NAME(sum_squares_f64)(const float *x, size_t n) {
    v16_f64 a = v16_f64_zero();
    V16_FOR(i, n, a = v16_f64_add_squares(a, v16_load(x + i)), a = v16_f64_add_squares(a, v16_load_part(x + i, n - i)));
    return v16_f64_sum(a);
}

SIMD_TARGET void SIMD_NAME(axpy_f32)(float *y, const float *x, size_t n, float s) {
    v16 factor = v16_set1(s);
    V16_FOR(i, n, v16_store(y + i, v16_fma(factor, v16_load(x + i), v16_load(y + i))),
            v16_store_part(y + i, n - i, v16_fma(factor, v16_load_part(x + i, n - i), v16_load_part(y + i, n - i))));
}

V16_FUNCTION v16 v16_pull(v16 sum, const float *x, const float *gain, const float *dy, size_t n) {
    return v16_fma(v16_get(x, n), v16_mul(v16_get(gain, n), v16_get(dy, n)), sum);
}
V16_FUNCTION void v16_rms_norm_backward(const float *x, const float *gain, const float *dy, size_t n, float r,
                                        float pull, float *dx, float *dgain) {
    v16 vx = v16_get(x, n), vdy = v16_get(dy, n), vr = v16_set1(r);
    v16 toward = v16_fma(v16_mul(v16_get(gain, n), vdy), vr, v16_get(dx, n));
    v16_put(dx, n, v16_fma(vx, v16_set1(-pull), toward));
    v16_put(dgain, n, v16_fma(vdy, v16_mul(vx, vr), v16_get(dgain, n)));
}
SIMD_TARGET void SIMD_NAME(rms_norm_backward)(const float *x, const float *gain, const float *dy, size_t n, float r,
                                              float *dx, float *dgain) {
    v16 sum = v16_zero();
    V16_FOR(i, n, sum = v16_pull(sum, x + i, gain + i, dy + i, HYB_LANES),
            sum = v16_pull(sum, x + i, gain + i, dy + i, n - i));
    float pull = v16_reduce_add(sum) / (float)n * r * r * r;
    V16_FOR(i, n, v16_rms_norm_backward(x + i, gain + i, dy + i, HYB_LANES, r, pull, dx + i, dgain + i),
            v16_rms_norm_backward(x + i, gain + i, dy + i, n - i, r, pull, dx + i, dgain + i));
}

/* e = exp(-gate) */
V16_FUNCTION void v16_gated_silu_backward(const float *gate, const float *up, const float *dout, size_t n, v16 e,
                                          float *dgate, float *dup) {
    const v16 one = v16_set1(1.0f);
    v16 g = v16_get(gate, n), u = v16_get(up, n), d = v16_get(dout, n);
    v16 s = v16_div(one, v16_add(one, e)), slope = v16_mul(s, v16_fma(g, v16_sub(one, s), one));
    v16_put(dgate, n, v16_mul(v16_mul(d, u), slope));
    v16_put(dup, n, v16_mul(d, v16_mul(g, s)));
}
SIMD_TARGET void SIMD_NAME(gated_silu_backward)(const float *gate, const float *up, const float *dout, size_t n,
                                                float *dgate, float *dup) {
    size_t i = 0;
    for (; i + V16_EXPS * HYB_LANES <= n; i += V16_EXPS * HYB_LANES) {
        v16 e[V16_EXPS];
        HYB_UNROLL
        for (size_t v = 0; v < V16_EXPS; ++v) e[v] = v16_negate(v16_load(gate + i + v * HYB_LANES));
        v16_exp_fused_all(e, V16_EXPS);
        HYB_UNROLL
        for (size_t v = 0; v < V16_EXPS; ++v) {
            size_t at = i + v * HYB_LANES;
            v16_gated_silu_backward(gate + at, up + at, dout + at, HYB_LANES, e[v], dgate + at, dup + at);
        }
    }
    for (; i < n; i += HYB_LANES) {
        size_t lanes = hyb_min_size(HYB_LANES, n - i);
        v16 e = v16_negate(v16_get(gate + i, lanes));
        v16_exp_fused_all(&e, 1);
        v16_gated_silu_backward(gate + i, up + i, dout + i, lanes, e, dgate + i, dup + i);
    }
}

V16_FUNCTION void v16_gated_relu2_backward(const float *gate, const float *up, const float *dout, size_t n,
                                           float *dgate, float *dup) {
    v16 p = v16_max(v16_zero(), v16_get(gate, n)), u = v16_get(up, n), d = v16_get(dout, n);
    v16_put(dgate, n, v16_mul(v16_mul(d, u), v16_add(p, p)));
    v16_put(dup, n, v16_mul(d, v16_mul(p, p)));
}
SIMD_TARGET void SIMD_NAME(gated_relu2_backward)(const float *gate, const float *up, const float *dout, size_t n,
                                                 float *dgate, float *dup) {
    V16_FOR(i, n, v16_gated_relu2_backward(gate + i, up + i, dout + i, HYB_LANES, dgate + i, dup + i),
            v16_gated_relu2_backward(gate + i, up + i, dout + i, n - i, dgate + i, dup + i));
}

/* Puts every kernel of this file and of gemm_template.h into a table. */
static void v16_install(hyb_kernels *table) {
#define V16_INSTALL(name) (table->name = SIMD_NAME(name), table->tier[HYB_KERNEL_##name] = SIMD_ISA)
    V16_INSTALL(max_abs_bits);
    V16_INSTALL(max_f32);
    V16_INSTALL(sum_abs_f32);
    V16_INSTALL(dot_f32);
    V16_INSTALL(add_f32);
    V16_INSTALL(scale_f32);
    V16_INSTALL(rms_norm);
    V16_INSTALL(exp_sum);
    V16_INSTALL(gated_silu);
    V16_INSTALL(gated_relu2);
    V16_INSTALL(rotate);
    V16_INSTALL(encode_signed);
    V16_INSTALL(encode_positive);
    V16_INSTALL(decode_signed);
    V16_INSTALL(decode_positive);
    V16_INSTALL(attention);
    V16_INSTALL(attention_block);
    V16_INSTALL(gemm);
    V16_INSTALL(attention_training);
    V16_INSTALL(attention_backward);
    V16_INSTALL(adamw);
    V16_INSTALL(momentum);
    V16_INSTALL(adam_change);
    V16_INSTALL(apply_change);
    V16_INSTALL(sum_squares_f64);
    V16_INSTALL(axpy_f32);
    V16_INSTALL(rms_norm_backward);
    V16_INSTALL(gated_silu_backward);
    V16_INSTALL(gated_relu2_backward);
#undef V16_INSTALL
}
