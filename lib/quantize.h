/* quantize.h - quantisation inside the library: one sweep from floats to codes, packed weights and counts. Validated by
 * the callers; nothing here allocates.
 */
#ifndef HYB_QUANTIZE_INTERNAL_H
#define HYB_QUANTIZE_INTERNAL_H

#include <hybrid/optimize.h>
#include <hybrid/quantize.h>

#include "matmul.h"

/* What to quantise, and where to. */
typedef struct hyb_quantize_job {
    const hyb_quantizer *quantizer;
    const float *weights; /* [n_rows][n_cols] */
    size_t n_rows, n_cols;
    const hyb_magnitudes *magnitudes; /* [n_rows] of the rows, where the caller has them: saves a pass. Or NULL */
    int8_t *codes;                    /* [n_rows][n_cols]; may be NULL for TERNARY packed in PLANES */
    hyb_weights *packed;              /* of this shape and format, filled in place; or NULL */
    float *scales;                    /* [1] or [n_rows]; unchanged on an error */
    int8_t *next_codes; /* to count flips of formats other than TERNARY: [n_rows][n_cols] of work memory; or NULL */
    int counts;         /* 1: count the codes that change (against `packed`, other formats `codes`) and the zeros */
    uint64_t n_flips, n_zeros; /* results */
} hyb_quantize_job;

/* Bytes of work memory for a matrix; 0 on overflow. */
size_t hyb_quantize_work_bytes(const hyb_ctx *ctx, const hyb_quantizer *quantizer, size_t n_rows, size_t n_cols);

/* Does a job, parallel over rows. work: hyb_quantize_work_bytes, aligned to 64.
 * Errors: NOT_FINITE; codes and packed weights are then unchanged as well, except with a scale per row. */
hyb_status hyb_quantize_run(hyb_ctx *ctx, hyb_quantize_job *job, void *work);

/* INVALID_ARGUMENT for a dead zone that the quantiser cannot have. */
hyb_status hyb_check_dead_zone(hyb_ctx *ctx, const hyb_quantizer *quantizer);

/* INVALID_ARGUMENT for an unknown format, granularity or threshold, or sizes that do not fit in memory or it. */
hyb_status hyb_quantize_check(hyb_ctx *ctx, const hyb_quantizer *quantizer, size_t n_rows, size_t n_cols);

/* INVALID_ARGUMENT for sizes below 1 or that do not fit in memory. */
hyb_status hyb_quantize_check_sizes(hyb_ctx *ctx, size_t n_rows, size_t n_cols);

/* quantize_levels.c: INVALID_ARGUMENT for levels other than 3 or 5, or a scale that is not finite. */
hyb_status hyb_quantize_levels_check(hyb_ctx *ctx, int32_t levels, double scale);

/* optimize.c: hyb_adamw_update of a matrix, with its learning rate times row_multipliers [n_rows] (NULL: 1 each), and
 * the magnitudes [n_rows] of its new rows. state: of moments in 8 bits; its pointers NULL: they are fp32. */
hyb_status hyb_adamw_update_rows(hyb_ctx *ctx, const hyb_adamw *adamw, size_t n_rows, size_t n_cols,
                                 const float *gradient, float *weights, float *first_moment, float *second_moment,
                                 const hyb_state_8bit *state, const float *row_multipliers, hyb_magnitudes *magnitudes);
/* INVALID_ARGUMENT for options out of range; the constants of an update. */
hyb_status hyb_adamw_check(hyb_ctx *ctx, const hyb_adamw *adamw);
void hyb_adamw_fold(const hyb_adamw *adamw, hyb_adamw_job *job);

#endif /* HYB_QUANTIZE_INTERNAL_H */
