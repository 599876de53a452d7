/* cluster_lloyd.cu - a run of K-means from given centroids, as lib/cluster_lloyd.c has it: every point to its nearest
 * centroid, every centroid to the mean of its points, until nothing changes or the centroids hardly move.
 *
 * All is on the device but the decision to go on: the host reads one small record an iteration, and one more where a
 * cluster is empty.
 */
#include <cmath>

#include "cluster.h"

#define THREADS 256

int hyb_cluster_look(hyb_cluster_run *run) {
    HYB_CUDA_TRY(
        cudaMemcpyAsync(&run->seen, run->found, sizeof run->seen, cudaMemcpyDeviceToHost, (cudaStream_t)run->stream));
    return (int)cudaStreamSynchronize((cudaStream_t)run->stream);
}

int hyb_cluster_report(const hyb_cluster_run *run, uint32_t iteration, double shift) {
    const hyb_kmeans_options *o = run->options;
    if (o->on_iteration == nullptr) return 0;
    const double ratio = run->mean_variance > 0 ? shift / run->mean_variance : 0;
    return o->on_iteration(o->user, iteration, ratio) == 0 ? 0 : HYB_ERROR_CANCELLED;
}

/* ---- iterations ---- */

namespace {

__global__ void count_changes_kernel(const int32_t *a, const int32_t *b, size_t n, unsigned *n_changed) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const unsigned votes = __ballot_sync(HYB_FULL_MASK, i < n && a[i] != b[i]);
    if (votes != 0 && threadIdx.x % HYB_WARP == 0) atomicAdd(n_changed, (unsigned)__popc(votes));
}

template <class T> void swap(T *&a, T *&b) {
    T *c = a;
    a = b;
    b = c;
}

/* labels, from centroids; found->n_changed. */
int assign(hyb_cluster_run *run) {
    HYB_CUDA_TRY(
        hyb_cluster_find(run->state, &run->search, run->points, run->centroids, run->next_labels, run->stream));
    HYB_CUDA_TRY(cudaMemsetAsync(run->found, 0, sizeof *run->found, (cudaStream_t)run->stream));
    HYB_LAUNCH(count_changes_kernel, (unsigned)hyb_blocks_for(run->n, THREADS), THREADS, 0, run->stream, run->labels,
               run->next_labels, run->n, &run->found->n_changed);
    swap(run->labels, run->next_labels);
    return (int)cudaGetLastError();
}

/* One iteration. The means are queued before it is known whether any label changed; if none did, they are not taken. */
int iterate_once(hyb_cluster_run *run, bool *settled) {
    HYB_CUDA_TRY(assign(run));
    HYB_CUDA_TRY(hyb_cluster_sort_labels(run));
    HYB_CUDA_TRY(hyb_cluster_make_means(run));
    HYB_CUDA_TRY(hyb_cluster_measure_shift(run));
    HYB_CUDA_TRY(hyb_cluster_look(run));
    *settled = run->seen.n_changed == 0;
    if (*settled) return 0;
    if (run->seen.n_empty > 0) {
        HYB_CUDA_TRY(hyb_cluster_repair(run));
        HYB_CUDA_TRY(hyb_cluster_measure_shift(run));
        HYB_CUDA_TRY(hyb_cluster_look(run));
    }
    swap(run->centroids, run->next_centroids);
    return 0;
}

int run_lloyd(hyb_cluster_run *run) {
    const double enough = run->options->tolerance * run->mean_variance;
    bool settled = false;
    /* -1: no cluster */
    HYB_CUDA_TRY(cudaMemsetAsync(run->labels, 0xff, run->n * sizeof *run->labels, (cudaStream_t)run->stream));
    for (uint32_t i = 1; i <= run->options->max_iterations && !run->result.converged; ++i) {
        HYB_CUDA_TRY(iterate_once(run, &settled));
        const double shift = settled ? 0 : run->seen.sum;
        run->result.n_iterations = i;
        run->result.converged = settled || shift <= enough;
        HYB_CUDA_TRY(hyb_cluster_report(run, i, shift));
    }
    return settled ? 0 : assign(run);
}

/* ---- the run ---- */

void plan(hyb_cluster_run *run, hyb_cluster_line *line, hyb_cuda_arena &arena) {
    const size_t n = run->n, d = run->d, k = run->k;
    const size_t n_chunk_rows = hyb_cluster_chunks_of(n, k).n * k, n_all_rows = hyb_cluster_chunks_of(n, 1).n;
    arena.take(run->centroids, k * d);
    arena.take(run->next_centroids, k * d);
    arena.take(run->labels, n);
    arena.take(run->next_labels, n);
    for (hyb_cluster_sorted &buffer : run->buffers) {
        arena.take(buffer.keys, n);
        arena.take(buffer.values, n);
    }
    arena.take(run->sort_counts, hyb_cluster_sort_counts(n));
    arena.take(run->starts, k + 1);
    arena.take(run->counts, k);
    arena.take(run->chunk_sums, (n_chunk_rows > n_all_rows ? n_chunk_rows : n_all_rows) * d);
    arena.take(run->totals, k * d);
    arena.take(run->distances, n);
    arena.take(run->inertia, k);
    arena.take(run->moved, k);
    arena.take(run->group_sums, hyb_blocks_for(n, HYB_CLUSTER_GROUP));
    arena.take(run->found, 1);
    hyb_cluster_plan_search(&run->search, n, d, k, arena);
    if (d == 1) hyb_cluster_plan_line(line, n, k, arena);
}

__global__ void check_kernel(const float *values, size_t n, volatile int *not_finite) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n && !hyb_is_finite(values[i])) *not_finite = 1;
}

/* Takes the start, looks at every number once, and measures the variance. */
int prepare(hyb_cluster_run *run, const float *start) {
    const size_t n_floats = run->k * run->d;
    HYB_CUDA_TRY(cudaMemcpyAsync(run->centroids, start, n_floats * sizeof *start, cudaMemcpyDeviceToDevice,
                                 (cudaStream_t)run->stream));
    HYB_LAUNCH(check_kernel, (unsigned)hyb_blocks_for(n_floats, THREADS), THREADS, 0, run->stream, start, n_floats,
               run->state->not_finite);
    HYB_CUDA_TRY(cudaGetLastError());
    HYB_CUDA_TRY(hyb_cluster_set_centre(&run->search, run->points, run->n, run->stream));
    HYB_CUDA_TRY(hyb_cluster_spread(run));
    HYB_CUDA_TRY(hyb_cluster_look(run));
    HYB_CUDA_TRY(cudaStreamSynchronize((cudaStream_t)run->stream));
    if (*run->state->not_finite) {
        *run->state->not_finite = 0;
        return HYB_ERROR_NOT_FINITE;
    }
    const double variance = run->seen.sum / (double)run->n - run->seen.other_sum;
    run->mean_variance = (variance > 0 ? variance : 0) / (double)run->d;
    return 0;
}

/* Hands the result over. */
int finish(hyb_cluster_run *run, float *centroids, int32_t *labels) {
    cudaStream_t stream = (cudaStream_t)run->stream;
    HYB_CUDA_TRY(hyb_cluster_measure_result(run));
    HYB_CUDA_TRY(cudaMemcpyAsync(centroids, run->centroids, run->k * run->d * sizeof *centroids,
                                 cudaMemcpyDeviceToDevice, stream));
    if (labels != nullptr)
        HYB_CUDA_TRY(cudaMemcpyAsync(labels, run->labels, run->n * sizeof *labels, cudaMemcpyDeviceToDevice, stream));
    HYB_CUDA_TRY(hyb_cluster_look(run));
    run->result.inertia = run->seen.sum;
    run->result.n_empty = run->seen.n_empty;
    return 0;
}

} // namespace

int hyb_module_kmeans(hyb_cuda_state *state, const hyb_kmeans_options *options, const float *points, size_t n, size_t d,
                      float *centroids, int32_t *labels, hyb_kmeans_result *result, void *stream) {
    HYB_CUDA_BEGIN(state);
    hyb_cluster_run run = {};
    hyb_cluster_line line = {};
    run.state = state;
    run.stream = stream;
    run.options = options;
    run.points = points;
    run.n = n;
    run.d = d;
    run.k = options->n_clusters;
    HYB_CUDA_TRY(hyb_cuda_lay_out(state, [&](hyb_cuda_arena &arena) { plan(&run, &line, arena); }));
    HYB_CUDA_TRY(prepare(&run, centroids));
    HYB_CUDA_TRY(d == 1 ? hyb_cluster_run_line(&run, &line) : run_lloyd(&run));
    HYB_CUDA_TRY(finish(&run, centroids, labels));
    *result = run.result;
    return 0;
}
