/* quantize.h - quantisation as several .cu files use it: activations to int8 codes, the codes of a format, rounding to
 * binary16.
 */
#ifndef HYB_CUDA_QUANTIZE_H
#define HYB_CUDA_QUANTIZE_H

#include "device.h"

/* hyb_quantize_token of every row of activations [n_tokens][n_cols]: codes [n_tokens][ld_codes], zeros from n_cols on;
 * sums [n_tokens] of the codes, or NULL; scales [n_tokens]. A token that holds a NaN or an infinity sets the state's
 * flag; its scale is NaN, its codes are 0. */
int hyb_launch_quantize_activations(hyb_cuda_state *state, const float *activations, size_t n_tokens, size_t n_cols,
                                    size_t ld_codes, int8_t *codes, int32_t *sums, float *scales, void *stream);

/* Whether an integer format has this code. */
__device__ __forceinline__ bool hyb_is_code(int32_t format, int code) {
    int most = format == HYB_FORMAT_INT2 ? 3 : format == HYB_FORMAT_INT4 ? 15 : format == HYB_FORMAT_INT8 ? 127 : 1;
    bool is_odd_only = format == HYB_FORMAT_BINARY || format == HYB_FORMAT_INT2 || format == HYB_FORMAT_INT4;
    return code >= -most && code <= most && (!is_odd_only || code % 2 != 0);
}

/* hyb_quantize_token (lib/matmul.h), from the largest bit pattern of a token's magnitudes: by what values are
 * multiplied, 0 where all codes are 0, and the scale, a NaN where a value is not finite. */
struct hyb_token_scale {
    float inverse, scale;
};
__device__ __forceinline__ hyb_token_scale hyb_token_scale_of(uint32_t max_bits) {
    if (max_bits >= HYB_INFINITE) return {0.0f, __uint_as_float(0x7fc00000u)};
    float largest = __uint_as_float(max_bits), inverse = max_bits == 0 ? 0.0f : 127.0f / largest;
    if (max_bits == 0 || !hyb_is_finite(inverse)) return {0.0f, 0.0f}; /* so small that there is no inverse */
    return {inverse, largest / 127.0f};
}

/* 0 for an inverse of 0, even where the value is infinite. */
__device__ __forceinline__ int hyb_token_code(float value, hyb_token_scale s) {
    return s.inverse == 0.0f ? 0 : hyb_round_i8(value * s.inverse);
}

/* hyb_round_to_half of a value that is not negative, or a NaN, which stays one. */
__device__ __forceinline__ float hyb_round_to_half_device(float value) {
    uint32_t bits = __float_as_uint(value);
    if (bits > HYB_INFINITE) return value;
    if (bits >= 0x477ff000u) return __uint_as_float(HYB_INFINITE); /* 65520 and above round to infinity */
    /* Below 2^-14 the unit is 2^-24, the last place of 0.5; else 13 bits go, ties to even. */
    if (bits < 0x38800000u) return (value + 0.5f) - 0.5f;
    return __uint_as_float((bits + 0xfffu + (bits >> 13 & 1u)) & ~0x1fffu);
}

#endif /* HYB_CUDA_QUANTIZE_H */
