/* matmul.cu - int8 activations times packed weights: tokens made ready, and which kernel multiplies them.
 *
 * fp32 or int8 tokens -> padded codes, sums, scales in the state's work memory -> matmul_vector.cu (one token),
 * matmul_tiles.cu (several), matmul_f32.cu. The CPU's side: lib/matmul.c, lib/ref/matmul_ref.c.
 */
#include "matmul_kernels.h"

/* ---- plain: a warp makes one result; what tests compare the others with ---- */

static __device__ int plain_sum(const hyb_device_weights &w, size_t row, const int8_t *x, int lane) {
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

static __global__ void plain_kernel(hyb_matmul_task task) {
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

int hyb_launch_matmul_plain(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream) {
    hyb_matmul_task copy = *task;
    size_t n_blocks = hyb_blocks_for(task->n_tokens * task->weights.n_rows, 8);
    size_t most = (size_t)state->n_multiprocessors * 8;
    HYB_LAUNCH(plain_kernel, (unsigned)(n_blocks < most ? n_blocks : most), 256, 0, stream, copy);
    return (int)cudaGetLastError();
}

/* ---- choosing ---- */

static int launch_task(hyb_cuda_state *state, const hyb_matmul_task *task, int32_t kernel, void *stream) {
    if (kernel == HYB_MATMUL_PLAIN) return hyb_launch_matmul_plain(state, task, stream);
    if (kernel == HYB_MATMUL_VECTOR || (kernel == HYB_MATMUL_CHOOSE && task->n_tokens == 1))
        return hyb_launch_matmul_vector(state, task, stream);
    return hyb_launch_matmul_tiles(state, task, stream);
}

int hyb_launch_matmul(hyb_cuda_state *state, const hyb_device_weights *weights, const hyb_device_activations *x,
                      size_t n_tokens, float *y, int32_t *y_i32, size_t ld_y, int accumulate, void *stream) {
    hyb_matmul_task task = {*weights, *x, n_tokens, {y, y_i32, ld_y, accumulate}};
    return launch_task(state, &task, HYB_MATMUL_CHOOSE, stream);
}

/* ---- tokens ---- */

/* One token's codes, padded, and their sum; a block a token. */
struct token_writer {
    int8_t *codes;
    size_t ld;
    int32_t *sums;
    float *scales;
};

static constexpr int TOKEN_THREADS = 256;

/* Sum of a block's values, for thread 0. */
static __device__ int sum_of_block(int value) {
    __shared__ int total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    value = hyb_sum_warp(value);
    if (threadIdx.x % HYB_WARP == 0) atomicAdd(&total, value);
    __syncthreads();
    return total;
}

/* hyb_quantize_token (lib/matmul.h). */
static __global__ void quantize_tokens(const float *x, uint32_t n_cols, token_writer to, volatile int *not_finite) {
    __shared__ unsigned most_bits;
    if (threadIdx.x == 0) most_bits = 0;
    __syncthreads();
    const float *token = x + (size_t)blockIdx.x * n_cols;
    unsigned bits = 0;
    for (uint32_t c = threadIdx.x; c < n_cols; c += TOKEN_THREADS) {
        unsigned found = __float_as_uint(token[c]) & 0x7fffffffu;
        bits = found > bits ? found : bits;
    }
    bits = hyb_max_warp(bits);
    if (threadIdx.x % HYB_WARP == 0) atomicMax(&most_bits, bits);
    __syncthreads();
    bits = most_bits;
    bool is_finite = bits < 0x7f800000u;
    float absmax = __uint_as_float(bits), inverse = bits == 0 ? 0.0f : 127.0f / absmax;
    bool is_used = is_finite && bits != 0 && __float_as_uint(inverse) < 0x7f800000u;
    int sum = 0;
    for (size_t c = threadIdx.x; c < to.ld; c += TOKEN_THREADS) {
        int code = is_used && c < n_cols ? hyb_round_i8(token[c] * inverse) : 0;
        to.codes[blockIdx.x * to.ld + c] = (int8_t)code;
        sum += code;
    }
    sum = sum_of_block(sum);
    if (threadIdx.x != 0) return;
    to.sums[blockIdx.x] = sum;
    to.scales[blockIdx.x] = is_used ? absmax / 127.0f : is_finite ? 0.0f : __uint_as_float(0x7fc00000u);
    if (!is_finite) *not_finite = 1;
}

static __global__ void copy_tokens(const int8_t *x, uint32_t n_cols, token_writer to) {
    int sum = 0;
    for (size_t c = threadIdx.x; c < to.ld; c += TOKEN_THREADS) {
        int8_t code = c < n_cols ? x[(size_t)blockIdx.x * n_cols + c] : (int8_t)0;
        to.codes[blockIdx.x * to.ld + c] = code;
        sum += code;
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) to.sums[blockIdx.x] = sum;
}

/* Room for n_tokens padded tokens in the work memory. */
static int reserve_tokens(hyb_cuda_state *state, uint32_t n_cols, size_t n_tokens, token_writer *to) {
    void *memory = nullptr;
    size_t ld = hyb_blocks_for(n_cols, 64) * 64;
    HYB_CUDA_TRY(hyb_cuda_scratch(state, n_tokens * (ld + sizeof(int32_t) + sizeof(float)), &memory));
    to->codes = static_cast<int8_t *>(memory);
    to->ld = ld;
    to->sums = reinterpret_cast<int32_t *>(to->codes + n_tokens * ld);
    to->scales = reinterpret_cast<float *>(to->sums + n_tokens);
    return 0;
}

/* ---- the table's functions ---- */

int hyb_module_matmul(hyb_cuda_state *state, const hyb_device_weights *weights, const float *x, size_t n_tokens,
                      float *y, size_t ld_y, int accumulate, int32_t kernel, void *stream) {
    HYB_CUDA_BEGIN(state);
    if (weights->format == HYB_FORMAT_F32)
        return hyb_launch_matmul_f32(state, weights, x, n_tokens, y, ld_y, accumulate, stream);
    token_writer tokens;
    uint32_t n_cols = weights->n_cols;
    volatile int *not_finite = state->not_finite;
    HYB_CUDA_TRY(reserve_tokens(state, n_cols, n_tokens, &tokens));
    HYB_LAUNCH(quantize_tokens, (unsigned)n_tokens, TOKEN_THREADS, 0, stream, x, n_cols, tokens, not_finite);
    HYB_CUDA_TRY(cudaGetLastError());
    hyb_device_activations codes = {tokens.codes, tokens.ld, tokens.sums, tokens.scales};
    hyb_matmul_task task = {*weights, codes, n_tokens, {y, nullptr, ld_y, accumulate}};
    return launch_task(state, &task, kernel, stream);
}

int hyb_module_matmul_codes(hyb_cuda_state *state, const hyb_device_weights *weights, const int8_t *x, size_t n_tokens,
                            int32_t *y, int32_t kernel, void *stream) {
    HYB_CUDA_BEGIN(state);
    token_writer tokens;
    uint32_t n_cols = weights->n_cols;
    HYB_CUDA_TRY(reserve_tokens(state, n_cols, n_tokens, &tokens));
    HYB_LAUNCH(copy_tokens, (unsigned)n_tokens, TOKEN_THREADS, 0, stream, x, n_cols, tokens);
    HYB_CUDA_TRY(cudaGetLastError());
    hyb_device_activations codes = {tokens.codes, tokens.ld, tokens.sums, nullptr};
    hyb_matmul_task task = {*weights, codes, n_tokens, {nullptr, y, weights->n_rows, 0}};
    return launch_task(state, &task, kernel, stream);
}
