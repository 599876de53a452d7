/* orthogonalize.h - orthogonalised matrices and bounds of the spectral norm for other .cu files: orthogonalize.cu. The
 * methods and their constants are those of lib/orthogonalize.c.
 */
#ifndef HYB_CUDA_ORTHOGONALIZE_H
#define HYB_CUDA_ORTHOGONALIZE_H

#include "sums.h"

/* Work memory of matrices of one shape; m is the shorter side. */
struct hyb_cuda_orthogonal_work {
    float *next;                            /* [n_rows][n_cols] */
    float *gram, *factor, *product, *spare; /* [m][m] */
    double *partials;                       /* [hyb_sum_blocks(n_rows * n_cols)] */
    struct hyb_orthogonal_scalars *scalars;
};
void hyb_orthogonal_layout(hyb_cuda_arena &arena, size_t n_rows, size_t n_cols, hyb_cuda_orthogonal_work *work);

/* *x goes through the steps of hyb_orthogonal_direction, or the last one alone, and is swapped with work->next. Zeros
 * stay zeros. */
int hyb_orthogonal_direction(hyb_cuda_state *state, size_t n_rows, size_t n_cols, float **x,
                             hyb_cuda_orthogonal_work *work, void *stream);
int hyb_newton_schulz_cubic(hyb_cuda_state *state, size_t n_rows, size_t n_cols, float **x,
                            hyb_cuda_orthogonal_work *work, void *stream);
/* *bound, on the device; work->next is not used. A NaN or an infinity is reported. */
int hyb_spectral_bound_of(hyb_cuda_state *state, size_t n_rows, size_t n_cols, const float *x, double *bound,
                          hyb_cuda_orthogonal_work *work, void *stream);

/* partials[b] = sum of squares of the values of block b. skip_unless_zero: a float on the device, or nullptr. */
int hyb_queue_squares(const float *x, size_t n, const float *skip_unless_zero, double *partials, void *stream);

#endif /* HYB_CUDA_ORTHOGONALIZE_H */
