/* test_features.c - features and signatures of windows against plain definitions; the same for every width of a token
 * and number of threads, whole or in pieces; bad input.
 */
#include "testing.h"

#include <math.h>

#include <hybrid/features.h>

#include "common.h"
#include "tier_context.h"

#define WINDOW 50
#define N_TOKENS (WINDOW * 41 + 17)
#define N_WINDOWS 41
#define N_FEATURES 24
#define SEED 99

/* A text of few different tokens, so that n-grams occur several times. */
typedef struct text {
    uint8_t u8[N_TOKENS];
    uint16_t u16[N_TOKENS];
    uint32_t u32[N_TOKENS];
} text;

static void make_text(text *t) {
    uint64_t state = 8;
    for (size_t i = 0; i < N_TOKENS; ++i) {
        t->u8[i] = (uint8_t)test_random_below(&state, i < N_TOKENS / 2 ? 6 : 200);
        t->u16[i] = t->u8[i];
        t->u32[i] = t->u8[i];
    }
}

/* The hash of the header's words, one run of tokens at a time. */
static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static uint64_t run_hash(const uint8_t *tokens, size_t n) {
    uint64_t p = 0, power;
    for (size_t j = 0; j < n; ++j) {
        power = 1;
        for (size_t k = 0; k < n - 1 - j; ++k) power *= 0x9e3779b97f4a7c15u;
        p += mix(SEED + (uint64_t)tokens[j]) * power;
    }
    return mix(p + n);
}

/* Features of one window in double precision, by counting each n-gram among all. */
static void plain_features(const uint8_t *window, uint32_t ngrams, double *row) {
    uint64_t hashes[3 * WINDOW];
    size_t n_hashes = 0;
    memset(row, 0, N_FEATURES * sizeof *row);
    for (size_t n = 1; n <= 3; ++n)
        for (size_t i = 0; i + n <= WINDOW && (ngrams >> (n - 1) & 1) != 0; ++i)
            hashes[n_hashes++] = run_hash(window + i, n);
    for (size_t i = 0; i < n_hashes; ++i) {
        size_t count = 0, n_before = 0;
        for (size_t j = 0; j < n_hashes; ++j) {
            count += hashes[j] == hashes[i];
            n_before += hashes[j] == hashes[i] && j < i;
        }
        double root = n_before == 0 ? sqrt((double)count) : 0;
        row[(hashes[i] >> 32) * N_FEATURES >> 32] += (hashes[i] & 1) != 0 ? -root : root;
    }
    for (size_t f = 0; f < N_FEATURES; ++f) row[f] /= sqrt((double)n_hashes);
}

static void test_window_features(hyb_ctx *ctx, const text *t) {
    for (uint32_t ngrams = 1; ngrams <= 7; ++ngrams) {
        hyb_window_hashing hashing = {WINDOW, N_FEATURES, ngrams, SEED};
        float *rows = test_guarded_alloc(N_WINDOWS * N_FEATURES * 4), *others = malloc(N_WINDOWS * N_FEATURES * 4);
        double worst = 0, plain[N_FEATURES];
        CHECK_OK(hyb_window_features(ctx, &hashing, t->u8, 1, N_TOKENS, rows));
        for (size_t w = 0; w < N_WINDOWS; ++w) {
            plain_features(t->u8 + w * WINDOW, ngrams, plain);
            for (size_t f = 0; f < N_FEATURES; ++f)
                worst = fmax(worst, fabs(plain[f] - (double)rows[w * N_FEATURES + f]));
        }
        CHECK(worst < 1e-5); /* at most 147 fp32 additions of numbers below 7 */
        CHECK_OK(hyb_window_features(ctx, &hashing, t->u16, 2, N_TOKENS, others));
        CHECK(memcmp(rows, others, N_WINDOWS * N_FEATURES * 4) == 0);
        CHECK_OK(hyb_window_features(ctx, &hashing, t->u32, 4, 20 * WINDOW, others)); /* in two pieces */
        CHECK_OK(hyb_window_features(ctx, &hashing, t->u32 + 20 * WINDOW, 4, N_TOKENS - 20 * WINDOW,
                                     others + 20 * N_FEATURES));
        CHECK(memcmp(rows, others, N_WINDOWS * N_FEATURES * 4) == 0);
        free(others);
        test_guarded_free(rows, N_WINDOWS * N_FEATURES * 4);
    }
}

static void test_window_embeddings(hyb_ctx *ctx, text *t) {
    enum { VOCAB = 200, DIM = 37 };
    float *embeddings = test_guarded_alloc(VOCAB * DIM * 4), *rows = test_guarded_alloc(N_WINDOWS * DIM * 4);
    uint64_t state = 6;
    double worst = 0;
    for (size_t i = 0; i < VOCAB * DIM; ++i) embeddings[i] = test_random_float(&state);
    CHECK_OK(hyb_window_embeddings(ctx, embeddings, VOCAB, DIM, WINDOW, t->u16, 2, N_TOKENS, rows));
    for (size_t w = 0; w < N_WINDOWS; ++w)
        for (size_t d = 0; d < DIM; ++d) {
            double mean = 0;
            for (size_t i = 0; i < WINDOW; ++i) mean += (double)embeddings[t->u8[w * WINDOW + i] * DIM + d] / WINDOW;
            worst = fmax(worst, fabs(mean - (double)rows[w * DIM + d]));
        }
    CHECK(worst < 1e-5);
    t->u32[777] = VOCAB;
    t->u32[778] = UINT32_MAX;
    CHECK_STATUS(hyb_window_embeddings(ctx, embeddings, VOCAB, DIM, WINDOW, t->u32, 4, N_TOKENS, rows),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "token 200 at place 777 ") != NULL);
    t->u32[777] = t->u8[777];
    t->u32[778] = t->u8[778];
    CHECK_STATUS(hyb_window_embeddings(ctx, NULL, VOCAB, DIM, WINDOW, t->u8, 1, N_TOKENS, rows),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_window_embeddings(ctx, embeddings, 0, DIM, WINDOW, t->u8, 1, N_TOKENS, rows),
                 HYB_ERROR_INVALID_ARGUMENT);
    test_guarded_free(rows, N_WINDOWS * DIM * 4);
    test_guarded_free(embeddings, VOCAB * DIM * 4);
}

static void test_shingles(hyb_ctx *ctx, const text *t) {
    static const size_t lengths[] = {1, 2, 8, WINDOW};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; ++l) {
        size_t shingle = lengths[l], n = N_TOKENS - shingle + 1, n_wrong = 0;
        uint64_t *hashes = test_guarded_alloc(n * 8);
        uint32_t *signatures = test_guarded_alloc(N_WINDOWS * HYB_MINHASHES * 4);
        CHECK_OK(hyb_shingle_hashes(ctx, shingle, SEED, t->u32, 4, N_TOKENS, hashes));
        for (size_t i = 0; i < n; ++i) n_wrong += hashes[i] != run_hash(t->u8 + i, shingle);
        CHECK(n_wrong == 0);
        CHECK_OK(hyb_window_minhash(ctx, WINDOW, shingle, SEED, t->u8, 1, N_TOKENS, signatures));
        for (size_t w = 0; w < N_WINDOWS; ++w)
            for (size_t k = 0; k < HYB_MINHASHES; ++k) {
                uint32_t least = UINT32_MAX;
                for (size_t i = w * WINDOW; i + shingle <= (w + 1) * WINDOW; ++i) {
                    uint32_t value = (uint32_t)(hashes[i] * (mix(SEED + k) | 1) >> 32);
                    least = value < least ? value : least;
                }
                n_wrong += signatures[w * HYB_MINHASHES + k] != least;
            }
        CHECK(n_wrong == 0);
        test_guarded_free(signatures, N_WINDOWS * HYB_MINHASHES * 4);
        test_guarded_free(hashes, n * 8);
    }
}

/* Loops of many tasks: the same for one thread and three. */
static void test_threads(void) {
    enum { N = 100003 };
    hyb_ctx *ctx[2] = {make_ctx(HYB_ISA_MASK_SCALAR, 1), make_ctx(0, 3)};
    uint16_t *tokens = malloc(N * 2);
    float *rows[2], *means[2], *embeddings = malloc(500 * 16 * 4);
    uint32_t *signatures[2];
    uint64_t *hashes[2], state = 2;
    hyb_window_hashing hashing = {64, 64, 7, 1};
    for (size_t i = 0; i < N; ++i) tokens[i] = (uint16_t)(test_random_below(&state, 500));
    for (size_t i = 0; i < 500 * 16; ++i) embeddings[i] = test_random_float(&state);
    for (int i = 0; i < 2; ++i) {
        rows[i] = malloc(N / 64 * 64 * 4), means[i] = malloc(N / 64 * 16 * 4);
        signatures[i] = malloc(N / 64 * HYB_MINHASHES * 4), hashes[i] = malloc((N - 7) * 8);
        CHECK_OK(hyb_window_features(ctx[i], &hashing, tokens, 2, N, rows[i]));
        CHECK_OK(hyb_window_embeddings(ctx[i], embeddings, 500, 16, 64, tokens, 2, N, means[i]));
        CHECK_OK(hyb_window_minhash(ctx[i], 64, 8, 1, tokens, 2, N, signatures[i]));
        CHECK_OK(hyb_shingle_hashes(ctx[i], 8, 1, tokens, 2, N, hashes[i]));
    }
    CHECK(memcmp(rows[0], rows[1], N / 64 * 64 * 4) == 0 && memcmp(means[0], means[1], N / 64 * 16 * 4) == 0);
    CHECK(memcmp(signatures[0], signatures[1], N / 64 * HYB_MINHASHES * 4) == 0);
    CHECK(memcmp(hashes[0], hashes[1], (N - 7) * 8) == 0);
    for (int i = 0; i < 2; ++i) {
        free(rows[i]), free(means[i]), free(signatures[i]), free(hashes[i]);
        hyb_ctx_destroy(ctx[i]);
    }
    free(embeddings);
    free(tokens);
}

static void test_errors(hyb_ctx *ctx, const text *t) {
    const hyb_window_hashing good = {WINDOW, N_FEATURES, 7, 0};
    const hyb_window_hashing bad[] = {{0, 8, 7, 0},
                                      {WINDOW, 0, 7, 0},
                                      {WINDOW, 8, 0, 0},
                                      {WINDOW, 8, 8, 0},
                                      {1, 8, 6, 0},
                                      {2, 8, 4, 0},
                                      {((uint32_t)1 << 24) + 1, 8, 7, 0},
                                      {WINDOW, ((uint32_t)1 << 24) + 1, 7, 0}};
    float rows[8] = {0};
    uint64_t hash = 0;
    uint32_t signature[HYB_MINHASHES] = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i)
        CHECK_STATUS(hyb_window_features(ctx, &bad[i], t->u8, 1, WINDOW, rows), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_window_features(ctx, &good, t->u8, 3, WINDOW, rows), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_window_features(ctx, &good, NULL, 1, WINDOW, rows), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_window_features(ctx, &good, t->u8, 1, WINDOW, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_window_features(ctx, NULL, t->u8, 1, WINDOW, rows), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_window_features(NULL, &good, t->u8, 1, WINDOW, rows), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_window_features(ctx, &good, NULL, 1, 0, NULL));           /* no text */
    CHECK_OK(hyb_window_features(ctx, &good, t->u8, 1, WINDOW - 1, NULL)); /* not a whole window */
    CHECK_STATUS(hyb_window_minhash(ctx, 0, 1, 0, t->u8, 1, WINDOW, signature), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_window_minhash(ctx, 8, 0, 0, t->u8, 1, WINDOW, signature), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_window_minhash(ctx, 8, 9, 0, t->u8, 1, WINDOW, signature), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_shingle_hashes(ctx, 0, 0, t->u8, 1, WINDOW, &hash), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_shingle_hashes(ctx, 9, 0, t->u8, 1, 8, &hash), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "shingle is 9") != NULL);
}

static void *no_memory(void *user, size_t n_bytes, size_t alignment) {
    int *is_out = user;
    void *memory = NULL;
    if (*is_out || posix_memalign(&memory, alignment, n_bytes) != 0) return NULL;
    return memory;
}
static void give_back(void *user, void *memory) {
    (void)user;
    free(memory);
}

static void test_out_of_memory(const text *t) {
    int is_out = 0;
    hyb_ctx_options options = {.struct_size = sizeof options, .allocate = no_memory, .release = give_back};
    hyb_ctx *ctx = NULL;
    const hyb_window_hashing hashing = {WINDOW, 8, 7, 0};
    float rows[8] = {0};
    options.allocator_user = &is_out;
    options.n_threads = 1;
    CHECK_OK(hyb_ctx_create(&options, &ctx));
    is_out = 1;
    CHECK_STATUS(hyb_window_features(ctx, &hashing, t->u8, 1, WINDOW, rows), HYB_ERROR_OUT_OF_MEMORY);
    is_out = 0;
    CHECK_OK(hyb_window_features(ctx, &hashing, t->u8, 1, WINDOW, rows));
    hyb_ctx_destroy(ctx);
}

int main(void) {
    static text t;
    hyb_ctx *ctx = make_ctx(0, 2);
    make_text(&t);
    test_window_features(ctx, &t);
    test_window_embeddings(ctx, &t);
    test_shingles(ctx, &t);
    test_threads();
    test_errors(ctx, &t);
    test_out_of_memory(&t);
    hyb_ctx_destroy(ctx);
    return TEST_RESULT();
}
