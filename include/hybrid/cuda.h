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
#include <hybrid/language_model.h>
#include <hybrid/matmul.h>

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
