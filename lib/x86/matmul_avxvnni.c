/* matmul_avxvnni.c - packed integer weights x int8 activations with AVX-VNNI: processors that have vpdpbusd but no
 * AVX-512 (Intel's since Alder Lake). The arithmetic is in simd/matmul_vnni256_template.h.
 *
 * The VEX build has not run on hardware yet: what was measured and compared with the reference is the EVEX build of the
 * same source (tests/c/check_matmul.c, tier vnni256). It takes 0.6 to 0.7 of the time of AVX2's on Cascade Lake.
 */
#include "../common.h"

#if HYB_X86
#include <immintrin.h>

#if HYB_HAS_TARGET_AVX_VNNI
#define VNNI_NAME(op) hyb_##op##_avxvnni
#define VNNI_TARGET HYB_TARGET_AVX_VNNI
#define VNNI_DOT(sum, u8, i8) _mm256_dpbusd_avx_epi32(sum, u8, i8)
#include "../simd/matmul_vnni256_template.h"
#endif

#define VNNI_NAME(op) hyb_##op##_vnni256
#define VNNI_TARGET HYB_TARGET_AVX512_VNNI
#define VNNI_DOT(sum, u8, i8) _mm256_dpbusd_epi32(sum, u8, i8)
#include "../simd/matmul_vnni256_template.h"

void hyb_install_matmul_avxvnni(hyb_kernels *table) {
#if HYB_HAS_TARGET_AVX_VNNI
    HYB_INSTALL(table, matmul_ternary, avxvnni, HYB_ISA_AVX_VNNI);
    HYB_INSTALL(table, matmul_int8, avxvnni, HYB_ISA_AVX_VNNI);
#else
    (void)table; /* a compiler that does not know the instructions: AVX2 stays */
#endif
}

void hyb_install_matmul_vnni256(hyb_kernels *table) {
    HYB_INSTALL(table, matmul_ternary, vnni256, HYB_ISA_AVX512_VNNI);
    HYB_INSTALL(table, matmul_int8, vnni256, HYB_ISA_AVX512_VNNI);
}
#endif
