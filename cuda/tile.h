/* tile.h - what kernels over fp32 matrices share: reading floats by fours, several of them on their way at once.
 */
#ifndef HYB_CUDA_TILE_H
#define HYB_CUDA_TILE_H

#include "device.h"

/* The most floats of a row that stay in shared memory: 64 KiB, which every processor has, three times on the large. Of
 * longer rows each sweep reads them again, from the level-2 cache as a rule. */
#define HYB_TILE ((size_t)16384)

__device__ __forceinline__ bool hyb_is_aligned(const void *p, size_t n_bytes) {
    return reinterpret_cast<uintptr_t>(p) % n_bytes == 0;
}

/* Up to four floats from x[i] on; 0 behind the n. */
__device__ __forceinline__ float4 hyb_load_part(const float *x, size_t i, size_t n) {
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (i < n) v.x = x[i];
    if (i + 1 < n) v.y = x[i + 1];
    if (i + 2 < n) v.z = x[i + 2];
    if (i + 3 < n) v.w = x[i + 3];
    return v;
}

/* v[k] = the four floats from x[4 (first + k step)] on, 0 behind the n: all loads are on their way before the first
 * result is needed. is_aligned: x is, to 16 bytes. */
template <int N>
__device__ __forceinline__ void hyb_load_fours(const float *x, size_t first, size_t step, size_t n, bool is_aligned,
                                               float4 (&v)[N]) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
        size_t i = 4 * (first + k * step);
        v[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (is_aligned && i + 4 <= n) v[k] = *reinterpret_cast<const float4 *>(x + i);
    }
    if (is_aligned && 4 * (first + (N - 1) * step) + 4 <= n) return;
#pragma unroll
    for (int k = 0; k < N; ++k) {
        size_t i = 4 * (first + k * step);
        if (!is_aligned || (i < n && i + 4 > n)) v[k] = hyb_load_part(x, i, n);
    }
}

/* Largest bit pattern of four magnitudes: 0x7f800000 and above mean that an infinity or a NaN is there. */
__device__ __forceinline__ uint32_t hyb_max_bits(float4 v) {
    uint32_t a = __float_as_uint(v.x) & 0x7fffffffu, b = __float_as_uint(v.y) & 0x7fffffffu;
    uint32_t c = __float_as_uint(v.z) & 0x7fffffffu, d = __float_as_uint(v.w) & 0x7fffffffu;
    return max(max(a, b), max(c, d));
}

#endif /* HYB_CUDA_TILE_H */
