/* cuda.h (internal) - a loaded CUDA module and its open device; what the files lib/cuda*.c share. */
#ifndef HYB_CUDA_INTERNAL_H
#define HYB_CUDA_INTERNAL_H

#include <hybrid/cuda.h>

#include "../cuda/module.h"
#include "common.h"

struct hyb_cuda {
    hyb_ctx *ctx;
    void *library;
    const hyb_cuda_table *table;
    hyb_cuda_state *state;
};

/* cuda_matmul.c. One allocation of the device: codes, then scales. */
struct hyb_cuda_weights {
    hyb_cuda *cuda;
    hyb_device_weights device;
    void *memory;
    size_t n_bytes;
};

/* HYB_OK for 0; else the status of a module's error, with `what` and CUDA's words as the detail. */
hyb_status hyb_cuda_result(hyb_ctx *ctx, const hyb_cuda_table *table, int error, const char *what);

/* Calls a function of the table: HYB_CUDA_CALL(cuda, allocate, n, &memory). */
#define HYB_CUDA_CALL(cuda, name, ...)                                                                                 \
    hyb_cuda_result((cuda)->ctx, (cuda)->table, (cuda)->table->name((cuda)->state, __VA_ARGS__), #name)

HYB_INLINE void *hyb_device_pointer(uintptr_t address) { return (void *)address; }

#endif /* HYB_CUDA_INTERNAL_H */
