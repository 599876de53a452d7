/* cluster.cu - nearest centroids. Scores x.c - |c|^2 / 2 are made tile by tile and only the best two of a point stay:
 * no matrix of distances. Where rounding might decide between them, all centroids are compared exactly, as on the CPU
 * (lib/cluster_nearest.c), so that labels are the CPU's.
 *
 * The limit is fp32 multiply-adds, n k d of them: 64 or 32 for each 16-byte load of a thread from shared memory. Points
 * are read once for d <= 128 (above, once for each tile of centroids, out of the second-level cache).
 */
#include <cmath>

#include "cluster.h"
#include "ptx.h"

#define THREADS 256
/* Points of a block, and of a thread. */
#define POINTS 128
#define ROWS 8
/* Dimensions of a piece of a tile of centroids, two of which are in shared memory; d_padded is a multiple. */
#define CHUNK 16
/* Dimensions of the points that are in shared memory. */
#define SLICE 128
/* Above it, (d + 8) 2^-24 is no longer a bound of what d roundings do. */
#define MAX_BOUNDED_D 65536

/* ---- the centre ---- */

namespace {

/* Any centre is right. This is the CPU's, since the variance of the points is measured from it. */
__global__ void centre_kernel(const float *rows, size_t n, size_t step, size_t d, size_t d_padded, float *centre) {
    const size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= d_padded) return;
    double sum = 0;
#pragma unroll 16
    for (size_t i = 0; i < n; i += step) sum += j < d ? (double)rows[i * d + j] : 0.0;
    centre[j] = (float)(sum / (double)((n + step - 1) / step));
}

} // namespace

int hyb_cluster_set_centre(const hyb_cluster_search *search, const float *rows, size_t n, void *stream) {
    HYB_LAUNCH(centre_kernel, (unsigned)hyb_blocks_for(search->d_padded, 64), 64, 0, stream, rows, n,
               hyb_blocks_for(n, 1024), search->d, search->d_padded, search->centre);
    return (int)cudaGetLastError();
}

/* ---- centroids ---- */

namespace {

/* A warp packs a centroid. */
__global__ void pack_kernel(hyb_cluster_search s, const float *centroids, volatile int *not_finite) {
    const size_t c = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / HYB_WARP;
    const unsigned lane = threadIdx.x % HYB_WARP;
    if (c >= s.n_tiles * s.tile) return;
    float *packed = s.packed + c / s.tile * s.d_padded * s.tile + c % s.tile;
    double square = 0;
    bool bad = false;
    for (size_t j = lane; j < s.d_padded; j += HYB_WARP) {
        float x = 0;
        if (c < s.k && j < s.d) {
            x = centroids[c * s.d + j];
            bad |= !hyb_is_finite(x);
            x = x - s.centre[j];
        }
        packed[j * s.tile] = x;
        square += (double)x * (double)x;
    }
    square = hyb_sum_warp(square);
    if (bad) *not_finite = 1;
    if (lane != 0) return;
    s.offsets[c] = c < s.k ? (float)(-0.5 * square) : -INFINITY;
    /* Doubles from 0 on are ordered like their bits. */
    atomicMax(&s.head->radius_bits, (unsigned long long)__double_as_longlong(sqrt(square)));
}

/* ---- scores ---- */

struct score_job {
    hyb_cluster_search s;
    const float *points;
    int32_t *labels;
    volatile int *not_finite;
    double rate;  /* of rounding, in proportion to |x| R + R^2; infinite where there is no bound */
    bool aligned; /* rows begin at multiples of 16 bytes */
};

/* Where dimension j of point p is in shared memory: threads that store 4 dimensions of 8 points each, and those that
 * read 4 points of a dimension, meet 32 different banks. */
__device__ __forceinline__ int place_of(int j, int p) { return j * POINTS + (p ^ (j / 4 % 4 * 8)); }

/* Four dimensions of a row, from j on; zeros behind the last. */
__device__ __forceinline__ float4 load_quad(const score_job &job, const float *row, size_t j) {
    if (job.aligned && j < job.s.d) return __ldg(reinterpret_cast<const float4 *>(row + j));
    float4 x = make_float4(0, 0, 0, 0);
    if (j < job.s.d) x.x = row[j];
    if (j + 1 < job.s.d) x.y = row[j + 1];
    if (j + 2 < job.s.d) x.z = row[j + 2];
    if (j + 3 < job.s.d) x.w = row[j + 3];
    return x;
}

/* Brings n_dims dimensions of the block's points, less the centre, to shared memory; behind the last point, it again.
 * Returns whether this thread met only finite ones. A warp reads 64 bytes of each of 8 rows at once. */
__device__ __forceinline__ bool load_slice(const score_job &job, size_t first_dim, int n_dims, float *slice) {
    const int lane = (int)threadIdx.x % HYB_WARP, n_units = POINTS / 8 * (n_dims / CHUNK);
    bool finite = true;
#pragma unroll 4
    for (int unit = (int)threadIdx.x / HYB_WARP; unit < n_units; unit += THREADS / HYB_WARP) {
        const int p = unit % (POINTS / 8) * 8 + lane / 4, j = unit / (POINTS / 8) * CHUNK + lane % 4 * 4;
        size_t point = (size_t)blockIdx.x * POINTS + (size_t)p;
        if (point >= job.s.n) point = job.s.n - 1;
        const float4 x = load_quad(job, job.points + point * job.s.d, first_dim + (size_t)j);
        const float4 middle = *reinterpret_cast<const float4 *>(job.s.centre + first_dim + j);
        finite = finite && hyb_is_finite(x.x) && hyb_is_finite(x.y) && hyb_is_finite(x.z) && hyb_is_finite(x.w);
        slice[place_of(j, p)] = x.x - middle.x;
        slice[place_of(j + 1, p)] = x.y - middle.y;
        slice[place_of(j + 2, p)] = x.z - middle.z;
        slice[place_of(j + 3, p)] = x.w - middle.w;
    }
    return finite;
}

/* Adds the products of a chunk. Threads are 16 x 16: `row` of points, `column` of centroids; each has groups of 4, 64
 * points and centroids apart. slice begins at the chunk. */
template <int COLS>
__device__ __forceinline__ void multiply(const float *slice, const float *chunk, int row, int column,
                                         float (&sums)[ROWS][COLS]) {
#pragma unroll
    for (int j = 0; j < CHUNK; ++j) {
        float a[ROWS], b[COLS];
#pragma unroll
        for (int g = 0; g < ROWS / 4; ++g) {
            float4 x = *reinterpret_cast<const float4 *>(slice + place_of(j, 4 * row) + 64 * g);
            a[4 * g] = x.x, a[4 * g + 1] = x.y, a[4 * g + 2] = x.z, a[4 * g + 3] = x.w;
        }
#pragma unroll
        for (int g = 0; g < COLS / 4; ++g) {
            float4 x = *reinterpret_cast<const float4 *>(chunk + j * 16 * COLS + 4 * column + 64 * g);
            b[4 * g] = x.x, b[4 * g + 1] = x.y, b[4 * g + 2] = x.z, b[4 * g + 3] = x.w;
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < COLS; ++c) sums[r][c] = fmaf(a[r], b[c], sums[r][c]);
    }
}

/* The largest two scores of a point so far, and whose the largest is. */
struct best_two {
    float best, second;
    int label;
};

__device__ __forceinline__ void take_score(best_two &b, float score, int label) {
    b.second = fmaxf(b.second, fminf(b.best, score));
    b.label = score > b.best ? label : b.label;
    b.best = fmaxf(b.best, score);
}

/* In shared memory, of each column of threads apart: in registers, they would not fit beside the sums. With rows of 18,
 * the threads of a warp (4 points, 4 apart, by 8 columns) meet 32 different banks. */
struct best_memory {
    float best[POINTS][18], second[POINTS][18];
    int labels[POINTS][18];
};

/* Takes the scores of a tile. `label` is that of the thread's first centroid. */
template <int COLS>
__device__ __forceinline__ void take_scores(best_memory *memory, int row, int column, int label,
                                            const float (&sums)[ROWS][COLS]) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const int p = r / 4 * 64 + 4 * row + r % 4;
        best_two b = {memory->best[p][column], memory->second[p][column], memory->labels[p][column]};
#pragma unroll
        for (int c = 0; c < COLS; ++c) take_score(b, sums[r][c], label + c / 4 * 64 + c % 4);
        memory->best[p][column] = b.best;
        memory->second[p][column] = b.second;
        memory->labels[p][column] = b.label;
    }
}

/* Whether no rounding can change which score is the largest (Higham 2002, section 3.1): each of the d fused
 * multiply-adds rounds a sum of at most |x| R + R^2 / 2, of coordinates that were rounded once when the centre was
 * taken off. The exact comparison rounds as well, in proportion to |x|^2: 2^-20 |x| in place of a smaller R covers it.
 */
__device__ bool is_decided(const score_job &job, float square, const best_two &b) {
    const double least = (double)job.s.d * 0x1p-149; /* below the normal numbers, errors and squares are absolute */
    const double norm = sqrt((double)square + least), share = 0x1p-20 * norm;
    double radius = __longlong_as_double((long long)job.s.head->radius_bits);
    radius = radius > share ? radius : share;
    const double reach = norm + radius;
    if (!(reach * reach < 0.125 * 3.4e38)) return false; /* a score might overflow */
    return (double)b.best - (double)b.second > 2 * (job.rate * radius * reach + least);
}

/* Ends a block: the best two of the 16 threads that share a point, and what is to be decided exactly. */
__device__ __forceinline__ void finish_points(const score_job &job, const best_memory *memory, const float *squares) {
    const int p = (int)threadIdx.x;
    const size_t point = (size_t)blockIdx.x * POINTS + threadIdx.x;
    if (p >= POINTS || point >= job.s.n) return;
    best_two all = {-INFINITY, -INFINITY, 0};
    for (int c = 0; c < 16; ++c) {
        take_score(all, memory->best[p][c], memory->labels[p][c]);
        all.second = fmaxf(all.second, memory->second[p][c]);
    }
    job.labels[point] = all.label;
    if (!is_decided(job, squares[p] + squares[p + POINTS], all))
        job.s.list[atomicAdd(&job.s.head->n_left, 1u)] = (uint32_t)point;
}

/* Adds to half the squared norm of a point, over the dimensions of a slice. */
__device__ __forceinline__ void add_squares(const float *slice, int n_dims, float *squares) {
    const int p = (int)threadIdx.x % POINTS, half = (int)threadIdx.x / POINTS * (n_dims / 2);
    float square = squares[threadIdx.x];
#pragma unroll 8
    for (int j = half; j < half + n_dims / 2; ++j) square = fmaf(slice[place_of(j, p)], slice[place_of(j, p)], square);
    squares[threadIdx.x] = square;
}

/* Begins to copy a chunk of centroids. */
template <int COLS> __device__ __forceinline__ void copy_chunk(float *shared, const float *packed) {
#pragma unroll
    for (int i = 0; i < CHUNK * 16 * COLS; i += 4 * THREADS)
        hyb_copy_async_16(shared + i + 4 * threadIdx.x, packed + i + 4 * threadIdx.x, true);
    hyb_copies_commit();
}

/* A block finds the nearest of all centroids for POINTS points. COLS: centroids of a thread, so 16 COLS of a tile. */
template <int COLS> __global__ void __launch_bounds__(THREADS, 2) nearest_kernel(score_job job) {
    HYB_DYNAMIC_SHARED(float, shared);
    __shared__ float squares[THREADS];
    constexpr int CHUNK_FLOATS = CHUNK * 16 * COLS;
    const int lane = (int)threadIdx.x % HYB_WARP, warp = (int)threadIdx.x / HYB_WARP;
    const int row = warp / 2 * 4 + lane / 8, column = warp % 2 * 8 + lane % 8;
    const int n_chunks = (int)(job.s.d_padded / CHUNK), n_tiles = (int)job.s.n_tiles;
    const float *packed = job.s.packed;
    best_memory *memory = reinterpret_cast<best_memory *>(shared + 2 * CHUNK_FLOATS);
    float *slice = reinterpret_cast<float *>(memory + 1);
    int here = 0; /* which half of `shared` has this step's chunk */
    for (int r = 0; r < ROWS; ++r) {
        const int p = r / 4 * 64 + 4 * row + r % 4;
        memory->best[p][column] = memory->second[p][column] = -INFINITY;
        memory->labels[p][column] = 0;
    }
    squares[threadIdx.x] = 0;

    copy_chunk<COLS>(shared, packed);
    for (int tile = 0; tile < n_tiles; ++tile) {
        float sums[ROWS][COLS];
#pragma unroll
        for (int c = 0; c < COLS; ++c) {
            float offset = __ldg(job.s.offsets + tile * 16 * COLS + c / 4 * 64 + 4 * column + c % 4);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) sums[r][c] = offset;
        }
        for (int chunk = 0; chunk < n_chunks; ++chunk) {
            const bool is_new = chunk % (SLICE / CHUNK) == 0 && (tile == 0 || n_chunks > SLICE / CHUNK);
            const int n_dims = min(SLICE, (n_chunks - chunk) * CHUNK);
            if (is_new) {
                __syncthreads(); /* the last slice may still be read */
                if (!load_slice(job, (size_t)chunk * CHUNK, n_dims, slice)) *job.not_finite = 1;
            }
            hyb_copies_wait<0>();
            __syncthreads();
            packed += CHUNK_FLOATS;
            if (chunk + 1 < n_chunks || tile + 1 < n_tiles) /* all have left the chunk before this one */
                copy_chunk<COLS>(shared + (CHUNK_FLOATS - here), packed);
            if (is_new && tile == 0) add_squares(slice, n_dims, squares);
            multiply<COLS>(slice + chunk % (SLICE / CHUNK) * CHUNK * POINTS, shared + here, row, column, sums);
            here = CHUNK_FLOATS - here;
        }
        take_scores(memory, row, column, tile * 16 * COLS + 4 * column, sums);
    }
    __syncthreads();
    finish_points(job, memory, squares);
}

template <int COLS> int launch_scores(const score_job &job, void *stream) {
    auto kernel = nearest_kernel<COLS>;
    const size_t n_dims = job.s.d_padded < SLICE ? job.s.d_padded : SLICE;
    const size_t n_bytes = (2 * CHUNK * 16 * COLS + n_dims * POINTS) * sizeof(float) + sizeof(best_memory);
    HYB_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes));
    HYB_LAUNCH(kernel, (unsigned)hyb_blocks_for(job.s.n, POINTS), THREADS, n_bytes, stream, job);
    return (int)cudaGetLastError();
}

/* ---- exactly ---- */

/* A warp compares a point with all centroids: each half of it with 4 at a time, by 16-lane sums in fp64. */
__global__ void exact_kernel(hyb_cluster_search s, const float *points, const float *centroids, int32_t *labels) {
    const size_t n_warps = (size_t)gridDim.x * (blockDim.x / HYB_WARP), n_left = s.head->n_left;
    const unsigned lane = threadIdx.x % 16, half = threadIdx.x / 16 % 2;
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / HYB_WARP;
    for (; i < n_left; i += n_warps) {
        const float *row = points + s.list[i] * s.d;
        double nearest = INFINITY;
        int label = 0;
        for (size_t first = 0; first < s.k; first += 8) {
            double sums[4] = {0, 0, 0, 0};
            const float *others[4];
            for (size_t c = 0; c < 4; ++c) others[c] = centroids + min(first + 4 * half + c, s.k - 1) * s.d;
            for (size_t j = lane; j < s.d; j += 16) {
                const double x = (double)row[j];
                for (int c = 0; c < 4; ++c) {
                    const double difference = x - (double)others[c][j];
                    sums[c] += difference * difference;
                }
            }
            for (size_t c = 0; c < 4; ++c) {
                const double distance = hyb_sum_16_lanes(sums[c]);
                const size_t cluster = first + 4 * half + c;
                if (cluster >= s.k || !(distance < nearest)) continue;
                nearest = distance;
                label = (int)cluster;
            }
        }
        const double other = __shfl_down_sync(HYB_FULL_MASK, nearest, 16u);
        const int other_label = __shfl_down_sync(HYB_FULL_MASK, label, 16u);
        if (other < nearest || (other == nearest && other_label < label)) label = other_label;
        if (threadIdx.x % HYB_WARP == 0) labels[s.list[i]] = label;
    }
}

/* Half a warp measures a distance; both halves go the same number of rounds. */
__global__ void measure_kernel(const float *a, size_t n, size_t d, const float *b, const int32_t *labels,
                               double *distances) {
    const size_t n_warps = (size_t)gridDim.x * (blockDim.x / HYB_WARP);
    const unsigned lane = threadIdx.x % 16, half = threadIdx.x / 16 % 2;
    size_t pair = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / HYB_WARP;
    for (; 2 * pair < n; pair += n_warps) {
        const size_t i = min(2 * pair + half, n - 1);
        const float *x = a + i * d, *y = b + (labels != nullptr ? (size_t)labels[i] : i) * d;
        double sum = 0;
#pragma unroll 4
        for (size_t j = lane; j < d; j += 16) {
            const double difference = (double)x[j] - (double)y[j];
            sum += difference * difference;
        }
        sum = hyb_sum_16_lanes(sum);
        if (lane == 0) distances[i] = sum;
    }
}

/* Blocks for n warps that take the next when they are done with one. */
unsigned warps_grid(const hyb_cuda_state *state, size_t n) {
    return hyb_resident_blocks(state, hyb_blocks_for(n, THREADS / HYB_WARP), 8);
}

} // namespace

int hyb_cluster_measure(hyb_cuda_state *state, const float *a, size_t n, size_t d, const float *b,
                        const int32_t *labels, double *distances, void *stream) {
    HYB_LAUNCH(measure_kernel, warps_grid(state, hyb_blocks_for(n, 2)), THREADS, 0, stream, a, n, d, b, labels,
               distances);
    return (int)cudaGetLastError();
}

/* ---- the search ---- */

void hyb_cluster_plan_search(hyb_cluster_search *s, size_t n, size_t d, size_t k, hyb_cuda_arena &arena) {
    s->n = n;
    s->d = d;
    s->k = k;
    s->tile = k <= 64 ? 64 : 128; /* few centroids: less in vain */
    s->n_tiles = hyb_blocks_for(k, s->tile);
    s->d_padded = hyb_blocks_for(d, CHUNK) * CHUNK;
    arena.take(s->centre, s->d_padded);
    arena.take(s->packed, s->n_tiles * s->tile * s->d_padded);
    arena.take(s->offsets, s->n_tiles * s->tile);
    arena.take(s->head, 1);
    arena.take(s->list, n);
}

int hyb_cluster_find(hyb_cuda_state *state, const hyb_cluster_search *s, const float *points, const float *centroids,
                     int32_t *labels, void *stream) {
    score_job job = {*s, points, labels, state->not_finite, INFINITY, false};
    if (s->d <= MAX_BOUNDED_D) job.rate = 1.01 * ((double)s->d + 8) * 0x1p-24;
    job.aligned = s->d % 4 == 0 && (uintptr_t)points % 16 == 0;
    HYB_CUDA_TRY(cudaMemsetAsync(s->head, 0, sizeof *s->head, (cudaStream_t)stream));
    HYB_LAUNCH(pack_kernel, (unsigned)hyb_blocks_for(s->n_tiles * s->tile, THREADS / HYB_WARP), THREADS, 0, stream,
               job.s, centroids, state->not_finite);
    HYB_CUDA_TRY(cudaGetLastError());
    HYB_CUDA_TRY(s->tile == 64 ? launch_scores<4>(job, stream) : launch_scores<8>(job, stream));
    HYB_LAUNCH(exact_kernel, warps_grid(state, s->n), THREADS, 0, stream, job.s, points, centroids, labels);
    return (int)cudaGetLastError();
}

int hyb_module_cluster_nearest(hyb_cuda_state *state, const float *points, size_t n, size_t d, const float *centroids,
                               size_t k, int32_t *labels, double *distances, void *stream) {
    HYB_CUDA_BEGIN(state);
    hyb_cluster_search search;
    HYB_CUDA_TRY(
        hyb_cuda_lay_out(state, [&](hyb_cuda_arena &arena) { hyb_cluster_plan_search(&search, n, d, k, arena); }));
    HYB_CUDA_TRY(hyb_cluster_set_centre(&search, centroids, k, stream));
    HYB_CUDA_TRY(hyb_cluster_find(state, &search, points, centroids, labels, stream));
    if (distances == nullptr) return 0;
    return hyb_cluster_measure(state, points, n, d, centroids, labels, distances, stream);
}
