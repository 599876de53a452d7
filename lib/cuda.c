/* cuda.c - loads the CUDA module (cuda/), opens a device, and hands on what concerns the device itself.
 *
 * The module is a shared object of its own, so that nothing here needs CUDA. Where a system has no dynamic loader, the
 * module is not there.
 */
#include <stdlib.h>

#include "cuda.h"

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#define HAS_LOADER 1
#else
#define HAS_LOADER 0
#endif

#define TEXT_OF(value) #value
#define SONAME(abi) "libhybrid_cuda.so." TEXT_OF(abi)

hyb_status hyb_cuda_result(hyb_ctx *ctx, const hyb_cuda_table *table, int error, const char *what) {
    char text[160] = "";
    hyb_status status = HYB_ERROR_DEVICE;
    if (error == 0) return HYB_OK;
    table->describe(error, text, sizeof text, &status);
    return hyb_fail(ctx, status, "GPU, %s: %s", what, text[0] != '\0' ? text : hyb_status_string(status));
}

#if HAS_LOADER
/* dlsym gives a pointer to data; C has no cast to one of a function. */
static hyb_cuda_entry entry_of(void *library) {
    void *symbol = dlsym(library, HYB_CUDA_ENTRY);
    hyb_cuda_entry entry = NULL;
    memcpy(&entry, &symbol, sizeof entry);
    return entry;
}
#endif

static hyb_status load(hyb_ctx *ctx, const char *path, void **library, const hyb_cuda_table **table) {
#if HAS_LOADER
    if (path == NULL) path = getenv("HYB_CUDA_LIBRARY");
    if (path == NULL || *path == '\0') path = SONAME(HYB_ABI_VERSION);
    *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (*library == NULL)
        return hyb_fail(ctx, HYB_ERROR_UNSUPPORTED, "no CUDA module (build it with -Dcuda=enabled): %s", dlerror());
    hyb_cuda_entry entry = entry_of(*library);
    *table = entry != NULL ? entry() : NULL;
    if (*table != NULL && (*table)->version == HYB_CUDA_TABLE_VERSION && (*table)->n_bytes == sizeof **table)
        return HYB_OK;
    hyb_status status =
        hyb_fail(ctx, HYB_ERROR_VERSION,
                 "%s is not a CUDA module of this library's version (%s): build both from the same sources", path,
                 hyb_version_string());
    dlclose(*library);
    return status;
#else
    (void)path;
    (void)library;
    (void)table;
    return hyb_fail(ctx, HYB_ERROR_UNSUPPORTED, "no CUDA module: this system has no dynamic loader");
#endif
}

/* What open failed with, and what can be done about it. */
static hyb_status fail_open(hyb_ctx *ctx, const hyb_cuda_table *table, int error, int32_t device) {
    hyb_status status = hyb_cuda_result(ctx, table, error, "open");
    if (status == HYB_ERROR_INVALID_ARGUMENT) return hyb_fail(ctx, status, "there is no CUDA device %d", (int)device);
    if (status == HYB_ERROR_UNSUPPORTED)
        return hyb_fail(ctx, status, "%s; is a GPU with a driver for CUDA 12 or later here?", ctx->last_error);
    return status;
}

hyb_status hyb_cuda_open(hyb_ctx *ctx, const char *library, int32_t device, hyb_cuda **cuda) {
    if (ctx == NULL || cuda == NULL)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_cuda_open: ctx and cuda must not be NULL");
    hyb_cuda draft = {.ctx = ctx};
    HYB_TRY(load(ctx, library, &draft.library, &draft.table));
    int error = draft.table->open(device, &draft.state);
    hyb_cuda *made = NULL;
    hyb_status status = HYB_OK;
    if (error != 0)
        status = fail_open(ctx, draft.table, error, device);
    else if ((made = hyb_alloc(ctx, 1, sizeof *made)) == NULL)
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a device's handle");
    if (status == HYB_OK) {
        *made = draft;
        *cuda = made;
    } else if (error == 0) {
        draft.table->close(draft.state);
    }
    return status;
}

void hyb_cuda_close(hyb_cuda *cuda) {
    if (cuda == NULL) return;
    cuda->table->close(cuda->state); /* the module stays: CUDA's own threads may run in it */
    hyb_free(cuda->ctx, cuda);
}

hyb_status hyb_cuda_get_info(hyb_cuda *cuda, hyb_cuda_info *info) {
    if (cuda == NULL || info == NULL)
        return hyb_fail(cuda ? cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_cuda_get_info: cuda and info must not be NULL");
    hyb_cuda_info found = {.struct_size = sizeof found, .is_emulated = cuda->table->is_emulated};
    hyb_cuda_info given = found;
    HYB_TRY(hyb_read_struct(cuda->ctx, "hyb_cuda_info", &given, info, sizeof given));
    HYB_TRY(HYB_CUDA_CALL(cuda, info, &found));
    size_t n_bytes = hyb_min_size(info->struct_size, sizeof found);
    found.struct_size = info->struct_size;
    memcpy(info, &found, n_bytes);
    return HYB_OK;
}

hyb_status hyb_cuda_self_test(hyb_cuda *cuda) {
    int passed = 0;
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(HYB_CUDA_CALL(cuda, self_test, &passed));
    if (passed) return HYB_OK;
    return hyb_fail(cuda->ctx, HYB_ERROR_UNSUPPORTED, "GPU, self_test: a kernel's result is wrong on this device");
}

/* ---- memory ---- */

hyb_status hyb_cuda_allocate(hyb_cuda *cuda, size_t n_bytes, hyb_device_address *address) {
    void *memory = NULL;
    if (cuda == NULL || address == NULL)
        return hyb_fail(cuda ? cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_cuda_allocate: cuda and address must not be NULL");
    HYB_TRY(HYB_CUDA_CALL(cuda, allocate, n_bytes, &memory));
    *address = (hyb_device_address)memory;
    return HYB_OK;
}

hyb_status hyb_cuda_release(hyb_cuda *cuda, hyb_device_address address) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    return HYB_CUDA_CALL(cuda, release, hyb_device_pointer(address));
}

static hyb_status check_copy(hyb_cuda *cuda, const char *name, const void *host, uintptr_t address, size_t n_bytes) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if ((host != NULL && address != 0) || n_bytes == 0) return HYB_OK;
    return hyb_fail(cuda->ctx, HYB_ERROR_INVALID_ARGUMENT, "%s: source and target must not be 0", name);
}

hyb_status hyb_cuda_upload(hyb_cuda *cuda, const void *source, size_t n_bytes, hyb_device_address target,
                           hyb_stream stream) {
    HYB_TRY(check_copy(cuda, "hyb_cuda_upload", source, target, n_bytes));
    return HYB_CUDA_CALL(cuda, upload, hyb_device_pointer(target), source, n_bytes, hyb_device_pointer(stream));
}

hyb_status hyb_cuda_download(hyb_cuda *cuda, hyb_device_address source, size_t n_bytes, void *target,
                             hyb_stream stream) {
    HYB_TRY(check_copy(cuda, "hyb_cuda_download", target, source, n_bytes));
    return HYB_CUDA_CALL(cuda, download, target, hyb_device_pointer(source), n_bytes, hyb_device_pointer(stream));
}

hyb_status hyb_cuda_copy(hyb_cuda *cuda, hyb_device_address source, size_t n_bytes, hyb_device_address target,
                         hyb_stream stream) {
    HYB_TRY(check_copy(cuda, "hyb_cuda_copy", hyb_device_pointer(source), target, n_bytes));
    return HYB_CUDA_CALL(cuda, copy, hyb_device_pointer(target), hyb_device_pointer(source), n_bytes,
                         hyb_device_pointer(stream));
}

hyb_status hyb_cuda_fill(hyb_cuda *cuda, hyb_device_address target, uint8_t value, size_t n_bytes, hyb_stream stream) {
    HYB_TRY(check_copy(cuda, "hyb_cuda_fill", cuda, target, n_bytes));
    return HYB_CUDA_CALL(cuda, fill, hyb_device_pointer(target), value, n_bytes, hyb_device_pointer(stream));
}

hyb_status hyb_cuda_synchronize(hyb_cuda *cuda, hyb_stream stream) {
    int not_finite = 0, malformed = 0;
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    HYB_TRY(HYB_CUDA_CALL(cuda, synchronize, hyb_device_pointer(stream), &not_finite, &malformed));
    if (not_finite)
        return hyb_fail(cuda->ctx, HYB_ERROR_NOT_FINITE, "GPU: a value that a kernel read, or a scale, is not finite");
    if (malformed)
        return hyb_fail(cuda->ctx, HYB_ERROR_FORMAT, "GPU: bytes or codes that a kernel read are not of their packing");
    return HYB_OK;
}

hyb_status hyb_cuda_timer_start(hyb_cuda *cuda, hyb_stream stream) {
    if (cuda == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    return HYB_CUDA_CALL(cuda, timer_start, hyb_device_pointer(stream));
}

hyb_status hyb_cuda_timer_stop(hyb_cuda *cuda, hyb_stream stream, double *seconds) {
    if (cuda == NULL || seconds == NULL)
        return hyb_fail(cuda ? cuda->ctx : NULL, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_cuda_timer_stop: cuda and seconds must not be NULL");
    return HYB_CUDA_CALL(cuda, timer_stop, hyb_device_pointer(stream), seconds);
}
