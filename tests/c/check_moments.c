/* check_moments.c - the codes of an optimiser's moments: every variant gives the reference's bytes and floats, within
 * its bounds of memory, for any length and for values at which one may go wrong; and all 256 codes decode to what
 * kernels.h says.
 */
#include "testing.h"

#include <math.h>

#include "float_tiers.h"

#define MAX_N 4096

static float random_value(uint64_t *state, int special) {
    static const float values[] = {0.0f,  -0.0f,  1e-40f, -1e-45f, 1.17549435e-38f, 3.4e38f,   -3.4e38f, INFINITY,
                                   NAN,   1.0f,   -1.0f,  1e-30f,  5e-29f,          246.999f,  247.0f,   247.001f,
                                   1e20f, 0.999f, 16.0f,  4.02e9f, 4026531840.0f,   4.0266e9f, 0.0625f,  -INFINITY};
    if (special && test_random_below(state, 2) == 0)
        return values[test_random_below(state, sizeof values / sizeof *values)];
    return test_random_float(state) * ldexpf(1.0f, (int)test_random_below(state, 40) - 8);
}

static int same_float(float a, float b) { return hyb_bits_of(a) == hyb_bits_of(b) || (isnan(a) && isnan(b)); }

typedef void (*encoder)(const float *x, size_t n, float inverse, uint32_t seed, uint8_t *codes);
typedef void (*decoder)(const uint8_t *codes, size_t n, float scale, float *x);

static void check_encoder(encoder reference, encoder other, size_t n, int special, uint64_t *state) {
    float *x = test_guarded_alloc(n * sizeof *x);
    uint8_t *codes = test_guarded_alloc(n), expected[MAX_N];
    uint32_t seed = (uint32_t)test_random(state);
    float inverse = ldexpf(1.0f, (int)test_random_below(state, 30) - 10);
    for (size_t i = 0; i < n; ++i) x[i] = random_value(state, special);
    reference(x, n, inverse, seed, expected);
    other(x, n, inverse, seed, codes);
    CHECK(n == 0 || memcmp(codes, expected, n) == 0);
    test_guarded_free(codes, n);
    test_guarded_free(x, n * sizeof *x);
}

static void check_decoder(decoder reference, decoder other, size_t n, uint64_t *state) {
    static const float scales[] = {1.0f, 0.0f, 1e-37f, 8e28f, 0.37f, INFINITY};
    uint8_t *codes = test_guarded_alloc(n);
    float *x = test_guarded_alloc(n * sizeof *x), expected[MAX_N];
    float scale = scales[test_random_below(state, sizeof scales / sizeof *scales)];
    size_t wrong = 0;
    for (size_t i = 0; i < n; ++i) codes[i] = (uint8_t)test_random(state);
    reference(codes, n, scale, expected);
    other(codes, n, scale, x);
    for (size_t i = 0; i < n; ++i) wrong += !same_float(x[i], expected[i]);
    CHECK(wrong == 0);
    test_guarded_free(codes, n);
    test_guarded_free(x, n * sizeof *x);
}

static void check_tier(const hyb_kernels *reference, const hyb_kernels *other, uint64_t *state) {
    for (size_t i = 0; i < 600; ++i) {
        size_t n = i < 300 ? i : test_random_below(state, MAX_N);
        for (int special = 0; special < 2; ++special) {
            check_encoder(reference->encode_signed, other->encode_signed, n, special, state);
            check_encoder(reference->encode_positive, other->encode_positive, n, special, state);
        }
        check_decoder(reference->decode_signed, other->decode_signed, n, state);
        check_decoder(reference->decode_positive, other->decode_positive, n, state);
    }
}

/* What each code stands for, and that encoding what it stands for gives it back, whatever the noise. */
static void check_codes(const hyb_kernels *kernels, uint64_t *state) {
    uint8_t codes[256], again[256];
    float x[256];
    for (int c = 0; c < 256; ++c) codes[c] = (uint8_t)c;
    kernels->decode_signed(codes, 256, 1.0f, x);
    for (int c = 0; c < 256; ++c) {
        double size = ldexp(1.0 + (double)(c % 16) / 16.0, c % 128 / 16) - 1.0;
        CHECK((double)x[c] == (c < 128 ? size : -size));
    }
    for (int i = 0; i < 20; ++i) {
        kernels->encode_signed(x, 256, 1.0f, (uint32_t)test_random(state), again);
        CHECK(memcmp(codes, again, 256) == 0);
    }
    kernels->decode_positive(codes, 256, 1.0f, x);
    for (int c = 0; c < 256; ++c) CHECK((double)x[c] == ldexp(1.0 + (double)(c % 8) / 8.0, c / 8));
    for (int i = 0; i < 20; ++i) {
        kernels->encode_positive(x, 256, 1.0f, (uint32_t)test_random(state), again);
        for (int c = 0; c < 256; ++c) CHECK(again[c] == (c < 64 ? 64 : c));
    }
    CHECK(x[255] == HYB_POSITIVE_TOP);
}

int main(void) {
    tier tiers[4];
    uint64_t state = 3;
    size_t n = make_tiers(tiers);
    for (size_t t = 0; t < n; ++t) {
        check_codes(&tiers[t].kernels, &state);
        if (t > 0) check_tier(&tiers[0].kernels, &tiers[t].kernels, &state);
    }
    return TEST_RESULT();
}
