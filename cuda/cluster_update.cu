/* cluster_update.cu - means of clusters, points for empty ones, and sums of squared distances: the CPU's bits, from the
 * CPU's order of additions in fp64 (lib/cluster_lloyd.c, lib/cluster_nearest.c).
 *
 * Points are sorted by label, in their order within one. The sum of a cluster's points in one chunk is then a chain of
 * additions along neighbouring entries, and there are chunks times clusters times dimensions of such chains. The limit
 * is memory: each point is read once.
 */
#include <cmath>

#include "cluster.h"

#define THREADS 256
/* Dimensions of a chunk's cluster that a block adds up at most. */
#define MAX_LANES 128

/* As in lib/cluster_lloyd.c. */
#define CHUNK_POINTS_PER_CENTROID 32
#define MIN_CHUNK_POINTS 1024
#define MAX_CHUNKS 128

hyb_cluster_chunks hyb_cluster_chunks_of(size_t n, size_t k) {
    size_t least = hyb_blocks_for(n, MAX_CHUNKS);
    if (least < MIN_CHUNK_POINTS) least = MIN_CHUNK_POINTS;
    if (least < CHUNK_POINTS_PER_CENTROID * k) least = CHUNK_POINTS_PER_CENTROID * k;
    hyb_cluster_chunks chunks;
    chunks.n_points = hyb_blocks_for(least, HYB_CLUSTER_GROUP) * HYB_CLUSTER_GROUP;
    chunks.n = hyb_blocks_for(n, chunks.n_points);
    return chunks;
}

/* ---- sums in order ---- */

namespace {

/* A block adds n values up, one by one. */
__global__ void add_in_order_kernel(const double *values, size_t n, double *sum) {
    __shared__ double here[1024];
    double all = 0;
    for (size_t first = 0; first < n; first += 1024) {
        const size_t n_here = min((size_t)1024, n - first);
        __syncthreads();
        for (size_t i = threadIdx.x; i < n_here; i += THREADS) here[i] = values[first + i];
        __syncthreads();
        if (threadIdx.x != 0) continue;
#pragma unroll 8
        for (size_t i = 0; i < n_here; ++i) all += here[i];
    }
    if (threadIdx.x == 0) *sum = all;
}

int add_in_order(const double *values, size_t n, double *sum, void *stream) {
    HYB_LAUNCH(add_in_order_kernel, 1, THREADS, 0, stream, values, n, sum);
    return (int)cudaGetLastError();
}

/* The sums of the groups: here[i] are a group's values, in shared memory. */
__device__ __forceinline__ void add_group(const double *here, size_t n, double *group_sums) {
    __syncthreads();
    const size_t first = (size_t)blockIdx.x * HYB_CLUSTER_GROUP, n_here = min((size_t)HYB_CLUSTER_GROUP, n - first);
    double sum = 0;
    if (threadIdx.x != 0) return;
#pragma unroll 8
    for (size_t i = 0; i < n_here; ++i) sum += here[i];
    group_sums[blockIdx.x] = sum;
}

__global__ void add_groups_kernel(const double *values, size_t n, double *group_sums) {
    __shared__ double here[HYB_CLUSTER_GROUP];
    const size_t first = (size_t)blockIdx.x * HYB_CLUSTER_GROUP;
    for (unsigned i = threadIdx.x; i < HYB_CLUSTER_GROUP; i += THREADS) here[i] = first + i < n ? values[first + i] : 0;
    add_group(here, n, group_sums);
}

/* ---- how far the points spread ---- */

/* Sums of squared norms of groups of points less the centre; a norm is the CPU's float, added up by one lane. */
__global__ void __launch_bounds__(THREADS) norms_kernel(const float *points, size_t n, size_t d, const float *centre,
                                                        double *group_sums, volatile int *not_finite) {
    __shared__ float tiles[THREADS / HYB_WARP][HYB_WARP][HYB_WARP + 1];
    __shared__ double squares[HYB_CLUSTER_GROUP];
    const unsigned lane = threadIdx.x % HYB_WARP;
    auto &tile = tiles[threadIdx.x / HYB_WARP];
    bool bad = false;
    for (unsigned round = 0; round < HYB_CLUSTER_GROUP; round += THREADS) {
        const size_t first = (size_t)blockIdx.x * HYB_CLUSTER_GROUP + round + (threadIdx.x - lane);
        float sum = 0;
        for (size_t j = 0; j < d; j += HYB_WARP) {
#pragma unroll 8
            for (unsigned p = 0; p < HYB_WARP; ++p) {
                float x = 0;
                if (first + p < n && j + lane < d) {
                    x = points[(first + p) * d + j + lane];
                    bad |= !hyb_is_finite(x);
                    x = x - centre[j + lane];
                }
                tile[p][lane] = x;
            }
            __syncwarp();
            for (unsigned c = 0; c < HYB_WARP; ++c) sum = sum + tile[lane][c] * tile[lane][c];
            __syncwarp();
        }
        const double norm = (double)sqrtf(sum);
        squares[round + threadIdx.x] = norm * norm;
    }
    if (bad) *not_finite = 1;
    add_group(squares, n, group_sums);
}

/* Squares of the differences between the points' mean and the centre. */
__global__ void centre_errors_kernel(const double *chunk_sums, size_t n_chunks, size_t n, size_t d, const float *centre,
                                     double *errors) {
    const size_t j = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (j >= d) return;
    double total = 0;
    for (size_t chunk = 0; chunk < n_chunks; ++chunk) total += chunk_sums[chunk * d + j];
    const double difference = total / (double)n - (double)centre[j];
    errors[j] = difference * difference;
}

/* ---- sums of the chunks ---- */

struct sums_job {
    const float *points;
    size_t n, d, k;
    hyb_cluster_chunks chunks;
    const uint32_t *order, *starts; /* both NULL: one cluster of all points */
    double *sums;                   /* [chunks][k][d] */
    unsigned lanes;                 /* threads of a chunk's cluster: a power of two */
};

/* The first entry of order[begin .. end) that is not below `point`. */
__device__ __forceinline__ uint32_t find_point(const uint32_t *order, uint32_t begin, uint32_t end, size_t point) {
    while (begin < end) {
        const uint32_t middle = begin + (end - begin) / 2;
        if (order[middle] < point)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

__global__ void add_chunks_kernel(sums_job job) {
    const size_t number = ((size_t)blockIdx.x * THREADS + threadIdx.x) / job.lanes;
    const size_t chunk = number / job.k, c = number % job.k, first = chunk * job.chunks.n_points;
    if (chunk >= job.chunks.n) return;
    uint32_t begin = (uint32_t)first, end = (uint32_t)min(job.n, first + job.chunks.n_points);
    if (job.order != nullptr) {
        const size_t stop = end;
        begin = find_point(job.order, job.starts[c], job.starts[c + 1], first);
        end = find_point(job.order, begin, job.starts[c + 1], stop);
    }
    for (size_t j = (size_t)blockIdx.y * job.lanes + threadIdx.x % job.lanes; j < job.d;
         j += (size_t)gridDim.y * job.lanes) {
        double sum = 0;
        uint32_t i = begin;
        for (; i + 8 <= end; i += 8) { /* 8 loads on their way */
            float x[8];
#pragma unroll
            for (uint32_t u = 0; u < 8; ++u)
                x[u] = job.points[(job.order != nullptr ? job.order[i + u] : i + u) * job.d + j];
#pragma unroll
            for (int u = 0; u < 8; ++u) sum += (double)x[u];
        }
        for (; i < end; ++i) sum += (double)job.points[(job.order != nullptr ? job.order[i] : i) * job.d + j];
        job.sums[number * job.d + j] = sum;
    }
}

int add_chunks(hyb_cluster_run *run, const uint32_t *order, const uint32_t *starts, size_t k) {
    sums_job job = {run->points, run->n, run->d,          k, hyb_cluster_chunks_of(run->n, k),
                    order,       starts, run->chunk_sums, 1};
    while (job.lanes < MAX_LANES && job.lanes < run->d) job.lanes *= 2;
    const size_t n_columns = hyb_blocks_for(run->d, job.lanes);
    const dim3 grid((unsigned)hyb_blocks_for(job.chunks.n * k * job.lanes, THREADS),
                    (unsigned)(n_columns < 65535 ? n_columns : 65535));
    HYB_LAUNCH(add_chunks_kernel, grid, THREADS, 0, run->stream, job);
    return (int)cudaGetLastError();
}

} // namespace

int hyb_cluster_spread(hyb_cluster_run *run) {
    const unsigned n_groups = (unsigned)hyb_blocks_for(run->n, HYB_CLUSTER_GROUP);
    const float *centre = run->search.centre;
    HYB_LAUNCH(norms_kernel, n_groups, THREADS, 0, run->stream, run->points, run->n, run->d, centre, run->group_sums,
               run->state->not_finite);
    HYB_CUDA_TRY(cudaGetLastError());
    HYB_CUDA_TRY(add_in_order(run->group_sums, n_groups, &run->found->sum, run->stream));
    HYB_CUDA_TRY(add_chunks(run, nullptr, nullptr, 1));
    HYB_LAUNCH(centre_errors_kernel, (unsigned)hyb_blocks_for(run->d, THREADS), THREADS, 0, run->stream,
               run->chunk_sums, hyb_cluster_chunks_of(run->n, 1).n, run->n, run->d, centre, run->totals);
    HYB_CUDA_TRY(cudaGetLastError());
    return add_in_order(run->totals, run->d, &run->found->other_sum, run->stream);
}

/* ---- means ---- */

namespace {

/* starts[c]: the first place whose key is not below c; places go up to n. */
__global__ void starts_kernel(const uint32_t *keys, size_t n, size_t k, uint32_t *starts) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i > n) return;
    const size_t before = i > 0 ? (size_t)keys[i - 1] + 1 : 0, here = i < n ? keys[i] : k;
    for (size_t c = before; c <= here; ++c) starts[c] = (uint32_t)i;
}

} // namespace

int hyb_cluster_sort_labels(hyb_cluster_run *run) {
    unsigned n_bits = 1;
    while (n_bits < 32 && (run->k - 1) >> n_bits != 0) ++n_bits;
    HYB_CUDA_TRY(hyb_cluster_sort(reinterpret_cast<const uint32_t *>(run->labels), run->n, n_bits, run->buffers,
                                  run->sort_counts, &run->by_label, run->stream));
    HYB_LAUNCH(starts_kernel, (unsigned)hyb_blocks_for(run->n + 1, THREADS), THREADS, 0, run->stream,
               run->by_label.keys, run->n, run->k, run->starts);
    return (int)cudaGetLastError();
}

namespace {

__global__ void means_kernel(const double *chunk_sums, size_t n_chunks, size_t d, size_t k, const uint32_t *starts,
                             const float *centroids, double *totals, uint32_t *counts, float *next_centroids) {
    const size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x, c = at / d;
    if (c >= k) return;
    const uint32_t count = starts[c + 1] - starts[c];
    double total = 0;
#pragma unroll 8
    for (size_t chunk = 0; chunk < n_chunks; ++chunk) total += chunk_sums[chunk * k * d + at];
    totals[at] = total;
    next_centroids[at] = count > 0 ? (float)(total / (double)count) : centroids[at];
    if (at % d == 0) counts[c] = count;
}

} // namespace

int hyb_cluster_make_means(hyb_cluster_run *run) {
    HYB_CUDA_TRY(add_chunks(run, run->by_label.values, run->starts, run->k));
    HYB_LAUNCH(means_kernel, (unsigned)hyb_blocks_for(run->k * run->d, THREADS), THREADS, 0, run->stream,
               run->chunk_sums, hyb_cluster_chunks_of(run->n, run->k).n, run->d, run->k, run->starts, run->centroids,
               run->totals, run->counts, run->next_centroids);
    HYB_CUDA_TRY(cudaGetLastError());
    return hyb_cluster_count_empty(run);
}

int hyb_cluster_measure_shift(hyb_cluster_run *run) {
    HYB_CUDA_TRY(hyb_cluster_measure(run->state, run->centroids, run->k, run->d, run->next_centroids, nullptr,
                                     run->moved, run->stream));
    return add_in_order(run->moved, run->k, &run->found->sum, run->stream);
}

/* ---- empty clusters ---- */

namespace {

__global__ void count_empty_kernel(const uint32_t *counts, size_t k, unsigned *n_empty) {
    const size_t c = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (c < k && counts[c] == 0) atomicAdd(n_empty, 1u);
}

} // namespace

int hyb_cluster_count_empty(hyb_cluster_run *run) {
    HYB_CUDA_TRY(cudaMemsetAsync(&run->found->n_empty, 0, sizeof run->found->n_empty, (cudaStream_t)run->stream));
    HYB_LAUNCH(count_empty_kernel, (unsigned)hyb_blocks_for(run->k, THREADS), THREADS, 0, run->stream, run->counts,
               run->k, &run->found->n_empty);
    return (int)cudaGetLastError();
}

namespace {

/* A thread adds up a cluster's inertia, in the order of the points. */
__global__ void inertia_kernel(const double *distances, const uint32_t *order, const uint32_t *starts, size_t k,
                               double *inertia) {
    const size_t c = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (c >= k) return;
    double sum = 0;
#pragma unroll 8
    for (uint32_t i = starts[c]; i < starts[c + 1]; ++i) sum += distances[order[i]];
    inertia[c] = sum;
}

#define NOWHERE 0xffffffffu

/* The place, from begin to end, of the largest of the block's values, the first one of several; NOWHERE if none is
 * above `least`. value_of(place) gives a value. */
template <class Function>
__device__ __forceinline__ uint32_t find_largest(uint32_t begin, uint32_t end, double least, Function value_of) {
    __shared__ double values[THREADS];
    __shared__ uint32_t places[THREADS];
    double best = least;
    uint32_t place = NOWHERE;
    for (uint32_t i = begin + threadIdx.x; i < end; i += THREADS) {
        const double value = value_of(i);
        if (value > best) {
            best = value;
            place = i;
        }
    }
    __syncthreads(); /* the last result may still be read */
    values[threadIdx.x] = best;
    places[threadIdx.x] = place;
    for (unsigned width = THREADS / 2; width > 0; width /= 2) {
        __syncthreads();
        if (threadIdx.x >= width) continue;
        const double other = values[threadIdx.x + width];
        const uint32_t other_place = places[threadIdx.x + width];
        if (other < values[threadIdx.x] || (other == values[threadIdx.x] && other_place > places[threadIdx.x]))
            continue;
        values[threadIdx.x] = other;
        places[threadIdx.x] = other_place;
    }
    __syncthreads();
    return places[0];
}

struct repair_job {
    const float *points;
    size_t d, k;
    const uint32_t *order, *starts;
    float *centroids;
    int32_t *labels;
    double *totals, *distances, *inertia;
    uint32_t *counts;
};

/* The farthest point of the cluster of largest inertia, and that cluster; NOWHERE if every point lies on its centroid.
 * Points that were moved have distance 0. */
__device__ uint32_t choose_point(const repair_job &job, uint32_t *from) {
    for (;;) {
        *from = find_largest(0, (uint32_t)job.k, 0, [&](uint32_t c) { return job.inertia[c]; });
        if (*from == NOWHERE) return NOWHERE;
        if (job.counts[*from] > 1) {
            const uint32_t place = find_largest(job.starts[*from], job.starts[*from + 1], 0,
                                                [&](uint32_t i) { return job.distances[job.order[i]]; });
            if (place != NOWHERE) return job.order[place];
        }
        __syncthreads();
        if (threadIdx.x == 0) job.inertia[*from] = 0; /* rounding left something */
        __syncthreads();
    }
}

/* One block gives every empty cluster a point; the next choice depends on the last. */
__global__ void repair_kernel(repair_job job) {
    for (size_t c = 0; c < job.k; ++c) {
        if (job.counts[c] != 0) continue;
        uint32_t from;
        const uint32_t i = choose_point(job, &from);
        if (i == NOWHERE) return;
        __syncthreads();
        const double weight = (double)(job.counts[from] - 1);
        for (size_t j = threadIdx.x; j < job.d; j += THREADS) {
            const float x = job.points[i * job.d + j];
            job.centroids[c * job.d + j] = x;
            job.totals[from * job.d + j] -= (double)x;
            job.totals[c * job.d + j] = (double)x;
            job.centroids[from * job.d + j] = (float)(job.totals[from * job.d + j] / weight);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            job.inertia[from] -= job.distances[i];
            job.distances[i] = 0;
            --job.counts[from];
            job.counts[c] = 1;
            job.labels[i] = (int32_t)c;
        }
        __syncthreads();
    }
}

} // namespace

int hyb_cluster_repair(hyb_cluster_run *run) {
    HYB_CUDA_TRY(hyb_cluster_measure(run->state, run->points, run->n, run->d, run->next_centroids, run->labels,
                                     run->distances, run->stream));
    HYB_LAUNCH(inertia_kernel, (unsigned)hyb_blocks_for(run->k, THREADS), THREADS, 0, run->stream, run->distances,
               run->by_label.values, run->starts, run->k, run->inertia);
    HYB_CUDA_TRY(cudaGetLastError());
    const repair_job job = {run->points,         run->d,      run->k,      run->by_label.values, run->starts,
                            run->next_centroids, run->labels, run->totals, run->distances,       run->inertia,
                            run->counts};
    HYB_LAUNCH(repair_kernel, 1, THREADS, 0, run->stream, job);
    HYB_CUDA_TRY(cudaGetLastError());
    return hyb_cluster_count_empty(run);
}

/* ---- the result ---- */

namespace {

__global__ void count_labels_kernel(const int32_t *labels, size_t n, uint32_t *counts) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) atomicAdd(&counts[labels[i]], 1u);
}

} // namespace

int hyb_cluster_measure_result(hyb_cluster_run *run) {
    const size_t n_groups = hyb_blocks_for(run->n, HYB_CLUSTER_GROUP);
    HYB_CUDA_TRY(hyb_cluster_measure(run->state, run->points, run->n, run->d, run->centroids, run->labels,
                                     run->distances, run->stream));
    HYB_LAUNCH(add_groups_kernel, (unsigned)n_groups, THREADS, 0, run->stream, run->distances, run->n, run->group_sums);
    HYB_CUDA_TRY(cudaGetLastError());
    HYB_CUDA_TRY(add_in_order(run->group_sums, n_groups, &run->found->sum, run->stream));
    HYB_CUDA_TRY(cudaMemsetAsync(run->counts, 0, run->k * sizeof *run->counts, (cudaStream_t)run->stream));
    HYB_LAUNCH(count_labels_kernel, (unsigned)hyb_blocks_for(run->n, THREADS), THREADS, 0, run->stream, run->labels,
               run->n, run->counts);
    HYB_CUDA_TRY(cudaGetLastError());
    return hyb_cluster_count_empty(run);
}
