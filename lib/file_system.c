/* file_system.c - reading a file, and replacing one at once: the only part of the library that asks the operating
 * system for files. POSIX calls where they exist; plain C streams elsewhere, which cannot flush to the disk and, where
 * rename does not replace, leave a moment without the file. -DHYB_STDIO_FILES chooses the streams, for tests.
 */
#if !defined(HYB_STDIO_FILES) && (defined(__unix__) || defined(__APPLE__))
#define POSIX_FILES 1
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#if !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64 /* files above 2 GiB on 32-bit hosts */
#endif
#else
#define POSIX_FILES 0
#endif

#include "file_system.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>

#if POSIX_FILES
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

/* Bytes of a path that a detail shows: the rest of the line is for the words. */
#define PATH_SHOWN 120

hyb_status hyb_fail_path(hyb_ctx *ctx, hyb_status status, const char *path, const char *what) {
    size_t n = strlen(path);
    const char *shown = path;
    if (n > PATH_SHOWN) {
        shown = path + (n - PATH_SHOWN);
        while (((unsigned char)*shown & 0xc0) == 0x80) ++shown; /* not inside a UTF-8 character */
    }
    return hyb_fail(ctx, status, "%s%s: %s", shown != path ? "..." : "", shown, what);
}

hyb_status hyb_fail_file(hyb_ctx *ctx, hyb_status status, const char *path) {
    char detail[sizeof ctx->last_error];
    (void)snprintf(detail, sizeof detail, "%s", hyb_ctx_last_error(ctx));
    return hyb_fail_path(ctx, status, path, detail);
}

/* IO, with "path: cannot <verb>: <the system's words for code>". */
static hyb_status fail_system(hyb_ctx *ctx, const char *path, const char *verb, int code) {
    char what[128];
    (void)snprintf(what, sizeof what, "cannot %s: %s", verb, code != 0 ? strerror(code) : "unknown reason");
    return hyb_fail_path(ctx, HYB_ERROR_IO, path, what);
}

static hyb_status fail_short(const hyb_input *input) {
    return hyb_fail(input->ctx, HYB_ERROR_TRUNCATED, "the file became shorter while it was read");
}

/* `path` with a suffix that no file beside it has, in memory of the context. Attempt 0 is the usual one. */
#define SUFFIX_BYTES 48
static char *new_temporary(hyb_ctx *ctx, const char *path) { return hyb_alloc(ctx, strlen(path) + SUFFIX_BYTES, 1); }

#if POSIX_FILES

/* ---- reading ---- */

static hyb_status fail_kind(hyb_ctx *ctx, const char *path, mode_t mode) {
    if (S_ISDIR(mode)) return fail_system(ctx, path, "use", EISDIR);
    return hyb_fail_path(ctx, HYB_ERROR_IO, path, "not a regular file");
}

hyb_status hyb_input_open(hyb_ctx *ctx, const char *path, hyb_input *input) {
    struct stat status;
    *input = (hyb_input){.ctx = ctx, .path = path, .descriptor = -1};
    do { /* without O_NONBLOCK a named pipe would wait for a writer here */
        input->descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    } while (input->descriptor < 0 && errno == EINTR);
    if (input->descriptor < 0) return fail_system(ctx, path, "open", errno);
    hyb_status result = HYB_OK;
    if (fstat(input->descriptor, &status) != 0)
        result = fail_system(ctx, path, "look at", errno);
    else if (!S_ISREG(status.st_mode))
        result = fail_kind(ctx, path, status.st_mode);
    else
        input->n_bytes = (uint64_t)status.st_size;
    if (result != HYB_OK) hyb_input_close(input);
    return result;
}

static hyb_status read_file(const hyb_input *input, uint64_t offset, uint8_t *to, size_t n_bytes) {
    while (n_bytes > 0) {
        /* Some systems refuse, or cut, requests of 2 GiB and more. */
        ssize_t n = pread(input->descriptor, to, hyb_min_size(n_bytes, (size_t)1 << 30), (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_system(input->ctx, input->path, "read", errno);
        if (n == 0) return fail_short(input);
        to += n;
        offset += (uint64_t)n;
        n_bytes -= (size_t)n;
    }
    return HYB_OK;
}

void hyb_input_close(hyb_input *input) {
    if (input->descriptor >= 0) (void)close(input->descriptor);
    input->descriptor = -1;
}

/* ---- replacing ---- */

hyb_status hyb_output_begin(hyb_ctx *ctx, const char *path, hyb_output *output) {
    struct stat old;
    *output = (hyb_output){.ctx = ctx, .path = path, .descriptor = -1};
    /* A rename would silently replace a device or a pipe by a file. */
    if (stat(path, &old) == 0 && !S_ISREG(old.st_mode)) return fail_kind(ctx, path, old.st_mode);
    output->temporary = new_temporary(ctx, path);
    if (output->temporary == NULL) return hyb_fail_path(ctx, HYB_ERROR_OUT_OF_MEMORY, path, "no memory for its name");
    int code = EEXIST;
    /* A name may be taken: by another thread, or by a process that was killed and had our number. */
    for (int attempt = 0; attempt < 100 && output->descriptor < 0 && (code == EEXIST || code == EINTR); ++attempt) {
        char suffix[SUFFIX_BYTES];
        if (attempt == 0)
            (void)snprintf(suffix, sizeof suffix, ".tmp.%ld", (long)getpid());
        else
            (void)snprintf(suffix, sizeof suffix, ".tmp.%ld.%d", (long)getpid(), attempt);
        (void)snprintf(output->temporary, strlen(path) + SUFFIX_BYTES, "%s%s", path, suffix);
        output->descriptor = open(output->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666);
        if (output->descriptor < 0) code = errno;
    }
    if (output->descriptor >= 0) return HYB_OK;
    hyb_status status = fail_system(ctx, output->temporary, "create", code);
    hyb_free(ctx, output->temporary);
    output->temporary = NULL;
    return status;
}

hyb_status hyb_output_write(hyb_output *output, const void *bytes, size_t n_bytes) {
    const uint8_t *from = bytes;
    while (n_bytes > 0) {
        ssize_t n = write(output->descriptor, from, hyb_min_size(n_bytes, (size_t)1 << 30));
        if (n < 0 && errno == EINTR) continue;
        /* A write of 0 bytes would repeat for ever; POSIX has no such answer for regular files. */
        if (n <= 0) return fail_system(output->ctx, output->path, "write", n < 0 ? errno : ENOSPC);
        from += n;
        n_bytes -= (size_t)n;
    }
    return HYB_OK;
}

hyb_status hyb_output_rewind(hyb_output *output) {
    if (lseek(output->descriptor, 0, SEEK_SET) != 0) return fail_system(output->ctx, output->path, "seek in", errno);
    return HYB_OK;
}

/* 0, or errno. */
static int flush_to_disk(int descriptor) {
#if defined(F_FULLFSYNC) /* macOS: fsync alone leaves the bytes in the drive's cache */
    if (fcntl(descriptor, F_FULLFSYNC) == 0) return 0;
#endif
    while (fsync(descriptor) != 0)
        if (errno != EINTR) return errno;
    return 0;
}

/* Makes the rename last through a power loss. 0, or errno; where the folder may not be opened, or the file system
 * cannot flush one, there is nothing more to do. */
static int flush_folder(char *path) {
    char *slash = strrchr(path, '/');
    const char *folder = slash == NULL ? "." : slash == path ? "/" : path;
    if (slash != NULL) *slash = '\0';
    int descriptor = open(folder, O_RDONLY | O_CLOEXEC), code = 0;
    if (descriptor < 0) return 0;
    code = flush_to_disk(descriptor);
    (void)close(descriptor);
    return code == EIO ? code : 0;
}

hyb_status hyb_output_commit(hyb_output *output) {
    const char *verb = "flush";
    int code = flush_to_disk(output->descriptor);
    int closed = close(output->descriptor);
    output->descriptor = -1;
    if (code == 0 && closed != 0 && errno != EINTR) code = errno;
    if (code == 0 && rename(output->temporary, output->path) != 0) {
        verb = "replace";
        code = errno;
    }
    if (code != 0) {
        hyb_output_abort(output);
        return fail_system(output->ctx, output->path, verb, code);
    }
    code = flush_folder(output->temporary);
    hyb_free(output->ctx, output->temporary);
    output->temporary = NULL;
    if (code != 0) return fail_system(output->ctx, output->path, "flush the folder of the new file", code);
    return HYB_OK;
}

void hyb_output_abort(hyb_output *output) {
    if (output->descriptor >= 0) (void)close(output->descriptor);
    (void)unlink(output->temporary);
    hyb_free(output->ctx, output->temporary);
    *output = (hyb_output){.ctx = output->ctx, .path = output->path, .descriptor = -1};
}

#else /* plain C streams */

/* ---- reading ---- */

hyb_status hyb_input_open(hyb_ctx *ctx, const char *path, hyb_input *input) {
    *input = (hyb_input){.ctx = ctx, .path = path, .descriptor = -1};
    errno = 0;
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) return fail_system(ctx, path, "open", errno);
    long end = -1;
    if (fseek(stream, 0, SEEK_END) == 0) end = ftell(stream);
    /* Systems that open folders give them the largest length. */
    if (end < 0 || end == LONG_MAX) {
        int code = errno;
        (void)fclose(stream);
        return fail_system(ctx, path, "measure", code);
    }
    input->stream = stream;
    input->n_bytes = (uint64_t)end;
    return HYB_OK;
}

static hyb_status read_file(const hyb_input *input, uint64_t offset, uint8_t *to, size_t n_bytes) {
    FILE *stream = input->stream;
    errno = 0;
    /* A long holds every offset: the length came from ftell. */
    if (fseek(stream, (long)offset, SEEK_SET) != 0) return fail_system(input->ctx, input->path, "seek in", errno);
    if (fread(to, 1, n_bytes, stream) == n_bytes) return HYB_OK;
    return ferror(stream) ? fail_system(input->ctx, input->path, "read", errno) : fail_short(input);
}

void hyb_input_close(hyb_input *input) {
    if (input->stream != NULL) (void)fclose(input->stream);
    input->stream = NULL;
}

/* ---- replacing ---- */

hyb_status hyb_output_begin(hyb_ctx *ctx, const char *path, hyb_output *output) {
    *output = (hyb_output){.ctx = ctx, .path = path, .descriptor = -1};
    output->temporary = new_temporary(ctx, path);
    if (output->temporary == NULL) return hyb_fail_path(ctx, HYB_ERROR_OUT_OF_MEMORY, path, "no memory for its name");
    (void)snprintf(output->temporary, strlen(path) + SUFFIX_BYTES, "%s.tmp", path);
    errno = 0;
    output->stream = fopen(output->temporary, "wb");
    if (output->stream != NULL) return HYB_OK;
    hyb_status status = fail_system(ctx, output->temporary, "create", errno);
    hyb_free(ctx, output->temporary);
    output->temporary = NULL;
    return status;
}

hyb_status hyb_output_write(hyb_output *output, const void *bytes, size_t n_bytes) {
    errno = 0;
    if (fwrite(bytes, 1, n_bytes, output->stream) == n_bytes) return HYB_OK;
    return fail_system(output->ctx, output->path, "write", errno);
}

hyb_status hyb_output_rewind(hyb_output *output) {
    errno = 0;
    if (fseek(output->stream, 0, SEEK_SET) == 0) return HYB_OK;
    return fail_system(output->ctx, output->path, "seek in", errno);
}

hyb_status hyb_output_commit(hyb_output *output) {
    errno = 0;
    int failed = fclose(output->stream), code = errno;
    output->stream = NULL;
    /* Where rename does not replace, the old file must go first. */
    if (!failed && rename(output->temporary, output->path) != 0) {
        (void)remove(output->path);
        failed = rename(output->temporary, output->path);
        code = errno;
    }
    if (failed) {
        hyb_output_abort(output);
        return fail_system(output->ctx, output->path, "write", code);
    }
    hyb_free(output->ctx, output->temporary);
    output->temporary = NULL;
    return HYB_OK;
}

void hyb_output_abort(hyb_output *output) {
    if (output->stream != NULL) (void)fclose(output->stream);
    (void)remove(output->temporary);
    hyb_free(output->ctx, output->temporary);
    *output = (hyb_output){.ctx = output->ctx, .path = output->path, .descriptor = -1};
}

#endif

/* ---- either ---- */

hyb_status hyb_input_read(const hyb_input *input, uint64_t offset, void *bytes, size_t n_bytes) {
    if (input->bytes == NULL) return read_file(input, offset, bytes, n_bytes);
    memcpy(bytes, input->bytes + offset, n_bytes);
    return HYB_OK;
}
