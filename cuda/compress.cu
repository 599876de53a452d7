/* compress.cu - gradients to few bits with error feedback, and back, as lib/compress.c, bit for bit.
 *
 * A block a row. The row with what was left of it stays in shared memory through moments, threshold and codes, if it is
 * no longer than a tile: so everything is read once and written once, and memory is the limit (12 bytes a value and
 * step with feedback). Longer rows are read again for each sweep, with feedback from the residual, which holds the sum.
 */
#include <cfloat>

#include "fours.h"

#define THREADS 128
#define BLOCKS 5 /* at least, on a multiprocessor: left alone, the compiler spills registers to have more */
#define WARPS (THREADS / HYB_WARP)
#define BATCH 4 /* loads of 16 bytes of a thread, of gradient and residual, that are on their way together */
#define PIECE ((size_t)8192) /* values of one fp32 sum, as lib/compress.c */
#define PIECES (HYB_TILE / PIECE)
#define LARGEST 1e16f       /* magnitude */
#define TERNARY_START 0.75f /* as lib/kernels.h: threshold by mean, evaluations of the mean above it, the next one */
#define TERNARY_EVALUATIONS 4
#define TERNARY_NEXT(scale, threshold) (0.8f * (scale)-0.6f * (threshold))
/* Columns whose digits are packed together: whole bytes of 5 ternary digits, whole sevens of bytes of 24 five-level
 * ones, whole blocks of 64, in all schemes. */
#define CHUNK ((size_t)3840)
#define SCALE_LIMIT ((127 + 55) << 7) /* bits of bfloat16: no scale is larger, as lib/compress.c */

static_assert(HYB_TILE % PIECE == 0, "a tile holds whole pieces");

namespace {

struct compress_job {
    const float *gradient;
    size_t n_rows, n_cols;
    float *residual, *values; /* or NULL */
    uint8_t *bytes;           /* or NULL */
    size_t row_bytes, n_scales, block_size;
    volatile int *not_finite;
};

/* A row as the block that works on it sees it. */
struct row_view {
    const float *gradient;
    float *residual, *values;
    uint8_t *bytes, *scales; /* or NULL */
    size_t n;
    float *tile;
    uint8_t *digits; /* [CHUNK + 8], in shared memory */
    bool fits;       /* the row is in the tile; otherwise every sweep loads it */
};

__device__ row_view view_of(const compress_job &job, float *tile) {
    size_t r = blockIdx.x, at = r * job.n_cols;
    row_view v;
    v.gradient = job.gradient + at;
    v.residual = job.residual != nullptr ? job.residual + at : nullptr;
    v.values = job.values != nullptr ? job.values + at : nullptr;
    v.bytes = job.bytes != nullptr ? job.bytes + r * job.row_bytes : nullptr;
    v.scales = job.bytes != nullptr ? job.bytes + job.n_rows * job.row_bytes + 2 * r * job.n_scales : nullptr;
    v.n = job.n_cols;
    v.tile = tile;
    v.digits = reinterpret_cast<uint8_t *>(tile + (min(HYB_TILE, v.n) + 3) / 4 * 4);
    v.fits = v.n <= HYB_TILE;
    return v;
}

/* ---- rows to shared memory ---- */

/* Columns [first, first + n) of gradient, or of residual + gradient, to the tile; returns the largest magnitude's bits
 * of what this thread read. tile NULL: the bits alone. */
__device__ uint32_t load_sum(const row_view &row, size_t first_col, size_t n, float *tile) {
    const float *g = row.gradient + first_col, *r = row.residual != nullptr ? row.residual + first_col : nullptr;
    bool g_is_aligned = hyb_is_aligned(g, 16), r_is_aligned = hyb_is_aligned(r, 16);
    uint32_t bits = 0;
    for (size_t first = threadIdx.x; 4 * first < n; first += BATCH * THREADS) {
        hyb_four a[BATCH], b[BATCH];
        hyb_load_fours(g, first, THREADS, n, g_is_aligned, a);
        if (r != nullptr) hyb_load_fours(r, first, THREADS, n, r_is_aligned, b);
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            bits = max(bits, hyb_max_bits(a[k]));
            if (r != nullptr) {
                bits = max(bits, hyb_max_bits(b[k]));
                for (int i = 0; i < 4; ++i) a[k].at[i] = b[k].at[i] + a[k].at[i];
            }
            size_t four = first + (size_t)k * THREADS;
            if (tile != nullptr && 4 * four < n) reinterpret_cast<hyb_four *>(tile)[four] = a[k];
        }
    }
    return bits;
}

/* What codes are made of, column by column: the tile, or memory, where the residual holds the sum since the moments. */
__device__ __forceinline__ const float *sums_of(const row_view &row) {
    return row.fits ? row.tile : row.residual != nullptr ? row.residual : row.gradient;
}

/* The row into the tile, if it fits; otherwise its sums into the residual. 0: the row holds what is not finite or too
 * large, and nothing of it is changed. */
__device__ bool prepare_row(const row_view &row) {
    uint32_t bits = load_sum(row, 0, row.n, row.fits ? row.tile : nullptr);
    if (__syncthreads_or(bits > __float_as_uint(LARGEST))) return false;
    if (row.fits || row.residual == nullptr) return true;
    for (size_t i = threadIdx.x; i < row.n; i += THREADS) row.residual[i] += row.gradient[i];
    __syncthreads();
    return true;
}

/* Brings columns [first, first + n), unless they are there. For the whole block. */
__device__ const float *tile_at(const row_view &row, size_t first, size_t n) {
    __syncthreads(); /* what was in shared memory is no longer needed */
    if (row.fits) return row.tile;
    const float *x = sums_of(row);
    for (size_t i = threadIdx.x; i < n; i += THREADS) row.tile[i] = x[first + i];
    __syncthreads();
    return row.tile;
}

/* ---- moments and thresholds ---- */

/* Sum of magnitudes, or of squares: 16 lanes a piece, 16 threads for each of a tile's, pieces in fp64. In all threads.
 */
template <bool IS_SQUARES> __device__ double moment(const row_view &row) {
    __shared__ float parts[PIECES];
    double sum = 0;
    for (size_t first = 0; first < row.n; first += HYB_TILE) {
        size_t n = min(HYB_TILE, row.n - first), piece = threadIdx.x / 16;
        const float *x = tile_at(row, first, n);
        if (piece * PIECE < n && piece < PIECES) {
            float lane = 0.0f;
            size_t end = min(n, (piece + 1) * PIECE);
#pragma unroll 8
            for (size_t i = piece * PIECE + threadIdx.x % 16; i < end; i += 16)
                lane += IS_SQUARES ? x[i] * x[i] : fabsf(x[i]);
            lane = hyb_sum_16_lanes(lane, 0xffffu << (threadIdx.x & 16u));
            if (threadIdx.x % 16 == 0) parts[piece] = lane;
        }
        __syncthreads();
        for (size_t p = 0; p * PIECE < n; ++p) sum += (double)parts[p];
    }
    return sum;
}

/* 64-lane sum of the magnitudes above a threshold, by a warp: a lane of CUDA's is two. Lane 0 has sum and number. */
struct above {
    float sum;
    uint32_t count;
};
__device__ __forceinline__ above sum_above(const float *x, size_t n, float threshold) {
    float low = 0.0f, high = 0.0f;
    above found = {0.0f, 0};
#pragma unroll 4
    for (size_t i = threadIdx.x % HYB_WARP; i < n; i += 2 * HYB_WARP) {
        float a = fabsf(x[i]), b = i + HYB_WARP < n ? fabsf(x[i + HYB_WARP]) : -1.0f;
        low += a > threshold ? a : 0.0f;
        high += b > threshold ? b : 0.0f;
        found.count += (a > threshold) + (b > threshold);
    }
    found.sum = low + high;
    for (unsigned width = 16; width > 0; width /= 2) found.sum += __shfl_down_sync(HYB_FULL_MASK, found.sum, width);
    found.count = hyb_sum_warp(found.count);
    return found;
}

/* mean_above of lib/compress.c: a warp a piece, pieces in fp64. In all threads. */
__device__ float mean_above(const row_view &row, float threshold) {
    __shared__ above parts[PIECES];
    double sum = 0;
    uint64_t count = 0;
    for (size_t first = 0; first < row.n; first += HYB_TILE) {
        size_t n = min(HYB_TILE, row.n - first), piece = threadIdx.x / HYB_WARP;
        const float *x = tile_at(row, first, n);
        if (piece * PIECE < n && piece < PIECES) {
            above found = sum_above(x + piece * PIECE, min(PIECE, n - piece * PIECE), threshold);
            if (threadIdx.x % HYB_WARP == 0) parts[piece] = found;
        }
        __syncthreads();
        for (size_t p = 0; p * PIECE < n; ++p) {
            sum += (double)parts[p].sum;
            count += parts[p].count;
        }
    }
    return (float)(sum / (double)(count != 0 ? count : 1));
}

__device__ __forceinline__ float next_threshold(float scale, float threshold) {
    float next = TERNARY_NEXT(scale, threshold);
    return next > 0.0f ? next : 0.0f;
}

__device__ float ternary_scale(const row_view &row, float *threshold) {
    *threshold = TERNARY_START * (float)(moment<false>(row) / (double)row.n);
    for (int evaluation = 1;; ++evaluation) {
        float scale = mean_above(row, *threshold);
        if (evaluation == TERNARY_EVALUATIONS) return scale;
        *threshold = next_threshold(scale, *threshold);
    }
}

/* The same of a block of up to 64 values, by a warp; in all of its threads. */
__device__ float block_scale(const float *x, size_t n, float *threshold) {
    float scale = 0.0f;
    for (int evaluation = 0;; ++evaluation) {
        above found = sum_above(x, n, evaluation == 0 ? -1.0f : *threshold); /* at first, the mean of all */
        scale = found.sum / (float)(found.count != 0 ? found.count : 1);
        scale = __shfl_sync(HYB_FULL_MASK, scale, 0);
        if (evaluation == TERNARY_EVALUATIONS) return scale;
        *threshold = evaluation == 0 ? TERNARY_START * scale : next_threshold(scale, *threshold);
    }
}

/* Nearest bfloat16, ties to even. */
__device__ __forceinline__ float round_scale(float scale) {
    uint32_t bits = __float_as_uint(scale);
    return __uint_as_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

__device__ void store_scale(const row_view &row, size_t index, float scale) {
    uint32_t bits = __float_as_uint(scale) >> 16;
    if (row.scales == nullptr) return;
    row.scales[2 * index] = (uint8_t)bits;
    row.scales[2 * index + 1] = (uint8_t)(bits >> 8);
}

/* ---- codes ---- */

/* Value, residual and digit of a column. */
__device__ __forceinline__ void put(const row_view &row, size_t column, size_t in_chunk, float x, float code,
                                    float scale, int bias) {
    float q = code * scale;
    row.digits[in_chunk] = (uint8_t)((int)code + bias);
    if (row.residual != nullptr) row.residual[column] = x - q;
    if (row.values != nullptr) row.values[column] = q;
}

__device__ __forceinline__ float ternary_code(float x, float threshold) {
    return (float)((x > threshold) - (x < -threshold));
}

__device__ __forceinline__ float five_code(float x, float inverse) {
    float v = x * inverse;
    v = v > 2.0f ? 2.0f : v;
    v = v < -2.0f ? -2.0f : v;
    return (v + HYB_ROUND_MAGIC) - HYB_ROUND_MAGIC;
}

/* Columns [first, first + n) of a row with one scale. */
template <bool IS_FIVE>
__device__ void code_chunk(const row_view &row, size_t first, size_t n, float threshold, float scale) {
    const float *x = sums_of(row) + first;
    float inverse = scale >= FLT_MIN ? 1.0f / scale : 0.0f; /* below the smallest normal number: zeros */
    for (size_t i = threadIdx.x; i < n; i += THREADS) {
        float code = IS_FIVE ? five_code(x[i], inverse) : ternary_code(x[i], threshold);
        put(row, first + i, i, x[i], code, scale, IS_FIVE ? 2 : 1);
    }
}

/* The same with a scale for each block: a warp a block. */
__device__ void code_blocks(const row_view &row, size_t first, size_t n, size_t block_size) {
    const float *x = sums_of(row) + first;
    for (size_t at = threadIdx.x / HYB_WARP * block_size; at < n; at += WARPS * block_size) {
        size_t n_here = min(block_size, n - at);
        float threshold = 0.0f, scale = round_scale(block_scale(x + at, n_here, &threshold));
        for (size_t i = threadIdx.x % HYB_WARP; i < n_here; i += HYB_WARP)
            put(row, first + at + i, at + i, x[at + i], ternary_code(x[at + i], threshold), scale, 1);
        if (threadIdx.x % HYB_WARP == 0) store_scale(row, (first + at) / block_size, scale);
    }
}

/* Byte b of 3 digits in each 7 bits; fields from `end` on are 0. */
__device__ __forceinline__ uint32_t byte_of_fives(const uint8_t *digits, size_t b, size_t end) {
    size_t field = 8 * b / 7;
    uint32_t bits = 0;
    for (size_t f = field; f < field + 2 && f < end; ++f)
        bits |= (uint32_t)(digits[3 * f] + 5 * digits[3 * f + 1] + 25 * digits[3 * f + 2]) << (7 * (f - field));
    return bits >> (8 * b - 7 * field) & 255u;
}

__device__ __forceinline__ uint32_t byte_of_ternary(const uint8_t *d, size_t b) {
    d += 5 * b;
    return d[0] + 3u * d[1] + 9u * d[2] + 27u * d[3] + 81u * d[4];
}

/* Digits of n columns to bytes; behind the last stands code 0. */
template <bool IS_FIVE> __device__ void pack_chunk(const row_view &row, size_t n, uint8_t *bytes) {
    size_t n_fields = (n + 2) / 3, n_bytes = IS_FIVE ? (7 * n_fields + 7) / 8 : (n + 4) / 5;
    if (threadIdx.x < 8) row.digits[n + threadIdx.x] = IS_FIVE ? 2 : 1;
    __syncthreads();
    for (size_t b = threadIdx.x; b < n_bytes; b += THREADS)
        bytes[b] = (uint8_t)(IS_FIVE ? byte_of_fives(row.digits, b, n_fields) : byte_of_ternary(row.digits, b));
    __syncthreads();
}

template <int SCHEME> __global__ void __launch_bounds__(THREADS, BLOCKS) compress_kernel(compress_job job) {
    constexpr bool IS_FIVE = SCHEME == HYB_COMPRESSION_FIVE, IS_BLOCK = SCHEME == HYB_COMPRESSION_BLOCK;
    constexpr size_t CHUNK_BYTES = IS_FIVE ? CHUNK / 24 * 7 : CHUNK / 5;
    HYB_DYNAMIC_SHARED(float, tile);
    row_view row = view_of(job, tile);
    if (!prepare_row(row)) {
        if (threadIdx.x == 0) *job.not_finite = 1;
        return;
    }
    float threshold = 0.0f, scale = 0.0f;
    if (IS_FIVE) scale = round_scale((float)sqrt(moment<true>(row) / (double)row.n));
    if (SCHEME == HYB_COMPRESSION_ROW) scale = round_scale(ternary_scale(row, &threshold));
    if (!IS_BLOCK && threadIdx.x == 0) store_scale(row, 0, scale);
    for (size_t first = 0; first < row.n; first += CHUNK) {
        size_t n = min(CHUNK, row.n - first);
        if (IS_BLOCK)
            code_blocks(row, first, n, job.block_size);
        else
            code_chunk<IS_FIVE>(row, first, n, threshold, scale);
        if (row.bytes != nullptr) pack_chunk<IS_FIVE>(row, n, row.bytes + first / CHUNK * CHUNK_BYTES);
    }
}

template <int SCHEME> int launch_compress(const compress_job &job, void *stream) {
    auto kernel = compress_kernel<SCHEME>;
    size_t n_bytes = hyb_blocks_for(job.n_cols < HYB_TILE ? job.n_cols : HYB_TILE, 4) * 16 + CHUNK + 8;
    compress_job copy = job;
    HYB_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)(HYB_TILE * sizeof(float) + CHUNK + 8)));
    HYB_LAUNCH(kernel, (unsigned)job.n_rows, THREADS, n_bytes, stream, copy);
    return (int)cudaGetLastError();
}

} // namespace

int hyb_module_compress(hyb_cuda_state *state, int32_t scheme, const hyb_cuda_layout *layout, const float *gradient,
                        size_t n_rows, size_t n_cols, float *residual, uint8_t *bytes, float *values, void *stream) {
    HYB_CUDA_BEGIN(state);
    compress_job job = {
        gradient,           n_rows,           n_cols, residual, values, bytes, layout->row_bytes, layout->n_scales,
        layout->block_size, state->not_finite};
    if (scheme == HYB_COMPRESSION_FIVE) return launch_compress<HYB_COMPRESSION_FIVE>(job, stream);
    if (scheme == HYB_COMPRESSION_BLOCK) return launch_compress<HYB_COMPRESSION_BLOCK>(job, stream);
    return launch_compress<HYB_COMPRESSION_ROW>(job, stream);
}

/* ---- back to values: 4 bytes written for each, so that reading the codes hardly counts ---- */

namespace {

struct decompress_job {
    const uint8_t *bytes;
    size_t n_rows, n_cols, n_chunks; /* of a row */
    float *values;
    size_t row_bytes, n_scales, block_size;
    volatile int *malformed;
};

/* Digits of a value to codes; 0 if a digit from `n` on, where the row has ended, is not code 0's. */
template <int BASE, int DIGITS> __device__ bool spread(uint32_t value, size_t n, int8_t *codes) {
    bool is_valid = true;
    for (size_t i = 0; i < DIGITS; ++i, value /= BASE) {
        int code = (int)(value % BASE) - BASE / 2;
        is_valid &= i < n || code == 0;
        codes[i] = (int8_t)code;
    }
    return is_valid;
}

__device__ bool unpack_ternary(const uint8_t *bytes, size_t n, int8_t *codes) {
    bool is_valid = true;
    for (size_t b = threadIdx.x; 5 * b < n; b += THREADS)
        is_valid &= spread<3, 5>(bytes[b], n - 5 * b, codes + 5 * b) && bytes[b] < 243;
    return is_valid;
}

__device__ bool unpack_five(const uint8_t *bytes, size_t n, int8_t *codes) {
    size_t n_fields = (n + 2) / 3, n_bytes = (7 * n_fields + 7) / 8;
    bool is_valid = true;
    for (size_t f = threadIdx.x; f < n_fields; f += THREADS) {
        size_t b = 7 * f / 8;
        uint32_t bits = bytes[b] | (b + 1 < n_bytes ? bytes[b + 1] : 0u) << 8, field = bits >> (7 * f % 8) & 127u;
        is_valid &= spread<5, 3>(field, n - 3 * f, codes + 3 * f) && field < 125;
        /* Behind the last field all is 0. */
        if (f + 1 == n_fields) is_valid &= bits >> (7 * f % 8) == field;
    }
    return is_valid;
}

template <bool IS_FIVE> __global__ void __launch_bounds__(THREADS) decompress_kernel(decompress_job job) {
    constexpr size_t CHUNK_BYTES = IS_FIVE ? CHUNK / 24 * 7 : CHUNK / 5;
    __shared__ int8_t codes[CHUNK + 8];
    size_t r = blockIdx.x / job.n_chunks, chunk = blockIdx.x % job.n_chunks, first = chunk * CHUNK;
    size_t n = min(CHUNK, job.n_cols - first);
    const uint8_t *bytes = job.bytes + r * job.row_bytes + chunk * CHUNK_BYTES;
    const uint8_t *scales = job.bytes + job.n_rows * job.row_bytes + 2 * r * job.n_scales;
    float *values = job.values + r * job.n_cols + first;
    bool is_valid = IS_FIVE ? unpack_five(bytes, n, codes) : unpack_ternary(bytes, n, codes);
    __syncthreads();
    for (size_t i = threadIdx.x; i < n; i += THREADS) {
        size_t block = job.n_scales == 1 ? 0 : (first + i) / job.block_size;
        uint32_t bits = scales[2 * block] | (uint32_t)scales[2 * block + 1] << 8;
        is_valid &= bits < SCALE_LIMIT;
        values[i] = (float)codes[i] * __uint_as_float(bits << 16);
    }
    if (!is_valid) *job.malformed = 1;
}

} // namespace

int hyb_module_decompress(hyb_cuda_state *state, int32_t scheme, const hyb_cuda_layout *layout, const uint8_t *bytes,
                          size_t n_rows, size_t n_cols, float *values, void *stream) {
    HYB_CUDA_BEGIN(state);
    auto kernel = scheme == HYB_COMPRESSION_FIVE ? decompress_kernel<true> : decompress_kernel<false>;
    size_t n_chunks = hyb_blocks_for(n_cols, CHUNK);
    decompress_job job = {
        bytes,           n_rows, n_cols, n_chunks, values, layout->row_bytes, layout->n_scales, layout->block_size,
        state->malformed};
    HYB_LAUNCH(kernel, (unsigned)(n_rows * n_chunks), THREADS, 0, stream, job);
    return (int)cudaGetLastError();
}
