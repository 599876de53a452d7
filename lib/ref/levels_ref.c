/* levels_ref.c - rounding floats to 3 or 5 evenly spaced levels in plain C99: the specification, bit by bit.
 *
 * On magnitudes, so that a zero keeps its sign. Adding 2^23 (2^52) to at most 2 and subtracting it again rounds to a
 * whole number, ties to even. Magnitudes up to 1 lack the highest bit of the exponent, NaNs have it.
 */
#include "../common.h"

int hyb_quantize_levels_f32_ref(const float *x, size_t n, float steps, float scale, float *out) {
    const float inverse = 1.0f / steps;
    uint32_t seen = 0;
    for (size_t i = 0; i < n; ++i) {
        uint32_t bits = hyb_bits_of(x[i]), sign = bits & 0x80000000u;
        uint32_t above =
            0u - (hyb_float_of(bits ^ sign) > 1.0f); /* all ones, or 0: compilers vectorise such a select */
        bits = ((bits ^ sign) & ~above) | (0x3f800000u & above);
        seen |= bits;
        float magnitude = hyb_float_of(bits);
        magnitude = (magnitude * steps + 8388608.0f) - 8388608.0f;
        out[i] = hyb_float_of(hyb_bits_of(magnitude) | sign) * inverse * scale;
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
    const double inverse = 1.0 / steps;
    uint64_t seen = 0;
    for (size_t i = 0; i < n; ++i) {
        uint64_t bits = bits_of(x[i]), sign = bits & (uint64_t)1 << 63;
        uint64_t above = 0u - (uint64_t)(double_of(bits ^ sign) > 1.0);
        bits = ((bits ^ sign) & ~above) | ((uint64_t)0x3ff << 52 & above);
        seen |= bits;
        double magnitude = double_of(bits);
        magnitude = (magnitude * steps + 4503599627370496.0) - 4503599627370496.0;
        out[i] = double_of(bits_of(magnitude) | sign) * inverse * scale;
    }
    return (int)(seen >> 62 & 1);
}
