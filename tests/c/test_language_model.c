/* test_language_model.c - the model through its public API: training falls, the same bits for any thread count and
 * instruction set, portions of a sequence, saving and loading, and every allocation that may fail.
 */
#include "testing.h"

#include <math.h>

#include <hybrid/hybrid.h>

#include "failing_allocator.h"

static const char text[] = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the "
                           "slings and arrows of outrageous fortune, or to take arms against a sea of troubles.";

static hyb_language_model_config small_config(void) {
    hyb_language_model_config config = {.struct_size = sizeof config,
                                        .vocab_size = 256,
                                        .dim = 48,
                                        .n_layers = 2,
                                        .n_heads = 4,
                                        .n_kv_heads = 2,
                                        .ffn_dim = 72,
                                        .max_context = 64,
                                        .rope_theta = 10000.0f,
                                        .norm_epsilon = 1e-5f,
                                        .linear_format = HYB_FORMAT_TERNARY,
                                        .embedding_format = HYB_FORMAT_INT8};
    return config;
}

static hyb_ctx *make_ctx(uint32_t threads, uint32_t isa_mask) {
    hyb_ctx_options options = {.struct_size = sizeof options, .n_threads = threads, .isa_mask = isa_mask};
    hyb_ctx *ctx = NULL;
    CHECK_OK(hyb_ctx_create(&options, &ctx));
    return ctx;
}

static void fill_tokens(uint32_t *tokens, size_t n, size_t start) {
    for (size_t i = 0; i < n; i++) tokens[i] = (unsigned char)text[(start + i) % (sizeof text - 1)];
}

static hyb_status train_steps(hyb_language_model *model, int steps, double *first, double *last) {
    enum { BATCH = 4, CONTEXT = 24 };
    uint32_t tokens[BATCH * (CONTEXT + 1)];
    hyb_adamw adamw = {.learning_rate = 5e-3f,
                       .beta1 = 0.8f,
                       .beta2 = 0.99f,
                       .epsilon = 1e-8f,
                       .weight_decay = 0.1f,
                       .gradient_scale = 1.0f};
    hyb_status status = hyb_language_model_prepare(model, BATCH, CONTEXT);
    for (int step = 1; status == HYB_OK && step <= steps; step++) {
        hyb_gradient_statistics statistics = {0};
        for (size_t s = 0; s < BATCH; s++)
            fill_tokens(tokens + s * (CONTEXT + 1), CONTEXT + 1, (size_t)step * 7 + s * 31);
        status = hyb_language_model_gradients(model, tokens, BATCH, CONTEXT, &statistics);
        adamw.step = (uint64_t)step;
        if (status == HYB_OK) status = hyb_language_model_apply(model, &adamw, 1.0f, NULL);
        if (step == 1) *first = statistics.loss;
        *last = statistics.loss;
    }
    return status;
}

static hyb_language_model *trained_model(hyb_ctx *ctx, const hyb_language_model_config *config, int steps,
                                         hyb_backward backward) {
    hyb_language_model *model = NULL;
    double first = 0.0, last = 0.0;
    CHECK_OK(hyb_language_model_create(ctx, config, 7, &model));
    CHECK_OK(hyb_language_model_set_backward(model, backward));
    CHECK_OK(train_steps(model, steps, &first, &last));
    return model;
}

/* The loss of a small model on a short text falls by more than half, from near log(256). */
static void test_training_learns(void) {
    hyb_ctx *ctx = make_ctx(1, 0);
    hyb_language_model_config config = small_config();
    hyb_language_model *model = NULL;
    double first = 0.0, last = 0.0;
    CHECK_OK(hyb_language_model_create(ctx, &config, 1, &model));
    CHECK_OK(train_steps(model, 80, &first, &last));
    CHECK(first > 4.5 && first < 6.5);
    CHECK(last < 0.5 * first);
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
}

/* Weights after training are bit-equal for 1, 2 and 5 threads, for every number format and both backward passes. */
static void test_training_does_not_depend_on_threads(void) {
    static const uint32_t threads[3] = {1, 2, 5};
    for (int format = HYB_FORMAT_F32; format <= HYB_FORMAT_INT8; format++)
        for (int backward = HYB_BACKWARD_INT8; backward <= HYB_BACKWARD_F32; backward++) {
            float *reference = NULL;
            hyb_language_model_config config = small_config();
            config.linear_format = format;
            config.sub_norms = format % 2;
            config.tied_embeddings = format % 3 == 0;
            config.activation = format % 2 ? HYB_ACTIVATION_SQUARED_RELU : HYB_ACTIVATION_SILU;
            config.embedding_format = format == HYB_FORMAT_F32 ? HYB_FORMAT_F32 : HYB_FORMAT_INT8;
            for (int i = 0; i < 3; i++) {
                hyb_ctx *ctx = make_ctx(threads[i], 0);
                hyb_language_model *model = trained_model(ctx, &config, 6, (hyb_backward)backward);
                hyb_parameter p;
                CHECK_OK(hyb_language_model_parameter(model, 2, &p));
                size_t size = (size_t)p.n_rows * p.n_cols * sizeof(float);
                if (i == 0) {
                    reference = malloc(size);
                    memcpy(reference, p.values, size);
                } else {
                    CHECK(memcmp(reference, p.values, size) == 0);
                }
                hyb_language_model_destroy(model);
                hyb_ctx_destroy(ctx);
            }
            free(reference);
        }
}

/* A training loss is the evaluation's but for the rounding of attention, which moves codes of activations by one step
 * here and there; and it does not depend on the number of threads. */
static double check_training_loss(uint32_t n_threads) {
    enum { CONTEXT = 40 };
    hyb_ctx *ctx = make_ctx(n_threads, 0);
    hyb_language_model_config config = small_config();
    hyb_language_model *model = trained_model(ctx, &config, 5, HYB_BACKWARD_INT8);
    uint32_t tokens[2 * (CONTEXT + 1)];
    hyb_gradient_statistics statistics = {0};
    double sum = 0.0, own[2];
    fill_tokens(tokens, 2 * (CONTEXT + 1), 3);
    CHECK_OK(hyb_language_model_prepare(model, 2, CONTEXT));
    CHECK_STATUS(hyb_language_model_sequence_losses(model, 2, own), HYB_ERROR_STATE);
    CHECK_OK(hyb_language_model_gradients(model, tokens, 2, CONTEXT, &statistics));
    CHECK_OK(hyb_language_model_loss(model, tokens, 2, CONTEXT, &sum));
    CHECK(fabs(statistics.loss - sum / (2 * CONTEXT)) < 1e-3 * statistics.loss);
    CHECK_OK(hyb_language_model_sequence_losses(model, 2, own));
    CHECK(fabs((own[0] + own[1]) / 2 - statistics.loss) < 1e-12 * statistics.loss);
    for (size_t s = 0; s < 2; s++) {
        CHECK_OK(hyb_language_model_loss(model, tokens + s * (CONTEXT + 1), 1, CONTEXT, &sum));
        CHECK(fabs(own[s] - sum / CONTEXT) < 1e-3 * own[s]);
    }
    CHECK_STATUS(hyb_language_model_sequence_losses(model, 1, own), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_language_model_sequence_losses(model, 2, NULL), HYB_ERROR_INVALID_ARGUMENT);
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
    return statistics.loss;
}
static void test_training_loss_is_near_evaluation_loss(void) {
    double loss = check_training_loss(1);
    CHECK(check_training_loss(3) == loss);
}

/* Logits are bit-equal from a loaded file on every tier and thread count, and for any portions. */
static void test_logits_are_the_same_everywhere(void) {
    enum { N = 50 };
    static const uint32_t masks[4] = {0, HYB_ISA_MASK_SCALAR, HYB_ISA_AVX2, HYB_ISA_AVX2 | HYB_ISA_AVX512};
    char path[] = "test_language_model_XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    close(fd);
    for (int format = HYB_FORMAT_F32; format <= HYB_FORMAT_INT8; format++) {
        hyb_language_model_config config = small_config();
        config.linear_format = format;
        config.linear_granularity = format % 2;
        config.embedding_format = format;
        config.sub_norms = 1;
        hyb_ctx *trainer = make_ctx(2, 0);
        hyb_language_model *model = trained_model(trainer, &config, 4, HYB_BACKWARD_F32);
        uint32_t tokens[N];
        float *expected = malloc(N * 256 * sizeof(float)), *logits = malloc(N * 256 * sizeof(float));
        fill_tokens(tokens, N, 11);
        CHECK_OK(hyb_language_model_logits(model, tokens, N, expected));
        CHECK_OK(hyb_language_model_save(model, path, "{}", 2));
        for (size_t i = 0; i < 8; i++) {
            hyb_ctx *ctx = make_ctx(i % 2 ? 3 : 1, masks[i / 2]);
            hyb_language_model *loaded = NULL;
            hyb_session *session = NULL;
            CHECK_OK(hyb_language_model_load(ctx, path, &loaded));
            if (loaded == NULL) break;
            CHECK_OK(hyb_language_model_logits(loaded, tokens, N, logits));
            CHECK(memcmp(expected, logits, N * 256 * sizeof(float)) == 0);
            CHECK_OK(hyb_session_create(loaded, 2, N, HYB_CACHE_F32, &session));
            for (size_t at = 0, n = 1; at < N; at += n, n = n % 7 + 2) {
                if (n > N - at) n = N - at;
                CHECK_OK(hyb_session_feed(session, 1, tokens + at, n, logits));
                CHECK(memcmp(expected + (at + n - 1) * 256, logits, 256 * sizeof(float)) == 0);
            }
            hyb_session_destroy(session);
            hyb_language_model_destroy(loaded);
            hyb_ctx_destroy(ctx);
        }
        free(logits);
        free(expected);
        hyb_language_model_destroy(model);
        hyb_ctx_destroy(trainer);
    }
    unlink(path);
}

/* Wrong arguments, wrong order and NaN weights give a status and a detail that names the culprit. */
static void test_bad_input_is_named(void) {
    hyb_ctx *ctx = make_ctx(1, 0);
    hyb_language_model_config config = small_config();
    hyb_language_model *model = NULL;
    hyb_gradient_statistics statistics;
    uint32_t tokens[9] = {1, 2, 3, 4, 5, 6, 7, 8, 300};
    config.n_heads = 5;
    CHECK_STATUS(hyb_language_model_create(ctx, &config, 0, &model), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "n_heads") != NULL);
    config = small_config();
    CHECK_OK(hyb_language_model_create(ctx, &config, 0, &model));
    CHECK_STATUS(hyb_language_model_gradients(model, tokens, 1, 8, &statistics), HYB_ERROR_STATE);
    CHECK_STATUS(hyb_language_model_prepare(model, 1, 65), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_language_model_prepare(model, 1, 8));
    CHECK_STATUS(hyb_language_model_gradients(model, tokens, 1, 8, &statistics), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "300") != NULL);
    tokens[8] = 9;
    CHECK_OK(hyb_language_model_gradients(model, tokens, 1, 8, &statistics));
    hyb_parameter p;
    CHECK_OK(hyb_language_model_parameter(model, 3, &p));
    p.values[5] = 0.0f / (p.values[5] - p.values[5] + 0.0f);
    CHECK_OK(hyb_language_model_touch(model));
    CHECK_STATUS(hyb_language_model_gradients(model, tokens, 1, 8, &statistics), HYB_ERROR_NOT_FINITE);
    CHECK(strstr(hyb_ctx_last_error(ctx), p.name) != NULL);
    CHECK_STATUS(hyb_language_model_save(model, "never_written.hyb", NULL, 0), HYB_ERROR_NOT_FINITE);
    CHECK(access("never_written.hyb", F_OK) != 0);
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
}

static hyb_status whole_life(hyb_ctx *ctx, const char *path) {
    hyb_language_model_config config = small_config();
    hyb_language_model *model = NULL, *loaded = NULL;
    hyb_session *session = NULL;
    uint32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8}, out[4];
    const uint32_t *prompts[1] = {tokens};
    size_t n = 8, n_out = 0;
    double loss = 0.0;
    hyb_generate_options options = {.struct_size = sizeof options, .max_tokens = 4, .stop_token = -1};
    hyb_requantize smaller = {sizeof smaller, HYB_FORMAT_INT4, 1};
    options.sampler.struct_size = sizeof options.sampler;
    hyb_status status = hyb_language_model_create(ctx, &config, 1, &model);
    if (status == HYB_OK) status = hyb_language_model_set_backward(model, HYB_BACKWARD_INT8);
    if (status == HYB_OK) status = train_steps(model, 1, &loss, &loss);
    if (status == HYB_OK) status = hyb_language_model_loss(model, tokens, 1, 7, &loss);
    if (status == HYB_OK) status = hyb_language_model_save(model, path, NULL, 0);
    if (status == HYB_OK) status = hyb_file_requantize(ctx, &smaller, path, path);
    if (status == HYB_OK) status = hyb_language_model_load(ctx, path, &loaded);
    if (status == HYB_OK) status = hyb_session_create(loaded, 1, 16, HYB_CACHE_INT8, &session);
    if (status == HYB_OK) status = hyb_generate(session, prompts, &n, 1, &options, out, &n_out);
    hyb_session_destroy(session);
    hyb_language_model_destroy(loaded);
    hyb_language_model_destroy(model);
    return status;
}

/* Whichever allocation fails, the status is OUT_OF_MEMORY and nothing leaks. */
static void test_every_allocation_may_fail(void) {
    char path[] = "test_allocation_XXXXXX";
    int fd = mkstemp(path), completed = 0;
    CHECK(fd >= 0);
    close(fd);
    for (long n = 0; n < 600 && !completed; n++) {
        failing f = {n, 0};
        hyb_ctx *ctx = NULL;
        hyb_status status = make_failing_ctx(&f, &ctx);
        if (status == HYB_OK) status = whole_life(ctx, path);
        hyb_ctx_destroy(ctx);
        CHECK(status == HYB_OK || status == HYB_ERROR_OUT_OF_MEMORY);
        CHECK(f.live == 0);
        completed = status == HYB_OK && f.countdown >= 0;
    }
    CHECK(completed);
    unlink(path);
}

int main(void) {
    test_training_learns();
    test_training_does_not_depend_on_threads();
    test_training_loss_is_near_evaluation_loss();
    test_logits_are_the_same_everywhere();
    test_bad_input_is_named();
    test_every_allocation_may_fail();
    return TEST_RESULT();
}
