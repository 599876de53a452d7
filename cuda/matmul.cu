/* matmul.cu - int8 activations times packed weights: tokens made ready, and which kernel multiplies them.
 *
 * fp32 or int8 tokens -> padded codes, sums, scales in the state's work memory -> matmul_vector.cu (one token),
 * matmul_tiles.cu (several), matmul_wgmma.cu (many, on one kind of processor), matmul_f32.cu. The CPU's side:
 * lib/matmul.c, lib/ref/matmul_ref.c.
 */
#include "matmul_kernels.h"
#include "quantize.h"

/* ---- plain: a warp makes one result; what tests compare the others with ---- */

namespace {

__device__ int plain_sum(const hyb_device_weights &w, size_t row, const int8_t *x, int lane) {
    const uint8_t *codes = static_cast<const uint8_t *>(w.codes) + row * w.ld_bytes;
    if (w.format != HYB_FORMAT_TERNARY) {
        int sum = 0;
        for (uint32_t c = 4 * lane; c < w.n_cols; c += 4 * HYB_WARP)
            sum = __dp4a(*reinterpret_cast<const int *>(codes + c), *reinterpret_cast<const int *>(x + c), sum);
        return sum;
    }
    hyb_plane_sums sums;
    for (uint32_t k16 = lane; 16 * k16 < w.n_cols; k16 += HYB_WARP)
        sums.add(reinterpret_cast<const uint32_t *>(codes)[k16], *reinterpret_cast<const uint4 *>(x + 16 * k16));
    return sums.total();
}

__global__ void plain_kernel(hyb_matmul_task task) {
    const hyb_device_weights &w = task.weights;
    int lane = threadIdx.x % HYB_WARP;
    size_t n_warps = (size_t)gridDim.x * (blockDim.x / HYB_WARP);
    size_t warp = (size_t)blockIdx.x * (blockDim.x / HYB_WARP) + threadIdx.x / HYB_WARP;
    for (size_t i = warp; i < task.n_tokens * w.n_rows; i += n_warps) {
        size_t token = i / w.n_rows, row = i % w.n_rows;
        int sum = hyb_sum_warp(plain_sum(w, row, task.x.codes + token * task.x.ld, lane));
        if (w.format == HYB_FORMAT_TERNARY) sum -= task.x.sums[token];
        if (lane == 0) hyb_store_sum(task, token, row, sum);
    }
}

} // namespace

int hyb_launch_matmul_plain(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream) {
    hyb_matmul_task copy = *task;
    size_t n_blocks = hyb_blocks_for(task->n_tokens * task->weights.n_rows, 8);
    HYB_LAUNCH(plain_kernel, hyb_resident_blocks(state, n_blocks, 8), 256, 0, stream, copy);
    return (int)cudaGetLastError();
}

/* ---- choosing ---- */

static int launch_task(hyb_cuda_state *state, const hyb_matmul_task *task, int32_t kernel, void *stream) {
    if (kernel == HYB_MATMUL_PLAIN) return hyb_launch_matmul_plain(state, task, stream);
    if (kernel == HYB_MATMUL_VECTOR || (kernel == HYB_MATMUL_CHOOSE && task->n_tokens == 1))
        return hyb_launch_matmul_vector(state, task, stream);
    if (kernel == HYB_MATMUL_WGMMA || (kernel == HYB_MATMUL_CHOOSE && hyb_prefers_matmul_wgmma(state, task))) {
        if (hyb_can_matmul_wgmma(state, task, stream)) return hyb_launch_matmul_wgmma(state, task, stream);
        if (kernel == HYB_MATMUL_WGMMA) return HYB_ERROR_UNSUPPORTED;
    }
    return hyb_launch_matmul_tiles(state, task, stream);
}

int hyb_launch_matmul(hyb_cuda_state *state, const hyb_device_weights *weights, const hyb_device_activations *x,
                      size_t n_tokens, float *y, int32_t *y_i32, size_t ld_y, int accumulate, void *stream) {
    hyb_matmul_task task = {*weights, *x, n_tokens, {y, y_i32, ld_y, accumulate}};
    return launch_task(state, &task, HYB_MATMUL_CHOOSE, stream);
}

/* ---- tokens ---- */

namespace {

constexpr int COPY_THREADS = 256;

/* Codes of the caller's, padded, and their sums; a block a token. */
__global__ void copy_tokens(const int8_t *x, uint32_t n_cols, size_t ld, int8_t *codes, int32_t *sums) {
    int sum = 0;
    for (size_t c = threadIdx.x; c < ld; c += COPY_THREADS) {
        int8_t code = c < n_cols ? x[(size_t)blockIdx.x * n_cols + c] : (int8_t)0;
        codes[blockIdx.x * ld + c] = code;
        sum += code;
    }
    sum = hyb_sum_block(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/* Room for n_tokens padded tokens in the work memory. */
int reserve_tokens(hyb_cuda_state *state, size_t ld, size_t n_tokens, int8_t **codes, int32_t **sums, float **scales) {
    return hyb_cuda_lay_out(state, [&](hyb_cuda_arena &arena) {
        arena.take(*codes, n_tokens * ld);
        arena.take(*sums, n_tokens);
        arena.take(*scales, n_tokens);
    });
}

} // namespace

/* ---- the table's functions ---- */

int hyb_module_matmul(hyb_cuda_state *state, const hyb_device_weights *weights, const float *x, size_t n_tokens,
                      float *y, size_t ld_y, int accumulate, int32_t kernel, void *stream) {
    HYB_CUDA_BEGIN(state);
    if (weights->format == HYB_FORMAT_F32)
        return hyb_launch_matmul_f32(state, weights, x, n_tokens, y, ld_y, accumulate, stream);
    int8_t *codes;
    int32_t *sums;
    float *scales;
    size_t n_cols = weights->n_cols, ld = hyb_device_codes_ld(n_cols);
    HYB_CUDA_TRY(reserve_tokens(state, ld, n_tokens, &codes, &sums, &scales));
    HYB_CUDA_TRY(hyb_launch_quantize_activations(state, x, n_tokens, n_cols, ld, codes, sums, scales, stream));
    hyb_matmul_task task = {*weights, {codes, ld, sums, scales}, n_tokens, {y, nullptr, ld_y, accumulate}};
    return launch_task(state, &task, kernel, stream);
}

int hyb_module_matmul_codes(hyb_cuda_state *state, const hyb_device_weights *weights, const int8_t *x, size_t n_tokens,
                            int32_t *y, int32_t kernel, void *stream) {
    HYB_CUDA_BEGIN(state);
    int8_t *codes;
    int32_t *sums;
    float *scales; /* not used: sums stay integers */
    uint32_t n_cols = weights->n_cols;
    size_t ld = hyb_device_codes_ld(n_cols);
    HYB_CUDA_TRY(reserve_tokens(state, ld, n_tokens, &codes, &sums, &scales));
    HYB_LAUNCH(copy_tokens, (unsigned)n_tokens, COPY_THREADS, 0, stream, x, n_cols, ld, codes, sums);
    HYB_CUDA_TRY(cudaGetLastError());
    hyb_matmul_task task = {*weights, {codes, ld, sums, nullptr}, n_tokens, {nullptr, y, weights->n_rows, 0}};
    return launch_task(state, &task, kernel, stream);
}
