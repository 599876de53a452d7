/* file_fixture.h - a small .hyb file for the tests of the reader and the writer: the contents of golden_v1.hyb (its
 * recipe is tests/data/make_golden_v1.py), files in a folder of their own, and bytes sealed again after a change.
 */
#ifndef HYB_FILE_FIXTURE_H
#define HYB_FILE_FIXTURE_H

#include "testing.h"

#include <dirent.h>
#include <errno.h>

#include <hybrid/file.h>

#include "file_layout.h"

#define FIXTURE_TENSORS 8
#define FIXTURE_VALUES 64 /* at least the values, and the scales, of any of its tensors */

typedef struct fixture {
    hyb_language_model_config config;
    uint8_t tokenizer[40];
    const char *metadata;
    float values[FIXTURE_TENSORS][FIXTURE_VALUES];
    int8_t codes[FIXTURE_TENSORS][FIXTURE_VALUES];
    float scales[FIXTURE_TENSORS][FIXTURE_VALUES];
    hyb_file_source sources[FIXTURE_TENSORS];
    hyb_file_contents contents;
} fixture;

static inline int8_t fixture_code(int format, size_t i) {
    static const int n_levels[] = {0, 3, 2, 4, 16, 255};
    int n = n_levels[format], level = (int)((i * 37 + i / 7) % (size_t)n);
    return (int8_t)(format == HYB_FORMAT_TERNARY || format == HYB_FORMAT_INT8 ? level - n / 2 : 2 * level - (n - 1));
}

static inline void fixture_init(fixture *f) {
    static const hyb_file_source shapes[FIXTURE_TENSORS] = {
        {"norm.gain", HYB_FORMAT_F32, 0, 1, 7, NULL, NULL, NULL},
        {"matrix.f32", HYB_FORMAT_F32, 0, 3, 2, NULL, NULL, NULL},
        {"ternary.tensor", HYB_FORMAT_TERNARY, HYB_SCALE_PER_TENSOR, 3, 7, NULL, NULL, NULL},
        {"ternary.row", HYB_FORMAT_TERNARY, HYB_SCALE_PER_ROW, 4, 13, NULL, NULL, NULL},
        {"binary.tensor", HYB_FORMAT_BINARY, HYB_SCALE_PER_TENSOR, 3, 5, NULL, NULL, NULL},
        {"int2.row", HYB_FORMAT_INT2, HYB_SCALE_PER_ROW, 2, 5, NULL, NULL, NULL},
        {"int4.tensor", HYB_FORMAT_INT4, HYB_SCALE_PER_TENSOR, 1, 9, NULL, NULL, NULL},
        {"int8.row", HYB_FORMAT_INT8, HYB_SCALE_PER_ROW, 3, 11, NULL, NULL, NULL},
    };
    memset(f, 0, sizeof *f);
    f->config = (hyb_language_model_config){.struct_size = sizeof f->config,
                                            .vocab_size = 256,
                                            .dim = 12,
                                            .n_layers = 1,
                                            .n_heads = 2,
                                            .n_kv_heads = 1,
                                            .ffn_dim = 20,
                                            .max_context = 32,
                                            .rope_theta = 10000.0f,
                                            .norm_epsilon = 1e-5f,
                                            .tied_embeddings = 1,
                                            .linear_format = HYB_FORMAT_TERNARY,
                                            .embedding_format = HYB_FORMAT_INT8};
    hyb_store_u32(f->tokenizer + 12, 256); /* kind BYTES: 32 bytes, all zero but vocab_size */
    f->metadata = "{\"name\": \"golden file of format version 1\", \"gr\xc3\xb6\xc3\x9f\x65\": \"klein\"}";
    for (size_t t = 0; t < FIXTURE_TENSORS; ++t) {
        hyb_file_source *s = &f->sources[t];
        *s = shapes[t];
        for (size_t i = 0; i < FIXTURE_VALUES; ++i) {
            f->values[t][i] = (float)((int)(i * 5 % 11) - 5) * 0.25f;
            f->codes[t][i] = s->format == HYB_FORMAT_F32 ? 0 : fixture_code(s->format, i);
            f->scales[t][i] = (float)(t + i + 1) * 0.125f;
        }
        s->values = s->format == HYB_FORMAT_F32 ? f->values[t] : NULL;
        s->codes = s->format == HYB_FORMAT_F32 ? NULL : f->codes[t];
        s->scales = s->format == HYB_FORMAT_F32 ? NULL : f->scales[t];
    }
    f->contents = (hyb_file_contents){.struct_size = sizeof f->contents,
                                      .config = &f->config,
                                      .tokenizer = f->tokenizer,
                                      .tokenizer_bytes = 32,
                                      .metadata = f->metadata,
                                      .metadata_bytes = strlen(f->metadata),
                                      .tensors = f->sources,
                                      .n_tensors = FIXTURE_TENSORS};
}

/* ---- a folder for one test program ---- */

static char test_folder[128];

static inline const char *test_path(const char *name) {
    static char path[512]; /* the folder, and the longest name */
    snprintf(path, sizeof path, "%s/%s", test_folder, name);
    return path;
}

static inline void test_folder_make(void) {
    const char *base = getenv("TMPDIR");
    snprintf(test_folder, sizeof test_folder, "%.90s/hyb_test_XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(test_folder) == NULL) {
        perror(test_folder);
        exit(1);
    }
}

/* Number of files in the folder; with `empty`, they are removed. */
static inline size_t test_folder_count(int empty) {
    size_t n = 0;
    DIR *folder = opendir(test_folder);
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        ++n;
        if (empty && unlink(test_path(entry->d_name)) != 0) rmdir(test_path(entry->d_name));
    }
    if (folder != NULL) closedir(folder);
    return n;
}

static inline void test_folder_remove(void) {
    test_folder_count(1);
    rmdir(test_folder);
}

/* A whole file in memory from malloc, or NULL. */
static inline uint8_t *test_read_file(const char *path, size_t *n_bytes) {
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) return NULL;
    fseek(stream, 0, SEEK_END);
    *n_bytes = (size_t)ftell(stream);
    fseek(stream, 0, SEEK_SET);
    uint8_t *bytes = malloc(*n_bytes + 1);
    if (fread(bytes, 1, *n_bytes, stream) != *n_bytes) *n_bytes = 0;
    fclose(stream);
    return bytes;
}

static inline void test_write_file(const char *path, const void *bytes, size_t n_bytes) {
    FILE *stream = fopen(path, "wb");
    CHECK(stream != NULL && fwrite(bytes, 1, n_bytes, stream) == n_bytes);
    if (stream != NULL) fclose(stream);
}

/* The fixture's contents as the library writes them. */
static inline uint8_t *fixture_bytes(hyb_ctx *ctx, const hyb_file_contents *contents, size_t *n_bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s", test_path("fixture.hyb"));
    *n_bytes = 0;
    CHECK_OK(hyb_file_write(ctx, path, contents));
    uint8_t *bytes = test_read_file(path, n_bytes);
    unlink(path);
    return bytes;
}

/* Makes both checksums right again, as a hostile author would. */
static inline void fixture_seal(uint8_t *bytes, size_t n_bytes) {
    if (n_bytes < HYB_HEADER_BYTES) return;
    hyb_store_u32(bytes + HYB_HEADER_BODY_CRC, hyb_crc32c(0, bytes + HYB_HEADER_BYTES, n_bytes - HYB_HEADER_BYTES));
    hyb_store_u32(bytes + HYB_HEADER_CRC, hyb_crc32c(0, bytes, HYB_HEADER_CRC));
}

/* Touches every byte that the accessors give away; returns a sum, so that nothing is optimised away. */
static inline unsigned fixture_walk(const hyb_file *file) {
    unsigned sum = hyb_file_version(file);
    size_t n = 0;
    hyb_language_model_config config = {.struct_size = sizeof config};
    CHECK_OK(hyb_file_config(file, &config));
    const uint8_t *section = hyb_file_tokenizer(file, &n);
    CHECK((section == NULL) == (n == 0));
    for (size_t i = 0; i < n; ++i) sum += section[i];
    const char *metadata = hyb_file_metadata(file, &n);
    CHECK((metadata == NULL) == (n == 0));
    for (size_t i = 0; i < n; ++i) sum += (unsigned char)metadata[i];
    for (size_t t = 0; t < hyb_file_tensor_count(file); ++t) {
        hyb_file_tensor tensor, named;
        CHECK_OK(hyb_file_tensor_at(file, t, &tensor));
        CHECK_OK(hyb_file_tensor_named(file, tensor.name, &named));
        CHECK(named.payload == tensor.payload && named.total_bytes == tensor.total_bytes);
        for (size_t i = 0; i < tensor.payload_bytes; ++i) sum += ((const uint8_t *)tensor.payload)[i];
        for (size_t i = 0; i < 2u * tensor.n_scales; ++i) sum += ((const uint8_t *)tensor.scales)[i];
    }
    return sum;
}

#endif /* HYB_FILE_FIXTURE_H */
