/* module.h - what libhybrid and the CUDA module say to each other: one function that gives a table of functions.
 *
 * The module is a shared object of its own (libhybrid_cuda), loaded at run time by lib/cuda.c, which checks arguments;
 * functions here trust theirs. Both sides include this header: a difference shows in HYB_CUDA_TABLE_VERSION, which is
 * raised with every change, or in the table's size.
 *
 * Every function returns 0, a cudaError_t (above 0), or a hyb_status (below 0). Pointers are to device memory unless
 * said. Work is queued on `stream` (a cudaStream_t) and not waited for, unless said.
 */
#ifndef HYB_CUDA_MODULE_H
#define HYB_CUDA_MODULE_H

#include <hybrid/cuda.h>

#include "matmul.h"

#define HYB_CUDA_TABLE_VERSION 1
#define HYB_CUDA_ENTRY "hyb_cuda_module"

/* The module's side of a hyb_cuda: a device, work memory, what it found out. */
typedef struct hyb_cuda_state hyb_cuda_state;

/* How a matrix is compressed: hyb_compressed_layout of lib/compress.h. */
typedef struct hyb_cuda_layout {
    size_t row_bytes, block_size, n_scales;
} hyb_cuda_layout;

/* Constants of Adam's update, folded as in hyb_adamw_job and hyb_adam_change_job (lib/kernels.h). */
typedef struct hyb_cuda_adam {
    float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, inv_sqrt_correction2, epsilon;
    float limit; /* of a step; infinite for none */
    float decay;
} hyb_cuda_adam;

/* clang-format off */

/* ---- module.cu ---- */
#define HYB_CUDA_CORE(X) \
    /* open and close wait; describe takes errors of open, too, and capacity is the bytes of text */ \
    X(open, (int32_t device, hyb_cuda_state **state)) \
    X(close, (hyb_cuda_state *state)) \
    X(describe, (int error, char *text, size_t capacity, hyb_status *status)) \
    X(info, (hyb_cuda_state *state, hyb_cuda_info *info)) \
    X(allocate, (hyb_cuda_state *state, size_t n_bytes, void **memory)) \
    X(release, (hyb_cuda_state *state, void *memory)) \
    /* one of both is host memory; waits if it is the target */ \
    X(upload, (hyb_cuda_state *state, void *to, const void *host, size_t n_bytes, void *stream)) \
    X(download, (hyb_cuda_state *state, void *host, const void *from, size_t n_bytes, void *stream)) \
    X(copy, (hyb_cuda_state *state, void *to, const void *from, size_t n_bytes, void *stream)) \
    X(fill, (hyb_cuda_state *state, void *to, int value, size_t n_bytes, void *stream)) \
    /* waits; *not_finite: 1 if a kernel since the last time met a NaN or an infinity, *malformed: 1 if one met */ \
    /* bytes or codes that their packing does not have */ \
    X(synchronize, (hyb_cuda_state *state, void *stream, int *not_finite, int *malformed)) \
    X(timer_start, (hyb_cuda_state *state, void *stream)) \
    X(timer_stop, (hyb_cuda_state *state, void *stream, double *seconds)) /* waits */ \
    /* runs a kernel whose result is known; waits */ \
    X(self_test, (hyb_cuda_state *state, int *passed))

/* ---- quantize.cu, quantize_activations.cu, quantize_levels.cu ---- */
#define HYB_CUDA_QUANTIZE(X) \
    /* codes, one a byte, in the packing INT8; else bytes of a packing of the quantiser's format */ \
    X(quantize, (hyb_cuda_state *state, const hyb_quantizer *quantizer, const float *weights, size_t n_rows, \
                 size_t n_cols, int32_t packing, uint8_t *bytes, float *scales, void *stream)) \
    X(dequantize, (hyb_cuda_state *state, const int8_t *codes, const float *scales, size_t n_scales, size_t n_rows, \
                   size_t n_cols, float *weights, void *stream)) \
    X(quantize_activations, (hyb_cuda_state *state, const float *activations, size_t n_tokens, size_t n_cols, \
                             size_t ld_codes, int8_t *codes, int32_t *sums, float *scales, void *stream)) \
    X(quantize_levels_f32, (hyb_cuda_state *state, int32_t levels, float scale, size_t n, const float *x, float *out, \
                            void *stream)) \
    X(quantize_levels_f64, (hyb_cuda_state *state, int32_t levels, double scale, size_t n, const double *x, \
                            double *out, void *stream))

/* ---- pack.cu ---- */
#define HYB_CUDA_PACK(X) \
    X(pack, (hyb_cuda_state *state, int32_t packing, const int8_t *codes, size_t n_codes, uint8_t *bytes, \
             void *stream)) \
    X(unpack, (hyb_cuda_state *state, int32_t packing, const uint8_t *bytes, size_t n_codes, int8_t *codes, \
               void *stream))

/* ---- compress.cu ---- */
#define HYB_CUDA_COMPRESS(X) \
    X(compress, (hyb_cuda_state *state, int32_t scheme, const hyb_cuda_layout *layout, const float *gradient, \
                 size_t n_rows, size_t n_cols, float *residual, uint8_t *bytes, float *values, void *stream)) \
    X(decompress, (hyb_cuda_state *state, int32_t scheme, const hyb_cuda_layout *layout, const uint8_t *bytes, \
                   size_t n_rows, size_t n_cols, float *values, void *stream))

/* ---- weights.cu, matmul.cu ---- */
#define HYB_CUDA_MATMUL(X) \
    /* rows first_row .. of weights from codes [n_rows][n_cols] (fp32 values of F32 weights) and scales [n_scales], */ \
    /* 1 or n_rows; waits. *bad_code, *bad_scale: index of the first that is none of the format's, or UINT64_MAX */ \
    X(pack_weights, (hyb_cuda_state *state, const hyb_device_weights *weights, size_t first_row, size_t n_rows, \
                     const void *codes, const float *scales, size_t n_scales, uint64_t *bad_code, uint64_t *bad_scale, \
                     void *stream)) \
    /* x fp32 [n_tokens][n_cols]; kernel: HYB_MATMUL_CHOOSE or another of matmul.h */ \
    X(matmul, (hyb_cuda_state *state, const hyb_device_weights *weights, const float *x, size_t n_tokens, float *y, \
               size_t ld_y, int accumulate, int32_t kernel, void *stream)) \
    /* x int8 [n_tokens][n_cols], y int32 [n_tokens][n_rows] */ \
    X(matmul_codes, (hyb_cuda_state *state, const hyb_device_weights *weights, const int8_t *x, size_t n_tokens, \
                     int32_t *y, int32_t kernel, void *stream))

/* ---- cluster.cu, cluster_lloyd.cu ---- */
#define HYB_CUDA_CLUSTER(X) \
    /* n >= 1; distances may be NULL */ \
    X(cluster_nearest, (hyb_cuda_state *state, const float *points, size_t n, size_t d, const float *centroids, \
                        size_t k, int32_t *labels, double *distances, void *stream)) \
    /* Waits. options: complete and checked. labels may be NULL. HYB_ERROR_NOT_FINITE, HYB_ERROR_CANCELLED */ \
    X(kmeans, (hyb_cuda_state *state, const hyb_kmeans_options *options, const float *points, size_t n, size_t d, \
               float *centroids, int32_t *labels, hyb_kmeans_result *result, void *stream))

/* ---- gemm.cu, orthogonalize.cu, constrain_norm.cu, optimize.cu, trust_region.cu ---- */
#define HYB_CUDA_OPTIMIZE(X) \
    /* the first product may wait: it loads cuBLAS */ \
    X(gemm, (hyb_cuda_state *state, hyb_transpose transpose, size_t m, size_t n, size_t k, const float *a, size_t lda, \
             const float *b, size_t ldb, int accumulate, float *c, size_t ldc, void *stream)) \
    X(orthogonalize, (hyb_cuda_state *state, size_t n_rows, size_t n_cols, const float *x, float *out, void *stream)) \
    X(spectral_bound, (hyb_cuda_state *state, size_t n_rows, size_t n_cols, const float *x, double *bound, \
                       void *stream)) \
    X(sum_squares, (hyb_cuda_state *state, size_t n, const float *values, double *sum, void *stream)) \
    /* norm, is_active: device memory, or NULL */ \
    X(constrain_norm_f32, (hyb_cuda_state *state, double radius, size_t n, const float *x, float *out, double *norm, \
                           int *is_active, void *stream)) \
    X(constrain_norm_f64, (hyb_cuda_state *state, double radius, size_t n, const double *x, double *out, double *norm, \
                           int *is_active, void *stream)) \
    /* structs are host memory, read before the return */ \
    X(adamw, (hyb_cuda_state *state, const hyb_cuda_adam *adam, size_t n, const float *gradient, float *weights, \
              float *first_moment, float *second_moment, void *stream)) \
    X(matrix_step, (hyb_cuda_state *state, const hyb_trust_region *options, const hyb_cuda_trust_tensor *tensor, \
                    void *stream)) \
    X(vector_step, (hyb_cuda_state *state, const hyb_cuda_adam *adam, const hyb_cuda_trust_tensor *tensor, \
                    void *stream)) \
    /* is_one_ball: of all tensors (L2); else of each, in units of its root mean square (RMS) */ \
    X(ball_step, (hyb_cuda_state *state, const hyb_cuda_adam *matrix, const hyb_cuda_adam *vector, int is_one_ball, \
                  double radius, size_t n_tensors, const hyb_cuda_trust_tensor *tensors, void *stream))

/* ---- session.cu ---- */
typedef struct hyb_session_plan hyb_session_plan; /* session.h */
typedef struct hyb_session_pass hyb_session_pass;
typedef struct hyb_device_draw hyb_device_draw;
typedef struct hyb_device_session hyb_device_session;
#define HYB_CUDA_SESSION(X) \
    /* Both wait. *cache_bytes: of keys and values */ \
    X(session_create, (hyb_cuda_state *state, const hyb_session_plan *plan, hyb_device_session **session, \
                       size_t *cache_bytes)) \
    X(session_destroy, (hyb_cuda_state *state, hyb_device_session *session)) \
    /* Copies to memory that session passes read; waits */ \
    X(session_upload, (hyb_cuda_state *state, void *to, const void *host, size_t n_bytes)) \
    /* Queues a pass over rows on the session's own stream; the logits stay on the device */ \
    X(session_run, (hyb_cuda_state *state, hyb_device_session *session, const hyb_session_pass *pass)) \
    /* The next two wait, and use the logits of the last pass's first n rows. logits: host [n][vocab_size], or NULL; \
     * picks: host uint64 [2][n], streams and positions; tokens: host [n] */ \
    X(session_logits, (hyb_cuda_state *state, hyb_device_session *session, size_t n, float *logits, int *not_finite)) \
    X(session_draw, (hyb_cuda_state *state, hyb_device_session *session, const hyb_device_draw *draw, \
                     const uint64_t *picks, size_t n, uint32_t *tokens, int *not_finite))

/* ---- the table ---- */
#define HYB_CUDA_FUNCTIONS(X) \
    HYB_CUDA_CORE(X) \
    HYB_CUDA_QUANTIZE(X) \
    HYB_CUDA_PACK(X) \
    HYB_CUDA_COMPRESS(X) \
    HYB_CUDA_MATMUL(X) \
    HYB_CUDA_CLUSTER(X) \
    HYB_CUDA_OPTIMIZE(X) \
    HYB_CUDA_SESSION(X)
/* clang-format on */

typedef struct hyb_cuda_table {
    uint32_t version;    /* HYB_CUDA_TABLE_VERSION */
    uint32_t n_bytes;    /* sizeof(hyb_cuda_table) */
    int32_t is_emulated; /* the kernels run on the CPU: cuda/emulation */
#define HYB_CUDA_FIELD(name, arguments) int(*name) arguments;
    HYB_CUDA_FUNCTIONS(HYB_CUDA_FIELD)
#undef HYB_CUDA_FIELD
} hyb_cuda_table;

/* The module's only export. */
typedef const hyb_cuda_table *(*hyb_cuda_entry)(void);

#endif /* HYB_CUDA_MODULE_H */
