/* device.h - what every .cu file begins with: launches that the emulation understands too, error checks, the state of a
 * device, and the arithmetic that kernels of several files share.
 *
 * Floats obey the library's numerics contract (lib/kernels.h): sums over 16 virtual lanes, no fused multiply-add
 * (-fmad=false), IEEE division and square root, no flush to zero: the same bits as on a CPU.
 */
#ifndef HYB_CUDA_DEVICE_H
#define HYB_CUDA_DEVICE_H

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "module.h"

#ifdef __CUDACC__
#define HYB_EMULATED 0
#define HYB_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                     \
    (kernel)<<<(grid), (block), (shared_bytes), (cudaStream_t)(stream)>>>(__VA_ARGS__)
#define HYB_DYNAMIC_SHARED(type, name)                                                                                 \
    extern __shared__ __align__(16) unsigned char hyb_dynamic_shared[];                                                \
    type *name = reinterpret_cast<type *>(hyb_dynamic_shared)
#else
#define HYB_EMULATED 1
#define HYB_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                     \
    hyb_emulation::launch((grid), (block), (shared_bytes), (stream), [=] { (kernel)(__VA_ARGS__); })
#define HYB_DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(hyb_emulation::dynamic_shared.data())
#endif

/* The table's functions, each in the .cu file that module.h names. */
#define HYB_CUDA_DECLARE(name, arguments) int hyb_module_##name arguments;
HYB_CUDA_FUNCTIONS(HYB_CUDA_DECLARE)
#undef HYB_CUDA_DECLARE

/* Returns an error of CUDA, or of a function of this module. */
#define HYB_CUDA_TRY(expression)                                                                                       \
    do {                                                                                                               \
        int hyb_cuda_error = (int)(expression);                                                                        \
        if (hyb_cuda_error != 0) return hyb_cuda_error;                                                                \
    } while (0)

struct hyb_cuda_state {
    int device;
    int n_multiprocessors;
    int capability; /* 90 for 9.0 */
    size_t l2_bytes;
    /* Host memory that kernels see: set to 1 where one meets a NaN or an infinity. */
    volatile int *not_finite;
    volatile int *malformed; /* the same where bytes or codes are not of their packing */
    void *scratch;           /* grow-only work memory of one call */
    size_t scratch_bytes;
    cudaEvent_t timer[2];       /* made by the first timer_start */
    struct hyb_cuda_blas *blas; /* gemm.cu: cuBLAS, or nullptr where it is not there, or not needed yet */
    bool has_tried_blas;
};

/* Makes the state's device the current one as long as it lives. */
class hyb_device_scope {
    int before_, error_;

  public:
    explicit hyb_device_scope(const hyb_cuda_state *state) : before_(state->device), error_(0) {
        error_ = cudaGetDevice(&before_);
        if (error_ == 0 && before_ != state->device) error_ = cudaSetDevice(state->device);
    }
    ~hyb_device_scope() { cudaSetDevice(before_); }
    hyb_device_scope(const hyb_device_scope &) = delete;
    hyb_device_scope &operator=(const hyb_device_scope &) = delete;
    int error() const { return error_; }
};

/* First line of every function of the table that works on a device. */
#define HYB_CUDA_BEGIN(state)                                                                                          \
    hyb_device_scope hyb_scope(state);                                                                                 \
    HYB_CUDA_TRY(hyb_scope.error())

/* Work memory of at least n_bytes, aligned to 256; what it holds is lost with the next call. It grows by waiting for
 * the device: not while a graph is captured. */
int hyb_cuda_scratch(hyb_cuda_state *state, size_t n_bytes, void **memory);

inline size_t hyb_blocks_for(size_t n, size_t per_block) { return (n + per_block - 1) / per_block; }

#define HYB_WARP 32
#define HYB_FULL_MASK 0xffffffffu

/* ---- the contract's arithmetic ---- */

/* lanes[l] += lanes[l + 8], 4, 2, 1: the sum of 16 neighbouring threads' values, in the first of them. `mask`: threads
 * of the warp that take part, whole sixteens. */
template <class T> __device__ __forceinline__ T hyb_sum_16_lanes(T value, unsigned mask = HYB_FULL_MASK) {
    for (int width = 8; width > 0; width /= 2) value += __shfl_down_sync(mask, value, (unsigned)width, 16);
    return value;
}

/* Largest value of a warp's threads, in all of them. */
template <class T> __device__ __forceinline__ T hyb_max_warp(T value) {
    for (int width = 16; width > 0; width /= 2) {
        T other = __shfl_xor_sync(HYB_FULL_MASK, value, width);
        value = other > value ? other : value;
    }
    return value;
}

/* Sum of a warp's values in all of its threads; for integers, whose order does not matter. */
template <class T> __device__ __forceinline__ T hyb_sum_warp(T value) {
    for (int width = 16; width > 0; width /= 2) value += __shfl_xor_sync(HYB_FULL_MASK, value, width);
    return value;
}

/* 4 products of unsigned bytes of a and signed bytes of b, added to c. */
__device__ __forceinline__ int hyb_dp4a_us(uint32_t a, uint32_t b, int c) {
#if HYB_EMULATED
    for (int i = 0; i < 4; ++i) c += (int)(a >> (8 * i) & 255) * (int)(int8_t)(b >> (8 * i));
    return c;
#else
    int sum;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
#endif
}

/* Adding and subtracting 1.5 * 2^23 rounds a float of magnitude below 2^22 to an integer, ties to even. */
#define HYB_ROUND_MAGIC 12582912.0f

/* round_half_even(clamp(v, -127, 127)) as lib/ref/quantize_ref.c has it. */
__device__ __forceinline__ int hyb_round_i8(float v) {
    v = v > 127.0f ? 127.0f : v;
    v = v < -127.0f ? -127.0f : v;
    return (int)((v + HYB_ROUND_MAGIC) - HYB_ROUND_MAGIC);
}

/* The library's exp (lib/kernels.h). */
__device__ __forceinline__ float hyb_exp_device(float x) {
    x = -87.33654f > x ? -87.33654f : x;
    x = 88.72283f < x ? 88.72283f : x;
    float shifted = x * 1.44269504f + HYB_ROUND_MAGIC;
    float n = shifted - HYB_ROUND_MAGIC;
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float t = p * (r * r);
    t = t + r;
    t = t + 1.0f;
    /* The low bits of `shifted` hold n; 2^128 is no float, so n = 128 goes in two exact steps. */
    float last = n > 127.0f ? 2.0f : 1.0f;
    uint32_t exponent = __float_as_uint(shifted) - 0x4b400000u + 127u - (n > 127.0f);
    return t * __uint_as_float(exponent << 23) * last;
}

#endif /* HYB_CUDA_DEVICE_H */
