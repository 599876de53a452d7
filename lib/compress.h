/* compress.h (internal) - how a compressed matrix lies in memory, for what compresses on the CPU and on a GPU.
 */
#ifndef HYB_COMPRESS_INTERNAL_H
#define HYB_COMPRESS_INTERNAL_H

#include <hybrid/compress.h>

#include "common.h"

typedef struct hyb_compressed_layout {
    size_t row_bytes;  /* packed codes of a row */
    size_t block_size; /* values that share a scale */
    size_t n_scales;   /* of a row */
    size_t n_bytes;    /* in all */
} hyb_compressed_layout;

/* The layout of a matrix; INVALID_ARGUMENT for a compressor or sizes that are not valid. */
hyb_status hyb_compress_layout(hyb_ctx *ctx, const hyb_compressor *compressor, size_t n_rows, size_t n_cols,
                               hyb_compressed_layout *layout);

#endif /* HYB_COMPRESS_INTERNAL_H */
