/* step_constants.h - the constants of trust-region steps, of orthogonalised matrices and of bounds of the spectral
 * norm, for the CPU (orthogonalize.c, trust_region.c, nn/update.c, which explain the methods) and the GPU (cuda/). C
 * and C++.
 */
#ifndef HYB_STEP_CONSTANTS_H
#define HYB_STEP_CONSTANTS_H

/* ---- Newton-Schulz steps ---- */

/* A step's factor of X: linear I + cubic A + quintic A^2, A the Gram matrix of X. */
typedef struct hyb_polynomial {
    double linear, cubic, quintic;
} hyb_polynomial;

/* Quintics fitted to their number, log-uniformly over singular values of 0.004..1, then 1.5 s - 0.5 s^3, which maps
 * 0..2 to at most 1; behind the quintics the largest value is 1.56 with two and 1.32 with three. A training step takes
 * two: runs with three, and with three that are not fitted, ended within their seeds' noise of it. */
#define HYB_TWO_QUINTICS                                                                                               \
    {                                                                                                                  \
        {5.7281, -16.2972, 11.9651}, {3.9382, -5.0150, 1.8211}, { 1.5, -0.5, 0.0 }                                     \
    }
#define HYB_THREE_QUINTICS                                                                                             \
    {                                                                                                                  \
        {5.3230, -13.6958, 9.5976}, {3.9421, -5.9675, 2.3735}, {3.6734, -4.7904, 1.8849}, { 1.5, -0.5, 0.0 }           \
    }
/* Rounds of three quintics in hyb_orthogonalize, which is to move small singular values, too. */
#define HYB_ORTHOGONAL_ROUNDS 2
/* From this ratio of the sides on, all steps go through the squares; below, each takes the Gram matrix of what the one
 * before has made, which costs fewer products. */
#define HYB_LONG_RATIO 1.5
/* The largest singular value of a direction: 1, and the rounding of products in fp32. */
#define HYB_ORTHOGONAL_BOUND 1.0002

/* ---- bounds of the spectral norm ---- */

/* Squarings of the Gram matrix behind the bound: the 128th root of a sum of 128th powers of singular values. */
#define HYB_BOUND_SQUARINGS 5
/* Covers the rounding of the bound's products in fp32: relative errors of 2^-24 a product, doubled by each squaring and
 * divided by the root, stay below 1e-5 for sides up to 65536; ten times that. */
#define HYB_BOUND_MARGIN 1.0001
/* Squares of single values and their products with others of the matrix stay in the range of normal floats. */
#define HYB_BOUND_MIN_SQUARES 1e-20

/* ---- trust-region steps ---- */

/* The bound of the weights' largest singular value is computed anew every so many steps; in between it grows by what
 * every step can add: with a radius of 0.05 by 0.8 in all, which weight decay multiplies by 0.1. */
#define HYB_TRUST_BOUND_STEPS 16
/* The cubic maps 0..2 to 0..1, and rows lengthened by a factor lengthen singular values by it at most. */
#define HYB_TRUST_MAX_ROW_FACTOR 1.6
/* Added to the root of a row's mean square before the row is divided by it. */
#define HYB_TRUST_ROW_EPSILON 1e-8
/* A momentum of a smaller Frobenius norm gives no direction: its inverse would leave the range of floats. */
#define HYB_TRUST_SMALLEST_NORM 1e-30
/* Up to this Frobenius norm and from its inverse on, powers of singular values up to the fifth and their coefficients
 * are in the range of floats: the momentum need not be scaled, which saves a pass over it. */
#define HYB_TRUST_PLAIN_NORM 1e5
/* Below this root mean square a tensor's own is no measure for its steps. */
#define HYB_TRUST_SMALLEST_RMS 1e-3
/* A change is shortened by so much more than to the radius that the rounding of its products stays inside. */
#define HYB_TRUST_MARGIN 1e-6

#endif /* HYB_STEP_CONSTANTS_H */
