/* mlp_pass.c - a perceptron's forward pass and the way back, over the memory that is laid out here.
 *
 * Per layer z = W n + b, with n the quantised (and normalised) hidden rows. The way back passes the quantisers straight
 * through:  dW = dz^T n (TN product),  dn = dz W (NN product), both fp32 with the dequantised n and W of the forward
 * pass: small outputs' gradients would vanish in int8, and a perceptron's products are small.
 */
#include "mlp.h"

/* ---- memory ---- */

static size_t widest(const hyb_mlp *m) {
    size_t most = 0;
    for (uint32_t i = 0; i <= m->config.n_layers; i++)
        if (m->config.sizes[i] > most) most = m->config.sizes[i];
    return most;
}

static void layout_states(const hyb_mlp *m, size_t n, hyb_arena *arena, hyb_mlp_pass *p) {
    for (uint32_t l = 0; l < m->config.n_layers; l++) {
        const hyb_mlp_layer *layer = &m->layers[l];
        hyb_mlp_state *s = &p->states[l];
        size_t n_in = m->config.sizes[l];
        s->hidden = l > 0 ? hyb_take_floats(arena, n, n_in) : NULL;
        s->rms = layer->gain ? hyb_take_floats(arena, n, 1) : NULL;
        hyb_take_input(arena, layer->weight->quantizer.format, layer->gain != NULL, n, n_in, s->hidden, &s->input);
        s->z = hyb_take_floats(arena, n, m->config.sizes[l + 1]);
    }
}

static void layout_training(const hyb_mlp *m, size_t n, hyb_arena *arena, hyb_mlp_pass *p) {
    size_t wide = widest(m), values = 0, shorter = 0;
    for (uint32_t l = 0; l < m->config.n_layers; l++) {
        const hyb_tensor *w = m->layers[l].weight;
        size_t side = hyb_min_size(w->n_rows, w->n_cols);
        if (hyb_tensor_size(w) > values) values = hyb_tensor_size(w);
        if (side > shorter) shorter = side;
    }
    p->d_z = hyb_take_floats(arena, n, wide);
    p->d_input = hyb_take_floats(arena, n, wide);
    p->d_hidden = hyb_take_floats(arena, n, wide);
    p->unused = hyb_take_floats(arena, p->n_threads, p->work.row_floats);
    p->partials = hyb_take_floats(arena, hyb_norm_chunks(n, n), wide);
    p->work.input_values = hyb_take_floats(arena, n, wide);
    p->work.effective = hyb_take_floats(arena, values, 1);
    p->work.gemm_scratch = hyb_arena_take(arena, 1, hyb_gemm_scratch_bytes(m->ctx));
    hyb_update_layout(m->optimizer, wide, values, shorter, p->work.gemm_scratch, arena, &p->update);
    p->work.training = 1;
}

static void layout(const hyb_mlp *m, int training, hyb_arena *arena, hyb_mlp_pass *p) {
    size_t n = p->max_rows, wide = widest(m);
    p->work.row_floats = hyb_round_up(wide, 16);
    p->work.rows = hyb_take_floats(arena, p->n_threads, p->work.row_floats);
    p->work.matmul_scratch = hyb_arena_take(arena, 1, hyb_matmul_scratch_bytes(m->ctx, wide));
    p->ones = hyb_take_floats(arena, n > wide ? n : wide, 1);
    p->losses = hyb_arena_take(arena, n, sizeof *p->losses);
    p->gradient = hyb_take_floats(arena, n, hyb_mlp_outputs(m));
    layout_states(m, n, arena, p);
    if (training) layout_training(m, n, arena, p);
    for (size_t i = 0; p->ones != NULL && i < (n > wide ? n : wide); i++) p->ones[i] = 1.0f;
}

hyb_status hyb_mlp_pass_create(hyb_mlp *m, size_t n_rows, int training, hyb_mlp_pass **pass) {
    hyb_ctx *ctx = m->ctx;
    hyb_arena arena = {NULL, 0, 0};
    hyb_mlp_pass *p = hyb_alloc_zeroed(ctx, 1, sizeof *p);
    if (p == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a pass");
    p->max_rows = n_rows;
    p->n_threads = ctx->options.n_threads;
    layout(m, training, &arena, p);
    p->memory = arena.base = arena.overflow ? NULL : hyb_alloc(ctx, 1, arena.used);
    if (arena.base == NULL) {
        hyb_free(ctx, p);
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %zu rows at once (%zu bytes)", n_rows, arena.used);
    }
    arena.used = 0;
    layout(m, training, &arena, p);
    *pass = p;
    return HYB_OK;
}

void hyb_mlp_pass_free(hyb_mlp *m, hyb_mlp_pass *pass) {
    if (pass == NULL) return;
    hyb_free(m->ctx, pass->memory);
    hyb_free(m->ctx, pass);
}

/* ---- rows of activations ---- */

typedef struct row_loop {
    const hyb_mlp *mlp;
    const hyb_mlp_pass *pass;
    uint32_t layer;
    size_t n;
    float *rows; /* of the way back: receives dz */
} row_loop;

static void for_rows(const hyb_mlp *m, const hyb_mlp_pass *p, uint32_t layer, size_t n, float *rows, hyb_task task) {
    row_loop loop = {m, p, layer, n, rows};
    hyb_parallel(m->ctx, hyb_ceil_div(n, HYB_TOKENS_PER_TASK), task, &loop);
}

static void bias_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    const hyb_tensor *bias = loop->mlp->layers[loop->layer].bias;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n);
    (void)worker;
    for (size_t i = first; i < end; i++)
        memcpy(loop->pass->states[loop->layer].z + i * bias->n_cols, bias->values, bias->n_cols * sizeof(float));
}

static void activate(const hyb_mlp *m, const hyb_mlp_pass *p, const float *z, size_t n, float *out) {
    if (m->config.activation == HYB_ACTIVATION_SILU)
        m->ctx->kernels.gated_silu(z, p->ones, n, out);
    else if (m->config.activation == HYB_ACTIVATION_SQUARED_RELU)
        m->ctx->kernels.gated_relu2(z, p->ones, n, out);
    else /* a NaN stays a NaN */
        for (size_t i = 0; i < n; i++) out[i] = 0.0f > z[i] ? 0.0f : z[i];
}

/* Hidden rows in front of a layer from the z behind which they lie. */
static void hidden_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    const hyb_mlp *m = loop->mlp;
    const hyb_mlp_state *before = &loop->pass->states[loop->layer - 1];
    size_t n_cols = m->config.sizes[loop->layer];
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n);
    (void)worker;
    for (size_t i = first; i < end; i++) {
        float *hidden = loop->pass->states[loop->layer].hidden + i * n_cols;
        activate(m, loop->pass, before->z + i * n_cols, n_cols, hidden);
        if (m->layers[loop->layer - 1].residual) m->ctx->kernels.add_f32(hidden, before->hidden + i * n_cols, n_cols);
    }
}

void hyb_mlp_forward(hyb_mlp *m, hyb_mlp_pass *p, const float *x, size_t n) {
    for (uint32_t l = 0; l < m->config.n_layers; l++) {
        const hyb_mlp_layer *layer = &m->layers[l];
        hyb_mlp_state *s = &p->states[l];
        if (l > 0) for_rows(m, p, l, n, NULL, hidden_task);
        if (l == 0 && !hyb_tensor_is_quantized(layer->weight)) s->input.x = (float *)(uintptr_t)x; /* read only */
        hyb_source source = {.x = l > 0 ? s->hidden : x};
        hyb_input_forward(m->ctx, &source, layer->gain, m->config.norm_epsilon, s->rms, n, m->config.sizes[l], &p->work,
                          &s->input);
        for_rows(m, p, l, n, NULL, bias_task);
        hyb_linear_forward(m->ctx, layer->weight, &s->input, n, &p->work, 1, s->z);
    }
}

/* ---- the way back ---- */

/* dz of the layer before from d_hidden. */
static void activation_backward_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    const hyb_mlp_pass *p = loop->pass;
    const hyb_kernels *kernels = &loop->mlp->ctx->kernels;
    size_t n_cols = loop->mlp->config.sizes[loop->layer + 1];
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n);
    float *unused = p->unused + worker * p->work.row_floats;
    for (size_t i = first; i < end; i++) {
        const float *z = p->states[loop->layer].z + i * n_cols, *dout = p->d_hidden + i * n_cols;
        float *dz = loop->rows + i * n_cols;
        if (loop->mlp->config.activation == HYB_ACTIVATION_SILU)
            kernels->gated_silu_backward(z, p->ones, dout, n_cols, dz, unused);
        else if (loop->mlp->config.activation == HYB_ACTIVATION_SQUARED_RELU)
            kernels->gated_relu2_backward(z, p->ones, dout, n_cols, dz, unused);
        else
            for (size_t c = 0; c < n_cols; c++) dz[c] = z[c] > 0.0f ? dout[c] : 0.0f;
    }
}

static void add_task(void *argument, size_t index, size_t worker) {
    const row_loop *loop = argument;
    size_t n_cols = loop->mlp->config.sizes[loop->layer], at = index * HYB_TOKENS_PER_TASK * n_cols;
    size_t n = hyb_min_size(HYB_TOKENS_PER_TASK, loop->n - index * HYB_TOKENS_PER_TASK) * n_cols;
    (void)worker;
    loop->mlp->ctx->kernels.add_f32(loop->pass->d_hidden + at, loop->pass->d_input + at, n);
}

static void swap(float **a, float **b) {
    float *other = *a;
    *a = *b;
    *b = other;
}

/* Gradients of a layer's matrix and bias from dz. */
static void layer_gradients(hyb_mlp *m, hyb_mlp_pass *p, uint32_t l, size_t n, const float *dz) {
    const hyb_mlp_layer *layer = &m->layers[l];
    size_t n_in = m->config.sizes[l], n_out = m->config.sizes[l + 1];
    const float *rows = hyb_training_input(m->ctx, layer->weight, &p->states[l].input, n, &p->work);
    hyb_gemm_parallel(m->ctx, HYB_GEMM_TN, n_out, n_in, n, dz, n_out, rows, n_in, 0, layer->weight->gradient, n_in,
                      p->work.gemm_scratch);
    hyb_gemm_parallel(m->ctx, HYB_GEMM_TN, 1, n_out, n, p->ones, 1, dz, n_out, 0, layer->bias->gradient, n_out,
                      p->work.gemm_scratch);
}

/* d_hidden of the rows in front of layer l from dz behind it; d_hidden holds that of the rows behind it. */
static void hidden_gradient(hyb_mlp *m, hyb_mlp_pass *p, uint32_t l, size_t n, const float *dz) {
    const hyb_mlp_layer *layer = &m->layers[l];
    size_t n_in = m->config.sizes[l], n_out = m->config.sizes[l + 1];
    const float *weights = hyb_training_weights(m->ctx, layer->weight, &p->work);
    hyb_gemm_parallel(m->ctx, HYB_GEMM_NN, n, n_in, n_out, dz, n_out, weights, n_in, 0, p->d_input, n_in,
                      p->work.gemm_scratch);
    if (layer->gain != NULL) {
        hyb_norm_backward_job job = {.x = p->states[l].hidden, .rms = p->states[l].rms, .gain = layer->gain};
        job.dy = p->d_input;
        job.dx = layer->residual ? p->d_hidden : NULL;
        job.n = job.scope = n;
        job.partials = p->partials;
        job.rows = p->work.rows;
        job.row_floats = p->work.row_floats;
        hyb_norm_backward(m->ctx, &job);
    } else if (layer->residual) {
        for_rows(m, p, l, n, NULL, add_task);
    }
    if (!layer->residual) swap(&p->d_input, &p->d_hidden);
}

void hyb_mlp_backward(hyb_mlp *m, hyb_mlp_pass *p, size_t n) {
    const float *dz = p->gradient;
    for (uint32_t l = m->config.n_layers; l-- > 0;) {
        layer_gradients(m, p, l, n, dz);
        if (l == 0) break;
        hidden_gradient(m, p, l, n, dz);
        for_rows(m, p, l - 1, n, p->d_z, activation_backward_task);
        dz = p->d_z;
    }
}
