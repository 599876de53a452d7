/* base.h - status codes, contexts, versions: what every other header builds on.
 *
 * In plain words: create a context, call functions with it, look at the status that each returns.
 * Every fallible function returns a hyb_status; HYB_OK is 0 and every error is negative. Outputs come last and
 * are untouched, unless a function says otherwise, when the status is not HYB_OK. The library never aborts,
 * exits or prints.
 *
 * Units: sizes count elements unless the name says _bytes. Text is UTF-8 with an explicit byte length, or
 * NUL-terminated where a parameter is called path or name. Floats are IEEE 754 binary32.
 *
 * Threads: a context, and every handle made with it, is used by one thread at a time; different contexts are
 * independent. Packed weights (hyb_weights) and tokenizers are immutable and may be shared between contexts.
 *
 * Not promised: stability of the in-memory layout of packed weights; bit-identical training across instruction
 * sets (inference is bit-identical everywhere, training is independent of the number of threads).
 */
#ifndef HYBRID_BASE_H
#define HYBRID_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef HYB_API
#if defined(_WIN32) && defined(HYB_SHARED)
#ifdef HYB_BUILDING
#define HYB_API __declspec(dllexport)
#else
#define HYB_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define HYB_API __attribute__((visibility("default")))
#else
#define HYB_API
#endif
#endif

/* hyb: cdef begin (the Python binding is generated from the text between these marks) */

/* Version of the library's sources, and of its binary interface: a program built against ABI n runs with every
 * library of ABI n. Compare with hyb_abi_version() at run time. */
#define HYB_VERSION_MAJOR 0
#define HYB_VERSION_MINOR 1
#define HYB_VERSION_PATCH 0
#define HYB_ABI_VERSION 0

/* Result of a fallible function. Values are never renumbered; the gaps are for later additions. */
typedef enum hyb_status {
    HYB_OK = 0,
    HYB_ERROR_INVALID_ARGUMENT = -10, /* a NULL, a size or a value outside its documented range */
    HYB_ERROR_STRUCT_SIZE = -11,      /* struct_size is 0, or a newer struct with a non-zero unknown tail */
    HYB_ERROR_OUT_OF_MEMORY = -20,
    HYB_ERROR_TOO_SMALL = -21,   /* the caller's buffer is too small; the size that is needed was written */
    HYB_ERROR_UNSUPPORTED = -30, /* valid, but not available in this build or for this format */
    HYB_ERROR_NOT_FINITE = -40,  /* NaN or infinity where a number is needed; the detail names the tensor */
    HYB_ERROR_IO = -50,          /* the operating system refused; the detail holds its words */
    HYB_ERROR_FORMAT = -60,      /* not a file of this kind, or its fields contradict each other */
    HYB_ERROR_TRUNCATED = -61,   /* the file ends before its header says so */
    HYB_ERROR_CHECKSUM = -62,    /* the file's bytes were changed after it was written */
    HYB_ERROR_VERSION = -63,     /* the file is of a newer format version than this library reads */
    HYB_ERROR_STATE = -70,       /* called in the wrong order; the detail names the call that is missing */
    HYB_ERROR_CANCELLED = -80,   /* a callback asked to stop */
    HYB_ERROR_THREAD = -90,      /* the operating system gave no thread */
    HYB_ERROR_DEVICE = -100      /* a GPU or its driver failed; the detail holds its words */
} hyb_status;

/* Instruction-set tiers, as bits of a mask. A tier implies the ones below it on the same processor family. */
typedef enum hyb_isa {
    HYB_ISA_SCALAR = 0,
    HYB_ISA_AVX2 = 1,          /* AVX2, FMA, F16C */
    HYB_ISA_AVX512 = 2,        /* AVX-512 F, BW, DQ, VL */
    HYB_ISA_AVX512_VNNI = 4,   /* and VNNI */
    HYB_ISA_AVX512_LOOKUP = 8, /* ternary weights multiplied by table look-up; chosen by a measurement, see isa_mask */
    HYB_ISA_AVX_VNNI = 16,     /* AVX2 and AVX-VNNI */
    HYB_ISA_NEON = 256,
    HYB_ISA_NEON_DOTPROD = 512, /* SDOT, UDOT */
    HYB_ISA_NEON_I8MM = 1024    /* SMMLA */
} hyb_isa;

/* Importance of a log message. */
typedef enum hyb_log_level { HYB_LOG_DEBUG = 0, HYB_LOG_INFO = 1, HYB_LOG_WARNING = 2 } hyb_log_level;

/* A context: allocator, log callback, thread pool, instruction-set mask, and the table of kernels chosen by it. */
typedef struct hyb_ctx hyb_ctx;

/* One task of a parallel loop: `index` in [0, n_tasks), `worker` in [0, n_workers), no two tasks that run at the
 * same moment have the same worker. */
typedef void (*hyb_task)(void *argument, size_t index, size_t worker);

/* Options of a context. Zero means the default for every field but struct_size. */
typedef struct hyb_ctx_options {
    size_t struct_size; /* sizeof(hyb_ctx_options) */
    /* Allocator: returns `bytes` bytes aligned to `alignment` (a power of two, at most 64), or NULL. Default: the
     * C library's. Both functions, or neither, must be given. */
    void *(*allocate)(void *user, size_t bytes, size_t alignment);
    void (*release)(void *user, void *memory);
    void *allocator_user;
    /* Receives messages, one line without a line feed. Default: messages are dropped. */
    void (*log)(void *user, int level, const char *message);
    void *log_user;
    /* Runs task(argument, i, worker) for every i in [0, n_tasks) and returns when all are done, on at most n_workers
     * threads. Default: a pool of POSIX threads, started by the first parallel call. */
    void (*parallel_for)(void *user, size_t n_tasks, size_t n_workers, hyb_task task, void *argument);
    void *parallel_user;
    /* Number of threads that take part, the caller included: 1 to 256. 0: the environment's HYB_NUM_THREADS, or 1. */
    uint32_t n_threads;
    /* Tiers that may be used (bits of hyb_isa); 0 means all. The environment's HYB_ISA (scalar, avx2, avxvnni, avx512,
     * lookup; neon, dotprod, i8mm) lowers it further; what the processor lacks is never used. Use HYB_ISA_MASK_SCALAR
     * to allow none. AVX512_LOOKUP is one of two forms that need the same processor: where neither a mask nor the
     * environment says which, the creation of the context measures both for less than 100 microseconds.
     */
    uint32_t isa_mask;
} hyb_ctx_options;

/* isa_mask of a context that uses the portable kernels only. */
#define HYB_ISA_MASK_SCALAR 0x80000000

/* Creates a context. options may be NULL: one thread, everything the processor has. The caller destroys *ctx.
 * Errors: INVALID_ARGUMENT, STRUCT_SIZE, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_ctx_create(const hyb_ctx_options *options, hyb_ctx **ctx);

/* Stops the context's threads and frees it. Every handle made with it must be destroyed before. NULL is allowed. */
HYB_API void hyb_ctx_destroy(hyb_ctx *ctx);

/* Detail of the last error on this context, one line; "" if there was none. Valid until the next call with ctx. */
HYB_API const char *hyb_ctx_last_error(const hyb_ctx *ctx);

/* Number of threads that take part in parallel loops, and the setter (1 to 256; outside a call only). */
HYB_API uint32_t hyb_ctx_n_threads(const hyb_ctx *ctx);
HYB_API hyb_status hyb_ctx_set_n_threads(hyb_ctx *ctx, uint32_t n_threads);

/* Tiers in use by this context (bits of hyb_isa); AVX512_LOOKUP if it packs ternary weights for look-ups. */
HYB_API uint32_t hyb_ctx_isa(const hyb_ctx *ctx);

/* The context's kernel table, for diagnosis: number of entries, an entry's name ("dot_f32") and the tier that was
 * chosen for it ("scalar", "avx2", ...). NULL for an index out of range. Static strings. */
HYB_API size_t hyb_ctx_kernel_count(const hyb_ctx *ctx);
HYB_API const char *hyb_ctx_kernel_name(const hyb_ctx *ctx, size_t index);
HYB_API const char *hyb_ctx_kernel_tier(const hyb_ctx *ctx, size_t index);

/* Known-answer test of the numerics contract on this build and context: rounding, no contraction into fused
 * multiply-add, no flush to zero, each chosen kernel against the portable one on a small fixed input.
 * HYB_OK, or HYB_ERROR_UNSUPPORTED with the first failing check in the detail. */
HYB_API hyb_status hyb_ctx_self_test(hyb_ctx *ctx);

/* Tiers that this processor and operating system offer (bits of hyb_isa), whatever the environment says. Never
 * AVX512_LOOKUP, which is a choice and not an offer. */
HYB_API uint32_t hyb_isa_detect(void);

/* The processor's own name ("Intel(R) Xeon(R) ..."), or "unknown". Static storage per call site: written into
 * `name`, at most `capacity` bytes with the final NUL. */
HYB_API void hyb_cpu_name(char *name, size_t capacity);

/* "0.1.0", and HYB_ABI_VERSION of the library that is running. */
HYB_API const char *hyb_version_string(void);
HYB_API uint32_t hyb_abi_version(void);

/* The status as an English phrase ("not finite"); never NULL. */
HYB_API const char *hyb_status_string(hyb_status status);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_BASE_H */
