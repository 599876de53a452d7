/* language_model.c - a model's life: configuration, parameters, creation, memory estimate, destruction.
 *
 * Training is in train.c, evaluation and generation in session.c and generate.c, the file in model_file.c, the
 * arithmetic in nn/.
 */
#include "language_model.h"

#include <stdio.h>

#include "math_f64.h"

/* ---- configuration ---- */

static const hyb_language_model_config default_config = {
    .struct_size = sizeof(hyb_language_model_config),
    .vocab_size = 256,
    .dim = 128,
    .n_layers = 4,
    .n_heads = 4,
    .n_kv_heads = 4,
    .ffn_dim = 384,
    .max_context = 256,
    .rope_theta = 10000.0f,
    .norm_epsilon = 1e-5f,
    .activation = HYB_ACTIVATION_SILU,
    .tied_embeddings = 1,
    .linear_format = HYB_FORMAT_TERNARY,
    .embedding_format = HYB_FORMAT_INT8,
};

static hyb_status check_range(hyb_ctx *ctx, const char *name, uint64_t value, uint64_t low, uint64_t high) {
    if (value >= low && value <= high) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%s is %llu, must be %llu to %llu", name,
                    (unsigned long long)value, (unsigned long long)low, (unsigned long long)high);
}

static hyb_status check_enum(hyb_ctx *ctx, const char *name, int32_t value, int32_t last) {
    if (value >= 0 && value <= last) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "%s is %d, must be 0 to %d", name, (int)value, (int)last);
}

static hyb_status check_heads(hyb_ctx *ctx, const hyb_language_model_config *c) {
    HYB_TRY(check_range(ctx, "n_heads", c->n_heads, 1, c->dim));
    HYB_TRY(check_range(ctx, "n_kv_heads", c->n_kv_heads, 1, c->n_heads));
    if (c->dim % c->n_heads != 0 || c->dim / c->n_heads % 2 != 0 || c->dim / c->n_heads > 256)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "dim %u with n_heads %u: dim / n_heads must be an even whole number of at most 256", c->dim,
                        c->n_heads);
    if (c->n_heads % c->n_kv_heads != 0)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_kv_heads %u must divide n_heads %u", c->n_kv_heads,
                        c->n_heads);
    return HYB_OK;
}

hyb_status hyb_config_read(hyb_ctx *ctx, const hyb_language_model_config *given, hyb_language_model_config *config) {
    *config = default_config;
    HYB_TRY(hyb_read_struct(ctx, "hyb_language_model_config", config, given, sizeof *config));
    config->struct_size = sizeof *config;
    HYB_TRY(check_range(ctx, "vocab_size", config->vocab_size, 1, 1u << 24));
    HYB_TRY(check_range(ctx, "dim", config->dim, 1, HYB_MATMUL_MAX_COLS));
    HYB_TRY(check_range(ctx, "n_layers", config->n_layers, 1, 1024));
    HYB_TRY(check_heads(ctx, config));
    HYB_TRY(check_range(ctx, "ffn_dim", config->ffn_dim, 1, HYB_MATMUL_MAX_COLS));
    HYB_TRY(check_range(ctx, "max_context", config->max_context, 1, 1u << 20));
    if (!(config->rope_theta > 1.0f) || !hyb_is_finite(config->rope_theta))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "rope_theta is %g, must be above 1", config->rope_theta);
    if (!(config->norm_epsilon > 0.0f) || !hyb_is_finite(config->norm_epsilon))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "norm_epsilon is %g, must be above 0", config->norm_epsilon);
    HYB_TRY(check_enum(ctx, "activation", config->activation, HYB_ACTIVATION_SQUARED_RELU));
    HYB_TRY(check_enum(ctx, "sub_norms", config->sub_norms, 1));
    HYB_TRY(check_enum(ctx, "tied_embeddings", config->tied_embeddings, 1));
    HYB_TRY(check_enum(ctx, "linear_format", config->linear_format, HYB_FORMAT_INT8));
    HYB_TRY(check_enum(ctx, "linear_granularity", config->linear_granularity, HYB_SCALE_PER_ROW));
    HYB_TRY(check_enum(ctx, "linear_threshold", config->linear_threshold, HYB_THRESHOLD_THREE_OF_FOUR));
    if (config->linear_threshold == HYB_THRESHOLD_THREE_OF_FOUR && (config->dim % 4 != 0 || config->ffn_dim % 4 != 0))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "dim %u, ffn_dim %u: both must be multiples of 4 for linear_threshold 2 (three of four)",
                        config->dim, config->ffn_dim);
    return check_enum(ctx, "embedding_format", config->embedding_format, HYB_FORMAT_INT8);
}

hyb_status hyb_language_model_config_check(hyb_ctx *ctx, const hyb_language_model_config *config) {
    hyb_language_model_config checked;
    if (ctx == NULL || config == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "ctx and config must not be NULL");
    return hyb_config_read(ctx, config, &checked);
}

hyb_status hyb_language_model_get_config(const hyb_language_model *model, hyb_language_model_config *config) {
    if (model == NULL || config == NULL || config->struct_size < sizeof(size_t))
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "config->struct_size must be sizeof(hyb_language_model_config)");
    size_t size = hyb_min_size(config->struct_size, sizeof *config), given = config->struct_size;
    memcpy(config, &model->config, size);
    config->struct_size = given;
    return HYB_OK;
}

/* ---- the list of tensors ---- */

typedef struct tensor_plan {
    const hyb_language_model_config *config;
    hyb_tensor *tensors; /* NULL: only count */
    size_t n;
} tensor_plan;

static hyb_tensor *plan(tensor_plan *p, int layer, const char *name, size_t n_rows, size_t n_cols, int kind) {
    const hyb_language_model_config *c = p->config;
    size_t index = p->n++;
    if (p->tensors == NULL) return NULL;
    hyb_tensor *t = &p->tensors[index];
    memset(t, 0, sizeof *t);
    if (layer < 0)
        (void)snprintf(t->name, sizeof t->name, "%s", name);
    else
        (void)snprintf(t->name, sizeof t->name, "blk.%d.%s", layer, name);
    t->n_rows = (uint32_t)n_rows;
    t->n_cols = (uint32_t)n_cols;
    t->is_linear = kind == HYB_TENSOR_LINEAR;
    t->is_gain = kind == HYB_TENSOR_GAIN;
    if (kind == HYB_TENSOR_LINEAR)
        t->quantizer = (hyb_quantizer){c->linear_format, c->linear_granularity, c->linear_threshold, 0.0f};
    else if (kind == HYB_TENSOR_EMBEDDING)
        t->quantizer = (hyb_quantizer){c->embedding_format, HYB_SCALE_PER_ROW, HYB_THRESHOLD_ABSMEAN, 0.0f};
    t->n_scales = !hyb_tensor_is_quantized(t) ? 0 : t->quantizer.granularity == HYB_SCALE_PER_ROW ? n_rows : 1;
    return t;
}

/* The tensors in the order of the file. With tensors NULL only counts; layers may then be NULL. */
size_t hyb_tensors_plan(const hyb_language_model_config *c, hyb_tensor *tensors, hyb_layer *layers,
                        hyb_language_model *model) {
    tensor_plan p = {c, tensors, 0};
    size_t dim = c->dim, kv_dim = dim / c->n_heads * c->n_kv_heads, width = c->ffn_dim;
    hyb_tensor *embedding = plan(&p, -1, "embedding", c->vocab_size, dim, HYB_TENSOR_EMBEDDING), *head = embedding;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        hyb_layer unused, *layer = layers ? &layers[l] : &unused;
        int i = (int)l;
        memset(layer, 0, sizeof *layer);
        layer->attn_norm = plan(&p, i, "attn_norm", 1, dim, HYB_TENSOR_GAIN);
        layer->attn_q = plan(&p, i, "attn_q", dim, dim, HYB_TENSOR_LINEAR);
        layer->attn_k = plan(&p, i, "attn_k", kv_dim, dim, HYB_TENSOR_LINEAR);
        layer->attn_v = plan(&p, i, "attn_v", kv_dim, dim, HYB_TENSOR_LINEAR);
        if (c->sub_norms) layer->attn_sub_norm = plan(&p, i, "attn_sub_norm", 1, dim, HYB_TENSOR_GAIN);
        layer->attn_output = plan(&p, i, "attn_output", dim, dim, HYB_TENSOR_LINEAR);
        layer->ffn_norm = plan(&p, i, "ffn_norm", 1, dim, HYB_TENSOR_GAIN);
        layer->ffn_gate = plan(&p, i, "ffn_gate", width, dim, HYB_TENSOR_LINEAR);
        layer->ffn_up = plan(&p, i, "ffn_up", width, dim, HYB_TENSOR_LINEAR);
        if (c->sub_norms) layer->ffn_sub_norm = plan(&p, i, "ffn_sub_norm", 1, width, HYB_TENSOR_GAIN);
        layer->ffn_down = plan(&p, i, "ffn_down", dim, width, HYB_TENSOR_LINEAR);
    }
    hyb_tensor *final_norm = plan(&p, -1, "final_norm", 1, dim, HYB_TENSOR_GAIN);
    if (!c->tied_embeddings) head = plan(&p, -1, "head", c->vocab_size, dim, HYB_TENSOR_EMBEDDING);
    if (model != NULL) {
        model->embedding = embedding;
        model->final_norm = final_norm;
        model->head = head;
    }
    return p.n;
}

/* ---- sizes ---- */

hyb_status hyb_language_model_count(hyb_ctx *ctx, const hyb_language_model_config *given, uint64_t *n_parameters,
                                    uint64_t *n_linear_parameters) {
    hyb_language_model_config c;
    if (ctx == NULL || given == NULL || n_parameters == NULL || n_linear_parameters == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "no argument may be NULL");
    HYB_TRY(hyb_config_read(ctx, given, &c));
    uint64_t dim = c.dim, kv_dim = dim / c.n_heads * c.n_kv_heads, width = c.ffn_dim;
    uint64_t linear = c.n_layers * (2 * dim * dim + 2 * kv_dim * dim + 3 * width * dim);
    uint64_t gains = c.n_layers * (2 * dim + (c.sub_norms ? dim + width : 0)) + dim;
    *n_linear_parameters = linear;
    *n_parameters = linear + gains + (c.tied_embeddings ? 1u : 2u) * (uint64_t)c.vocab_size * dim;
    return HYB_OK;
}

static hyb_status read_kind(hyb_ctx *ctx, const hyb_training_kind *given, hyb_training_kind *kind) {
    *kind = (hyb_training_kind){sizeof *kind, HYB_BACKWARD_INT8, HYB_OPTIMIZER_ADAMW, 0, 32};
    HYB_TRY(hyb_read_struct(ctx, "hyb_training_kind", kind, given, sizeof *kind));
    HYB_TRY(hyb_backward_check(ctx, (hyb_backward)kind->backward));
    HYB_TRY(hyb_optimizer_check(ctx, (hyb_optimizer)kind->optimizer));
    HYB_TRY(check_enum(ctx, "blends", kind->blends, 1));
    return hyb_state_bits_check(ctx, kind->state_bits);
}

hyb_status hyb_language_model_memory_for(hyb_ctx *ctx, const hyb_language_model_config *given,
                                         const hyb_training_kind *given_kind, size_t n_sequences, size_t n_context,
                                         uint64_t *weight_bytes, uint64_t *training_bytes) {
    hyb_language_model_config c;
    hyb_training_kind kind;
    if (ctx == NULL || given == NULL || given_kind == NULL || weight_bytes == NULL || training_bytes == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "no argument may be NULL");
    HYB_TRY(read_kind(ctx, given_kind, &kind));
    HYB_TRY(hyb_config_read(ctx, given, &c));
    int trainable = n_sequences != 0 && n_context != 0;
    if (trainable) HYB_TRY(hyb_training_check(ctx, &c, n_sequences, n_context));
    size_t n = hyb_tensors_plan(&c, NULL, NULL, NULL);
    hyb_tensor *tensors = hyb_alloc(ctx, n, sizeof *tensors);
    if (tensors == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %zu tensor names", n);
    hyb_layer *layers = hyb_alloc(ctx, c.n_layers, sizeof *layers);
    if (layers == NULL) {
        hyb_free(ctx, tensors);
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %u layers", c.n_layers);
    }
    hyb_arena arena = {NULL, 0, 0};
    hyb_tensors_plan(&c, tensors, layers, NULL);
    size_t packed = hyb_tensors_layout(tensors, n, trainable, &arena);
    *weight_bytes = (uint64_t)arena.used + packed;
    *training_bytes = 0;
    if (trainable) {
        hyb_arena steps = {NULL, 0, 0};
        hyb_training training = {.memory = NULL};
        hyb_moments_layout(tensors, n, kind.optimizer, kind.state_bits == 8, &steps);
        hyb_training_layout(&c, ctx, kind.backward, kind.optimizer, kind.blends, n_sequences, n_context, &steps,
                            &training);
        *training_bytes = steps.used;
        arena.overflow |= steps.overflow;
    }
    hyb_free(ctx, layers);
    hyb_free(ctx, tensors);
    if (arena.overflow)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "this model needs more memory than this machine can address");
    return HYB_OK;
}

hyb_status hyb_language_model_memory(hyb_ctx *ctx, const hyb_language_model_config *given, size_t n_sequences,
                                     size_t n_context, uint64_t *weight_bytes, uint64_t *training_bytes) {
    hyb_training_kind usual = {sizeof usual, HYB_BACKWARD_INT8, HYB_OPTIMIZER_ADAMW, 0, 32};
    return hyb_language_model_memory_for(ctx, given, &usual, n_sequences, n_context, weight_bytes, training_bytes);
}

/* ---- creation ---- */

hyb_status hyb_model_alloc(hyb_ctx *ctx, const hyb_language_model_config *config, int trainable,
                           hyb_language_model **out) {
    hyb_language_model *m = hyb_alloc_zeroed(ctx, 1, sizeof *m);
    if (m == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a model");
    m->ctx = ctx;
    m->config = *config;
    m->head_dim = config->dim / config->n_heads;
    m->kv_dim = m->head_dim * config->n_kv_heads;
    m->trainable = trainable;
    m->n_tensors = hyb_tensors_plan(config, NULL, NULL, NULL);
    m->tensors = hyb_alloc_zeroed(ctx, m->n_tensors, sizeof *m->tensors);
    m->layers = hyb_alloc_zeroed(ctx, config->n_layers, sizeof *m->layers);
    hyb_arena arena = {NULL, 0, 0};
    if (m->tensors == NULL || m->layers == NULL) goto out_of_memory;
    hyb_tensors_plan(config, m->tensors, m->layers, m);
    (void)hyb_tensors_layout(m->tensors, m->n_tensors, trainable, &arena);
    if (arena.overflow) goto out_of_memory;
    m->parameter_memory = arena.base = hyb_alloc_zeroed(ctx, 1, arena.used);
    if (arena.base == NULL) goto out_of_memory;
    arena.used = 0;
    (void)hyb_tensors_layout(m->tensors, m->n_tensors, trainable, &arena);
    *out = m;
    return HYB_OK;
out_of_memory:
    hyb_language_model_destroy(m);
    return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a model of %u layers of width %u (%zu bytes)",
                    config->n_layers, config->dim, arena.used);
}

/* Standard deviation of a tensor's initial values; 0 for a gain, which begins at 1. */
static double initial_deviation(const hyb_language_model *m, const hyb_tensor *t) {
    if (!t->is_linear) return t == m->embedding || t == m->head ? 0.02 : 0.0;
    const char *name = strrchr(t->name, '.');
    double deviation = 1.0 / sqrt((double)t->n_cols);
    if (strcmp(name, ".attn_output") == 0 || strcmp(name, ".ffn_down") == 0)
        deviation /= sqrt(2.0 * (double)m->config.n_layers);
    return deviation;
}

hyb_status hyb_model_default_tokenizer(hyb_language_model *m) {
    hyb_tokenizer_description d = {.struct_size = sizeof d, .kind = HYB_TOKENIZER_BYTES, .vocab_size = 256};
    uint32_t none[2] = {0, 0};
    if (m->config.vocab_size < 256) {
        d.kind = HYB_TOKENIZER_DECODE_ONLY;
        d.vocab_size = 1;
        d.offsets = none;
        d.bytes = (const uint8_t *)"";
    }
    return hyb_tokenizer_create(m->ctx, &d, &m->tokenizer);
}

hyb_status hyb_language_model_create(hyb_ctx *ctx, const hyb_language_model_config *given, uint64_t seed,
                                     hyb_language_model **model) {
    hyb_language_model_config config;
    hyb_language_model *m = NULL;
    if (ctx == NULL || given == NULL || model == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "no argument may be NULL");
    HYB_TRY(hyb_config_read(ctx, given, &config));
    HYB_TRY(hyb_model_alloc(ctx, &config, 1, &m));
    hyb_status status = hyb_tensors_add_packed(ctx, m->tensors, m->n_tensors, &m->next_codes);
    if (status == HYB_OK) status = hyb_model_default_tokenizer(m);
    if (status != HYB_OK) {
        hyb_language_model_destroy(m);
        return status;
    }
    for (size_t i = 0; i < m->n_tensors; i++) {
        hyb_tensor *t = &m->tensors[i];
        double deviation = initial_deviation(m, t);
        if (deviation > 0.0)
            hyb_draw_normal(hyb_hash64(seed) + ((uint64_t)i << 40), hyb_tensor_size(t), deviation, t->values);
        else
            for (size_t c = 0; c < t->n_cols; c++) t->values[c] = 1.0f;
    }
    m->stale = 1;
    *model = m;
    return HYB_OK;
}

void hyb_language_model_destroy(hyb_language_model *model) {
    if (model == NULL) return;
    hyb_ctx *ctx = model->ctx;
    hyb_session_destroy(model->evaluation);
    hyb_training_free(model);
    hyb_tokenizer_destroy(model->tokenizer);
    for (size_t i = 0; model->tensors != NULL && i < model->n_tensors; i++)
        hyb_weights_destroy(model->tensors[i].packed);
    hyb_free(ctx, model->metadata);
    hyb_free(ctx, model->next_codes);
    hyb_free(ctx, model->cosines);
    hyb_moments_free(ctx, &model->moments);
    hyb_free(ctx, model->parameter_memory);
    hyb_free(ctx, model->layers);
    hyb_free(ctx, model->tensors);
    hyb_free(ctx, model);
}

/* ---- rotary tables ---- */

hyb_status hyb_model_rotary(hyb_language_model *m, size_t n_positions) {
    if (n_positions <= m->n_positions) return HYB_OK;
    size_t half = m->head_dim / 2, size = n_positions * half;
    float *tables = hyb_alloc(m->ctx, 3 * size, sizeof *tables);
    if (tables == NULL)
        return hyb_fail(m->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for rotary tables of %zu positions", n_positions);
    double log_theta = hyb_log_f64((double)m->config.rope_theta);
    for (size_t i = 0; i < half; i++) {
        double frequency = hyb_exp_f64(-(double)(2 * i) / (double)m->head_dim * log_theta);
        for (size_t p = 0; p < n_positions; p++) {
            double angle = (double)p * frequency;
            tables[p * half + i] = (float)hyb_cos_f64(angle);
            tables[size + p * half + i] = (float)hyb_sin_f64(angle);
            tables[2 * size + p * half + i] = -tables[size + p * half + i];
        }
    }
    hyb_free(m->ctx, m->cosines);
    m->cosines = tables;
    m->sines = tables + size;
    m->minus_sines = tables + 2 * size;
    m->n_positions = n_positions;
    return HYB_OK;
}

/* ---- quantisation of master weights ---- */

hyb_status hyb_model_refresh(hyb_language_model *m, uint64_t *n_flipped, uint64_t *n_zeros) {
    if (!m->stale) return HYB_OK;
    HYB_TRY(hyb_tensors_quantize(m->ctx, m->tensors, m->n_tensors, m->next_codes, n_flipped, n_zeros));
    m->stale = 0;
    if (m->training != NULL) m->training->int8.current = 0;
    return HYB_OK;
}

/* ---- access ---- */

const hyb_tokenizer *hyb_language_model_tokenizer(const hyb_language_model *model) {
    return model ? model->tokenizer : NULL;
}

hyb_status hyb_language_model_set_tokenizer(hyb_language_model *model, const hyb_tokenizer *tokenizer) {
    if (model == NULL || tokenizer == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "model and tokenizer must not be NULL");
    hyb_ctx *ctx = model->ctx;
    if (hyb_tokenizer_vocab_size(tokenizer) > model->config.vocab_size)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "the tokenizer has %u tokens, the model only %u",
                        hyb_tokenizer_vocab_size(tokenizer), model->config.vocab_size);
    size_t n = 0;
    hyb_tokenizer *copy = NULL;
    (void)hyb_tokenizer_serialize(tokenizer, NULL, 0, &n);
    uint8_t *bytes = hyb_alloc(ctx, n, 1);
    if (bytes == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a tokenizer of %zu bytes", n);
    hyb_status status = hyb_tokenizer_serialize(tokenizer, bytes, n, &n);
    if (status == HYB_OK) status = hyb_tokenizer_deserialize(ctx, bytes, n, &copy);
    hyb_free(ctx, bytes);
    if (status != HYB_OK) return status;
    hyb_tokenizer_destroy(model->tokenizer);
    model->tokenizer = copy;
    return HYB_OK;
}

const char *hyb_language_model_metadata(const hyb_language_model *model, size_t *n_bytes) {
    if (n_bytes != NULL) *n_bytes = model ? model->metadata_bytes : 0;
    return model && model->metadata ? model->metadata : "";
}

size_t hyb_language_model_parameter_count(const hyb_language_model *model) { return model ? model->n_tensors : 0; }

static hyb_status check_index(hyb_language_model *model, size_t index, const void *out) {
    if (model == NULL || out == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "model and result must not be NULL");
    if (index >= model->n_tensors)
        return hyb_fail(model->ctx, HYB_ERROR_INVALID_ARGUMENT, "parameter index %zu, the model has %zu", index,
                        model->n_tensors);
    return HYB_OK;
}

hyb_status hyb_language_model_parameter(hyb_language_model *model, size_t index, hyb_parameter *parameter) {
    HYB_TRY(check_index(model, index, parameter));
    hyb_tensor_describe(&model->tensors[index], parameter);
    return HYB_OK;
}

hyb_status hyb_language_model_parameter_state(hyb_language_model *model, size_t index, hyb_state_8bit *state) {
    HYB_TRY(check_index(model, index, state));
    *state = model->tensors[index].state;
    return HYB_OK;
}

hyb_status hyb_language_model_effective(hyb_language_model *model, size_t index, float *values) {
    HYB_TRY(check_index(model, index, values));
    HYB_TRY(hyb_model_refresh(model, NULL, NULL));
    hyb_tensor_effective(model->ctx, &model->tensors[index], 0.0f, values);
    return HYB_OK;
}

hyb_status hyb_language_model_touch(hyb_language_model *model) {
    if (model == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (!model->trainable) return hyb_fail(model->ctx, HYB_ERROR_STATE, "a loaded model has no master weights");
    model->stale = 1;
    hyb_tensors_touch(model->tensors, model->n_tensors);
    return HYB_OK;
}
