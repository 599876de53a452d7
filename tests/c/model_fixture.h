/* model_fixture.h - the small model of the tests of training steps, and the error of a result against binary64. */
#ifndef HYB_MODEL_FIXTURE_H
#define HYB_MODEL_FIXTURE_H

#include <math.h>

#include <hybrid/hybrid.h>

static inline hyb_language_model_config make_config(uint32_t n_layers, int format, int granularity) {
    hyb_language_model_config config = {.struct_size = sizeof config,
                                        .vocab_size = 40,
                                        .dim = 36,
                                        .n_layers = n_layers,
                                        .n_heads = 6,
                                        .n_kv_heads = 2,
                                        .ffn_dim = 50,
                                        .max_context = 32,
                                        .rope_theta = 10000.0f,
                                        .norm_epsilon = 1e-5f,
                                        .tied_embeddings = 1,
                                        .linear_format = format,
                                        .linear_granularity = granularity,
                                        .embedding_format = HYB_FORMAT_INT8};
    return config;
}

static inline double relative_error(const double *exact, const float *found, size_t n) {
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)found[i] - exact[i]) * ((double)found[i] - exact[i]);
        size += exact[i] * exact[i];
    }
    return sqrt(difference / size);
}

#endif
