/* test_cluster.c - K-means on the device against the CPU: labels, distances, centroids and counts of iterations, ==. */
#include "cuda_fixture.h"

#include <math.h>

/* About normal, by the sum of four uniform numbers. */
static float draw(uint64_t *state) {
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += (double)(test_random(state) >> 11) * 0x1p-53;
    return (float)(sum - 2);
}

/* n points about k middles; of every 7 points one is that before it again. */
static float *make_points(uint64_t *state, size_t n, size_t d, size_t k, float spread) {
    float *middles = host_memory(k * d, sizeof *middles), *points = host_memory(n * d, sizeof *points);
    for (size_t i = 0; i < k * d; ++i) middles[i] = 4 * draw(state);
    for (size_t i = 0; i < n; ++i) {
        const size_t own = test_random_below(state, k);
        for (size_t j = 0; j < d; ++j) {
            points[i * d + j] = i % 7 == 6 ? points[(i - 1) * d + j] : middles[own * d + j] + spread * draw(state);
        }
    }
    free(middles);
    return points;
}

/* k different points. */
static float *take_start(const float *points, size_t n, size_t d, size_t k) {
    float *start = host_memory(k * d, sizeof *start);
    for (size_t c = 0; c < k; ++c) memcpy(start + c * d, points + c * (n / k) * d, d * sizeof *start);
    return start;
}

/* ---- nearest ---- */

/* offset: places by which the rows on the device begin behind an aligned address. */
static void check_nearest(fixture *f, const float *points, size_t n, size_t d, const float *centroids, size_t k,
                          size_t offset) {
    int32_t *labels = host_memory(n, sizeof *labels), *expected = host_memory(n, sizeof *expected);
    double *distances = host_memory(n, sizeof *distances), *expected_distances = host_memory(n, sizeof *distances);
    CHECK_STATUS(hyb_kmeans_assign_f32(f->ctx, points, n, d, centroids, k, expected, expected_distances), HYB_OK);
    hyb_device_address memory = on_device(f, NULL, (n * d + offset) * sizeof(float));
    hyb_device_address on_points = memory + offset * sizeof(float);
    hyb_device_address on_centroids = on_device(f, centroids, k * d * sizeof(float));
    hyb_device_address on_labels = on_device(f, NULL, n * sizeof *labels);
    hyb_device_address on_distances = on_device(f, NULL, n * sizeof *distances);
    CHECK_STATUS(hyb_cuda_upload(f->cuda, points, n * d * sizeof(float), on_points, 0), HYB_OK);
    CHECK_STATUS(hyb_cuda_cluster_nearest(f->cuda, on_points, n, d, on_centroids, k, on_labels, on_distances, 0),
                 HYB_OK);
    CHECK_STATUS(hyb_cuda_synchronize(f->cuda, 0), HYB_OK);
    from_device(f, on_labels, labels, n * sizeof *labels);
    from_device(f, on_distances, distances, n * sizeof *distances);
    CHECK(memcmp(labels, expected, n * sizeof *labels) == 0);
    CHECK(memcmp(distances, expected_distances, n * sizeof *distances) == 0);
    if (memcmp(labels, expected, n * sizeof *labels) != 0) fprintf(stderr, "  n %zu, d %zu, k %zu\n", n, d, k);
    const hyb_device_address all[] = {memory, on_centroids, on_labels, on_distances};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i) free_device(f, all[i]);
    free(labels);
    free(expected);
    free(distances);
    free(expected_distances);
}

static void test_nearest_shapes(void) {
    fixture f = open_fixture();
    uint64_t state = 1;
    for (size_t d = 1; d <= 70; d += d < 20 ? 1 : 5) {
        const size_t n = 1 + test_random_below(&state, 140), k = 1 + test_random_below(&state, n < 70 ? n : 70);
        float *points = make_points(&state, n, d, k, 0.5f), *centroids = take_start(points, n, d, k);
        check_nearest(&f, points, n, d, centroids, k, d % 5);
        free(points);
        free(centroids);
    }
    close_fixture(&f);
}

/* More than a tile of centroids, more than a slice of dimensions, and both. */
static void test_nearest_tiles(void) {
    fixture f = open_fixture();
    static const size_t shapes[][3] = {{130, 16, 64},  {129, 17, 65},  {257, 33, 128}, {128, 64, 129}, {200, 20, 200},
                                       {130, 128, 70}, {131, 129, 40}, {70, 260, 140}, {300, 4, 300},  {1, 300, 1}};
    uint64_t state = 2;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
        const size_t n = shapes[s][0], d = shapes[s][1], k = shapes[s][2];
        float *points = make_points(&state, n, d, 5, 1.0f);
        float *centroids = make_points(&state, k, d, k, 1.0f); /* some are there twice */
        check_nearest(&f, points, n, d, centroids, k, 0);
        free(centroids);
        free(points);
    }
    close_fixture(&f);
}

/* Where rounding decides: points on a lattice, halfway between centroids, far from the origin, huge and tiny ones. */
static void test_nearest_hard(void) {
    fixture f = open_fixture();
    enum { N = 200, D = 6, K = 30 };
    float points[N * D], centroids[K * D];
    static const float scales[] = {1.0f, 1e-3f, 1e-22f, 1e-38f, 3e18f, 3e37f}, shifts[] = {0.0f, 1e4f, 0, 0, 0, 0};
    uint64_t state = 3;
    for (size_t s = 0; s < sizeof scales / sizeof *scales; ++s) {
        for (size_t i = 0; i < N * D; ++i)
            points[i] = shifts[s] + scales[s] * 0.5f * (float)test_random_below(&state, 8);
        for (size_t i = 0; i < K * D; ++i) centroids[i] = shifts[s] + scales[s] * (float)test_random_below(&state, 4);
        check_nearest(&f, points, N, D, centroids, K, 0);
    }
    for (size_t i = 0; i < K * D; ++i) centroids[i] = 1; /* all the same: the first one */
    check_nearest(&f, points, N, D, centroids, K, 0);
    close_fixture(&f);
}

static void test_nearest_bad_arguments(void) {
    fixture f = open_fixture();
    float values[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    hyb_device_address a = on_device(&f, values, sizeof values), labels = on_device(&f, NULL, 64);
    hyb_cuda *cuda = f.cuda;
    CHECK_STATUS(hyb_cuda_cluster_nearest(NULL, a, 4, 2, a, 2, labels, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, 0, 4, 2, a, 2, labels, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(f.ctx), "points") != NULL);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a, 4, 2, 0, 2, labels, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a, 4, 2, a, 2, 0, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a, 4, 0, a, 2, labels, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a, 4, 2, a, 0, labels, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a, 4, 2, a, (size_t)1 << 30, labels, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a + 2, 3, 2, a, 2, labels, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a, 4, 2, a, 2, labels, labels + 4, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a, (size_t)1 << 31, 2, a, 2, labels, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a, 4, SIZE_MAX / 8, a, 2, labels, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, 0, 0, 2, a, 2, 0, 0, 0), HYB_OK);
    CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a, 4, 2, a, 2, labels, 0, 0), HYB_OK);
    CHECK_STATUS(hyb_cuda_synchronize(cuda, 0), HYB_OK);
    for (size_t i = 0; i < 8; ++i) { /* as points, and the first four as centroids, too */
        float bad[8];
        memcpy(bad, values, sizeof bad);
        bad[i] = i % 2 == 0 ? NAN : -INFINITY;
        hyb_device_address with = on_device(&f, bad, sizeof bad);
        CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, with, 4, 2, a, 2, labels, 0, 0), HYB_OK);
        CHECK_STATUS(hyb_cuda_synchronize(cuda, 0), HYB_ERROR_NOT_FINITE);
        CHECK_STATUS(hyb_cuda_cluster_nearest(cuda, a, 4, 2, with, 2, labels, 0, 0), HYB_OK);
        CHECK_STATUS(hyb_cuda_synchronize(cuda, 0), i < 4 ? HYB_ERROR_NOT_FINITE : HYB_OK);
        free_device(&f, with);
    }
    free_device(&f, a);
    free_device(&f, labels);
    close_fixture(&f);
}

/* ---- K-means ---- */

typedef struct outcome {
    hyb_kmeans_result result;
    float *centroids;
    int32_t *labels;
} outcome;

static outcome new_outcome(const float *start, size_t n, size_t d, size_t k) {
    outcome o = {{0, 0, 0, 0}, host_memory(k * d, sizeof(float)), host_memory(n, sizeof(int32_t))};
    memcpy(o.centroids, start, k * d * sizeof *start);
    return o;
}

static void free_outcome(outcome *o) {
    free(o->centroids);
    free(o->labels);
}

static void check_kmeans(fixture *f, const float *points, size_t n, size_t d, const float *start,
                         const hyb_kmeans_options *options) {
    const size_t k = options->n_clusters;
    outcome cpu = new_outcome(start, n, d, k), gpu = new_outcome(start, n, d, k);
    CHECK_STATUS(hyb_kmeans_f32(f->ctx, options, points, n, d, NULL, cpu.centroids, cpu.labels, &cpu.result), HYB_OK);
    hyb_device_address on_points = on_device(f, points, n * d * sizeof *points);
    hyb_device_address on_centroids = on_device(f, start, k * d * sizeof *start);
    hyb_device_address on_labels = on_device(f, NULL, n * sizeof(int32_t));
    CHECK_STATUS(hyb_cuda_kmeans(f->cuda, options, on_points, n, d, on_centroids, on_labels, &gpu.result, 0), HYB_OK);
    from_device(f, on_centroids, gpu.centroids, k * d * sizeof(float));
    from_device(f, on_labels, gpu.labels, n * sizeof(int32_t));
    CHECK(memcmp(gpu.centroids, cpu.centroids, k * d * sizeof(float)) == 0);
    CHECK(memcmp(gpu.labels, cpu.labels, n * sizeof(int32_t)) == 0);
    CHECK(gpu.result.inertia == cpu.result.inertia && gpu.result.n_iterations == cpu.result.n_iterations);
    CHECK(gpu.result.n_empty == cpu.result.n_empty && gpu.result.converged == cpu.result.converged);
    if (gpu.result.n_iterations != cpu.result.n_iterations || gpu.result.inertia != cpu.result.inertia ||
        gpu.result.n_empty != cpu.result.n_empty) {
        fprintf(stderr, "  n %zu, d %zu, k %zu: %u iterations, inertia %.17g, %u empty; CPU %u, %.17g, %u\n", n, d, k,
                gpu.result.n_iterations, gpu.result.inertia, gpu.result.n_empty, cpu.result.n_iterations,
                cpu.result.inertia, cpu.result.n_empty);
    }
    free_device(f, on_points);
    free_device(f, on_centroids);
    free_device(f, on_labels);
    free_outcome(&cpu);
    free_outcome(&gpu);
}

static hyb_kmeans_options options_of(size_t k) {
    hyb_kmeans_options options = {.struct_size = sizeof options, .n_clusters = (uint32_t)k, .init = HYB_KMEANS_GIVEN};
    options.max_iterations = 300;
    options.tolerance = 1e-4;
    return options;
}

static void test_kmeans_shapes(void) {
    fixture f = open_fixture();
    static const size_t shapes[][3] = {{50, 1, 3},  {300, 1, 9},   {520, 2, 5},   {130, 3, 1},
                                       {90, 5, 90}, {257, 33, 12}, {200, 70, 66}, {150, 140, 3}};
    uint64_t state = 4;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
        const size_t n = shapes[s][0], d = shapes[s][1], k = shapes[s][2];
        float *points = make_points(&state, n, d, k, 0.7f), *start = take_start(points, n, d, k);
        hyb_kmeans_options options = options_of(k);
        options.tolerance = s % 2 == 0 ? 1e-4 : 0;
        options.max_iterations = s % 2 == 0 ? 12 : (uint32_t)(s / 2 + 1); /* some converge, some do not */
        check_kmeans(&f, points, n, d, start, &options);
        free(points);
        free(start);
    }
    close_fixture(&f);
}

/* Several chunks of sums, several tiles of the sort, and labels of more than 8 bits. */
static void test_kmeans_chunks(void) {
    fixture f = open_fixture();
    static const size_t shapes[][3] = {{4500, 3, 6}, {5000, 1, 20}, {900, 2, 300}};
    uint64_t state = 5;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
        const size_t n = shapes[s][0], d = shapes[s][1], k = shapes[s][2];
        float *points = make_points(&state, n, d, k, 1.0f), *start = take_start(points, n, d, k);
        hyb_kmeans_options options = options_of(k);
        options.max_iterations = 2;
        check_kmeans(&f, points, n, d, start, &options);
        free(points);
        free(start);
    }
    close_fixture(&f);
}

/* Starts of which some are the same or far away: clusters without a point. Also fewer different points than clusters.
 */
static void test_kmeans_empty_clusters(void) {
    fixture f = open_fixture();
    uint64_t state = 6;
    for (size_t d = 1; d <= 9; d += 4) {
        const size_t n = 90, k = 8;
        float *points = make_points(&state, n, d, 4, 0.8f), *start = take_start(points, n, d, k);
        hyb_kmeans_options options = options_of(k);
        for (size_t c = 1; c < k; c += 2) memcpy(start + c * d, start, d * sizeof *start);
        start[4 * d] = 1000;
        options.max_iterations = d == 5 ? 1 : 3;
        check_kmeans(&f, points, n, d, start, &options);
        for (size_t i = 0; i < n * d; ++i) points[i] = (float)(i / d % 3);
        check_kmeans(&f, points, n, d, start, &options);
        for (size_t i = 0; i < n * d; ++i) points[i] = 2.5f;
        check_kmeans(&f, points, n, d, start, &options);
        free(points);
        free(start);
    }
    close_fixture(&f);
}

static int stop_at_two(void *user, uint32_t iteration, double shift) {
    *(double *)user = shift;
    return iteration == 2;
}

static void test_kmeans_reports(void) {
    fixture f = open_fixture();
    uint64_t state = 7;
    const size_t n = 300, d = 3, k = 6;
    float *points = make_points(&state, n, d, 3, 1.5f), *start = take_start(points, n, d, k), after[18];
    hyb_device_address on_points = on_device(&f, points, n * d * sizeof *points);
    hyb_device_address on_centroids = on_device(&f, start, k * d * sizeof *start);
    hyb_kmeans_options options = options_of(k);
    double shift = -1, cpu_shift = -1;
    options.on_iteration = stop_at_two;
    options.user = &shift;
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, on_points, n, d, on_centroids, 0, NULL, 0), HYB_ERROR_CANCELLED);
    from_device(&f, on_centroids, after, sizeof after);
    CHECK(memcmp(after, start, sizeof after) == 0);
    options.user = &cpu_shift;
    CHECK_STATUS(hyb_kmeans_f32(f.ctx, &options, points, n, d, NULL, after, NULL, NULL), HYB_ERROR_CANCELLED);
    CHECK(shift > 0 && fabs(shift - cpu_shift) <= 1e-12 * cpu_shift);
    free_device(&f, on_points);
    free_device(&f, on_centroids);
    free(points);
    free(start);
    close_fixture(&f);
}

static void test_kmeans_bad_arguments(void) {
    fixture f = open_fixture();
    float values[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    hyb_device_address a = on_device(&f, values, sizeof values), c = on_device(&f, values, sizeof values);
    hyb_kmeans_options options = options_of(2), other = options;
    CHECK_STATUS(hyb_cuda_kmeans(NULL, &options, a, 6, 2, c, 0, NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, NULL, a, 6, 2, c, 0, NULL, 0), HYB_ERROR_INVALID_ARGUMENT); /* 8 clusters */
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, 0, 6, 2, c, 0, NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, a, 6, 2, 0, 0, NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, a, 0, 2, c, 0, NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, a, 6, 0, c, 0, NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, a, 1, 2, c, 0, NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, a, 6, 2, c, 2, NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    other.struct_size = 0;
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &other, a, 6, 2, c, 0, NULL, 0), HYB_ERROR_STRUCT_SIZE);
    other = options;
    other.tolerance = -1;
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &other, a, 6, 2, c, 0, NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    other = options;
    other.init = HYB_KMEANS_PLUS_PLUS;
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &other, a, 6, 2, c, 0, NULL, 0), HYB_ERROR_UNSUPPORTED);
    other = options;
    other.batch_size = 2;
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &other, a, 6, 2, c, 0, NULL, 0), HYB_ERROR_UNSUPPORTED);
    for (size_t i = 0; i < 12; i += 3) {
        float bad[12];
        memcpy(bad, values, sizeof bad);
        bad[i] = i % 2 == 0 ? NAN : INFINITY;
        hyb_device_address with = on_device(&f, bad, sizeof bad);
        CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, with, 6, 2, c, 0, NULL, 0), HYB_ERROR_NOT_FINITE);
        CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, with, 12, 1, c, 0, NULL, 0), HYB_ERROR_NOT_FINITE);
        CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, a, 6, 2, with, 0, NULL, 0),
                     i < 4 ? HYB_ERROR_NOT_FINITE : HYB_OK);
        free_device(&f, with);
    }
    CHECK_STATUS(hyb_cuda_kmeans(f.cuda, &options, a, 6, 2, c, 0, NULL, 0), HYB_OK);
    CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_OK);
    free_device(&f, a);
    free_device(&f, c);
    close_fixture(&f);
}

int main(void) {
    test_nearest_shapes();
    test_nearest_tiles();
    test_nearest_hard();
    test_nearest_bad_arguments();
    test_kmeans_shapes();
    test_kmeans_chunks();
    test_kmeans_empty_clusters();
    test_kmeans_reports();
    test_kmeans_bad_arguments();
    return TEST_RESULT();
}
