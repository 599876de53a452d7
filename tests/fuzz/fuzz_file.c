/* fuzz_file.c - libFuzzer entry point of hyb_file_open_memory and every accessor: no input may crash, read outside the
 * bytes, or leak. Each input is opened as it is, and once more with its length and checksums made right, so that the
 * fuzzer gets behind them; what opens is compressed and expanded again, and reading piece by piece agrees with opening.
 * When to use it: after any change of file_*.c, rans*.c, coding.c or pack.c. tools/full_check fuzz runs a million
 * inputs; for a short look, from the root and with a build of the static library in b:
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -std=c99 -Iinclude -Ilib \
 *       tests/fuzz/fuzz_file.c lib/file_*.c lib/rans*.c lib/coding.c lib/crc32c.c lib/pack.c b/lib/libhybrid.a \
 *       -lm -lpthread -o fuzz_file
 *   mkdir corpus; cp tests/data/golden_*.hyb corpus/; ./fuzz_file -max_total_time=60 -max_len=8192 corpus
 */
#include <stdlib.h>

#include <hybrid/file.h>

#include "file_open.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

/* Sum of bytes that must be readable. */
static unsigned sum_of(const void *bytes, size_t n_bytes) {
    unsigned sum = 0;
    for (size_t i = 0; i < n_bytes; ++i) sum += ((const uint8_t *)bytes)[i];
    return sum;
}

static unsigned walk(hyb_ctx *ctx, const hyb_file *file) {
    size_t n = 0, n_tensors = hyb_file_tensor_count(file);
    hyb_language_model_config config = {.struct_size = sizeof config};
    unsigned sum = hyb_file_version(file) + (unsigned)hyb_file_bytes(file);
    int is_mlp = hyb_file_architecture(file) == HYB_ARCHITECTURE_MLP;
    if (hyb_file_config(file, &config) != (is_mlp ? HYB_ERROR_FORMAT : HYB_OK)) abort();
    if (!is_mlp && hyb_language_model_config_check(ctx, &config) != HYB_OK) abort();
    const void *section = hyb_file_tokenizer(file, &n);
    sum += sum_of(section, n);
    section = hyb_file_metadata(file, &n);
    sum += sum_of(section, n);
    for (size_t i = 0; i < n_tensors; ++i) {
        hyb_file_tensor tensor, named;
        hyb_file_coding coding;
        if (hyb_file_tensor_at(file, i, &tensor) != HYB_OK) abort();
        if (hyb_file_tensor_named(file, tensor.name, &named) != HYB_OK || named.payload != tensor.payload) abort();
        if (hyb_file_tensor_coding(file, i, &coding) != HYB_OK) abort();
        sum += sum_of(tensor.payload, tensor.payload_bytes) + sum_of(tensor.scales, 2 * (size_t)tensor.n_scales);
        if (tensor.format == HYB_FORMAT_F32) continue;
        size_t n_codes = (size_t)tensor.n_rows * tensor.n_cols;
        int8_t *codes = malloc(n_codes);
        if (codes == NULL || hyb_unpack(ctx, (hyb_packing)tensor.packing, tensor.payload, n_codes, codes) != HYB_OK)
            abort();
        free(codes);
    }
    if (hyb_file_tensor_at(file, n_tensors, &(hyb_file_tensor){.n_rows = 0}) == HYB_OK) abort();
    return sum;
}

/* The checksum of the original in a compressed file, where it expands. */
static void seal_original(hyb_ctx *ctx, uint8_t *bytes, size_t n_bytes) {
    hyb_file *file = NULL;
    uint8_t *image = NULL;
    uint32_t crc;
    if (hyb_load_u32(bytes + HYB_HEADER_VERSION) != HYB_COMPRESSED_VERSION) return;
    hyb_store_u32(bytes + HYB_HEADER_CRC, hyb_crc32c(0, bytes, HYB_HEADER_CRC));
    if (hyb_file_begin_memory(ctx, bytes, n_bytes, &file) == HYB_OK &&
        hyb_file_expand_image(file, &image, &crc) == HYB_OK) {
        hyb_store_u32(bytes + HYB_COMPRESSED_ORIGINAL_CRC, crc);
        hyb_free(ctx, image);
    }
    hyb_file_close(file);
}

/* The compressed form of a file that opens expands to the same bytes; a compressed file's original compresses. */
static void rewrite(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, const hyb_file *file) {
    size_t n_original = hyb_file_expanded_bytes(file), n = n_bytes;
    uint8_t *original = malloc(n_original), *compressed = malloc(n_original), *back = malloc(n_original);
    if (original == NULL || compressed == NULL || back == NULL) abort();
    if (hyb_file_version(file) == 3) {
        if (hyb_file_expand_memory(ctx, bytes, n_bytes, original, n_original, &n) != HYB_OK) abort();
    } else {
        memcpy(original, bytes, n_bytes);
    }
    if (n != n_original || hyb_file_compress_memory(ctx, original, n, compressed, n, &n) != HYB_OK) abort();
    if (hyb_file_expand_memory(ctx, compressed, n, back, n_original, &n) != HYB_OK) abort();
    if (n != n_original || memcmp(original, back, n) != 0) abort();
    free(original);
    free(compressed);
    free(back);
}

/* Piece by piece, as networks are loaded. */
static hyb_status read_in_pieces(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes) {
    hyb_file *file = NULL;
    hyb_status status = hyb_file_begin_memory(ctx, bytes, n_bytes, &file);
    if (status == HYB_OK) status = hyb_file_check_data(file);
    hyb_file_close(file);
    return status;
}

/* The copy has exactly n_bytes, so that the address sanitizer sees the first byte behind it. */
static void open_and_walk(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, int seal) {
    hyb_file *file = NULL;
    uint8_t *copy = malloc(n_bytes > 0 ? n_bytes : 1);
    if (copy == NULL) return;
    if (n_bytes > 0) memcpy(copy, bytes, n_bytes);
    if (seal && n_bytes >= HYB_HEADER_BYTES) {
        memcpy(copy, hyb_file_magic, HYB_MAGIC_BYTES);
        hyb_store_u64(copy + HYB_HEADER_FILE_BYTES, n_bytes);
        hyb_store_u32(copy + HYB_HEADER_BODY_CRC, hyb_crc32c(0, copy + HYB_HEADER_BYTES, n_bytes - HYB_HEADER_BYTES));
        seal_original(ctx, copy, n_bytes);
        hyb_store_u32(copy + HYB_HEADER_CRC, hyb_crc32c(0, copy, HYB_HEADER_CRC));
    }
    volatile unsigned sum = 0;
    if (hyb_file_open_memory(ctx, copy, n_bytes, &file) == HYB_OK) {
        sum = walk(ctx, file);
        rewrite(ctx, copy, n_bytes, file);
    }
    (void)sum;
    if ((read_in_pieces(ctx, copy, n_bytes) == HYB_OK) != (file != NULL)) abort();
    hyb_file_close(file);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
    hyb_ctx *ctx = NULL;
    if (hyb_ctx_create(NULL, &ctx) != HYB_OK) return 0;
    open_and_walk(ctx, bytes, n_bytes, 0);
    open_and_walk(ctx, bytes, n_bytes, 1);
    hyb_ctx_destroy(ctx);
    return 0;
}
