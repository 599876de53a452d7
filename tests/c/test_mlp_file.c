/* test_mlp_file.c - perceptrons in files: the same bits behind a round trip, the golden file, hostile files, and every
 * allocation of a life that may fail.
 */
#include "mlp_fixture.h"

#include "failing_allocator.h"
#include "file_layout.h"

/* ---- the file ---- */

/* Opens a copy of the file's bytes with one field changed and sealed again. */
static hyb_status load_patched(hyb_ctx *ctx, const uint8_t *file, size_t n, size_t offset, uint32_t value,
                               size_t width) {
    uint8_t *bytes = malloc(n), field[4];
    hyb_mlp *mlp = NULL;
    memcpy(bytes, file, n);
    hyb_store_u32(field, value);
    memcpy(bytes + offset, field, width);
    hyb_store_u32(bytes + HYB_HEADER_BODY_CRC, hyb_crc32c(0, bytes + HYB_HEADER_BYTES, n - HYB_HEADER_BYTES));
    hyb_store_u32(bytes + HYB_HEADER_CRC, hyb_crc32c(0, bytes, HYB_HEADER_CRC));
    hyb_status status = hyb_mlp_load_memory(ctx, bytes, n, &mlp);
    hyb_mlp_destroy(mlp);
    free(bytes);
    return status;
}

static uint8_t *read_bytes(const char *path, size_t *n) {
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = malloc(1 << 20);
    *n = file != NULL ? fread(bytes, 1, 1 << 20, file) : 0;
    if (file != NULL) fclose(file);
    return bytes;
}

/* Every byte of configuration and directory set to other values: refused with a status or as good as before. */
static void check_hostile(hyb_ctx *ctx, const char *path) {
    static const uint32_t values[] = {0, 1, 2, 3, 6, 32, 33, 127, 255};
    size_t n;
    uint8_t *bytes = read_bytes(path, &n);
    size_t end = (size_t)hyb_load_u64(bytes + HYB_HEADER_DATA);
    hyb_mlp *mlp = NULL;
    CHECK(hyb_load_u32(bytes + HYB_HEADER_VERSION) == 2);
    for (size_t at = HYB_HEADER_VERSION; at < end; at++)
        for (size_t k = 0; k < sizeof values / sizeof *values; k++) {
            if (at >= HYB_HEADER_BODY_CRC && at < HYB_HEADER_BYTES) continue;
            hyb_status status = load_patched(ctx, bytes, n, at, values[k], 1);
            CHECK(status == HYB_OK || status == HYB_ERROR_FORMAT || status == HYB_ERROR_TRUNCATED ||
                  status == HYB_ERROR_VERSION || status == HYB_ERROR_CHECKSUM);
        }
    size_t config = HYB_HEADER_BYTES;
    CHECK_STATUS(load_patched(ctx, bytes, n, config, 6, 4), HYB_ERROR_FORMAT); /* n_layers */
    CHECK_STATUS(load_patched(ctx, bytes, n, config, 0xffffffff, 4), HYB_ERROR_FORMAT);
    CHECK_STATUS(load_patched(ctx, bytes, n, config + 8, 1, 1), HYB_ERROR_FORMAT);  /* reserved */
    CHECK_STATUS(load_patched(ctx, bytes, n, config + 37, 2, 1), HYB_ERROR_FORMAT); /* norm: a gain too many */
    CHECK_STATUS(load_patched(ctx, bytes, n, config + 39, 5, 1), HYB_ERROR_FORMAT); /* format */
    CHECK_STATUS(load_patched(ctx, bytes, n, config + 42, 7, 1), HYB_ERROR_FORMAT); /* loss */
    CHECK_STATUS(load_patched(ctx, bytes, n, config + 43, 2, 1), HYB_ERROR_FORMAT); /* architecture */
    for (size_t cut = 0; cut < n; cut += 13) CHECK(hyb_mlp_load_memory(ctx, bytes, cut, &mlp) != HYB_OK);
    free(bytes);
}

/* A loaded network gives the bits of the one that was saved, saves the same bytes again, and cannot be trained; no
 * change of a byte crashes the reader; the two kinds of network are told apart. */
static void test_saving_and_loading(void) {
    static rows r;
    char path[] = "test_mlp_XXXXXX", second[] = "test_mlp_again_XXXXXX";
    int fd = mkstemp(path), other_fd = mkstemp(second);
    CHECK(fd >= 0 && other_fd >= 0);
    close(fd);
    close(other_fd);
    fill_rows(&r, 5);
    for (int format = HYB_FORMAT_F32; format <= HYB_FORMAT_INT8; format++) {
        hyb_ctx *ctx = make_ctx(0, 1);
        hyb_mlp_config config = deep_config(HYB_LOSS_CROSS_ENTROPY, format),
                       loaded_config = {.struct_size = sizeof config};
        hyb_mlp *mlp = NULL, *loaded = NULL;
        hyb_language_model *model = NULL;
        double loss;
        float expected[ROWS * 5], found[ROWS * 5];
        size_t n, n_again;
        config.granularity = format % 2;
        config.first_format = HYB_FORMAT_INT8;
        CHECK_OK(hyb_mlp_create(ctx, &config, 3, &mlp));
        CHECK_OK(train(mlp, HYB_OPTIMIZER_ADAMW, &r, 3, &loss, &loss));
        CHECK_OK(hyb_mlp_predict(mlp, r.x, ROWS, expected));
        CHECK_OK(hyb_mlp_save(mlp, path, "{\"a\": 1}", 8));
        CHECK_OK(hyb_mlp_load(ctx, path, &loaded));
        CHECK_OK(hyb_mlp_predict(loaded, r.x, ROWS, found));
        CHECK(memcmp(expected, found, sizeof found) == 0);
        CHECK(strcmp(hyb_mlp_metadata(loaded, &n), "{\"a\": 1}") == 0 && n == 8);
        CHECK_OK(hyb_mlp_get_config(loaded, &loaded_config));
        CHECK(loaded_config.first_format == HYB_FORMAT_INT8 && loaded_config.last_format == -1);
        CHECK(memcmp(loaded_config.sizes, deep_sizes, sizeof deep_sizes) == 0);
        CHECK_OK(hyb_mlp_save(loaded, second, "{\"a\": 1}", 8));
        uint8_t *bytes = read_bytes(path, &n), *again = read_bytes(second, &n_again);
        CHECK(n == n_again && memcmp(bytes, again, n) == 0);
        free(again);
        free(bytes);
        CHECK_STATUS(hyb_mlp_prepare(loaded, 3), HYB_ERROR_STATE);
        CHECK_STATUS(hyb_mlp_touch(loaded), HYB_ERROR_STATE);
        CHECK_STATUS(hyb_language_model_load(ctx, path, &model), HYB_ERROR_FORMAT);
        if (format == HYB_FORMAT_TERNARY) check_hostile(ctx, path);
        hyb_mlp_destroy(loaded);
        hyb_mlp_destroy(mlp);
        hyb_ctx_destroy(ctx);
    }
    unlink(path);
    unlink(second);
}

/* The golden file of format version 2 still opens with the expected configuration, and the writer gives its bytes. */
static void test_golden_file(void) {
    const char *folder = getenv("HYB_TEST_DATA");
    char path[4096], copy[] = "test_mlp_golden_XXXXXX";
    int fd = mkstemp(copy);
    size_t n, n_again, n_metadata;
    hyb_ctx *ctx = make_ctx(0, 1);
    hyb_mlp *mlp = NULL;
    hyb_mlp_config c = {.struct_size = sizeof c};
    float effective[63];
    CHECK(fd >= 0);
    close(fd);
    snprintf(path, sizeof path, "%s/golden_v2.hyb", folder != NULL ? folder : ".");
    CHECK_OK(hyb_mlp_load(ctx, path, &mlp));
    if (mlp != NULL) {
        CHECK_OK(hyb_mlp_get_config(mlp, &c));
        CHECK(c.n_layers == 3 && c.sizes[0] == 9 && c.sizes[1] == 7 && c.sizes[2] == 7 && c.sizes[3] == 4);
        CHECK(c.loss == HYB_LOSS_CROSS_ENTROPY && c.activation == HYB_ACTIVATION_RELU && c.residual == 1);
        CHECK(c.norm == HYB_MLP_NORM_RESIDUAL && c.format == HYB_FORMAT_TERNARY && c.norm_epsilon == 1e-5f);
        CHECK(c.first_format == HYB_FORMAT_INT8 && c.last_format == -1);
        CHECK_OK(hyb_mlp_effective(mlp, 0, effective));
        for (int i = 0; i < 63; i++) CHECK(effective[i] == 0.125f * (float)((i * 37 + i / 7) % 255 - 127));
        const char *metadata = hyb_mlp_metadata(mlp, &n_metadata);
        CHECK_OK(hyb_mlp_save(mlp, copy, metadata, n_metadata));
        uint8_t *bytes = read_bytes(path, &n), *again = read_bytes(copy, &n_again);
        CHECK(n == n_again && memcmp(bytes, again, n) == 0);
        free(again);
        free(bytes);
    }
    hyb_mlp_destroy(mlp);
    hyb_ctx_destroy(ctx);
    unlink(copy);
}

/* ---- allocation ---- */

static hyb_status whole_life(hyb_ctx *ctx, const char *path, const rows *r) {
    hyb_mlp_config config = deep_config(HYB_LOSS_CROSS_ENTROPY, HYB_FORMAT_TERNARY);
    hyb_mlp *mlp = NULL, *loaded = NULL;
    double loss;
    float outputs[ROWS * 5];
    hyb_status status = hyb_mlp_create(ctx, &config, 1, &mlp);
    if (status == HYB_OK) status = train(mlp, HYB_OPTIMIZER_SPECTRAL, r, 2, &loss, &loss);
    if (status == HYB_OK) status = hyb_mlp_save(mlp, path, "{}", 2);
    if (status == HYB_OK) status = hyb_mlp_load(ctx, path, &loaded);
    if (status == HYB_OK) status = hyb_mlp_save(loaded, path, "{}", 2);
    if (status == HYB_OK) status = hyb_mlp_predict(loaded, r->x, ROWS, outputs);
    hyb_mlp_destroy(loaded);
    hyb_mlp_destroy(mlp);
    return status;
}

/* Whichever allocation fails, the status is OUT_OF_MEMORY and nothing leaks. */
static void test_every_allocation_may_fail(void) {
    static rows r;
    char path[] = "test_mlp_XXXXXX";
    int fd = mkstemp(path), completed = 0;
    CHECK(fd >= 0);
    close(fd);
    fill_rows(&r, 5);
    for (long n = 0; n < 200 && !completed; n++) {
        failing f = {n, 0};
        hyb_ctx *ctx = NULL;
        hyb_status status = make_failing_ctx(&f, &ctx);
        if (status == HYB_OK) status = whole_life(ctx, path, &r);
        hyb_ctx_destroy(ctx);
        CHECK(status == HYB_OK || status == HYB_ERROR_OUT_OF_MEMORY);
        CHECK(f.live == 0);
        completed = status == HYB_OK && f.countdown >= 0;
    }
    CHECK(completed);
    unlink(path);
}

int main(void) {
    test_saving_and_loading();
    test_golden_file();
    test_every_allocation_may_fail();
    return TEST_RESULT();
}
