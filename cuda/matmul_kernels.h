/* matmul_kernels.h - between matmul.cu, which chooses, and the files that hold a kernel each: where results go, and the
 * launchers to choose from.
 */
#ifndef HYB_CUDA_MATMUL_KERNELS_H
#define HYB_CUDA_MATMUL_KERNELS_H

#include "device.h"
#include "matmul.h"
#include "ptx.h"

/* Columns in 16 bytes of a row. */
#define HYB_CHUNK_COLS(is_ternary) ((is_ternary) ? 64u : 16u)

/* y, or y_i32 where that is null; ld_y elements from one token to the next. */
struct hyb_matmul_target {
    float *y;
    int32_t *y_i32;
    size_t ld_y;
    int accumulate;
};

/* A product, as kernels take it. */
struct hyb_matmul_task {
    hyb_device_weights weights;
    hyb_device_activations x;
    size_t n_tokens;
    hyb_matmul_target to;
};

/* Stores sum of code * x. The two roundings of the product come in this order, as on the CPU. */
__device__ __forceinline__ void hyb_store_sum(const hyb_matmul_task &task, size_t token, size_t row, int sum) {
    size_t at = token * task.to.ld_y + row;
    if (task.to.y == nullptr) {
        task.to.y_i32[at] = sum;
        return;
    }
    float *y = task.to.y + at, result = (float)sum * (task.x.scales[token] * task.weights.row_scales[row]);
    *y = task.to.accumulate ? *y + result : result;
}

/* Four accumulators of code + 1 times activation, as the masks 03, 0C, 30, C0 leave them: plane p is 4^p times too
 * large. Each is an exact multiple, and none can overflow: 65536 / 4 columns of at most 2 * 64 * 128 give 2.7e8. */
struct hyb_plane_sums {
    int sums[4] = {0, 0, 0, 0};
    __device__ __forceinline__ void add(uint32_t word, const uint4 &x) {
        sums[0] = hyb_dp4a_us(word & 0x03030303u, x.x, sums[0]);
        sums[1] = hyb_dp4a_us(word & 0x0c0c0c0cu, x.y, sums[1]);
        sums[2] = hyb_dp4a_us(word & 0x30303030u, x.z, sums[2]);
        sums[3] = hyb_dp4a_us(word & 0xc0c0c0c0u, x.w, sums[3]);
    }
    __device__ __forceinline__ int total() const { return sums[0] + (sums[1] >> 2) + (sums[2] >> 4) + (sums[3] >> 6); }
};

/* Each takes any task and gives the same bits. plain: matmul.cu, in a few lines, any number of tokens. vector:
 * matmul_vector.cu, token by token. tiles: matmul_tiles.cu, any number. wgmma: matmul_wgmma.cu, any number, where
 * hyb_can_matmul_wgmma. */
int hyb_launch_matmul_plain(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream);
int hyb_launch_matmul_vector(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream);
int hyb_launch_matmul_tiles(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream);
int hyb_launch_matmul_wgmma(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream);

/* hyb_cuda_state.wgmma */
enum { HYB_WGMMA_NOT_TRIED = 0, HYB_WGMMA_RIGHT, HYB_WGMMA_WRONG };

/* Whether weights are ternary and the device's kernel has been found right; the first time it is tried, which waits. */
bool hyb_can_matmul_wgmma(hyb_cuda_state *state, const hyb_matmul_task *task, void *stream);

/* Whether it is worth trying: many tokens, and blocks for the device. */
bool hyb_prefers_matmul_wgmma(const hyb_cuda_state *state, const hyb_matmul_task *task);

#endif /* HYB_CUDA_MATMUL_KERNELS_H */
