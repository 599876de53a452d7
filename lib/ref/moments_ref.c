/* moments_ref.c - an optimiser's moments in 8 bits, in plain C99: the specification, bit by bit (kernels.h says what
 * the codes mean).
 */
#include <math.h>

#include "../common.h"

static uint32_t noise(uint32_t u) {
    u *= 0x9e3779b1u;
    u ^= u >> 15;
    return u * 0x85ebca77u;
}

void hyb_encode_signed_ref(const float *x, size_t n, float inverse, uint32_t seed, uint8_t *codes) {
    for (size_t i = 0; i < n; ++i) {
        float y = fabsf(x[i]) * inverse;
        y = (y < HYB_SIGNED_TOP ? y : HYB_SIGNED_TOP) + 1.0f;
        uint32_t bits = hyb_bits_of(y) + (noise(seed + (uint32_t)i) >> 13);
        codes[i] = (uint8_t)((bits >> 19) - (127u << 4) + (hyb_bits_of(x[i]) >> 31 << 7));
    }
}

void hyb_encode_positive_ref(const float *x, size_t n, float inverse, uint32_t seed, uint8_t *codes) {
    for (size_t i = 0; i < n; ++i) {
        float y = x[i] * inverse;
        y = y > HYB_POSITIVE_LEAST ? y : HYB_POSITIVE_LEAST;
        y = y < HYB_POSITIVE_TOP ? y : HYB_POSITIVE_TOP;
        uint32_t bits = hyb_bits_of(y) + (noise(seed + (uint32_t)i) >> 12);
        codes[i] = (uint8_t)((bits >> 20) - (127u << 3));
    }
}

void hyb_decode_signed_ref(const uint8_t *codes, size_t n, float scale, float *x) {
    for (size_t i = 0; i < n; ++i) {
        float y = (hyb_float_of(((codes[i] & 127u) << 19) + 0x3f800000u) - 1.0f) * scale;
        x[i] = hyb_float_of(hyb_bits_of(y) ^ ((uint32_t)codes[i] >> 7 << 31));
    }
}

void hyb_decode_positive_ref(const uint8_t *codes, size_t n, float scale, float *x) {
    for (size_t i = 0; i < n; ++i) x[i] = hyb_float_of(((uint32_t)codes[i] << 20) + 0x3f800000u) * scale;
}
