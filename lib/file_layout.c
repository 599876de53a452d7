/* file_layout.c - where the parts of a .hyb file lie: the arithmetic behind file_read.c and file_write.c.
 *
 * Sizes are 64 bits wide on every host; nothing here trusts them: each step is checked against a limit (the size of the
 * file, for a reader) before the next one uses it.
 */
#include "file_layout.h"

#include <stdlib.h>

const uint8_t hyb_file_magic[HYB_MAGIC_BYTES] = {0x89, 'H', 'Y', 'B', '\r', '\n', 0x1a, '\n'};

int hyb_file_place(uint64_t *cursor, uint64_t n_bytes, uint64_t alignment, uint64_t limit) {
    uint64_t begin = (*cursor + (alignment - 1)) & ~(alignment - 1);
    if (begin > limit || n_bytes > limit - begin) return 0;
    *cursor = begin + n_bytes;
    return 1;
}

/* Places a section and says where it begins. */
static int place_section(uint64_t *cursor, uint64_t n_bytes, uint64_t limit, uint64_t *offset) {
    if (!hyb_file_place(cursor, n_bytes, HYB_SECTION_ALIGNMENT, limit)) return 0;
    *offset = n_bytes > 0 ? *cursor - n_bytes : 0;
    return 1;
}

int hyb_file_place_sections(hyb_file_layout *layout, uint64_t limit) {
    uint64_t cursor = HYB_HEADER_BYTES + HYB_CONFIG_BYTES;
    if (limit < cursor || layout->n_tensors > limit / HYB_ENTRY_BYTES) return 0;
    if (!place_section(&cursor, layout->tokenizer_bytes, limit, &layout->tokenizer)) return 0;
    if (!place_section(&cursor, layout->metadata_bytes, limit, &layout->metadata)) return 0;
    if (!place_section(&cursor, layout->n_tensors * HYB_ENTRY_BYTES, limit, &layout->directory)) return 0;
    if (!hyb_file_place(&cursor, 0, HYB_FILE_ALIGNMENT, limit)) return 0;
    layout->data = cursor;
    return 1;
}

void hyb_file_put_header(uint32_t version, uint64_t file_bytes, const hyb_file_layout *layout, uint32_t crc,
                         uint8_t *header) {
    const hyb_file_layout *l = layout;
    uint8_t *h = header;
    memset(h, 0, HYB_HEADER_BYTES);
    memcpy(h + HYB_HEADER_MAGIC, hyb_file_magic, HYB_MAGIC_BYTES);
    hyb_store_u32(h + HYB_HEADER_VERSION, version);
    hyb_store_u32(h + HYB_HEADER_HEADER_BYTES, HYB_HEADER_BYTES);
    hyb_store_u64(h + HYB_HEADER_FILE_BYTES, file_bytes);
    hyb_store_u64(h + HYB_HEADER_CONFIG, HYB_HEADER_BYTES);
    hyb_store_u64(h + HYB_HEADER_CONFIG + 8, HYB_CONFIG_BYTES);
    hyb_store_u64(h + HYB_HEADER_TOKENIZER, l->tokenizer);
    hyb_store_u64(h + HYB_HEADER_TOKENIZER + 8, l->tokenizer_bytes);
    hyb_store_u64(h + HYB_HEADER_METADATA, l->metadata);
    hyb_store_u64(h + HYB_HEADER_METADATA + 8, l->metadata_bytes);
    hyb_store_u64(h + HYB_HEADER_DIRECTORY, l->directory);
    hyb_store_u64(h + HYB_HEADER_N_TENSORS, l->n_tensors);
    hyb_store_u64(h + HYB_HEADER_DATA, l->data);
    hyb_store_u32(h + HYB_HEADER_BODY_CRC, crc);
    hyb_store_u32(h + HYB_HEADER_CRC, hyb_crc32c(0, h, HYB_HEADER_CRC));
}

void hyb_file_put_mlp(const hyb_mlp_config *c, uint8_t *b) {
    memset(b, 0, HYB_CONFIG_BYTES);
    hyb_store_u32(b, c->n_layers);
    hyb_store_u32(b + HYB_CONFIG_EPSILON, hyb_bits_of(c->norm_epsilon));
    b[36] = (uint8_t)c->activation; /* checked: each below 255 */
    b[37] = (uint8_t)c->norm;
    b[38] = (uint8_t)c->residual;
    b[39] = (uint8_t)c->format;
    b[40] = (uint8_t)c->granularity;
    b[41] = (uint8_t)c->threshold;
    b[42] = (uint8_t)c->loss;
    b[HYB_CONFIG_ARCHITECTURE] = HYB_ARCHITECTURE_MLP;
    b[44] = (uint8_t)(c->first_format + 1);
    b[45] = (uint8_t)(c->last_format + 1);
}

hyb_mlp_config hyb_file_get_mlp(const uint8_t *b) {
    return (hyb_mlp_config){.struct_size = sizeof(hyb_mlp_config),
                            .n_layers = hyb_load_u32(b),
                            .norm_epsilon = hyb_float_of(hyb_load_u32(b + HYB_CONFIG_EPSILON)),
                            .activation = b[36],
                            .norm = b[37],
                            .residual = b[38],
                            .format = b[39],
                            .granularity = b[40],
                            .threshold = b[41],
                            .loss = b[42],
                            .first_format = (int32_t)b[44] - 1,
                            .last_format = (int32_t)b[45] - 1};
}

uint32_t hyb_file_packing_of(uint32_t format) {
    static const uint8_t packings[] = {
        [HYB_FORMAT_F32] = 0,
        [HYB_FORMAT_TERNARY] = HYB_PACKING_TERNARY_BASE3,
        [HYB_FORMAT_BINARY] = HYB_PACKING_INT1,
        [HYB_FORMAT_INT2] = HYB_PACKING_INT2,
        [HYB_FORMAT_INT4] = HYB_PACKING_INT4,
        [HYB_FORMAT_INT8] = HYB_PACKING_INT8,
    };
    return format < sizeof packings ? packings[format] : 0;
}

static const char *check_kind(const hyb_file_shape *shape) {
    if (shape->format > HYB_FORMAT_INT8) return "its format is unknown";
    int is_other_ternary = shape->packing == HYB_PACKING_TERNARY_2BIT || shape->packing == HYB_PACKING_TERNARY_3OF4;
    if (shape->packing != hyb_file_packing_of(shape->format) &&
        !(shape->format == HYB_FORMAT_TERNARY && is_other_ternary))
        return "its packing does not belong to its format";
    if (shape->packing == HYB_PACKING_TERNARY_3OF4 && (uint64_t)shape->n_rows * shape->n_cols % 4 != 0)
        return "it is packed by fours, and 4 does not divide its size";
    if (shape->granularity > HYB_SCALE_PER_ROW) return "its granularity is unknown";
    if (shape->format == HYB_FORMAT_F32 && shape->granularity != 0) return "it is F32 and has a granularity";
    if (shape->n_rows == 0 || shape->n_cols == 0) return "it has no rows or no columns";
    return NULL;
}

const char *hyb_file_measure(hyb_file_shape *shape, uint64_t limit) {
    const char *problem = check_kind(shape);
    if (problem != NULL) return problem;
    uint64_t n_values = (uint64_t)shape->n_rows * shape->n_cols; /* below 2^64 */
    /* No packing puts more than 8 values into a byte. With this, no product below overflows. */
    if (n_values / 8 > limit) return "it has more values than the file could hold";
    shape->n_values = (size_t)n_values;
    if (shape->n_values != n_values) return "it has more values than this machine can address";
    if (shape->format == HYB_FORMAT_F32) {
        shape->n_scales = 0;
        if (n_values > limit / 4) return "it has more values than the file could hold";
        shape->payload_bytes = n_values * 4;
    } else {
        shape->n_scales = shape->granularity == HYB_SCALE_PER_ROW ? shape->n_rows : 1;
        shape->payload_bytes = hyb_packed_bytes((hyb_packing)shape->packing, shape->n_values);
    }
    if (shape->payload_bytes > limit) return "it has more values than the file could hold";
    shape->data_bytes = shape->payload_bytes + (uint64_t)shape->n_scales * 2;
    return shape->data_bytes > limit ? "it has more values than the file could hold" : NULL;
}

const char *hyb_file_check_name(const char *name, size_t capacity) {
    size_t n = 0;
    for (; n < capacity && name[n] != '\0'; ++n)
        if (name[n] < 0x21 || name[n] > 0x7e) return "its name is not of printable ASCII characters without spaces";
    if (n == 0) return "it has no name";
    return n == capacity ? "its name is longer than 31 characters" : NULL;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char *hyb_file_sort_names(const char **names, size_t n) {
    qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 1; i < n; ++i)
        if (strcmp(names[i - 1], names[i]) == 0) return names[i];
    return NULL;
}

size_t hyb_file_find_name(const char *const *names, size_t n, const char *name) {
    const char *const *found = bsearch(&name, names, n, sizeof *names, compare_names);
    return found != NULL ? (size_t)(found - names) : SIZE_MAX;
}
