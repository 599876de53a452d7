/* file_data.h (internal) - a model file that is open but for its data, and these one tensor after another, in pieces: a
 * network is loaded so, and neither its codes nor the original of a compressed file are ever in memory as a whole.
 */
#ifndef HYB_FILE_DATA_H
#define HYB_FILE_DATA_H

#include <hybrid/file.h>

#include "common.h"

/* Codes that are read at a time: a multiple of 10240, so that in every packing pieces are whole bytes (of 5 bytes for
 * 32 codes, too) and, entropy-coded, whole rows of 64 symbols; few enough for a first-level cache. */
#define HYB_PIECE_CODES ((size_t)20480)

/* hyb_file_open and hyb_file_open_memory without the data: every other check was made, that of the checksum too. All
 * accessors work, but pointers to payload and scales are NULL. The path must live as long. Errors: as theirs. */
hyb_status hyb_file_begin(hyb_ctx *ctx, const char *path, hyb_file **file);
hyb_status hyb_file_begin_memory(hyb_ctx *ctx, const void *bytes, size_t n_bytes, hyb_file **file);
/* Puts the path of a begun file, if it has one, before the detail that the context holds. Returns status. */
hyb_status hyb_file_fail(const hyb_file *file, hyb_status status);
/* Index of a tensor, or SIZE_MAX. */
size_t hyb_file_tensor_index(const hyb_file *file, const char *name);

/* Reads the data of a file once, from the first tensor to the last. Errors of all functions, in which contents are
 * checked as hyb_file_open does: FORMAT, and IO and TRUNCATED of a file on a disk. */
typedef struct hyb_file_data hyb_file_data;
/* Errors: also OUT_OF_MEMORY. */
hyb_status hyb_file_data_begin(const hyb_file *file, hyb_file_data **data);
void hyb_file_data_free(hyb_file_data *data);
/* Goes to the next tensor, once the one before was read completely: values of F32; otherwise codes, then scales. */
hyb_status hyb_file_data_next(hyb_file_data *data, hyb_file_tensor *tensor);
/* All values, or scales. NULL: they are only checked. */
hyb_status hyb_file_data_values(hyb_file_data *data, float *values);
hyb_status hyb_file_data_scales(hyb_file_data *data, float *scales);
/* The next n codes: HYB_PIECE_CODES but for the last ones. */
hyb_status hyb_file_data_codes(hyb_file_data *data, size_t n, int8_t *codes);
/* After the last tensor: nothing is left. Errors: also CHECKSUM, of what was read if that was not known: the data of a
 * file on a disk, which may have changed, and of a compressed file's original. */
hyb_status hyb_file_data_end(hyb_file_data *data);

#endif /* HYB_FILE_DATA_H */
