/* status.c - statuses in words, the detail of the last error, log messages, and reading of extensible structs.
 * Every public function reports through hyb_fail.
 */
#include <stdarg.h>
#include <stdio.h>

#include "common.h"

/* Longest struct_size that is believed: anything beyond is a struct that was never initialised. */
#define MAX_STRUCT_BYTES 4096

const char *hyb_status_string(hyb_status status) {
    switch (status) {
    case HYB_OK:
        return "ok";
    case HYB_ERROR_INVALID_ARGUMENT:
        return "invalid argument";
    case HYB_ERROR_STRUCT_SIZE:
        return "struct of an unknown size";
    case HYB_ERROR_OUT_OF_MEMORY:
        return "out of memory";
    case HYB_ERROR_TOO_SMALL:
        return "buffer too small";
    case HYB_ERROR_UNSUPPORTED:
        return "unsupported";
    case HYB_ERROR_NOT_FINITE:
        return "not finite";
    case HYB_ERROR_IO:
        return "input or output failed";
    case HYB_ERROR_FORMAT:
        return "malformed file";
    case HYB_ERROR_TRUNCATED:
        return "truncated file";
    case HYB_ERROR_CHECKSUM:
        return "checksum mismatch";
    case HYB_ERROR_VERSION:
        return "newer format version";
    case HYB_ERROR_STATE:
        return "called in the wrong order";
    case HYB_ERROR_CANCELLED:
        return "cancelled";
    case HYB_ERROR_THREAD:
        return "no thread available";
    case HYB_ERROR_DEVICE:
        return "device failed";
    }
    return "unknown status";
}

hyb_status hyb_fail(hyb_ctx *ctx, hyb_status status, const char *format, ...) {
    if (ctx == NULL) return status;
    /* Written aside first: an argument may be the detail of the error that led to this one. */
    char detail[sizeof ctx->last_error];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    memcpy(ctx->last_error, detail, sizeof detail);
    return status;
}

void hyb_log(const hyb_ctx *ctx, hyb_log_level level, const char *format, ...) {
    if (ctx == NULL || ctx->options.log == NULL) return;
    char message[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    ctx->options.log(ctx->options.log_user, (int)level, message);
}

hyb_status hyb_read_struct(hyb_ctx *ctx, const char *name, void *target, const void *given, size_t known_bytes) {
    size_t n_bytes;
    memcpy(&n_bytes, given, sizeof n_bytes);
    if (n_bytes < sizeof n_bytes || n_bytes > MAX_STRUCT_BYTES)
        return hyb_fail(ctx, HYB_ERROR_STRUCT_SIZE, "%s.struct_size is %lu; set it to sizeof(%s), which is %lu", name,
                        (unsigned long)n_bytes, name, (unsigned long)known_bytes);
    const unsigned char *bytes = given;
    for (size_t i = known_bytes; i < n_bytes; ++i)
        if (bytes[i] != 0)
            return hyb_fail(ctx, HYB_ERROR_STRUCT_SIZE,
                            "%s has %lu bytes and a non-zero byte at %lu, but this library knows %lu: leave the newer "
                            "fields zero or update the library",
                            name, (unsigned long)n_bytes, (unsigned long)i, (unsigned long)known_bytes);
    memcpy(target, given, hyb_min_size(n_bytes, known_bytes));
    memcpy(target, &known_bytes, sizeof known_bytes); /* the target is complete now */
    return HYB_OK;
}
