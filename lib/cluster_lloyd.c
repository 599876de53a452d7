/* cluster_lloyd.c - Lloyd's iterations: every point to its nearest centroid, every centroid to the mean of its points.
 *
 * Assignment runs over groups of points, sums over larger chunks, whose number depends on the sizes only: chunk sums
 * are added in order, so that no bit depends on the number of threads. Where few labels changed, a chunk's sums follow
 * the changes (at k = 10, making them anew takes as long as the assignment); since such sums keep the rounding of what
 * left them, the last ones are always made anew, and if they differ where all seemed done, iterations go on.
 */
#include <math.h>

#include "cluster_internal.h"

/* A chunk's sums of k centroids are added to the total: that must cost little beside making them. */
#define CHUNK_POINTS_PER_CENTROID 32
#define MIN_CHUNK_POINTS ((size_t)1024)
#define MAX_CHUNKS ((size_t)128)
/* Clusters whose chunk sums one task adds up. */
#define CLUSTERS_PER_TASK ((size_t)8)

typedef struct lloyd {
    const hyb_cluster_data *data;
    hyb_cluster_search search;
    size_t k, n_groups, n_chunks, chunk_points;
    void *centroids, *next_centroids; /* [k][d] */
    int32_t *labels, *next_labels;    /* [n] */
    size_t *n_changed;                /* of each group */
    int sums_valid;                   /* chunk sums are those of next_labels, but for rounding */
    int follow;                       /* chunk sums follow the changes */
    int trusted;                      /* following never led astray so far */
    double *chunk_sums;               /* [n_chunks][k][d] */
    double *chunk_weights;            /* [n_chunks][k] */
    size_t *chunk_counts;             /* [n_chunks][k] */
    double *totals, *weights;         /* [k][d], [k] */
    size_t *counts;                   /* [k] */
    double *moved;                    /* [k]: squared distance that a centroid moved by */
    double *group_sums;               /* of each group */
} lloyd;

static void lloyd_free(lloyd *l) {
    hyb_ctx *ctx = l->data->ctx;
    hyb_cluster_search_destroy(&l->search);
    void *const memory[] = {l->centroids,  l->next_centroids, l->labels,       l->next_labels, l->n_changed,
                            l->chunk_sums, l->chunk_weights,  l->chunk_counts, l->totals,      l->weights,
                            l->counts,     l->moved,          l->group_sums};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; ++i) hyb_free(ctx, memory[i]);
}

static hyb_status lloyd_create(lloyd *l, const hyb_cluster_data *data, size_t k) {
    hyb_ctx *ctx = data->ctx;
    const size_t n = data->n, d = data->d;
    memset(l, 0, sizeof *l);
    l->data = data;
    l->k = k;
    l->n_groups = hyb_cluster_n_groups(n);
    size_t least = hyb_ceil_div(n, MAX_CHUNKS);
    if (least < MIN_CHUNK_POINTS) least = MIN_CHUNK_POINTS;
    if (least < CHUNK_POINTS_PER_CENTROID * k) least = CHUNK_POINTS_PER_CENTROID * k;
    l->chunk_points = hyb_round_up(least, HYB_CLUSTER_GROUP);
    l->n_chunks = hyb_ceil_div(n, l->chunk_points);
    HYB_TRY(hyb_cluster_search_create(&l->search, data, k));
    /* n_chunks k is at most n / 32 or one k: no product below is larger than one that is in memory already. */
    int complete = (l->centroids = hyb_alloc(ctx, k * d, data->type.bytes)) != NULL &&
                   (l->next_centroids = hyb_alloc(ctx, k * d, data->type.bytes)) != NULL &&
                   (l->labels = hyb_alloc(ctx, n, sizeof *l->labels)) != NULL &&
                   (l->next_labels = hyb_alloc(ctx, n, sizeof *l->labels)) != NULL &&
                   (l->n_changed = hyb_alloc(ctx, l->n_groups, sizeof *l->n_changed)) != NULL &&
                   (l->chunk_sums = hyb_alloc(ctx, l->n_chunks * k * d, sizeof(double))) != NULL &&
                   (l->chunk_weights = hyb_alloc(ctx, l->n_chunks * k, sizeof(double))) != NULL &&
                   (l->chunk_counts = hyb_alloc(ctx, l->n_chunks * k, sizeof(size_t))) != NULL &&
                   (l->totals = hyb_alloc(ctx, k * d, sizeof(double))) != NULL &&
                   (l->weights = hyb_alloc(ctx, k, sizeof(double))) != NULL &&
                   (l->counts = hyb_alloc(ctx, k, sizeof(size_t))) != NULL &&
                   (l->moved = hyb_alloc(ctx, k, sizeof(double))) != NULL &&
                   (l->group_sums = hyb_alloc(ctx, l->n_groups, sizeof(double))) != NULL;
    if (complete) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory for %zu points and %zu clusters", n, k);
}

/* ---- assignment ---- */

static void assign_task(void *argument, size_t index, size_t worker) {
    lloyd *l = argument;
    const size_t first = index * HYB_CLUSTER_GROUP, n = hyb_min_size(HYB_CLUSTER_GROUP, l->data->n - first);
    int32_t labels[HYB_CLUSTER_GROUP];
    size_t n_changed = 0;
    hyb_cluster_find(&l->search, worker, NULL, first, n, labels, NULL, NULL);
    for (size_t i = 0; i < n; ++i) n_changed += labels[i] != l->labels[first + i];
    memcpy(l->next_labels + first, labels, n * sizeof *labels);
    l->n_changed[index] = n_changed;
}

/* Nearest centroids of all points; returns the number of labels that changed. */
static size_t assign_all(lloyd *l) {
    size_t n_changed = 0;
    hyb_cluster_search_set(&l->search, l->centroids);
    hyb_parallel(l->data->ctx, l->n_groups, assign_task, l);
    for (size_t i = 0; i < l->n_groups; ++i) n_changed += l->n_changed[i];
    int32_t *labels = l->labels;
    l->labels = l->next_labels;
    l->next_labels = labels;
    return n_changed;
}

/* ---- means ---- */

/* Moves the points of a group whose labels changed from sum to sum. */
static void follow_changes(const lloyd *l, size_t group, double *sums, size_t *counts) {
    const hyb_cluster_data *data = l->data;
    const float minus_one = -1;
    const size_t first = group * HYB_CLUSTER_GROUP, end = hyb_min_size(data->n, first + HYB_CLUSTER_GROUP);
    for (size_t i = first; i < end; ++i) {
        if (l->labels[i] == l->next_labels[i]) continue;
        const void *row = hyb_cluster_row(data, data->points, i);
        data->type.add(sums, data->d, row, &l->next_labels[i], &minus_one, 1); /* the old one: they were swapped */
        data->type.add(sums, data->d, row, &l->labels[i], NULL, 1);
        --counts[l->next_labels[i]];
        ++counts[l->labels[i]];
    }
}

static void sum_task(void *argument, size_t index, size_t worker) {
    lloyd *l = argument;
    const hyb_cluster_data *data = l->data;
    const size_t first = index * l->chunk_points, n = hyb_min_size(l->chunk_points, data->n - first);
    const int32_t *labels = l->labels + first;
    double *sums = l->chunk_sums + index * l->k * data->d, *weights = l->chunk_weights + index * l->k;
    size_t *counts = l->chunk_counts + index * l->k;
    const char *own = data->weights != NULL ? (const char *)data->weights + first * data->type.bytes : NULL;
    (void)worker;
    if (l->follow) {
        const size_t group = first / HYB_CLUSTER_GROUP, n_groups = hyb_cluster_n_groups(n);
        for (size_t g = group; g < group + n_groups; ++g) {
            if (l->n_changed[g] > 0) follow_changes(l, g, sums, counts);
        }
        return;
    }
    memset(sums, 0, l->k * data->d * sizeof *sums);
    memset(weights, 0, l->k * sizeof *weights);
    memset(counts, 0, l->k * sizeof *counts);
    data->type.add(sums, data->d, hyb_cluster_row(data, data->points, first), labels, own, n);
    for (size_t i = 0; i < n; ++i) ++counts[labels[i]];
    for (size_t i = 0; own != NULL && i < n; ++i) weights[labels[i]] += hyb_cluster_get(&data->type, own, i);
}

/* Totals of some clusters, and their means. */
static void mean_task(void *argument, size_t index, size_t worker) {
    lloyd *l = argument;
    const size_t d = l->data->d, end = hyb_min_size(l->k, (index + 1) * CLUSTERS_PER_TASK);
    (void)worker;
    for (size_t c = index * CLUSTERS_PER_TASK; c < end; ++c) {
        double *total = l->totals + c * d;
        double weight = 0;
        size_t count = 0;
        memset(total, 0, d * sizeof *total);
        for (size_t chunk = 0; chunk < l->n_chunks; ++chunk) {
            const double *sums = l->chunk_sums + (chunk * l->k + c) * d;
            for (size_t j = 0; j < d; ++j) total[j] += sums[j];
            weight += l->chunk_weights[chunk * l->k + c];
            count += l->chunk_counts[chunk * l->k + c];
        }
        l->counts[c] = count;
        l->weights[c] = l->data->weights != NULL ? weight : (double)count;
        for (size_t j = 0; j < d; ++j) {
            size_t at = c * d + j;
            double mean = count > 0 ? total[j] / l->weights[c] : hyb_cluster_get(&l->data->type, l->centroids, at);
            hyb_cluster_put(&l->data->type, l->next_centroids, at, mean);
        }
    }
}

/* New centroids from the labels; *shift is the sum of the squared distances that they moved by. */
static hyb_status move_centroids(lloyd *l, int follow, double *shift) {
    const hyb_cluster_data *data = l->data;
    int any_empty = 0;
    l->follow = follow;
    /* Means of floats hide how their sums in fp64 were rounded; means of doubles, and weights, would not. */
    l->sums_valid = data->weights == NULL && data->type.bytes == sizeof(float);
    hyb_parallel(data->ctx, l->n_chunks, sum_task, l);
    hyb_parallel(data->ctx, hyb_ceil_div(l->k, CLUSTERS_PER_TASK), mean_task, l);
    for (size_t c = 0; c < l->k; ++c) any_empty |= l->counts[c] == 0;
    if (any_empty) {
        l->sums_valid = 0; /* the points that move are not followed */
        HYB_TRY(hyb_cluster_repair(data, l->k, l->next_centroids, l->labels, l->totals, l->weights, l->counts));
    }
    *shift = 0;
    for (size_t c = 0; c < l->k; ++c) {
        l->moved[c] = data->type.distance(hyb_cluster_row(data, l->centroids, c),
                                          hyb_cluster_row(data, l->next_centroids, c), data->d);
        *shift += l->moved[c];
    }
    void *centroids = l->centroids;
    l->centroids = l->next_centroids;
    l->next_centroids = centroids;
    return HYB_OK;
}

/* ---- the run ---- */

/* One iteration; *settled if no label changed, so that labels are those of the centroids. */
static hyb_status iterate_once(lloyd *l, int is_last, int *settled, double *shift) {
    const size_t n_changed = assign_all(l);
    *shift = 0;
    *settled = n_changed == 0;
    if (*settled && !l->follow) return HYB_OK;
    /* A change costs two additions, and finding it. */
    int follow = l->sums_valid && l->trusted && n_changed > 0 && n_changed * 3 <= l->data->n && !is_last;
    HYB_TRY(move_centroids(l, follow, shift));
    if (*settled && *shift > 0) *settled = l->trusted = 0;
    return HYB_OK;
}

static hyb_status iterate(lloyd *l, const hyb_kmeans_options *options, hyb_cluster_run *run) {
    const double enough = options->tolerance * l->data->mean_variance;
    int settled = 0;
    memset(l->labels, 0xff, l->data->n * sizeof *l->labels); /* -1: no cluster */
    l->trusted = 1;
    run->result.converged = 0;
    for (uint32_t i = 1; i <= options->max_iterations && !run->result.converged; ++i) {
        double shift;
        HYB_TRY(iterate_once(l, i == options->max_iterations, &settled, &shift));
        run->result.n_iterations = i;
        run->result.converged = settled || shift <= enough;
        HYB_TRY(hyb_cluster_report(l->data, options, i, shift));
    }
    if (settled) return HYB_OK;
    double ignored;
    if (l->follow) HYB_TRY(move_centroids(l, 0, &ignored));
    (void)assign_all(l);
    return HYB_OK;
}

hyb_status hyb_cluster_lloyd(const hyb_cluster_data *data, const hyb_kmeans_options *options, hyb_cluster_run *run) {
    lloyd l;
    const size_t centroid_bytes = run->k * data->d * data->type.bytes;
    hyb_status status = lloyd_create(&l, data, run->k);
    if (status == HYB_OK) {
        memcpy(l.centroids, run->centroids, centroid_bytes);
        status = iterate(&l, options, run);
    }
    if (status == HYB_OK) {
        memcpy(run->centroids, l.centroids, centroid_bytes);
        memcpy(run->labels, l.labels, data->n * sizeof *l.labels);
        run->result.inertia = hyb_cluster_inertia(data, l.centroids, l.labels, l.group_sums);
        run->result.n_empty = hyb_cluster_count_empty(l.labels, data->n, run->k, l.counts);
    }
    lloyd_free(&l);
    return status;
}
