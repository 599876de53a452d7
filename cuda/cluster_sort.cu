/* cluster_sort.cu - a stable radix sort: labels of points (few bits), or floats made integers of the same order.
 *
 * 8 bits a pass, the lowest first. A pass counts digits by tiles, adds the counts up in the order of digits, then
 * tiles, and moves each key to its place. The limit is memory: 20 bytes a key and pass, written in short runs.
 */
#include "cluster.h"

#define THREADS 256
#define WARPS (THREADS / HYB_WARP)
#define RADIX 256
#define KEYS_PER_THREAD 16
#define TILE (THREADS * KEYS_PER_THREAD)

namespace {

__global__ void count_digits_kernel(const uint32_t *keys, size_t n, unsigned shift, uint32_t *counts) {
    __shared__ uint32_t own[RADIX];
    own[threadIdx.x] = 0;
    __syncthreads();
    const size_t first = (size_t)blockIdx.x * TILE;
    for (unsigned s = 0; s < KEYS_PER_THREAD; ++s) {
        const size_t i = first + s * THREADS + threadIdx.x;
        if (i < n) atomicAdd(&own[keys[i] >> shift & (RADIX - 1)], 1u);
    }
    __syncthreads();
    counts[(size_t)threadIdx.x * gridDim.x + blockIdx.x] = own[threadIdx.x];
}

/* A warp makes of one digit's counts [n_tiles] those of the tiles before, and their total. */
__global__ void scan_digits_kernel(uint32_t *counts, size_t n_tiles, uint32_t *totals) {
    const unsigned lane = threadIdx.x % HYB_WARP, digit = blockIdx.x * WARPS + threadIdx.x / HYB_WARP;
    uint32_t *own = counts + digit * n_tiles, before = 0;
    for (size_t first = 0; first < n_tiles; first += 4 * HYB_WARP) {
        const size_t i = first + 4 * lane;
        uint32_t here[4], sum = 0;
#pragma unroll
        for (unsigned u = 0; u < 4; ++u) sum += here[u] = i + u < n_tiles ? own[i + u] : 0;
        uint32_t place = before + hyb_scan_warp(sum) - sum;
        before += hyb_sum_warp(sum);
#pragma unroll
        for (unsigned u = 0; u < 4; place += here[u], ++u)
            if (i + u < n_tiles) own[i + u] = place;
    }
    if (lane == 0) totals[digit] = before;
}

/* Lanes of the warp with this lane's digit, of those that have one. */
__device__ __forceinline__ unsigned lanes_with(unsigned digit, bool is_active) {
    unsigned lanes = __ballot_sync(HYB_FULL_MASK, is_active);
#pragma unroll
    for (int bit = 0; bit < 8; ++bit) {
        const unsigned set = __ballot_sync(HYB_FULL_MASK, (int)(digit >> bit & 1));
        lanes &= (digit >> bit & 1) != 0 ? set : ~set;
    }
    return lanes;
}

/* A warp takes neighbouring keys, 32 at a time; places are counted up in that order, so that equal keys keep theirs.
 * values NULL: the places of the keys. */
__global__ void __launch_bounds__(THREADS)
    move_keys_kernel(const uint32_t *keys, const uint32_t *values, size_t n, unsigned shift, const uint32_t *counts,
                     const uint32_t *totals, uint32_t *to_keys, uint32_t *to_values) {
    __shared__ uint32_t next[WARPS][RADIX], shared[WARPS];
    const unsigned lane = threadIdx.x % HYB_WARP, warp = threadIdx.x / HYB_WARP;
    const size_t first = (size_t)blockIdx.x * TILE + (size_t)warp * (TILE / WARPS) + lane;
    uint32_t own[KEYS_PER_THREAD];
    for (unsigned w = 0; w < WARPS; ++w) next[w][threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (unsigned s = 0; s < KEYS_PER_THREAD; ++s) {
        const size_t i = first + s * HYB_WARP;
        own[s] = i < n ? keys[i] : 0;
        if (i < n) atomicAdd(&next[warp][own[s] >> shift & (RADIX - 1)], 1u);
    }
    uint32_t total;
    uint32_t place = hyb_scan_block(totals[threadIdx.x], shared, &total); /* its barriers end the counting, too */
    place += counts[(size_t)threadIdx.x * gridDim.x + blockIdx.x];
    for (unsigned w = 0; w < WARPS; ++w) {
        const uint32_t here = next[w][threadIdx.x];
        next[w][threadIdx.x] = place;
        place += here;
    }
    __syncthreads();
#pragma unroll
    for (unsigned s = 0; s < KEYS_PER_THREAD; ++s) {
        const size_t i = first + s * HYB_WARP;
        if (i - lane >= n) break; /* for all lanes */
        const unsigned digit = own[s] >> shift & (RADIX - 1), lanes = lanes_with(digit, i < n);
        const unsigned rank = (unsigned)__popc(lanes & ((1u << lane) - 1));
        uint32_t target = 0;
        if (i < n) target = next[warp][digit] + rank;
        __syncwarp();
        if (i < n && rank == 0) next[warp][digit] = target + (uint32_t)__popc(lanes);
        __syncwarp();
        if (i >= n) continue;
        to_keys[target] = own[s];
        to_values[target] = values != nullptr ? values[i] : (uint32_t)i;
    }
}

} // namespace

size_t hyb_cluster_sort_counts(size_t n) { return RADIX * (hyb_blocks_for(n, TILE) + 1); }

int hyb_cluster_sort(const uint32_t *keys, size_t n, unsigned n_bits, const hyb_cluster_sorted buffers[2],
                     uint32_t *counts, hyb_cluster_sorted *sorted, void *stream) {
    const size_t n_tiles = hyb_blocks_for(n, TILE);
    uint32_t *totals = counts + RADIX * n_tiles;
    const uint32_t *values = nullptr;
    unsigned shift = 0;
    do {
        const hyb_cluster_sorted &to = buffers[shift / 8 % 2];
        HYB_LAUNCH(count_digits_kernel, (unsigned)n_tiles, THREADS, 0, stream, keys, n, shift, counts);
        HYB_LAUNCH(scan_digits_kernel, RADIX / WARPS, THREADS, 0, stream, counts, n_tiles, totals);
        HYB_LAUNCH(move_keys_kernel, (unsigned)n_tiles, THREADS, 0, stream, keys, values, n, shift, counts, totals,
                   to.keys, to.values);
        HYB_CUDA_TRY(cudaGetLastError());
        keys = to.keys;
        values = to.values;
        *sorted = to;
        shift += 8;
    } while (shift < n_bits);
    return 0;
}
