/* cluster.h - K-means: exact Lloyd iterations, mini-batches, starts, assignment of new points, statistics of clusters.
 *
 * In plain words: points are rows of a matrix; each belongs to the nearest of k centroids; a centroid is the weighted
 * mean of its points. Lloyd's iterations repeat both until no point changes its cluster, or the centroids hardly move.
 * "Nearest" is exact: the smallest sum of squared differences in fp64 (16-lane sum), the lowest cluster on ties. From
 * given centroids, labels and centroids are the same for every number of threads and every instruction set. Starts
 * drawn by k-means++ use sums that round differently on different instruction sets.
 *
 * Sources: Lloyd 1982, "Least squares quantization in PCM"; Arthur & Vassilvitskii 2007, "k-means++" (with several
 * candidates a draw); Hamerly 2010, "Making k-means even faster" (bounds); Sculley 2010, "Web-scale k-means clustering"
 * (mini-batches).
 */
#ifndef HYBRID_CLUSTER_H
#define HYBRID_CLUSTER_H

#include <hybrid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

#define HYB_KMEANS_MAX_CLUSTERS 16777216

/* Where the first centroids come from. Draws depend on the seed and the sample weights, not on threads.
 *   PLUS_PLUS  each is the best of 2 + log k points drawn with probability by weight times squared distance to the
 *              nearest centroid so far
 *   RANDOM     k different points, drawn with probability by weight
 *   GIVEN      the caller's */
typedef enum hyb_kmeans_init { HYB_KMEANS_PLUS_PLUS = 0, HYB_KMEANS_RANDOM = 1, HYB_KMEANS_GIVEN = 2 } hyb_kmeans_init;

/* Options of K-means. A shorter struct, or NULL, means the defaults for what it lacks. */
typedef struct hyb_kmeans_options {
    size_t struct_size;      /* sizeof(hyb_kmeans_options) */
    uint32_t n_clusters;     /* k: 1 to n, at most HYB_KMEANS_MAX_CLUSTERS; default 8 */
    int32_t init;            /* hyb_kmeans_init */
    uint32_t n_init;         /* runs from different starts, of which the one of least inertia stays; 0: 10 for RANDOM,
                                else 1. GIVEN allows 1 only */
    uint32_t max_iterations; /* of a run, at least 1; mini-batches: number of batches; default 300 */
    /* A run has converged when the sum of the squared distances that the centroids moved by is at most tolerance times
     * the mean variance of the features; with any tolerance, also when no label changed. >= 0; default 1e-4.
     * Mini-batches: an average of these sums over recent batches is taken, and a run also ends when the average squared
     * distance of a batch has not improved for 10 batches. */
    double tolerance;
    uint64_t seed;
    uint32_t batch_size; /* points of a mini-batch, drawn with replacement; 0: Lloyd's iterations over all points */
    /* Called after each iteration with the number of iterations of this run, and what is compared with tolerance. Stops
     * the call with CANCELLED if it returns other than 0. May be NULL. */
    int (*on_iteration)(void *user, uint32_t iteration, double shift);
    void *user;
} hyb_kmeans_options;

/* How the best run went. */
typedef struct hyb_kmeans_result {
    double inertia;        /* sum of weight times squared distance to the own centroid, in fp64 */
    uint32_t n_iterations; /* as scikit-learn counts: the last one is that which found nothing to change */
    uint32_t n_empty;      /* clusters without a point: only if there are fewer than k different points, or if
                              max_iterations or tolerance ended the run */
    int32_t converged;     /* 0: max_iterations ended the run */
} hyb_kmeans_result;

/* Clusters n points.
 *   points          [n][d], n and d >= 1, finite; fp64: magnitudes at most 1e150
 *   sample_weights  [n], finite and above 0; NULL: 1 each
 *   centroids       [k][d]: result, and start with GIVEN
 *   labels          [n], 0 to k - 1; NULL if not wanted. The nearest of the resulting centroids
 *   result          NULL if not wanted
 * A cluster that loses its last point gets the farthest point of the cluster with the largest inertia (the lowest index
 * on ties). Memory: a copy of the points, and about 16 bytes a point; k-means++ while it draws 4 (2 + log k) bytes a
 * point more; mini-batches: no copy. d = 1 sorts once, after which an iteration costs O(k log n).
 * Errors: INVALID_ARGUMENT, STRUCT_SIZE, NOT_FINITE, OUT_OF_MEMORY, CANCELLED. */
HYB_API hyb_status hyb_kmeans_f32(hyb_ctx *ctx, const hyb_kmeans_options *options, const float *points, size_t n,
                                  size_t d, const float *sample_weights, float *centroids, int32_t *labels,
                                  hyb_kmeans_result *result);
HYB_API hyb_status hyb_kmeans_f64(hyb_ctx *ctx, const hyb_kmeans_options *options, const double *points, size_t n,
                                  size_t d, const double *sample_weights, double *centroids, int32_t *labels,
                                  hyb_kmeans_result *result);

/* Finds the nearest centroid of each point.
 *   points             [n][d], finite (fp64: at most 1e150); n may be 0
 *   centroids          [k][d], as the points; 1 <= k <= HYB_KMEANS_MAX_CLUSTERS
 *   labels             [n]
 *   squared_distances  [n], fp64: to the nearest centroid; NULL if not wanted
 * Errors: INVALID_ARGUMENT, NOT_FINITE, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_kmeans_assign_f32(hyb_ctx *ctx, const float *points, size_t n, size_t d, const float *centroids,
                                         size_t k, int32_t *labels, double *squared_distances);
HYB_API hyb_status hyb_kmeans_assign_f64(hyb_ctx *ctx, const double *points, size_t n, size_t d,
                                         const double *centroids, size_t k, int32_t *labels, double *squared_distances);

/* Euclidean distances [n][k] of points [n][d] to centroids [k][d], each summed in fp64 and rounded once; n may be 0.
 * Errors: INVALID_ARGUMENT, NOT_FINITE. */
HYB_API hyb_status hyb_kmeans_distances_f32(hyb_ctx *ctx, const float *points, size_t n, size_t d,
                                            const float *centroids, size_t k, float *distances);
HYB_API hyb_status hyb_kmeans_distances_f64(hyb_ctx *ctx, const double *points, size_t n, size_t d,
                                            const double *centroids, size_t k, double *distances);

/* What a cluster's points are like. Distances are those to the cluster's centroid; all are 0 for an empty cluster. */
typedef struct hyb_cluster_statistics {
    uint64_t size;           /* number of points */
    double inertia;          /* sum of squared distances */
    double mean_distance;    /* mean Euclidean distance: the smaller, the more cohesive */
    double largest_distance; /* Euclidean */
} hyb_cluster_statistics;

/* Statistics [k] of clusters: points [n][d], labels [n] in 0 to k - 1, centroids [k][d]; n may be 0. Sums in fp64,
 * in the order of the points. Errors: INVALID_ARGUMENT, NOT_FINITE. */
HYB_API hyb_status hyb_cluster_statistics_f32(hyb_ctx *ctx, const float *points, size_t n, size_t d,
                                              const int32_t *labels, const float *centroids, size_t k,
                                              hyb_cluster_statistics *statistics);
HYB_API hyb_status hyb_cluster_statistics_f64(hyb_ctx *ctx, const double *points, size_t n, size_t d,
                                              const int32_t *labels, const double *centroids, size_t k,
                                              hyb_cluster_statistics *statistics);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_CLUSTER_H */
