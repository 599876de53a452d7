/* mlp.c - a perceptron's life: configuration, parameters, creation, destruction.
 *
 * Passes are in mlp_pass.c, losses in mlp_loss.c, the training step in mlp_train.c, the arithmetic in nn/.
 */
#include "mlp.h"

#include <math.h>
#include <stdio.h>

/* ---- configuration ---- */

static const hyb_mlp_config default_config = {
    .struct_size = sizeof(hyb_mlp_config),
    .loss = HYB_LOSS_MSE,
    .activation = HYB_ACTIVATION_RELU,
    .norm = HYB_MLP_NORM_RESIDUAL,
    .residual = 1,
    .norm_epsilon = 1e-5f,
    .format = HYB_FORMAT_TERNARY,
    .granularity = HYB_SCALE_PER_TENSOR,
    .threshold = HYB_THRESHOLD_ABSMEAN,
    .first_format = -1,
    .last_format = -1,
};

static hyb_status check_range(hyb_ctx *ctx, const char *name, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%s is %lld, must be %lld to %lld", name, (long long)value,
                    (long long)low, (long long)high);
}

hyb_status hyb_mlp_config_read(hyb_ctx *ctx, const hyb_mlp_config *given, hyb_mlp_config *c) {
    *c = default_config;
    HYB_TRY(hyb_read_struct(ctx, "hyb_mlp_config", c, given, sizeof *c));
    HYB_TRY(check_range(ctx, "n_layers", c->n_layers, 1, HYB_MLP_MAX_LAYERS));
    for (uint32_t i = 0; i <= c->n_layers; i++) {
        char name[24];
        (void)snprintf(name, sizeof name, "sizes[%u]", i);
        HYB_TRY(check_range(ctx, name, c->sizes[i], 1, HYB_MATMUL_MAX_COLS));
    }
    memset(c->sizes + c->n_layers + 1, 0, (HYB_MLP_MAX_LAYERS - c->n_layers) * sizeof *c->sizes);
    HYB_TRY(check_range(ctx, "loss", c->loss, 0, HYB_LOSS_CROSS_ENTROPY));
    HYB_TRY(check_range(ctx, "activation", c->activation, 0, HYB_ACTIVATION_RELU));
    HYB_TRY(check_range(ctx, "norm", c->norm, 0, HYB_MLP_NORM_NONE));
    HYB_TRY(check_range(ctx, "residual", c->residual, 0, 1));
    if (!(c->norm_epsilon > 0.0f) || !hyb_is_finite(c->norm_epsilon))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "norm_epsilon is %g, must be above 0",
                        (double)c->norm_epsilon);
    HYB_TRY(check_range(ctx, "format", c->format, 0, HYB_FORMAT_INT8));
    HYB_TRY(check_range(ctx, "granularity", c->granularity, 0, HYB_SCALE_PER_ROW));
    HYB_TRY(check_range(ctx, "threshold", c->threshold, 0, HYB_THRESHOLD_LLOYD));
    HYB_TRY(check_range(ctx, "first_format", c->first_format, -1, HYB_FORMAT_INT8));
    return check_range(ctx, "last_format", c->last_format, -1, HYB_FORMAT_INT8);
}

hyb_status hyb_mlp_config_check(hyb_ctx *ctx, const hyb_mlp_config *config) {
    hyb_mlp_config checked;
    if (ctx == NULL || config == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "ctx and config must not be NULL");
    return hyb_mlp_config_read(ctx, config, &checked);
}

hyb_status hyb_mlp_get_config(const hyb_mlp *mlp, hyb_mlp_config *config) {
    if (mlp == NULL || config == NULL || config->struct_size < sizeof(size_t))
        return hyb_fail(mlp ? mlp->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "config->struct_size must be sizeof(hyb_mlp_config)");
    size_t given = config->struct_size;
    memcpy(config, &mlp->config, hyb_min_size(given, sizeof *config));
    config->struct_size = given;
    return HYB_OK;
}

/* ---- the list of tensors ---- */

static int is_residual(const hyb_mlp_config *c, uint32_t layer) {
    return c->residual && layer > 0 && layer + 1 < c->n_layers && c->sizes[layer] == c->sizes[layer + 1];
}

static int has_norm(const hyb_mlp_config *c, uint32_t layer) {
    return c->norm == HYB_MLP_NORM_HIDDEN ? layer > 0 : c->norm == HYB_MLP_NORM_RESIDUAL && is_residual(c, layer);
}

static int32_t layer_format(const hyb_mlp_config *c, uint32_t layer) {
    int32_t own = layer == 0 ? c->first_format : layer + 1 == c->n_layers ? c->last_format : -1;
    return own >= 0 ? own : c->format;
}

static hyb_tensor *plan(hyb_mlp *m, uint32_t layer, const char *name, uint32_t n_rows, uint32_t n_cols) {
    hyb_tensor *t = &m->tensors[m->n_tensors++];
    (void)snprintf(t->name, sizeof t->name, "layer.%u.%s", layer, name);
    t->n_rows = n_rows;
    t->n_cols = n_cols;
    return t;
}

static void plan_tensors(hyb_mlp *m) {
    const hyb_mlp_config *c = &m->config;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        hyb_mlp_layer *layer = &m->layers[l];
        uint32_t n_in = c->sizes[l], n_out = c->sizes[l + 1];
        layer->residual = is_residual(c, l);
        if (has_norm(c, l)) {
            layer->gain = plan(m, l, "gain", 1, n_in);
            layer->gain->is_gain = 1;
        }
        layer->weight = plan(m, l, "weight", n_out, n_in);
        layer->weight->is_linear = 1;
        layer->weight->quantizer = (hyb_quantizer){layer_format(c, l), c->granularity, c->threshold, 0.0f};
        if (hyb_tensor_is_quantized(layer->weight))
            layer->weight->n_scales = c->granularity == HYB_SCALE_PER_ROW ? n_out : 1;
        layer->bias = plan(m, l, "bias", 1, n_out);
    }
}

/* ---- creation ---- */

static hyb_status parameters_alloc(hyb_mlp *m, int trainable) {
    hyb_arena arena = {NULL, 0, 0};
    (void)hyb_tensors_layout(m->tensors, m->n_tensors, trainable, &arena);
    m->parameter_memory = arena.base = arena.overflow ? NULL : hyb_alloc_zeroed(m->ctx, 1, arena.used);
    if (arena.base == NULL)
        return hyb_fail(m->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a network of %u layers (%zu bytes)",
                        m->config.n_layers, arena.used);
    arena.used = 0;
    (void)hyb_tensors_layout(m->tensors, m->n_tensors, trainable, &arena);
    return hyb_tensors_add_packed(m->ctx, m->tensors, m->n_tensors, trainable ? &m->next_codes : NULL);
}

hyb_status hyb_mlp_alloc(hyb_ctx *ctx, const hyb_mlp_config *config, int trainable, hyb_mlp **mlp) {
    hyb_mlp *m = hyb_alloc_zeroed(ctx, 1, sizeof *m);
    if (m == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a network");
    m->ctx = ctx;
    m->config = *config;
    m->trainable = trainable;
    m->tensors = hyb_alloc_zeroed(ctx, (size_t)3 * config->n_layers, sizeof *m->tensors);
    hyb_status status = HYB_OK;
    if (m->tensors == NULL) {
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a network's list of tensors");
    } else {
        plan_tensors(m);
        status = parameters_alloc(m, trainable);
    }
    if (status != HYB_OK)
        hyb_mlp_destroy(m);
    else
        *mlp = m;
    return status;
}

/* Standard deviation of layer l's initial weights. */
static double initial_deviation(const hyb_mlp *m, uint32_t l) {
    double n_residual = 0.0, n_cols = (double)m->config.sizes[l];
    if (l + 1 == m->config.n_layers) return 1.0 / sqrt(n_cols);
    for (uint32_t i = 0; i < m->config.n_layers; i++) n_residual += m->layers[i].residual;
    return sqrt(2.0 / n_cols / (m->layers[l].residual ? n_residual : 1.0));
}

hyb_status hyb_mlp_create(hyb_ctx *ctx, const hyb_mlp_config *given, uint64_t seed, hyb_mlp **mlp) {
    hyb_mlp_config config;
    hyb_mlp *m = NULL;
    if (ctx == NULL || given == NULL || mlp == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "no argument may be NULL");
    HYB_TRY(hyb_mlp_config_read(ctx, given, &config));
    HYB_TRY(hyb_mlp_alloc(ctx, &config, 1, &m));
    for (uint32_t l = 0; l < config.n_layers; l++) {
        hyb_tensor *weight = m->layers[l].weight, *gain = m->layers[l].gain;
        hyb_draw_normal(hyb_hash64(seed) + ((uint64_t)l << 40), hyb_tensor_size(weight), initial_deviation(m, l),
                        weight->values);
        for (size_t c = 0; gain != NULL && c < gain->n_cols; c++) gain->values[c] = 1.0f;
    }
    m->stale = 1;
    *mlp = m;
    return HYB_OK;
}

void hyb_mlp_destroy(hyb_mlp *mlp) {
    if (mlp == NULL) return;
    hyb_ctx *ctx = mlp->ctx;
    hyb_mlp_pass_free(mlp, mlp->inference);
    hyb_mlp_pass_free(mlp, mlp->training);
    for (size_t i = 0; i < mlp->n_tensors; i++) hyb_weights_destroy(mlp->tensors[i].packed);
    hyb_moments_free(ctx, &mlp->moments);
    hyb_free(ctx, mlp->metadata);
    hyb_free(ctx, mlp->next_codes);
    hyb_free(ctx, mlp->parameter_memory);
    hyb_free(ctx, mlp->tensors);
    hyb_free(ctx, mlp);
}

hyb_status hyb_mlp_refresh(hyb_mlp *mlp) {
    if (!mlp->stale) return HYB_OK;
    HYB_TRY(hyb_tensors_quantize(mlp->ctx, mlp->tensors, mlp->n_tensors, mlp->next_codes, NULL, NULL));
    mlp->stale = 0;
    return HYB_OK;
}

/* ---- access ---- */

size_t hyb_mlp_parameter_count(const hyb_mlp *mlp) { return mlp ? mlp->n_tensors : 0; }

static hyb_status check_index(hyb_mlp *mlp, size_t index, const void *out) {
    if (mlp == NULL || out == NULL)
        return hyb_fail(mlp ? mlp->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "network and result must not be NULL");
    if (index < mlp->n_tensors) return HYB_OK;
    return hyb_fail(mlp->ctx, HYB_ERROR_INVALID_ARGUMENT, "parameter index %zu, the network has %zu", index,
                    mlp->n_tensors);
}

hyb_status hyb_mlp_parameter(hyb_mlp *mlp, size_t index, hyb_parameter *parameter) {
    HYB_TRY(check_index(mlp, index, parameter));
    hyb_tensor_describe(&mlp->tensors[index], parameter);
    return HYB_OK;
}

hyb_status hyb_mlp_effective(hyb_mlp *mlp, size_t index, float *values) {
    HYB_TRY(check_index(mlp, index, values));
    HYB_TRY(hyb_mlp_refresh(mlp));
    hyb_tensor_effective(mlp->ctx, &mlp->tensors[index], 0.0f, values);
    return HYB_OK;
}

hyb_status hyb_mlp_touch(hyb_mlp *mlp) {
    if (mlp == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (!mlp->trainable) return hyb_fail(mlp->ctx, HYB_ERROR_STATE, "a loaded network has no master weights");
    mlp->stale = 1;
    hyb_tensors_touch(mlp->tensors, mlp->n_tensors);
    return HYB_OK;
}
