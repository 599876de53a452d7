/* mlp_loss.c - the rows and targets of a call, checked, and the built-in losses with their gradients. */
#include "mlp.h"

#include "math_f64.h"

/* ---- checks ---- */

hyb_status hyb_mlp_check_rows(const hyb_mlp *m, const char *name, const float *rows, size_t n, size_t n_cols) {
    for (size_t i = 0; i < n; i++) {
        if (m->ctx->kernels.max_abs_bits(rows + i * n_cols, n_cols) < 0x7f800000u) continue;
        size_t c = 0;
        while (hyb_is_finite(rows[i * n_cols + c])) c++;
        return hyb_fail(m->ctx, HYB_ERROR_NOT_FINITE, "%s: row %zu, column %zu is %s", name, i, c,
                        rows[i * n_cols + c] != rows[i * n_cols + c] ? "NaN" : "infinite");
    }
    return HYB_OK;
}

static hyb_status check_classes(const hyb_mlp *m, const hyb_mlp_batch *b) {
    for (size_t i = 0; i < b->n; i++)
        if (b->classes[i] >= hyb_mlp_outputs(m))
            return hyb_fail(m->ctx, HYB_ERROR_INVALID_ARGUMENT, "row %zu is of class %u, the network has %zu outputs",
                            i, b->classes[i], hyb_mlp_outputs(m));
    return HYB_OK;
}

static hyb_status check_values(const hyb_mlp *m, const hyb_mlp_batch *b) {
    size_t n_out = hyb_mlp_outputs(m);
    HYB_TRY(hyb_mlp_check_rows(m, "the targets", b->values, b->n, n_out));
    for (size_t i = 0; m->config.loss == HYB_LOSS_CROSS_ENTROPY && i < b->n * n_out; i++)
        if (b->values[i] < 0.0f)
            return hyb_fail(m->ctx, HYB_ERROR_INVALID_ARGUMENT,
                            "the targets: row %zu, column %zu is %g, the cross-entropy needs 0 or more", i / n_out,
                            i % n_out, (double)b->values[i]);
    return HYB_OK;
}

hyb_status hyb_mlp_check_batch(const hyb_mlp *m, hyb_mlp_batch *b) {
    int entropy = m->config.loss == HYB_LOSS_CROSS_ENTROPY;
    if (b->n < 1) return hyb_fail(m->ctx, HYB_ERROR_INVALID_ARGUMENT, "no rows: a loss needs at least one");
    HYB_TRY(hyb_mlp_check_rows(m, "x", b->x, b->n, hyb_mlp_inputs(m)));
    if (b->values != NULL && b->classes != NULL)
        return hyb_fail(m->ctx, HYB_ERROR_INVALID_ARGUMENT, "give values or classes as targets, not both");
    if (b->classes != NULL && !entropy)
        return hyb_fail(m->ctx, HYB_ERROR_INVALID_ARGUMENT, "classes are targets of the loss CROSS_ENTROPY only");
    if (b->classes != NULL) return check_classes(m, b);
    if (b->values != NULL) return check_values(m, b);
    if (entropy || hyb_mlp_inputs(m) != hyb_mlp_outputs(m))
        return hyb_fail(m->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "no targets: reconstruction needs the loss MSE and as many outputs (%zu) as inputs (%zu)",
                        hyb_mlp_outputs(m), hyb_mlp_inputs(m));
    b->values = b->x;
    return HYB_OK;
}

/* ---- losses ---- */

typedef struct loss_loop {
    const hyb_kernels *kernels;
    const float *z, *targets; /* [n][n_out] */
    size_t n, n_out;
    double *losses;
    float *gradient;
    float scale; /* of the gradient; 0: none */
} loss_loop;

static double mse_row(const loss_loop *loop, size_t i) {
    double sum = 0.0;
    for (size_t at = i * loop->n_out; at < (i + 1) * loop->n_out; at++) {
        float difference = loop->z[at] - loop->targets[at];
        sum += (double)difference * (double)difference;
        loop->gradient[at] = difference * loop->scale;
    }
    return sum / (double)loop->n_out;
}

static double soft_row(const loss_loop *loop, size_t i) {
    const float *z = loop->z + i * loop->n_out, *t = loop->targets + i * loop->n_out;
    float *g = loop->gradient + i * loop->n_out;
    if (loop->kernels->max_abs_bits(z, loop->n_out) >= 0x7f800000u) return (double)hyb_float_of(0x7fc00000u);
    float max = loop->kernels->max_f32(z, loop->n_out);
    float sum = loop->kernels->exp_sum(z, loop->n_out, max, g);
    double log_sum = hyb_log_f64((double)sum) + (double)max, loss = 0.0, total = 0.0;
    for (size_t c = 0; c < loop->n_out; c++) {
        loss += (double)t[c] * (log_sum - (double)z[c]);
        total += (double)t[c];
    }
    loop->kernels->scale_f32(g, g, loop->n_out, (float)(total / (double)sum) * loop->scale);
    loop->kernels->axpy_f32(g, t, loop->n_out, -loop->scale);
    return loss;
}

static void mse_task(void *argument, size_t index, size_t worker) {
    const loss_loop *loop = argument;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n);
    (void)worker;
    for (size_t i = first; i < end; i++) loop->losses[i] = mse_row(loop, i);
}

static void soft_task(void *argument, size_t index, size_t worker) {
    const loss_loop *loop = argument;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n);
    (void)worker;
    for (size_t i = first; i < end; i++) loop->losses[i] = soft_row(loop, i);
}

double hyb_mlp_batch_loss(const hyb_mlp *m, hyb_mlp_pass *p, const float *z, const hyb_mlp_batch *b, size_t first,
                          size_t n, size_t n_all) {
    size_t n_out = hyb_mlp_outputs(m);
    double total = 0.0;
    if (b->classes != NULL) {
        memcpy(p->gradient, z, n * n_out * sizeof *z);
        hyb_cross_entropy(m->ctx, p->gradient, b->classes + first, n, n_out, p->losses,
                          n_all > 0 ? 1.0f / (float)n_all : 0.0f);
    } else {
        int entropy = m->config.loss == HYB_LOSS_CROSS_ENTROPY;
        loss_loop loop = {&m->ctx->kernels, z, b->values + first * n_out, n, n_out, p->losses, p->gradient, 0.0f};
        if (n_all > 0) loop.scale = (float)((entropy ? 1.0 : 2.0 / (double)n_out) / (double)n_all);
        hyb_parallel(m->ctx, hyb_ceil_div(n, HYB_TOKENS_PER_TASK), entropy ? soft_task : mse_task, &loop);
    }
    for (size_t i = 0; i < n; i++) total += p->losses[i];
    return total;
}
