/* check_cluster.c - the kernels of K-means of every tier against the portable ones: EXACT ones bit by bit; labels of
 * the others where rounding cannot decide, their doubts where it can, and their bounds against distances in double
 * precision. Sizes are odd, buffers end at unreadable pages. With --bench: share of the multiply-add peak of each tier.
 */
#include "testing.h"

#include <math.h>
#include <time.h>

#include "common.h"

typedef struct tier {
    const char *name;
    hyb_kernels kernels;
} tier;

static size_t make_tiers(tier *tiers) {
    size_t n = 0;
    hyb_kernels_select(&tiers[n].kernels, 0);
    tiers[n++].name = "scalar";
#if HYB_X86
    uint32_t isa = hyb_isa_detect();
    if (isa & HYB_ISA_AVX2) {
        tiers[n] = tiers[0];
        tiers[n].name = "avx2";
        hyb_install_cluster_avx2(&tiers[n++].kernels);
    }
    if (isa & HYB_ISA_AVX512) {
        tiers[n] = tiers[0];
        tiers[n].name = "avx512";
        hyb_install_cluster_avx512(&tiers[n++].kernels);
    }
#elif HYB_ARM64
    tiers[n] = tiers[0];
    tiers[n].name = "neon";
    hyb_install_cluster_neon(&tiers[n++].kernels);
#endif
    return n;
}

/* The kernels of one type. */
typedef struct kernels_of_type {
    size_t bytes;
    void (*pack)(const void *const *rows, size_t n, size_t d, const void *centre, void *panel);
    void (*add)(double *sums, size_t d, const void *rows, const int32_t *labels, const void *weights, size_t n);
    double (*distance)(const void *a, const void *b, size_t n);
    void (*nearest)(const hyb_cluster_job *job);
    void (*candidates)(const hyb_cluster_job *job);
} kernels_of_type;

static kernels_of_type kernels_of(const tier *t, int is_double) {
    const hyb_kernels *k = &t->kernels;
    kernels_of_type f32 = {sizeof(float),           k->cluster_pack_f32,    k->cluster_add_f32,
                           k->cluster_distance_f32, k->cluster_nearest_f32, k->cluster_candidates_f32};
    kernels_of_type f64 = {sizeof(double),          k->cluster_pack_f64,    k->cluster_add_f64,
                           k->cluster_distance_f64, k->cluster_nearest_f64, k->cluster_candidates_f64};
    return is_double ? f64 : f32;
}

static double get(const void *array, size_t bytes, size_t i) {
    return bytes == sizeof(float) ? (double)((const float *)array)[i] : ((const double *)array)[i];
}
static void put(void *array, size_t bytes, size_t i, double value) {
    if (bytes == sizeof(float)) {
        ((float *)array)[i] = (float)value;
    } else {
        ((double *)array)[i] = value;
    }
}

/* n values in a buffer that ends at an unreadable page; a third are whole numbers, so that ties happen. */
static void *random_values(size_t n, size_t bytes, int whole, uint64_t *state) {
    void *values = test_guarded_alloc(n * bytes);
    for (size_t i = 0; i < n; ++i) {
        double value = 3 * (double)test_random_float(state);
        put(values, bytes, i, whole ? floor(value) : value);
    }
    return values;
}

/* ---- EXACT ---- */

static void check_distance(const tier *tiers, size_t n_tiers, int is_double, size_t n, uint64_t *state) {
    const size_t bytes = is_double ? sizeof(double) : sizeof(float);
    void *a = random_values(n, bytes, 0, state), *b = random_values(n, bytes, 0, state);
    double expected = kernels_of(&tiers[0], is_double).distance(a, b, n), sum = 0;
    for (size_t i = 0; i < n; ++i) sum += (get(a, bytes, i) - get(b, bytes, i)) * (get(a, bytes, i) - get(b, bytes, i));
    CHECK(fabs(sum - expected) <= 1e-14 * sum);
    for (size_t t = 1; t < n_tiers; ++t) CHECK(kernels_of(&tiers[t], is_double).distance(a, b, n) == expected);
    test_guarded_free(a, n * bytes);
    test_guarded_free(b, n * bytes);
}

static void check_add(const tier *tiers, size_t n_tiers, int is_double, size_t d, size_t n, uint64_t *state) {
    const size_t bytes = is_double ? sizeof(double) : sizeof(float), k = 5;
    void *rows = random_values(n * d, bytes, 0, state), *weights = random_values(n, bytes, 0, state);
    int32_t *labels = test_guarded_alloc(n * sizeof *labels);
    double *expected = test_guarded_alloc(k * d * sizeof(double)), *actual = test_guarded_alloc(k * d * sizeof(double));
    for (size_t i = 0; i < n; ++i) labels[i] = (int32_t)test_random_below(state, k);
    for (size_t t = 1; t < n_tiers; ++t) {
        for (int weighted = 0; weighted < 2; ++weighted) {
            for (size_t i = 0; i < k * d; ++i) expected[i] = actual[i] = (double)i;
            kernels_of(&tiers[0], is_double).add(expected, d, rows, labels, weighted ? weights : NULL, n);
            kernels_of(&tiers[t], is_double).add(actual, d, rows, labels, weighted ? weights : NULL, n);
            CHECK(memcmp(expected, actual, k * d * sizeof(double)) == 0);
        }
    }
    test_guarded_free(rows, n * d * bytes);
    test_guarded_free(weights, n * bytes);
    test_guarded_free(labels, n * sizeof *labels);
    test_guarded_free(expected, k * d * sizeof(double));
    test_guarded_free(actual, k * d * sizeof(double));
}

static void check_pack(const tier *tiers, size_t n_tiers, int is_double, size_t d, size_t n, uint64_t *state) {
    const size_t bytes = is_double ? sizeof(double) : sizeof(float), panel_bytes = (d + 1) * HYB_CLUSTER_PANEL * bytes;
    void *values = random_values(n * d, bytes, 0, state), *centre = random_values(d, bytes, 0, state);
    void *expected = test_guarded_alloc(panel_bytes), *actual = test_guarded_alloc(panel_bytes);
    const void *rows[HYB_CLUSTER_PANEL];
    for (size_t i = 0; i < n; ++i) rows[i] = (const char *)values + (n - 1 - i) * d * bytes;
    kernels_of(&tiers[0], is_double).pack(rows, n, d, centre, expected);
    CHECK(get(expected, bytes, 0) == get(values, bytes, (n - 1) * d) - get(centre, bytes, 0) || bytes == sizeof(float));
    for (size_t t = 1; t < n_tiers; ++t) {
        memset(actual, 0xa5, panel_bytes);
        kernels_of(&tiers[t], is_double).pack(rows, n, d, centre, actual);
        CHECK(memcmp(expected, actual, panel_bytes) == 0);
    }
    test_guarded_free(values, n * d * bytes);
    test_guarded_free(centre, d * bytes);
    test_guarded_free(expected, panel_bytes);
    test_guarded_free(actual, panel_bytes);
}

/* ---- RELAXED ---- */

typedef struct problem {
    size_t bytes, n_panels, d, k;
    void *panels, *centroids, *rows, *offsets; /* centroids: in blocks; rows: [k][d] */
    hyb_cluster_job job;
} problem;

static size_t panel_size(const problem *p) { return (p->d + 1) * HYB_CLUSTER_PANEL; }
static size_t n_points(const problem *p) { return p->n_panels * HYB_CLUSTER_PANEL; }
static double coordinate(const problem *p, size_t i, size_t j) {
    return get(p->panels, p->bytes,
               i / HYB_CLUSTER_PANEL * panel_size(p) + j * HYB_CLUSTER_PANEL + i % HYB_CLUSTER_PANEL);
}

static void problem_make(problem *p, int is_double, size_t n_panels, size_t d, size_t k, int whole, uint64_t *state) {
    const size_t n_blocks = hyb_ceil_div(k, HYB_CLUSTER_TILE);
    double radius = 0;
    p->bytes = is_double ? sizeof(double) : sizeof(float);
    p->n_panels = n_panels;
    p->d = d;
    p->k = k;
    p->panels = random_values(n_panels * panel_size(p), p->bytes, whole, state);
    p->rows = random_values(k * d, p->bytes, whole, state);
    p->centroids = test_guarded_alloc(k * d * p->bytes);
    p->offsets = test_guarded_alloc(k * p->bytes);
    for (size_t i = 0; i < n_points(p); ++i) {
        double square = 0;
        for (size_t j = 0; j < d; ++j) square += coordinate(p, i, j) * coordinate(p, i, j);
        put(p->panels, p->bytes, i / HYB_CLUSTER_PANEL * panel_size(p) + d * HYB_CLUSTER_PANEL + i % HYB_CLUSTER_PANEL,
            sqrt(square));
    }
    for (size_t b = 0, first = 0; b < n_blocks; ++b) {
        size_t size = k / n_blocks + (b < k % n_blocks);
        for (size_t c = 0; c < size; ++c) {
            double square = 0;
            for (size_t j = 0; j < d; ++j) {
                double x = get(p->rows, p->bytes, (first + c) * d + j);
                put(p->centroids, p->bytes, first * d + j * size + c, x);
                square += x * x;
            }
            put(p->offsets, p->bytes, first + c, -0.5 * square);
            radius = fmax(radius, sqrt(square));
        }
        first += size;
    }
    const double rate = 1.01 * ((double)d + 8) * (is_double ? 0x1p-53 : 0x1p-24);
    radius = is_double ? fmax(radius, 4 * sqrt((double)d)) : radius;
    p->job = (hyb_cluster_job){
        .panels = p->panels, .n_panels = n_panels, .d = d, .centroids = p->centroids, .offsets = p->offsets, .k = k};
    p->job.error_norm = rate * radius;
    p->job.error_constant = rate * radius * radius;
    p->job.error_square = rate;
}

static void problem_free(problem *p) {
    test_guarded_free(p->panels, p->n_panels * panel_size(p) * p->bytes);
    test_guarded_free(p->rows, p->k * p->d * p->bytes);
    test_guarded_free(p->centroids, p->k * p->d * p->bytes);
    test_guarded_free(p->offsets, p->k * p->bytes);
}

static double distance_to(const problem *p, size_t i, size_t c) {
    double square = 0;
    for (size_t j = 0; j < p->d; ++j) {
        double difference = coordinate(p, i, j) - get(p->rows, p->bytes, c * p->d + j);
        square += difference * difference;
    }
    return square;
}

/* A label without a doubt is the nearest, and bounds hold. Returns the number of doubts. */
static size_t check_nearest(const problem *p, const kernels_of_type *kernels, int with_bounds) {
    const size_t n = n_points(p);
    int32_t *labels = test_guarded_alloc(n * sizeof *labels);
    float *upper = test_guarded_alloc(n * sizeof *upper), *lower = test_guarded_alloc(n * sizeof *lower);
    size_t n_wrong = 0, n_doubts = 0;
    hyb_cluster_job job = p->job;
    job.labels = labels;
    job.lower = lower;
    job.upper = with_bounds ? upper : NULL;
    kernels->nearest(&job);
    for (size_t i = 0; i < n; ++i) {
        size_t nearest = 0;
        double best = HUGE_VAL, second = HUGE_VAL;
        for (size_t c = 0; c < p->k; ++c) {
            double square = distance_to(p, i, c);
            second = fmin(second, fmax(best, square));
            if (square < best) {
                best = square;
                nearest = c;
            }
        }
        if (labels[i] < 0 || (size_t)labels[i] >= p->k) ++n_wrong;
        if (lower[i] == -1.0f) {
            ++n_doubts;
            continue;
        }
        n_wrong += labels[i] != (int32_t)nearest;
        if (with_bounds) n_wrong += !((double)upper[i] >= sqrt(best) && (double)lower[i] <= sqrt(second));
        if (!with_bounds) n_wrong += lower[i] != 0.0f;
    }
    CHECK(n_wrong == 0);
    test_guarded_free(labels, n * sizeof *labels);
    test_guarded_free(upper, n * sizeof *upper);
    test_guarded_free(lower, n * sizeof *lower);
    return n_doubts;
}

static void check_candidates(const problem *p, const kernels_of_type *kernels) {
    const size_t n = n_points(p), ld = n + 3;
    float *distances = test_guarded_alloc(((p->k - 1) * ld + n) * sizeof *distances);
    size_t n_wrong = 0;
    hyb_cluster_job job = p->job;
    job.distances = distances;
    job.ld = ld;
    job.scale = 0.25;
    kernels->candidates(&job);
    for (size_t c = 0; c < p->k; ++c) {
        for (size_t i = 0; i < n; ++i) {
            double expected = 0.25 * distance_to(p, i, c), actual = (double)distances[c * ld + i];
            n_wrong += actual != -1.0 && !(fabs(actual - expected) <= 0.04 * expected);
            n_wrong += actual == -1.0 && p->bytes == sizeof(float) && expected > 0.01 * (double)p->d;
        }
    }
    CHECK(n_wrong == 0);
    test_guarded_free(distances, ((p->k - 1) * ld + n) * sizeof *distances);
}

static void check_sizes(const tier *tiers, size_t n_tiers, int is_double, uint64_t *state) {
    static const size_t dims[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 129};
    size_t n_doubts = 0, n_all = 0;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; ++i) {
        check_distance(tiers, n_tiers, is_double, dims[i], state);
        check_add(tiers, n_tiers, is_double, dims[i], 1 + test_random_below(state, 40), state);
        check_pack(tiers, n_tiers, is_double, dims[i], 1 + test_random_below(state, 32), state);
        check_pack(tiers, n_tiers, is_double, dims[i], HYB_CLUSTER_PANEL, state);
        for (size_t k = 1; k <= 40; k += k < 26 ? 1 : 7) {
            problem p;
            problem_make(&p, is_double, 1 + test_random_below(state, 3), dims[i], k, k % 3 == 0, state);
            for (size_t t = 0; t < n_tiers; ++t) {
                kernels_of_type kernels = kernels_of(&tiers[t], is_double);
                size_t doubts = check_nearest(&p, &kernels, k % 2 == 0);
                if (k % 3 != 0 && dims[i] > 1) {
                    n_doubts += doubts;
                    n_all += n_points(&p);
                }
                if (k <= HYB_CLUSTER_TILE) check_candidates(&p, &kernels);
            }
            problem_free(&p);
        }
    }
    CHECK(n_doubts * 100 <= n_all); /* doubts are rare where there are no ties */
}

/* Many centroids: more than one group of blocks. */
static void check_groups(const tier *tiers, size_t n_tiers, uint64_t *state) {
    problem p;
    problem_make(&p, 0, HYB_CLUSTER_JOB_PANELS, 200, 900, 0, state);
    for (size_t t = 1; t < n_tiers; ++t) {
        kernels_of_type kernels = kernels_of(&tiers[t], 0);
        check_nearest(&p, &kernels, 1);
    }
    problem_free(&p);
}

/* ---- --bench ---- */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void bench(const tier *tiers, size_t n_tiers) {
    static const size_t sizes[][2] = {{64, 10}, {128, 64}, {32, 256}, {32, 32}, {256, 1024}, {2, 8}};
    static int32_t labels[HYB_CLUSTER_JOB_PANELS * 32];
    static float upper[HYB_CLUSTER_JOB_PANELS * 32], lower[HYB_CLUSTER_JOB_PANELS * 32];
    uint64_t state = 3;
    for (int is_double = 0; is_double < 2; ++is_double) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s) {
            problem p;
            problem_make(&p, is_double, HYB_CLUSTER_JOB_PANELS, sizes[s][0], sizes[s][1], 0, &state);
            p.job.labels = labels;
            p.job.lower = lower;
            for (size_t t = 1; t < n_tiers; ++t) {
                kernels_of_type kernels = kernels_of(&tiers[t], is_double);
                printf("%-7s %s d %3zu k %4zu:", tiers[t].name, is_double ? "f64" : "f32", p.d, p.k);
                for (int bounds = 0; bounds < 2; ++bounds) {
                    double operations = 2.0 * (double)n_points(&p) * (double)(p.d * p.k), best = HUGE_VAL;
                    size_t turns = (size_t)(2e8 / operations) + 1;
                    p.job.upper = bounds ? upper : NULL;
                    for (int round = 0; round < 7; ++round) {
                        double start = seconds();
                        for (size_t turn = 0; turn < turns; ++turn) kernels.nearest(&p.job);
                        best = fmin(best, (seconds() - start) / (double)turns);
                    }
                    printf(" %s %6.1f GFLOP/s", bounds ? "with bounds" : "nearest", operations / best * 1e-9);
                }
                printf("\n");
            }
            problem_free(&p);
        }
    }
}

int main(int argc, char **argv) {
    tier tiers[8];
    const size_t n_tiers = make_tiers(tiers);
    uint64_t state = 1;
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench(tiers, n_tiers);
        return 0;
    }
    check_sizes(tiers, n_tiers, 0, &state);
    check_sizes(tiers, n_tiers, 1, &state);
    check_groups(tiers, n_tiers, &state);
    return TEST_RESULT();
}
