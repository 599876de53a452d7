/* optimize.h - updates of fp32 master weights: trust-region steps along orthogonalised momentum, AdamW, learning-rate
 * schedules, gradient norms.
 *
 * Sources: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization" (AdamW, cosine schedule); Hu et al. 2024,
 * "MiniCPM" (warm-up, stable, decay); Jordan et al. 2024, "Muon" (momentum orthogonalised by Newton-Schulz steps); Li
 * et al. 2025, "NorMuon" (row normalisation); Bernstein & Newhouse 2024, "Old optimizer, new norm" (the step as the
 * minimiser of a linear model in a ball of the spectral norm).
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

/* ---- state in 8 bits ---- */

/* An optimiser's state in 8 bits: codes, and one fp32 scale for each block of a row's values; the last block of a row
 * may be shorter. That is 8.125 bits a moment for rows of whole blocks. All zero is the state before the first step.
 *
 * The codes are piecewise linear like those of telephony (ITU-T G.711), since the bits of a float make them without a
 * table, and as good as the tables of Dettmers et al. 2022, who showed that blocks make 8 bits enough:
 *   first moment    sign, 3 bits of exponent, 4 of mantissa: 0, then largest / 3952 .. largest, evenly spaced below
 *                   largest / 247, to 1/16 or better above
 *   second moment   5 bits of exponent, 3 of mantissa: largest / 1.6e7 .. largest, to 1/8 or better. What is smaller is
 *                   rounded up, never to 0, for a step divides by the root: the bound is where the root of the one
 * meets the smallest of the other, so that no step gets longer than Adam's longest A step moves a moment by less than
 * one code. Rounding to the nearest would hold it where it is; so values are rounded up or down by a hash of step and
 * place, as often as keeps the mean (stochastic rounding; Xu et al. 2025 name the effect). It is the same on every
 * processor. Each step itself uses the moments before they are rounded. A NaN spoils its block; infinities, and second
 * moments beyond 3e38, count as 3e38; a block whose largest value is below 2^-94 = 5e-29 has the scale of one that has
 * that. */
#define HYB_STATE_BLOCK 256
typedef enum hyb_moment { HYB_MOMENT_FIRST = 0, HYB_MOMENT_SECOND = 1 } hyb_moment;
typedef struct hyb_state_8bit {
    uint8_t *first_codes;  /* [n_rows][n_cols]: of Adam's first moment, or the momentum */
    float *first_scales;   /* [n_rows][n_blocks], n_blocks = ceil(n_cols / HYB_STATE_BLOCK) */
    uint8_t *second_codes; /* [n_rows][n_cols]: of Adam's second moment */
    float *second_scales;  /* [n_rows][n_blocks] */
} hyb_state_8bit;

/* hyb_adamw_update with its moments in 8 bits, as one row of n values. The same bits for any number of threads.
 * weights, gradient: fp32 [n], no overlap. Errors: INVALID_ARGUMENT. */
HYB_API hyb_status hyb_adamw_update_8bit(hyb_ctx *ctx, const hyb_adamw *adamw, size_t n, const float *gradient,
                                         float *weights, const hyb_state_8bit *state);

/* Between fp32 values [n_rows][n_cols] and the codes of one moment. A second moment must not be negative. Equal seeds
 * round equally. No overlap. Parallel over rows. Errors: INVALID_ARGUMENT. */
HYB_API hyb_status hyb_state_encode(hyb_ctx *ctx, hyb_moment moment, size_t n_rows, size_t n_cols, const float *values,
                                    uint32_t seed, uint8_t *codes, float *scales);
HYB_API hyb_status hyb_state_decode(hyb_ctx *ctx, hyb_moment moment, size_t n_rows, size_t n_cols, const uint8_t *codes,
                                    const float *scales, float *values);

/* ---- trust region ---- */

/* How weights are updated. The others but ADAMW are trust-region steps: the change of the weights in one step, weight
 * decay included, never leaves the ball of radius `radius` in their norm (up to the rounding of the stored weights).
 * The unit of the radius is the norm's:
 *   ADAMW     no bound
 *   SPECTRAL  each matrix: the largest singular value of the change, divided by sqrt(max(1, n_rows / n_cols)). The step
 *             runs along the orthogonalised momentum, which minimises the linear model over this ball. Useful radii are
 *             0.001 to 1. Embedding, head and gains take Adam steps, no element of which changes by more than
 *             vector_ratio * radius.
 *   RMS       each tensor: root mean square of the change, divided by that of the tensor itself. Adam steps.
 *   L2        all parameters together: Euclidean norm of the change. Adam steps. The form of a plain trust region; its
 *             useful radius grows with the square root of the number of parameters. */
typedef enum hyb_optimizer {
    HYB_OPTIMIZER_ADAMW = 0,
    HYB_OPTIMIZER_SPECTRAL = 1,
    HYB_OPTIMIZER_RMS = 2,
    HYB_OPTIMIZER_L2 = 3
} hyb_optimizer;

/* A trust-region step; the norm is the model's (hyb_language_model_set_optimizer). All values finite and >= 0; betas,
 * momentum and row_beta below 1. For a matrix with SPECTRAL:
 *   m = momentum m + (1 - momentum) g;   u = momentum m + (1 - momentum) g
 *   O = u orthogonalised: two Newton-Schulz steps of degree 5 with fitted coefficients (lib/orthogonalize.c) and one
 *       of degree 3, no singular value above 1
 *   change = -min(learning_rate, radius / b) (f O + weight_decay w),   f = sqrt(max(1, n_rows / n_cols))
 * with b >= 1 a bound of the norm of (f O + weight_decay w) / f. row_beta > 0 divides the rows of O by the root of a
 * running mean of their mean squares, where the Frobenius norm stays and no row grows more than 1.6 times; then O goes
 * through one more step of degree 3. Elsewhere, and with the other norms:
 *   change = -rate (m' / (sqrt(v') + epsilon) + weight_decay w),   m', v' Adam's bias-corrected moments,
 * shortened to the ball; weight decay on matrices only. rate is learning_rate, or for embedding, head and gains with
 * SPECTRAL  vector_ratio * min(learning_rate, radius), for gains at most gain_rate. */
typedef struct hyb_trust_region {
    size_t struct_size;
    float learning_rate; /* length of a step before it is shortened, in the unit of the norm; Adam's rate elsewhere */
    float radius;        /* of the ball */
    float momentum;      /* 0.8 */
    float row_beta;      /* 0: rows are not normalised; 0.95 is usual where they are */
    float weight_decay;  /* 0.03; decoupled, matrices only */
    float vector_ratio;  /* 0.32; SPECTRAL only */
    float gain_rate;     /* 0.02; SPECTRAL only */
    float beta1;         /* 0.8 */
    float beta2;         /* 0.99 */
    float epsilon;       /* 1e-8, above 0 */
    uint64_t step;       /* 1 for the first update: used by the bias correction */
} hyb_trust_region;

/* Fills in struct_size and the defaults that the fields' comments name; learning_rate, radius and step remain 0. */
HYB_API void hyb_trust_region_defaults(hyb_trust_region *options);

/* Pushes the singular values of a matrix towards 1 by Newton-Schulz steps: those above 1e-3 of the Frobenius norm end
 * in 0.85..1, smaller ones in between, none above 1 + 1e-5. What remains of a
 * matrix whose values are all 0 is 0. x, out: fp32 [n_rows][n_cols], finite; out may be x. Errors: INVALID_ARGUMENT,
 * NOT_FINITE, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_orthogonalize(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const float *x, float *out);

/* An upper bound of the largest singular value of fp32 x [n_rows][n_cols], at most 1.06 times it for up to 1024 rows or
 * columns (min(n_rows, n_cols)^(1/128) in general). Errors: as hyb_orthogonalize. */
HYB_API hyb_status hyb_spectral_bound(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const float *x, double *bound);

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

/* Shortens a vector to the Euclidean ball of a radius, which may be infinite: out = x where norm(x) <= radius, else
 * out = x * factor, with factor the largest that keeps norm(out) <= radius whatever rounding does: some 1e-7 below
 * radius / norm(x) for floats, 1e-12 for doubles. (Results so small that they are subnormal numbers may exceed by
 * their rounding.)
 *   x, out     [n]; out may be x
 *   norm       norm of x, summed in fp64; infinite where no double is so large. May be NULL
 *   is_active  1 if x was shortened, else 0. May be NULL
 * The same bits on every processor and for any number of threads. Parallel over values.
 * Errors: INVALID_ARGUMENT (a radius below 0 or NaN), NOT_FINITE (out is unchanged). */
HYB_API hyb_status hyb_constrain_norm_f32(hyb_ctx *ctx, double radius, size_t n, const float *x, float *out,
                                          double *norm, int32_t *is_active);
HYB_API hyb_status hyb_constrain_norm_f64(hyb_ctx *ctx, double radius, size_t n, const double *x, double *out,
                                          double *norm, int32_t *is_active);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_OPTIMIZE_H */
