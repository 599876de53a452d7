/* test_load.c - networks loaded from files piece by piece: rows that pieces cut anywhere, in every format, packed and
 * compressed, from disk and from memory; the memory that this takes beside the network; damage of every byte, with
 * checksums that are right and wrong; files that change, or become shorter, while they are read; no memory.
 */
#include "file_fixture.h"

#include <unistd.h>

#include "failing_allocator.h"
#include "file_open.h"
#include "mlp_fixture.h"

/* Makes the compressed form of packed.hyb beside it; both paths. */
static void compress_beside(hyb_ctx *ctx, char packed[512], char coded[512]) {
    snprintf(packed, 512, "%s", test_path("packed.hyb"));
    snprintf(coded, 512, "%s", test_path("coded.hyb"));
    CHECK_OK(hyb_file_compress(ctx, packed, coded, NULL));
}

/* ---- what is loaded ---- */

enum { N_OUT = 7 };

static void check_loaded(hyb_ctx *ctx, const char *path, const float *x, const float expected[2 * N_OUT]) {
    hyb_mlp *loaded[2] = {NULL, NULL};
    size_t n = 0;
    uint8_t *bytes = test_read_file(path, &n);
    CHECK_OK(hyb_mlp_load(ctx, path, &loaded[0]));
    CHECK_OK(hyb_mlp_load_memory(ctx, bytes, n, &loaded[1]));
    for (size_t i = 0; i < 2; ++i) {
        float found[2 * N_OUT];
        CHECK_OK(hyb_mlp_predict(loaded[i], x, 2, found));
        CHECK(memcmp(found, expected, sizeof found) == 0);
        hyb_mlp_destroy(loaded[i]);
    }
    free(bytes);
}

/* Weights of which each four neighbours have one 0, so that they are packed by fours. */
static void set_fours(hyb_mlp *mlp) {
    static const float four[] = {0.25f, 0.0f, -0.25f, 0.25f};
    hyb_parameter weight;
    CHECK_OK(hyb_mlp_parameter(mlp, 0, &weight));
    for (size_t i = 0; i < (size_t)weight.n_rows * weight.n_cols; ++i) weight.values[i] = four[(i % 4 + i / 4) % 4];
    CHECK_OK(hyb_mlp_touch(mlp));
}

static int32_t first_packing(hyb_ctx *ctx, const char *path) {
    hyb_file *file = NULL;
    hyb_file_tensor tensor = {.packing = -1};
    CHECK_OK(hyb_file_open(ctx, path, &file));
    CHECK_OK(hyb_file_tensor_at(file, 0, &tensor));
    hyb_file_close(file);
    return tensor.packing;
}

/* Rows shorter and longer than a piece, and of no whole number of bytes. */
static void test_every_format_and_width(void) {
    static const uint32_t widths[] = {1, 4093, 20484, 41003};
    hyb_ctx *ctx = make_ctx(0, 1);
    char packed[512], coded[512];
    uint64_t state = 17;
    for (size_t w = 0; w < sizeof widths / sizeof *widths; ++w) {
        float *x = malloc(2 * widths[w] * sizeof *x), expected[2 * N_OUT];
        for (size_t i = 0; i < 2 * widths[w]; ++i) x[i] = test_random_float(&state);
        for (int format = HYB_FORMAT_F32; format <= HYB_FORMAT_INT8 + 1; ++format) {
            const uint32_t sizes[] = {widths[w], N_OUT};
            int by_fours = format > HYB_FORMAT_INT8; /* once more ternary, in its other packing */
            hyb_mlp_config config = make_config(1, sizes, HYB_LOSS_MSE, by_fours ? HYB_FORMAT_TERNARY : format);
            hyb_mlp *mlp = NULL;
            config.granularity = format % 2;
            config.last_format = config.format;
            if (by_fours && widths[w] % 4 != 0) continue;
            CHECK_OK(hyb_mlp_create(ctx, &config, 5, &mlp));
            if (by_fours) set_fours(mlp);
            CHECK_OK(hyb_mlp_predict(mlp, x, 2, expected));
            CHECK_OK(hyb_mlp_save(mlp, test_path("packed.hyb"), NULL, 0));
            compress_beside(ctx, packed, coded);
            CHECK((first_packing(ctx, packed) == HYB_PACKING_TERNARY_3OF4) == by_fours);
            check_loaded(ctx, packed, x, expected);
            check_loaded(ctx, coded, x, expected);
            hyb_mlp_destroy(mlp);
        }
        free(x);
    }
    hyb_ctx_destroy(ctx);
}

/* ---- memory ---- */

typedef struct meter {
    size_t now, most;
} meter;

enum { BEFORE = 64 }; /* bytes before each block, which hold its size */

static void *meter_allocate(void *user, size_t n_bytes, size_t alignment) {
    meter *m = user;
    void *memory = NULL;
    CHECK(alignment <= BEFORE);
    if (posix_memalign(&memory, BEFORE, n_bytes + BEFORE) != 0) return NULL;
    memcpy(memory, &n_bytes, sizeof n_bytes);
    m->now += n_bytes;
    if (m->most < m->now) m->most = m->now;
    return (uint8_t *)memory + BEFORE;
}

static void meter_release(void *user, void *memory) {
    size_t n_bytes = 0;
    if (memory == NULL) return;
    memcpy(&n_bytes, (uint8_t *)memory - BEFORE, sizeof n_bytes);
    ((meter *)user)->now -= n_bytes;
    free((uint8_t *)memory - BEFORE);
}

static hyb_language_model_config model_config(uint32_t dim) {
    return (hyb_language_model_config){.struct_size = sizeof(hyb_language_model_config),
                                       .vocab_size = 256,
                                       .dim = dim,
                                       .n_layers = 2,
                                       .n_heads = 4,
                                       .n_kv_heads = 4,
                                       .ffn_dim = 3 * dim,
                                       .max_context = 32,
                                       .rope_theta = 10000.0f,
                                       .norm_epsilon = 1e-5f,
                                       .tied_embeddings = 1,
                                       .linear_format = HYB_FORMAT_TERNARY,
                                       .embedding_format = HYB_FORMAT_INT8};
}

static void save_model(hyb_ctx *ctx, uint32_t dim) {
    hyb_language_model *model = NULL;
    hyb_language_model_config config = model_config(dim);
    CHECK_OK(hyb_language_model_create(ctx, &config, 1, &model));
    CHECK_OK(hyb_language_model_save(model, test_path("packed.hyb"), "{}", 2));
    hyb_language_model_destroy(model);
}

/* Beside the model there are windows, tables and pieces: a fixed number of bytes, far fewer than the file's. */
static void test_memory_beside_the_model(void) {
    enum { BESIDE = 400000 };
    meter m = {0, 0};
    hyb_ctx_options options = {.struct_size = sizeof options,
                               .allocate = meter_allocate,
                               .release = meter_release,
                               .allocator_user = &m,
                               .n_threads = 1};
    hyb_ctx *ctx = NULL;
    char paths[2][512];
    CHECK_OK(hyb_ctx_create(&options, &ctx));
    save_model(ctx, 512);
    compress_beside(ctx, paths[0], paths[1]);
    for (size_t i = 0; i < 4; ++i) {
        hyb_language_model *model = NULL;
        size_t n = 0;
        uint8_t *bytes = test_read_file(paths[i % 2], &n);
        CHECK(n > 3 * (size_t)BESIDE);
        m.most = m.now;
        if (i < 2)
            CHECK_OK(hyb_language_model_load(ctx, paths[i], &model));
        else
            CHECK_OK(hyb_language_model_load_memory(ctx, bytes, n, &model));
        CHECK(m.most - m.now < BESIDE);
        hyb_language_model_destroy(model);
        free(bytes);
    }
    hyb_ctx_destroy(ctx);
    CHECK(m.now == 0);
}

/* ---- damage ---- */

/* What opening says of the bytes and what loading does, from memory and, with a path, from there: the same, but that
 * loading also refuses a good file of other tensors, and may find a wrong byte before the checksum of an original. */
static void check_agreement(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, const char *path, int is_sealed) {
    hyb_file *file = NULL;
    hyb_language_model *models[2] = {NULL, NULL};
    uint8_t *copy = test_guarded_alloc(n_bytes);
    memcpy(copy, bytes, n_bytes);
    hyb_status opened = hyb_file_open_memory(ctx, copy, n_bytes, &file), loaded[2];
    loaded[0] = loaded[1] = hyb_language_model_load_memory(ctx, copy, n_bytes, &models[0]);
    CHECK(loaded[0] == HYB_OK || hyb_ctx_last_error(ctx)[0] != '\0');
    if (path != NULL) {
        test_write_file(path, bytes, n_bytes);
        loaded[1] = hyb_language_model_load(ctx, path, &models[1]);
        CHECK(loaded[1] == HYB_OK || strstr(hyb_ctx_last_error(ctx), path) != NULL);
    }
    for (size_t i = 0; i < 2; ++i) {
        CHECK((loaded[i] == HYB_OK) == (models[i] != NULL) || (i == 1 && path == NULL));
        CHECK(opened == HYB_OK || loaded[i] != HYB_OK);
        CHECK(is_sealed || loaded[i] == opened);
        hyb_language_model_destroy(models[i]);
    }
    hyb_file_close(file);
    test_guarded_free(copy, n_bytes);
}

/* Cut anywhere, and a bit of any byte flipped, as it is and with both checksums made right. */
static void test_damage(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    char paths[2][512], damaged[512];
    uint64_t state = 23;
    save_model(ctx, 16);
    compress_beside(ctx, paths[0], paths[1]);
    snprintf(damaged, sizeof damaged, "%s", test_path("damaged.hyb"));
    for (size_t i = 0; i < 2; ++i) {
        size_t n = 0;
        uint8_t *good = test_read_file(paths[i], &n), *copy = malloc(n);
        check_agreement(ctx, good, n, damaged, 0);
        for (size_t at = 0; at < n; at += 1 + n / 3000) {
            const char *path = test_random(&state) % 32 == 0 ? damaged : NULL;
            check_agreement(ctx, good, at, path, 0);
            memcpy(copy, good, n);
            copy[at] ^= (uint8_t)(1u << test_random(&state) % 8);
            check_agreement(ctx, copy, n, path, 0);
            fixture_seal(copy, n);
            check_agreement(ctx, copy, n, path, 1);
        }
        free(copy);
        free(good);
    }
    hyb_ctx_destroy(ctx);
}

/* Writes bytes from `at` on over those of a file, which keeps its length or becomes as long. */
static void overwrite(const char *path, size_t at, const uint8_t *bytes, size_t n_bytes) {
    FILE *stream = fopen(path, "r+b");
    CHECK(stream != NULL && fseek(stream, (long)at, SEEK_SET) == 0 && fwrite(bytes, 1, n_bytes, stream) == n_bytes);
    if (stream != NULL) fclose(stream);
}

/* Reads a file from which, once it is begun, a byte is changed, or everything from there on is gone. */
static hyb_status read_changed(hyb_ctx *ctx, const char *path, const uint8_t *good, size_t n, size_t at, int is_cut) {
    const uint8_t other = good[at] ^ 1;
    hyb_file *file = NULL;
    CHECK_OK(hyb_file_begin(ctx, path, &file));
    if (file == NULL) return HYB_OK;
    if (is_cut)
        CHECK(truncate(path, (off_t)at) == 0);
    else
        overwrite(path, at, &other, 1);
    hyb_status status = hyb_file_check_data(file);
    hyb_file_close(file);
    overwrite(path, at, good + at, is_cut ? n - at : 1);
    return status;
}

/* What another program does to a file between its checksum and its data is found, wherever it is. */
static void test_files_that_change(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    char paths[2][512];
    save_model(ctx, 16);
    compress_beside(ctx, paths[0], paths[1]);
    for (size_t i = 0; i < 2; ++i) {
        size_t n = 0;
        hyb_file *file = NULL;
        uint8_t *good = test_read_file(paths[i], &n);
        CHECK_OK(hyb_file_begin(ctx, paths[i], &file));
        size_t data = (size_t)(i == 0 ? file->layout.data : file->raw);
        CHECK_OK(hyb_file_check_data(file));
        hyb_file_close(file);
        CHECK(data > HYB_HEADER_BYTES && data < n);
        for (size_t at = data; at < n; at += 1 + n / 500) {
            hyb_status status = read_changed(ctx, paths[i], good, n, at, 0);
            CHECK(status == HYB_ERROR_FORMAT || status == HYB_ERROR_CHECKSUM);
            CHECK_STATUS(read_changed(ctx, paths[i], good, n, at, 1), HYB_ERROR_TRUNCATED);
        }
        free(good);
    }
    hyb_ctx_destroy(ctx);
}

/* Every allocation may fail: a status, and nothing is left behind. */
static void test_no_memory(void) {
    hyb_ctx *ctx = make_ctx(0, 1);
    char paths[2][512];
    save_model(ctx, 16);
    compress_beside(ctx, paths[0], paths[1]);
    for (size_t i = 0; i < 2; ++i)
        for (long fail_at = 0, done = 0; !done; ++fail_at) {
            failing f = {1000, 0};
            hyb_ctx *c = NULL;
            hyb_language_model *model = NULL;
            CHECK_OK(make_failing_ctx(&f, &c));
            f.countdown = fail_at;
            hyb_status status = hyb_language_model_load(c, paths[i], &model);
            CHECK(status == HYB_OK || status == HYB_ERROR_OUT_OF_MEMORY);
            done = status == HYB_OK || fail_at == 1000;
            CHECK(fail_at < 1000);
            hyb_language_model_destroy(model);
            hyb_ctx_destroy(c);
            CHECK(f.live == 0);
        }
    hyb_ctx_destroy(ctx);
}

int main(void) {
    test_folder_make();
    test_every_format_and_width();
    test_memory_beside_the_model();
    test_damage();
    test_files_that_change();
    test_no_memory();
    test_folder_remove();
    return TEST_RESULT();
}
