/* levels_avx512.c - rounding to 3 or 5 levels for AVX-512: lib/simd/levels_template.h, for floats and for doubles. */
#include "../common.h"

#if HYB_X86

#include <immintrin.h>

/* Without optimisation GCC's roundscale is a macro that makes a signed mask of all ones. */
#pragma GCC diagnostic ignored "-Wsign-conversion"

#define LEVELS_NAME_OF(op) hyb_##op##_avx512
#define LEVELS_NAME(op) LEVELS_NAME_OF(op)
#define LEVELS_REF_OF(op) hyb_##op##_ref
#define LEVELS_REF(op) LEVELS_REF_OF(op)
#define LEVELS_TARGET static HYB_TARGET_AVX512
#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

#define LEVELS_OP quantize_levels_f32
#define LEVELS_SCALAR float
#define LEVELS_VECTOR __m512
#define LEVELS_LANES 16
#define LEVELS_LOAD _mm512_loadu_ps
#define LEVELS_STORE _mm512_storeu_ps
#define LEVELS_SET(value) _mm512_set1_ps((float)(value))
#define LEVELS_MAX _mm512_max_ps
#define LEVELS_MIN _mm512_min_ps
#define LEVELS_MUL _mm512_mul_ps
#define LEVELS_OR _mm512_or_ps
#define LEVELS_ROUND(value) _mm512_roundscale_ps(value, NEAREST)
#include "../simd/levels_template.h"

#define LEVELS_OP quantize_levels_f64
#define LEVELS_SCALAR double
#define LEVELS_VECTOR __m512d
#define LEVELS_LANES 8
#define LEVELS_LOAD _mm512_loadu_pd
#define LEVELS_STORE _mm512_storeu_pd
#define LEVELS_SET(value) _mm512_set1_pd(value)
#define LEVELS_MAX _mm512_max_pd
#define LEVELS_MIN _mm512_min_pd
#define LEVELS_MUL _mm512_mul_pd
#define LEVELS_OR _mm512_or_pd
#define LEVELS_ROUND(value) _mm512_roundscale_pd(value, NEAREST)
#include "../simd/levels_template.h"

void hyb_install_levels_avx512(hyb_kernels *table) {
    HYB_INSTALL(table, quantize_levels_f32, avx512, HYB_ISA_AVX512);
    HYB_INSTALL(table, quantize_levels_f64, avx512, HYB_ISA_AVX512);
}

#else

typedef int hyb_levels_avx512_is_for_x86; /* C99 wants a declaration in every file */

#endif
