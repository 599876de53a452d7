/* matmul_f32.cu - fp32 weights times fp32 tokens in the contract's order: sums over 16 virtual lanes, without fused
 * multiply-add (lib/kernels.h, dot_f32). Limit: the weights' bytes by the memory's bandwidth, for few tokens.
 */
#include "matmul_kernels.h"

namespace {

constexpr int THREADS = 256;
constexpr int BLOCKS_PER_MULTIPROCESSOR = 4;
constexpr int LANES = 4; /* threads of a row: each is 4 of the 16 virtual lanes, and loads 16 bytes */

struct f32_task {
    hyb_device_weights weights;
    const float *x;
    size_t n_tokens;
    float *y;
    size_t ld_y;
    int accumulate;
};

/* lanes[l] += lanes[l + 8], 4, 2, 1, for the first of the row's threads. */
__device__ __forceinline__ float fold(const float (&sums)[4]) {
    float lanes[4];
    for (int i = 0; i < 4; ++i) {
        float sum = sums[i];
        sum += __shfl_down_sync(HYB_FULL_MASK, sum, 2, LANES);
        lanes[i] = sum + __shfl_down_sync(HYB_FULL_MASK, sum, 1, LANES);
    }
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

/* A row by TOKENS tokens. */
template <int TOKENS>
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_MULTIPROCESSOR) f32_kernel(f32_task task, size_t n_items) {
    const hyb_device_weights &w = task.weights;
    constexpr size_t WARP_ITEMS = HYB_WARP / LANES;
    uint32_t part = threadIdx.x % LANES, place = threadIdx.x % HYB_WARP / LANES, n_whole = w.n_cols / 16 * 16;
    size_t n_warps = (size_t)gridDim.x * (THREADS / HYB_WARP);
    size_t warp = (size_t)blockIdx.x * (THREADS / HYB_WARP) + threadIdx.x / HYB_WARP;
    for (size_t first = warp * WARP_ITEMS; first < n_items; first += n_warps * WARP_ITEMS) {
        size_t item = first + place < n_items ? first + place : n_items - 1; /* beyond the last one: make it again */
        size_t row = item % w.n_rows, first_token = item / w.n_rows * TOKENS;
        const char *codes = static_cast<const char *>(w.codes) + row * w.ld_bytes;
        const float *tokens[TOKENS];
        float sums[TOKENS][4] = {};
        for (int t = 0; t < TOKENS; ++t) {
            size_t token = first_token + t < task.n_tokens ? first_token + t : task.n_tokens - 1;
            tokens[t] = task.x + token * w.n_cols;
        }
#pragma unroll 4 / TOKENS
        for (uint32_t c = 4 * part; c < n_whole; c += 16) {
            uint4 a = hyb_load_streamed(reinterpret_cast<const uint4 *>(codes + 4 * (size_t)c));
            for (int t = 0; t < TOKENS; ++t)
                for (int i = 0; i < 4; ++i) sums[t][i] += __uint_as_float(hyb_word_of(a, i)) * tokens[t][c + i];
        }
        for (int i = 0; i < 4; ++i) {
            uint32_t c = n_whole + 4 * part + i;
            if (c >= w.n_cols) break;
            float a = reinterpret_cast<const float *>(codes)[c];
            for (int t = 0; t < TOKENS; ++t) sums[t][i] += a * tokens[t][c];
        }
        for (int t = 0; t < TOKENS; ++t) {
            float sum = fold(sums[t]), *y = task.y + (first_token + t) * task.ld_y + row;
            if (part != 0 || first + place >= n_items || first_token + t >= task.n_tokens) continue;
            *y = task.accumulate ? *y + sum : sum;
        }
    }
}

template <int TOKENS> int launch(hyb_cuda_state *state, const f32_task &task, void *stream) {
    auto kernel = f32_kernel<TOKENS>;
    size_t n_items = task.weights.n_rows * hyb_blocks_for(task.n_tokens, TOKENS);
    size_t n_blocks = hyb_blocks_for(n_items, THREADS / LANES);
    unsigned grid = hyb_resident_blocks(state, n_blocks, BLOCKS_PER_MULTIPROCESSOR);
    HYB_LAUNCH(kernel, grid, THREADS, 0, stream, task, n_items);
    return (int)cudaGetLastError();
}

} // namespace

int hyb_launch_matmul_f32(hyb_cuda_state *state, const hyb_device_weights *weights, const float *x, size_t n_tokens,
                          float *y, size_t ld_y, int accumulate, void *stream) {
    f32_task task = {*weights, x, n_tokens, y, ld_y, accumulate};
    return n_tokens == 1 ? launch<1>(state, task, stream) : launch<4>(state, task, stream);
}
