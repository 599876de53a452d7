/* file_read.c - opens a .hyb file: believes nothing before it was checked.
 *
 * The order: header checksum, version, length, body checksum, sections, configuration, directory; a file that is begun
 * (file_data.h) is there, one that is open has its contents in memory and checked, too (file_data.c). A checksum
 * finds accidents, not malice, so that everything behind it is checked as if there were none. What is accepted is
 * exactly what file_write.c could have written (and ternary in 2 bits): the layout has no freedom.
 */
#include "file_open.h"

/* ---- header ---- */

/* Checks the first min(n_bytes, 128) bytes of a file of n_bytes. */
static hyb_status check_header(hyb_ctx *ctx, const uint8_t *header, uint64_t n_bytes) {
    unsigned long long size = n_bytes;
    if (n_bytes == 0) return hyb_fail(ctx, HYB_ERROR_TRUNCATED, "the file is empty");
    size_t n_magic = n_bytes < HYB_MAGIC_BYTES ? (size_t)n_bytes : HYB_MAGIC_BYTES;
    if (memcmp(header, hyb_file_magic, n_magic) != 0)
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "not a .hyb file: its first bytes are not 89 48 59 42 0D 0A 1A 0A");
    if (n_bytes < HYB_HEADER_BYTES)
        return hyb_fail(ctx, HYB_ERROR_TRUNCATED, "the file ends after %llu bytes, inside its header", size);
    /* Before the version, so that a damaged version is called damage. Every version keeps this checksum. */
    if (hyb_load_u32(header + HYB_HEADER_CRC) != hyb_crc32c(0, header, HYB_HEADER_CRC))
        return hyb_fail(ctx, HYB_ERROR_CHECKSUM, "the header's checksum is wrong: the file is damaged");
    uint32_t version = hyb_load_u32(header + HYB_HEADER_VERSION);
    if (version > HYB_FILE_VERSION)
        return hyb_fail(ctx, HYB_ERROR_VERSION, "format version %u; this library reads up to %d: update it", version,
                        HYB_FILE_VERSION);
    if (version == 0) return hyb_fail(ctx, HYB_ERROR_FORMAT, "format version 0 does not exist");
    if (hyb_load_u32(header + HYB_HEADER_HEADER_BYTES) != HYB_HEADER_BYTES)
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "header of %u bytes; versions 1 to 3 have 128",
                        hyb_load_u32(header + HYB_HEADER_HEADER_BYTES));
    uint64_t claimed = hyb_load_u64(header + HYB_HEADER_FILE_BYTES);
    if (claimed > n_bytes)
        return hyb_fail(ctx, HYB_ERROR_TRUNCATED, "the file has %llu bytes, its header says %llu: it was cut", size,
                        (unsigned long long)claimed);
    if (claimed < n_bytes)
        return hyb_fail(ctx, HYB_ERROR_FORMAT, "the file has %llu bytes, its header says %llu: something was appended",
                        size, (unsigned long long)claimed);
    return HYB_OK;
}

/* ---- sections ---- */

static hyb_status check_zero(const hyb_file *file, uint64_t begin, uint64_t end) {
    for (uint64_t i = begin; i < end; ++i)
        if (file->bytes[i] != 0)
            return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "byte %llu is %u, must be zero", (unsigned long long)i,
                            (unsigned)file->bytes[i]);
    return HYB_OK;
}

/* The header's field at `at` must hold `expected`. */
static hyb_status check_field(const hyb_file *file, size_t at, const char *name, uint64_t expected) {
    uint64_t found = hyb_load_u64(file->bytes + at);
    if (found == expected) return HYB_OK;
    return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "header: the %s is %llu, must be %llu", name,
                    (unsigned long long)found, (unsigned long long)expected);
}

/* Works out where the sections of a file that is not compressed lie. */
static hyb_status read_layout(hyb_file *file, const uint8_t *header) {
    hyb_file_layout *l = &file->layout;
    l->tokenizer_bytes = hyb_load_u64(header + HYB_HEADER_TOKENIZER + 8);
    l->metadata_bytes = hyb_load_u64(header + HYB_HEADER_METADATA + 8);
    l->n_tensors = hyb_load_u64(header + HYB_HEADER_N_TENSORS);
    if (l->n_tensors == 0) return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "header: the number of tensors is 0");
    if (!hyb_file_place_sections(l, file->n_bytes))
        return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "header: the sections do not fit into the file's %zu bytes",
                        file->n_bytes);
    return HYB_OK;
}

/* The header names those places, and the gaps are zero. */
static hyb_status check_sections(const hyb_file *file) {
    const hyb_file_layout *l = &file->layout;
    HYB_TRY(check_field(file, HYB_HEADER_CONFIG, "configuration's offset", HYB_HEADER_BYTES));
    HYB_TRY(check_field(file, HYB_HEADER_CONFIG + 8, "configuration's size", HYB_CONFIG_BYTES));
    HYB_TRY(check_field(file, HYB_HEADER_TOKENIZER, "tokenizer's offset", l->tokenizer));
    HYB_TRY(check_field(file, HYB_HEADER_METADATA, "metadata's offset", l->metadata));
    HYB_TRY(check_field(file, HYB_HEADER_DIRECTORY, "directory's offset", l->directory));
    HYB_TRY(check_field(file, HYB_HEADER_DATA, "data's offset", l->data));
    HYB_TRY(check_zero(file, HYB_HEADER_ZERO, HYB_HEADER_BODY_CRC));
    uint64_t next = l->metadata != 0 ? l->metadata : l->directory;
    if (l->tokenizer != 0) HYB_TRY(check_zero(file, l->tokenizer + l->tokenizer_bytes, next));
    if (l->metadata != 0) HYB_TRY(check_zero(file, l->metadata + l->metadata_bytes, l->directory));
    return check_zero(file, l->directory + l->n_tensors * HYB_ENTRY_BYTES, l->data);
}

/* Its sizes are those of the tensors: hyb_mlp_load checks them. */
static hyb_status check_mlp_config(const hyb_file *file) {
    const uint8_t *b = hyb_file_config_bytes(file);
    hyb_mlp_config config = hyb_file_get_mlp(b);
    if (b[HYB_CONFIG_ARCHITECTURE] != HYB_ARCHITECTURE_MLP)
        return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "format version 2 with the unknown architecture %u",
                        (unsigned)b[HYB_CONFIG_ARCHITECTURE]);
    HYB_TRY(check_zero(file, HYB_HEADER_BYTES + HYB_CONFIG_MLP_ZERO_A, HYB_HEADER_BYTES + HYB_CONFIG_EPSILON));
    HYB_TRY(check_zero(file, HYB_HEADER_BYTES + HYB_CONFIG_MLP_ZERO_B, HYB_HEADER_BYTES + HYB_CONFIG_BYTES));
    for (size_t i = 0; i < sizeof config.sizes / sizeof *config.sizes; ++i) config.sizes[i] = 1;
    hyb_status status = hyb_mlp_config_check(file->ctx, &config);
    return status == HYB_ERROR_INVALID_ARGUMENT ? HYB_ERROR_FORMAT : status; /* the detail names the field */
}

/* Of a compressed file that of its original. */
static uint32_t image_version(const hyb_file *file) { return hyb_load_u32(file->bytes + HYB_HEADER_VERSION); }

static hyb_status check_config(hyb_file *file) {
    const uint8_t *b = hyb_file_config_bytes(file);
    if (image_version(file) > 1) return check_mlp_config(file);
    file->config = (hyb_language_model_config){
        .struct_size = sizeof file->config,
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
    HYB_TRY(check_zero(file, HYB_HEADER_BYTES + HYB_CONFIG_ZERO, HYB_HEADER_BYTES + HYB_CONFIG_BYTES));
    hyb_status status = hyb_language_model_config_check(file->ctx, &file->config);
    return status == HYB_ERROR_INVALID_ARGUMENT ? HYB_ERROR_FORMAT : status; /* the detail names the field */
}

/* ---- tensors ---- */

static const uint8_t *entry_at(const hyb_file *file, size_t index) {
    return file->bytes + file->layout.directory + index * HYB_ENTRY_BYTES;
}

static const char *read_shape(const uint8_t *entry, uint64_t limit, hyb_file_shape *shape) {
    *shape = (hyb_file_shape){.format = entry[HYB_ENTRY_FORMAT],
                              .packing = entry[HYB_ENTRY_PACKING],
                              .granularity = entry[HYB_ENTRY_GRANULARITY],
                              .n_rows = hyb_load_u32(entry + HYB_ENTRY_ROWS),
                              .n_cols = hyb_load_u32(entry + HYB_ENTRY_COLS)};
    return hyb_file_measure(shape, limit);
}

/* NULL, or what is wrong with a tensor whose data must begin at the next aligned place behind *cursor; moves *cursor to
 * the end of the data. */
static const char *check_entry(const hyb_file *file, const uint8_t *entry, uint64_t *cursor) {
    hyb_file_shape shape;
    const char *problem = hyb_file_check_name((const char *)entry, HYB_FILE_NAME_BYTES);
    if (problem != NULL) return problem;
    for (size_t i = strlen((const char *)entry); i < HYB_FILE_NAME_BYTES; ++i)
        if (entry[i] != 0) return "its name has bytes behind the final zero";
    if (entry[HYB_ENTRY_ZERO_A] != 0 || hyb_load_u32(entry + HYB_ENTRY_ZERO_B) != 0)
        return "reserved bytes are not zero";
    problem = read_shape(entry, file->n_bytes, &shape);
    if (problem != NULL) return problem;
    if (hyb_load_u64(entry + HYB_ENTRY_DATA_BYTES) != shape.data_bytes) return "its bytes do not match its shape";
    if (!hyb_file_place(cursor, shape.data_bytes, HYB_FILE_ALIGNMENT, file->n_bytes))
        return "its data end behind the file";
    if (hyb_load_u64(entry + HYB_ENTRY_OFFSET) != *cursor - shape.data_bytes)
        return "its data are not at the next multiple of 32 behind the tensor before it";
    return NULL;
}

static hyb_status check_directory(hyb_file *file) {
    uint64_t cursor = file->layout.data;
    for (size_t i = 0; i < (size_t)file->layout.n_tensors; ++i) {
        const uint8_t *entry = entry_at(file, i);
        const char *problem = check_entry(file, entry, &cursor);
        if (problem != NULL) return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "tensor %zu: %s", i, problem);
        file->names[i] = (const char *)entry;
    }
    if (cursor != file->n_bytes)
        return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "the data end at byte %llu, the file at %zu",
                        (unsigned long long)cursor, file->n_bytes);
    const char *twice = hyb_file_sort_names(file->names, (size_t)file->layout.n_tensors);
    return twice != NULL ? hyb_fail(file->ctx, HYB_ERROR_FORMAT, "two tensors are called %s", twice) : HYB_OK;
}

/* ---- beginning ---- */

hyb_status hyb_input_take(const hyb_input *input, uint64_t offset, size_t n_bytes, void **memory,
                          const uint8_t **bytes) {
    *memory = NULL;
    if (input->bytes != NULL) {
        *bytes = input->bytes + offset;
        return HYB_OK;
    }
    *bytes = *memory = hyb_alloc(input->ctx, n_bytes, 1);
    if (*memory == NULL)
        return hyb_fail(input->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %zu bytes of the file", n_bytes);
    return hyb_input_read(input, offset, *memory, n_bytes);
}

static hyb_status check_body(const hyb_input *input, const uint8_t *header) {
    hyb_window w;
    uint32_t crc = 0;
    hyb_status status = hyb_window_open(input, HYB_HEADER_BYTES, input->n_bytes, &w);
    while (status == HYB_OK && (status = hyb_window_fill(&w, 1)) == HYB_OK && w.n > 0) {
        crc = hyb_crc32c(crc, w.next, w.n);
        hyb_window_pass(&w, w.n);
    }
    hyb_window_close(&w);
    if (status == HYB_OK && crc != hyb_load_u32(header + HYB_HEADER_BODY_CRC))
        return hyb_fail(input->ctx, HYB_ERROR_CHECKSUM, "the checksum is wrong: the file is damaged");
    return status;
}

/* Reads and checks all but the data. */
static hyb_status read_head(hyb_file *file, const uint8_t *header) {
    HYB_TRY(check_body(&file->input, header));
    if (file->stored_version == HYB_COMPRESSED_VERSION) {
        HYB_TRY(hyb_file_begin_compressed(file, header));
    } else {
        HYB_TRY(read_layout(file, header));
        HYB_TRY(hyb_input_take(&file->input, 0, (size_t)file->layout.data, &file->head, &file->bytes));
        file->is_whole = file->input.bytes != NULL;
        if (file->head != NULL) memcpy(file->head, header, HYB_HEADER_BYTES); /* the one that was checked */
    }
    HYB_TRY(check_sections(file));
    HYB_TRY(check_config(file));
    file->names = hyb_alloc(file->ctx, (size_t)file->layout.n_tensors, sizeof *file->names);
    if (file->names == NULL) return hyb_fail(file->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the tensors' names");
    return check_directory(file);
}

/* Takes the input over, also when it fails. */
static hyb_status begin(hyb_ctx *ctx, hyb_input input, hyb_file **result) {
    uint8_t header[HYB_HEADER_BYTES];
    size_t n_header = input.n_bytes < sizeof header ? (size_t)input.n_bytes : sizeof header;
    hyb_file *file = NULL;
    hyb_status status = hyb_input_read(&input, 0, header, n_header);
    if (status == HYB_OK) status = check_header(ctx, header, input.n_bytes);
    if (status == HYB_OK) {
        file = input.n_bytes <= SIZE_MAX / 2 ? hyb_alloc_zeroed(ctx, 1, sizeof *file) : NULL;
        if (file == NULL) status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a model file");
    }
    if (status != HYB_OK) {
        hyb_input_close(&input);
        return status;
    }
    file->ctx = ctx;
    file->input = input;
    file->stored_version = hyb_load_u32(header + HYB_HEADER_VERSION);
    file->n_bytes = file->stored_bytes = (size_t)input.n_bytes;
    status = read_head(file, header);
    if (status == HYB_OK)
        *result = file;
    else
        hyb_file_close(file);
    return status;
}

static hyb_status fail_at(hyb_ctx *ctx, hyb_status status, const char *path) {
    return status == HYB_OK || status == HYB_ERROR_IO ? status : hyb_fail_file(ctx, status, path); /* IO has it */
}

hyb_status hyb_file_fail(const hyb_file *file, hyb_status status) {
    return file->input.path != NULL ? fail_at(file->ctx, status, file->input.path) : status;
}

hyb_status hyb_file_begin(hyb_ctx *ctx, const char *path, hyb_file **file) {
    hyb_input input;
    HYB_TRY(hyb_input_open(ctx, path, &input));
    return fail_at(ctx, begin(ctx, input, file), path);
}

hyb_status hyb_file_begin_memory(hyb_ctx *ctx, const void *bytes, size_t n_bytes, hyb_file **file) {
    return begin(ctx, (hyb_input){.ctx = ctx, .bytes = bytes, .descriptor = -1, .n_bytes = n_bytes}, file);
}

/* ---- opening and closing ---- */

/* A compressed file becomes its original. */
static hyb_status expand(hyb_file *file) {
    uint8_t *image = NULL;
    uint32_t crc;
    HYB_TRY(hyb_file_expand_image(file, &image, &crc));
    hyb_free(file->ctx, file->owned);
    file->owned = image;
    if (crc != hyb_load_u32(image + HYB_HEADER_BODY_CRC))
        return hyb_fail(file->ctx, HYB_ERROR_CHECKSUM, "the checksum is wrong: the file is damaged");
    for (size_t i = 0; i < (size_t)file->layout.n_tensors; ++i) /* into the directory that stays */
        file->names[i] = (const char *)image + (file->names[i] - (const char *)file->bytes);
    file->bytes = file->input.bytes = image;
    file->input.n_bytes = file->n_bytes;
    file->is_whole = 1;
    hyb_free(file->ctx, file->head);
    hyb_free(file->ctx, file->parts);
    file->head = NULL;
    file->parts = NULL;
    return HYB_OK;
}

/* Opens bytes, and takes `owned` (they, or NULL) over, also when it fails. */
static hyb_status open_bytes(hyb_ctx *ctx, const void *bytes, size_t n_bytes, void *owned, hyb_file **result) {
    hyb_file *file = NULL;
    hyb_status status = hyb_file_begin_memory(ctx, bytes, n_bytes, &file);
    if (file == NULL) {
        hyb_free(ctx, owned);
        return status;
    }
    file->owned = owned;
    if (file->parts != NULL) status = expand(file);
    if (status == HYB_OK) status = hyb_file_check_data(file);
    if (status == HYB_OK)
        *result = file;
    else
        hyb_file_close(file);
    return status;
}

hyb_status hyb_file_open_memory(hyb_ctx *ctx, const void *bytes, size_t n_bytes, hyb_file **file) {
    if (ctx == NULL || bytes == NULL || file == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_open_memory: ctx, bytes and file must not be NULL");
    if (n_bytes > SIZE_MAX / 2)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_open_memory: n_bytes is %zu, no memory is so large",
                        n_bytes);
    return open_bytes(ctx, bytes, n_bytes, NULL, file);
}

/* Reads a whole file into *memory, the header first: what is no model file takes no memory. */
static hyb_status read_file(const hyb_input *input, uint8_t **memory) {
    uint8_t header[HYB_HEADER_BYTES];
    size_t n_header = input->n_bytes < sizeof header ? (size_t)input->n_bytes : sizeof header;
    HYB_TRY(hyb_input_read(input, 0, header, n_header));
    HYB_TRY(check_header(input->ctx, header, input->n_bytes));
    uint8_t *bytes = input->n_bytes <= SIZE_MAX / 2 ? hyb_alloc(input->ctx, (size_t)input->n_bytes, 1) : NULL;
    if (bytes == NULL)
        return hyb_fail(input->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the file's %llu bytes",
                        (unsigned long long)input->n_bytes);
    memcpy(bytes, header, sizeof header);
    hyb_status status =
        hyb_input_read(input, sizeof header, bytes + sizeof header, (size_t)input->n_bytes - sizeof header);
    if (status == HYB_OK)
        *memory = bytes;
    else
        hyb_free(input->ctx, bytes);
    return status;
}

hyb_status hyb_file_open(hyb_ctx *ctx, const char *path, hyb_file **file) {
    hyb_input input;
    uint8_t *bytes = NULL;
    if (ctx == NULL || path == NULL || file == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_file_open: ctx, path and file must not be NULL");
    HYB_TRY(hyb_input_open(ctx, path, &input));
    hyb_status status = read_file(&input, &bytes);
    hyb_input_close(&input);
    if (status == HYB_OK) status = open_bytes(ctx, bytes, (size_t)input.n_bytes, bytes, file);
    return fail_at(ctx, status, path);
}

void hyb_file_close(hyb_file *file) {
    if (file == NULL) return;
    hyb_ctx *ctx = file->ctx;
    hyb_input_close(&file->input);
    hyb_free(ctx, file->names);
    hyb_free(ctx, file->parts);
    hyb_free(ctx, file->directory);
    hyb_free(ctx, file->head);
    hyb_free(ctx, file->owned);
    hyb_free(ctx, file);
}

/* ---- looking ---- */

uint32_t hyb_file_version(const hyb_file *file) { return file != NULL ? file->stored_version : 0; }
size_t hyb_file_bytes(const hyb_file *file) { return file != NULL ? file->stored_bytes : 0; }
size_t hyb_file_expanded_bytes(const hyb_file *file) { return file != NULL ? file->n_bytes : 0; }
const uint8_t *hyb_file_image(const hyb_file *file) { return file->bytes; }
hyb_ctx *hyb_file_ctx(const hyb_file *file) { return file->ctx; }

const uint8_t *hyb_file_config_bytes(const hyb_file *file) { return file->bytes + HYB_HEADER_BYTES; }

hyb_architecture hyb_file_architecture(const hyb_file *file) {
    return file != NULL && image_version(file) > 1 ? HYB_ARCHITECTURE_MLP : HYB_ARCHITECTURE_LANGUAGE_MODEL;
}

hyb_status hyb_file_config(const hyb_file *file, hyb_language_model_config *config) {
    if (file == NULL || config == NULL)
        return hyb_fail(file != NULL ? file->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_file_config: file and config must not be NULL");
    if (config->struct_size < sizeof config->struct_size)
        return hyb_fail(file->ctx, HYB_ERROR_STRUCT_SIZE,
                        "hyb_file_config: set config->struct_size to sizeof(hyb_language_model_config)");
    if (hyb_file_architecture(file) != HYB_ARCHITECTURE_LANGUAGE_MODEL)
        return hyb_fail(file->ctx, HYB_ERROR_FORMAT, "the file holds a perceptron, no language model: hyb_mlp_load");
    size_t given = config->struct_size;
    memcpy(config, &file->config, hyb_min_size(given, sizeof *config));
    config->struct_size = given;
    return HYB_OK;
}

static const uint8_t *section(const hyb_file *file, uint64_t offset, uint64_t size, size_t *n_bytes) {
    if (n_bytes != NULL) *n_bytes = (size_t)size;
    return offset != 0 ? file->bytes + offset : NULL;
}

const uint8_t *hyb_file_tokenizer(const hyb_file *file, size_t *n_bytes) {
    if (n_bytes != NULL) *n_bytes = 0;
    return file != NULL ? section(file, file->layout.tokenizer, file->layout.tokenizer_bytes, n_bytes) : NULL;
}

const char *hyb_file_metadata(const hyb_file *file, size_t *n_bytes) {
    if (n_bytes != NULL) *n_bytes = 0;
    if (file == NULL) return NULL;
    return (const char *)section(file, file->layout.metadata, file->layout.metadata_bytes, n_bytes);
}

size_t hyb_file_tensor_count(const hyb_file *file) { return file != NULL ? (size_t)file->layout.n_tensors : 0; }

hyb_status hyb_file_tensor_at(const hyb_file *file, size_t index, hyb_file_tensor *tensor) {
    if (file == NULL || tensor == NULL)
        return hyb_fail(file != NULL ? file->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_file_tensor_at: file and tensor must not be NULL");
    if (index >= hyb_file_tensor_count(file))
        return hyb_fail(file->ctx, HYB_ERROR_INVALID_ARGUMENT, "tensor index %zu; the file has %zu tensors", index,
                        hyb_file_tensor_count(file));
    const uint8_t *entry = entry_at(file, index);
    hyb_file_shape shape;
    (void)read_shape(entry, file->n_bytes, &shape); /* checked when the file was opened */
    uint64_t begin = hyb_load_u64(entry + HYB_ENTRY_OFFSET);
    uint64_t next = index + 1 < hyb_file_tensor_count(file) ? hyb_load_u64(entry + HYB_ENTRY_BYTES + HYB_ENTRY_OFFSET)
                                                            : file->n_bytes;
    memcpy(tensor->name, entry, sizeof tensor->name);
    tensor->format = (int32_t)shape.format;
    tensor->packing = (int32_t)shape.packing;
    tensor->granularity = (int32_t)shape.granularity;
    tensor->n_rows = shape.n_rows;
    tensor->n_cols = shape.n_cols;
    tensor->n_scales = (uint32_t)shape.n_scales;
    const uint8_t *data = file->is_whole ? file->bytes + begin : NULL;
    tensor->payload = data;
    tensor->payload_bytes = (size_t)shape.payload_bytes;
    tensor->scales = data != NULL && shape.n_scales > 0 ? data + shape.payload_bytes : NULL;
    tensor->total_bytes = (size_t)(next - begin) + HYB_ENTRY_BYTES;
    return HYB_OK;
}

size_t hyb_file_tensor_index(const hyb_file *file, const char *name) {
    size_t found = hyb_file_find_name(file->names, (size_t)file->layout.n_tensors, name);
    if (found == SIZE_MAX) return SIZE_MAX;
    return (size_t)((const uint8_t *)file->names[found] - entry_at(file, 0)) / HYB_ENTRY_BYTES;
}

hyb_status hyb_file_tensor_named(const hyb_file *file, const char *name, hyb_file_tensor *tensor) {
    if (file == NULL || name == NULL || tensor == NULL)
        return hyb_fail(file != NULL ? file->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_file_tensor_named: file, name and tensor must not be NULL");
    size_t index = hyb_file_tensor_index(file, name);
    if (index == SIZE_MAX)
        return hyb_fail(file->ctx, HYB_ERROR_INVALID_ARGUMENT, "the file has no tensor called %.64s", name);
    return hyb_file_tensor_at(file, index, tensor);
}
