/* cuda_compress.c - gradient compression on a GPU: checks arguments as compress.c does, and hands them to the module
 * (cuda/compress.cu).
 */
#include "compress.h"
#include "cuda.h"

#define MAX_SIDE ((size_t)0x7fffffff) /* rows, columns: a kernel's grid is no larger */

/* The layout as the module takes it. */
static hyb_status find_layout(hyb_cuda *cuda, const hyb_compressor *compressor, size_t n_rows, size_t n_cols,
                              hyb_cuda_layout *layout, size_t *n_bytes) {
    hyb_compressed_layout l = {0, 0, 0, 0};
    HYB_TRY(hyb_compress_layout(cuda->ctx, compressor, n_rows, n_cols, &l));
    if (n_rows > MAX_SIDE || n_cols > MAX_SIDE)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "a matrix of %zu x %zu: on a GPU both sizes are at most 2147483647", n_rows, n_cols);
    layout->row_bytes = l.row_bytes;
    layout->block_size = l.block_size;
    layout->n_scales = l.n_scales;
    *n_bytes = l.n_bytes;
    return HYB_OK;
}

hyb_status hyb_cuda_compress(hyb_cuda *cuda, const hyb_compressor *compressor, hyb_device_address gradient,
                             size_t n_rows, size_t n_cols, hyb_device_address residual, hyb_device_address bytes,
                             hyb_device_address values, hyb_stream stream) {
    hyb_cuda_layout layout = {0, 0, 0};
    size_t needed = 0;
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (compressor == NULL || gradient == 0)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_cuda_compress: compressor is NULL or gradient is 0");
    HYB_TRY(find_layout(cuda, compressor, n_rows, n_cols, &layout, &needed));
    return HYB_CUDA_CALL(cuda, compress, compressor->scheme, &layout, hyb_device_pointer(gradient), n_rows, n_cols,
                         hyb_device_pointer(residual), hyb_device_pointer(bytes), hyb_device_pointer(values),
                         hyb_device_pointer(stream));
}

hyb_status hyb_cuda_decompress(hyb_cuda *cuda, const hyb_compressor *compressor, hyb_device_address bytes,
                               size_t n_bytes, size_t n_rows, size_t n_cols, hyb_device_address values,
                               hyb_stream stream) {
    hyb_cuda_layout layout = {0, 0, 0};
    size_t needed = 0;
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (compressor == NULL || bytes == 0 || values == 0)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_cuda_decompress: compressor is NULL, or bytes or values is 0");
    HYB_TRY(find_layout(cuda, compressor, n_rows, n_cols, &layout, &needed));
    if (n_bytes != needed)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu bytes; a matrix of %zu x %zu takes %zu", n_bytes,
                        n_rows, n_cols, needed);
    return HYB_CUDA_CALL(cuda, decompress, compressor->scheme, &layout, hyb_device_pointer(bytes), n_rows, n_cols,
                         hyb_device_pointer(values), hyb_device_pointer(stream));
}
