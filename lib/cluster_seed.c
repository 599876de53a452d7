/* cluster_seed.c - start centroids: points drawn with probability by weight (RANDOM), or by weight times squared
 * distance to the nearest start so far, the best of several candidates each time (PLUS_PLUS; Arthur & Vassilvitskii
 * 2007).
 *
 * A draw walks over the masses of groups of points, then over the masses of a group's points.
 */
#include "cluster_internal.h"
#include "math_f64.h"

/* Sums over a group are made in so many lanes. */
#define LANES 8

typedef struct seeder {
    const hyb_cluster_data *data;
    uint64_t random, n_drawn;
    size_t n_groups, ld;
    float *closest;     /* [ld]: squared distance to the nearest start, scaled; 1 before there is one */
    double *group_mass; /* of each group: sum of weight * closest */
    /* PLUS_PLUS */
    size_t n_candidates, best;
    size_t candidates[HYB_CLUSTER_TILE];
    float *distances;   /* [n_candidates][ld]: the same to each candidate */
    double *potentials; /* [n_groups][HYB_CLUSTER_TILE]: mass of a group if a candidate is taken */
    hyb_cluster_job job;
    void *packed; /* the candidates, and their offsets */
} seeder;

/* In [0, 1). */
static double draw_uniform(seeder *s) { return (double)(hyb_hash64(s->random + s->n_drawn++) >> 11) * 0x1p-53; }

static double mass_of(const seeder *s, size_t i) { return hyb_cluster_weight(s->data, i) * (double)s->closest[i]; }

static double mass_of_group(const seeder *s, size_t group) {
    const size_t first = group * HYB_CLUSTER_GROUP, end = hyb_min_size(s->data->n, first + HYB_CLUSTER_GROUP);
    double sum = 0;
    for (size_t i = first; i < end; ++i) sum += mass_of(s, i);
    return sum;
}

/* A point, drawn with probability by mass; where there is no mass left, any point. */
static size_t draw_point(seeder *s) {
    const size_t n = s->data->n;
    const double u = draw_uniform(s);
    double total = 0;
    size_t last = n;
    for (size_t g = 0; g < s->n_groups; ++g) total += s->group_mass[g];
    double target = u * total;
    for (size_t g = 0; g < s->n_groups; ++g) {
        if (target >= s->group_mass[g] && g + 1 < s->n_groups) {
            target -= s->group_mass[g];
            continue;
        }
        const size_t end = hyb_min_size(n, (g + 1) * HYB_CLUSTER_GROUP);
        for (size_t i = g * HYB_CLUSTER_GROUP; i < end; ++i) {
            double mass = mass_of(s, i);
            if (!(mass > 0)) continue;
            last = i; /* for when rounding leads past the end */
            if (target < mass) return i;
            target -= mass;
        }
    }
    if (last < n) return last;
    for (size_t i = n; i > 0 && total > 0; --i) {
        if (mass_of(s, i - 1) > 0) return i - 1;
    }
    return hyb_min_size(n - 1, (size_t)(u * (double)n));
}

/* ---- candidates ---- */

/* Candidates a draw: more gain little (Arthur & Vassilvitskii's own choice). */
static size_t n_trials(size_t k) { return hyb_min_size(HYB_CLUSTER_TILE, 2 + (size_t)hyb_log_f64((double)k)); }

static double sum_closer(const hyb_cluster_data *data, const float *closest, const float *distances, size_t first,
                         size_t n) {
    double lanes[LANES] = {0}, sum = 0;
    size_t i = 0;
    if (data->weights == NULL) {
        for (; i + LANES <= n; i += LANES) {
            for (size_t l = 0; l < LANES; ++l) {
                lanes[l] += (double)(distances[i + l] < closest[i + l] ? distances[i + l] : closest[i + l]);
            }
        }
    }
    for (; i < n; ++i) {
        float closer = distances[i] < closest[i] ? distances[i] : closest[i];
        lanes[i % LANES] += hyb_cluster_weight(data, first + i) * (double)closer;
    }
    for (size_t l = 0; l < LANES; ++l) sum += lanes[l];
    return sum;
}

/* Distances of a group's points to the candidates, and what would remain. */
static void measure_task(void *argument, size_t index, size_t worker) {
    const seeder *s = argument;
    const hyb_cluster_data *data = s->data;
    const size_t first = index * HYB_CLUSTER_GROUP, n = hyb_min_size(HYB_CLUSTER_GROUP, data->n - first);
    hyb_cluster_job job = s->job;
    (void)worker;
    job.panels = (const char *)data->panels + first / HYB_CLUSTER_PANEL * hyb_cluster_panel_bytes(data);
    job.n_panels = hyb_ceil_div(n, HYB_CLUSTER_PANEL);
    job.distances = s->distances + first;
    data->type.candidates(&job);
    for (size_t c = 0; c < s->n_candidates; ++c) {
        float *distances = job.distances + c * s->ld;
        const void *candidate = hyb_cluster_row(data, data->points, s->candidates[c]);
        for (size_t i = 0; i < n; ++i) {
            if (distances[i] >= 0) continue;
            const void *row = hyb_cluster_row(data, data->points, first + i);
            distances[i] = hyb_cluster_round(data->type.distance(row, candidate, data->d) * job.scale);
        }
        s->potentials[index * HYB_CLUSTER_TILE + c] = sum_closer(data, s->closest + first, distances, first, n);
    }
}

/* Takes the best candidate. */
static void take_task(void *argument, size_t index, size_t worker) {
    const seeder *s = argument;
    const size_t first = index * HYB_CLUSTER_GROUP, n = hyb_min_size(HYB_CLUSTER_GROUP, s->data->n - first);
    const float *distances = s->distances + s->best * s->ld + first;
    float *closest = s->closest + first;
    (void)worker;
    for (size_t i = 0; i < n; ++i) closest[i] = distances[i] < closest[i] ? distances[i] : closest[i];
    s->group_mass[index] = s->potentials[index * HYB_CLUSTER_TILE + s->best];
}

static void measure_candidates(seeder *s) {
    const hyb_cluster_data *data = s->data;
    const void *rows[HYB_CLUSTER_TILE];
    double potential[HYB_CLUSTER_TILE] = {0};
    char *offsets = (char *)s->packed + s->n_candidates * data->d * data->type.bytes;
    for (size_t c = 0; c < s->n_candidates; ++c) rows[c] = hyb_cluster_row(data, data->points, s->candidates[c]);
    double norm = hyb_cluster_pack_centroids(data, rows, s->n_candidates, s->packed, offsets);
    hyb_cluster_set_errors(data, norm, &s->job);
    s->job.centroids = s->packed;
    s->job.offsets = offsets;
    s->job.k = s->n_candidates;
    hyb_parallel(data->ctx, s->n_groups, measure_task, s);
    for (size_t g = 0; g < s->n_groups; ++g) {
        for (size_t c = 0; c < s->n_candidates; ++c) potential[c] += s->potentials[g * HYB_CLUSTER_TILE + c];
    }
    s->best = 0;
    for (size_t c = 1; c < s->n_candidates; ++c) s->best = potential[c] < potential[s->best] ? c : s->best;
    hyb_parallel(data->ctx, s->n_groups, take_task, s);
}

/* ---- starts ---- */

static void put_start(const seeder *s, size_t point, void *centroids, size_t c) {
    const size_t row_bytes = s->data->d * s->data->type.bytes;
    memcpy((char *)centroids + c * row_bytes, hyb_cluster_row(s->data, s->data->points, point), row_bytes);
}

static void draw_random(seeder *s, size_t k, void *centroids) {
    for (size_t c = 0; c < k; ++c) {
        size_t point = draw_point(s);
        put_start(s, point, centroids, c);
        s->closest[point] = 0;
        s->group_mass[point / HYB_CLUSTER_GROUP] = mass_of_group(s, point / HYB_CLUSTER_GROUP);
    }
}

static void draw_plus_plus(seeder *s, size_t k, void *centroids) {
    for (size_t c = 0; c < k; ++c) {
        s->n_candidates = c == 0 ? 1 : n_trials(k);
        for (size_t t = 0; t < s->n_candidates; ++t) s->candidates[t] = draw_point(s);
        if (c == 0) { /* any distance is closer */
            for (size_t i = 0; i < s->data->n; ++i) s->closest[i] = 3.4028235e38f;
        }
        measure_candidates(s);
        put_start(s, s->candidates[s->best], centroids, c);
    }
}

/* A power of two that keeps squared distances, and their sums, in the range of floats. */
static double scale_of(const hyb_cluster_data *data) {
    const double norm = hyb_cluster_largest_norm(data), largest = 4 * norm * norm;
    double scale = 1;
    while (scale * largest > 1) scale *= 0.5;
    while (scale * largest < 0.25 && scale < data->type.max_scale) scale *= 2;
    return scale;
}

hyb_status hyb_cluster_seed(const hyb_cluster_data *data, int32_t init, uint64_t random, size_t k, void *centroids) {
    hyb_ctx *ctx = data->ctx;
    const int plus_plus = init == HYB_KMEANS_PLUS_PLUS;
    const size_t n_rows = plus_plus ? n_trials(k) : 0;
    seeder s = {.data = data, .random = random, .n_groups = hyb_cluster_n_groups(data->n)};
    hyb_status status = HYB_OK;
    s.ld = hyb_round_up(data->n, HYB_CLUSTER_PANEL);
    s.closest = hyb_alloc(ctx, s.ld, sizeof *s.closest);
    s.group_mass = hyb_alloc(ctx, s.n_groups, sizeof *s.group_mass);
    s.distances = hyb_alloc(ctx, s.ld, n_rows * sizeof *s.distances);
    s.potentials = hyb_alloc(ctx, s.n_groups, HYB_CLUSTER_TILE * sizeof *s.potentials);
    s.packed = hyb_alloc(ctx, data->d + 1, HYB_CLUSTER_TILE * data->type.bytes);
    if (s.closest != NULL && s.group_mass != NULL && s.distances != NULL && s.potentials != NULL && s.packed != NULL) {
        s.job.d = data->d;
        s.job.ld = s.ld;
        s.job.scale = scale_of(data);
        for (size_t i = 0; i < s.ld; ++i) s.closest[i] = 1;
        for (size_t g = 0; g < s.n_groups; ++g) s.group_mass[g] = mass_of_group(&s, g);
        (plus_plus ? draw_plus_plus : draw_random)(&s, k, centroids);
    } else {
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory to draw starts from %zu points", data->n);
    }
    hyb_free(ctx, s.closest);
    hyb_free(ctx, s.group_mass);
    hyb_free(ctx, s.distances);
    hyb_free(ctx, s.potentials);
    hyb_free(ctx, s.packed);
    return status;
}
