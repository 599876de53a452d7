/* cluster_neon.c - the kernels of K-means for NEON: those of lib/simd, instantiated. */
#include <math.h>

#include "../common.h"

#if HYB_ARM64

#include "../simd/v8_neon.h"

#define SIMD_NAME(op) hyb_##op##_neon
#define SIMD_ISA HYB_ISA_NEON
#define SIMD_TARGET
/* Half of a common second-level cache. */
#define CLUSTER_CACHED_BYTES ((size_t)128 << 10)
/* 32 registers: 6 centroids x 4 registers of points, 4 of coordinates, one of a centroid's. */
#define CLUSTER_CENTROIDS 6
#define CLUSTER_VECTORS ((size_t)1)

#include "../simd/cluster_kernels.h"

void hyb_install_cluster_neon(hyb_kernels *table) { cluster_install(table); }

#else

typedef int hyb_cluster_neon_is_for_aarch64; /* C99 wants a declaration in every file */

#endif
