/* file_compress.h (internal) - what compressing a file and expanding it have in common. */
#ifndef HYB_FILE_COMPRESS_H
#define HYB_FILE_COMPRESS_H

#include "coding.h"
#include "file_layout.h"
#include "file_system.h"

/* The symbols of packed codes: five digits, or bytes. */
hyb_symbols hyb_file_symbols(uint32_t packing);
/* Writes bytes to a file, replaced at once. */
hyb_status hyb_file_replace(hyb_ctx *ctx, const char *path, const uint8_t *bytes, size_t n_bytes);
/* Copies bytes where there is room; TOO_SMALL otherwise, with their number. */
hyb_status hyb_file_put_bytes(hyb_ctx *ctx, const uint8_t *bytes, size_t n_bytes, void *target, size_t capacity,
                              size_t *n_target);

#endif /* HYB_FILE_COMPRESS_H */
