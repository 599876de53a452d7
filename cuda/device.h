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
    int wgmma; /* matmul_wgmma.cu: HYB_WGMMA_NOT_TRIED and so on */
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

/* Hands out parts of a block of memory, each aligned to 256; without memory it counts. */
class hyb_cuda_arena {
    char *memory_;
    size_t used_ = 0;

  public:
    explicit hyb_cuda_arena(void *memory) : memory_(static_cast<char *>(memory)) {}
    size_t used() const { return used_; }
    template <class T> void take(T *&part, size_t n) {
        part = memory_ != nullptr ? reinterpret_cast<T *>(memory_ + used_) : nullptr;
        used_ += (n * sizeof(T) + 255) / 256 * 256;
    }
};

/* Work memory in the parts that `layout(arena)` takes; it is called twice. */
template <class Layout> inline int hyb_cuda_lay_out(hyb_cuda_state *state, const Layout &layout) {
    hyb_cuda_arena counted(nullptr);
    layout(counted);
    void *memory = nullptr;
    HYB_CUDA_TRY(hyb_cuda_scratch(state, counted.used(), &memory));
    hyb_cuda_arena arena(memory);
    layout(arena);
    return 0;
}

/* ---- sizes of launches ---- */

#define HYB_WARP 32
#define HYB_FULL_MASK 0xffffffffu

inline size_t hyb_blocks_for(size_t n, size_t per_block) { return (n + per_block - 1) / per_block; }

/* As many blocks of a kernel that goes over its work in strides as there is work, or as the device holds at once. */
inline unsigned hyb_resident_blocks(const hyb_cuda_state *state, size_t n_blocks, size_t per_multiprocessor) {
    size_t most = (size_t)state->n_multiprocessors * per_multiprocessor;
    return (unsigned)(n_blocks < most ? n_blocks : most);
}

/* Whether addresses are multiples of 16, or one of n_bytes. */
template <class... P> __host__ __device__ __forceinline__ bool hyb_are_aligned(const P *...pointers) {
    return ((uintptr_t)0 | ... | reinterpret_cast<uintptr_t>(pointers)) % 16 == 0;
}

__device__ __forceinline__ bool hyb_is_aligned(const void *p, size_t n_bytes) {
    return reinterpret_cast<uintptr_t>(p) % n_bytes == 0;
}

/* ---- what threads find out together ---- */

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

__device__ __forceinline__ uint32_t hyb_max_warp(uint32_t value) { return __reduce_max_sync(HYB_FULL_MASK, value); }

/* Sum of a warp's values in all of its threads: neighbours 16 apart first, then 8, 4, 2, 1. */
template <class T> __device__ __forceinline__ T hyb_sum_warp(T value) {
    for (int width = 16; width > 0; width /= 2) value += __shfl_xor_sync(HYB_FULL_MASK, value, width);
    return value;
}

__device__ __forceinline__ int hyb_sum_warp(int value) { return __reduce_add_sync(HYB_FULL_MASK, value); }

/* Largest value of a block's threads, and their sum (warps in ascending order), in all of them. All threads call, whole
 * warps, 1024 at most. */
template <class T> static __device__ __forceinline__ T hyb_max_block(T value) {
    __shared__ T of_warp[32];
    value = hyb_max_warp(value);
    if (blockDim.x == HYB_WARP) return value;
    __syncthreads(); /* the last call's readers are done */
    if (threadIdx.x % HYB_WARP == 0) of_warp[threadIdx.x / HYB_WARP] = value;
    __syncthreads();
    for (unsigned w = 0; w < blockDim.x / HYB_WARP; ++w) value = of_warp[w] > value ? of_warp[w] : value;
    return value;
}

template <class T> static __device__ __forceinline__ T hyb_sum_block(T value) {
    __shared__ T of_warp[32];
    value = hyb_sum_warp(value);
    if (blockDim.x == HYB_WARP) return value;
    __syncthreads(); /* the last call's readers are done */
    if (threadIdx.x % HYB_WARP == 0) of_warp[threadIdx.x / HYB_WARP] = value;
    __syncthreads();
    value = of_warp[0];
    for (unsigned w = 1; w < blockDim.x / HYB_WARP; ++w) value += of_warp[w];
    return value;
}

/* ---- floats ---- */

#define HYB_INFINITE 0x7f800000u /* bits of infinity; of a magnitude that is not finite, these or more */

__device__ __forceinline__ uint32_t hyb_magnitude_bits(float value) { return __float_as_uint(value) & 0x7fffffffu; }

__device__ __forceinline__ bool hyb_is_finite(float value) { return hyb_magnitude_bits(value) < HYB_INFINITE; }

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
