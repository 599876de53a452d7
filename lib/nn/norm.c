/* norm.c - the way back through rms_norm, and the gradient of its gain. */
#include "tensor.h"

size_t hyb_norm_chunks(size_t n, size_t scope) {
    return n / scope * hyb_ceil_div(scope, HYB_GAIN_CHUNK) + hyb_ceil_div(n % scope, HYB_GAIN_CHUNK);
}

typedef struct norm_loop {
    const hyb_ctx *ctx;
    const hyb_norm_backward_job *job;
} norm_loop;

static void norm_task(void *argument, size_t index, size_t worker) {
    const norm_loop *loop = argument;
    const hyb_norm_backward_job *job = loop->job;
    size_t n_cols = job->gain->n_cols, a_scope = hyb_ceil_div(job->scope, HYB_GAIN_CHUNK);
    size_t in_scope = index % a_scope * HYB_GAIN_CHUNK, first = index / a_scope * job->scope + in_scope;
    size_t end = first + hyb_min_size(hyb_min_size(job->scope - in_scope, job->n - first), HYB_GAIN_CHUNK);
    float *partial = job->partials + index * n_cols, *row = job->rows + worker * job->row_floats;
    memset(partial, 0, n_cols * sizeof *partial);
    for (size_t i = first; i < end; i++) {
        float *dy = job->dy + i * n_cols, *dx = job->dx ? job->dx + i * n_cols : row;
        if (job->dx == NULL) memset(row, 0, n_cols * sizeof *row);
        loop->ctx->kernels.rms_norm_backward(job->x + i * n_cols, job->gain->values, dy, n_cols, job->rms[i], dx,
                                             partial);
        if (job->dx == NULL) memcpy(dy, row, n_cols * sizeof *row);
    }
}

void hyb_norm_backward(hyb_ctx *ctx, const hyb_norm_backward_job *job) {
    size_t n_cols = job->gain->n_cols, n_chunks = hyb_norm_chunks(job->n, job->scope);
    norm_loop loop = {ctx, job};
    hyb_parallel(ctx, n_chunks, norm_task, &loop);
    if (!job->accumulate) memset(job->gain->gradient, 0, n_cols * sizeof(float));
    for (size_t i = 0; i < n_chunks; i++) ctx->kernels.add_f32(job->gain->gradient, job->partials + i * n_cols, n_cols);
}
