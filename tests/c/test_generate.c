/* test_generate.c - sampling and generation: batches, stop strings, streaming, caches, seeds. */
#include "testing.h"

#include <hybrid/hybrid.h>

static hyb_ctx *ctx;
static hyb_language_model *model;

/* An untrained model with large logits: its text is noise, but every rule of generation can be seen on it. */
static void make_model(void) {
    hyb_language_model_config config = {.struct_size = sizeof config,
                                        .vocab_size = 256,
                                        .dim = 32,
                                        .n_layers = 2,
                                        .n_heads = 2,
                                        .n_kv_heads = 1,
                                        .ffn_dim = 64,
                                        .max_context = 96,
                                        .rope_theta = 10000.0f,
                                        .norm_epsilon = 1e-5f,
                                        .linear_format = HYB_FORMAT_TERNARY};
    CHECK_OK(hyb_ctx_create(NULL, &ctx));
    CHECK_OK(hyb_language_model_create(ctx, &config, 5, &model));
    hyb_parameter p;
    for (size_t i = 0; i < hyb_language_model_parameter_count(model); i++) {
        CHECK_OK(hyb_language_model_parameter(model, i, &p));
        if (strcmp(p.name, "head") != 0) continue;
        for (size_t j = 0; j < (size_t)p.n_rows * p.n_cols; j++) p.values[j] *= 30.0f;
    }
    CHECK_OK(hyb_language_model_touch(model));
}

typedef struct collected {
    char text[3][1024];
    size_t n_bytes[3];
    int finished[3], reason[3], calls;
    int stop_after;
} collected;

static int collect(void *user, size_t sequence, const char *piece, size_t n_bytes, uint32_t token, int finished,
                   int reason) {
    collected *c = user;
    (void)token;
    memcpy(c->text[sequence] + c->n_bytes[sequence], piece, n_bytes);
    c->n_bytes[sequence] += n_bytes;
    c->finished[sequence] += finished;
    c->reason[sequence] = reason;
    return c->stop_after != 0 && ++c->calls >= c->stop_after;
}

static hyb_generate_options options_for(collected *c, float temperature, uint64_t seed, size_t max_tokens) {
    hyb_generate_options options = {.struct_size = sizeof options, .max_tokens = max_tokens, .stop_token = -1};
    options.sampler.struct_size = sizeof options.sampler;
    options.sampler.temperature = temperature;
    options.sampler.seed = seed;
    options.callback = c ? collect : NULL;
    options.user = c;
    return options;
}

static const uint32_t prompt_a[3] = {'a', 'b', 'c'}, prompt_b[1] = {'x'}, prompt_c[5] = {'h', 'e', 'l', 'l', 'o'};
static const uint32_t *const prompts[3] = {prompt_a, prompt_b, prompt_c};
static const size_t prompt_tokens[3] = {3, 1, 5};

/* Each sequence of a batch gets the tokens that the same stream gets alone, for both cache formats. */
static void test_batch_equals_single(void) {
    for (int cache = HYB_CACHE_F32; cache <= HYB_CACHE_INT8; cache++) {
        hyb_session *session = NULL;
        hyb_generate_options options = options_for(NULL, 0.0f, 9, 40);
        uint32_t batch[3 * 40], single[40];
        size_t n_batch[3], n_single;
        CHECK_OK(hyb_session_create(model, 3, 96, (hyb_cache_format)cache, &session));
        CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 3, &options, batch, n_batch));
        for (size_t i = 0; i < 3; i++) {
            CHECK_OK(hyb_generate(session, &prompts[i], &prompt_tokens[i], 1, &options, single, &n_single));
            CHECK(n_single == 40 && n_batch[i] == 40);
            CHECK(memcmp(single, batch + i * 40, sizeof single) == 0);
        }
        hyb_session_destroy(session);
    }
}

/* The same seed gives the same tokens, another seed others, and the streamed bytes are the tokens' text. */
static void test_seed_and_stream(void) {
    hyb_session *session = NULL;
    uint32_t first[60], second[60], other[60];
    size_t n;
    collected c = {.calls = 0};
    hyb_generate_options options = options_for(&c, 1.0f, 1, 60);
    CHECK_OK(hyb_session_create(model, 1, 96, HYB_CACHE_F32, &session));
    CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 1, &options, first, &n));
    CHECK(n == 60 && c.n_bytes[0] == 60 && c.finished[0] == 1 && c.reason[0] == HYB_STOP_LENGTH);
    for (size_t i = 0; i < 60; i++) CHECK((unsigned char)c.text[0][i] == first[i]);
    options = options_for(NULL, 1.0f, 1, 60);
    CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 1, &options, second, &n));
    CHECK(memcmp(first, second, sizeof first) == 0);
    options.sampler.seed = 2;
    CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 1, &options, other, &n));
    CHECK(memcmp(first, other, sizeof first) != 0);
    hyb_session_destroy(session);
}

/* A stop string ends the text before it; text that only begins like one is sent in the end. */
static void test_stop_strings(void) {
    hyb_session *session = NULL;
    uint32_t tokens[60];
    size_t n;
    char stop[4] = {0}, almost[4] = {0};
    hyb_generate_options options = options_for(NULL, 1.0f, 3, 60);
    CHECK_OK(hyb_session_create(model, 1, 96, HYB_CACHE_F32, &session));
    CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 1, &options, tokens, &n));
    size_t at = 20;
    for (size_t i = 0; i < 3; i++) stop[i] = (char)tokens[at + i];
    if (memchr(stop, 0, 3) != NULL) return; /* a NUL cannot be in a stop string; the seed above avoids it */
    const char *stops[2] = {stop, "never-in-the-text-of-this-model"};
    collected c = {.calls = 0};
    options = options_for(&c, 1.0f, 3, 60);
    options.stop = stops;
    options.n_stop = 2;
    CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 1, &options, tokens, &n));
    CHECK(n == at + 3 && c.n_bytes[0] == at && c.finished[0] == 1 && c.reason[0] == HYB_STOP_STRING);
    memcpy(almost, stop, 3);
    almost[2] = (char)(almost[2] == 'q' ? 'r' : 'q');
    stops[0] = almost;
    memset(&c, 0, sizeof c);
    CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 1, &options, tokens, &n));
    CHECK(n == 60 && c.n_bytes[0] == 60);
    options.stop_token = (int64_t)tokens[10];
    memset(&c, 0, sizeof c);
    CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 1, &options, tokens, &n));
    CHECK(n <= 11 && c.reason[0] == HYB_STOP_TOKEN);
    hyb_session_destroy(session);
}

/* A callback can end generation; a full cache ends it by itself; empty prompts and options are refused. */
static void test_ends_and_refusals(void) {
    hyb_session *session = NULL;
    uint32_t tokens[200];
    size_t n, none = 0, many = 90;
    uint32_t token = 7;
    const uint32_t *one = &token;
    collected c = {.stop_after = 5};
    hyb_generate_options options = options_for(&c, 0.0f, 0, 200);
    CHECK_OK(hyb_session_create(model, 1, 30, HYB_CACHE_F32, &session));
    CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 1, &options, tokens, &n));
    CHECK(n == 5);
    options = options_for(NULL, 0.0f, 0, 200);
    CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 1, &options, tokens, &n));
    CHECK(n == 30 - 3 + 1);
    CHECK_STATUS(hyb_generate(session, &one, &none, 1, &options, tokens, &n), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_generate(session, prompts, &many, 1, &options, tokens, &n), HYB_ERROR_INVALID_ARGUMENT);
    options.sampler.temperature = -1.0f;
    CHECK_STATUS(hyb_generate(session, prompts, prompt_tokens, 1, &options, tokens, &n), HYB_ERROR_INVALID_ARGUMENT);
    options.sampler.temperature = 1.0f;
    const char *empty = "";
    options.stop = &empty;
    options.n_stop = 1;
    CHECK_STATUS(hyb_generate(session, prompts, prompt_tokens, 1, &options, tokens, &n), HYB_ERROR_INVALID_ARGUMENT);
    hyb_session_destroy(session);
}

/* With shift_context text goes on past the cache: as if the newer half of the tokens were a new prompt. */
static void test_shift_context(void) {
    enum { CONTEXT = 20, KEEP = CONTEXT / 2 };
    hyb_session *session = NULL;
    uint32_t tokens[60], again[60], half[KEEP + 1], all[3 + 60];
    const uint32_t *prompt = half;
    size_t n, n_half = KEEP + 1;
    hyb_generate_options options = options_for(NULL, 0.0f, 3, 60);
    options.shift_context = 1;
    CHECK_OK(hyb_session_create(model, 1, CONTEXT, HYB_CACHE_F32, &session));
    CHECK_OK(hyb_generate(session, prompts, prompt_tokens, 1, &options, tokens, &n));
    CHECK(n == 60);
    memcpy(all, prompt_a, sizeof prompt_a);
    memcpy(all + 3, tokens, sizeof tokens);
    memcpy(half, all + CONTEXT - KEEP, sizeof half);
    options.max_tokens = 9;
    CHECK_OK(hyb_generate(session, &prompt, &n_half, 1, &options, again, &n));
    CHECK(memcmp(again, all + CONTEXT + 1, 9 * sizeof *again) == 0);
    options.shift_context = 2;
    CHECK_STATUS(hyb_generate(session, prompts, prompt_tokens, 1, &options, tokens, &n), HYB_ERROR_INVALID_ARGUMENT);
    hyb_session_destroy(session);
}

/* Drawn tokens follow the softmax; top-k and top-p keep what they say. */
static void test_sampler_distribution(void) {
    static const float logits[5] = {1.0f, 0.0f, 2.0f, -1.0f, 0.5f};
    static const double expected[5] = {0.2071, 0.0762, 0.5630, 0.0280, 0.1256}; /* softmax, by hand */
    hyb_sampler sampler = {.struct_size = sizeof sampler, .temperature = 1.0f, .seed = 4};
    size_t counts[5] = {0}, n = 40000;
    uint32_t token = 0;
    for (size_t i = 0; i < n; i++) {
        CHECK_OK(hyb_sample(ctx, &sampler, logits, 5, 0, i, &token));
        counts[token]++;
    }
    for (size_t i = 0; i < 5; i++) {
        double share = (double)counts[i] / (double)n, difference = share - expected[i];
        CHECK(difference < 0.012 && difference > -0.012); /* 4 standard deviations of the largest share: 0.01 */
    }
    sampler.top_k = 2;
    for (size_t i = 0; i < 500; i++) {
        CHECK_OK(hyb_sample(ctx, &sampler, logits, 5, 1, i, &token));
        CHECK(token == 2 || token == 0);
    }
    sampler.top_k = 0;
    sampler.top_p = 0.5f;
    for (size_t i = 0; i < 100; i++) {
        CHECK_OK(hyb_sample(ctx, &sampler, logits, 5, 2, i, &token));
        CHECK(token == 2);
    }
    float bad[2] = {1.0f, 0.0f};
    memset(&bad[1], 0xff, sizeof bad[1]);
    CHECK_STATUS(hyb_sample(ctx, &sampler, bad, 2, 0, 0, &token), HYB_ERROR_NOT_FINITE);
}

int main(void) {
    make_model();
    test_batch_equals_single();
    test_seed_and_stream();
    test_stop_strings();
    test_ends_and_refusals();
    test_shift_context();
    test_sampler_distribution();
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
    return TEST_RESULT();
}
