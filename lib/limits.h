/* limits.h - the loops behind hyb_limits_measure, by tier. Benchmarks only: no result of the library depends on them.
 */
#ifndef HYB_LIMITS_H
#define HYB_LIMITS_H

#include "common.h"

/* Bytes of input that each arithmetic probe may read: they stay in L1. */
#define HYB_LIMIT_OPERAND_BYTES 4096

/* A probe returns something that depends on all it did, so that no compiler drops the work. */
typedef struct hyb_limit_probes {
    /* Reads n_bytes, a multiple of 1024, aligned to 64. */
    uint64_t (*read)(const uint8_t *memory, size_t n_bytes);
    const char *read_method;
    /* n_turns turns of fma_operations each; operands: HYB_LIMIT_OPERAND_BYTES, aligned to 64. */
    uint64_t (*fma)(const uint8_t *operands, size_t n_turns);
    const char *fma_method;
    double fma_operations;
    uint64_t (*product)(const uint8_t *operands, size_t n_turns);
    const char *product_method;
    double product_operations;
} hyb_limit_probes;

/* x86/limits_x86.c: replaces the probes that the tiers have better ones for. */
void hyb_limit_probes_x86(hyb_limit_probes *probes, uint32_t isa);

#endif /* HYB_LIMITS_H */
