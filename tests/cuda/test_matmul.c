/* test_matmul.c - weights on the device and their products, against the CPU's: every kernel, every format, exactly. */
#include "cuda_fixture.h"

#include "cuda.h" /* the table of the module: to ask for a kernel */

static const hyb_format FORMATS[] = {HYB_FORMAT_TERNARY, HYB_FORMAT_BINARY, HYB_FORMAT_INT2, HYB_FORMAT_INT4,
                                     HYB_FORMAT_INT8};

/* A code of a format; `extreme`: of the largest magnitude. */
static int8_t random_code(hyb_format format, int extreme, uint64_t *seed) {
    int most = format == HYB_FORMAT_INT2 ? 3 : format == HYB_FORMAT_INT4 ? 15 : format == HYB_FORMAT_INT8 ? 127 : 1;
    int step = format == HYB_FORMAT_TERNARY || format == HYB_FORMAT_INT8 ? 1 : 2;
    if (extreme) return (int8_t)most;
    return (int8_t)(-most + step * (int)test_random_below(seed, (size_t)(2 * most / step) + 1));
}

/* A matrix, tokens, and the same on the device. */
typedef struct product {
    hyb_format format;
    size_t n_rows, n_cols, n_tokens, n_scales;
    int8_t *codes, *x_codes;
    float *scales, *x, *x_scales;
    hyb_weights *packed;
    hyb_cuda_weights *weights;
    hyb_device_address x_device, x_codes_device;
} product;

static product make_product(fixture *f, hyb_format format, size_t n_rows, size_t n_cols, size_t n_tokens, int extreme,
                            uint64_t *seed) {
    product p = {.format = format, .n_rows = n_rows, .n_cols = n_cols, .n_tokens = n_tokens};
    p.n_scales = test_random_below(seed, 2) != 0 ? n_rows : 1;
    p.codes = host_memory(n_rows * n_cols, 1);
    p.x_codes = host_memory(n_tokens * n_cols, 1);
    p.scales = host_memory(p.n_scales, sizeof(float));
    p.x = host_memory(n_tokens * n_cols, sizeof(float));
    p.x_scales = host_memory(n_tokens, sizeof(float));
    for (size_t i = 0; i < n_rows * n_cols; ++i) p.codes[i] = random_code(format, extreme, seed);
    for (size_t i = 0; i < p.n_scales; ++i) p.scales[i] = test_random_float(seed);
    for (size_t i = 0; i < n_tokens * n_cols; ++i) p.x[i] = extreme ? 3.0f : test_random_float(seed);
    CHECK_OK(hyb_quantize_activations(f->ctx, p.x, n_tokens, n_cols, p.x_codes, p.x_scales));
    CHECK_OK(hyb_weights_create(f->ctx, format, n_rows, n_cols, p.codes, p.scales, p.n_scales, &p.packed));
    if (test_random_below(seed, 2) != 0) {
        CHECK_OK(hyb_cuda_weights_create(f->cuda, p.packed, &p.weights));
    } else {
        hyb_device_address codes = on_device(f, p.codes, n_rows * n_cols);
        hyb_device_address scales = on_device(f, p.scales, p.n_scales * sizeof(float));
        CHECK_OK(
            hyb_cuda_weights_create_codes(f->cuda, format, codes, n_rows, n_cols, scales, p.n_scales, 0, &p.weights));
        free_device(f, codes);
        free_device(f, scales);
    }
    p.x_device = on_device(f, p.x, n_tokens * n_cols * sizeof(float));
    p.x_codes_device = on_device(f, p.x_codes, n_tokens * n_cols);
    return p;
}

static void free_product(fixture *f, product *p) {
    free_device(f, p->x_device);
    free_device(f, p->x_codes_device);
    hyb_cuda_weights_destroy(p->weights);
    hyb_weights_destroy(p->packed);
    free(p->codes);
    free(p->x_codes);
    free(p->scales);
    free(p->x);
    free(p->x_scales);
}

static void check_same(const product *p, int32_t kernel, const char *what, const void *got, const void *expected,
                       size_t n_bytes) {
    CHECK(memcmp(got, expected, n_bytes) == 0);
    if (memcmp(got, expected, n_bytes) != 0)
        fprintf(stderr, "  %s, kernel %d: format %d, %zu x %zu, %zu tokens\n", what, (int)kernel, (int)p->format,
                p->n_rows, p->n_cols, p->n_tokens);
}

/* Whether the device has the kernel for many tokens: Hopper's, and an emulated one. */
static int has_wgmma(fixture *f) {
    hyb_cuda_info info = {.struct_size = sizeof info};
    CHECK_OK(hyb_cuda_get_info(f->cuda, &info));
    return info.is_emulated || (info.capability_major == 9 && info.capability_minor == 0);
}

/* Integer sums of a kernel. */
static void check_sums(fixture *f, const product *p, int32_t kernel) {
    size_t n_bytes = p->n_tokens * p->n_rows * sizeof(int32_t);
    int32_t *expected = host_memory(n_bytes, 1), *got = host_memory(n_bytes, 1);
    hyb_device_address y = on_device(f, NULL, n_bytes);
    CHECK_OK(hyb_matmul_i32(f->ctx, p->packed, p->x_codes, p->n_tokens, expected));
    CHECK_OK(HYB_CUDA_CALL(f->cuda, matmul_codes, &p->weights->device, hyb_device_pointer(p->x_codes_device),
                           p->n_tokens, hyb_device_pointer(y), kernel, NULL));
    from_device(f, y, got, n_bytes);
    check_same(p, kernel, "sums", got, expected, n_bytes);
    free_device(f, y);
    free(expected);
    free(got);
}

/* Floats of a kernel, in tokens further apart than they are long; added to what is there, or not. */
static void check_floats(fixture *f, const product *p, int32_t kernel, int accumulate) {
    size_t n_rows = p->n_rows, n_tokens = p->n_tokens, ld = n_rows + 3, n_bytes = n_tokens * ld * sizeof(float);
    float *y = host_memory(n_tokens * n_rows, sizeof *y), *expected = host_memory(n_bytes, 1);
    float *got = host_memory(n_bytes, 1);
    CHECK_OK(hyb_matmul(f->ctx, p->packed, p->x_codes, p->x_scales, n_tokens, y));
    for (size_t i = 0; i < n_tokens * ld; ++i) expected[i] = (float)i * 0.25f;
    hyb_device_address y_device = on_device(f, expected, n_bytes);
    for (size_t i = 0; i < n_tokens * n_rows; ++i) {
        float *to = expected + i / n_rows * ld + i % n_rows;
        *to = accumulate ? *to + y[i] : y[i];
    }
    CHECK_OK(HYB_CUDA_CALL(f->cuda, matmul, &p->weights->device, hyb_device_pointer(p->x_device), n_tokens,
                           hyb_device_pointer(y_device), ld, accumulate, kernel, NULL));
    from_device(f, y_device, got, n_bytes);
    check_same(p, kernel, "floats", got, expected, n_bytes);
    free_device(f, y_device);
    free(y);
    free(expected);
    free(got);
}

/* Every kernel, but none where it would take long on an emulated device. */
static void check_product(fixture *f, const product *p) {
    check_floats(f, p, HYB_MATMUL_CHOOSE, 0);
    check_floats(f, p, HYB_MATMUL_TILES, 1);
    check_sums(f, p, HYB_MATMUL_TILES);
    if (p->n_tokens <= 9) check_sums(f, p, HYB_MATMUL_VECTOR);
    if (p->n_tokens <= 2) check_floats(f, p, HYB_MATMUL_VECTOR, 1);
    if (p->n_tokens * p->n_rows <= 500) check_sums(f, p, HYB_MATMUL_PLAIN);
    if (p->format == HYB_FORMAT_TERNARY && p->n_cols <= 3000 && has_wgmma(f)) {
        check_sums(f, p, HYB_MATMUL_WGMMA);
        if (p->n_tokens > 64) check_floats(f, p, HYB_MATMUL_WGMMA, 1);
    }
    CHECK_STATUS(hyb_cuda_synchronize(f->cuda, 0), HYB_OK);
}

static void run(fixture *f, hyb_format format, size_t n_rows, size_t n_cols, size_t n_tokens, int extreme,
                uint64_t *seed) {
    product p = make_product(f, format, n_rows, n_cols, n_tokens, extreme, seed);
    if (p.weights != NULL) check_product(f, &p);
    free_product(f, &p);
}

/* Sizes on both sides of every tile's edges, in random combinations. */
static void test_matmul_equals_cpu(void) {
    static const size_t tokens[] = {1, 2, 7, 8, 9, 16, 17, 33, 70};
    fixture f = open_fixture();
    uint64_t seed = 1;
    for (size_t i = 0; i < 18; ++i) {
        hyb_format format = FORMATS[i % 5 != 0 && i % 2 == 0 ? 0 : i % 5]; /* half of them ternary */
        run(&f, format, 1 + test_random_below(&seed, 70), 1 + test_random_below(&seed, 300), tokens[i % 9], 0, &seed);
    }
    run(&f, HYB_FORMAT_TERNARY, 1, 1, 1, 0, &seed);
    run(&f, HYB_FORMAT_INT8, 1, 1, 2, 0, &seed);
    run(&f, HYB_FORMAT_TERNARY, 130, 64, 65, 0, &seed);
    run(&f, HYB_FORMAT_TERNARY, 140, 260, 129, 0, &seed);
    run(&f, HYB_FORMAT_INT8, 129, 16, 34, 0, &seed);
    run(&f, HYB_FORMAT_TERNARY, 5, 2300, 3, 0, &seed); /* several stages of columns divided among warps */
    run(&f, HYB_FORMAT_INT8, 18, 1100, 12, 0, &seed);
    close_fixture(&f);
}

/* So many rows that the device is full: each number of lanes a row, several rows a thread, and the larger tile. */
static void test_matmul_many_rows(void) {
    fixture f = open_fixture();
    hyb_cuda_info info = {.struct_size = sizeof info};
    uint64_t seed = 2;
    CHECK_OK(hyb_cuda_get_info(f.cuda, &info));
    size_t full = 1024 * (size_t)info.n_multiprocessors; /* MIN_WARPS * 32 lanes * ROWS_IN_FLIGHT, matmul_vector.cu */
    for (size_t lanes = 4; lanes <= 32; lanes *= 2) {
        run(&f, HYB_FORMAT_TERNARY, full / lanes + 5, 64 * lanes - 3, 1, 0, &seed);
        run(&f, HYB_FORMAT_INT8, full / lanes + 5, 16 * lanes - 3, 1, 0, &seed);
    }
    full = 128 * (size_t)info.n_multiprocessors; /* launch_few, launch_format in matmul_tiles.cu */
    run(&f, HYB_FORMAT_TERNARY, full + 1, 70, 3, 0, &seed);
    run(&f, HYB_FORMAT_INT8, full + 1, 40, 12, 0, &seed);
    run(&f, HYB_FORMAT_TERNARY, full + 1, 300, 17, 0, &seed);
    run(&f, HYB_FORMAT_TERNARY, full / 2 + 1, 70, 65, 0, &seed);
    run(&f, HYB_FORMAT_INT8, full + 1, 20, 32, 0, &seed);
    run(&f, HYB_FORMAT_INT8, full / 4 + 1, 270, 130, 0, &seed);
    close_fixture(&f);
}

/* Asking for the kernel for many tokens where it is not. */
static void test_matmul_no_wgmma(void) {
    fixture f = open_fixture();
    uint64_t seed = 8;
    product p = make_product(&f, has_wgmma(&f) ? HYB_FORMAT_INT8 : HYB_FORMAT_TERNARY, 3, 40, 5, 0, &seed);
    hyb_device_address y = on_device(&f, NULL, 15 * sizeof(int32_t));
    CHECK_STATUS(HYB_CUDA_CALL(f.cuda, matmul_codes, &p.weights->device, hyb_device_pointer(p.x_codes_device), 5,
                               hyb_device_pointer(y), HYB_MATMUL_WGMMA, NULL),
                 HYB_ERROR_UNSUPPORTED);
    free_device(&f, y);
    free_product(&f, &p);
    close_fixture(&f);
}

/* The longest rows, with the largest sums. */
static void test_matmul_longest_sum(void) {
    fixture f = open_fixture();
    uint64_t seed = 3;
    run(&f, HYB_FORMAT_TERNARY, 2, HYB_MATMUL_MAX_COLS, 2, 1, &seed);
    run(&f, HYB_FORMAT_INT8, 2, HYB_MATMUL_MAX_COLS, 1, 1, &seed);
    close_fixture(&f);
}

/* Tokens of zeros, of numbers too small to quantise, and with a NaN or an infinity. */
static void test_matmul_odd_tokens(void) {
    fixture f = open_fixture();
    uint64_t seed = 4;
    product p = make_product(&f, HYB_FORMAT_TERNARY, 3, 40, 5, 0, &seed);
    float y[15];
    hyb_device_address y_device = on_device(&f, NULL, sizeof y);
    for (size_t c = 0; c < 40; ++c) p.x[c] = 0.0f, p.x[40 + c] = 1e-38f;
    CHECK_OK(hyb_cuda_upload(f.cuda, p.x, 200 * sizeof(float), p.x_device, 0));
    CHECK_OK(hyb_cuda_matmul(f.cuda, p.weights, p.x_device, 5, y_device, 0));
    CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
    from_device(&f, y_device, y, sizeof y);
    for (size_t i = 0; i < 6; ++i) CHECK(y[i] == 0.0f);
    p.x[2 * 40 + 7] = hyb_float_of(0x7fc00000u);
    p.x[4 * 40 + 39] = hyb_float_of(0xff800000u);
    CHECK_OK(hyb_cuda_upload(f.cuda, p.x, 200 * sizeof(float), p.x_device, 0));
    CHECK_OK(hyb_cuda_matmul(f.cuda, p.weights, p.x_device, 5, y_device, 0));
    CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_NOT_FINITE);
    from_device(&f, y_device, y, sizeof y);
    for (size_t i = 0; i < 15; ++i) CHECK((y[i] != y[i]) == (i / 3 == 2 || i / 3 == 4));
    CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
    free_device(&f, y_device);
    free_product(&f, &p);
    close_fixture(&f);
}

static void check_f32(fixture *f, size_t n_rows, size_t n_cols, size_t n_tokens, uint64_t *seed) {
    size_t n = n_rows * n_tokens;
    float *values = host_memory(n_rows * n_cols, sizeof(float)), *x = host_memory(n_tokens * n_cols, sizeof(float));
    float *y = host_memory(n, sizeof(float)), *expected = host_memory(n, sizeof(float));
    hyb_cuda_weights *weights = NULL;
    for (size_t i = 0; i < n_rows * n_cols; ++i) values[i] = test_random_float(seed);
    for (size_t i = 0; i < n_tokens * n_cols; ++i) x[i] = test_random_float(seed);
    hyb_device_address from = on_device(f, values, n_rows * n_cols * sizeof(float));
    hyb_device_address x_device = on_device(f, x, n_tokens * n_cols * sizeof(float));
    CHECK_OK(hyb_cuda_weights_create_f32(f->cuda, from, n_rows, n_cols, 0, &weights));
    free_device(f, from);
    for (size_t i = 0; i < n; ++i)
        expected[i] = f->ctx->kernels.dot_f32(x + i / n_rows * n_cols, values + i % n_rows * n_cols, n_cols);
    hyb_device_address y_device = on_device(f, NULL, n * sizeof(float));
    CHECK_OK(hyb_cuda_matmul(f->cuda, weights, x_device, n_tokens, y_device, 0));
    from_device(f, y_device, y, n * sizeof(float));
    CHECK(memcmp(y, expected, n * sizeof(float)) == 0);
    CHECK_OK(HYB_CUDA_CALL(f->cuda, matmul, &weights->device, hyb_device_pointer(x_device), n_tokens,
                           hyb_device_pointer(y_device), n_rows, 1, HYB_MATMUL_CHOOSE, NULL));
    from_device(f, y_device, y, n * sizeof(float));
    for (size_t i = 0; i < n; ++i) expected[i] += expected[i];
    CHECK(memcmp(y, expected, n * sizeof(float)) == 0);
    hyb_cuda_weights_destroy(weights);
    free_device(f, x_device);
    free_device(f, y_device);
    free(values);
    free(x);
    free(y);
    free(expected);
}

static void test_matmul_f32_equals_cpu(void) {
    fixture f = open_fixture();
    uint64_t seed = 5;
    static const size_t cols[] = {1, 3, 4, 15, 16, 17, 31, 64, 77, 300};
    for (size_t i = 0; i < sizeof cols / sizeof *cols; ++i)
        for (size_t n_tokens = 1; n_tokens <= 6; n_tokens += i % 2 + 1)
            check_f32(&f, 1 + 13 * i, cols[i], n_tokens, &seed);
    check_f32(&f, 1500, 20, 1, &seed); /* more rows than the device takes at a time, when emulated */
    close_fixture(&f);
}

static void test_weights_bytes(void) {
    fixture f = open_fixture();
    uint64_t seed = 6;
    product p = make_product(&f, HYB_FORMAT_TERNARY, 100, 640, 1, 0, &seed);
    CHECK(hyb_cuda_weights_bytes(p.weights) == 100 * 160 + 128 + 100 * 4); /* scales begin at a multiple of 256 */
    CHECK(hyb_cuda_weights_bytes(NULL) == 0);
    hyb_cuda_weights_destroy(NULL);
    free_product(&f, &p);
    close_fixture(&f);
}

static void test_weights_bad_values(void) {
    fixture f = open_fixture();
    static const int8_t bad[][2] = {{HYB_FORMAT_TERNARY, 2}, {HYB_FORMAT_TERNARY, -2}, {HYB_FORMAT_BINARY, 0},
                                    {HYB_FORMAT_INT2, 2},    {HYB_FORMAT_INT2, -5},    {HYB_FORMAT_INT4, 17},
                                    {HYB_FORMAT_INT4, 0},    {HYB_FORMAT_INT8, -128}};
    hyb_cuda_weights *none = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        int8_t codes[60];
        float scale = 1.0f;
        for (size_t c = 0; c < 60; ++c) codes[c] = c == 23 || c == 50 ? bad[i][1] : 1;
        hyb_device_address codes_device = on_device(&f, codes, sizeof codes), scale_device = on_device(&f, &scale, 4);
        CHECK_STATUS(hyb_cuda_weights_create_codes(f.cuda, (hyb_format)bad[i][0], codes_device, 3, 20, scale_device, 1,
                                                   0, &none),
                     HYB_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(hyb_ctx_last_error(f.ctx), "row 1, column 3") != NULL);
        free_device(&f, codes_device);
        free_device(&f, scale_device);
    }
    int8_t ones[6] = {1, 1, 1, 1, 1, 1};
    float scales[2] = {1.0f, hyb_float_of(0x7f800000u)}, values[2] = {1.0f, hyb_float_of(0x7fc00000u)};
    hyb_device_address codes = on_device(&f, ones, sizeof ones), scales_device = on_device(&f, scales, sizeof scales);
    hyb_device_address values_device = on_device(&f, values, sizeof values);
    CHECK_STATUS(hyb_cuda_weights_create_codes(f.cuda, HYB_FORMAT_TERNARY, codes, 2, 3, scales_device, 2, 0, &none),
                 HYB_ERROR_NOT_FINITE);
    CHECK(strstr(hyb_ctx_last_error(f.ctx), "scale 1") != NULL);
    CHECK_STATUS(hyb_cuda_weights_create_f32(f.cuda, values_device, 2, 1, 0, &none), HYB_ERROR_NOT_FINITE);
    CHECK(strstr(hyb_ctx_last_error(f.ctx), "row 1, column 0") != NULL && none == NULL);
    free_device(&f, codes);
    free_device(&f, scales_device);
    free_device(&f, values_device);
    close_fixture(&f);
}

static void test_matmul_bad_arguments(void) {
    fixture f = open_fixture(), other = open_fixture();
    uint64_t seed = 7;
    product p = make_product(&f, HYB_FORMAT_INT4, 3, 20, 2, 0, &seed);
    hyb_cuda_weights *none = NULL, *values = NULL;
    hyb_device_address a = p.x_device; /* any address of the device */
    const hyb_status invalid = HYB_ERROR_INVALID_ARGUMENT;
    CHECK_STATUS(hyb_cuda_weights_create(NULL, p.packed, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create(f.cuda, NULL, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create(f.cuda, p.packed, NULL), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_codes(f.cuda, HYB_FORMAT_INT4, 0, 3, 20, a, 1, 0, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_codes(f.cuda, HYB_FORMAT_INT4, a, 3, 20, 0, 1, 0, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_codes(f.cuda, HYB_FORMAT_INT4, a, 3, 20, a, 2, 0, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_codes(f.cuda, HYB_FORMAT_INT4, a, 0, 20, a, 1, 0, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_codes(f.cuda, HYB_FORMAT_INT4, a, 3, 65537, a, 1, 0, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_codes(f.cuda, HYB_FORMAT_F32, a, 3, 20, a, 1, 0, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_codes(f.cuda, HYB_FORMAT_INT4, a, SIZE_MAX, 20, a, 1, 0, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_f32(f.cuda, 0, 3, 20, 0, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_f32(f.cuda, a, 3, 0, 0, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_f32(f.cuda, a, 3, 65537, 0, &none), invalid);
    CHECK_STATUS(hyb_cuda_weights_create_f32(f.cuda, a, UINT32_MAX, 65536, 0, &none), HYB_ERROR_OUT_OF_MEMORY);
    CHECK(none == NULL);
    CHECK_OK(hyb_cuda_weights_create_f32(f.cuda, a, 1, 20, 0, &values));
    CHECK_STATUS(hyb_cuda_matmul_codes(f.cuda, values, a, 1, p.x_codes_device, 0), invalid);
    CHECK_STATUS(hyb_cuda_matmul(NULL, p.weights, a, 1, a, 0), invalid);
    CHECK_STATUS(hyb_cuda_matmul(f.cuda, NULL, a, 1, a, 0), invalid);
    CHECK_STATUS(hyb_cuda_matmul(f.cuda, p.weights, 0, 1, a, 0), invalid);
    CHECK_STATUS(hyb_cuda_matmul(f.cuda, p.weights, a, 1, 0, 0), invalid);
    CHECK_STATUS(hyb_cuda_matmul(f.cuda, p.weights, a, 0, a, 0), invalid);
    CHECK_STATUS(hyb_cuda_matmul(f.cuda, p.weights, a, SIZE_MAX, a, 0), invalid);
    CHECK_STATUS(hyb_cuda_matmul_codes(f.cuda, p.weights, a, 0, a, 0), invalid);
    CHECK_STATUS(hyb_cuda_matmul(other.cuda, p.weights, a, 1, a, 0), invalid);
    CHECK(strstr(hyb_ctx_last_error(other.ctx), "another handle") != NULL);
    hyb_cuda_weights_destroy(values);
    free_product(&f, &p);
    close_fixture(&other);
    close_fixture(&f);
}

int main(void) {
    test_matmul_equals_cpu();
    test_matmul_many_rows();
    test_matmul_no_wgmma();
    test_matmul_longest_sum();
    test_matmul_odd_tokens();
    test_matmul_f32_equals_cpu();
    test_weights_bytes();
    test_weights_bad_values();
    test_matmul_bad_arguments();
    return TEST_RESULT();
}
