/* inference.cu - what a decoder does between its matrices: embedding, norms, the gated activation, quantisation of a
 * matrix's input, rotation, and storing keys and values.
 *
 * A row of activations is a few tens of kilobytes, read once from memory and then from the caches of a multiprocessor:
 * time goes into the chain of additions that the contract prescribes, n / 16 of them one after the other, and into the
 * launches, which is why everything between two matrices is one kernel.
 * The CPU's side: lib/nn/forward.c, lib/nn/linear.c, lib/ref/vector_ref.c.
 */
#include "quantize.h"
#include "session.h"

/* ---- embedding ---- */

namespace {

__device__ float embedding_value(const hyb_device_weights &w, uint32_t token, unsigned column) {
    const uint8_t *row = static_cast<const uint8_t *>(w.codes) + token * w.ld_bytes;
    if (w.format == HYB_FORMAT_F32) return reinterpret_cast<const float *>(row)[column];
    int code;
    if (w.format == HYB_FORMAT_TERNARY)
        code = (row[column / 16 * 4 + column % 4] >> (column % 16 / 4 * 2) & 3) - 1;
    else
        code = reinterpret_cast<const int8_t *>(row)[column];
    return (float)code * w.row_scales[token];
}

__global__ void embedding_kernel(hyb_device_weights w, hyb_device_rows rows, float *x) {
    uint32_t token = rows.tokens[blockIdx.x];
    for (unsigned c = threadIdx.x; c < w.n_cols; c += blockDim.x)
        x[(size_t)blockIdx.x * w.n_cols + c] = embedding_value(w, token, c);
}

} // namespace

int hyb_launch_embedding(const hyb_device_weights *embedding, const hyb_device_rows *rows, float *x, void *stream) {
    hyb_device_weights w = *embedding;
    hyb_device_rows r = *rows;
    HYB_LAUNCH(embedding_kernel, r.n, 128, 0, stream, w, r, x);
    return (int)cudaGetLastError();
}

/* ---- the input of a matrix ---- */

/* Squares that are staged for the 16 threads that add them up; a multiple of every block's size. */
#define STAGED 2048
#define MOST_THREADS 512

namespace {

/* Element i of a row: what the matrix reads before the norm. */
__device__ __forceinline__ float gated(const hyb_device_source &s, size_t at) {
    float gate = s.gate[at], up = s.up[at];
    if (s.activation == HYB_ACTIVATION_SILU) return gate / (1.0f + hyb_exp_device(-gate)) * up;
    float positive = 0.0f > gate ? 0.0f : gate;
    return (positive * positive) * up;
}

/* Makes the gated values of a row, in place of its gates, and with a gain returns 1 / sqrt(mean square + epsilon):
 * products are made by all threads, the lanes' sums by the first 16, while the others make the next products. */
__device__ float prepare_row(const hyb_device_source &s, const float *x, size_t row, unsigned n_cols) {
    __shared__ float squares[2][STAGED];
    __shared__ float result;
    float lane_sum = 0.0f;
    for (unsigned first = 0, buffer = 0; first < n_cols; first += STAGED, buffer ^= 1) {
        unsigned n = n_cols - first < STAGED ? n_cols - first : STAGED;
        for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
            float value = s.x != nullptr ? x[first + i] : gated(s, row * s.ld + first + i);
            if (s.x == nullptr) s.gate[row * s.ld + first + i] = value;
            squares[buffer][i] = value * value;
        }
        if (s.gain == nullptr) continue;
        __syncthreads();
        if (threadIdx.x >= 16) continue;
#pragma unroll 8
        for (unsigned i = threadIdx.x; i < n; i += 16) lane_sum += squares[buffer][i];
    }
    if (s.gain == nullptr) return 1.0f;
    if (threadIdx.x < HYB_WARP) lane_sum = hyb_sum_16_lanes(lane_sum);
    if (threadIdx.x == 0) result = 1.0f / sqrtf(lane_sum / (float)n_cols + s.epsilon);
    __syncthreads();
    return result;
}

__global__ void input_kernel(hyb_device_source s, unsigned n_cols, size_t ld, hyb_device_input to, int *not_finite) {
    size_t row = blockIdx.x;
    const float *x = s.x != nullptr ? s.x + row * s.ld : s.gate + row * s.ld;
    float r = prepare_row(s, x, row, n_cols);
    uint32_t max_bits = 0;
    /* Every thread reads what it wrote itself. */
    for (unsigned i = threadIdx.x; i < n_cols; i += blockDim.x) {
        float y = s.gain != nullptr ? (x[i] * r) * s.gain[i] : x[i];
        uint32_t bits = hyb_magnitude_bits(y);
        max_bits = bits > max_bits ? bits : max_bits;
        if (to.values != nullptr) to.values[row * n_cols + i] = y;
    }
    if (to.values != nullptr) {
        if (max_bits >= HYB_INFINITE) *not_finite = 1;
        return;
    }
    max_bits = hyb_max_block(max_bits);
    if (max_bits >= HYB_INFINITE) *not_finite = 1;
    hyb_token_scale scale = hyb_token_scale_of(max_bits);
    int sum = 0;
    for (unsigned first = 4 * threadIdx.x; first < ld; first += 4 * blockDim.x) {
        uint32_t word = 0;
        for (unsigned i = 0; i < 4 && first + i < n_cols; ++i) {
            float value = x[first + i];
            int code = hyb_token_code(s.gain != nullptr ? (value * r) * s.gain[first + i] : value, scale);
            word |= (uint32_t)(uint8_t)code << (8 * i);
            sum += code;
        }
        *reinterpret_cast<uint32_t *>(to.codes + row * ld + first) = word;
    }
    sum = hyb_sum_block(sum);
    if (threadIdx.x == 0) {
        to.sums[row] = sum;
        to.scales[row] = scale.scale;
    }
}

/* About 8 elements a thread; a power of two, so that STAGED is a multiple. */
unsigned input_threads(size_t n_cols) {
    unsigned threads = 64;
    while (threads < MOST_THREADS && 8 * threads < n_cols) threads *= 2;
    return threads;
}

} // namespace

int hyb_launch_input(const hyb_device_source *source, size_t n_rows, size_t n_cols, int32_t format,
                     const hyb_device_input *input, int *not_finite, void *stream) {
    hyb_device_source s = *source;
    hyb_device_input to = *input;
    unsigned columns = (unsigned)n_cols;
    size_t ld = hyb_device_codes_ld(n_cols);
    if (format != HYB_FORMAT_F32) to.values = nullptr;
    HYB_LAUNCH(input_kernel, (unsigned)n_rows, input_threads(n_cols), 0, stream, s, columns, ld, to, not_finite);
    return (int)cudaGetLastError();
}

/* ---- keys and values ---- */

namespace {

/* A warp rotates a head in place. */
__device__ void rotate_head(float *x, unsigned half, const float *cosines, const float *sines) {
    for (unsigned i = threadIdx.x % HYB_WARP; i < half; i += HYB_WARP) {
        float a = x[i], b = x[half + i];
        x[i] = a * cosines[i] - b * sines[i];
        x[half + i] = a * sines[i] + b * cosines[i];
    }
    __syncwarp();
}

/* A warp stores a head's row, whose place is `at` rows from the beginning. */
__device__ void store_head(const float *x, const hyb_device_cache &cache, void *to, float *scales, size_t at,
                           int *not_finite) {
    unsigned lane = threadIdx.x % HYB_WARP;
    if (cache.format == HYB_CACHE_F32) {
        float *row = static_cast<float *>(to) + at * cache.width;
        for (unsigned i = lane; i < cache.head_dim; i += HYB_WARP) row[i] = x[i];
        return;
    }
    int8_t *row = static_cast<int8_t *>(to) + at * cache.width;
    uint32_t max_bits = 0;
    for (unsigned i = lane; i < cache.head_dim; i += HYB_WARP) {
        uint32_t bits = hyb_magnitude_bits(x[i]);
        max_bits = bits > max_bits ? bits : max_bits;
    }
    max_bits = hyb_max_warp(max_bits);
    if (max_bits >= HYB_INFINITE) *not_finite = 1;
    hyb_token_scale scale = hyb_token_scale_of(max_bits);
    for (unsigned i = lane; i < cache.head_dim; i += HYB_WARP) row[i] = (int8_t)hyb_token_code(x[i], scale);
    if (lane == 0) scales[at] = scale.scale;
}

/* Heads of q, k and v of a row, one a warp. */
__global__ void rotate_store_kernel(hyb_device_rows rows, float *qkv, size_t ld, unsigned n_heads,
                                    hyb_device_cache cache, const float *cosines, const float *sines, int *not_finite) {
    unsigned head = blockIdx.x * (blockDim.x / HYB_WARP) + threadIdx.x / HYB_WARP, row = blockIdx.y;
    unsigned half = cache.head_dim / 2, n_kv = cache.n_kv_heads;
    if (head >= n_heads + 2 * n_kv) return;
    float *x = qkv + row * ld + (size_t)head * cache.head_dim;
    size_t position = rows.positions[row];
    if (head < n_heads + n_kv) rotate_head(x, half, cosines + position * half, sines + position * half);
    if (head < n_heads) return;
    unsigned kv_head = (head - n_heads) % n_kv;
    size_t at = ((size_t)rows.sequences[row] * n_kv + kv_head) * cache.n_context + position;
    bool is_key = head < n_heads + n_kv;
    store_head(x, cache, is_key ? cache.keys : cache.values, is_key ? cache.key_scales : cache.value_scales, at,
               not_finite);
}

} // namespace

#define MOST_GRID_ROWS 65535u /* of a grid's second and third size */

int hyb_launch_rotate_store(const hyb_session_plan *plan, const hyb_device_rows *rows, float *qkv, size_t ld,
                            const hyb_device_cache *cache, int *not_finite, void *stream) {
    const unsigned warps = 4;
    unsigned n_heads = plan->n_heads;
    const float *cosines = plan->cosines, *sines = plan->sines;
    hyb_device_cache c = *cache;
    for (unsigned first = 0; first < rows->n; first += MOST_GRID_ROWS) {
        hyb_device_rows r = {rows->tokens + first, rows->sequences + first, rows->positions + first, rows->n - first};
        float *x = qkv + first * ld;
        dim3 grid((n_heads + 2 * c.n_kv_heads + warps - 1) / warps, r.n < MOST_GRID_ROWS ? r.n : MOST_GRID_ROWS);
        HYB_LAUNCH(rotate_store_kernel, grid, warps * HYB_WARP, 0, stream, r, x, ld, n_heads, c, cosines, sines,
                   not_finite);
        HYB_CUDA_TRY(cudaGetLastError());
    }
    return 0;
}
