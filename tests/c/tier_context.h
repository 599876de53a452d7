/* tier_context.h - a context that may use some tiers only (0: all), with so many threads. */
#ifndef HYB_TEST_TIER_CONTEXT_H
#define HYB_TEST_TIER_CONTEXT_H

#include <hybrid/base.h>

#include "testing.h"

static hyb_ctx *make_ctx(uint32_t isa_mask, uint32_t n_threads) {
    hyb_ctx_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.isa_mask = isa_mask;
    options.n_threads = n_threads;
    hyb_ctx *ctx = NULL;
    CHECK_OK(hyb_ctx_create(&options, &ctx));
    return ctx;
}

#endif /* HYB_TEST_TIER_CONTEXT_H */
