/* mlp_train.c - a perceptron's training step, and its outputs and losses without one.
 *
 * The caller owns the loop. After hyb_mlp_prepare a step allocates nothing.
 */
#include "mlp.h"

/* Rows of one inference pass: enough for the matrix product to reuse its weights, few enough for small work memory. */
#define INFERENCE_ROWS ((size_t)128)
/* Rows of one step. */
#define MAX_ROWS ((size_t)1 << 24)

/* ---- preparation ---- */

hyb_status hyb_mlp_set_optimizer(hyb_mlp *mlp, hyb_optimizer optimizer) {
    if (mlp == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(hyb_optimizer_check(mlp->ctx, optimizer));
    mlp->optimizer = (int)optimizer;
    return HYB_OK;
}

hyb_status hyb_mlp_prepare(hyb_mlp *mlp, size_t n_rows) {
    if (mlp == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_ctx *ctx = mlp->ctx;
    hyb_mlp_pass *pass = NULL;
    if (!mlp->trainable)
        return hyb_fail(ctx, HYB_ERROR_STATE, "a loaded network has no master weights: create one to train");
    if (n_rows < 1 || n_rows > MAX_ROWS)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_rows is %zu, must be 1 to %zu", n_rows, MAX_ROWS);
    HYB_TRY(hyb_mlp_pass_create(mlp, n_rows, 1, &pass));
    hyb_status status = hyb_moments_prepare(ctx, mlp->tensors, mlp->n_tensors, mlp->optimizer, 0, &mlp->moments);
    if (status != HYB_OK) {
        hyb_mlp_pass_free(mlp, pass);
        return status;
    }
    hyb_mlp_pass_free(mlp, mlp->training);
    mlp->training = pass;
    return HYB_OK;
}

/* ---- gradients ---- */

static hyb_status check_step(hyb_mlp *m, size_t n) {
    const hyb_mlp_pass *p = m->training;
    if (p == NULL) return hyb_fail(m->ctx, HYB_ERROR_STATE, "call hyb_mlp_prepare first");
    if (n < 1 || n > p->max_rows)
        return hyb_fail(m->ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu rows, prepared for 1 to %zu", n, p->max_rows);
    /* More threads than at prepare: the per-worker buffers must grow. The optimiser stays that of the state. */
    if (m->ctx->options.n_threads > p->n_threads) {
        int next = m->optimizer;
        m->optimizer = m->moments.optimizer;
        hyb_status status = hyb_mlp_prepare(m, p->max_rows);
        m->optimizer = next;
        HYB_TRY(status);
    }
    return hyb_mlp_refresh(m);
}

static float *step_forward(hyb_mlp *m, const float *x, size_t n) {
    m->training->has_gradients = 0;
    hyb_mlp_forward(m, m->training, x, n);
    return m->training->states[m->config.n_layers - 1].z;
}

static hyb_status step_backward(hyb_mlp *m, size_t n, double loss, hyb_gradient_statistics *statistics) {
    hyb_mlp_pass *p = m->training;
    if (!hyb_is_finite((float)loss)) return hyb_fail(m->ctx, HYB_ERROR_NOT_FINITE, "the loss is not finite");
    hyb_mlp_backward(m, p, n);
    HYB_TRY(hyb_tensors_gradient_norm(m->ctx, m->tensors, m->n_tensors, &p->gradient_norm));
    statistics->loss = loss;
    statistics->gradient_norm = p->gradient_norm;
    p->has_gradients = 1;
    return HYB_OK;
}

hyb_status hyb_mlp_gradients(hyb_mlp *mlp, const float *x, const float *values, const uint32_t *classes, size_t n_rows,
                             hyb_gradient_statistics *statistics) {
    if (mlp == NULL || x == NULL || statistics == NULL)
        return hyb_fail(mlp ? mlp->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "mlp, x and statistics must not be NULL");
    hyb_mlp_batch batch = {x, values, classes, n_rows};
    HYB_TRY(check_step(mlp, n_rows));
    HYB_TRY(hyb_mlp_check_batch(mlp, &batch));
    const float *z = step_forward(mlp, x, n_rows);
    double sum = hyb_mlp_batch_loss(mlp, mlp->training, z, &batch, 0, n_rows, n_rows);
    return step_backward(mlp, n_rows, sum / (double)n_rows, statistics);
}

hyb_status hyb_mlp_gradients_with(hyb_mlp *mlp, const float *x, size_t n_rows, hyb_mlp_loss_callback callback,
                                  void *user, hyb_gradient_statistics *statistics) {
    if (mlp == NULL || x == NULL || callback == NULL || statistics == NULL)
        return hyb_fail(mlp ? mlp->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "mlp, x, callback and statistics must not be NULL");
    HYB_TRY(check_step(mlp, n_rows));
    HYB_TRY(hyb_mlp_check_rows(mlp, "x", x, n_rows, hyb_mlp_inputs(mlp)));
    size_t n_out = hyb_mlp_outputs(mlp);
    const float *z = step_forward(mlp, x, n_rows);
    float *gradient = mlp->training->gradient;
    double loss = 0.0;
    memset(gradient, 0, n_rows * n_out * sizeof *gradient);
    if (callback(user, z, n_rows, n_out, gradient, &loss) != 0)
        return hyb_fail(mlp->ctx, HYB_ERROR_CANCELLED, "the loss gave up");
    HYB_TRY(hyb_mlp_check_rows(mlp, "the loss's gradient", gradient, n_rows, n_out));
    return step_backward(mlp, n_rows, loss, statistics);
}

/* ---- update ---- */

/* STATE unless there are gradients, and the state of AdamW (or else of a trust-region optimiser). */
static hyb_status update_begin(hyb_mlp *m, int adamw, hyb_update *update) {
    const hyb_mlp_pass *p = m->training;
    if (p == NULL || !p->has_gradients) return hyb_fail(m->ctx, HYB_ERROR_STATE, "call hyb_mlp_gradients first");
    if ((m->moments.optimizer == HYB_OPTIMIZER_ADAMW) != adamw)
        return hyb_fail(m->ctx, HYB_ERROR_STATE, "the network was prepared for %s: call hyb_mlp_%s",
                        adamw ? "a trust-region optimiser" : "AdamW", adamw ? "apply_trust_region" : "apply");
    hyb_moments_flush(m->ctx, m->tensors, m->n_tensors);
    *update = (hyb_update){.ctx = m->ctx,
                           .tensors = m->tensors,
                           .n_tensors = m->n_tensors,
                           .optimizer = m->moments.optimizer,
                           .gradient_norm = p->gradient_norm,
                           .next_codes = m->next_codes,
                           .work = &p->update,
                           .rows = p->work.rows,
                           .row_floats = p->work.row_floats};
    return HYB_OK;
}

static hyb_status update_end(hyb_mlp *m, const hyb_update *update, hyb_status status) {
    if (!update->began) return status;
    m->training->has_gradients = 0;
    m->stale = status != HYB_OK;
    return status;
}

hyb_status hyb_mlp_apply(hyb_mlp *mlp, const hyb_adamw *adamw, float clip_norm, hyb_update_statistics *statistics) {
    hyb_update update;
    if (mlp == NULL || adamw == NULL)
        return hyb_fail(mlp ? mlp->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "mlp and adamw must not be NULL");
    HYB_TRY(update_begin(mlp, 1, &update));
    return update_end(mlp, &update, hyb_update_adamw(&update, adamw, clip_norm, statistics));
}

hyb_status hyb_mlp_apply_trust_region(hyb_mlp *mlp, const hyb_trust_region *options, hyb_trust_statistics *statistics) {
    hyb_update update;
    if (mlp == NULL || options == NULL)
        return hyb_fail(mlp ? mlp->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "mlp and options must not be NULL");
    HYB_TRY(update_begin(mlp, 0, &update));
    return update_end(mlp, &update, hyb_update_trust_region(&update, options, statistics));
}

hyb_status hyb_mlp_alignment(hyb_mlp *mlp, double *cosine) {
    hyb_update update;
    if (mlp == NULL || cosine == NULL)
        return hyb_fail(mlp ? mlp->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "mlp and cosine must not be NULL");
    HYB_TRY(update_begin(mlp, 0, &update));
    *cosine = hyb_update_alignment(&update);
    return HYB_OK;
}

/* ---- inference ---- */

/* The network's own memory for inference; made again when the number of threads grew. */
static hyb_status inference_pass(hyb_mlp *m, hyb_mlp_pass **pass) {
    if (m->inference == NULL || m->inference->n_threads < m->ctx->options.n_threads) {
        hyb_mlp_pass_free(m, m->inference);
        m->inference = NULL;
        HYB_TRY(hyb_mlp_pass_create(m, INFERENCE_ROWS, 0, &m->inference));
    }
    *pass = m->inference;
    return hyb_mlp_refresh(m);
}

hyb_status hyb_mlp_predict(hyb_mlp *mlp, const float *x, size_t n_rows, float *outputs) {
    hyb_mlp_pass *pass;
    if (mlp == NULL || (n_rows > 0 && (x == NULL || outputs == NULL)))
        return hyb_fail(mlp ? mlp->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "mlp, x and outputs must not be NULL");
    size_t n_in = hyb_mlp_inputs(mlp), n_out = hyb_mlp_outputs(mlp);
    HYB_TRY(hyb_mlp_check_rows(mlp, "x", x, n_rows, n_in));
    HYB_TRY(inference_pass(mlp, &pass));
    for (size_t first = 0, n; first < n_rows; first += n) {
        n = hyb_min_size(INFERENCE_ROWS, n_rows - first);
        hyb_mlp_forward(mlp, pass, x + first * n_in, n);
        memcpy(outputs + first * n_out, pass->states[mlp->config.n_layers - 1].z, n * n_out * sizeof *outputs);
    }
    return HYB_OK;
}

hyb_status hyb_mlp_evaluate(hyb_mlp *mlp, const float *x, const float *values, const uint32_t *classes, size_t n_rows,
                            double *loss) {
    hyb_mlp_pass *pass;
    double sum = 0.0;
    if (mlp == NULL || x == NULL || loss == NULL)
        return hyb_fail(mlp ? mlp->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "mlp, x and loss must not be NULL");
    hyb_mlp_batch batch = {x, values, classes, n_rows};
    HYB_TRY(hyb_mlp_check_batch(mlp, &batch));
    HYB_TRY(inference_pass(mlp, &pass));
    for (size_t first = 0, n; first < n_rows; first += n) {
        n = hyb_min_size(INFERENCE_ROWS, n_rows - first);
        hyb_mlp_forward(mlp, pass, x + first * hyb_mlp_inputs(mlp), n);
        sum += hyb_mlp_batch_loss(mlp, pass, pass->states[mlp->config.n_layers - 1].z, &batch, first, n, 0);
    }
    if (!(sum <= 1e300)) return hyb_fail(mlp->ctx, HYB_ERROR_NOT_FINITE, "the loss is not finite");
    *loss = sum / (double)n_rows;
    return HYB_OK;
}
