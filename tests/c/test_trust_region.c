/* test_trust_region.c - orthogonalised matrices and bounds of the spectral norm against singular values in fp64; steps
 * of a language model that stay in their balls, independent of the number of threads; what is refused.
 */
#include "testing.h"

#include <math.h>

#include <hybrid/hybrid.h>

#include "singular_values.h"
#include "tier_context.h"

static double *to_double(size_t n, const float *x) {
    double *copy = malloc(n * sizeof *copy);
    for (size_t i = 0; i < n; i++) copy[i] = (double)x[i];
    return copy;
}

/* Random matrices: all singular values end in 0.85..1 unless they began as almost nothing, none above 1; and the bound
 * is above the largest, but not by much. */
static void test_orthogonalize(uint32_t isa_mask) {
    static const size_t shapes[][2] = {{1, 1},   {1, 9},   {7, 1},     {5, 3},    {17, 40}, {40, 17},
                                       {64, 64}, {48, 96}, {130, 300}, {290, 145}}; /* symmetric products in blocks */
    static const float sizes[] = {1.0f, 1e-30f, 1e30f};
    hyb_ctx *ctx = make_ctx(isa_mask, 2);
    uint64_t state = 11;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 0; k < 3; k++) {
            size_t n_rows = shapes[i][0], n_cols = shapes[i][1], n = n_rows * n_cols;
            size_t m = n_rows < n_cols ? n_rows : n_cols;
            float *x = malloc(n * sizeof *x), *out = test_guarded_alloc(n * sizeof *out);
            for (size_t j = 0; j < n; j++) x[j] = test_random_float(&state) * sizes[k];
            double bound = 0.0, *before = to_double(n, x), *values = malloc(m * sizeof *values), total = 0.0;
            CHECK_OK(hyb_orthogonalize(ctx, n_rows, n_cols, x, out));
            CHECK_OK(hyb_spectral_bound(ctx, n_rows, n_cols, x, &bound));
            double largest = largest_of(n_rows, n_cols, before);
            CHECK(bound >= largest * (1.0 - 1e-9));
            CHECK(bound <= largest * (k == 0 ? 1.06 : sqrt((double)m))); /* far from 1: the Frobenius norm */
            double *after = to_double(n, out), *start = malloc(m * sizeof *start);
            singular_values(n_rows, n_cols, before, start);
            singular_values(n_rows, n_cols, after, values);
            double smallest_start = HUGE_VAL, smallest = HUGE_VAL, most = 0.0;
            for (size_t j = 0; j < m; j++) {
                total += start[j] * start[j];
                smallest_start = fmin(smallest_start, start[j]);
                smallest = fmin(smallest, values[j]);
                most = fmax(most, values[j]);
            }
            CHECK(most <= 1.0 + 1e-5);
            CHECK(smallest >= 0.85 || smallest_start < 2e-3 * sqrt(total));
            hyb_ctx *one = make_ctx(isa_mask, 1); /* the same with one thread, and in place */
            CHECK_OK(hyb_orthogonalize(one, n_rows, n_cols, x, x));
            CHECK(memcmp(x, out, n * sizeof *x) == 0);
            hyb_ctx_destroy(one);
            free(x);
            test_guarded_free(out, n * sizeof *out);
            free(before);
            free(after);
            free(start);
            free(values);
        }
    float zeros[6] = {0}, out[6];
    double bound = 1.0;
    CHECK_OK(hyb_orthogonalize(ctx, 2, 3, zeros, out));
    CHECK(memcmp(out, zeros, sizeof out) == 0);
    CHECK_OK(hyb_spectral_bound(ctx, 2, 3, zeros, &bound));
    CHECK(bound == 0.0);
    hyb_ctx_destroy(ctx);
}

static void test_refusals(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    float x[4] = {1, 2, NAN, 4}, out[4];
    double bound = 0.0;
    CHECK_STATUS(hyb_orthogonalize(NULL, 2, 2, x, out), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_orthogonalize(ctx, 2, 2, x, out), HYB_ERROR_NOT_FINITE);
    CHECK_STATUS(hyb_orthogonalize(ctx, 2, 2, NULL, out), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_orthogonalize(ctx, 0, 2, x, out), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_orthogonalize(ctx, SIZE_MAX / 2, 2, x, out), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_spectral_bound(ctx, 2, 2, x, &bound), HYB_ERROR_NOT_FINITE);
    CHECK_STATUS(hyb_spectral_bound(ctx, 1, 2, x, NULL), HYB_ERROR_INVALID_ARGUMENT);
    hyb_ctx_destroy(ctx);
}

/* ---- a language model ---- */

#define N_SEQUENCES 3
#define N_CONTEXT 16

static hyb_language_model_config make_config(void) {
    hyb_language_model_config config = {.struct_size = sizeof config,
                                        .vocab_size = 50,
                                        .dim = 32,
                                        .n_layers = 2,
                                        .n_heads = 2,
                                        .n_kv_heads = 1,
                                        .ffn_dim = 72,
                                        .max_context = N_CONTEXT,
                                        .rope_theta = 10000.0f,
                                        .norm_epsilon = 1e-5f,
                                        .sub_norms = 1,
                                        .linear_format = HYB_FORMAT_TERNARY,
                                        .embedding_format = HYB_FORMAT_INT8};
    return config;
}

static void gradients(hyb_language_model *model, uint64_t *state) {
    uint32_t tokens[N_SEQUENCES * (N_CONTEXT + 1)];
    hyb_gradient_statistics statistics;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) tokens[i] = (uint32_t)test_random_below(state, 50);
    CHECK_OK(hyb_language_model_gradients(model, tokens, N_SEQUENCES, N_CONTEXT, &statistics));
}

static float *all_values(hyb_language_model *model, size_t *n) {
    hyb_parameter p;
    *n = 0;
    for (size_t i = 0; i < hyb_language_model_parameter_count(model); i++) {
        CHECK_OK(hyb_language_model_parameter(model, i, &p));
        *n += (size_t)p.n_rows * p.n_cols;
    }
    float *values = malloc(*n * sizeof *values), *at = values;
    for (size_t i = 0; i < hyb_language_model_parameter_count(model); i++) {
        CHECK_OK(hyb_language_model_parameter(model, i, &p));
        memcpy(at, p.values, (size_t)p.n_rows * p.n_cols * sizeof *at);
        at += (size_t)p.n_rows * p.n_cols;
    }
    return values;
}

/* Rounding of the stored weights: half a unit in the last place of the larger of the two. */
static double storage(const double *change, const float *before, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        double ulp = ldexp(fabs((double)before[i]) + fabs(change[i]), -24);
        sum += ulp * ulp;
    }
    return sqrt(sum);
}

/* The change of every part is in its ball, measured in fp64 (a factor of 1 + 1e-3 for singular values). */
static void check_balls(hyb_language_model *model, int optimizer, double radius, const float *before) {
    hyb_parameter p;
    double total = 0.0, rounding = 0.0;
    for (size_t i = 0; i < hyb_language_model_parameter_count(model); i++) {
        CHECK_OK(hyb_language_model_parameter(model, i, &p));
        size_t n = (size_t)p.n_rows * p.n_cols;
        double *change = malloc(n * sizeof *change), squares = 0.0, most = 0.0, weights = 0.0;
        for (size_t j = 0; j < n; j++) {
            change[j] = (double)p.values[j] - (double)before[j];
            squares += change[j] * change[j];
            weights += (double)before[j] * (double)before[j];
            most = fmax(most, fabs(change[j]));
        }
        double slack = storage(change, before, n);
        if (optimizer == HYB_OPTIMIZER_RMS) {
            double rms = fmax(sqrt(weights / (double)n), 1e-3);
            CHECK(sqrt(squares / (double)n) <= radius * rms * (1.0 + 1e-5) + slack);
        } else if (optimizer == HYB_OPTIMIZER_SPECTRAL && p.last_change != NULL) {
            double shape = p.n_rows > p.n_cols ? sqrt((double)p.n_rows / (double)p.n_cols) : 1.0;
            CHECK(largest_of(p.n_rows, p.n_cols, change) <= radius * shape * (1.0 + 1e-3) + slack);
        } else if (optimizer == HYB_OPTIMIZER_SPECTRAL) {
            CHECK(most <= 0.32 * radius * (1.0 + 1e-5) + slack);
        }
        total += squares;
        rounding += slack;
        before += n;
        free(change);
    }
    if (optimizer == HYB_OPTIMIZER_L2) CHECK(sqrt(total) <= radius * (1.0 + 1e-5) + rounding);
}

/* Multipliers 0 to 3 of the rows of every layer's matrix; NULL where there are none. */
static void multiply_rows(hyb_language_model *model, uint64_t *state) {
    hyb_parameter p;
    float multipliers[128];
    for (size_t i = 0; i < hyb_language_model_parameter_count(model); i++) {
        CHECK_OK(hyb_language_model_parameter(model, i, &p));
        if (strncmp(p.name, "blk.", 4) != 0 || p.n_rows == 1) continue;
        CHECK(p.n_rows <= 128);
        for (uint32_t r = 0; r < p.n_rows; r++) multipliers[r] = fmaxf(0.0f, 2.0f * test_random_float(state) + 1.0f);
        CHECK_OK(hyb_language_model_set_row_multipliers(model, i, multipliers));
    }
}

/* Steps with random rates, radii and weight decay, also far too long ones, never leave the ball, with or without
 * multipliers of rows. */
static void test_balls(int optimizer, int multiplied) {
    hyb_ctx *ctx = make_ctx(0, 2);
    hyb_language_model *model = NULL;
    hyb_language_model_config config = make_config();
    uint64_t state = 3;
    CHECK_OK(hyb_language_model_create(ctx, &config, 5, &model));
    CHECK_OK(hyb_language_model_set_optimizer(model, (hyb_optimizer)optimizer));
    CHECK_OK(hyb_language_model_prepare(model, N_SEQUENCES, N_CONTEXT));
    for (uint64_t step = 1; step <= 40; step++) {
        size_t n;
        hyb_trust_statistics statistics;
        hyb_trust_region options = {.struct_size = sizeof options,
                                    .learning_rate = powf(10.0f, -2.0f + 1.5f * test_random_float(&state)),
                                    .radius = powf(10.0f, -2.0f + 1.5f * test_random_float(&state)),
                                    .momentum = 0.8f,
                                    .row_beta = step % 3 ? 0.95f : 0.0f,
                                    .weight_decay = step % 5 ? 0.3f : 0.0f,
                                    .vector_ratio = 0.32f,
                                    .gain_rate = 0.02f,
                                    .beta1 = 0.8f,
                                    .beta2 = 0.99f,
                                    .epsilon = 1e-8f,
                                    .step = step};
        gradients(model, &state);
        if (multiplied && step % 7 == 1) multiply_rows(model, &state);
        float *before = all_values(model, &n);
        CHECK_OK(hyb_language_model_apply_trust_region(model, &options, &statistics));
        CHECK(statistics.change_norm > 0.0 && statistics.shortened_share >= 0.0 && statistics.shortened_share <= 1.0);
        if (options.learning_rate > 20.0f * options.radius) CHECK(statistics.shortened_share > 0.9);
        check_balls(model, optimizer, (double)options.radius, before);
        free(before);
    }
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
}

/* Weights and alignments after six steps with this many threads. */
static float *train(int optimizer, int multiplied, uint32_t n_threads, size_t *n, double *alignment) {
    hyb_ctx *ctx = make_ctx(0, n_threads);
    hyb_language_model *model = NULL;
    hyb_language_model_config config = make_config();
    uint64_t state = 9;
    CHECK_OK(hyb_language_model_create(ctx, &config, 5, &model));
    CHECK_OK(hyb_language_model_set_optimizer(model, (hyb_optimizer)optimizer));
    CHECK_OK(hyb_language_model_prepare(model, N_SEQUENCES, N_CONTEXT));
    if (multiplied) multiply_rows(model, &state);
    for (uint64_t step = 1; step <= 6; step++) {
        hyb_trust_region options = {sizeof options, 0.1f,  0.05f, 0.8f,  0.95f, 0.1f,
                                    0.32f,          0.02f, 0.8f,  0.99f, 1e-8f, step};
        gradients(model, &state);
        CHECK_OK(hyb_language_model_alignment(model, alignment));
        CHECK(step > 1 ? fabs(*alignment) <= 1.0 && *alignment != 0.0 : *alignment == 0.0);
        CHECK_OK(hyb_language_model_apply_trust_region(model, &options, NULL));
    }
    float *values = all_values(model, n);
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
    return values;
}

static void test_threads(int optimizer, int multiplied) {
    size_t n;
    double alignment[2];
    float *one = train(optimizer, multiplied, 1, &n, &alignment[0]);
    for (uint32_t threads = 2; threads <= 3; threads++) {
        float *more = train(optimizer, multiplied, threads, &n, &alignment[1]);
        CHECK(memcmp(one, more, n * sizeof *one) == 0 && alignment[0] == alignment[1]);
        free(more);
    }
    free(one);
}

/* The wrong call for the optimiser, calls without gradients, values out of their range: refused, nothing changed. */
static void test_wrong_calls(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    hyb_language_model *model = NULL;
    hyb_language_model_config config = make_config();
    uint64_t state = 9;
    double cosine;
    const hyb_trust_region good = {sizeof good, 0.1f, 0.05f, 0.8f, 0.95f, 0.1f, 0.32f, 0.02f, 0.8f, 0.99f, 1e-8f, 1};
    const hyb_adamw adamw = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 1};
    hyb_trust_region bad[7] = {good, good, good, good, good, good, good};
    bad[0].learning_rate = NAN;
    bad[1].radius = -1.0f;
    bad[2].momentum = 1.0f;
    bad[3].epsilon = 0.0f;
    bad[4].step = 0;
    bad[5].weight_decay = INFINITY;
    bad[6].row_beta = 1.5f;
    CHECK_OK(hyb_language_model_create(ctx, &config, 5, &model));
    CHECK_STATUS(hyb_language_model_set_optimizer(model, (hyb_optimizer)4), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_language_model_prepare(model, N_SEQUENCES, N_CONTEXT)); /* AdamW */
    CHECK_STATUS(hyb_language_model_alignment(model, &cosine), HYB_ERROR_STATE);
    gradients(model, &state);
    CHECK_STATUS(hyb_language_model_apply_trust_region(model, &good, NULL), HYB_ERROR_STATE);
    CHECK(strstr(hyb_ctx_last_error(ctx), "AdamW") != NULL);
    CHECK_OK(hyb_language_model_set_optimizer(model, HYB_OPTIMIZER_SPECTRAL));
    CHECK_OK(hyb_language_model_apply(model, &adamw, 1.0f, NULL)); /* until the next prepare */
    CHECK_OK(hyb_language_model_prepare(model, N_SEQUENCES, N_CONTEXT));
    CHECK_STATUS(hyb_language_model_apply_trust_region(model, &good, NULL), HYB_ERROR_STATE);
    gradients(model, &state);
    CHECK_STATUS(hyb_language_model_apply(model, &adamw, 1.0f, NULL), HYB_ERROR_STATE);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_STATUS(hyb_language_model_apply_trust_region(model, &bad[i], NULL), HYB_ERROR_INVALID_ARGUMENT);
    hyb_trust_region defaults = good;
    hyb_trust_region_defaults(NULL);
    hyb_trust_region_defaults(&defaults);
    CHECK(defaults.struct_size == sizeof defaults && defaults.radius == 0.0f && defaults.epsilon == 1e-8f);
    bad[0].struct_size = 0;
    CHECK_STATUS(hyb_language_model_apply_trust_region(model, &bad[0], NULL), HYB_ERROR_STRUCT_SIZE);
    CHECK_STATUS(hyb_language_model_apply_trust_region(model, NULL, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_language_model_apply_trust_region(model, &good, NULL));
    CHECK_STATUS(hyb_language_model_apply_trust_region(model, &good, NULL), HYB_ERROR_STATE);
    CHECK_STATUS(hyb_language_model_alignment(model, NULL), HYB_ERROR_INVALID_ARGUMENT);
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
}

/* A step with the optimiser and these multipliers of the rows of parameter `index` (NULL: 1 each): its change. */
static double *step_of(int optimizer, size_t index, const float *multipliers, size_t *n) {
    hyb_ctx *ctx = make_ctx(0, 2);
    hyb_language_model *model = NULL;
    hyb_language_model_config config = make_config();
    uint64_t state = 9;
    const hyb_trust_region options = {sizeof options, 0.01f, 1e6f, 0.8f,  0.95f, 0.1f,
                                      0.32f,          0.02f, 0.8f, 0.99f, 1e-8f, 1};
    const hyb_adamw adamw = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 1};
    CHECK_OK(hyb_language_model_create(ctx, &config, 5, &model));
    CHECK_OK(hyb_language_model_set_optimizer(model, (hyb_optimizer)optimizer));
    CHECK_OK(hyb_language_model_prepare(model, N_SEQUENCES, N_CONTEXT));
    CHECK_OK(hyb_language_model_set_row_multipliers(model, index, multipliers));
    gradients(model, &state);
    float *before = all_values(model, n);
    if (optimizer == HYB_OPTIMIZER_ADAMW)
        CHECK_OK(hyb_language_model_apply(model, &adamw, 0.0f, NULL));
    else
        CHECK_OK(hyb_language_model_apply_trust_region(model, &options, NULL));
    float *after = all_values(model, n);
    double *change = malloc(*n * sizeof *change);
    for (size_t i = 0; i < *n; i++) change[i] = (double)after[i] - (double)before[i];
    free(before);
    free(after);
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
    return change;
}

/* Where no ball binds, a row's change is its multiplier times what it would be; other parameters change as ever. */
static void test_row_multipliers(int optimizer) {
    enum { INDEX = 2, FIRST = 50 * 32 + 32, ROWS = 32, COLS = 32 }; /* blk.0.attn_q behind embedding and attn_norm */
    float multipliers[ROWS];
    size_t n;
    for (int r = 0; r < ROWS; r++) multipliers[r] = (float)(r % 5) * 0.5f;
    double *plain = step_of(optimizer, INDEX, NULL, &n), *multiplied = step_of(optimizer, INDEX, multipliers, &n);
    for (size_t i = 0; i < n; i++) {
        double factor = i >= FIRST && i < FIRST + ROWS * COLS ? (double)multipliers[(i - FIRST) / COLS] : 1.0;
        /* Weights below 1 round by 3e-8, in the plain change times the factor, at most 2, too. */
        CHECK(factor == 1.0 ? multiplied[i] == plain[i] : fabs(multiplied[i] - factor * plain[i]) <= 2e-7);
    }
    for (int r = 0; r < ROWS; r++) multipliers[r] = 1.0f;
    free(multiplied);
    multiplied = step_of(optimizer, INDEX, multipliers, &n);
    CHECK(memcmp(plain, multiplied, n * sizeof *plain) == 0);
    free(plain);
    free(multiplied);
}

/* What is no multiplier, no matrix or not prepared is refused and changes nothing; another optimiser forgets them. */
static void test_row_multipliers_refusals(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    hyb_language_model *model = NULL;
    hyb_language_model_config config = make_config();
    float good[32], bad[32];
    CHECK_OK(hyb_language_model_create(ctx, &config, 5, &model));
    for (int r = 0; r < 32; r++) good[r] = bad[r] = 10.0f;
    CHECK_STATUS(hyb_language_model_set_row_multipliers(NULL, 2, good), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_language_model_set_row_multipliers(model, 2, good), HYB_ERROR_STATE);
    CHECK_OK(hyb_language_model_prepare(model, N_SEQUENCES, N_CONTEXT));
    CHECK_OK(hyb_language_model_set_row_multipliers(model, 2, good));
    CHECK_STATUS(hyb_language_model_set_row_multipliers(model, 0, good), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_language_model_set_row_multipliers(model, 1, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_language_model_set_row_multipliers(model, 999, good), HYB_ERROR_INVALID_ARGUMENT);
    static const float wrong[] = {NAN, INFINITY, -0.5f, 10.5f};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        bad[31] = wrong[i];
        CHECK_STATUS(hyb_language_model_set_row_multipliers(model, 2, bad), HYB_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(hyb_ctx_last_error(ctx), "row 31") != NULL);
    }
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
}

/* The memory that the estimate names is what the optimisers need: SPECTRAL no more than AdamW but work memory. */
static void test_memory(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    hyb_language_model_config config = make_config();
    uint64_t weights, bytes[4];
    for (int o = 0; o < 4; o++) {
        hyb_training_kind kind = {sizeof kind, HYB_BACKWARD_INT8, o, 0, 32};
        CHECK_OK(hyb_language_model_memory_for(ctx, &config, &kind, 2, N_CONTEXT, &weights, &bytes[o]));
    }
    CHECK(bytes[HYB_OPTIMIZER_SPECTRAL] > bytes[HYB_OPTIMIZER_ADAMW]);
    CHECK(bytes[HYB_OPTIMIZER_L2] > bytes[HYB_OPTIMIZER_SPECTRAL] &&
          bytes[HYB_OPTIMIZER_RMS] == bytes[HYB_OPTIMIZER_L2]);
    hyb_ctx_destroy(ctx);
}

int main(void) {
    test_orthogonalize(0);
    test_orthogonalize(HYB_ISA_MASK_SCALAR);
    test_refusals();
    for (int optimizer = HYB_OPTIMIZER_SPECTRAL; optimizer <= HYB_OPTIMIZER_L2; optimizer++) {
        for (int multiplied = 0; multiplied < 2; multiplied++) {
            test_balls(optimizer, multiplied);
            test_threads(optimizer, multiplied);
        }
    }
    for (int optimizer = HYB_OPTIMIZER_ADAMW; optimizer <= HYB_OPTIMIZER_L2; optimizer++)
        test_row_multipliers(optimizer);
    test_row_multipliers_refusals();
    test_wrong_calls();
    test_memory();
    return TEST_RESULT();
}
