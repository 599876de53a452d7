/* module.cu - the module's table, and the device itself: opening it, memory, copies, waiting. */
#include <cstdio>
#include <cstring>
#include <new>

#include "gemm.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

/* ---- opening ---- */

static int allocate_flags(hyb_cuda_state *state) {
    void *flags = nullptr;
    HYB_CUDA_TRY(cudaMallocHost(&flags, 2 * sizeof(int)));
    state->not_finite = static_cast<volatile int *>(flags);
    state->malformed = state->not_finite + 1;
    *state->not_finite = *state->malformed = 0;
    return 0;
}

static int read_properties(hyb_cuda_state *state) {
    cudaDeviceProp properties;
    HYB_CUDA_TRY(cudaGetDeviceProperties(&properties, state->device));
    state->n_multiprocessors = properties.multiProcessorCount;
    state->capability = 10 * properties.major + properties.minor;
    state->l2_bytes = (size_t)properties.l2CacheSize;
    return 0;
}

int hyb_module_close(hyb_cuda_state *state) {
    hyb_device_scope scope(state);
    hyb_cuda_gemm_close(state);
    cudaFree(state->scratch);
    cudaFreeHost(const_cast<int *>(state->not_finite));
    for (cudaEvent_t event : state->timer)
        if (event != nullptr) cudaEventDestroy(event);
    cudaGetLastError();
    delete state;
    return 0;
}

int hyb_module_open(int32_t device, hyb_cuda_state **opened) {
    int n_devices = 0;
    HYB_CUDA_TRY(cudaGetDeviceCount(&n_devices));
    if (device < 0 || device >= n_devices) return cudaErrorInvalidDevice;
    hyb_cuda_state *state = new (std::nothrow) hyb_cuda_state();
    if (state == nullptr) return HYB_ERROR_OUT_OF_MEMORY;
    state->device = device;
    hyb_device_scope scope(state);
    int error = scope.error();
    if (error == 0) error = read_properties(state);
    if (error == 0) error = allocate_flags(state);
    if (error != 0) {
        hyb_module_close(state);
        return error;
    }
    *opened = state;
    return 0;
}

static hyb_status status_of(int error) {
    if (error < 0) return (hyb_status)error;
    switch (error) {
    case cudaErrorInvalidDevice:
        return HYB_ERROR_INVALID_ARGUMENT;
    case cudaErrorMemoryAllocation:
        return HYB_ERROR_OUT_OF_MEMORY;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
        return HYB_ERROR_UNSUPPORTED;
    default:
        return HYB_ERROR_DEVICE;
    }
}

int hyb_module_describe(int error, char *text, size_t capacity, hyb_status *status) {
    *status = status_of(error);
    snprintf(text, capacity, "%s", error < 0 ? "" : cudaGetErrorString((cudaError_t)error));
    return 0;
}

int hyb_module_info(hyb_cuda_state *state, hyb_cuda_info *info) {
    HYB_CUDA_BEGIN(state);
    cudaDeviceProp properties;
    size_t n_free = 0, total = 0;
    int driver = 0, runtime = 0;
    HYB_CUDA_TRY(cudaGetDeviceProperties(&properties, state->device));
    HYB_CUDA_TRY(cudaMemGetInfo(&n_free, &total));
    HYB_CUDA_TRY(cudaDriverGetVersion(&driver));
    HYB_CUDA_TRY(cudaRuntimeGetVersion(&runtime));
    snprintf(info->name, sizeof info->name, "%.127s", properties.name);
    info->capability_major = properties.major;
    info->capability_minor = properties.minor;
    info->n_multiprocessors = properties.multiProcessorCount;
    info->driver_version = driver;
    info->runtime_version = runtime;
    info->total_bytes = total;
    info->free_bytes = n_free;
    info->l2_bytes = state->l2_bytes;
    return 0;
}

/* ---- memory ---- */

/* CUDA remembers an error until it is asked for: a failed allocation must not show in the next launch. */
static int forget(int error) {
    if (error != 0) cudaGetLastError();
    return error;
}

int hyb_module_allocate(hyb_cuda_state *state, size_t n_bytes, void **memory) {
    HYB_CUDA_BEGIN(state);
    return forget(cudaMalloc(memory, n_bytes));
}

int hyb_module_release(hyb_cuda_state *state, void *memory) {
    HYB_CUDA_BEGIN(state);
    return forget(cudaFree(memory));
}

int hyb_cuda_scratch(hyb_cuda_state *state, size_t n_bytes, void **memory) {
    if (n_bytes > state->scratch_bytes) {
        cudaFree(state->scratch); /* waits for the kernels that use it */
        state->scratch = nullptr;
        state->scratch_bytes = 0;
        HYB_CUDA_TRY(forget(cudaMalloc(&state->scratch, n_bytes)));
        state->scratch_bytes = n_bytes;
    }
    *memory = state->scratch;
    return 0;
}

int hyb_module_upload(hyb_cuda_state *state, void *to, const void *host, size_t n_bytes, void *stream) {
    HYB_CUDA_BEGIN(state);
    return cudaMemcpyAsync(to, host, n_bytes, cudaMemcpyHostToDevice, (cudaStream_t)stream);
}

int hyb_module_download(hyb_cuda_state *state, void *host, const void *from, size_t n_bytes, void *stream) {
    HYB_CUDA_BEGIN(state);
    HYB_CUDA_TRY(cudaMemcpyAsync(host, from, n_bytes, cudaMemcpyDeviceToHost, (cudaStream_t)stream));
    return cudaStreamSynchronize((cudaStream_t)stream);
}

int hyb_module_copy(hyb_cuda_state *state, void *to, const void *from, size_t n_bytes, void *stream) {
    HYB_CUDA_BEGIN(state);
    return cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToDevice, (cudaStream_t)stream);
}

int hyb_module_fill(hyb_cuda_state *state, void *to, int value, size_t n_bytes, void *stream) {
    HYB_CUDA_BEGIN(state);
    return cudaMemsetAsync(to, value, n_bytes, (cudaStream_t)stream);
}

int hyb_module_synchronize(hyb_cuda_state *state, void *stream, int *not_finite, int *malformed) {
    HYB_CUDA_BEGIN(state);
    HYB_CUDA_TRY(cudaStreamSynchronize((cudaStream_t)stream));
    *not_finite = *state->not_finite;
    *malformed = *state->malformed;
    *state->not_finite = *state->malformed = 0;
    return 0;
}

/* ---- time ---- */

int hyb_module_timer_start(hyb_cuda_state *state, void *stream) {
    HYB_CUDA_BEGIN(state);
    for (cudaEvent_t &event : state->timer)
        if (event == nullptr) HYB_CUDA_TRY(cudaEventCreate(&event));
    return cudaEventRecord(state->timer[0], (cudaStream_t)stream);
}

int hyb_module_timer_stop(hyb_cuda_state *state, void *stream, double *seconds) {
    HYB_CUDA_BEGIN(state);
    float ms = 0;
    if (state->timer[1] == nullptr) return HYB_ERROR_STATE;
    HYB_CUDA_TRY(cudaEventRecord(state->timer[1], (cudaStream_t)stream));
    HYB_CUDA_TRY(cudaEventSynchronize(state->timer[1]));
    HYB_CUDA_TRY(cudaEventElapsedTime(&ms, state->timer[0], state->timer[1]));
    *seconds = (double)ms * 1e-3;
    return 0;
}

/* ---- self-test ---- */

namespace {

/* A block adds up 0 .. 255 through shared memory and exchanges, and shows whether products are rounded before a sum:
 * (1 + 2^-12)^2 - (1 + 2^-11) is 2^-24 exactly, and 0 if the square is rounded to a float first. */
__global__ void self_test_kernel(int *result, float a, float b) {
    int sum = hyb_sum_block((int)threadIdx.x);
    if (threadIdx.x != 0) return;
    result[0] = sum;
    result[1] = __float_as_int(a * a + b);
}

} // namespace

int hyb_module_self_test(hyb_cuda_state *state, int *passed) {
    HYB_CUDA_BEGIN(state);
    void *memory = nullptr;
    int found[2] = {0, 1};
    HYB_CUDA_TRY(hyb_cuda_scratch(state, sizeof found, &memory));
    int *result = static_cast<int *>(memory);
    HYB_LAUNCH(self_test_kernel, 1, 256, 0, nullptr, result, 1.0f + 0x1p-12f, -(1.0f + 0x1p-11f));
    HYB_CUDA_TRY(cudaGetLastError());
    HYB_CUDA_TRY(cudaMemcpy(found, memory, sizeof found, cudaMemcpyDeviceToHost));
    *passed = found[0] == 255 * 256 / 2 && found[1] == 0;
    return 0;
}

/* ---- the table ---- */

EXPORT const hyb_cuda_table *hyb_cuda_module(void) {
    static const hyb_cuda_table table = {HYB_CUDA_TABLE_VERSION, sizeof(hyb_cuda_table), HYB_EMULATED,
#define HYB_CUDA_POINTER(name, arguments) hyb_module_##name,
                                         HYB_CUDA_FUNCTIONS(HYB_CUDA_POINTER)
#undef HYB_CUDA_POINTER
    };
    return &table;
}
