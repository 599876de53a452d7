/* check_levels.c - rounding to levels: every variant of the kernels against the reference, bit for bit, in lengths up
 * to 200, at every alignment, in place, with a NaN at every place; memory ends at a guard page.
 * With --bench: GB/s (read and written) of each tier, by size.
 */
#include "testing.h"

#include <math.h>
#include <time.h>

#include "common.h"

typedef struct tier {
    const char *name;
    hyb_kernels kernels;
} tier;

static size_t find_tiers(tier *tiers) {
    size_t n = 0;
    hyb_kernels_select(&tiers[n].kernels, 0);
    tiers[n++].name = "scalar";
#if HYB_X86
    if (hyb_isa_detect() & HYB_ISA_AVX2) {
        hyb_install_levels_avx2(&tiers[n].kernels);
        tiers[n++].name = "avx2";
    }
    if (hyb_isa_detect() & HYB_ISA_AVX512) {
        hyb_install_levels_avx512(&tiers[n].kernels);
        tiers[n++].name = "avx512";
    }
#elif HYB_ARM64
    hyb_install_levels_neon(&tiers[n].kernels);
    tiers[n++].name = "neon";
#endif
    return n;
}

/* Random values, ties of both roundings and their neighbours, zeros, subnormals, what is clipped. */
static double awkward_value(uint64_t *state) {
    static const double values[] = {0.0,  0.25, 0.5, 0.75,     1.0,   1.25, 0x1.fffffep-3, 0x1.000002p-2, 0x1.7ffffep-1,
                                    1e30, 2.0,  1.5, INFINITY, 1e-40, 3e38, 0x1.000002p-1, 0x1.800002p-1};
    double value = (double)test_random_float(state) * 1.3;
    if (test_random_below(state, 2)) value = values[test_random_below(state, sizeof values / sizeof *values)];
    return test_random_below(state, 2) ? value : -value;
}

/* One length at one offset from the alignment of pages; `hole` is where a NaN is put, if below n. */
#define DEFINE_CHECK(suffix, type)                                                                                     \
    static void check_##suffix(const hyb_kernels *k, size_t n, size_t tail, size_t hole, uint64_t *state) {            \
        const size_t n_bytes = (n + tail) * sizeof(type);                                                              \
        type *x = test_guarded_alloc(n_bytes), *out = test_guarded_alloc(n_bytes), *expected = malloc(n_bytes + 1);    \
        const type steps = (type)(1 + test_random_below(state, 2)), scale = tail % 3 == 0 ? 1 : (type)1.7e-3;          \
        for (size_t i = 0; i < n + tail; ++i) x[i] = (type)awkward_value(state);                                       \
        if (hole < n) x[hole] = (type)NAN;                                                                             \
        memset(out, 0xa5, n_bytes);                                                                                    \
        memset(expected, 0xa5, n_bytes);                                                                               \
        CHECK(hyb_quantize_levels_##suffix##_ref(x, n, steps, scale, expected) == (hole < n));                         \
        CHECK(k->quantize_levels_##suffix(x, n, steps, scale, out) == (hole < n));                                     \
        if (hole < n) CHECK(isnan(out[hole]) && isnan(expected[hole]));                                                \
        if (hole < n) out[hole] = expected[hole] = 0; /* a NaN's own bits may differ */                                \
        CHECK(memcmp(out, expected, n_bytes) == 0);                                                                    \
        CHECK(k->quantize_levels_##suffix(x, n, steps, scale, x) == (hole < n));                                       \
        if (hole < n) x[hole] = 0;                                                                                     \
        CHECK(memcmp(x, expected, n * sizeof(type)) == 0);                                                             \
        free(expected);                                                                                                \
        test_guarded_free(out, n_bytes);                                                                               \
        test_guarded_free(x, n_bytes);                                                                                 \
    }
DEFINE_CHECK(f32, float)
DEFINE_CHECK(f64, double)

static void check_all(const tier *t) {
    uint64_t state = 5;
    for (size_t n = 0; n < 200; ++n) {
        check_f32(&t->kernels, n, n % 17, SIZE_MAX, &state);
        check_f64(&t->kernels, n, n % 17, SIZE_MAX, &state);
    }
    for (size_t tail = 0; tail < 20; ++tail) {
        check_f32(&t->kernels, 100, tail, SIZE_MAX, &state);
        check_f64(&t->kernels, 100, tail, SIZE_MAX, &state);
    }
    for (size_t hole = 0; hole < 67; ++hole) {
        check_f32(&t->kernels, 67, hole % 5, hole, &state);
        check_f64(&t->kernels, 67, hole % 5, hole, &state);
    }
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void bench(const tier *t, size_t n) {
    float *x = malloc(n * sizeof *x), *out = malloc(n * sizeof *out);
    uint64_t state = 3;
    for (size_t i = 0; i < n; ++i) x[i] = test_random_float(&state);
    memset(out, 1, n * sizeof *out);
    printf("  %-7s %10zu values:", t->name, n);
    for (int mode = 0; mode < 2; ++mode) {
        double best = 1e9, bytes = 2.0 * (double)n * sizeof *x;
        for (int round = 0; round < 7; ++round) {
            double start = seconds_now();
            size_t calls = 0;
            for (; calls == 0 || seconds_now() - start < 0.02; ++calls)
                t->kernels.quantize_levels_f32(x, n, 2.0f, 1.0f, mode == 1 ? x : out);
            best = fmin(best, (seconds_now() - start) / (double)calls);
        }
        printf("  %s %6.2f GB/s", mode == 0 ? "apart" : "in place", bytes / best / 1e9);
    }
    printf("\n");
    free(out);
    free(x);
}

int main(int argc, char **argv) {
    tier tiers[4];
    size_t n_tiers = find_tiers(tiers);
    for (size_t i = 0; i < n_tiers; ++i) check_all(&tiers[i]);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        for (size_t n = 4096; n <= (size_t)64 << 20; n *= 8)
            for (size_t i = 0; i < n_tiers; ++i) bench(&tiers[i], n);
    return TEST_RESULT();
}
