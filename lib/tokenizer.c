/* tokenizer.c - tokenizers as objects: creation, the section of a .hyb file, decoding.
 *
 * A description (hyb_tokenizer_create) or a file's section (hyb_tokenizer_deserialize) -> arrays of our own ->
 * validation -> for BPE the hash table of merges (bpe.c) and the sorted special tokens (tokenizer_encode.c). Both ways
 * share everything behind the arrays; they differ in the status of contents that are wrong.
 */
#include "tokenizer_internal.h"

#define SECTION_HEADER_BYTES 32 /* file.h: eight u32 */
/* More pairs than any vocabulary uses; keeps the hash table's size far from overflow. */
#define MAX_MERGES (1u << 28)

/* ---- memory ---- */

static hyb_tokenizer *tokenizer_new(hyb_ctx *ctx) {
    hyb_tokenizer *t = hyb_alloc_zeroed(ctx, 1, sizeof *t);
    if (t == NULL) return NULL;
    t->memory.options.allocate = ctx->options.allocate;
    t->memory.options.release = ctx->options.release;
    t->memory.options.allocator_user = ctx->options.allocator_user;
    return t;
}

void hyb_tokenizer_destroy(hyb_tokenizer *tokenizer) {
    if (tokenizer == NULL) return;
    hyb_ctx memory = tokenizer->memory;
    hyb_free(&memory, tokenizer->table.slots);
    hyb_free(&memory, tokenizer->table.results);
    hyb_free(&memory, tokenizer->sorted_specials);
    hyb_free(&memory, tokenizer->bytes);
    hyb_free(&memory, tokenizer->specials);
    hyb_free(&memory, tokenizer->merges);
    hyb_free(&memory, tokenizer->offsets);
    hyb_free(&memory, tokenizer);
}

/* Allocates the arrays of a tokenizer whose counts are set. */
static hyb_status alloc_arrays(hyb_ctx *ctx, hyb_tokenizer *t, size_t n_bytes) {
    t->offsets = hyb_alloc(ctx, (size_t)t->vocab_size + 1, sizeof *t->offsets);
    t->merges = hyb_alloc(ctx, t->n_merges, 2 * sizeof *t->merges);
    t->specials = hyb_alloc(ctx, t->n_specials, sizeof *t->specials);
    t->bytes = hyb_alloc(ctx, n_bytes, 1);
    if (!t->offsets || !t->merges || !t->specials || !t->bytes)
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a vocabulary of %u tokens with %zu bytes",
                        (unsigned)t->vocab_size, n_bytes);
    return HYB_OK;
}

/* ---- validation; `invalid` is INVALID_ARGUMENT for a description, FORMAT for a file ---- */

static hyb_status check_bytes_kind(hyb_ctx *ctx, const hyb_tokenizer *t, size_t n_bytes, hyb_status invalid) {
    if (t->vocab_size != 256)
        return hyb_fail(ctx, invalid, "vocab_size is %u: a byte tokenizer has 256 tokens", (unsigned)t->vocab_size);
    if (t->n_merges || t->n_specials || n_bytes || t->pretokenizer || t->add_prefix_space)
        return hyb_fail(ctx, invalid,
                        "a byte tokenizer has no vocabulary, merges, special tokens, pretokenizer or prefix space");
    return HYB_OK;
}

static hyb_status check_header(hyb_ctx *ctx, const hyb_tokenizer *t, size_t n_bytes, hyb_status invalid) {
    if (t->kind < HYB_TOKENIZER_BYTES || t->kind > HYB_TOKENIZER_DECODE_ONLY)
        return hyb_fail(ctx, invalid, "tokenizer kind %d: 0 (bytes), 1 (BPE) or 2 (decode only)", (int)t->kind);
    if (t->pretokenizer < HYB_PRETOKENIZER_NONE || t->pretokenizer > HYB_PRETOKENIZER_GPT2)
        return hyb_fail(ctx, invalid, "pretokenizer %d: 0 (none) or 1 (GPT-2)", (int)t->pretokenizer);
    if (t->add_prefix_space > 1)
        return hyb_fail(ctx, invalid, "add_prefix_space is %u: 0 or 1", (unsigned)t->add_prefix_space);
    if (t->kind == HYB_TOKENIZER_BYTES) return check_bytes_kind(ctx, t, n_bytes, invalid);
    if (t->vocab_size < 1 || t->vocab_size > HYB_MAX_VOCAB)
        return hyb_fail(ctx, invalid, "vocab_size is %u: 1 to %u", (unsigned)t->vocab_size, (unsigned)HYB_MAX_VOCAB);
    if (t->n_merges > MAX_MERGES)
        return hyb_fail(ctx, invalid, "n_merges is %u: at most %u", (unsigned)t->n_merges, (unsigned)MAX_MERGES);
    if (t->n_specials > t->vocab_size)
        return hyb_fail(ctx, invalid, "n_specials is %u: at most vocab_size, %u", (unsigned)t->n_specials,
                        (unsigned)t->vocab_size);
    if (t->kind == HYB_TOKENIZER_DECODE_ONLY && (t->n_merges || t->n_specials))
        return hyb_fail(ctx, invalid, "a decode-only tokenizer has no merges and no special tokens");
    return HYB_OK;
}

static hyb_status check_offsets(hyb_ctx *ctx, const uint32_t *offsets, uint32_t vocab_size, hyb_status invalid) {
    if (offsets[0] != 0) return hyb_fail(ctx, invalid, "offsets[0] is %u: it must be 0", (unsigned)offsets[0]);
    for (uint32_t i = 0; i < vocab_size; ++i)
        if (offsets[i + 1] < offsets[i])
            return hyb_fail(ctx, invalid, "offsets[%u] is %u, less than the one before: they must ascend",
                            (unsigned)i + 1, (unsigned)offsets[i + 1]);
    return HYB_OK;
}

static hyb_status check_ids(hyb_ctx *ctx, const char *name, const uint32_t *ids, size_t n, uint32_t vocab_size,
                            hyb_status invalid) {
    for (size_t i = 0; i < n; ++i)
        if (ids[i] >= vocab_size)
            return hyb_fail(ctx, invalid, "%s[%zu] is token %u: the vocabulary has %u", name, i, (unsigned)ids[i],
                            (unsigned)vocab_size);
    return HYB_OK;
}

/* What is left when the arrays are filled and the offsets checked. */
static hyb_status tokenizer_finish(hyb_ctx *ctx, hyb_tokenizer *t, hyb_status invalid) {
    HYB_TRY(check_ids(ctx, "merges", t->merges, 2 * (size_t)t->n_merges, t->vocab_size, invalid));
    HYB_TRY(check_ids(ctx, "specials", t->specials, t->n_specials, t->vocab_size, invalid));
    if (t->kind != HYB_TOKENIZER_BPE) return HYB_OK;
    HYB_TRY(hyb_specials_build(ctx, t, invalid));
    return hyb_bpe_build(ctx, t, invalid);
}

/* A byte tokenizer's table is made here, so that decoding needs no case for it. */
static hyb_status fill_bytes_kind(hyb_ctx *ctx, hyb_tokenizer *t) {
    HYB_TRY(alloc_arrays(ctx, t, 256));
    for (uint32_t i = 0; i < 256; ++i) {
        t->bytes[i] = (uint8_t)i;
        t->offsets[i] = i;
    }
    t->offsets[256] = 256;
    return HYB_OK;
}

/* ---- from a description ---- */

static void copy_u32(uint32_t *target, const uint32_t *source, size_t n) {
    if (n > 0) memcpy(target, source, n * sizeof *target);
}

static hyb_status fill_from_description(hyb_ctx *ctx, hyb_tokenizer *t, const hyb_tokenizer_description *d) {
    const hyb_status invalid = HYB_ERROR_INVALID_ARGUMENT;
    t->kind = d->kind;
    t->pretokenizer = d->pretokenizer;
    t->add_prefix_space = d->add_prefix_space;
    t->vocab_size = d->vocab_size;
    t->n_merges = d->n_merges;
    t->n_specials = d->n_specials;
    HYB_TRY(check_header(ctx, t, 0, invalid));
    if (t->kind == HYB_TOKENIZER_BYTES) {
        if (d->bytes || d->offsets || d->merges || d->specials)
            return hyb_fail(ctx, invalid, "bytes, offsets, merges and specials must be NULL for a byte tokenizer");
        return fill_bytes_kind(ctx, t);
    }
    if (d->offsets == NULL || (d->merges == NULL && d->n_merges > 0) || (d->specials == NULL && d->n_specials > 0))
        return hyb_fail(ctx, invalid, "offsets, merges and specials must not be NULL where their number is not 0");
    HYB_TRY(check_offsets(ctx, d->offsets, d->vocab_size, invalid));
    size_t n_bytes = d->offsets[d->vocab_size];
    if (d->bytes == NULL && n_bytes > 0)
        return hyb_fail(ctx, invalid, "bytes is NULL, but offsets end at %zu", n_bytes);
    HYB_TRY(alloc_arrays(ctx, t, n_bytes));
    copy_u32(t->offsets, d->offsets, (size_t)t->vocab_size + 1);
    copy_u32(t->merges, d->merges, 2 * (size_t)t->n_merges);
    copy_u32(t->specials, d->specials, t->n_specials);
    if (n_bytes > 0) memcpy(t->bytes, d->bytes, n_bytes);
    return tokenizer_finish(ctx, t, invalid);
}

hyb_status hyb_tokenizer_create(hyb_ctx *ctx, const hyb_tokenizer_description *description, hyb_tokenizer **tokenizer) {
    hyb_tokenizer_description d = {0};
    if (ctx == NULL || description == NULL || tokenizer == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "ctx, description and tokenizer must not be NULL");
    HYB_TRY(hyb_read_struct(ctx, "hyb_tokenizer_description", &d, description, sizeof d));
    hyb_tokenizer *t = tokenizer_new(ctx);
    if (t == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a tokenizer");
    hyb_status status = fill_from_description(ctx, t, &d);
    if (status != HYB_OK) {
        hyb_tokenizer_destroy(t);
        return status;
    }
    *tokenizer = t;
    return HYB_OK;
}

/* ---- the file's section ---- */

/* Bytes of the section of a tokenizer whose counts are set. 64 bits hold it: fewer than 2^26 + 2^31 + 2^26 + 2^32. */
static uint64_t section_bytes(const hyb_tokenizer *t, uint32_t n_bytes) {
    if (t->kind == HYB_TOKENIZER_BYTES) return SECTION_HEADER_BYTES;
    return SECTION_HEADER_BYTES + 4 * ((uint64_t)t->vocab_size + 1 + 2 * (uint64_t)t->n_merges + t->n_specials) +
           n_bytes;
}

static const uint8_t *load_array(uint32_t *target, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; ++i, p += 4) target[i] = hyb_load_u32(p);
    return p;
}

static hyb_status fill_from_section(hyb_ctx *ctx, hyb_tokenizer *t, const uint8_t *p, size_t n_given) {
    const hyb_status invalid = HYB_ERROR_FORMAT;
    uint32_t kind = hyb_load_u32(p), pretokenizer = hyb_load_u32(p + 4), n_bytes = hyb_load_u32(p + 24);
    t->kind = kind <= INT32_MAX ? (int32_t)kind : -1;
    t->pretokenizer = pretokenizer <= INT32_MAX ? (int32_t)pretokenizer : -1;
    t->add_prefix_space = hyb_load_u32(p + 8);
    t->vocab_size = hyb_load_u32(p + 12);
    t->n_merges = hyb_load_u32(p + 16);
    t->n_specials = hyb_load_u32(p + 20);
    HYB_TRY(check_header(ctx, t, n_bytes, invalid));
    if (hyb_load_u32(p + 28) != 0) return hyb_fail(ctx, invalid, "bytes 28 to 31 of the tokenizer must be zero");
    uint64_t wanted = section_bytes(t, n_bytes);
    if (n_given != wanted)
        return hyb_fail(ctx, n_given < wanted ? HYB_ERROR_TRUNCATED : invalid,
                        "the tokenizer section has %zu bytes, its header says %llu", n_given,
                        (unsigned long long)wanted);
    if (t->kind == HYB_TOKENIZER_BYTES) return fill_bytes_kind(ctx, t);
    HYB_TRY(alloc_arrays(ctx, t, n_bytes));
    p = load_array(t->offsets, p + SECTION_HEADER_BYTES, (size_t)t->vocab_size + 1);
    p = load_array(t->merges, p, 2 * (size_t)t->n_merges);
    p = load_array(t->specials, p, t->n_specials);
    if (n_bytes > 0) memcpy(t->bytes, p, n_bytes);
    HYB_TRY(check_offsets(ctx, t->offsets, t->vocab_size, invalid));
    if (t->offsets[t->vocab_size] != n_bytes)
        return hyb_fail(ctx, invalid, "the tokens end at byte %u, but %u bytes are stored",
                        (unsigned)t->offsets[t->vocab_size], (unsigned)n_bytes);
    return tokenizer_finish(ctx, t, invalid);
}

hyb_status hyb_tokenizer_deserialize(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, hyb_tokenizer **tokenizer) {
    if (ctx == NULL || tokenizer == NULL || (bytes == NULL && n_bytes > 0))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "ctx, bytes and tokenizer must not be NULL");
    if (n_bytes < SECTION_HEADER_BYTES)
        return hyb_fail(ctx, HYB_ERROR_TRUNCATED, "a tokenizer section has at least %d bytes, not %zu",
                        SECTION_HEADER_BYTES, n_bytes);
    hyb_tokenizer *t = tokenizer_new(ctx);
    if (t == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a tokenizer");
    hyb_status status = fill_from_section(ctx, t, bytes, n_bytes);
    if (status != HYB_OK) {
        hyb_tokenizer_destroy(t);
        return status;
    }
    *tokenizer = t;
    return HYB_OK;
}

static uint8_t *store_array(uint8_t *p, const uint32_t *source, size_t n) {
    for (size_t i = 0; i < n; ++i, p += 4) hyb_store_u32(p, source[i]);
    return p;
}

hyb_status hyb_tokenizer_serialize(const hyb_tokenizer *tokenizer, uint8_t *bytes, size_t capacity, size_t *n_bytes) {
    const hyb_tokenizer *t = tokenizer;
    if (t == NULL || n_bytes == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    uint32_t n_token_bytes = t->kind == HYB_TOKENIZER_BYTES ? 0 : t->offsets[t->vocab_size];
    uint64_t wanted = section_bytes(t, n_token_bytes);
    *n_bytes = (size_t)wanted; /* fits: the arrays are in memory */
    if (bytes == NULL || capacity < wanted) return HYB_ERROR_TOO_SMALL;
    const uint32_t header[8] = {(uint32_t)t->kind,   (uint32_t)t->pretokenizer,
                                t->add_prefix_space, t->vocab_size,
                                t->n_merges,         t->n_specials,
                                n_token_bytes,       0};
    bytes = store_array(bytes, header, 8);
    if (t->kind == HYB_TOKENIZER_BYTES) return HYB_OK;
    bytes = store_array(bytes, t->offsets, (size_t)t->vocab_size + 1);
    bytes = store_array(bytes, t->merges, 2 * (size_t)t->n_merges);
    bytes = store_array(bytes, t->specials, t->n_specials);
    memcpy(bytes, t->bytes, n_token_bytes);
    return HYB_OK;
}

/* ---- use ---- */

int32_t hyb_tokenizer_kind_of(const hyb_tokenizer *tokenizer) { return tokenizer ? tokenizer->kind : -1; }

uint32_t hyb_tokenizer_vocab_size(const hyb_tokenizer *tokenizer) { return tokenizer ? tokenizer->vocab_size : 0; }

hyb_status hyb_tokenizer_decode(const hyb_tokenizer *tokenizer, const uint32_t *tokens, size_t n_tokens, char *text,
                                size_t capacity, size_t *n_bytes) {
    size_t total = 0, written = 0;
    if (tokenizer == NULL || n_bytes == NULL || (tokens == NULL && n_tokens > 0) || (text == NULL && capacity > 0))
        return HYB_ERROR_INVALID_ARGUMENT;
    for (size_t i = 0; i < n_tokens; ++i) {
        if (tokens[i] >= tokenizer->vocab_size) return HYB_ERROR_INVALID_ARGUMENT;
        size_t length = hyb_token_length(tokenizer, tokens[i]);
        if (length > SIZE_MAX - total) return HYB_ERROR_INVALID_ARGUMENT; /* more text than can be addressed */
        total += length;
    }
    for (size_t i = 0; i < n_tokens && written < capacity; ++i) {
        size_t length = hyb_min_size(hyb_token_length(tokenizer, tokens[i]), capacity - written);
        if (length > 0) memcpy(text + written, hyb_token_bytes(tokenizer, tokens[i]), length);
        written += length;
    }
    *n_bytes = total;
    return total > capacity ? HYB_ERROR_TOO_SMALL : HYB_OK;
}
