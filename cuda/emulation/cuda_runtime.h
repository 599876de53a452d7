/* cuda_runtime.h (emulation) - as much of CUDA as the .cu files of this folder use, on the CPU: a C++ compiler makes of
 * them a module that runs everywhere. For tests of the kernels' logic; it says nothing about speed.
 *
 * A block runs at a time, each of its threads as a fibre. Barriers and exchanges within a warp give way to the others,
 * so that a barrier that some threads miss, or an exchange that some lanes of its mask do not take part in, ends the
 * program with a message. Shared memory is static memory, and device memory comes from the allocator: the address
 * sanitizer finds what lies outside. Fibres run in ascending, descending or shuffled order (HYB_EMULATION_ORDER): where
 * a barrier is missing, the results differ.
 *
 * HYB_EMULATION_BYTES limits device memory, HYB_EMULATION_DEVICES=0 takes the device away.
 */
#ifndef HYB_EMULATION_CUDA_RUNTIME_H
#define HYB_EMULATION_CUDA_RUNTIME_H

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __shared__ static
#define __constant__ static
#define __launch_bounds__(...)
#define warpSize 32

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

#define HYB_EMULATE_VECTORS(type, name)                                                                                \
    struct alignas(2 * sizeof(type)) name##2 {                                                                         \
        type x, y;                                                                                                     \
    };                                                                                                                 \
    struct name##3 {                                                                                                   \
        type x, y, z;                                                                                                  \
    };                                                                                                                 \
    struct alignas(sizeof(type) < 8 ? 4 * sizeof(type) : 16) name##4 {                                                 \
        type x, y, z, w;                                                                                               \
    };                                                                                                                 \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                                   \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                        \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
HYB_EMULATE_VECTORS(int8_t, char)
HYB_EMULATE_VECTORS(uint8_t, uchar)
HYB_EMULATE_VECTORS(int16_t, short)
HYB_EMULATE_VECTORS(int32_t, int)
HYB_EMULATE_VECTORS(uint32_t, uint)
HYB_EMULATE_VECTORS(float, float)
HYB_EMULATE_VECTORS(double, double)
HYB_EMULATE_VECTORS(long long, longlong)
HYB_EMULATE_VECTORS(unsigned long long, ulonglong)
#undef HYB_EMULATE_VECTORS

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

#include "fibers.h"

/* ---- the host's side ---- */

typedef int cudaError_t;
enum : int {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount, l2CacheSize;
};

namespace hyb_emulation {

typedef std::vector<std::function<void()>> Graph;
struct Stream {
    Graph *capture = nullptr;
};

inline Stream default_stream;
inline cudaError_t last_error = cudaSuccess;
inline std::map<void *, size_t> allocations;
inline size_t allocated;

inline int n_devices() {
    const char *text = std::getenv("HYB_EMULATION_DEVICES");
    return text != nullptr ? std::atoi(text) : 1;
}

inline size_t memory_limit() {
    const char *text = std::getenv("HYB_EMULATION_BYTES");
    return text != nullptr ? std::strtoull(text, nullptr, 10) : (size_t)4 << 30;
}

inline cudaError_t result(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

/* Streams 0, 1 and 2 are CUDA's names for defaults. */
inline Stream &stream_of(const void *stream) {
    return (uintptr_t)stream <= 2 ? default_stream : *(Stream *)const_cast<void *>(stream);
}

inline void submit(const void *stream, std::function<void()> work) {
    Stream &s = stream_of(stream);
    if (s.capture != nullptr)
        s.capture->push_back(std::move(work));
    else
        work();
}

template <class Kernel>
inline void launch(dim3 grid, dim3 block, size_t shared_bytes, const void *stream, Kernel kernel) {
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (threads == 0 || threads > 1024 || grid.x == 0 || grid.x > 0x7fffffffu || grid.y == 0 || grid.y > 65535 ||
        grid.z == 0 || grid.z > 65535 || shared_bytes > 227 << 10) {
        result(cudaErrorInvalidConfiguration);
        return;
    }
    submit(stream, [=] {
        std::lock_guard<std::recursive_mutex> lock(running);
        gridDim = grid;
        blockDim = block;
        n_threads = (unsigned)threads;
        if (fibers.size() < n_threads) fibers.resize(n_threads);
        std::vector<char>(shared_bytes + 16).swap(dynamic_shared); /* of this size exactly: what is beyond is found */
        body = kernel;
        for (unsigned z = 0; z < grid.z; ++z)
            for (unsigned y = 0; y < grid.y; ++y)
                for (unsigned x = 0; x < grid.x; ++x) {
                    blockIdx = dim3(x, y, z);
                    run_block();
                }
    });
}

} // namespace hyb_emulation

typedef hyb_emulation::Stream *cudaStream_t;
typedef hyb_emulation::Graph *cudaGraph_t;
typedef hyb_emulation::Graph *cudaGraphExec_t;
typedef std::chrono::steady_clock::time_point *cudaEvent_t;

inline const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    default:
        return "invalid argument";
    }
}
inline cudaError_t cudaGetLastError() {
    cudaError_t error = hyb_emulation::last_error;
    hyb_emulation::last_error = cudaSuccess;
    return error;
}
inline cudaError_t cudaPeekAtLastError() { return hyb_emulation::last_error; }
inline cudaError_t cudaGetDeviceCount(int *n) {
    *n = hyb_emulation::n_devices();
    return *n > 0 ? cudaSuccess : hyb_emulation::result(cudaErrorNoDevice);
}
inline cudaError_t cudaSetDevice(int device) {
    return device >= 0 && device < hyb_emulation::n_devices() ? cudaSuccess
                                                              : hyb_emulation::result(cudaErrorInvalidDevice);
}
inline cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    std::memset(p, 0, sizeof *p);
    std::strcpy(p->name, "CPU emulation");
    p->totalGlobalMem = hyb_emulation::memory_limit();
    p->major = 8;
    p->multiProcessorCount = 4;
    p->l2CacheSize = 1 << 20;
    return cudaSetDevice(device);
}
inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : 227 << 10;
    return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int *version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaMemGetInfo(size_t *n_free, size_t *total) {
    *total = hyb_emulation::memory_limit();
    *n_free = *total - std::min(*total, hyb_emulation::allocated);
    return cudaSuccess;
}
inline cudaError_t cudaMalloc(void **memory, size_t n_bytes) {
    using namespace hyb_emulation;
    std::lock_guard<std::recursive_mutex> lock(running);
    *memory = nullptr;
    if (n_bytes == 0) return cudaSuccess;
    if (n_bytes > memory_limit() - std::min(memory_limit(), allocated) || posix_memalign(memory, 256, n_bytes) != 0)
        return result(cudaErrorMemoryAllocation);
    std::memset(*memory, 0xcd, n_bytes); /* device memory begins with anything */
    allocations[*memory] = n_bytes;
    allocated += n_bytes;
    return cudaSuccess;
}
inline cudaError_t cudaFree(void *memory) {
    using namespace hyb_emulation;
    std::lock_guard<std::recursive_mutex> lock(running);
    if (memory == nullptr) return cudaSuccess;
    auto found = allocations.find(memory);
    if (found == allocations.end()) return result(cudaErrorInvalidValue);
    allocated -= found->second;
    allocations.erase(found);
    std::free(memory);
    return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void **memory, size_t n_bytes) {
    return posix_memalign(memory, 256, n_bytes + (n_bytes == 0)) == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFreeHost(void *memory) {
    std::free(memory);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind,
                                   cudaStream_t stream = nullptr) {
    hyb_emulation::submit(stream, [=] {
        if (n != 0) std::memcpy(to, from, n);
    });
    return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind) {
    return cudaMemcpyAsync(to, from, n, kind);
}
inline cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t stream = nullptr) {
    hyb_emulation::submit(stream, [=] {
        if (n != 0) std::memset(to, value, n);
    });
    return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = new hyb_emulation::Stream;
    return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = new std::chrono::steady_clock::time_point;
    return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    *event = std::chrono::steady_clock::now();
    return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t first, cudaEvent_t second) {
    *ms = std::chrono::duration<float, std::milli>(*second - *first).count();
    return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    hyb_emulation::stream_of(stream).capture = new hyb_emulation::Graph;
    return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    bool is_active = hyb_emulation::stream_of(stream).capture != nullptr;
    *status = is_active ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = hyb_emulation::stream_of(stream).capture;
    hyb_emulation::stream_of(stream).capture = nullptr;
    return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new hyb_emulation::Graph(*graph);
    return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    for (const auto &work : *exec) hyb_emulation::submit(stream, work);
    return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
template <class Kernel> inline cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) { return cudaSuccess; }
template <class Kernel> inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, Kernel, int, size_t) {
    *n = 2;
    return cudaSuccess;
}
#include "device_functions.h"

#endif /* HYB_EMULATION_CUDA_RUNTIME_H */
