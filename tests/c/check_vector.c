/* check_vector.c - the float kernels of every tier against the portable ones: EXACT kernels bit by bit, RELAXED ones
 * within a bound. Buffers end at an unreadable page, outputs start poisoned, and nothing but the outputs may change.
 * With --bench: elements per second of each kernel and tier.
 */
#include "testing.h"

#include <math.h>
#include <time.h>

#include "common.h"
#include "float_tiers.h"

#define MAX_BUFFERS 6
#define FRONT 16 /* floats before a buffer that must stay as they are */

typedef struct args {
    size_t n;
    float s;               /* a scalar argument */
    float *b[MAX_BUFFERS]; /* [n] each, the first [2 n]; the last is positive */
    double result;         /* what the kernel returned */
} args;

static void call_max_abs_bits(const hyb_kernels *k, args *a) { a->result = (double)k->max_abs_bits(a->b[0], a->n); }
static void call_max(const hyb_kernels *k, args *a) {
    float largest = a->n == 0 ? 0.0f : k->max_f32(a->b[0], a->n);
    a->result = (double)hyb_bits_of(largest);
}
static void call_sum_abs(const hyb_kernels *k, args *a) { a->result = (double)k->sum_abs_f32(a->b[0], a->n); }
static void call_dot(const hyb_kernels *k, args *a) { a->result = (double)k->dot_f32(a->b[0], a->b[1], a->n); }
static void call_add(const hyb_kernels *k, args *a) { k->add_f32(a->b[0], a->b[1], a->n); }
static void call_scale(const hyb_kernels *k, args *a) { k->scale_f32(a->b[0], a->b[1], a->n, a->s); }
static void call_scale_in_place(const hyb_kernels *k, args *a) { k->scale_f32(a->b[0], a->b[0], a->n, a->s); }
static void call_rms_norm(const hyb_kernels *k, args *a) {
    a->result = (double)k->rms_norm(a->b[1], a->b[2], a->n, 1e-5f, a->b[0]);
}
static void call_rms_norm_in_place(const hyb_kernels *k, args *a) {
    a->result = (double)k->rms_norm(a->b[0], a->b[2], a->n, 1e-5f, a->b[0]);
}
static void call_exp_sum(const hyb_kernels *k, args *a) {
    a->result = (double)k->exp_sum(a->b[1], a->n, a->s, a->b[0]);
}
static void call_exp_sum_in_place(const hyb_kernels *k, args *a) {
    a->result = (double)k->exp_sum(a->b[0], a->n, 0.0f, a->b[0]);
}
static void call_gated_silu(const hyb_kernels *k, args *a) { k->gated_silu(a->b[1], a->b[2], a->n, a->b[0]); }
static void call_gated_relu2(const hyb_kernels *k, args *a) { k->gated_relu2(a->b[1], a->b[2], a->n, a->b[0]); }
static void call_rotate(const hyb_kernels *k, args *a) { k->rotate(a->b[0], a->b[1], a->b[2], a->n); }
static void call_axpy(const hyb_kernels *k, args *a) { k->axpy_f32(a->b[0], a->b[1], a->n, a->s); }
static void call_sum_squares(const hyb_kernels *k, args *a) { a->result = k->sum_squares_f64(a->b[1], a->n); }
static void call_rms_norm_backward(const hyb_kernels *k, args *a) {
    k->rms_norm_backward(a->b[1], a->b[2], a->b[3], a->n, 0.7f, a->b[0], a->b[4]);
}
static void call_gated_silu_backward(const hyb_kernels *k, args *a) {
    k->gated_silu_backward(a->b[1], a->b[2], a->b[3], a->n, a->b[0], a->b[4]);
}
static void call_gated_silu_backward_in_place(const hyb_kernels *k, args *a) {
    k->gated_silu_backward(a->b[1], a->b[2], a->b[3], a->n, a->b[1], a->b[2]);
}
static void call_gated_relu2_backward(const hyb_kernels *k, args *a) {
    k->gated_relu2_backward(a->b[1], a->b[2], a->b[3], a->n, a->b[0], a->b[4]);
}
static void call_adamw(const hyb_kernels *k, args *a) {
    hyb_adamw_job job = {a->b[1], a->b[0], a->b[2], a->b[5], a->n,  0.5f, 0.9f,
                         0.1f,    0.95f,   0.05f,   0.999f,  1e-2f, 3.0f, 1e-8f};
    k->adamw(&job);
}

static void call_momentum(const hyb_kernels *k, args *a) {
    hyb_momentum_job job = {a->b[1], a->b[2], a->b[0], a->n, 0.8f, 0.2f};
    a->result = k->momentum(&job);
}
static void call_adam_change(const hyb_kernels *k, args *a) {
    hyb_adam_change_job job = {a->b[1], a->b[2], a->b[3], a->b[5], a->b[0], a->n,  0.9f, 0.1f,
                               0.95f,   0.05f,   1e-2f,   3.0f,    1e-8f,   8e-3f, 1e-3f};
    a->result = k->adam_change(&job);
}
static void call_apply_change(const hyb_kernels *k, args *a) {
    a->result = (double)k->apply_change(a->b[1], a->n, -0.5f, -0.25f, a->b[2], a->b[0]).sum;
}
static void call_apply_change_in_place(const hyb_kernels *k, args *a) {
    a->result = (double)k->apply_change(a->b[1], a->n, -0.5f, 0.0f, a->b[2], a->b[1]).sum;
}

typedef struct operation {
    const char *name;
    void (*call)(const hyb_kernels *k, args *a);
    int exact;
    int reads_nan; /* NaN and infinity are allowed */
} operation;

static const operation operations[] = {
    {"max_abs_bits", call_max_abs_bits, 1, 1},
    {"max_f32", call_max, 1, 0},
    {"sum_abs_f32", call_sum_abs, 1, 1},
    {"dot_f32", call_dot, 1, 1},
    {"add_f32", call_add, 1, 1},
    {"scale_f32", call_scale, 1, 1},
    {"scale_f32 in place", call_scale_in_place, 1, 1},
    {"rms_norm", call_rms_norm, 1, 1},
    {"rms_norm in place", call_rms_norm_in_place, 1, 1},
    {"exp_sum", call_exp_sum, 1, 1},
    {"exp_sum in place", call_exp_sum_in_place, 1, 1},
    {"gated_silu", call_gated_silu, 1, 1},
    {"gated_relu2", call_gated_relu2, 1, 1},
    {"rotate", call_rotate, 1, 1},
    {"axpy_f32", call_axpy, 0, 0},
    {"sum_squares_f64", call_sum_squares, 1, 1},
    {"rms_norm_backward", call_rms_norm_backward, 0, 0},
    {"gated_silu_backward", call_gated_silu_backward, 0, 0},
    {"gated_silu_backward in place", call_gated_silu_backward_in_place, 0, 0},
    {"gated_relu2_backward", call_gated_relu2_backward, 0, 0},
    {"adamw", call_adamw, 0, 0},
    {"momentum", call_momentum, 0, 0},
    {"adam_change", call_adam_change, 0, 0},
    {"apply_change", call_apply_change, 0, 0},
    {"apply_change in place", call_apply_change_in_place, 0, 0},
};
#define N_OPERATIONS (sizeof operations / sizeof *operations)

/* Values at which a kernel may go wrong: zeros, subnormals, largest, the ends of exp's range and ties of its rounding.
 */
static const float special_values[] = {
    0.0f,    -0.0f,     1e-40f,      -1e-45f,     1.17549435e-38f, -1.17549421e-38f, 3.4e38f,      -3.4e38f,
    1e20f,   88.72283f, 88.722839f,  88.8f,       1000.0f,         -87.33654f,       -87.336548f,  -87.4f,
    -104.0f, -1e30f,    0.34657359f, 1.03972077f, 88.376263f,      88.37627f,        -0.34657359f, 1.0f,
    -1.0f,   0.5f,      65504.0f,    1e-8f,       5.9604645e-8f};

enum { UNIFORM, SPECIAL, NOT_FINITE, N_MODES };

static float random_value(uint64_t *state, int mode) {
    size_t n_special = sizeof special_values / sizeof *special_values;
    if (mode == NOT_FINITE && test_random_below(state, 20) == 0) {
        const float others[] = {INFINITY, -INFINITY, NAN};
        return others[test_random_below(state, 3)];
    }
    if (mode != UNIFORM && test_random_below(state, 2) == 0) return special_values[test_random_below(state, n_special)];
    return test_random_float(state) * (mode != UNIFORM && test_random_below(state, 4) == 0 ? 100.0f : 4.0f);
}

static int same_float(float a, float b) { return hyb_bits_of(a) == hyb_bits_of(b) || (isnan(a) && isnan(b)); }
static int same_double(double a, double b) { return a == b || (isnan(a) && isnan(b)); }
/* The terms of these kernels are below 256 for inputs below 4 and few in number: a dozen roundings. */
static int near(double a, double b) { return fabs(a - b) <= 12 * 5.9604645e-8 * (16.0 + fabs(a)); }

static size_t length_of(size_t buffer, size_t n) { return buffer == 0 ? 2 * n : n; }

/* Runs an operation on fresh buffers, copies of `data`, that end at unreadable pages; the contents return to `data`. */
static double run_guarded(const operation *op, const hyb_kernels *kernels, size_t n, float s, float **data) {
    args a = {.n = n, .s = s};
    float *memory[MAX_BUFFERS];
    for (size_t i = 0; i < MAX_BUFFERS; ++i) {
        size_t length = length_of(i, n);
        memory[i] = test_guarded_alloc((FRONT + length) * sizeof(float));
        a.b[i] = memory[i] + FRONT;
        memcpy(a.b[i], data[i], length * sizeof(float));
    }
    op->call(kernels, &a);
    for (size_t i = 0; i < MAX_BUFFERS; ++i) {
        size_t length = length_of(i, n);
        memcpy(data[i], a.b[i], length * sizeof(float));
        for (size_t j = 0; j < FRONT * sizeof(float); ++j) CHECK(((uint8_t *)memory[i])[j] == 0xa5);
        test_guarded_free(memory[i], (FRONT + length) * sizeof(float));
    }
    return a.result;
}

/* One operation, one size: every tier gives what the portable kernel gives, in every buffer. */
static void check_operation(const operation *op, const tier *tiers, size_t n_tiers, size_t n, int mode,
                            uint64_t *state) {
    float *inputs[MAX_BUFFERS], *expected[MAX_BUFFERS], *actual[MAX_BUFFERS];
    for (size_t i = 0; i < MAX_BUFFERS; ++i) {
        size_t length = length_of(i, n), bytes = length * sizeof(float) + 1;
        inputs[i] = malloc(bytes);
        expected[i] = malloc(bytes);
        actual[i] = malloc(bytes);
        for (size_t j = 0; j < length; ++j) inputs[i][j] = random_value(state, mode);
        if (i == MAX_BUFFERS - 1)
            for (size_t j = 0; j < length; ++j) inputs[i][j] = 0.1f + fabsf(inputs[i][j]);
        memcpy(expected[i], inputs[i], length * sizeof(float));
    }
    float s = random_value(state, mode == NOT_FINITE ? SPECIAL : mode);
    double result = run_guarded(op, &tiers[0].kernels, n, s, expected);
    for (size_t t = 1; t < n_tiers; ++t) {
        for (size_t i = 0; i < MAX_BUFFERS; ++i) memcpy(actual[i], inputs[i], length_of(i, n) * sizeof(float));
        double other = run_guarded(op, &tiers[t].kernels, n, s, actual);
        size_t wrong =
            op->exact ? !same_double(result, other) : !near(result / (1.0 + (double)n), other / (1.0 + (double)n));
        for (size_t i = 0; i < MAX_BUFFERS; ++i) {
            for (size_t j = 0; j < length_of(i, n); ++j) {
                float x = expected[i][j], y = actual[i][j];
                wrong += op->exact ? !same_float(x, y) : !near((double)x, (double)y);
            }
        }
        if (wrong != 0) {
            fprintf(stderr, "%s, %s, n %zu, mode %d: %zu differ\n", op->name, tiers[t].name, n, mode, wrong);
        }
        CHECK(wrong == 0);
    }
    for (size_t i = 0; i < MAX_BUFFERS; ++i) {
        free(inputs[i]);
        free(expected[i]);
        free(actual[i]);
    }
}

static void check_operations(const tier *tiers, size_t n_tiers, uint64_t *state) {
    for (size_t o = 0; o < N_OPERATIONS; ++o) {
        const operation *op = &operations[o];
        int n_modes = !op->exact ? UNIFORM + 1 : op->reads_nan ? N_MODES : SPECIAL + 1;
        for (int mode = 0; mode < n_modes; ++mode) {
            for (size_t n = 0; n <= 200; ++n) check_operation(op, tiers, n_tiers, n, mode, state);
            for (int i = 0; i < 3; ++i) {
                check_operation(op, tiers, n_tiers, 1000 + test_random_below(state, 20000), mode, state);
            }
        }
    }
}

/* ---- the library's exp ---- */

/* exp_sum's exp is within 2 units in the last place (2.4e-7 relative) of the true value over its whole range. */
static void check_exp_accuracy(const hyb_kernels *kernels) {
    double worst = 0;
    for (float x = -87.3f; x < 88.7f; x += 0.00071f) {
        float y;
        kernels->exp_sum(&x, 1, 0.0f, &y);
        worst = fmax(worst, fabs((double)y / exp((double)x) - 1.0));
    }
    printf("exp: largest relative error %.3g\n", worst);
    CHECK(worst < 2.4e-7);
}

/* Around the points where exp's reduction changes from one power of two to the next, every tier rounds the same way. */
static void check_exp_ties(const tier *tiers, size_t n_tiers) {
    enum { NEIGHBOURS = 64 };
    for (int power = -127; power <= 128; ++power) {
        float x[NEIGHBOURS], expected[NEIGHBOURS], actual[NEIGHBOURS];
        uint32_t middle = hyb_bits_of((float)(((double)power + 0.5) * 0.6931471805599453));
        for (uint32_t i = 0; i < NEIGHBOURS; ++i) x[i] = hyb_float_of(middle + i - NEIGHBOURS / 2);
        float sum = tiers[0].kernels.exp_sum(x, NEIGHBOURS, 0.0f, expected);
        for (size_t t = 1; t < n_tiers; ++t) {
            CHECK(same_float(tiers[t].kernels.exp_sum(x, NEIGHBOURS, 0.0f, actual), sum));
            CHECK(memcmp(expected, actual, sizeof expected) == 0);
        }
    }
}

/* ---- bench ---- */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Shortest time of one call, of several batches. */
static double time_call(void (*call)(const hyb_kernels *k, args *a), const hyb_kernels *kernels, args *a) {
    double best = 1e9;
    for (int batch = 0; batch < 7; ++batch) {
        double start = seconds(), end;
        size_t n_calls = 0;
        do {
            for (int i = 0; i < 16; ++i) call(kernels, a);
            n_calls += 16;
            end = seconds();
        } while (end - start < 0.004);
        best = fmin(best, (end - start) / (double)n_calls);
    }
    return best;
}

static void bench(const tier *tiers, size_t n_tiers) {
    enum { N = 4096 };
    uint64_t state = 1;
    char name[128];
    args a = {.n = N, .s = 0.5f};
    for (size_t i = 0; i < MAX_BUFFERS; ++i) a.b[i] = calloc(2 * N, sizeof(float));
    hyb_cpu_name(name, sizeof name);
    printf("%s; n = %d, in cache; Gelem/s (times the portable kernel)\n", name, N);
    for (size_t o = 0; o < N_OPERATIONS; ++o) {
        /* Again and again in place, values would run off to zero or infinity. */
        if (strstr(operations[o].name, "in place") != NULL) continue;
        printf("%-30s", operations[o].name);
        double first = 0;
        for (size_t t = 0; t < n_tiers; ++t) {
            for (size_t i = 0; i < MAX_BUFFERS; ++i)
                for (size_t j = 0; j < 2 * N; ++j) {
                    float angle = 0.01f * (float)j; /* a rotation keeps its length; the last buffer is positive */
                    a.b[i][j] = i == 1 ? cosf(angle) : i == 2 ? sinf(angle) : test_random_float(&state);
                    if (i == MAX_BUFFERS - 1) a.b[i][j] = 0.1f + fabsf(a.b[i][j]);
                }
            double s = time_call(operations[o].call, &tiers[t].kernels, &a);
            if (t == 0) first = s;
            printf("  %s %6.2f (%4.1fx)", tiers[t].name, N / s * 1e-9, first / s);
        }
        printf("\n");
    }
    for (size_t i = 0; i < MAX_BUFFERS; ++i) free(a.b[i]);
}

int main(int argc, char **argv) {
    tier tiers[4];
    size_t n_tiers = make_tiers(tiers);
    uint64_t state = 20240229;
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench(tiers, n_tiers);
        return 0;
    }
    check_exp_accuracy(&tiers[0].kernels);
    if (n_tiers == 1) TEST_SKIP("this processor has no tier beyond the portable kernels");
    check_exp_ties(tiers, n_tiers);
    check_operations(tiers, n_tiers, &state);
    for (size_t t = 1; t < n_tiers; ++t) printf("checked %s\n", tiers[t].name);
    return TEST_RESULT();
}
