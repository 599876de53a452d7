/* tensor_file.h (internal) - tensors of a network to and from the containers of file.h. */
#ifndef HYB_TENSOR_FILE_H
#define HYB_TENSOR_FILE_H

#include <hybrid/file.h>

#include "nn/tensor.h"

/* Codes that hyb_tensors_sources unpacks: those of quantised tensors that have packed weights only. */
size_t hyb_tensors_packed_codes(const hyb_tensor *tensors, size_t n);
/* What the writer takes of n tensors; unpacked: [hyb_tensors_packed_codes] of work memory, which must live as long. */
void hyb_tensors_sources(const hyb_tensor *tensors, size_t n, int8_t *unpacked, hyb_file_source *sources);

/* FORMAT unless the file holds exactly these tensors, in any order. */
hyb_status hyb_tensors_check_file(hyb_ctx *ctx, const hyb_file *file, const hyb_tensor *tensors, size_t n);
/* Reads the data of a begun file (file_data.h) into the tensors, which were checked, row after row: what this needs
 * beside them does not depend on their number of rows. Errors: those of hyb_file_data, OUT_OF_MEMORY. */
hyb_status hyb_tensors_load(hyb_ctx *ctx, const hyb_file *file, hyb_tensor *tensors, size_t n);
/* A copy of the file's metadata, with a NUL behind it; NULL where there is none. The caller frees it. */
hyb_status hyb_file_copy_metadata(hyb_ctx *ctx, const hyb_file *file, char **metadata, size_t *n_bytes);

#endif /* HYB_TENSOR_FILE_H */
