/* vector_neon.c - the float kernels and the fp32 matrix product for NEON: the templates of lib/simd, instantiated. */
#include <hybrid/matmul.h>

#include "../common.h"

#if HYB_ARM64

#include "../simd/v16_neon.h"

#define SIMD_NAME(op) hyb_##op##_neon
#define SIMD_TARGET
#define SIMD_ISA HYB_ISA_NEON

/* 32 registers: 6 rows x 4 registers of C, one row of B, one element of A. */
#define GEMM_ROWS 6
#define GEMM_VECTORS 1
#define GEMM_DEPTH 256
#define GEMM_BLOCK_ROWS 96
/* Keys, and vectors of values, that attention works on at once: 4 registers each. */
#define V16_KEYS 4
#define V16_VALUES 4

#include "../simd/gemm_template.h"
#include "../simd/vector_template.h"

void hyb_install_vector_neon(hyb_kernels *table) { v16_install(table); }

#else

typedef int hyb_vector_neon_is_for_aarch64; /* C99 wants a declaration in every file */

#endif
