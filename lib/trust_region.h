/* trust_region.h - a trust-region step of one tensor at a time (hybrid/optimize.h says what it computes). The caller,
 * train.c, owns the memory and validated the options.
 */
#ifndef HYB_TRUST_REGION_H
#define HYB_TRUST_REGION_H

#include <hybrid/optimize.h>

#include "moments.h"
#include "orthogonalize.h"

/* A tensor and its state; [n_rows][n_cols] unless said. */
typedef struct hyb_trust_tensor {
    size_t n_rows, n_cols;
    int is_matrix; /* a layer's: orthogonalised with SPECTRAL, subject to weight decay */
    const float *gradient;
    float *weights;
    float *first_moment;
    float *second_moment;         /* NULL for a matrix with SPECTRAL */
    hyb_state_8bit state;         /* instead of both where they have 8 bits */
    float *change;                /* of the last step; NULL with SPECTRAL for what is no matrix */
    float *row_moment;            /* [n_rows], a matrix with SPECTRAL only; so is */
    float *spectral_bound;        /* [1]: of the weights' largest singular value; 0: not known yet */
    const float *row_multipliers; /* [n_rows] of the learning rate; NULL: 1 each */
    hyb_magnitudes *magnitudes;   /* [n_rows] of the new weights' rows: result */
} hyb_trust_tensor;

/* Reads an extensible struct of options and checks every field. */
hyb_status hyb_trust_region_read(hyb_ctx *ctx, const hyb_trust_region *given, hyb_trust_region *options);
/* A step of a matrix with SPECTRAL. x: work memory [n_rows][n_cols]. Returns 1 if the radius shortened it. */
int hyb_trust_matrix_step(hyb_ctx *ctx, const hyb_trust_region *options, const hyb_trust_tensor *tensor, float *x,
                          const hyb_orthogonal_work *work);
/* A step of embedding, head or gain with SPECTRAL: Adam's, every element limited. rows: work memory, row_floats for
 * each of the context's threads, at least n_cols. */
void hyb_trust_vector_step(hyb_ctx *ctx, const hyb_trust_region *options, const hyb_trust_tensor *tensor, int is_gain,
                           float *rows, size_t row_floats);
/* With RMS and L2, in two parts: Adam's change, not yet applied, and the sum of its squares (rows: work memory
 * [n_rows]); then factor times it. */
double hyb_trust_adam_change(hyb_ctx *ctx, const hyb_trust_region *options, const hyb_trust_tensor *tensor,
                             double *rows);
void hyb_trust_apply(hyb_ctx *ctx, const hyb_trust_tensor *tensor, float factor);

/* The constants of Adam's change: with RMS and L2; of embedding, head or gain with SPECTRAL. */
void hyb_trust_change_job(const hyb_trust_region *options, int is_matrix, hyb_adam_change_job *job);
void hyb_trust_vector_job(const hyb_trust_region *options, int is_gain, hyb_adam_change_job *job);

/* dot(a, b) of n values, and the sums of squares of both: [0] a b, [1] a a, [2] b b; added to. */
void hyb_trust_products(hyb_ctx *ctx, const float *a, const float *b, size_t n, double products[3]);

#endif /* HYB_TRUST_REGION_H */
