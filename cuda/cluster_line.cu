/* cluster_line.cu - Lloyd's iterations for d = 1, as lib/cluster_line.c has them: sorted once, clusters are intervals.
 * A boundary is found by bisection, the sum of an interval is a difference of two prefix sums: an iteration reads O(k
 * log n) values, and costs what its launches cost.
 */
#include <cmath>

#include "cluster.h"

#define THREADS 256
#define VALUES_PER_THREAD 16
#define TILE (THREADS * VALUES_PER_THREAD)

namespace {

/* Bits in the order of the values; -0 is 0. */
__device__ __forceinline__ uint32_t key_of(float value) {
    const uint32_t bits = __float_as_uint(value + 0.0f);
    return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ double value_of(uint32_t key) {
    return (double)__uint_as_float(key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}

__global__ void keys_kernel(const float *values, size_t n, uint32_t *keys) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) keys[i] = key_of(values[i]);
}

unsigned blocks_for(size_t n) { return (unsigned)hyb_blocks_for(n, THREADS); }

/* target: values in ascending order, equal ones in theirs. */
int sort_values(const float *values, size_t n, const hyb_cluster_sorted &work, const hyb_cluster_sorted &target,
                uint32_t *counts, void *stream) {
    const hyb_cluster_sorted buffers[2] = {work, target};
    hyb_cluster_sorted sorted; /* four passes end in the second buffer, which is the target */
    HYB_LAUNCH(keys_kernel, blocks_for(n), THREADS, 0, stream, values, n, target.keys);
    HYB_CUDA_TRY(cudaGetLastError());
    return hyb_cluster_sort(target.keys, n, 32, buffers, counts, &sorted, stream);
}

/* ---- prefix sums ---- */

/* A thread's values less the middle, which are neighbours; returns their sum. */
__device__ __forceinline__ double load_values(const uint32_t *keys, size_t n, double middle,
                                              double (&values)[VALUES_PER_THREAD]) {
    const size_t first = (size_t)blockIdx.x * TILE + (size_t)threadIdx.x * VALUES_PER_THREAD;
    double sum = 0;
    for (size_t i = 0; i < VALUES_PER_THREAD; ++i) {
        values[i] = first + i < n ? value_of(keys[first + i]) - middle : 0;
        sum += values[i];
    }
    return sum;
}

__global__ void add_tiles_kernel(const uint32_t *keys, size_t n, const float *middle, double *tile_sums) {
    __shared__ double shared[THREADS / HYB_WARP];
    double values[VALUES_PER_THREAD], total;
    hyb_scan_block(load_values(keys, n, (double)*middle, values), shared, &total);
    if (threadIdx.x == 0) tile_sums[blockIdx.x] = total;
}

/* Makes of the tiles' sums those of the tiles before; one block. */
__global__ void scan_tiles_kernel(double *tile_sums, size_t n_tiles) {
    __shared__ double shared[THREADS / HYB_WARP];
    double before = 0;
    for (size_t first = 0; first < n_tiles; first += THREADS) {
        const size_t i = first + threadIdx.x;
        double total, sum = hyb_scan_block(i < n_tiles ? tile_sums[i] : 0.0, shared, &total);
        if (i < n_tiles) tile_sums[i] = before + sum;
        before += total;
    }
}

__global__ void write_sums_kernel(const uint32_t *keys, size_t n, const float *middle, const double *tile_sums,
                                  double *sums) {
    __shared__ double shared[THREADS / HYB_WARP];
    double values[VALUES_PER_THREAD], total;
    const size_t first = (size_t)blockIdx.x * TILE + (size_t)threadIdx.x * VALUES_PER_THREAD;
    double own = load_values(keys, n, (double)*middle, values);
    double sum = tile_sums[blockIdx.x] + hyb_scan_block(own, shared, &total);
    if (first == 0) sums[0] = 0;
    for (size_t i = 0; i < VALUES_PER_THREAD && first + i < n; ++i) sums[first + i + 1] = sum += values[i];
}

int make_line(const hyb_cluster_run *run, const hyb_cluster_line *line) {
    const size_t n = run->n, n_tiles = hyb_blocks_for(n, TILE);
    const float *middle = run->search.centre;
    HYB_CUDA_TRY(sort_values(run->points, n, run->buffers[0], line->points, run->sort_counts, run->stream));
    HYB_LAUNCH(add_tiles_kernel, (unsigned)n_tiles, THREADS, 0, run->stream, line->points.keys, n, middle,
               line->tile_sums);
    HYB_LAUNCH(scan_tiles_kernel, 1, THREADS, 0, run->stream, line->tile_sums, n_tiles);
    HYB_LAUNCH(write_sums_kernel, (unsigned)n_tiles, THREADS, 0, run->stream, line->points.keys, n, middle,
               line->tile_sums, line->sums);
    return (int)cudaGetLastError();
}

/* ---- intervals ---- */

/* Number of keys below `key`, or not above it. */
__device__ __forceinline__ uint32_t count_below(const uint32_t *keys, uint32_t n, uint32_t key, bool or_equal) {
    uint32_t low = 0, high = n;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (keys[middle] < key || (or_equal && keys[middle] == key))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The first sorted point that belongs to centroid b and not to a: places among the sorted centroids, a's value is the
 * smaller one. */
__device__ uint32_t boundary(const hyb_cluster_line &line, uint32_t n, uint32_t a, uint32_t b) {
    const uint32_t *keys = line.points.keys, a_key = line.centroids.keys[a], b_key = line.centroids.keys[b];
    const bool b_first = line.centroids.values[b] < line.centroids.values[a];
    const double a_value = value_of(a_key), b_value = value_of(b_key);
    uint32_t low = count_below(keys, n, a_key, true), high = count_below(keys, n, b_key, false);
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        double to_a = value_of(keys[middle]) - a_value, to_b = b_value - value_of(keys[middle]);
        to_a *= to_a;
        to_b *= to_b;
        if (to_b < to_a || (to_b == to_a && b_first))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The interval of each sorted centroid. Of equal centroids the first one gets the points. */
__global__ void intervals_kernel(hyb_cluster_line line, size_t n, size_t k, unsigned *n_changed) {
    const uint32_t p = blockIdx.x * THREADS + threadIdx.x, n_points = (uint32_t)n, n_centroids = (uint32_t)k;
    if (p >= k) return;
    const uint32_t *keys = line.centroids.keys, c = line.centroids.values[p];
    const uint32_t first = count_below(keys, n_centroids, keys[p], false);
    const uint32_t following = count_below(keys, n_centroids, keys[p], true);
    const uint32_t end = following < k ? boundary(line, n_points, first, following) : n_points;
    uint32_t begin = end;
    if (p == first) {
        begin = 0;
        if (first > 0) begin = boundary(line, n_points, count_below(keys, n_centroids, keys[first - 1], false), first);
    }
    if (begin != line.begin[c] || end != line.end[c]) atomicAdd(n_changed, 1u);
    line.begin[c] = begin;
    line.end[c] = end;
}

__global__ void line_means_kernel(hyb_cluster_line line, size_t k, const float *middle, const float *centroids,
                                  double *totals, uint32_t *counts, float *next_centroids) {
    const size_t c = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (c >= k) return;
    const double weight = (double)(line.end[c] - line.begin[c]),
                 sum = line.sums[line.end[c]] - line.sums[line.begin[c]];
    counts[c] = line.end[c] - line.begin[c];
    totals[c] = sum + weight * (double)*middle;
    next_centroids[c] = weight > 0 ? (float)((double)*middle + sum / weight) : centroids[c];
}

/* A thread finds the interval of a sorted point: ends of the sorted centroids ascend. */
__global__ void line_labels_kernel(hyb_cluster_line line, size_t n, size_t k, int32_t *labels) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    uint32_t low = 0, high = (uint32_t)k - 1;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (line.end[line.centroids.values[middle]] > i)
            high = middle;
        else
            low = middle + 1;
    }
    labels[line.points.values[i]] = (int32_t)line.centroids.values[low];
}

/* Intervals of the centroids; found->n_changed. */
int assign_intervals(hyb_cluster_run *run, const hyb_cluster_line *line) {
    HYB_CUDA_TRY(cudaMemsetAsync(run->found, 0, sizeof *run->found, (cudaStream_t)run->stream));
    HYB_CUDA_TRY(sort_values(run->centroids, run->k, line->buffer, line->centroids, run->sort_counts, run->stream));
    HYB_LAUNCH(intervals_kernel, blocks_for(run->k), THREADS, 0, run->stream, *line, run->n, run->k,
               &run->found->n_changed);
    return (int)cudaGetLastError();
}

int write_labels(hyb_cluster_run *run, const hyb_cluster_line *line) {
    HYB_LAUNCH(line_labels_kernel, blocks_for(run->n), THREADS, 0, run->stream, *line, run->n, run->k, run->labels);
    return (int)cudaGetLastError();
}

/* One iteration; *repaired: an empty cluster got a point. The means are not taken if nothing changed. */
int iterate_once(hyb_cluster_run *run, const hyb_cluster_line *line, bool *settled, bool *repaired) {
    HYB_CUDA_TRY(assign_intervals(run, line));
    HYB_LAUNCH(line_means_kernel, blocks_for(run->k), THREADS, 0, run->stream, *line, run->k, run->search.centre,
               run->centroids, run->totals, run->counts, run->next_centroids);
    HYB_CUDA_TRY(cudaGetLastError());
    HYB_CUDA_TRY(hyb_cluster_count_empty(run));
    HYB_CUDA_TRY(hyb_cluster_measure_shift(run));
    HYB_CUDA_TRY(hyb_cluster_look(run));
    *settled = run->seen.n_changed == 0 && !*repaired;
    if (*settled) return 0;
    const unsigned n_empty = run->seen.n_empty;
    if (n_empty > 0) {
        HYB_CUDA_TRY(write_labels(run, line));
        HYB_CUDA_TRY(hyb_cluster_sort_labels(run));
        HYB_CUDA_TRY(hyb_cluster_repair(run));
        HYB_CUDA_TRY(hyb_cluster_measure_shift(run));
        HYB_CUDA_TRY(hyb_cluster_look(run));
    }
    *repaired = run->seen.n_empty < n_empty;
    float *centroids = run->centroids;
    run->centroids = run->next_centroids;
    run->next_centroids = centroids;
    return 0;
}

} // namespace

void hyb_cluster_plan_line(hyb_cluster_line *line, size_t n, size_t k, hyb_cuda_arena &arena) {
    arena.take(line->points.keys, n);
    arena.take(line->points.values, n);
    arena.take(line->sums, n + 1);
    arena.take(line->tile_sums, hyb_blocks_for(n, TILE));
    for (hyb_cluster_sorted *sorted : {&line->centroids, &line->buffer}) {
        arena.take(sorted->keys, k);
        arena.take(sorted->values, k);
    }
    arena.take(line->begin, k);
    arena.take(line->end, k);
}

int hyb_cluster_run_line(hyb_cluster_run *run, hyb_cluster_line *line) {
    const double enough = run->options->tolerance * run->mean_variance;
    bool settled = false, repaired = false;
    HYB_CUDA_TRY(make_line(run, line));
    /* nothing ends there */
    HYB_CUDA_TRY(cudaMemsetAsync(line->begin, 0xff, run->k * sizeof *line->begin, (cudaStream_t)run->stream));
    HYB_CUDA_TRY(cudaMemsetAsync(line->end, 0xff, run->k * sizeof *line->end, (cudaStream_t)run->stream));
    for (uint32_t i = 1; i <= run->options->max_iterations && !run->result.converged; ++i) {
        HYB_CUDA_TRY(iterate_once(run, line, &settled, &repaired));
        const double shift = settled ? 0 : run->seen.sum;
        run->result.n_iterations = i;
        run->result.converged = settled || shift <= enough;
        HYB_CUDA_TRY(hyb_cluster_report(run, i, shift));
    }
    if (!settled) HYB_CUDA_TRY(assign_intervals(run, line));
    return write_labels(run, line);
}
