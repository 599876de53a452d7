/* cluster_batch.c - K-means by mini-batches (Sculley 2010): a centroid is the mean of all points that batches brought
 * to it so far, so that its rate falls as 1 / their number. For more points than one wants to read many times.
 */
#include <math.h>

#include "cluster_internal.h"

/* Batches without a better average of their inertia that end a run. */
#define PATIENCE 10

typedef struct batches {
    const hyb_cluster_data *data;
    hyb_cluster_search search;
    size_t k, size, n_groups;
    size_t *which;      /* [size]: the batch */
    int32_t *labels;    /* [size, rounded up to groups] */
    double *sums;       /* [k][d]: of all points so far */
    double *weights;    /* [k] */
    size_t *counts;     /* [k] */
    double *group_sums; /* of each group of the batch, or of all points */
    void *centroids, *next_centroids;
} batches;

static void find_task(void *argument, size_t index, size_t worker) {
    batches *b = argument;
    const hyb_cluster_data *data = b->data;
    const size_t first = index * HYB_CLUSTER_GROUP, n = hyb_min_size(HYB_CLUSTER_GROUP, b->size - first);
    int32_t *labels = b->labels + first;
    double sum = 0;
    hyb_cluster_find(&b->search, worker, b->which + first, 0, n, labels, NULL, NULL);
    for (size_t i = 0; i < n; ++i) {
        const void *centroid = hyb_cluster_row(data, b->centroids, (size_t)labels[i]);
        const size_t point = b->which[first + i];
        double distance = data->type.distance(hyb_cluster_row(data, data->points, point), centroid, data->d);
        sum += hyb_cluster_weight(data, point) * distance;
    }
    b->group_sums[index] = sum;
}

/* One batch: *shift is the sum of the squared distances that centroids moved by, *inertia the batch's mean. */
static void take_batch(batches *b, uint64_t random, double *shift, double *inertia) {
    const hyb_cluster_data *data = b->data;
    double weight = 0;
    for (size_t i = 0; i < b->size; ++i) {
        double u = (double)(hyb_hash64(random + i) >> 11) * 0x1p-53;
        b->which[i] = hyb_min_size(data->n - 1, (size_t)(u * (double)data->n));
        weight += hyb_cluster_weight(data, b->which[i]);
    }
    hyb_cluster_search_set(&b->search, b->centroids);
    hyb_parallel(data->ctx, b->n_groups, find_task, b);
    *inertia = *shift = 0;
    for (size_t g = 0; g < b->n_groups; ++g) *inertia += b->group_sums[g] / weight;
    for (size_t i = 0; i < b->size; ++i) {
        const char *own = data->weights;
        if (own != NULL) own += b->which[i] * data->type.bytes;
        data->type.add(b->sums, data->d, hyb_cluster_row(data, data->points, b->which[i]), b->labels + i, own, 1);
        b->weights[b->labels[i]] += hyb_cluster_weight(data, b->which[i]);
    }
    for (size_t c = 0; c < b->k; ++c) {
        for (size_t j = 0; j < data->d; ++j) {
            size_t at = c * data->d + j;
            double old = hyb_cluster_get(&data->type, b->centroids, at);
            hyb_cluster_put(&data->type, b->next_centroids, at, b->weights[c] > 0 ? b->sums[at] / b->weights[c] : old);
        }
        *shift += data->type.distance(hyb_cluster_row(data, b->centroids, c),
                                      hyb_cluster_row(data, b->next_centroids, c), data->d);
    }
    memcpy(b->centroids, b->next_centroids, b->k * data->d * data->type.bytes);
}

static hyb_status iterate(batches *b, const hyb_kmeans_options *options, hyb_cluster_run *run) {
    const hyb_cluster_data *data = b->data;
    const double enough = options->tolerance * data->mean_variance;
    const double fresh = fmin(1.0, 2.0 * (double)b->size / ((double)data->n + 1)); /* share of a batch in an average */
    double mean_shift = 0, mean_inertia = 0, best = HUGE_VAL;
    int n_without_gain = 0;
    run->result.converged = 0;
    for (uint32_t i = 1; i <= options->max_iterations && !run->result.converged; ++i) {
        double shift, inertia;
        take_batch(b, hyb_hash64(run->random + i), &shift, &inertia);
        mean_shift = i == 1 ? shift : mean_shift + fresh * (shift - mean_shift);
        mean_inertia = i == 1 ? inertia : mean_inertia + fresh * (inertia - mean_inertia);
        n_without_gain = mean_inertia < best ? 0 : n_without_gain + 1;
        best = fmin(best, mean_inertia);
        run->result.n_iterations = i;
        run->result.converged = mean_shift <= enough || n_without_gain >= PATIENCE;
        HYB_TRY(hyb_cluster_report(data, options, i, mean_shift));
    }
    return HYB_OK;
}

/* Labels of all points; a cluster that no point is nearest to gets one. */
static hyb_status label_all(batches *b, hyb_cluster_run *run) {
    const hyb_cluster_data *data = b->data;
    hyb_cluster_search_set(&b->search, b->centroids);
    hyb_cluster_assign(&b->search, run->labels, NULL);
    if (hyb_cluster_count_empty(run->labels, data->n, b->k, b->counts) > 0) {
        HYB_TRY(hyb_cluster_repair(data, b->k, b->centroids, run->labels, NULL, NULL, b->counts));
        hyb_cluster_search_set(&b->search, b->centroids);
        hyb_cluster_assign(&b->search, run->labels, NULL);
    }
    run->result.inertia = hyb_cluster_inertia(data, b->centroids, run->labels, b->group_sums);
    run->result.n_empty = hyb_cluster_count_empty(run->labels, data->n, b->k, b->counts);
    return HYB_OK;
}

hyb_status hyb_cluster_batches(const hyb_cluster_data *data, const hyb_kmeans_options *options, hyb_cluster_run *run) {
    hyb_ctx *ctx = data->ctx;
    const size_t k = run->k, size = options->batch_size;
    batches b = {.data = data, .k = k, .size = size, .centroids = run->centroids};
    b.n_groups = hyb_cluster_n_groups(size);
    hyb_status status = hyb_cluster_search_create(&b.search, data, k);
    if (status == HYB_OK) {
        size_t n_groups = hyb_cluster_n_groups(data->n);
        b.which = hyb_alloc(ctx, size, sizeof *b.which);
        b.labels = hyb_alloc(ctx, b.n_groups, HYB_CLUSTER_GROUP * sizeof *b.labels);
        b.sums = hyb_alloc_zeroed(ctx, k * data->d, sizeof *b.sums);
        b.weights = hyb_alloc_zeroed(ctx, k, sizeof *b.weights);
        b.counts = hyb_alloc(ctx, k, sizeof *b.counts);
        b.group_sums = hyb_alloc(ctx, n_groups > b.n_groups ? n_groups : b.n_groups, sizeof *b.group_sums);
        b.next_centroids = hyb_alloc(ctx, k * data->d, data->type.bytes);
        if (b.which == NULL || b.labels == NULL || b.sums == NULL || b.weights == NULL || b.counts == NULL ||
            b.group_sums == NULL || b.next_centroids == NULL) {
            status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory for batches of %zu points", size);
        }
    }
    if (status == HYB_OK) status = iterate(&b, options, run);
    if (status == HYB_OK) status = label_all(&b, run);
    hyb_cluster_search_destroy(&b.search);
    hyb_free(ctx, b.which);
    hyb_free(ctx, b.labels);
    hyb_free(ctx, b.sums);
    hyb_free(ctx, b.weights);
    hyb_free(ctx, b.counts);
    hyb_free(ctx, b.group_sums);
    hyb_free(ctx, b.next_centroids);
    return status;
}
