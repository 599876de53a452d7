/* file_system.h (internal) - the operating system's part of file.h: a file's bytes in, and a file replaced at once.
 * Errors are IO, with the path and the operating system's words in the detail.
 */
#ifndef HYB_FILE_SYSTEM_H
#define HYB_FILE_SYSTEM_H

#include "common.h"

/* hyb_fail with "path: what" as the detail; a long path is cut at its beginning. */
hyb_status hyb_fail_path(hyb_ctx *ctx, hyb_status status, const char *path, const char *what);

/* Puts the path before the detail that the context holds already. */
hyb_status hyb_fail_file(hyb_ctx *ctx, hyb_status status, const char *path);

/* A regular file that is being read, or bytes in memory in its place. */
typedef struct hyb_input {
    hyb_ctx *ctx;
    const char *path;
    const uint8_t *bytes; /* in memory; NULL for a file, as path for memory */
    void *stream;         /* FILE *; NULL where descriptors are used */
    int descriptor;       /* -1 where not */
    uint64_t n_bytes;     /* size of the file when it was opened */
} hyb_input;

/* Opens a file. Errors: IO, also for what is not a regular file. */
hyb_status hyb_input_open(hyb_ctx *ctx, const char *path, hyb_input *input);
/* Reads n_bytes from `offset` on, which lie inside. Errors: IO; TRUNCATED if the file became shorter. */
hyb_status hyb_input_read(const hyb_input *input, uint64_t offset, void *bytes, size_t n_bytes);
/* Nothing for memory. */
void hyb_input_close(hyb_input *input);

/* A file that will take the place of another: written beside it, and renamed by commit. After a successful begin,
 * exactly one of commit and abort must be called. */
typedef struct hyb_output {
    hyb_ctx *ctx;
    const char *path;
    char *temporary; /* its path, owned */
    void *stream;
    int descriptor;
} hyb_output;

hyb_status hyb_output_begin(hyb_ctx *ctx, const char *path, hyb_output *output);
hyb_status hyb_output_write(hyb_output *output, const void *bytes, size_t n_bytes);
/* Back to the beginning: what is written next replaces the first bytes. */
hyb_status hyb_output_rewind(hyb_output *output);
/* Flushes to the disk and renames. On an error the old file is untouched and the temporary removed. */
hyb_status hyb_output_commit(hyb_output *output);
/* Removes the temporary. */
void hyb_output_abort(hyb_output *output);

#endif /* HYB_FILE_SYSTEM_H */
