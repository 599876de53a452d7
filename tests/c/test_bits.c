/* test_bits.c - the numerics contract as three numbers: CRC-32C of the logits and of generated tokens of fixed models.
 *
 * The same constants must come out of every compiler, optimisation level, processor, tier and thread count. The models
 * are drawn by the library's own generator, so no file is needed. To renew the constants (a change of every model's
 * text, see CONTRIBUTING.md): run with --print.
 */
#include "testing.h"

#include <hybrid/hybrid.h>

typedef struct expectation {
    const char *name;
    int32_t linear_format, granularity, embedding_format, activation, sub_norms, tied;
    uint32_t n_kv_heads;
    uint32_t logits_crc, tokens_crc, int8_cache_crc;
} expectation;

static const expectation expectations[] = {
    {"ternary, per tensor, SwiGLU", HYB_FORMAT_TERNARY, 0, HYB_FORMAT_INT8, 0, 0, 0, 4, 0xf640ed2cu, 0x621073eau,
     0x7fc2cc58u},
    {"ternary, per row, squared ReLU, sub-norms", HYB_FORMAT_TERNARY, 1, HYB_FORMAT_F32, 1, 1, 0, 2, 0x0c2984e0u,
     0x3767878cu, 0xe9d0022cu},
    {"fp32", HYB_FORMAT_F32, 0, HYB_FORMAT_F32, 0, 0, 0, 1, 0x6643c7dau, 0x6d125207u, 0x85bb1429u},
    {"4-bit", HYB_FORMAT_INT4, 0, HYB_FORMAT_INT4, 0, 1, 1, 4, 0x2b16593au, 0xd02c84c0u, 0xd02c84c0u},
};

enum { N = 70, GENERATED = 40 };

static hyb_language_model *make_model(hyb_ctx *ctx, const expectation *e) {
    hyb_language_model_config config = {.struct_size = sizeof config,
                                        .vocab_size = 256,
                                        .dim = 72, /* not a multiple of 16: every tail is walked */
                                        .n_layers = 2,
                                        .n_heads = 4,
                                        .n_kv_heads = e->n_kv_heads,
                                        .ffn_dim = 200,
                                        .max_context = 128,
                                        .rope_theta = 10000.0f,
                                        .norm_epsilon = 1e-5f,
                                        .activation = e->activation,
                                        .sub_norms = e->sub_norms,
                                        .tied_embeddings = e->tied,
                                        .linear_format = e->linear_format,
                                        .linear_granularity = e->granularity,
                                        .embedding_format = e->embedding_format};
    hyb_language_model *model = NULL;
    hyb_parameter p;
    CHECK_OK(hyb_language_model_create(ctx, &config, 2026, &model));
    /* Larger embeddings, so that logits differ enough to draw varied tokens. */
    for (size_t i = 0; i < hyb_language_model_parameter_count(model); i++) {
        CHECK_OK(hyb_language_model_parameter(model, i, &p));
        if (strcmp(p.name, "embedding") != 0 && strcmp(p.name, "head") != 0) continue;
        for (size_t j = 0; j < (size_t)p.n_rows * p.n_cols; j++) p.values[j] *= 16.0f;
    }
    CHECK_OK(hyb_language_model_touch(model));
    return model;
}

/* Bytes of a float or token as a little-endian machine holds them. */
static uint32_t crc_words(const void *words, size_t n) {
    uint32_t crc = 0, word;
    for (size_t i = 0; i < n; i++) {
        memcpy(&word, (const uint8_t *)words + 4 * i, 4);
        uint8_t bytes[4] = {(uint8_t)word, (uint8_t)(word >> 8), (uint8_t)(word >> 16), (uint8_t)(word >> 24)};
        crc = hyb_crc32c(crc, bytes, 4);
    }
    return crc;
}

static uint32_t generate_crc(hyb_language_model *model, const uint32_t *prompt, hyb_cache_format format) {
    hyb_session *session = NULL;
    uint32_t tokens[GENERATED];
    size_t n = 0, n_prompt = 10;
    hyb_generate_options options = {.struct_size = sizeof options, .max_tokens = GENERATED, .stop_token = -1};
    options.sampler.struct_size = sizeof options.sampler;
    options.sampler.temperature = 0.9f;
    options.sampler.top_k = 100;
    options.sampler.top_p = 0.95f;
    options.sampler.seed = 11;
    CHECK_OK(hyb_session_create(model, 1, 128, format, &session));
    CHECK_OK(hyb_generate(session, &prompt, &n_prompt, 1, &options, tokens, &n));
    CHECK(n == GENERATED);
    hyb_session_destroy(session);
    return crc_words(tokens, n);
}

static void test_bits(const expectation *e, uint32_t threads, uint32_t isa_mask, int print) {
    hyb_ctx_options options = {.struct_size = sizeof options, .n_threads = threads, .isa_mask = isa_mask};
    hyb_ctx *ctx = NULL;
    uint32_t prompt[N];
    float *logits = malloc((size_t)N * 256 * sizeof *logits);
    for (uint32_t i = 0; i < N; i++) prompt[i] = (i * i * 31u + i * 7u) % 256u;
    CHECK_OK(hyb_ctx_create(&options, &ctx));
    hyb_language_model *model = make_model(ctx, e);
    CHECK_OK(hyb_language_model_logits(model, prompt, N, logits));
    uint32_t crc = crc_words(logits, (size_t)N * 256), tokens = generate_crc(model, prompt, HYB_CACHE_F32);
    uint32_t int8_cache = generate_crc(model, prompt, HYB_CACHE_INT8);
    if (print) {
        printf("%s: 0x%08xu, 0x%08xu, 0x%08xu\n", e->name, crc, tokens, int8_cache);
    } else {
        if (crc != e->logits_crc) fprintf(stderr, "%s, isa mask %#x, %u threads:\n", e->name, isa_mask, threads);
        CHECK(crc == e->logits_crc);
        CHECK(tokens == e->tokens_crc);
        CHECK(int8_cache == e->int8_cache_crc);
    }
    hyb_language_model_destroy(model);
    hyb_ctx_destroy(ctx);
    free(logits);
}

/* Logits and tokens have the committed bits on every tier that this machine has, with 1 and 3 threads. */
int main(int argc, char **argv) {
    static const uint32_t masks[] = {HYB_ISA_MASK_SCALAR, HYB_ISA_AVX2, HYB_ISA_NEON, HYB_ISA_NEON_DOTPROD, 0};
    const uint32_t families = HYB_ISA_AVX2 | HYB_ISA_NEON | HYB_ISA_NEON_DOTPROD;
    int print = argc > 1 && strcmp(argv[1], "--print") == 0;
    for (size_t i = 0; i < sizeof expectations / sizeof *expectations; i++) {
        if (print) test_bits(&expectations[i], 1, 0, 1);
        for (size_t m = 0; m < sizeof masks / sizeof *masks && !print; m++) {
            if ((masks[m] & families & ~hyb_isa_detect()) != 0) continue; /* another processor's */
            test_bits(&expectations[i], 1, masks[m], 0);
            test_bits(&expectations[i], 3, masks[m], 0);
        }
    }
    return TEST_RESULT();
}
