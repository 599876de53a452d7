/* rans.h (internal) - the entropy coder: what symbols cost (a model), symbols to bytes, bytes to symbols.
 *
 * A stream is the states of its lanes, 32 bits each, then words of 16 bits, all little-endian. It may span several
 * segments, each with a model of its own: symbol i of a segment belongs to lane i % n_lanes. A segment whose model
 * knows one symbol takes no part in the stream. The encoder walks backwards, so that the decoder walks forwards.
 *
 * Sources: Duda 2013, "Asymmetric numeral systems"; Giesen 2014, "Interleaved entropy coders". Lanes in one stream of
 * words, and what a lane does, are those of the kernel rans_decode (kernels.h).
 */
#ifndef HYB_RANS_H
#define HYB_RANS_H

#include "common.h"

/* ---- rans_model.c ---- */

/* A symbol's share of 2^slot_bits slots; its slots follow those of the symbols below it. */
typedef struct hyb_rans_model {
    uint32_t slot_bits;
    uint32_t n_present;        /* symbols whose frequency is not 0, at least 1 */
    uint32_t only;             /* the symbol, if there is one */
    uint32_t frequencies[256]; /* they add up to 2^slot_bits */
} hyb_rans_model;

/* What symbols are: `n_digits` digits below `base`, the first in the lowest place; or any bytes (base 0). */
typedef struct hyb_symbols {
    uint32_t base, n_digits;
} hyb_symbols;
#define HYB_MAX_BASE 5
#define HYB_DIGIT_SHARES 65535u /* digits' shares add up to it */

/* A model of independent digits: the share of each as a whole number. Integer arithmetic only. shares: [base], adding
 * up to HYB_DIGIT_SHARES. slot_bits: 12, 14 or 16. */
void hyb_rans_model_digits(hyb_symbols symbols, const uint32_t *shares, uint32_t slot_bits, hyb_rans_model *model);
/* A model from counts, at least one of which is not 0; their sum is below 2^40. */
void hyb_rans_model_counts(const uint32_t counts[256], uint32_t slot_bits, hyb_rans_model *model);

/* Bytes of a model in a file; and the most that any takes. `first` is 0 to 7: bits 0, 1: (slot_bits - 12) / 2; bit 2:
 * frequencies instead of shares. Then u16 shares of all digits but the last; or, for symbols from 0 to 255, varints:
 * the frequency, and behind a 0 how many further symbols have 0. */
#define HYB_RANS_MODEL_BYTES 776
size_t hyb_rans_put_shares(hyb_symbols symbols, const uint32_t *shares, uint32_t slot_bits, uint8_t *bytes);
size_t hyb_rans_put_model(const hyb_rans_model *model, uint8_t *bytes);
/* Reads a model and moves *cursor behind it; 0 where the bytes before `end` hold none. model may be NULL: the bytes are
 * only passed over. */
int hyb_rans_get_model(hyb_symbols symbols, const uint8_t **cursor, const uint8_t *end, hyb_rans_model *model);

/* log2(value) * 2^16, rounded down, of value >= 1; the same on every machine. */
uint32_t hyb_log2_q16(uint64_t value);
/* Bits, times 2^16, that symbols with these counts take; UINT64_MAX if one that the model lacks is among them. */
uint64_t hyb_rans_cost(const hyb_rans_model *model, const uint32_t counts[256]);

/* Variable-length integers: 7 bits a byte, the lowest first, bit 7 says that more follow. */
#define HYB_VARINT_BYTES 10
size_t hyb_put_varint(uint64_t value, uint8_t *bytes);
int hyb_get_varint(const uint8_t **cursor, const uint8_t *end, uint64_t *value);

/* ---- rans.c ---- */

typedef struct hyb_rans_encoder {
    uint8_t *begin, *next, *end; /* bytes come from the end of the buffer */
    uint32_t n_lanes;            /* 1 to HYB_RANS_LANES */
    int used;                    /* a segment took part */
    uint32_t states[HYB_RANS_LANES];
} hyb_rans_encoder;

void hyb_rans_encoder_init(hyb_rans_encoder *e, uint8_t *buffer, size_t capacity, uint32_t n_lanes);
/* Puts a segment before those that were encoded. Returns 0 if the buffer is full; every symbol has a frequency. */
int hyb_rans_encode(hyb_rans_encoder *e, const hyb_rans_model *model, const uint8_t *symbols, size_t n);
/* The finished stream, in the buffer; NULL if that is full. No bytes if no segment took part. */
const uint8_t *hyb_rans_encoder_finish(hyb_rans_encoder *e, size_t *n_bytes);
/* Lanes for a stream of about n_bytes: a power of two, so that the states cost 0.08 % or less, or 1. */
uint32_t hyb_rans_lanes(uint64_t n_bytes);

typedef struct hyb_rans_decoder {
    const hyb_kernels *kernels;
    const uint8_t *words;
    size_t n_words;
    uint32_t n_lanes;
    int failed;
    uint32_t states[HYB_RANS_LANES];
    hyb_rans_model model; /* of the segment */
    uint32_t slots[HYB_RANS_SLOTS];
    uint32_t ranges[256];
    uint8_t symbols[65536 + 3];
} hyb_rans_decoder;

/* A stream of n_bytes, 0 if no segment takes part. Returns 0 if its beginning is no stream's. */
int hyb_rans_decoder_init(hyb_rans_decoder *d, const hyb_kernels *kernels, const uint8_t *bytes, size_t n_bytes,
                          uint32_t n_lanes);
/* Goes on with words at another place: those that were left, and more. Until the stream's last one is among them, there
 * must be n + HYB_RANS_LANES whenever n symbols are asked for. */
void hyb_rans_decoder_feed(hyb_rans_decoder *d, const uint8_t *words, size_t n_words);
/* Begins a segment: fills the tables from d->model. */
void hyb_rans_decoder_begin(hyb_rans_decoder *d);
/* The next n symbols of the segment: a multiple of HYB_RANS_LANES but for its last ones. Returns 0 if the stream is
 * damaged, and for ever after; never reads beyond it. */
int hyb_rans_decode(hyb_rans_decoder *d, size_t n, uint8_t *symbols);
/* 1 if the stream is used up and its states are where the encoder began. */
int hyb_rans_decoder_finish(const hyb_rans_decoder *d);

#endif /* HYB_RANS_H */
