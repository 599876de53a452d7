/* check_transpose.c - every variant of the integer backward pass's kernels against the reference, bit for bit: sizes
 * that are no multiple of anything, memory that ends at a guard page, results that begin poisoned, NaN and infinities.
 * With
 * --bench: microseconds of each variant on the operands of a layer.
 */
#include "testing.h"

#include <math.h>
#include <time.h>

#include "common.h"

static size_t find_tiers(hyb_kernels *tables, const char **names) {
    size_t n = 0;
    (void)tables, (void)names;
#if HYB_X86
    if (hyb_isa_detect() & HYB_ISA_AVX2) {
        hyb_install_transpose_avx2(&tables[n]);
        names[n++] = "avx2";
    }
    if (hyb_isa_detect() & HYB_ISA_AVX512) {
        hyb_install_transpose_avx512(&tables[n]);
        names[n++] = "avx512";
    }
#endif
    return n;
}

static float awkward_value(uint64_t *state, int finite) {
    static const float values[] = {0.5f, 1.5f, -2.5f, 126.5f, -127.5f, -0.0f, 0.0f, 1e30f, -1e30f, 1e-40f};
    if (!finite && test_random_below(state, 40) == 0) {
        static const uint32_t bits[] = {0x7f800000u, 0xff800000u, 0x7fc00000u};
        return hyb_float_of(bits[test_random_below(state, 3)]);
    }
    if (test_random_below(state, 3) == 0) return values[test_random_below(state, sizeof values / sizeof values[0])];
    return test_random_float(state) * 140.0f;
}

/* The same maxima, old ones kept where they are larger; a NaN anywhere is above infinity's bits in both. */
static void check_column_max(const hyb_kernels *k, size_t n, int finite, uint64_t *state) {
    static const float scales[] = {1.0f, 0.0f, 0.037f, 1e30f};
    float *x = test_guarded_alloc(n * 4);
    uint32_t *bits = test_guarded_alloc(n * 4), *expected = malloc(n * 4);
    for (size_t i = 0; i < n; ++i) x[i] = awkward_value(state, finite);
    for (size_t s = 0; s < 4; ++s) {
        for (size_t i = 0; i < n; ++i) bits[i] = expected[i] = hyb_bits_of(fabsf(awkward_value(state, 1)));
        uint32_t largest = hyb_column_max_bits_ref(x, n, scales[s], expected);
        uint32_t found = k->column_max_bits(x, n, scales[s], bits);
        CHECK(found == largest);
        for (size_t i = 0; i < n; ++i)
            CHECK(bits[i] == expected[i] || (bits[i] > 0x7f800000u && expected[i] > 0x7f800000u));
    }
    free(expected);
    test_guarded_free(bits, n * 4);
    test_guarded_free(x, n * 4);
}

/* The same codes and sums, nothing written between the columns' codes. */
static void check_quantize(const hyb_kernels *k, size_t n_tokens, size_t n_cols, int finite, uint64_t *state) {
    size_t ld_x = n_cols + test_random_below(state, 3), padded = hyb_round_up(n_tokens, 16);
    size_t ld_codes = padded + test_random_below(state, 20), n_x = (n_tokens - 1) * ld_x + n_cols;
    size_t n_codes = (n_cols - 1) * ld_codes + padded;
    float *x = test_guarded_alloc(n_x * 4), *scales = test_guarded_alloc(n_tokens * 4);
    float *inverses = test_guarded_alloc(n_cols * 4);
    int8_t *codes = test_guarded_alloc(n_codes), *expected = malloc(n_codes);
    int32_t *sums = test_guarded_alloc(n_cols * 4), *expected_sums = malloc(n_cols * 4);
    for (size_t i = 0; i < n_x; ++i) x[i] = awkward_value(state, finite);
    for (size_t i = 0; i < n_tokens; ++i) scales[i] = test_random_below(state, 4) ? 1.0f : test_random_float(state);
    for (size_t i = 0; i < n_cols; ++i) inverses[i] = test_random_below(state, 4) ? 1.0f : 0.3f;
    for (size_t i = 0; i < n_cols; ++i) sums[i] = expected_sums[i] = (int32_t)i - 5;
    memset(codes, 0xa5, n_codes);
    memset(expected, 0xa5, n_codes);
    hyb_quantize_transposed_job job = {x, ld_x, n_tokens, n_cols, scales, inverses, expected, ld_codes, expected_sums};
    hyb_quantize_transposed_ref(&job);
    job.codes = codes;
    job.sums = sums;
    k->quantize_transposed(&job);
    CHECK(memcmp(codes, expected, n_codes) == 0);
    CHECK(memcmp(sums, expected_sums, n_cols * 4) == 0);
    free(expected_sums);
    test_guarded_free(sums, n_cols * 4);
    free(expected);
    test_guarded_free(codes, n_codes);
    test_guarded_free(inverses, n_cols * 4);
    test_guarded_free(scales, n_tokens * 4);
    test_guarded_free(x, n_x * 4);
}

/* The same bytes in both layouts, nothing written before or behind the job's column groups. */
static void check_pack(const hyb_kernels *k, size_t n_inner, size_t n_rows, int ternary, uint64_t *state) {
    size_t ld = n_rows + test_random_below(state, 20), n_codes = (n_inner - 1) * ld + n_rows;
    size_t group = ternary ? 64 : 256, n_k16 = hyb_ceil_div(n_inner, 16) + test_random_below(state, 3);
    size_t block_bytes = n_k16 * group, n_bytes = hyb_ceil_div(n_rows, 16) * block_bytes;
    int8_t *codes = test_guarded_alloc(n_codes);
    uint8_t *blocks = test_guarded_alloc(n_bytes), *expected = malloc(n_bytes);
    for (size_t i = 0; i < n_codes; ++i)
        codes[i] = (int8_t)(ternary ? (int)test_random_below(state, 3) - 1 : (int)test_random_below(state, 255) - 127);
    memset(blocks, 0xa5, n_bytes);
    memset(expected, 0xa5, n_bytes);
    hyb_pack_transposed_job job = {codes, ld, n_inner, n_rows, expected, block_bytes};
    (ternary ? hyb_pack_transposed_ternary_ref : hyb_pack_transposed_i8_ref)(&job);
    job.blocks = blocks;
    (ternary ? k->pack_transposed_ternary : k->pack_transposed_i8)(&job);
    CHECK(memcmp(blocks, expected, n_bytes) == 0);
    free(expected);
    test_guarded_free(blocks, n_bytes);
    test_guarded_free(codes, n_codes);
}

/* The transposed layouts are those of hyb_weights: code (r, k) is found where kernels.h says. */
static void check_layout(uint64_t *state) {
    enum { INNER = 37, ROWS = 21 };
    static int8_t codes[INNER * ROWS];
    static uint8_t blocks[2 * 3 * 256];
    for (size_t i = 0; i < sizeof codes; ++i) codes[i] = (int8_t)((int)test_random_below(state, 3) - 1);
    hyb_pack_transposed_job job = {codes, ROWS, INNER, ROWS, blocks, 3 * 256};
    hyb_pack_transposed_i8_ref(&job);
    for (size_t r = 0; r < ROWS; ++r)
        for (size_t k = 0; k < INNER; ++k)
            CHECK((int8_t)blocks[r / 16 * 768 + k / 4 * 64 + r % 16 * 4 + k % 4] == codes[k * ROWS + r]);
    job.block_bytes = 3 * 64;
    hyb_pack_transposed_ternary_ref(&job);
    for (size_t r = 0; r < ROWS; ++r)
        for (size_t k = 0; k < INNER; ++k) {
            uint8_t byte = blocks[r / 16 * 192 + k / 16 * 64 + r % 16 * 4 + k % 4];
            CHECK((byte >> (k % 16 / 4 * 2) & 3) - 1 == codes[k * ROWS + r]);
        }
}

/* ---- benchmark ---- */

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

enum { BENCH_TOKENS = 2048, BENCH_COLS = 1280, BENCH_ROUNDS = 7, BENCH_KERNELS = 4 };

typedef struct bench_operands {
    float *x, *scales, *inverses;
    int8_t *codes;
    uint8_t *blocks;
    uint32_t *bits;
    int32_t *sums;
} bench_operands;

static void bench_once(const hyb_kernels *k, const bench_operands *o, int which) {
    hyb_quantize_transposed_job q = {.x = o->x, .ld_x = BENCH_COLS, .n_tokens = 64, .n_cols = BENCH_COLS};
    hyb_pack_transposed_job p = {o->codes, BENCH_COLS, BENCH_TOKENS, BENCH_COLS, o->blocks, 16 * BENCH_TOKENS};
    q.inverses = o->inverses;
    q.ld_codes = BENCH_TOKENS + 64;
    q.sums = o->sums;
    for (size_t t = 0; t < BENCH_TOKENS && which < 2; t += which == 0 ? 1 : 64) {
        if (which == 0) {
            (void)k->column_max_bits(o->x + t * BENCH_COLS, BENCH_COLS, 0.5f, o->bits);
            continue;
        }
        q.x = o->x + t * BENCH_COLS;
        q.token_scales = o->scales + t;
        q.codes = o->codes + t;
        k->quantize_transposed(&q);
    }
    if (which == 2) k->pack_transposed_i8(&p);
    p.block_bytes = 4 * BENCH_TOKENS;
    if (which == 3) k->pack_transposed_ternary(&p);
}

static void bench(const hyb_kernels *tables, const char *const *names, size_t n_tiers) {
    static const char *const kernels[BENCH_KERNELS] = {"column_max_bits", "quantize_transposed", "pack_transposed_i8",
                                                       "pack_transposed_ternary"};
    size_t n = (size_t)BENCH_TOKENS * BENCH_COLS;
    uint64_t state = 1;
    bench_operands o = {malloc(n * 4), malloc(BENCH_TOKENS * 4), malloc(BENCH_COLS * 4), calloc(n + BENCH_COLS * 64, 1),
                        NULL,          calloc(BENCH_COLS, 4),    calloc(BENCH_COLS, 4)};
    uint8_t *memory = malloc(n + 64);
    o.blocks = memory + (64 - (uintptr_t)memory % 64) % 64;
    for (size_t i = 0; i < n; ++i) o.x[i] = test_random_float(&state);
    for (size_t i = 0; i < BENCH_TOKENS; ++i) o.scales[i] = 1.0f;
    for (size_t i = 0; i < BENCH_COLS; ++i) o.inverses[i] = 127.0f;
    for (int which = 0; which < BENCH_KERNELS; ++which)
        for (size_t i = 0; i < n_tiers; ++i) {
            double best = 1e30;
            for (int round = 0; round < BENCH_ROUNDS; ++round) {
                double start = now_us();
                bench_once(&tables[i], &o, which);
                if (now_us() - start < best) best = now_us() - start;
            }
            printf("%-24s %-8s %8.0f us for %d x %d\n", kernels[which], names[i], best, BENCH_TOKENS, BENCH_COLS);
        }
    free(memory);
    free(o.x), free(o.scales), free(o.inverses), free(o.codes), free(o.bits), free(o.sums);
}

int main(int argc, char **argv) {
    static hyb_kernels tables[3];
    const char *names[3];
    size_t n_tiers = find_tiers(tables, names);
    uint64_t state = 11;
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        hyb_kernels_select(&tables[n_tiers], 0);
        names[n_tiers] = "scalar";
        bench(tables, names, n_tiers + 1);
        return 0;
    }
    check_layout(&state);
    for (size_t i = 0; i < n_tiers; ++i) {
        for (size_t n = 1; n <= 100; ++n) check_column_max(&tables[i], n, n % 2 == 0, &state);
        for (size_t round = 0; round < 300; ++round) {
            size_t a = 1 + test_random_below(&state, 150), b = 1 + test_random_below(&state, 150);
            check_quantize(&tables[i], a, b, round % 2 == 0, &state);
            check_pack(&tables[i], a, b, 0, &state);
            check_pack(&tables[i], a, b, 1, &state);
        }
        printf("%s: equal to the reference\n", names[i]);
    }
    if (n_tiers == 0) printf("this processor has no variant beyond the reference\n");
    return TEST_RESULT();
}
