/* quantize_levels.c - rounds vectors to 3 or 5 evenly spaced levels, floats to floats. One pass; memory is the limit.
 */
#include <math.h>

#include "quantize.h"

/* What one task handles: it fits a second-level cache with its result. */
#define TASK_BYTES ((size_t)262144)

typedef struct levels_loop {
    const hyb_kernels *kernels;
    int is_f64;
    double steps, scale;
    size_t n, per_task;
    const void *x;
    void *out;
    int32_t is_nan[HYB_MAX_THREADS];
} levels_loop;

static void levels_task(void *argument, size_t index, size_t worker) {
    levels_loop *loop = argument;
    size_t first = index * loop->per_task, n = hyb_min_size(loop->per_task, loop->n - first);
    int found;
    if (loop->is_f64)
        found = loop->kernels->quantize_levels_f64((const double *)loop->x + first, n, loop->steps, loop->scale,
                                                   (double *)loop->out + first);
    else
        found = loop->kernels->quantize_levels_f32((const float *)loop->x + first, n, (float)loop->steps,
                                                   (float)loop->scale, (float *)loop->out + first);
    if (found) loop->is_nan[worker] = 1;
}

/* A NaN comes out as a NaN, and nothing else does. */
static hyb_status nan_at(hyb_ctx *ctx, const levels_loop *loop) {
    size_t i = 0;
    if (loop->is_f64)
        while (i + 1 < loop->n && !isnan(((const double *)loop->out)[i])) ++i;
    else
        while (i + 1 < loop->n && !isnan(((const float *)loop->out)[i])) ++i;
    return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "quantize_levels: value %zu is NaN", i);
}

hyb_status hyb_quantize_levels_check(hyb_ctx *ctx, int32_t levels, double scale) {
    if (levels != 3 && levels != 5)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "quantize_levels: levels is %d; give 3 or 5", (int)levels);
    if (!isfinite(scale))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "quantize_levels: scale is %g; it must be finite", scale);
    return HYB_OK;
}

static hyb_status run(hyb_ctx *ctx, int is_f64, int32_t levels, double scale, size_t n, const void *x, void *out) {
    const size_t size = is_f64 ? sizeof(double) : sizeof(float);
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(hyb_quantize_levels_check(ctx, levels, scale));
    if (n == 0) return HYB_OK;
    if (x == NULL || out == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "quantize_levels: %s is NULL", x == NULL ? "x" : "out");
    levels_loop loop = {.kernels = &ctx->kernels, .is_f64 = is_f64, .n = n, .x = x, .out = out};
    loop.steps = levels == 5 ? 2.0 : 1.0; /* of |value| = 1 */
    loop.scale = scale;
    loop.per_task = TASK_BYTES / size;
    hyb_parallel(ctx, hyb_ceil_div(n, loop.per_task), levels_task, &loop);
    for (size_t i = 0; i < HYB_MAX_THREADS; ++i)
        if (loop.is_nan[i]) return nan_at(ctx, &loop);
    return HYB_OK;
}

hyb_status hyb_quantize_levels_f32(hyb_ctx *ctx, int32_t levels, float scale, size_t n, const float *x, float *out) {
    return run(ctx, 0, levels, (double)scale, n, x, out);
}

hyb_status hyb_quantize_levels_f64(hyb_ctx *ctx, int32_t levels, double scale, size_t n, const double *x, double *out) {
    return run(ctx, 1, levels, scale, n, x, out);
}
