/* orthogonalize.h - orthogonalised matrices and bounds of the spectral norm inside the library: callers validated their
 * arguments and own the work memory.
 */
#ifndef HYB_ORTHOGONALIZE_H
#define HYB_ORTHOGONALIZE_H

#include <hybrid/optimize.h>

#include "common.h"

/* Work memory of one matrix: two of its size, and two squares over its shorter side. */
typedef struct hyb_orthogonal_work {
    float *next;    /* [n_rows][n_cols] */
    float *gram;    /* [m][m], m = min(n_rows, n_cols) */
    float *squared; /* [m][m] */
    void *gemm;     /* hyb_gemm_scratch_bytes */
    double *rows;   /* [n_rows]; trust_region.c only */
} hyb_orthogonal_work;

/* x [n_rows][n_cols] of Frobenius norm at most 1 goes through Newton-Schulz steps of degree 5, which multiply small
 * singular values by 3.4 and leave all of them in 0..1.21. work->next is swapped with *x in each: the result is in *x.
 */
void hyb_newton_schulz(hyb_ctx *ctx, size_t n_rows, size_t n_cols, int n_steps, float **x, hyb_orthogonal_work *work);
/* The last step, of degree 3: singular values in 0..2 come to lie in 0..1, those near 1 the closest. */
void hyb_newton_schulz_cubic(hyb_ctx *ctx, size_t n_rows, size_t n_cols, float **x, hyb_orthogonal_work *work);
/* hyb_spectral_bound with the caller's memory; work->next is not used. */
double hyb_spectral_bound_of(hyb_ctx *ctx, size_t n_rows, size_t n_cols, const float *x, hyb_orthogonal_work *work);

#endif /* HYB_ORTHOGONALIZE_H */
