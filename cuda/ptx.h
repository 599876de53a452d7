/* ptx.h - instructions that CUDA has no function for, each beside what it does in the emulation: loads that leave the
 * first-level cache to others, copies from global to shared memory that run beside the arithmetic, products of bytes.
 *
 * Source: PTX ISA, "dp4a", "cp.async", "Matrix Fragments for mma.m16n8k32".
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

#endif /* HYB_CUDA_PTX_H */
