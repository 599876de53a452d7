/* levels_ref.c - rounding floats to 3 or 5 evenly spaced levels in plain C99: the specification, bit by bit.
 *
 * On magnitudes, so that a zero keeps its sign. Adding 2^23 (2^52) to at most 2 and subtracting it again rounds to a
 * whole number, ties to even. Magnitudes up to 1 lack the highest bit of the exponent, NaNs have it. Comparisons are
 * borrows of integers, spread to masks: a form that compilers turn into vector instructions.
 */
#include "../common.h"

int hyb_quantize_levels_f32_ref(const float *x, size_t n, float steps, float scale, float *out) {
    const uint32_t one = 0x3f800000u, infinity = 0x7f800000u;
    const float inverse = 1.0f / steps;
    uint32_t seen = 0;
    for (size_t i = 0; i < n; ++i) {
        uint32_t bits = hyb_bits_of(x[i]), sign = bits & 0x80000000u;
        bits ^= sign;
        uint32_t is_nan = 0u - ((infinity - bits) >> 31), above = (0u - ((one - bits) >> 31)) & ~is_nan;
        bits = (bits & ~above) | (one & above);
        seen |= bits;
        float whole = (hyb_float_of(bits) * steps + 8388608.0f) - 8388608.0f;
        out[i] = hyb_float_of(hyb_bits_of(whole) | sign) * inverse * scale;
    }
    return (int)(seen >> 30 & 1);
}

static inline uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline double double_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

int hyb_quantize_levels_f64_ref(const double *x, size_t n, double steps, double scale, double *out) {
    const uint64_t one = (uint64_t)0x3ff << 52, infinity = (uint64_t)0x7ff << 52;
    const double inverse = 1.0 / steps;
    uint64_t seen = 0;
    for (size_t i = 0; i < n; ++i) {
        uint64_t bits = bits_of(x[i]), sign = bits & (uint64_t)1 << 63;
        bits ^= sign;
        uint64_t is_nan = 0u - ((infinity - bits) >> 63), above = (0u - ((one - bits) >> 63)) & ~is_nan;
        bits = (bits & ~above) | (one & above);
        seen |= bits;
        double whole = (double_of(bits) * steps + 4503599627370496.0) - 4503599627370496.0;
        out[i] = double_of(bits_of(whole) | sign) * inverse * scale;
    }
    return (int)(seen >> 62 & 1);
}
