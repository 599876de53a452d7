/* context.c - contexts: options and environment in, allocator, threads, tiers and kernel table out. */
#include <errno.h>
#include <stdlib.h>

#include "common.h"

/* A processor family's tiers, each with those below it. */
#define UP_TO_AVX2 ((uint32_t)HYB_ISA_AVX2)
#define UP_TO_AVX_VNNI (UP_TO_AVX2 | (uint32_t)HYB_ISA_AVX_VNNI)
#define UP_TO_AVX512 (UP_TO_AVX_VNNI | (uint32_t)HYB_ISA_AVX512 | (uint32_t)HYB_ISA_AVX512_VNNI)
#define UP_TO_LOOKUP (UP_TO_AVX512 | (uint32_t)HYB_ISA_AVX512_LOOKUP)
#define UP_TO_DOTPROD ((uint32_t)HYB_ISA_NEON | (uint32_t)HYB_ISA_NEON_DOTPROD)
#define UP_TO_I8MM (UP_TO_DOTPROD | (uint32_t)HYB_ISA_NEON_I8MM)

/* Every entry of the table has its place in the array of tiers. */
typedef char check_tier_array[HYB_KERNEL_COUNT <= sizeof((hyb_kernels *)0)->tier / sizeof(uint32_t) ? 1 : -1];

/* Number of threads that the environment asks for, or 1. */
static uint32_t environment_n_threads(const hyb_ctx *ctx) {
    const char *text = getenv("HYB_NUM_THREADS");
    if (text == NULL || *text == '\0') return 1;
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno == 0 && *end == '\0' && value >= 1 && value <= HYB_MAX_THREADS) return (uint32_t)value;
    hyb_log(ctx, HYB_LOG_WARNING, "HYB_NUM_THREADS is \"%.40s\", not a number from 1 to %d: ignored", text,
            HYB_MAX_THREADS);
    return 1;
}

/* Tiers that the environment permits. */
static uint32_t environment_isa(const hyb_ctx *ctx) {
    static const struct {
        const char *name;
        uint32_t mask;
    } choices[] = {{"scalar", 0},
                   {"avx2", UP_TO_AVX2},
                   {"avxvnni", UP_TO_AVX_VNNI},
                   {"avx512", UP_TO_AVX512},
                   {"lookup", UP_TO_LOOKUP},
                   {"neon", HYB_ISA_NEON},
                   {"dotprod", UP_TO_DOTPROD},
                   {"i8mm", UP_TO_I8MM}};
    const char *text = getenv("HYB_ISA");
    if (text == NULL || *text == '\0') return UINT32_MAX;
    for (size_t i = 0; i < sizeof choices / sizeof *choices; ++i)
        if (strcmp(text, choices[i].name) == 0) return choices[i].mask;
    hyb_log(ctx, HYB_LOG_WARNING,
            "HYB_ISA is \"%.40s\", not scalar, avx2, avxvnni, avx512, lookup, neon, dotprod or i8mm: ignored", text);
    return UINT32_MAX;
}

/* Tiers of a context: what there is, what the options allow, and what the environment allows. */
static uint32_t choose_isa(const hyb_ctx *ctx) {
    uint32_t allowed = ctx->options.isa_mask != 0 ? ctx->options.isa_mask : UINT32_MAX;
    uint32_t environment = environment_isa(ctx), form = allowed & environment & (uint32_t)HYB_ISA_AVX512_LOOKUP;
    int is_open = allowed == UINT32_MAX && environment == UINT32_MAX;
    if ((allowed & HYB_ISA_AVX512_LOOKUP) != 0) allowed |= HYB_ISA_AVX512_VNNI;
    if ((allowed & HYB_ISA_AVX512_VNNI) != 0) allowed |= HYB_ISA_AVX512;
    if ((allowed & HYB_ISA_AVX512) != 0) allowed |= HYB_ISA_AVX_VNNI;
    if ((allowed & HYB_ISA_AVX_VNNI) != 0) allowed |= HYB_ISA_AVX2;
    if ((allowed & HYB_ISA_NEON_I8MM) != 0) allowed |= HYB_ISA_NEON_DOTPROD;
    if ((allowed & HYB_ISA_NEON_DOTPROD) != 0) allowed |= HYB_ISA_NEON;
    uint32_t isa = hyb_isa_detect() & allowed & environment;
    if ((isa & HYB_ISA_AVX512_VNNI) == 0) return isa;
#if HYB_X86
    if (is_open && !hyb_lookup512_is_faster()) return isa;
#endif
    (void)is_open;
    return isa | form;
}

static hyb_status check_options(hyb_ctx *ctx) {
    hyb_ctx_options *options = &ctx->options;
    if ((options->allocate == NULL) != (options->release == NULL))
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT,
                        "hyb_ctx_options: %s is NULL; give both allocate and release, or neither",
                        options->allocate == NULL ? "allocate" : "release");
    if (options->allocate == NULL) hyb_default_allocator(options);
    if (options->n_threads > HYB_MAX_THREADS)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "hyb_ctx_options: n_threads is %lu; give 0 to %d",
                        (unsigned long)options->n_threads, HYB_MAX_THREADS);
    return HYB_OK;
}

hyb_status hyb_ctx_create(const hyb_ctx_options *options, hyb_ctx **ctx) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    hyb_ctx draft; /* on the stack until it is known how to allocate */
    memset(&draft, 0, sizeof draft);
    hyb_status status = HYB_OK;
    if (options != NULL)
        status = hyb_read_struct(&draft, "hyb_ctx_options", &draft.options, options, sizeof draft.options);
    if (status == HYB_OK) status = check_options(&draft);
    if (status != HYB_OK) { /* no context, so no hyb_ctx_last_error: the log callback gets the detail */
        hyb_log(&draft, HYB_LOG_WARNING, "%s", draft.last_error);
        return status;
    }
    draft.options.struct_size = sizeof draft.options;
    if (draft.options.n_threads == 0) draft.options.n_threads = environment_n_threads(&draft);
    draft.isa = choose_isa(&draft);
    hyb_kernels_select(&draft.kernels, draft.isa);
    hyb_ctx *made = hyb_alloc(&draft, 1, sizeof *made);
    if (made == NULL) return HYB_ERROR_OUT_OF_MEMORY;
    *made = draft;
    *ctx = made;
    return HYB_OK;
}

void hyb_ctx_destroy(hyb_ctx *ctx) {
    if (ctx == NULL) return;
    hyb_pool_destroy(ctx);
    hyb_free(ctx, ctx->scratch);
    hyb_free(ctx, ctx);
}

const char *hyb_ctx_last_error(const hyb_ctx *ctx) { return ctx != NULL ? ctx->last_error : ""; }

uint32_t hyb_ctx_n_threads(const hyb_ctx *ctx) { return ctx != NULL ? ctx->options.n_threads : 0; }

hyb_status hyb_ctx_set_n_threads(hyb_ctx *ctx, uint32_t n_threads) {
    if (ctx == NULL) return HYB_ERROR_INVALID_ARGUMENT;
    if (n_threads < 1 || n_threads > HYB_MAX_THREADS)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "n_threads is %lu; give 1 to %d", (unsigned long)n_threads,
                        HYB_MAX_THREADS);
    if (n_threads == ctx->options.n_threads) return HYB_OK;
    hyb_pool_destroy(ctx); /* started again, with the new number, by the next parallel call */
    ctx->options.n_threads = n_threads;
    return HYB_OK;
}

uint32_t hyb_ctx_isa(const hyb_ctx *ctx) { return ctx != NULL ? ctx->isa : 0; }

#define TEXT_OF(value) #value
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

const char *hyb_version_string(void) { return VERSION_TEXT(HYB_VERSION_MAJOR, HYB_VERSION_MINOR, HYB_VERSION_PATCH); }

uint32_t hyb_abi_version(void) { return HYB_ABI_VERSION; }
