/* alloc.c - memory of a context: its allocator, overflow-checked sizes, and the work memory that calls share.
 * Everything that the library allocates passes through here, so a caller's allocator sees all of it.
 */
#define _DEFAULT_SOURCE /* posix_memalign, madvise */
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common.h"

/* Work memory grows in steps, so that slowly growing requests do not allocate each time. */
#define SCRATCH_STEP 4096

/* Large blocks ask for huge pages: rows far apart then cost few address translations. */
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

static void *default_allocate(void *user, size_t n_bytes, size_t alignment) {
    void *memory = NULL;
    (void)user;
#if defined(MADV_HUGEPAGE)
    if (n_bytes >= 2 * HUGE_PAGE_BYTES) {
        if (posix_memalign(&memory, HUGE_PAGE_BYTES, n_bytes) != 0) return NULL;
        (void)madvise(memory, n_bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES, MADV_HUGEPAGE); /* a hint: may fail */
        return memory;
    }
#endif
    return posix_memalign(&memory, alignment, n_bytes) == 0 ? memory : NULL;
}

static void default_release(void *user, void *memory) {
    (void)user;
    free(memory);
}

void hyb_default_allocator(hyb_ctx_options *options) {
    options->allocate = default_allocate;
    options->release = default_release;
    options->allocator_user = NULL;
}

void *hyb_alloc(hyb_ctx *ctx, size_t n, size_t size) {
    if (hyb_mul_overflows(n, size) || n * size > PTRDIFF_MAX) return NULL;
    size_t n_bytes = n * size;
    return ctx->options.allocate(ctx->options.allocator_user, n_bytes != 0 ? n_bytes : 1, HYB_CACHE_LINE);
}

void *hyb_alloc_zeroed(hyb_ctx *ctx, size_t n, size_t size) {
    void *memory = hyb_alloc(ctx, n, size);
    if (memory != NULL && n * size != 0) memset(memory, 0, n * size);
    return memory;
}

void hyb_free(hyb_ctx *ctx, void *memory) {
    if (memory != NULL) ctx->options.release(ctx->options.allocator_user, memory);
}

void *hyb_scratch(hyb_ctx *ctx, size_t n_bytes) {
    if (ctx->scratch != NULL && n_bytes <= ctx->scratch_bytes) return ctx->scratch;
    if (n_bytes > PTRDIFF_MAX - SCRATCH_STEP) return NULL;
    size_t wanted = hyb_round_up(n_bytes != 0 ? n_bytes : 1, SCRATCH_STEP);
    /* Nothing in it outlives a call: released first, so that old and new never exist together. */
    hyb_free(ctx, ctx->scratch);
    ctx->scratch = hyb_alloc(ctx, wanted, 1);
    ctx->scratch_bytes = ctx->scratch != NULL ? wanted : 0;
    return ctx->scratch;
}
