/* vector_avx512.c - the float kernels and the fp32 matrix product for AVX-512: the templates of lib/simd, instantiated.
 */
#include <hybrid/matmul.h>

#include "../common.h"

#if HYB_X86

#include "../simd/v16_avx512.h"

#define SIMD_NAME(op) hyb_##op##_avx512
#define SIMD_TARGET HYB_TARGET_AVX512
#define SIMD_ISA HYB_ISA_AVX512

/* 32 registers: 8 rows x 3 registers of C, 3 of a row of B, one element of A. */
#define GEMM_ROWS 8
#define GEMM_VECTORS 3
#define GEMM_DEPTH 384
#define GEMM_BLOCK_ROWS 192
/* Keys, and vectors of values, that attention works on at once. */
#define V16_KEYS 8
#define V16_VALUES 8
#define V16_EXPS 4
/* The tiles of attention: 32 registers. */
#define ATTENTION_SCORE_QUERIES 4
#define ATTENTION_VALUE_QUERIES 4
#define ATTENTION_VALUE_VECTORS 4
#define ATTENTION_TILE_ROWS 8
#define ATTENTION_TILE_VECTORS 2

#include "../simd/gemm_template.h"
#include "../simd/vector_template.h"

void hyb_install_vector_avx512(hyb_kernels *table) { v16_install(table); }

#else

typedef int hyb_vector_avx512_is_for_x86; /* C99 wants a declaration in every file */

#endif
