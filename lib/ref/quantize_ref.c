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

/* Two bits of a column in its word: plane c / 4 of byte c % 4. */
static unsigned field_shift(size_t column) { return (unsigned)(column % 4 * 8 + column / 4 * 2); }

size_t hyb_ternarize_pack_ref(const float *w, size_t n, float threshold, uint8_t *words, size_t *n_zeros) {
    size_t n_flips = 0, zeros = 0;
    float low = -threshold;
    for (size_t first = 0; first < n; first += HYB_BLOCK_COLS, words += HYB_BLOCK_ROWS * 4) {
        uint32_t word = 0x55555555u, before = hyb_load_u32(words); /* padded with code 0, which is stored as 1 */
        for (size_t c = 0; c < HYB_BLOCK_COLS && first + c < n; ++c) {
            uint32_t above = w[first + c] > threshold, below = w[first + c] < low;
            word += (above - below) << field_shift(c);
            n_flips += ((word ^ before) >> field_shift(c) & 3u) != 0;
            zeros += above == below;
        }
        hyb_store_u32(words, word);
    }
    *n_zeros += zeros;
    return n_flips;
}

void hyb_divide_i8_ref(const float *x, size_t n, float scale, int8_t *codes) {
    for (size_t i = 0; i < n; ++i) {
        float v = x[i] / scale;
        v = v > 127.0f ? 127.0f : v;
        v = v < -127.0f ? -127.0f : v;
        codes[i] = (int8_t)((v + ROUND_MAGIC) - ROUND_MAGIC);
    }
}

static float fold_lanes(float *lanes) {
    for (size_t width = HYB_LANES / 2; width != 0; width /= 2)
        for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    return lanes[0];
}

hyb_magnitudes hyb_magnitudes_ref(const float *x, size_t n) {
    float lanes[HYB_LANES] = {0};
    hyb_magnitudes result = {0, 0};
    for (size_t i = 0; i < n; ++i) {
        uint32_t bits = hyb_bits_of(x[i]) & 0x7fffffffu;
        lanes[i % HYB_LANES] += hyb_float_of(bits);
        result.max_bits = bits > result.max_bits ? bits : result.max_bits;
    }
    result.sum = fold_lanes(lanes);
    return result;
}

float hyb_sum_above_f32_ref(const float *x, size_t n, float threshold, size_t *n_above) {
    float lanes[HYB_LANES] = {0};
    size_t count = 0;
    for (size_t i = 0; i < n; ++i) {
        float magnitude = hyb_float_of(hyb_bits_of(x[i]) & 0x7fffffffu);
        lanes[i % HYB_LANES] += magnitude > threshold ? magnitude : 0.0f;
        count += magnitude > threshold;
    }
    *n_above = count;
    return fold_lanes(lanes);
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
