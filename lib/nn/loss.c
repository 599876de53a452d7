/* loss.c - cross-entropy of logits, and its gradient in place. */
#include "../math_f64.h"
#include "training.h"

typedef struct loss_loop {
    const hyb_ctx *ctx;
    float *logits;
    const uint32_t *targets;
    size_t n, vocab_size;
    double *losses;
    float gradient_scale;
} loss_loop;

static void loss_row(const loss_loop *loop, size_t i) {
    const hyb_kernels *kernels = &loop->ctx->kernels;
    float *row = loop->logits + i * loop->vocab_size, target = row[loop->targets[i]];
    if (kernels->max_abs_bits(row, loop->vocab_size) >= 0x7f800000u) {
        loop->losses[i] = (double)hyb_float_of(0x7fc00000u);
        return;
    }
    float max = kernels->max_f32(row, loop->vocab_size);
    float sum = kernels->exp_sum(row, loop->vocab_size, max, row);
    loop->losses[i] = hyb_log_f64((double)sum) + ((double)max - (double)target);
    if (loop->gradient_scale != 0.0f) {
        kernels->scale_f32(row, row, loop->vocab_size, loop->gradient_scale / sum);
        row[loop->targets[i]] -= loop->gradient_scale;
    }
}

static void loss_task(void *argument, size_t index, size_t worker) {
    const loss_loop *loop = argument;
    size_t first = index * HYB_TOKENS_PER_TASK, end = hyb_min_size(first + HYB_TOKENS_PER_TASK, loop->n);
    (void)worker;
    for (size_t i = first; i < end; i++) loss_row(loop, i);
}

void hyb_cross_entropy(hyb_ctx *ctx, float *logits, const uint32_t *targets, size_t n, size_t vocab_size,
                       double *losses, float gradient_scale) {
    loss_loop loop = {ctx, logits, targets, n, vocab_size, losses, gradient_scale};
    hyb_parallel(ctx, hyb_ceil_div(n, HYB_TOKENS_PER_TASK), loss_task, &loop);
}
