/* failing_allocator.h - an allocator that fails at the n-th call, and counts what is not given back. */
#ifndef HYB_FAILING_ALLOCATOR_H
#define HYB_FAILING_ALLOCATOR_H

#include <stdlib.h>

#include <hybrid/base.h>

typedef struct failing {
    long countdown;
    long live;
} failing;

static inline void *failing_allocate(void *user, size_t bytes, size_t alignment) {
    failing *f = user;
    void *memory = NULL;
    if (f->countdown-- == 0) return NULL;
    if (posix_memalign(&memory, alignment, bytes ? bytes : 1) != 0) return NULL;
    f->live++;
    return memory;
}
static inline void failing_release(void *user, void *memory) {
    if (memory != NULL) ((failing *)user)->live--;
    free(memory);
}

/* A context of two threads with this allocator. */
static inline hyb_status make_failing_ctx(failing *f, hyb_ctx **ctx) {
    hyb_ctx_options options = {.struct_size = sizeof options,
                               .allocate = failing_allocate,
                               .release = failing_release,
                               .allocator_user = f,
                               .n_threads = 2};
    return hyb_ctx_create(&options, ctx);
}

#endif /* HYB_FAILING_ALLOCATOR_H */
