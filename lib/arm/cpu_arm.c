/* cpu_arm.c - AArch64 feature detection: what the operating system says. NEON is part of the architecture; where the
 * system cannot be asked, what the compiler was told to assume is all that is used.
 *
 * Source: Linux, Documentation/arm64/elf_hwcaps.rst and cpu-feature-registers.rst; Apple, "Determining Instruction Set
 * Characteristics" (that part was never run by the project).
 */
#include "../common.h"

#if HYB_ARM64

#if defined(__linux__)
#include <stdio.h>
#include <sys/auxv.h>

/* Bits of AT_HWCAP and AT_HWCAP2; older headers lack the names. */
#define HAS_CPUID (1ul << 11)   /* identification registers may be read, by a trap */
#define HAS_DOTPROD (1ul << 20) /* of AT_HWCAP */
#define HAS_I8MM (1ul << 13)    /* of AT_HWCAP2 */

static int has_dotprod(void) { return (getauxval(AT_HWCAP) & HAS_DOTPROD) != 0; }
static int has_i8mm(void) { return (getauxval(AT_HWCAP2) & HAS_I8MM) != 0; }

/* Linux has no name for an ARM core; these two numbers identify it. */
void hyb_arm_cpu_name(char name[HYB_CPU_NAME_BYTES]) {
    if ((getauxval(AT_HWCAP) & HAS_CPUID) == 0) return;
    uint64_t midr;
    __asm__("mrs %0, midr_el1" : "=r"(midr));
    snprintf(name, HYB_CPU_NAME_BYTES, "ARM implementer 0x%02x, part 0x%03x", (unsigned)(midr >> 24 & 0xff),
             (unsigned)(midr >> 4 & 0xfff));
}

#elif defined(__APPLE__)
#include <sys/sysctl.h>

static int has_feature(const char *key) {
    int value = 0;
    size_t n_bytes = sizeof value;
    return sysctlbyname(key, &value, &n_bytes, NULL, 0) == 0 && value != 0;
}
static int has_dotprod(void) { return has_feature("hw.optional.arm.FEAT_DotProd"); }
static int has_i8mm(void) { return has_feature("hw.optional.arm.FEAT_I8MM"); }

void hyb_arm_cpu_name(char name[HYB_CPU_NAME_BYTES]) {
    char text[HYB_CPU_NAME_BYTES] = "";
    size_t n_bytes = sizeof text - 1;
    if (sysctlbyname("machdep.cpu.brand_string", text, &n_bytes, NULL, 0) == 0 && text[0] != '\0')
        memcpy(name, text, sizeof text);
}

#else

static int has_dotprod(void) {
#if defined(__ARM_FEATURE_DOTPROD)
    return 1;
#else
    return 0;
#endif
}
static int has_i8mm(void) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return 1;
#else
    return 0;
#endif
}
void hyb_arm_cpu_name(char name[HYB_CPU_NAME_BYTES]) { (void)name; }

#endif

uint32_t hyb_arm_isa_detect(void) {
    uint32_t isa = HYB_ISA_NEON;
    if (!has_dotprod()) return isa;
    isa |= HYB_ISA_NEON_DOTPROD;
    if (has_i8mm()) isa |= HYB_ISA_NEON_I8MM;
    return isa;
}

#else

typedef int hyb_cpu_arm_is_for_aarch64; /* C99 wants a declaration in every file */

#endif
