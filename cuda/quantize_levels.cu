/* quantize_levels.cu - rounds vectors to 3 or 5 evenly spaced levels, floats to floats, as lib/ref/levels_ref.c says
 * it. One read and one write: memory is the limit.
 */
#include "device.h"

#define THREADS 256
#define VECTORS_PER_THREAD 4 /* of 16 bytes, on their way together */

namespace {

__device__ __forceinline__ float level(float x, float steps, float scale, bool *is_nan) {
    uint32_t bits = __float_as_uint(x), sign = bits & 0x80000000u;
    bits ^= sign;
    if (bits > HYB_INFINITE) *is_nan = true;
    if (bits > 0x3f800000u && bits <= HYB_INFINITE) bits = 0x3f800000u; /* above 1, infinity as well */
    float whole = (__uint_as_float(bits) * steps + 0x1p23f) - 0x1p23f;
    return __uint_as_float(__float_as_uint(whole) | sign) * (1.0f / steps) * scale;
}

__device__ __forceinline__ double level(double x, double steps, double scale, bool *is_nan) {
    const uint64_t one = (uint64_t)0x3ff << 52, infinity = (uint64_t)0x7ff << 52;
    uint64_t bits = (uint64_t)__double_as_longlong(x), sign = bits & (uint64_t)1 << 63;
    bits ^= sign;
    if (bits > infinity) *is_nan = true;
    if (bits > one && bits <= infinity) bits = one;
    double whole = (__longlong_as_double((long long)bits) * steps + 0x1p52) - 0x1p52;
    return __longlong_as_double(__double_as_longlong(whole) | (long long)sign) * (1.0 / steps) * scale;
}

/* Vector: T by sixteen bytes. x may be out. */
template <class T, class Vector>
__global__ void __launch_bounds__(THREADS)
    levels_kernel(const T *x, size_t n, T steps, T scale, T *out, volatile int *not_finite) {
    constexpr size_t WIDTH = sizeof(Vector) / sizeof(T);
    bool is_aligned = hyb_is_aligned(x, 16) && hyb_is_aligned(out, 16), is_nan = false;
    size_t first = (size_t)blockIdx.x * (THREADS * VECTORS_PER_THREAD) + threadIdx.x;
    T v[VECTORS_PER_THREAD][WIDTH];
#pragma unroll
    for (size_t k = 0; k < VECTORS_PER_THREAD; ++k) {
        size_t i = (first + k * THREADS) * WIDTH;
        if (is_aligned && i + WIDTH <= n)
            *reinterpret_cast<Vector *>(v[k]) = *reinterpret_cast<const Vector *>(x + i);
        else
            for (size_t j = 0; j < WIDTH; ++j) v[k][j] = i + j < n ? x[i + j] : T(0);
    }
#pragma unroll
    for (size_t k = 0; k < VECTORS_PER_THREAD; ++k) {
        size_t i = (first + k * THREADS) * WIDTH;
        for (size_t j = 0; j < WIDTH; ++j) v[k][j] = level(v[k][j], steps, scale, &is_nan);
        if (is_aligned && i + WIDTH <= n)
            *reinterpret_cast<Vector *>(out + i) = *reinterpret_cast<const Vector *>(v[k]);
        else
            for (size_t j = 0; j < WIDTH; ++j)
                if (i + j < n) out[i + j] = v[k][j];
    }
    if (is_nan) *not_finite = 1;
}

template <class T, class Vector>
int launch(hyb_cuda_state *state, int32_t levels, T scale, size_t n, const T *x, T *out, void *stream) {
    auto kernel = levels_kernel<T, Vector>;
    T steps = levels == 5 ? T(2) : T(1); /* of |value| = 1 */
    volatile int *not_finite = state->not_finite;
    HYB_LAUNCH(kernel, (unsigned)hyb_blocks_for(n, THREADS * VECTORS_PER_THREAD * sizeof(Vector) / sizeof(T)), THREADS,
               0, stream, x, n, steps, scale, out, not_finite);
    return (int)cudaGetLastError();
}

} // namespace

int hyb_module_quantize_levels_f32(hyb_cuda_state *state, int32_t levels, float scale, size_t n, const float *x,
                                   float *out, void *stream) {
    HYB_CUDA_BEGIN(state);
    return launch<float, float4>(state, levels, scale, n, x, out, stream);
}

int hyb_module_quantize_levels_f64(hyb_cuda_state *state, int32_t levels, double scale, size_t n, const double *x,
                                   double *out, void *stream) {
    HYB_CUDA_BEGIN(state);
    return launch<double, double2>(state, levels, scale, n, x, out, stream);
}
