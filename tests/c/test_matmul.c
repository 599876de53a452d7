/* test_matmul.c - packed weights and their public product: every format and size against sums written out, the same
 * bits for every tier and number of threads, the inside interface of the networks, and bad input.
 */
#include "testing.h"

#include <math.h>

#include "matmul.h"
#include "tier_context.h"

static const uint32_t isa_masks[] = {HYB_ISA_MASK_SCALAR, HYB_ISA_AVX2, HYB_ISA_AVX512_VNNI, HYB_ISA_AVX512_LOOKUP, 0};

static int8_t random_code(hyb_format format, uint64_t *state) {
    static const int limits[] = {0, 1, 1, 3, 15, 127};
    int limit = limits[format], odd = format != HYB_FORMAT_TERNARY && format != HYB_FORMAT_INT8;
    if (odd) return (int8_t)(2 * (int)test_random_below(state, (size_t)limit + 1) - limit);
    return (int8_t)((int)test_random_below(state, (size_t)limit * 2 + 1) - limit);
}

typedef struct matrices {
    size_t n_rows, n_cols, n_tokens, n_scales;
    int8_t *codes, *x;
    float *scales, *x_scales, *y;
    int32_t *sums;
} matrices;

static matrices make_matrices(hyb_format format, size_t n_rows, size_t n_cols, size_t n_tokens, uint64_t *state) {
    matrices m = {.n_rows = n_rows, .n_cols = n_cols, .n_tokens = n_tokens};
    m.n_scales = test_random_below(state, 2) ? n_rows : 1;
    m.codes = test_guarded_alloc(n_rows * n_cols);
    m.x = test_guarded_alloc(n_tokens * n_cols);
    m.scales = test_guarded_alloc(m.n_scales * 4);
    m.x_scales = test_guarded_alloc(n_tokens * 4);
    m.y = test_guarded_alloc(n_tokens * n_rows * 4);
    m.sums = test_guarded_alloc(n_tokens * n_rows * 4);
    for (size_t i = 0; i < n_rows * n_cols; ++i) m.codes[i] = random_code(format, state);
    for (size_t i = 0; i < n_tokens * n_cols; ++i) m.x[i] = random_code(HYB_FORMAT_INT8, state);
    for (size_t i = 0; i < m.n_scales; ++i) m.scales[i] = test_random_float(state);
    for (size_t i = 0; i < n_tokens; ++i) m.x_scales[i] = test_random_float(state);
    return m;
}

static void free_matrices(matrices *m) {
    test_guarded_free(m->codes, m->n_rows * m->n_cols);
    test_guarded_free(m->x, m->n_tokens * m->n_cols);
    test_guarded_free(m->scales, m->n_scales * 4);
    test_guarded_free(m->x_scales, m->n_tokens * 4);
    test_guarded_free(m->y, m->n_tokens * m->n_rows * 4);
    test_guarded_free(m->sums, m->n_tokens * m->n_rows * 4);
}

/* Number of results that differ from sums and roundings written out here. */
static size_t count_wrong(const matrices *m) {
    size_t n_wrong = 0;
    for (size_t t = 0; t < m->n_tokens; ++t)
        for (size_t r = 0; r < m->n_rows; ++r) {
            int64_t sum = 0;
            for (size_t c = 0; c < m->n_cols; ++c) sum += m->codes[r * m->n_cols + c] * m->x[t * m->n_cols + c];
            volatile float scale = m->x_scales[t] * m->scales[m->n_scales == 1 ? 0 : r];
            volatile float y = (float)sum * scale;
            n_wrong += m->sums[t * m->n_rows + r] != sum;
            n_wrong += hyb_bits_of(m->y[t * m->n_rows + r]) != hyb_bits_of(y);
        }
    return n_wrong;
}

/* Every format, odd sizes, every tier, one and several threads: exactly the sums and their two roundings. */
static void test_products(void) {
    static const size_t sizes[][3] = {{1, 1, 1},     {1, 17, 2},     {16, 16, 1},   {17, 15, 3},
                                      {63, 33, 1},   {65, 100, 7},   {200, 64, 1},  {130, 257, 9},
                                      {96, 48, 130}, {300, 1024, 1}, {2100, 40, 3}, {520, 520, 1}};
    for (size_t i = 0; i < sizeof isa_masks / sizeof isa_masks[0]; ++i)
        for (uint32_t n_threads = 1; n_threads <= 5; n_threads += 2) {
            hyb_ctx *ctx = make_ctx(isa_masks[i], n_threads);
            uint64_t state = 11;
            for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format)
                for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; ++s) {
                    matrices m = make_matrices((hyb_format)format, sizes[s][0], sizes[s][1], sizes[s][2], &state);
                    hyb_weights *w = NULL;
                    CHECK_OK(hyb_weights_create(ctx, (hyb_format)format, m.n_rows, m.n_cols, m.codes, m.scales,
                                                m.n_scales, &w));
                    CHECK_OK(hyb_matmul(ctx, w, m.x, m.x_scales, m.n_tokens, m.y));
                    CHECK_OK(hyb_matmul_i32(ctx, w, m.x, m.n_tokens, m.sums));
                    CHECK(count_wrong(&m) == 0);
                    hyb_weights_destroy(w);
                    free_matrices(&m);
                }
            hyb_ctx_destroy(ctx);
        }
}

/* The cases where 16-bit sums overflow: all weights +1, activations 64 at 4096 columns (a sum of 262144), and extremes
 * of both signs at the largest number of columns. */
static void test_long_sums(void) {
    enum { N_ROWS = 3 };
    static int8_t codes[N_ROWS * HYB_MATMUL_MAX_COLS], x[2 * HYB_MATMUL_MAX_COLS];
    float scale = 1.0f;
    for (size_t i = 0; i < sizeof isa_masks / sizeof isa_masks[0]; ++i) {
        hyb_ctx *ctx = make_ctx(isa_masks[i], 1);
        hyb_weights *w = NULL;
        int32_t y[2 * N_ROWS];
        memset(codes, 1, sizeof codes);
        memset(x, 64, sizeof x);
        CHECK_OK(hyb_weights_create(ctx, HYB_FORMAT_TERNARY, N_ROWS, 4096, codes, &scale, 1, &w));
        for (size_t n_tokens = 1; n_tokens <= 2; ++n_tokens) {
            CHECK_OK(hyb_matmul_i32(ctx, w, x, n_tokens, y));
            for (size_t j = 0; j < n_tokens * N_ROWS; ++j) CHECK(y[j] == 262144);
        }
        hyb_weights_destroy(w);
        for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; format += HYB_FORMAT_INT8 - HYB_FORMAT_TERNARY)
            for (int sign = -1; sign <= 1; sign += 2) {
                int largest = format == HYB_FORMAT_TERNARY ? 1 : 127;
                memset(codes, largest, sizeof codes);
                memset(x, 127 * sign, sizeof x);
                CHECK_OK(
                    hyb_weights_create(ctx, (hyb_format)format, N_ROWS, HYB_MATMUL_MAX_COLS, codes, &scale, 1, &w));
                for (size_t n_tokens = 1; n_tokens <= 2; ++n_tokens) {
                    CHECK_OK(hyb_matmul_i32(ctx, w, x, n_tokens, y));
                    for (size_t j = 0; j < n_tokens * N_ROWS; ++j)
                        CHECK(y[j] == sign * largest * 127 * HYB_MATMUL_MAX_COLS);
                }
                hyb_weights_destroy(w);
            }
        hyb_ctx_destroy(ctx);
    }
}

/* Rows come back as they went in, and refilling a range of row blocks changes exactly those rows. */
static void test_rows(uint32_t isa_mask) {
    hyb_ctx *ctx = make_ctx(isa_mask, 1);
    uint64_t state = 13;
    for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format) {
        size_t n_rows = 70, n_cols = 45;
        matrices m = make_matrices((hyb_format)format, n_rows, n_cols, 1, &state);
        matrices other = make_matrices((hyb_format)format, n_rows, n_cols, 1, &state);
        hyb_weights *w = NULL;
        CHECK_OK(hyb_weights_create(ctx, (hyb_format)format, n_rows, n_cols, m.codes, m.scales, m.n_scales, &w));
        CHECK(hyb_weights_n_rows(w) == n_rows && hyb_weights_n_cols(w) == n_cols);
        size_t bits = format == HYB_FORMAT_TERNARY ? 2 : 8, least = 80 * 48 * bits / 8, most = least + 80 * 4 + 256;
        if (w->layout == HYB_LAYOUT_LOOKUP) least = 96 * 6 * 2, most = least + 96 * 4 + 256;
        CHECK(hyb_weights_bytes(w) >= least && hyb_weights_bytes(w) < most);
        hyb_weights_fill_rows(ctx, w, other.codes, other.scales, other.n_scales, 2, 1);
        hyb_weights_fill_rows(ctx, w, other.codes, other.scales, other.n_scales, 4, 1);
        for (size_t r = 0; r < n_rows; ++r) {
            const matrices *from = r / 16 == 2 || r / 16 == 4 ? &other : &m;
            int8_t codes[45 + 1];
            float values[45 + 1], scale = from->scales[from->n_scales == 1 ? 0 : r];
            codes[45] = 99;
            values[45] = 99.0f;
            hyb_weights_unpack_codes(w, r, codes);
            hyb_weights_gather_row(w, r, values);
            CHECK(memcmp(codes, from->codes + r * n_cols, n_cols) == 0 && codes[45] == 99 && values[45] == 99.0f);
            for (size_t c = 0; c < n_cols; ++c) CHECK(values[c] == (float)from->codes[r * n_cols + c] * scale);
        }
        hyb_weights_destroy(w);
        free_matrices(&m);
        free_matrices(&other);
    }
    hyb_ctx_destroy(ctx);
}

/* Which layout a context packs in: as the mask says; a model's weights that will be trained, always in planes. With an
 * open choice either may be, but nothing without VNNI. */
static void test_layouts(void) {
    const char *environment = getenv("HYB_ISA");
    int lowered = environment != NULL && *environment != '\0' && strcmp(environment, "lookup") != 0;
    int can = (hyb_isa_detect() & HYB_ISA_AVX512_VNNI) != 0 && !lowered;
    for (size_t i = 0; i < sizeof isa_masks / sizeof isa_masks[0]; ++i) {
        hyb_ctx *ctx = make_ctx(isa_masks[i], 1);
        int looks_up = (hyb_ctx_isa(ctx) & HYB_ISA_AVX512_LOOKUP) != 0;
        if (isa_masks[i] != 0) CHECK(looks_up == (can && isa_masks[i] == HYB_ISA_AVX512_LOOKUP));
        if (!can) CHECK(!looks_up);
        for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format) {
            hyb_weights *fixed = NULL, *trained = NULL;
            CHECK_OK(hyb_weights_alloc_fixed(ctx, (hyb_format)format, 40, 40, &fixed));
            CHECK_OK(hyb_weights_alloc(ctx, (hyb_format)format, 40, 40, &trained));
            CHECK(fixed->layout == (looks_up && format == HYB_FORMAT_TERNARY ? HYB_LAYOUT_LOOKUP : HYB_LAYOUT_PLANES));
            CHECK(trained->layout == HYB_LAYOUT_PLANES);
            hyb_weights_destroy(fixed);
            hyb_weights_destroy(trained);
        }
        hyb_ctx_destroy(ctx);
    }
}

/* Weights are shared between contexts: each multiplies what any other packed. */
static void test_shared_weights(void) {
    enum { N_MASKS = sizeof isa_masks / sizeof isa_masks[0] };
    uint64_t state = 19;
    for (size_t n_tokens = 1; n_tokens <= 6; n_tokens += 5) {
        matrices m = make_matrices(HYB_FORMAT_TERNARY, 300, 211, n_tokens, &state);
        for (size_t i = 0; i < N_MASKS * N_MASKS; ++i) {
            hyb_ctx *packs = make_ctx(isa_masks[i / N_MASKS], 1), *multiplies = make_ctx(isa_masks[i % N_MASKS], 2);
            hyb_weights *w = NULL;
            CHECK_OK(hyb_weights_create(packs, HYB_FORMAT_TERNARY, 300, 211, m.codes, m.scales, m.n_scales, &w));
            CHECK_OK(hyb_matmul(multiplies, w, m.x, m.x_scales, n_tokens, m.y));
            CHECK_OK(hyb_matmul_i32(multiplies, w, m.x, n_tokens, m.sums));
            CHECK(count_wrong(&m) == 0);
            hyb_weights_destroy(w);
            hyb_ctx_destroy(packs);
            hyb_ctx_destroy(multiplies);
        }
        free_matrices(&m);
    }
}

/* A quantised token: absmax maps to 127, pads are zeroed, the sum is right; zeros, tiny values and NaN as documented.
 */
static void test_quantize_token(void) {
    for (size_t i = 0; i < sizeof isa_masks / sizeof isa_masks[0]; ++i) {
        hyb_ctx *ctx = make_ctx(isa_masks[i], 1);
        const hyb_kernels *k = &ctx->kernels;
        float x[50] = {0}, scale = -1.0f;
        int8_t codes[64], zeros[64] = {0};
        int32_t sum = -1;
        memset(codes, 0x5a, sizeof codes);
        hyb_quantize_token(k, x, 50, codes, 64, &sum, &scale);
        CHECK(sum == 0 && scale == 0.0f && memcmp(codes, zeros, 64) == 0);
        x[3] = -4.0f;
        x[49] = 1.0f;
        memset(codes, 0x5a, sizeof codes);
        hyb_quantize_token(k, x, 50, codes, 64, &sum, &scale);
        CHECK(codes[3] == -127 && codes[49] == 32 && sum == -127 + 32); /* 127 / 4 = 31.75 */
        CHECK(scale == 4.0f / 127.0f && memcmp(codes + 50, zeros, 14) == 0);
        x[3] = 1e-37f; /* 127 / 1e-37 is no float */
        x[49] = 0.0f;
        hyb_quantize_token(k, x, 50, codes, 64, &sum, &scale);
        CHECK(sum == 0 && scale == 0.0f && memcmp(codes, zeros, 64) == 0);
        x[7] = NAN;
        memset(codes, 0x5a, sizeof codes);
        hyb_quantize_token(k, x, 50, codes, 64, &sum, &scale);
        CHECK(sum == 0 && scale != scale && memcmp(codes, zeros, 64) == 0);
        hyb_ctx_destroy(ctx);
    }
    CHECK(hyb_activations_ld(1) == 16 && hyb_activations_ld(16) == 16 && hyb_activations_ld(17) == 32);
    for (size_t n = 1; n < 9000; n += 7) {
        size_t ld = hyb_activations_ld(n);
        CHECK(ld >= n && ld % 16 == 0 && ld % 1024 != 0);
    }
}

/* Bad input gives a status and a detail, never a crash, and leaves the outputs alone. */
static void test_arguments(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    int8_t codes[6] = {0, 1, -1, 0, 1, 1}, x[3] = {1, 2, 3};
    float scales[2] = {1.0f, 2.0f}, y[2] = {9, 9};
    int32_t sums[2] = {9, 9};
    hyb_weights *w = NULL;
    const hyb_status invalid = HYB_ERROR_INVALID_ARGUMENT;
    CHECK_STATUS(hyb_weights_create(NULL, HYB_FORMAT_TERNARY, 2, 3, codes, scales, 1, &w), invalid);
    CHECK_STATUS(hyb_weights_create(ctx, HYB_FORMAT_F32, 2, 3, codes, scales, 1, &w), invalid);
    CHECK_STATUS(hyb_weights_create(ctx, (hyb_format)77, 2, 3, codes, scales, 1, &w), invalid);
    CHECK_STATUS(hyb_weights_create(ctx, HYB_FORMAT_TERNARY, 0, 3, codes, scales, 1, &w), invalid);
    CHECK_STATUS(hyb_weights_create(ctx, HYB_FORMAT_TERNARY, 2, 0, codes, scales, 1, &w), invalid);
    CHECK_STATUS(hyb_weights_create(ctx, HYB_FORMAT_TERNARY, 1, HYB_MATMUL_MAX_COLS + 1, codes, scales, 1, &w),
                 invalid);
    CHECK_STATUS(hyb_weights_create(ctx, HYB_FORMAT_TERNARY, SIZE_MAX, 3, codes, scales, 1, &w), invalid);
    CHECK_STATUS(hyb_weights_create(ctx, HYB_FORMAT_TERNARY, 2, 3, codes, scales, 3, &w), invalid);
    CHECK_STATUS(hyb_weights_create(ctx, HYB_FORMAT_BINARY, 2, 3, codes, scales, 1, &w), invalid);
    CHECK(strstr(hyb_ctx_last_error(ctx), "row 0, column 0") != NULL);
    scales[1] = INFINITY;
    CHECK_STATUS(hyb_weights_create(ctx, HYB_FORMAT_TERNARY, 2, 3, codes, scales, 2, &w), HYB_ERROR_NOT_FINITE);
    CHECK(w == NULL);
    CHECK_OK(hyb_weights_create(ctx, HYB_FORMAT_TERNARY, 2, 3, codes, scales, 1, &w));
    CHECK_STATUS(hyb_matmul(ctx, w, x, scales, 0, y), invalid);
    CHECK_STATUS(hyb_matmul(ctx, w, x, scales, SIZE_MAX / 2, y), invalid);
    CHECK_STATUS(hyb_matmul(ctx, NULL, x, scales, 1, y), invalid);
    CHECK_STATUS(hyb_matmul(ctx, w, NULL, scales, 1, y), invalid);
    CHECK_STATUS(hyb_matmul(ctx, w, x, NULL, 1, y), invalid);
    CHECK_STATUS(hyb_matmul(ctx, w, x, scales, 1, NULL), invalid);
    CHECK_STATUS(hyb_matmul_i32(ctx, w, x, 1, NULL), invalid);
    x[1] = -128;
    CHECK_STATUS(hyb_matmul(ctx, w, x, scales, 1, y), invalid);
    CHECK_STATUS(hyb_matmul_i32(ctx, w, x, 1, sums), invalid);
    CHECK(y[0] == 9 && y[1] == 9 && sums[0] == 9 && sums[1] == 9);
    hyb_weights_destroy(w);
    hyb_weights_destroy(NULL);
    CHECK(hyb_weights_n_rows(NULL) == 0 && hyb_weights_n_cols(NULL) == 0 && hyb_weights_bytes(NULL) == 0);
    hyb_ctx_destroy(ctx);
}

int main(void) {
    test_products();
    test_long_sums();
    for (size_t i = 0; i < sizeof isa_masks / sizeof isa_masks[0]; ++i) test_rows(isa_masks[i]);
    test_layouts();
    test_shared_weights();
    test_quantize_token();
    test_arguments();
    return TEST_RESULT();
}
