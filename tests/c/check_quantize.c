/* check_quantize.c - every variant of the kernels between floats and int8 codes against the reference, bit for bit:
 * every length up to 200 and random ones, memory that ends at a guard page, results that begin poisoned, ties and
 * extremes among the values. With --bench: GB/s of each tier, in the first cache, the last one, and memory.
 */
#include "testing.h"

#include <time.h>

#include "common.h"

static size_t find_tiers(hyb_kernels *tables, const char **names) {
    size_t n = 0;
    (void)tables, (void)names;
#if HYB_X86
    if (hyb_isa_detect() & HYB_ISA_AVX2) {
        hyb_kernels_select(&tables[n], 0); /* what a tier lacks is the reference */
        hyb_install_quantize_avx2(&tables[n]);
        names[n++] = "avx2";
    }
    if (hyb_isa_detect() & HYB_ISA_AVX512) {
        hyb_kernels_select(&tables[n], 0);
        hyb_install_quantize_avx512(&tables[n]);
        names[n++] = "avx512";
    }
#elif HYB_ARM64
    hyb_kernels_select(&tables[n], 0);
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

/* ternarize_pack against the reference and against ternarize; the words lie as in a row block, ending at a guard page.
 */
static void check_pack(const hyb_kernels *k, size_t n, uint64_t *state) {
    static const float thresholds[] = {0.25f, 0.5f, 1e-41f, 1e30f};
    size_t n_k16 = (n + 15) / 16, n_bytes = (n_k16 - 1) * 64 + 4;
    float *w = test_guarded_alloc(n * 4);
    uint8_t *words = test_guarded_alloc(n_bytes), *expected = malloc(n_bytes);
    int8_t *codes = malloc(n);
    for (size_t i = 0; i < n; ++i) w[i] = awkward_value(state);
    memset(words, 0x55, n_bytes); /* codes 0 */
    memset(expected, 0x55, n_bytes);
    for (size_t t = 0; t < 5; ++t) {
        float threshold = t < 4 ? thresholds[t] : hyb_float_of(0x7f800000u);
        size_t zeros = 7, expected_zeros = 7; /* both add to what is there */
        size_t n_flips = hyb_ternarize_pack_ref(w, n, threshold, expected, &expected_zeros);
        CHECK(k->ternarize_pack(w, n, threshold, words, &zeros) == n_flips);
        CHECK(zeros == expected_zeros);
        CHECK(memcmp(words, expected, n_bytes) == 0);
        hyb_ternarize_ref(w, n, threshold, codes);
        size_t n_wrong = 0, n_zero = 0;
        for (size_t i = 0; i < 16 * n_k16; ++i) {
            int code = i < n ? codes[i] : 0; /* the padding is code 0 */
            n_wrong += (words[i / 16 * 64 + i % 4] >> (i % 16 / 4 * 2) & 3) - 1 != code;
            n_zero += i < n && code == 0;
        }
        CHECK(n_wrong == 0);
        CHECK(zeros == 7 + n_zero);
        CHECK(k->ternarize_pack(w, n, threshold, words, &zeros) == 0); /* nothing changes any more */
    }
    free(codes);
    free(expected);
    test_guarded_free(words, n_bytes);
    test_guarded_free(w, n * 4);
}

/* The sums and maxima of magnitudes, and codes by division. */
static void check_magnitudes(const hyb_kernels *k, size_t n, uint64_t *state) {
    float *x = test_guarded_alloc(n * 4);
    int8_t *codes = test_guarded_alloc(n), *expected_codes = malloc(n + 1);
    for (size_t i = 0; i < n; ++i) x[i] = awkward_value(state);
    hyb_magnitudes found = k->magnitudes(x, n), expected = hyb_magnitudes_ref(x, n);
    CHECK(hyb_bits_of(found.sum) == hyb_bits_of(expected.sum));
    CHECK(found.max_bits == expected.max_bits);
    CHECK(hyb_bits_of(found.sum) == hyb_bits_of(hyb_sum_abs_f32_ref(x, n)));
    CHECK(found.max_bits == hyb_max_abs_bits_ref(x, n));
    static const float limits[] = {0.0f, 0.25f, 0.5f, 1.5f, 1e30f};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; ++i) {
        size_t n_above = 99, expected_above = 98;
        float sum = k->sum_above_f32(x, n, limits[i], &n_above);
        CHECK(hyb_bits_of(sum) == hyb_bits_of(hyb_sum_above_f32_ref(x, n, limits[i], &expected_above)));
        CHECK(n_above == expected_above);
    }
    static const float scales[] = {1.0f, 2.0f, 0.27f, 6e-8f};
    for (size_t i = 0; n > 0 && i < sizeof scales / sizeof scales[0]; ++i) {
        memset(codes, 0xa5, n);
        hyb_divide_i8_ref(x, n, scales[i], expected_codes);
        k->divide_i8(x, n, scales[i], codes);
        CHECK(memcmp(codes, expected_codes, n) == 0);
    }
    if (n > 0) { /* what is not finite shows */
        x[test_random_below(state, n)] = hyb_float_of(test_random_below(state, 2) ? 0x7f800000u : 0xffc00000u);
        CHECK(k->magnitudes(x, n).max_bits == hyb_max_abs_bits_ref(x, n));
    }
    free(expected_codes);
    test_guarded_free(codes, n);
    test_guarded_free(x, n * 4);
}

/* ---- speed ---- */

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct bench_data {
    size_t n_rows, n_cols;
    float *w, *g, *m, *v;
    uint8_t *words;
    int8_t *codes, *before;
    double sink;
} bench_data;

static void bench_row(const hyb_kernels *k, bench_data *d, int which, size_t r) {
    size_t n = d->n_cols, at = r * n, count = 0;
    switch (which) {
    case 0:
        d->sink += (double)k->magnitudes(d->w + at, n).sum;
        break;
    case 1:
        d->sink += (double)k->sum_above_f32(d->w + at, n, 0.5f, &count);
        break;
    case 2:
        d->sink += (double)k->ternarize_pack(d->w + at, n, 0.5f, d->words + r / 16 * n * 4 + r % 16 * 4, &count);
        break;
    case 3:
        k->ternarize(d->w + at, n, 0.5f, d->codes + at);
        break;
    case 4:
        d->sink += (double)k->quantize_i8(d->w + at, n, 100.0f, d->codes + at);
        break;
    case 5:
        k->divide_i8(d->w + at, n, 0.01f, d->codes + at);
        break;
    case 6: {
        hyb_adamw_job job = {d->g + at, d->w + at, d->m + at, d->v + at, n,     0.5f, 0.9f,
                             0.1f,      0.95f,     0.05f,     0.999f,    1e-4f, 3.0f, 1e-8f};
        d->sink += (double)k->adamw(&job).sum;
        break;
    }
    default:
        d->sink += (double)k->count_flips(d->before + at, d->codes + at, n, &count);
    }
}

/* GB/s of what a kernel moves, at its fastest of some repetitions, on n_rows x n_cols. */
static void bench(const hyb_kernels *tables, const char *const *names, size_t n_tiers, size_t n_rows, size_t n_cols) {
    static const struct {
        const char *name;
        double bytes;
    } kernels[] = {{"magnitudes", 4},  {"sum_above_f32", 4}, {"ternarize_pack", 4}, {"ternarize", 4},
                   {"quantize_i8", 4}, {"divide_i8", 4},     {"adamw", 28},         {"count_flips", 2}};
    size_t n = n_rows * n_cols;
    bench_data d = {.n_rows = n_rows, .n_cols = n_cols};
    float *floats = test_guarded_alloc(n * 16); /* of these sizes it is aligned to 64 */
    uint8_t *bytes = test_guarded_alloc(n * 3);
    d.w = floats, d.g = floats + n, d.m = floats + 2 * n, d.v = floats + 3 * n;
    d.words = bytes, d.codes = (int8_t *)bytes + n, d.before = (int8_t *)bytes + 2 * n;
    uint64_t state = 1;
    for (size_t i = 0; i < 4 * n; ++i) floats[i] = test_random_float(&state) * (i < 3 * n ? 1.0f : 0.0f) + 1e-3f;
    memset(bytes, 0x55, n * 3);
    printf("%zu x %zu, GB/s:", n_rows, n_cols);
    for (size_t t = 0; t < n_tiers; ++t) printf(" %10s", names[t]);
    for (size_t which = 0; which < sizeof kernels / sizeof kernels[0]; ++which) {
        printf("\n  %-16s", kernels[which].name);
        for (size_t t = 0; t < n_tiers; ++t) {
            double best = 1e9, stop = seconds_now() + 0.15;
            do {
                double start = seconds_now();
                for (size_t r = 0; r < n_rows; ++r) bench_row(&tables[t], &d, (int)which, r);
                double took = seconds_now() - start;
                best = took < best ? took : best;
            } while (seconds_now() < stop);
            printf(" %10.2f", kernels[which].bytes * (double)n / best * 1e-9);
        }
    }
    printf("   (%d)\n", d.sink > 0);
    test_guarded_free(floats, n * 16);
    test_guarded_free(bytes, n * 3);
}

static void bench_all(void) {
    static hyb_kernels tables[3];
    static const char *const names[] = {"scalar", "avx2", "avx512"};
    uint32_t isa = hyb_isa_detect();
    size_t n = 0;
    hyb_kernels_select(&tables[n++], 0);
    if ((isa & HYB_ISA_AVX2) != 0) hyb_kernels_select(&tables[n++], HYB_ISA_AVX2);
    if ((isa & HYB_ISA_AVX512) != 0) hyb_kernels_select(&tables[n++], HYB_ISA_AVX2 | HYB_ISA_AVX512);
    bench(tables, names, n, 16, 768);
    bench(tables, names, n, 768, 768);
    bench(tables, names, n, 4096, 4096);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench_all();
        return 0;
    }
    static hyb_kernels tables[2];
    const char *names[2];
    size_t n_tiers = find_tiers(tables, names);
    if (n_tiers == 0) TEST_SKIP("this processor has no variant beyond the reference");
    uint64_t state = 3;
    for (size_t i = 0; i < n_tiers; ++i) {
        for (size_t n = 1; n <= 200; ++n) {
            check_to_codes(&tables[i], n, &state);
            check_from_codes(&tables[i], n, &state);
            check_pack(&tables[i], n, &state);
            check_magnitudes(&tables[i], n, &state);
        }
        for (size_t round = 0; round < 20; ++round) {
            size_t n = 1 + test_random_below(&state, 5000);
            check_to_codes(&tables[i], n, &state);
            check_from_codes(&tables[i], n, &state);
            check_pack(&tables[i], n, &state);
            check_magnitudes(&tables[i], n, &state);
        }
        printf("%s: equal to the reference\n", names[i]);
    }
    return TEST_RESULT();
}
