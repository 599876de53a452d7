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
#include <hybrid/compress.h>
#include <hybrid/language_model.h>
#include <hybrid/matmul.h>
#include <hybrid/optimize.h>
#include <hybrid/quantize.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hyb: cdef begin */

/* ---- device ---- */

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
 * Download waits. Copy: within the device's memory, no overlap. Fill: every byte becomes value. Errors:
 * INVALID_ARGUMENT, DEVICE. */
HYB_API hyb_status hyb_cuda_upload(hyb_cuda *cuda, const void *source, size_t n_bytes, hyb_device_address target,
                                   hyb_stream stream);
HYB_API hyb_status hyb_cuda_download(hyb_cuda *cuda, hyb_device_address source, size_t n_bytes, void *target,
                                     hyb_stream stream);
HYB_API hyb_status hyb_cuda_copy(hyb_cuda *cuda, hyb_device_address source, size_t n_bytes, hyb_device_address target,
                                 hyb_stream stream);
HYB_API hyb_status hyb_cuda_fill(hyb_cuda *cuda, hyb_device_address target, uint8_t value, size_t n_bytes,
                                 hyb_stream stream);

/* Waits for the stream. Errors: NOT_FINITE if a call since the last hyb_cuda_synchronize of this handle met a NaN or an
 * infinity where a number is needed (its results are then undefined); FORMAT, where there was none of these, if one met
 * bytes or codes that are not of their packing; DEVICE. */
HYB_API hyb_status hyb_cuda_synchronize(hyb_cuda *cuda, hyb_stream stream);

/* The device's own time between two points of a stream, by its events; stop waits for the second.
 * Errors: INVALID_ARGUMENT, STATE (no start before), DEVICE. */
HYB_API hyb_status hyb_cuda_timer_start(hyb_cuda *cuda, hyb_stream stream);
HYB_API hyb_status hyb_cuda_timer_stop(hyb_cuda *cuda, hyb_stream stream, double *seconds);

/* ---- quantize and pack ---- */

/* hyb_quantize, the same bits: weights fp32 [n_rows][n_cols], codes int8 [n_rows][n_cols], scales fp32 [1] or [n_rows];
 * none of them may overlap. Rows and columns are at most 2^31 - 1 each. The first call on a matrix of more rows waits
 * for the device, as work memory grows: not while a graph is captured.
 * A NaN, an infinity or a scale above 65504 is reported by hyb_cuda_synchronize; codes and scales are then undefined,
 * with a scale per row those of such rows alone. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY, DEVICE. */
HYB_API hyb_status hyb_cuda_quantize(hyb_cuda *cuda, const hyb_quantizer *quantizer, hyb_device_address weights,
                                     size_t n_rows, size_t n_cols, hyb_device_address codes, hyb_device_address scales,
                                     hyb_stream stream);

/* The same without codes in memory: bytes uint8 [hyb_packed_bytes(packing, n_rows * n_cols)] are what hyb_pack makes of
 * them, row after row without a gap. The packing must be one of the quantiser's format; TERNARY_3OF4 needs the
 * threshold THREE_OF_FOUR, and as it cannot pack four zeros, it holds the signs where a scale is 0. */
HYB_API hyb_status hyb_cuda_quantize_pack(hyb_cuda *cuda, const hyb_quantizer *quantizer, hyb_device_address weights,
                                          size_t n_rows, size_t n_cols, hyb_packing packing, hyb_device_address bytes,
                                          hyb_device_address scales, hyb_stream stream);

/* hyb_dequantize: codes int8 [n_rows][n_cols], scales fp32 [n_scales], weights fp32 [n_rows][n_cols].
 * Errors: INVALID_ARGUMENT, DEVICE. */
HYB_API hyb_status hyb_cuda_dequantize(hyb_cuda *cuda, hyb_device_address codes, hyb_device_address scales,
                                       size_t n_scales, size_t n_rows, size_t n_cols, hyb_device_address weights,
                                       hyb_stream stream);

/* hyb_quantize_activations, with what a product needs: activations fp32 [n_tokens][n_cols], codes int8
 * [n_tokens][ld_codes], 0 from n_cols on; sums int32 [n_tokens] of a token's codes, 0: not wanted; scales fp32
 * [n_tokens]. A token with a NaN or an infinity is reported by hyb_cuda_synchronize: its scale is NaN, its codes and
 * sum are 0, and the others are as they should be. Tokens and columns are at most 2^31 - 1 each.
 * Errors: INVALID_ARGUMENT, DEVICE. */
HYB_API hyb_status hyb_cuda_quantize_activations(hyb_cuda *cuda, hyb_device_address activations, size_t n_tokens,
                                                 size_t n_cols, size_t ld_codes, hyb_device_address codes,
                                                 hyb_device_address sums, hyb_device_address scales, hyb_stream stream);

/* hyb_quantize_levels_f32 and _f64: x, out [n]; out may be x. A NaN is reported by hyb_cuda_synchronize and stays one.
 * Errors: INVALID_ARGUMENT, DEVICE. */
HYB_API hyb_status hyb_cuda_quantize_levels_f32(hyb_cuda *cuda, int32_t levels, float scale, size_t n,
                                                hyb_device_address x, hyb_device_address out, hyb_stream stream);
HYB_API hyb_status hyb_cuda_quantize_levels_f64(hyb_cuda *cuda, int32_t levels, double scale, size_t n,
                                                hyb_device_address x, hyb_device_address out, hyb_stream stream);

/* hyb_pack and hyb_unpack: codes int8 [n_codes], bytes uint8 [hyb_packed_bytes]. Codes that have no place in the
 * packing, bytes that no packing writes and a tail that is not as packing leaves it are reported by
 * hyb_cuda_synchronize as FORMAT; the result is then undefined, within its bounds. Safe on bytes from anywhere.
 * Errors: INVALID_ARGUMENT, DEVICE. */
HYB_API hyb_status hyb_cuda_pack(hyb_cuda *cuda, hyb_packing packing, hyb_device_address codes, size_t n_codes,
                                 hyb_device_address bytes, hyb_stream stream);
HYB_API hyb_status hyb_cuda_unpack(hyb_cuda *cuda, hyb_packing packing, hyb_device_address bytes, size_t n_codes,
                                   hyb_device_address codes, hyb_stream stream);

/* ---- compress ---- */

/* hyb_compress, the same bits, without its sums: gradient fp32 [n_rows][n_cols]; residual the same, 0: no feedback;
 * bytes uint8 [hyb_compressed_bytes], 0: not wanted; values fp32 [n_rows][n_cols], may be the gradient, 0: not wanted.
 * A row with a NaN, an infinity or a magnitude above 1e16 is reported by hyb_cuda_synchronize as NOT_FINITE and left as
 * it was, in values, residual and bytes, while the others are done. Rows and columns are at most 2^31 - 1 each.
 * Errors: INVALID_ARGUMENT, DEVICE. */
HYB_API hyb_status hyb_cuda_compress(hyb_cuda *cuda, const hyb_compressor *compressor, hyb_device_address gradient,
                                     size_t n_rows, size_t n_cols, hyb_device_address residual,
                                     hyb_device_address bytes, hyb_device_address values, hyb_stream stream);

/* hyb_decompress: bytes uint8 [n_bytes], n_bytes = hyb_compressed_bytes; values fp32 [n_rows][n_cols]. Bytes or a scale
 * that hyb_compress does not write are reported by hyb_cuda_synchronize as FORMAT; the values are then undefined. Safe
 * on bytes from anywhere. Errors: INVALID_ARGUMENT, DEVICE. */
HYB_API hyb_status hyb_cuda_decompress(hyb_cuda *cuda, const hyb_compressor *compressor, hyb_device_address bytes,
                                       size_t n_bytes, size_t n_rows, size_t n_cols, hyb_device_address values,
                                       hyb_stream stream);

/* ---- matmul ---- */

/* Weights in a device's memory: 2 bits a ternary weight, 8 bits for the other integer formats, or fp32. Immutable. They
 * belong to the handle that made them, and are destroyed before it is closed. */
typedef struct hyb_cuda_weights hyb_cuda_weights;

/* A copy of packed weights. Waits. The caller destroys *weights.
 * Errors: INVALID_ARGUMENT, OUT_OF_MEMORY (of the host or the device), DEVICE. */
HYB_API hyb_status hyb_cuda_weights_create(hyb_cuda *cuda, const hyb_weights *packed, hyb_cuda_weights **weights);

/* From codes int8 [n_rows][n_cols] of an integer format, and scales fp32 [n_scales], n_scales 1 or n_rows, both in the
 * device's memory; they may be released afterwards. Waits. The caller destroys *weights.
 * Errors: INVALID_ARGUMENT (sizes; a code outside the format), NOT_FINITE (scales), OUT_OF_MEMORY, DEVICE. */
HYB_API hyb_status hyb_cuda_weights_create_codes(hyb_cuda *cuda, hyb_format format, hyb_device_address codes,
                                                 size_t n_rows, size_t n_cols, hyb_device_address scales,
                                                 size_t n_scales, hyb_stream stream, hyb_cuda_weights **weights);

/* F32 weights, from values fp32 [n_rows][n_cols] in the device's memory, which may be released afterwards. Waits. The
 * caller destroys *weights. Errors: INVALID_ARGUMENT (sizes), NOT_FINITE (a value), OUT_OF_MEMORY, DEVICE. */
HYB_API hyb_status hyb_cuda_weights_create_f32(hyb_cuda *cuda, hyb_device_address values, size_t n_rows, size_t n_cols,
                                               hyb_stream stream, hyb_cuda_weights **weights);

/* Waits for the device. NULL is allowed. */
HYB_API void hyb_cuda_weights_destroy(hyb_cuda_weights *weights);

/* Bytes of the device's memory that they take; 0 for NULL. */
HYB_API size_t hyb_cuda_weights_bytes(const hyb_cuda_weights *weights);

/* y[t][r], fp32 [n_tokens][n_rows], of x fp32 [n_tokens][n_cols], addresses of the device: the bits of
 * hyb_quantize_activations followed by hyb_matmul. With F32 weights x is not quantised, and each result is a dot
 * product over 16 lanes (lib/kernels.h). x must be finite, which hyb_cuda_synchronize reports unless the weights are
 * F32. y must not overlap x. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY (of the handle's work memory, which grows by
 * waiting), DEVICE. */
HYB_API hyb_status hyb_cuda_matmul(hyb_cuda *cuda, const hyb_cuda_weights *weights, hyb_device_address x,
                                   size_t n_tokens, hyb_device_address y, hyb_stream stream);

/* The exact integer sums y int32 [n_tokens][n_rows] of x int8 [n_tokens][n_cols]: those of hyb_matmul_i32. -128 is no
 * error here. Not with F32 weights. Errors: as hyb_cuda_matmul. */
HYB_API hyb_status hyb_cuda_matmul_codes(hyb_cuda *cuda, const hyb_cuda_weights *weights, hyb_device_address x,
                                         size_t n_tokens, hyb_device_address y, hyb_stream stream);

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

/* ---- session ---- */

/* A language model with key-value caches on a device: what hyb_session is on the processor, with the same logits and
 * tokens, bit for bit. It works on a stream of its own: before a call, synchronise whatever other stream the handle
 * worked on. Every function waits for its results, but those that say nothing of the device do not use it. */
typedef struct hyb_cuda_session hyb_cuda_session;

/* Copies the model's weights, as they are now, to the device, and makes caches of n_sequences x n_context positions and
 * the work memory there: nothing is allocated later, but for what the driver needs to capture a step, once for each
 * number of sequences that step together. cuda and the model must outlive the session and be of one context, where the
 * detail of every error is. What the model learns later is not seen. Waits.
 * Errors: those of hyb_session_create, DEVICE; nothing is left behind then, and the model is as before. */
HYB_API hyb_status hyb_cuda_session_create(hyb_cuda *cuda, hyb_language_model *model, size_t n_sequences,
                                           size_t n_context, hyb_cache_format cache_format, hyb_cuda_session **session);
/* Waits. NULL is allowed. */
HYB_API void hyb_cuda_session_destroy(hyb_cuda_session *session);

/* Bytes of the session's caches, and the number of positions that a sequence holds. */
HYB_API size_t hyb_cuda_session_bytes(const hyb_cuda_session *session);
HYB_API size_t hyb_cuda_session_length(const hyb_cuda_session *session, size_t sequence);

/* Forgets the positions of a sequence from `length` on. */
HYB_API hyb_status hyb_cuda_session_truncate(hyb_cuda_session *session, size_t sequence, size_t length);

/* hyb_session_feed and hyb_session_step. tokens, sequences: host memory. logits: host fp32 [vocab_size] of the last
 * token, [n][vocab_size] of all; NULL: none, which saves the head. A step with logits is one launch of a graph, from
 * its second time with the same n on. Waits.
 * Errors: INVALID_ARGUMENT; DEVICE; NOT_FINITE (an activation is a NaN or an infinity; the tokens are in the cache,
 * truncate them). */
HYB_API hyb_status hyb_cuda_session_feed(hyb_cuda_session *session, size_t sequence, const uint32_t *tokens,
                                         size_t n_tokens, float *logits);
HYB_API hyb_status hyb_cuda_session_step(hyb_cuda_session *session, const uint32_t *sequences, const uint32_t *tokens,
                                         size_t n, float *logits);

/* hyb_generate on a device. Tokens are drawn there at temperature 0, with top_k 1, and from the whole vocabulary; with
 * any other top_k or top_p logits are copied, [n][vocab_size] a step, and drawn from by the processor. Waits for every
 * token. Errors: those of hyb_generate, DEVICE. */
HYB_API hyb_status hyb_cuda_generate(hyb_cuda_session *session, const uint32_t *const *prompts,
                                     const size_t *prompt_tokens, size_t n, const hyb_generate_options *options,
                                     uint32_t *tokens, size_t *n_tokens);

/* hyb: cdef end */

#ifdef __cplusplus
}
#endif

#endif /* HYBRID_CUDA_H */
