/* orthogonalize.h - orthogonalised matrices and bounds of the spectral norm inside the library: callers validated their
 * arguments and own the work memory.
 */
#ifndef HYB_ORTHOGONALIZE_H
#define HYB_ORTHOGONALIZE_H

#include <hybrid/optimize.h>

#include "common.h"
#include "step_constants.h"

/* Work memory of one matrix: one more of its size, and four squares over its shorter side m. */
typedef struct hyb_orthogonal_work {
    float *next;                            /* [n_rows][n_cols] */
    float *gram, *factor, *product, *spare; /* [m][m] */
    void *gemm;                             /* hyb_gemm_scratch_bytes */
    double *rows;                           /* [n_rows]; trust_region.c only */
} hyb_orthogonal_work;

/* x [n_rows][n_cols], of a Frobenius norm in 1e-5..1e5, goes through Newton-Schulz steps that bring its singular values
 * close to 1, the small ones less so; none is above HYB_ORTHOGONAL_BOUND. work->next is swapped with *x: the result is
 * in *x. */
void hyb_orthogonal_direction(hyb_ctx *ctx, size_t n_rows, size_t n_cols, float **x, hyb_orthogonal_work *work);
/* One step of degree 3: singular values in 0..2 come to lie in 0..1, those near 1 the closest. *x as above. */
void hyb_newton_schulz_cubic(hyb_ctx *ctx, size_t n_rows, size_t n_cols, float **x, hyb_orthogonal_work *work);
/* hyb_spectral_bound with the caller's memory; work->next is not used. */
double hyb_spectral_bound_of(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const float *x, hyb_orthogonal_work *work);

#endif /* HYB_ORTHOGONALIZE_H */
