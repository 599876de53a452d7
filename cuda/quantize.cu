/* quantize.cu - fp32 matrices to codes, or straight to packed bytes, with the scales of lib/quantize.c, bit for bit.
 *
 * Two sweeps. The first gathers a sum or a maximum of each row and makes scales of them; the second makes codes, from
 * the matrix's end to its begin, as the end is what the level-2 cache still holds. With a scale per row and codes of a
 * byte the second finds the rows in shared memory. Both are limited by memory: 4 bytes read for each weight and sweep.
 *
 * Sums over 16 virtual lanes are chains of additions: 16 threads go over a row in shared memory, which all of a block
 * filled. Rows are as many as fill a block with work; several blocks on a multiprocessor load while others add.
 */
#include <cfloat>

#include "pack.h"
#include "quantize.h"
#include "fours.h"

#define THREADS 128
#define BLOCKS 5                /* at least, on a multiprocessor: left alone, the compiler spills to have more */
#define BATCH 8                 /* loads of 16 bytes of a thread that are on their way together: 16 KiB of a block */
#define MAX_ROWS (THREADS / 16) /* of a block */
#define FLOATS_PER_BLOCK 4096   /* of several short rows, about */
#define LLOYD_MAX_ROUNDS 64     /* as lib/quantize.c */
#define HALF_MAX 65504.0f       /* the largest binary16 */
#define ORDERED_FLOATS 256      /* staged for one thread that adds in order */
/* As lib/quantize.c: half the step of Max's quantisers, by the mean magnitude of a Gaussian. */
#define GAUSS_SIGMA_BY_MEAN 1.2533141
#define INT2_SCALE_BY_MEAN (0.996 * GAUSS_SIGMA_BY_MEAN / 2)
#define INT4_SCALE_BY_MEAN (0.335 * GAUSS_SIGMA_BY_MEAN / 2)

namespace {

/* What a sweep gathers: sums of magnitudes, of those of three of four that are kept, of those above a threshold; or the
 * largest. */
enum { SUM, SUM_KEPT, SUM_ABOVE, LARGEST };

/* Of one scale for all; in work memory, zeros at first. */
struct tensor_state {
    unsigned n_done; /* blocks */
    int is_settled;  /* Lloyd's iteration has ended */
    float scale;
};

struct quantize_job {
    const float *weights;
    size_t n_rows, n_cols;
    int rows_per_block;
    int format;
    bool is_lloyd, is_kept;  /* kept: three of four */
    float dead_zone;         /* by the scale */
    uint32_t zero_threshold; /* bits of the ternary threshold where the scale is 0 */
    float *scales;
    bool is_per_row;
    volatile int *not_finite;
    int8_t *codes;        /* with a scale per row; or NULL */
    tensor_state *tensor; /* with one scale for all, and of each row: */
    float *row_sums;      /* LARGEST: maxima */
    uint32_t *row_counts; /* of magnitudes above the threshold */
};

/* ---- rows to shared memory ---- */

/* Three of four: the smallest magnitude, of equals the first, becomes 0, and nothing else is 0. */
__device__ __forceinline__ hyb_four keep_three(hyb_four v) {
    int least = 0;
    float smallest = fabsf(v.at[0]);
#pragma unroll
    for (int i = 1; i < 4; ++i) {
        bool is_less = fabsf(v.at[i]) < smallest;
        least = is_less ? i : least;
        smallest = is_less ? fabsf(v.at[i]) : smallest;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) v.at[i] = i == least ? 0.0f : v.at[i] == 0.0f ? FLT_MIN : v.at[i];
    return v;
}

/* n floats, and zeros up to a multiple of 4. */
__device__ void load_tile(const quantize_job &job, const float *x, size_t n, float *tile) {
    bool is_aligned = hyb_is_aligned(x, 16);
    uint32_t largest = 0;
    for (size_t first = threadIdx.x; 4 * first < n; first += BATCH * THREADS) {
        hyb_four v[BATCH];
        hyb_load_fours(x, first, THREADS, n, is_aligned, v);
#pragma unroll
        for (size_t k = 0; k < BATCH; ++k) {
            size_t four = first + k * THREADS;
            if (4 * four >= n) break;
            largest = max(largest, hyb_max_bits(v[k]));
            reinterpret_cast<hyb_four *>(tile)[four] = job.is_kept ? keep_three(v[k]) : v[k];
        }
    }
    if (largest >= HYB_INFINITE) *job.not_finite = 1;
}

/* The rows of a block. They stay in the tile if they fit; otherwise it is one row, and every sweep loads it. */
struct row_group {
    const float *x;
    size_t first_row;
    int n_rows;
    bool fits;
    float *tile;
};

__device__ row_group find_group(const quantize_job &job, float *tile) {
    row_group g;
    g.first_row = (size_t)blockIdx.x * job.rows_per_block;
    g.n_rows = (int)min((size_t)job.rows_per_block, job.n_rows - g.first_row);
    g.x = job.weights + g.first_row * job.n_cols;
    g.fits = job.n_cols <= HYB_TILE;
    g.tile = tile;
    return g;
}

/* ---- the first sweep: scales ---- */

struct gathered {
    float sum;
    uint32_t count, max_bits;
};

/* Of this thread's row, in its first thread of 16: sum and count over 16 lanes, or the maximum. For the whole block. */
template <int WHAT>
__device__ gathered gather(const quantize_job &job, const row_group &g, bool is_loaded, float threshold) {
    int row = (int)threadIdx.x / 16;
    size_t lane = threadIdx.x % 16;
    gathered found = {0.0f, 0, 0};
    for (size_t first = 0; first < job.n_cols; first += HYB_TILE) {
        size_t n = min(HYB_TILE, job.n_cols - first);
        if (!is_loaded) {
            __syncthreads();
            load_tile(job, g.x + first, g.fits ? g.n_rows * job.n_cols : n, g.tile);
            __syncthreads();
        }
        if (row >= g.n_rows) continue;
        const float *x = g.tile + row * n;
#pragma unroll 8
        for (size_t i = lane; i < n; i += 16) {
            float m = fabsf(x[i]);
            if (WHAT == LARGEST) {
                found.max_bits = max(found.max_bits, __float_as_uint(m));
            } else if (WHAT == SUM_ABOVE) {
                found.sum += m > threshold ? m : 0.0f;
                found.count += m > threshold;
            } else {
                found.sum += m;
            }
        }
    }
    if (row >= g.n_rows) return found;
    unsigned half = 0xffffu << (threadIdx.x & 16u);
    if (WHAT == LARGEST) {
        for (unsigned width = 8; width > 0; width /= 2)
            found.max_bits = max(found.max_bits, __shfl_down_sync(half, found.max_bits, width, 16));
    } else {
        found.sum = hyb_sum_16_lanes(found.sum, half);
    }
    if (WHAT == SUM_ABOVE) found.count = hyb_sum_16_lanes(found.count, half);
    return found;
}

/* first_scale of lib/quantize.c, of a mean or a maximum. */
__device__ float scale_of(int format, double sum, uint64_t count, uint32_t max_bits) {
    if (format == HYB_FORMAT_INT8) return hyb_round_to_half_device(__uint_as_float(max_bits) / 127.0f);
    float mean = count != 0 ? (float)(sum / (double)count) : 0.0f;
    if (format == HYB_FORMAT_INT2) mean = (float)(INT2_SCALE_BY_MEAN * (double)mean);
    if (format == HYB_FORMAT_INT4) mean = (float)(INT4_SCALE_BY_MEAN * (double)mean);
    return hyb_round_to_half_device(mean);
}

/* lloyd_moves of lib/quantize.c. */
__device__ bool lloyd_moves(double sum, uint64_t count, float *scale) {
    float next = scale_of(HYB_FORMAT_TERNARY, sum, count, 0);
    if (next == 0.0f || next == *scale) return false; /* 0: nothing lies above; keep what there is */
    *scale = next;
    return true;
}

__device__ size_t n_summed(const quantize_job &job) { return job.is_kept ? job.n_cols / 4 * 3 : job.n_cols; }

/* ---- one scale for all: rows are added in fp64 ---- */

/* Sums of rows are added in row order, says the contract. A tree gives the same bits where every addition is exact:
 * each sum is a multiple of u, the unit in the last place of the smallest that is not 0. A double holds every multiple
 * of u up to 2^53 u. Nothing is negative, so a rounded sum, if there is one, is of 2^53 u or more, and so is everything
 * that is added to it, up to the total, as rounding keeps order. A total below 2^53 u therefore says that no addition
 * was rounded, in the tree, nor in row order, whose sums are not above the total either. Floats have 24 bits: 2^20 rows
 * may differ by 2^9. */
struct row_total {
    double sum;
    uint64_t count;
    uint32_t max_bits;
    uint32_t least_exponent; /* of the bits of sums above 0; subnormal numbers have the unit of 1 */
};

__device__ void add_row(row_total *total, float sum, uint32_t count) {
    uint32_t bits = __float_as_uint(sum), exponent = max(bits >> 23, 1u);
    total->sum += (double)sum;
    total->count += count;
    total->max_bits = max(total->max_bits, bits);
    if (bits != 0) total->least_exponent = min(total->least_exponent, exponent);
}

__device__ void merge(row_total *a, const row_total &b) {
    a->sum += b.sum;
    a->count += b.count;
    a->max_bits = max(a->max_bits, b.max_bits);
    a->least_exponent = min(a->least_exponent, b.least_exponent);
}

/* u = 2^(exponent - 127 - 23); 2^53 u as the bits of a double. */
__device__ bool is_exact(const row_total &total) {
    return total.sum < __longlong_as_double((long long)(total.least_exponent - 150 + 53 + 1023) << 52);
}

/* In row order, by one thread; the others bring the numbers. The result is thread 0's. */
__device__ double sum_in_order(const float *row_sums, size_t n_rows) {
    __shared__ float staged[ORDERED_FLOATS];
    double sum = 0;
    for (size_t first = 0; first < n_rows; first += ORDERED_FLOATS) {
        size_t n = min((size_t)ORDERED_FLOATS, n_rows - first);
        __syncthreads();
        for (size_t i = threadIdx.x; i < n; i += THREADS) staged[i] = __ldcg(row_sums + first + i);
        __syncthreads();
        if (threadIdx.x != 0) continue;
        for (size_t i = 0; i < n; ++i) sum += (double)staged[i];
    }
    return sum;
}

/* Of all rows, by one block; the result is thread 0's. */
template <int WHAT> __device__ row_total add_rows(const quantize_job &job) {
    __shared__ row_total parts[THREADS / HYB_WARP];
    __shared__ bool in_any_order;
    row_total total = {0, 0, 0, 255};
#pragma unroll 8
    for (size_t r = threadIdx.x; r < job.n_rows; r += THREADS)
        add_row(&total, __ldcg(job.row_sums + r), WHAT == SUM_ABOVE ? __ldcg(job.row_counts + r) : 0u);
    for (unsigned width = 16; width > 0; width /= 2) {
        row_total other;
        other.sum = __shfl_down_sync(HYB_FULL_MASK, total.sum, width);
        other.count = __shfl_down_sync(HYB_FULL_MASK, total.count, width);
        other.max_bits = __shfl_down_sync(HYB_FULL_MASK, total.max_bits, width);
        other.least_exponent = __shfl_down_sync(HYB_FULL_MASK, total.least_exponent, width);
        if (threadIdx.x % HYB_WARP + width < HYB_WARP) merge(&total, other);
    }
    if (threadIdx.x % HYB_WARP == 0) parts[threadIdx.x / HYB_WARP] = total;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < THREADS / HYB_WARP; ++i) merge(&total, parts[i]);
        in_any_order = WHAT == LARGEST || is_exact(total);
    }
    __syncthreads();
    if (!in_any_order) total.sum = sum_in_order(job.row_sums, job.n_rows);
    return total;
}

/* True in all threads of the block that comes last; what the others wrote is then seen. */
__device__ bool is_last_block(unsigned *n_done) {
    __shared__ bool is_last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicAdd(n_done, 1u) == gridDim.x - 1;
    __syncthreads();
    __threadfence();
    return is_last;
}

/* The last block to come makes the scale. Lloyd's rounds are one launch each, which returns at once when it is settled:
 * so the host need not know. */
template <int WHAT> __global__ void __launch_bounds__(THREADS) tensor_kernel(quantize_job job) {
    HYB_DYNAMIC_SHARED(float, tile);
    tensor_state *tensor = job.tensor;
    if (WHAT == SUM_ABOVE && tensor->is_settled) return;
    row_group g = find_group(job, tile);
    gathered found = gather<WHAT>(job, g, false, tensor->scale * 0.5f);
    int row = (int)threadIdx.x / 16;
    if (threadIdx.x % 16 == 0 && row < g.n_rows) {
        job.row_sums[g.first_row + row] = WHAT == LARGEST ? __uint_as_float(found.max_bits) : found.sum;
        if (WHAT == SUM_ABOVE) job.row_counts[g.first_row + row] = found.count;
    }
    if (!is_last_block(&tensor->n_done)) return;
    row_total total = add_rows<WHAT>(job);
    if (threadIdx.x != 0) return;
    if (WHAT == SUM_ABOVE) {
        tensor->is_settled = !lloyd_moves(total.sum, total.count, &tensor->scale);
    } else {
        tensor->scale = scale_of(job.format, total.sum, n_summed(job) * job.n_rows, total.max_bits);
        if (!(tensor->scale <= HALF_MAX)) {
            *job.not_finite = 1;
            tensor->is_settled = 1;
        }
    }
    tensor->n_done = 0;
    job.scales[0] = tensor->scale;
}

/* ---- codes ---- */

/* The scale of one code after the other. */
struct scale_cursor {
    const float *scales;
    size_t n_cols, n_left; /* codes until the next scale */
    float scale;
    __device__ float take() {
        if (n_left == 0) {
            scale = *++scales;
            n_left = n_cols;
        }
        --n_left;
        return scale;
    }
};

/* From code i on; n_cols 0: one scale for all. */
__device__ __forceinline__ scale_cursor scales_from(const float *scales, size_t n_cols, size_t i) {
    size_t row = n_cols == 0 ? 0 : i >> 32 == 0 && n_cols >> 32 == 0 ? (uint32_t)i / (uint32_t)n_cols : i / n_cols;
    return {scales + row, n_cols, n_cols == 0 ? ~(size_t)0 : n_cols - (i - row * n_cols), scales[row]};
}

/* 2 * clamp(floor(w / (2 scale)), -levels, levels - 1) + 1 */
__device__ __forceinline__ int odd_code(float w, float scale, int levels) {
    float position = w / (2.0f * scale), low = (float)-levels, high = (float)(levels - 1);
    position = position > low ? position : low; /* a NaN as well: it is reported, and has some code */
    position = position < high ? position : high;
    int whole = (int)position;
    whole -= (float)whole > position; /* towards minus infinity */
    return 2 * whole + 1;
}

__device__ __forceinline__ int code_of(const quantize_job &job, float w, float scale) {
    if (job.format == HYB_FORMAT_TERNARY) {
        float threshold = scale == 0.0f ? __uint_as_float(job.zero_threshold) : scale * job.dead_zone;
        return (w > threshold) - (w < -threshold);
    }
    if (job.format == HYB_FORMAT_INT8) return scale == 0.0f ? 0 : hyb_round_i8(w / scale);
    if (job.format == HYB_FORMAT_BINARY || scale == 0.0f) return w >= 0.0f ? 1 : -1;
    return odd_code(w, scale, job.format == HYB_FORMAT_INT2 ? 2 : 8);
}

/* Codes of n values, at most 4, of a four that keep_three has seen. */
__device__ __forceinline__ uint32_t codes_of_four(const quantize_job &job, const hyb_four &v, size_t n,
                                                  scale_cursor cursor) {
    uint32_t codes = (uint32_t)(uint8_t)code_of(job, v.at[0], cursor.take());
    if (n > 1) codes |= (uint32_t)(uint8_t)code_of(job, v.at[1], cursor.take()) << 8;
    if (n > 2) codes |= (uint32_t)(uint8_t)code_of(job, v.at[2], cursor.take()) << 16;
    if (n > 3) codes |= (uint32_t)(uint8_t)code_of(job, v.at[3], cursor.take()) << 24;
    return codes;
}

/* ---- a scale per row: everything of a row at once ---- */

/* Codes of what is in the tile. */
__device__ void store_codes(const quantize_job &job, const float *tile, size_t n, const float *scales, int8_t *codes) {
    bool is_aligned = hyb_is_aligned(codes, 4);
    for (size_t four = threadIdx.x; 4 * four < n; four += THREADS) {
        size_t n_here = min((size_t)4, n - 4 * four);
        scale_cursor cursor = scales_from(scales, job.rows_per_block > 1 ? job.n_cols : 0, 4 * four);
        uint32_t word = codes_of_four(job, reinterpret_cast<const hyb_four *>(tile)[four], n_here, cursor);
        if (is_aligned && n_here == 4)
            reinterpret_cast<uint32_t *>(codes)[four] = word;
        else
            for (size_t i = 0; i < n_here; ++i) codes[4 * four + i] = (int8_t)(word >> (8 * i));
    }
}

template <int WHAT> __global__ void __launch_bounds__(THREADS, BLOCKS) rows_kernel(quantize_job job) {
    HYB_DYNAMIC_SHARED(float, tile);
    __shared__ float scales[MAX_ROWS];
    row_group g = find_group(job, tile);
    int row = (int)threadIdx.x / 16;
    bool is_first = threadIdx.x % 16 == 0 && row < g.n_rows;
    gathered found = gather<WHAT>(job, g, false, 0.0f);
    if (is_first) scales[row] = scale_of(job.format, (double)found.sum, n_summed(job), found.max_bits);
    bool moves = job.is_lloyd && is_first && scales[row] <= HALF_MAX;
    for (int round = 0; round < LLOYD_MAX_ROUNDS && __syncthreads_or(moves); ++round) {
        found = gather<SUM_ABOVE>(job, g, g.fits, row < g.n_rows ? scales[row] * 0.5f : 0.0f);
        __syncthreads();
        if (moves) moves = lloyd_moves((double)found.sum, found.count, &scales[row]);
    }
    if (is_first) {
        job.scales[g.first_row + row] = scales[row];
        if (!(scales[row] <= HALF_MAX)) *job.not_finite = 1;
    }
    if (job.codes == nullptr) return;
    int8_t *codes = job.codes + g.first_row * job.n_cols;
    for (size_t first = 0; first < job.n_cols; first += HYB_TILE) {
        size_t n = g.fits ? g.n_rows * job.n_cols : min(HYB_TILE, job.n_cols - first);
        __syncthreads();
        if (!g.fits) {
            load_tile(job, g.x + first, n, tile);
            __syncthreads();
        }
        store_codes(job, tile, n, scales, codes + first);
    }
}

/* ---- the second sweep: codes of a matrix, packed ---- */

/* 5 blocks: left to itself the compiler aims at more on sm_100, and spills. */
template <int PACKING>
__global__ void __launch_bounds__(HYB_PACK_THREADS, 5) packed_kernel(quantize_job job, uint8_t *bytes) {
    __shared__ uint32_t tile[HYB_PACK_TILE / 4];
    size_t first = (size_t)(gridDim.x - 1 - blockIdx.x) * HYB_PACK_TILE;
    size_t n = min((size_t)HYB_PACK_TILE, job.n_rows * job.n_cols - first);
    const float *x = job.weights + first;
    hyb_four v[HYB_PACK_FOURS];
    hyb_load_fours(x, threadIdx.x, HYB_PACK_THREADS, n, hyb_is_aligned(x, 16), v);
#pragma unroll
    for (int k = 0; k < HYB_PACK_FOURS; ++k) {
        size_t four = threadIdx.x + (size_t)k * HYB_PACK_THREADS;
        uint32_t codes = hyb_tail_codes<PACKING>();
        if (4 * four < n) {
            scale_cursor cursor = scales_from(job.scales, job.is_per_row ? job.n_cols : 0, first + 4 * four);
            codes = codes_of_four(job, job.is_kept ? keep_three(v[k]) : v[k], n - 4 * four, cursor);
            codes = hyb_cut_codes<PACKING>(codes, n - 4 * four);
        }
        tile[four] = codes;
    }
    __syncthreads();
    hyb_store_packed<PACKING>(tile, bytes + hyb_bytes_of<PACKING>(first), hyb_bytes_of<PACKING>(n));
}

template <int PACKING> void launch_packed(const quantize_job &job, uint8_t *bytes, void *stream) {
    auto kernel = packed_kernel<PACKING>;
    quantize_job copy = job;
    HYB_LAUNCH(kernel, (unsigned)hyb_blocks_for(job.n_rows * job.n_cols, HYB_PACK_TILE), HYB_PACK_THREADS, 0, stream,
               copy, bytes);
}

/* ---- launches ---- */

template <int WHAT> int launch_scales(const quantize_job &job, void *stream) {
    auto kernel = job.is_per_row ? rows_kernel<WHAT> : tensor_kernel<WHAT>;
    size_t n_floats = job.n_cols <= HYB_TILE ? job.rows_per_block * job.n_cols : HYB_TILE;
    size_t n_bytes = hyb_blocks_for(n_floats, 4) * 16;
    quantize_job copy = job;
    HYB_CUDA_TRY(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(HYB_TILE * sizeof(float))));
    HYB_LAUNCH(kernel, (unsigned)hyb_blocks_for(job.n_rows, (size_t)job.rows_per_block), THREADS, n_bytes, stream,
               copy);
    return (int)cudaGetLastError();
}

int find_scales(const quantize_job &job, void *stream) {
    if (job.format == HYB_FORMAT_INT8) return launch_scales<LARGEST>(job, stream);
    if (job.is_kept) return launch_scales<SUM_KEPT>(job, stream);
    HYB_CUDA_TRY(launch_scales<SUM>(job, stream));
    if (job.is_per_row || !job.is_lloyd) return 0;
    for (int round = 0; round < LLOYD_MAX_ROUNDS; ++round) HYB_CUDA_TRY(launch_scales<SUM_ABOVE>(job, stream));
    return 0;
}

/* Work memory of a tensor's scale. */
int prepare_tensor(hyb_cuda_state *state, quantize_job *job, void *stream) {
    HYB_CUDA_TRY(hyb_cuda_lay_out(state, [&](hyb_cuda_arena &arena) {
        arena.take(job->tensor, 1);
        arena.take(job->row_sums, job->n_rows);
        arena.take(job->row_counts, job->n_rows);
    }));
    return cudaMemsetAsync(job->tensor, 0, sizeof(tensor_state), (cudaStream_t)stream);
}

} // namespace

int hyb_module_quantize(hyb_cuda_state *state, const hyb_quantizer *q, const float *weights, size_t n_rows,
                        size_t n_cols, int32_t packing, uint8_t *bytes, float *scales, void *stream) {
    HYB_CUDA_BEGIN(state);
    bool is_ternary = q->format == HYB_FORMAT_TERNARY, is_per_row = q->granularity == HYB_SCALE_PER_ROW;
    bool is_direct = is_per_row && packing == HYB_PACKING_INT8;
    quantize_job job = {};
    job.weights = weights;
    job.n_rows = n_rows;
    job.n_cols = n_cols;
    job.rows_per_block = (int)max((size_t)1, min((size_t)MAX_ROWS, FLOATS_PER_BLOCK / n_cols));
    job.format = q->format;
    job.is_lloyd = is_ternary && q->threshold == HYB_THRESHOLD_LLOYD;
    job.is_kept = is_ternary && q->threshold == HYB_THRESHOLD_THREE_OF_FOUR;
    job.dead_zone = job.is_kept ? 0.0f : q->dead_zone != 0.0f ? q->dead_zone : 0.5f;
    job.zero_threshold = packing == HYB_PACKING_TERNARY_3OF4 ? 0 : HYB_INFINITE; /* nothing exceeds infinity */
    job.scales = scales;
    job.is_per_row = is_per_row;
    job.not_finite = state->not_finite;
    job.codes = is_direct ? reinterpret_cast<int8_t *>(bytes) : nullptr;
    if (!is_per_row) HYB_CUDA_TRY(prepare_tensor(state, &job, stream));
    HYB_CUDA_TRY(find_scales(job, stream));
    if (!is_direct) HYB_WITH_PACKING(packing, launch_packed, job, bytes, stream);
    return (int)cudaGetLastError();
}

/* ---- back to floats ---- */

#define FOURS_PER_THREAD 4

namespace {

__global__ void __launch_bounds__(THREADS)
    dequantize_kernel(const int8_t *codes, const float *scales, size_t n_cols, size_t n, float *weights) {
    bool is_aligned = hyb_is_aligned(codes, 4) && hyb_is_aligned(weights, 16);
    size_t first = (size_t)blockIdx.x * (THREADS * FOURS_PER_THREAD) + threadIdx.x;
#pragma unroll
    for (size_t k = 0; k < FOURS_PER_THREAD; ++k) {
        size_t i = 4 * (first + k * THREADS);
        if (i >= n) break;
        scale_cursor cursor = scales_from(scales, n_cols, i);
        if (is_aligned && i + 4 <= n) {
            char4 c = *reinterpret_cast<const char4 *>(codes + i);
            hyb_four v;
            v.at[0] = (float)c.x * cursor.take();
            v.at[1] = (float)c.y * cursor.take();
            v.at[2] = (float)c.z * cursor.take();
            v.at[3] = (float)c.w * cursor.take();
            *reinterpret_cast<hyb_four *>(weights + i) = v;
        } else {
            for (size_t end = min(i + 4, n); i < end; ++i) weights[i] = (float)codes[i] * cursor.take();
        }
    }
}

} // namespace

int hyb_module_dequantize(hyb_cuda_state *state, const int8_t *codes, const float *scales, size_t n_scales,
                          size_t n_rows, size_t n_cols, float *weights, void *stream) {
    HYB_CUDA_BEGIN(state);
    size_t n = n_rows * n_cols, period = n_scales == 1 ? 0 : n_cols;
    HYB_LAUNCH(dequantize_kernel, (unsigned)hyb_blocks_for(n, 4 * THREADS * FOURS_PER_THREAD), THREADS, 0, stream,
               codes, scales, period, n, weights);
    return (int)cudaGetLastError();
}
