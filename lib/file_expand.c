/* file_expand.c - what lies before the data of a compressed model file's original (format version 3 of hybrid/file.h),
 * put together in memory: sections are copied, entries and offsets follow from the sizes. The data themselves are
 * file_data.c's.
 *
 * Nothing is believed: every length is checked against the bytes that are left, the original's against the limit. What
 * comes out then goes through file_read.c like the beginning of any other file.
 */
#include "file_compress.h"
#include "file_open.h"

/* What is being put together. */
typedef struct expansion {
    hyb_ctx *ctx;
    hyb_file *file;
    uint8_t *head;                            /* of the original: [layout.data] */
    uint64_t place;                           /* end of the tensor before */
    const uint8_t *directory, *directory_end; /* of the compressed file; they move on */
    char name[HYB_FILE_NAME_BYTES];
} expansion;

/* ---- one tensor ---- */

/* Its name, from what it shares with the one before. */
static int read_name(expansion *e) {
    size_t left = (size_t)(e->directory_end - e->directory);
    if (left < 2) return 0;
    size_t n_shared = e->directory[0], n_new = e->directory[1];
    if (n_shared + n_new >= sizeof e->name || left - 2 < n_new || n_shared > strlen(e->name)) return 0;
    memset(e->name + n_shared, 0, sizeof e->name - n_shared);
    memcpy(e->name + n_shared, e->directory + 2, n_new);
    e->directory += 2 + n_new;
    return 1;
}

/* Its shape and how it is coded; NULL, or what is wrong. */
static const char *read_shape(expansion *e, hyb_file_shape *shape, hyb_file_part *part) {
    uint64_t n_rows, n_cols;
    if (e->directory_end - e->directory < 2) return "the directory ends inside it";
    uint8_t format = e->directory[0], packing = e->directory[1];
    e->directory += 2;
    if (!hyb_get_varint(&e->directory, e->directory_end, &n_rows) ||
        !hyb_get_varint(&e->directory, e->directory_end, &n_cols))
        return "the directory ends inside it";
    if (n_rows > UINT32_MAX || n_cols > UINT32_MAX) return "its rows or columns are beyond 2^32";
    *shape = (hyb_file_shape){.format = format & 15,
                              .granularity = format >> 4,
                              .packing = packing & 15,
                              .n_rows = (uint32_t)n_rows,
                              .n_cols = (uint32_t)n_cols};
    *part = (hyb_file_part){.coding = e->directory, .kind = packing >> 4};
    if (part->kind > HYB_CODING_ENTROPY || (part->kind == HYB_CODING_HALF && shape->format != HYB_FORMAT_F32) ||
        (part->kind == HYB_CODING_ENTROPY && shape->format == HYB_FORMAT_F32))
        return "its coding is unknown";
    const char *problem = hyb_file_measure(shape, e->file->n_bytes);
    if (problem != NULL || part->kind != HYB_CODING_ENTROPY) return problem;
    return hyb_coded_pass(hyb_file_symbols(shape->packing), (size_t)shape->payload_bytes, &e->directory,
                          e->directory_end)
               ? NULL
               : "its coding is no such";
}

static void put_entry(const expansion *e, size_t index, const hyb_file_shape *shape) {
    uint8_t *entry = e->head + e->file->layout.directory + index * HYB_ENTRY_BYTES;
    memset(entry, 0, HYB_ENTRY_BYTES);
    memcpy(entry, e->name, sizeof e->name);
    entry[HYB_ENTRY_FORMAT] = (uint8_t)shape->format;
    entry[HYB_ENTRY_PACKING] = (uint8_t)shape->packing;
    entry[HYB_ENTRY_GRANULARITY] = (uint8_t)shape->granularity;
    hyb_store_u32(entry + HYB_ENTRY_ROWS, shape->n_rows);
    hyb_store_u32(entry + HYB_ENTRY_COLS, shape->n_cols);
    hyb_store_u64(entry + HYB_ENTRY_OFFSET, e->place - shape->data_bytes);
    hyb_store_u64(entry + HYB_ENTRY_DATA_BYTES, shape->data_bytes);
}

static const char *read_tensor(expansion *e, size_t index) {
    hyb_file_shape shape;
    if (!read_name(e)) return "its name is no such";
    const char *problem = read_shape(e, &shape, &e->file->parts[index]);
    if (problem != NULL) return problem;
    if (!hyb_file_place(&e->place, shape.data_bytes, HYB_FILE_ALIGNMENT, e->file->n_bytes))
        return "it ends behind the original";
    put_entry(e, index, &shape);
    return NULL;
}

/* ---- the whole ---- */

static hyb_status check_lanes(hyb_ctx *ctx, const uint8_t *header) {
    uint32_t lanes = hyb_load_u32(header + HYB_COMPRESSED_LANES);
    if (lanes == 0 || lanes > HYB_RANS_LANES || (hyb_load_u64(header + HYB_COMPRESSED_STREAM) == 0 && lanes != 1))
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "compressed file: the stream has %u lanes", lanes);
    for (size_t i = HYB_COMPRESSED_ZERO; i < HYB_HEADER_BODY_CRC; ++i)
        if (header[i] != 0) return hyb_fail(ctx, HYB_ERROR_FORMAT, "byte %zu is %u, must be zero", i, header[i]);
    return HYB_OK;
}

/* Where the sections of the compressed file begin, from the tokenizer's to the stream, and the sizes of the original's.
 */
static hyb_status read_header(hyb_file *file, const uint8_t *header, uint64_t sections[5]) {
    static const uint8_t fields[] = {HYB_COMPRESSED_TOKENIZER, HYB_COMPRESSED_METADATA, HYB_COMPRESSED_DIRECTORY,
                                     HYB_COMPRESSED_RAW, HYB_COMPRESSED_STREAM};
    uint64_t at = HYB_HEADER_BYTES + HYB_CONFIG_BYTES, n_bytes = file->input.n_bytes;
    uint64_t n_original = hyb_load_u64(header + HYB_COMPRESSED_ORIGINAL_BYTES);
    uint32_t version = hyb_load_u32(header + HYB_COMPRESSED_ORIGINAL_VERSION);
    if (version == 0 || version >= HYB_COMPRESSED_VERSION)
        return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "compressed file: the original's format version is %u", version);
    if (n_original > n_bytes * HYB_FILE_EXPANSION + HYB_COMPRESSED_FREE_BYTES || n_original > SIZE_MAX / 2)
        return hyb_fail(file->ctx, HYB_ERROR_FORMAT,
                        "compressed file: %llu bytes are too many for the original of %llu",
                        (unsigned long long)n_original, (unsigned long long)n_bytes);
    file->n_bytes = (size_t)n_original;
    HYB_TRY(check_lanes(file->ctx, header));
    for (size_t i = 0; i < 5; ++i) {
        uint64_t n = hyb_load_u64(header + fields[i]);
        if (at > n_bytes || n > n_bytes - at)
            return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "compressed file: its sections are longer than its %llu bytes",
                            (unsigned long long)n_bytes);
        sections[i] = at;
        at += n;
    }
    if (at != n_bytes)
        return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "compressed file: its sections end at byte %llu of %llu",
                        (unsigned long long)at, (unsigned long long)n_bytes);
    file->layout.tokenizer_bytes = hyb_load_u64(header + HYB_COMPRESSED_TOKENIZER);
    file->layout.metadata_bytes = hyb_load_u64(header + HYB_COMPRESSED_METADATA);
    file->layout.n_tensors = hyb_load_u64(header + HYB_COMPRESSED_N_TENSORS);
    if (file->layout.n_tensors == 0 || !hyb_file_place_sections(&file->layout, file->n_bytes))
        return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "compressed file: the sections do not fit into the original");
    return HYB_OK;
}

/* Fills the head; `bytes` are those of the compressed file before its uncoded data. The header, which was checked, may
 * no longer be the one among them. */
static hyb_status fill_head(expansion *e, const uint8_t *header, const uint8_t *bytes, const uint64_t sections[5]) {
    const hyb_file_layout *l = &e->file->layout;
    memset(e->head, 0, (size_t)l->data);
    memcpy(e->head + HYB_HEADER_BYTES, bytes + HYB_HEADER_BYTES, HYB_CONFIG_BYTES);
    if (l->tokenizer != 0) memcpy(e->head + l->tokenizer, bytes + sections[0], (size_t)l->tokenizer_bytes);
    if (l->metadata != 0) memcpy(e->head + l->metadata, bytes + sections[1], (size_t)l->metadata_bytes);
    e->directory = bytes + sections[2];
    e->directory_end = bytes + sections[3];
    e->place = l->data;
    for (size_t i = 0; i < (size_t)l->n_tensors; ++i) {
        const char *problem = read_tensor(e, i);
        if (problem != NULL) return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: tensor %zu: %s", i, problem);
    }
    if (e->directory != e->directory_end || e->place != e->file->n_bytes)
        return hyb_fail(e->ctx, HYB_ERROR_FORMAT, "compressed file: something is left behind the last tensor");
    hyb_file_put_header(hyb_load_u32(header + HYB_COMPRESSED_ORIGINAL_VERSION), e->place, l,
                        hyb_load_u32(header + HYB_COMPRESSED_ORIGINAL_CRC), e->head);
    return HYB_OK;
}

hyb_status hyb_file_begin_compressed(hyb_file *file, const uint8_t header[HYB_HEADER_BYTES]) {
    expansion e = {.ctx = file->ctx, .file = file};
    uint64_t sections[5];
    const uint8_t *bytes = NULL;
    HYB_TRY(read_header(file, header, sections));
    HYB_TRY(hyb_input_take(&file->input, 0, (size_t)sections[3], &file->directory, &bytes));
    file->raw = sections[3];
    file->stream = sections[4];
    file->n_lanes = hyb_load_u32(header + HYB_COMPRESSED_LANES);
    file->parts_end = bytes + sections[3];
    file->parts = hyb_alloc(file->ctx, (size_t)file->layout.n_tensors, sizeof *file->parts);
    file->bytes = file->head = e.head = hyb_alloc(file->ctx, (size_t)file->layout.data, 1);
    if (file->parts == NULL || e.head == NULL)
        return hyb_fail(file->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a compressed file's directory");
    return fill_head(&e, header, bytes, sections);
}

/* ---- writing it down ---- */

static hyb_status check_compressed(hyb_ctx *ctx, const hyb_file *file) {
    if (hyb_file_version(file) == HYB_COMPRESSED_VERSION) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_FORMAT, "the file is not compressed: its format version is %u",
                    hyb_file_version(file));
}

hyb_status hyb_file_expand(hyb_ctx *ctx, const char *source, const char *target, hyb_file_sizes *sizes) {
    hyb_file *file = NULL;
    if (ctx == NULL || source == NULL || target == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_expand: ctx, source and target must not be NULL");
    HYB_TRY(hyb_file_open(ctx, source, &file));
    hyb_status status = check_compressed(ctx, file);
    if (status != HYB_OK) status = hyb_fail_file(ctx, status, source);
    if (status == HYB_OK) status = hyb_file_replace(ctx, target, hyb_file_image(file), hyb_file_expanded_bytes(file));
    if (status == HYB_OK && sizes != NULL)
        *sizes = (hyb_file_sizes){hyb_file_expanded_bytes(file), hyb_file_bytes(file)};
    hyb_file_close(file);
    return status;
}

hyb_status hyb_file_expand_memory(hyb_ctx *ctx, const void *source, size_t n_source, void *target, size_t capacity,
                                  size_t *n_bytes) {
    hyb_file *file = NULL;
    if (ctx == NULL || source == NULL || n_bytes == NULL || (target == NULL && capacity > 0))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_expand_memory: ctx, source or n_bytes is NULL");
    HYB_TRY(hyb_file_open_memory(ctx, source, n_source, &file));
    hyb_status status = check_compressed(ctx, file);
    if (status == HYB_OK)
        status =
            hyb_file_put_bytes(ctx, hyb_file_image(file), hyb_file_expanded_bytes(file), target, capacity, n_bytes);
    hyb_file_close(file);
    return status;
}
