/* test_pack.c - the storage encodings: every packing at every small length round-trips, bytes are as documented, and
 * every damaged byte or tail is refused without touching the output.
 */
#include "testing.h"

#include <hybrid/quantize.h>

static const int n_packings = 6;
static const int codes_per_byte[] = {0, 4, 5, 8, 4, 2, 1};

static int8_t random_code(int packing, uint64_t *state) {
    static const int limits[] = {0, 1, 1, 1, 3, 15, 127};
    int limit = limits[packing], odd = packing >= HYB_PACKING_INT1 && packing <= HYB_PACKING_INT4;
    if (odd) return (int8_t)(2 * (int)test_random_below(state, (size_t)limit + 1) - limit);
    return (int8_t)((int)test_random_below(state, (size_t)limit * 2 + 1) - limit);
}

/* Packing then unpacking gives the codes again, in exactly hyb_packed_bytes bytes, at every length. */
static void test_round_trip(hyb_ctx *ctx) {
    uint64_t state = 5;
    for (int packing = 1; packing <= n_packings; ++packing)
        for (size_t n = 1; n < 70; ++n) {
            size_t n_bytes = hyb_packed_bytes((hyb_packing)packing, n), per_byte = (size_t)codes_per_byte[packing];
            CHECK(n_bytes == (n + per_byte - 1) / per_byte);
            int8_t *codes = test_guarded_alloc(n), *again = test_guarded_alloc(n);
            uint8_t *bytes = test_guarded_alloc(n_bytes);
            for (size_t i = 0; i < n; ++i) codes[i] = random_code(packing, &state);
            CHECK_OK(hyb_pack(ctx, (hyb_packing)packing, codes, n, bytes));
            CHECK_OK(hyb_unpack(ctx, (hyb_packing)packing, bytes, n, again));
            CHECK(memcmp(codes, again, n) == 0);
            test_guarded_free(codes, n);
            test_guarded_free(again, n);
            test_guarded_free(bytes, n_bytes);
        }
}

/* Bytes written out by hand from the documentation, tails included. */
static void test_known_bytes(hyb_ctx *ctx) {
    static const int8_t ternary[] = {-1, 0, 1, 1, 0, -1}, bits[] = {1, -1, 1}, twos[] = {-3, -1, 1, 3, 3};
    static const int8_t fours[] = {-15, 15, 1}, eights[] = {-127, 5};
    uint8_t bytes[4];
    CHECK_OK(hyb_pack(ctx, HYB_PACKING_TERNARY_2BIT, ternary, 6, bytes));
    CHECK(bytes[0] == (0 | 1 << 2 | 2 << 4 | 2 << 6) && bytes[1] == (1 | 0 << 2 | 1 << 4 | 1 << 6));
    CHECK_OK(hyb_pack(ctx, HYB_PACKING_TERNARY_BASE3, ternary, 6, bytes));
    CHECK(bytes[0] == 0 + 1 * 3 + 2 * 9 + 2 * 27 + 1 * 81 && bytes[1] == 0 + 3 + 9 + 27 + 81);
    CHECK_OK(hyb_pack(ctx, HYB_PACKING_INT1, bits, 3, bytes));
    CHECK(bytes[0] == 5);
    CHECK_OK(hyb_pack(ctx, HYB_PACKING_INT2, twos, 5, bytes));
    CHECK(bytes[0] == (0 | 1 << 2 | 2 << 4 | 3 << 6) && bytes[1] == 3);
    CHECK_OK(hyb_pack(ctx, HYB_PACKING_INT4, fours, 3, bytes));
    CHECK(bytes[0] == 0xf0 && bytes[1] == 8);
    CHECK_OK(hyb_pack(ctx, HYB_PACKING_INT8, eights, 2, bytes));
    CHECK(bytes[0] == 0x81 && bytes[1] == 5);
}

/* A code outside the format is an error that names it, wherever it stands; the bytes stay as they were. */
static void test_bad_code(hyb_ctx *ctx) {
    static const int8_t bad[] = {0, 2, -2, 0, 2, -17, -128}, good[] = {0, 0, 0, 1, 1, 1, 0};
    int8_t codes[1400];
    uint8_t bytes[1400], before[1400];
    memset(before, 0xa5, sizeof before);
    for (int packing = 1; packing <= n_packings; ++packing)
        for (size_t at = 0; at < sizeof codes; at += 233) {
            memset(codes, good[packing], sizeof codes);
            memset(bytes, 0xa5, sizeof bytes);
            codes[at] = bad[packing];
            CHECK_STATUS(hyb_pack(ctx, (hyb_packing)packing, codes, sizeof codes, bytes), HYB_ERROR_INVALID_ARGUMENT);
            CHECK(memcmp(bytes, before, sizeof bytes) == 0);
            char index[32];
            snprintf(index, sizeof index, "index %zu ", at);
            CHECK(strstr(hyb_ctx_last_error(ctx), index) != NULL);
        }
}

/* Every byte value at every length up to one byte is either what hyb_pack writes for its codes, or refused. */
static void test_every_byte(hyb_ctx *ctx) {
    for (int packing = 1; packing <= n_packings; ++packing)
        for (size_t n = 1; n <= (size_t)codes_per_byte[packing]; ++n) {
            size_t n_good = 0, expected = 1;
            for (size_t i = 0; i < n; ++i)
                expected *= packing <= 2 ? 3 : packing == 6 ? 255 : packing == 5 ? 16 : packing == 4 ? 4 : 2;
            for (unsigned value = 0; value < 256; ++value) {
                uint8_t byte = (uint8_t)value, again = 0;
                int8_t codes[8];
                memset(codes, 0x5a, sizeof codes);
                hyb_status status = hyb_unpack(ctx, (hyb_packing)packing, &byte, n, codes);
                if (status == HYB_OK) {
                    CHECK_OK(hyb_pack(ctx, (hyb_packing)packing, codes, n, &again));
                    CHECK(again == byte);
                    ++n_good;
                } else {
                    CHECK(status == HYB_ERROR_FORMAT && codes[0] == 0x5a);
                }
                for (size_t i = n; i < sizeof codes; ++i) CHECK(codes[i] == 0x5a);
            }
            CHECK(n_good == expected);
        }
}

/* Invalid arguments give a status; nothing to do is fine. */
/* Three of four: round trips at every length, a known byte, and what it refuses. */
static void test_three_of_four(hyb_ctx *ctx) {
    const hyb_packing packing = HYB_PACKING_TERNARY_3OF4;
    uint64_t state = 9;
    for (size_t n = 0; n <= 132; n += 4) {
        size_t n_bytes = hyb_packed_bytes(packing, n);
        int8_t *codes = malloc(n + 1), *again = malloc(n + 1);
        uint8_t *bytes = malloc(n_bytes + 1);
        CHECK(n_bytes == (n / 4 * 5 + 7) / 8);
        for (size_t i = 0; i < n; i++) codes[i] = (test_random(&state) & 1) != 0 ? 1 : -1;
        for (size_t i = 0; i < n; i += 4) codes[i + test_random(&state) % 4] = 0;
        bytes[n_bytes] = 0x5a;
        CHECK_OK(hyb_pack(ctx, packing, codes, n, bytes));
        CHECK(bytes[n_bytes] == 0x5a);
        CHECK_OK(hyb_unpack(ctx, packing, bytes, n, again));
        CHECK(memcmp(codes, again, n) == 0);
        for (size_t i = 0; i < n; i += 4) { /* two zeros, then none */
            int8_t old = codes[i], old_next = codes[i + 1];
            codes[i] = codes[i + 1] = 0;
            CHECK_STATUS(hyb_pack(ctx, packing, codes, n, bytes), HYB_ERROR_INVALID_ARGUMENT);
            codes[i] = old != 0 ? old : 1;
            codes[i + 1] = old_next != 0 ? old_next : 1;
            if (codes[i + 2] != 0 && codes[i + 3] != 0)
                CHECK_STATUS(hyb_pack(ctx, packing, codes, n, bytes), HYB_ERROR_INVALID_ARGUMENT);
            codes[i] = old;
            codes[i + 1] = old_next;
        }
        if (n / 4 * 5 % 8 != 0) { /* a bit behind the last code */
            CHECK_OK(hyb_pack(ctx, packing, codes, n, bytes));
            bytes[n_bytes - 1] |= 0x80;
            CHECK_STATUS(hyb_unpack(ctx, packing, bytes, n, again), HYB_ERROR_FORMAT);
        }
        free(bytes);
        free(again);
        free(codes);
    }
    const int8_t known[8] = {1, -1, 0, 1, 0, -1, -1, 1};
    const int8_t outside[4] = {2, 0, 1, 1};
    int8_t codes[8];
    uint8_t bytes[2];
    CHECK_OK(hyb_pack(ctx, packing, known, 8, bytes)); /* place 2, signs + - +; place 0, signs - - + */
    CHECK(bytes[0] == (uint8_t)(2 | 5 << 2 | (0 | 4 << 2) << 5) && bytes[1] == (4 << 2) >> 3);
    CHECK_STATUS(hyb_pack(ctx, packing, outside, 4, bytes), HYB_ERROR_INVALID_ARGUMENT);
    for (size_t n = 1; n < 8; n += n % 4 == 3 ? 2 : 1) {
        CHECK(hyb_packed_bytes(packing, n) == 0);
        CHECK_STATUS(hyb_pack(ctx, packing, known, n, bytes), HYB_ERROR_INVALID_ARGUMENT);
        CHECK_STATUS(hyb_unpack(ctx, packing, bytes, n, codes), HYB_ERROR_INVALID_ARGUMENT);
    }
}

static void test_arguments(hyb_ctx *ctx) {
    int8_t code = 0;
    uint8_t byte = 0;
    CHECK(hyb_packed_bytes((hyb_packing)0, 5) == 0 && hyb_packed_bytes((hyb_packing)8, 5) == 0);
    CHECK(hyb_packed_bytes(HYB_PACKING_TERNARY_BASE3, SIZE_MAX) == SIZE_MAX / 5); /* 5 divides 2^64 - 1 and 2^32 - 1 */
    CHECK_STATUS(hyb_pack(ctx, (hyb_packing)0, &code, 1, &byte), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_unpack(ctx, (hyb_packing)9, &byte, 1, &code), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_pack(ctx, HYB_PACKING_INT8, NULL, 1, &byte), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_unpack(ctx, HYB_PACKING_INT8, &byte, 1, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_pack(NULL, (hyb_packing)0, &code, 1, &byte), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_pack(ctx, HYB_PACKING_INT8, NULL, 0, NULL));
    CHECK_OK(hyb_unpack(ctx, HYB_PACKING_INT8, NULL, 0, NULL));
}

int main(void) {
    hyb_ctx *ctx = NULL;
    CHECK_OK(hyb_ctx_create(NULL, &ctx));
    test_round_trip(ctx);
    test_known_bytes(ctx);
    test_bad_code(ctx);
    test_every_byte(ctx);
    test_three_of_four(ctx);
    test_arguments(ctx);
    hyb_ctx_destroy(ctx);
    return TEST_RESULT();
}
