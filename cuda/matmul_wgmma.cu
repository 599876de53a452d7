/* matmul_wgmma.cu - ternary weights times many tokens on Hopper's tensor cores (wgmma m64n128k32, int8): sm_90a only.
 *
 * A warpgroup makes 64 rows by 128 tokens, a block two of them. Tokens go through shared memory, copied a stage ahead,
 * in core matrices of 8 tokens by 16 bytes. Weights go into registers, a stage ahead: the four lanes of a row read the
 * same 16 columns in a word, and each takes its four by a shift and a mask. Limit: the tensor cores.
 *
 * Written from the documentation; no processor has run it yet. So a device's first use multiplies a case by this kernel
 * and by matmul_tiles.cu, and waits for it. Only where all sums are equal is this kernel used from then on, and nothing
 * waits again: a misreading that shows in sums costs speed, not results. While the stream is captured nothing is tried,
 * and tiles are used. Programs for other processors have an empty kernel, which fails that test.
 */
#include "matmul_kernels.h"

namespace {

constexpr int WARPGROUPS = 2, THREADS = WARPGROUPS * HYB_WARPGROUP;
constexpr int ROWS = WARPGROUPS * 64, TOKENS = HYB_WGMMA_TOKENS;

#if HYB_HAS_WGMMA
constexpr int STAGE_COLS = 128, STAGE_CHUNKS = STAGE_COLS / 64, STEPS = STAGE_COLS / 32;
/* 16-byte pieces: 8 tokens make a core matrix; those of the same tokens follow one another, column after column. */
constexpr int CORE_PIECES = 8, TOKENS_PIECES = STAGE_COLS / 16 * CORE_PIECES;
constexpr int STAGE_PIECES = TOKENS / 8 * TOKENS_PIECES;

struct wgmma_kernel {
    typedef uint4 stage_codes[STAGE_CHUNKS][2]; /* rows g and g + 8 of the warp's 16 */
    typedef uint32_t stage_operand[STEPS][4];

    /* Of the block: */
    const hyb_matmul_task &task;
    uint4 *staged;
    size_t first_token;
    /* Of the warp, and of the thread: */
    size_t first_row;
    int lane;
    uint32_t n_chunks;
    const uint4 *rows[2];

    __device__ __forceinline__ wgmma_kernel(const hyb_matmul_task &a_task, uint4 *shared)
        : task(a_task), staged(shared) {
        /* All tokens of a tile's rows follow one another, so that weights come from the main memory once. */
        uint32_t n_token_tiles = (uint32_t)((task.n_tokens + TOKENS - 1) / TOKENS);
        first_token = (size_t)(blockIdx.x % n_token_tiles) * TOKENS;
        first_row = (size_t)(blockIdx.x / n_token_tiles) * ROWS + threadIdx.x / HYB_WARP * 16;
        lane = threadIdx.x % HYB_WARP;
        n_chunks = (task.weights.n_cols + 63) / 64;
        for (int h = 0; h < 2; ++h) {
            size_t row = row_of(h); /* beyond the last one: read it again */
            if (row >= task.weights.n_rows) row = task.weights.n_rows - 1;
            rows[h] = reinterpret_cast<const uint4 *>(static_cast<const uint8_t *>(task.weights.codes) +
                                                      row * task.weights.ld_bytes);
        }
    }

    __device__ __forceinline__ size_t row_of(int h) const { return first_row + (size_t)(8 * h + lane / 4); }

    /* Begins to copy the tokens' columns of a stage. Eight threads fill a core matrix, so that they reach different
     * banks; a warp takes 64 bytes of each of 8 tokens. */
    __device__ __forceinline__ void copy_stage(uint32_t stage) {
        uint4 *to = staged + stage % 2 * STAGE_PIECES;
#pragma unroll
        for (int i = threadIdx.x; i < STAGE_PIECES; i += THREADS) {
            int k16 = i % TOKENS_PIECES / CORE_PIECES, token = i / TOKENS_PIECES * 8 + i % CORE_PIECES;
            size_t column = (size_t)stage * STAGE_COLS + 16 * k16;
            bool valid = first_token + token < task.n_tokens && column < task.x.ld;
            const int8_t *from = task.x.codes + (valid ? (first_token + token) * task.x.ld + column : 0);
            hyb_copy_async_16(to + i, from, valid);
        }
    }

    __device__ __forceinline__ void load_stage(uint32_t stage, stage_codes &to) const {
#pragma unroll
        for (int i = 0; i < STAGE_CHUNKS * 2; ++i) {
            uint32_t chunk = stage * STAGE_CHUNKS + i / 2;
            to[i / 2][i % 2] = make_uint4(0, 0, 0, 0);
            if (chunk < n_chunks) to[i / 2][i % 2] = hyb_load_streamed(rows[i % 2] + chunk);
        }
    }

    /* Codes plus 1. Part: k 0 or 16, row g or g + 8, as in hyb_mma_s8. */
    __device__ __forceinline__ void unpack_stage(const stage_codes &codes, stage_operand &a) const {
#pragma unroll
        for (int i = 0; i < STEPS * 4; ++i) {
            int step = i / 4, part = i % 4;
            uint32_t word = hyb_word_of(codes[step / 2][part % 2], step % 2 * 2 + part / 2);
            a[step][part] = word >> (2 * (lane % 4)) & 0x03030303u;
        }
    }

    __device__ __forceinline__ void multiply_stage(uint32_t stage, stage_operand &a, hyb_wgmma_sums &sums) const {
        const uint4 *from = staged + stage % 2 * STAGE_PIECES;
        hyb_wgmma_fence(a);
#pragma unroll
        for (int step = 0; step < STEPS; ++step)
            hyb_wgmma_s8(sums, a[step],
                         hyb_wgmma_descriptor(from + 2 * step * CORE_PIECES, 16 * CORE_PIECES, 16 * TOKENS_PIECES));
        hyb_wgmma_commit();
    }

    __device__ __forceinline__ void store(const hyb_wgmma_sums &sums) const {
#pragma unroll
        for (int i = 0; i < TOKENS / 8 * 4; ++i) {
            int n = i / 4, part = i % 4;
            size_t row = row_of(part / 2), token = first_token + n * 8 + lane % 4 * 2 + part % 2;
            if (row >= task.weights.n_rows || token >= task.n_tokens) continue;
            hyb_store_sum(task, token, row, sums[n][part] - task.x.sums[token]);
        }
    }

    __device__ __forceinline__ void run() {
        uint32_t n_stages = (task.weights.n_cols + STAGE_COLS - 1) / STAGE_COLS;
        hyb_wgmma_sums sums = {};
        stage_codes codes;
        stage_operand a;
        load_stage(0, codes);
        copy_stage(0);
        hyb_copies_commit();
        for (uint32_t stage = 0; stage < n_stages; ++stage) {
            if (stage + 1 < n_stages) copy_stage(stage + 1);
            hyb_copies_commit();
            unpack_stage(codes, a);
            load_stage(stage + 1, codes);
            hyb_copies_wait<1>();
            hyb_wgmma_show_copies();
            __syncthreads(); /* this stage has arrived, from all threads */
            multiply_stage(stage, a, sums);
            hyb_wgmma_wait(sums);
            __syncthreads(); /* the next copies overwrite it */
        }
        store(sums);
    }
};
#endif

/* Two blocks a multiprocessor: while one unpacks or waits at a barrier, the other's products go on. */
__global__ void __launch_bounds__(THREADS, 2) multiply_wgmma(hyb_matmul_task task) {
#if HYB_HAS_WGMMA
    __shared__ uint4 staged[2 * STAGE_PIECES];
    wgmma_kernel(task, staged).run();
#else
    (void)task;
#endif
}

/* ---- is it right? ---- */

/* Two tiles of rows and of tokens and three stages, none of them full. */
constexpr uint32_t CASE_ROWS = 201, CASE_COLS = 300, CASE_TOKENS = 147;

__global__ void fill_case(uint32_t *words, uint32_t n) {
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        uint32_t x = (i + 1) * 0x9e3779b9u;
        x = (x ^ x >> 16) * 0x85ebca6bu;
        words[i] = x ^ x >> 13;
    }
}

__global__ void compare_sums(const int32_t *a, const int32_t *b, uint32_t n, int *are_equal) {
    int differs = 0;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) differs |= a[i] != b[i];
    differs = __syncthreads_or(differs);
    if (threadIdx.x == 0) *are_equal = !differs;
}

/* The case's memory: any bytes are codes, tokens or sums, as both kernels take what they find. */
struct wgmma_case {
    uint32_t *codes, *x, *x_sums;
    int32_t *sums, *expected;
    int *are_equal;
    static constexpr size_t LD = (CASE_COLS + 63) / 64 * 64, N_SUMS = (size_t)CASE_ROWS * CASE_TOKENS;
    static constexpr size_t N_CODES = CASE_ROWS * LD / 16, N_X = CASE_TOKENS * LD / 4; /* words */

    explicit wgmma_case(hyb_cuda_arena &arena) {
        arena.take(codes, N_CODES);
        arena.take(x, N_X);
        arena.take(x_sums, CASE_TOKENS);
        arena.take(sums, N_SUMS);
        arena.take(expected, N_SUMS);
        arena.take(are_equal, 1);
    }

    hyb_matmul_task task(int32_t *y) const {
        hyb_device_weights weights = {HYB_FORMAT_TERNARY, CASE_ROWS, CASE_COLS, LD / 4, codes, nullptr};
        hyb_device_activations tokens = {reinterpret_cast<const int8_t *>(x), LD,
                                         reinterpret_cast<const int32_t *>(x_sums), nullptr};
        return {weights, tokens, CASE_TOKENS, {nullptr, y, CASE_ROWS, 0}};
    }
};

/* Sums that a kernel leaves out differ, too: the two targets begin with different bytes. */
int run_case(hyb_cuda_state *state, const wgmma_case &c, void *stream, int *are_equal) {
    hyb_matmul_task task = c.task(c.sums), other = c.task(c.expected);
    uint32_t n_words = (uint32_t)wgmma_case::N_CODES, n_x = (uint32_t)wgmma_case::N_X;
    uint32_t n_sums = (uint32_t)wgmma_case::N_SUMS;
    HYB_CUDA_TRY(cudaMemsetAsync(c.sums, 0, n_sums * sizeof(int32_t), (cudaStream_t)stream));
    HYB_CUDA_TRY(cudaMemsetAsync(c.expected, 0x55, n_sums * sizeof(int32_t), (cudaStream_t)stream));
    HYB_LAUNCH(fill_case, 1, 256, 0, stream, c.codes, n_words);
    HYB_LAUNCH(fill_case, 1, 256, 0, stream, c.x, n_x);
    HYB_LAUNCH(fill_case, 1, 256, 0, stream, c.x_sums, CASE_TOKENS);
    HYB_CUDA_TRY(cudaGetLastError());
    HYB_CUDA_TRY(hyb_launch_matmul_wgmma(state, &task, stream));
    HYB_CUDA_TRY(hyb_launch_matmul_tiles(state, &other, stream));
    HYB_LAUNCH(compare_sums, 1, 256, 0, stream, c.sums, c.expected, n_sums, c.are_equal);
    HYB_CUDA_TRY(cudaGetLastError());
    HYB_CUDA_TRY(cudaMemcpyAsync(are_equal, c.are_equal, sizeof(int), cudaMemcpyDeviceToHost, (cudaStream_t)stream));
    return (int)cudaStreamSynchronize((cudaStream_t)stream);
}

/* In memory of its own: the work memory holds the caller's tokens. Where the case cannot be run, the kernel counts as
 * wrong. */
bool is_right(hyb_cuda_state *state, void *stream) {
    hyb_cuda_arena counted(nullptr);
    (void)wgmma_case(counted);
    void *memory = nullptr;
    int are_equal = 0, error = (int)cudaMalloc(&memory, counted.used());
    if (error == 0) {
        hyb_cuda_arena arena(memory);
        error = run_case(state, wgmma_case(arena), stream, &are_equal);
        cudaFree(memory);
    }
    if (error != 0) cudaGetLastError();
    return error == 0 && are_equal;
}

} // namespace

bool hyb_can_matmul_wgmma(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream) {
    if (task->weights.format != HYB_FORMAT_TERNARY || !(HYB_EMULATED || state->capability == 90)) return false;
    if (state->wgmma == HYB_WGMMA_NOT_TRIED) {
        cudaStreamCaptureStatus capture = cudaStreamCaptureStatusActive;
        if (cudaStreamIsCapturing((cudaStream_t)stream, &capture) != cudaSuccess) cudaGetLastError();
        if (capture == cudaStreamCaptureStatusNone)
            state->wgmma = is_right(state, stream) ? HYB_WGMMA_RIGHT : HYB_WGMMA_WRONG;
    }
    return state->wgmma == HYB_WGMMA_RIGHT;
}

/* Tiles are smaller where this one's would leave more than half of the multiprocessors without a block. */
bool hyb_prefers_matmul_wgmma(const hyb_cuda_state *state, const hyb_matmul_task *task) {
    size_t n_blocks = hyb_blocks_for(task->weights.n_rows, ROWS) * hyb_blocks_for(task->n_tokens, TOKENS);
    return state->capability == 90 && task->n_tokens > 64 && 2 * n_blocks >= (size_t)state->n_multiprocessors;
}

int hyb_launch_matmul_wgmma(hyb_cuda_state *, const hyb_matmul_task *task, void *stream) {
    hyb_matmul_task copy = *task;
    size_t n_blocks = hyb_blocks_for(task->weights.n_rows, ROWS) * hyb_blocks_for(task->n_tokens, TOKENS);
    if (n_blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
    HYB_LAUNCH(multiply_wgmma, (unsigned)n_blocks, THREADS, 0, stream, copy);
    return (int)cudaGetLastError();
}
