/* quantize_ref.c - elementwise kernels between floats and int8 codes, in plain C99: the specification of each.
 *
 * Codes are what the quantisers of quantize.c and the activations of a layer store. Every variant gives the same bits.
 */
#include "../common.h"

/* Adding and subtracting 1.5 * 2^23 rounds a float of magnitude below 2^22 to an integer, ties to even. */
#define ROUND_MAGIC 12582912.0f

int32_t hyb_quantize_i8_ref(const float *x, size_t n, float inverse_scale, int8_t *codes) {
    int32_t sum = 0;
    for (size_t i = 0; i < n; ++i) {
        float v = x[i] * inverse_scale;
        v = v > 127.0f ? 127.0f : v; /* clamping first gives the same code and keeps v below 2^22 */
        v = v < -127.0f ? -127.0f : v;
        v = (v + ROUND_MAGIC) - ROUND_MAGIC;
        int8_t code = (int8_t)v;
        codes[i] = code;
        sum += code;
    }
    return sum;
}

void hyb_ternarize_ref(const float *w, size_t n, float threshold, int8_t *codes) {
    float low = -threshold;
    for (size_t i = 0; i < n; ++i) codes[i] = (int8_t)((w[i] > threshold) - (w[i] < low));
}

size_t hyb_count_flips_ref(const int8_t *a, const int8_t *b, size_t n, size_t *n_zeros) {
    size_t n_flips = 0, zeros = 0;
    for (size_t i = 0; i < n; ++i) {
        n_flips += a[i] != b[i];
        zeros += b[i] == 0;
    }
    *n_zeros += zeros;
    return n_flips;
}

void hyb_dequantize_i8_ref(const int8_t *codes, size_t n, float s, float *y) {
    for (size_t i = 0; i < n; ++i) y[i] = (float)codes[i] * s;
}
