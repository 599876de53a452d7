/* test_limits.c - the machine's limits: sane figures in every tier, caches no slower than memory, and bad input. */
#include "testing.h"

#include <hybrid/limits.h>

#include "tier_context.h"

static const uint32_t isa_masks[] = {HYB_ISA_MASK_SCALAR, HYB_ISA_AVX2, 0};

static double measure(hyb_ctx *ctx, hyb_limit limit, size_t n_bytes) {
    double figure = -1;
    CHECK_OK(hyb_limits_measure(ctx, limit, n_bytes, &figure));
    CHECK(figure > 1e6 && figure < 1e16); /* no processor is outside, emulated ones included */
    CHECK(hyb_limits_method(ctx, limit)[0] != 0);
    return figure;
}

/* L1 is 3 to 20 times as fast as memory. Where other programs take the processor during a measurement, the next one
 * counts. */
static void test_limits_are_sane(uint32_t isa_mask, uint32_t n_threads) {
    hyb_ctx *ctx = make_ctx(isa_mask, n_threads);
    double l1 = measure(ctx, HYB_LIMIT_READ, (size_t)16384 * n_threads);
    double dram = measure(ctx, HYB_LIMIT_READ, (size_t)64 << 20);
    double copy = measure(ctx, HYB_LIMIT_COPY, (size_t)64 << 20);
    double fma = measure(ctx, HYB_LIMIT_FMA_F32, 0);
    double product = measure(ctx, HYB_LIMIT_PRODUCT_I8, 0);
    for (int i = 0; i < 8 && l1 <= dram / 2; ++i) {
        l1 = measure(ctx, HYB_LIMIT_READ, (size_t)16384 * n_threads);
        dram = measure(ctx, HYB_LIMIT_READ, (size_t)64 << 20);
    }
    CHECK(l1 > dram / 2);
    printf("  isa %08x, %u thread(s): read L1 %.1f, DRAM %.1f, copy %.1f GB/s; fp32 %.1f, int8 %.1f Gop/s (%s)\n",
           (unsigned)hyb_ctx_isa(ctx), (unsigned)n_threads, l1 / 1e9, dram / 1e9, copy / 1e9, fma / 1e9, product / 1e9,
           hyb_limits_method(ctx, HYB_LIMIT_PRODUCT_I8));
    hyb_ctx_destroy(ctx);
}

static void test_limits_errors(void) {
    hyb_ctx *ctx = make_ctx(0, 2);
    double figure = -1;
    CHECK_STATUS(hyb_limits_measure(NULL, HYB_LIMIT_READ, 65536, &figure), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_limits_measure(ctx, HYB_LIMIT_READ, 65536, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_limits_measure(ctx, (hyb_limit)0, 65536, &figure), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_limits_measure(ctx, (hyb_limit)5, 65536, &figure), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_limits_measure(ctx, HYB_LIMIT_READ, 4096, &figure), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_limits_measure(ctx, HYB_LIMIT_COPY, 0, &figure), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(figure < 0 && hyb_limits_method(ctx, (hyb_limit)5)[0] == 0);
    hyb_ctx_destroy(ctx);
}

int main(void) {
    for (size_t i = 0; i < sizeof isa_masks / sizeof *isa_masks; ++i) test_limits_are_sane(isa_masks[i], 1);
    test_limits_are_sane(0, 2);
    test_limits_errors();
    return TEST_RESULT();
}
