/* cluster_avx2.c - the kernels of K-means for AVX2: the template of lib/simd, instantiated for both types. */
#include <math.h>

#include "../common.h"

#if HYB_X86

#include "../simd/v8_avx2.h"

#define SIMD_TARGET HYB_TARGET_AVX2
/* Half of a common second-level cache. */
#define CLUSTER_CACHED_BYTES ((size_t)128 << 10)
/* 16 registers: 6 centroids x 2 registers of points, 2 of coordinates, one of a centroid's. */
#define CLUSTER_CENTROIDS 6
#define CLUSTER_VECTORS ((size_t)1)

#define CLUSTER_REAL float
#define CLUSTER_VECTOR v16
#define CLUSTER_LANES ((size_t)16)
#define CLUSTER_OP(op) v16_##op
#define CLUSTER_WIDEN(p) v8_load_f32(p)
#define CLUSTER_NAME(op) hyb_cluster_##op##_f32_avx2
#include "../simd/cluster_template.h"
#include "../simd/cluster_pack_template.h"
#undef CLUSTER_REAL
#undef CLUSTER_VECTOR
#undef CLUSTER_LANES
#undef CLUSTER_OP
#undef CLUSTER_WIDEN
#undef CLUSTER_NAME

#define CLUSTER_REAL double
#define CLUSTER_VECTOR v8
#define CLUSTER_LANES ((size_t)8)
#define CLUSTER_OP(op) v8_##op
#define CLUSTER_WIDEN(p) v8_load(p)
#define CLUSTER_NAME(op) hyb_cluster_##op##_f64_avx2
#include "../simd/cluster_template.h"

void hyb_install_cluster_avx2(hyb_kernels *table) {
    HYB_INSTALL(table, cluster_pack_f32, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, cluster_add_f32, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, cluster_add_f64, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, cluster_distance_f32, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, cluster_distance_f64, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, cluster_nearest_f32, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, cluster_nearest_f64, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, cluster_candidates_f32, avx2, HYB_ISA_AVX2);
    HYB_INSTALL(table, cluster_candidates_f64, avx2, HYB_ISA_AVX2);
}

#else

typedef int hyb_cluster_avx2_is_for_x86; /* C99 wants a declaration in every file */

#endif
