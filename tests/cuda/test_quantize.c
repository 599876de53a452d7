/* test_quantize.c - quantising on a device against hyb_quantize and its like, bit for bit. */
#include "cuda_fixture.h"

#include <math.h>

/* ---- matrices ---- */

typedef struct matrix {
    size_t n_rows, n_cols;
    float *weights;
} matrix;

/* Values of a bell's shape, with zeros of both signs and a few large ones. */
static float *random_weights(uint64_t seed, size_t n) {
    float *w = host_memory(n, sizeof *w);
    for (size_t i = 0; i < n; ++i) {
        w[i] = (test_random_float(&seed) + test_random_float(&seed) + test_random_float(&seed)) * 0.02f;
        if (i % 37 == 5) w[i] = 0.0f;
        if (i % 41 == 7) w[i] = -0.0f;
        if (i % 97 == 11) w[i] *= 20.0f;
    }
    return w;
}

static hyb_packing packing_of(const hyb_quantizer *q, int which) {
    static const hyb_packing packings[] = {HYB_PACKING_INT8, HYB_PACKING_TERNARY_2BIT, HYB_PACKING_INT1,
                                           HYB_PACKING_INT2, HYB_PACKING_INT4,         HYB_PACKING_INT8};
    if (q->format == HYB_FORMAT_TERNARY && which == 1) return HYB_PACKING_TERNARY_BASE3;
    if (q->format == HYB_FORMAT_TERNARY && which == 2) return HYB_PACKING_TERNARY_3OF4;
    return packings[q->format];
}

/* Codes, scales and packed bytes of a matrix. `shift` floats before it make the address one that is not aligned. */
static void check_matrix(fixture *f, const hyb_quantizer *q, const matrix *m, size_t shift) {
    size_t n = m->n_rows * m->n_cols, n_scales = q->granularity == HYB_SCALE_PER_ROW ? m->n_rows : 1;
    int8_t *codes = host_memory(n, 1), *found = host_memory(n + 4, 1);
    float *scales = host_memory(n_scales, sizeof *scales), *found_scales = host_memory(n_scales, sizeof *scales);
    uint8_t *bytes = host_memory(n + 8, 1), *found_bytes = host_memory(n + 8, 1);
    CHECK_OK(hyb_quantize(f->ctx, q, m->weights, m->n_rows, m->n_cols, codes, scales));
    hyb_device_address on_all = on_device(f, NULL, (n + shift) * sizeof(float)), on_w = on_all + shift * sizeof(float);
    hyb_device_address on_codes = on_device(f, NULL, n + 4), on_scales = on_device(f, NULL, n_scales * sizeof(float));
    CHECK_OK(hyb_cuda_upload(f->cuda, m->weights, n * sizeof(float), on_w, 0));
    CHECK_OK(hyb_cuda_fill(f->cuda, on_codes, 0x55, n + 4, 0));
    CHECK_OK(hyb_cuda_quantize(f->cuda, q, on_w, m->n_rows, m->n_cols, on_codes + shift, on_scales, 0));
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    from_device(f, on_codes, found, n + 4);
    from_device(f, on_scales, found_scales, n_scales * sizeof(float));
    CHECK(memcmp(scales, found_scales, n_scales * sizeof(float)) == 0);
    CHECK(memcmp(codes, found + shift, n) == 0 && found[n + shift] == 0x55);
    for (int which = 0; which < 3; ++which) {
        hyb_packing packing = packing_of(q, which);
        int is_ternary = q->format == HYB_FORMAT_TERNARY;
        if ((which > 0 && !is_ternary) || (which == 2 && q->threshold != HYB_THRESHOLD_THREE_OF_FOUR)) continue;
        size_t n_bytes = hyb_packed_bytes(packing, n);
        CHECK_OK(hyb_pack(f->ctx, packing, codes, n, bytes));
        CHECK_OK(hyb_cuda_fill(f->cuda, on_codes, 0x55, n + 4, 0));
        CHECK_OK(
            hyb_cuda_quantize_pack(f->cuda, q, on_w, m->n_rows, m->n_cols, packing, on_codes + shift, on_scales, 0));
        CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
        from_device(f, on_codes, found_bytes, n + 4);
        from_device(f, on_scales, found_scales, n_scales * sizeof(float));
        CHECK(memcmp(bytes, found_bytes + shift, n_bytes) == 0 && found_bytes[n_bytes + shift] == 0x55);
        CHECK(memcmp(scales, found_scales, n_scales * sizeof(float)) == 0);
    }
    free_device(f, on_all);
    free_device(f, on_codes);
    free_device(f, on_scales);
    free(codes);
    free(found);
    free(scales);
    free(found_scales);
    free(bytes);
    free(found_bytes);
}

static void check_all_quantizers(fixture *f, const matrix *m, size_t shift) {
    for (int granularity = 0; granularity < 2; ++granularity) {
        for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format) {
            hyb_quantizer q = {format, granularity, HYB_THRESHOLD_ABSMEAN, 0.0f};
            check_matrix(f, &q, m, shift);
        }
        hyb_quantizer zone = {HYB_FORMAT_TERNARY, granularity, HYB_THRESHOLD_ABSMEAN, 0.8f};
        check_matrix(f, &zone, m, shift);
        hyb_quantizer lloyd = {HYB_FORMAT_TERNARY, granularity, HYB_THRESHOLD_LLOYD, 0.0f};
        check_matrix(f, &lloyd, m, shift);
        hyb_quantizer fours = {HYB_FORMAT_TERNARY, granularity, HYB_THRESHOLD_THREE_OF_FOUR, 0.0f};
        if (m->n_cols % 4 == 0) check_matrix(f, &fours, m, shift);
    }
}

/* One value; short rows, of which several make a block; around 4096 columns, a block's share; whole tiles of packing.
 */
static void test_quantize_shapes(void) {
    static const size_t shapes[][2] = {{1, 1},   {3, 1},    {1, 7},    {9, 5},   {17, 16},
                                       {33, 33}, {20, 520}, {3, 2048}, {2, 4099}};
    fixture f = open_fixture();
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; ++i) {
        matrix m = {shapes[i][0], shapes[i][1], NULL};
        m.weights = random_weights(i, m.n_rows * m.n_cols);
        check_all_quantizers(&f, &m, i % 2);
        free(m.weights);
    }
    close_fixture(&f);
}

/* More columns than stay in shared memory. */
static void test_quantize_long_rows(void) {
    fixture f = open_fixture();
    matrix m = {2, 16384 + 20, NULL};
    m.weights = random_weights(5, m.n_rows * m.n_cols);
    check_all_quantizers(&f, &m, 0);
    free(m.weights);
    close_fixture(&f);
}

static void test_quantize_zeros(void) {
    fixture f = open_fixture();
    matrix m = {5, 12, host_memory(60, sizeof(float))};
    for (int granularity = 0; granularity < 2; ++granularity)
        for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format) {
            hyb_quantizer q = {format, granularity, HYB_THRESHOLD_ABSMEAN, 0.0f};
            check_matrix(&f, &q, &m, 0);
            q.threshold = HYB_THRESHOLD_LLOYD;
            check_matrix(&f, &q, &m, 0);
        }
    /* Of three of four that packing has no four zeros: the signs stand there, and the scale 0. */
    hyb_quantizer q = {HYB_FORMAT_TERNARY, HYB_SCALE_PER_ROW, HYB_THRESHOLD_THREE_OF_FOUR, 0.0f};
    float scales[5];
    int8_t codes[60], expected[60];
    uint8_t bytes[40];
    for (size_t i = 0; i < 60; ++i) expected[i] = (int8_t)(i % 4 != 0);
    m.weights[17] = -1.0f;
    expected[16] = 0;
    expected[17] = -1;
    hyb_device_address w = on_device(&f, m.weights, 240), b = on_device(&f, NULL, 60), s = on_device(&f, NULL, 20);
    CHECK_OK(hyb_cuda_quantize_pack(f.cuda, &q, w, 5, 12, HYB_PACKING_TERNARY_3OF4, b, s, 0));
    CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
    from_device(&f, b, bytes, hyb_packed_bytes(HYB_PACKING_TERNARY_3OF4, 60));
    from_device(&f, s, scales, sizeof scales);
    CHECK_OK(hyb_unpack(f.ctx, HYB_PACKING_TERNARY_3OF4, bytes, 60, codes));
    CHECK(memcmp(codes, expected, 60) == 0 && scales[0] == 0.0f && scales[1] > 0.0f);
    free_device(&f, w);
    free_device(&f, b);
    free_device(&f, s);
    free(m.weights);
    close_fixture(&f);
}

/* Sums of rows that differ by 2^60 and more, where a tree would round; and by little, where it is exact. */
static void test_quantize_order_of_rows(void) {
    fixture f = open_fixture();
    enum { ROWS = 700, COLS = 8 };
    matrix m = {ROWS, COLS, host_memory(ROWS * COLS, sizeof(float))};
    hyb_quantizer q = {HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR, HYB_THRESHOLD_ABSMEAN, 0.0f};
    uint64_t seed = 11;
    for (int spread = 0; spread < 3; ++spread) {
        for (size_t i = 0; i < ROWS * COLS; ++i)
            m.weights[i] =
                ldexpf(test_random_float(&seed), -(int)test_random_below(&seed, spread == 0 ? 4 : 60 * (size_t)spread));
        check_matrix(&f, &q, &m, 0);
        q.threshold = q.threshold == HYB_THRESHOLD_ABSMEAN ? HYB_THRESHOLD_LLOYD : HYB_THRESHOLD_ABSMEAN;
    }
    free(m.weights);
    close_fixture(&f);
}

/* A mean on the edge between two halves, where the order in which rows are added decides. a / 512 is the middle of 16
 * and the next half; b, half a unit of a's last place, leaves a float there, ties to even. Each of the others is lost
 * beside a in fp64, and all together are not: added first they lift the scale, added last they do not, and a tree that
 * has them add up among themselves always lifts it. */
static void test_quantize_order_shows(void) {
    fixture f = open_fixture();
    enum { ROWS = 512 };
    const float a = 8192.0f * (1.0f + 0x1p-11f), b = 0x1p-11f, tiny = 0x1p-41f;
    const hyb_quantizer q = {HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR, HYB_THRESHOLD_ABSMEAN, 0.0f};
    float weights[ROWS], scale = 0;
    int8_t codes[ROWS];
    matrix m = {ROWS, 1, weights};
    for (size_t at = 0; at < ROWS; at += ROWS - 2) {
        for (size_t i = 0; i < ROWS; ++i) weights[i] = tiny;
        weights[at] = a;
        weights[at + 1] = b;
        CHECK_OK(hyb_quantize(f.ctx, &q, weights, ROWS, 1, codes, &scale));
        CHECK(scale == (at == 0 ? 16.0f : 16.0f * (1.0f + 0x1p-10f)));
        check_matrix(&f, &q, &m, 0);
    }
    close_fixture(&f);
}

static void test_quantize_not_finite(void) {
    fixture f = open_fixture();
    float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (int granularity = 0; granularity < 2; ++granularity)
        for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format)
            for (size_t i = 0; i < 4; ++i) {
                hyb_quantizer q = {format, granularity, HYB_THRESHOLD_ABSMEAN, 0.0f};
                if (i == 0 && format == HYB_FORMAT_TERNARY) q.threshold = HYB_THRESHOLD_THREE_OF_FOUR;
                if (i != 0 && format == HYB_FORMAT_TERNARY) q.threshold = HYB_THRESHOLD_LLOYD;
                float *weights = random_weights(i, 3 * 8);
                int8_t codes[24];
                float scales[3];
                weights[13] = bad[i];
                CHECK_STATUS(hyb_quantize(f.ctx, &q, weights, 3, 8, codes, scales), HYB_ERROR_NOT_FINITE);
                hyb_device_address w = on_device(&f, weights, 96), c = on_device(&f, NULL, 24),
                                   s = on_device(&f, NULL, 12);
                CHECK_OK(hyb_cuda_quantize(f.cuda, &q, w, 3, 8, c, s, 0));
                CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_NOT_FINITE);
                CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
                free_device(&f, w);
                free_device(&f, c);
                free_device(&f, s);
                free(weights);
            }
    close_fixture(&f);
}

static void test_quantize_arguments(void) {
    fixture f = open_fixture();
    hyb_quantizer q = {HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR, HYB_THRESHOLD_ABSMEAN, 0.0f};
    hyb_quantizer no_format = q, wide = q, fours = q;
    no_format.format = HYB_FORMAT_F32;
    wide.dead_zone = 5.0f;
    fours.threshold = HYB_THRESHOLD_THREE_OF_FOUR;
    hyb_device_address a = on_device(&f, NULL, 4096);
#define REFUSES(call) CHECK_STATUS(call, HYB_ERROR_INVALID_ARGUMENT)
    REFUSES(hyb_cuda_quantize(NULL, &q, a, 2, 2, a, a, 0));
    REFUSES(hyb_cuda_quantize(f.cuda, NULL, a, 2, 2, a, a, 0));
    REFUSES(hyb_cuda_quantize(f.cuda, &q, 0, 2, 2, a, a, 0));
    REFUSES(hyb_cuda_quantize(f.cuda, &q, a, 2, 2, 0, a, 0));
    REFUSES(hyb_cuda_quantize(f.cuda, &q, a, 0, 2, a, a, 0));
    REFUSES(hyb_cuda_quantize(f.cuda, &q, a, 2, SIZE_MAX / 4, a, a, 0));
    REFUSES(hyb_cuda_quantize(f.cuda, &q, a, (size_t)1 << 31, 2, a, a, 0));
    REFUSES(hyb_cuda_quantize(f.cuda, &no_format, a, 2, 2, a, a, 0));
    REFUSES(hyb_cuda_quantize(f.cuda, &wide, a, 2, 2, a, a, 0));
    REFUSES(hyb_cuda_quantize(f.cuda, &fours, a, 2, 6, a, a, 0));
    REFUSES(hyb_cuda_quantize_pack(f.cuda, &q, a, 2, 8, HYB_PACKING_TERNARY_3OF4, a, a, 0));
    REFUSES(hyb_cuda_quantize_pack(f.cuda, &q, a, 2, 8, HYB_PACKING_INT2, a, a, 0));
    REFUSES(hyb_cuda_quantize_pack(f.cuda, &q, a, 2, 8, (hyb_packing)9, a, a, 0));
    REFUSES(hyb_cuda_quantize_pack(f.cuda, &q, a, 2, 8, HYB_PACKING_TERNARY_2BIT, 0, a, 0));
    REFUSES(hyb_cuda_dequantize(f.cuda, a, a, 2, 3, 3, a, 0));
    REFUSES(hyb_cuda_dequantize(f.cuda, 0, a, 1, 3, 3, a, 0));
    REFUSES(hyb_cuda_dequantize(f.cuda, a, a, 1, 3, 0, a, 0));
    REFUSES(hyb_cuda_quantize_activations(f.cuda, a, 2, 8, 7, a, a, a, 0));
    REFUSES(hyb_cuda_quantize_activations(f.cuda, a, 0, 8, 8, a, a, a, 0));
    REFUSES(hyb_cuda_quantize_activations(f.cuda, a, 2, 8, 8, a, a, 0, 0));
    REFUSES(hyb_cuda_quantize_levels_f32(f.cuda, 4, 1.0f, 3, a, a, 0));
    REFUSES(hyb_cuda_quantize_levels_f64(f.cuda, 3, (double)INFINITY, 3, a, a, 0));
    REFUSES(hyb_cuda_quantize_levels_f32(f.cuda, 3, 1.0f, 3, a, 0, 0));
    REFUSES(hyb_cuda_quantize_levels_f32(NULL, 3, 1.0f, 3, a, a, 0));
#undef REFUSES
    CHECK_OK(hyb_cuda_quantize_levels_f64(f.cuda, 3, 1.0, 0, 0, 0, 0));
    free_device(&f, a);
    close_fixture(&f);
}

/* ---- codes to floats ---- */

static void check_dequantize(fixture *f, size_t n_rows, size_t n_cols, int per_row, size_t shift) {
    size_t n = n_rows * n_cols, n_scales = per_row ? n_rows : 1;
    uint64_t seed = n;
    int8_t *codes = host_memory(n, 1);
    float *scales = random_weights(3, n_scales), *expected = host_memory(n, 4), *found = host_memory(n, 4);
    for (size_t i = 0; i < n; ++i) codes[i] = (int8_t)test_random(&seed);
    CHECK_OK(hyb_dequantize(f->ctx, codes, scales, n_scales, n_rows, n_cols, expected));
    hyb_device_address c = on_device(f, NULL, n + shift), s = on_device(f, scales, 4 * n_scales),
                       w = on_device(f, NULL, 4 * n);
    CHECK_OK(hyb_cuda_upload(f->cuda, codes, n, c + shift, 0));
    CHECK_OK(hyb_cuda_dequantize(f->cuda, c + shift, s, n_scales, n_rows, n_cols, w, 0));
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    from_device(f, w, found, 4 * n);
    CHECK(memcmp(expected, found, 4 * n) == 0);
    free_device(f, c);
    free_device(f, s);
    free_device(f, w);
    free(codes);
    free(scales);
    free(expected);
    free(found);
}

static void test_dequantize(void) {
    fixture f = open_fixture();
    static const size_t shapes[][2] = {{1, 1}, {7, 1}, {5, 3}, {4, 64}, {37, 129}, {3, 4096}};
    for (size_t i = 0; i < 6; ++i)
        for (int per_row = 0; per_row < 2; ++per_row) check_dequantize(&f, shapes[i][0], shapes[i][1], per_row, i % 2);
    close_fixture(&f);
}

/* ---- activations ---- */

/* One token's codes, sum and scale, from the CPU's functions. */
static int token_is_right(fixture *f, const float *x, size_t n_cols, const int8_t *codes, size_t ld, int32_t sum,
                          float scale) {
    int8_t *expected = host_memory(ld, 1);
    float expected_scale;
    int32_t expected_sum = 0;
    CHECK_OK(hyb_quantize_activations(f->ctx, x, 1, n_cols, expected, &expected_scale));
    for (size_t i = 0; i < n_cols; ++i) expected_sum += expected[i];
    int is_right = memcmp(expected, codes, ld) == 0 && sum == expected_sum && scale == expected_scale;
    free(expected);
    return is_right;
}

static void check_activations(fixture *f, size_t n_tokens, size_t n_cols, size_t ld, size_t shift) {
    float *x = random_weights(n_cols, n_tokens * n_cols), *scales = host_memory(n_tokens, 4);
    int8_t *codes = host_memory(n_tokens * ld, 1);
    int32_t *sums = host_memory(n_tokens, 4);
    if (n_tokens > 1) memset(x, 0, n_cols * 4);
    for (size_t i = 0; i < n_cols && n_tokens > 2; ++i) x[n_cols + i] = ldexpf(x[n_cols + i], -120); /* no inverse */
    hyb_device_address on_x = on_device(f, NULL, 4 * (n_tokens * n_cols + shift)),
                       on_s = on_device(f, NULL, 4 * n_tokens);
    hyb_device_address on_c = on_device(f, NULL, n_tokens * ld + shift), on_sums = on_device(f, NULL, 4 * n_tokens);
    CHECK_OK(hyb_cuda_upload(f->cuda, x, 4 * n_tokens * n_cols, on_x + 4 * shift, 0));
    CHECK_OK(
        hyb_cuda_quantize_activations(f->cuda, on_x + 4 * shift, n_tokens, n_cols, ld, on_c + shift, on_sums, on_s, 0));
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    from_device(f, on_c + shift, codes, n_tokens * ld);
    from_device(f, on_sums, sums, 4 * n_tokens);
    from_device(f, on_s, scales, 4 * n_tokens);
    for (size_t t = 0; t < n_tokens; ++t)
        CHECK(token_is_right(f, x + t * n_cols, n_cols, codes + t * ld, ld, sums[t], scales[t]));
    CHECK_OK(hyb_cuda_quantize_activations(f->cuda, on_x, n_tokens, n_cols, ld, on_c, 0, on_s, 0));
    free_device(f, on_x);
    free_device(f, on_s);
    free_device(f, on_c);
    free_device(f, on_sums);
    free(x);
    free(scales);
    free(codes);
    free(sums);
}

static void test_activations(void) {
    static const size_t shapes[][3] = {{1, 1, 1},     {3, 7, 16},      {5, 64, 64},     {4, 512, 512},
                                       {3, 513, 528}, {2, 2048, 2050}, {3, 4100, 4112}, {1, 9000, 9000}};
    fixture f = open_fixture();
    for (size_t i = 0; i < 8; ++i) check_activations(&f, shapes[i][0], shapes[i][1], shapes[i][2], i % 2);
    close_fixture(&f);
}

static void test_activations_not_finite(void) {
    fixture f = open_fixture();
    float x[3 * 40], scales[3];
    int8_t codes[3 * 48];
    int32_t sums[3];
    for (size_t i = 0; i < 120; ++i) x[i] = (float)i;
    x[50] = NAN;
    x[90] = -INFINITY;
    hyb_device_address on_x = on_device(&f, x, sizeof x), on_c = on_device(&f, NULL, sizeof codes);
    hyb_device_address on_sums = on_device(&f, NULL, 12), on_s = on_device(&f, NULL, 12);
    CHECK_OK(hyb_cuda_quantize_activations(f.cuda, on_x, 3, 40, 48, on_c, on_sums, on_s, 0));
    CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_NOT_FINITE);
    from_device(&f, on_c, codes, sizeof codes);
    from_device(&f, on_sums, sums, 12);
    from_device(&f, on_s, scales, 12);
    CHECK(token_is_right(&f, x, 40, codes, 48, sums[0], scales[0]));
    CHECK(isnan(scales[1]) && isnan(scales[2]) && sums[1] == 0 && sums[2] == 0);
    for (size_t i = 48; i < sizeof codes; ++i) CHECK(codes[i] == 0);
    free_device(&f, on_x);
    free_device(&f, on_c);
    free_device(&f, on_sums);
    free_device(&f, on_s);
    close_fixture(&f);
}

/* ---- levels ---- */

static void check_levels(fixture *f, size_t n, int32_t levels, size_t shift) {
    static const float edges[] = {0.0f, -0.0f, 0.25f, -0.25f,   0.75f,     -0.75f, 0.5f,
                                  1.0f, -1.0f, 1.5f,  INFINITY, -INFINITY, 1e-40f};
    uint64_t seed = n;
    float *x = host_memory(n, 4), *expected = host_memory(n, 4), *found = host_memory(n, 4);
    double *x64 = host_memory(n, 8), *expected64 = host_memory(n, 8), *found64 = host_memory(n, 8);
    for (size_t i = 0; i < n; ++i) x[i] = i < 13 ? edges[i] : 1.5f * test_random_float(&seed);
    for (size_t i = 0; i < n; ++i) x64[i] = (double)x[i] * (i < 13 ? 1.0 : 1.0000000001);
    CHECK_OK(hyb_quantize_levels_f32(f->ctx, levels, 0.3f, n, x, expected));
    CHECK_OK(hyb_quantize_levels_f64(f->ctx, levels, 0.3, n, x64, expected64));
    hyb_device_address a = on_device(f, NULL, 8 * (n + shift)), b = on_device(f, NULL, 8 * n);
    CHECK_OK(hyb_cuda_upload(f->cuda, x, 4 * n, a + 4 * shift, 0));
    CHECK_OK(hyb_cuda_quantize_levels_f32(f->cuda, levels, 0.3f, n, a + 4 * shift, b, 0));
    from_device(f, b, found, 4 * n);
    CHECK(memcmp(expected, found, 4 * n) == 0);
    CHECK_OK(hyb_cuda_upload(f->cuda, x64, 8 * n, a + 8 * shift, 0));
    CHECK_OK(hyb_cuda_quantize_levels_f64(f->cuda, levels, 0.3, n, a + 8 * shift, a + 8 * shift, 0)); /* in place */
    from_device(f, a + 8 * shift, found64, 8 * n);
    CHECK(memcmp(expected64, found64, 8 * n) == 0);
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    x[n - 1] = NAN;
    x64[n - 1] = (double)NAN;
    CHECK_OK(hyb_cuda_upload(f->cuda, x, 4 * n, a, 0));
    CHECK_OK(hyb_cuda_quantize_levels_f32(f->cuda, levels, 0.3f, n, a, a, 0));
    CHECK_STATUS(hyb_cuda_synchronize(f->cuda, 0), HYB_ERROR_NOT_FINITE);
    CHECK_OK(hyb_cuda_upload(f->cuda, x64, 8 * n, a, 0));
    CHECK_OK(hyb_cuda_quantize_levels_f64(f->cuda, levels, 0.3, n, a, b, 0));
    CHECK_STATUS(hyb_cuda_synchronize(f->cuda, 0), HYB_ERROR_NOT_FINITE);
    free_device(f, a);
    free_device(f, b);
    free(x);
    free(expected);
    free(found);
    free(x64);
    free(expected64);
    free(found64);
}

static void test_levels(void) {
    static const size_t sizes[] = {1, 3, 13, 64, 1023, 4096, 4097, 9001};
    fixture f = open_fixture();
    for (size_t i = 0; i < 8; ++i) check_levels(&f, sizes[i], i % 2 ? 3 : 5, i % 2);
    check_levels(&f, 5000, 5, 1);
    close_fixture(&f);
}

int main(void) {
    test_quantize_shapes();
    test_quantize_long_rows();
    test_quantize_zeros();
    test_quantize_order_of_rows();
    test_quantize_order_shows();
    test_quantize_not_finite();
    test_quantize_arguments();
    test_dequantize();
    test_activations();
    test_activations_not_finite();
    test_levels();
    return TEST_RESULT();
}
