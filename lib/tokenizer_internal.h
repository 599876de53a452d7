/* tokenizer_internal.h - the parts of the tokenizer and how they meet.
 *
 *   text -> tokenizer_encode.c: special tokens cut the text into sections
 *        -> pretokenize.c: a section is cut into pieces
 *        -> bpe.c: the bytes of a piece are merged into tokens
 *   tokenizer.c: creation, the file's section, decoding
 */
#ifndef HYB_TOKENIZER_INTERNAL_H
#define HYB_TOKENIZER_INTERNAL_H

#include <hybrid/tokenizer.h>

#include "common.h"

#define HYB_MAX_VOCAB (1u << 24) /* the model's limit (language_model.h) */
#define HYB_NO_TOKEN UINT32_MAX
#define HYB_NO_RANK UINT32_MAX

/* An entry of the hash table of merges. */
typedef struct hyb_merge_slot {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: free */
    uint32_t rank; /* index in the list of merges: lower merges first */
} hyb_merge_slot;

/* Merges by pair of tokens: open addressing, linear probing, at most half full. */
typedef struct hyb_merge_table {
    hyb_merge_slot *slots;
    uint32_t *results; /* [n_merges], by rank */
    uint64_t seed;
    uint32_t shift; /* 64 - log2(number of slots) */
} hyb_merge_table;

struct hyb_tokenizer {
    hyb_ctx memory; /* only its allocator is set: a tokenizer outlives no context, but shares no state with it */
    int32_t kind;
    int32_t pretokenizer;
    uint32_t add_prefix_space;
    uint32_t vocab_size;
    uint32_t n_merges;
    uint32_t n_specials;
    uint32_t *offsets;  /* [vocab_size + 1] */
    uint32_t *merges;   /* [n_merges][2] */
    uint32_t *specials; /* [n_specials] */
    uint8_t *bytes;     /* [offsets[vocab_size]] */
    /* Made from the above, for BPE only. */
    uint32_t *sorted_specials;  /* [n_specials], in the order of their bytes */
    uint8_t special_first[256]; /* 1: a special token begins with this byte */
    uint32_t byte_tokens[256];  /* the token of each single byte */
    hyb_merge_table table;
};

/* Where encoding puts its tokens: all are counted, those that fit are written. */
typedef struct hyb_token_sink {
    uint32_t *tokens;
    size_t capacity;
    size_t n;
} hyb_token_sink;

HYB_INLINE void hyb_token_put(hyb_token_sink *sink, uint32_t token) {
    if (sink->n < sink->capacity) sink->tokens[sink->n] = token;
    ++sink->n;
}

/* Work memory of merging long pieces, grown when needed and kept over the pieces of one call. */
typedef struct hyb_bpe_workspace {
    hyb_ctx *memory;
    uint32_t *symbols; /* [4][n]: token, previous, next, rank of the merge with the next */
    uint64_t *heap;    /* [2 n] */
    size_t n;
} hyb_bpe_workspace;

HYB_INLINE const uint8_t *hyb_token_bytes(const hyb_tokenizer *t, uint32_t token) {
    return t->bytes + t->offsets[token];
}
HYB_INLINE uint32_t hyb_token_length(const hyb_tokenizer *t, uint32_t token) {
    return t->offsets[token + 1] - t->offsets[token];
}

/* ---- pretokenize.c ---- */

/* Length of the first piece of text [n_bytes], n_bytes >= 1, by GPT-2's splitting pattern. */
size_t hyb_gpt2_piece(const uint8_t *text, size_t n_bytes);

/* ---- bpe.c ---- */

/* Fills byte_tokens and table from a tokenizer whose offsets and ids are valid. `invalid` is the status of merges or a
 * vocabulary that cannot be used. */
hyb_status hyb_bpe_build(hyb_ctx *ctx, hyb_tokenizer *tokenizer, hyb_status invalid);

/* Merges a piece [n_bytes] and puts its tokens into the sink. Errors: OUT_OF_MEMORY, UNSUPPORTED (4 GiB or more). */
hyb_status hyb_bpe_piece(const hyb_tokenizer *tokenizer, hyb_bpe_workspace *workspace, const uint8_t *piece,
                         size_t n_bytes, hyb_token_sink *sink);
void hyb_bpe_workspace_free(hyb_bpe_workspace *workspace);

/* ---- tokenizer_encode.c ---- */

/* Fills sorted_specials and special_first. */
hyb_status hyb_specials_build(hyb_ctx *ctx, hyb_tokenizer *tokenizer, hyb_status invalid);

#endif /* HYB_TOKENIZER_INTERNAL_H */
