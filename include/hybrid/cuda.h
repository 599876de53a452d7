/* cuda.h - the numeric cores on a GPU: an optional module, loaded at run time.
 *
 * In plain words: open a device; give functions addresses in its memory and a stream; wait for the stream before you
 * read the results. Nothing else in the library needs a GPU, and what fails here leaves everything else as it was.
 *
 * Addresses are those of the device's memory, from hyb_cuda_allocate or from anyone else in this process who uses CUDA
 * (a PyTorch tensor, a CuPy array). Work is queued on the caller's stream and not waited for, unless a function says
 * that it waits. A handle is used by one thread and on one stream at a time, since calls share its work memory.
 *
 * Results: integers are the CPU's, bit for bit, and so are floats unless a function says otherwise.
 *
 * Not promised: the layout of hyb_cuda_weights; that a call queues no more than one kernel.
 */
#ifndef HYBRID_CUDA_H
#define HYBRID_CUDA_H

#include <hybrid/base.h>
#include <hybrid/cluster.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* An address in a device's memory; 0 is none. */
typedef uintptr_t hyb_device_address;
/* A cudaStream_t; 0 is the default stream. */
typedef uintptr_t hyb_stream;

/* A device, with the module that works on it. */
typedef struct hyb_cuda hyb_cuda;

/* Loads the module and opens a device.
 *   library  path of libhybrid_cuda; NULL: the environment's HYB_CUDA_LIBRARY, or else what the system's loader finds
 *            under its name
 *   device   its number, 0 for the first
 * The handle keeps a reference to ctx. The caller closes *cuda, before ctx is destroyed.
 * Errors: INVALID_ARGUMENT (no such device); UNSUPPORTED (no module, no device, no driver, or one that is too old: the
 * detail says which); VERSION (a module of another version); DEVICE. */
HYB_API hyb_status hyb_cuda_open(hyb_ctx *ctx, const char *library, int32_t device, hyb_cuda **cuda);

/* Waits for nothing: synchronise first. NULL is allowed. */
HYB_API void hyb_cuda_close(hyb_cuda *cuda);

/* What is known of a device. */
typedef struct hyb_cuda_info {
    size_t struct_size;
    char name[128];
    int32_t is_emulated; /* 1: no GPU, the kernels run on the CPU (for tests) */
    int32_t capability_major, capability_minor;
    int32_t n_multiprocessors;
    int32_t driver_version, runtime_version; /* 13000 for CUDA 13.0 */
    uint64_t total_bytes, free_bytes;        /* of its memory */
    uint64_t l2_bytes;
} hyb_cuda_info;

/* struct_size of *info must be set. Errors: INVALID_ARGUMENT, STRUCT_SIZE, DEVICE. */
HYB_API hyb_status hyb_cuda_get_info(hyb_cuda *cuda, hyb_cuda_info *info);

/* Runs a kernel whose result is known, and waits. Errors: UNSUPPORTED (another result), DEVICE. */
HYB_API hyb_status hyb_cuda_self_test(hyb_cuda *cuda);

/* Memory of the device: aligned to 256 bytes, with anything in it. 0 bytes: address 0. Release waits for the device;
 * address 0 is allowed. Errors: OUT_OF_MEMORY, DEVICE. */
HYB_API hyb_status hyb_cuda_allocate(hyb_cuda *cuda, size_t n_bytes, hyb_device_address *address);
HYB_API hyb_status hyb_cuda_release(hyb_cuda *cuda, hyb_device_address address);

/* Copies from and to the host's memory. Upload: the source must stay as it is until the stream is synchronised.
 * Download waits. Fill: every byte becomes value. Errors: INVALID_ARGUMENT, DEVICE. */
HYB_API hyb_status hyb_cuda_upload(hyb_cuda *cuda, const void *source, size_t n_bytes, hyb_device_address target,
                                   hyb_stream stream);
HYB_API hyb_status hyb_cuda_download(hyb_cuda *cuda, hyb_device_address source, size_t n_bytes, void *target,
                                     hyb_stream stream);
HYB_API hyb_status hyb_cuda_fill(hyb_cuda *cuda, hyb_device_address target, uint8_t value, size_t n_bytes,
                                 hyb_stream stream);

/* Waits for the stream. Errors: NOT_FINITE if a call since the last hyb_cuda_synchronize of this handle met a NaN or an
 * infinity where a number is needed (its results are then undefined); DEVICE. */
HYB_API hyb_status hyb_cuda_synchronize(hyb_cuda *cuda, hyb_stream stream);

/* ---- cluster ---- */

/* Finds the nearest centroid of each point: hyb_kmeans_assign_f32 with the same labels and distances, to the last bit.
 *   points             [n][d] fp32, finite; n up to 2^31 - 1, may be 0
 *   centroids          [k][d] fp32, finite; 1 <= k <= HYB_KMEANS_MAX_CLUSTERS
 *   labels             [n] int32
 *   squared_distances  [n] fp64: to the nearest centroid; 0 if not wanted
 * Rows that begin at multiples of 16 bytes are read fastest. Work memory: 4 bytes a point, and a copy of the centroids.
 * A NaN or an infinity shows in hyb_cuda_synchronize. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY, DEVICE. */
HYB_API hyb_status hyb_cuda_cluster_nearest(hyb_cuda *cuda, hyb_device_address points, size_t n, size_t d,
                                            hyb_device_address centroids, size_t k, hyb_device_address labels,
                                            hyb_device_address squared_distances, hyb_stream stream);

/* Lloyd's iterations from given centroids: hyb_kmeans_f32 with init = GIVEN, without sample weights and mini-batches
 * (other options: UNSUPPORTED). Start centroids can come from hyb_kmeans_f32 on a sample of the points. Waits, once or
 * twice an iteration, and for all that was queued on the stream before.
 *   points     [n][d] fp32, n up to 2^31 - 1
 *   centroids  [k][d] fp32: start and result; an error leaves them as they were
 *   labels     [n] int32: the nearest of the resulting centroids; 0 if not wanted
 *   result     host memory; NULL if not wanted
 * Sums are made in the CPU's chunks and order, and empty clusters filled like there: labels, centroids, number of
 * iterations and inertia are the CPU's, with these exceptions, in which a mean that lies next to the middle of two
 * floats may become the other one: iterations for which the CPU follows changed labels instead of summing anew (its
 * last sums are always new); and d = 1, where both use prefix sums, whose last bits differ (by n 2^-53 of the sum of
 * |x - mean| at most). The variance that tolerance refers to is the CPU's but for its last bits.
 * Work memory: about 44 bytes a point (d = 1: 60) and d / 4 bytes a point for the chunks' sums.
 * Errors: INVALID_ARGUMENT, STRUCT_SIZE, UNSUPPORTED, NOT_FINITE (of any call since the last hyb_cuda_synchronize),
 * OUT_OF_MEMORY, CANCELLED, DEVICE. */
HYB_API hyb_status hyb_cuda_kmeans(hyb_cuda *cuda, const hyb_kmeans_options *options, hyb_device_address points,
                                   size_t n, size_t d, hyb_device_address centroids, hyb_device_address labels,
                                   hyb_kmeans_result *result, hyb_stream stream);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_CUDA_H */
