/* update.c - an update of all tensors of a network: AdamW, or what trust_region.c does to one, for all of them; then
 * new codes and packed weights.
 */
#include <math.h>

#include "../trust_region.h"
#include "tensor.h"

/* Codes of the layers' matrices. */
typedef struct code_counts {
    uint64_t flipped, zeros, all;
} code_counts;

static double share_of(uint64_t part, uint64_t all) { return all ? (double)part / (double)all : 0.0; }

hyb_status hyb_optimizer_check(hyb_ctx *ctx, hyb_optimizer optimizer) {
    if ((int)optimizer >= HYB_OPTIMIZER_ADAMW && optimizer <= HYB_OPTIMIZER_L2) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "optimizer is %d, must be one of hyb_optimizer", (int)optimizer);
}

void hyb_update_layout(int optimizer, size_t max_rows, size_t matrix_values, size_t shorter_side, void *gemm_scratch,
                       hyb_arena *arena, hyb_update_work *work) {
    hyb_orthogonal_work *o = &work->orthogonal;
    o->gemm = gemm_scratch;
    if (optimizer == HYB_OPTIMIZER_ADAMW) return;
    o->rows = work->row_sums = hyb_arena_take(arena, max_rows, sizeof(double));
    if (optimizer != HYB_OPTIMIZER_SPECTRAL) return;
    o->next = hyb_take_floats(arena, matrix_values, 1);
    o->gram = hyb_take_floats(arena, shorter_side, shorter_side);
    o->factor = hyb_take_floats(arena, shorter_side, shorter_side);
    o->product = hyb_take_floats(arena, shorter_side, shorter_side);
    o->spare = hyb_take_floats(arena, shorter_side, shorter_side);
    work->direction = hyb_take_floats(arena, matrix_values, 1);
}

/* ---- AdamW ---- */

hyb_status hyb_update_adamw(hyb_update *u, const hyb_adamw *adamw, float clip_norm, hyb_update_statistics *statistics) {
    if (!(clip_norm >= 0.0f) || !hyb_is_finite(clip_norm))
        return hyb_fail(u->ctx, HYB_ERROR_INVALID_ARGUMENT, "clip_norm is %g, must be 0 (none) or more", clip_norm);
    hyb_adamw options = *adamw;
    if (clip_norm > 0.0f && u->gradient_norm > (double)clip_norm)
        options.gradient_scale *= (float)((double)clip_norm / u->gradient_norm);
    code_counts counts = {0, 0, 0};
    for (size_t i = 0; i < u->n_tensors; i++) {
        hyb_tensor *t = &u->tensors[i];
        options.weight_decay = t->is_linear ? adamw->weight_decay : 0.0f;
        hyb_status status = hyb_tensor_update(u->ctx, &options, t, u->next_codes, t->is_linear ? &counts.flipped : NULL,
                                              t->is_linear ? &counts.zeros : NULL);
        if (status == HYB_ERROR_INVALID_ARGUMENT) return status; /* the options: nothing changed */
        u->began = 1;
        HYB_TRY(status);
        if (t->is_linear && hyb_tensor_is_quantized(t)) counts.all += hyb_tensor_size(t);
    }
    if (statistics != NULL) {
        statistics->flipped_share = share_of(counts.flipped, counts.all);
        statistics->zero_share = share_of(counts.zeros, counts.all);
    }
    return HYB_OK;
}

/* ---- trust region ---- */

static hyb_trust_tensor trust_tensor(const hyb_tensor *t, hyb_magnitudes *magnitudes) {
    return (hyb_trust_tensor){.n_rows = t->n_rows,
                              .n_cols = t->n_cols,
                              .is_matrix = t->is_linear,
                              .gradient = t->gradient,
                              .weights = t->values,
                              .first_moment = t->first_moment,
                              .second_moment = t->second_moment,
                              .state = t->state,
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
    return (float)(radius / length * (1.0 - HYB_TRUST_MARGIN));
}

/* The root mean square of a tensor's weights. */
static double weights_rms(hyb_ctx *ctx, const hyb_tensor *t) {
    double squares = 0.0;
    (void)hyb_sum_squares(ctx, t->values, hyb_tensor_size(t), &squares);
    return sqrt(squares / (double)hyb_tensor_size(t));
}

static void update_tensor(const hyb_update *u, const hyb_trust_region *o, hyb_tensor *t, hyb_magnitudes *magnitudes,
                          float l2_factor, trust_scale *scale) {
    hyb_ctx *ctx = u->ctx;
    hyb_trust_tensor tensor = trust_tensor(t, magnitudes);
    if (u->optimizer == HYB_OPTIMIZER_L2) {
        hyb_trust_apply(ctx, &tensor, l2_factor);
    } else if (u->optimizer == HYB_OPTIMIZER_RMS) {
        double n = (double)hyb_tensor_size(t), rms = fmax(weights_rms(ctx, t), HYB_TRUST_SMALLEST_RMS);
        double squares = hyb_trust_adam_change(ctx, o, &tensor, u->work->row_sums);
        hyb_trust_apply(ctx, &tensor, shorten(scale, sqrt(squares / n) / rms, (double)o->radius));
    } else if (t->is_linear) {
        scale->n_balls++;
        scale->n_shortened += (size_t)hyb_trust_matrix_step(ctx, o, &tensor, u->work->direction, &u->work->orthogonal);
    } else {
        hyb_trust_vector_step(ctx, o, &tensor, t->is_gain, u->rows, u->row_floats);
    }
}

static double changes_norm(const hyb_update *u) {
    double total = 0.0, squares;
    for (size_t i = 0; i < u->n_tensors; i++) {
        const hyb_tensor *t = &u->tensors[i];
        if (t->is_linear && hyb_sum_squares(u->ctx, t->last_change, hyb_tensor_size(t), &squares) == HYB_OK)
            total += squares;
    }
    return sqrt(total);
}

hyb_status hyb_update_trust_region(hyb_update *u, const hyb_trust_region *given, hyb_trust_statistics *statistics) {
    hyb_ctx *ctx = u->ctx;
    hyb_trust_region options;
    HYB_TRY(hyb_trust_region_read(ctx, given, &options));
    trust_scale scale = {0.0, 0, 0};
    float l2_factor = 1.0f;
    code_counts counts = {0, 0, 0};
    if (u->optimizer == HYB_OPTIMIZER_L2) {
        for (size_t i = 0; i < u->n_tensors; i++) {
            hyb_trust_tensor tensor = trust_tensor(&u->tensors[i], NULL);
            scale.squares += hyb_trust_adam_change(ctx, &options, &tensor, u->work->row_sums);
        }
        l2_factor = shorten(&scale, sqrt(scale.squares), (double)options.radius);
    }
    u->began = 1;
    for (size_t i = 0; i < u->n_tensors; i++) {
        hyb_tensor *t = &u->tensors[i];
        hyb_magnitudes *magnitudes = hyb_tensor_magnitudes(ctx, t);
        if (magnitudes == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to quantise %s", t->name);
        update_tensor(u, &options, t, magnitudes, l2_factor, &scale);
        if (!hyb_tensor_is_quantized(t)) continue;
        HYB_TRY(hyb_tensor_quantize_with(ctx, t, magnitudes, u->next_codes, t->is_linear ? &counts.flipped : NULL,
                                         t->is_linear ? &counts.zeros : NULL));
        if (t->is_linear) counts.all += hyb_tensor_size(t);
    }
    if (statistics != NULL) {
        statistics->flipped_share = share_of(counts.flipped, counts.all);
        statistics->zero_share = share_of(counts.zeros, counts.all);
        statistics->change_norm = changes_norm(u);
        statistics->shortened_share = share_of(scale.n_shortened, scale.n_balls);
    }
    return HYB_OK;
}

double hyb_update_alignment(const hyb_update *u) {
    double products[3] = {0.0, 0.0, 0.0};
    for (size_t i = 0; i < u->n_tensors; i++) {
        const hyb_tensor *t = &u->tensors[i];
        if (t->is_linear) hyb_trust_products(u->ctx, t->gradient, t->last_change, hyb_tensor_size(t), products);
    }
    double lengths = sqrt(products[1]) * sqrt(products[2]);
    return lengths > 0.0 ? products[0] / lengths : 0.0;
}
