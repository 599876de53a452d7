/* test_compress.c - gradient compression on a device against hyb_compress and hyb_decompress, bit for bit. */
#include "cuda_fixture.h"

#include <math.h>

static const hyb_compressor compressors[] = {
    {HYB_COMPRESSION_ROW, 0}, {HYB_COMPRESSION_BLOCK, 32}, {HYB_COMPRESSION_BLOCK, 64}, {HYB_COMPRESSION_FIVE, 0}};
#define N_COMPRESSORS 4

/* Values of heavy tails over six decades, with zeros. */
static void random_gradient(uint64_t *seed, float *g, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        float x = test_random_float(seed);
        g[i] = x * x * x * (i % 53 == 3 ? 1e-3f : 1e-5f);
        if (i % 29 == 4) g[i] = 0.0f;
    }
}

typedef struct buffers {
    size_t n, n_bytes;
    float *gradient, *residual, *values, *found;
    uint8_t *bytes, *found_bytes;
    hyb_device_address on_gradient, on_residual, on_values, on_bytes;
} buffers;

static buffers make_buffers(fixture *f, const hyb_compressor *c, size_t n_rows, size_t n_cols, size_t shift) {
    buffers b;
    b.n = n_rows * n_cols;
    b.n_bytes = hyb_compressed_bytes(c, n_rows, n_cols);
    b.gradient = host_memory(b.n, 4);
    b.residual = host_memory(b.n, 4);
    b.values = host_memory(b.n, 4);
    b.found = host_memory(b.n, 4);
    b.bytes = host_memory(b.n_bytes + 1, 1);
    b.found_bytes = host_memory(b.n_bytes + 1, 1);
    b.on_gradient = on_device(f, NULL, 4 * (b.n + shift)) + 4 * shift;
    b.on_residual = on_device(f, b.residual, 4 * b.n);
    b.on_values = on_device(f, NULL, 4 * b.n);
    b.on_bytes = on_device(f, NULL, b.n_bytes + 1);
    CHECK_OK(hyb_cuda_fill(f->cuda, b.on_bytes, 0x77, b.n_bytes + 1, 0));
    return b;
}

static void free_buffers(fixture *f, buffers *b, size_t shift) {
    free_device(f, b->on_gradient - 4 * shift);
    free_device(f, b->on_residual);
    free_device(f, b->on_values);
    free_device(f, b->on_bytes);
    free(b->gradient);
    free(b->residual);
    free(b->values);
    free(b->found);
    free(b->bytes);
    free(b->found_bytes);
}

static int same_floats(fixture *f, buffers *b, hyb_device_address address, const float *expected) {
    from_device(f, address, b->found, 4 * b->n);
    return memcmp(b->found, expected, 4 * b->n) == 0;
}

/* Three steps with feedback, then one without; then the values of the bytes. */
static void check_compress(fixture *f, const hyb_compressor *c, size_t n_rows, size_t n_cols, size_t shift) {
    buffers b = make_buffers(f, c, n_rows, n_cols, shift);
    uint64_t seed = n_rows * 1000 + n_cols;
    for (int step = 0; step < 3; ++step) {
        int feeds_back = step < 2;
        random_gradient(&seed, b.gradient, b.n);
        CHECK_OK(hyb_cuda_upload(f->cuda, b.gradient, 4 * b.n, b.on_gradient, 0));
        CHECK_OK(hyb_compress(f->ctx, c, b.gradient, n_rows, n_cols, feeds_back ? b.residual : NULL, b.bytes, b.values,
                              NULL));
        CHECK_OK(hyb_cuda_compress(f->cuda, c, b.on_gradient, n_rows, n_cols, feeds_back ? b.on_residual : 0,
                                   b.on_bytes, step == 1 ? b.on_gradient : b.on_values, 0));
        CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
        CHECK(same_floats(f, &b, b.on_residual, b.residual));
        CHECK(same_floats(f, &b, step == 1 ? b.on_gradient : b.on_values, b.values));
        from_device(f, b.on_bytes, b.found_bytes, b.n_bytes + 1);
        CHECK(memcmp(b.bytes, b.found_bytes, b.n_bytes) == 0 && b.found_bytes[b.n_bytes] == 0x77);
    }
    CHECK_OK(hyb_cuda_decompress(f->cuda, c, b.on_bytes, b.n_bytes, n_rows, n_cols, b.on_gradient, 0));
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    CHECK_OK(hyb_decompress(f->ctx, c, b.bytes, b.n_bytes, n_rows, n_cols, b.values));
    CHECK(same_floats(f, &b, b.on_gradient, b.values));
    /* Nothing but the residual is wanted. */
    CHECK_OK(hyb_cuda_upload(f->cuda, b.gradient, 4 * b.n, b.on_gradient, 0));
    CHECK_OK(hyb_compress(f->ctx, c, b.gradient, n_rows, n_cols, b.residual, NULL, NULL, NULL));
    CHECK_OK(hyb_cuda_compress(f->cuda, c, b.on_gradient, n_rows, n_cols, b.on_residual, 0, 0, 0));
    CHECK(same_floats(f, &b, b.on_residual, b.residual));
    free_buffers(f, &b, shift);
}

/* Up to the edges of blocks, chunks of 3840 columns, pieces of 8192 and tiles of 16384, and behind them. */
static void test_compress_shapes(void) {
    static const size_t shapes[][2] = {{1, 1},    {3, 5},    {4, 31},   {2, 64},    {5, 97},
                                       {2, 3840}, {1, 3841}, {1, 8193}, {1, 16385}, {1, 24600}};
    fixture f = open_fixture();
    for (size_t i = 0; i < 10; ++i)
        for (size_t c = 0; c < N_COMPRESSORS; ++c)
            check_compress(&f, &compressors[c], shapes[i][0], shapes[i][1], (i + c) % 2);
    close_fixture(&f);
}

/* Zeros, and values so small that their squares or means vanish. */
static void test_compress_small(void) {
    fixture f = open_fixture();
    static const float sizes[] = {0.0f, 1e-45f, 3e-39f, 1e-30f, 9e15f};
    for (size_t c = 0; c < N_COMPRESSORS; ++c) {
        buffers b = make_buffers(&f, &compressors[c], 5, 70, 0);
        for (size_t i = 0; i < b.n; ++i) b.gradient[i] = sizes[i / 70] * (i % 3 == 0 ? -1.0f : 1.0f);
        CHECK_OK(hyb_cuda_upload(f.cuda, b.gradient, 4 * b.n, b.on_gradient, 0));
        CHECK_OK(hyb_compress(f.ctx, &compressors[c], b.gradient, 5, 70, b.residual, b.bytes, b.values, NULL));
        CHECK_OK(hyb_cuda_compress(f.cuda, &compressors[c], b.on_gradient, 5, 70, b.on_residual, b.on_bytes,
                                   b.on_values, 0));
        CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
        CHECK(same_floats(&f, &b, b.on_residual, b.residual) && same_floats(&f, &b, b.on_values, b.values));
        from_device(&f, b.on_bytes, b.found_bytes, b.n_bytes);
        CHECK(memcmp(b.bytes, b.found_bytes, b.n_bytes) == 0);
        free_buffers(&f, &b, 0);
    }
    close_fixture(&f);
}

/* The row stays as it was, in residual, values and bytes; the others are done. */
static void check_bad_row(fixture *f, const hyb_compressor *c, size_t n_cols, float bad, int in_residual) {
    buffers b = make_buffers(f, c, 3, n_cols, 0);
    uint64_t seed = n_cols;
    random_gradient(&seed, b.gradient, b.n);
    random_gradient(&seed, b.residual, b.n);
    (in_residual ? b.residual : b.gradient)[n_cols + n_cols / 2] = bad;
    memset(b.bytes, 0x77, b.n_bytes);
    CHECK_OK(hyb_cuda_upload(f->cuda, b.gradient, 4 * b.n, b.on_gradient, 0));
    CHECK_OK(hyb_cuda_upload(f->cuda, b.residual, 4 * b.n, b.on_residual, 0));
    CHECK_OK(hyb_cuda_upload(f->cuda, b.values, 4 * b.n, b.on_values, 0));
    CHECK_STATUS(hyb_compress(f->ctx, c, b.gradient, 3, n_cols, b.residual, b.bytes, b.values, NULL),
                 HYB_ERROR_NOT_FINITE);
    CHECK_OK(hyb_cuda_compress(f->cuda, c, b.on_gradient, 3, n_cols, b.on_residual, b.on_bytes, b.on_values, 0));
    CHECK_STATUS(hyb_cuda_synchronize(f->cuda, 0), HYB_ERROR_NOT_FINITE);
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    CHECK(same_floats(f, &b, b.on_residual, b.residual) && same_floats(f, &b, b.on_values, b.values));
    from_device(f, b.on_bytes, b.found_bytes, b.n_bytes);
    CHECK(memcmp(b.bytes, b.found_bytes, b.n_bytes) == 0);
    free_buffers(f, &b, 0);
}

static void test_compress_not_finite(void) {
    fixture f = open_fixture();
    static const float bad[] = {NAN, INFINITY, -INFINITY, -2e16f};
    for (size_t c = 0; c < N_COMPRESSORS; ++c)
        for (size_t i = 0; i < 4; ++i) {
            check_bad_row(&f, &compressors[c], 50, bad[i], (int)i % 2);
            if (i == 1) check_bad_row(&f, &compressors[c], 16388, bad[i], (int)c % 2);
        }
    close_fixture(&f);
}

/* Bytes with any value, every one of the last that holds codes and of a scale's: what the CPU refuses is reported, and
 * what it takes has its values. */
static void check_any_byte(fixture *f, const hyb_compressor *c, size_t n_cols) {
    buffers b = make_buffers(f, c, 1, n_cols, 0);
    uint64_t seed = n_cols;
    size_t n_scales = c->block_size != 0 ? (n_cols + (size_t)c->block_size - 1) / (size_t)c->block_size : 1;
    random_gradient(&seed, b.gradient, b.n);
    CHECK_OK(hyb_compress(f->ctx, c, b.gradient, 1, n_cols, NULL, b.bytes, NULL, NULL));
    for (size_t i = 0; i < b.n_bytes; ++i)
        for (unsigned value = 0; value < 256; value += i + 2 * n_scales + 1 == b.n_bytes ? 1
                                                       : i + 1 == b.n_bytes              ? 3
                                                                                         : 41) {
            uint8_t before = b.bytes[i];
            b.bytes[i] = (uint8_t)value;
            CHECK_OK(hyb_cuda_upload(f->cuda, b.bytes, b.n_bytes, b.on_bytes, 0));
            hyb_status expected = hyb_decompress(f->ctx, c, b.bytes, b.n_bytes, 1, n_cols, b.values);
            CHECK_OK(hyb_cuda_decompress(f->cuda, c, b.on_bytes, b.n_bytes, 1, n_cols, b.on_values, 0));
            CHECK_STATUS(hyb_cuda_synchronize(f->cuda, 0), expected);
            if (expected == HYB_OK) CHECK(same_floats(f, &b, b.on_values, b.values));
            b.bytes[i] = before;
        }
    free_buffers(f, &b, 0);
}

static void test_decompress_any_byte(void) {
    fixture f = open_fixture();
    for (size_t n_cols = 33; n_cols <= 36; ++n_cols) check_any_byte(&f, &compressors[n_cols % N_COMPRESSORS], n_cols);
    for (size_t n_cols = 21; n_cols <= 25; ++n_cols) check_any_byte(&f, &compressors[n_cols % 2 ? 0 : 3], n_cols);
    close_fixture(&f);
}

static void test_compress_arguments(void) {
    fixture f = open_fixture();
    const hyb_compressor row = {HYB_COMPRESSION_ROW, 0}, none = {9, 0}, odd = {HYB_COMPRESSION_BLOCK, 48};
    hyb_device_address a = on_device(&f, NULL, 4096);
#define REFUSES(call) CHECK_STATUS(call, HYB_ERROR_INVALID_ARGUMENT)
    REFUSES(hyb_cuda_compress(NULL, &row, a, 2, 2, a, a, a, 0));
    REFUSES(hyb_cuda_compress(f.cuda, NULL, a, 2, 2, a, a, a, 0));
    REFUSES(hyb_cuda_compress(f.cuda, &row, 0, 2, 2, a, a, a, 0));
    REFUSES(hyb_cuda_compress(f.cuda, &row, a, 0, 2, a, a, a, 0));
    REFUSES(hyb_cuda_compress(f.cuda, &row, a, (size_t)1 << 31, 2, a, a, a, 0));
    REFUSES(hyb_cuda_compress(f.cuda, &none, a, 2, 2, a, a, a, 0));
    REFUSES(hyb_cuda_compress(f.cuda, &odd, a, 2, 2, a, a, a, 0));
    REFUSES(hyb_cuda_decompress(NULL, &row, a, 6, 2, 2, a, 0));
    REFUSES(hyb_cuda_decompress(f.cuda, &row, a, 7, 2, 2, a, 0));
    REFUSES(hyb_cuda_decompress(f.cuda, &row, 0, 6, 2, 2, a, 0));
    REFUSES(hyb_cuda_decompress(f.cuda, &row, a, 6, 2, 2, 0, 0));
#undef REFUSES
    free_device(&f, a);
    close_fixture(&f);
}

int main(void) {
    test_compress_shapes();
    test_compress_small();
    test_compress_not_finite();
    test_decompress_any_byte();
    test_compress_arguments();
    return TEST_RESULT();
}
