/* matmul_tiles.cu - packed weights times several tokens on the tensor cores (mma m16n8k32, int8), from sm_80 on.
 *
 * A block makes a tile of y. Tokens go through shared memory, copied a stage ahead, in the order in which lanes take
 * them. Weights go straight into registers, a step ahead: every byte belongs to one warp, and a lane's 16 bytes are the
 * matrix operand but for a shift and a mask, since the order of columns within a product is free. Where there are few
 * tokens, warps share rows and divide columns among them: then the weights' bytes by the memory's bandwidth are the
 * limit; with many tokens the tensor cores are.
 */
#include "matmul_kernels.h"

namespace {

/* A slice is what a warp multiplies between two barriers. */
constexpr int SLICE_COLS = 256;
constexpr int SLICE_PIECES = SLICE_COLS / 16;
constexpr int MMA_ROWS = 16, MMA_TOKENS = 8;

/* The tile of a block: WARPS_M warps, each with M_TILES times 16 rows; N_TILES times 8 tokens; the columns of a stage
 * divided among WARPS_K warps for the same rows. */
template <bool TERNARY, int M_TILES, int N_TILES, int WARPS_M, int WARPS_K> struct tile_kernel {
    static constexpr int THREADS = HYB_WARP * WARPS_M * WARPS_K;
    static constexpr int ROWS = MMA_ROWS * M_TILES * WARPS_M, TOKENS = MMA_TOKENS * N_TILES;
    static constexpr int STAGE_COLS = SLICE_COLS * WARPS_K;
    /* A lane takes 16 bytes of a row a step, and of a token in each of its turns: with 2 bits a column the lane's 64
     * columns take one step of 4 turns, with 8 bits 4 steps of one. */
    static constexpr int STEPS = TERNARY ? 1 : 4, TURNS = TERNARY ? 4 : 1;
    static constexpr uint32_t STEP_CHUNKS = 4, SLICE_CHUNKS = STEP_CHUNKS * STEPS;
    /* 16-byte pieces of 8 tokens from one turn to the next: 32, and a gap so that copies reach different banks. */
    static constexpr int TURN_PIECES = TERNARY ? 34 : 36;
    static constexpr int TILE_PIECES = 4 * TURN_PIECES, STAGE_PIECES = TILE_PIECES * N_TILES * WARPS_K;

    struct weights_step {
        uint4 codes[M_TILES][2]; /* rows g and g + 8 of each 16 */
    };
    typedef int accumulators[M_TILES][N_TILES][4];

    /* Of the block: */
    const hyb_matmul_task &task;
    uint4 *staged;
    size_t first_row, first_token;
    /* Of the thread: */
    int lane, warp_m, warp_k;
    uint32_t n_chunks;
    const uint4 *rows[M_TILES][2];

    __device__ __forceinline__ tile_kernel(const hyb_matmul_task &a_task, uint4 *shared)
        : task(a_task), staged(shared) {
        /* All tokens of a tile's rows follow one another, so that weights come from the main memory once. */
        uint32_t n_token_tiles = (uint32_t)((task.n_tokens + TOKENS - 1) / TOKENS);
        first_token = (size_t)(blockIdx.x % n_token_tiles) * TOKENS;
        first_row = (size_t)(blockIdx.x / n_token_tiles) * ROWS;
        int warp = threadIdx.x / HYB_WARP;
        lane = threadIdx.x % HYB_WARP;
        warp_m = warp % WARPS_M;
        warp_k = warp / WARPS_M;
        n_chunks = (task.weights.n_cols + HYB_CHUNK_COLS(TERNARY) - 1) / HYB_CHUNK_COLS(TERNARY);
        for (int m = 0; m < M_TILES; ++m)
            for (int h = 0; h < 2; ++h) {
                size_t row = row_of(m, h); /* beyond the last one: read it again */
                if (row >= task.weights.n_rows) row = task.weights.n_rows - 1;
                rows[m][h] = reinterpret_cast<const uint4 *>(static_cast<const uint8_t *>(task.weights.codes) +
                                                             row * task.weights.ld_bytes);
            }
    }

    __device__ __forceinline__ size_t row_of(int m, int h) const {
        return first_row + (size_t)((warp_m * M_TILES + m) * MMA_ROWS + 8 * h + lane / 4);
    }

    /* Begins to copy the tokens' columns of a stage. Piece i of a slice is for lane % 4 = i / 4 in turn i % 4 where a
     * lane's columns lie together, else the other way round. */
    __device__ __forceinline__ void copy_stage(uint32_t stage) {
        uint4 *to = staged + stage % 2 * STAGE_PIECES;
#pragma unroll
        for (int i = threadIdx.x; i < TOKENS * SLICE_PIECES * WARPS_K; i += THREADS) {
            int piece = i % SLICE_PIECES, slice = i / SLICE_PIECES % WARPS_K, token = i / (SLICE_PIECES * WARPS_K);
            int turn = TERNARY ? piece % 4 : piece / 4, place = TERNARY ? piece / 4 : piece % 4;
            size_t column = (size_t)stage * STAGE_COLS + slice * SLICE_COLS + 16 * piece;
            bool valid = first_token + token < task.n_tokens && column < task.x.ld;
            const int8_t *from = task.x.codes + (valid ? (first_token + token) * task.x.ld + column : 0);
            int at = (slice * N_TILES + token / 8) * TILE_PIECES + turn * TURN_PIECES + token % 8 * 4 + place;
            hyb_copy_async_16(to + at, from, valid);
        }
    }

    __device__ __forceinline__ void load_step(uint32_t step, weights_step &to) const {
        uint32_t slice = step / STEPS * WARPS_K + warp_k;
        uint32_t chunk = slice * SLICE_CHUNKS + step % STEPS * STEP_CHUNKS + lane % 4;
        for (int m = 0; m < M_TILES; ++m)
            for (int h = 0; h < 2; ++h) {
                to.codes[m][h] = make_uint4(0, 0, 0, 0);
                if (chunk < n_chunks) to.codes[m][h] = hyb_load_streamed(rows[m][h] + chunk);
            }
    }

    /* Four consecutive codes of columns 4 p .. of the lane's 16 columns in a turn; ternary ones plus 1. */
    static __device__ __forceinline__ uint32_t four_codes(const uint4 &codes, int turn, int p) {
        return TERNARY ? hyb_word_of(codes, turn) >> (2 * p) & 0x03030303u : hyb_word_of(codes, p);
    }

    __device__ __forceinline__ void multiply_step(uint32_t step, const weights_step &weights, accumulators &sums) {
        const uint4 *slice = staged + step / STEPS % 2 * STAGE_PIECES + warp_k * N_TILES * TILE_PIECES + lane;
#pragma unroll
        for (int turn = 0; turn < TURNS; ++turn) {
            uint32_t a[M_TILES][2][4];
#pragma unroll
            for (int i = 0; i < M_TILES * 8; ++i) {
                int m = i / 8, half = i / 4 % 2, part = i % 4; /* part: k 0 or 16, row g or g + 8 (hyb_mma_s8) */
                a[m][half][part] = four_codes(weights.codes[m][part % 2], turn, 2 * half + part / 2);
            }
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
                uint4 x = slice[n * TILE_PIECES + (TERNARY ? turn : step % STEPS) * TURN_PIECES];
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) {
                    hyb_mma_s8(sums[m][n], a[m][0], x.x, x.y);
                    hyb_mma_s8(sums[m][n], a[m][1], x.z, x.w);
                }
            }
        }
    }

    /* Adds the other warps' sums for the same rows to those of the first, through the shared memory of the stages. */
    __device__ __forceinline__ void gather(accumulators &sums) {
        constexpr int N = M_TILES * N_TILES * 4;
        static_assert((WARPS_K - 1) * WARPS_M * N * HYB_WARP * sizeof(int) <= 2 * STAGE_PIECES * sizeof(uint4),
                      "the sums of all warps but the first fit into the stages");
        int *shared = reinterpret_cast<int *>(staged) + warp_m * N * HYB_WARP + lane;
        constexpr int FROM_WARP_TO_WARP = WARPS_M * N * HYB_WARP;
        int *flat = &sums[0][0][0];
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (warp_k > 0) shared[(warp_k - 1) * FROM_WARP_TO_WARP + i * HYB_WARP] = flat[i];
        __syncthreads();
        if (warp_k > 0) return;
#pragma unroll
        for (int i = 0; i < N; ++i)
            for (int k = 0; k < WARPS_K - 1; ++k) flat[i] += shared[k * FROM_WARP_TO_WARP + i * HYB_WARP];
    }

    __device__ __forceinline__ void store(const accumulators &sums) const {
#pragma unroll
        for (int i = 0; i < M_TILES * N_TILES * 4; ++i) {
            int m = i / 4 / N_TILES, n = i / 4 % N_TILES, part = i % 4;
            size_t row = row_of(m, part / 2), token = first_token + n * MMA_TOKENS + lane % 4 * 2 + part % 2;
            if (row >= task.weights.n_rows || token >= task.n_tokens) continue;
            hyb_store_sum(task, token, row, sums[m][n][part] - (TERNARY ? task.x.sums[token] : 0));
        }
    }

    __device__ __forceinline__ void run() {
        uint32_t n_stages = (task.weights.n_cols + STAGE_COLS - 1) / STAGE_COLS;
        accumulators sums = {};
        weights_step now, next;
        load_step(0, now);
        copy_stage(0);
        hyb_copies_commit();
        for (uint32_t stage = 0; stage < n_stages; ++stage) {
            if (stage + 1 < n_stages) copy_stage(stage + 1);
            hyb_copies_commit();
            hyb_copies_wait<1>();
            __syncthreads(); /* this stage has arrived, from all threads */
#pragma unroll
            for (int i = 0; i < STEPS; ++i) {
                uint32_t step = stage * STEPS + i;
                load_step(step + 1, next);
                multiply_step(step, now, sums);
                now = next;
            }
            __syncthreads(); /* the next copies overwrite it */
        }
        if (WARPS_K > 1) gather(sums);
        if (warp_k == 0) store(sums);
    }
};

template <bool TERNARY, int M_TILES, int N_TILES, int WARPS_M, int WARPS_K>
__global__ void __launch_bounds__(HYB_WARP *WARPS_M *WARPS_K) multiply_tiles(hyb_matmul_task task) {
    typedef tile_kernel<TERNARY, M_TILES, N_TILES, WARPS_M, WARPS_K> kernel;
    __shared__ uint4 staged[2 * kernel::STAGE_PIECES];
    kernel(task, staged).run();
}

/* ---- choosing ---- */

template <bool TERNARY, int M_TILES, int N_TILES, int WARPS_M, int WARPS_K>
int launch(const hyb_matmul_task *task, void *stream) {
    typedef tile_kernel<TERNARY, M_TILES, N_TILES, WARPS_M, WARPS_K> shape;
    auto kernel = multiply_tiles<TERNARY, M_TILES, N_TILES, WARPS_M, WARPS_K>;
    hyb_matmul_task copy = *task;
    size_t n_blocks = hyb_blocks_for(task->weights.n_rows, shape::ROWS) * hyb_blocks_for(task->n_tokens, shape::TOKENS);
    if (n_blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
    HYB_LAUNCH(kernel, (unsigned)n_blocks, shape::THREADS, 0, stream, copy);
    return (int)cudaGetLastError();
}

/* At most 16 tokens: 64 rows a block, which reads the tokens less often, if that makes two blocks a multiprocessor. */
template <bool TERNARY, int N_TILES> int launch_few(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream) {
    size_t n_blocks = hyb_blocks_for(task->weights.n_rows, 64);
    if (n_blocks >= 2 * (size_t)state->n_multiprocessors) return launch<TERNARY, 2, N_TILES, 2, 4>(task, stream);
    return launch<TERNARY, 1, N_TILES, 1, 4>(task, stream);
}

/* More: 128 rows a block, or where that leaves multiprocessors without one, tiles of 64 rows by 16 tokens. */
template <bool TERNARY> int launch_format(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream) {
    if (task->n_tokens <= 8) return launch_few<TERNARY, 1>(state, task, stream);
    if (task->n_tokens <= 16) return launch_few<TERNARY, 2>(state, task, stream);
    size_t n_blocks = hyb_blocks_for(task->weights.n_rows, 128) * hyb_blocks_for(task->n_tokens, 64);
    if (n_blocks < (size_t)state->n_multiprocessors) return launch<TERNARY, 2, 2, 2, 4>(task, stream);
    if (task->n_tokens <= 32) return launch<TERNARY, 2, 4, 4, 1>(task, stream);
    return launch<TERNARY, 2, 8, 4, 1>(task, stream);
}

} // namespace

int hyb_launch_matmul_tiles(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream) {
    return task->weights.format == HYB_FORMAT_TERNARY ? launch_format<true>(state, task, stream)
                                                      : launch_format<false>(state, task, stream);
}
