/* common.h - what every source file of the library may use: the context, errors, memory, parallel loops, and the
 * macros that hide compilers. The only place with compiler extensions. Kernel files include this and kernels.h only.
 */
#ifndef HYB_COMMON_H
#define HYB_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <hybrid/base.h>

#include "kernels.h"

/* Floating-point contract: a*b+c is two roundings. The build passes -ffp-contract=off; these lines serve a bare
 * `cc lib/... .c`. hyb_ctx_self_test checks the result. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && !defined(__STRICT_ANSI__) && !defined(HYB_FP_CONTRACT_OFF)
#error "compile with -std=c99 or -ffp-contract=off -DHYB_FP_CONTRACT_OFF: the numerics contract needs it"
#endif
#if defined(__FAST_MATH__)
#error "-ffast-math breaks the numerics contract"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16
#error "floats are evaluated in excess precision: on i686 compile with -msse2 -mfpmath=sse"
#endif

#if defined(__GNUC__)
#define HYB_INLINE static inline __attribute__((always_inline, unused))
#define HYB_NO_INLINE __attribute__((noinline))
#define HYB_PRINTF(text, first) __attribute__((__format__(__printf__, text, first)))
#define HYB_ALIGNED(bytes) __attribute__((aligned(bytes)))
#define HYB_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define HYB_PREFETCH(p) __builtin_prefetch(p)
/* The compiler forgets where a pointer came from, and so keeps it in a register of its own. */
#define HYB_HIDE(p) __asm__("" : "+r"(p))
/* Integers that threads share. A load that sees a store sees everything that was written before it. */
#define HYB_ATOMIC_LOAD(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define HYB_ATOMIC_STORE(p, value) __atomic_store_n(p, value, __ATOMIC_RELEASE)
#define HYB_ATOMIC_FETCH_ADD(p, value) __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL)
#define HYB_ATOMIC_FETCH_SUB(p, value) __atomic_fetch_sub(p, value, __ATOMIC_ACQ_REL)
/* 1 if *p was *expected and is `value` now; else *expected receives *p. */
#define HYB_ATOMIC_COMPARE_EXCHANGE(p, expected, value)                                                                \
    __atomic_compare_exchange_n(p, expected, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
/* Before a loop of a constant, small number of turns over an array that should live in registers. */
#if defined(__clang__)
#define HYB_UNROLL _Pragma("clang loop unroll(full)")
#define HYB_NO_UNROLL _Pragma("nounroll")
#else
#define HYB_UNROLL _Pragma("GCC unroll 16")
#define HYB_NO_UNROLL _Pragma("GCC unroll 1")
#endif
#else
#define HYB_INLINE static inline
#define HYB_NO_INLINE
#define HYB_PRINTF(text, first)
#define HYB_ALIGNED(bytes)
#define HYB_UNLIKELY(x) (x)
#define HYB_PREFETCH(p) ((void)0)
#define HYB_HIDE(p) ((void)0)
#define HYB_UNROLL
#define HYB_NO_UNROLL
#endif

/* x86 variants are compiled in every x86 build; a function carries its own target, so no flag leaks AVX elsewhere. */
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define HYB_X86 1
#define HYB_CPU_RELAX() __builtin_ia32_pause()
#define HYB_TARGET_XSAVE __attribute__((target("xsave")))
#define HYB_TARGET_SSE42 __attribute__((target("sse4.2")))
#define HYB_HAS_SSE42() __builtin_cpu_supports("sse4.2")
#define HYB_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define HYB_TARGET_AVX512 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")))
/* gcc 11 and clang 12 know AVX-VNNI. */
#if (defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11)
#define HYB_HAS_TARGET_AVX_VNNI 1
#define HYB_TARGET_AVX_VNNI __attribute__((target("avx2,fma,f16c,avxvnni")))
#else
#define HYB_HAS_TARGET_AVX_VNNI 0
#endif
#define HYB_TARGET_AVX512_VNNI __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#else
#define HYB_X86 0
#if defined(__aarch64__)
#define HYB_CPU_RELAX() __asm__ volatile("yield")
#else
#define HYB_CPU_RELAX() ((void)0)
#endif
#endif

/* The same for AArch64, where NEON is part of the architecture. The packed layouts are little-endian; big-endian ARM,
 * like 32-bit ARM, uses the reference. The two compilers spell the attribute differently. */
#if defined(__aarch64__) && defined(__GNUC__) && !defined(__AARCH64EB__)
#define HYB_ARM64 1
#if defined(__clang__)
#define HYB_TARGET_DOTPROD __attribute__((target("dotprod")))
#define HYB_TARGET_I8MM __attribute__((target("dotprod,i8mm")))
#else
#define HYB_TARGET_DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define HYB_TARGET_I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif
#else
#define HYB_ARM64 0
#endif

#define HYB_MAX_THREADS 256
#define HYB_CACHE_LINE 64

typedef struct hyb_pool hyb_pool; /* threads.c */

struct hyb_ctx {
    hyb_ctx_options options; /* resolved: no NULL allocator, n_threads >= 1 */
    uint32_t isa;            /* tiers in use */
    hyb_kernels kernels;
    hyb_pool *pool; /* NULL until the first parallel call, and with an external parallel_for */
    void *scratch;  /* grow-only work memory of the public calls, see hyb_scratch */
    size_t scratch_bytes;
    char last_error[256];
};

/* ---- status.c ---- */

/* Writes the detail of an error and returns `status`. ctx may be NULL (the detail is then dropped). */
hyb_status hyb_fail(hyb_ctx *ctx, hyb_status status, const char *format, ...) HYB_PRINTF(3, 4);

/* Passes one line to the context's log callback; dropped if there is none. */
void hyb_log(const hyb_ctx *ctx, hyb_log_level level, const char *format, ...) HYB_PRINTF(3, 4);

/* Reads an extensible struct: copies min(given, known) bytes over `target`, which holds the defaults, and sets the
 * target's struct_size to known_bytes. STRUCT_SIZE if *given starts with a size that cannot be (0, or beyond 4096), or
 * is longer than known_bytes with a non-zero tail. */
hyb_status hyb_read_struct(hyb_ctx *ctx, const char *name, void *target, const void *given, size_t known_bytes);

/* ---- alloc.c ---- */

/* Puts the C library's allocator into options. */
void hyb_default_allocator(hyb_ctx_options *options);
/* n * size bytes aligned to 64, uninitialised; NULL on overflow or when memory is out. Zero bytes give a valid pointer.
 */
void *hyb_alloc(hyb_ctx *ctx, size_t n, size_t size);
/* The same, zeroed. */
void *hyb_alloc_zeroed(hyb_ctx *ctx, size_t n, size_t size);
void hyb_free(hyb_ctx *ctx, void *memory);
/* Work memory of at least n_bytes, aligned to 64, kept by the context and overwritten by the next public call that
 * asks. NULL when memory is out. Not for use inside parallel tasks. */
void *hyb_scratch(hyb_ctx *ctx, size_t n_bytes);

/* ---- cpu.c, x86/cpu_x86.c, arm/cpu_arm.c ---- */

#define HYB_CPU_NAME_BYTES 64
uint32_t hyb_x86_isa_detect(void);
/* Writes the processor's name; leaves `name` as it is if the processor has none. */
void hyb_x86_cpu_name(char name[HYB_CPU_NAME_BYTES]);
uint32_t hyb_arm_isa_detect(void);
void hyb_arm_cpu_name(char name[HYB_CPU_NAME_BYTES]);

/* ---- threads.c ---- */

/* Runs task(argument, i, worker) for i in [0, n_tasks), worker in [0, hyb_ctx_n_threads). Returns when all are done.
 * Not reentrant: a task must not call it. Results must not depend on which worker runs what. */
void hyb_parallel(hyb_ctx *ctx, size_t n_tasks, hyb_task task, void *argument);
void hyb_pool_destroy(hyb_ctx *ctx);

/* ---- small helpers ---- */

HYB_INLINE size_t hyb_min_size(size_t a, size_t b) { return a < b ? a : b; }
HYB_INLINE size_t hyb_ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
HYB_INLINE size_t hyb_round_up(size_t a, size_t multiple) { return hyb_ceil_div(a, multiple) * multiple; }
/* 1 if a * b does not fit a size_t. */
HYB_INLINE int hyb_mul_overflows(size_t a, size_t b) { return b != 0 && a > SIZE_MAX / b; }

HYB_INLINE uint32_t hyb_bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
HYB_INLINE float hyb_float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
HYB_INLINE int hyb_is_finite(float value) { return (hyb_bits_of(value) & 0x7f800000u) != 0x7f800000u; }

/* splitmix64 as a hash of a counter: portable, and the same for any order of drawing. */
HYB_INLINE uint64_t hyb_hash64(uint64_t value) {
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

/* Little-endian loads and stores from unaligned bytes. */
HYB_INLINE uint32_t hyb_load_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
HYB_INLINE uint64_t hyb_load_u64(const uint8_t *p) {
    return (uint64_t)hyb_load_u32(p) | (uint64_t)hyb_load_u32(p + 4) << 32;
}
HYB_INLINE void hyb_store_u32(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}
HYB_INLINE void hyb_store_u64(uint8_t *p, uint64_t v) {
    hyb_store_u32(p, (uint32_t)v);
    hyb_store_u32(p + 4, (uint32_t)(v >> 32));
}

#define HYB_TRY(expression)                                                                                            \
    do {                                                                                                               \
        hyb_status hyb_try_status = (expression);                                                                      \
        if (hyb_try_status != HYB_OK) return hyb_try_status;                                                           \
    } while (0)

#endif /* HYB_COMMON_H */
