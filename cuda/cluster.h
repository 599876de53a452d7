/* cluster.h - what the files of K-means share: the search for nearest centroids, sums in the CPU's order, a
 * stable sort, and a run of K-means.
 *
 * cluster.cu finds nearest centroids, cluster_sort.cu sorts, cluster_update.cu makes means and gives points to empty
 * clusters, cluster_lloyd.cu runs, and cluster_line.cu does so for d = 1. Numbers of points are below 2^31.
 */
#ifndef HYB_CUDA_CLUSTER_H
#define HYB_CUDA_CLUSTER_H

#include "device.h"

/* Points whose squared distances the CPU adds up one by one: HYB_CLUSTER_GROUP of lib/cluster_internal.h. */
#define HYB_CLUSTER_GROUP 512

/* ---- cluster.cu ---- */

/* What a search found out of its centroids, and of how many points it is not sure. */
struct hyb_cluster_head {
    unsigned long long radius_bits; /* of a double: the largest norm of a centroid less the centre */
    unsigned n_left;
};

/* The search for the nearest of k centroids. */
struct hyb_cluster_search {
    size_t n, d, k;
    size_t tile, n_tiles, d_padded; /* centroids of a tile */
    float *centre;                  /* [d_padded], zeros behind d */
    float *packed;                  /* [n_tiles][d_padded][tile]: centroids less the centre, zeros behind */
    float *offsets;                 /* [n_tiles][tile]: -|c|^2 / 2, -infinity behind */
    hyb_cluster_head *head;
    uint32_t *list; /* [n]: points that need an exact comparison, in any order */
};

void hyb_cluster_plan_search(hyb_cluster_search *search, size_t n, size_t d, size_t k, hyb_cuda_arena &arena);
/* centre [search->d_padded]: the mean of some of the rows [n][d], as hyb_cluster_centre has it. */
int hyb_cluster_set_centre(const hyb_cluster_search *search, const float *rows, size_t n, void *stream);
/* labels [n]: the nearest centroids, exactly. The centre must be set. */
int hyb_cluster_find(hyb_cuda_state *state, const hyb_cluster_search *search, const float *points,
                     const float *centroids, int32_t *labels, void *stream);
/* distances [n]: the CPU's cluster_distance of rows i of a and labels[i] of b; row i of b without labels. */
int hyb_cluster_measure(hyb_cuda_state *state, const float *a, size_t n, size_t d, const float *b,
                        const int32_t *labels, double *distances, void *stream);

/* ---- cluster_sort.cu ---- */

struct hyb_cluster_sorted {
    uint32_t *keys, *values; /* [n] each */
};

/* Elements of the sort's counts. */
size_t hyb_cluster_sort_counts(size_t n);
/* Sorts n keys of n_bits bits, stably; values are the places where they were. keys may be buffers[1].keys. The result
 * is in buffers[0] after an odd number of passes of 8 bits, else in buffers[1]: *sorted says. */
int hyb_cluster_sort(const uint32_t *keys, size_t n, unsigned n_bits, const hyb_cluster_sorted buffers[2],
                     uint32_t *counts, hyb_cluster_sorted *sorted, void *stream);

/* Sum of the values of the warp's threads up to this one. */
template <class T> __device__ __forceinline__ T hyb_scan_warp(T value) {
    for (unsigned width = 1; width < HYB_WARP; width *= 2) {
        T other = __shfl_up_sync(HYB_FULL_MASK, value, width);
        if (threadIdx.x % HYB_WARP >= width) value += other;
    }
    return value;
}

/* Sum of the values of the block's threads before this one, and *total of all. 256 threads; shared: 8 elements. */
template <class T> __device__ __forceinline__ T hyb_scan_block(T value, T *shared, T *total) {
    const unsigned lane = threadIdx.x % HYB_WARP, warp = threadIdx.x / HYB_WARP;
    const T sum = hyb_scan_warp(value);
    __syncthreads(); /* shared may still be read */
    if (lane == HYB_WARP - 1) shared[warp] = sum;
    __syncthreads();
    T before = 0, all = 0;
    for (unsigned w = 0; w < 8; ++w) {
        if (w == warp) before = all;
        all += shared[w];
    }
    T previous = __shfl_up_sync(HYB_FULL_MASK, sum, 1u);
    *total = all;
    return lane == 0 ? before : before + previous;
}

/* ---- a run ---- */

/* What the host wants to know of an iteration. */
struct hyb_cluster_found {
    double sum, other_sum;
    unsigned n_changed, n_empty;
};

/* Chunks of points whose sums are made apart, as lib/cluster_lloyd.c has them. */
struct hyb_cluster_chunks {
    size_t n_points, n;
};
hyb_cluster_chunks hyb_cluster_chunks_of(size_t n, size_t k);

struct hyb_cluster_run {
    hyb_cuda_state *state;
    void *stream;
    const hyb_kmeans_options *options;
    const float *points; /* [n][d] */
    size_t n, d, k;
    double mean_variance;
    hyb_kmeans_result result;
    /* All below is work memory. */
    float *centroids, *next_centroids; /* [k][d] */
    int32_t *labels, *next_labels;     /* [n] */
    hyb_cluster_sorted buffers[2];
    uint32_t *sort_counts;
    hyb_cluster_sorted by_label; /* the points by label, in their order within one: keys are labels */
    uint32_t *starts, *counts;   /* [k + 1], [k] */
    double *chunk_sums;          /* [chunks][k][d] */
    double *totals;              /* [k][d] */
    double *distances;           /* [n] */
    double *inertia, *moved;     /* [k] */
    double *group_sums;          /* of each group of points */
    hyb_cluster_found *found;
    hyb_cluster_found seen; /* the host's copy */
    hyb_cluster_search search;
};

/* Reads run->found; waits. */
int hyb_cluster_look(hyb_cluster_run *run);
/* Tells the caller of an iteration; HYB_ERROR_CANCELLED if he says so. */
int hyb_cluster_report(const hyb_cluster_run *run, uint32_t iteration, double shift);

/* ---- cluster_update.cu ---- */

/* Means of the features, their variance's parts: found->sum is the sum of |x - centre|^2 over all points,
 * found->other_sum |mean - centre|^2. Notes what is not finite. */
int hyb_cluster_spread(hyb_cluster_run *run);
/* by_label and starts, from labels. */
int hyb_cluster_sort_labels(hyb_cluster_run *run);
/* next_centroids, totals and counts, from by_label; found->n_empty. */
int hyb_cluster_make_means(hyb_cluster_run *run);
/* Points for empty clusters as hyb_cluster_repair chooses them, from by_label; next_centroids, labels and counts
 * follow, and found->n_empty. */
int hyb_cluster_repair(hyb_cluster_run *run);
/* found->sum: the sum of the squared distances from centroids to next_centroids. */
int hyb_cluster_measure_shift(hyb_cluster_run *run);
/* found->sum: the inertia; found->n_empty, from labels. */
int hyb_cluster_measure_result(hyb_cluster_run *run);
/* found->n_empty, from counts. */
int hyb_cluster_count_empty(hyb_cluster_run *run);

/* ---- cluster_line.cu ---- */

/* What a run with d = 1 needs besides. */
struct hyb_cluster_line {
    hyb_cluster_sorted points;            /* by value; keys are ordered like the values */
    double *sums;                         /* [n + 1]: sum of value less the middle, of the points before */
    double *tile_sums;                    /* of a part of them */
    hyb_cluster_sorted centroids, buffer; /* [k]: by value, and work memory */
    uint32_t *begin, *end;                /* [k]: intervals of sorted points */
};

void hyb_cluster_plan_line(hyb_cluster_line *line, size_t n, size_t k, hyb_cuda_arena &arena);
int hyb_cluster_run_line(hyb_cluster_run *run, hyb_cluster_line *line);

#endif /* HYB_CUDA_CLUSTER_H */
