/* test_device.c - loading the module, opening a device, memory, and what goes wrong there. */
#include "cuda_fixture.h"

static int is_emulated(fixture *f) {
    hyb_cuda_info info = {.struct_size = sizeof info};
    CHECK_STATUS(hyb_cuda_get_info(f->cuda, &info), HYB_OK);
    return info.is_emulated;
}

static void test_device_info(void) {
    fixture f = open_fixture();
    hyb_cuda_info info = {.struct_size = sizeof info};
    CHECK_STATUS(hyb_cuda_get_info(f.cuda, &info), HYB_OK);
    CHECK(info.name[0] != '\0' && info.n_multiprocessors > 0 && info.capability_major > 0);
    CHECK(info.total_bytes >= info.free_bytes && info.struct_size == sizeof info);
    fprintf(stderr, "device: %s\n", info.name);
    info.struct_size = 0;
    CHECK_STATUS(hyb_cuda_get_info(f.cuda, &info), HYB_ERROR_STRUCT_SIZE);
    CHECK_STATUS(hyb_cuda_get_info(f.cuda, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_get_info(NULL, &info), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_self_test(f.cuda), HYB_OK);
    CHECK_STATUS(hyb_cuda_self_test(NULL), HYB_ERROR_INVALID_ARGUMENT);
    close_fixture(&f);
    hyb_cuda_close(NULL);
}

static void test_device_memory(void) {
    fixture f = open_fixture();
    unsigned char bytes[1000], back[1000];
    for (size_t i = 0; i < sizeof bytes; ++i) bytes[i] = (unsigned char)(i * 7);
    hyb_device_address a = on_device(&f, bytes, sizeof bytes);
    CHECK(a != 0 && a % 256 == 0);
    from_device(&f, a, back, sizeof back);
    CHECK(memcmp(bytes, back, sizeof bytes) == 0);
    CHECK_STATUS(hyb_cuda_fill(f.cuda, a, 9, 10, 0), HYB_OK);
    from_device(&f, a, back, sizeof back);
    CHECK(back[0] == 9 && back[9] == 9 && back[10] == bytes[10]);
    hyb_device_address copy = on_device(&f, NULL, sizeof bytes);
    CHECK_STATUS(hyb_cuda_copy(f.cuda, a, sizeof bytes, copy, 0), HYB_OK);
    from_device(&f, copy, bytes, sizeof bytes);
    CHECK(memcmp(bytes, back, sizeof bytes) == 0);
    CHECK_STATUS(hyb_cuda_copy(f.cuda, a, 4, 0, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_release(f.cuda, copy), HYB_OK);
    CHECK_STATUS(hyb_cuda_synchronize(f.cuda, 0), HYB_OK);
    CHECK_STATUS(hyb_cuda_upload(f.cuda, NULL, 4, a, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_download(f.cuda, 0, 4, back, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_fill(f.cuda, 0, 0, 4, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_upload(f.cuda, NULL, 0, 0, 0), HYB_OK);
    CHECK_STATUS(hyb_cuda_upload(NULL, bytes, 4, a, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_synchronize(NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_release(f.cuda, a), HYB_OK);
    CHECK_STATUS(hyb_cuda_release(f.cuda, 0), HYB_OK);
    CHECK_STATUS(hyb_cuda_release(NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_allocate(f.cuda, 0, &a), HYB_OK);
    CHECK(a == 0);
    CHECK_STATUS(hyb_cuda_allocate(f.cuda, 4, NULL), HYB_ERROR_INVALID_ARGUMENT);
    close_fixture(&f);
}

static void test_device_timer(void) {
    fixture f = open_fixture();
    double seconds = -1;
    CHECK_STATUS(hyb_cuda_timer_stop(f.cuda, 0, &seconds), HYB_ERROR_STATE);
    CHECK_STATUS(hyb_cuda_timer_start(f.cuda, 0), HYB_OK);
    CHECK_STATUS(hyb_cuda_self_test(f.cuda), HYB_OK);
    CHECK_STATUS(hyb_cuda_timer_stop(f.cuda, 0, &seconds), HYB_OK);
    CHECK(seconds > 0 && seconds < 100);
    CHECK_STATUS(hyb_cuda_timer_stop(f.cuda, 0, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_timer_start(NULL, 0), HYB_ERROR_INVALID_ARGUMENT);
    close_fixture(&f);
}

/* More memory than any device has: a status, and the device works on. */
static void test_device_out_of_memory(void) {
    fixture f = open_fixture();
    hyb_device_address a = 1;
    CHECK_STATUS(hyb_cuda_allocate(f.cuda, (size_t)1 << 50, &a), HYB_ERROR_OUT_OF_MEMORY);
    CHECK(a == 1 && strstr(hyb_ctx_last_error(f.ctx), "allocate") != NULL);
    CHECK_STATUS(hyb_cuda_self_test(f.cuda), HYB_OK);
    close_fixture(&f);
}

static void test_device_absent(void) {
    fixture f = open_fixture();
    hyb_cuda *none = (hyb_cuda *)(uintptr_t)8, *before = none;
    CHECK_STATUS(hyb_cuda_open(f.ctx, NULL, 999, &none), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(f.ctx), "999") != NULL);
    CHECK_STATUS(hyb_cuda_open(f.ctx, NULL, -1, &none), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_open(f.ctx, "/no/such/module.so", 0, &none), HYB_ERROR_UNSUPPORTED);
    CHECK(strstr(hyb_ctx_last_error(f.ctx), "/no/such/module.so") != NULL);
    CHECK_STATUS(hyb_cuda_open(NULL, NULL, 0, &none), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_cuda_open(f.ctx, NULL, 0, NULL), HYB_ERROR_INVALID_ARGUMENT);
    if (is_emulated(&f)) {
        setenv("HYB_EMULATION_DEVICES", "0", 1);
        CHECK_STATUS(hyb_cuda_open(f.ctx, NULL, 0, &none), HYB_ERROR_UNSUPPORTED);
        CHECK(strstr(hyb_ctx_last_error(f.ctx), "no CUDA-capable device") != NULL);
        unsetenv("HYB_EMULATION_DEVICES");
    }
    CHECK(none == before);
    close_fixture(&f);
}

/* A library that is no module of ours. */
static void test_device_foreign_library(void) {
    hyb_ctx *ctx = NULL;
    hyb_cuda *none = NULL;
    CHECK_STATUS(hyb_ctx_create(NULL, &ctx), HYB_OK);
    CHECK_STATUS(hyb_cuda_open(ctx, "libc.so.6", 0, &none), HYB_ERROR_VERSION);
    CHECK(none == NULL && strstr(hyb_ctx_last_error(ctx), "libc.so.6") != NULL);
    hyb_ctx_destroy(ctx);
}

int main(void) {
    test_device_info();
    test_device_memory();
    test_device_timer();
    test_device_out_of_memory();
    test_device_absent();
    test_device_foreign_library();
    return TEST_RESULT();
}
