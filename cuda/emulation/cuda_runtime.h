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

/* ---- fibres ---- */

namespace hyb_emulation {

constexpr size_t STACK_BYTES = 64 << 10;

/* ---- where a fibre is: a stack and what it will go on with ---- */

#if defined(__x86_64__)
typedef void *Place; /* top of its stack: the address to go on at, then the registers that calls preserve */

/* Ten times as fast as swapcontext, which asks the system for the signal mask each time. 128 bytes below the stack
 * pointer belong to the function that runs. */
__attribute__((noinline)) inline void switch_to(Place *from, Place *to) {
    asm volatile("leaq -128(%%rsp), %%rsp\n\t"
                 "pushq %%rbp\n\tpushq %%rbx\n\tpushq %%r12\n\tpushq %%r13\n\tpushq %%r14\n\tpushq %%r15\n\t"
                 "leaq 1f(%%rip), %%rax\n\tpushq %%rax\n\t"
                 "movq %%rsp, (%%rdi)\n\tmovq (%%rsi), %%rsp\n\tret\n"
                 "1:\n\t"
                 "popq %%r15\n\tpopq %%r14\n\tpopq %%r13\n\tpopq %%r12\n\tpopq %%rbx\n\tpopq %%rbp\n\t"
                 "leaq 128(%%rsp), %%rsp"
                 : "+D"(from), "+S"(to)
                 :
                 : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
                   "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory",
                   "cc");
}

inline void begin_at(Place *place, char *stack, void (*function)()) {
    uintptr_t top = ((uintptr_t)stack + STACK_BYTES) & ~(uintptr_t)15;
    void **frame = (void **)(top - 16); /* a function begins 8 bytes below a multiple of 16 */
    frame[0] = (void *)function;
    *place = frame;
}
#else
typedef ucontext_t Place;

inline void switch_to(Place *from, Place *to) { swapcontext(from, to); }

inline void begin_at(Place *place, char *stack, void (*function)()) {
    getcontext(place);
    place->uc_stack.ss_sp = stack;
    place->uc_stack.ss_size = STACK_BYTES;
    place->uc_link = nullptr;
    makecontext(place, function, 0);
}
#endif

enum Wait { RUNNING, AT_BLOCK_BARRIER, AT_WARP_BARRIER, AT_WARPGROUP_BARRIER };

struct Copy {
    void *to;
    const void *from; /* null: clear */
    size_t n;
    unsigned group;
};

/* A warpgroup's product, as one of its threads sees it. */
struct Product {
    int *sums;
    std::vector<int> added;
    const int8_t *watched[2]; /* 16 bytes each of its right operand, and what they were */
    int8_t seen[32];
    unsigned group;
};

struct Fiber {
    Place place;
    std::vector<char> stack;
    bool done = false;
    Wait wait = RUNNING;
    unsigned mask = 0; /* lanes that it waits for */
    uint64_t given = 0;
    std::vector<Copy> copies; /* asynchronous ones that nobody waited for yet */
    unsigned n_groups = 0;
    uint32_t fragment[6];          /* its part of a matrix product's operands */
    std::vector<Product> products; /* asynchronous ones that nobody waited for yet */
    unsigned n_product_groups = 0;
    bool has_hidden_copies = false; /* arrived, but not shown to asynchronous products */
    bool is_fenced = false;         /* its registers are, for them */
};

inline std::vector<Fiber> fibers;
inline Place scheduler;
inline unsigned current, n_threads;
inline std::function<void()> body;
inline std::vector<char> dynamic_shared;
inline std::recursive_mutex running;

[[noreturn]] inline void stop(const char *problem) {
    std::fprintf(stderr, "CUDA emulation: %s (block %u %u %u, thread %u %u %u)\n", problem, blockIdx.x, blockIdx.y,
                 blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    std::abort();
}

inline void enter(unsigned thread) {
    current = thread;
    threadIdx = dim3(thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y));
}

inline void fiber_main() {
    body();
    fibers[current].done = true;
    switch_to(&fibers[current].place, &scheduler);
}

inline void give_way(Wait wait, unsigned mask = 0) {
    Fiber &fiber = fibers[current];
    fiber.wait = wait;
    fiber.mask = mask;
    switch_to(&fiber.place, &scheduler);
}

inline void start(Fiber &fiber) {
    if (fiber.stack.empty()) fiber.stack.resize(STACK_BYTES);
    fiber.done = false;
    fiber.wait = RUNNING;
    fiber.copies.clear();
    fiber.n_groups = 0;
    fiber.products.clear();
    fiber.n_product_groups = 0;
    fiber.has_hidden_copies = fiber.is_fenced = false;
    begin_at(&fiber.place, fiber.stack.data(), fiber_main);
}

/* The order in which the threads of a warp, and the warps of a block, get their turn. */
inline const std::vector<unsigned> &order() {
    static std::vector<unsigned> places;
    if (places.size() == n_threads) return places;
    places.resize(n_threads);
    for (unsigned i = 0; i < n_threads; ++i) places[i] = i;
    const char *name = std::getenv("HYB_EMULATION_ORDER");
    if (name != nullptr && std::strcmp(name, "descending") == 0) std::reverse(places.begin(), places.end());
    if (name != nullptr && std::strcmp(name, "shuffled") == 0)
        for (unsigned i = n_threads; i > 1; --i) std::swap(places[i - 1], places[(i * 2654435761u >> 8) % i]);
    return places;
}

/* Lets the warps go on whose lanes have all arrived. */
inline bool release_warps() {
    bool released = false;
    for (unsigned first = 0; first < n_threads; first += 32)
        for (unsigned i = first; i < std::min(first + 32, n_threads); ++i) {
            if (fibers[i].done || fibers[i].wait != AT_WARP_BARRIER) continue;
            unsigned mask = fibers[i].mask, arrived = 0;
            for (unsigned lane = 0; lane < 32 && first + lane < n_threads; ++lane) {
                const Fiber &other = fibers[first + lane];
                if (!other.done && other.wait == AT_WARP_BARRIER && other.mask == mask) arrived |= 1u << lane;
            }
            if (!(mask >> (i - first) & 1)) stop("a lane is not in the mask of its own exchange");
            if ((arrived & mask) != mask) continue;
            for (unsigned lane = 0; lane < 32; ++lane)
                if (mask >> lane & 1) fibers[first + lane].wait = RUNNING;
            released = true;
        }
    return released;
}

/* Lets the warpgroups go on of which all 128 threads have arrived. */
inline bool release_warpgroups() {
    bool released = false;
    for (unsigned first = 0; first + 128 <= n_threads; first += 128) {
        unsigned n_arrived = 0;
        for (unsigned i = first; i < first + 128; ++i)
            n_arrived += !fibers[i].done && fibers[i].wait == AT_WARPGROUP_BARRIER;
        if (n_arrived != 128) continue;
        for (unsigned i = first; i < first + 128; ++i) fibers[i].wait = RUNNING;
        released = true;
    }
    return released;
}

inline bool release_block() {
    for (unsigned i = 0; i < n_threads; ++i)
        if (!fibers[i].done && fibers[i].wait != AT_BLOCK_BARRIER) return false;
    for (unsigned i = 0; i < n_threads; ++i) fibers[i].wait = RUNNING;
    return true;
}

inline void run_block() {
    for (unsigned i = 0; i < n_threads; ++i) start(fibers[i]);
    for (;;) {
        bool all_done = true;
        for (unsigned i : order()) {
            if (fibers[i].done) continue;
            all_done = false;
            if (fibers[i].wait != RUNNING) continue;
            enter(i);
            switch_to(&scheduler, &fibers[i].place);
            /* A warpgroup goes on as soon as it may, ahead of the others. */
            if (fibers[i].wait == AT_WARPGROUP_BARRIER && release_warpgroups()) break;
        }
        if (all_done) return;
        if (!release_warps() && !release_warpgroups() && !release_block()) {
            for (unsigned i = 0; i < n_threads; ++i)
                if (!fibers[i].done && fibers[i].wait == RUNNING) goto next;
            stop("some threads wait for others that do not come");
        }
    next:;
    }
}

/* What every lane gave, as bytes; the exchange of a warp. */
template <class T> inline T exchange(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= 8, "lanes exchange 8 bytes at most");
    unsigned first = current & ~31u, me = current;
    std::memcpy(&fibers[me].given, &value, sizeof value);
    give_way(AT_WARP_BARRIER, mask);
    T result = value;
    if (source < 32) {
        if (!(mask >> source & 1)) stop("an exchange reads a lane outside its mask");
        std::memcpy(&result, &fibers[first + source].given, sizeof result);
    }
    give_way(AT_WARP_BARRIER, mask);
    return result;
}

/* Asynchronous copies of a thread happen when it waits for them: as late as they may. */
inline void copy_async(void *to, const void *from, size_t n) {
    fibers[current].copies.push_back({to, from, n, fibers[current].n_groups});
}

inline void commit_copies() { ++fibers[current].n_groups; }

inline void wait_copies(unsigned n_pending) {
    Fiber &fiber = fibers[current];
    auto copy = fiber.copies.begin();
    for (; copy != fiber.copies.end() && copy->group + n_pending < fiber.n_groups; ++copy) {
        if (copy->from != nullptr)
            std::memcpy(copy->to, copy->from, copy->n);
        else
            std::memset(copy->to, 0, copy->n);
        fiber.has_hidden_copies = true;
    }
    fiber.copies.erase(fiber.copies.begin(), copy);
}

/* mma.m16n8k32 of int8 (PTX ISA, "Matrix Fragments for mma.m16n8k32"): byte i of a word is k = 4 (lane % 4) + i, and
 * 16 more in a[2], a[3], b[1]. */
inline void mma_m16n8k32_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    unsigned first = current & ~31u, lane = current & 31;
    std::memcpy(fibers[current].fragment, a, sizeof a);
    std::memcpy(fibers[current].fragment + 4, b, sizeof b);
    give_way(AT_WARP_BARRIER, ~0u);
    for (unsigned i = 0; i < 4; ++i) {
        unsigned group = lane / 4, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 32; ++k) {
            const Fiber &left = fibers[first + 4 * group + k % 16 / 4],
                        &right = fibers[first + 4 * column + k % 16 / 4];
            uint32_t x = left.fragment[k / 16 * 2 + i / 2], y = right.fragment[4 + k / 16];
            c[i] += (int8_t)(x >> (k % 4 * 8)) * (int8_t)(y >> (k % 4 * 8));
        }
    }
    give_way(AT_WARP_BARRIER, ~0u);
}

/* ---- wgmma ---- */

/* Descriptors have 18 bits of an address: the others are those of the last one that was asked for. */
inline const char *last_shared;

inline uint32_t shared_address(const void *p) {
    last_shared = (const char *)p;
    return (uint32_t)(uintptr_t)p & 0x3ffffu;
}

inline const int8_t *of_shared_address(uint32_t address) {
    int32_t difference = (int32_t)((address - (uint32_t)(uintptr_t)last_shared) << 14) >> 14;
    return (const int8_t *)last_shared + difference;
}

inline void show_copies() { fibers[current].has_hidden_copies = false; }

inline void fence_products() { fibers[current].is_fenced = true; }

inline void commit_products() { ++fibers[current].n_product_groups; }

/* 16 bytes, k 16 * k16 .., of a column of the right operand, which lies in core matrices of 8 columns by 16 bytes. */
inline const int8_t *wgmma_column(uint64_t descriptor, unsigned column, unsigned k16) {
    uint32_t start = (uint32_t)(descriptor & 0x3fff) << 4, along_k = (uint32_t)(descriptor >> 16 & 0x3fff) << 4;
    uint32_t along_columns = (uint32_t)(descriptor >> 32 & 0x3fff) << 4;
    if (descriptor >> 62 != 0) stop("swizzled operands are not emulated");
    return of_shared_address(start) + k16 * along_k + column / 8 * along_columns + column % 8 * 16;
}

/* wgmma.mma_async.m64nNk32 of int8 (PTX ISA, "Register Fragments and Shared Memory Matrix Layouts"): the left operand
 * is in registers, a warp's 16 rows as in mma.m16n8k32. The right one is read now, which is as early as it may be, the
 * sums are changed by the wait, which is as late; until then the right one must not change. */
template <size_t N> inline void wgmma_m64k32_s8(int (&c)[N][4], const uint32_t (&a)[4], uint64_t descriptor) {
    unsigned first = current & ~31u, lane = current & 31;
    Fiber &fiber = fibers[current];
    if (!fiber.is_fenced) stop("a product whose registers are not fenced");
    std::memcpy(fiber.fragment, a, sizeof a);
    give_way(AT_WARPGROUP_BARRIER);
    for (unsigned i = 0; i < n_threads; ++i)
        if (fibers[i].has_hidden_copies) stop("a product that may not see what was copied");
    Product product;
    product.sums = &c[0][0];
    product.group = fiber.n_product_groups;
    for (unsigned i = 0; i < 4 * N; ++i) {
        unsigned row = lane / 4, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        int sum = 0;
        for (unsigned k16 = 0; k16 < 2; ++k16) {
            const int8_t *right = wgmma_column(descriptor, column, k16);
            for (unsigned k = 0; k < 16; ++k) {
                uint32_t left = fibers[first + 4 * row + k / 4].fragment[k16 * 2 + i % 4 / 2];
                sum += (int8_t)(left >> (k % 4 * 8)) * right[k];
            }
        }
        product.added.push_back(sum);
    }
    for (unsigned k16 = 0; k16 < 2; ++k16) {
        product.watched[k16] = wgmma_column(descriptor, current % (8 * N), k16);
        std::memcpy(product.seen + 16 * k16, product.watched[k16], 16);
    }
    fiber.products.push_back(product);
    give_way(AT_WARPGROUP_BARRIER);
}

inline void wait_products(unsigned n_pending) {
    Fiber &fiber = fibers[current];
    auto product = fiber.products.begin();
    for (; product != fiber.products.end() && product->group + n_pending < fiber.n_product_groups; ++product) {
        for (unsigned k16 = 0; k16 < 2; ++k16)
            if (std::memcmp(product->watched[k16], product->seen + 16 * k16, 16) != 0)
                stop("shared memory changed while a product read it");
        for (size_t i = 0; i < product->added.size(); ++i) product->sums[i] += product->added[i];
    }
    fiber.products.erase(fiber.products.begin(), product);
    fiber.is_fenced = false;
}

} // namespace hyb_emulation

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

/* ---- the device's side ---- */

inline void __syncthreads() { hyb_emulation::give_way(hyb_emulation::AT_BLOCK_BARRIER); }
inline void __syncwarp(unsigned mask = ~0u) { hyb_emulation::give_way(hyb_emulation::AT_WARP_BARRIER, mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline unsigned __activemask() { return ~0u; }

template <class T> inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int lane = (int)(hyb_emulation::current & 31);
    return hyb_emulation::exchange(mask, value, (unsigned)((lane & ~(width - 1)) + (source & (width - 1))));
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int lane = (int)(hyb_emulation::current & 31), source = lane ^ bits;
    return hyb_emulation::exchange(mask, value, (source & ~(width - 1)) <= lane ? (unsigned)source : 32u);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = (int)(hyb_emulation::current & 31), source = lane + (int)delta;
    return hyb_emulation::exchange(mask, value, (source ^ lane) < width && source < 32 ? (unsigned)source : 32u);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = (int)(hyb_emulation::current & 31), source = lane - (int)delta;
    return hyb_emulation::exchange(mask, value, source >= (lane & ~(width - 1)) ? (unsigned)source : 32u);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned votes = 0, first = hyb_emulation::current & ~31u;
    hyb_emulation::fibers[hyb_emulation::current].given = predicate != 0;
    hyb_emulation::give_way(hyb_emulation::AT_WARP_BARRIER, mask);
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) votes |= (unsigned)hyb_emulation::fibers[first + lane].given << lane;
    hyb_emulation::give_way(hyb_emulation::AT_WARP_BARRIER, mask);
    return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <class T, class Combine> inline T hyb_reduce_warp(unsigned mask, T value, Combine combine) {
    unsigned first = hyb_emulation::current & ~31u;
    T result = value;
    hyb_emulation::fibers[hyb_emulation::current].given = (uint64_t)(uint32_t)value;
    hyb_emulation::give_way(hyb_emulation::AT_WARP_BARRIER, mask);
    for (unsigned lane = 0; lane < 32; ++lane)
        if ((mask >> lane & 1) && first + lane != hyb_emulation::current)
            result = combine(result, (T)(uint32_t)hyb_emulation::fibers[first + lane].given);
    hyb_emulation::give_way(hyb_emulation::AT_WARP_BARRIER, mask);
    return result;
}
/* Of 32-bit integers, as processors from 8.0 on have them. */
template <class T> inline T __reduce_add_sync(unsigned mask, T value) {
    return hyb_reduce_warp(mask, value, [](T a, T b) { return (T)((uint32_t)a + (uint32_t)b); });
}
template <class T> inline T __reduce_max_sync(unsigned mask, T value) {
    return hyb_reduce_warp(mask, value, [](T a, T b) { return a < b ? b : a; });
}
template <class T> inline T __reduce_min_sync(unsigned mask, T value) {
    return hyb_reduce_warp(mask, value, [](T a, T b) { return b < a ? b : a; });
}
inline int __syncthreads_or(int predicate) {
    using namespace hyb_emulation;
    fibers[current].given = predicate != 0;
    give_way(AT_BLOCK_BARRIER);
    int any = 0;
    for (unsigned i = 0; i < n_threads; ++i) any |= !fibers[i].done && fibers[i].given != 0;
    give_way(AT_BLOCK_BARRIER);
    return any;
}

template <class T> inline T atomicAdd(T *p, T value) {
    T before = *p;
    *p = before + value;
    return before;
}
template <class T> inline T atomicMax(T *p, T value) {
    T before = *p;
    *p = before < value ? value : before;
    return before;
}
template <class T> inline T atomicMin(T *p, T value) {
    T before = *p;
    *p = value < before ? value : before;
    return before;
}
template <class T> inline T atomicOr(T *p, T value) {
    T before = *p;
    *p = before | value;
    return before;
}
template <class T> inline T atomicExch(T *p, T value) {
    T before = *p;
    *p = value;
    return before;
}
template <class T> inline T atomicCAS(T *p, T expected, T value) {
    T before = *p;
    if (before == expected) *p = value;
    return before;
}

template <class T> inline T __ldg(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
template <class T> inline T __ldcg(const T *p) { return *p; }
template <class T> inline void __stcs(T *p, T value) { *p = value; }
inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline int32_t __float_as_int(float x) { return (int32_t)__float_as_uint(x); }
inline float __int_as_float(int32_t bits) { return __uint_as_float((uint32_t)bits); }
inline long long __double_as_longlong(double x) {
    long long bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline double __longlong_as_double(long long bits) {
    double x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline int __float2int_rn(float x) { return (int)std::nearbyint(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
    uint64_t bytes = (uint64_t)high << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        uint32_t s = selector >> (4 * i) & 15, byte = (uint32_t)(bytes >> (8 * (s & 7))) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << (8 * i);
    }
    return result;
}
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += (int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
    return c;
}

using std::max;
using std::min;

#endif /* HYB_EMULATION_CUDA_RUNTIME_H */
