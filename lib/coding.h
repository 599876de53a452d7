/* coding.h (internal) - how the bytes of a tensor, or of an array of codes, are coded: in contiguous groups of symbols,
 * each with a model of its own, where that is smaller. What codec.c and file_compress.c have in common.
 *
 * A coding as bytes: varint rows, the length of a group in rows of 64 symbols (the last group may be shorter), or 0 for
 * one group; then the model of each group (rans.h).
 */
#ifndef HYB_CODING_H
#define HYB_CODING_H

#include "rans.h"

#define HYB_CODING_GROUPS 64 /* most that the encoder makes */

/* What the encoder decided. */
typedef struct hyb_coding {
    hyb_symbols symbols;
    const uint8_t *bytes; /* the symbols */
    size_t n;
    size_t group_size;
    size_t n_groups;
    uint8_t *head; /* the coding as bytes; owned */
    size_t n_head;
    uint64_t cost;                      /* bits in the stream, times 2^16 */
    uint32_t places[HYB_CODING_GROUPS]; /* of the models in head */
} hyb_coding;

/* Chooses the smallest coding of n >= 1 symbols (fewer than 2^31). Errors: OUT_OF_MEMORY. */
hyb_status hyb_coding_plan(hyb_ctx *ctx, hyb_symbols symbols, const uint8_t *bytes, size_t n, hyb_coding *coding);
void hyb_coding_free(hyb_ctx *ctx, hyb_coding *coding);
/* Bytes of head and stream, the stream's without its states. */
uint64_t hyb_coding_bytes(const hyb_coding *coding);
/* Puts its segments before those in the encoder. Returns 0 if the buffer is full. */
int hyb_coding_encode(const hyb_coding *coding, hyb_rans_encoder *encoder);

/* A coding that is being read. */
typedef struct hyb_coded {
    hyb_symbols symbols;
    size_t group_size;
    size_t left_in_group;
} hyb_coded;
/* Reads the length of the groups of n symbols. Returns 0 if it is not in the bytes. */
int hyb_coded_begin(hyb_symbols symbols, size_t n, const uint8_t **head, const uint8_t *end, hyb_coded *coded);
/* Moves *head behind a coding of n >= 1 symbols. Returns 0 if it is not in the bytes. */
int hyb_coded_pass(hyb_symbols symbols, size_t n, const uint8_t **head, const uint8_t *end);
/* The next n symbols, models from *head: n is a multiple of 64 but for the last ones. Returns 0 if head or stream are
 * damaged. */
int hyb_coded_read(hyb_coded *coded, hyb_rans_decoder *decoder, const uint8_t **head, const uint8_t *end, size_t n,
                   uint8_t *bytes);

#endif /* HYB_CODING_H */
