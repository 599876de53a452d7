/* levels_avx2.c - rounding to 3 or 5 levels for AVX2: lib/simd/levels_template.h, for floats and for doubles. */
#include "../common.h"

#if HYB_X86

#include <immintrin.h>

#define LEVELS_NAME_OF(op) hyb_##op##_avx2
#define LEVELS_NAME(op) LEVELS_NAME_OF(op)
#define LEVELS_REF_OF(op) hyb_##op##_ref
#define LEVELS_REF(op) LEVELS_REF_OF(op)
#define LEVELS_TARGET static HYB_TARGET_AVX2
#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

#define LEVELS_OP quantize_levels_f32
#define LEVELS_SCALAR float
#define LEVELS_VECTOR __m256
#define LEVELS_LANES 8
#define LEVELS_LOAD _mm256_loadu_ps
#define LEVELS_STORE _mm256_storeu_ps
#define LEVELS_SET(value) _mm256_set1_ps((float)(value))
#define LEVELS_MAX _mm256_max_ps
#define LEVELS_MIN _mm256_min_ps
#define LEVELS_MUL _mm256_mul_ps
#define LEVELS_OR _mm256_or_ps
#define LEVELS_ROUND(value) _mm256_round_ps(value, NEAREST)
#include "../simd/levels_template.h"

#define LEVELS_OP quantize_levels_f64
#define LEVELS_SCALAR double
#define LEVELS_VECTOR __m256d
#define LEVELS_LANES 4
#define LEVELS_LOAD _mm256_loadu_pd
#define LEVELS_STORE _mm256_storeu_pd
#define LEVELS_SET(value) _mm256_set1_pd(value)
#define LEVELS_MAX _mm256_max_pd
#define LEVELS_MIN _mm256_min_pd
#define LEVELS_MUL _mm256_mul_pd
#define LEVELS_OR _mm256_or_pd
#define LEVELS_ROUND(value) _mm256_round_pd(value, NEAREST)
#include "../simd/levels_template.h"

void hyb_install_levels_avx2(hyb_kernels *table) {
    HYB_INSTALL(table, quantize_levels_f32, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, quantize_levels_f64, avx2, HYB_ISA_AVX2);
}

#else

typedef int hyb_levels_avx2_is_for_x86; /* C99 wants a declaration in every file */

#endif
