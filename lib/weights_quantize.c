/* weights_quantize.c - from fp32 straight to packed weights: the quantiser's sweep (quantize.c) into new weights. */
#include "quantize.h"

hyb_status hyb_weights_create_quantized(hyb_ctx *ctx, const hyb_quantizer *quantizer, size_t n_rows, size_t n_cols,
                                        const float *values, hyb_weights **weights) {
    if (ctx == NULL || quantizer == NULL || values == NULL || weights == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_weights_create_quantized: ctx, quantizer, values or weights is NULL");
    HYB_TRY(hyb_quantize_check(ctx, quantizer, n_rows, n_cols));
    hyb_quantize_job job = {.quantizer = quantizer, .weights = values, .n_rows = n_rows, .n_cols = n_cols};
    HYB_TRY(hyb_weights_alloc_fixed(ctx, (hyb_format)quantizer->format, n_rows, n_cols, &job.packed));
    size_t work_bytes = hyb_quantize_work_bytes(ctx, quantizer, n_rows, n_cols);
    int in_place = quantizer->format == HYB_FORMAT_TERNARY && job.packed->layout == HYB_LAYOUT_PLANES;
    size_t n_codes = in_place ? 0 : n_rows * n_cols;
    float *scales = hyb_alloc(ctx, n_rows, sizeof *scales);
    int8_t *codes = hyb_alloc(ctx, n_codes, 1);
    void *work = work_bytes != 0 ? hyb_scratch(ctx, work_bytes) : NULL;
    hyb_status status;
    if (scales == NULL || codes == NULL || work == NULL) {
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory to quantise weights of %zu x %zu", n_rows, n_cols);
    } else {
        job.codes = n_codes != 0 ? codes : NULL;
        job.scales = scales;
        status = hyb_quantize_run(ctx, &job, work);
    }
    hyb_free(ctx, codes);
    hyb_free(ctx, scales);
    if (status == HYB_OK)
        *weights = job.packed;
    else
        hyb_weights_destroy(job.packed);
    return status;
}
