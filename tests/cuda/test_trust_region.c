/* test_trust_region.c - trust-region steps on the device: each from the same state as the CPU's step
 * (lib/trust_region.h, composed as in lib/nn/update.c), within a bound of its result, and within the ball.
 */
#include "cuda_fixture.h"

#include <math.h>

#include "singular_values.h"

#include "gemm.h"
#include "trust_region.h"

/* A tensor's arrays, in this order: gradient, weights, first and second moment, change, row_moment, spectral_bound. */
enum { GRADIENT, WEIGHTS, FIRST, SECOND, CHANGE, ROW_MOMENT, SPECTRAL_BOUND, N_ARRAYS };

typedef struct tensor {
    size_t n_rows, n_cols, n;
    int kind;
    size_t sizes[N_ARRAYS];
    float *cpu[N_ARRAYS], *gpu[N_ARRAYS], *before; /* gpu: copies; before: weights */
    hyb_device_address device[N_ARRAYS], is_shortened;
} tensor;

static tensor make_tensor(fixture *f, size_t n_rows, size_t n_cols, int kind, uint64_t *state) {
    tensor t = {.n_rows = n_rows, .n_cols = n_cols, .n = n_rows * n_cols, .kind = kind};
    for (int a = 0; a < N_ARRAYS; a++) {
        t.sizes[a] = a == ROW_MOMENT ? n_rows : a == SPECTRAL_BOUND ? 1 : t.n;
        t.cpu[a] = host_memory(t.sizes[a], sizeof(float));
        t.gpu[a] = host_memory(t.sizes[a], sizeof(float));
        t.device[a] = on_device(f, t.cpu[a], t.sizes[a] * sizeof(float));
    }
    t.before = host_memory(t.n, sizeof(float));
    t.is_shortened = on_device(f, NULL, sizeof(int32_t));
    for (size_t i = 0; i < t.n; i++) t.cpu[WEIGHTS][i] = test_random_float(state) * 0.1f;
    CHECK_OK(hyb_cuda_upload(f->cuda, t.cpu[WEIGHTS], t.n * sizeof(float), t.device[WEIGHTS], 0));
    return t;
}

static void free_tensor(fixture *f, tensor *t) {
    for (int a = 0; a < N_ARRAYS; a++) {
        free(t->cpu[a]);
        free(t->gpu[a]);
        free_device(f, t->device[a]);
    }
    free(t->before);
    free_device(f, t->is_shortened);
}

/* New gradients; and the CPU goes on from where the device is. */
static void begin_step(fixture *f, tensor *t, float size, uint64_t *state) {
    for (int a = 0; a < N_ARRAYS; a++) from_device(f, t->device[a], t->cpu[a], t->sizes[a] * sizeof(float));
    for (size_t i = 0; i < t->n; i++) t->cpu[GRADIENT][i] = test_random_float(state) * size;
    CHECK_OK(hyb_cuda_upload(f->cuda, t->cpu[GRADIENT], t->n * sizeof(float), t->device[GRADIENT], 0));
    memcpy(t->before, t->cpu[WEIGHTS], t->n * sizeof(float));
}

static int32_t end_step(fixture *f, tensor *t) {
    int32_t is_shortened = -1;
    for (int a = 0; a < N_ARRAYS; a++) from_device(f, t->device[a], t->gpu[a], t->sizes[a] * sizeof(float));
    from_device(f, t->is_shortened, &is_shortened, sizeof is_shortened);
    return is_shortened;
}

static hyb_cuda_trust_tensor on_gpu(const tensor *t) {
    return (hyb_cuda_trust_tensor){.n_rows = t->n_rows,
                                   .n_cols = t->n_cols,
                                   .kind = t->kind,
                                   .gradient = t->device[GRADIENT],
                                   .weights = t->device[WEIGHTS],
                                   .first_moment = t->device[FIRST],
                                   .second_moment = t->device[SECOND],
                                   .change = t->device[CHANGE],
                                   .row_moment = t->device[ROW_MOMENT],
                                   .spectral_bound = t->device[SPECTRAL_BOUND],
                                   .is_shortened = t->is_shortened};
}

static hyb_trust_tensor on_cpu(const tensor *t) {
    return (hyb_trust_tensor){.n_rows = t->n_rows,
                              .n_cols = t->n_cols,
                              .is_matrix = t->kind == HYB_TRUST_MATRIX,
                              .gradient = t->cpu[GRADIENT],
                              .weights = t->cpu[WEIGHTS],
                              .first_moment = t->cpu[FIRST],
                              .second_moment = t->cpu[SECOND],
                              .change = t->cpu[CHANGE],
                              .row_moment = t->cpu[ROW_MOMENT],
                              .spectral_bound = t->cpu[SPECTRAL_BOUND]};
}

/* Without weight decay the bound of the weights is forgotten: only ahead of a step that computes it anew. */
static hyb_trust_region make_options(uint64_t step, uint64_t *state) {
    hyb_trust_region o;
    hyb_trust_region_defaults(&o);
    o.learning_rate = powf(10.0f, -2.0f + 1.5f * test_random_float(state));
    o.radius = powf(10.0f, -2.0f + 1.5f * test_random_float(state));
    o.row_beta = step % 3 ? 0.95f : 0.0f;
    o.weight_decay = step % 16 != 15 ? 0.3f : 0.0f;
    o.step = step;
    return o;
}

static double difference(const float *a, const float *b, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += pow((double)a[i] - (double)b[i], 2.0);
    return sqrt(sum);
}

static double norm_of(const float *a, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)a[i];
    return sqrt(sum);
}

/* ---- SPECTRAL ---- */

static int cpu_matrix_step(fixture *f, const hyb_trust_region *o, const tensor *t) {
    size_t m = t->n_rows < t->n_cols ? t->n_rows : t->n_cols;
    hyb_trust_tensor at = on_cpu(t);
    float *x = host_memory(t->n, sizeof(float));
    hyb_orthogonal_work work = {.next = host_memory(t->n, sizeof(float)),
                                .gram = host_memory(m * m, sizeof(float)),
                                .factor = host_memory(m * m, sizeof(float)),
                                .product = host_memory(m * m, sizeof(float)),
                                .spare = host_memory(m * m, sizeof(float)),
                                .gemm = hyb_alloc(f->ctx, 1, hyb_gemm_scratch_bytes(f->ctx)),
                                .rows = host_memory(t->n_rows, sizeof(double))};
    int is_shortened = hyb_trust_matrix_step(f->ctx, o, &at, x, &work);
    free(x);
    free(work.next);
    free(work.gram);
    free(work.factor);
    free(work.product);
    free(work.spare);
    hyb_free(f->ctx, work.gemm);
    free(work.rows);
    return is_shortened;
}

/* The change of the stored weights is in the ball, measured in fp64: 1 + 1e-3 as for the CPU, and the rounding of the
 * stored weights. The change that is told is what the weights changed by. */
static void check_spectral_ball(const tensor *t, double radius) {
    double *change = host_memory(t->n, sizeof *change), rounding = 0.0;
    double shape = t->n_rows > t->n_cols ? sqrt((double)t->n_rows / (double)t->n_cols) : 1.0;
    size_t n_wrong = 0;
    for (size_t i = 0; i < t->n; i++) {
        change[i] = (double)t->gpu[WEIGHTS][i] - (double)t->before[i];
        rounding += pow(ldexp(fabs((double)t->before[i]) + fabs(change[i]), -24), 2.0);
        n_wrong += t->gpu[WEIGHTS][i] != t->before[i] + t->gpu[CHANGE][i];
    }
    CHECK(n_wrong == 0);
    CHECK(largest_of(t->n_rows, t->n_cols, change) <= radius * shape * (1.0 + 1e-3) + sqrt(rounding));
    free(change);
}

/* Against the CPU: two quintics and the cubic multiply the rounding of the some 20 products before them by 5.8 * 4
 * * 1.5 at most, the rows' factors and the last cubic by 1.6 * 1.5; and 1e-5 of the whole for the bounds of the
 * weights. */
static void check_matrix_step(fixture *f, tensor *t, const hyb_trust_region *o, float size, uint64_t *state) {
    double m = (double)(t->n_rows < t->n_cols ? t->n_rows : t->n_cols);
    double shape = t->n_rows > t->n_cols ? sqrt((double)t->n_rows / (double)t->n_cols) : 1.0;
    begin_step(f, t, size, state);
    hyb_cuda_trust_tensor at = on_gpu(t);
    CHECK_OK(hyb_cuda_trust_region_update(f->cuda, o, HYB_OPTIMIZER_SPECTRAL, 1, &at, 0));
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    int32_t is_shortened = end_step(f, t);
    check_spectral_ball(t, (double)o->radius);
    CHECK(is_shortened == cpu_matrix_step(f, o, t));
    double rate = fmin((double)o->learning_rate, (double)o->radius);
    double bound = rate * shape * sqrt(m) * ldexp(20.0 * 5.8 * 4.0 * 1.5 * 1.6 * 1.5, -24);
    CHECK(difference(t->gpu[CHANGE], t->cpu[CHANGE], t->n) <= bound + 1e-5 * norm_of(t->cpu[CHANGE], t->n));
    CHECK(difference(t->gpu[FIRST], t->cpu[FIRST], t->n) <= 1e-6 * norm_of(t->cpu[FIRST], t->n));
    CHECK(difference(t->gpu[ROW_MOMENT], t->cpu[ROW_MOMENT], t->n_rows) <=
          1e-3 * norm_of(t->cpu[ROW_MOMENT], t->n_rows));
    CHECK(difference(t->gpu[SPECTRAL_BOUND], t->cpu[SPECTRAL_BOUND], 1) <= 1e-4 * (double)*t->cpu[SPECTRAL_BOUND]);
}

static void test_spectral(void) {
    fixture f = open_fixture();
    static const size_t shapes[][2] = {{1, 1}, {1, 9}, {12, 1}, {24, 40}, {40, 24}, {21, 22}, {70, 67}};
    static const float sizes[] = {1.0f, 1e-3f, 1e-12f, 1e12f};
    uint64_t state = 3;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        tensor t = make_tensor(&f, shapes[i][0], shapes[i][1], HYB_TRUST_MATRIX, &state);
        for (uint64_t step = 1; step <= (i < 6 ? 18 : 2); step++) {
            hyb_trust_region o = make_options(step, &state);
            check_matrix_step(&f, &t, &o, sizes[i % 4], &state);
        }
        free_tensor(&f, &t);
    }
    close_fixture(&f);
}

/* Without a direction weight decay is all there is; a bound that is not known is one that holds. */
static void test_spectral_edges(void) {
    fixture f = open_fixture();
    uint64_t state = 4;
    tensor t = make_tensor(&f, 30, 20, HYB_TRUST_MATRIX, &state);
    hyb_trust_region o = make_options(1, &state);
    o.learning_rate = 1.0f;
    o.radius = 0.05f;
    check_matrix_step(&f, &t, &o, 0.0f, &state);
    CHECK(norm_of(t.gpu[CHANGE], t.n) > 0.0 && norm_of(t.gpu[ROW_MOMENT], t.n_rows) == 0.0);
    float zero = 0.0f;
    o.step = 6; /* no step that computes the bound */
    CHECK_OK(hyb_cuda_upload(f.cuda, &zero, sizeof zero, t.device[SPECTRAL_BOUND], 0));
    begin_step(&f, &t, 1.0f, &state);
    hyb_cuda_trust_tensor at = on_gpu(&t);
    CHECK_OK(hyb_cuda_trust_region_update(f.cuda, &o, HYB_OPTIMIZER_SPECTRAL, 1, &at, 0));
    CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
    CHECK(end_step(&f, &t) == 1);
    check_spectral_ball(&t, (double)o.radius);
    double *after = host_memory(t.n, sizeof *after);
    for (size_t i = 0; i < t.n; i++) after[i] = (double)t.gpu[WEIGHTS][i];
    CHECK((double)*t.gpu[SPECTRAL_BOUND] >= largest_of(t.n_rows, t.n_cols, after));
    free(after);
    free_tensor(&f, &t);
    close_fixture(&f);
}

/* Embedding and gain: Adam's step, every element limited. */
static void test_spectral_vectors(void) {
    fixture f = open_fixture();
    uint64_t state = 5;
    tensor tensors[2] = {make_tensor(&f, 51, 23, HYB_TRUST_EMBEDDING, &state),
                         make_tensor(&f, 1, 77, HYB_TRUST_GAIN, &state)};
    float *rows = host_memory(77 * 64, sizeof *rows);
    for (uint64_t step = 1; step <= 6; step++) {
        hyb_trust_region o = make_options(step, &state);
        hyb_cuda_trust_tensor list[2];
        for (int i = 0; i < 2; i++) {
            begin_step(&f, &tensors[i], 1.0f, &state);
            list[i] = on_gpu(&tensors[i]);
            list[i].change = list[i].row_moment = list[i].spectral_bound = 0; /* not needed */
        }
        CHECK_OK(hyb_cuda_trust_region_update(f.cuda, &o, HYB_OPTIMIZER_SPECTRAL, 2, list, 0));
        CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
        for (int i = 0; i < 2; i++) {
            tensor *t = &tensors[i];
            double limit = 0.32 * (double)o.radius * (1.0 + 1e-5);
            size_t n_far = 0;
            (void)end_step(&f, t);
            hyb_trust_tensor at = on_cpu(t);
            at.change = NULL;
            hyb_trust_vector_step(f.ctx, &o, &at, i == 1, rows, 77);
            for (size_t j = 0; j < t->n; j++) {
                double w = (double)t->gpu[WEIGHTS][j], change = w - (double)t->before[j];
                n_far += !(fabs(change) <= limit + ldexp(fabs(w) + limit, -24));
                n_far += !(fabs(w - (double)t->cpu[WEIGHTS][j]) <= ldexp(fabs(w) + 8.0 * limit, -22));
            }
            CHECK(n_far == 0);
            CHECK(difference(t->gpu[SECOND], t->cpu[SECOND], t->n) <= 1e-6 * norm_of(t->cpu[SECOND], t->n));
        }
    }
    free(rows);
    for (int i = 0; i < 2; i++) free_tensor(&f, &tensors[i]);
    close_fixture(&f);
}

/* ---- RMS and L2 ---- */

#define N_TENSORS 3

/* What lib/nn/update.c does, with every tensor's own ball or one for all. */
static void cpu_ball_step(fixture *f, int optimizer, const hyb_trust_region *o, tensor *tensors, int *is_shortened) {
    double rows[64], squares[N_TENSORS], all = 0.0;
    for (int i = 0; i < N_TENSORS; i++) {
        hyb_trust_tensor at = on_cpu(&tensors[i]);
        all += squares[i] = hyb_trust_adam_change(f->ctx, o, &at, rows);
    }
    for (int i = 0; i < N_TENSORS; i++) {
        tensor *t = &tensors[i];
        hyb_trust_tensor at = on_cpu(t);
        double n = (double)t->n, radius = (double)o->radius, length = sqrt(all);
        if (optimizer == HYB_OPTIMIZER_RMS)
            length = sqrt(squares[i] / n) / fmax(norm_of(t->before, t->n) / sqrt(n), HYB_TRUST_SMALLEST_RMS);
        is_shortened[i] = length > radius;
        hyb_trust_apply(f->ctx, &at, length > radius ? (float)(radius / length * (1.0 - HYB_TRUST_MARGIN)) : 1.0f);
    }
}

static void check_ball_step(fixture *f, int optimizer, const hyb_trust_region *o, tensor *tensors, uint64_t *state) {
    hyb_cuda_trust_tensor list[N_TENSORS];
    int is_shortened[N_TENSORS];
    double all = 0.0;
    for (int i = 0; i < N_TENSORS; i++) {
        begin_step(f, &tensors[i], 1.0f, state);
        list[i] = on_gpu(&tensors[i]);
        list[i].row_moment = list[i].spectral_bound = 0; /* not needed */
    }
    CHECK_OK(hyb_cuda_trust_region_update(f->cuda, o, (hyb_optimizer)optimizer, N_TENSORS, list, 0));
    CHECK_OK(hyb_cuda_synchronize(f->cuda, 0));
    cpu_ball_step(f, optimizer, o, tensors, is_shortened);
    for (int i = 0; i < N_TENSORS; i++) {
        tensor *t = &tensors[i];
        int32_t found = end_step(f, t);
        double length = norm_of(t->gpu[CHANGE], t->n), n = (double)t->n;
        size_t n_wrong = 0;
        if (i == 0 || optimizer == HYB_OPTIMIZER_RMS) CHECK(found == is_shortened[i]);
        for (size_t j = 0; j < t->n; j++) n_wrong += t->gpu[WEIGHTS][j] != t->before[j] + t->gpu[CHANGE][j];
        CHECK(n_wrong == 0);
        CHECK(difference(t->gpu[CHANGE], t->cpu[CHANGE], t->n) <= 4e-6 * (norm_of(t->cpu[CHANGE], t->n) + 1e-3));
        CHECK(difference(t->gpu[FIRST], t->cpu[FIRST], t->n) <= 1e-6 * norm_of(t->cpu[FIRST], t->n));
        CHECK(difference(t->gpu[SECOND], t->cpu[SECOND], t->n) <= 1e-6 * norm_of(t->cpu[SECOND], t->n));
        if (optimizer == HYB_OPTIMIZER_RMS)
            CHECK(length / sqrt(n) <= (double)o->radius * fmax(norm_of(t->before, t->n) / sqrt(n), 1e-3));
        all += length * length;
    }
    if (optimizer == HYB_OPTIMIZER_L2) CHECK(sqrt(all) <= (double)o->radius);
}

static void test_balls(int optimizer) {
    fixture f = open_fixture();
    uint64_t state = 6;
    tensor tensors[N_TENSORS] = {make_tensor(&f, 40, 121, HYB_TRUST_MATRIX, &state),
                                 make_tensor(&f, 64, 129, HYB_TRUST_EMBEDDING, &state),
                                 make_tensor(&f, 1, 5, HYB_TRUST_GAIN, &state)};
    for (uint64_t step = 1; step <= 8; step++) {
        hyb_trust_region o = make_options(step, &state);
        if (step % 2 == 0) o.radius *= optimizer == HYB_OPTIMIZER_L2 ? 1e3f : 10.0f; /* one that does not bind */
        check_ball_step(&f, optimizer, &o, tensors, &state);
    }
    for (int i = 0; i < N_TENSORS; i++) free_tensor(&f, &tensors[i]);
    close_fixture(&f);
}

/* ---- refusals ---- */

static void test_not_finite(void) {
    fixture f = open_fixture();
    uint64_t state = 7;
    static const int optimizers[] = {HYB_OPTIMIZER_SPECTRAL, HYB_OPTIMIZER_SPECTRAL, HYB_OPTIMIZER_RMS,
                                     HYB_OPTIMIZER_L2};
    for (size_t k = 0; k < 4; k++) {
        tensor t = make_tensor(&f, 6, 7, k == 1 ? HYB_TRUST_GAIN : HYB_TRUST_MATRIX, &state);
        hyb_trust_region o = make_options(1, &state);
        begin_step(&f, &t, 1.0f, &state);
        hyb_cuda_trust_tensor at = on_gpu(&t);
        CHECK_OK(hyb_cuda_trust_region_update(f.cuda, &o, (hyb_optimizer)optimizers[k], 1, &at, 0));
        CHECK_OK(hyb_cuda_synchronize(f.cuda, 0));
        float bad = k % 2 ? NAN : INFINITY;
        CHECK_OK(hyb_cuda_upload(f.cuda, &bad, sizeof bad, t.device[GRADIENT] + 20, 0));
        CHECK_OK(hyb_cuda_trust_region_update(f.cuda, &o, (hyb_optimizer)optimizers[k], 1, &at, 0));
        CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_ERROR_NOT_FINITE);
        free_tensor(&f, &t);
    }
    close_fixture(&f);
}

static void test_refusals(void) {
    fixture f = open_fixture();
    uint64_t state = 7;
    tensor t = make_tensor(&f, 6, 7, HYB_TRUST_MATRIX, &state);
    hyb_trust_region o = make_options(1, &state), wrong = o;
    const hyb_cuda_trust_tensor good = on_gpu(&t);
    hyb_cuda_trust_tensor bad[7] = {good, good, good, good, good, good, good};
    const hyb_optimizer spectral = HYB_OPTIMIZER_SPECTRAL;
    bad[0].n_rows = 0;
    bad[1].kind = 3;
    bad[2].gradient = 0;
    bad[3].weights += 2;
    bad[4].row_moment = 0;
    bad[5].spectral_bound = 0;
    bad[6].is_shortened += 1;
    for (int i = 0; i < 7; i++)
        CHECK_STATUS(hyb_cuda_trust_region_update(f.cuda, &o, spectral, 1, &bad[i], 0), HYB_ERROR_INVALID_ARGUMENT);
    bad[0] = good;
    bad[0].second_moment = 0;
    CHECK_STATUS(hyb_cuda_trust_region_update(f.cuda, &o, HYB_OPTIMIZER_L2, 1, bad, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(f.ctx), "second_moment") != NULL);
    CHECK_STATUS(hyb_cuda_trust_region_update(f.cuda, &o, HYB_OPTIMIZER_ADAMW, 1, &good, 0),
                 HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_trust_region_update(f.cuda, &o, (hyb_optimizer)4, 1, &good, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_trust_region_update(NULL, &o, spectral, 1, &good, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_trust_region_update(f.cuda, NULL, spectral, 1, &good, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_trust_region_update(f.cuda, &o, spectral, 1, NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_OK(hyb_cuda_trust_region_update(f.cuda, &o, spectral, 0, NULL, 0));
    wrong.radius = -1.0f;
    CHECK_STATUS(hyb_cuda_trust_region_update(f.cuda, &wrong, spectral, 1, &good, 0), HYB_ERROR_INVALID_ARGUMENT);
    wrong.struct_size = 0;
    CHECK_STATUS(hyb_cuda_trust_region_update(f.cuda, &wrong, spectral, 1, &good, 0), HYB_ERROR_STRUCT_SIZE);
    (void)end_step(&f, &t); /* nothing of it was begun */
    CHECK(memcmp(t.gpu[WEIGHTS], t.cpu[WEIGHTS], t.n * sizeof(float)) == 0);
    free_tensor(&f, &t);
    close_fixture(&f);
}

int main(void) {
    test_spectral();
    test_spectral_edges();
    test_spectral_vectors();
    test_balls(HYB_OPTIMIZER_RMS);
    test_balls(HYB_OPTIMIZER_L2);
    test_not_finite();
    test_refusals();
    return TEST_RESULT();
}
