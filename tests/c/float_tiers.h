/* float_tiers.h - the float kernels of every tier that this processor has, for the programs that compare them. */
#ifndef HYB_TEST_FLOAT_TIERS_H
#define HYB_TEST_FLOAT_TIERS_H

#include "common.h"

typedef struct tier {
    const char *name;
    hyb_kernels kernels;
} tier;

/* The portable kernels, then what this processor has of the others. */
static size_t make_tiers(tier *tiers) {
    size_t n = 0;
    hyb_kernels portable = {0};
#define FILL(name, result, arguments) portable.name = hyb_##name##_ref;
    HYB_KERNELS(FILL)
#undef FILL
    tiers[n].name = "scalar";
    tiers[n++].kernels = portable;
#if HYB_X86
    uint32_t isa = hyb_isa_detect();
    if (isa & HYB_ISA_AVX2) {
        tiers[n].name = "avx2";
        tiers[n].kernels = portable;
        hyb_install_vector_avx2(&tiers[n++].kernels);
    }
    if (isa & HYB_ISA_AVX512) {
        tiers[n].name = "avx512";
        tiers[n].kernels = portable;
        hyb_install_vector_avx512(&tiers[n++].kernels);
    }
#elif HYB_ARM64
    tiers[n].name = "neon";
    tiers[n].kernels = portable;
    hyb_install_vector_neon(&tiers[n++].kernels);
#endif
    return n;
}

#endif /* HYB_TEST_FLOAT_TIERS_H */
