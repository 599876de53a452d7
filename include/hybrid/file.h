/* file.h - the .hyb model file: every byte of it, its reader and its writer.
 *
 * All integers and floats are little-endian; offsets are from the start of the file; every gap is zero. A reader checks
 * every length against the size of the file before it is believed, then the checksums, then the contents. The layout
 * follows from the sizes, and a reader accepts no other: the same contents give the same bytes everywhere.
 *
 *   offset size  header (128 bytes)
 *        0    8  magic: 89 48 59 42 0D 0A 1A 0A  ("\x89HYB\r\n\x1a\n")
 *        8    4  u32 format version: 1 for a language model, 2 for any other network; 3 is further below
 *       12    4  u32 header bytes (128)
 *       16    8  u64 file bytes: the whole file's length
 *       24    8  u64 offset of the model configuration   (always 128)
 *       32    8  u64 bytes of it                           (always 64)
 *       40    8  u64 offset of the tokenizer section, 0 if there is none
 *       48    8  u64 bytes of it, without the zeros behind it; 0 if there is none
 *       56    8  u64 offset of the metadata section, 0 if there is none
 *       64    8  u64 bytes of it, as above: UTF-8 text, JSON by convention, neither checked nor interpreted
 *       72    8  u64 offset of the tensor directory
 *       80    8  u64 number of tensors, at least 1 (64 bytes each in the directory)
 *       88    8  u64 offset of the tensor data: a multiple of HYB_FILE_ALIGNMENT
 *       96   24  zero
 *      120    4  u32 CRC-32C of every byte from 128 to the end of the file
 *      124    4  u32 CRC-32C of bytes 0 to 123
 *   Every format version keeps the magic, the version at 8 and the checksum at 124.
 *
 *   model configuration (64 bytes)
 *        0    4  u32 vocab_size          4    4  u32 dim              8    4  u32 n_layers      12    4  u32 n_heads
 *       16    4  u32 n_kv_heads         20    4  u32 ffn_dim         24    4  u32 max_context   28    4  f32 rope_theta
 *       32    4  f32 norm_epsilon       36    1  u8 activation       37    1  u8 sub_norms
 *       38    1  u8 tied_embeddings     39    1  u8 linear_format    40    1  u8 linear_granularity
 *       41    1  u8 linear_threshold
 *       42    1  u8 embedding_format    43   21  zero                (meanings: language_model.h, quantize.h)
 *
 *   model configuration of version 2 (64 bytes), of a perceptron (mlp.h); the sizes of its layers are those of its
 *   tensors layer.N.weight
 *        0    4  u32 n_layers            4   28  zero                32    4  f32 norm_epsilon
 *       36    1  u8 activation          37    1  u8 norm             38    1  u8 residual       39    1  u8 format
 *       40    1  u8 granularity         41    1  u8 threshold        42    1  u8 loss
 *       43    1  u8 architecture (hyb_architecture; 0 is not allowed)
 *       44    1  u8 first_format + 1    45    1  u8 last_format + 1  46   18  zero
 *
 *   tensor directory entry (64 bytes)
 *        0   32  name: 1 to 31 printable ASCII characters (0x21 to 0x7e), then zeros; unique in the file
 *       32    1  u8 hyb_format                                       33    1  u8 packing: hyb_packing; 0 for F32
 *       34    1  u8 granularity: hyb_granularity; 0 for F32
 *       35    1  zero                                                36    4  u32 rows (1 for a vector)
 *       40    4  u32 columns (neither is 0)                          44    4  zero
 *       48    8  u64 offset of the data: a multiple of HYB_FILE_ALIGNMENT
 *       56    8  u64 bytes of the data
 *
 *   tensor data: F32: f32 [rows][columns], finite. Otherwise the codes [rows * columns] packed as one run (quantize.h;
 *   the rows are not padded; ternary in base 3, in 2 bits, or by fours, the other formats in their own width), then the
 * scales as binary16, finite, 1 or [rows], directly behind. Data are in the order of the directory, each at the next
 * multiple of HYB_FILE_ALIGNMENT behind the one before. The file ends with the last byte of the last tensor, without
 * padding.
 *
 *   tokenizer section
 *        0    4  u32 kind (hyb_tokenizer_kind)      4    4  u32 pretokenizer    8    4  u32 add_prefix_space
 *       12    4  u32 vocab_size                    16    4  u32 n_merges       20    4  u32 n_specials
 *       24    4  u32 n_bytes                       28    4  zero
 *       32       for BYTES nothing more; else u32 offsets [vocab_size + 1], u32 merges [n_merges][2],
 *                u32 specials [n_specials], u8 bytes [n_bytes]
 *
 * The section order is header, configuration, tokenizer, metadata, directory, data; each section begins at the next
 * multiple of 8 behind the one before, the data at the next multiple of HYB_FILE_ALIGNMENT.
 *
 * Version 3, the compressed form of a file of version 1 or 2, its original, which it gives back bit for bit: since the
 * layout follows from the sizes, the contents are enough.
 *
 *   offset size  header (128 bytes)
 *        0   24  magic, version 3, header bytes, file bytes: as above
 *       24    4  u32 format version of the original
 *       28    4  u32 CRC-32C of the original's bytes from 128 on
 *       32    8  u64 bytes of the original: at most HYB_FILE_EXPANSION times file bytes, and 64 KiB
 *       40    8  u64 bytes of the tokenizer section    48    8  u64 bytes of the metadata section
 *       56    8  u64 bytes of the directory            64    8  u64 number of tensors
 *       72    8  u64 bytes of the uncoded data         80    8  u64 bytes of the stream
 *       88    4  u32 lanes of the stream: 1 to 64, 1 where it has no bytes
 *       92   28  zero                                 120    8  checksums: as above
 *   Then, without gaps: configuration (64 bytes), tokenizer, metadata, directory, uncoded data, stream.
 *
 *   directory, for each tensor in its order:
 *     u8 how many characters its name shares with the one before, u8 how many follow, these
 *     u8 hyb_format + 16 hyb_granularity; u8 packing + 16 hyb_coding_kind; varint rows, varint columns
 *     if it is coded: its coding
 *
 *   uncoded data, for each tensor in its order: its packed codes or floats, or the floats as binary16, unless it is
 *     coded; then its scales
 *
 *   stream: the packed bytes of all coded tensors in their order, as symbols of an interleaved rANS coder (below)
 *
 *   varint: 7 bits a byte, the lowest first; bit 7 says that more follow.
 *
 *   coding: varint length of a group in rows of 64 symbols, below the number of rows of the tensor, or 0 for one group;
 *     then the model of each group:
 *       u8 bits 0, 1: b; a symbol's slots are a share of 2^(12 + 2 b), b below 3; bit 2: kind of model; the others 0
 *       kind 0 (ternary in base 3): two u16 a, b with a + b <= 65535: the shares of -1, 0 and +1 are a, b and the
 *         rest, in 65535ths; those of a symbol's 5 codes are multiplied, and slots follow as in lib/rans_model.c
 *       kind 1: for symbols 0 to 255 a varint, its number of slots; behind a 0 a varint, how many further symbols
 *         have 0
 *     Slots of a symbol follow those of the symbols below it.
 *
 *   rANS: u32 states of the lanes, each at least 2^16, then words of 16 bits. Symbol i of a group belongs to lane
 *     i % lanes: with slot = state % 2^(12 + 2 b) it is the symbol that owns the slot; state becomes
 *     slots of the symbol * (state >> (12 + 2 b)) + slot - its first slot, and, if that is below 2^16,
 *     state << 16 | the next word. A group of one symbol takes no part; where no group does, the stream has no bytes.
 *     At the end every state is 2^16, and no word is left.
 *
 * Untrusted files: opening is safe on any bytes. It checks all that is written above, but the inside of the tokenizer
 * section (hyb_tokenizer_deserialize does) and whether the tensors are those that the configuration needs
 * (hyb_language_model_load and hyb_mlp_load do). Opening expands a file of version 3 in memory, at most to what its
 * header may say, and then checks it as if it were its original; loading a network makes the same checks piece by
 * piece, without the original in memory. Compatibility: CONTRIBUTING.md.
 */
#ifndef HYBRID_FILE_H
#define HYBRID_FILE_H

#include <hybrid/base.h>
#include <hybrid/language_model.h>
#include <hybrid/mlp.h>
#include <hybrid/quantize.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

#define HYB_FILE_VERSION 3
#define HYB_FILE_EXPANSION 256 /* most bytes of an original by a byte of its compressed form; 64 KiB more are free */
#define HYB_FILE_ALIGNMENT 32
#define HYB_FILE_NAME_BYTES 32

/* An open model file: its bytes are in memory (read, or borrowed) and were checked completely. Immutable. */
typedef struct hyb_file hyb_file;

/* What kind of network a file holds. */
typedef enum hyb_architecture { HYB_ARCHITECTURE_LANGUAGE_MODEL = 0, HYB_ARCHITECTURE_MLP = 1 } hyb_architecture;

/* How a compressed file holds a tensor's codes or values. */
typedef enum hyb_coding_kind {
    HYB_CODING_NONE = 0,   /* as they are */
    HYB_CODING_HALF = 1,   /* fp32 values as binary16, which holds each of them exactly */
    HYB_CODING_ENTROPY = 2 /* packed codes, entropy-coded */
} hyb_coding_kind;

/* One tensor of a file. Pointers go into the file's bytes and live as long as the hyb_file. The bytes are those of the
 * file: on a big-endian machine the bytes of every f32 and binary16 must be reversed. payload is aligned to
 * HYB_FILE_ALIGNMENT after hyb_file_open; after hyb_file_open_memory it is only as aligned as the bytes given to it. */
typedef struct hyb_file_tensor {
    char name[32];       /* HYB_FILE_NAME_BYTES, NUL-terminated */
    int32_t format;      /* hyb_format */
    int32_t packing;     /* hyb_packing, 0 for F32 */
    int32_t granularity; /* hyb_granularity */
    uint32_t n_rows;
    uint32_t n_cols;
    uint32_t n_scales;    /* 0 for F32 */
    const void *payload;  /* packed codes, or little-endian f32 */
    size_t payload_bytes; /* without the scales */
    const void *scales;   /* little-endian binary16 [n_scales]; NULL for F32 */
    size_t total_bytes;   /* payload and scales, its directory entry, and the padding before the next tensor */
} hyb_file_tensor;

/* Opens and checks a file: sizes, checksums, configuration, directory, and that every packed byte is valid. The whole
 * file is read into memory, not mapped: a mapped file that another program cuts would take the process down, and one
 * that it changes would no longer be what was checked. To share the memory of a file that nobody touches, map it and
 * call hyb_file_open_memory. Only regular files are opened.
 * The caller closes *file. Errors: INVALID_ARGUMENT (a NULL), IO, FORMAT, TRUNCATED, CHECKSUM, VERSION, OUT_OF_MEMORY;
 * the detail begins with the path. */
HYB_API hyb_status hyb_file_open(hyb_ctx *ctx, const char *path, hyb_file **file);

/* The same for bytes in memory, of any alignment, which must stay unchanged until hyb_file_close. */
HYB_API hyb_status hyb_file_open_memory(hyb_ctx *ctx, const void *bytes, size_t n_bytes, hyb_file **file);

/* Closes a file. NULL is allowed. */
HYB_API void hyb_file_close(hyb_file *file);

/* Format version, and length in bytes; 0 for NULL. Of a compressed file the version is 3 and the length its own, while
 * everything else, pointers and total_bytes too, is that of its original, whose length is hyb_file_expanded_bytes (the
 * same number for other files). */
HYB_API uint32_t hyb_file_version(const hyb_file *file);
HYB_API size_t hyb_file_bytes(const hyb_file *file);
HYB_API size_t hyb_file_expanded_bytes(const hyb_file *file);

/* LANGUAGE_MODEL for NULL. */
HYB_API hyb_architecture hyb_file_architecture(const hyb_file *file);

/* The language model's configuration (struct_size of *config must be set; no more than so many bytes are written).
 * Errors: INVALID_ARGUMENT, STRUCT_SIZE, FORMAT (the file holds another network). */
HYB_API hyb_status hyb_file_config(const hyb_file *file, hyb_language_model_config *config);

/* Sections as raw bytes, not NUL-terminated; *n_bytes is 0 and the result NULL where the file has none. n_bytes may be
 * NULL. */
HYB_API const uint8_t *hyb_file_tokenizer(const hyb_file *file, size_t *n_bytes);
HYB_API const char *hyb_file_metadata(const hyb_file *file, size_t *n_bytes);

/* Tensors in the order of the directory. Errors: INVALID_ARGUMENT (index, or no tensor of this name). */
HYB_API size_t hyb_file_tensor_count(const hyb_file *file);
HYB_API hyb_status hyb_file_tensor_at(const hyb_file *file, size_t index, hyb_file_tensor *tensor);
HYB_API hyb_status hyb_file_tensor_named(const hyb_file *file, const char *name, hyb_file_tensor *tensor);

/* What coding makes of a tensor, whether the file is compressed or not. */
typedef struct hyb_file_coding {
    int32_t kind;        /* hyb_coding_kind */
    uint32_t n_groups;   /* of symbols, each with its own probabilities; 0 unless ENTROPY */
    size_t n_zeros;      /* codes, or fp32 values, that are 0 */
    double entropy_bits; /* order-0 entropy of its codes, all together; 0 for F32 */
    double coded_bits;   /* its part of a compressed file, all together: probabilities and codes, without the scales */
} hyb_file_coding;

/* Finds out how compression codes, or coded, a tensor. Takes about as long as reading it twice.
 * Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_file_tensor_coding(const hyb_file *file, size_t index, hyb_file_coding *coding);

/* A tensor to write: codes and scales, or fp32 values. */
typedef struct hyb_file_source {
    const char *name;    /* 1 to 31 printable ASCII characters without spaces, unique */
    int32_t format;      /* hyb_format */
    int32_t granularity; /* hyb_granularity; not looked at for F32 */
    uint32_t n_rows;     /* >= 1, as n_cols */
    uint32_t n_cols;
    const float *values; /* F32: [n_rows][n_cols], finite; not looked at otherwise */
    const int8_t *codes; /* otherwise: [n_rows][n_cols]; not looked at for F32, as scales */
    const float *scales; /* otherwise: [1] or [n_rows], each representable in binary16 */
} hyb_file_source;

/* Everything that a file holds; at least one tensor. tokenizer (as hyb_tokenizer_serialize writes it) and metadata may
 * be NULL with 0 bytes. */
typedef struct hyb_file_contents {
    size_t struct_size;
    const hyb_language_model_config *config;
    const uint8_t *tokenizer;
    size_t tokenizer_bytes;
    const char *metadata;
    size_t metadata_bytes;
    const hyb_file_source *tensors;
    size_t n_tensors;
    const hyb_mlp_config *mlp; /* a perceptron's, and config NULL; its sizes are not looked at */
} hyb_file_contents;

/* Writes a file at once: a temporary beside it (<path>.tmp.<process>), flushed to the disk, renamed over `path`, the
 * folder flushed. On an error the old file is untouched and the temporary removed; only when flushing the folder fails
 * is the new file in place already, and may be lost in a power cut. Ternary tensors are packed in base 3, or by fours
 * where each four have exactly one 0 (quantize.h), the other formats in their own width. `path` may be new or a regular
 * file; a symbolic link is replaced, not followed. A process with a limit on file sizes must ignore SIGXFSZ to get a
 * status. Without POSIX nothing is flushed to the disk, and where rename does not replace a file there is a moment
 * without it. Errors: INVALID_ARGUMENT (the detail names the tensor), STRUCT_SIZE, NOT_FINITE (a value or scale), IO,
 * OUT_OF_MEMORY. */
HYB_API hyb_status hyb_file_write(hyb_ctx *ctx, const char *path, const hyb_file_contents *contents);

/* What becomes of a language model's tensors that are not the layers' matrices. */
typedef struct hyb_requantize {
    size_t struct_size;
    int32_t embedding_format; /* hyb_format of embedding and head, one scale a row; -1: as it is */
    int32_t half_vectors;     /* 1: gains are rounded to binary16 (a compressed file then stores them so) */
} hyb_requantize;

/* Reads a language model's file and writes it again with such tensors; the rest is as it was. The target is replaced as
 * by hyb_file_write, and may be the source; it is not compressed. Errors: those of hyb_file_open, hyb_quantize and
 * hyb_file_write; FORMAT (no language model). */
HYB_API hyb_status hyb_file_requantize(hyb_ctx *ctx, const hyb_requantize *options, const char *source,
                                       const char *target);

/* Lengths of a file and of its compressed form. */
typedef struct hyb_file_sizes {
    size_t expanded_bytes;
    size_t compressed_bytes;
} hyb_file_sizes;

/* Writes the compressed form of a file (version 3): what opening takes like any other. The target is replaced at once,
 * as by hyb_file_write, and may be the source. sizes may be NULL. The same bytes on every machine and for any number of
 * threads.
 * Errors: those of hyb_file_open and hyb_file_write; FORMAT if the source is compressed already. */
HYB_API hyb_status hyb_file_compress(hyb_ctx *ctx, const char *source, const char *target, hyb_file_sizes *sizes);

/* Writes the original of a compressed file, in the same way. FORMAT if the source is not compressed. */
HYB_API hyb_status hyb_file_expand(hyb_ctx *ctx, const char *source, const char *target, hyb_file_sizes *sizes);

/* The same from memory to memory. n_bytes receives the length of the result; with TOO_SMALL, the room that it needs. A
 * compressed form is never longer than its original; an original has the length that the header says, at most
 * HYB_FILE_EXPANSION * n_source + 65536. */
HYB_API hyb_status hyb_file_compress_memory(hyb_ctx *ctx, const void *source, size_t n_source, void *target,
                                            size_t capacity, size_t *n_bytes);
HYB_API hyb_status hyb_file_expand_memory(hyb_ctx *ctx, const void *source, size_t n_source, void *target,
                                          size_t capacity, size_t *n_bytes);

/* CRC-32C (Castagnoli, reflected, initial and final value all ones) of bytes, continuing from `crc` (0 to begin). Any
 * thread may call. */
HYB_API uint32_t hyb_crc32c(uint32_t crc, const void *bytes, size_t n_bytes);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_FILE_H */
