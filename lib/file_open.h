/* file_open.h (internal) - what an open model file is made of: for file_read.c, which opens it, file_expand.c, which
 * does so for compressed ones, and file_data.c, which reads the tensors.
 */
#ifndef HYB_FILE_OPEN_H
#define HYB_FILE_OPEN_H

#include "file_data.h"
#include "file_layout.h"
#include "file_system.h"

/* A tensor of a compressed file. */
typedef struct hyb_file_part {
    const uint8_t *coding; /* in its directory, if the kind is ENTROPY */
    int32_t kind;          /* hyb_coding_kind */
} hyb_file_part;

struct hyb_file {
    hyb_ctx *ctx;
    hyb_input input;         /* the file as it was given; once that was expanded, its original */
    uint32_t stored_version; /* of the file as it was given: 3 if it is compressed */
    size_t stored_bytes;
    const uint8_t *bytes; /* the original: what lies before its data, or all of it */
    size_t n_bytes;       /* all of it */
    int is_whole;         /* all of it is there */
    hyb_file_layout layout;
    hyb_language_model_config config; /* of a language model */
    const char **names;               /* [n_tensors], sorted; they point into the directory */
    hyb_file_part *parts;             /* [n_tensors] of a compressed file that was not expanded; else NULL */
    const uint8_t *parts_end;         /* of its directory */
    uint64_t raw, stream;             /* where its uncoded data and its stream begin; the stream is at the end */
    uint32_t n_lanes;
    void *owned;     /* all bytes, if they were read from a file or expanded; else NULL */
    void *head;      /* what lies before the data, if that was read or made; else NULL */
    void *directory; /* of a compressed file and what lies before it, if that was read; else NULL */
};

/* ---- file_read.c ---- */

/* Bytes of the input where they are, with *memory NULL, or a copy in *memory, which the caller frees. */
hyb_status hyb_input_take(const hyb_input *input, uint64_t offset, size_t n_bytes, void **memory,
                          const uint8_t **bytes);

/* ---- file_expand.c ---- */

/* What lies before the data of a compressed file's original, and how its tensors are coded: fills bytes, n_bytes,
 * layout and what follows from parts on. Errors: FORMAT, OUT_OF_MEMORY, those of reading. */
hyb_status hyb_file_begin_compressed(hyb_file *file, const uint8_t header[HYB_HEADER_BYTES]);

/* ---- file_data.c ---- */

/* The original of a compressed file in memory of the context that the caller frees, and the checksum of its body, which
 * is compared with nothing. Errors: FORMAT, OUT_OF_MEMORY, those of reading. */
hyb_status hyb_file_expand_image(const hyb_file *file, uint8_t **image, uint32_t *crc);
/* Checks all contents. */
hyb_status hyb_file_check_data(const hyb_file *file);

#define HYB_WINDOW_BYTES ((size_t)65536)

/* Part of an input, read from its beginning to its end. */
typedef struct hyb_window {
    const hyb_input *input;
    uint64_t at, end;    /* of the input: what was not read yet */
    uint8_t *buffer;     /* [HYB_WINDOW_BYTES]; NULL where the input is in memory, and all counts as read */
    const uint8_t *next; /* n bytes that were read */
    size_t n;
} hyb_window;

/* Errors: OUT_OF_MEMORY. */
hyb_status hyb_window_open(const hyb_input *input, uint64_t begin, uint64_t end, hyb_window *window);
void hyb_window_close(hyb_window *window);
/* Reads, unless n_bytes (at most HYB_WINDOW_BYTES) or all that are left are there. */
hyb_status hyb_window_fill(hyb_window *window, size_t n_bytes);
void hyb_window_pass(hyb_window *window, size_t n_bytes);

#endif /* HYB_FILE_OPEN_H */
