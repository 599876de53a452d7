/* features.c - features and signatures of windows of tokens (hybrid/features.h): hashed n-grams, mean embeddings,
 * minima of hashed shingles. A window is read by one task; whatever it needs lies in its worker's part of the context's
 * work memory.
 */
#include <math.h>

#include <hybrid/features.h>

#include "common.h"

#define FACTOR ((uint64_t)0x9e3779b97f4a7c15u) /* 2^64 / golden ratio, odd */
#define MOST ((uint32_t)1 << 24)               /* of window and n_features: numbers below it are exact in floats */
/* Tokens a task handles. */
#define TOKENS_PER_TASK ((size_t)16384)

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- tokens ---- */

typedef struct token_array {
    const void *tokens;
    size_t token_bytes, n;
} token_array;

static uint32_t token_at(const token_array *a, size_t i) {
    if (a->token_bytes == 1) return ((const uint8_t *)a->tokens)[i];
    if (a->token_bytes == 2) return ((const uint16_t *)a->tokens)[i];
    return ((const uint32_t *)a->tokens)[i];
}

static uint64_t token_hash(const token_array *a, uint64_t seed, size_t i) { return mix(seed + token_at(a, i)); }

static hyb_status check_tokens(hyb_ctx *ctx, const token_array *a, size_t window, const void *out) {
    if (window == 0) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "window is 0; give at least 1 token");
    if (a->token_bytes != 1 && a->token_bytes != 2 && a->token_bytes != 4)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "token_bytes is %zu; use 1, 2 or 4", a->token_bytes);
    if (a->n >= window && (a->tokens == NULL || out == NULL))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "the %s are NULL", out == NULL ? "results" : "tokens");
    return HYB_OK;
}

static size_t windows_per_task(size_t window) { return window < TOKENS_PER_TASK ? TOKENS_PER_TASK / window : 1; }

/* Polynomial of a run of n hashed tokens. */
static uint64_t polynomial(const uint64_t *hashes, size_t n) {
    uint64_t p = 0;
    for (size_t i = 0; i < n; ++i) p = p * FACTOR + hashes[i];
    return p;
}

/* FACTOR to the power n. */
static uint64_t factor_power(size_t n) {
    uint64_t result = 1, square = FACTOR;
    for (; n != 0; n >>= 1, square *= square)
        if ((n & 1) != 0) result *= square;
    return result;
}

/* ---- hashed n-grams ---- */

/* A distinct n-gram of the window. */
typedef struct ngram {
    uint64_t hash;
    uint32_t count; /* 0: the slot is free */
    uint32_t slot;  /* of the n-gram that came i-th, in entry i */
} ngram;

typedef struct ngram_loop {
    const hyb_window_hashing *hashing;
    token_array tokens;
    size_t n_windows, windows_per_task, n_ngrams;
    size_t n_slots; /* a power of two, at least twice n_ngrams */
    uint8_t *work;
    size_t worker_bytes;
    float *features;
} ngram_loop;

/* Counts an n-gram in a table with linear probing; *n_distinct numbers the slots in the order of their first use. */
static void count_ngram(ngram *table, size_t n_slots, uint64_t hash, size_t *n_distinct) {
    size_t slot = (size_t)hash & (n_slots - 1);
    while (table[slot].count != 0 && table[slot].hash != hash) slot = (slot + 1) & (n_slots - 1);
    if (table[slot].count++ != 0) return;
    table[slot].hash = hash;
    table[(*n_distinct)++].slot = (uint32_t)slot;
}

static void window_features(const ngram_loop *loop, size_t w, ngram *table, uint64_t *hashes) {
    const hyb_window_hashing *h = loop->hashing;
    size_t window = h->window, n_distinct = 0;
    float *row = loop->features + w * h->n_features;
    for (size_t i = 0; i < window; ++i) hashes[i] = token_hash(&loop->tokens, h->seed, w * window + i);
    for (size_t n = 1; n <= 3; ++n) {
        if ((h->ngrams >> (n - 1) & 1u) == 0) continue;
        for (size_t i = 0; i + n <= window; ++i)
            count_ngram(table, loop->n_slots, mix(polynomial(hashes + i, n) + n), &n_distinct);
    }
    for (size_t f = 0; f < h->n_features; ++f) row[f] = 0.0f;
    for (size_t i = 0; i < n_distinct; ++i) {
        ngram *found = &table[table[i].slot];
        float root = sqrtf((float)found->count);
        row[(found->hash >> 32) * h->n_features >> 32] += (found->hash & 1) != 0 ? -root : root;
        found->count = 0; /* the table is empty again for the next window */
    }
    const float norm = sqrtf((float)loop->n_ngrams);
    for (size_t f = 0; f < h->n_features; ++f) row[f] /= norm;
}

static void ngram_task(void *argument, size_t index, size_t worker) {
    const ngram_loop *loop = argument;
    ngram *table = (ngram *)(void *)(loop->work + worker * loop->worker_bytes);
    uint64_t *hashes = (uint64_t *)(void *)(table + loop->n_slots);
    size_t first = index * loop->windows_per_task, end = hyb_min_size(first + loop->windows_per_task, loop->n_windows);
    for (size_t w = first; w < end; ++w) window_features(loop, w, table, hashes);
}

static hyb_status check_hashing(hyb_ctx *ctx, const hyb_window_hashing *h, size_t *n_ngrams) {
    if (h->window < 1 || h->window > MOST || h->n_features < 1 || h->n_features > MOST)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "window is %lu, n_features %lu; both must be 1 to 2^24",
                        (unsigned long)h->window, (unsigned long)h->n_features);
    if (h->ngrams < 1 || h->ngrams > 7)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "ngrams is %lu; give bits of hyb_ngrams, 1 to 7",
                        (unsigned long)h->ngrams);
    *n_ngrams = 0;
    for (size_t n = 1; n <= 3; ++n)
        if ((h->ngrams >> (n - 1) & 1u) != 0 && h->window >= n) *n_ngrams += h->window - n + 1;
    if (*n_ngrams == 0)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "a window of %lu holds no n-gram of the chosen lengths",
                        (unsigned long)h->window);
    return HYB_OK;
}

hyb_status hyb_window_features(hyb_ctx *ctx, const hyb_window_hashing *hashing, const void *tokens, size_t token_bytes,
                               size_t n_tokens, float *features) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (hashing == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_window_features: hashing is NULL");
    ngram_loop loop = {.hashing = hashing, .tokens = {tokens, token_bytes, n_tokens}, .features = features};
    HYB_TRY(check_hashing(ctx, hashing, &loop.n_ngrams));
    HYB_TRY(check_tokens(ctx, &loop.tokens, hashing->window, features));
    loop.n_windows = n_tokens / hashing->window;
    if (loop.n_windows == 0) return HYB_OK;
    loop.windows_per_task = windows_per_task(hashing->window);
    for (loop.n_slots = 16; loop.n_slots < 2 * loop.n_ngrams;) loop.n_slots *= 2;
    size_t n_workers = hyb_ctx_n_threads(ctx), table_bytes = loop.n_slots * sizeof(ngram);
    loop.worker_bytes = hyb_round_up(table_bytes + hashing->window * sizeof(uint64_t), HYB_CACHE_LINE);
    /* At most 2^27 slots of 16 bytes a worker: that fits 32 bits. */
    loop.work =
        hyb_mul_overflows(n_workers, loop.worker_bytes) ? NULL : hyb_scratch(ctx, n_workers * loop.worker_bytes);
    if (loop.work == NULL)
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to count the n-grams of a window of %lu tokens",
                        (unsigned long)hashing->window);
    memset(loop.work, 0, n_workers * loop.worker_bytes);
    hyb_parallel(ctx, hyb_ceil_div(loop.n_windows, loop.windows_per_task), ngram_task, &loop);
    return HYB_OK;
}

/* ---- mean embeddings ---- */

typedef struct embedding_loop {
    const hyb_kernels *kernels;
    const float *embeddings;
    size_t vocab_size, dim, window, n_windows, windows_per_task;
    token_array tokens;
    float *features;
    size_t bad_tokens[HYB_MAX_THREADS]; /* by worker: 1 + place of the first that is not in the vocabulary, or 0 */
} embedding_loop;

static void embedding_task(void *argument, size_t index, size_t worker) {
    embedding_loop *loop = argument;
    size_t first = index * loop->windows_per_task, end = hyb_min_size(first + loop->windows_per_task, loop->n_windows);
    for (size_t w = first; w < end; ++w) {
        float *row = loop->features + w * loop->dim;
        for (size_t d = 0; d < loop->dim; ++d) row[d] = 0.0f;
        for (size_t i = w * loop->window; i < (w + 1) * loop->window; ++i) {
            size_t token = token_at(&loop->tokens, i);
            if (token < loop->vocab_size)
                loop->kernels->add_f32(row, loop->embeddings + token * loop->dim, loop->dim);
            else if (loop->bad_tokens[worker] == 0 || i + 1 < loop->bad_tokens[worker])
                loop->bad_tokens[worker] = i + 1;
        }
        loop->kernels->scale_f32(row, row, loop->dim, 1.0f / (float)loop->window);
    }
}

hyb_status hyb_window_embeddings(hyb_ctx *ctx, const float *embeddings, size_t vocab_size, size_t dim, size_t window,
                                 const void *tokens, size_t token_bytes, size_t n_tokens, float *features) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    embedding_loop loop = {.kernels = &ctx->kernels, .embeddings = embeddings, .vocab_size = vocab_size, .dim = dim};
    loop.tokens = (token_array){tokens, token_bytes, n_tokens};
    loop.features = features;
    HYB_TRY(check_tokens(ctx, &loop.tokens, window, features));
    if (embeddings == NULL || vocab_size == 0 || dim == 0)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "embeddings of %zu x %zu: both sizes must be at least 1",
                        vocab_size, dim);
    loop.window = window;
    loop.n_windows = n_tokens / window;
    loop.windows_per_task = windows_per_task(window);
    hyb_parallel(ctx, hyb_ceil_div(loop.n_windows, loop.windows_per_task), embedding_task, &loop);
    size_t bad = 0;
    for (size_t i = 0; i < HYB_MAX_THREADS; ++i)
        if (loop.bad_tokens[i] != 0 && (bad == 0 || loop.bad_tokens[i] < bad)) bad = loop.bad_tokens[i];
    if (bad == 0) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "token %lu at place %zu is outside the vocabulary of %zu",
                    (unsigned long)token_at(&loop.tokens, bad - 1), bad - 1, vocab_size);
}

/* ---- shingles ---- */

/* Goes through the hashes of all runs of `shingle` tokens in [first, end), oldest token first. */
typedef struct shingles {
    const token_array *tokens;
    uint64_t seed, oldest_factor; /* FACTOR^shingle */
    size_t shingle, next, end;    /* next: token that the next step takes in */
    uint64_t polynomial;
} shingles;

static shingles shingles_begin(const token_array *tokens, size_t shingle, uint64_t seed, size_t first, size_t end) {
    shingles s = {tokens, seed, factor_power(shingle), shingle, first, end, 0};
    for (; s.next < first + shingle - 1; ++s.next)
        s.polynomial = s.polynomial * FACTOR + token_hash(tokens, seed, s.next);
    return s;
}

/* The token that leaves has a factor FACTOR^shingle by then. */
static uint64_t shingles_next(shingles *s, size_t first) {
    uint64_t p = s->polynomial * FACTOR + token_hash(s->tokens, s->seed, s->next);
    if (s->next >= first + s->shingle) p -= token_hash(s->tokens, s->seed, s->next - s->shingle) * s->oldest_factor;
    s->polynomial = p;
    ++s->next;
    return mix(p + s->shingle);
}

typedef struct minhash_loop {
    token_array tokens;
    size_t window, shingle, n_windows, windows_per_task;
    uint64_t seed;
    uint32_t *signatures;
} minhash_loop;

static void minhash_task(void *argument, size_t index, size_t worker) {
    const minhash_loop *loop = argument;
    size_t first = index * loop->windows_per_task, end = hyb_min_size(first + loop->windows_per_task, loop->n_windows);
    uint64_t factors[HYB_MINHASHES];
    (void)worker;
    for (size_t k = 0; k < HYB_MINHASHES; ++k) factors[k] = mix(loop->seed + k) | 1;
    for (size_t w = first; w < end; ++w) {
        uint32_t minima[HYB_MINHASHES];
        size_t begin = w * loop->window;
        shingles s = shingles_begin(&loop->tokens, loop->shingle, loop->seed, begin, begin + loop->window);
        memset(minima, 0xff, sizeof minima);
        while (s.next < s.end) {
            uint64_t hash = shingles_next(&s, begin);
            for (size_t k = 0; k < HYB_MINHASHES; ++k) {
                uint32_t value = (uint32_t)(hash * factors[k] >> 32);
                minima[k] = value < minima[k] ? value : minima[k];
            }
        }
        memcpy(loop->signatures + w * HYB_MINHASHES, minima, sizeof minima);
    }
}

static hyb_status check_shingle(hyb_ctx *ctx, size_t shingle, size_t longest, const char *whose) {
    if (shingle >= 1 && shingle <= longest) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "shingle is %zu; give 1 to %zu, the tokens of the %s", shingle,
                    longest, whose);
}

hyb_status hyb_window_minhash(hyb_ctx *ctx, size_t window, size_t shingle, uint64_t seed, const void *tokens,
                              size_t token_bytes, size_t n_tokens, uint32_t *signatures) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    minhash_loop loop = {.tokens = {tokens, token_bytes, n_tokens}, .window = window, .shingle = shingle, .seed = seed};
    HYB_TRY(check_tokens(ctx, &loop.tokens, window, signatures));
    HYB_TRY(check_shingle(ctx, shingle, window, "window"));
    loop.n_windows = n_tokens / window;
    loop.windows_per_task = windows_per_task(window);
    loop.signatures = signatures;
    hyb_parallel(ctx, hyb_ceil_div(loop.n_windows, loop.windows_per_task), minhash_task, &loop);
    return HYB_OK;
}

typedef struct shingle_loop {
    token_array tokens;
    size_t shingle, n_hashes;
    uint64_t seed;
    uint64_t *hashes;
} shingle_loop;

static void shingle_task(void *argument, size_t index, size_t worker) {
    const shingle_loop *loop = argument;
    size_t first = index * TOKENS_PER_TASK, n = hyb_min_size(TOKENS_PER_TASK, loop->n_hashes - first);
    shingles s = shingles_begin(&loop->tokens, loop->shingle, loop->seed, first, first + n + loop->shingle - 1);
    (void)worker;
    for (size_t i = 0; i < n; ++i) loop->hashes[first + i] = shingles_next(&s, first);
}

hyb_status hyb_shingle_hashes(hyb_ctx *ctx, size_t shingle, uint64_t seed, const void *tokens, size_t token_bytes,
                              size_t n_tokens, uint64_t *hashes) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    shingle_loop loop = {.tokens = {tokens, token_bytes, n_tokens}, .shingle = shingle, .seed = seed};
    HYB_TRY(check_shingle(ctx, shingle, n_tokens, "text"));
    HYB_TRY(check_tokens(ctx, &loop.tokens, shingle, hashes));
    loop.n_hashes = n_tokens - shingle + 1;
    loop.hashes = hashes;
    hyb_parallel(ctx, hyb_ceil_div(loop.n_hashes, TOKENS_PER_TASK), shingle_task, &loop);
    return HYB_OK;
}
