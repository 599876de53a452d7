/* mlp_fixture.h - the small perceptrons of the tests, rows to learn from, and a few steps of training. */
#ifndef HYB_MLP_FIXTURE_H
#define HYB_MLP_FIXTURE_H

#include "testing.h"

#include <math.h>

#include <hybrid/hybrid.h>

#include "tier_context.h"

enum { ROWS = 23, MOST = 48 };

static inline hyb_mlp_config make_config(uint32_t n_layers, const uint32_t *sizes, int loss, int format) {
    hyb_mlp_config config = {.struct_size = sizeof config, .n_layers = n_layers, .loss = loss, .format = format};
    memcpy(config.sizes, sizes, (n_layers + 1) * sizeof *sizes);
    config.activation = HYB_ACTIVATION_RELU;
    config.residual = 1;
    config.norm_epsilon = 1e-5f;
    config.first_format = config.last_format = -1;
    return config;
}

static const uint32_t deep_sizes[] = {11, 20, 20, 20, 9, 5};

/* Five layers, the two in the middle residual. */
static inline hyb_mlp_config deep_config(int loss, int format) { return make_config(5, deep_sizes, loss, format); }

typedef struct rows {
    float x[ROWS * MOST], values[ROWS * MOST];
    uint32_t classes[ROWS];
} rows;

static inline void fill_rows(rows *r, size_t n_out) {
    uint64_t state = 3;
    for (size_t i = 0; i < ROWS * MOST; i++) {
        r->x[i] = test_random_float(&state);
        r->values[i] = fabsf(test_random_float(&state));
    }
    for (size_t i = 0; i < ROWS; i++) r->classes[i] = (uint32_t)test_random_below(&state, n_out);
}

static inline hyb_status train(hyb_mlp *mlp, hyb_optimizer optimizer, const rows *r, int steps, double *first,
                               double *last) {
    hyb_adamw adamw = {.learning_rate = 5e-3f, .beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1e-8f, .gradient_scale = 1.0f};
    hyb_trust_region trust;
    hyb_trust_region_defaults(&trust);
    trust.learning_rate = trust.radius = optimizer == HYB_OPTIMIZER_L2 ? 0.3f : 0.05f;
    if (optimizer != HYB_OPTIMIZER_SPECTRAL) trust.learning_rate = 5e-3f;
    hyb_status status = hyb_mlp_set_optimizer(mlp, optimizer);
    if (status == HYB_OK) status = hyb_mlp_prepare(mlp, ROWS);
    for (int step = 1; status == HYB_OK && step <= steps; step++) {
        hyb_gradient_statistics statistics = {0};
        status = hyb_mlp_gradients(mlp, r->x, NULL, r->classes, ROWS, &statistics);
        adamw.step = trust.step = (uint64_t)step;
        if (status == HYB_OK)
            status = optimizer == HYB_OPTIMIZER_ADAMW ? hyb_mlp_apply(mlp, &adamw, 1.0f, NULL)
                                                      : hyb_mlp_apply_trust_region(mlp, &trust, NULL);
        if (step == 1) *first = statistics.loss;
        *last = statistics.loss;
    }
    return status;
}

#endif /* HYB_MLP_FIXTURE_H */
