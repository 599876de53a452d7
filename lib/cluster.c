/* cluster.c - K-means as the caller sees it: arguments checked, points prepared, runs from several starts, the best of
 * them; and what else one asks of clusters: nearest centroids of new points, distances, statistics.
 */
#include "cluster_internal.h"

#include <math.h>

/* Squares, and their sums over any number of dimensions, stay in the range of doubles. */
#define MAX_ABS_F64 1e150
/* Pieces of an array that are looked at in parallel. */
#define MAX_PIECES ((size_t)64)
#define MIN_PIECE ((size_t)65536)

hyb_cluster_type hyb_cluster_f32(const hyb_ctx *ctx) {
    const hyb_kernels *k = &ctx->kernels;
    hyb_cluster_type type = {.bytes = sizeof(float), .epsilon = 0x1p-24, .largest = 3.4e38, .least = 0x1p-149};
    type.max_scale = 0x1p100;
    type.pack = k->cluster_pack_f32;
    type.add = k->cluster_add_f32;
    type.distance = k->cluster_distance_f32;
    type.nearest = k->cluster_nearest_f32;
    type.candidates = k->cluster_candidates_f32;
    return type;
}

hyb_cluster_type hyb_cluster_f64(const hyb_ctx *ctx) {
    const hyb_kernels *k = &ctx->kernels;
    hyb_cluster_type type = {.bytes = sizeof(double), .epsilon = 0x1p-53, .largest = 1.7e308, .least = 0x1p-1074};
    type.max_scale = 0x1p1000;
    type.pack = k->cluster_pack_f64;
    type.add = k->cluster_add_f64;
    type.distance = k->cluster_distance_f64;
    type.nearest = k->cluster_nearest_f64;
    type.candidates = k->cluster_candidates_f64;
    return type;
}

/* ---- arrays ---- */

typedef struct range_loop {
    const hyb_ctx *ctx;
    const hyb_cluster_type *type;
    const char *values;
    size_t n, piece;
    double largest[MAX_PIECES];
} range_loop;

/* Largest magnitude of a piece; infinite if anything in it is not finite. */
static void range_task(void *argument, size_t index, size_t worker) {
    range_loop *loop = argument;
    const size_t first = index * loop->piece, n = hyb_min_size(loop->piece, loop->n - first);
    const char *values = loop->values + first * loop->type->bytes;
    (void)worker;
    if (loop->type->bytes == sizeof(float)) {
        uint32_t bits = loop->ctx->kernels.max_abs_bits((const float *)(const void *)values, n);
        loop->largest[index] = bits < 0x7f800000u ? (double)hyb_float_of(bits) : HUGE_VAL;
    } else {
        uint64_t largest = 0;
        for (size_t i = 0; i < n; ++i) {
            uint64_t bits;
            memcpy(&bits, values + i * sizeof bits, sizeof bits);
            bits &= ~((uint64_t)1 << 63);
            largest = bits > largest ? bits : largest;
        }
        memcpy(&loop->largest[index], &largest, sizeof largest);
        if (!(loop->largest[index] < HUGE_VAL)) loop->largest[index] = HUGE_VAL;
    }
}

/* Refuses what is not a matrix [rows][cols] of usable numbers; raises *max_abs to its largest magnitude. */
static hyb_status check_matrix(hyb_ctx *ctx, const hyb_cluster_type *type, const char *name, const void *values,
                               size_t rows, size_t cols, double *max_abs) {
    if (values == NULL && rows > 0) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: %s is NULL", name);
    if (hyb_mul_overflows(rows, cols) || hyb_mul_overflows(rows * cols, 2 * type->bytes)) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: %s of %zu x %zu elements exceed the address space",
                        name, rows, cols);
    }
    range_loop loop = {.ctx = ctx, .type = type, .values = values, .n = rows * cols};
    loop.piece = hyb_ceil_div(loop.n, MAX_PIECES);
    if (loop.piece < MIN_PIECE) loop.piece = MIN_PIECE;
    const size_t n_pieces = hyb_ceil_div(loop.n, loop.piece);
    double largest = 0;
    hyb_parallel(ctx, n_pieces, range_task, &loop);
    for (size_t i = 0; i < n_pieces; ++i) largest = fmax(largest, loop.largest[i]);
    if (largest > *max_abs) *max_abs = largest;
    if (largest <= (type->bytes == sizeof(float) ? type->largest * 1.1 : MAX_ABS_F64)) return HYB_OK;
    for (size_t i = 0; i < loop.n; ++i) {
        double value = hyb_cluster_get(type, values, i);
        if (value - value != 0) {
            return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "kmeans: %s[%zu][%zu] is %s; replace it or leave its row out",
                            name, i / cols, i % cols, value != value ? "NaN" : "infinite");
        }
        if (fabs(value) > MAX_ABS_F64) {
            return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                            "kmeans: %s[%zu][%zu] is %g; its square overflows, magnitudes must be at most 1e150: "
                            "scale the data down",
                            name, i / cols, i % cols, value);
        }
    }
    return HYB_OK;
}

static hyb_status check_weights(hyb_ctx *ctx, const hyb_cluster_type *type, const void *weights, size_t n) {
    double total = 0;
    for (size_t i = 0; weights != NULL && i < n; ++i) {
        double weight = hyb_cluster_get(type, weights, i);
        if (weight - weight != 0) {
            return hyb_fail(ctx, HYB_ERROR_NOT_FINITE, "kmeans: sample_weights[%zu] is %s", i,
                            weight != weight ? "NaN" : "infinite");
        }
        if (!(weight > 0)) {
            return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                            "kmeans: sample_weights[%zu] is %g; weights must be above 0: leave such points out", i,
                            weight);
        }
        total += weight;
    }
    if (total <= MAX_ABS_F64) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: sample_weights add up to %g, more than 1e150", total);
}

hyb_status hyb_cluster_check_sizes(hyb_ctx *ctx, size_t d, size_t k) {
    if (d == 0) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: points have no dimension (d is 0)");
    if (k >= 1 && k <= HYB_KMEANS_MAX_CLUSTERS) return HYB_OK;
    return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: the number of clusters is %zu; it must be 1 to %d", k,
                    HYB_KMEANS_MAX_CLUSTERS);
}

static hyb_status check_options(hyb_ctx *ctx, const hyb_kmeans_options *o, size_t n) {
    if (n == 0) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: there are no points (n is 0)");
    if (o->n_clusters > n) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "kmeans: n_clusters is %u, more than the %zu points; ask for fewer clusters", o->n_clusters, n);
    }
    if (o->init < HYB_KMEANS_PLUS_PLUS || o->init > HYB_KMEANS_GIVEN) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: init is %d, not a hyb_kmeans_init", (int)o->init);
    }
    if (o->init == HYB_KMEANS_GIVEN && o->n_init > 1) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: n_init is %u; a given start is run once", o->n_init);
    }
    if (o->max_iterations == 0) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: max_iterations is 0; it must be at least 1");
    }
    if (!(o->tolerance >= 0 && o->tolerance < HUGE_VAL)) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: tolerance is %g; it must be 0 or more, finite",
                        o->tolerance);
    }
    return HYB_OK;
}

/* ---- K-means ---- */

hyb_status hyb_cluster_report(const hyb_cluster_data *data, const hyb_kmeans_options *options, uint32_t iteration,
                              double shift) {
    const double variance = data->mean_variance;
    if (options->on_iteration == NULL) return HYB_OK;
    if (options->on_iteration(options->user, iteration, variance > 0 ? shift / variance : 0) == 0) return HYB_OK;
    return hyb_fail(data->ctx, HYB_ERROR_CANCELLED, "kmeans: stopped after iteration %u", iteration);
}

/* Some of the points, spread evenly: what starts of mini-batches are drawn from. The caller frees points, weights and
 * panels whatever the status is. */
static hyb_status take_sample(const hyb_cluster_data *data, size_t n, hyb_cluster_data *sample) {
    const size_t row_bytes = data->d * data->type.bytes;
    char *points = hyb_alloc(data->ctx, n, row_bytes);
    char *weights = data->weights != NULL ? hyb_alloc(data->ctx, n, data->type.bytes) : NULL;
    *sample = *data;
    sample->n = n;
    sample->points = points;
    sample->weights = weights;
    if (points == NULL || (weights == NULL && data->weights != NULL)) {
        return hyb_fail(data->ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory for a sample of %zu points", n);
    }
    for (size_t i = 0; i < n; ++i) {
        size_t from = (size_t)((double)i * ((double)data->n / (double)n));
        memcpy(points + i * row_bytes, hyb_cluster_row(data, data->points, from), row_bytes);
        if (weights == NULL) continue;
        memcpy(weights + i * data->type.bytes, (const char *)data->weights + from * data->type.bytes, data->type.bytes);
    }
    return hyb_cluster_pack(sample);
}

typedef struct fit {
    hyb_cluster_data data, sample; /* sample: mini-batches only */
    hyb_cluster_run run, best;
} fit;

static hyb_status prepare(fit *f, const hyb_kmeans_options *options) {
    hyb_cluster_data *data = &f->data;
    f->run.k = options->n_clusters;
    f->run.labels = hyb_alloc(data->ctx, data->n, sizeof *f->run.labels);
    f->run.centroids = hyb_alloc(data->ctx, f->run.k * data->d, data->type.bytes);
    data->centre = hyb_alloc(data->ctx, data->d, data->type.bytes);
    if (f->run.labels == NULL || f->run.centroids == NULL || data->centre == NULL) {
        return hyb_fail(data->ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory for the labels of %zu points", data->n);
    }
    hyb_cluster_centre(data, data->points, data->n);
    if (options->batch_size > 0) {
        size_t n = 3 * (size_t)options->batch_size, least = 3 * f->run.k;
        HYB_TRY(take_sample(data, hyb_min_size(data->n, n > least ? n : least), &f->sample));
        data->mean_variance = f->sample.mean_variance;
        return HYB_OK;
    }
    HYB_TRY(hyb_cluster_pack(data));
    return data->d == 1 ? hyb_cluster_line_create(data, &data->line) : HYB_OK;
}

static hyb_status run_once(fit *f, const hyb_kmeans_options *options, uint64_t number, const void *start) {
    const hyb_cluster_data *data = &f->data, *source = options->batch_size > 0 ? &f->sample : data;
    hyb_cluster_run *run = &f->run;
    run->random = hyb_hash64(hyb_hash64(options->seed) + number);
    if (options->init == HYB_KMEANS_GIVEN) {
        memcpy(run->centroids, start, run->k * data->d * data->type.bytes);
    } else {
        HYB_TRY(hyb_cluster_seed(source, options->init, hyb_hash64(run->random), run->k, run->centroids));
    }
    if (options->batch_size > 0) return hyb_cluster_batches(data, options, run);
    if (data->line != NULL) return hyb_cluster_line_run(data, options, run);
    return hyb_cluster_lloyd(data, options, run);
}

/* Runs from each start; the best is in f->best. */
static hyb_status run_all(fit *f, const hyb_kmeans_options *options, const void *start) {
    const hyb_cluster_data *data = &f->data;
    const uint32_t n_runs = options->n_init > 0 ? options->n_init : options->init == HYB_KMEANS_RANDOM ? 10 : 1;
    for (uint32_t i = 0; i < n_runs; ++i) {
        HYB_TRY(run_once(f, options, i, start));
        if (i > 0 && !(f->run.result.inertia < f->best.result.inertia)) continue;
        hyb_cluster_run other = f->best;
        f->best = f->run;
        f->run = other;
        f->run.k = f->best.k;
        if (f->run.labels != NULL || i + 1 == n_runs) continue;
        f->run.labels = hyb_alloc(data->ctx, data->n, sizeof *f->run.labels);
        f->run.centroids = hyb_alloc(data->ctx, f->run.k * data->d, data->type.bytes);
        if (f->run.labels == NULL || f->run.centroids == NULL) {
            return hyb_fail(data->ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory for labels of a second run");
        }
    }
    return HYB_OK;
}

static void fit_free(fit *f) {
    hyb_ctx *ctx = f->data.ctx;
    if (f->sample.points != f->data.points) hyb_free(ctx, (void *)(uintptr_t)f->sample.points);
    if (f->sample.weights != f->data.weights) hyb_free(ctx, (void *)(uintptr_t)f->sample.weights);
    hyb_free(ctx, f->sample.panels);
    hyb_cluster_line_destroy(ctx, f->data.line);
    hyb_free(ctx, f->data.panels);
    hyb_free(ctx, f->data.centre);
    hyb_free(ctx, f->run.labels);
    hyb_free(ctx, f->run.centroids);
    hyb_free(ctx, f->best.labels);
    hyb_free(ctx, f->best.centroids);
}

hyb_status hyb_cluster_read_options(hyb_ctx *ctx, const hyb_kmeans_options *given, size_t n, size_t d,
                                    hyb_kmeans_options *options) {
    *options = (hyb_kmeans_options){.struct_size = sizeof *options, .n_clusters = 8, .max_iterations = 300};
    options->tolerance = 1e-4;
    if (given != NULL) HYB_TRY(hyb_read_struct(ctx, "kmeans_options", options, given, sizeof *options));
    HYB_TRY(hyb_cluster_check_sizes(ctx, d, options->n_clusters));
    return check_options(ctx, options, n);
}

static hyb_status kmeans(hyb_ctx *ctx, const hyb_kmeans_options *given, hyb_cluster_type type, const void *points,
                         size_t n, size_t d, const void *weights, void *centroids, int32_t *labels,
                         hyb_kmeans_result *result) {
    hyb_kmeans_options options;
    fit f = {.data = {.ctx = ctx, .type = type, .points = points, .weights = weights, .n = n, .d = d}};
    double max_abs = 0;
    HYB_TRY(hyb_cluster_read_options(ctx, given, n, d, &options));
    if (centroids == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans: centroids is NULL");
    HYB_TRY(check_matrix(ctx, &type, "points", points, n, d, &f.data.max_abs));
    HYB_TRY(check_weights(ctx, &type, weights, n));
    if (options.init == HYB_KMEANS_GIVEN) {
        HYB_TRY(check_matrix(ctx, &type, "centroids", centroids, options.n_clusters, d, &max_abs));
    }
    hyb_status status = prepare(&f, &options);
    if (status == HYB_OK) status = run_all(&f, &options, centroids);
    if (status == HYB_OK) {
        memcpy(centroids, f.best.centroids, f.best.k * d * type.bytes);
        if (labels != NULL) memcpy(labels, f.best.labels, n * sizeof *labels);
        if (result != NULL) *result = f.best.result;
    }
    fit_free(&f);
    return status;
}

hyb_status hyb_kmeans_f32(hyb_ctx *ctx, const hyb_kmeans_options *options, const float *points, size_t n, size_t d,
                          const float *sample_weights, float *centroids, int32_t *labels, hyb_kmeans_result *result) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    return kmeans(ctx, options, hyb_cluster_f32(ctx), points, n, d, sample_weights, centroids, labels, result);
}
hyb_status hyb_kmeans_f64(hyb_ctx *ctx, const hyb_kmeans_options *options, const double *points, size_t n, size_t d,
                          const double *sample_weights, double *centroids, int32_t *labels, hyb_kmeans_result *result) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    return kmeans(ctx, options, hyb_cluster_f64(ctx), points, n, d, sample_weights, centroids, labels, result);
}

/* ---- new points ---- */

/* Points and centroids that are looked at together. */
static hyb_status check_pair(hyb_cluster_data *data, const void *centroids, size_t k) {
    HYB_TRY(hyb_cluster_check_sizes(data->ctx, data->d, k));
    HYB_TRY(check_matrix(data->ctx, &data->type, "points", data->points, data->n, data->d, &data->max_abs));
    return check_matrix(data->ctx, &data->type, "centroids", centroids, k, data->d, &data->max_abs);
}

static hyb_status assign(hyb_cluster_data *data, const void *centroids, size_t k, int32_t *labels,
                         double *squared_distances) {
    hyb_ctx *ctx = data->ctx;
    HYB_TRY(check_pair(data, centroids, k));
    if (data->n == 0) return HYB_OK;
    if (labels == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans_assign: labels is NULL");
    data->centre = hyb_alloc(ctx, data->d, data->type.bytes);
    if (data->centre == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans_assign: no memory for a centre");
    hyb_cluster_search search;
    hyb_status status = hyb_cluster_search_create(&search, data, k);
    if (status == HYB_OK) {
        hyb_cluster_centre(data, centroids, k);
        hyb_cluster_search_set(&search, centroids);
        hyb_cluster_assign(&search, labels, squared_distances);
    }
    hyb_cluster_search_destroy(&search);
    hyb_free(ctx, data->centre);
    return status;
}

hyb_status hyb_kmeans_assign_f32(hyb_ctx *ctx, const float *points, size_t n, size_t d, const float *centroids,
                                 size_t k, int32_t *labels, double *squared_distances) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_cluster_data data = {.ctx = ctx, .type = hyb_cluster_f32(ctx), .points = (const char *)points, .n = n, .d = d};
    return assign(&data, centroids, k, labels, squared_distances);
}
hyb_status hyb_kmeans_assign_f64(hyb_ctx *ctx, const double *points, size_t n, size_t d, const double *centroids,
                                 size_t k, int32_t *labels, double *squared_distances) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_cluster_data data = {.ctx = ctx, .type = hyb_cluster_f64(ctx), .points = (const char *)points, .n = n, .d = d};
    return assign(&data, centroids, k, labels, squared_distances);
}

typedef struct distances_loop {
    const hyb_cluster_data *data;
    const void *centroids;
    size_t k;
    void *distances;
} distances_loop;

static void distances_task(void *argument, size_t index, size_t worker) {
    const distances_loop *loop = argument;
    const hyb_cluster_data *data = loop->data;
    const size_t first = index * HYB_CLUSTER_GROUP, end = first + hyb_min_size(HYB_CLUSTER_GROUP, data->n - first);
    (void)worker;
    for (size_t i = first; i < end; ++i) {
        const void *row = hyb_cluster_row(data, data->points, i);
        for (size_t c = 0; c < loop->k; ++c) {
            double square = data->type.distance(row, hyb_cluster_row(data, loop->centroids, c), data->d);
            hyb_cluster_put(&data->type, loop->distances, i * loop->k + c, sqrt(square));
        }
    }
}

static hyb_status distances_to(hyb_cluster_data *data, const void *centroids, size_t k, void *distances) {
    HYB_TRY(check_pair(data, centroids, k));
    if (data->n == 0) return HYB_OK;
    if (distances == NULL) {
        return hyb_fail(data->ctx, HYB_ERROR_INVALID_ARGUMENT, "kmeans_distances: distances is NULL");
    }
    distances_loop loop = {data, centroids, k, distances};
    hyb_parallel(data->ctx, hyb_cluster_n_groups(data->n), distances_task, &loop);
    return HYB_OK;
}

hyb_status hyb_kmeans_distances_f32(hyb_ctx *ctx, const float *points, size_t n, size_t d, const float *centroids,
                                    size_t k, float *distances) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_cluster_data data = {.ctx = ctx, .type = hyb_cluster_f32(ctx), .points = (const char *)points, .n = n, .d = d};
    return distances_to(&data, centroids, k, distances);
}
hyb_status hyb_kmeans_distances_f64(hyb_ctx *ctx, const double *points, size_t n, size_t d, const double *centroids,
                                    size_t k, double *distances) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_cluster_data data = {.ctx = ctx, .type = hyb_cluster_f64(ctx), .points = (const char *)points, .n = n, .d = d};
    return distances_to(&data, centroids, k, distances);
}

/* ---- statistics ---- */

static hyb_status statistics_of(hyb_cluster_data *data, const int32_t *labels, const void *centroids, size_t k,
                                hyb_cluster_statistics *statistics) {
    hyb_ctx *ctx = data->ctx;
    HYB_TRY(check_pair(data, centroids, k));
    if (statistics == NULL || (labels == NULL && data->n > 0)) {
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "cluster_statistics: %s is NULL",
                        statistics == NULL ? "statistics" : "labels");
    }
    for (size_t i = 0; i < data->n; ++i) {
        if (labels[i] >= 0 && (size_t)labels[i] < k) continue;
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "cluster_statistics: labels[%zu] is %d; it must be 0 to %zu",
                        i, (int)labels[i], k - 1);
    }
    memset(statistics, 0, k * sizeof *statistics);
    for (size_t i = 0; i < data->n; ++i) {
        hyb_cluster_statistics *own = &statistics[labels[i]];
        const void *centroid = hyb_cluster_row(data, centroids, (size_t)labels[i]);
        double square = data->type.distance(hyb_cluster_row(data, data->points, i), centroid, data->d);
        double distance = sqrt(square);
        ++own->size;
        own->inertia += square;
        own->mean_distance += distance; /* the sum, for now */
        own->largest_distance = fmax(own->largest_distance, distance);
    }
    for (size_t c = 0; c < k; ++c) {
        if (statistics[c].size > 0) statistics[c].mean_distance /= (double)statistics[c].size;
    }
    return HYB_OK;
}

hyb_status hyb_cluster_statistics_f32(hyb_ctx *ctx, const float *points, size_t n, size_t d, const int32_t *labels,
                                      const float *centroids, size_t k, hyb_cluster_statistics *statistics) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_cluster_data data = {.ctx = ctx, .type = hyb_cluster_f32(ctx), .points = (const char *)points, .n = n, .d = d};
    return statistics_of(&data, labels, centroids, k, statistics);
}
hyb_status hyb_cluster_statistics_f64(hyb_ctx *ctx, const double *points, size_t n, size_t d, const int32_t *labels,
                                      const double *centroids, size_t k, hyb_cluster_statistics *statistics) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_cluster_data data = {.ctx = ctx, .type = hyb_cluster_f64(ctx), .points = (const char *)points, .n = n, .d = d};
    return statistics_of(&data, labels, centroids, k, statistics);
}
