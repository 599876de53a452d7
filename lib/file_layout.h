/* file_layout.h (internal) - the offsets of file.h as names, and the arithmetic that reader and writer share.
 *
 * The layout follows from the sizes alone: every section and every tensor begins at the next multiple of its alignment.
 * So the writer computes it, and the reader computes it again and accepts nothing else.
 */
#ifndef HYB_FILE_LAYOUT_H
#define HYB_FILE_LAYOUT_H

#include <hybrid/file.h>

#include "common.h"

/* Offsets in the header, sizes of the fixed parts. */
enum {
    HYB_HEADER_MAGIC = 0,
    HYB_HEADER_VERSION = 8,
    HYB_HEADER_HEADER_BYTES = 12,
    HYB_HEADER_FILE_BYTES = 16,
    HYB_HEADER_CONFIG = 24, /* offset; the size is 8 behind it, as for the next two */
    HYB_HEADER_TOKENIZER = 40,
    HYB_HEADER_METADATA = 56,
    HYB_HEADER_DIRECTORY = 72,
    HYB_HEADER_N_TENSORS = 80,
    HYB_HEADER_DATA = 88,
    HYB_HEADER_ZERO = 96,
    HYB_HEADER_BODY_CRC = 120,
    HYB_HEADER_CRC = 124,
    HYB_HEADER_BYTES = 128,
    HYB_CONFIG_ZERO = 43,
    HYB_CONFIG_ARCHITECTURE = 43, /* version 2 */
    HYB_CONFIG_MLP_ZERO_A = 4,    /* up to norm_epsilon */
    HYB_CONFIG_EPSILON = 32,
    HYB_CONFIG_MLP_ZERO_B = 46,
    HYB_CONFIG_BYTES = 64,
    HYB_ENTRY_FORMAT = 32,
    HYB_ENTRY_PACKING = 33,
    HYB_ENTRY_GRANULARITY = 34,
    HYB_ENTRY_ZERO_A = 35,
    HYB_ENTRY_ROWS = 36,
    HYB_ENTRY_COLS = 40,
    HYB_ENTRY_ZERO_B = 44,
    HYB_ENTRY_OFFSET = 48,
    HYB_ENTRY_DATA_BYTES = 56,
    HYB_ENTRY_BYTES = 64,
    HYB_SECTION_ALIGNMENT = 8,
    /* version 3 */
    HYB_COMPRESSED_VERSION = 3,
    HYB_COMPRESSED_ORIGINAL_VERSION = 24,
    HYB_COMPRESSED_ORIGINAL_CRC = 28,
    HYB_COMPRESSED_ORIGINAL_BYTES = 32,
    HYB_COMPRESSED_TOKENIZER = 40,
    HYB_COMPRESSED_METADATA = 48,
    HYB_COMPRESSED_DIRECTORY = 56,
    HYB_COMPRESSED_N_TENSORS = 64,
    HYB_COMPRESSED_RAW = 72,
    HYB_COMPRESSED_STREAM = 80,
    HYB_COMPRESSED_LANES = 88,
    HYB_COMPRESSED_ZERO = 92,
    HYB_COMPRESSED_FREE_BYTES = 65536, /* of an original, on top of HYB_FILE_EXPANSION */
    HYB_MAGIC_BYTES = 8
};

/* "\x89HYB\r\n\x1a\n": a byte above 127, both line endings and an end-of-file mark find transfers in text mode. */
extern const uint8_t hyb_file_magic[HYB_MAGIC_BYTES];

/* A perceptron's configuration, without its sizes, to and from [HYB_CONFIG_BYTES]; nothing is checked. */
void hyb_file_put_mlp(const hyb_mlp_config *config, uint8_t *bytes);
hyb_mlp_config hyb_file_get_mlp(const uint8_t *bytes);

/* file_read.c: the configuration's bytes of an open file; all its bytes, expanded if need be. */
const uint8_t *hyb_file_config_bytes(const hyb_file *file);
const uint8_t *hyb_file_image(const hyb_file *file);
hyb_ctx *hyb_file_ctx(const hyb_file *file);

/* Where the sections lie. Offsets of absent sections are 0. */
typedef struct hyb_file_layout {
    uint64_t tokenizer, tokenizer_bytes;
    uint64_t metadata, metadata_bytes;
    uint64_t directory, n_tensors;
    uint64_t data;
} hyb_file_layout;

/* Writes the header of a file of version 1 or 2, body checksum `crc`. */
void hyb_file_put_header(uint32_t version, uint64_t file_bytes, const hyb_file_layout *layout, uint32_t crc,
                         uint8_t *header);

/* A tensor as the directory describes it, and the sizes that follow. */
typedef struct hyb_file_shape {
    uint32_t format, packing, granularity;
    uint32_t n_rows, n_cols;
    size_t n_values, n_scales;
    uint64_t payload_bytes; /* without the scales */
    uint64_t data_bytes;    /* with them */
} hyb_file_shape;

/* Moves *cursor to the end of `n_bytes` bytes that begin at its next multiple of `alignment` (a power of two). Returns
 * 0, and leaves it, if they would end behind `limit`. *cursor <= limit, limit < 2^63. */
int hyb_file_place(uint64_t *cursor, uint64_t n_bytes, uint64_t alignment, uint64_t limit);

/* Fills the offsets from the sizes. Returns 0 if a section, or the beginning of the data, would lie behind `limit`. */
int hyb_file_place_sections(hyb_file_layout *layout, uint64_t limit);

/* Fills the sizes of a shape. Returns NULL, or what is wrong with it ("its packing does not belong to its format"),
 * which includes data of more than `limit` bytes. */
const char *hyb_file_measure(hyb_file_shape *shape, uint64_t limit);

/* The packing that the writer uses for a format; 0 for F32. */
uint32_t hyb_file_packing_of(uint32_t format);

/* NULL, or what is wrong with a name of at most `capacity` bytes, NUL included. */
const char *hyb_file_check_name(const char *name, size_t capacity);

/* Sorts pointers to names, to find them, and returns one that occurs twice, or NULL. */
const char *hyb_file_sort_names(const char **names, size_t n);
/* Index in the sorted names, or SIZE_MAX. */
size_t hyb_file_find_name(const char *const *names, size_t n, const char *name);

#endif /* HYB_FILE_LAYOUT_H */
