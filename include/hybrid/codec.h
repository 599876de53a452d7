/* codec.h - codes in as few bytes as their frequencies allow: an entropy coder for arrays of ternary, five-level or
 * int8 codes. Model files have it as format version 3 (file.h).
 *
 * In plain words: what is common takes few bits, what is rare takes many, and the mean is the entropy of the codes: 1.5
 * bits for ternary codes half of which are 0, where packing takes 1.6. It is near the entropy to 0.1 % for long arrays;
 * where packing is smaller the codes are packed. Order does not count: codes are taken as independent, in up to 64
 * contiguous groups with probabilities of their own, where that is smaller.
 *
 * Sources: Duda 2013, "Asymmetric numeral systems"; Giesen 2014, "Interleaved entropy coders".
 *
 * Coded bytes, all integers little-endian:
 *   u8 bits 0, 1: alphabet; bit 2: 1 if entropy-coded; bits 3 to 5: log2 of the number of lanes; bits 6, 7: 0
 *   varint number of codes (7 bits a byte, the lowest first; bit 7 says that more follow)
 *   if entropy-coded: a coding and a stream, as in file.h; else the symbols as they are, and one lane
 *   u32 CRC-32C of all bytes before
 * Symbols are bytes: of TERNARY 5 codes as HYB_PACKING_TERNARY_BASE3 stores them; of FIVE 3 codes, sum of (code + 2)
 * 5^i, the tail being code 0; of INT8 the code itself. Models of kind 0 hold two shares of TERNARY, as in file.h, or
 * four of FIVE; INT8 has none.
 */
#ifndef HYBRID_CODEC_H
#define HYBRID_CODEC_H

#include <hybrid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* What the codes are. */
typedef enum hyb_alphabet {
    HYB_ALPHABET_TERNARY = 1, /* -1, 0, 1 */
    HYB_ALPHABET_FIVE = 2,    /* -2 ... 2 (compress.h) */
    HYB_ALPHABET_INT8 = 3     /* -128 ... 127 */
} hyb_alphabet;

/* What coded bytes hold. */
typedef struct hyb_coded_info {
    int32_t alphabet;  /* hyb_alphabet */
    uint32_t is_coded; /* 0: packed, since that is smaller */
    size_t n_codes;
    size_t n_symbols; /* bytes that hyb_symbols_decode writes */
} hyb_coded_info;

/* Bytes that n_codes codes take at most; 0 for an unknown alphabet or on overflow. */
HYB_API size_t hyb_coded_bound(int32_t alphabet, size_t n_codes);

/* Codes an array.
 *   codes    int8 [n_codes]; may be NULL for 0 codes
 *   bytes    [capacity]; hyb_coded_bound is always enough
 *   n_bytes  receives the number of bytes; with TOO_SMALL, the number that is needed
 * The same bytes on every machine. Errors: INVALID_ARGUMENT (a code outside the alphabet; more than 2^31 symbols),
 * TOO_SMALL, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_codes_encode(hyb_ctx *ctx, int32_t alphabet, const int8_t *codes, size_t n_codes, uint8_t *bytes,
                                    size_t capacity, size_t *n_bytes);

/* Reads the beginning of coded bytes. n_codes is what they claim: codes that are all alike take some 20 bytes however
 * many they are, so ask whether the number is likely before memory is taken for it.
 * Errors: INVALID_ARGUMENT, TRUNCATED, FORMAT, CHECKSUM. */
HYB_API hyb_status hyb_coded_inspect(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, hyb_coded_info *info);

/* Decodes coded bytes. Safe on bytes from anywhere; what is written before an error is found is not said.
 *   codes  int8 [n_codes], n_codes as hyb_coded_inspect says
 * Errors: as above, and OUT_OF_MEMORY. */
HYB_API hyb_status hyb_codes_decode(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, int8_t *codes, size_t n_codes);

/* The same, to symbols [n_symbols]: packed codes. */
HYB_API hyb_status hyb_symbols_decode(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, uint8_t *symbols,
                                      size_t n_symbols);

/* Order-0 entropy of codes by their own frequencies, in bits a code; 0 for none. codes may be NULL for 0 codes. */
HYB_API double hyb_codes_entropy(const int8_t *codes, size_t n_codes);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_CODEC_H */
