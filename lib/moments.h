/* moments.h - an optimiser's moments in 8 bits (hybrid/optimize.h): updates of one row at a time, which decode a block,
 * compute in fp32, and encode it again.
 */
#ifndef HYB_MOMENTS_H
#define HYB_MOMENTS_H

#include <hybrid/optimize.h>

#include "common.h"

HYB_INLINE size_t hyb_state_blocks(size_t n_cols) { return hyb_ceil_div(n_cols, HYB_STATE_BLOCK); }
HYB_INLINE int hyb_state_is_8bit(const hyb_state_8bit *state) { return state->first_codes != NULL; }
hyb_status hyb_state_bits_check(hyb_ctx *ctx, int32_t state_bits);

/* One row of a state, and what its rounding begins with in a step. */
typedef struct hyb_state_row {
    hyb_state_8bit at;
    uint32_t first_seed, second_seed;
} hyb_state_row;
hyb_state_row hyb_state_row_of(const hyb_state_8bit *state, uint64_t step, size_t row, size_t n_cols);

/* What the kernel of each name does with fp32 moments, with those of a row; the job's are not read. */
hyb_magnitudes hyb_adamw_row_8bit(const hyb_kernels *kernels, const hyb_adamw_job *job, const hyb_state_row *row);
double hyb_momentum_row_8bit(const hyb_kernels *kernels, const hyb_momentum_job *job, const hyb_state_row *row);
double hyb_adam_change_row_8bit(const hyb_kernels *kernels, const hyb_adam_change_job *job, const hyb_state_row *row);

#endif /* HYB_MOMENTS_H */
