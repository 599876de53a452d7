/* test_file.c - .hyb files that are as they should be: checksum, round trip, golden file, and the writer's promises
 * (arguments checked, the old file untouched by any failure, no temporary left). Damaged and hostile files are in
 * test_file_hostile.c. HYB_TEST_DATA names the folder of the golden files (tests/data).
 */
#include "file_fixture.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "crc32c.h"
#include "failing_allocator.h"

static hyb_ctx *ctx;

/* ---- checksum ---- */

/* CRC-32C has the published values, and the portable and the hardware variant agree at every length and alignment. */
static void test_crc32c(void) {
    uint8_t bytes[600];
    uint64_t seed = 1;
    memset(bytes, 0, 32);
    CHECK(hyb_crc32c(0, bytes, 32) == 0x8a9136aau); /* RFC 3720, B.4 */
    memset(bytes, 0xff, 32);
    CHECK(hyb_crc32c(0, bytes, 32) == 0x62a8ab43u);
    CHECK(hyb_crc32c(0, "123456789", 9) == 0xe3069283u);
    CHECK(hyb_crc32c(0, NULL, 0) == 0 && hyb_crc32c(0, bytes, 0) == 0);
    for (size_t i = 0; i < sizeof bytes; ++i) bytes[i] = (uint8_t)test_random(&seed);
    for (size_t begin = 0; begin < 9; ++begin) {
        uint32_t slow = 0xffffffffu; /* bit by bit */
        for (size_t n = 0; begin + n < sizeof bytes; ++n) {
            CHECK(hyb_crc32c_portable(0, bytes + begin, n) == ~slow);
            CHECK(hyb_crc32c(0, bytes + begin, n) == ~slow);
            slow ^= bytes[begin + n];
            for (int bit = 0; bit < 8; ++bit) slow = slow >> 1 ^ (slow & 1 ? 0x82f63b78u : 0);
        }
    }
    for (size_t cut = 0; cut <= 64; ++cut) {
        uint32_t whole = hyb_crc32c(0, bytes, 64), first = hyb_crc32c(0, bytes, cut);
        CHECK(hyb_crc32c(first, bytes + cut, 64 - cut) == whole);
        CHECK(hyb_crc32c_portable(first, bytes + cut, 64 - cut) == whole);
    }
}

/* ---- reading what was written ---- */

static void check_tensor(const fixture *f, size_t index, const hyb_file_tensor *t) {
    const hyb_file_source *s = &f->sources[index];
    size_t n = (size_t)s->n_rows * s->n_cols;
    int8_t codes[FIXTURE_VALUES];
    CHECK(strcmp(t->name, s->name) == 0);
    CHECK(t->format == s->format && t->n_rows == s->n_rows && t->n_cols == s->n_cols);
    CHECK(t->granularity == s->granularity);
    CHECK((uintptr_t)t->payload % HYB_FILE_ALIGNMENT == 0);
    if (s->format == HYB_FORMAT_F32) {
        CHECK(t->packing == 0 && t->n_scales == 0 && t->scales == NULL && t->payload_bytes == n * 4);
        for (size_t i = 0; i < n; ++i) {
            float value = hyb_float_of(hyb_load_u32((const uint8_t *)t->payload + i * 4));
            CHECK(value == s->values[i]);
        }
        return;
    }
    CHECK(t->payload_bytes == hyb_packed_bytes((hyb_packing)t->packing, n));
    CHECK_OK(hyb_unpack(ctx, (hyb_packing)t->packing, t->payload, n, codes));
    CHECK(memcmp(codes, s->codes, n) == 0);
    CHECK(t->n_scales == (s->granularity == HYB_SCALE_PER_ROW ? s->n_rows : 1));
    for (size_t i = 0; i < t->n_scales; ++i) {
        const uint8_t *half = (const uint8_t *)t->scales + 2 * i;
        CHECK(hyb_float_from_half((uint16_t)(half[0] | half[1] << 8)) == s->scales[i]);
    }
}

/* Everything in an open file is what the fixture says; the sizes of the parts add up to the file. */
static void check_fixture(const fixture *f, const hyb_file *file) {
    size_t n = 0, sum = HYB_HEADER_BYTES + HYB_CONFIG_BYTES;
    hyb_language_model_config config = {.struct_size = sizeof config};
    CHECK(hyb_file_version(file) == 1);
    CHECK_OK(hyb_file_config(file, &config));
    CHECK(memcmp(&config, &f->config, sizeof config) == 0);
    const uint8_t *tokenizer = hyb_file_tokenizer(file, &n);
    CHECK(n == 32 && tokenizer != NULL && memcmp(tokenizer, f->tokenizer, n) == 0);
    sum += (n + 7) / 8 * 8;
    const char *metadata = hyb_file_metadata(file, &n);
    CHECK(n == strlen(f->metadata) && metadata != NULL && memcmp(metadata, f->metadata, n) == 0);
    sum += (n + 7) / 8 * 8;
    CHECK(hyb_file_tensor_count(file) == FIXTURE_TENSORS);
    sum = (sum + FIXTURE_TENSORS * 64 + 31) / 32 * 32 - FIXTURE_TENSORS * 64;
    for (size_t i = 0; i < FIXTURE_TENSORS; ++i) {
        hyb_file_tensor tensor, named;
        CHECK_OK(hyb_file_tensor_at(file, i, &tensor));
        check_tensor(f, i, &tensor);
        CHECK_OK(hyb_file_tensor_named(file, f->sources[i].name, &named));
        CHECK(named.payload == tensor.payload);
        sum += tensor.total_bytes;
    }
    CHECK(sum == hyb_file_bytes(file));
}

/* A written file reads back with every value, from the disk and from unaligned memory. */
static void test_round_trip(void) {
    fixture f;
    hyb_file *file = NULL;
    size_t n = 0;
    fixture_init(&f);
    CHECK_OK(hyb_file_write(ctx, test_path("a.hyb"), &f.contents));
    CHECK(test_folder_count(0) == 1);
    CHECK_OK(hyb_file_open(ctx, test_path("a.hyb"), &file));
    if (file != NULL) check_fixture(&f, file);
    hyb_file_close(file);
    uint8_t *bytes = test_read_file(test_path("a.hyb"), &n), *shifted = malloc(n + 1);
    memcpy(shifted + 1, bytes, n);
    file = NULL;
    CHECK_OK(hyb_file_open_memory(ctx, shifted + 1, n, &file));
    if (file != NULL) CHECK(fixture_walk(file) != 0);
    hyb_file_close(file);
    free(shifted);
    free(bytes);
    unlink(test_path("a.hyb"));
}

/* The golden file of format version 1 still opens with the expected values, and the writer still gives its bytes. */
static void test_golden(void) {
    const char *folder = getenv("HYB_TEST_DATA");
    char path[1024];
    fixture f;
    hyb_file *file = NULL;
    size_t n_golden = 0, n_written = 0;
    if (folder == NULL) fprintf(stderr, "set HYB_TEST_DATA to the folder tests/data\n");
    snprintf(path, sizeof path, "%s/golden_v1.hyb", folder != NULL ? folder : ".");
    fixture_init(&f);
    CHECK_OK(hyb_file_open(ctx, path, &file));
    if (file != NULL) check_fixture(&f, file);
    hyb_file_close(file);
    uint8_t *golden = test_read_file(path, &n_golden), *written = fixture_bytes(ctx, &f.contents, &n_written);
    CHECK(golden != NULL && n_golden == n_written && memcmp(golden, written, n_golden) == 0);
    free(golden);
    free(written);
}

/* Tensors of many packing pieces and more than a buffer survive, in every format; neither optional section is needed.
 */
static void test_large_tensors(void) {
    const size_t n_rows = 7, n_cols = 30011, n = n_rows * n_cols;
    float *values = malloc(n * sizeof *values), scales[7];
    int8_t *codes = malloc(n), *back = malloc(n);
    fixture f;
    fixture_init(&f);
    for (size_t i = 0; i < 7; ++i) scales[i] = (float)i; /* 0 is allowed */
    for (int format = HYB_FORMAT_F32; format <= HYB_FORMAT_INT8; ++format) {
        hyb_file_source source = {"large", format, HYB_SCALE_PER_ROW, (uint32_t)n_rows, (uint32_t)n_cols, values,
                                  codes,   scales};
        hyb_file_contents contents = {
            .struct_size = sizeof contents, .config = &f.config, .tensors = &source, .n_tensors = 1};
        hyb_file *file = NULL;
        hyb_file_tensor t;
        for (size_t i = 0; i < n; ++i) values[i] = (float)i * 0.5f;
        for (size_t i = 0; i < n; ++i) codes[i] = format == HYB_FORMAT_F32 ? 0 : fixture_code(format, i);
        CHECK_OK(hyb_file_write(ctx, test_path("large.hyb"), &contents));
        CHECK_OK(hyb_file_open(ctx, test_path("large.hyb"), &file));
        if (file == NULL) continue;
        CHECK(hyb_file_tokenizer(file, NULL) == NULL && hyb_file_metadata(file, NULL) == NULL);
        CHECK_OK(hyb_file_tensor_at(file, 0, &t));
        CHECK(t.total_bytes == hyb_file_bytes(file) - 256 + 64);
        if (format == HYB_FORMAT_F32) {
            for (size_t i = 0; i < n; ++i)
                if (hyb_load_u32((const uint8_t *)t.payload + 4 * i) != hyb_bits_of(values[i])) CHECK(i == n);
        } else {
            CHECK_OK(hyb_unpack(ctx, (hyb_packing)t.packing, t.payload, n, back));
            CHECK(memcmp(codes, back, n) == 0);
        }
        hyb_file_close(file);
        codes[n - 1] = -128; /* no format has it */
        if (format != HYB_FORMAT_F32) {
            CHECK_STATUS(hyb_file_write(ctx, test_path("bad.hyb"), &contents), HYB_ERROR_INVALID_ARGUMENT);
            CHECK(strstr(hyb_ctx_last_error(ctx), "large") != NULL);
        }
        CHECK(test_folder_count(0) == 1);
    }
    test_folder_count(1);
    free(back);
    free(codes);
    free(values);
}

/* ---- the writer's arguments ---- */

/* Writing the changed fixture gives `expected` and leaves the folder empty. */
static void check_refused(const fixture *f, hyb_status expected, int line) {
    hyb_status status = hyb_file_write(ctx, test_path("refused.hyb"), &f->contents);
    if (status != expected) fprintf(stderr, "line %d: status %d: %s\n", line, (int)status, hyb_ctx_last_error(ctx));
    CHECK(status == expected);
    CHECK(hyb_ctx_last_error(ctx)[0] != '\0');
    CHECK(test_folder_count(1) == 0);
}

#define REFUSED(change, expected)                                                                                      \
    do {                                                                                                               \
        fixture f;                                                                                                     \
        fixture_init(&f);                                                                                              \
        change;                                                                                                        \
        check_refused(&f, expected, __LINE__);                                                                         \
    } while (0)

/* Every invalid argument of the writer is refused before a file appears. */
static void test_writer_arguments(void) {
    fixture good;
    hyb_file *file = NULL;
    fixture_init(&good);
    CHECK_STATUS(hyb_file_write(NULL, test_path("x"), &good.contents), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_write(ctx, NULL, &good.contents), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_write(ctx, test_path("x"), NULL), HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.contents.struct_size = 0, HYB_ERROR_STRUCT_SIZE);
    REFUSED(f.contents.config = NULL, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.config.dim = 13, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.config.struct_size = 0, HYB_ERROR_STRUCT_SIZE);
    REFUSED(f.contents.tensors = NULL, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.contents.n_tensors = 0, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.contents.n_tensors = SIZE_MAX, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.contents.tokenizer = NULL, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.contents.metadata = NULL, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].name = NULL, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].name = "", HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].name = "gr\xc3\xb6sse", HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].name = "a b", HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].name = "a name of 32 characters is 1 long", HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].name = "int8.row", HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].n_rows = 0, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].n_cols = 0, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED((f.sources[1].n_cols = UINT32_MAX, f.sources[1].n_rows = UINT32_MAX), HYB_ERROR_INVALID_ARGUMENT);
    REFUSED((f.sources[2].n_cols = UINT32_MAX, f.sources[2].n_rows = UINT32_MAX, f.sources[2].codes = NULL),
            HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].format = 6, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].format = -1, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[2].granularity = 2, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[1].values = NULL, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[2].codes = NULL, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.sources[2].scales = NULL, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.values[1][5] = NAN, HYB_ERROR_NOT_FINITE);
    REFUSED(f.values[0][0] = INFINITY, HYB_ERROR_NOT_FINITE);
    REFUSED(f.scales[3][3] = NAN, HYB_ERROR_NOT_FINITE);
    REFUSED(f.scales[3][3] = -INFINITY, HYB_ERROR_NOT_FINITE);
    REFUSED(f.scales[3][3] = 0.1f, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.scales[3][3] = 65536.0f, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.codes[2][20] = 2, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.codes[4][14] = 0, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.codes[5][9] = 5, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.codes[6][8] = 0, HYB_ERROR_INVALID_ARGUMENT);
    REFUSED(f.codes[7][32] = -128, HYB_ERROR_INVALID_ARGUMENT);
    good.sources[1].name = "the-longest-name-of-31-letters.";
    CHECK(strlen(good.sources[1].name) == 31);
    CHECK_OK(hyb_file_write(ctx, test_path("x"), &good.contents));
    CHECK_OK(hyb_file_open(ctx, test_path("x"), &file));
    hyb_file_close(file);
    test_folder_count(1);
}

/* Accessors refuse NULL, indices and names that do not exist, and a configuration without its size. */
static void test_accessors(void) {
    fixture f;
    hyb_file *file = NULL, *untouched = NULL;
    hyb_file_tensor tensor;
    hyb_language_model_config config = {0};
    size_t n = 7;
    fixture_init(&f);
    uint8_t *bytes = fixture_bytes(ctx, &f.contents, &n);
    CHECK_STATUS(hyb_file_open_memory(NULL, bytes, n, &untouched), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_open_memory(ctx, NULL, n, &untouched), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_open_memory(ctx, bytes, n, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_open_memory(ctx, bytes, SIZE_MAX, &untouched), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_open(ctx, NULL, &untouched), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_open(NULL, "x", &untouched), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_open(ctx, "x", NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(untouched == NULL);
    CHECK_OK(hyb_file_open_memory(ctx, bytes, n, &file));
    CHECK_STATUS(hyb_file_tensor_at(file, FIXTURE_TENSORS, &tensor), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_tensor_at(file, SIZE_MAX, &tensor), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_tensor_at(file, 0, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_tensor_named(file, "norm.gai", &tensor), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_tensor_named(file, "", &tensor), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_tensor_named(file, NULL, &tensor), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_tensor_named(file, "norm.gain", NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_config(file, &config), HYB_ERROR_STRUCT_SIZE);
    CHECK_STATUS(hyb_file_config(file, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_file_config(NULL, &config), HYB_ERROR_INVALID_ARGUMENT);
    config = (hyb_language_model_config){.struct_size = offsetof(hyb_language_model_config, n_layers)};
    CHECK_OK(hyb_file_config(file, &config)); /* an older program: what it does not know stays as it was */
    CHECK(config.dim == 12 && config.n_layers == 0);
    CHECK(hyb_file_tokenizer(NULL, &n) == NULL && n == 0 && hyb_file_metadata(NULL, NULL) == NULL);
    CHECK(hyb_file_version(NULL) == 0 && hyb_file_bytes(NULL) == 0 && hyb_file_tensor_count(NULL) == 0);
    hyb_file_close(file);
    hyb_file_close(NULL);
    free(bytes);
}

/* ---- the operating system ---- */

static void check_open_fails(const char *path, hyb_status expected, const char *words) {
    hyb_file *file = NULL;
    CHECK_STATUS(hyb_file_open(ctx, path, &file), expected);
    CHECK(file == NULL);
    const char *detail = hyb_ctx_last_error(ctx), *name = strrchr(path, '/');
    if (strstr(detail, words) == NULL) fprintf(stderr, "detail: %s\n", detail);
    CHECK(strstr(detail, words) != NULL && strstr(detail, name != NULL ? name : path) != NULL);
}

/* What cannot be read is an error with the system's words and the path, and never waits. */
static void test_unreadable(void) {
    char path[512], long_path[600];
    check_open_fails(test_path("missing.hyb"), HYB_ERROR_IO, strerror(ENOENT));
    check_open_fails(test_folder, HYB_ERROR_IO, strerror(EISDIR));
    check_open_fails("/dev/null", HYB_ERROR_IO, "not a regular file");
    check_open_fails("", HYB_ERROR_IO, strerror(ENOENT));
    snprintf(path, sizeof path, "%s", test_path("pipe"));
    CHECK(mkfifo(path, 0600) == 0);
    check_open_fails(path, HYB_ERROR_IO, "not a regular file");
    test_write_file(test_path("empty.hyb"), "", 0);
    check_open_fails(test_path("empty.hyb"), HYB_ERROR_TRUNCATED, "empty");
    test_write_file(test_path("text.hyb"), "Hello, world", 12);
    check_open_fails(test_path("text.hyb"), HYB_ERROR_FORMAT, "not a .hyb file");
    memset(long_path, 'x', sizeof long_path);
    memcpy(long_path, "/missing/", 9);
    for (size_t i = 200; i < 560; i += 2) memcpy(long_path + i, "\xc3\xb6", 2); /* the cut is between characters */
    long_path[575] = '/';
    for (size_t end = 590; end < 594; ++end) {
        long_path[end] = '\0';
        check_open_fails(long_path, HYB_ERROR_IO, ": cannot open: ");
        const char *detail = hyb_ctx_last_error(ctx);
        CHECK(strncmp(detail, "...\xc3\xb6", 5) == 0);
        long_path[end] = 'x';
    }
    test_folder_count(1);
}

/* After a failed write of `changed`, the old file at `path` is as it was and nothing lies beside it. */
static void check_old_survives(const char *path, const uint8_t *old, size_t n_old) {
    size_t n = 0;
    uint8_t *now = test_read_file(path, &n);
    CHECK(now != NULL && n == n_old && memcmp(now, old, n) == 0);
    free(now);
    CHECK(test_folder_count(0) == 1);
}

/* A full disk (as a limit of the file size, at every boundary) leaves the old file and no temporary. */
static void test_full_disk(void) {
    fixture f;
    char path[512];
    size_t n = 0;
    struct rlimit old_limit, limit;
    float *values = calloc(100000, sizeof *values);
    fixture_init(&f);
    snprintf(path, sizeof path, "%s", test_path("model.hyb"));
    CHECK_OK(hyb_file_write(ctx, path, &f.contents));
    uint8_t *old = test_read_file(path, &n);
    f.sources[1] = (hyb_file_source){"matrix.f32", HYB_FORMAT_F32, 0, 1, 100000, values, NULL, NULL};
    signal(SIGXFSZ, SIG_IGN);
    CHECK(getrlimit(RLIMIT_FSIZE, &old_limit) == 0);
    static const rlim_t limits[] = {0, 1, 127, 128, 129, 1000, 65535, 65536, 65664, 131200, 300000, 400000};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; ++i) {
        limit = (struct rlimit){limits[i], old_limit.rlim_max};
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        hyb_status status = hyb_file_write(ctx, path, &f.contents);
        CHECK(setrlimit(RLIMIT_FSIZE, &old_limit) == 0);
        CHECK(status == HYB_ERROR_IO);
        CHECK(strstr(hyb_ctx_last_error(ctx), strerror(EFBIG)) != NULL);
        CHECK(strstr(hyb_ctx_last_error(ctx), "model.hyb") != NULL);
        check_old_survives(path, old, n);
    }
    f.codes[7][32] = -128; /* found when most of the file is written already */
    CHECK_STATUS(hyb_file_write(ctx, path, &f.contents), HYB_ERROR_INVALID_ARGUMENT);
    check_old_survives(path, old, n);
    f.codes[7][32] = 0;
    CHECK_OK(hyb_file_write(ctx, path, &f.contents));
    hyb_file *file = NULL;
    CHECK_OK(hyb_file_open(ctx, path, &file));
    hyb_file_close(file);
    free(values);
    free(old);
    test_folder_count(1);
}

/* Writing from a process without rights in the folder; returns the status. A superuser steps down first. */
static int write_without_rights(const char *path, const hyb_file_contents *contents) {
    pid_t child = fork();
    if (child == 0) {
        if (geteuid() == 0 && setuid(65534) != 0) _exit(99);
        hyb_status status = hyb_file_write(ctx, path, contents);
        int words = strstr(hyb_ctx_last_error(ctx), strerror(EACCES)) != NULL;
        _exit(status == HYB_ERROR_IO && words ? 0 : 1);
    }
    int result = -1;
    waitpid(child, &result, 0);
    return WIFEXITED(result) ? WEXITSTATUS(result) : -1;
}

/* Places that cannot be written to give IO, and devices, pipes and folders are not replaced. */
static void test_unwritable(void) {
    fixture f;
    char path[512];
    struct stat status;
    fixture_init(&f);
    CHECK_STATUS(hyb_file_write(ctx, test_path("missing/model.hyb"), &f.contents), HYB_ERROR_IO);
    CHECK(strstr(hyb_ctx_last_error(ctx), strerror(ENOENT)) != NULL);
    CHECK_STATUS(hyb_file_write(ctx, test_folder, &f.contents), HYB_ERROR_IO);
    CHECK(strstr(hyb_ctx_last_error(ctx), strerror(EISDIR)) != NULL);
    CHECK_STATUS(hyb_file_write(ctx, "/dev/full", &f.contents), HYB_ERROR_IO);
    CHECK_STATUS(hyb_file_write(ctx, "", &f.contents), HYB_ERROR_IO);
    snprintf(path, sizeof path, "%s", test_path("pipe"));
    CHECK(mkfifo(path, 0600) == 0);
    CHECK_STATUS(hyb_file_write(ctx, path, &f.contents), HYB_ERROR_IO);
    CHECK(stat(path, &status) == 0 && S_ISFIFO(status.st_mode));
    CHECK(test_folder_count(1) == 1);
    CHECK(chmod(test_folder, 0555) == 0);
    int result = write_without_rights(test_path("model.hyb"), &f.contents);
    if (result == 99) printf("SKIPPED: a folder without rights (cannot give up the superuser's rights)\n");
    CHECK(result == 0 || result == 99);
    CHECK(chmod(test_folder, 0755) == 0);
    CHECK(test_folder_count(0) == 0);
}

/* A stale temporary with the usual name, left by a process that was killed, does not stop the writer. */
static void test_stale_temporary(void) {
    fixture f;
    char name[64];
    fixture_init(&f);
    snprintf(name, sizeof name, "model.hyb.tmp.%ld", (long)getpid());
    test_write_file(test_path(name), "stale", 5);
    CHECK_OK(hyb_file_write(ctx, test_path("model.hyb"), &f.contents));
    CHECK(test_folder_count(1) == 2);
}

/* ---- memory ---- */

/* Each allocation of opening and writing may fail: the status says so, nothing leaks, no file is left. */
static void test_allocation_failures(void) {
    failing allocator = {-1, 0};
    hyb_ctx *own = NULL;
    fixture f;
    fixture_init(&f);
    CHECK_OK(make_failing_ctx(&allocator, &own));
    if (own == NULL) return;
    CHECK_OK(hyb_file_write(ctx, test_path("a.hyb"), &f.contents));
    int written = 0, opened = 0;
    for (long fail_at = 0; fail_at < 20 && !(written && opened); ++fail_at) {
        hyb_file *file = NULL;
        long n_live = allocator.live;
        allocator.countdown = fail_at;
        hyb_status status = hyb_file_open(own, test_path("a.hyb"), &file);
        opened = status == HYB_OK;
        CHECK(opened ? file != NULL : status == HYB_ERROR_OUT_OF_MEMORY && file == NULL);
        hyb_file_close(file);
        CHECK(allocator.live == n_live);
        allocator.countdown = fail_at;
        status = hyb_file_write(own, test_path("b.hyb"), &f.contents);
        written = status == HYB_OK;
        CHECK(written || status == HYB_ERROR_OUT_OF_MEMORY);
        CHECK(allocator.live == n_live && test_folder_count(0) == (written ? 2u : 1u));
    }
    CHECK(written && opened);
    allocator.countdown = -1;
    hyb_ctx_destroy(own);
    CHECK(allocator.live == 0);
    test_folder_count(1);
}

int main(void) {
    test_folder_make();
    CHECK_OK(hyb_ctx_create(NULL, &ctx));
    test_crc32c();
    test_round_trip();
    test_golden();
    test_large_tensors();
    test_writer_arguments();
    test_accessors();
    test_unreadable();
    test_full_disk();
    test_unwritable();
    test_stale_temporary();
    test_allocation_failures();
    hyb_ctx_destroy(ctx);
    test_folder_remove();
    return TEST_RESULT();
}
