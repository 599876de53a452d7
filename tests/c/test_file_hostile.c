/* test_file_hostile.c - .hyb files that are not as they should be: cut at every length, every bit flipped, and, with
 * checksums made right again, every field at extreme values, gaps that are not zero, packed bytes that no writer makes,
 * names of all bad kinds, random damage. Each gives a status; nothing reads a byte outside the file (every copy ends at
 * an unreadable page).
 */
#include "file_fixture.h"

static hyb_ctx *ctx;
static uint8_t *good; /* the fixture as a file, with a tokenizer section of 35 bytes, so that every gap exists */
static size_t n_good;

/* Opens a copy of bytes that ends at an unreadable page, walks over it if it opens, and returns the status. */
static hyb_status open_copy(const uint8_t *bytes, size_t n_bytes) {
    hyb_file *file = NULL;
    uint8_t *copy = test_guarded_alloc(n_bytes);
    memcpy(copy, bytes, n_bytes);
    hyb_status status = hyb_file_open_memory(ctx, copy, n_bytes, &file);
    CHECK((status == HYB_OK) == (file != NULL));
    if (status != HYB_OK) CHECK(hyb_ctx_last_error(ctx)[0] != '\0');
    if (file != NULL) (void)fixture_walk(file);
    hyb_file_close(file);
    test_guarded_free(copy, n_bytes);
    return status;
}

/* The status of the good file with `n` bytes replaced at `offset`, its checksums made right again. */
static hyb_status open_patched(size_t offset, const void *patch, size_t n) {
    uint8_t *copy = malloc(n_good);
    memcpy(copy, good, n_good);
    memcpy(copy + offset, patch, n);
    fixture_seal(copy, n_good);
    hyb_status status = open_copy(copy, n_good);
    free(copy);
    return status;
}

static hyb_status open_with_byte(size_t offset, unsigned value) {
    uint8_t byte = (uint8_t)value;
    return open_patched(offset, &byte, 1);
}

/* ---- accidents ---- */

/* A file cut at any length is TRUNCATED, from memory and from the disk. */
static void test_every_truncation(void) {
    for (size_t n = 0; n < n_good; ++n) {
        hyb_file *file = NULL;
        CHECK_STATUS(open_copy(good, n), HYB_ERROR_TRUNCATED);
        test_write_file(test_path("cut.hyb"), good, n);
        CHECK_STATUS(hyb_file_open(ctx, test_path("cut.hyb"), &file), HYB_ERROR_TRUNCATED);
        CHECK(strstr(hyb_ctx_last_error(ctx), "cut.hyb") != NULL);
    }
    CHECK_OK(open_copy(good, n_good));
    uint8_t *longer = calloc(1, n_good + 64);
    memcpy(longer, good, n_good);
    for (size_t n = n_good + 1; n <= n_good + 64; ++n) CHECK_STATUS(open_copy(longer, n), HYB_ERROR_FORMAT);
    free(longer);
}

/* Any single flipped bit is found: in the magic bytes as FORMAT, elsewhere as CHECKSUM. */
static void test_every_flipped_bit(void) {
    uint8_t *copy = malloc(n_good);
    memcpy(copy, good, n_good);
    for (size_t bit = 0; bit < n_good * 8; ++bit) {
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK_STATUS(open_copy(copy, n_good), bit < 64 ? HYB_ERROR_FORMAT : HYB_ERROR_CHECKSUM);
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(copy);
}

/* ---- malice, with checksums that are right ---- */

static const uint64_t extremes[] = {
    0,
    1,
    2,
    3,
    7,
    8,
    31,
    32,
    63,
    64,
    127,
    128,
    129,
    255,
    256,
    0x7fff,
    0x8000,
    0xffff,
    0x10000,
    0x7fffffff,
    0x80000000,
    0xfffffff8,
    0xffffffff,
    0x100000000,
    0x1fffffffffffffff,
    0x2000000000000000,
    0x3fffffffffffffff,
    0x4000000000000000,
    0x7fffffffffffffe0,
    0x7fffffffffffffff,
    0x8000000000000000,
    0xffffffffffffff80,
    0xffffffffffffffe0,
    0xfffffffffffffff8,
    0xffffffffffffffff,
};
#define N_EXTREMES (sizeof extremes / sizeof extremes[0])

/* Value k of a field: the extremes, and the neighbourhood and multiples of what it holds. */
static uint64_t field_value(uint64_t now, size_t k) {
    static const int64_t steps[] = {-64, -32, -8, -1, 1, 8, 32, 64};
    if (k < N_EXTREMES) return extremes[k];
    k -= N_EXTREMES;
    if (k < 8) return now + (uint64_t)steps[k];
    return k == 8 ? now * 2 : now + ((uint64_t)1 << 32);
}
#define N_FIELD_VALUES (N_EXTREMES + 10)

/* Some other values are as good as the right one: a section that takes in the zeros behind it, a matrix whose last byte
 * holds more codes 0. */
static int is_harmless(size_t offset, uint64_t now, uint64_t value) {
    if (offset == HYB_HEADER_TOKENIZER + 8 || offset == HYB_HEADER_METADATA + 8)
        return value > now && value <= (now + 7) / 8 * 8;
    if (offset < HYB_HEADER_BYTES) return 0;
    size_t directory = (size_t)hyb_load_u64(good + HYB_HEADER_DIRECTORY), at = (offset - directory) % HYB_ENTRY_BYTES;
    const uint8_t *entry = good + offset - at;
    hyb_packing packing = (hyb_packing)entry[HYB_ENTRY_PACKING];
    if (at != HYB_ENTRY_COLS || packing == 0 || value > 1000) return 0;
    size_t n_rows = hyb_load_u32(entry + HYB_ENTRY_ROWS);
    return value > now &&
           hyb_packed_bytes(packing, n_rows * (size_t)value) == hyb_packed_bytes(packing, n_rows * (size_t)now);
}

/* Sets a field of `width` bytes to every value; each that is not as good as the right one must give `expected`. */
static void check_field(size_t offset, size_t width, hyb_status expected) {
    uint8_t bytes[8] = {0}, now_bytes[8] = {0};
    memcpy(now_bytes, good + offset, width);
    uint64_t now = hyb_load_u64(now_bytes);
    for (size_t k = 0; k < N_FIELD_VALUES; ++k) {
        hyb_store_u64(bytes, field_value(now, k));
        if (memcmp(bytes, now_bytes, width) == 0) continue;
        hyb_status status = open_patched(offset, bytes, width);
        memset(bytes + width, 0, sizeof bytes - width);
        if (status == HYB_OK && is_harmless(offset, now, hyb_load_u64(bytes))) continue;
        if (status != expected) fprintf(stderr, "field at %zu, value %zu: %d\n", offset, k, (int)status);
        CHECK(status == expected);
    }
}

/* Every field of the header and the directory, at every extreme value, is refused, with the harmless exceptions. */
static void test_every_field(void) {
    check_field(HYB_HEADER_HEADER_BYTES, 4, HYB_ERROR_FORMAT);
    for (size_t offset = HYB_HEADER_CONFIG; offset < HYB_HEADER_ZERO; offset += 8)
        check_field(offset, 8, HYB_ERROR_FORMAT);
    for (size_t offset = HYB_HEADER_ZERO; offset < HYB_HEADER_BODY_CRC; offset += 8)
        check_field(offset, 8, HYB_ERROR_FORMAT);
    size_t directory = (size_t)hyb_load_u64(good + HYB_HEADER_DIRECTORY);
    for (size_t entry = directory; entry < directory + FIXTURE_TENSORS * 64; entry += 64) {
        check_field(entry + HYB_ENTRY_FORMAT, 1, HYB_ERROR_FORMAT);
        check_field(entry + HYB_ENTRY_PACKING, 1, HYB_ERROR_FORMAT);
        check_field(entry + HYB_ENTRY_ZERO_A, 1, HYB_ERROR_FORMAT);
        check_field(entry + HYB_ENTRY_COLS, 4, HYB_ERROR_FORMAT);
        check_field(entry + HYB_ENTRY_ZERO_B, 4, HYB_ERROR_FORMAT);
        check_field(entry + HYB_ENTRY_OFFSET, 8, HYB_ERROR_FORMAT);
        check_field(entry + HYB_ENTRY_DATA_BYTES, 8, HYB_ERROR_FORMAT);
        check_field(entry + HYB_ENTRY_ROWS, 4, HYB_ERROR_FORMAT);
        /* One row: a scale of the tensor is a scale of its row. */
        int one_row = hyb_load_u32(good + entry + HYB_ENTRY_ROWS) == 1 && good[entry + HYB_ENTRY_FORMAT] != 0;
        if (!one_row) check_field(entry + HYB_ENTRY_GRANULARITY, 1, HYB_ERROR_FORMAT);
    }
}

/* The length in the header: larger is TRUNCATED, smaller is FORMAT; versions to come are VERSION, 0 is FORMAT. */
static void test_length_and_version(void) {
    for (size_t k = 0; k < N_FIELD_VALUES; ++k) {
        uint8_t bytes[8];
        uint64_t value = field_value(n_good, k);
        hyb_store_u64(bytes, value);
        hyb_status expected = value == n_good ? HYB_OK : value > n_good ? HYB_ERROR_TRUNCATED : HYB_ERROR_FORMAT;
        CHECK_STATUS(open_patched(HYB_HEADER_FILE_BYTES, bytes, 8), expected);
        uint32_t version = (uint32_t)field_value(1, k);
        hyb_store_u32(bytes, version);
        /* 2 holds no language model, 3 is compressed */
        expected = version == 1 ? HYB_OK : version <= 3 ? HYB_ERROR_FORMAT : HYB_ERROR_VERSION;
        CHECK_STATUS(open_patched(HYB_HEADER_VERSION, bytes, 4), expected);
    }
}

/* Fields of the configuration: accepted exactly where hyb_language_model_config_check accepts the value. */
static void test_config_fields(void) {
    for (size_t offset = HYB_HEADER_BYTES; offset < HYB_HEADER_BYTES + HYB_CONFIG_BYTES;) {
        size_t at = offset - HYB_HEADER_BYTES, width = at < 36 ? 4 : 1;
        for (size_t k = 0; k < N_FIELD_VALUES; ++k) {
            uint8_t bytes[8], b[HYB_CONFIG_BYTES];
            hyb_store_u64(bytes, field_value(good[offset], k));
            memcpy(b, good + HYB_HEADER_BYTES, sizeof b);
            memcpy(b + at, bytes, width);
            hyb_language_model_config c = {
                .struct_size = sizeof c,
                .vocab_size = hyb_load_u32(b),
                .dim = hyb_load_u32(b + 4),
                .n_layers = hyb_load_u32(b + 8),
                .n_heads = hyb_load_u32(b + 12),
                .n_kv_heads = hyb_load_u32(b + 16),
                .ffn_dim = hyb_load_u32(b + 20),
                .max_context = hyb_load_u32(b + 24),
                .rope_theta = hyb_float_of(hyb_load_u32(b + 28)),
                .norm_epsilon = hyb_float_of(hyb_load_u32(b + 32)),
                .activation = b[36],
                .sub_norms = b[37],
                .tied_embeddings = b[38],
                .linear_format = b[39],
                .linear_granularity = b[40],
                .linear_threshold = b[41],
                .embedding_format = b[42],
            };
            int valid = hyb_language_model_config_check(ctx, &c) == HYB_OK;
            if (at >= HYB_CONFIG_ZERO) valid = bytes[0] == 0;
            CHECK_STATUS(open_patched(offset, bytes, width), valid ? HYB_OK : HYB_ERROR_FORMAT);
        }
        offset += width;
    }
}

/* Every byte between the sections and between the tensors must be zero, and each belongs to exactly one part. */
static void test_every_gap(void) {
    hyb_file *file = NULL;
    uint8_t *used = calloc(1, n_good);
    size_t n_bytes = 0, n_gaps = 0;
    CHECK_OK(hyb_file_open_memory(ctx, good, n_good, &file));
    memset(used, 1, HYB_HEADER_BYTES + HYB_CONFIG_BYTES);
    const uint8_t *section = hyb_file_tokenizer(file, &n_bytes);
    memset(used + (section - good), 1, n_bytes);
    section = (const uint8_t *)hyb_file_metadata(file, &n_bytes);
    memset(used + (section - good), 1, n_bytes);
    memset(used + hyb_load_u64(good + HYB_HEADER_DIRECTORY), 1, FIXTURE_TENSORS * 64);
    for (size_t t = 0; t < FIXTURE_TENSORS; ++t) {
        hyb_file_tensor tensor;
        CHECK_OK(hyb_file_tensor_at(file, t, &tensor));
        size_t begin = (size_t)((const uint8_t *)tensor.payload - good);
        for (size_t i = 0; i < tensor.payload_bytes + 2 * tensor.n_scales; ++i) CHECK(++used[begin + i] == 1);
    }
    hyb_file_close(file);
    for (size_t i = 0; i < n_good; ++i) {
        if (used[i]) continue;
        ++n_gaps;
        for (int bit = 0; bit < 8; ++bit) CHECK_STATUS(open_with_byte(i, 1u << bit), HYB_ERROR_FORMAT);
    }
    CHECK(n_gaps > 100); /* tokenizer, metadata, and every tensor but the last leave one */
    free(used);
}

/* The file with a rectangle of bytes replaced; and where a tensor's data, and its directory entry, lie. */
static size_t entry_of(size_t index) { return (size_t)hyb_load_u64(good + HYB_HEADER_DIRECTORY) + index * 64; }
static size_t data_of(size_t index) { return (size_t)hyb_load_u64(good + entry_of(index) + HYB_ENTRY_OFFSET); }

/* Accepted and refused values of one byte: `valid` says which. */
static void check_byte(size_t offset, int (*valid)(unsigned value)) {
    for (unsigned value = 0; value < 256; ++value)
        CHECK_STATUS(open_with_byte(offset, value), valid(value) ? HYB_OK : HYB_ERROR_FORMAT);
}

static int valid_base3(unsigned value) { return value < 243; }
static int valid_base3_tail_1(unsigned value) { return value < 243 && value / 3 == 1 + 3 + 9 + 27; }
static int valid_base3_tail_2(unsigned value) { return value < 243 && value / 9 == 1 + 3 + 9; }
static int valid_int1_tail_7(unsigned value) { return value < 128; }
static int valid_int2_tail_2(unsigned value) { return value < 16; }
static int valid_int4_tail_1(unsigned value) { return value < 16; }
static int valid_int8(unsigned value) { return value != 128; }
static int valid_any(unsigned value) { return value < 256; }
/* The high byte of a binary16 scale whose low byte is 0, and of an fp32 value whose next byte has its top bit set. */
static int valid_half(unsigned value) { return (value & 0x7c) != 0x7c; }
static int valid_float(unsigned value) { return (value & 0x7f) != 0x7f; }

/* Each byte of packed data, at all 256 values: only those that the writer makes are accepted. */
static void test_packed_bytes(void) {
    check_byte(data_of(2), valid_base3);
    check_byte(data_of(2) + 3, valid_base3);
    check_byte(data_of(2) + 4, valid_base3_tail_1);  /* 21 codes */
    check_byte(data_of(3) + 10, valid_base3_tail_2); /* 52 codes */
    check_byte(data_of(4), valid_any);
    check_byte(data_of(4) + 1, valid_int1_tail_7); /* 15 codes */
    check_byte(data_of(5) + 1, valid_any);
    check_byte(data_of(5) + 2, valid_int2_tail_2); /* 10 codes */
    check_byte(data_of(6) + 3, valid_any);
    check_byte(data_of(6) + 4, valid_int4_tail_1); /* 9 codes */
    check_byte(data_of(7), valid_int8);
    check_byte(data_of(7) + 32, valid_int8);
    check_byte(data_of(2) + 5 + 1, valid_half);
    for (size_t row = 0; row < 3; ++row) check_byte(data_of(7) + 33 + 2 * row + 1, valid_half);
    uint8_t value[4] = {0, 0, 0x80, 0};
    for (unsigned top = 0; top < 256; ++top) {
        value[3] = (uint8_t)top;
        CHECK_STATUS(open_patched(data_of(0) + 24, value, 4), valid_float(top) ? HYB_OK : HYB_ERROR_FORMAT);
    }
}

/* Ternary in 2 bits, which the writer does not use, is read; its invalid pair and tails are refused. */
static void test_two_bit_ternary(void) {
    fixture f;
    size_t n = 0;
    fixture_init(&f);
    f.sources[2].n_rows = 1;
    f.sources[2].n_cols = 3; /* one byte in either packing */
    uint8_t *bytes = fixture_bytes(ctx, &f.contents, &n);
    size_t entry = (size_t)hyb_load_u64(bytes + HYB_HEADER_DIRECTORY) + 2 * 64;
    size_t data = (size_t)hyb_load_u64(bytes + entry + HYB_ENTRY_OFFSET);
    bytes[entry + HYB_ENTRY_PACKING] = HYB_PACKING_TERNARY_2BIT;
    for (unsigned value = 0; value < 256; ++value) {
        int valid = (value & 3) != 3 && (value >> 2 & 3) != 3 && (value >> 4 & 3) != 3 && value >> 6 == 1;
        bytes[data] = (uint8_t)value;
        fixture_seal(bytes, n);
        CHECK_STATUS(open_copy(bytes, n), valid ? HYB_OK : HYB_ERROR_FORMAT);
    }
    free(bytes);
}

/* Names: empty, twice, not ended, not ASCII, with bytes behind the zero. */
static void test_names(void) {
    char name[32];
    memset(name, 0, sizeof name);
    CHECK_STATUS(open_patched(entry_of(1), name, 32), HYB_ERROR_FORMAT);
    CHECK_STATUS(open_patched(entry_of(1), good + entry_of(7), 32), HYB_ERROR_FORMAT);
    memset(name, 'x', sizeof name);
    CHECK_STATUS(open_patched(entry_of(1), name, 32), HYB_ERROR_FORMAT);
    name[31] = '\0';
    CHECK_OK(open_patched(entry_of(1), name, 32));
    for (unsigned value = 1; value < 256; ++value) {
        name[30] = (char)value;
        CHECK_STATUS(open_patched(entry_of(1), name, 32), value > 0x20 && value < 0x7f ? HYB_OK : HYB_ERROR_FORMAT);
        CHECK_STATUS(open_with_byte(entry_of(1) + 31, value), HYB_ERROR_FORMAT);
    }
}

/* Two entries exchanged, data shared, no entries at all: the directory describes the data in order, once. */
static void test_directory_order(void) {
    uint8_t entries[128];
    memcpy(entries, good + entry_of(5), 64);
    memcpy(entries + 64, good + entry_of(4), 64);
    CHECK_STATUS(open_patched(entry_of(4), entries, 128), HYB_ERROR_FORMAT);
    CHECK_STATUS(open_patched(entry_of(3) + HYB_ENTRY_OFFSET, good + entry_of(2) + HYB_ENTRY_OFFSET, 8),
                 HYB_ERROR_FORMAT);
    memset(entries, 0, sizeof entries);
    CHECK_STATUS(open_patched(entry_of(7), entries, 64), HYB_ERROR_FORMAT);
}

/* Random damage with right checksums: a status, or a file whose every byte can be read. */
static void test_random_damage(void) {
    uint64_t seed = 7;
    uint8_t *copy = malloc(n_good);
    size_t n_opened = 0;
    for (int round = 0; round < 20000; ++round) {
        memcpy(copy, good, n_good);
        size_t n_changes = 1 + test_random_below(&seed, 4), end = round % 2 ? n_good : data_of(0);
        for (size_t i = 0; i < n_changes; ++i) {
            size_t offset = 8 + test_random_below(&seed, end - 16), width = (size_t)1 << test_random_below(&seed, 4);
            uint8_t bytes[8];
            hyb_store_u64(bytes, round % 3 ? test_random(&seed) : extremes[test_random_below(&seed, N_EXTREMES)]);
            memcpy(copy + offset, bytes, width);
        }
        fixture_seal(copy, n_good);
        n_opened += open_copy(copy, n_good) == HYB_OK;
    }
    printf("random damage: %zu of 20000 files still opened\n", n_opened);
    free(copy);
}

int main(void) {
    fixture f;
    test_folder_make();
    CHECK_OK(hyb_ctx_create(NULL, &ctx));
    fixture_init(&f);
    memset(f.tokenizer + 32, 0xff, 3);
    f.contents.tokenizer_bytes = 35;
    good = fixture_bytes(ctx, &f.contents, &n_good);
    if (n_good > 0) {
        test_every_truncation();
        test_every_flipped_bit();
        test_every_field();
        test_length_and_version();
        test_config_fields();
        test_every_gap();
        test_packed_bytes();
        test_two_bit_ternary();
        test_names();
        test_directory_order();
        test_random_damage();
    }
    free(good);
    hyb_ctx_destroy(ctx);
    test_folder_count(1);
    test_folder_remove();
    return TEST_RESULT();
}
