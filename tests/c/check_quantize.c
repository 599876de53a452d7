/* check_quantize.c - every variant of the kernels between floats and int8 codes against the reference, bit for bit:
 * every length up to 200 and random ones, memory that ends at a guard page, results that begin poisoned, ties and
 * extremes among the values.
 */
#include "testing.h"

#include "common.h"

static size_t find_tiers(hyb_kernels *tables, const char **names) {
    size_t n = 0;
    (void)tables, (void)names;
#if HYB_X86
    if (hyb_isa_detect() & HYB_ISA_AVX2) {
        hyb_install_quantize_avx2(&tables[n]);
        names[n++] = "avx2";
    }
    if (hyb_isa_detect() & HYB_ISA_AVX512) {
        hyb_install_quantize_avx512(&tables[n]);
        names[n++] = "avx512";
    }
#elif HYB_ARM64
    hyb_install_quantize_neon(&tables[n]);
    names[n++] = "neon";
#endif
    return n;
}

/* Random values, ties of the rounding, values on both sides of the threshold, signed zeros, very large and tiny ones.
 */
static float awkward_value(uint64_t *state) {
    static const float values[] = {0.5f,  1.5f, 2.5f,  -0.5f,  -1.5f,  -2.5f,   126.5f, 127.5f, -126.5f,
                                   -0.0f, 0.0f, 1e30f, -1e30f, 1e-40f, -1e-40f, 0.25f,  -0.25f, 0.24999999f};
    if (test_random_below(state, 3) == 0) return values[test_random_below(state, sizeof values / sizeof values[0])];
    return test_random_float(state) * (test_random_below(state, 2) ? 1.0f : 140.0f);
}

/* quantize_i8 and ternarize: the same codes, nothing written behind them, the same sum. */
static void check_to_codes(const hyb_kernels *k, size_t n, uint64_t *state) {
    static const float scales[] = {1.0f, 0.5f, 3.7f, 1e30f};
    float *x = test_guarded_alloc(n * 4);
    int8_t *codes = test_guarded_alloc(n), *expected = malloc(n + 1);
    for (size_t i = 0; i < n; ++i) x[i] = awkward_value(state);
    for (size_t s = 0; s < sizeof scales / sizeof scales[0]; ++s) {
        memset(codes, 0xa5, n);
        int32_t sum = hyb_quantize_i8_ref(x, n, scales[s], expected);
        CHECK(k->quantize_i8(x, n, scales[s], codes) == sum);
        CHECK(memcmp(codes, expected, n) == 0);
        memset(codes, 0xa5, n);
        hyb_ternarize_ref(x, n, scales[s] * 0.5f, expected);
        k->ternarize(x, n, scales[s] * 0.5f, codes);
        CHECK(memcmp(codes, expected, n) == 0);
    }
    free(expected);
    test_guarded_free(codes, n);
    test_guarded_free(x, n * 4);
}

/* count_flips and dequantize_i8: the same numbers, bit for bit. */
static void check_from_codes(const hyb_kernels *k, size_t n, uint64_t *state) {
    int8_t *a = test_guarded_alloc(n), *b = test_guarded_alloc(n);
    float *y = test_guarded_alloc(n * 4), *expected = malloc(n * 4 + 1);
    for (size_t i = 0; i < n; ++i) {
        a[i] = (int8_t)((int)test_random_below(state, 3) - 1);
        b[i] = (int8_t)(test_random_below(state, 4) ? a[i] : (int8_t)(test_random(state) & 255));
    }
    size_t zeros = 7, expected_zeros = 7; /* both add to what is there */
    CHECK(k->count_flips(a, b, n, &zeros) == hyb_count_flips_ref(a, b, n, &expected_zeros));
    CHECK(zeros == expected_zeros);
    memset(y, 0xa5, n * 4);
    float scale = test_random_float(state);
    hyb_dequantize_i8_ref(b, n, scale, expected);
    k->dequantize_i8(b, n, scale, y);
    CHECK(memcmp(y, expected, n * 4) == 0);
    free(expected);
    test_guarded_free(y, n * 4);
    test_guarded_free(b, n);
    test_guarded_free(a, n);
}

int main(void) {
    static hyb_kernels tables[2];
    const char *names[2];
    size_t n_tiers = find_tiers(tables, names);
    if (n_tiers == 0) TEST_SKIP("this processor has no variant beyond the reference");
    uint64_t state = 3;
    for (size_t i = 0; i < n_tiers; ++i) {
        for (size_t n = 1; n <= 200; ++n) {
            check_to_codes(&tables[i], n, &state);
            check_from_codes(&tables[i], n, &state);
        }
        for (size_t round = 0; round < 20; ++round) {
            size_t n = 1 + test_random_below(&state, 5000);
            check_to_codes(&tables[i], n, &state);
            check_from_codes(&tables[i], n, &state);
        }
        printf("%s: equal to the reference\n", names[i]);
    }
    return TEST_RESULT();
}
