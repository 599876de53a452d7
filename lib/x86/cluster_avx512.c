/* cluster_avx512.c - the kernels of K-means for AVX-512: those of lib/simd, instantiated. */
#include <math.h>

#include "../common.h"

#if HYB_X86

#include "../simd/v8_avx512.h"

#define SIMD_NAME(op) hyb_##op##_avx512
#define SIMD_ISA HYB_ISA_AVX512
#define SIMD_TARGET HYB_TARGET_AVX512
/* Half of the second-level cache of the processors that have AVX-512. */
#define CLUSTER_CACHED_BYTES ((size_t)512 << 10)
/* 32 registers: 12 centroids x 2 vectors of points, 2 vectors of coordinates, one of a centroid's. */
#define CLUSTER_CENTROIDS 12
#define CLUSTER_VECTORS ((size_t)2)

#include "../simd/cluster_kernels.h"

void hyb_install_cluster_avx512(hyb_kernels *table) { cluster_install(table); }

#else

typedef int hyb_cluster_avx512_is_for_x86; /* C99 wants a declaration in every file */

#endif
