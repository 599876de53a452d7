/* tokenizer_encode.c - text to tokens: special tokens are found first, the text between them is split and merged.
 *
 * hyb_tokenizer_encode -> sections between special tokens (leftmost, then longest) -> pieces (pretokenize.c) ->
 * tokens (bpe.c). Nothing of the tokenizer is written to: any number of threads may encode at once, each with work
 * memory of its own (from the allocator of the context that made the tokenizer, which must then be thread-safe).
 */
#include "tokenizer_internal.h"

/* ---- special tokens ---- */

static int compare_tokens(const hyb_tokenizer *t, uint32_t a, uint32_t b) {
    uint32_t n_a = hyb_token_length(t, a), n_b = hyb_token_length(t, b);
    int order = memcmp(hyb_token_bytes(t, a), hyb_token_bytes(t, b), n_a < n_b ? n_a : n_b);
    return order != 0 ? order : (n_a > n_b) - (n_a < n_b);
}

/* Restores the heap (largest first) below entry i. */
static void sift_down(const hyb_tokenizer *t, uint32_t *ids, size_t n, size_t i) {
    uint32_t id = ids[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && compare_tokens(t, ids[child + 1], ids[child]) > 0) ++child;
        if (compare_tokens(t, ids[child], id) <= 0) break;
        ids[i] = ids[child];
        i = child;
    }
    ids[i] = id;
}

/* Heapsort: n log n for any input, no memory (qsort promises neither, and passes no tokenizer to its comparison). */
static void sort_tokens(const hyb_tokenizer *t, uint32_t *ids, size_t n) {
    for (size_t i = n / 2; i-- > 0;) sift_down(t, ids, n, i);
    for (size_t end = n; end-- > 1;) {
        uint32_t largest = ids[0];
        ids[0] = ids[end];
        ids[end] = largest;
        sift_down(t, ids, end, 0);
    }
}

hyb_status hyb_specials_build(hyb_ctx *ctx, hyb_tokenizer *t, hyb_status invalid) {
    t->sorted_specials = hyb_alloc(ctx, t->n_specials, sizeof *t->sorted_specials);
    if (t->sorted_specials == NULL)
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %u special tokens", (unsigned)t->n_specials);
    for (uint32_t i = 0; i < t->n_specials; ++i) {
        uint32_t token = t->specials[i];
        if (hyb_token_length(t, token) == 0)
            return hyb_fail(ctx, invalid, "special token %u is empty: it would match everywhere", (unsigned)token);
        t->sorted_specials[i] = token;
        t->special_first[*hyb_token_bytes(t, token)] = 1;
    }
    sort_tokens(t, t->sorted_specials, t->n_specials);
    for (uint32_t i = 1; i < t->n_specials; ++i)
        if (compare_tokens(t, t->sorted_specials[i - 1], t->sorted_specials[i]) == 0)
            return hyb_fail(ctx, invalid, "the special tokens %u and %u are the same string",
                            (unsigned)t->sorted_specials[i - 1], (unsigned)t->sorted_specials[i]);
    return HYB_OK;
}

/* The first of the sorted special tokens [low, high), all longer than depth, whose byte at depth is >= value. */
static uint32_t lower_bound(const hyb_tokenizer *t, uint32_t low, uint32_t high, size_t depth, unsigned value) {
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (hyb_token_bytes(t, t->sorted_specials[middle])[depth] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest special token that text [n] begins with; HYB_NO_TOKEN if there is none. */
static uint32_t match_special(const hyb_tokenizer *t, const uint8_t *text, size_t n) {
    uint32_t low = 0, high = t->n_specials, best = HYB_NO_TOKEN;
    /* The tokens [low, high) agree with the text in `depth` bytes. The shortest comes first, and is alone in its
     * length. */
    for (size_t depth = 0; low < high; ++depth) {
        if (hyb_token_length(t, t->sorted_specials[low]) == depth) best = t->sorted_specials[low++];
        if (depth == n) break;
        low = lower_bound(t, low, high, depth, text[depth]);
        high = lower_bound(t, low, high, depth, text[depth] + 1u);
    }
    return best;
}

/* ---- encoding ---- */

static hyb_status encode_split(const hyb_tokenizer *t, hyb_bpe_workspace *w, const uint8_t *text, size_t n,
                               hyb_token_sink *sink) {
    if (t->pretokenizer == HYB_PRETOKENIZER_NONE) return hyb_bpe_piece(t, w, text, n, sink);
    for (size_t i = 0; i < n;) {
        size_t length = hyb_gpt2_piece(text + i, n - i);
        HYB_TRY(hyb_bpe_piece(t, w, text + i, length, sink));
        i += length;
    }
    return HYB_OK;
}

/* Text [n] without special tokens. */
static hyb_status encode_section(const hyb_tokenizer *t, hyb_bpe_workspace *w, const uint8_t *text, size_t n,
                                 hyb_token_sink *sink) {
    if (n == 0) return HYB_OK;
    if (!t->add_prefix_space || text[0] == ' ') return encode_split(t, w, text, n, sink);
    uint8_t *prefixed = n < SIZE_MAX ? hyb_alloc(w->memory, n + 1, 1) : NULL;
    if (prefixed == NULL) return HYB_ERROR_OUT_OF_MEMORY;
    prefixed[0] = ' ';
    memcpy(prefixed + 1, text, n);
    hyb_status status = encode_split(t, w, prefixed, n + 1, sink);
    hyb_free(w->memory, prefixed);
    return status;
}

static hyb_status encode_bpe(const hyb_tokenizer *t, hyb_bpe_workspace *w, const uint8_t *text, size_t n,
                             hyb_token_sink *sink) {
    size_t begin = 0, i = 0;
    while (t->n_specials > 0 && i < n) {
        uint32_t special = t->special_first[text[i]] ? match_special(t, text + i, n - i) : HYB_NO_TOKEN;
        if (special == HYB_NO_TOKEN) {
            ++i;
            continue;
        }
        HYB_TRY(encode_section(t, w, text + begin, i - begin, sink));
        hyb_token_put(sink, special);
        i += hyb_token_length(t, special);
        begin = i;
    }
    return n > begin ? encode_section(t, w, text + begin, n - begin, sink) : HYB_OK;
}

hyb_status hyb_tokenizer_encode(const hyb_tokenizer *tokenizer, const char *text, size_t n_bytes, uint32_t *tokens,
                                size_t capacity, size_t *n_tokens) {
    const uint8_t *bytes = (const uint8_t *)text;
    hyb_token_sink sink = {tokens, capacity, 0};
    if (tokenizer == NULL || n_tokens == NULL || (text == NULL && n_bytes > 0) || (tokens == NULL && capacity > 0))
        return HYB_ERROR_INVALID_ARGUMENT;
    if (tokenizer->kind == HYB_TOKENIZER_DECODE_ONLY) return HYB_ERROR_UNSUPPORTED;
    if (tokenizer->kind == HYB_TOKENIZER_BYTES) {
        for (size_t i = 0; i < n_bytes; ++i) hyb_token_put(&sink, bytes[i]);
    } else {
        hyb_ctx memory = tokenizer->memory; /* a copy for this call: threads share nothing that is written to */
        hyb_bpe_workspace workspace = {&memory, NULL, NULL, 0};
        hyb_status status = encode_bpe(tokenizer, &workspace, bytes, n_bytes, &sink);
        hyb_bpe_workspace_free(&workspace);
        if (status != HYB_OK) return status;
    }
    *n_tokens = sink.n;
    return sink.n > capacity ? HYB_ERROR_TOO_SMALL : HYB_OK;
}
