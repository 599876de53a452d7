/* test_file_compressed.c - compressed .hyb files (format version 3): the golden file, originals back bit for bit, sizes
 * and the limit of expansion, files replaced at once; cut at every length, every bit flipped, every byte of the body at
 * random with checksums made right: a status each time, never an access outside, never other contents unseen.
 */
#include "file_fixture.h"

#include <math.h>

#include "failing_allocator.h"
#include "file_open.h"

static hyb_ctx *ctx;

/* The compressed form of bytes, from malloc. */
static uint8_t *compress(const uint8_t *bytes, size_t n, size_t *n_compressed) {
    uint8_t *to = malloc(n + 1);
    *n_compressed = 0;
    CHECK_OK(hyb_file_compress_memory(ctx, bytes, n, to, n, n_compressed));
    return to;
}

/* Compresses and expands; what comes back is what was given. Returns the compressed length. */
static size_t check_round_trip(const uint8_t *bytes, size_t n) {
    size_t n_compressed, n_back = 0;
    uint8_t *compressed = compress(bytes, n, &n_compressed), *back = malloc(n);
    CHECK(n_compressed <= n);
    CHECK_STATUS(hyb_file_expand_memory(ctx, compressed, n_compressed, NULL, 0, &n_back), HYB_ERROR_TOO_SMALL);
    CHECK(n_back == n);
    CHECK_OK(hyb_file_expand_memory(ctx, compressed, n_compressed, back, n, &n_back));
    CHECK(n_back == n && memcmp(back, bytes, n) == 0);
    free(back);
    free(compressed);
    return n_compressed;
}

/* ---- what is compressed ---- */

static int8_t skewed_code(int format, double p_zero, uint64_t *state) {
    if ((double)(test_random(state) >> 11) * 0x1p-53 < p_zero &&
        (format == HYB_FORMAT_TERNARY || format == HYB_FORMAT_INT8))
        return 0;
    if (format == HYB_FORMAT_TERNARY) return test_random(state) & 1 ? 1 : -1;
    int sum = 0;
    for (int k = 0; k < 4; ++k) sum += (int)test_random_below(state, 60) - 30; /* a bell */
    static const int limits[] = {0, 1, 1, 3, 15, 127};
    int limit = limits[format], code = format == HYB_FORMAT_INT8 ? sum : sum / 8;
    code = code > limit ? limit : code < -limit ? -limit : code;
    if (format != HYB_FORMAT_INT8 && (code & 1) == 0) code += code < limit ? 1 : -1;
    return (int8_t)code;
}

/* A file of the fixture's, with one more tensor; in memory from malloc. */
static uint8_t *file_with(int format, uint32_t n_rows, uint32_t n_cols, const int8_t *codes, const float *values,
                          size_t *n) {
    fixture f;
    float *scales = malloc(n_rows * sizeof *scales);
    hyb_file_source sources[FIXTURE_TENSORS + 1];
    fixture_init(&f);
    memcpy(sources, f.sources, sizeof f.sources);
    for (size_t i = 0; i < n_rows; ++i) scales[i] = 0.5f;
    sources[FIXTURE_TENSORS] =
        (hyb_file_source){"large", format, HYB_SCALE_PER_ROW, n_rows, n_cols, values, codes, scales};
    f.contents.tensors = sources;
    f.contents.n_tensors = FIXTURE_TENSORS + 1;
    uint8_t *bytes = fixture_bytes(ctx, &f.contents, n);
    free(scales);
    return bytes;
}

/* Every format, skew and tail; the coded tensor is near its entropy. */
static void test_round_trips(void) {
    static const double shares[] = {0.1, 1.0 / 3, 0.5, 0.9, 1};
    static const uint32_t columns[] = {1, 3, 64, 799, 12801};
    uint64_t state = 3;
    for (int format = HYB_FORMAT_TERNARY; format <= HYB_FORMAT_INT8; ++format)
        for (size_t c = 0; c < sizeof columns / sizeof *columns; ++c)
            for (size_t s = 0; s < sizeof shares / sizeof *shares; ++s) {
                size_t n = 0, n_codes = 5 * (size_t)columns[c];
                int8_t *codes = malloc(n_codes);
                for (size_t i = 0; i < n_codes; ++i) codes[i] = skewed_code(format, shares[s], &state);
                uint8_t *bytes = file_with(format, 5, columns[c], codes, NULL, &n);
                size_t n_compressed = check_round_trip(bytes, n);
                hyb_file *file = NULL;
                hyb_file_coding coding;
                hyb_file_tensor tensor;
                CHECK_OK(hyb_file_open_memory(ctx, bytes, n, &file));
                CHECK_OK(hyb_file_tensor_coding(file, FIXTURE_TENSORS, &coding));
                CHECK_OK(hyb_file_tensor_at(file, FIXTURE_TENSORS, &tensor));
                size_t n_zeros = 0;
                for (size_t i = 0; i < n_codes; ++i) n_zeros += codes[i] == 0;
                CHECK(coding.n_zeros == n_zeros && coding.coded_bits <= 8.0 * (double)tensor.payload_bytes);
                CHECK(coding.coded_bits + 24 >= coding.entropy_bits * 0.999 || format != HYB_FORMAT_TERNARY);
                if (format == HYB_FORMAT_TERNARY)
                    CHECK(coding.coded_bits <=
                          fmin(1.005 * coding.entropy_bits + 8 * 16, 8.0 * (double)tensor.payload_bytes));
                CHECK((double)n_compressed <= 600 + coding.coded_bits / 8 + 3 * 64);
                hyb_file_close(file);
                free(bytes);
                free(codes);
            }
}

/* Floats that binary16 holds take half, others stay; signs of zeros and subnormals survive. */
static void test_floats(void) {
    float values[6000];
    size_t n = 0, n_half, n_full;
    for (size_t i = 0; i < 6000; ++i) values[i] = i % 3 == 0 ? -0.0f : (float)(i % 2000) * 0.25f;
    values[7] = 0x1p-24f;
    values[8] = -65504.0f;
    uint8_t *bytes = file_with(HYB_FORMAT_F32, 60, 100, NULL, values, &n);
    n_half = check_round_trip(bytes, n);
    free(bytes);
    values[5999] = 0x1p-25f;
    bytes = file_with(HYB_FORMAT_F32, 60, 100, NULL, values, &n);
    n_full = check_round_trip(bytes, n);
    CHECK(n_full == n_half + 12000);
    free(bytes);
}

/* A tensor whose halves differ is coded in groups; ternary in 2 bits, which the writer does not make, comes back too.
 */
static void test_groups_and_two_bits(void) {
    const uint32_t n_cols = 200000;
    uint64_t state = 5;
    int8_t *codes = malloc(2 * n_cols);
    size_t n = 0;
    for (size_t i = 0; i < 2 * n_cols; ++i) codes[i] = skewed_code(HYB_FORMAT_TERNARY, i < n_cols ? 0.4 : 0.7, &state);
    uint8_t *bytes = file_with(HYB_FORMAT_TERNARY, 2, n_cols, codes, NULL, &n);
    hyb_file *file = NULL;
    hyb_file_coding coding;
    CHECK_OK(hyb_file_open_memory(ctx, bytes, n, &file));
    CHECK_OK(hyb_file_tensor_coding(file, FIXTURE_TENSORS, &coding));
    CHECK(coding.kind == HYB_CODING_ENTROPY && coding.n_groups > 1 && coding.coded_bits < coding.entropy_bits);
    CHECK_STATUS(hyb_file_tensor_coding(file, FIXTURE_TENSORS + 1, &coding), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_tensor_coding(file, 0, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_tensor_coding(NULL, 0, &coding), HYB_ERROR_INVALID_ARGUMENT);
    hyb_file_close(file);
    CHECK(check_round_trip(bytes, n) < n);
    free(bytes);
    fixture f;
    fixture_init(&f);
    f.sources[2].n_rows = 1;
    f.sources[2].n_cols = 3; /* one byte in either packing */
    bytes = fixture_bytes(ctx, &f.contents, &n);
    size_t entry = (size_t)hyb_load_u64(bytes + HYB_HEADER_DIRECTORY) + 2 * 64;
    bytes[entry + HYB_ENTRY_PACKING] = HYB_PACKING_TERNARY_2BIT;
    bytes[hyb_load_u64(bytes + entry + HYB_ENTRY_OFFSET)] = 0x64;
    fixture_seal(bytes, n);
    check_round_trip(bytes, n);
    free(bytes);
    free(codes);
}

/* A model of zeros is not compressed beyond the limit of expansion, and so can be opened. */
static void test_limit(void) {
    const uint32_t n_cols = 4000000;
    int8_t *codes = calloc(5, n_cols);
    size_t n = 0, n_compressed;
    uint8_t *bytes = file_with(HYB_FORMAT_TERNARY, 5, n_cols, codes, NULL, &n);
    n_compressed = check_round_trip(bytes, n);
    CHECK(n <= n_compressed * HYB_FILE_EXPANSION + 65536);
    free(bytes);
    bytes = file_with(HYB_FORMAT_TERNARY, 5, 10000, codes, NULL, &n); /* below what is free */
    CHECK(check_round_trip(bytes, n) < 700);
    free(bytes);
    free(codes);
}

/* ---- reading ---- */

static uint8_t *read_data(const char *name, size_t *n) {
    const char *folder = getenv("HYB_TEST_DATA");
    char path[1024];
    if (folder == NULL) fprintf(stderr, "set HYB_TEST_DATA to the folder tests/data\n");
    snprintf(path, sizeof path, "%s/%s", folder != NULL ? folder : ".", name);
    return test_read_file(path, n);
}

/* The golden file, by a recipe with a coder of its own, opens and gives its original, whose checksum it holds. */
static void test_golden(void) {
    size_t n = 0, n_original = 0;
    hyb_file *file = NULL;
    hyb_file_tensor t;
    uint8_t *golden = read_data("golden_v3.hyb", &n), original[8192];
    CHECK(golden != NULL);
    CHECK_OK(hyb_file_open_memory(ctx, golden, n, &file));
    if (file == NULL) return;
    CHECK(hyb_file_version(file) == 3 && hyb_file_bytes(file) == n);
    CHECK(hyb_file_architecture(file) == HYB_ARCHITECTURE_LANGUAGE_MODEL);
    CHECK(hyb_file_tensor_count(file) == 8);
    CHECK(fixture_walk(file) != 0);
    CHECK_OK(hyb_file_tensor_named(file, "layers.0.zero", &t));
    CHECK(t.n_rows == 7 && t.n_cols == 10 && t.payload_bytes == 14);
    for (size_t i = 0; i < 14; ++i) CHECK(((const uint8_t *)t.payload)[i] == 121);
    CHECK_OK(hyb_file_tensor_named(file, "layers.0.norm", &t));
    for (size_t i = 0; i < 9; ++i)
        CHECK(hyb_float_of(hyb_load_u32((const uint8_t *)t.payload + 4 * i)) == ((float)i - 3) * 0.25f);
    CHECK_OK(hyb_file_tensor_named(file, "layers.0.gate", &t));
    CHECK(hyb_crc32c(0, t.payload, t.payload_bytes) == 0xae3bd2d5u);
    CHECK_OK(hyb_file_expand_memory(ctx, golden, n, original, sizeof original, &n_original));
    CHECK(n_original == hyb_file_expanded_bytes(file) && n_original > n);
    CHECK(hyb_crc32c(0, original, n_original) == 0x9cf656fau);
    check_round_trip(original, n_original);
    hyb_file_close(file);
    free(golden);
}

/* The two older golden files are compressed to these very bytes, on every machine. */
static void test_known_bytes(void) {
    static const struct {
        const char *name;
        uint32_t crc;
    } cases[] = {{"golden_v1.hyb", 0xd94f38c8u}, {"golden_v2.hyb", 0x3c444693u}};
    for (size_t i = 0; i < 2; ++i) {
        size_t n = 0, n_compressed = 0;
        uint8_t *bytes = read_data(cases[i].name, &n), *compressed = compress(bytes, n, &n_compressed);
        uint32_t crc = hyb_crc32c(0, compressed, n_compressed);
        if (crc != cases[i].crc)
            fprintf(stderr, "%s: %zu bytes, 0x%08lx\n", cases[i].name, n_compressed, (unsigned long)crc);
        CHECK(crc == cases[i].crc);
        hyb_file *file = NULL;
        CHECK_OK(hyb_file_open_memory(ctx, compressed, n_compressed, &file));
        CHECK(hyb_file_architecture(file) == (hyb_architecture)i && hyb_file_version(file) == 3);
        hyb_file_close(file);
        check_round_trip(bytes, n);
        free(compressed);
        free(bytes);
    }
    uint64_t state = 71; /* groups, both kinds of models, all numbers of slots */
    size_t n = 0, n_compressed = 0;
    int8_t *codes = malloc(300000);
    for (size_t i = 0; i < 300000; ++i)
        codes[i] = (int8_t)(test_random_below(&state, 100) < 20 + i / 4000 ? 0 : test_random(&state) & 1 ? 1 : -1);
    uint8_t *bytes = file_with(HYB_FORMAT_TERNARY, 3, 100000, codes, NULL, &n), *to = compress(bytes, n, &n_compressed);
    uint32_t crc = hyb_crc32c(0, to, n_compressed);
    if (crc != 0x0e81ea7au) fprintf(stderr, "large: %zu bytes, 0x%08lx\n", n_compressed, (unsigned long)crc);
    CHECK(crc == 0x0e81ea7au);
    free(to);
    free(bytes);
    free(codes);
}

/* ---- files ---- */

/* From path to path, in place too; what is no file, is compressed already or is not compressed is said. */
static void test_files(void) {
    fixture f;
    hyb_file_sizes sizes = {0, 0};
    char a[512], b[512];
    size_t n = 0, n_now = 0;
    fixture_init(&f);
    snprintf(a, sizeof a, "%s", test_path("a.hyb"));
    snprintf(b, sizeof b, "%s", test_path("b.hyb"));
    CHECK_OK(hyb_file_write(ctx, a, &f.contents));
    uint8_t *bytes = test_read_file(a, &n), *now;
    CHECK_OK(hyb_file_compress(ctx, a, b, &sizes));
    CHECK(sizes.expanded_bytes == n && sizes.compressed_bytes < n);
    CHECK_STATUS(hyb_file_compress(ctx, b, a, NULL), HYB_ERROR_FORMAT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "compressed already") != NULL);
    CHECK_STATUS(hyb_file_expand(ctx, a, b, NULL), HYB_ERROR_FORMAT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "not compressed") != NULL);
    CHECK_OK(hyb_file_expand(ctx, b, b, &sizes)); /* in place */
    CHECK(sizes.expanded_bytes == n);
    now = test_read_file(b, &n_now);
    CHECK(n_now == n && memcmp(now, bytes, n) == 0);
    free(now);
    CHECK_OK(hyb_file_compress(ctx, b, b, NULL));
    CHECK(test_folder_count(0) == 2);
    CHECK_STATUS(hyb_file_compress(ctx, test_path("missing"), b, NULL), HYB_ERROR_IO);
    CHECK_STATUS(hyb_file_compress(ctx, a, test_path("no/folder"), NULL), HYB_ERROR_IO);
    CHECK_STATUS(hyb_file_expand(ctx, test_folder, b, NULL), HYB_ERROR_IO);
    CHECK_STATUS(hyb_file_compress(NULL, a, b, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_compress(ctx, a, NULL, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_expand(ctx, NULL, b, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_compress_memory(ctx, bytes, n, NULL, 1, &n_now), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_expand_memory(ctx, NULL, n, NULL, 0, &n_now), HYB_ERROR_INVALID_ARGUMENT);
    hyb_file *file = NULL;
    CHECK_OK(hyb_file_open(ctx, b, &file)); /* still compressed, and read like any other */
    CHECK(hyb_file_version(file) == 3 && hyb_file_expanded_bytes(file) == n && fixture_walk(file) != 0);
    hyb_file_close(file);
    CHECK(hyb_file_expanded_bytes(NULL) == 0);
    free(bytes);
    test_folder_count(1);
}

/* ---- damage ---- */

static hyb_status open_copy(const uint8_t *bytes, size_t n_bytes, uint32_t *crc) {
    hyb_file *file = NULL;
    uint8_t *copy = test_guarded_alloc(n_bytes), original[8192];
    memcpy(copy, bytes, n_bytes);
    hyb_status status = hyb_file_open_memory(ctx, copy, n_bytes, &file);
    CHECK((status == HYB_OK) == (file != NULL));
    if (status != HYB_OK) CHECK(hyb_ctx_last_error(ctx)[0] != '\0');
    if (file != NULL) {
        size_t n = 0;
        (void)fixture_walk(file);
        CHECK_OK(hyb_file_expand_memory(ctx, copy, n_bytes, original, sizeof original, &n));
        *crc = hyb_crc32c(0, original, n);
    }
    hyb_file_close(file);
    test_guarded_free(copy, n_bytes);
    return status;
}

/* Cut at every length; every bit flipped, as it is and with both checksums made right. The checksum of the original
 * remains: what opens then has the same contents. */
static void test_damage(void) {
    size_t n = 0, n_harmless = 0;
    uint32_t crc = 0, good_crc = 0;
    uint8_t *good = read_data("golden_v3.hyb", &n), *copy = malloc(n + 64);
    CHECK_OK(open_copy(good, n, &good_crc));
    for (size_t cut = 0; cut < n; ++cut) {
        CHECK_STATUS(open_copy(good, cut, &crc), HYB_ERROR_TRUNCATED);
        if (cut < HYB_HEADER_BYTES) continue;
        memcpy(copy, good, cut);
        hyb_store_u64(copy + HYB_HEADER_FILE_BYTES, cut);
        fixture_seal(copy, cut);
        CHECK_STATUS(open_copy(copy, cut, &crc), HYB_ERROR_FORMAT);
    }
    memcpy(copy, good, n);
    memset(copy + n, 0, 64);
    for (size_t longer = n + 1; longer <= n + 64; ++longer) {
        hyb_store_u64(copy + HYB_HEADER_FILE_BYTES, n);
        fixture_seal(copy, n);
        CHECK_STATUS(open_copy(copy, longer, &crc), HYB_ERROR_FORMAT);
        hyb_store_u64(copy + HYB_HEADER_FILE_BYTES, longer);
        fixture_seal(copy, longer);
        CHECK_STATUS(open_copy(copy, longer, &crc), HYB_ERROR_FORMAT);
    }
    memcpy(copy, good, n);
    for (size_t bit = 0; bit < 8 * n; ++bit) {
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK_STATUS(open_copy(copy, n, &crc), bit < 64 ? HYB_ERROR_FORMAT : HYB_ERROR_CHECKSUM);
        if (bit >= 64 && bit / 8 != HYB_HEADER_BODY_CRC &&
            (bit < 8 * HYB_HEADER_BODY_CRC || bit >= 8 * HYB_HEADER_BYTES)) {
            fixture_seal(copy, n);
            hyb_status status = open_copy(copy, n, &crc);
            if (status == HYB_OK) ++n_harmless;
            CHECK(status != HYB_OK || crc == good_crc);
            memcpy(copy, good, HYB_HEADER_BYTES);
            memcpy(copy + bit / 8, good + bit / 8, 1);
        } else {
            copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
    CHECK(n_harmless < 20); /* slots of a model of one symbol, say */
    free(copy);
    free(good);
}

/* Random damage with checksums made right, that of the original too where the file expands: a status, or a file that
 * can be walked over. */
static void test_random_damage(void) {
    size_t n = 0, n_opened = 0;
    uint64_t state = 43;
    uint32_t crc = 0;
    uint8_t *good = read_data("golden_v3.hyb", &n), *copy = malloc(n);
    for (int round = 0; round < 20000; ++round) {
        memcpy(copy, good, n);
        for (size_t i = test_random_below(&state, 4) + 1; i-- > 0;) {
            size_t at =
                HYB_COMPRESSED_ORIGINAL_VERSION + test_random_below(&state, n - HYB_COMPRESSED_ORIGINAL_VERSION);
            copy[at] = (uint8_t)(test_random(&state) & 1 ? test_random(&state) : copy[at] + 1u);
        }
        fixture_seal(copy, n);
        hyb_file *file = NULL;
        uint8_t *image = NULL;
        if (hyb_file_begin_memory(ctx, copy, n, &file) == HYB_OK &&
            hyb_file_expand_image(file, &image, &crc) == HYB_OK) {
            hyb_store_u32(copy + HYB_COMPRESSED_ORIGINAL_CRC, crc);
            fixture_seal(copy, n);
            hyb_free(ctx, image);
        }
        hyb_file_close(file);
        n_opened += open_copy(copy, n, &crc) == HYB_OK;
    }
    CHECK(n_opened > 10 && n_opened < 19000); /* scales and metadata may be anything */
    free(copy);
    free(good);
}

/* An original beyond the limit of expansion, or beyond what the sections give, takes no memory. */
static void test_bombs(void) {
    static const uint64_t sizes[] = {0, 1, 127, 65536, (uint64_t)1 << 32, (uint64_t)1 << 62, UINT64_MAX};
    size_t n = 0;
    uint32_t crc = 0;
    uint8_t *copy = read_data("golden_v3.hyb", &n);
    for (size_t field = HYB_COMPRESSED_ORIGINAL_BYTES; field < HYB_COMPRESSED_LANES; field += 8) {
        uint64_t good = hyb_load_u64(copy + field);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
            if (sizes[i] == good) continue;
            hyb_store_u64(copy + field, sizes[i]);
            fixture_seal(copy, n);
            CHECK_STATUS(open_copy(copy, n, &crc), HYB_ERROR_FORMAT);
        }
        hyb_store_u64(copy + field, good);
    }
    free(copy);
}

/* Every allocation may fail: a status, and nothing is left behind. */
static void test_no_memory(void) {
    size_t n = 0, n_bytes = 0, n_done = 0;
    uint8_t *good = read_data("golden_v3.hyb", &n), original[8192], to[8192];
    CHECK_OK(hyb_file_expand_memory(ctx, good, n, original, sizeof original, &n_bytes));
    for (long fail_at = 0; fail_at < 60; ++fail_at) {
        failing f = {1000, 0};
        hyb_ctx *c = NULL;
        size_t n_to = 0;
        CHECK_OK(make_failing_ctx(&f, &c));
        long live = f.live;
        f.countdown = fail_at;
        hyb_status status = hyb_file_compress_memory(c, original, n_bytes, to, sizeof to, &n_to);
        CHECK((status == HYB_OK || status == HYB_ERROR_OUT_OF_MEMORY) && f.live == live);
        n_done += status == HYB_OK;
        f.countdown = fail_at;
        status = hyb_file_expand_memory(c, good, n, to, sizeof to, &n_to);
        CHECK((status == HYB_OK || status == HYB_ERROR_OUT_OF_MEMORY) && f.live == live);
        n_done += status == HYB_OK;
        f.countdown = 1000;
        hyb_ctx_destroy(c);
        CHECK(f.live == 0);
    }
    CHECK(n_done > 20 && n_done < 120);
    free(good);
}

int main(void) {
    CHECK_OK(hyb_ctx_create(NULL, &ctx));
    test_folder_make();
    test_round_trips();
    test_floats();
    test_groups_and_two_bits();
    test_limit();
    test_golden();
    test_known_bytes();
    test_files();
    test_damage();
    test_random_damage();
    test_bombs();
    test_no_memory();
    test_folder_remove();
    hyb_ctx_destroy(ctx);
    return TEST_RESULT();
}
