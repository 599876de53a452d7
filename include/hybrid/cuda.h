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
#include <hybrid/matmul.h>
#include <hybrid/optimize.h>

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

/* ---- optimize ---- */

/* Arguments, shapes and limits are those of the CPU's functions in hybrid/optimize.h and hybrid/matmul.h, unless said;
 * pointers there are addresses here, multiples of their type's size (multiples of 16 are faster). Results that are
 * numbers lie in device memory, too, so that nothing waits. A NaN or an infinity is reported by hyb_cuda_synchronize,
 * but by hyb_cuda_gemm. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY (work memory), DEVICE. */

/* C = A B (+ C if accumulate), as hyb_gemm, by cuBLAS: the library that the environment's HYB_CUBLAS_LIBRARY names, or
 * else libcublas.so.13 or .12 where the system's loader finds one. Without it (and where the variable is empty) by a
 * kernel of this module, which adds up in ascending order of k with fused multiply-add. fp32 throughout, never TF32;
 * but the bits depend on which of them it is, on the library's version and the device. The first product of a handle
 * may wait, while cuBLAS is loaded: not while a graph is captured. */
HYB_API hyb_status hyb_cuda_gemm(hyb_cuda *cuda, hyb_transpose transpose, size_t m, size_t n, size_t k,
                                 hyb_device_address a, size_t lda, hyb_device_address b, size_t ldb, int accumulate,
                                 hyb_device_address c, size_t ldc, hyb_stream stream);

/* hyb_adamw_update: the bits of a CPU with fused multiply-add (AVX2, AVX-512, NEON). Without it a CPU's results differ
 * by rounding: moments by 2^-22 of the sum of their terms' magnitudes, weights by 2^-22 of their own and of the terms
 * of their change, which the difference of the moments moves, too. */
HYB_API hyb_status hyb_cuda_adamw_update(hyb_cuda *cuda, const hyb_adamw *adamw, size_t n, hyb_device_address gradient,
                                         hyb_device_address weights, hyb_device_address first_moment,
                                         hyb_device_address second_moment, hyb_stream stream);

/* hyb_orthogonalize and hyb_spectral_bound: the same steps and the same bounds of what comes out (singular values,
 * margin), not the same bits: products are hyb_cuda_gemm's. bound: fp64 [1]. */
HYB_API hyb_status hyb_cuda_orthogonalize(hyb_cuda *cuda, size_t n_rows, size_t n_cols, hyb_device_address x,
                                          hyb_device_address out, hyb_stream stream);
HYB_API hyb_status hyb_cuda_spectral_bound(hyb_cuda *cuda, size_t n_rows, size_t n_cols, hyb_device_address x,
                                           hyb_device_address bound, hyb_stream stream);

/* hyb_sum_squares and hyb_constrain_norm_f32 and _f64: the CPU's bits. sum, norm: fp64 [1]; is_active: int32 [1];
 * norm and is_active may be 0. With a NaN or an infinity, out, norm and is_active stay as they were. */
HYB_API hyb_status hyb_cuda_sum_squares(hyb_cuda *cuda, hyb_device_address values, size_t n, hyb_device_address sum,
                                        hyb_stream stream);
HYB_API hyb_status hyb_cuda_constrain_norm_f32(hyb_cuda *cuda, double radius, size_t n, hyb_device_address x,
                                               hyb_device_address out, hyb_device_address norm,
                                               hyb_device_address is_active, hyb_stream stream);
HYB_API hyb_status hyb_cuda_constrain_norm_f64(hyb_cuda *cuda, double radius, size_t n, hyb_device_address x,
                                               hyb_device_address out, hyb_device_address norm,
                                               hyb_device_address is_active, hyb_stream stream);

/* What a tensor is to a trust-region step: a layer's matrix, orthogonalised with SPECTRAL and subject to weight decay;
 * an embedding or a head; a gain. */
typedef enum hyb_trust_kind { HYB_TRUST_MATRIX = 0, HYB_TRUST_EMBEDDING = 1, HYB_TRUST_GAIN = 2 } hyb_trust_kind;

/* A tensor and its state in device memory; fp32 [n_rows][n_cols] unless said, no overlap. 0 where nothing is said to be
 * needed. All state is zero before the first step. */
typedef struct hyb_cuda_trust_tensor {
    size_t n_rows, n_cols; /* >= 1 */
    int32_t kind;          /* hyb_trust_kind */
    hyb_device_address gradient;
    hyb_device_address weights;        /* in and out */
    hyb_device_address first_moment;   /* in and out; the momentum of a matrix with SPECTRAL */
    hyb_device_address second_moment;  /* in and out; but for a matrix with SPECTRAL */
    hyb_device_address change;         /* out: of this step; but for what is no matrix with SPECTRAL */
    hyb_device_address row_moment;     /* in and out, [n_rows]: a matrix with SPECTRAL and row_beta > 0 */
    hyb_device_address spectral_bound; /* in and out, [1]: a matrix with SPECTRAL; of the weights' norm, 0: not known */
    hyb_device_address is_shortened;   /* out, int32 [1]: 1 if the radius shortened the step; may be 0 */
} hyb_cuda_trust_tensor;

/* A trust-region step of n_tensors tensors, as hyb_language_model_apply_trust_region makes it of a model's: with L2 one
 * ball holds the changes of all of them (is_shortened is the first one's), else each tensor has its own. optimizer:
 * SPECTRAL, RMS or L2. Neither row multipliers nor state in 8 bits.
 *
 * The guarantee is the CPU's: no change leaves its ball, up to the rounding of the stored weights. Results differ from
 * the CPU's by rounding: Adam's elements as in hyb_cuda_adamw_update, factors of RMS and L2 by a unit in the last
 * place, directions as hyb_cuda_orthogonalize. The norm of a matrix's weights is bounded anew in the first step and
 * every 16th; where it is not known in between (0), their Frobenius norm takes its place, which shortens the step more.
 */
HYB_API hyb_status hyb_cuda_trust_region_update(hyb_cuda *cuda, const hyb_trust_region *options,
                                                hyb_optimizer optimizer, size_t n_tensors,
                                                const hyb_cuda_trust_tensor *tensors, hyb_stream stream);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_CUDA_H */
