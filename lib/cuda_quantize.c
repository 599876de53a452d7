/* cuda_quantize.c - quantising and packing on a GPU: checks arguments as the CPU's functions do (quantize.c, pack.c,
 * quantize_levels.c), and hands them to the module (cuda/quantize.cu, cuda/pack.cu).
 */
#include "cuda.h"
#include "quantize.h"

#define MAX_SIDE ((size_t)0x7fffffff) /* rows, columns: a kernel's grid is no larger */

static hyb_status null_in(hyb_cuda *cuda, const char *name) {
    return hyb_fail(cuda != NULL ? cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                    "%s: the device, or the address of an argument, is 0", name);
}

static hyb_status check_sides(hyb_cuda *cuda, size_t n_rows, size_t n_cols) {
    if (n_rows > MAX_SIDE || n_cols > MAX_SIDE)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "a matrix of %zu x %zu: on a GPU both sizes are at most 2147483647", n_rows, n_cols);
    return HYB_OK;
}

/* ---- matrices ---- */

static hyb_status quantize(hyb_cuda *cuda, const hyb_quantizer *quantizer, hyb_device_address weights, size_t n_rows,
                           size_t n_cols, hyb_packing packing, hyb_device_address bytes, hyb_device_address scales,
                           hyb_stream stream) {
    HYB_TRY(check_sides(cuda, n_rows, n_cols));
    return HYB_CUDA_CALL(cuda, quantize, quantizer, hyb_device_pointer(weights), n_rows, n_cols, (int32_t)packing,
                         hyb_device_pointer(bytes), hyb_device_pointer(scales), hyb_device_pointer(stream));
}

hyb_status hyb_cuda_quantize(hyb_cuda *cuda, const hyb_quantizer *quantizer, hyb_device_address weights, size_t n_rows,
                             size_t n_cols, hyb_device_address codes, hyb_device_address scales, hyb_stream stream) {
    if (cuda == NULL || quantizer == NULL || weights == 0 || codes == 0 || scales == 0)
        return null_in(cuda, "hyb_cuda_quantize");
    HYB_TRY(hyb_quantize_check(cuda->ctx, quantizer, n_rows, n_cols));
    return quantize(cuda, quantizer, weights, n_rows, n_cols, HYB_PACKING_INT8, codes, scales, stream);
}

/* INVALID_ARGUMENT for a packing that has no place for the quantiser's codes. */
static hyb_status check_packing(hyb_cuda *cuda, const hyb_quantizer *q, hyb_packing packing) {
    static const uint8_t formats[] = {0,
                                      HYB_FORMAT_TERNARY,
                                      HYB_FORMAT_TERNARY,
                                      HYB_FORMAT_BINARY, /* by packing */
                                      HYB_FORMAT_INT2,
                                      HYB_FORMAT_INT4,
                                      HYB_FORMAT_INT8,
                                      HYB_FORMAT_TERNARY};
    if ((int)packing < HYB_PACKING_TERNARY_2BIT || (int)packing > HYB_PACKING_TERNARY_3OF4)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "packing %d: use 1 to 7", (int)packing);
    if (q->format != formats[packing])
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "codes of format %d have no place in packing %d",
                        (int)q->format, (int)packing);
    if (packing == HYB_PACKING_TERNARY_3OF4 && q->threshold != HYB_THRESHOLD_THREE_OF_FOUR)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "packing 7 takes four codes with exactly one 0: use HYB_THRESHOLD_THREE_OF_FOUR");
    return HYB_OK;
}

hyb_status hyb_cuda_quantize_pack(hyb_cuda *cuda, const hyb_quantizer *quantizer, hyb_device_address weights,
                                  size_t n_rows, size_t n_cols, hyb_packing packing, hyb_device_address bytes,
                                  hyb_device_address scales, hyb_stream stream) {
    if (cuda == NULL || quantizer == NULL || weights == 0 || bytes == 0 || scales == 0)
        return null_in(cuda, "hyb_cuda_quantize_pack");
    HYB_TRY(hyb_quantize_check(cuda->ctx, quantizer, n_rows, n_cols));
    HYB_TRY(check_packing(cuda, quantizer, packing));
    return quantize(cuda, quantizer, weights, n_rows, n_cols, packing, bytes, scales, stream);
}

hyb_status hyb_cuda_dequantize(hyb_cuda *cuda, hyb_device_address codes, hyb_device_address scales, size_t n_scales,
                               size_t n_rows, size_t n_cols, hyb_device_address weights, hyb_stream stream) {
    if (cuda == NULL || codes == 0 || scales == 0 || weights == 0) return null_in(cuda, "hyb_cuda_dequantize");
    HYB_TRY(hyb_quantize_check_sizes(cuda->ctx, n_rows, n_cols));
    HYB_TRY(check_sides(cuda, n_rows, n_cols));
    if (n_scales != 1 && n_scales != n_rows)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "n_scales is %zu: give 1, or one of each of the %zu rows", n_scales, n_rows);
    return HYB_CUDA_CALL(cuda, dequantize, hyb_device_pointer(codes), hyb_device_pointer(scales), n_scales, n_rows,
                         n_cols, hyb_device_pointer(weights), hyb_device_pointer(stream));
}

/* ---- activations, levels ---- */

hyb_status hyb_cuda_quantize_activations(hyb_cuda *cuda, hyb_device_address activations, size_t n_tokens, size_t n_cols,
                                         size_t ld_codes, hyb_device_address codes, hyb_device_address sums,
                                         hyb_device_address scales, hyb_stream stream) {
    if (cuda == NULL || activations == 0 || codes == 0 || scales == 0)
        return null_in(cuda, "hyb_cuda_quantize_activations");
    HYB_TRY(hyb_quantize_check_sizes(cuda->ctx, n_tokens, n_cols));
    HYB_TRY(check_sides(cuda, n_tokens, n_cols));
    if (ld_codes < n_cols || hyb_mul_overflows(n_tokens, ld_codes))
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "ld_codes is %zu: give n_cols (%zu) or more, and what fits in memory", ld_codes, n_cols);
    return HYB_CUDA_CALL(cuda, quantize_activations, hyb_device_pointer(activations), n_tokens, n_cols, ld_codes,
                         hyb_device_pointer(codes), hyb_device_pointer(sums), hyb_device_pointer(scales),
                         hyb_device_pointer(stream));
}

static hyb_status check_levels(hyb_cuda *cuda, int32_t levels, double scale, size_t n, hyb_device_address x,
                               hyb_device_address out) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(hyb_quantize_levels_check(cuda->ctx, levels, scale));
    if (n != 0 && (x == 0 || out == 0))
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "quantize_levels: %s is 0", x == 0 ? "x" : "out");
    return n <= SIZE_MAX / sizeof(double)
               ? HYB_OK
               : hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "quantize_levels: %zu values do not fit in memory", n);
}

hyb_status hyb_cuda_quantize_levels_f32(hyb_cuda *cuda, int32_t levels, float scale, size_t n, hyb_device_address x,
                                        hyb_device_address out, hyb_stream stream) {
    HYB_TRY(check_levels(cuda, levels, (double)scale, n, x, out));
    if (n == 0) return HYB_OK;
    return HYB_CUDA_CALL(cuda, quantize_levels_f32, levels, scale, n, hyb_device_pointer(x), hyb_device_pointer(out),
                         hyb_device_pointer(stream));
}

hyb_status hyb_cuda_quantize_levels_f64(hyb_cuda *cuda, int32_t levels, double scale, size_t n, hyb_device_address x,
                                        hyb_device_address out, hyb_stream stream) {
    HYB_TRY(check_levels(cuda, levels, scale, n, x, out));
    if (n == 0) return HYB_OK;
    return HYB_CUDA_CALL(cuda, quantize_levels_f64, levels, scale, n, hyb_device_pointer(x), hyb_device_pointer(out),
                         hyb_device_pointer(stream));
}

/* ---- packing ---- */

static hyb_status check_codes(hyb_cuda *cuda, const char *name, hyb_packing packing, size_t n_codes,
                              hyb_device_address codes, hyb_device_address bytes) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if ((int)packing < HYB_PACKING_TERNARY_2BIT || (int)packing > HYB_PACKING_TERNARY_3OF4)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "packing %d: use 1 to 7", (int)packing);
    if (n_codes == 0) return HYB_OK;
    if (codes == 0 || bytes == 0) return null_in(cuda, name);
    if (packing == HYB_PACKING_TERNARY_3OF4 && n_codes % 4 != 0)
        return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "%zu codes: packing 7 has a multiple of 4", n_codes);
    return HYB_OK;
}

hyb_status hyb_cuda_pack(hyb_cuda *cuda, hyb_packing packing, hyb_device_address codes, size_t n_codes,
                         hyb_device_address bytes, hyb_stream stream) {
    HYB_TRY(check_codes(cuda, "hyb_cuda_pack", packing, n_codes, codes, bytes));
    if (n_codes == 0) return HYB_OK;
    return HYB_CUDA_CALL(cuda, pack, (int32_t)packing, hyb_device_pointer(codes), n_codes, hyb_device_pointer(bytes),
                         hyb_device_pointer(stream));
}

hyb_status hyb_cuda_unpack(hyb_cuda *cuda, hyb_packing packing, hyb_device_address bytes, size_t n_codes,
                           hyb_device_address codes, hyb_stream stream) {
    HYB_TRY(check_codes(cuda, "hyb_cuda_unpack", packing, n_codes, codes, bytes));
    if (n_codes == 0) return HYB_OK;
    return HYB_CUDA_CALL(cuda, unpack, (int32_t)packing, hyb_device_pointer(bytes), n_codes, hyb_device_pointer(codes),
                         hyb_device_pointer(stream));
}
