/* cluster_nearest.c - the search for nearest centroids: points and centroids packed for the kernels, scores as a matrix
 * product, and an exact comparison where rounding might decide. Also what is done with its result: inertia, and points
 * for clusters that have none.
 */
#include <math.h>

#include "cluster_internal.h"

/* Panels that a worker packs at once stay in the second-level cache. */
#define SCRATCH_BYTES ((size_t)256 << 10)

double hyb_cluster_largest_norm(const hyb_cluster_data *data) {
    return 2.0 * data->max_abs * sqrt((double)data->d); /* the centre's coordinates are no larger than the points' */
}

/* ---- points ---- */

void hyb_cluster_centre(hyb_cluster_data *data, const void *rows, size_t n) {
    /* Any centre is right: a mean of some hundred rows is as good as that of all. */
    const size_t step = hyb_ceil_div(n, 1024), n_taken = hyb_ceil_div(n, step);
    for (size_t j = 0; j < data->d; ++j) {
        double sum = 0;
        for (size_t i = 0; i < n; i += step) sum += hyb_cluster_get(&data->type, rows, i * data->d + j);
        hyb_cluster_put(&data->type, data->centre, j, sum / (double)n_taken);
    }
}

/* Panels of n rows, which begin at `rows` or are data's which[i]. */
static void pack_rows(const hyb_cluster_data *data, const size_t *which, size_t first, size_t n, char *panels) {
    const void *rows[HYB_CLUSTER_PANEL];
    for (size_t i = 0; i < n; i += HYB_CLUSTER_PANEL, panels += hyb_cluster_panel_bytes(data)) {
        size_t n_here = hyb_min_size(HYB_CLUSTER_PANEL, n - i);
        for (size_t p = 0; p < n_here; ++p) {
            rows[p] = hyb_cluster_row(data, data->points, first + (which != NULL ? which[i + p] : i + p));
        }
        data->type.pack(rows, n_here, data->d, data->centre, panels);
    }
}

typedef struct pack_loop {
    const hyb_cluster_data *data;
    double *squares; /* of each group: sum of squared norms */
} pack_loop;

static void pack_task(void *argument, size_t index, size_t worker) {
    const pack_loop *loop = argument;
    const hyb_cluster_data *data = loop->data;
    const size_t first = index * HYB_CLUSTER_GROUP, n = hyb_min_size(HYB_CLUSTER_GROUP, data->n - first);
    char *panels = (char *)data->panels + first / HYB_CLUSTER_PANEL * hyb_cluster_panel_bytes(data);
    double sum = 0;
    (void)worker;
    pack_rows(data, NULL, first, n, panels);
    for (size_t i = 0; i < n; ++i) {
        const char *panel = panels + i / HYB_CLUSTER_PANEL * hyb_cluster_panel_bytes(data);
        double norm = hyb_cluster_get(&data->type, panel, data->d * HYB_CLUSTER_PANEL + i % HYB_CLUSTER_PANEL);
        sum += norm * norm;
    }
    loop->squares[index] = sum;
}

/* Squared norm of the mean of all points less the centre. */
static double centre_error(const hyb_cluster_data *data, double *sums, int32_t *zeros) {
    double total = 0;
    memset(sums, 0, data->d * sizeof *sums);
    memset(zeros, 0, HYB_CLUSTER_GROUP * sizeof *zeros);
    for (size_t i = 0; i < data->n; i += HYB_CLUSTER_GROUP) {
        data->type.add(sums, data->d, hyb_cluster_row(data, data->points, i), zeros, NULL,
                       hyb_min_size(HYB_CLUSTER_GROUP, data->n - i));
    }
    for (size_t j = 0; j < data->d; ++j) {
        double difference = sums[j] / (double)data->n - hyb_cluster_get(&data->type, data->centre, j);
        total += difference * difference;
    }
    return total;
}

hyb_status hyb_cluster_pack(hyb_cluster_data *data) {
    hyb_ctx *ctx = data->ctx;
    const size_t n_groups = hyb_cluster_n_groups(data->n), n_panels = hyb_ceil_div(data->n, HYB_CLUSTER_PANEL);
    double *squares = hyb_alloc(ctx, n_groups, sizeof *squares), *sums = hyb_alloc(ctx, data->d, sizeof *sums);
    int32_t *zeros = hyb_alloc(ctx, HYB_CLUSTER_GROUP, sizeof *zeros);
    data->panels = hyb_alloc(ctx, n_panels, hyb_cluster_panel_bytes(data));
    hyb_status status = HYB_OK;
    if (squares == NULL || sums == NULL || zeros == NULL || data->panels == NULL) {
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory for a copy of %zu points (%zu bytes)",
                          data->n, n_panels * hyb_cluster_panel_bytes(data));
    } else {
        pack_loop loop = {data, squares};
        double total = 0;
        hyb_parallel(ctx, n_groups, pack_task, &loop);
        for (size_t i = 0; i < n_groups; ++i) total += squares[i];
        double variance = total / (double)data->n - centre_error(data, sums, zeros);
        data->mean_variance = (variance > 0 ? variance : 0) / (double)data->d;
    }
    hyb_free(ctx, squares);
    hyb_free(ctx, sums);
    hyb_free(ctx, zeros);
    return status;
}

/* ---- centroids ---- */

hyb_status hyb_cluster_search_create(hyb_cluster_search *search, const hyb_cluster_data *data, size_t k) {
    hyb_ctx *ctx = data->ctx;
    const size_t panel_bytes = hyb_cluster_panel_bytes(data), n_workers = hyb_ctx_n_threads(ctx);
    memset(search, 0, sizeof *search);
    search->data = data;
    search->k = k;
    search->job_panels = hyb_min_size(HYB_CLUSTER_JOB_PANELS, SCRATCH_BYTES / panel_bytes + 1);
    search->job.d = data->d;
    search->job.k = k;
    search->scratch = hyb_alloc(ctx, n_workers * search->job_panels, panel_bytes);
    /* k fits int32, and k * d elements are in memory already */
    search->memory = hyb_alloc(ctx, k * (data->d + 1), data->type.bytes);
    if (search->scratch == NULL || search->memory == NULL) {
        return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory to search %zu centroids of %zu dimensions", k,
                        data->d);
    }
    search->job.centroids = search->memory;
    search->job.offsets = (char *)search->memory + k * data->d * data->type.bytes;
    return HYB_OK;
}

void hyb_cluster_search_destroy(hyb_cluster_search *search) {
    hyb_free(search->data->ctx, search->scratch);
    hyb_free(search->data->ctx, search->memory);
}

double hyb_cluster_pack_centroids(const hyb_cluster_data *data, const void *const *rows, size_t k, void *packed,
                                  void *offsets) {
    const hyb_cluster_type *type = &data->type;
    double largest = 0;
    for (size_t c = 0; c < k; ++c) {
        double square = 0;
        for (size_t j = 0; j < data->d; ++j) {
            double x = hyb_cluster_get(type, rows[c], j) - hyb_cluster_get(type, data->centre, j);
            hyb_cluster_put(type, packed, j * k + c, x);
            x = hyb_cluster_get(type, packed, j * k + c);
            square += x * x;
        }
        hyb_cluster_put(type, offsets, c, -0.5 * square);
        if (square > largest) largest = square;
    }
    return sqrt(largest);
}

/* A score is a sum of d products and an offset, each step of which rounds a value of at most |x| R + R^2 / 2, of
 * coordinates that were rounded once when the centre was taken off (Higham 2002, section 3.1). */
void hyb_cluster_set_errors(const hyb_cluster_data *data, double largest_norm, hyb_cluster_job *job) {
    const hyb_cluster_type *type = &data->type;
    const double rate = 1.01 * ((double)data->d + 8) * type->epsilon, norm = hyb_cluster_largest_norm(data);
    /* The exact comparison rounds as well, in proportion to |x|^2. */
    const double share = type->bytes == sizeof(float) ? 0x1p-20 : 1.0;
    const double radius = largest_norm > share * norm ? largest_norm : share * norm, reach = norm + radius;
    job->error_norm = rate * radius;
    job->error_constant = rate * radius * radius + (double)data->d * type->least;
    job->error_square = rate;
    /* Where a score might overflow, every comparison is made exactly. */
    if (!(reach * reach < 0.125 * type->largest)) job->error_norm = job->error_constant = HUGE_VAL;
}

void hyb_cluster_search_set(hyb_cluster_search *search, const void *centroids) {
    const hyb_cluster_data *data = search->data;
    const size_t n_blocks = hyb_ceil_div(search->k, HYB_CLUSTER_TILE), n_larger = search->k % n_blocks;
    char *packed = search->memory, *offsets = packed + search->k * data->d * data->type.bytes;
    double largest = 0;
    search->centroids = centroids;
    for (size_t b = 0, first = 0; b < n_blocks; ++b) {
        const void *rows[HYB_CLUSTER_TILE];
        size_t size = search->k / n_blocks + (b < n_larger);
        for (size_t c = 0; c < size; ++c) rows[c] = hyb_cluster_row(data, centroids, first + c);
        double norm = hyb_cluster_pack_centroids(data, rows, size, packed + first * data->d * data->type.bytes,
                                                 offsets + first * data->type.bytes);
        if (norm > largest) largest = norm;
        first += size;
    }
    hyb_cluster_set_errors(data, largest, &search->job);
}

/* ---- the search ---- */

/* By distances in fp64: what "nearest" means. */
static int32_t find_exactly(const hyb_cluster_search *search, const void *row, double *nearest, double *second) {
    const hyb_cluster_data *data = search->data;
    int32_t label = 0;
    *nearest = *second = HUGE_VAL;
    for (size_t c = 0; c < search->k; ++c) {
        double distance = data->type.distance(row, hyb_cluster_row(data, search->centroids, c), data->d);
        if (distance < *nearest) {
            *second = *nearest;
            *nearest = distance;
            label = (int32_t)c;
        } else if (distance < *second) {
            *second = distance;
        }
    }
    return label;
}

void hyb_cluster_find(const hyb_cluster_search *search, size_t worker, const size_t *which, size_t first, size_t n,
                      int32_t *labels, float *upper, float *lower) {
    const hyb_cluster_data *data = search->data;
    const size_t panel_bytes = hyb_cluster_panel_bytes(data);
    const int packed = which == NULL && data->panels != NULL;
    const size_t at_once = (packed ? HYB_CLUSTER_JOB_PANELS : search->job_panels) * HYB_CLUSTER_PANEL;
    char *scratch = search->scratch + worker * search->job_panels * panel_bytes;
    float own_lower[HYB_CLUSTER_GROUP];
    float *low = lower != NULL ? lower : own_lower;
    for (size_t i = 0; i < n; i += at_once) {
        hyb_cluster_job job = search->job;
        size_t n_here = hyb_min_size(at_once, n - i);
        if (packed) {
            job.panels = (const char *)data->panels + (first + i) / HYB_CLUSTER_PANEL * panel_bytes;
        } else {
            pack_rows(data, which != NULL ? which + i : NULL, which != NULL ? first : first + i, n_here, scratch);
            job.panels = scratch;
        }
        job.n_panels = hyb_ceil_div(n_here, HYB_CLUSTER_PANEL);
        job.labels = labels + i;
        job.lower = low + i;
        job.upper = upper != NULL ? upper + i : NULL;
        data->type.nearest(&job);
    }
    for (size_t i = 0; i < n; ++i) {
        if (low[i] >= 0) continue;
        double nearest, second;
        const void *row = hyb_cluster_row(data, data->points, first + (which != NULL ? which[i] : i));
        labels[i] = find_exactly(search, row, &nearest, &second);
        if (upper == NULL) continue;
        /* 2^-20: the root, the rounding to float, and that of the distances themselves */
        upper[i] = hyb_cluster_round(sqrt(nearest) * (1 + 0x1p-20) + 1e-37);
        lower[i] = hyb_cluster_round(sqrt(second) * (1 - 0x1p-20));
    }
}

typedef struct assign_loop {
    const hyb_cluster_search *search;
    int32_t *labels;
    double *distances;
} assign_loop;

static void assign_task(void *argument, size_t index, size_t worker) {
    const assign_loop *loop = argument;
    const hyb_cluster_data *data = loop->search->data;
    const size_t first = index * HYB_CLUSTER_GROUP, n = hyb_min_size(HYB_CLUSTER_GROUP, data->n - first);
    int32_t labels[HYB_CLUSTER_GROUP];
    hyb_cluster_find(loop->search, worker, NULL, first, n, labels, NULL, NULL);
    memcpy(loop->labels + first, labels, n * sizeof *labels);
    for (size_t i = 0; loop->distances != NULL && i < n; ++i) {
        loop->distances[first + i] =
            data->type.distance(hyb_cluster_row(data, data->points, first + i),
                                hyb_cluster_row(data, loop->search->centroids, (size_t)labels[i]), data->d);
    }
}

void hyb_cluster_assign(const hyb_cluster_search *search, int32_t *labels, double *squared_distances) {
    assign_loop loop = {search, labels, squared_distances};
    hyb_parallel(search->data->ctx, hyb_cluster_n_groups(search->data->n), assign_task, &loop);
}

/* ---- inertia, empty clusters ---- */

typedef struct inertia_loop {
    const hyb_cluster_data *data;
    const void *centroids;
    const int32_t *labels;
    double *sums;
} inertia_loop;

static void inertia_task(void *argument, size_t index, size_t worker) {
    const inertia_loop *loop = argument;
    const hyb_cluster_data *data = loop->data;
    const size_t first = index * HYB_CLUSTER_GROUP, end = first + hyb_min_size(HYB_CLUSTER_GROUP, data->n - first);
    double sum = 0;
    (void)worker;
    for (size_t i = first; i < end; ++i) {
        const void *centroid = hyb_cluster_row(data, loop->centroids, (size_t)loop->labels[i]);
        double distance = data->type.distance(hyb_cluster_row(data, data->points, i), centroid, data->d);
        sum += hyb_cluster_weight(data, i) * distance;
    }
    loop->sums[index] = sum;
}

double hyb_cluster_inertia(const hyb_cluster_data *data, const void *centroids, const int32_t *labels, double *sums) {
    inertia_loop loop = {data, centroids, labels, sums};
    const size_t n_groups = hyb_cluster_n_groups(data->n);
    double total = 0;
    hyb_parallel(data->ctx, n_groups, inertia_task, &loop);
    for (size_t i = 0; i < n_groups; ++i) total += sums[i];
    return total;
}

/* A centroid from its sum; the centroid of no points stays where it is. */
static void set_mean(const hyb_cluster_data *data, const double *total, double weight, void *centroids, size_t c) {
    for (size_t j = 0; weight > 0 && j < data->d; ++j) {
        hyb_cluster_put(&data->type, centroids, c * data->d + j, total[j] / weight);
    }
}

/* Moves point i to an empty cluster. */
static void move_point(const hyb_cluster_data *data, size_t i, size_t to, void *centroids, int32_t *labels,
                       double *totals, double *cluster_weights, size_t *counts) {
    const void *row = hyb_cluster_row(data, data->points, i);
    const size_t from = (size_t)labels[i], row_bytes = data->d * data->type.bytes;
    const double weight = hyb_cluster_weight(data, i);
    memcpy((char *)centroids + to * row_bytes, row, row_bytes);
    --counts[from];
    counts[to] = 1;
    labels[i] = (int32_t)to;
    if (totals == NULL) return;
    for (size_t j = 0; j < data->d; ++j) {
        double x = weight * hyb_cluster_get(&data->type, row, j);
        totals[from * data->d + j] -= x;
        totals[to * data->d + j] = x;
    }
    cluster_weights[from] -= weight;
    cluster_weights[to] = weight;
    set_mean(data, totals + from * data->d, cluster_weights[from], centroids, from);
}

static size_t largest_of(const double *values, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; ++i) best = values[i] > values[best] ? i : best;
    return best;
}

/* The farthest point of a cluster, the first of several; n if all lie on the centroid. */
static size_t farthest_of(const hyb_cluster_data *data, const int32_t *labels, const double *distances,
                          size_t cluster) {
    size_t farthest = data->n;
    for (size_t i = 0; i < data->n; ++i) {
        if ((size_t)labels[i] != cluster || distances[i] <= 0) continue;
        if (farthest == data->n || distances[i] > distances[farthest]) farthest = i;
    }
    return farthest;
}

hyb_status hyb_cluster_repair(const hyb_cluster_data *data, size_t k, void *centroids, int32_t *labels, double *totals,
                              double *cluster_weights, size_t *counts) {
    double *distances = hyb_alloc(data->ctx, data->n, sizeof *distances), *inertia = NULL;
    inertia = hyb_alloc_zeroed(data->ctx, k, sizeof *inertia);
    if (distances == NULL || inertia == NULL) {
        hyb_free(data->ctx, distances);
        hyb_free(data->ctx, inertia);
        return hyb_fail(data->ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory for the distances of %zu points",
                        data->n);
    }
    for (size_t i = 0; i < data->n; ++i) {
        const void *centroid = hyb_cluster_row(data, centroids, (size_t)labels[i]);
        distances[i] = data->type.distance(hyb_cluster_row(data, data->points, i), centroid, data->d);
        inertia[labels[i]] += hyb_cluster_weight(data, i) * distances[i];
    }
    for (size_t c = 0; c < k;) {
        const size_t from = largest_of(inertia, k);
        if (counts[c] != 0) {
            ++c;
            continue;
        }
        if (!(inertia[from] > 0)) break; /* every point lies on its centroid */
        const size_t i = counts[from] > 1 ? farthest_of(data, labels, distances, from) : data->n;
        if (i == data->n) { /* rounding left something */
            inertia[from] = 0;
            continue;
        }
        inertia[from] -= hyb_cluster_weight(data, i) * distances[i];
        distances[i] = 0;
        move_point(data, i, c, centroids, labels, totals, cluster_weights, counts);
    }
    hyb_free(data->ctx, distances);
    hyb_free(data->ctx, inertia);
    return HYB_OK;
}

uint32_t hyb_cluster_count_empty(const int32_t *labels, size_t n, size_t k, size_t *counts) {
    uint32_t n_empty = 0;
    memset(counts, 0, k * sizeof *counts);
    for (size_t i = 0; i < n; ++i) ++counts[labels[i]];
    for (size_t c = 0; c < k; ++c) n_empty += counts[c] == 0;
    return n_empty;
}
