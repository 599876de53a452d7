/* optimize.h - updates of fp32 master weights: AdamW, learning-rate schedules, gradient norms.
 *
 * Sources: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization" (AdamW, cosine schedule); Hu et al. 2024,
 * "MiniCPM" (warm-up, stable, decay).
 */
#ifndef HYBRID_OPTIMIZE_H
#define HYBRID_OPTIMIZE_H

#include <hybrid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* AdamW for one step. Betas in [0, 1), epsilon > 0, the rest >= 0 and finite. */
typedef struct hyb_adamw {
    float learning_rate;
    float beta1;
    float beta2;
    float epsilon;
    float weight_decay;   /* decoupled; the caller applies it to matrices only */
    float gradient_scale; /* every gradient is multiplied by it first (clipping); 1 for none */
    uint64_t step;        /* 1 for the first update: used by the bias correction */
} hyb_adamw;

/* One AdamW update of n parameters, in place.
 *   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  w -= lr ((m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + wd w)
 * weights, first_moment, second_moment, gradient: fp32 [n], no overlap. Errors: INVALID_ARGUMENT. */
HYB_API hyb_status hyb_adamw_update(hyb_ctx *ctx, const hyb_adamw *adamw, size_t n, const float *gradient,
                                    float *weights, float *first_moment, float *second_moment);

/* Shape of the learning rate after warm-up.
 *   CONSTANT  1
 *   COSINE    from 1 to final_ratio along half a cosine
 *   LINEAR    from 1 to final_ratio along a line
 *   WSD       1, then a line to final_ratio over the last decay_steps */
typedef enum hyb_schedule_shape {
    HYB_SCHEDULE_CONSTANT = 0,
    HYB_SCHEDULE_COSINE = 1,
    HYB_SCHEDULE_LINEAR = 2,
    HYB_SCHEDULE_WSD = 3
} hyb_schedule_shape;

/* A learning-rate schedule over total_steps steps. */
typedef struct hyb_schedule {
    int32_t shape;         /* hyb_schedule_shape */
    float final_ratio;     /* multiplier at the end, in [0, 1] */
    uint64_t total_steps;  /* >= 1 */
    uint64_t warmup_steps; /* linear from 1 / warmup_steps to 1 */
    uint64_t decay_steps;  /* WSD only; at most total_steps - warmup_steps */
} hyb_schedule;

/* Multiplier of the base learning rate at `step`, 1 for the first update, in [0, 1]. Errors: INVALID_ARGUMENT. */
HYB_API hyb_status hyb_schedule_multiplier(const hyb_schedule *schedule, uint64_t step, double *multiplier);

/* Sum of squares of fp32 [n] in fp64, in an order that does not depend on the number of threads.
 * Errors: NOT_FINITE if any value is NaN or infinite. */
HYB_API hyb_status hyb_sum_squares(hyb_ctx *ctx, const float *values, size_t n, double *sum);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_OPTIMIZE_H */
