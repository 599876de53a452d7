/* fours.h - fp32 vectors by groups of four, which are 16 bytes: one load or store, if they are aligned.
 */
#ifndef HYB_CUDA_FOURS_H
#define HYB_CUDA_FOURS_H

#include "device.h"

/* The most floats of a row that stay in shared memory: 64 KiB, which every processor has, three times on the large. Of
 * longer rows each sweep reads them again, from the level-2 cache as a rule. */
#define HYB_TILE ((size_t)16384)

struct alignas(16) hyb_four {
    float at[4];
};

/* Four values, zeros from n_left on. ALIGNED: p is a multiple of 16. */
template <bool ALIGNED> __device__ __forceinline__ hyb_four hyb_load_four(const float *p, size_t n_left) {
    if (ALIGNED && n_left >= 4) return *reinterpret_cast<const hyb_four *>(p);
    hyb_four values;
#pragma unroll
    for (int i = 0; i < 4; ++i) values.at[i] = (size_t)i < n_left ? p[i] : 0.0f;
    return values;
}

template <bool ALIGNED>
__device__ __forceinline__ void hyb_store_four(float *p, size_t n_left, const hyb_four &values) {
    if (ALIGNED && n_left >= 4) {
        *reinterpret_cast<hyb_four *>(p) = values;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if ((size_t)i < n_left) p[i] = values.at[i];
}

/* v[k] = the four values from x[4 (first + k step)] on, 0 behind the n: all loads are on their way before the first
 * result is needed. is_aligned: x is, to 16 bytes. */
template <int N>
__device__ __forceinline__ void hyb_load_fours(const float *x, size_t first, size_t step, size_t n, bool is_aligned,
                                               hyb_four (&v)[N]) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
        size_t i = 4 * (first + k * step);
        v[k] = {};
        if (is_aligned && i + 4 <= n) v[k] = *reinterpret_cast<const hyb_four *>(x + i);
    }
    if (is_aligned && 4 * (first + (N - 1) * step) + 4 <= n) return;
#pragma unroll
    for (int k = 0; k < N; ++k) {
        size_t i = 4 * (first + k * step);
        if (i < n && (!is_aligned || i + 4 > n)) v[k] = hyb_load_four<false>(x + i, n - i);
    }
}

/* Largest bit pattern of four magnitudes: HYB_INFINITE and above mean that an infinity or a NaN is there. */
__device__ __forceinline__ uint32_t hyb_max_bits(const hyb_four &v) {
    return max(max(hyb_magnitude_bits(v.at[0]), hyb_magnitude_bits(v.at[1])),
               max(hyb_magnitude_bits(v.at[2]), hyb_magnitude_bits(v.at[3])));
}

#endif /* HYB_CUDA_FOURS_H */
