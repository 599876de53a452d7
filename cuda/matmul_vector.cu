/* matmul_vector.cu - packed weights times one token. Limit: the weights' bytes by the memory's bandwidth.
 *
 * Blocks stay on their multiprocessor and go through the rows; the token lies in shared memory. A thread has 16 bytes
 * of each of ROWS rows under way, which 768 threads make 48 KB a multiprocessor, and reads the token once for all of
 * them. As many lanes share a row as its length fills.
 */
#include "matmul_kernels.h"

namespace {

constexpr int THREADS = 256;
constexpr int BLOCKS_PER_MULTIPROCESSOR = 3; /* 4 leave 64 registers, too few on some processors */
constexpr int ROWS_IN_FLIGHT = 4;
/* Below so many warps a multiprocessor, rows are divided among more lanes rather than read side by side. */
constexpr size_t MIN_WARPS = 8;

template <bool TERNARY> struct row_sum;
template <> struct row_sum<true> : hyb_plane_sums {
    __device__ __forceinline__ void add_piece(const uint4 &codes, int piece, const uint4 &x) {
        add(hyb_word_of(codes, piece), x);
    }
};
template <> struct row_sum<false> {
    int sum = 0;
    __device__ __forceinline__ void add_piece(const uint4 &codes, int, const uint4 &x) {
        for (int i = 0; i < 4; ++i) sum = __dp4a((int)hyb_word_of(codes, i), (int)hyb_word_of(x, i), sum);
    }
    __device__ __forceinline__ int total() const { return sum; }
};

/* A token into shared memory: of each chunk of a row the piece 0, then of each the piece 1, ... so that neighbouring
 * lanes read neighbouring 16 bytes. */
template <int PIECES> __device__ void stage_token(const int8_t *x, uint32_t n_chunks, uint4 *staged) {
    for (uint32_t i = threadIdx.x; i < n_chunks * PIECES; i += THREADS)
        staged[i % PIECES * n_chunks + i / PIECES] = reinterpret_cast<const uint4 *>(x)[i];
    __syncthreads();
}

template <bool TERNARY, int LANES, int ROWS>
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_MULTIPROCESSOR)
    vector_kernel(hyb_matmul_task task, size_t token) {
    constexpr int PIECES = TERNARY ? 4 : 1, GROUPS = HYB_WARP / LANES;
    HYB_DYNAMIC_SHARED(uint4, staged);
    const hyb_device_weights &w = task.weights;
    uint32_t n_chunks = (w.n_cols + 16 * PIECES - 1) / (16 * PIECES);
    stage_token<PIECES>(task.x.codes + token * task.x.ld, n_chunks, staged);

    uint32_t lane = threadIdx.x % LANES, group = threadIdx.x % HYB_WARP / LANES;
    uint32_t n_warps = gridDim.x * (THREADS / HYB_WARP), n_tiles = (w.n_rows - 1) / (GROUPS * ROWS) + 1;
    for (uint32_t tile = blockIdx.x * (THREADS / HYB_WARP) + threadIdx.x / HYB_WARP; tile < n_tiles; tile += n_warps) {
        uint32_t first = tile * (GROUPS * ROWS), last = w.n_rows - 1 - first; /* row; and the last one from there */
        const uint4 *rows = reinterpret_cast<const uint4 *>(static_cast<const uint8_t *>(w.codes) + first * w.ld_bytes);
        uint32_t starts[ROWS]; /* from there, in chunks */
        row_sum<TERNARY> sums[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            uint32_t row = r * GROUPS + group;
            starts[r] = (row < last ? row : last) * (uint32_t)(w.ld_bytes / 16); /* beyond the last: read it again */
        }
#pragma unroll ROWS_IN_FLIGHT / ROWS
        for (uint32_t chunk = lane; chunk < n_chunks; chunk += LANES) {
            uint4 codes[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) codes[r] = hyb_load_streamed(rows + starts[r] + chunk);
#pragma unroll
            for (int piece = 0; piece < PIECES; ++piece) {
                uint4 x = staged[piece * n_chunks + chunk];
#pragma unroll
                for (int r = 0; r < ROWS; ++r) sums[r].add_piece(codes[r], piece, x);
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            int sum = sums[r].total();
            for (int width = LANES / 2; width > 0; width /= 2) sum += __shfl_xor_sync(HYB_FULL_MASK, sum, width);
            uint32_t row = r * GROUPS + group;
            if (TERNARY) sum -= task.x.sums[token];
            if (lane == 0 && row <= last) hyb_store_sum(task, token, (size_t)first + row, sum);
        }
    }
}

/* ---- choosing ---- */

struct vector_shape {
    uint32_t lanes;
    bool several_rows;
    size_t n_warps;
};

/* The most lanes that leave at most an eighth of their turns empty; and enough warps for the device. */
vector_shape choose_shape(const hyb_cuda_state *state, const hyb_device_weights *w, uint32_t n_chunks) {
    uint32_t lanes = 32;
    while (lanes > 4 && 8 * hyb_blocks_for(n_chunks, lanes) * lanes > 9 * (size_t)n_chunks) lanes /= 2;
    size_t enough = MIN_WARPS * (size_t)state->n_multiprocessors;
    size_t n_warps = hyb_blocks_for((size_t)w->n_rows * lanes, HYB_WARP * ROWS_IN_FLIGHT);
    if (n_warps >= enough) return {lanes, true, n_warps};
    while (lanes < 32 && (size_t)w->n_rows * lanes / HYB_WARP < enough) lanes *= 2;
    return {lanes, false, hyb_blocks_for((size_t)w->n_rows * lanes, HYB_WARP)};
}

template <bool TERNARY, int LANES, int ROWS>
int launch(hyb_cuda_state *state, const hyb_matmul_task *task, size_t n_warps, size_t shared_bytes, void *stream) {
    auto kernel = vector_kernel<TERNARY, LANES, ROWS>;
    hyb_matmul_task copy = *task;
    size_t n_blocks = hyb_blocks_for(n_warps, THREADS / HYB_WARP);
    unsigned grid = hyb_resident_blocks(state, n_blocks, BLOCKS_PER_MULTIPROCESSOR);
    if (shared_bytes > 48 << 10) /* as much as a kernel has without asking */
        HYB_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes));
    for (size_t token = 0; token < task->n_tokens; ++token)
        HYB_LAUNCH(kernel, grid, THREADS, shared_bytes, stream, copy, token);
    return (int)cudaGetLastError();
}

template <bool TERNARY> int launch_format(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream) {
    uint32_t chunk_cols = HYB_CHUNK_COLS(TERNARY), n_chunks = (task->weights.n_cols + chunk_cols - 1) / chunk_cols;
    vector_shape shape = choose_shape(state, &task->weights, n_chunks);
    size_t shared_bytes = (size_t)n_chunks * chunk_cols;
    auto chosen = launch<TERNARY, 32, 1>;
    if (shape.several_rows) {
        chosen = shape.lanes == 4    ? launch<TERNARY, 4, ROWS_IN_FLIGHT>
                 : shape.lanes == 8  ? launch<TERNARY, 8, ROWS_IN_FLIGHT>
                 : shape.lanes == 16 ? launch<TERNARY, 16, ROWS_IN_FLIGHT>
                                     : launch<TERNARY, 32, ROWS_IN_FLIGHT>;
    } else if (shape.lanes < 32) {
        chosen = shape.lanes == 4   ? launch<TERNARY, 4, 1>
                 : shape.lanes == 8 ? launch<TERNARY, 8, 1>
                                    : launch<TERNARY, 16, 1>;
    }
    return chosen(state, task, shape.n_warps, shared_bytes, stream);
}

} // namespace

int hyb_launch_matmul_vector(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream) {
    return task->weights.format == HYB_FORMAT_TERNARY ? launch_format<true>(state, task, stream)
                                                      : launch_format<false>(state, task, stream);
}
