/* ptx.h - instructions that CUDA has no function for, each beside what it does in the emulation: loads that leave the
 * first-level cache to others, copies from global to shared memory that run beside the arithmetic, products of bytes.
 *
 * Source: PTX ISA, "dp4a", "cp.async", "Matrix Fragments for mma.m16n8k32", "Asynchronous Warpgroup Level Matrix
 * Multiply-Accumulate Instructions".
 */
#ifndef HYB_CUDA_PTX_H
#define HYB_CUDA_PTX_H

#include "device.h"

/* ---- memory ---- */

/* 16 bytes that are read once. */
__device__ __forceinline__ uint4 hyb_load_streamed(const uint4 *p) {
#if HYB_EMULATED
    return *p;
#else
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
#endif
}

/* Word i of 16 bytes; i is known where this is unrolled. */
__device__ __forceinline__ uint32_t hyb_word_of(const uint4 &v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* Begins to copy 16 bytes, or to clear them where `valid` is false (`from` is then not read but must be an address of
 * global memory). They are there when hyb_copies_wait says so, for the thread that asked; a barrier says so to others.
 */
__device__ __forceinline__ void hyb_copy_async_16(void *shared, const void *from, bool valid) {
#if HYB_EMULATED
    hyb_emulation::copy_async(shared, valid ? from : nullptr, 16);
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(shared)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
#endif
}

/* Ends a group of copies. */
__device__ __forceinline__ void hyb_copies_commit() {
#if HYB_EMULATED
    hyb_emulation::commit_copies();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits for all groups but the newest PENDING. */
template <int PENDING> __device__ __forceinline__ void hyb_copies_wait() {
#if HYB_EMULATED
    hyb_emulation::wait_copies(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

/* ---- products ---- */

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

/* A warp's c += a b with a 16 x 32 and b 32 x 8 of int8, c of int32. With g = lane / 4 and t = lane % 4, a lane holds,
 * four consecutive k in a word:
 *   a[0] row g, k 4t ..;  a[1] row g + 8;  a[2] row g, k 16 + 4t ..;  a[3] row g + 8, k 16 + 4t ..
 *   b[0] k 4t .., column g;  b[1] k 16 + 4t ..
 *   c[0], c[1] row g, columns 2t, 2t + 1;  c[2], c[3] row g + 8
 * Which k a place stands for is free, as long as a and b agree. */
__device__ __forceinline__ void hyb_mma_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if HYB_EMULATED
    const uint32_t b[2] = {b0, b1};
    hyb_emulation::mma_m16n8k32_s8(c, a, b);
#else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/* ---- products of a warpgroup, on sm_90a ---- */

#define HYB_WARPGROUP 128
#define HYB_WGMMA_TOKENS 128

#if HYB_EMULATED || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HYB_HAS_WGMMA 1
#else
#define HYB_HAS_WGMMA 0
#endif

#if HYB_HAS_WGMMA
/* 64 x 128 sums: warp w of the group has rows 16 w .., where 8 columns are as c in hyb_mma_s8. */
typedef int hyb_wgmma_sums[HYB_WGMMA_TOKENS / 8][4];

/* Where the right operand lies in shared memory, without swizzling: core matrices of 8 columns by 16 k, 16 bytes a
 * column, so many bytes from one to the next along k and along columns (multiples of 16). */
__device__ __forceinline__ uint64_t hyb_wgmma_descriptor(const void *shared, uint32_t along_k, uint32_t along_columns) {
#if HYB_EMULATED
    uint32_t address = hyb_emulation::shared_address(shared);
#else
    uint32_t address = (uint32_t)__cvta_generic_to_shared(shared);
#endif
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)(along_k >> 4) << 16 | (uint64_t)(along_columns >> 4) << 32;
}

/* Copies that this thread has waited for become visible to products, after a barrier to other threads' ones. */
__device__ __forceinline__ void hyb_wgmma_show_copies() {
#if HYB_EMULATED
    hyb_emulation::show_copies();
#else
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* Before products, where registers that they use were written by anything else: left operands, ready from here on. */
template <int N> __device__ __forceinline__ void hyb_wgmma_fence(uint32_t (&a)[N][4]) {
#if HYB_EMULATED
    (void)a;
    hyb_emulation::fence_products();
#else
#pragma unroll
    for (int i = 0; i < N * 4; ++i) asm volatile("" : "+r"(a[i / 4][i % 4])); /* not written between products */
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

/* Begins a warpgroup's d += a b with a 64 x 32 and b 32 x 128 of int8. a: of rows 16 w .. as in hyb_mma_s8. Until
 * hyb_wgmma_wait, d and the shared memory stay as they are. */
__device__ __forceinline__ void hyb_wgmma_s8(hyb_wgmma_sums &d, const uint32_t (&a)[4], uint64_t b) {
#if HYB_EMULATED
    hyb_emulation::wgmma_m64k32_s8(d, a, b);
#else
#define HYB_REGISTERS(n) "+r"(d[n][0]), "+r"(d[n][1]), "+r"(d[n][2]), "+r"(d[n][3])
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, 1;"
                 : HYB_REGISTERS(0), HYB_REGISTERS(1), HYB_REGISTERS(2), HYB_REGISTERS(3), HYB_REGISTERS(4),
                   HYB_REGISTERS(5), HYB_REGISTERS(6), HYB_REGISTERS(7), HYB_REGISTERS(8), HYB_REGISTERS(9),
                   HYB_REGISTERS(10), HYB_REGISTERS(11), HYB_REGISTERS(12), HYB_REGISTERS(13), HYB_REGISTERS(14),
                   HYB_REGISTERS(15)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#undef HYB_REGISTERS
#endif
}

/* Ends a group of products. */
__device__ __forceinline__ void hyb_wgmma_commit() {
#if HYB_EMULATED
    hyb_emulation::commit_products();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/* Waits for all groups; only then do sums hold them. */
__device__ __forceinline__ void hyb_wgmma_wait(hyb_wgmma_sums &sums) {
#if HYB_EMULATED
    (void)sums;
    hyb_emulation::wait_products(0);
#else
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < HYB_WGMMA_TOKENS / 8 * 4; ++i) asm volatile("" : "+r"(sums[i / 4][i % 4])); /* no use before */
#endif
}
#endif

#endif /* HYB_CUDA_PTX_H */
