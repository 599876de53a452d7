/* test_compress.c - gradient compression: every variant of its kernels against the reference, bit for bit; thresholds
 * against the best of all; bytes, values and residuals that agree; the same for any tier and number of threads; bytes
 * from anywhere, and bad input. With --bench: GB/s.
 */
#include "testing.h"

#include <math.h>
#include <time.h>

#include <hybrid/compress.h>
#include <hybrid/quantize.h>

#include "common.h"
#include "tier_context.h"

static const uint32_t isa_masks[] = {HYB_ISA_MASK_SCALAR, HYB_ISA_AVX2, 0};
static const hyb_compressor compressors[] = {
    {HYB_COMPRESSION_ROW, 0}, {HYB_COMPRESSION_BLOCK, 32}, {HYB_COMPRESSION_BLOCK, 64}, {HYB_COMPRESSION_FIVE, 0}};
#define N_COMPRESSORS (sizeof compressors / sizeof *compressors)
static const size_t shapes[][2] = {{1, 1},  {3, 2},  {2, 5},   {7, 24},   {5, 31},   {4, 64},
                                   {3, 65}, {9, 97}, {2, 384}, {33, 320}, {3, 1029}, {2, 8192 * 2 + 17}};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

/* Close to a Gaussian, with tails as gradients have them. */
static float gradient_value(uint64_t *state) {
    float sum = 0.0f, tail = test_random_float(state);
    for (int i = 0; i < 6; ++i) sum += test_random_float(state);
    return sum * (0.2f + tail * tail * 2.0f) * 1e-4f;
}

/* ---- kernels ---- */

static size_t find_tiers(hyb_kernels *tables) {
    size_t n = 0;
    (void)tables;
#if HYB_X86
    if (hyb_isa_detect() & HYB_ISA_AVX2) {
        hyb_kernels_select(&tables[n], 0);
        hyb_install_compress_avx2(&tables[n++]);
    }
    if (hyb_isa_detect() & HYB_ISA_AVX512) {
        hyb_kernels_select(&tables[n], 0);
        hyb_install_compress_avx512(&tables[n++]);
    }
#elif HYB_ARM64
    hyb_kernels_select(&tables[n], 0);
    hyb_install_compress_neon(&tables[n++]);
#endif
    return n;
}

static float awkward_value(uint64_t *state) {
    static const float values[] = {0.0f, -0.0f, 0.5f, -0.5f, 1.5f, -2.5f, 2.5f, 1e-45f, -1e-40f, 1e16f, -1e16f, 0.25f};
    if (test_random_below(state, 4) == 0) return values[test_random_below(state, sizeof values / sizeof *values)];
    return test_random_float(state) * 4.0f;
}

static int same_floats(const float *a, const float *b, size_t n) { return memcmp(a, b, n * sizeof(float)) == 0; }

static void check_moments(const hyb_kernels *k, size_t n, uint64_t *state) {
    float *g = test_guarded_alloc(n * 4), *e = test_guarded_alloc(n * 4), *expected = malloc(n * 4 + 1);
    for (size_t i = 0; i < n; ++i) g[i] = awkward_value(state);
    for (size_t i = 0; i < n; ++i) expected[i] = e[i] = awkward_value(state);
    hyb_gradient_moments a = k->gradient_moments(g, NULL, n), b = hyb_gradient_moments_ref(g, NULL, n);
    CHECK(memcmp(&a, &b, sizeof a) == 0);
    a = k->gradient_moments(g, e, n);
    b = hyb_gradient_moments_ref(g, expected, n);
    CHECK(memcmp(&a, &b, sizeof a) == 0);
    CHECK(same_floats(e, expected, n));
    static const float limits[] = {-1.0f, 0.0f, 0.25f, 0.5f, 1.5f, 1e30f};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; ++i) {
        size_t n_above = 99, expected_above = 98;
        float sum = k->sum_above_wide(g, n, limits[i], &n_above);
        CHECK(hyb_bits_of(sum) == hyb_bits_of(hyb_sum_above_wide_ref(g, n, limits[i], &expected_above)));
        CHECK(n_above == expected_above);
    }
    free(expected);
    test_guarded_free(e, n * 4);
    test_guarded_free(g, n * 4);
}

static void check_blocks(const hyb_kernels *k, size_t n_blocks, size_t block_size, uint64_t *state) {
    size_t n = n_blocks * block_size;
    float *x = test_guarded_alloc(n * 4), *found = test_guarded_alloc(n_blocks * 8), *expected = malloc(n_blocks * 8);
    for (size_t i = 0; i < n; ++i) x[i] = test_random_below(state, 3) ? awkward_value(state) : 0.0f;
    size_t constant = test_random_below(state, n_blocks); /* a block of zeros, tiny numbers, or one number */
    float value = test_random_below(state, 2) ? 0.0f : test_random_below(state, 2) ? 1e-45f : 0.7f;
    for (size_t i = 0; i < block_size; ++i) x[constant * block_size + i] = i % 3 == 0 ? value : 0.0f;
    k->ternary_blocks(x, n_blocks, block_size, found, found + n_blocks);
    hyb_ternary_blocks_ref(x, n_blocks, block_size, expected, expected + n_blocks);
    CHECK(same_floats(found, expected, 2 * n_blocks));
    free(expected);
    test_guarded_free(found, n_blocks * 8);
    test_guarded_free(x, n * 4);
}

/* One of the two sweeps; which outputs are wanted, by the bits of `wanted`: residual, values, codes, values in place.
 */
static void check_sweep(const hyb_kernels *k, size_t n, int is_five, unsigned wanted, uint64_t *state) {
    float *g[2], *e[2], *v[2];
    uint8_t *digits[2];
    hyb_compress_sums sums[2];
    uint64_t seed = *state;
    float threshold = test_random_float(state) + 1.0f, scale = test_random_float(state) + 1.1f;
    for (int side = 0; side < 2; ++side) {
        uint64_t same = seed;
        g[side] = test_guarded_alloc(n * 4), e[side] = test_guarded_alloc(n * 4);
        v[side] = test_guarded_alloc(n * 4), digits[side] = test_guarded_alloc(n);
        for (size_t i = 0; i < n; ++i) g[side][i] = awkward_value(&same);
        for (size_t i = 0; i < n; ++i) e[side][i] = awkward_value(&same);
        hyb_compress_job job = {.gradient = g[side], .n = n, .threshold = threshold, .scale = scale};
        job.inverse = 1.0f / scale;
        if (wanted & 1) job.residual = e[side];
        if (wanted & 2) job.values = v[side];
        if (wanted & 4) job.digits = digits[side];
        if (wanted & 8) job.values = g[side];
        sums[side] = side == 0 ? (is_five ? k->compress_five(&job) : k->compress_ternary(&job))
                               : (is_five ? hyb_compress_five_ref(&job) : hyb_compress_ternary_ref(&job));
    }
    CHECK(memcmp(&sums[0], &sums[1], sizeof sums[0]) == 0);
    CHECK(same_floats(g[0], g[1], n) && same_floats(e[0], e[1], n) && same_floats(v[0], v[1], n));
    CHECK(memcmp(digits[0], digits[1], n) == 0);
    for (int side = 0; side < 2; ++side) {
        test_guarded_free(g[side], n * 4);
        test_guarded_free(e[side], n * 4);
        test_guarded_free(v[side], n * 4);
        test_guarded_free(digits[side], n);
    }
}

static void check_kernels(const hyb_kernels *k, uint64_t *state) {
    for (size_t n = 0; n <= 150; ++n) {
        check_moments(k, n, state);
        for (unsigned wanted = 0; wanted < 16; ++wanted) check_sweep(k, n, (int)(n % 2), wanted, state);
        check_sweep(k, n, 1 - (int)(n % 2), 15, state);
    }
    for (int i = 0; i < 10; ++i) check_moments(k, 1000 + test_random_below(state, 8000), state);
    for (size_t n_blocks = 1; n_blocks <= 35; ++n_blocks) {
        check_blocks(k, n_blocks, 32, state);
        check_blocks(k, n_blocks, 64, state);
    }
}

/* ---- matrices ---- */

typedef struct matrix {
    size_t n_rows, n_cols, n, n_bytes;
    float *gradient, *residual, *values;
    uint8_t *bytes;
    hyb_compression_sums sums;
} matrix;

static matrix make_matrix(const hyb_compressor *c, size_t n_rows, size_t n_cols, uint64_t seed) {
    size_t n = n_rows * n_cols;
    matrix m = {.n_rows = n_rows, .n_cols = n_cols, .n = n, .n_bytes = hyb_compressed_bytes(c, n_rows, n_cols)};
    m.gradient = test_guarded_alloc(n * 4);
    m.residual = test_guarded_alloc(n * 4);
    m.values = test_guarded_alloc(n * 4);
    m.bytes = test_guarded_alloc(m.n_bytes);
    for (size_t i = 0; i < n; ++i) m.gradient[i] = gradient_value(&seed);
    for (size_t i = 0; i < n; ++i) m.residual[i] = 0.3f * gradient_value(&seed);
    if (n_rows > 2) /* a row of zeros */
        for (size_t i = 0; i < n_cols; ++i) m.gradient[n_cols + i] = m.residual[n_cols + i] = 0.0f;
    return m;
}
static void free_matrix(matrix *m) {
    test_guarded_free(m->gradient, m->n * 4);
    test_guarded_free(m->residual, m->n * 4);
    test_guarded_free(m->values, m->n * 4);
    test_guarded_free(m->bytes, m->n_bytes);
}
static void compress(hyb_ctx *ctx, const hyb_compressor *c, matrix *m, int feedback) {
    CHECK_OK(hyb_compress(ctx, c, m->gradient, m->n_rows, m->n_cols, feedback ? m->residual : NULL, m->bytes, m->values,
                          &m->sums));
}

/* Bytes, values, residual and sums say the same thing, with and without feedback. */
static void check_consistency(hyb_ctx *ctx, const hyb_compressor *c, size_t n_rows, size_t n_cols, int feedback) {
    matrix m = make_matrix(c, n_rows, n_cols, 11), before = make_matrix(c, n_rows, n_cols, 11);
    float *decoded = test_guarded_alloc(m.n * 4);
    compress(ctx, c, &m, feedback);
    CHECK_OK(hyb_decompress(ctx, c, m.bytes, m.n_bytes, n_rows, n_cols, decoded));
    size_t n_wrong = 0;
    double gg = 0, qq = 0, gq = 0;
    for (size_t i = 0; i < m.n; ++i) {
        float x = feedback ? before.residual[i] + m.gradient[i] : m.gradient[i];
        n_wrong += decoded[i] != m.values[i];
        n_wrong += feedback ? m.residual[i] != x - m.values[i] : m.residual[i] != before.residual[i];
        gg += (double)m.gradient[i] * (double)m.gradient[i];
        qq += (double)m.values[i] * (double)m.values[i];
        gq += (double)m.gradient[i] * (double)m.values[i];
    }
    CHECK(n_wrong == 0);
    CHECK(same_floats(m.gradient, before.gradient, m.n));
    /* 16-lane sums of 8192 fp32 terms: a few hundred roundings at most */
    CHECK(fabs(m.sums.gradient_squares - gg) <= 1e-5 * gg && fabs(m.sums.compressed_squares - qq) <= 1e-5 * qq);
    CHECK(fabs(m.sums.product - gq) <= 1e-5 * sqrt(gg * qq) + 1e-30);
    /* In place, and with nothing but the residual wanted: the same. */
    CHECK_OK(hyb_compress(ctx, c, before.gradient, n_rows, n_cols, feedback ? before.residual : NULL, NULL,
                          before.gradient, NULL));
    CHECK(same_floats(before.gradient, m.values, m.n) && same_floats(before.residual, m.residual, m.n));
    test_guarded_free(decoded, m.n * 4);
    free_matrix(&before);
    free_matrix(&m);
}

/* Every tier and number of threads gives the same bits. */
static void check_tiers(const hyb_compressor *c, size_t n_rows, size_t n_cols) {
    matrix expected = make_matrix(c, n_rows, n_cols, 12);
    hyb_ctx *scalar = make_ctx(HYB_ISA_MASK_SCALAR, 1);
    compress(scalar, c, &expected, 1);
    for (size_t i = 0; i < sizeof isa_masks / sizeof *isa_masks; ++i) {
        for (uint32_t n_threads = 1; n_threads <= 3; n_threads += 2) {
            hyb_ctx *ctx = make_ctx(isa_masks[i], n_threads);
            matrix m = make_matrix(c, n_rows, n_cols, 12);
            compress(ctx, c, &m, 1);
            CHECK(memcmp(m.bytes, expected.bytes, m.n_bytes) == 0);
            CHECK(same_floats(m.values, expected.values, m.n) && same_floats(m.residual, expected.residual, m.n));
            CHECK(memcmp(&m.sums, &expected.sums, sizeof m.sums) == 0);
            free_matrix(&m);
            hyb_ctx_destroy(ctx);
        }
    }
    free_matrix(&expected);
    hyb_ctx_destroy(scalar);
}

/* Ternary rows are stored as hyb_pack does it. */
static void test_ternary_bytes_are_base3(hyb_ctx *ctx) {
    const hyb_compressor c = compressors[0];
    matrix m = make_matrix(&c, 3, 83, 5);
    int8_t codes[83];
    uint8_t packed[17];
    compress(ctx, &c, &m, 0);
    for (size_t r = 0; r < 3; ++r) {
        for (size_t i = 0; i < 83; ++i) codes[i] = (int8_t)((m.values[r * 83 + i] > 0) - (m.values[r * 83 + i] < 0));
        CHECK_OK(hyb_pack(ctx, HYB_PACKING_TERNARY_BASE3, codes, 83, packed));
        CHECK(memcmp(packed, m.bytes + r * 17, 17) == 0);
    }
    CHECK(m.n_bytes == 3 * (17 + 2));
    free_matrix(&m);
}

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Part of the energy that a row's ternary code cannot keep, at the best of all thresholds: with the m largest
 * magnitudes above it the code keeps (their sum)^2 / m. */
static double best_ternary_error(const float *x, size_t n) {
    float *sorted = malloc(n * sizeof(float));
    double energy = 0, sum = 0, best = 0;
    for (size_t i = 0; i < n; ++i) {
        sorted[i] = fabsf(x[i]);
        energy += (double)x[i] * (double)x[i];
    }
    qsort(sorted, n, sizeof *sorted, descending);
    for (size_t m = 1; m <= n; ++m) {
        sum += (double)sorted[m - 1];
        best = fmax(best, sum * sum / (double)m);
    }
    free(sorted);
    return 1.0 - best / energy;
}

/* Four evaluations of the scale come within 1 % of the least error of any threshold, for Gaussian, Laplace and
 * heavier-tailed values. */
static void test_threshold_is_nearly_optimal(hyb_ctx *ctx) {
    enum { N = 4096 };
    static const char *const names[] = {"uniform", "Gaussian", "Laplace", "Laplace cubed by half"};
    const hyb_compressor c = compressors[0];
    for (int kind = 0; kind < 4; ++kind) {
        matrix m = make_matrix(&c, 1, N, 7);
        uint64_t state = 77;
        for (size_t i = 0; i < N; ++i) {
            double u = fabs((double)test_random_float(&state)) + 1e-9, sign = test_random_below(&state, 2) ? 1 : -1;
            double gauss = sqrt(-2 * log(u)) * cos(6.283185307 * (double)test_random_float(&state));
            double laplace = -log(u);
            double value = kind == 0 ? u : kind == 1 ? gauss : kind == 2 ? laplace : pow(laplace, 1.5);
            m.gradient[i] = (float)(1e-3 * sign * value);
        }
        compress(ctx, &c, &m, 0);
        double best = best_ternary_error(m.gradient, N), error = 0, energy = 0;
        for (size_t i = 0; i < N; ++i) {
            double difference = (double)m.gradient[i] - (double)m.values[i];
            error += difference * difference;
            energy += (double)m.gradient[i] * (double)m.gradient[i];
        }
        double cosine = m.sums.product / sqrt(m.sums.gradient_squares * m.sums.compressed_squares);
        printf("ternary, %s: error %.5f of the energy, at best %.5f; cosine %.4f\n", names[kind], error / energy, best,
               cosine);
        CHECK(error / energy < 1.01 * best);
        free_matrix(&m);
    }
}

/* With feedback the sum of what was sent follows the sum of the gradients: the difference is the residual. */
static void test_feedback_loses_nothing(hyb_ctx *ctx) {
    enum { ROWS = 6, COLS = 200, STEPS = 50, N = ROWS * COLS };
    for (size_t i = 0; i < N_COMPRESSORS; ++i) {
        matrix m = make_matrix(&compressors[i], ROWS, COLS, 3);
        static double sent[N], given[N];
        uint64_t state = 31;
        memset(sent, 0, sizeof sent);
        memset(given, 0, sizeof given);
        memset(m.residual, 0, N * sizeof(float));
        for (int step = 0; step < STEPS; ++step) {
            for (size_t j = 0; j < N; ++j) m.gradient[j] = gradient_value(&state) + (j % 7 == 0 ? 2e-5f : 0.0f);
            compress(ctx, &compressors[i], &m, 1);
            for (size_t j = 0; j < N; ++j) {
                sent[j] += (double)m.values[j];
                given[j] += (double)m.gradient[j];
            }
        }
        double worst = 0;
        for (size_t j = 0; j < N; ++j) worst = fmax(worst, fabs(given[j] - sent[j] - (double)m.residual[j]));
        CHECK(worst < STEPS * 1e-3 * 1.2e-7); /* a rounding of a residual below 1e-3 a step */
        free_matrix(&m);
    }
}

/* ---- bad input ---- */

/* Rows with what is not finite are named and left alone, the others are done. */
static void test_not_finite(void) {
    static const float bad[] = {NAN, INFINITY, -INFINITY, 2e16f};
    hyb_ctx *ctx = make_ctx(0, 2);
    for (size_t i = 0; i < N_COMPRESSORS * 4; ++i) {
        const hyb_compressor *c = &compressors[i / 4];
        matrix m = make_matrix(c, 40, 1100, 9), before = make_matrix(c, 40, 1100, 9);
        int in_residual = i % 4 == 1;
        (in_residual ? m.residual : m.gradient)[20 * 1100 + 7] = bad[i % 4];
        (in_residual ? m.residual : m.gradient)[31 * 1100] = bad[i % 4];
        memset(m.values, 0xa5, m.n * 4);
        CHECK_STATUS(hyb_compress(ctx, c, m.gradient, 40, 1100, m.residual, m.bytes, m.values, &m.sums),
                     HYB_ERROR_NOT_FINITE);
        CHECK(strstr(hyb_ctx_last_error(ctx), "row 20, column 7 is ") != NULL);
        CHECK(strstr(hyb_ctx_last_error(ctx), in_residual ? "residual" : "gradient") != NULL);
        CHECK(hyb_bits_of(m.values[20 * 1100]) == 0xa5a5a5a5u);
        CHECK(same_floats(m.residual + 20 * 1100, before.residual + 20 * 1100, 7));
        CHECK(!same_floats(m.residual + 21 * 1100, before.residual + 21 * 1100, 1100));
        free_matrix(&m);
        free_matrix(&before);
    }
    hyb_ctx_destroy(ctx);
}

static void test_bad_arguments(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    const hyb_compressor good = {HYB_COMPRESSION_BLOCK, 64};
    static const hyb_compressor bad[] = {
        {0, 0}, {4, 0}, {-1, 0}, {HYB_COMPRESSION_BLOCK, 0}, {HYB_COMPRESSION_BLOCK, 48}, {HYB_COMPRESSION_ROW, 64}};
    float x[64] = {0}, y[64] = {0};
    uint8_t bytes[64] = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        CHECK(hyb_compressed_bytes(&bad[i], 1, 64) == 0);
        CHECK_STATUS(hyb_compress(ctx, &bad[i], x, 1, 64, NULL, bytes, y, NULL), HYB_ERROR_INVALID_ARGUMENT);
        CHECK_STATUS(hyb_decompress(ctx, &bad[i], bytes, 15, 1, 64, y), HYB_ERROR_INVALID_ARGUMENT);
    }
    CHECK(hyb_compressed_bytes(NULL, 1, 1) == 0 && hyb_compressed_bytes(&good, SIZE_MAX / 2, 3) == 0);
    CHECK(hyb_compressed_bytes(&good, 0, 1) == 0 && hyb_compressed_bytes(&good, 1, 64) == 13 + 2);
    CHECK_STATUS(hyb_compress(NULL, &good, x, 1, 64, NULL, bytes, y, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_compress(ctx, NULL, x, 1, 64, NULL, bytes, y, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_compress(ctx, &good, NULL, 1, 64, NULL, bytes, y, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_compress(ctx, &good, x, 0, 64, NULL, bytes, y, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_compress(ctx, &good, x, SIZE_MAX, 64, NULL, bytes, y, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_decompress(ctx, &good, bytes, 14, 1, 64, y), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_decompress(ctx, &good, NULL, 15, 1, 64, y), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_compress(ctx, &good, x, 1, 64, NULL, NULL, NULL, NULL));
    hyb_ctx_destroy(ctx);
}

/* Any change of a byte is refused, leaving the values alone, or gives values that compress to these bytes' codes. */
static void test_hostile_bytes(hyb_ctx *ctx) {
    uint64_t state = 19;
    for (size_t i = 0; i < N_COMPRESSORS; ++i) {
        const hyb_compressor *c = &compressors[i];
        matrix m = make_matrix(c, 3, 85, 21);
        size_t n_refused = 0;
        compress(ctx, c, &m, 0);
        for (size_t at = 0; at < m.n_bytes; ++at) {
            for (int round = 0; round < 16; ++round) {
                uint8_t old = m.bytes[at];
                m.bytes[at] = (uint8_t)test_random(&state);
                memset(m.values, 0xa5, m.n * 4);
                hyb_status status = hyb_decompress(ctx, c, m.bytes, m.n_bytes, 3, 85, m.values);
                CHECK(status == HYB_OK || status == HYB_ERROR_FORMAT);
                size_t n_bad = 0;
                for (size_t j = 0; j < m.n; ++j)
                    n_bad +=
                        (size_t)(status == HYB_OK ? !isfinite(m.values[j]) : hyb_bits_of(m.values[j]) != 0xa5a5a5a5u);
                CHECK(n_bad == 0);
                n_refused += status != HYB_OK;
                m.bytes[at] = old;
            }
        }
        CHECK(n_refused > 0);
        memset(m.bytes, 0xff, m.n_bytes);
        CHECK_STATUS(hyb_decompress(ctx, c, m.bytes, m.n_bytes, 3, 85, m.values), HYB_ERROR_FORMAT);
        free_matrix(&m);
    }
}

static void *no_memory(void *user, size_t n_bytes, size_t alignment) {
    size_t *n_left = user;
    void *memory = NULL;
    if (*n_left == 0 || posix_memalign(&memory, alignment, n_bytes) != 0) return NULL;
    --*n_left;
    return memory;
}
static void give_back(void *user, void *memory) {
    (void)user;
    free(memory);
}

/* Without memory for the work the status says so, and nothing was changed; later calls need none. */
static void test_out_of_memory(void) {
    size_t n_left = 1;
    hyb_ctx_options options = {.struct_size = sizeof options, .allocate = no_memory, .release = give_back};
    hyb_ctx *ctx = NULL;
    const hyb_compressor *c = &compressors[0];
    options.n_threads = 1;
    options.allocator_user = &n_left;
    CHECK_OK(hyb_ctx_create(&options, &ctx));
    matrix m = make_matrix(c, 4, 100, 1);
    n_left = 0;
    CHECK_STATUS(hyb_compress(ctx, c, m.gradient, 4, 100, m.residual, m.bytes, m.values, NULL),
                 HYB_ERROR_OUT_OF_MEMORY);
    CHECK_STATUS(hyb_decompress(ctx, c, m.bytes, m.n_bytes, 4, 100, m.values), HYB_ERROR_OUT_OF_MEMORY);
    n_left = 1;
    for (int i = 0; i < 3; ++i) compress(ctx, c, &m, 1);
    CHECK_OK(hyb_decompress(ctx, c, m.bytes, m.n_bytes, 4, 100, m.values));
    CHECK(n_left == 0);
    free_matrix(&m);
    hyb_ctx_destroy(ctx);
}

/* ---- speed ---- */

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* GB/s of gradient, at the fastest of some repetitions. */
static void bench(size_t n_rows, size_t n_cols) {
    static const char *const names[] = {"row", "block 32", "block 64", "five"};
    static const char *const tiers[] = {"scalar", "avx2", "best"};
    for (size_t i = 0; i < N_COMPRESSORS; ++i) {
        matrix m = make_matrix(&compressors[i], n_rows, n_cols, 2);
        for (size_t t = n_rows > 2000 ? 2 : 0; t < 3; ++t) {
            hyb_ctx *ctx = make_ctx(isa_masks[t], 1);
            double best[4] = {1e9, 1e9, 1e9, 1e9};
            for (int round = 0; round < 5; ++round) {
                double start = seconds_now();
                CHECK_OK(hyb_compress(ctx, &compressors[i], m.gradient, n_rows, n_cols, NULL, m.bytes, NULL, NULL));
                best[0] = fmin(best[0], seconds_now() - start);
                start = seconds_now();
                CHECK_OK(
                    hyb_compress(ctx, &compressors[i], m.gradient, n_rows, n_cols, m.residual, m.bytes, NULL, NULL));
                best[1] = fmin(best[1], seconds_now() - start);
                start = seconds_now();
                CHECK_OK(hyb_decompress(ctx, &compressors[i], m.bytes, m.n_bytes, n_rows, n_cols, m.values));
                best[2] = fmin(best[2], seconds_now() - start);
                start = seconds_now();
                CHECK_OK(
                    hyb_compress(ctx, &compressors[i], m.values, n_rows, n_cols, m.residual, NULL, m.values, NULL));
                best[3] = fmin(best[3], seconds_now() - start);
            }
            double gigabytes = 4e-9 * (double)m.n;
            printf("%zu x %zu, %-8s %-6s GB/s: to bytes %.2f, with feedback %.2f, to values %.2f, in place %.2f\n",
                   n_rows, n_cols, names[i], tiers[t], gigabytes / best[0], gigabytes / best[1], gigabytes / best[2],
                   gigabytes / best[3]);
            hyb_ctx_destroy(ctx);
        }
        free_matrix(&m);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench(256, 1024);
        bench(4096, 4096);
        return 0;
    }
    static hyb_kernels tables[2];
    uint64_t state = 4;
    size_t n_tiers = find_tiers(tables);
    for (size_t t = 0; t < n_tiers; ++t) check_kernels(&tables[t], &state);
    if (n_tiers == 0) printf("this processor has no variant beyond the reference\n");
    hyb_ctx *ctx = make_ctx(0, 2);
    for (size_t i = 0; i < N_COMPRESSORS; ++i)
        for (size_t s = 0; s < N_SHAPES; ++s) {
            check_consistency(ctx, &compressors[i], shapes[s][0], shapes[s][1], 0);
            check_consistency(ctx, &compressors[i], shapes[s][0], shapes[s][1], 1);
            check_tiers(&compressors[i], shapes[s][0], shapes[s][1]);
        }
    test_ternary_bytes_are_base3(ctx);
    test_threshold_is_nearly_optimal(ctx);
    test_feedback_loses_nothing(ctx);
    test_not_finite();
    test_bad_arguments();
    test_hostile_bytes(ctx);
    test_out_of_memory();
    hyb_ctx_destroy(ctx);
    return TEST_RESULT();
}
