/* cluster_kernels.h - the kernels of K-means of one instruction set: cluster_template.h for both types, and their
 * installation. A file of lib/x86 or lib/arm includes a v8_<isa>.h, defines SIMD_NAME(op) (hyb_<op>_<isa>),
 * SIMD_TARGET, SIMD_ISA, CLUSTER_CACHED_BYTES, CLUSTER_CENTROIDS and CLUSTER_VECTORS, and then includes this file.
 */
#ifndef SIMD_NAME
#error "include through a file of lib/x86 or lib/arm"
#endif

#define CLUSTER_REAL float
#define CLUSTER_VECTOR v16
#define CLUSTER_LANES ((size_t)16)
#define CLUSTER_OP(op) v16_##op
#define CLUSTER_WIDEN(p) v8_load_f32(p)
#define CLUSTER_NAME(op) SIMD_NAME(cluster_##op##_f32)
#include "cluster_template.h"
#include "cluster_pack_template.h"
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
#define CLUSTER_NAME(op) SIMD_NAME(cluster_##op##_f64)
#include "cluster_template.h"

static void cluster_install(hyb_kernels *table) {
#define CLUSTER_INSTALL(name) (table->name = SIMD_NAME(name), table->tier[HYB_KERNEL_##name] = SIMD_ISA)
    CLUSTER_INSTALL(cluster_pack_f32);
    CLUSTER_INSTALL(cluster_add_f32);
    CLUSTER_INSTALL(cluster_add_f64);
    CLUSTER_INSTALL(cluster_distance_f32);
    CLUSTER_INSTALL(cluster_distance_f64);
    CLUSTER_INSTALL(cluster_nearest_f32);
    CLUSTER_INSTALL(cluster_nearest_f64);
    CLUSTER_INSTALL(cluster_candidates_f32);
    CLUSTER_INSTALL(cluster_candidates_f64);
#undef CLUSTER_INSTALL
}
