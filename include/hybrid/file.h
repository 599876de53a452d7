/* file.h - the .hyb model file: every byte of it, its reader and its writer.
 *
 * All integers and floats are little-endian; offsets are from the start of the file; every gap is zero. A reader checks
 * every length against the size of the file before it is believed, then the checksums, then the contents.
 *
 *   offset size  header (128 bytes)
 *        0    8  magic: 89 48 59 42 0D 0A 1A 0A  ("\x89HYB\r\n\x1a\n")
 *        8    4  u32 format version (HYB_FILE_VERSION)
 *       12    4  u32 header bytes (128)
 *       16    8  u64 file bytes: the whole file's length
 *       24    8  u64 offset of the model configuration   (always 128)
 *       32    8  u64 bytes of it                           (always 64)
 *       40    8  u64 offset of the tokenizer section, 0 if there is none
 *       48    8  u64 bytes of it
 *       56    8  u64 offset of the metadata section, 0 if there is none
 *       64    8  u64 bytes of it: UTF-8 text, JSON by convention, not interpreted by the library
 *       72    8  u64 offset of the tensor directory
 *       80    8  u64 number of tensors (64 bytes each)
 *       88    8  u64 offset of the tensor data: a multiple of HYB_FILE_ALIGNMENT
 *       96   24  zero
 *      120    4  u32 CRC-32C of every byte from 128 to the end of the file
 *      124    4  u32 CRC-32C of bytes 0 to 123
 *
 *   model configuration (64 bytes)
 *        0    4  u32 vocab_size          4    4  u32 dim              8    4  u32 n_layers      12    4  u32 n_heads
 *       16    4  u32 n_kv_heads         20    4  u32 ffn_dim         24    4  u32 max_context   28    4  f32 rope_theta
 *       32    4  f32 norm_epsilon       36    1  u8 activation       37    1  u8 sub_norms      38    1  u8 tied_embeddings
 *       39    1  u8 linear_format       40    1  u8 linear_granularity                          41    1  u8 linear_threshold
 *       42    1  u8 embedding_format    43   21  zero                (meanings: language_model.h, quantize.h)
 *
 *   tensor directory entry (64 bytes)
 *        0   32  name, ASCII, zero-padded, at least one zero         32    1  u8 hyb_format
 *       33    1  u8 packing: hyb_packing; 0 for F32                  34    1  u8 granularity: hyb_granularity
 *       35    1  zero                                                36    4  u32 rows (1 for a vector)
 *       40    4  u32 columns                                         44    4  zero
 *       48    8  u64 offset of the data: a multiple of HYB_FILE_ALIGNMENT
 *       56    8  u64 bytes of the data
 *
 *   tensor data: F32: f32 [rows][columns]. Otherwise the codes [rows * columns] packed as one run (quantize.h; the
 *   rows are not padded), then the scales as binary16, 1 or [rows], directly behind. Data are in the order of the
 *   directory, without overlap, each at the next multiple of HYB_FILE_ALIGNMENT.
 *
 *   tokenizer section
 *        0    4  u32 kind (hyb_tokenizer_kind)      4    4  u32 pretokenizer    8    4  u32 add_prefix_space
 *       12    4  u32 vocab_size                    16    4  u32 n_merges       20    4  u32 n_specials
 *       24    4  u32 n_bytes                       28    4  zero
 *       32       for BYTES nothing more; else u32 offsets [vocab_size + 1], u32 merges [n_merges][2],
 *                u32 specials [n_specials], u8 bytes [n_bytes]
 *
 * The section order is header, configuration, tokenizer, metadata, directory, data; each section begins at a multiple
 * of 8. Compatibility: CONTRIBUTING.md.
 */
#ifndef HYBRID_FILE_H
#define HYBRID_FILE_H

#include <hybrid/base.h>
#include <hybrid/language_model.h>
#include <hybrid/quantize.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

#define HYB_FILE_VERSION 1
#define HYB_FILE_ALIGNMENT 32
#define HYB_FILE_NAME_BYTES 32

/* An open model file: its bytes are mapped into memory (or borrowed) and were checked completely. Immutable. */
typedef struct hyb_file hyb_file;

/* One tensor of a file. Pointers go into the file's bytes and live as long as the hyb_file. */
typedef struct hyb_file_tensor {
    char name[32]; /* HYB_FILE_NAME_BYTES, NUL-terminated */
    int32_t format;      /* hyb_format */
    int32_t packing;     /* hyb_packing, 0 for F32 */
    int32_t granularity; /* hyb_granularity */
    uint32_t n_rows;
    uint32_t n_cols;
    uint32_t n_scales;     /* 0 for F32 */
    const void *payload;   /* packed codes, or little-endian f32 */
    size_t payload_bytes;  /* without the scales */
    const void *scales;    /* little-endian binary16 [n_scales]; NULL for F32 */
    size_t total_bytes;    /* payload and scales, its directory entry, and the padding before the next tensor */
} hyb_file_tensor;

/* Opens and checks a file: sizes, checksums, configuration, directory, and that every packed byte is valid.
 * The caller closes *file. Errors: IO, FORMAT, TRUNCATED, CHECKSUM, VERSION, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_file_open(hyb_ctx *ctx, const char *path, hyb_file **file);

/* The same for bytes in memory, which must stay unchanged until hyb_file_close. */
HYB_API hyb_status hyb_file_open_memory(hyb_ctx *ctx, const void *bytes, size_t n_bytes, hyb_file **file);

/* Closes a file. NULL is allowed. */
HYB_API void hyb_file_close(hyb_file *file);

HYB_API uint32_t hyb_file_version(const hyb_file *file);
HYB_API size_t hyb_file_bytes(const hyb_file *file);

/* The model's configuration (struct_size of *config must be set). */
HYB_API hyb_status hyb_file_config(const hyb_file *file, hyb_language_model_config *config);

/* Sections as raw bytes; *n_bytes is 0 and the result NULL where the file has none. */
HYB_API const uint8_t *hyb_file_tokenizer(const hyb_file *file, size_t *n_bytes);
HYB_API const char *hyb_file_metadata(const hyb_file *file, size_t *n_bytes);

/* Tensors in the order of the directory. Errors: INVALID_ARGUMENT (index, or no tensor of this name). */
HYB_API size_t hyb_file_tensor_count(const hyb_file *file);
HYB_API hyb_status hyb_file_tensor_at(const hyb_file *file, size_t index, hyb_file_tensor *tensor);
HYB_API hyb_status hyb_file_tensor_named(const hyb_file *file, const char *name, hyb_file_tensor *tensor);

/* A tensor to write: codes and scales, or fp32 values. */
typedef struct hyb_file_source {
    const char *name;    /* at most 31 ASCII characters, unique */
    int32_t format;      /* hyb_format */
    int32_t granularity; /* hyb_granularity */
    uint32_t n_rows;
    uint32_t n_cols;
    const float *values; /* F32: [n_rows][n_cols]; else NULL */
    const int8_t *codes; /* otherwise: [n_rows][n_cols]; else NULL */
    const float *scales; /* otherwise: [1] or [n_rows], each representable in binary16 */
} hyb_file_source;

/* Everything that a file holds. tokenizer and metadata may be NULL with 0 bytes. */
typedef struct hyb_file_contents {
    size_t struct_size;
    const hyb_language_model_config *config;
    const uint8_t *tokenizer;
    size_t tokenizer_bytes;
    const char *metadata;
    size_t metadata_bytes;
    const hyb_file_source *tensors;
    size_t n_tensors;
} hyb_file_contents;

/* Writes a file at once: a temporary beside it, flushed to the disk, renamed over `path`, the folder flushed. On an
 * error the old file is untouched and the temporary removed. Ternary tensors are packed in base 3, the other formats
 * in their own width. Errors: INVALID_ARGUMENT, NOT_FINITE (values or scales), IO, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_file_write(hyb_ctx *ctx, const char *path, const hyb_file_contents *contents);

/* CRC-32C (Castagnoli, reflected, initial and final value all ones) of bytes, continuing from `crc` (0 to begin). */
HYB_API uint32_t hyb_crc32c(uint32_t crc, const void *bytes, size_t n_bytes);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_FILE_H */
