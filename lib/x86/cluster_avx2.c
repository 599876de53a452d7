/* cluster_avx2.c - the kernels of K-means for AVX2: those of lib/simd, instantiated. */
#include <math.h>

#include "../common.h"

#if HYB_X86

#include "../simd/v8_avx2.h"

#define SIMD_NAME(op) hyb_##op##_avx2
#define SIMD_ISA HYB_ISA_AVX2
#define SIMD_TARGET HYB_TARGET_AVX2
/* Half of a common second-level cache. */
#define CLUSTER_CACHED_BYTES ((size_t)128 << 10)
/* 16 registers: 6 centroids x 2 registers of points, 2 of coordinates, one of a centroid's. */
#define CLUSTER_CENTROIDS 6
#define CLUSTER_VECTORS ((size_t)1)

#include "../simd/cluster_kernels.h"

void hyb_install_cluster_avx2(hyb_kernels *table) { cluster_install(table); }

#else

typedef int hyb_cluster_avx2_is_for_x86; /* C99 wants a declaration in every file */

#endif
