/* test_pack.c - codes to bytes and back on a device against hyb_pack and hyb_unpack, and what is not of a packing. */
#include "cuda_fixture.h"

/* A tile is 5120 codes; up to its edges and behind them, and a few of every length of tail. */
static const size_t sizes[] = {1,  2,  3,  4,  5,  6,  7,    8,    9,    11,   15,
                               16, 31, 32, 33, 64, 99, 5119, 5120, 5121, 5128, 10300};
#define N_SIZES (sizeof sizes / sizeof sizes[0])

static int8_t random_code(uint64_t *seed, hyb_packing packing) {
    static const int limits[] = {0, 1, 1, 1, 3, 15, 127, 1};
    int limit = limits[packing],
        is_odd = packing == HYB_PACKING_INT1 || packing == HYB_PACKING_INT2 || packing == HYB_PACKING_INT4;
    if (is_odd) return (int8_t)(2 * (int)test_random_below(seed, (size_t)limit + 1) - limit);
    return (int8_t)((int)test_random_below(seed, 2 * (size_t)limit + 1) - limit);
}

static void random_codes(uint64_t *seed, hyb_packing packing, int8_t *codes, size_t n) {
    for (size_t i = 0; i < n; ++i) codes[i] = random_code(seed, packing);
    if (packing != HYB_PACKING_TERNARY_3OF4) return;
    for (size_t i = 0; i < n; ++i) codes[i] = codes[i] >= 0 ? 1 : -1;
    for (size_t i = 0; i < n; i += 4) codes[i + test_random_below(seed, 4)] = 0;
}

/* Both ways, at an address that is aligned and one that is not; bytes around the result stay. */
static void check_both_ways(fixture *f, hyb_packing packing, size_t n, size_t shift) {
    uint64_t seed = n * 8 + (size_t)packing;
    size_t n_bytes = hyb_packed_bytes(packing, n), n_room = n + n_bytes + 64;
    int8_t *codes = host_memory(n_room, 1), *back = host_memory(n_room, 1);
    uint8_t *expected = host_memory(n_room, 1), *bytes = host_memory(n_room, 1);
    random_codes(&seed, packing, codes, n);
    CHECK_OK(hyb_pack(f->ctx, packing, codes, n, expected));
    hyb_device_address on_codes = on_device(f, NULL, n_room), on_bytes = on_device(f, NULL, n_room);
    CHECK_OK(hyb_cuda_fill(f->cuda, on_bytes, 0x5a, n_room, 0));
    CHECK_OK(hyb_cuda_upload(f->cuda, codes, n, on_codes + shift, 0));
    CHECK_OK(hyb_cuda_pack(f->cuda, packing, on_codes + shift, n, on_bytes + shift, 0));
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    from_device(f, on_bytes, bytes, n_room);
    CHECK(memcmp(bytes + shift, expected, n_bytes) == 0);
    CHECK(bytes[n_bytes + shift] == 0x5a && (shift == 0 || bytes[shift - 1] == 0x5a));
    CHECK_OK(hyb_cuda_fill(f->cuda, on_codes, 0x5a, n_room, 0));
    CHECK_OK(hyb_cuda_unpack(f->cuda, packing, on_bytes + shift, n, on_codes + shift, 0));
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    from_device(f, on_codes, back, n_room);
    CHECK(memcmp(back + shift, codes, n) == 0);
    CHECK(back[n + shift] == 0x5a && (shift == 0 || back[shift - 1] == 0x5a));
    free_device(f, on_codes);
    free_device(f, on_bytes);
    free(codes);
    free(back);
    free(expected);
    free(bytes);
}

static void test_pack_both_ways(void) {
    fixture f = open_fixture();
    for (int packing = 1; packing <= 7; ++packing)
        for (size_t i = 0; i < N_SIZES; ++i)
            if (hyb_packed_bytes((hyb_packing)packing, sizes[i]) != 0)
                check_both_ways(&f, (hyb_packing)packing, sizes[i], i % 3);
    close_fixture(&f);
}

/* Unpacks n codes; 1 if the device says what the CPU says, and once only. */
static int agrees(fixture *f, hyb_packing packing, const uint8_t *bytes, size_t n) {
    size_t n_bytes = hyb_packed_bytes(packing, n);
    int8_t *codes = host_memory(n, 1), *back = host_memory(n, 1);
    hyb_status expected = hyb_unpack(f->ctx, packing, bytes, n, codes);
    hyb_device_address on_bytes = on_device(f, bytes, n_bytes), on_codes = on_device(f, NULL, n);
    CHECK_OK(hyb_cuda_unpack(f->cuda, packing, on_bytes, n, on_codes, 0));
    int same = hyb_cuda_synchronize(f->cuda, 0) == expected && hyb_cuda_synchronize(f->cuda, 0) == HYB_OK;
    from_device(f, on_codes, back, n);
    if (expected == HYB_OK) same &= memcmp(codes, back, n) == 0;
    free_device(f, on_bytes);
    free_device(f, on_codes);
    free(codes);
    free(back);
    return same;
}

/* Every value of a byte in the middle, and of the last one with tails of every length. */
static void test_unpack_any_byte(void) {
    fixture f = open_fixture();
    for (int p = 1; p <= 7; ++p) {
        hyb_packing packing = (hyb_packing)p;
        for (size_t n = 41; n <= 48; ++n) {
            size_t n_bytes = hyb_packed_bytes(packing, n);
            int8_t codes[48];
            uint8_t bytes[48];
            uint64_t seed = n;
            if (n_bytes == 0) continue;
            random_codes(&seed, packing, codes, n);
            CHECK_OK(hyb_pack(f.ctx, packing, codes, n, bytes));
            for (unsigned value = 0; value < 256; value += n % 3 == 0 ? 7 : 1) {
                bytes[n_bytes - 1] = (uint8_t)value;
                CHECK(agrees(&f, packing, bytes, n));
            }
            CHECK_OK(hyb_pack(f.ctx, packing, codes, n, bytes));
            for (unsigned value = 0; value < 256 && n == 48; ++value) {
                bytes[1] = (uint8_t)value;
                CHECK(agrees(&f, packing, bytes, n));
            }
        }
    }
    close_fixture(&f);
}

/* A code that has no place in its packing is reported, once. */
static void test_pack_bad_codes(void) {
    static const int8_t bad[] = {0, 2, -2, 0, 4, 14, -128, 0};
    fixture f = open_fixture();
    for (int p = 1; p <= 7; ++p) {
        hyb_packing packing = (hyb_packing)p;
        int8_t codes[5200];
        uint64_t seed = 3;
        random_codes(&seed, packing, codes, sizeof codes);
        codes[5161] = bad[p];
        if (packing == HYB_PACKING_TERNARY_3OF4) codes[5162] = 0; /* two zeros in a four */
        hyb_device_address on_codes = on_device(&f, codes, sizeof codes), on_bytes = on_device(&f, NULL, sizeof codes);
        CHECK_OK(hyb_cuda_pack(f.cuda, packing, on_codes, sizeof codes, on_bytes, 0));
        CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_FORMAT);
        CHECK(strstr(hyb_ctx_last_error(f.ctx), "packing") != NULL);
        CHECK_OK(hyb_cuda_pack(f.cuda, packing, on_codes, 5160, on_bytes, 0));
        CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
        free_device(&f, on_codes);
        free_device(&f, on_bytes);
    }
    close_fixture(&f);
}

static void test_pack_arguments(void) {
    fixture f = open_fixture();
    hyb_device_address a = on_device(&f, NULL, 64);
    CHECK_STATUS(hyb_cuda_pack(NULL, HYB_PACKING_INT8, a, 4, a, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_pack(f.cuda, (hyb_packing)0, a, 4, a, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_pack(f.cuda, (hyb_packing)8, a, 4, a, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_pack(f.cuda, HYB_PACKING_INT8, 0, 4, a, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_unpack(f.cuda, HYB_PACKING_INT8, a, 4, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_unpack(f.cuda, HYB_PACKING_TERNARY_3OF4, a, 6, a, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_pack(f.cuda, HYB_PACKING_TERNARY_3OF4, a, 6, a, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_cuda_pack(f.cuda, HYB_PACKING_INT8, 0, 0, 0, 0));
    CHECK_OK(hyb_cuda_unpack(f.cuda, HYB_PACKING_INT8, 0, 0, 0, 0));
    free_device(&f, a);
    close_fixture(&f);
}

int main(void) {
    test_pack_both_ways();
    test_unpack_any_byte();
    test_pack_bad_codes();
    test_pack_arguments();
    return TEST_RESULT();
}
