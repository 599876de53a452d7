/* test_optimize.c - products, orthogonalised matrices, norms and AdamW on the device against the CPU's. The steps of a
 * trust region: test_trust_region.c (in this folder).
 */
#include "cuda_fixture.h"

#include <dlfcn.h>
#include <math.h>

#include "singular_values.h"

static float *random_floats(size_t n, float size, uint64_t *state) {
    float *x = host_memory(n, sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = test_random_float(state) * size;
    return x;
}

/* ---- products ---- */

/* One product with gaps between rows; the bound of k roundings on each side, and of the sum with C. */
static void check_gemm(fixture *f, hyb_transpose transpose, size_t m, size_t n, size_t k, int accumulate) {
    uint64_t state = m * 31 + n * 7 + k;
    size_t a_rows = transpose == HYB_GEMM_TN ? k : m, a_cols = transpose == HYB_GEMM_TN ? m : k;
    size_t b_rows = transpose == HYB_GEMM_NT ? n : k, b_cols = transpose == HYB_GEMM_NT ? k : n;
    size_t lda = a_cols + 3, ldb = b_cols + 1, ldc = n + 2;
    float *a = random_floats(a_rows * lda, 1.0f, &state), *b = random_floats(b_rows * ldb, 1.0f, &state);
    float *before = random_floats(m * ldc, 1.0f, &state), *c = host_memory(m * ldc, sizeof *c);
    hyb_device_address da = on_device(f, a, a_rows * lda * sizeof *a), db = on_device(f, b, b_rows * ldb * sizeof *b);
    hyb_device_address dc = on_device(f, before, m * ldc * sizeof *c);
    CHECK_OK(hyb_cuda_gemm(f->cuda, transpose, m, n, k, da, lda, db, ldb, accumulate, dc, ldc, 0));
    from_device(f, dc, c, m * ldc * sizeof *c);
    size_t n_wrong = 0;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < ldc; j++) {
            double sum = accumulate ? (double)before[i * ldc + j] : 0.0, size = fabs(sum);
            for (size_t l = 0; j < n && l < k; l++) {
                double product = (double)a[transpose == HYB_GEMM_TN ? l * lda + i : i * lda + l] *
                                 (double)b[transpose == HYB_GEMM_NT ? j * ldb + l : l * ldb + j];
                sum += product;
                size += fabs(product);
            }
            if (j >= n)
                n_wrong += c[i * ldc + j] != before[i * ldc + j]; /* between rows */
            else
                n_wrong += !(fabs((double)c[i * ldc + j] - sum) <= ldexp((double)(k + 2) * size, -24));
        }
    CHECK(n_wrong == 0);
    free_device(f, da);
    free_device(f, db);
    free_device(f, dc);
    free(a);
    free(b);
    free(before);
    free(c);
}

static void test_gemm(void) {
    fixture f = open_fixture();
    static const size_t shapes[][3] = {{1, 1, 1},   {1, 1, 0},    {5, 3, 7},      {64, 64, 8}, {65, 130, 33},
                                       {3, 200, 9}, {130, 2, 17}, {130, 400, 12}, {0, 3, 4},   {7, 0, 2}};
    for (int transpose = 0; transpose < 3; transpose++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            check_gemm(&f, (hyb_transpose)transpose, shapes[i][0], shapes[i][1], shapes[i][2],
                       i % 2 == (size_t)transpose % 2);
    float x[4] = {1, 2, 3, 4};
    hyb_device_address d = on_device(&f, x, sizeof x);
    CHECK_STATUS(hyb_cuda_gemm(NULL, HYB_GEMM_NN, 1, 1, 1, d, 1, d, 1, 0, d, 1, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_gemm(f.cuda, (hyb_transpose)3, 1, 1, 1, d, 1, d, 1, 0, d, 1, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_gemm(f.cuda, HYB_GEMM_NN, 1, 2, 1, d, 1, d, 1, 0, d, 2, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_gemm(f.cuda, HYB_GEMM_NN, 1, 1, 1, 0, 1, d, 1, 0, d, 1, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_gemm(f.cuda, HYB_GEMM_NN, 1, 1, 1, d, 1, d + 2, 1, 0, d, 1, 0), HYB_ERROR_INVALID_ARGUMENT);
    free_device(&f, d);
    close_fixture(&f);
}

/* Where fake_cublas.c is the library, products went through it. */
static void test_gemm_library(void) {
    const char *path = getenv("HYB_CUBLAS_LIBRARY");
    if (path == NULL || strstr(path, "fake_cublas") == NULL) return;
    void *library = dlopen(path, RTLD_NOW);
    const int *n_products = library != NULL ? dlsym(library, "fake_cublas_products") : NULL;
    CHECK(n_products != NULL && *n_products > 0);
}

/* ---- orthogonalised matrices ---- */

/* Singular values in fp64 of what comes out, as the CPU's test has them; beside the CPU's result the difference: a
 * rounding of 2^-24 of the largest value, in each of some 20 products, grows no more than the smallest values do. */
static void check_orthogonal(fixture *f, size_t n_rows, size_t n_cols, float size, uint64_t *state) {
    size_t n = n_rows * n_cols, m = n_rows < n_cols ? n_rows : n_cols;
    float *x = random_floats(n, size, state), *out = host_memory(n, sizeof *out),
          *expected = host_memory(n, sizeof *out);
    hyb_device_address d = on_device(f, x, n * sizeof *x), bound_at = on_device(f, NULL, sizeof(double));
    double bound = 0.0, cpu_bound = 0.0, largest, smallest = HUGE_VAL, most = 0.0, total = 0.0, first = HUGE_VAL;
    CHECK_OK(hyb_cuda_spectral_bound(f->cuda, n_rows, n_cols, d, bound_at, 0));
    CHECK_OK(hyb_cuda_orthogonalize(f->cuda, n_rows, n_cols, d, d, 0));
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    from_device(f, d, out, n * sizeof *out);
    from_device(f, bound_at, &bound, sizeof bound);
    CHECK_OK(hyb_orthogonalize(f->ctx, n_rows, n_cols, x, expected));
    CHECK_OK(hyb_spectral_bound(f->ctx, n_rows, n_cols, x, &cpu_bound));
    double *values = host_memory(n, sizeof *values), *singular = host_memory(m, sizeof *singular);
    for (size_t i = 0; i < n; i++) values[i] = (double)x[i];
    largest = largest_of(n_rows, n_cols, values);
    singular_values(n_rows, n_cols, values, singular);
    for (size_t i = 0; i < m; i++) {
        total += singular[i] * singular[i];
        first = fmin(first, singular[i]);
    }
    CHECK(bound >= largest * (1.0 - 1e-9));
    CHECK(bound <= largest * (size == 1.0f ? 1.06 : sqrt((double)m)));
    CHECK(fabs(bound - cpu_bound) <= 1e-5 * cpu_bound); /* the rounding that the margin covers */
    for (size_t i = 0; i < n; i++) values[i] = (double)out[i];
    singular_values(n_rows, n_cols, values, singular);
    for (size_t i = 0; i < m; i++) {
        smallest = fmin(smallest, singular[i]);
        most = fmax(most, singular[i]);
    }
    CHECK(most <= 1.0 + 1e-5);
    CHECK(smallest >= 0.85 || first < 2e-3 * sqrt(total));
    double difference = 0.0, condition = largest / first;
    for (size_t i = 0; i < n; i++) difference += pow((double)out[i] - (double)expected[i], 2.0);
    CHECK(sqrt(difference) <= ldexp(20.0 * sqrt((double)m) * condition, -24) * 4.0);
    free_device(f, d);
    free_device(f, bound_at);
    free(x);
    free(out);
    free(expected);
    free(values);
    free(singular);
}

static void test_orthogonalize(void) {
    fixture f = open_fixture();
    static const size_t shapes[][2] = {{1, 1},   {1, 9},   {7, 1},   {5, 3},   {17, 40},
                                       {40, 17}, {33, 33}, {66, 70}, {140, 70}};
    static const float sizes[] = {1.0f, 1e-30f, 1e30f};
    uint64_t state = 11;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 0; k < (i < 7 ? 3 : 1); k++) check_orthogonal(&f, shapes[i][0], shapes[i][1], sizes[k], &state);
    close_fixture(&f);
}

/* Zeros stay zeros; what is not finite is reported; what makes no sense is refused. */
static void test_orthogonalize_edges(void) {
    fixture f = open_fixture();
    float zeros[6] = {0.0f, -0.0f}, out[6], bad[6] = {1, 2, NAN, 4, 5, 6};
    double bound = 1.0;
    hyb_device_address d = on_device(&f, zeros, sizeof zeros), b = on_device(&f, NULL, sizeof bound);
    CHECK_OK(hyb_cuda_spectral_bound(f.cuda, 2, 3, d, b, 0));
    CHECK_OK(hyb_cuda_orthogonalize(f.cuda, 2, 3, d, d, 0));
    CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
    from_device(&f, d, out, sizeof out);
    from_device(&f, b, &bound, sizeof bound);
    for (size_t i = 0; i < 6; i++) CHECK(out[i] == 0.0f);
    CHECK(bound == 0.0);
    for (int k = 0; k < 2; k++) {
        if (k == 1) bad[2] = -INFINITY;
        CHECK_OK(hyb_cuda_upload(f.cuda, bad, sizeof bad, d, 0));
        CHECK_OK(hyb_cuda_spectral_bound(f.cuda, 2, 3, d, b, 0));
        CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_NOT_FINITE);
        CHECK_OK(hyb_cuda_orthogonalize(f.cuda, 3, 2, d, d, 0));
        CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_NOT_FINITE);
    }
    CHECK_STATUS(hyb_cuda_orthogonalize(NULL, 2, 2, d, d, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_orthogonalize(f.cuda, 0, 2, d, d, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_orthogonalize(f.cuda, SIZE_MAX / 2, 2, d, d, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_orthogonalize(f.cuda, 2, 2, 0, d, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_orthogonalize(f.cuda, 2, 2, d, d + 1, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_spectral_bound(f.cuda, 2, 2, d, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_spectral_bound(f.cuda, 2, 2, d, b + 4, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_spectral_bound(NULL, 2, 2, d, b, 0), HYB_ERROR_INVALID_ARGUMENT);
    free_device(&f, d);
    free_device(&f, b);
    close_fixture(&f);
}

/* ---- norms ---- */

typedef struct ball {
    hyb_device_address norm, is_active;
} ball;

/* A vector of floats (is_f64 0) or doubles: the CPU's bits, in place and not, and a norm within the radius. */
static void check_ball(fixture *f, const ball *at, int is_f64, double radius, size_t n, const void *x) {
    size_t size = is_f64 ? sizeof(double) : sizeof(float);
    void *out = host_memory(n, size), *expected = host_memory(n, size);
    hyb_device_address from = on_device(f, x, n * size), to = on_device(f, NULL, n * size);
    double norm[2] = {-1, -1}, sum = 0.0;
    int32_t is_active[2] = {-1, -1};
    for (int in_place = 0; in_place < 2; in_place++) {
        hyb_device_address target = in_place ? from : to;
        if (is_f64) {
            CHECK_OK(hyb_cuda_constrain_norm_f64(f->cuda, radius, n, from, target, at->norm, at->is_active, 0));
            CHECK_OK(hyb_constrain_norm_f64(f->ctx, radius, n, x, expected, &norm[1], &is_active[1]));
        } else {
            CHECK_OK(hyb_cuda_constrain_norm_f32(f->cuda, radius, n, from, target, at->norm, at->is_active, 0));
            CHECK_OK(hyb_constrain_norm_f32(f->ctx, radius, n, x, expected, &norm[1], &is_active[1]));
        }
        CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
        from_device(f, target, out, n * size);
        from_device(f, at->norm, &norm[0], sizeof norm[0]);
        from_device(f, at->is_active, &is_active[0], sizeof is_active[0]);
        CHECK(n == 0 || memcmp(out, expected, n * size) == 0);
        CHECK(norm[0] == norm[1] && is_active[0] == is_active[1]);
    }
    for (size_t i = 0; i < n; i++) {
        double value = is_f64 ? ((double *)out)[i] : (double)((float *)out)[i];
        sum += value / radius * (value / radius);
    }
    if (radius > 0.0 && radius < 1e300) CHECK(sqrt(sum) <= 1.0 + 1e-12 || !is_active[0]);
    free_device(f, from);
    free_device(f, to);
    free(out);
    free(expected);
}

static void test_constrain_norm(void) {
    fixture f = open_fixture();
    static const size_t lengths[] = {0, 1, 15, 16, 17, 1023, 1025, 65536, 65537, 140001};
    static const double radii[] = {0.0, 1e-3, 1.0, 20.0, HUGE_VAL};
    const ball at = {on_device(&f, NULL, sizeof(double)), on_device(&f, NULL, sizeof(int32_t))};
    uint64_t state = 5;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t n = lengths[i];
        float *x = random_floats(n, 1.0f, &state);
        double *y = host_memory(n, sizeof *y);
        for (size_t k = 0; k < (n > 60000 ? 2 : sizeof radii / sizeof *radii); k++) {
            double radius = n > 60000 ? radii[1 + 2 * k] : radii[k], size = 1.0;
            check_ball(&f, &at, 0, radius, n, x);
            /* Doubles whose squares leave the range of doubles, too: another pass. */
            if (k == 1) size = 1e-200;
            if (k == 2) size = 1e200;
            for (size_t j = 0; j < n; j++) y[j] = (double)x[j] * size;
            check_ball(&f, &at, 1, radius * (k == 1 && n < 60000 ? 1e-200 : 1.0), n, y);
        }
        free(x);
        free(y);
    }
    const double huge[4] = {1.7e308, -1.7e308, 1.6e308, 1.0}, zeros[3] = {0.0, -0.0, 0.0};
    check_ball(&f, &at, 1, 1.0, 4, huge);
    check_ball(&f, &at, 1, HUGE_VAL, 4, huge);
    check_ball(&f, &at, 1, 0.0, 3, zeros);
    free_device(&f, at.norm);
    free_device(&f, at.is_active);
    close_fixture(&f);
}

/* NaN and infinity are reported and change nothing. */
static void test_constrain_norm_not_finite(void) {
    fixture f = open_fixture();
    const double bad[] = {NAN, INFINITY, -INFINITY};
    double norm = 5.0, y[20], y_after[20];
    float x[20], x_after[20];
    hyb_device_address norm_at = on_device(&f, &norm, sizeof norm);
    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < 20; i++) y[i] = (double)(x[i] = i == 17 ? (float)bad[k] : 1.0f);
        hyb_device_address dx = on_device(&f, x, sizeof x), dy = on_device(&f, y, sizeof y);
        CHECK_OK(hyb_cuda_constrain_norm_f32(f.cuda, 1.0, 20, dx, dx, norm_at, 0, 0));
        CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_NOT_FINITE);
        CHECK_OK(hyb_cuda_constrain_norm_f64(f.cuda, 1.0, 20, dy, dy, norm_at, 0, 0));
        CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_NOT_FINITE);
        CHECK_OK(hyb_cuda_sum_squares(f.cuda, dx, 20, norm_at, 0));
        CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_NOT_FINITE);
        from_device(&f, dx, x_after, sizeof x);
        from_device(&f, dy, y_after, sizeof y);
        CHECK(memcmp(x, x_after, sizeof x) == 0 && memcmp(y, y_after, sizeof y) == 0);
        free_device(&f, dx);
        free_device(&f, dy);
    }
    hyb_device_address d = norm_at;
    CHECK_STATUS(hyb_cuda_constrain_norm_f32(NULL, 1.0, 1, d, d, 0, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_constrain_norm_f32(f.cuda, -1.0, 1, d, d, 0, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_constrain_norm_f64(f.cuda, NAN, 1, d, d, 0, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_constrain_norm_f32(f.cuda, 1.0, 1, 0, d, 0, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_constrain_norm_f64(f.cuda, 1.0, 1, d, d + 4, 0, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_constrain_norm_f64(f.cuda, 1.0, 1, d, d, d + 4, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_sum_squares(NULL, d, 1, d, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_sum_squares(f.cuda, d, 1, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_sum_squares(f.cuda, 0, 1, d, 0), HYB_ERROR_INVALID_ARGUMENT);
    free_device(&f, norm_at);
    close_fixture(&f);
}

static void test_sum_squares(void) {
    fixture f = open_fixture();
    static const size_t lengths[] = {0, 1, 17, 1024, 5001, 65536, 131073};
    uint64_t state = 8;
    hyb_device_address at = on_device(&f, NULL, sizeof(double));
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        double sum = -1.0, expected = -2.0;
        float *x = random_floats(lengths[i], 3e38f, &state);
        hyb_device_address d = on_device(&f, x, lengths[i] * sizeof *x);
        CHECK_OK(hyb_cuda_sum_squares(f.cuda, d, lengths[i], at, 0));
        CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
        from_device(&f, at, &sum, sizeof sum);
        CHECK_OK(hyb_sum_squares(f.ctx, x, lengths[i], &expected));
        CHECK(sum == expected);
        free_device(&f, d);
        free(x);
    }
    free_device(&f, at);
    close_fixture(&f);
}

/* ---- AdamW ---- */

typedef struct adam_arrays {
    float *gradient, *weights, *first, *second;
} adam_arrays;

static adam_arrays random_arrays(size_t n, uint64_t seed) {
    adam_arrays a = {random_floats(n, 1.0f, &seed), random_floats(n, 1.0f, &seed), random_floats(n, 0.1f, &seed),
                     random_floats(n, 0.1f, &seed)};
    for (size_t i = 0; i < n; i++) a.second[i] = fabsf(a.second[i]);
    return a;
}

static void free_arrays(adam_arrays *a) {
    free(a->gradient);
    free(a->weights);
    free(a->first);
    free(a->second);
}

/* The header's bound, of all; equality where the CPU has fused multiply-add. Arrays begin `offset` values beyond what
 * 16 bytes divide. */
static void check_adamw(fixture *f, const hyb_adamw *o, size_t n, size_t offset) {
    adam_arrays cpu = random_arrays(n + offset, n), gpu = random_arrays(n + offset, n),
                old = random_arrays(n + offset, n);
    size_t n_bytes = (n + offset) * sizeof(float), shift = offset * sizeof(float), n_far = 0, n_unequal = 0;
    hyb_device_address g = on_device(f, gpu.gradient, n_bytes), w = on_device(f, gpu.weights, n_bytes);
    hyb_device_address m = on_device(f, gpu.first, n_bytes), v = on_device(f, gpu.second, n_bytes);
    CHECK_OK(hyb_cuda_adamw_update(f->cuda, o, n, g + shift, w + shift, m + shift, v + shift, 0));
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    CHECK_OK(hyb_adamw_update(f->ctx, o, n, cpu.gradient + offset, cpu.weights + offset, cpu.first + offset,
                              cpu.second + offset));
    from_device(f, w, gpu.weights, n_bytes);
    from_device(f, m, gpu.first, n_bytes);
    from_device(f, v, gpu.second, n_bytes);
    double correction1 = 1.0 - pow((double)o->beta1, (double)o->step);
    for (size_t i = 0; i < n + offset; i++) {
        double grad = (double)(old.gradient[i] * o->gradient_scale), u = ldexp(1.0, -22);
        double of_first = u * (fabs((double)old.first[i]) + fabs(grad)), second = (double)cpu.second[i];
        double size = sqrt(second / (1.0 - pow((double)o->beta2, (double)o->step))) + (double)o->epsilon;
        double step = (double)o->learning_rate / correction1 / size;
        double of_weight = u * (fabs((double)old.weights[i]) + step * fabs((double)cpu.first[i])) + step * of_first +
                           step * fabs((double)cpu.first[i]) * u;
        n_far += !(fabs((double)gpu.first[i] - (double)cpu.first[i]) <= of_first);
        n_far += !(fabs((double)gpu.second[i] - second) <= u * ((double)old.second[i] + grad * grad));
        n_far += !(fabs((double)gpu.weights[i] - (double)cpu.weights[i]) <= of_weight);
        n_unequal += gpu.first[i] != cpu.first[i] || gpu.second[i] != cpu.second[i] || gpu.weights[i] != cpu.weights[i];
    }
    CHECK(n_far == 0);
    if (hyb_ctx_isa(f->ctx) & (HYB_ISA_AVX2 | HYB_ISA_AVX512)) CHECK(n_unequal == 0);
    free_device(f, g);
    free_device(f, w);
    free_device(f, m);
    free_device(f, v);
    free_arrays(&cpu);
    free_arrays(&gpu);
    free_arrays(&old);
}

static void test_adamw(void) {
    fixture f = open_fixture();
    static const size_t lengths[] = {1, 3, 4, 1023, 1024, 1025, 40003};
    hyb_adamw o = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        o.step = i * i * 10 + 1;
        o.gradient_scale = i % 2 ? 0.37f : 1.0f;
        o.weight_decay = i % 3 ? 0.1f : 0.0f;
        check_adamw(&f, &o, lengths[i], 0);
        check_adamw(&f, &o, lengths[i], 1);
    }
    float x[4] = {1, 2, NAN, 4};
    hyb_device_address d = on_device(&f, x, sizeof x), w = on_device(&f, x, 2 * sizeof *x);
    hyb_device_address m = on_device(&f, x, sizeof x), v = on_device(&f, x, sizeof x);
    CHECK_OK(hyb_cuda_adamw_update(f.cuda, &o, 2, d + 8, w, m, v, 0));
    CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_NOT_FINITE);
    CHECK_OK(hyb_cuda_adamw_update(f.cuda, &o, 0, 0, 0, 0, 0, 0));
    CHECK_STATUS(hyb_cuda_adamw_update(NULL, &o, 4, d, w, m, v, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_adamw_update(f.cuda, NULL, 4, d, w, m, v, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_adamw_update(f.cuda, &o, 4, 0, w, m, v, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_adamw_update(f.cuda, &o, 1, d, w, m, v + 2, 0), HYB_ERROR_INVALID_ARGUMENT);
    o.beta2 = 1.0f;
    CHECK_STATUS(hyb_cuda_adamw_update(f.cuda, &o, 4, d, w, m, v, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(f.ctx), "beta2") != NULL);
    free_device(&f, d);
    free_device(&f, w);
    free_device(&f, m);
    free_device(&f, v);
    close_fixture(&f);
}

int main(void) {
    test_gemm();
    test_gemm_library();
    test_orthogonalize();
    test_orthogonalize_edges();
    test_constrain_norm();
    test_constrain_norm_not_finite();
    test_sum_squares();
    test_adamw();
    return TEST_RESULT();
}
