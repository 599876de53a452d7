/* tokenizer.h - text to token ids and back: bytes, and byte-level BPE.
 *
 * A tokenizer is an immutable table of byte strings (the vocabulary), an ordered list of merges, and a list of special
 * tokens that are matched in the text before anything else. Decoding works for any vocabulary; encoding works for
 * bytes and for byte-level BPE, where it gives what the `tokenizers` library's ByteLevel pre-tokenizer + BPE model
 * gives. Source: Sennrich et al. 2016; Radford et al. 2019 (byte-level BPE and its splitting pattern).
 */
#ifndef HYBRID_TOKENIZER_H
#define HYBRID_TOKENIZER_H

#include <hybrid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* Kind of encoder. */
typedef enum hyb_tokenizer_kind {
    HYB_TOKENIZER_BYTES = 0,      /* token id = byte; 256 tokens */
    HYB_TOKENIZER_BPE = 1,        /* byte-level BPE */
    HYB_TOKENIZER_DECODE_ONLY = 2 /* a vocabulary without an encoder */
} hyb_tokenizer_kind;

/* How text is split before merging. */
typedef enum hyb_pretokenizer {
    HYB_PRETOKENIZER_NONE = 0, /* the whole text between special tokens is one piece */
    HYB_PRETOKENIZER_GPT2 = 1  /* GPT-2's pattern: contractions, letters, numbers, others, spaces */
} hyb_pretokenizer;

typedef struct hyb_tokenizer hyb_tokenizer;

/* Description of a tokenizer, read by hyb_tokenizer_create; nothing in it is kept.
 *   vocabulary: token i is bytes[offsets[i] .. offsets[i + 1]), offsets [vocab_size + 1], offsets[0] = 0, ascending
 *   merges: pairs [n_merges][2] of token ids, highest priority first; the result is the token whose bytes are the
 *     concatenation (it must be in the vocabulary)
 *   specials: ids [n_specials] of tokens that are matched as whole strings, longest first, before splitting
 *   A BPE vocabulary must contain all 256 single bytes. */
typedef struct hyb_tokenizer_description {
    size_t struct_size;
    int32_t kind;         /* hyb_tokenizer_kind */
    int32_t pretokenizer; /* hyb_pretokenizer */
    uint32_t vocab_size;  /* 256 for BYTES (bytes, offsets, merges and specials are then NULL / 0) */
    uint32_t n_merges;
    uint32_t n_specials;
    uint32_t add_prefix_space; /* 1: a space is put before a text that does not begin with one (as ByteLevel does) */
    const uint8_t *bytes;
    const uint32_t *offsets;
    const uint32_t *merges;
    const uint32_t *specials;
} hyb_tokenizer_description;

/* Creates a tokenizer; the caller destroys it. Errors: INVALID_ARGUMENT, STRUCT_SIZE, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_tokenizer_create(hyb_ctx *ctx, const hyb_tokenizer_description *description,
                                        hyb_tokenizer **tokenizer);

/* Reads a tokenizer from the bytes of a file's tokenizer section (layout: file.h). Safe on untrusted bytes.
 * Errors: FORMAT, TRUNCATED, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_tokenizer_deserialize(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes,
                                             hyb_tokenizer **tokenizer);

/* Writes the section. If bytes is NULL or capacity is too small, *n_bytes still receives the size that is needed and
 * the status is TOO_SMALL. */
HYB_API hyb_status hyb_tokenizer_serialize(const hyb_tokenizer *tokenizer, uint8_t *bytes, size_t capacity,
                                           size_t *n_bytes);

/* Frees a tokenizer. NULL is allowed. */
HYB_API void hyb_tokenizer_destroy(hyb_tokenizer *tokenizer);

HYB_API int32_t hyb_tokenizer_kind_of(const hyb_tokenizer *tokenizer);
HYB_API uint32_t hyb_tokenizer_vocab_size(const hyb_tokenizer *tokenizer);

/* Encodes text [n_bytes], which need not be valid UTF-8 (invalid bytes are split off as "other" characters).
 * tokens [capacity]; *n_tokens receives the number that the whole text needs. Status TOO_SMALL if capacity is less
 * (the first `capacity` tokens are written). Any thread may call. Errors: UNSUPPORTED (DECODE_ONLY), OUT_OF_MEMORY. */
HYB_API hyb_status hyb_tokenizer_encode(const hyb_tokenizer *tokenizer, const char *text, size_t n_bytes,
                                        uint32_t *tokens, size_t capacity, size_t *n_tokens);

/* Decodes tokens [n_tokens] to text [capacity] bytes (not NUL-terminated; a cut may fall inside a UTF-8 character).
 * *n_bytes receives the whole length. Errors: INVALID_ARGUMENT (an id outside the vocabulary), TOO_SMALL. */
HYB_API hyb_status hyb_tokenizer_decode(const hyb_tokenizer *tokenizer, const uint32_t *tokens, size_t n_tokens,
                                        char *text, size_t capacity, size_t *n_bytes);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_TOKENIZER_H */
