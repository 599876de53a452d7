/* test_cluster.c - K-means against a plain implementation of its definition; starts, weights, empty clusters, d = 1,
 * mini-batches; the same bits for any number of threads and any instruction set; what is refused, and every allocation
 * that may fail.
 */
#include "testing.h"

#include <math.h>

#include <hybrid/cluster.h>

#include "failing_allocator.h"
#include "tier_context.h"

/* Points around k centres, 4 apart; one in ten far from all. */
static float *make_points(size_t n, size_t d, size_t k, uint64_t seed) {
    float *points = malloc(n * d * sizeof *points);
    for (size_t i = 0; i < n; ++i) {
        size_t c = test_random_below(&seed, k);
        for (size_t j = 0; j < d; ++j) {
            float noise = test_random_float(&seed) + test_random_float(&seed);
            points[i * d + j] = 4.0f * (float)((c * 7 + j * 3) % 5) + (i % 10 == 0 ? 5 * noise : noise);
        }
    }
    return points;
}
static double *widen(const float *values, size_t n) {
    double *wide = malloc(n * sizeof *wide);
    for (size_t i = 0; i < n; ++i) wide[i] = (double)values[i];
    return wide;
}

static hyb_kmeans_options default_options(uint32_t k) {
    hyb_kmeans_options options = {.struct_size = sizeof options, .n_clusters = k, .max_iterations = 300, .seed = 7};
    options.tolerance = 1e-4;
    return options;
}

/* ---- the definition ---- */

static double square_distance(const double *a, const double *b, size_t d) {
    double lanes[16] = {0};
    for (size_t j = 0; j < d; ++j) lanes[j % 16] += (a[j] - b[j]) * (a[j] - b[j]);
    for (size_t step = 8; step > 0; step /= 2) {
        for (size_t l = 0; l < step; ++l) lanes[l] += lanes[l + step];
    }
    return lanes[0];
}

static int32_t nearest_of(const double *point, const double *centroids, size_t d, size_t k) {
    int32_t best = 0;
    for (size_t c = 1; c < k; ++c) {
        if (square_distance(point, centroids + c * d, d) < square_distance(point, centroids + (size_t)best * d, d)) {
            best = (int32_t)c;
        }
    }
    return best;
}

/* Lloyd's iterations until no label or no centroid changes; centroids are rounded to floats if `single`. Returns the
 * iterations. */
static uint32_t plain_lloyd(const double *points, size_t n, size_t d, const double *weights, size_t k, int single,
                            uint32_t max_iterations, double *centroids, int32_t *labels) {
    double *sums = malloc(k * d * sizeof *sums), *total = malloc(k * sizeof *total);
    uint32_t iteration = 0;
    int changed = 1, moved = 1;
    for (size_t i = 0; i < n; ++i) labels[i] = -1;
    while (changed && moved && iteration < max_iterations) {
        changed = moved = 0;
        ++iteration;
        memset(sums, 0, k * d * sizeof *sums);
        memset(total, 0, k * sizeof *total);
        for (size_t i = 0; i < n; ++i) {
            int32_t label = nearest_of(points + i * d, centroids, d, k);
            double weight = weights != NULL ? weights[i] : 1;
            changed |= label != labels[i];
            labels[i] = label;
            total[label] += weight;
            for (size_t j = 0; j < d; ++j) sums[(size_t)label * d + j] += weight * points[i * d + j];
        }
        for (size_t c = 0; c < k; ++c) {
            for (size_t j = 0; total[c] > 0 && j < d; ++j) {
                double mean = sums[c * d + j] / total[c];
                if (single) mean = (double)(float)mean;
                moved |= mean != centroids[c * d + j];
                centroids[c * d + j] = mean;
            }
        }
    }
    for (size_t i = 0; changed && i < n; ++i) labels[i] = nearest_of(points + i * d, centroids, d, k);
    free(sums);
    free(total);
    return iteration;
}

/* From the first k points as centroids, the result is that of the definition. */
static void check_definition(hyb_ctx *ctx, size_t n, size_t d, size_t k, int weighted) {
    float *points = make_points(n, d, k, n + d), *weights = malloc(n * sizeof *weights);
    double *wide = widen(points, n * d), *expected = malloc(k * d * sizeof *expected), worst = 0, inertia = 0;
    float *centroids = malloc(k * d * sizeof *centroids);
    double *centroids_f64 = malloc(k * d * sizeof *centroids_f64);
    int32_t *labels = malloc(n * sizeof *labels), *actual = malloc(n * sizeof *actual);
    uint64_t state = 5;
    for (size_t i = 0; i < n; ++i) weights[i] = 1.0f + 0.5f * test_random_float(&state);
    double *wide_weights = widen(weights, n);
    hyb_kmeans_options options = default_options((uint32_t)k);
    hyb_kmeans_result result;
    options.init = HYB_KMEANS_GIVEN;
    options.tolerance = 0;
    for (int is_double = 0; is_double < 2; ++is_double) {
        memcpy(expected, wide, k * d * sizeof *expected);
        uint32_t n_iterations =
            plain_lloyd(wide, n, d, weighted ? wide_weights : NULL, k, !is_double, 300, expected, labels);
        memcpy(centroids, points, k * d * sizeof *centroids);
        memcpy(centroids_f64, wide, k * d * sizeof *centroids_f64);
        if (is_double) {
            CHECK_OK(hyb_kmeans_f64(ctx, &options, wide, n, d, weighted ? wide_weights : NULL, centroids_f64, actual,
                                    &result));
        } else {
            CHECK_OK(
                hyb_kmeans_f32(ctx, &options, points, n, d, weighted ? weights : NULL, centroids, actual, &result));
        }
        CHECK(memcmp(labels, actual, n * sizeof *labels) == 0);
        CHECK(result.n_iterations == n_iterations && result.converged == 1 && result.n_empty == 0);
        worst = inertia = 0;
        for (size_t i = 0; i < k * d; ++i) {
            double found = is_double ? centroids_f64[i] : (double)centroids[i];
            worst = fmax(worst, fabs(found - expected[i]));
        }
        for (size_t i = 0; i < n; ++i) {
            double square = square_distance(wide + i * d, expected + (size_t)labels[i] * d, d);
            inertia += (weighted ? wide_weights[i] : 1) * square;
        }
        CHECK(worst <= (is_double ? 1e-12 : 1e-5));
        CHECK(fabs(result.inertia - inertia) <= (is_double ? 1e-12 : 1e-6) * inertia);
    }
    free(points);
    free(weights);
    free(wide);
    free(wide_weights);
    free(expected);
    free(centroids);
    free(centroids_f64);
    free(labels);
    free(actual);
}

static void test_definition(uint32_t isa_mask, uint32_t n_threads) {
    hyb_ctx *ctx = make_ctx(isa_mask, n_threads);
    check_definition(ctx, 1500, 24, 60, 0); /* so many centroids that bounds are kept */
    check_definition(ctx, 1000, 40, 50, 1);
    check_definition(ctx, 3000, 5, 9, 0);
    check_definition(ctx, 1501, 17, 4, 1);
    check_definition(ctx, 700, 33, 25, 0);
    check_definition(ctx, 2000, 1, 7, 0); /* the path of sorted points */
    check_definition(ctx, 2000, 1, 7, 1);
    check_definition(ctx, 31, 3, 31, 0);
    check_definition(ctx, 1, 1, 1, 0);
    check_definition(ctx, 5, 2, 1, 1);
    hyb_ctx_destroy(ctx);
}

/* ---- threads and instruction sets ---- */

typedef struct outcome {
    float centroids[12 * 6];
    int32_t labels[20011];
    hyb_kmeans_result result;
} outcome;

static void run_outcome(uint32_t isa_mask, uint32_t n_threads, const hyb_kmeans_options *options, const float *points,
                        size_t d, outcome *o) {
    hyb_ctx *ctx = make_ctx(isa_mask, n_threads);
    memset(o, 0, sizeof *o);
    memcpy(o->centroids, points, options->n_clusters * d * sizeof(float));
    CHECK_OK(hyb_kmeans_f32(ctx, options, points, 20011, d, NULL, o->centroids, o->labels, &o->result));
    hyb_ctx_destroy(ctx);
}

/* No bit depends on the number of threads, nor, from given centroids, on the instruction set. */
static void test_bits(void) {
    const size_t dims[] = {6, 1};
    outcome *one = malloc(sizeof *one), *other = malloc(sizeof *other);
    for (size_t t = 0; t < 2; ++t) {
        float *points = make_points(20011, dims[t], 9, 3);
        for (int32_t init = HYB_KMEANS_PLUS_PLUS; init <= HYB_KMEANS_GIVEN; ++init) {
            for (uint32_t batch = 0; batch <= 700; batch += 700) {
                hyb_kmeans_options options = default_options(12);
                options.init = init;
                options.batch_size = batch;
                options.n_init = init == HYB_KMEANS_GIVEN ? 1 : 2;
                run_outcome(0, 1, &options, points, dims[t], one);
                for (uint32_t threads = 2; threads <= 3; ++threads) {
                    run_outcome(0, threads, &options, points, dims[t], other);
                    CHECK(memcmp(one, other, sizeof *one) == 0);
                }
                if (init == HYB_KMEANS_PLUS_PLUS) continue;
                run_outcome(HYB_ISA_MASK_SCALAR, 1, &options, points, dims[t], other);
                CHECK(memcmp(one, other, sizeof *one) == 0);
                run_outcome(HYB_ISA_AVX2, 1, &options, points, dims[t], other);
                CHECK(memcmp(one, other, sizeof *one) == 0);
            }
        }
        free(points);
    }
    free(one);
    free(other);
}

/* ---- starts ---- */

static int same_row(const float *a, const float *b, size_t d) { return memcmp(a, b, d * sizeof *a) == 0; }

/* Random starts are points, all different; another seed gives others. */
static void test_random_starts(hyb_ctx *ctx) {
    enum { N = 600, D = 3, K = 20 };
    float *points = make_points(N, D, 5, 11), centroids[3][K * D];
    hyb_kmeans_options options = default_options(K);
    options.init = HYB_KMEANS_RANDOM;
    options.n_init = 1;
    options.max_iterations = 1;
    options.tolerance = 1e30; /* the first iteration ends it, and moves the centroids */
    for (size_t r = 0; r < 3; ++r) {
        options.seed = r == 2 ? 8 : 7;
        CHECK_OK(hyb_kmeans_f32(ctx, &options, points, N, D, NULL, centroids[r], NULL, NULL));
    }
    CHECK(memcmp(centroids[0], centroids[1], sizeof centroids[0]) == 0);
    CHECK(memcmp(centroids[0], centroids[2], sizeof centroids[0]) != 0);
    /* As many clusters as points: every point must have been drawn, once. */
    int32_t labels[60];
    float all[60 * D];
    hyb_kmeans_result result;
    for (int32_t init = HYB_KMEANS_PLUS_PLUS; init <= HYB_KMEANS_RANDOM; ++init) {
        options = default_options(60);
        options.init = init;
        CHECK_OK(hyb_kmeans_f32(ctx, &options, points, 60, D, NULL, all, labels, &result));
        CHECK(result.inertia == 0 && result.n_empty == 0 && result.converged);
        for (size_t i = 0; i < 60; ++i) CHECK(same_row(all + (size_t)labels[i] * D, points + i * D, D));
    }
    free(points);
}

/* k-means++ finds far groups that random starts miss; the best of several runs is kept. */
static void test_plus_plus(hyb_ctx *ctx) {
    enum { N = 4000, K = 8 };
    float points[N * 2], centroids[K * 2];
    uint64_t state = 2;
    for (size_t i = 0; i < N; ++i) {
        size_t c = i < 7 * 20 ? 1 + i % 7 : 0; /* seven groups of twenty, one of all others */
        points[2 * i] = 100.0f * (float)c + test_random_float(&state);
        points[2 * i + 1] = 40.0f * (float)(c % 3) + test_random_float(&state);
    }
    hyb_kmeans_options options = default_options(K);
    hyb_kmeans_result result;
    for (uint64_t seed = 0; seed < 5; ++seed) {
        options.seed = seed;
        CHECK_OK(hyb_kmeans_f32(ctx, &options, points, N, 2, NULL, centroids, NULL, &result));
        CHECK(result.inertia < 2.0 * N);
    }
    double least = HUGE_VAL;
    options.init = HYB_KMEANS_RANDOM;
    for (uint32_t n_init = 1; n_init <= 8; n_init *= 2) {
        options.n_init = n_init;
        CHECK_OK(hyb_kmeans_f32(ctx, &options, points, N, 2, NULL, centroids, NULL, &result));
        CHECK(result.inertia <= least);
        least = result.inertia;
    }
}

/* Starts are drawn by weight: what weighs nothing beside the rest is not drawn. */
static void test_weighted_starts(hyb_ctx *ctx) {
    enum { N = 2000 };
    float points[N], weights[N], centroids[2];
    for (size_t i = 0; i < N; ++i) {
        points[i] = (float)i;
        weights[i] = i == 500 || i == 1500 ? 1.0f : 1e-30f;
    }
    hyb_kmeans_options options = default_options(2);
    for (int32_t init = HYB_KMEANS_PLUS_PLUS; init <= HYB_KMEANS_RANDOM; ++init) {
        options.init = init;
        CHECK_OK(hyb_kmeans_f32(ctx, &options, points, N, 1, weights, centroids, NULL, NULL));
        CHECK(fminf(centroids[0], centroids[1]) == 500.0f && fmaxf(centroids[0], centroids[1]) == 1500.0f);
    }
}

/* ---- weights, empty clusters ---- */

/* A weight of w is w times the same point. */
static void test_weights_repeat(hyb_ctx *ctx, size_t d) {
    enum { N = 400, K = 5 };
    float *points = make_points(N, d, K, 21), *repeated = malloc(N * 3 * d * sizeof *repeated), weights[N];
    float *a = malloc(K * d * sizeof *a), *b = malloc(K * d * sizeof *b);
    int32_t labels[N], *many = malloc(3 * N * sizeof *many);
    hyb_kmeans_result one, other;
    size_t n = 0;
    for (size_t i = 0; i < N; ++i) {
        weights[i] = (float)(1 + i % 3);
        for (size_t r = 0; r < 1 + i % 3; ++r) memcpy(repeated + d * n++, points + d * i, d * sizeof *points);
    }
    hyb_kmeans_options options = default_options(K);
    options.init = HYB_KMEANS_GIVEN;
    options.tolerance = 0;
    memcpy(a, points, K * d * sizeof *a);
    memcpy(b, points, K * d * sizeof *b);
    CHECK_OK(hyb_kmeans_f32(ctx, &options, points, N, d, weights, a, labels, &one));
    CHECK_OK(hyb_kmeans_f32(ctx, &options, repeated, n, d, NULL, b, many, &other));
    CHECK(one.n_iterations == other.n_iterations && fabs(one.inertia - other.inertia) <= 1e-9 * one.inertia);
    n = 0;
    for (size_t i = 0; i < N; ++i) {
        for (size_t r = 0; r < 1 + i % 3; ++r) CHECK(many[n++] == labels[i]);
    }
    for (size_t i = 0; i < K * d; ++i) CHECK(fabsf(a[i] - b[i]) <= 1e-5f);
    free(points);
    free(repeated);
    free(a);
    free(b);
    free(many);
}

/* A cluster without points gets the farthest point of the worst cluster. */
static void test_empty_clusters(hyb_ctx *ctx, size_t d) {
    float points[12] = {0, 1, 2, 3, 100, 101, 102, 103, 50, 51, 1000, 1001}, wide[24], centroids[10];
    for (size_t i = 0; i < 12; ++i) wide[2 * i] = wide[2 * i + 1] = points[i];
    for (size_t i = 0; i < 5; ++i) {
        float start = i < 2 ? (float)i : -500.0f; /* three that nothing is nearest to: two are the same as another */
        for (size_t j = 0; j < d; ++j) centroids[i * d + j] = start;
    }
    hyb_kmeans_options options = default_options(5);
    hyb_kmeans_result result;
    int32_t labels[12];
    size_t counts[5] = {0};
    options.init = HYB_KMEANS_GIVEN;
    CHECK_OK(hyb_kmeans_f32(ctx, &options, d == 1 ? points : wide, 12, d, NULL, centroids, labels, &result));
    for (size_t i = 0; i < 12; ++i) ++counts[labels[i]];
    for (size_t c = 0; c < 5; ++c) CHECK(counts[c] > 0);
    CHECK(result.n_empty == 0 && result.converged);
    /* The two farthest points, then the farthest of what is then the worst cluster, {2, 3, 50, ...}: 2, joined by 3. */
    const int32_t expected[12] = {0, 0, 4, 4, 1, 1, 1, 1, 1, 1, 3, 2};
    CHECK(memcmp(labels, expected, sizeof labels) == 0 && fabs(result.inertia - 3474.5 * (double)d) < 1e-9);
}

/* Fewer different points than clusters: the rest stays empty, and nothing runs for ever. */
static void test_few_different_points(hyb_ctx *ctx, size_t d) {
    float points[60], centroids[20];
    int32_t labels[30];
    hyb_kmeans_result result;
    for (size_t i = 0; i < 30 * d; ++i) points[i] = (float)(i / d % 3);
    for (int32_t init = HYB_KMEANS_PLUS_PLUS; init <= HYB_KMEANS_GIVEN; ++init) {
        hyb_kmeans_options options = default_options(10);
        options.init = init;
        for (size_t i = 0; i < 10 * d; ++i) centroids[i] = 1.0f;
        CHECK_OK(hyb_kmeans_f32(ctx, &options, points, 30, d, NULL, centroids, labels, &result));
        CHECK(result.inertia == 0 && result.n_empty == 7 && result.converged && result.n_iterations < 10);
        for (size_t i = 3; i < 30; ++i) CHECK(labels[i] == labels[i - 3]);
    }
}

/* ---- hard data ---- */

/* Far from zero, tiny, huge: labels are still the nearest. */
static void test_scales(hyb_ctx *ctx) {
    enum { N = 900, D = 4, K = 6 };
    const double scales[] = {1e-30, 1e-18, 1.0, 1e18, 1e37};
    float *points = make_points(N, D, K, 31), moved[N * D], centroids[K * D];
    int32_t labels[N], nearest[N];
    double distances[N];
    hyb_kmeans_options options = default_options(K);
    hyb_kmeans_result result;
    for (size_t s = 0; s < sizeof scales / sizeof *scales; ++s) {
        for (int far = 0; far < 2; ++far) {
            for (size_t i = 0; i < N * D; ++i)
                moved[i] = (float)(scales[s] * ((double)points[i] * 0.1 + (far ? 5 : 0)));
            CHECK_OK(hyb_kmeans_f32(ctx, &options, moved, N, D, NULL, centroids, labels, &result));
            CHECK_OK(hyb_kmeans_assign_f32(ctx, moved, N, D, centroids, K, nearest, distances));
            CHECK(memcmp(labels, nearest, sizeof labels) == 0);
            double *wide = widen(moved, N * D), *wide_centroids = widen(centroids, K * D), sum = 0;
            for (size_t i = 0; i < N; ++i) {
                CHECK(labels[i] == nearest_of(wide + i * D, wide_centroids, D, K));
                sum += distances[i];
            }
            CHECK(fabs(sum - result.inertia) <= 1e-12 * sum);
            CHECK(result.n_empty == 0);
            free(wide);
            free(wide_centroids);
        }
    }
    free(points);
}

/* Points halfway between centroids belong to the first of them. */
static void test_ties(hyb_ctx *ctx) {
    enum { N = 1000, K = 4 };
    float points[N * 2], line[N], centroids[K * 2] = {1, 0, -1, 0, 0, 1, 0, -1}, row[K] = {3, 1, 3, -1};
    double wide[N * 2], wide_centroids[K * 2];
    int32_t labels[N], labels_f64[N];
    for (size_t i = 0; i < N; ++i) {
        points[2 * i] = (float)(i % 5) - 2;
        points[2 * i + 1] = (float)(i / 5 % 5) - 2;
        line[i] = (float)(i % 9) - 2;
    }
    for (size_t i = 0; i < N * 2; ++i) wide[i] = (double)points[i];
    for (size_t i = 0; i < K * 2; ++i) wide_centroids[i] = (double)centroids[i];
    CHECK_OK(hyb_kmeans_assign_f32(ctx, points, N, 2, centroids, K, labels, NULL));
    CHECK_OK(hyb_kmeans_assign_f64(ctx, wide, N, 2, wide_centroids, K, labels_f64, NULL));
    for (size_t i = 0; i < N; ++i) {
        int32_t expected = nearest_of(wide + 2 * i, wide_centroids, 2, K);
        CHECK(labels[i] == expected && labels_f64[i] == expected);
    }
    CHECK_OK(hyb_kmeans_assign_f32(ctx, line, N, 1, row, K, labels, NULL));
    for (size_t i = 0; i < N; ++i) CHECK(labels[i] == (line[i] >= 2 ? 0 : line[i] > 0 || line[i] == 0 ? 1 : 3));
}

/* ---- the path for d = 1 ---- */

/* It gives what the general path gives on the same points with a second coordinate that is always 0. */
static void test_line_equals_plane(hyb_ctx *ctx, int weighted) {
    enum { N = 5000, K = 12 };
    static float line[N], plane[2 * N], weights[N];
    float a[K], b[2 * K];
    static int32_t on_line[N], on_plane[N];
    hyb_kmeans_result one, other;
    uint64_t state = 77;
    for (size_t i = 0; i < N; ++i) {
        line[i] = test_random_float(&state) * test_random_float(&state) * 10 + (i % 7 == 0 ? 20.0f : 0.0f);
        if (i % 11 == 0) line[i] = floorf(line[i]); /* equal values, and zeros of either sign */
        plane[2 * i] = line[i];
        plane[2 * i + 1] = 0;
        weights[i] = 0.1f + (float)test_random_below(&state, 5);
    }
    for (size_t c = 0; c < K; ++c) {
        a[c] = b[2 * c] = line[c * 37];
        b[2 * c + 1] = 0;
    }
    hyb_kmeans_options options = default_options(K);
    options.init = HYB_KMEANS_GIVEN;
    options.tolerance = 0;
    CHECK_OK(hyb_kmeans_f32(ctx, &options, line, N, 1, weighted ? weights : NULL, a, on_line, &one));
    CHECK_OK(hyb_kmeans_f32(ctx, &options, plane, N, 2, weighted ? weights : NULL, b, on_plane, &other));
    CHECK(memcmp(on_line, on_plane, sizeof on_line) == 0);
    CHECK(one.n_iterations == other.n_iterations && fabs(one.inertia - other.inertia) <= 1e-6 * one.inertia);
    for (size_t c = 0; c < K; ++c) CHECK(fabsf(a[c] - b[2 * c]) <= 1e-6f);
}

/* ---- mini-batches ---- */

/* Mini-batches come close to Lloyd's iterations on groups that are apart. */
static void test_batches(hyb_ctx *ctx) {
    enum { N = 20000, D = 6, K = 5 };
    float *points = make_points(N, D, K, 41), centroids[K * D];
    int32_t *labels = malloc(N * sizeof *labels), *again = malloc(N * sizeof *again);
    hyb_kmeans_options options = default_options(K);
    hyb_kmeans_result full, batches;
    options.n_init = 3;
    CHECK_OK(hyb_kmeans_f32(ctx, &options, points, N, D, NULL, centroids, NULL, &full));
    options.batch_size = 500;
    CHECK_OK(hyb_kmeans_f32(ctx, &options, points, N, D, NULL, centroids, labels, &batches));
    CHECK(batches.inertia >= full.inertia * 0.999 && batches.inertia <= full.inertia * 1.05);
    CHECK(batches.n_iterations > 1 && batches.n_empty == 0);
    CHECK_OK(hyb_kmeans_assign_f32(ctx, points, N, D, centroids, K, again, NULL));
    CHECK(memcmp(labels, again, N * sizeof *labels) == 0);
    free(points);
    free(labels);
    free(again);
}

/* ---- callbacks, new points, statistics ---- */

static int count_iterations(void *user, uint32_t iteration, double shift) {
    uint32_t *seen = user;
    CHECK(iteration == seen[0] + 1 && shift >= 0);
    seen[0] = iteration;
    return iteration == seen[1];
}

static void test_callback(hyb_ctx *ctx) {
    float *points = make_points(1000, 2, 6, 51), centroids[12];
    hyb_kmeans_options options = default_options(6);
    hyb_kmeans_result result;
    uint32_t seen[2] = {0, 0};
    options.init = HYB_KMEANS_GIVEN;
    options.on_iteration = count_iterations;
    options.user = seen;
    memcpy(centroids, points, sizeof centroids);
    CHECK_OK(hyb_kmeans_f32(ctx, &options, points, 1000, 2, NULL, centroids, NULL, &result));
    CHECK(seen[0] == result.n_iterations && seen[0] > 2);
    for (uint32_t batch = 0; batch < 200; batch += 100) { /* nothing is written when it is stopped */
        seen[0] = 0;
        seen[1] = 2;
        options.batch_size = batch;
        memcpy(centroids, points, sizeof centroids);
        CHECK_STATUS(hyb_kmeans_f32(ctx, &options, points, 1000, 2, NULL, centroids, NULL, NULL), HYB_ERROR_CANCELLED);
        CHECK(seen[0] == 2 && memcmp(centroids, points, sizeof centroids) == 0);
    }
    free(points);
}

static void test_statistics(hyb_ctx *ctx) {
    const float points[8] = {0, 0, 3, 4, 10, 0, 10, 2}, centroids[6] = {0, 0, 10, 1, 7, 7};
    const double wide[8] = {0, 0, 3, 4, 10, 0, 10, 2}, wide_centroids[6] = {0, 0, 10, 1, 7, 7};
    int32_t labels[4] = {0, 0, 1, 1};
    float distances[12];
    double distances_f64[12];
    hyb_cluster_statistics found[3], found_f64[3];
    CHECK_OK(hyb_cluster_statistics_f32(ctx, points, 4, 2, labels, centroids, 3, found));
    CHECK_OK(hyb_cluster_statistics_f64(ctx, wide, 4, 2, labels, wide_centroids, 3, found_f64));
    CHECK(memcmp(found, found_f64, sizeof found) == 0);
    CHECK(found[0].size == 2 && found[0].inertia == 25 && found[0].mean_distance == 2.5);
    CHECK(found[0].largest_distance == 5 && found[1].mean_distance == 1 && found[1].inertia == 2);
    CHECK(found[2].size == 0 && found[2].mean_distance == 0);
    CHECK_OK(hyb_kmeans_distances_f32(ctx, points, 4, 2, centroids, 3, distances));
    CHECK_OK(hyb_kmeans_distances_f64(ctx, wide, 4, 2, wide_centroids, 3, distances_f64));
    CHECK(distances[3] == 5.0f && distances[0] == 0.0f && distances[7] == 1.0f);
    for (size_t i = 0; i < 12; ++i) CHECK(fabs((double)distances[i] - distances_f64[i]) <= 1e-6 * distances_f64[i]);
    labels[2] = 3;
    CHECK_STATUS(hyb_cluster_statistics_f32(ctx, points, 4, 2, labels, centroids, 3, found),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "labels[2]") != NULL);
    CHECK_OK(hyb_kmeans_assign_f32(ctx, points, 0, 2, centroids, 3, NULL, NULL));
    CHECK_OK(hyb_kmeans_distances_f32(ctx, NULL, 0, 2, centroids, 3, NULL));
    CHECK_OK(hyb_cluster_statistics_f32(ctx, NULL, 0, 2, NULL, centroids, 3, found));
    CHECK(found[0].size == 0);
}

/* ---- refusals ---- */

static void refuse(hyb_ctx *ctx, const hyb_kmeans_options *options, const float *points, size_t n, size_t d,
                   const float *weights, float *centroids, hyb_status status, const char *word) {
    CHECK_STATUS(hyb_kmeans_f32(ctx, options, points, n, d, weights, centroids, NULL, NULL), status);
    CHECK(strstr(hyb_ctx_last_error(ctx), word) != NULL);
}

static void test_refusals(hyb_ctx *ctx) {
    const hyb_status invalid = HYB_ERROR_INVALID_ARGUMENT;
    float points[20] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, weights[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
          centroids[20] = {0};
    double wide[4] = {1, 2, 1e151, 3}, wide_centroids[2];
    hyb_kmeans_options good = default_options(2), bad;
    refuse(ctx, &good, points, 0, 2, NULL, centroids, invalid, "no points");
    refuse(ctx, &good, points, 10, 0, NULL, centroids, invalid, "dimension");
    refuse(ctx, &good, NULL, 10, 2, NULL, centroids, invalid, "points is NULL");
    refuse(ctx, &good, points, 10, 2, NULL, NULL, invalid, "centroids is NULL");
    refuse(ctx, &good, points, SIZE_MAX / 2, 3, NULL, centroids, invalid, "address space");
    refuse(ctx, &good, points, 1, 2, NULL, centroids, invalid, "more than the 1 points");
    bad = good;
    bad.n_clusters = 0;
    refuse(ctx, &bad, points, 10, 2, NULL, centroids, invalid, "number of clusters is 0");
    bad = good;
    bad.init = 3;
    refuse(ctx, &bad, points, 10, 2, NULL, centroids, invalid, "init is 3");
    bad = good;
    bad.init = HYB_KMEANS_GIVEN;
    bad.n_init = 2;
    refuse(ctx, &bad, points, 10, 2, NULL, centroids, invalid, "n_init is 2");
    bad.n_init = 1;
    centroids[3] = NAN;
    refuse(ctx, &bad, points, 10, 2, NULL, centroids, HYB_ERROR_NOT_FINITE, "centroids[1][1] is NaN");
    centroids[3] = 0;
    bad = good;
    bad.max_iterations = 0;
    refuse(ctx, &bad, points, 10, 2, NULL, centroids, invalid, "max_iterations is 0");
    bad = good;
    bad.tolerance = -1;
    refuse(ctx, &bad, points, 10, 2, NULL, centroids, invalid, "tolerance is -1");
    bad.tolerance = NAN;
    refuse(ctx, &bad, points, 10, 2, NULL, centroids, invalid, "tolerance is");
    bad = good;
    bad.struct_size = 0;
    CHECK_STATUS(hyb_kmeans_f32(ctx, &bad, points, 10, 2, NULL, centroids, NULL, NULL), HYB_ERROR_STRUCT_SIZE);
    const float bad_weights[] = {0, -1, NAN, INFINITY};
    for (size_t i = 0; i < 4; ++i) {
        weights[7] = bad_weights[i];
        refuse(ctx, &good, points, 10, 2, weights, centroids, i < 2 ? invalid : HYB_ERROR_NOT_FINITE,
               "sample_weights[7]");
    }
    points[17] = INFINITY;
    refuse(ctx, &good, points, 10, 2, NULL, centroids, HYB_ERROR_NOT_FINITE, "points[8][1] is infinite");
    points[4] = NAN;
    refuse(ctx, &good, points, 10, 2, NULL, centroids, HYB_ERROR_NOT_FINITE, "points[2][0] is NaN");
    CHECK_STATUS(hyb_kmeans_f64(ctx, &good, wide, 4, 1, NULL, wide_centroids, NULL, NULL), invalid);
    CHECK(strstr(hyb_ctx_last_error(ctx), "points[2][0] is 1e+151") != NULL);
    int32_t labels[4];
    CHECK_STATUS(hyb_kmeans_assign_f64(ctx, wide, 4, 1, wide, 0, labels, NULL), invalid);
    CHECK_STATUS(hyb_kmeans_assign_f64(ctx, wide, 1, 1, wide, 1, NULL, NULL), invalid);
    CHECK_STATUS(hyb_kmeans_assign_f32(ctx, points, 4, 1, centroids, 1, labels, NULL), HYB_OK);
    CHECK_STATUS(hyb_kmeans_assign_f32(ctx, points, 5, 1, centroids, 1, labels, NULL), HYB_ERROR_NOT_FINITE);
    CHECK_STATUS(hyb_kmeans_f32(NULL, &good, points, 4, 1, NULL, centroids, NULL, NULL), invalid);
    CHECK_STATUS(hyb_kmeans_assign_f32(NULL, points, 4, 1, centroids, 1, labels, NULL), invalid);
    CHECK_STATUS(hyb_kmeans_distances_f32(ctx, points, 1, 1, centroids, 1, NULL), invalid);
    for (size_t i = 0; i < 20; ++i) CHECK(centroids[i] == 0);
}

/* ---- memory ---- */

/* Whichever allocation fails, the status is OUT_OF_MEMORY, nothing leaks and nothing is written. */
static void test_every_allocation_may_fail(void) {
    failing allocator = {-1, 0};
    hyb_ctx *ctx = NULL;
    float *points = make_points(600, 2, 5, 61), centroids[10];
    int32_t labels[600];
    CHECK_OK(make_failing_ctx(&allocator, &ctx));
    for (int what = 0; what < 5; ++what) {
        hyb_kmeans_options options = default_options(5);
        hyb_status status = HYB_ERROR_OUT_OF_MEMORY;
        options.n_init = 2;
        options.batch_size = what == 2 ? 100 : 0;
        if (what == 3) { /* three clusters begin empty */
            options.init = HYB_KMEANS_GIVEN;
            options.n_init = 1;
        }
        for (long fail_at = 0; fail_at < 200 && status != HYB_OK; ++fail_at) {
            allocator.countdown = fail_at;
            for (size_t i = 0; i < 10; ++i) centroids[i] = 1;
            if (what == 4) {
                status = hyb_kmeans_assign_f32(ctx, points, 600, 2, centroids, 5, labels, NULL);
            } else {
                status = hyb_kmeans_f32(ctx, &options, points, 600, what == 1 ? 1 : 2, NULL, centroids, labels, NULL);
            }
            CHECK(status == HYB_OK || status == HYB_ERROR_OUT_OF_MEMORY);
            for (size_t i = 0; status != HYB_OK && i < 10; ++i) CHECK(centroids[i] == 1);
        }
        CHECK(status == HYB_OK);
    }
    allocator.countdown = -1;
    hyb_ctx_destroy(ctx);
    CHECK(allocator.live == 0);
    free(points);
}

int main(void) {
    hyb_ctx *ctx = make_ctx(0, 2);
    test_definition(0, 1);
    test_definition(0, 3);
    test_definition(HYB_ISA_MASK_SCALAR, 1);
    test_bits();
    test_random_starts(ctx);
    test_plus_plus(ctx);
    test_weighted_starts(ctx);
    test_weights_repeat(ctx, 3);
    test_weights_repeat(ctx, 1);
    test_empty_clusters(ctx, 2);
    test_empty_clusters(ctx, 1);
    test_few_different_points(ctx, 2);
    test_few_different_points(ctx, 1);
    test_scales(ctx);
    test_ties(ctx);
    test_line_equals_plane(ctx, 0);
    test_line_equals_plane(ctx, 1);
    test_batches(ctx);
    test_callback(ctx);
    test_statistics(ctx);
    test_refusals(ctx);
    test_every_allocation_may_fail();
    hyb_ctx_destroy(ctx);
    return TEST_RESULT();
}
