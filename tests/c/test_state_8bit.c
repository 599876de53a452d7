/* test_state_8bit.c - an optimiser's moments in 8 bits: what a code may be away from its value, that values are kept on
 * average, that updates follow those of fp32 moments, and the language model's state: its bytes, its steps, its errors.
 */
#include "testing.h"

#include <math.h>

#include "model_fixture.h"
#include "tier_context.h"

#define BLOCK HYB_STATE_BLOCK

typedef struct state {
    size_t n;
    float *gradient, *weights, *scales;
    uint8_t *codes;
    hyb_state_8bit at;
} state;

static state state_make(size_t n, uint64_t seed) {
    size_t blocks = (n + BLOCK - 1) / BLOCK;
    state s = {n,
               malloc(n * sizeof(float)),
               malloc(n * sizeof(float)),
               calloc(2 * blocks, sizeof(float)),
               calloc(2 * n, 1),
               {NULL, NULL, NULL, NULL}};
    s.at = (hyb_state_8bit){s.codes, s.scales, s.codes + n, s.scales + blocks};
    for (size_t i = 0; i < n; ++i) {
        s.weights[i] = test_random_float(&seed);
        s.gradient[i] = test_random_float(&seed);
    }
    return s;
}
static void state_free(state s) {
    free(s.gradient);
    free(s.weights);
    free(s.scales);
    free(s.codes);
}

/* ---- codes ---- */

static void test_round_trip(hyb_ctx *ctx) {
    enum { ROWS = 7, COLS = 611, N = ROWS * COLS, BLOCKS = 3 };
    static float x[N], y[N], scales[ROWS * BLOCKS];
    static uint8_t codes[N];
    uint64_t seed = 9;
    for (int moment = 0; moment < 2; ++moment) {
        for (int i = 0; i < N; ++i) {
            x[i] = test_random_float(&seed) * ldexpf(1.0f, -(int)test_random_below(&seed, 50));
            if (moment == 1) x[i] = fabsf(x[i]);
            if (i / COLS == 3) x[i] = 0.0f; /* a row of zeros */
            if (i % 10 == 0) x[i] = 0.0f;
        }
        CHECK_OK(hyb_state_encode(ctx, (hyb_moment)moment, ROWS, COLS, x, 77, codes, scales));
        CHECK_OK(hyb_state_decode(ctx, (hyb_moment)moment, ROWS, COLS, codes, scales, y));
        for (int i = 0; i < N; ++i) {
            float largest = 0.0f, error = fabsf(y[i] - x[i]);
            int row = i / COLS, first = row * COLS + i % COLS / BLOCK * BLOCK;
            for (int j = first; j < (row + 1) * COLS && j < first + BLOCK; ++j) largest = fmaxf(largest, fabsf(x[j]));
            if (moment == 0)
                CHECK(error <= 1.0001f * fmaxf(largest / 3952.0f, fabsf(x[i]) / 16.0f + largest / 3952.0f));
            if (moment == 0 && x[i] == 0.0f) CHECK(y[i] == 0.0f);
            if (moment == 1 && largest == 0.0f) CHECK(y[i] == 0.0f);
            if (moment == 1 && largest > 0.0f) {
                float least = largest / 1.57e7f;
                CHECK(y[i] > 0.0f && error <= 1.0001f * fmaxf(x[i] / 8.0f, least));
            }
            if (fabsf(x[i]) == largest) CHECK(error <= 1e-6f * largest);
        }
    }
}

/* The mean of many roundings is the value. */
static void test_mean(hyb_ctx *ctx) {
    enum { TRIES = 4000 };
    static double sum[BLOCK];
    float x[BLOCK], y[BLOCK], scale;
    uint8_t codes[BLOCK];
    for (int moment = 0; moment < 2; ++moment) {
        for (int i = 0; i < BLOCK; ++i) {
            x[i] = i == 0 ? 1.0f : 0.9f * (float)i / BLOCK * (i % 2 ? 0.01f : 1.0f);
            sum[i] = 0.0;
        }
        for (uint32_t t = 0; t < TRIES; ++t) {
            CHECK_OK(hyb_state_encode(ctx, (hyb_moment)moment, 1, BLOCK, x, t * 7919u, codes, &scale));
            CHECK_OK(hyb_state_decode(ctx, (hyb_moment)moment, 1, BLOCK, codes, &scale, y));
            for (int i = 0; i < BLOCK; ++i) sum[i] += (double)y[i];
        }
        /* A rounding's deviation is at most half a step: 1/16 of the value, or 1/7904 near 0. Five of the mean's. */
        for (int i = 0; i < BLOCK; ++i)
            CHECK(fabs(sum[i] / TRIES - (double)x[i]) <= 5.0 / sqrt(TRIES) * fmax((double)x[i] / 16, 1.0 / 7904));
    }
}

static void test_extremes(hyb_ctx *ctx) {
    float x[2 * BLOCK] = {0}, y[2 * BLOCK], scales[2];
    uint8_t codes[2 * BLOCK];
    static const float sizes[] = {1e-45f, 1e-40f, 1e-38f, 1e-30f, 1e-20f, 1e20f, 3e38f, 3.4e38f, INFINITY};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s) {
        x[0] = sizes[s];
        x[1] = sizes[s] / 2;
        for (int moment = 0; moment < 2; ++moment) {
            CHECK_OK(hyb_state_encode(ctx, (hyb_moment)moment, 1, 2 * BLOCK, x, 5, codes, scales));
            CHECK_OK(hyb_state_decode(ctx, (hyb_moment)moment, 1, 2 * BLOCK, codes, scales, y));
            for (int i = 0; i < 2 * BLOCK; ++i) CHECK(isfinite(y[i]) && y[i] >= 0.0f);
            if (sizes[s] > 1e-28f) CHECK(fabsf(y[0] / fminf(sizes[s], 3e38f) - 1.0f) < 1e-6f);
            if (moment == 1) CHECK(y[0] >= fminf(sizes[s], 2.99e38f));
            CHECK(y[BLOCK] == 0.0f); /* another block */
        }
    }
    x[3] = NAN;
    x[0] = x[1] = 1.0f;
    for (int moment = 0; moment < 2; ++moment) {
        CHECK_OK(hyb_state_encode(ctx, (hyb_moment)moment, 1, 2 * BLOCK, x, 5, codes, scales));
        CHECK_OK(hyb_state_decode(ctx, (hyb_moment)moment, 1, 2 * BLOCK, codes, scales, y));
        CHECK(isnan(y[0]) && isnan(y[3]) && isnan(y[BLOCK - 1]) && y[BLOCK] == 0.0f);
    }
}

/* ---- AdamW ---- */

/* A long run of noisy gradients whose size falls by 10 half way: the second moment follows, though a step moves it by a
 * thousandth and a code's neighbour is an eighth away; and the weights go where those of fp32 moments go. */
static void test_follows(hyb_ctx *ctx) {
    enum { N = 1000, STEPS = 3000 };
    static float first[N], second[N], weights[N], decoded[N];
    state s = state_make(N, 4);
    uint64_t seed = 8;
    double ratio = 0.0, difference = 0.0, distance = 0.0;
    memcpy(weights, s.weights, sizeof weights);
    memset(first, 0, sizeof first);
    memset(second, 0, sizeof second);
    for (uint64_t t = 1; t <= STEPS; ++t) {
        hyb_adamw options = {1e-3f, 0.95f, 0.999f, 1e-8f, 0.0f, 1.0f, t};
        for (int i = 0; i < N; ++i)
            s.gradient[i] = (test_random_float(&seed) + 0.1f) * (t > STEPS / 2 && i % 2 == 0 ? 0.1f : 1.0f);
        CHECK_OK(hyb_adamw_update(ctx, &options, N, s.gradient, weights, first, second));
        CHECK_OK(hyb_adamw_update_8bit(ctx, &options, N, s.gradient, s.weights, &s.at));
    }
    CHECK_OK(hyb_state_decode(ctx, HYB_MOMENT_SECOND, 1, N, s.at.second_codes, s.at.second_scales, decoded));
    for (int i = 0; i < N; ++i) {
        ratio += (double)decoded[i] / (double)second[i] / N;
        CHECK(decoded[i] > second[i] / 4 && decoded[i] < second[i] * 4);
        difference += fabs((double)s.weights[i] - (double)weights[i]) / N;
        distance += fabs((double)weights[i]) / N;
    }
    printf("second moments: %.3f of fp32's on average; weights %.3f apart, %.3f long\n", ratio, difference, distance);
    CHECK(ratio > 0.95 && ratio < 1.05);
    CHECK(difference < 0.05 * distance);
    state_free(s);
}

/* Steps stay bounded where a block's gradients differ by any factor: nothing is divided by a second moment of 0. */
static void test_no_explosion(hyb_ctx *ctx) {
    enum { N = 300 };
    state s = state_make(N, 4);
    uint64_t seed = 6;
    float before[N];
    for (uint64_t t = 1; t <= 50; ++t) {
        hyb_adamw options = {1e-3f, 0.9f, 0.95f, 1e-30f, 0.0f, 1.0f, t};
        for (int i = 0; i < N; ++i) s.gradient[i] = test_random_float(&seed) * ldexpf(1.0f, -i / 6);
        s.gradient[17] = 0.0f;
        memcpy(before, s.weights, sizeof before);
        CHECK_OK(hyb_adamw_update_8bit(ctx, &options, N, s.gradient, s.weights, &s.at));
        for (int i = 0; i < N; ++i) CHECK(fabsf(s.weights[i] - before[i]) < 0.005f);
        CHECK(s.weights[17] == before[17]);
    }
    state_free(s);
}

/* The bits depend neither on the number of threads nor, where the arithmetic is exact, on the instruction set. */
static void test_threads(void) {
    static const size_t sizes[] = {1, 255, 256, 257, 32768, 100003};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; ++k) {
        state s[2];
        size_t n = sizes[k], blocks = (n + BLOCK - 1) / BLOCK;
        for (uint32_t i = 0; i < 2; ++i) {
            hyb_ctx *ctx = make_ctx(0, 1 + 2 * i);
            s[i] = state_make(n, 5);
            for (uint64_t t = 1; t <= 3; ++t) {
                hyb_adamw options = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.5f, t};
                CHECK_OK(hyb_adamw_update_8bit(ctx, &options, n, s[i].gradient, s[i].weights, &s[i].at));
            }
            hyb_ctx_destroy(ctx);
        }
        CHECK(memcmp(s[0].weights, s[1].weights, n * sizeof(float)) == 0);
        CHECK(memcmp(s[0].codes, s[1].codes, 2 * n) == 0);
        CHECK(memcmp(s[0].scales, s[1].scales, 2 * blocks * sizeof(float)) == 0);
        state_free(s[0]);
        state_free(s[1]);
    }
}

static void test_errors(hyb_ctx *ctx) {
    state s = state_make(300, 1);
    hyb_adamw options = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.5f, 1};
    hyb_state_8bit none = s.at;
    CHECK_STATUS(hyb_adamw_update_8bit(NULL, &options, 300, s.gradient, s.weights, &s.at), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_adamw_update_8bit(ctx, NULL, 300, s.gradient, s.weights, &s.at), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_adamw_update_8bit(ctx, &options, 300, NULL, s.weights, &s.at), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_adamw_update_8bit(ctx, &options, 300, s.gradient, NULL, &s.at), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_adamw_update_8bit(ctx, &options, 300, s.gradient, s.weights, NULL), HYB_ERROR_INVALID_ARGUMENT);
    none.second_scales = NULL;
    CHECK_STATUS(hyb_adamw_update_8bit(ctx, &options, 300, s.gradient, s.weights, &none), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_adamw_update_8bit(ctx, &options, 0, NULL, NULL, NULL));
    options.step = 0;
    CHECK_STATUS(hyb_adamw_update_8bit(ctx, &options, 300, s.gradient, s.weights, &s.at), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_state_encode(ctx, (hyb_moment)2, 1, 300, s.gradient, 0, s.codes, s.scales),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_state_encode(ctx, HYB_MOMENT_FIRST, SIZE_MAX, 3, s.gradient, 0, s.codes, s.scales),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_state_encode(ctx, HYB_MOMENT_FIRST, 1, 300, NULL, 0, s.codes, s.scales),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_state_decode(ctx, HYB_MOMENT_FIRST, 1, 300, NULL, s.scales, s.weights),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_state_decode(ctx, HYB_MOMENT_SECOND, 1, 300, s.codes, NULL, s.weights),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_state_decode(NULL, HYB_MOMENT_SECOND, 1, 300, s.codes, s.scales, s.weights),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_state_decode(ctx, HYB_MOMENT_SECOND, 0, 300, NULL, NULL, NULL));
    state_free(s);
}

/* ---- the language model ---- */

static hyb_status step(hyb_language_model *model, int optimizer, uint64_t number) {
    hyb_adamw adamw = {5e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, number};
    hyb_trust_region trust;
    hyb_trust_region_defaults(&trust);
    trust.learning_rate = optimizer == HYB_OPTIMIZER_SPECTRAL ? 0.05f : 5e-3f;
    trust.radius = optimizer == HYB_OPTIMIZER_L2 ? 1.0f : 0.05f;
    trust.step = number;
    return optimizer == HYB_OPTIMIZER_ADAMW ? hyb_language_model_apply(model, &adamw, 1.0f, NULL)
                                            : hyb_language_model_apply_trust_region(model, &trust, NULL);
}

/* Loss behind some steps; a hash of all weights and codes. */
static double train(uint32_t isa_mask, uint32_t n_threads, int optimizer, int bits, uint64_t *hash) {
    enum { SEQUENCES = 4, CONTEXT = 24, STEPS = 30 };
    hyb_ctx *ctx = make_ctx(isa_mask, n_threads);
    hyb_language_model_config config = make_config(2, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
    hyb_language_model *model = NULL;
    hyb_gradient_statistics found = {0};
    uint32_t tokens[SEQUENCES * (CONTEXT + 1)];
    for (uint32_t i = 0; i < SEQUENCES * (CONTEXT + 1); ++i) tokens[i] = i * i % 7 + i % 3;
    CHECK_OK(hyb_language_model_create(ctx, &config, 3, &model));
    CHECK_OK(hyb_language_model_set_optimizer(model, (hyb_optimizer)optimizer));
    CHECK_OK(hyb_language_model_set_state_bits(model, bits));
    CHECK_OK(hyb_language_model_prepare(model, SEQUENCES, CONTEXT));
    for (uint64_t t = 1; t <= STEPS; ++t) {
        CHECK_OK(hyb_language_model_gradients(model, tokens, SEQUENCES, CONTEXT, &found));
        CHECK_OK(step(model, optimizer, t));
    }
    *hash = 0;
    for (size_t i = 0; i < hyb_language_model_parameter_count(model); ++i) {
        hyb_parameter p;
        hyb_state_8bit s;
        CHECK_OK(hyb_language_model_parameter(model, i, &p));
        CHECK_OK(hyb_language_model_parameter_state(model, i, &s));
        size_t n = (size_t)p.n_rows * p.n_cols;
        CHECK((p.first_moment == NULL) == (bits == 8) && (s.first_codes == NULL) == (bits == 32));
        CHECK((s.first_scales == NULL) == (bits == 32) && (s.second_scales == NULL) == (s.second_codes == NULL));
        for (size_t j = 0; j < n; ++j) {
            uint32_t w;
            memcpy(&w, &p.values[j], sizeof w);
            *hash = *hash * 6364136223846793005u + w;
            if (bits == 8) *hash = *hash * 6364136223846793005u + s.first_codes[j];
        }
    }
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
    return found.loss;
}

static void test_model(void) {
    for (int optimizer = HYB_OPTIMIZER_ADAMW; optimizer <= HYB_OPTIMIZER_L2; ++optimizer) {
        uint64_t hash[4];
        double full = train(0, 1, optimizer, 32, &hash[0]), coded = train(0, 1, optimizer, 8, &hash[1]);
        double threads = train(0, 3, optimizer, 8, &hash[2]),
               scalar = train(HYB_ISA_MASK_SCALAR, 1, optimizer, 8, &hash[3]);
        printf("optimizer %d: loss %.4f with 32 bits, %.4f with 8, %.4f scalar\n", optimizer, full, coded, scalar);
        CHECK(hash[1] == hash[2] && hash[0] != hash[1]);
        CHECK(coded == threads);
        CHECK(full < 3.2 && fabs(coded - full) < 0.2 && fabs(scalar - full) < 0.2); /* log 40 = 3.69 at the start */
    }
}

/* The bytes of a state are those of its arrays, and a state is forgotten when its bits change. */
static void test_model_memory(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    hyb_language_model_config config = make_config(2, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
    config.dim = 512;
    config.ffn_dim = 1024;
    config.n_heads = config.n_kv_heads = 8;
    hyb_training_kind kind = {.struct_size = sizeof kind};
    uint64_t weights, full, coded, before, n, n_linear;
    CHECK_OK(hyb_language_model_count(ctx, &config, &n, &n_linear));
    kind.state_bits = 32;
    CHECK_OK(hyb_language_model_memory_for(ctx, &config, &kind, 2, 16, &weights, &full));
    CHECK_OK(hyb_language_model_memory(ctx, &config, 2, 16, &weights, &before));
    CHECK(full == before);
    kind.state_bits = 8;
    CHECK_OK(hyb_language_model_memory_for(ctx, &config, &kind, 2, 16, &weights, &coded));
    double saved = 8.0 * (double)(full - coded) / (double)n;
    printf("a parameter's moments take %.2f bits less than 64\n", saved);
    CHECK(saved > 47.6 && saved < 47.8); /* 64 - 16.25, less what rounding up to cache lines takes */
    kind.state_bits = 16;
    CHECK_STATUS(hyb_language_model_memory_for(ctx, &config, &kind, 2, 16, &weights, &coded),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "32 or 8") != NULL);
    kind.struct_size = offsetof(hyb_training_kind, state_bits); /* of before there was a choice */
    CHECK_OK(hyb_language_model_memory_for(ctx, &config, &kind, 2, 16, &weights, &coded));
    CHECK(coded == full);
    CHECK_STATUS(hyb_language_model_memory_for(ctx, &config, NULL, 2, 16, &weights, &coded),
                 HYB_ERROR_INVALID_ARGUMENT);
    hyb_ctx_destroy(ctx);
}

static void test_model_prepare(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    hyb_language_model_config config = make_config(1, HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR);
    hyb_language_model *model = NULL;
    hyb_gradient_statistics found;
    hyb_state_8bit s, again;
    uint32_t tokens[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    CHECK_OK(hyb_language_model_create(ctx, &config, 3, &model));
    CHECK_STATUS(hyb_language_model_set_state_bits(model, 4), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_language_model_set_state_bits(NULL, 8), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_language_model_parameter_state(model, 1000, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_language_model_set_state_bits(model, 8));
    CHECK_OK(hyb_language_model_prepare(model, 1, 8));
    CHECK_OK(hyb_language_model_gradients(model, tokens, 1, 8, &found));
    CHECK_OK(step(model, HYB_OPTIMIZER_ADAMW, 1));
    CHECK_OK(hyb_language_model_parameter_state(model, 2, &s));
    CHECK(s.first_scales[0] > 0.0f);
    CHECK_OK(hyb_language_model_prepare(model, 2, 8)); /* another size: kept */
    CHECK_OK(hyb_language_model_parameter_state(model, 2, &again));
    CHECK(again.first_codes == s.first_codes && s.first_scales[0] > 0.0f);
    CHECK_OK(hyb_language_model_set_state_bits(model, 32));
    CHECK_OK(hyb_language_model_prepare(model, 2, 8));
    CHECK_OK(hyb_language_model_parameter_state(model, 2, &again));
    CHECK(again.first_codes == NULL && s.first_scales[0] > 0.0f); /* old pointers stay valid */
    CHECK_OK(hyb_language_model_set_state_bits(model, 8));
    CHECK_OK(hyb_language_model_prepare(model, 2, 8));
    CHECK(s.first_scales[0] == 0.0f); /* forgotten */
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
}

int main(void) {
    const uint32_t masks[] = {HYB_ISA_MASK_SCALAR, 0};
    for (size_t i = 0; i < 2; ++i) {
        hyb_ctx *ctx = make_ctx(masks[i], 2);
        test_round_trip(ctx);
        test_mean(ctx);
        test_extremes(ctx);
        test_follows(ctx);
        test_no_explosion(ctx);
        test_errors(ctx);
        hyb_ctx_destroy(ctx);
    }
    test_threads();
    test_model();
    test_model_memory();
    test_model_prepare();
    return TEST_RESULT();
}
