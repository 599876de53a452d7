/* weights.cu - codes and scales to weights in a device's memory (layouts: matmul.h). The CPU's side: lib/matmul.c.
 */
#include "matmul.h"
#include "quantize.h"

namespace {

/* The first code, and the first scale, that is none of the format's; all bits set where there is none. */
struct first_bad {
    unsigned long long code, scale;
};

/* 16 ternary codes of a word, or 4 bytes. */
__device__ uint32_t word_of(const hyb_device_weights &w, const int8_t *codes, size_t row, uint32_t word,
                            first_bad *bad) {
    bool is_ternary = w.format == HYB_FORMAT_TERNARY;
    uint32_t n = is_ternary ? 16 : 4, bits = is_ternary ? 0x55555555u : 0; /* code 0 everywhere */
    for (uint32_t i = 0; i < n && word * n + i < w.n_cols; ++i) {
        size_t at = row * w.n_cols + word * n + i;
        int code = codes[at];
        if (!hyb_is_code(w.format, code)) atomicMin(&bad->code, (unsigned long long)at);
        bits += is_ternary ? (uint32_t)code << (i % 4 * 8 + i / 4 * 2) : ((uint32_t)code & 255u) << (8 * i);
    }
    return bits;
}

__global__ void pack_codes(hyb_device_weights w, uint8_t *to, size_t n_rows, const int8_t *codes, first_bad *bad) {
    size_t n_words = w.ld_bytes / 4, step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n_rows * n_words; i += step)
        reinterpret_cast<uint32_t *>(to)[i] = word_of(w, codes, i / n_words, (uint32_t)(i % n_words), bad);
}

__global__ void pack_values(hyb_device_weights w, uint8_t *to, size_t n_rows, const float *values, first_bad *bad) {
    size_t n_words = w.ld_bytes / 4, step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n_rows * n_words; i += step) {
        size_t column = i % n_words, at = i / n_words * w.n_cols + column;
        float value = column < w.n_cols ? values[at] : 0.0f;
        if (!hyb_is_finite(value)) atomicMin(&bad->code, (unsigned long long)at);
        reinterpret_cast<float *>(to)[i] = value;
    }
}

__global__ void spread_scales(const float *scales, size_t n_scales, size_t n_rows, float *to, first_bad *bad) {
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n_rows; i += step) {
        size_t from = n_scales == 1 ? 0 : i;
        float scale = scales[from];
        if (!hyb_is_finite(scale)) atomicMin(&bad->scale, (unsigned long long)from);
        to[i] = scale;
    }
}

unsigned blocks_of(const hyb_cuda_state *state, size_t n) {
    return hyb_resident_blocks(state, hyb_blocks_for(n, 256), 8);
}

} // namespace

int hyb_module_pack_weights(hyb_cuda_state *state, const hyb_device_weights *weights, size_t first_row, size_t n_rows,
                            const void *codes, const float *scales, size_t n_scales, uint64_t *bad_code,
                            uint64_t *bad_scale, void *stream) {
    HYB_CUDA_BEGIN(state);
    void *memory = nullptr;
    first_bad found;
    HYB_CUDA_TRY(hyb_cuda_scratch(state, sizeof found, &memory));
    HYB_CUDA_TRY(cudaMemsetAsync(memory, 255, sizeof found, (cudaStream_t)stream));
    first_bad *bad = static_cast<first_bad *>(memory);
    hyb_device_weights w = *weights;
    uint8_t *to = static_cast<uint8_t *>(const_cast<void *>(w.codes)) + first_row * w.ld_bytes;
    unsigned n_blocks = blocks_of(state, n_rows * w.ld_bytes / 4);
    if (w.format == HYB_FORMAT_F32) {
        const float *values = static_cast<const float *>(codes);
        HYB_LAUNCH(pack_values, n_blocks, 256, 0, stream, w, to, n_rows, values, bad);
    } else {
        const int8_t *from = static_cast<const int8_t *>(codes);
        float *row_scales = const_cast<float *>(w.row_scales) + first_row;
        HYB_LAUNCH(pack_codes, n_blocks, 256, 0, stream, w, to, n_rows, from, bad);
        HYB_LAUNCH(spread_scales, blocks_of(state, n_rows), 256, 0, stream, scales, n_scales, n_rows, row_scales, bad);
    }
    HYB_CUDA_TRY(cudaGetLastError());
    HYB_CUDA_TRY(cudaMemcpyAsync(&found, memory, sizeof found, cudaMemcpyDeviceToHost, (cudaStream_t)stream));
    HYB_CUDA_TRY(cudaStreamSynchronize((cudaStream_t)stream));
    *bad_code = found.code;
    *bad_scale = found.scale;
    return 0;
}
