/* cuda_fixture.h - what the tests of the CUDA module begin with: a context, a device, memory on it and back.
 *
 * The module is the one that HYB_CUDA_LIBRARY names: real or emulated. Without a GPU the real one's tests are skipped.
 */
#ifndef HYB_CUDA_FIXTURE_H
#define HYB_CUDA_FIXTURE_H

#include "testing.h"

#include <hybrid/hybrid.h>

typedef struct fixture {
    hyb_ctx *ctx;
    hyb_cuda *cuda;
} fixture;

/* Opens the device; where there is none, ends the program as skipped. */
static inline fixture open_fixture(void) {
    fixture f = {NULL, NULL};
    CHECK_STATUS(hyb_ctx_create(NULL, &f.ctx), HYB_OK);
    hyb_status status = hyb_cuda_open(f.ctx, NULL, 0, &f.cuda);
    if (status == HYB_ERROR_UNSUPPORTED) {
        fprintf(stderr, "skipped: %s\n", hyb_ctx_last_error(f.ctx));
        hyb_ctx_destroy(f.ctx);
        exit(77);
    }
    if (status != HYB_OK) {
        fprintf(stderr, "no device: %s\n", hyb_ctx_last_error(f.ctx));
        exit(1);
    }
    return f;
}

static inline void close_fixture(fixture *f) {
    hyb_cuda_close(f->cuda);
    hyb_ctx_destroy(f->ctx);
}

/* Device memory of n_bytes; a copy of host unless that is NULL. Ends the program when there is no memory. */
static inline hyb_device_address on_device(fixture *f, const void *host, size_t n_bytes) {
    hyb_device_address address = 0;
    hyb_status status = hyb_cuda_allocate(f->cuda, n_bytes, &address);
    if (status == HYB_OK && host != NULL) status = hyb_cuda_upload(f->cuda, host, n_bytes, address, 0);
    if (status != HYB_OK) {
        fprintf(stderr, "device memory: %s\n", hyb_ctx_last_error(f->ctx));
        exit(1);
    }
    return address;
}

static inline void from_device(fixture *f, hyb_device_address address, void *host, size_t n_bytes) {
    CHECK_STATUS(hyb_cuda_download(f->cuda, address, n_bytes, host, 0), HYB_OK);
}

static inline void free_device(fixture *f, hyb_device_address address) {
    CHECK_STATUS(hyb_cuda_release(f->cuda, address), HYB_OK);
}

/* Host memory of n * size bytes that is never NULL. */
static inline void *host_memory(size_t n, size_t size) {
    void *memory = calloc(n != 0 ? n : 1, size);
    if (memory == NULL) exit(1);
    return memory;
}

#endif /* HYB_CUDA_FIXTURE_H */
