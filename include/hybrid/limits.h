/* limits.h - what this processor can do at best, measured: the yardstick of the benchmarks.
 *
 * In plain words: a figure such as "37 GB/s of weights" says little alone; beside the speed at which this very machine
 * reads memory, measured in the same minute, it says how much is left. Each function here runs a loop that does nothing
 * but reading, copying, or multiplying, with the instructions of the context's tier and on its threads.
 *
 * Not promised: that a figure repeats. Other programs, frequency and temperature move it; take the best of several.
 */
#ifndef HYBRID_LIMITS_H
#define HYBRID_LIMITS_H

#include <hybrid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* What is measured, and its unit.
 *   READ        bytes read a second from a working set of n_bytes: 16 KiB stays in L1, 1 GiB comes from DRAM
 *   COPY        bytes copied a second (payload: each is read once and written once); n_bytes is source and target
 *               together
 *   FMA_F32     fp32 operations a second, a multiply-add counted as two; n_bytes is not used
 *   PRODUCT_I8  operations a second of int8 products summed in int32, counted as above; n_bytes is not used */
typedef enum hyb_limit {
    HYB_LIMIT_READ = 1,
    HYB_LIMIT_COPY = 2,
    HYB_LIMIT_FMA_F32 = 3,
    HYB_LIMIT_PRODUCT_I8 = 4
} hyb_limit;

/* Measures a limit with the context's tier, all its threads at once (each with its share of n_bytes), and returns the
 * best of several rounds: under 0.2 s, and two rounds at least where one takes longer. n_bytes: 4096 times the threads
 * to 2^32, for READ and COPY. Work memory is allocated and freed. The context must not be in use by another thread.
 * Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
HYB_API hyb_status hyb_limits_measure(hyb_ctx *ctx, hyb_limit limit, size_t n_bytes, double *per_second);

/* The instructions that hyb_limits_measure uses for a limit, such as "vpdpbusd zmm" or "portable C"; "" for an unknown
 * limit. A constant string. */
HYB_API const char *hyb_limits_method(const hyb_ctx *ctx, hyb_limit limit);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_LIMITS_H */
