/* test_session.c - a language model on the device gives the processor's logits and tokens, bit for bit: every format,
 * portions, steps of several sequences, sampling, contexts that overflow; and what goes wrong.
 */
#include "cuda_fixture.h"

#include <math.h>

static const char text[] = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the "
                           "slings and arrows of outrageous fortune, or to take arms against a sea of troubles.";

static void fill_tokens(uint32_t *tokens, size_t n, size_t start) {
    for (size_t i = 0; i < n; i++) tokens[i] = (unsigned char)text[(start + i) % (sizeof text - 1)];
}

static hyb_language_model_config small_config(int linear, int embedding) {
    hyb_language_model_config config = {.struct_size = sizeof config,
                                        .vocab_size = 256,
                                        .dim = 48,
                                        .n_layers = 2,
                                        .n_heads = 4,
                                        .n_kv_heads = 2,
                                        .ffn_dim = 72,
                                        .max_context = 160,
                                        .rope_theta = 10000.0f,
                                        .norm_epsilon = 1e-5f,
                                        .tied_embeddings = 1,
                                        .linear_format = linear,
                                        .embedding_format = embedding};
    return config;
}

static float *values_of(hyb_language_model *model, const char *name, size_t *n) {
    hyb_parameter p;
    for (size_t i = 0; i < hyb_language_model_parameter_count(model); i++) {
        CHECK_OK(hyb_language_model_parameter(model, i, &p));
        *n = (size_t)p.n_rows * p.n_cols;
        if (strcmp(p.name, name) == 0) return p.values;
    }
    return NULL;
}

/* An untrained model whose logits differ enough for sampling to matter. */
static hyb_language_model *make_model(fixture *f, const hyb_language_model_config *config, uint64_t seed) {
    hyb_language_model *model = NULL;
    size_t n = 0;
    CHECK_OK(hyb_language_model_create(f->ctx, config, seed, &model));
    float *head = values_of(model, config->tied_embeddings ? "embedding" : "head", &n);
    for (size_t i = 0; i < n; i++) head[i] *= 20.0f;
    CHECK_OK(hyb_language_model_touch(model));
    return model;
}

/* A session on the processor and one on the device, of the same shape. */
typedef struct sessions {
    hyb_session *host;
    hyb_cuda_session *device;
    size_t vocab_size;
    float *host_logits, *device_logits;
} sessions;

static sessions make_sessions(fixture *f, hyb_language_model *model, size_t n_sequences, size_t n_context, int cache) {
    hyb_language_model_config config = {.struct_size = sizeof config};
    sessions s = {NULL, NULL, 0, NULL, NULL};
    CHECK_OK(hyb_language_model_get_config(model, &config));
    CHECK_OK(hyb_session_create(model, n_sequences, n_context, (hyb_cache_format)cache, &s.host));
    CHECK_OK(hyb_cuda_session_create(f->cuda, model, n_sequences, n_context, (hyb_cache_format)cache, &s.device));
    if (s.device == NULL) {
        fprintf(stderr, "no session: %s\n", hyb_ctx_last_error(f->ctx));
        exit(1);
    }
    s.vocab_size = config.vocab_size;
    s.host_logits = host_memory(n_sequences * s.vocab_size, sizeof(float));
    s.device_logits = host_memory(n_sequences * s.vocab_size, sizeof(float));
    return s;
}

static void free_sessions(sessions *s) {
    hyb_cuda_session_destroy(s->device);
    hyb_session_destroy(s->host);
    free(s->host_logits);
    free(s->device_logits);
}

static void check_logits(const sessions *s, size_t n) {
    CHECK(memcmp(s->host_logits, s->device_logits, n * s->vocab_size * sizeof(float)) == 0);
    memset(s->device_logits, 0x7f, n * s->vocab_size * sizeof(float));
}

static void check_feed(sessions *s, size_t sequence, const uint32_t *tokens, size_t n) {
    CHECK_OK(hyb_session_feed(s->host, sequence, tokens, n, s->host_logits));
    CHECK_OK(hyb_cuda_session_feed(s->device, sequence, tokens, n, s->device_logits));
    CHECK(hyb_cuda_session_length(s->device, sequence) == hyb_session_length(s->host, sequence));
    check_logits(s, 1);
}

static void check_step(sessions *s, const uint32_t *sequences, const uint32_t *tokens, size_t n) {
    CHECK_OK(hyb_session_step(s->host, sequences, tokens, n, s->host_logits));
    CHECK_OK(hyb_cuda_session_step(s->device, sequences, tokens, n, s->device_logits));
    check_logits(s, n);
}

static void check_truncate(sessions *s, size_t sequence, size_t length) {
    CHECK_OK(hyb_session_truncate(s->host, sequence, length));
    CHECK_OK(hyb_cuda_session_truncate(s->device, sequence, length));
    CHECK(hyb_cuda_session_length(s->device, sequence) == hyb_session_length(s->host, sequence));
}

/* At once, in portions, stepwise with several sequences in any order, and again after a cut. */
static void check_session(fixture *f, const hyb_language_model_config *config, int cache) {
    enum { CONTEXT = 40 };
    static const uint32_t all[3] = {2, 0, 1}, two[2] = {1, 2}, one[1] = {1};
    uint32_t tokens[CONTEXT];
    hyb_language_model *model = make_model(f, config, 3);
    sessions s = make_sessions(f, model, 3, CONTEXT, cache);
    fill_tokens(tokens, CONTEXT, 5);
    check_feed(&s, 0, tokens, 35); /* more than a tile of attention */
    check_feed(&s, 1, tokens, 1);
    check_feed(&s, 1, tokens + 1, 6);
    CHECK_OK(hyb_session_feed(s.host, 2, tokens, 3, NULL));
    CHECK_OK(hyb_cuda_session_feed(s.device, 2, tokens, 3, NULL));
    for (size_t i = 0; i < 2; i++) check_step(&s, all, tokens + i, 3); /* directly, then as a graph */
    for (size_t i = 0; i < 2; i++) check_step(&s, two, tokens + i, 2);
    check_step(&s, one, tokens, 1);
    CHECK_OK(hyb_session_step(s.host, two, tokens, 2, NULL));
    CHECK_OK(hyb_cuda_session_step(s.device, two, tokens, 2, NULL));
    check_truncate(&s, 1, 4);
    check_truncate(&s, 1, 100);
    check_feed(&s, 1, tokens + 9, 2);
    check_step(&s, all, tokens + 7, 3);
    free_sessions(&s);
    hyb_language_model_destroy(model);
}

static void test_session_formats(void) {
    static const int formats[6] = {HYB_FORMAT_TERNARY, HYB_FORMAT_INT8, HYB_FORMAT_F32,
                                   HYB_FORMAT_BINARY,  HYB_FORMAT_INT2, HYB_FORMAT_INT4};
    fixture f = open_fixture();
    for (size_t i = 0; i < 6; i++) {
        hyb_language_model_config config = small_config(formats[i], formats[(i + 1 + i / 3) % 6]);
        config.linear_granularity = i % 2 ? HYB_SCALE_PER_ROW : HYB_SCALE_PER_TENSOR;
        config.sub_norms = i % 3 == 0 || i == 2;
        config.tied_embeddings = i % 2 == 0;
        config.activation = i % 2 ? HYB_ACTIVATION_SQUARED_RELU : HYB_ACTIVATION_SILU;
        check_session(&f, &config, i % 2 ? HYB_CACHE_INT8 : HYB_CACHE_F32);
    }
    hyb_language_model_config config = small_config(HYB_FORMAT_TERNARY, HYB_FORMAT_TERNARY);
    check_session(&f, &config, HYB_CACHE_INT8);
    config = small_config(HYB_FORMAT_F32, HYB_FORMAT_INT8); /* fp32 rows without a norm before them */
    config.activation = HYB_ACTIVATION_SQUARED_RELU;
    check_session(&f, &config, HYB_CACHE_F32);
    close_fixture(&f);
}

/* Heads of every kind: groups of 1, 2, 3 and 4, widths that fill no virtual lane's round, and more than a block's. */
static void test_session_heads(void) {
    static const uint32_t shapes[5][3] = {{64, 4, 4}, {64, 4, 1}, {60, 6, 2}, {264, 2, 1}, {2, 1, 1}};
    fixture f = open_fixture();
    for (size_t i = 0; i < 5; i++) {
        hyb_language_model_config config = small_config(HYB_FORMAT_TERNARY, HYB_FORMAT_INT8);
        config.dim = shapes[i][0];
        config.n_heads = shapes[i][1];
        config.n_kv_heads = shapes[i][2];
        config.n_layers = 1;
        check_session(&f, &config, i == 1 || i == 3 ? HYB_CACHE_INT8 : HYB_CACHE_F32);
    }
    close_fixture(&f);
}

/* More tokens than a pass has rows, rows of more elements than a norm stages at once, and a full cache. */
static void test_session_long(void) {
    enum { CONTEXT = 135 };
    fixture f = open_fixture();
    uint32_t tokens[CONTEXT];
    hyb_language_model_config config = small_config(HYB_FORMAT_INT8, HYB_FORMAT_INT8);
    config.dim = 16;
    config.n_heads = 1;
    config.n_kv_heads = 1;
    config.n_layers = 1;
    hyb_language_model *model = make_model(&f, &config, 1);
    sessions s = make_sessions(&f, model, 1, CONTEXT, HYB_CACHE_F32);
    fill_tokens(tokens, CONTEXT, 0);
    check_feed(&s, 0, tokens, CONTEXT - 1);
    check_feed(&s, 0, tokens, 1);
    CHECK_STATUS(hyb_cuda_session_feed(s.device, 0, tokens, 1, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(hyb_cuda_session_length(s.device, 0) == CONTEXT);
    free_sessions(&s);
    hyb_language_model_destroy(model);
    config.ffn_dim = 2200;
    config.sub_norms = 1;
    model = make_model(&f, &config, 1);
    s = make_sessions(&f, model, 1, 8, HYB_CACHE_F32);
    check_feed(&s, 0, tokens, 2);
    free_sessions(&s);
    hyb_language_model_destroy(model);
    close_fixture(&f);
}

/* A file's weights lie in another layout than a trained model's. */
static void test_session_of_a_file(void) {
    fixture f = open_fixture();
    char path[] = "test_session_XXXXXX";
    uint32_t tokens[6];
    hyb_language_model_config config = small_config(HYB_FORMAT_TERNARY, HYB_FORMAT_TERNARY);
    hyb_language_model *model = make_model(&f, &config, 2), *loaded = NULL;
    int file = mkstemp(path);
    CHECK(file >= 0);
    close(file);
    CHECK_OK(hyb_language_model_save(model, path, "{}", 2));
    CHECK_OK(hyb_language_model_load(f.ctx, path, &loaded));
    unlink(path);
    sessions s = make_sessions(&f, loaded, 1, 8, HYB_CACHE_F32);
    fill_tokens(tokens, 6, 0);
    check_feed(&s, 0, tokens, 6);
    free_sessions(&s);
    hyb_language_model_destroy(loaded);
    hyb_language_model_destroy(model);
    close_fixture(&f);
}

/* ---- generation ---- */

typedef struct collected {
    char text[3][256];
    size_t n_bytes[3];
    int finished[3], reason[3];
} collected;

static int collect(void *user, size_t sequence, const char *piece, size_t n_bytes, uint32_t token, int finished,
                   int reason) {
    collected *c = user;
    (void)token;
    memcpy(c->text[sequence] + c->n_bytes[sequence], piece, n_bytes);
    c->n_bytes[sequence] += n_bytes;
    c->finished[sequence] += finished;
    c->reason[sequence] = reason;
    return 0;
}

static const uint32_t prompt_a[3] = {'a', 'b', 'c'}, prompt_b[1] = {'x'}, prompt_c[5] = {'h', 'e', 'l', 'l', 'o'};
static const uint32_t *const prompts[3] = {prompt_a, prompt_b, prompt_c};
static const size_t prompt_tokens[3] = {3, 1, 5};

static hyb_generate_options options_for(float temperature, uint32_t top_k, float top_p, size_t max_tokens) {
    hyb_generate_options options = {.struct_size = sizeof options, .max_tokens = max_tokens, .stop_token = -1};
    options.sampler = (hyb_sampler){sizeof options.sampler, temperature, top_k, top_p, 7};
    return options;
}

static void check_generate(const sessions *s, size_t n, hyb_generate_options options) {
    enum { MOST = 3 * 40 };
    uint32_t host[MOST] = {0}, device[MOST] = {0};
    size_t n_host[3] = {0}, n_device[3] = {0};
    collected host_text = {.reason = {0}}, device_text = {.reason = {0}};
    options.callback = collect;
    options.user = &host_text;
    CHECK_OK(hyb_generate(s->host, prompts, prompt_tokens, n, &options, host, n_host));
    options.user = &device_text;
    CHECK_OK(hyb_cuda_generate(s->device, prompts, prompt_tokens, n, &options, device, n_device));
    CHECK(memcmp(n_host, n_device, sizeof n_host) == 0);
    CHECK(memcmp(host, device, sizeof host) == 0);
    CHECK(memcmp(&host_text, &device_text, sizeof host_text) == 0);
}

static void test_session_generate(void) {
    fixture f = open_fixture();
    hyb_language_model_config config = small_config(HYB_FORMAT_TERNARY, HYB_FORMAT_INT8);
    hyb_language_model *model = make_model(&f, &config, 5);
    sessions s = make_sessions(&f, model, 3, 14, HYB_CACHE_INT8);
    check_generate(&s, 3, options_for(0.0f, 0, 0.0f, 6));
    check_generate(&s, 1, options_for(1.3f, 1, 0.0f, 3));
    check_generate(&s, 3, options_for(1.0f, 0, 1.0f, 8));
    check_generate(&s, 2, options_for(0.7f, 5, 0.0f, 5));
    check_generate(&s, 2, options_for(1.5f, 300, 0.0f, 5)); /* more than there are: the whole vocabulary */
    check_generate(&s, 2, options_for(0.9f, 0, 0.8f, 5));
    check_generate(&s, 1, options_for(2.0f, 40, 0.9f, 5));
    check_generate(&s, 3, options_for(0.0f, 0, 0.0f, 40)); /* until the caches are full */
    hyb_generate_options options = options_for(1.0f, 0, 0.0f, 24);
    options.shift_context = 1;
    check_generate(&s, 2, options);
    static const char *const stops[2] = {"e", "th"};
    options = options_for(3.0f, 0, 0.0f, 40);
    options.stop = stops;
    options.n_stop = 2;
    options.stop_token = 'q';
    check_generate(&s, 3, options);
    free_sessions(&s);
    hyb_language_model_destroy(model);
    close_fixture(&f);
}

/* A vocabulary of several chunks of weights, whose draws end in each of them. */
static void test_session_large_vocabulary(void) {
    fixture f = open_fixture();
    hyb_language_model_config config = small_config(HYB_FORMAT_TERNARY, HYB_FORMAT_INT8);
    config.vocab_size = 2500;
    config.dim = 16;
    config.n_heads = 1;
    config.n_kv_heads = 1;
    config.n_layers = 1;
    hyb_language_model *model = make_model(&f, &config, 4);
    sessions s = make_sessions(&f, model, 2, 16, HYB_CACHE_F32);
    check_generate(&s, 2, options_for(30.0f, 0, 0.0f, 10));
    check_generate(&s, 1, options_for(1e-30f, 0, 0.0f, 3));
    check_generate(&s, 1, options_for(0.0f, 0, 0.0f, 3));
    free_sessions(&s);
    hyb_language_model_destroy(model);
    close_fixture(&f);
}

/* ---- what goes wrong ---- */

static void test_session_refusals(void) {
    fixture f = open_fixture();
    hyb_language_model_config config = small_config(HYB_FORMAT_TERNARY, HYB_FORMAT_INT8);
    hyb_language_model *model = make_model(&f, &config, 5), *foreign = NULL;
    hyb_cuda_session *s = NULL;
    hyb_ctx *other = NULL;
    uint32_t tokens[3] = {1, 2, 256}, sequences[3] = {0, 0, 2};
    size_t n = 0;
    CHECK_STATUS(hyb_cuda_session_create(NULL, model, 1, 8, HYB_CACHE_F32, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_create(f.cuda, NULL, 1, 8, HYB_CACHE_F32, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_create(f.cuda, model, 1, 8, HYB_CACHE_F32, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_create(f.cuda, model, 0, 8, HYB_CACHE_F32, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_create(f.cuda, model, 1, 161, HYB_CACHE_F32, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(f.ctx), "max_context (160)") != NULL);
    CHECK_STATUS(hyb_cuda_session_create(f.cuda, model, 1, 8, (hyb_cache_format)2, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_ctx_create(NULL, &other));
    CHECK_OK(hyb_language_model_create(other, &config, 1, &foreign));
    CHECK_STATUS(hyb_cuda_session_create(f.cuda, foreign, 1, 8, HYB_CACHE_F32, &s), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(s == NULL);
    CHECK_OK(hyb_cuda_session_create(f.cuda, model, 2, 8, HYB_CACHE_INT8, &s));
    CHECK_STATUS(hyb_cuda_session_feed(NULL, 0, tokens, 1, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_feed(s, 0, NULL, 1, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_feed(s, 0, tokens, 0, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_feed(s, 2, tokens, 1, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_feed(s, 0, tokens, 3, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_feed(s, 0, tokens, 9, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_step(NULL, sequences, tokens, 1, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_step(s, sequences, tokens, 2, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_step(s, sequences + 1, tokens, 2, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_step(s, sequences, tokens, 3, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_truncate(NULL, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_session_truncate(s, 2, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(hyb_cuda_session_length(s, 0) == 0 && hyb_cuda_session_length(s, 9) == 0);
    CHECK(hyb_cuda_session_length(NULL, 0) == 0 && hyb_cuda_session_bytes(NULL) == 0);
    CHECK(hyb_cuda_session_bytes(s) >= (size_t)2 * 8 * 2 * (2 * 24 + 2 * 2 * 4));
    hyb_generate_options options = options_for(-1.0f, 0, 0.0f, 4);
    CHECK_STATUS(hyb_cuda_generate(s, prompts, prompt_tokens, 1, &options, tokens, &n), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_generate(s, prompts, prompt_tokens, 3, &options, tokens, &n), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_generate(NULL, prompts, prompt_tokens, 1, &options, tokens, &n), HYB_ERROR_INVALID_ARGUMENT);
    hyb_cuda_session_destroy(s);
    hyb_cuda_session_destroy(NULL);
    hyb_language_model_destroy(foreign);
    hyb_ctx_destroy(other);
    hyb_language_model_destroy(model);
    close_fixture(&f);
}

/* A NaN on the way is reported once, and the session works on. */
static void test_session_not_finite(void) {
    fixture f = open_fixture();
    hyb_language_model_config config = small_config(HYB_FORMAT_TERNARY, HYB_FORMAT_F32);
    hyb_language_model *model = make_model(&f, &config, 5);
    size_t n = 0;
    uint32_t bad[1] = {9}, tokens[4];
    float *embedding = values_of(model, "embedding", &n), logits[256];
    for (size_t i = 0; i < config.dim; i++) embedding[9 * config.dim + i] = (float)NAN;
    sessions s = make_sessions(&f, model, 1, 8, HYB_CACHE_INT8);
    hyb_generate_options options = options_for(0.0f, 0, 0.0f, 4);
    CHECK_STATUS(hyb_cuda_session_feed(s.device, 0, bad, 1, logits), HYB_ERROR_NOT_FINITE);
    CHECK(hyb_cuda_session_length(s.device, 0) == 1 && isnan(logits[9]));
    CHECK_STATUS(hyb_generate(s.host, prompts, prompt_tokens, 1, &options, tokens, &n), HYB_ERROR_NOT_FINITE);
    CHECK_STATUS(hyb_cuda_generate(s.device, prompts, prompt_tokens, 1, &options, tokens, &n), HYB_ERROR_NOT_FINITE);
    options.sampler.top_k = 3;
    options.sampler.temperature = 1.0f;
    CHECK_STATUS(hyb_cuda_generate(s.device, prompts, prompt_tokens, 1, &options, tokens, &n), HYB_ERROR_NOT_FINITE);
    for (size_t i = 0; i < config.dim; i++) embedding[9 * config.dim + i] = 0.0f;
    free_sessions(&s);
    s = make_sessions(&f, model, 1, 8, HYB_CACHE_INT8);
    check_feed(&s, 0, prompt_a, 3);
    free_sessions(&s);
    hyb_language_model_destroy(model);
    close_fixture(&f);
}

static uint64_t free_bytes(fixture *f) {
    hyb_cuda_info info = {.struct_size = sizeof info};
    CHECK_OK(hyb_cuda_get_info(f->cuda, &info));
    return info.free_bytes;
}

/* Device memory that ends anywhere leaves nothing behind, and the model works on. */
static void test_session_out_of_memory(void) {
    fixture f = open_fixture();
    hyb_cuda_info info = {.struct_size = sizeof info};
    hyb_language_model_config config = small_config(HYB_FORMAT_TERNARY, HYB_FORMAT_INT8);
    hyb_language_model *model = make_model(&f, &config, 5);
    hyb_cuda_session *s = NULL;
    int n_failures = 0;
    CHECK_OK(hyb_cuda_get_info(f.cuda, &info));
    for (size_t limit = 1000; info.is_emulated && s == NULL && limit < (size_t)1 << 30; limit *= 2) {
        char number[32];
        (void)snprintf(number, sizeof number, "%zu", limit);
        setenv("HYB_EMULATION_BYTES", number, 1);
        uint64_t before = free_bytes(&f);
        hyb_status status = hyb_cuda_session_create(f.cuda, model, 2, 32, HYB_CACHE_F32, &s);
        if (s != NULL) break;
        CHECK_STATUS(status, HYB_ERROR_OUT_OF_MEMORY);
        CHECK(free_bytes(&f) == before);
        n_failures++;
    }
    unsetenv("HYB_EMULATION_BYTES");
    CHECK(!info.is_emulated || (s != NULL && n_failures > 3));
    hyb_cuda_session_destroy(s);
    sessions both = make_sessions(&f, model, 1, 8, HYB_CACHE_F32);
    check_feed(&both, 0, prompt_a, 3);
    free_sessions(&both);
    hyb_language_model_destroy(model);
    close_fixture(&f);
}

int main(void) {
    test_session_formats();
    test_session_heads();
    test_session_long();
    test_session_of_a_file();
    test_session_generate();
    test_session_large_vocabulary();
    test_session_refusals();
    test_session_not_finite();
    test_session_out_of_memory();
    return TEST_RESULT();
}
