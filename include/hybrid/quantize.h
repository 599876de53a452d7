/* quantize.h - fp32 weights and activations to integer codes, and codes to packed bytes and back.
 *
 * A quantised matrix is  value[r][c] = scale[r] * code[r][c]  with int8 codes and one fp32 scale per tensor or per
 * output row. Scales are always exactly representable in IEEE binary16, so that any exporter keeps them exactly.
 *
 * Sources: ternary with absmean scale: Ma et al. 2024, "The Era of 1-bit LLMs" (BitNet b1.58); 3-level optimum:
 * Lloyd 1982, "Least squares quantization in PCM"; per-token absmax int8 activations: BitNet b1.58.
 */
#ifndef HYBRID_QUANTIZE_H
#define HYBRID_QUANTIZE_H

#include <hybrid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* Number format of a matrix. The value is part of the file format and never changes.
 *   F32      no quantisation
 *   TERNARY  codes -1, 0, +1                        (log2(3) = 1.58 bits)
 *   BINARY   codes -1, +1                           (1 bit; code = w >= 0 ? 1 : -1)
 *   INT2     codes -3, -1, +1, +3                   (2 bits, symmetric mid-rise, no zero)
 *   INT4     codes -15, -13, ..., +15               (4 bits, symmetric mid-rise, no zero)
 *   INT8     codes -127 ... 127                     (8 bits, symmetric mid-tread) */
typedef enum hyb_format {
    HYB_FORMAT_F32 = 0,
    HYB_FORMAT_TERNARY = 1,
    HYB_FORMAT_BINARY = 2,
    HYB_FORMAT_INT2 = 3,
    HYB_FORMAT_INT4 = 4,
    HYB_FORMAT_INT8 = 5
} hyb_format;

/* What one scale covers: the whole matrix (BitNet b1.58's choice) or one output row. */
typedef enum hyb_granularity { HYB_SCALE_PER_TENSOR = 0, HYB_SCALE_PER_ROW = 1 } hyb_granularity;

/* How ternary scale and zeros are found; but for THREE_OF_FOUR the code is sign(w) where |w| > s / 2, else 0.
 *   ABSMEAN  s = mean |w|                                             (equal to clip(round(w / s), -1, 1)); with a
 *            dead zone d the code is sign(w) where |w| > d s: more of it, more zeros, fewer bits of entropy
 *   LLOYD    s = mean of |w| over |w| > s / 2: the least-squares optimum, by iteration from the mean
 *   THREE_OF_FOUR  of each four neighbours in a row the smallest |w| (of equals the first) has code 0, the others
 *            w >= 0 ? 1 : -1; s = mean of their |w|. n_cols must be a multiple of 4. HYB_PACKING_TERNARY_3OF4 packs it
 * The other formats, with m = mean |w| over the scale's scope and every scale rounded to binary16:
 *   BINARY   s = m
 *   INT2     s = 0.996 * sqrt(pi / 2) * m / 2,  code = 2 clamp(floor(w / (2 s)), -2, 1) + 1
 *   INT4     s = 0.335 * sqrt(pi / 2) * m / 2,  code = 2 clamp(floor(w / (2 s)), -8, 7) + 1
 *   INT8     s = max |w| / 127,                 code = clamp(round_half_even(w / s), -127, 127)
 * (0.996 and 0.335 standard deviations are the best uniform steps for a Gaussian: Max 1960.) */
typedef enum hyb_threshold {
    HYB_THRESHOLD_ABSMEAN = 0,
    HYB_THRESHOLD_LLOYD = 1,
    HYB_THRESHOLD_THREE_OF_FOUR = 2
} hyb_threshold;

/* A matrix quantiser. threshold is used by TERNARY only. */
typedef struct hyb_quantizer {
    int32_t format;      /* hyb_format; not F32 */
    int32_t granularity; /* hyb_granularity */
    int32_t threshold;   /* hyb_threshold */
    float dead_zone;     /* of ABSMEAN, by the scale: above 0, at most 4; 0 for 0.5, which all others have */
} hyb_quantizer;

/* How codes are stored as bytes. Every encoding is little-endian, first code in the lowest place.
 *   TERNARY_2BIT   4 codes a byte, code + 1 in 2 bits; value 3 is invalid; the tail is code 0
 *   TERNARY_BASE3  5 codes a byte, sum of (code + 1) * 3^i; 243 and more are invalid; the tail is code 0 (1.6 bits)
 *   INT1, INT2, INT4   8, 4, 2 codes a byte, (code + 1) / 2, (code + 3) / 2, (code + 15) / 2; the tail is bits 0
 *   INT8           1 code a byte, two's complement; -128 is invalid
 *   TERNARY_3OF4   5 bits for each 4 codes of which exactly one is 0: its place, and above these 2 bits the others'
 *                  signs in their order, 1 for +1; the bits behind the last are 0 (1.25 bits) */
typedef enum hyb_packing {
    HYB_PACKING_TERNARY_2BIT = 1,
    HYB_PACKING_TERNARY_BASE3 = 2,
    HYB_PACKING_INT1 = 3,
    HYB_PACKING_INT2 = 4,
    HYB_PACKING_INT4 = 5,
    HYB_PACKING_INT8 = 6,
    HYB_PACKING_TERNARY_3OF4 = 7
} hyb_packing;

/* Quantises a matrix.
 *   weights  fp32 [n_rows][n_cols], row-major, finite
 *   codes    int8 [n_rows][n_cols]
 *   scales   fp32 [1] or [n_rows] by granularity; representable in binary16, 0 for an all-zero scope
 * Accumulates |w| per row in 16 lanes of fp32, rows in fp64: the same result on every processor and thread count.
 * Parallel over rows. Errors: INVALID_ARGUMENT, NOT_FINITE (also when a scale exceeds 65504). */
HYB_API hyb_status hyb_quantize(hyb_ctx *ctx, const hyb_quantizer *quantizer, const float *weights, size_t n_rows,
                                size_t n_cols, int8_t *codes, float *scales);

/* weights[r][c] = scale * codes[r][c]; n_scales is 1 or n_rows. In place is not possible. Parallel over rows. */
HYB_API hyb_status hyb_dequantize(hyb_ctx *ctx, const int8_t *codes, const float *scales, size_t n_scales,
                                  size_t n_rows, size_t n_cols, float *weights);

/* Quantises activations to int8, one scale per token: absmax over the token's n_cols values.
 *   code = round_half_even(x * (127 / absmax)), scale = absmax / 127; a token whose absmax is 0, or so
 *   small that 127 / absmax is not finite (below 3.8e-37), has scale 0 and codes 0.
 *   activations fp32 [n_tokens][n_cols], codes int8 [n_tokens][n_cols], scales fp32 [n_tokens].
 * Errors: INVALID_ARGUMENT, NOT_FINITE. */
HYB_API hyb_status hyb_quantize_activations(hyb_ctx *ctx, const float *activations, size_t n_tokens, size_t n_cols,
                                            int8_t *codes, float *scales);

/* Rounds floats to 5 levels -1, -0.5, 0, 0.5, 1, or to 3, -1, 0, 1, times a scale; ties go to the even neighbour:
 *   5: out = scale * (round_half_even(2 clip(x, -1, 1)) / 2)       so 0.25 gives 0, and 0.75 gives scale
 *   3: out = scale * round_half_even(clip(x, -1, 1))
 * Clipping what was rounded gives the same, since both ends are levels. Infinities are clipped; zeros keep their sign.
 * x, out: [n]; out may be x. The same bits on every processor. Parallel over values.
 * Errors: INVALID_ARGUMENT (levels not 3 or 5, a scale that is not finite), NOT_FINITE (a NaN; what out then holds is
 * not said). */
HYB_API hyb_status hyb_quantize_levels_f32(hyb_ctx *ctx, int32_t levels, float scale, size_t n, const float *x,
                                           float *out);
HYB_API hyb_status hyb_quantize_levels_f64(hyb_ctx *ctx, int32_t levels, double scale, size_t n, const double *x,
                                           double *out);

/* Bytes that n_codes codes take in a packing, tail included; 0 for an unknown packing, on overflow, and for a number
 * that TERNARY_3OF4 cannot pack, which is one that 4 does not divide. */
HYB_API size_t hyb_packed_bytes(hyb_packing packing, size_t n_codes);

/* Packs codes [n_codes] into bytes [hyb_packed_bytes]. Errors: INVALID_ARGUMENT (a code outside the format; four codes
 * without exactly one 0, or a number that 4 does not divide, for TERNARY_3OF4). */
HYB_API hyb_status hyb_pack(hyb_ctx *ctx, hyb_packing packing, const int8_t *codes, size_t n_codes, uint8_t *bytes);

/* Unpacks bytes [hyb_packed_bytes] into codes [n_codes]. Errors: FORMAT (an invalid byte, or a tail that is not as
 * written by hyb_pack): safe on untrusted bytes. */
HYB_API hyb_status hyb_unpack(hyb_ctx *ctx, hyb_packing packing, const uint8_t *bytes, size_t n_codes, int8_t *codes);

/* Nearest binary16 value (ties to even) as binary32, and the 16 bits themselves. Overflow gives infinity. */
HYB_API float hyb_round_to_half(float value);
HYB_API uint16_t hyb_half_from_float(float value);
HYB_API float hyb_float_from_half(uint16_t half);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_QUANTIZE_H */
