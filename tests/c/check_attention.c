/* check_attention.c - the attention kernels of every tier: one query and blocks of queries against the portable kernel,
 * bit by bit; attention of a training step and its gradients against binary64 within a bound. Buffers end at unreadable
 * pages, outputs start poisoned, and nothing between their rows may change. With --bench: GFLOP/s (multiply and add of
 * the visible keys count 2).
 */
#include "testing.h"

#include <math.h>
#include <time.h>

#include "common.h"
#include "float_tiers.h"

/* ---- one query ---- */

static void check_query(const tier *tiers, size_t n_tiers, size_t n_keys, size_t head_dim, float scale,
                        uint64_t *state) {
    size_t ld = head_dim + test_random_below(state, 3) * 7, span = (n_keys - 1) * ld + head_dim;
    float *q = test_guarded_alloc(head_dim * sizeof(float)), *keys = test_guarded_alloc(span * sizeof(float));
    float *values = test_guarded_alloc(span * sizeof(float)), *out = test_guarded_alloc(head_dim * sizeof(float));
    float *p = test_guarded_alloc(n_keys * sizeof(float));
    float *expected = malloc((n_keys + head_dim) * sizeof(float));
    for (size_t i = 0; i < head_dim; ++i) q[i] = test_random_float(state);
    for (size_t i = 0; i < span; ++i) {
        keys[i] = test_random_float(state);
        values[i] = test_random_float(state);
    }
    hyb_attention_job job = {q, keys, values, ld, n_keys, head_dim, scale, p, out};
    for (size_t t = 0; t < n_tiers; ++t) {
        memset(p, 0xa5, n_keys * sizeof(float));
        memset(out, 0xa5, head_dim * sizeof(float));
        tiers[t].kernels.attention(&job);
        if (t == 0) {
            memcpy(expected, p, n_keys * sizeof(float));
            memcpy(expected + n_keys, out, head_dim * sizeof(float));
        }
        CHECK(memcmp(expected, p, n_keys * sizeof(float)) == 0);
        CHECK(memcmp(expected + n_keys, out, head_dim * sizeof(float)) == 0);
    }
    double sum = 0;
    for (size_t j = 0; j < n_keys; ++j) sum += (double)expected[j];
    CHECK(fabs(sum - 1.0) < 1e-5);
    free(expected);
    test_guarded_free(q, head_dim * sizeof(float));
    test_guarded_free(keys, span * sizeof(float));
    test_guarded_free(values, span * sizeof(float));
    test_guarded_free(out, head_dim * sizeof(float));
    test_guarded_free(p, n_keys * sizeof(float));
}

/* Attention gives the same bits in every tier for all small shapes, tails of keys and of heads included. */
static void check_queries(const tier *tiers, size_t n_tiers, uint64_t *state) {
    const size_t head_dims[] = {1, 8, 15, 16, 17, 32, 40, 48, 64, 80, 96, 128, 130, 144, 256};
    for (size_t i = 0; i < sizeof head_dims / sizeof *head_dims; ++i) {
        for (size_t n_keys = 1; n_keys <= 70; ++n_keys) {
            check_query(tiers, n_tiers, n_keys, head_dims[i], n_keys % 5 == 0 ? 40.0f : 0.125f, state);
        }
        check_query(tiers, n_tiers, 500 + test_random_below(state, 500), head_dims[i], 0.125f, state);
    }
}

/* ---- blocks of queries ---- */

/* n rows of `width` random floats, ld apart, the last one ending at an unreadable page; poison between them. */
static float *make_rows(size_t n, size_t width, size_t ld, uint64_t *state) {
    float *rows = test_guarded_alloc(((n - 1) * ld + width) * sizeof(float));
    for (size_t i = 0; i < n; ++i)
        for (size_t d = 0; d < width && state != NULL; ++d) rows[i * ld + d] = test_random_float(state);
    return rows;
}
static void free_rows(float *rows, size_t n, size_t width, size_t ld) {
    test_guarded_free(rows, ((n - 1) * ld + width) * sizeof(float));
}
static void check_gaps(const float *rows, size_t n, size_t width, size_t ld) {
    for (size_t i = 0; i + 1 < n; ++i)
        for (size_t d = width; d < ld; ++d) CHECK(hyb_bits_of(rows[i * ld + d]) == 0xa5a5a5a5u);
}

static void check_block(const tier *tiers, size_t n_tiers, size_t n_queries, size_t first_position, size_t head_dim,
                        uint64_t *state) {
    size_t n_keys = first_position + n_queries, ld = head_dim + test_random_below(state, 3) * 7;
    size_t ld_q = head_dim + test_random_below(state, 2) * 5, size = n_queries * head_dim;
    size_t floats = HYB_ATTENTION_BLOCK_FLOATS(n_queries, n_keys, head_dim);
    float *q = make_rows(n_queries, head_dim, ld_q, state), *expected = malloc(size * sizeof(float));
    float *keys = make_rows(n_keys, head_dim, ld, state), *values = make_rows(n_keys, head_dim, ld, state);
    /* Positions that only the last query sees must not reach the others, whatever is there. */
    if (n_queries > 1 && head_dim % 3 == 0) values[(n_keys - 1) * ld] = test_random_below(state, 2) ? INFINITY : NAN;
    for (size_t t = 0; t < n_tiers; ++t) {
        float *out = make_rows(n_queries, head_dim, ld_q, NULL), *scratch = make_rows(1, floats, floats, NULL);
        hyb_attention_block_job job = {q,  ld_q,     n_queries, first_position, keys, values,
                                       ld, head_dim, 0.3f,      scratch,        out};
        size_t wrong = 0;
        tiers[t].kernels.attention_block(&job);
        for (size_t i = 0; i < n_queries; ++i) {
            for (size_t d = 0; d < head_dim; ++d) {
                float x = out[i * ld_q + d], *y = expected + i * head_dim + d;
                if (t == 0) *y = x;
                wrong += hyb_bits_of(x) != hyb_bits_of(*y) && !(isnan(x) && isnan(*y));
            }
        }
        if (wrong != 0) {
            fprintf(stderr, "attention_block, %s, %zu queries from %zu, head_dim %zu: %zu differ\n", tiers[t].name,
                    n_queries, first_position, head_dim, wrong);
        }
        CHECK(wrong == 0);
        check_gaps(out, n_queries, head_dim, ld_q);
        free_rows(out, n_queries, head_dim, ld_q);
        free_rows(scratch, 1, floats, floats);
    }
    free(expected);
    free_rows(q, n_queries, head_dim, ld_q);
    free_rows(keys, n_keys, head_dim, ld);
    free_rows(values, n_keys, head_dim, ld);
}

static void check_blocks(const tier *tiers, size_t n_tiers, uint64_t *state) {
    const size_t head_dims[] = {1, 3, 8, 15, 16, 17, 32, 40, 48, 63, 64, 80, 96, 128, 130, 256};
    for (size_t h = 0; h < sizeof head_dims / sizeof *head_dims; ++h) {
        for (size_t n = 1; n <= 35; ++n) {
            check_block(tiers, n_tiers, n, 0, head_dims[h], state);
            check_block(tiers, n_tiers, n, test_random_below(state, 70), head_dims[h], state);
        }
        check_block(tiers, n_tiers, 70 + test_random_below(state, 99), test_random_below(state, 300), head_dims[h],
                    state);
    }
}

/* ---- gradients ---- */

/* The gradients in binary64, and the sums of magnitudes that their rounding errors are proportional to. */
typedef struct gradients {
    double *d_q, *d_keys, *d_values, *size_q, *size_keys, *size_values; /* [n][head_dim] */
    double *out, *size_out;
    double error, out_error; /* relative to those sums */
} gradients;

static gradients true_gradients(const hyb_attention_backward_job *job) {
    size_t n = job->n, width = job->head_dim;
    double *memory = calloc(8 * n * width + 4 * n, sizeof *memory), *row = memory + 8 * n * width, largest = 0;
    gradients g = {memory,
                   memory + n * width,
                   memory + 2 * n * width,
                   memory + 3 * n * width,
                   memory + 4 * n * width,
                   memory + 5 * n * width,
                   memory + 6 * n * width,
                   memory + 7 * n * width,
                   0,
                   0};
    double *p = row, *dp = row + n, *dp_size = row + 2 * n;
    for (size_t i = 0; i < n; ++i) {
        const float *q = job->q + i * job->ld_q, *d_out = job->d_out + i * job->ld_q;
        double max = -1e300, sum = 0, mean = 0, mean_size = 0;
        for (size_t j = 0; j <= i; ++j) {
            double score = 0, size = 0;
            dp[j] = dp_size[j] = 0;
            for (size_t d = 0; d < width; ++d) {
                double s = (double)q[d] * (double)job->keys[j * job->ld_k + d] * (double)job->scale;
                double o = (double)d_out[d] * (double)job->values[j * job->ld_k + d];
                score += s;
                size += fabs(s);
                dp[j] += o;
                dp_size[j] += fabs(o);
            }
            p[j] = score;
            max = fmax(max, score);
            largest = fmax(largest, size);
        }
        for (size_t j = 0; j <= i; ++j) sum += p[j] = exp(p[j] - max);
        for (size_t j = 0; j <= i; ++j) {
            p[j] /= sum;
            mean += p[j] * dp[j];
            mean_size += p[j] * dp_size[j];
        }
        for (size_t j = 0; j <= i; ++j) {
            double ds = p[j] * (dp[j] - mean) * (double)job->scale;
            double size = p[j] * (dp_size[j] + mean_size) * (double)job->scale;
            for (size_t d = 0; d < width; ++d) {
                double key = (double)job->keys[j * job->ld_k + d];
                g.d_q[i * width + d] += ds * key;
                g.size_q[i * width + d] += size * fabs(key);
                g.d_keys[j * width + d] += ds * (double)q[d];
                g.size_keys[j * width + d] += size * fabs((double)q[d]);
                g.d_values[j * width + d] += p[j] * (double)d_out[d];
                g.size_values[j * width + d] += p[j] * fabs((double)d_out[d]);
                g.out[i * width + d] += p[j] * (double)job->values[j * job->ld_k + d];
                g.size_out[i * width + d] += p[j] * fabs((double)job->values[j * job->ld_k + d]);
            }
        }
    }
    /* With u = 2^-24: a score is off by (head_dim + 4) u of its size and of the maximum that is taken off, the
     * maximum by as much, 2^x by 4 u, their sum by n u: so are probabilities. An output adds n products and a factor.
     * dp is off by head_dim u and what it begins with, D, which is as an output, by head_dim u more; the last sum by
     * n u, and a handful of single roundings. */
    double w = (double)width, u = 5.9604645e-8, probability = 3 * (w + 4) * largest + (double)n + 8;
    g.out_error = u * (probability + (double)n + 4);
    g.error = u * (3 * probability + 2 * w + 3 * (double)n + 16);
    if (u * probability > 100) g.out_error = g.error = -1; /* any key may be the largest: no bound */
    return g;
}

static size_t count_wrong(const float *actual, size_t ld, const float *before, const double *expected,
                          const double *size, double error, size_t n, size_t width, double *worst) {
    size_t wrong = 0;
    if (error < 0) return 0;
    for (size_t i = 0; i < n; ++i) {
        for (size_t d = 0; d < width; ++d) {
            double start = before == NULL ? 0.0 : (double)before[i * ld + d];
            double off = fabs((double)actual[i * ld + d] - start - expected[i * width + d]);
            double bound = error * (size[i * width + d] + fabs(start)) + 1e-30;
            wrong += !(off <= bound);
            *worst = fmax(*worst, off / bound);
        }
    }
    return wrong;
}

/* The forward pass of a tier: what backward needs. Returns the number of outputs beyond the bound. */
static size_t run_training(const hyb_kernels *kernels, const hyb_attention_backward_job *job, const gradients *g,
                           float *out, float *softmax, double *worst) {
    size_t floats = HYB_ATTENTION_TRAINING_FLOATS(job->n, job->head_dim);
    hyb_attention_training_job forward = {.q = job->q, .keys = job->keys, .values = job->values, .ld_q = job->ld_q};
    forward.ld_k = job->ld_k;
    forward.n = job->n;
    forward.head_dim = job->head_dim;
    forward.scale = job->scale;
    forward.out = out;
    forward.softmax = softmax;
    forward.ld_softmax = job->ld_softmax;
    forward.scratch = make_rows(1, floats, floats, NULL);
    kernels->attention_training(&forward);
    free_rows(forward.scratch, 1, floats, floats);
    check_gaps(out, job->n, job->head_dim, job->ld_q);
    check_gaps(softmax, job->n, 2, job->ld_softmax);
    return count_wrong(out, job->ld_q, NULL, g->out, g->size_out, g->out_error, job->n, job->head_dim, worst);
}

/* Probabilities are at most 1 however large the scores are, so no gradient of a value is larger than those of the
 * outputs together. */
static size_t count_amplified(const hyb_attention_backward_job *job) {
    size_t count = 0;
    for (size_t d = 0; d < job->head_dim; ++d) {
        double sum = 0;
        for (size_t i = 0; i < job->n; ++i) sum += fabs((double)job->d_out[i * job->ld_q + d]);
        for (size_t j = 0; j < job->n; ++j) count += !(fabs((double)job->d_values[j * job->ld_k + d]) <= 1.001 * sum);
    }
    return count;
}

static size_t run_gradients(const hyb_kernels *kernels, hyb_attention_backward_job *job, const gradients *g,
                            const float *before, double *worst) {
    size_t n = job->n, width = job->head_dim, ld_q = job->ld_q, ld_k = job->ld_k, wrong;
    size_t floats = HYB_ATTENTION_BACKWARD_FLOATS(n, width);
    const float *start = job->accumulate ? before : NULL;
    job->scratch = make_rows(1, floats, floats, NULL);
    job->d_q = make_rows(n, width, ld_q, NULL);
    job->d_keys = make_rows(n, width, ld_k, NULL);
    job->d_values = make_rows(n, width, ld_k, NULL);
    for (size_t i = 0; i < n && job->accumulate; ++i) {
        memcpy(job->d_keys + i * ld_k, before + i * ld_k, width * sizeof(float));
        memcpy(job->d_values + i * ld_k, before + i * ld_k, width * sizeof(float));
    }
    kernels->attention_backward(job);
    wrong = count_wrong(job->d_q, ld_q, NULL, g->d_q, g->size_q, g->error, n, width, worst);
    wrong += count_wrong(job->d_keys, ld_k, start, g->d_keys, g->size_keys, g->error, n, width, worst);
    wrong += count_wrong(job->d_values, ld_k, start, g->d_values, g->size_values, g->error, n, width, worst);
    if (!job->accumulate) wrong += count_amplified(job);
    check_gaps(job->d_q, n, width, ld_q);
    check_gaps(job->d_keys, n, width, ld_k);
    check_gaps(job->d_values, n, width, ld_k);
    free_rows(job->scratch, 1, floats, floats);
    free_rows(job->d_q, n, width, ld_q);
    free_rows(job->d_keys, n, width, ld_k);
    free_rows(job->d_values, n, width, ld_k);
    return wrong;
}

/* A large scale makes scores that are thousands apart. */
static double check_backward(const tier *tiers, size_t n_tiers, size_t n, size_t head_dim, float scale,
                             uint64_t *state) {
    size_t ld_k = head_dim + test_random_below(state, 3) * 7, ld_q = head_dim + test_random_below(state, 2) * 5;
    size_t ld_softmax = 2 + test_random_below(state, 3);
    float *q = make_rows(n, head_dim, ld_q, state), *d_out = make_rows(n, head_dim, ld_q, state);
    float *keys = make_rows(n, head_dim, ld_k, state), *values = make_rows(n, head_dim, ld_k, state);
    float *before = make_rows(n, head_dim, ld_k, state);
    hyb_attention_backward_job job = {.q = q, .d_out = d_out, .keys = keys, .values = values, .ld_q = ld_q};
    job.ld_k = ld_k;
    job.ld_softmax = ld_softmax;
    job.n = n;
    job.head_dim = head_dim;
    job.scale = scale;
    gradients g = true_gradients(&job);
    double worst = 0;
    for (size_t t = 0; t < n_tiers; ++t) {
        float *out = make_rows(n, head_dim, ld_q, NULL), *softmax = make_rows(n, 2, ld_softmax, NULL);
        size_t wrong = run_training(&tiers[t].kernels, &job, &g, out, softmax, &worst);
        job.out = out;
        job.softmax = softmax;
        for (job.accumulate = 0; job.accumulate < 2; ++job.accumulate) {
            wrong += run_gradients(&tiers[t].kernels, &job, &g, before, &worst);
        }
        if (wrong != 0) {
            fprintf(stderr, "attention in training, %s, n %zu, head_dim %zu, scale %g: %zu beyond the bound\n",
                    tiers[t].name, n, head_dim, (double)scale, wrong);
        }
        CHECK(wrong == 0);
        free_rows(out, n, head_dim, ld_q);
        free_rows(softmax, n, 2, ld_softmax);
    }
    free(g.d_q);
    free_rows(q, n, head_dim, ld_q);
    free_rows(d_out, n, head_dim, ld_q);
    free_rows(keys, n, head_dim, ld_k);
    free_rows(values, n, head_dim, ld_k);
    free_rows(before, n, head_dim, ld_k);
    return worst;
}

static void check_backwards(const tier *tiers, size_t n_tiers, uint64_t *state) {
    const size_t head_dims[] = {1, 8, 15, 16, 17, 32, 40, 48, 64, 80, 96, 128, 130};
    double worst = 0;
    for (size_t h = 0; h < sizeof head_dims / sizeof *head_dims; ++h) {
        size_t width = head_dims[h];
        for (size_t n = 1; n <= 35; ++n) worst = fmax(worst, check_backward(tiers, n_tiers, n, width, 0.5f, state));
        for (size_t n = 63; n <= 66; ++n) worst = fmax(worst, check_backward(tiers, n_tiers, n, width, 0.5f, state));
        worst = fmax(worst, check_backward(tiers, n_tiers, 130, width, 0.5f, state));
        worst = fmax(worst, check_backward(tiers, n_tiers, 70, width, 3e4f, state));
        worst = fmax(worst, check_backward(tiers, n_tiers, 40, width, 1e9f, state));
        size_t n = 100 + test_random_below(state, 150);
        worst = fmax(worst, check_backward(tiers, n_tiers, n, width, 0.5f, state));
    }
    printf("training and gradients: at most %.3f of the bound\n", worst);
}

/* ---- bench ---- */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A head of a sequence as training has it: rows of heads side by side. */
typedef struct bench_case {
    size_t n, head_dim, ld;
    float *q, *keys, *values, *d_out, *out, *d_keys, *d_values, *scratch, *softmax;
} bench_case;

static void run_queries(const hyb_kernels *k, const bench_case *c) {
    hyb_attention_job job = {c->q, c->keys, c->values, c->ld, 0, c->head_dim, 0.2f, c->scratch, c->out};
    for (job.n_keys = 1; job.n_keys <= c->n; ++job.n_keys) {
        k->attention(&job);
        job.q += c->ld;
        job.out += c->ld;
    }
}
static void run_last_query(const hyb_kernels *k, const bench_case *c) {
    hyb_attention_job job = {c->q, c->keys, c->values, c->ld, c->n, c->head_dim, 0.2f, c->scratch, c->out};
    k->attention(&job);
}
static void run_blocks(const hyb_kernels *k, const bench_case *c) {
    hyb_attention_block_job job = {c->q, c->ld, 0, 0, c->keys, c->values, c->ld, c->head_dim, 0.2f, c->scratch, c->out};
    for (size_t i = 0; i < c->n; i += HYB_ATTENTION_BLOCK_QUERIES) {
        job.n_queries = hyb_min_size(HYB_ATTENTION_BLOCK_QUERIES, c->n - i);
        job.first_position = i;
        job.q = c->q + i * c->ld;
        job.out = c->out + i * c->ld;
        k->attention_block(&job);
    }
}
static void run_training_bench(const hyb_kernels *k, const bench_case *c) {
    hyb_attention_training_job job = {c->q,        c->keys, c->values, c->ld,      c->ld, c->n,
                                      c->head_dim, 0.2f,    c->out,    c->softmax, 2,     c->scratch};
    k->attention_training(&job);
}
static void run_backward(const hyb_kernels *k, const bench_case *c) {
    hyb_attention_backward_job job = {.q = c->q, .out = c->d_out, .d_out = c->d_out, .keys = c->keys};
    job.values = c->values;
    job.ld_q = job.ld_k = c->ld;
    job.softmax = c->softmax;
    job.ld_softmax = 2;
    job.n = c->n;
    job.head_dim = c->head_dim;
    job.scale = 0.2f;
    job.d_q = c->out;
    job.d_keys = c->d_keys;
    job.d_values = c->d_values;
    job.scratch = c->scratch;
    k->attention_backward(&job);
}

typedef void (*bench_run)(const hyb_kernels *k, const bench_case *c);

/* Shortest times of one call each, of batches that take turns: what else the machine does meets all of them. */
static void time_runs(const bench_run *runs, size_t n_runs, const hyb_kernels *k, const bench_case *c, double *best) {
    for (size_t r = 0; r < n_runs; ++r) best[r] = 1e9;
    for (int batch = 0; batch < 12; ++batch) {
        for (size_t r = 0; r < n_runs; ++r) {
            double start = seconds(), end;
            size_t n_calls = 0;
            do {
                runs[r](k, c);
                ++n_calls;
                end = seconds();
            } while (end - start < 0.002);
            best[r] = fmin(best[r], (end - start) / (double)n_calls);
        }
    }
}

static void bench_shape(const tier *tiers, size_t n_tiers, size_t n, size_t head_dim) {
    size_t ld = 8 * head_dim, size = n * ld;
    uint64_t state = 1;
    float *memory = malloc((7 * size + HYB_ATTENTION_BACKWARD_FLOATS(n, head_dim) + 2 * n) * sizeof(float) + 64);
    float *at = (float *)(((uintptr_t)memory + 63) / 64 * 64);
    bench_case c = {n,
                    head_dim,
                    ld,
                    at,
                    at + size,
                    at + 2 * size,
                    at + 3 * size,
                    at + 4 * size,
                    at + 5 * size,
                    at + 6 * size,
                    at + 7 * size,
                    at + 7 * size + HYB_ATTENTION_BACKWARD_FLOATS(n, head_dim)};
    for (size_t i = 0; i < 7 * size; ++i) at[i] = test_random_float(&state);
    double pairs = (double)n * (double)(n + 1) / 2, flop = 2 * pairs * (double)head_dim;
    for (size_t t = 0; t < n_tiers; ++t) {
        const hyb_kernels *k = &tiers[t].kernels;
        const bench_run runs[] = {run_last_query, run_queries, run_blocks, run_training_bench, run_backward};
        double best[5];
        if (t == 0 && n > 128) continue; /* the portable kernels' rate does not depend on n, their time does */
        time_runs(runs, 5, k, &c, best);
        printf("n %4zu head_dim %3zu %-7s", n, head_dim, tiers[t].name);
        printf(" decode %6.1f GFLOP/s | query by query %6.1f  blocks %6.1f (%4.2fx) | training %6.1f (%.1f us) "
               "backward %6.1f (%.1f us)\n",
               4e-9 * (double)n * (double)head_dim / best[0], 2e-9 * flop / best[1], 2e-9 * flop / best[2],
               best[1] / best[2], 2e-9 * flop / best[3], 1e6 * best[3], 5e-9 * flop / best[4], 1e6 * best[4]);
    }
    free(memory);
}

static void bench(const tier *tiers, size_t n_tiers) {
    char name[128];
    hyb_cpu_name(name, sizeof name);
    printf("%s\n", name);
    bench_shape(tiers, n_tiers, 128, 32);
    bench_shape(tiers, n_tiers, 128, 64);
    bench_shape(tiers, n_tiers, 512, 32);
    bench_shape(tiers, n_tiers, 512, 64);
    bench_shape(tiers, n_tiers, 512, 128);
}

int main(int argc, char **argv) {
    tier tiers[4];
    size_t n_tiers = make_tiers(tiers);
    uint64_t state = 20240229;
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench(tiers, n_tiers);
        return 0;
    }
    check_backwards(tiers, n_tiers, &state);
    if (n_tiers == 1) TEST_SKIP("this processor has no tier beyond the portable kernels");
    check_queries(tiers, n_tiers, &state);
    check_blocks(tiers, n_tiers, &state);
    for (size_t t = 1; t < n_tiers; ++t) printf("checked %s\n", tiers[t].name);
    return TEST_RESULT();
}
