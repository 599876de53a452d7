/* train_trust_region.c - a trust-region step of a language model: what trust_region.c does to a tensor, for all of
 * them.
 */
#include "language_model.h"
#include "trust_region.h"

/* Below this root mean square a tensor's own is no measure for its steps. */
#define SMALLEST_RMS 1e-3

static hyb_trust_tensor trust_tensor(const hyb_tensor *t, hyb_magnitudes *magnitudes) {
    return (hyb_trust_tensor){.n_rows = t->n_rows,
                              .n_cols = t->n_cols,
                              .is_matrix = t->is_linear,
                              .gradient = t->gradient,
                              .weights = t->values,
                              .first_moment = t->first_moment,
                              .second_moment = t->second_moment,
                              .change = t->last_change,
                              .row_moment = t->row_moment,
                              .spectral_bound = t->spectral_bound,
                              .row_multipliers = hyb_tensor_multipliers(t),
                              .magnitudes = magnitudes};
}

/* Euclidean lengths of Adam's changes and what the ball leaves of them. */
typedef struct trust_scale {
    double squares; /* of all changes, with L2 */
    size_t n_balls, n_shortened;
} trust_scale;

static float shorten(trust_scale *scale, double length, double radius) {
    scale->n_balls++;
    if (!(length > radius)) return 1.0f;
    scale->n_shortened++;
    return (float)(radius / length * (1.0 - 1e-6)); /* the rounding of the products stays inside */
}

/* The root mean square of a tensor's weights. */
static double weights_rms(hyb_ctx *ctx, const hyb_tensor *t) {
    double squares = 0.0;
    (void)hyb_sum_squares(ctx, t->values, hyb_tensor_size(t), &squares);
    return sqrt(squares / (double)hyb_tensor_size(t));
}

static void update_tensor(hyb_language_model *model, const hyb_trust_region *o, hyb_tensor *t,
                          hyb_magnitudes *magnitudes, float l2_factor, trust_scale *scale) {
    hyb_ctx *ctx = model->ctx;
    hyb_training *training = model->training;
    hyb_trust_tensor tensor = trust_tensor(t, magnitudes);
    if (model->moments_optimizer == HYB_OPTIMIZER_L2) {
        hyb_trust_apply(ctx, &tensor, l2_factor);
    } else if (model->moments_optimizer == HYB_OPTIMIZER_RMS) {
        double n = (double)hyb_tensor_size(t), rms = fmax(weights_rms(ctx, t), SMALLEST_RMS);
        double squares = hyb_trust_adam_change(ctx, o, &tensor, training->row_sums);
        hyb_trust_apply(ctx, &tensor, shorten(scale, sqrt(squares / n) / rms, (double)o->radius));
    } else if (t->is_linear) {
        scale->n_balls++;
        scale->n_shortened +=
            (size_t)hyb_trust_matrix_step(ctx, o, &tensor, training->direction, &training->orthogonal);
    } else {
        int is_gain = t != model->embedding && t != model->head;
        hyb_trust_vector_step(ctx, o, &tensor, is_gain, training->work.rows, training->work.row_floats);
    }
}

static double changes_norm(hyb_language_model *model) {
    double total = 0.0, squares;
    for (size_t i = 0; i < model->n_tensors; i++) {
        const hyb_tensor *t = &model->tensors[i];
        if (t->is_linear && hyb_sum_squares(model->ctx, t->last_change, hyb_tensor_size(t), &squares) == HYB_OK)
            total += squares;
    }
    return sqrt(total);
}

hyb_status hyb_language_model_apply_trust_region(hyb_language_model *model, const hyb_trust_region *given,
                                                 hyb_trust_statistics *statistics) {
    if (model == NULL || given == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "model and options must not be NULL");
    hyb_ctx *ctx = model->ctx;
    hyb_trust_region options;
    HYB_TRY(hyb_trust_region_read(ctx, given, &options));
    HYB_TRY(hyb_check_update(model, 0));
    trust_scale scale = {0.0, 0, 0};
    float l2_factor = 1.0f;
    uint64_t flipped = 0, zeros = 0, linear = 0;
    if (model->moments_optimizer == HYB_OPTIMIZER_L2) {
        for (size_t i = 0; i < model->n_tensors; i++) {
            hyb_trust_tensor tensor = trust_tensor(&model->tensors[i], NULL);
            scale.squares += hyb_trust_adam_change(ctx, &options, &tensor, model->training->row_sums);
        }
        l2_factor = shorten(&scale, sqrt(scale.squares), (double)options.radius);
    }
    model->training->has_gradients = 0;
    model->stale = 1; /* until the last tensor is done */
    model->training->int8.current = 0;
    for (size_t i = 0; i < model->n_tensors; i++) {
        hyb_tensor *t = &model->tensors[i];
        hyb_magnitudes *magnitudes = hyb_tensor_magnitudes(ctx, t);
        if (magnitudes == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to quantise %s", t->name);
        update_tensor(model, &options, t, magnitudes, l2_factor, &scale);
        if (!hyb_tensor_is_quantized(t)) continue;
        HYB_TRY(hyb_tensor_quantize_with(ctx, t, magnitudes, model->next_codes, t->is_linear ? &flipped : NULL,
                                         t->is_linear ? &zeros : NULL));
        if (t->is_linear) linear += hyb_tensor_size(t);
    }
    model->stale = 0;
    if (statistics != NULL) {
        statistics->flipped_share = linear ? (double)flipped / (double)linear : 0.0;
        statistics->zero_share = linear ? (double)zeros / (double)linear : 0.0;
        statistics->change_norm = changes_norm(model);
        statistics->shortened_share = scale.n_balls ? (double)scale.n_shortened / (double)scale.n_balls : 0.0;
    }
    return HYB_OK;
}

hyb_status hyb_language_model_alignment(hyb_language_model *model, double *cosine) {
    double products[3] = {0.0, 0.0, 0.0};
    if (model == NULL || cosine == NULL)
        return hyb_fail(model ? model->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "model and cosine must not be NULL");
    HYB_TRY(hyb_check_update(model, 0));
    for (size_t i = 0; i < model->n_tensors; i++) {
        const hyb_tensor *t = &model->tensors[i];
        if (t->is_linear) hyb_trust_products(model->ctx, t->gradient, t->last_change, hyb_tensor_size(t), products);
    }
    double lengths = sqrt(products[1]) * sqrt(products[2]);
    *cosine = lengths > 0.0 ? products[0] / lengths : 0.0;
    return HYB_OK;
}
