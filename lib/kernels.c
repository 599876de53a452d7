/* kernels.c - fills a context's table of hot functions: the reference first, then the best that its tiers allow. */
#include "common.h"

static const char *const kernel_names[] = {
#define KERNEL_NAME(name, result, arguments) #name,
    HYB_KERNELS(KERNEL_NAME)
#undef KERNEL_NAME
};

void hyb_kernels_select(hyb_kernels *table, uint32_t isa) {
#define KERNEL_REF(name, result, arguments) table->name = hyb_##name##_ref;
    HYB_KERNELS(KERNEL_REF)
#undef KERNEL_REF
    memset(table->tier, 0, sizeof table->tier);
#if HYB_X86
    if ((isa & HYB_ISA_AVX2) != 0) {
        hyb_install_matmul_avx2(table);
        hyb_install_quantize_avx2(table);
        hyb_install_compress_avx2(table);
        hyb_install_rans_avx2(table);
        hyb_install_transpose_avx2(table);
        hyb_install_levels_avx2(table);
        hyb_install_vector_avx2(table);
        hyb_install_cluster_avx2(table);
    }
    if ((isa & HYB_ISA_AVX_VNNI) != 0) hyb_install_matmul_avxvnni(table);
    if ((isa & HYB_ISA_AVX512) != 0) {
        hyb_install_quantize_avx512(table);
        hyb_install_compress_avx512(table);
        hyb_install_rans_avx512(table);
        hyb_install_transpose_avx512(table);
        hyb_install_levels_avx512(table);
        hyb_install_vector_avx512(table);
        hyb_install_cluster_avx512(table);
    }
    if ((isa & HYB_ISA_AVX512_VNNI) != 0) {
        hyb_install_matmul_avx512(table);
        hyb_install_matmul_lookup512(table);
    }
#elif HYB_ARM64
    if ((isa & HYB_ISA_NEON) != 0) {
        hyb_install_matmul_neon(table);
        hyb_install_quantize_neon(table);
        hyb_install_compress_neon(table);
        hyb_install_rans_neon(table);
        hyb_install_levels_neon(table);
        hyb_install_vector_neon(table);
        hyb_install_cluster_neon(table);
    }
    if ((isa & HYB_ISA_NEON_DOTPROD) != 0) hyb_install_matmul_dotprod(table);
    if ((isa & HYB_ISA_NEON_I8MM) != 0) hyb_install_matmul_i8mm(table);
#else
    (void)isa;
#endif
}

size_t hyb_ctx_kernel_count(const hyb_ctx *ctx) { return ctx != NULL ? HYB_KERNEL_COUNT : 0; }

const char *hyb_ctx_kernel_name(const hyb_ctx *ctx, size_t index) {
    return ctx != NULL && index < HYB_KERNEL_COUNT ? kernel_names[index] : NULL;
}

const char *hyb_ctx_kernel_tier(const hyb_ctx *ctx, size_t index) {
    if (ctx == NULL || index >= HYB_KERNEL_COUNT) return NULL;
    switch (ctx->kernels.tier[index]) {
    case HYB_ISA_AVX2:
        return "avx2";
    case HYB_ISA_AVX_VNNI:
        return "avxvnni";
    case HYB_ISA_AVX512:
        return "avx512";
    case HYB_ISA_AVX512_VNNI:
        return "avx512vnni";
    case HYB_ISA_NEON:
        return "neon";
    case HYB_ISA_NEON_DOTPROD:
        return "dotprod";
    case HYB_ISA_NEON_I8MM:
        return "i8mm";
    default:
        return "scalar";
    }
}
