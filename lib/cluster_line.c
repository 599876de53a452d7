/* cluster_line.c - Lloyd's iterations for d = 1: sorted once, clusters are intervals. A boundary is found by bisection,
 * the sum of an interval is a difference of two prefix sums: an iteration takes O(k log n).
 */
#include <math.h>
#include <stdlib.h>

#include "cluster_internal.h"

/* Digits of the radix sort: six of them hold 64 bits. */
#define DIGIT_BITS 11
#define N_DIGITS 6
#define RADIX ((size_t)1 << DIGIT_BITS)

struct hyb_cluster_line {
    size_t *order;   /* [n]: numbers of the points, by value; equal values in their order */
    double *values;  /* [n]: sorted */
    double *sums;    /* [n + 1]: sum of weight * (value - middle) of the points before */
    double *weights; /* [n + 1]: sum of their weights; NULL without weights */
    double middle;
};

typedef struct entry {
    uint64_t key;
    size_t index;
} entry;

/* Bits in the order of the values; -0 is 0. */
static uint64_t key_of(double value) {
    uint64_t bits;
    value += 0.0;
    memcpy(&bits, &value, sizeof bits);
    return (bits >> 63) != 0 ? ~bits : bits | (uint64_t)1 << 63;
}
static double value_of(uint64_t key) {
    uint64_t bits = (key >> 63) != 0 ? key & ~((uint64_t)1 << 63) : ~key;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static size_t digit_of(uint64_t key, size_t digit) { return (size_t)(key >> (DIGIT_BITS * digit)) & (RADIX - 1); }

/* Sorts n entries; returns where they are then: in `from` or in `to`. counts: [N_DIGITS][RADIX], zeroed. */
static entry *radix_sort(entry *from, entry *to, size_t n, size_t *counts) {
    for (size_t i = 0; i < n; ++i) {
        for (size_t digit = 0; digit < N_DIGITS; ++digit) ++counts[digit * RADIX + digit_of(from[i].key, digit)];
    }
    for (size_t digit = 0; digit < N_DIGITS; ++digit) {
        size_t *count = counts + digit * RADIX, next = 0;
        if (count[digit_of(from[0].key, digit)] == n) continue; /* the same in all: low bits of what were floats */
        for (size_t value = 0; value < RADIX; ++value) {
            size_t here = count[value];
            count[value] = next;
            next += here;
        }
        for (size_t i = 0; i < n; ++i) to[count[digit_of(from[i].key, digit)]++] = from[i];
        entry *swap = from;
        from = to;
        to = swap;
    }
    return from;
}

static void fill_line(const hyb_cluster_data *data, const entry *sorted, hyb_cluster_line *line) {
    double sum = 0, weight = 0;
    line->middle = hyb_cluster_get(&data->type, data->centre, 0);
    line->sums[0] = 0;
    if (line->weights != NULL) line->weights[0] = 0;
    for (size_t i = 0; i < data->n; ++i) {
        double value = value_of(sorted[i].key), own = hyb_cluster_weight(data, sorted[i].index);
        line->order[i] = sorted[i].index;
        line->values[i] = value;
        line->sums[i + 1] = sum += own * (value - line->middle);
        if (line->weights != NULL) line->weights[i + 1] = weight += own;
    }
}

hyb_status hyb_cluster_line_create(const hyb_cluster_data *data, hyb_cluster_line **out) {
    hyb_ctx *ctx = data->ctx;
    const size_t n = data->n;
    entry *from = hyb_alloc(ctx, n, sizeof *from), *to = hyb_alloc(ctx, n, sizeof *to);
    size_t *counts = hyb_alloc_zeroed(ctx, N_DIGITS * RADIX, sizeof *counts);
    hyb_cluster_line *line = hyb_alloc_zeroed(ctx, 1, sizeof *line);
    hyb_status status = HYB_OK;
    int complete = from != NULL && to != NULL && counts != NULL && line != NULL &&
                   (line->order = hyb_alloc(ctx, n, sizeof *line->order)) != NULL &&
                   (line->values = hyb_alloc(ctx, n, sizeof *line->values)) != NULL &&
                   (line->sums = hyb_alloc(ctx, n + 1, sizeof *line->sums)) != NULL &&
                   (data->weights == NULL || (line->weights = hyb_alloc(ctx, n + 1, sizeof *line->weights)) != NULL);
    if (complete) {
        for (size_t i = 0; i < n; ++i) {
            from[i].key = key_of(hyb_cluster_get(&data->type, data->points, i));
            from[i].index = i;
        }
        fill_line(data, radix_sort(from, to, n, counts), line);
        *out = line;
    } else {
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory to sort %zu points", n);
        hyb_cluster_line_destroy(ctx, line);
    }
    hyb_free(ctx, from);
    hyb_free(ctx, to);
    hyb_free(ctx, counts);
    return status;
}

void hyb_cluster_line_destroy(hyb_ctx *ctx, hyb_cluster_line *line) {
    if (line == NULL) return;
    hyb_free(ctx, line->order);
    hyb_free(ctx, line->values);
    hyb_free(ctx, line->sums);
    hyb_free(ctx, line->weights);
    hyb_free(ctx, line);
}

/* ---- intervals ---- */

typedef struct centroid {
    double value;
    size_t cluster;
} centroid;

typedef struct intervals {
    const hyb_cluster_data *data;
    const hyb_cluster_line *line;
    size_t k;
    centroid *sorted;                 /* [k] */
    size_t *begin, *end, *next;       /* [k] each; next: begin and end of the new ones, [2 k] */
    double *totals, *weights;         /* [k] */
    size_t *counts;                   /* [k] */
    void *centroids, *next_centroids; /* [k] */
    double *group_sums;
} intervals;

static int by_value(const void *a, const void *b) {
    const centroid *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return x->cluster < y->cluster ? -1 : 1;
}

/* Number of values below `bound`, or not above it. */
static size_t count_below(const double *values, size_t n, double bound, int or_equal) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (values[middle] < bound || (or_equal && values[middle] == bound)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The first sorted point that belongs to b and not to a, where a's value is below b's. */
static size_t boundary(const hyb_cluster_line *line, size_t n, const centroid *a, const centroid *b) {
    size_t low = count_below(line->values, n, a->value, 1), high = count_below(line->values, n, b->value, 0);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        double to_a = line->values[middle] - a->value, to_b = b->value - line->values[middle];
        to_a *= to_a;
        to_b *= to_b;
        if (to_b < to_a || (to_b == to_a && b->cluster < a->cluster)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

/* Intervals of the centroids; returns whether any changed. Of equal centroids the first one gets the points. */
static int assign_intervals(intervals *v) {
    const size_t n = v->data->n;
    size_t *begin = v->next, *end = v->next + v->k, at = 0;
    for (size_t c = 0; c < v->k; ++c) {
        v->sorted[c].value = hyb_cluster_get(&v->data->type, v->centroids, c);
        v->sorted[c].cluster = c;
    }
    qsort(v->sorted, v->k, sizeof *v->sorted, by_value);
    for (size_t c = 0; c < v->k;) {
        size_t following = c + 1;
        while (following < v->k && v->sorted[following].value == v->sorted[c].value) ++following;
        size_t stop = following < v->k ? boundary(v->line, n, &v->sorted[c], &v->sorted[following]) : n;
        begin[v->sorted[c].cluster] = at;
        end[v->sorted[c].cluster] = stop;
        for (size_t other = c + 1; other < following; ++other) {
            begin[v->sorted[other].cluster] = end[v->sorted[other].cluster] = stop;
        }
        at = stop;
        c = following;
    }
    int changed = memcmp(begin, v->begin, v->k * sizeof *begin) != 0 || memcmp(end, v->end, v->k * sizeof *end) != 0;
    memcpy(v->begin, begin, v->k * sizeof *begin);
    memcpy(v->end, end, v->k * sizeof *end);
    return changed;
}

static void write_labels(const intervals *v, int32_t *labels) {
    for (size_t c = 0; c < v->k; ++c) {
        for (size_t i = v->begin[c]; i < v->end[c]; ++i) labels[v->line->order[i]] = (int32_t)c;
    }
}

/* Means of the intervals; *shift as in cluster_lloyd.c. *repaired: an empty cluster got a point. labels: work memory.
 */
static hyb_status move_centroids(intervals *v, int32_t *labels, double *shift, int *repaired) {
    const hyb_cluster_line *line = v->line;
    size_t n_empty = 0, n_left = 0;
    for (size_t c = 0; c < v->k; ++c) {
        size_t begin = v->begin[c], end = v->end[c], count = end - begin;
        double weight = line->weights != NULL ? line->weights[end] - line->weights[begin] : (double)count;
        double sum = line->sums[end] - line->sums[begin], old = hyb_cluster_get(&v->data->type, v->centroids, c);
        v->counts[c] = count;
        v->weights[c] = weight;
        v->totals[c] = sum + weight * line->middle;
        hyb_cluster_put(&v->data->type, v->next_centroids, c, weight > 0 ? line->middle + sum / weight : old);
        n_empty += count == 0;
    }
    if (n_empty > 0) {
        write_labels(v, labels);
        HYB_TRY(hyb_cluster_repair(v->data, v->k, v->next_centroids, labels, v->totals, v->weights, v->counts));
        for (size_t c = 0; c < v->k; ++c) n_left += v->counts[c] == 0;
    }
    *repaired = n_left < n_empty;
    *shift = 0;
    for (size_t c = 0; c < v->k; ++c) {
        double moved =
            hyb_cluster_get(&v->data->type, v->next_centroids, c) - hyb_cluster_get(&v->data->type, v->centroids, c);
        *shift += moved * moved;
    }
    memcpy(v->centroids, v->next_centroids, v->k * v->data->type.bytes);
    return HYB_OK;
}

static hyb_status iterate(intervals *v, const hyb_kmeans_options *options, hyb_cluster_run *run) {
    const double enough = options->tolerance * v->data->mean_variance;
    int settled = 0, repaired = 0;
    memset(v->end, 0xff, v->k * sizeof *v->end); /* nothing is like this */
    run->result.converged = 0;
    for (uint32_t i = 1; i <= options->max_iterations && !run->result.converged; ++i) {
        double shift = 0;
        settled = !assign_intervals(v) && !repaired;
        if (!settled) HYB_TRY(move_centroids(v, run->labels, &shift, &repaired));
        run->result.n_iterations = i;
        run->result.converged = settled || shift <= enough;
        HYB_TRY(hyb_cluster_report(v->data, options, i, shift));
    }
    if (!settled) (void)assign_intervals(v);
    return HYB_OK;
}

hyb_status hyb_cluster_line_run(const hyb_cluster_data *data, const hyb_kmeans_options *options, hyb_cluster_run *run) {
    hyb_ctx *ctx = data->ctx;
    const size_t k = run->k;
    intervals v = {.data = data, .line = data->line, .k = k, .centroids = run->centroids};
    hyb_status status = HYB_OK;
    v.sorted = hyb_alloc(ctx, k, sizeof *v.sorted);
    v.begin = hyb_alloc(ctx, 5 * k, sizeof *v.begin);
    v.totals = hyb_alloc(ctx, 2 * k, sizeof *v.totals);
    v.next_centroids = hyb_alloc(ctx, k, data->type.bytes);
    v.group_sums = hyb_alloc(ctx, hyb_cluster_n_groups(data->n), sizeof *v.group_sums);
    if (v.sorted != NULL && v.begin != NULL && v.totals != NULL && v.next_centroids != NULL && v.group_sums != NULL) {
        v.end = v.begin + k;
        v.next = v.end + k;
        v.counts = v.next + 2 * k;
        v.weights = v.totals + k;
        status = iterate(&v, options, run);
    } else {
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "kmeans: no memory for %zu clusters", k);
    }
    if (status == HYB_OK) {
        write_labels(&v, run->labels);
        run->result.inertia = hyb_cluster_inertia(data, v.centroids, run->labels, v.group_sums);
        run->result.n_empty = hyb_cluster_count_empty(run->labels, data->n, k, v.counts);
    }
    hyb_free(ctx, v.sorted);
    hyb_free(ctx, v.begin);
    hyb_free(ctx, v.totals);
    hyb_free(ctx, v.next_centroids);
    hyb_free(ctx, v.group_sums);
    return status;
}
