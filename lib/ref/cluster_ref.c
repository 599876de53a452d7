/* cluster_ref.c - the specification of the kernels of K-means, in plain C99. */
#include <math.h>

#include "../common.h"

/* Rounded to the nearest float; what is too large becomes infinite. */
static float to_float(double x) { return x < 3.4028235e38 ? (float)x : INFINITY; }

#define REAL float
#define ROOT sqrtf
#define REF(op) hyb_cluster_##op##_f32_ref
#include "cluster_ref_template.h"
#undef REAL
#undef ROOT
#undef REF

#define REAL double
#define ROOT sqrt
#define REF(op) hyb_cluster_##op##_f64_ref
#include "cluster_ref_template.h"
