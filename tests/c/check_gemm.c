/* check_gemm.c - the fp32 matrix product of every tier against sums in double precision, for all layouts, tails and
 * leading dimensions; an element must not depend on the block that it is computed in. With --bench: GFLOP/s of each
 * tier, beside what the processor's multiply-add units reach on registers alone.
 */
#include "testing.h"

#include <math.h>
#include <time.h>

#include <hybrid/matmul.h>

#include "common.h"

#if HYB_X86
#include <immintrin.h>
#endif

typedef void (*gemm_function)(const hyb_gemm_job *job);
typedef struct tier {
    const char *name;
    gemm_function gemm;
    double (*peak)(void); /* GFLOP/s of a loop of fused multiply-adds on registers; NULL if not known */
} tier;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if HYB_X86
static volatile float peak_sink;
/* Twelve independent chains hide the latency of 4 cycles on 2 (or fewer) units. */
#define PEAK(name, target, type, set1, fma, n_lanes)                                                                   \
    static target double name(void) {                                                                                  \
        enum { TURNS = 200000 };                                                                                       \
        type sum[12], half = set1(0.5f);                                                                               \
        double start = seconds(), elapsed;                                                                             \
        HYB_UNROLL                                                                                                     \
        for (int i = 0; i < 12; ++i) sum[i] = set1((float)i);                                                          \
        for (int turn = 0; turn < TURNS; ++turn) {                                                                     \
            HYB_UNROLL                                                                                                 \
            for (int i = 0; i < 12; ++i) sum[i] = fma(sum[i], half, half);                                             \
        }                                                                                                              \
        elapsed = seconds() - start;                                                                                   \
        float lanes[12 * 16], total = 0;                                                                               \
        memcpy(lanes, sum, sizeof sum);                                                                                \
        for (int i = 0; i < 12; ++i) total += lanes[i * n_lanes];                                                      \
        peak_sink = total; /* nothing may be left out */                                                               \
        return TURNS * 12.0 * 2.0 * n_lanes / elapsed * 1e-9;                                                          \
    }
PEAK(peak_avx2, HYB_TARGET_AVX2, __m256, _mm256_set1_ps, _mm256_fmadd_ps, 8)
PEAK(peak_avx512, HYB_TARGET_AVX512, __m512, _mm512_set1_ps, _mm512_fmadd_ps, 16)
#endif

static size_t make_tiers(tier *tiers) {
    size_t n = 0;
    tiers[n++] = (tier){"scalar", hyb_gemm_ref, NULL};
#if HYB_X86
    hyb_kernels kernels;
    uint32_t isa = hyb_isa_detect();
    if (isa & HYB_ISA_AVX2) {
        hyb_install_vector_avx2(&kernels);
        tiers[n++] = (tier){"avx2", kernels.gemm, peak_avx2};
    }
    if (isa & HYB_ISA_AVX512) {
        hyb_install_vector_avx512(&kernels);
        tiers[n++] = (tier){"avx512", kernels.gemm, peak_avx512};
    }
#elif HYB_ARM64
    hyb_kernels kernels;
    hyb_install_vector_neon(&kernels);
    tiers[n++] = (tier){"neon", kernels.gemm, NULL};
#endif
    return n;
}

/* An emulated processor takes a minute for what a real one does in one second: fewer large products there. */
static int emulated(void) { return getenv("HYB_TEST_EMULATED") != NULL; }

static const char *const layout_names[] = {"NN", "NT", "TN"};

/* Memory of a matrix [rows][ld] with `cols` columns used: it ends, at an unreadable page, with the last used element.
 */
static size_t matrix_bytes(size_t rows, size_t cols, size_t ld) { return ((rows - 1) * ld + cols) * sizeof(float); }
static float *random_matrix(size_t rows, size_t cols, size_t ld, uint64_t *state) {
    float *matrix = test_guarded_alloc(matrix_bytes(rows, cols, ld));
    for (size_t i = 0; i < (rows - 1) * ld + cols; ++i) matrix[i] = test_random_float(state);
    return matrix;
}

typedef struct problem {
    hyb_gemm_job job;
    size_t a_rows, a_cols, b_rows, b_cols;
    float *a, *b, *c, *before; /* before: C as it was */
} problem;

static void problem_make(problem *p, int transpose, size_t m, size_t n, size_t k, int accumulate, uint64_t *state,
                         void *scratch) {
    int a_turned = transpose == HYB_GEMM_TN, b_turned = transpose == HYB_GEMM_NT;
    p->a_rows = a_turned ? k : m;
    p->a_cols = a_turned ? m : k;
    p->b_rows = b_turned ? n : k;
    p->b_cols = b_turned ? k : n;
    size_t lda = p->a_cols + test_random_below(state, 4), ldb = p->b_cols + test_random_below(state, 4);
    size_t ldc = n + test_random_below(state, 4);
    p->a = random_matrix(p->a_rows, p->a_cols, lda, state);
    p->b = random_matrix(p->b_rows, p->b_cols, ldb, state);
    p->c = random_matrix(m, n, ldc, state);
    p->before = malloc(matrix_bytes(m, n, ldc));
    memcpy(p->before, p->c, matrix_bytes(m, n, ldc));
    p->job = (hyb_gemm_job){transpose, m, n, k, p->a, lda, p->b, ldb, accumulate, p->c, ldc, scratch};
}

static void problem_free(problem *p) {
    test_guarded_free(p->a, matrix_bytes(p->a_rows, p->a_cols, p->job.lda));
    test_guarded_free(p->b, matrix_bytes(p->b_rows, p->b_cols, p->job.ldb));
    test_guarded_free(p->c, matrix_bytes(p->job.m, p->job.n, p->job.ldc));
    free(p->before);
}

/* Element (i, j) within the bound of a sum of k products in fp32 whatever their order: k + 2 roundings, each of at most
 * 2^-24 of the sum of magnitudes (Higham 2002, section 3.1). */
static int element_is_right(const problem *p, size_t i, size_t j) {
    const hyb_gemm_job *job = &p->job;
    double sum = job->accumulate ? (double)p->before[i * job->ldc + j] : 0.0, magnitude = fabs(sum);
    for (size_t q = 0; q < job->k; ++q) {
        double a = (double)(job->transpose == HYB_GEMM_TN ? job->a[q * job->lda + i] : job->a[i * job->lda + q]);
        double b = (double)(job->transpose == HYB_GEMM_NT ? job->b[j * job->ldb + q] : job->b[q * job->ldb + j]);
        sum += a * b;
        magnitude += fabs(a * b);
    }
    return fabs((double)job->c[i * job->ldc + j] - sum) <= (double)(job->k + 2) * 5.9604645e-8 * magnitude;
}

static void check_problem(const tier *t, int transpose, size_t m, size_t n, size_t k, int accumulate, uint64_t *state,
                          void *scratch) {
    problem p;
    size_t wrong = 0, touched = 0;
    problem_make(&p, transpose, m, n, k, accumulate, state, scratch);
    memset(scratch, 0xa5, 4096);
    t->gemm(&p.job);
    size_t stride = m * n * k > 2000000 ? 37 : 1; /* a sample of a large product */
    for (size_t e = 0; e < m * n; e += stride) wrong += !element_is_right(&p, e / n, e % n);
    for (size_t i = 0; i + 1 < m; ++i) { /* between the rows nothing changes */
        for (size_t j = n; j < p.job.ldc; ++j) touched += p.c[i * p.job.ldc + j] != p.before[i * p.job.ldc + j];
    }
    if (wrong + touched != 0) {
        fprintf(stderr, "%s %s m %zu n %zu k %zu: %zu wrong, %zu touched\n", t->name, layout_names[transpose], m, n, k,
                wrong, touched);
    }
    CHECK(wrong + touched == 0);
    problem_free(&p);
}

/* Every tier, layout and tail agrees with sums in double precision. */
static void check_shapes(const tier *t, uint64_t *state, void *scratch) {
    for (int transpose = 0; transpose < 3; ++transpose) {
        for (size_t m = 1; m <= 27; m += emulated() ? 1 + test_random_below(state, 3) : 1) {
            for (size_t n = 1; n <= 100; n += 1 + test_random_below(state, 6)) {
                check_problem(t, transpose, m, n, 1 + test_random_below(state, 40), (int)(n & 1u), state, scratch);
            }
        }
        for (int i = 0; i < (emulated() ? 1 : 10); ++i) {
            size_t m = 1 + test_random_below(state, 500), n = 1 + test_random_below(state, 500);
            check_problem(t, transpose, m, n, 1 + test_random_below(state, 1200), i & 1, state, scratch);
        }
        check_problem(t, transpose, 21, 2700, 300, 0, state, scratch); /* more columns than a block */
        check_problem(t, transpose, 1, 1, 5000, 1, state, scratch);
        check_problem(t, transpose, 250, 130, 1024, 1, state, scratch); /* rows 4 KiB apart when ld = k */
    }
}

/* Any block of C has the bits that it has in the whole product: the threads may cut where they like. */
static void check_blocks(const tier *t, uint64_t *state, void *scratch) {
    for (int round = 0; round < (emulated() ? 6 : 30); ++round) {
        problem p;
        int transpose = round % 3;
        size_t m = 30 + test_random_below(state, 300), n = 30 + test_random_below(state, 300);
        problem_make(&p, transpose, m, n, 1 + test_random_below(state, 700), round & 1, state, scratch);
        t->gemm(&p.job);
        float *whole = malloc(matrix_bytes(m, n, p.job.ldc));
        memcpy(whole, p.c, matrix_bytes(m, n, p.job.ldc));
        memcpy(p.c, p.before, matrix_bytes(m, n, p.job.ldc));
        hyb_gemm_job part = p.job;
        size_t row = test_random_below(state, m), col = test_random_below(state, n);
        part.m = 1 + test_random_below(state, m - row);
        part.n = 1 + test_random_below(state, n - col);
        part.a += transpose == HYB_GEMM_TN ? row : row * part.lda;
        part.b += transpose == HYB_GEMM_NT ? col * part.ldb : col;
        part.c += row * part.ldc + col;
        t->gemm(&part);
        size_t wrong = 0;
        for (size_t i = 0; i < part.m; ++i) {
            wrong += memcmp(part.c + i * part.ldc, whole + (row + i) * part.ldc + col, part.n * sizeof(float)) != 0;
        }
        CHECK(wrong == 0);
        free(whole);
        problem_free(&p);
    }
}

/* ---- bench ---- */

/* Best of several batches; the peak is measured between them, so that both see the same clock and neighbours. */
static void bench_one(const tier *t, const hyb_gemm_job *job) {
    double best = 1e9, peak = 0, flops = 2.0 * (double)job->m * (double)job->n * (double)job->k;
    for (int batch = 0; batch < 9; ++batch) {
        size_t n_calls = 0;
        double start = seconds(), elapsed;
        do {
            t->gemm(job);
            elapsed = seconds() - start;
            ++n_calls;
        } while (elapsed < 0.01);
        best = fmin(best, elapsed / (double)n_calls);
        if (t->peak != NULL) peak = fmax(peak, t->peak());
    }
    printf("  %s %6.1f", t->name, flops / best * 1e-9);
    if (t->peak != NULL) printf(" (%2.0f %%)", 100 * flops / best * 1e-9 / peak);
}

static void bench(const tier *tiers, size_t n_tiers, void *scratch) {
    static const struct {
        int transpose;
        size_t m, n, k;
    } shapes[] = {{HYB_GEMM_NN, 2048, 128, 128},  {HYB_GEMM_NT, 2048, 128, 128},  {HYB_GEMM_NT, 2048, 384, 128},
                  {HYB_GEMM_TN, 128, 384, 2048},  {HYB_GEMM_NN, 2048, 512, 1280}, {HYB_GEMM_NT, 2048, 512, 1280},
                  {HYB_GEMM_TN, 512, 1280, 2048}, {HYB_GEMM_NT, 128, 128, 32},    {HYB_GEMM_NN, 128, 32, 128},
                  {HYB_GEMM_TN, 128, 32, 128},    {HYB_GEMM_NT, 64, 256, 64},     {HYB_GEMM_NN, 1024, 1024, 1024},
                  {HYB_GEMM_NT, 2048, 256, 1024}};
    char name[128];
    uint64_t state = 1;
    hyb_cpu_name(name, sizeof name);
    printf("%s, one thread: GFLOP/s (share of multiply-adds on registers)\n", name);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
        size_t m = shapes[i].m, n = shapes[i].n, k = shapes[i].k;
        int transpose = shapes[i].transpose;
        float *a = random_matrix(m, k, k, &state), *b = random_matrix(n, k, k, &state);
        float *c = random_matrix(m, n, n, &state);
        hyb_gemm_job job = {transpose, m, n, k, a, k, b, n, 0, c, n, scratch};
        if (transpose == HYB_GEMM_TN) job.lda = m;
        if (transpose == HYB_GEMM_NT) job.ldb = k;
        printf("%s %4zu x %4zu x %4zu ", layout_names[transpose], m, n, k);
        for (size_t t = 0; t < n_tiers; ++t) bench_one(&tiers[t], &job);
        printf("\n");
        test_guarded_free(a, matrix_bytes(m, k, k));
        test_guarded_free(b, matrix_bytes(n, k, k));
        test_guarded_free(c, matrix_bytes(m, n, n));
    }
}

int main(int argc, char **argv) {
    tier tiers[4];
    size_t n_tiers = make_tiers(tiers);
    uint64_t state = 7;
    void *scratch = test_guarded_alloc(HYB_GEMM_SCRATCH_BYTES);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench(tiers, n_tiers, scratch);
        return 0;
    }
    for (size_t t = 0; t < n_tiers; ++t) {
        check_shapes(&tiers[t], &state, scratch);
        check_blocks(&tiers[t], &state, scratch);
        printf("checked %s\n", tiers[t].name);
    }
    test_guarded_free(scratch, HYB_GEMM_SCRATCH_BYTES);
    return TEST_RESULT();
}
