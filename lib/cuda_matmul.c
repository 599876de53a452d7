/* cuda_matmul.c - weights in a device's memory, and their product with activations there.
 *
 * hyb_weights in any layout -> int8 codes, a piece of rows at a time -> the device, which packs them (cuda/weights.cu)
 * -> cuda/matmul.cu. Arguments are checked here, once.
 */
#include "cuda.h"
#include "matmul.h"

/* Codes that are unpacked and uploaded at a time: enough to keep the bus busy. */
#define PIECE_BYTES ((size_t)16 << 20)
/* Scales begin where any kernel may load 16 bytes. */
#define SCALES_ALIGNMENT 256
/* Tokens of a call: a block each, and a grid has at most so many. */
#define MAX_TOKENS 0x7fffffff

/* ---- weights ---- */

/* Bytes of a row of the device's layout (cuda/matmul.h). */
static size_t row_bytes(hyb_format format, size_t n_cols) {
    size_t n_bytes = n_cols;
    if (format == HYB_FORMAT_TERNARY) n_bytes = hyb_ceil_div(n_cols, 4);
    if (format == HYB_FORMAT_F32) n_bytes = n_cols * sizeof(float);
    return hyb_round_up(n_bytes, 16);
}

static hyb_status allocate(hyb_cuda *cuda, hyb_format format, size_t n_rows, size_t n_cols,
                           hyb_cuda_weights **weights) {
    if ((uint32_t)n_rows != n_rows || n_rows > SIZE_MAX / 2 / (row_bytes(format, n_cols) + sizeof(float)))
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "weights of %zu x %zu do not fit in memory", n_rows,
                        n_cols);
    hyb_cuda_weights *w = hyb_alloc_zeroed(cuda->ctx, 1, sizeof *w);
    if (w == NULL) return hyb_fail(cuda->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for the handle of weights");
    w->cuda = cuda;
    w->device.format = (int32_t)format;
    w->device.n_rows = (uint32_t)n_rows;
    w->device.n_cols = (uint32_t)n_cols;
    w->device.ld_bytes = row_bytes(format, n_cols);
    size_t codes_bytes = hyb_round_up(n_rows * w->device.ld_bytes, SCALES_ALIGNMENT);
    w->n_bytes = codes_bytes + (format == HYB_FORMAT_F32 ? 0 : n_rows * sizeof(float));
    hyb_status status = HYB_CUDA_CALL(cuda, allocate, w->n_bytes, &w->memory);
    if (status != HYB_OK) {
        hyb_free(cuda->ctx, w);
        return status;
    }
    w->device.codes = w->memory;
    w->device.row_scales = (const float *)(const void *)((const char *)w->memory + codes_bytes);
    *weights = w;
    return HYB_OK;
}

/* Packs rows of codes that are on the device. */
static hyb_status pack(hyb_cuda_weights *w, size_t first_row, size_t n_rows, const void *codes, const float *scales,
                       size_t n_scales, void *stream) {
    uint64_t bad_code = UINT64_MAX, bad_scale = UINT64_MAX;
    hyb_ctx *ctx = w->cuda->ctx;
    HYB_TRY(HYB_CUDA_CALL(w->cuda, pack_weights, &w->device, first_row, n_rows, codes, scales, n_scales, &bad_code,
                          &bad_scale, stream));
    unsigned long long row = bad_code / w->device.n_cols, column = bad_code % w->device.n_cols;
    if (bad_code != UINT64_MAX && w->device.format == HYB_FORMAT_F32)
        return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "the value at row %llu, column %llu is not a finite number", row,
                        column);
    if (bad_code != UINT64_MAX)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "the code at row %llu, column %llu is not one of format %d",
                        row, column, (int)w->device.format);
    if (bad_scale != UINT64_MAX)
        return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "scale %llu is not a finite number", (unsigned long long)bad_scale);
    return HYB_OK;
}

typedef struct unpack_job {
    const hyb_weights *packed;
    size_t first_row;
    int8_t *codes;
} unpack_job;

static void unpack_task(void *argument, size_t index, size_t worker) {
    const unpack_job *job = argument;
    (void)worker;
    hyb_weights_unpack_codes(job->packed, job->first_row + index, job->codes + index * job->packed->n_cols);
}

/* Rows of packed weights through `host`, [n_rows * n_cols], and `staging` of the device, which also takes scales. */
static hyb_status copy_piece(hyb_cuda_weights *w, const hyb_weights *packed, size_t first_row, size_t n_rows,
                             int8_t *host, void *staging) {
    hyb_cuda *cuda = w->cuda;
    size_t n_codes = n_rows * packed->n_cols;
    float *scales = (float *)(void *)((char *)staging + hyb_round_up(n_codes, SCALES_ALIGNMENT));
    unpack_job job = {packed, first_row, host};
    hyb_parallel(cuda->ctx, n_rows, unpack_task, &job);
    HYB_TRY(HYB_CUDA_CALL(cuda, upload, staging, host, n_codes, NULL));
    HYB_TRY(HYB_CUDA_CALL(cuda, upload, scales, packed->row_scales + first_row, n_rows * sizeof *scales, NULL));
    return pack(w, first_row, n_rows, staging, scales, n_rows, NULL);
}

static hyb_status copy_packed(hyb_cuda_weights *w, const hyb_weights *packed) {
    hyb_cuda *cuda = w->cuda;
    size_t n_rows = packed->n_rows, per_piece = hyb_min_size(n_rows, hyb_ceil_div(PIECE_BYTES, packed->n_cols));
    size_t n_codes = per_piece * packed->n_cols;
    void *staging = NULL;
    int8_t *host = hyb_alloc(cuda->ctx, n_codes, 1);
    if (host == NULL) return hyb_fail(cuda->ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %zu codes", n_codes);
    hyb_status status =
        HYB_CUDA_CALL(cuda, allocate, hyb_round_up(n_codes, SCALES_ALIGNMENT) + per_piece * sizeof(float), &staging);
    for (size_t row = 0; row < n_rows && status == HYB_OK; row += per_piece)
        status = copy_piece(w, packed, row, hyb_min_size(per_piece, n_rows - row), host, staging);
    if (staging != NULL) cuda->table->release(cuda->state, staging);
    hyb_free(cuda->ctx, host);
    return status;
}

/* Hands weights to the caller, or destroys them. */
static hyb_status finish(hyb_status status, hyb_cuda_weights *made, hyb_cuda_weights **weights) {
    if (status == HYB_OK)
        *weights = made;
    else
        hyb_cuda_weights_destroy(made);
    return status;
}

hyb_status hyb_cuda_weights_create(hyb_cuda *cuda, const hyb_weights *packed, hyb_cuda_weights **weights) {
    hyb_cuda_weights *made = NULL;
    if (cuda == NULL || packed == NULL || weights == NULL)
        return hyb_fail(cuda ? cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_cuda_weights_create: cuda, packed or weights is NULL");
    HYB_TRY(allocate(cuda, packed->format, packed->n_rows, packed->n_cols, &made));
    return finish(copy_packed(made, packed), made, weights);
}

hyb_status hyb_cuda_weights_create_codes(hyb_cuda *cuda, hyb_format format, hyb_device_address codes, size_t n_rows,
                                         size_t n_cols, hyb_device_address scales, size_t n_scales, hyb_stream stream,
                                         hyb_cuda_weights **weights) {
    hyb_cuda_weights *made = NULL;
    if (cuda == NULL || codes == 0 || scales == 0 || weights == NULL)
        return hyb_fail(cuda ? cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_cuda_weights_create_codes: cuda, codes, scales or weights is 0");
    HYB_TRY(hyb_weights_check_shape(cuda->ctx, format, n_rows, n_cols));
    if (n_scales != 1 && n_scales != n_rows)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "n_scales is %zu: give 1, or one of each of the %zu rows", n_scales, n_rows);
    HYB_TRY(allocate(cuda, format, n_rows, n_cols, &made));
    hyb_status status = pack(made, 0, n_rows, hyb_device_pointer(codes), hyb_device_pointer(scales), n_scales,
                             hyb_device_pointer(stream));
    return finish(status, made, weights);
}

hyb_status hyb_cuda_weights_create_f32(hyb_cuda *cuda, hyb_device_address values, size_t n_rows, size_t n_cols,
                                       hyb_stream stream, hyb_cuda_weights **weights) {
    hyb_cuda_weights *made = NULL;
    if (cuda == NULL || values == 0 || weights == NULL)
        return hyb_fail(cuda ? cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_cuda_weights_create_f32: cuda, values or weights is 0");
    if (n_rows == 0 || n_cols == 0 || n_cols > HYB_MATMUL_MAX_COLS)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "weights of %zu x %zu: both sizes must be at least 1, and n_cols at most %d", n_rows, n_cols,
                        HYB_MATMUL_MAX_COLS);
    HYB_TRY(allocate(cuda, HYB_FORMAT_F32, n_rows, n_cols, &made));
    hyb_status status = pack(made, 0, n_rows, hyb_device_pointer(values), NULL, 0, hyb_device_pointer(stream));
    return finish(status, made, weights);
}

void hyb_cuda_weights_destroy(hyb_cuda_weights *weights) {
    if (weights == NULL) return;
    weights->cuda->table->release(weights->cuda->state, weights->memory);
    hyb_free(weights->cuda->ctx, weights);
}

size_t hyb_cuda_weights_bytes(const hyb_cuda_weights *weights) { return weights != NULL ? weights->n_bytes : 0; }

/* ---- product ---- */

static hyb_status check_product(hyb_cuda *cuda, const char *name, const hyb_cuda_weights *weights, hyb_device_address x,
                                size_t n_tokens, hyb_device_address y) {
    if (cuda == NULL || weights == NULL || x == 0 || y == 0)
        return hyb_fail(cuda ? cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT, "%s: cuda, weights, x or y is 0", name);
    size_t widest = weights->device.n_rows > weights->device.n_cols ? weights->device.n_rows : weights->device.n_cols;
    if (weights->cuda != cuda)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "%s: the weights belong to another handle", name);
    if (n_tokens == 0 || n_tokens > MAX_TOKENS || n_tokens > SIZE_MAX / 8 / widest)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "n_tokens is %zu: give at least 1, and what fits in memory", n_tokens);
    return HYB_OK;
}

hyb_status hyb_cuda_matmul(hyb_cuda *cuda, const hyb_cuda_weights *weights, hyb_device_address x, size_t n_tokens,
                           hyb_device_address y, hyb_stream stream) {
    HYB_TRY(check_product(cuda, "hyb_cuda_matmul", weights, x, n_tokens, y));
    return HYB_CUDA_CALL(cuda, matmul, &weights->device, hyb_device_pointer(x), n_tokens, hyb_device_pointer(y),
                         weights->device.n_rows, 0, HYB_MATMUL_CHOOSE, hyb_device_pointer(stream));
}

hyb_status hyb_cuda_matmul_codes(hyb_cuda *cuda, const hyb_cuda_weights *weights, hyb_device_address x, size_t n_tokens,
                                 hyb_device_address y, hyb_stream stream) {
    HYB_TRY(check_product(cuda, "hyb_cuda_matmul_codes", weights, x, n_tokens, y));
    if (weights->device.format == HYB_FORMAT_F32)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_cuda_matmul_codes: F32 weights have no codes; use hyb_cuda_matmul");
    return HYB_CUDA_CALL(cuda, matmul_codes, &weights->device, hyb_device_pointer(x), n_tokens, hyb_device_pointer(y),
                         HYB_MATMUL_CHOOSE, hyb_device_pointer(stream));
}
