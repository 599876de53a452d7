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

#define HYB_CUDA_TABLE_VERSION 2
#define HYB_CUDA_ENTRY "hyb_cuda_module"

/* The module's side of a hyb_cuda: a device, work memory, what it found out. */
typedef struct hyb_cuda_state hyb_cuda_state;

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

/* ---- weights.cu, matmul.cu ---- */
#define HYB_CUDA_MATMUL(X) \
    /* rows first_row .. of weights from codes [n_rows][n_cols] (fp32 values of F32 weights) and scales [n_scales], */ \
    /* 1 or n_rows; waits. *bad_code, *bad_scale: index of the first that is none of the format's, or UINT64_MAX */ \
    X(pack_weights, (hyb_cuda_state *state, const hyb_device_weights *weights, size_t first_row, size_t n_rows, \
                     const void *codes, const float *scales, size_t n_scales, uint64_t *bad_code, uint64_t *bad_scale, \
                     void *stream)) \
    /* x fp32 [n_tokens][n_cols]; kernel: hyb_matmul_kernel */ \
    X(matmul, (hyb_cuda_state *state, const hyb_device_weights *weights, const float *x, size_t n_tokens, float *y, \
               size_t ld_y, int accumulate, int32_t kernel, void *stream)) \
    /* x int8 [n_tokens][n_cols], y int32 [n_tokens][n_rows] */ \
    X(matmul_codes, (hyb_cuda_state *state, const hyb_device_weights *weights, const int8_t *x, size_t n_tokens, \
                     int32_t *y, int32_t kernel, void *stream))
/* clang-format on */

#define HYB_CUDA_FUNCTIONS(X) HYB_CUDA_CORE(X) HYB_CUDA_MATMUL(X)

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
