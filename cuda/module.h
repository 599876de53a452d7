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

#define HYB_CUDA_TABLE_VERSION 1
#define HYB_CUDA_ENTRY "hyb_cuda_module"

/* The module's side of a hyb_cuda: a device, work memory, what it found out. */
typedef struct hyb_cuda_state hyb_cuda_state;

/* Constants of Adam's update, folded as in hyb_adamw_job and hyb_adam_change_job (lib/kernels.h). */
typedef struct hyb_cuda_adam {
    float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, inv_sqrt_correction2, epsilon;
    float limit; /* of a step; infinite for none */
    float decay;
} hyb_cuda_adam;

/* clang-format off */
/* ---- module.cu ---- */
#define HYB_CUDA_CORE(X) \
    /* Both wait. capacity: bytes of text; status_of is for errors of open, too */ \
    X(open, (int32_t device, hyb_cuda_state **state)) \
    X(close, (hyb_cuda_state *state)) \
    X(describe, (int error, char *text, size_t capacity, hyb_status *status)) \
    X(info, (hyb_cuda_state *state, hyb_cuda_info *info)) \
    X(allocate, (hyb_cuda_state *state, size_t n_bytes, void **memory)) \
    X(release, (hyb_cuda_state *state, void *memory)) \
    /* one of both is host memory; waits if it is the target */ \
    X(upload, (hyb_cuda_state *state, void *to, const void *host, size_t n_bytes, void *stream)) \
    X(download, (hyb_cuda_state *state, void *host, const void *from, size_t n_bytes, void *stream)) \
    X(fill, (hyb_cuda_state *state, void *to, int value, size_t n_bytes, void *stream)) \
    /* waits; *not_finite: 1 if a kernel since the last time met a NaN or an infinity */ \
    X(synchronize, (hyb_cuda_state *state, void *stream, int *not_finite)) \
    /* runs a kernel whose result is known; waits */ \
    X(self_test, (hyb_cuda_state *state, int *passed))

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
/* clang-format on */

#define HYB_CUDA_FUNCTIONS(X) HYB_CUDA_CORE(X) HYB_CUDA_OPTIMIZE(X)

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
