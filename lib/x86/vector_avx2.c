/* vector_avx2.c - the float kernels and the fp32 matrix product for AVX2: the templates of lib/simd, instantiated. */
#include <hybrid/matmul.h>

#include "../common.h"

#if HYB_X86

#include "../simd/v16_avx2.h"

#define SIMD_NAME(op) hyb_##op##_avx2
#define SIMD_TARGET HYB_TARGET_AVX2
#define SIMD_ISA HYB_ISA_AVX2

/* 16 registers: 6 rows x 2 registers of C, one row of B, one element of A. */
#define GEMM_ROWS 6
#define GEMM_VECTORS 1
#define GEMM_DEPTH 256
#define GEMM_BLOCK_ROWS 192
/* Keys, and vectors of values, that attention works on at once: 2 registers each. */
#define V16_KEYS 4
#define V16_VALUES 4
/* The tiles of attention: 16 registers. */
#define ATTENTION_SCORE_QUERIES 1
#define ATTENTION_VALUE_QUERIES 2
#define ATTENTION_VALUE_VECTORS 2
#define ATTENTION_TILE_ROWS 4
#define ATTENTION_TILE_VECTORS 1

#include "../simd/gemm_template.h"
#include "../simd/vector_template.h"

void hyb_install_vector_avx2(hyb_kernels *table) { v16_install(table); }

#else

typedef int hyb_vector_avx2_is_for_x86; /* C99 wants a declaration in every file */

#endif
