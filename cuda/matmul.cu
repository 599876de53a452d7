/* matmul.cu - int8 activations times packed weights, exactly; and fp32 weights in the contract's order.
 *
 * The CPU's side: lib/matmul.c, lib/ref/matmul_ref.c. The layout of weights: matmul.h.
 */
#include "matmul.h"

#include "device.h"

/* ---- what the kernels share ---- */

/* Where a result goes. */
struct target {
    float *y;
    int32_t *y_i32;
    size_t ld_y;
    int accumulate;
};

/* The two roundings of the product come in this order, as on the CPU. */
static __device__ __forceinline__ void store_result(const target &to, const float *row_scales, const float *x_scales,
                                                    size_t token, size_t row, int sum) {
    size_t at = token * to.ld_y + row;
    if (to.y == nullptr) {
        to.y_i32[at] = sum;
        return;
    }
    float result = (float)sum * (x_scales[token] * row_scales[row]);
    to.y[at] = to.accumulate ? to.y[at] + result : result;
}

/* Four accumulators of code + 1 times activation, as the masks 03, 0C, 30, C0 leave them: plane p is 4^p times too
 * large. Each is an exact multiple, and none can overflow: at most 65536 / 4 columns of 2 * 64 * 128 give 2.7e8. */
struct plane_sums {
    int sums[4] = {0, 0, 0, 0};
    __device__ __forceinline__ void add(uint32_t word, uint4 x) {
        sums[0] = hyb_dp4a_us(word & 0x03030303u, x.x, sums[0]);
        sums[1] = hyb_dp4a_us(word & 0x0c0c0c0cu, x.y, sums[1]);
        sums[2] = hyb_dp4a_us(word & 0x30303030u, x.z, sums[2]);
        sums[3] = hyb_dp4a_us(word & 0xc0c0c0c0u, x.w, sums[3]);
    }
    __device__ __forceinline__ int total() const {
        return sums[0] + (sums[1] >> 2) + (sums[2] >> 4) + (sums[3] >> 6);
    }
};

/* ---- plain: a warp makes one result; for tests of the others ---- */

static __device__ int plain_sum(const hyb_device_weights &w, size_t row, const int8_t *x, int lane) {
    const uint8_t *codes = static_cast<const uint8_t *>(w.codes) + row * w.ld_bytes;
    if (w.format != HYB_FORMAT_TERNARY) {
        int sum = 0;
        for (uint32_t c = 4 * lane; c < w.n_cols; c += 4 * HYB_WARP)
            sum = __dp4a(*reinterpret_cast<const int *>(codes + c), *reinterpret_cast<const int *>(x + c), sum);
        return sum;
    }
    plane_sums sums;
    for (uint32_t k16 = lane; 16 * k16 < w.n_cols; k16 += HYB_WARP)
        sums.add(reinterpret_cast<const uint32_t *>(codes)[k16], *reinterpret_cast<const uint4 *>(x + 16 * k16));
    return sums.total();
}

static __global__ void plain_kernel(hyb_device_weights w, hyb_device_activations x, size_t n_results, target to) {
    int lane = threadIdx.x % HYB_WARP;
    size_t n_warps = (size_t)gridDim.x * (blockDim.x / HYB_WARP);
    size_t warp = (size_t)blockIdx.x * (blockDim.x / HYB_WARP) + threadIdx.x / HYB_WARP;
    for (size_t i = warp; i < n_results; i += n_warps) {
        size_t token = i / w.n_rows, row = i % w.n_rows;
        int sum = hyb_sum_warp(plain_sum(w, row, x.codes + token * x.ld, lane));
        if (w.format == HYB_FORMAT_TERNARY) sum -= x.sums[token];
        if (lane == 0) store_result(to, w.row_scales, x.scales, token, row, sum);
    }
}

int hyb_launch_matmul(hyb_cuda_state *state, const hyb_device_weights *weights, const hyb_device_activations *x,
                      size_t n_tokens, float *y, int32_t *y_i32, size_t ld_y, int accumulate, void *stream) {
    hyb_device_weights w = *weights;
    hyb_device_activations tokens = *x;
    target to = {y, y_i32, ld_y, accumulate};
    size_t n_results = n_tokens * w.n_rows, n_blocks = hyb_blocks_for(n_results, 8);
    size_t most = (size_t)state->n_multiprocessors * 8;
    HYB_LAUNCH(plain_kernel, (unsigned)(n_blocks < most ? n_blocks : most), 256, 0, stream, w, tokens, n_results, to);
    return (int)cudaGetLastError();
}

/* ---- fp32 weights ---- */

/* Half a warp makes one result: its threads are the 16 virtual lanes. */
static __global__ void f32_kernel(hyb_device_weights w, const float *x, size_t n_results, target to) {
    int lane = threadIdx.x % 16;
    size_t n_halves = (size_t)gridDim.x * (blockDim.x / 16);
    size_t half = (size_t)blockIdx.x * (blockDim.x / 16) + threadIdx.x / 16;
    for (size_t first = half - half % 2; first < n_results; first += n_halves) { /* both halves of a warp go on */
        size_t i = first + half % 2, used = i < n_results ? i : first;
        size_t token = used / w.n_rows, row = used % w.n_rows;
        const float *a = reinterpret_cast<const float *>(static_cast<const char *>(w.codes) + row * w.ld_bytes);
        const float *b = x + token * w.n_cols;
        float sum = 0.0f;
        for (uint32_t c = lane; c < w.n_cols; c += 16) sum += a[c] * b[c];
        sum = hyb_sum_16_lanes(sum);
        float *y = to.y + token * to.ld_y + row;
        if (lane == 0 && i < n_results) *y = to.accumulate ? *y + sum : sum;
    }
}

int hyb_launch_matmul_f32(hyb_cuda_state *state, const hyb_device_weights *weights, const float *x, size_t n_tokens,
                          float *y, size_t ld_y, int accumulate, void *stream) {
    hyb_device_weights w = *weights;
    target to = {y, nullptr, ld_y, accumulate};
    size_t n_results = n_tokens * w.n_rows, n_blocks = hyb_blocks_for(n_results, 16);
    size_t most = (size_t)state->n_multiprocessors * 8;
    HYB_LAUNCH(f32_kernel, (unsigned)(n_blocks < most ? n_blocks : most), 256, 0, stream, w, x, n_results, to);
    return (int)cudaGetLastError();
}
