/* cluster_internal.h - what the files of K-means share: points of either type, the search for nearest centroids, starts
 * and the three ways to run (Lloyd's iterations, the same for d = 1, mini-batches).
 *
 * Everything above the kernels is written once for floats and doubles: a row is an address, hyb_cluster_type knows the
 * rest. Centroids are kept in the points' type, as the caller gets them; what is "nearest" depends on nothing else.
 */
#ifndef HYB_CLUSTER_INTERNAL_H
#define HYB_CLUSTER_INTERNAL_H

#include <math.h>

#include <hybrid/cluster.h>

#include "common.h"

/* Points that one task of a parallel loop works on. */
#define HYB_CLUSTER_GROUP ((size_t)HYB_CLUSTER_JOB_PANELS * HYB_CLUSTER_PANEL)

typedef struct hyb_cluster_type {
    size_t bytes;          /* of an element */
    double epsilon;        /* unit roundoff */
    double largest, least; /* positive numbers */
    double max_scale;      /* of the squared distances of starts */
    void (*pack)(const void *const *rows, size_t n, size_t d, const void *centre, void *panel);
    void (*add)(double *sums, size_t d, const void *rows, const int32_t *labels, const void *weights, size_t n);
    double (*distance)(const void *a, const void *b, size_t n);
    void (*nearest)(const hyb_cluster_job *job);
    void (*candidates)(const hyb_cluster_job *job);
} hyb_cluster_type;

/* The points sorted, for d = 1. */
typedef struct hyb_cluster_line hyb_cluster_line;

typedef struct hyb_cluster_data {
    hyb_ctx *ctx;
    hyb_cluster_type type;
    const char *points;  /* [n][d] */
    const void *weights; /* [n] or NULL */
    size_t n, d;
    double max_abs; /* of the coordinates */
    void *centre;   /* [d]; panels hold differences from it */
    /* Both may be NULL. */
    void *panels; /* all points */
    hyb_cluster_line *line;
    double mean_variance; /* of the features; known once there are panels */
} hyb_cluster_data;

/* A run: centroids [k][d] are its start and its result. */
typedef struct hyb_cluster_run {
    size_t k;
    void *centroids;
    int32_t *labels; /* [n]: result */
    uint64_t random; /* key of its random numbers */
    hyb_kmeans_result result;
} hyb_cluster_run;

/* ---- elements and rows ---- */

HYB_INLINE double hyb_cluster_get(const hyb_cluster_type *type, const void *array, size_t i) {
    return type->bytes == sizeof(float) ? (double)((const float *)array)[i] : ((const double *)array)[i];
}
/* Rounded to the type. */
HYB_INLINE void hyb_cluster_put(const hyb_cluster_type *type, void *array, size_t i, double value) {
    if (type->bytes == sizeof(float)) {
        ((float *)array)[i] = (float)value;
    } else {
        ((double *)array)[i] = value;
    }
}
/* Rounded to a float; what is too large becomes infinite. */
HYB_INLINE float hyb_cluster_round(double value) { return value < 3.4028235e38 ? (float)value : HUGE_VALF; }
HYB_INLINE const void *hyb_cluster_row(const hyb_cluster_data *data, const void *array, size_t i) {
    return (const char *)array + i * data->d * data->type.bytes;
}
HYB_INLINE double hyb_cluster_weight(const hyb_cluster_data *data, size_t i) {
    return data->weights != NULL ? hyb_cluster_get(&data->type, data->weights, i) : 1.0;
}
HYB_INLINE size_t hyb_cluster_n_groups(size_t n) { return hyb_ceil_div(n, HYB_CLUSTER_GROUP); }
HYB_INLINE size_t hyb_cluster_panel_bytes(const hyb_cluster_data *data) {
    return (data->d + 1) * HYB_CLUSTER_PANEL * data->type.bytes;
}
/* At least the norm of any point less the centre. */
double hyb_cluster_largest_norm(const hyb_cluster_data *data);

hyb_cluster_type hyb_cluster_f32(const hyb_ctx *ctx);
hyb_cluster_type hyb_cluster_f64(const hyb_ctx *ctx);

/* INVALID_ARGUMENT unless points have a dimension and k is in its range. */
hyb_status hyb_cluster_check_sizes(hyb_ctx *ctx, size_t d, size_t k);
/* Options with the defaults for what `given` (may be NULL) lacks, checked for n points of d dimensions. */
hyb_status hyb_cluster_read_options(hyb_ctx *ctx, const hyb_kmeans_options *given, size_t n, size_t d,
                                    hyb_kmeans_options *options);

/* ---- cluster_nearest.c ---- */

/* Sets data->centre (memory of d elements) to the mean of rows [n][d]. */
void hyb_cluster_centre(hyb_cluster_data *data, const void *rows, size_t n);
/* Makes data->panels and data->mean_variance; the caller frees the panels. OUT_OF_MEMORY. */
hyb_status hyb_cluster_pack(hyb_cluster_data *data);

/* Centroids made ready to be searched. */
typedef struct hyb_cluster_search {
    const hyb_cluster_data *data;
    size_t k;
    const void *centroids; /* [k][d], not owned */
    hyb_cluster_job job;   /* all but the points and the results */
    void *memory;
    /* Of each worker: job_panels panels that it packs itself. */
    size_t job_panels;
    char *scratch;
} hyb_cluster_search;

/* Memory for k centroids; destroy it whatever the status is. OUT_OF_MEMORY. */
hyb_status hyb_cluster_search_create(hyb_cluster_search *search, const hyb_cluster_data *data, size_t k);
void hyb_cluster_search_destroy(hyb_cluster_search *search);
/* Puts centroids [k][d] in. They must stay as they are while they are searched. */
void hyb_cluster_search_set(hyb_cluster_search *search, const void *centroids);
/* The same as blocks of kernels.h: packed [d][k], offsets [k], k <= HYB_CLUSTER_TILE; returns the largest norm. */
double hyb_cluster_pack_centroids(const hyb_cluster_data *data, const void *const *rows, size_t k, void *packed,
                                  void *offsets);
void hyb_cluster_set_errors(const hyb_cluster_data *data, double largest_norm, hyb_cluster_job *job);
/* Nearest centroids of n <= HYB_CLUSTER_GROUP points: rows `first` + which[i], or from `first` (a multiple of the
 * group) on if which is NULL. upper and lower (both or none, NULL): bounds of the distances to the nearest and to any
 * other centroid. Results need room for a multiple of HYB_CLUSTER_PANEL. Inside a task. */
void hyb_cluster_find(const hyb_cluster_search *search, size_t worker, const size_t *which, size_t first, size_t n,
                      int32_t *labels, float *upper, float *lower);
/* labels [n] of all points, and, if not NULL, the squared distances [n]. */
void hyb_cluster_assign(const hyb_cluster_search *search, int32_t *labels, double *squared_distances);
/* Sum of weight times squared distance to the own centroid. sums: work memory of a number for each group. */
double hyb_cluster_inertia(const hyb_cluster_data *data, const void *centroids, const int32_t *labels, double *sums);
/* Gives every empty cluster (counts[j] == 0) the farthest point of the cluster of largest inertia, as long as there is
 * a point away from its centroid; totals [k][d], cluster_weights, counts, labels and centroids follow. Without totals
 * (NULL) the other cluster's centroid stays where it is. OUT_OF_MEMORY. */
hyb_status hyb_cluster_repair(const hyb_cluster_data *data, size_t k, void *centroids, int32_t *labels, double *totals,
                              double *cluster_weights, size_t *counts);
/* Clusters without a point. counts: work memory [k]. */
uint32_t hyb_cluster_count_empty(const int32_t *labels, size_t n, size_t k, size_t *counts);

/* ---- cluster_seed.c ---- */

/* Draws k start centroids; data->panels are needed for PLUS_PLUS. OUT_OF_MEMORY. */
hyb_status hyb_cluster_seed(const hyb_cluster_data *data, int32_t init, uint64_t random, size_t k, void *centroids);

/* ---- the runs ---- */

hyb_status hyb_cluster_lloyd(const hyb_cluster_data *data, const hyb_kmeans_options *options, hyb_cluster_run *run);
hyb_status hyb_cluster_batches(const hyb_cluster_data *data, const hyb_kmeans_options *options, hyb_cluster_run *run);
/* Sorts the points of data, of which d is 1. OUT_OF_MEMORY. */
hyb_status hyb_cluster_line_create(const hyb_cluster_data *data, hyb_cluster_line **line);
void hyb_cluster_line_destroy(hyb_ctx *ctx, hyb_cluster_line *line);
hyb_status hyb_cluster_line_run(const hyb_cluster_data *data, const hyb_kmeans_options *options, hyb_cluster_run *run);

/* Reports an iteration to the caller; CANCELLED if he says so. */
hyb_status hyb_cluster_report(const hyb_cluster_data *data, const hyb_kmeans_options *options, uint32_t iteration,
                              double shift);

#endif /* HYB_CLUSTER_INTERNAL_H */
