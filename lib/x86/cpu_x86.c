/* cpu_x86.c - x86 feature detection by CPUID, and by XGETBV for the registers that the operating system saves.
 * Source: Intel SDM volume 1, 14.7.1 (AVX2), 15.2 to 15.4 (AVX-512); volume 2A, CPUID.
 */
#include "../common.h"

#if HYB_X86

#include <cpuid.h>
#include <immintrin.h>

#define BIT(n) (1u << (n))
/* XCR0: bits 1, 2 are SSE and AVX state; 5, 6, 7 the mask registers and both parts of the AVX-512 state. */
#define XCR0_AVX (BIT(1) | BIT(2))
#define XCR0_AVX512 (XCR0_AVX | BIT(5) | BIT(6) | BIT(7))

HYB_TARGET_XSAVE static uint32_t read_xcr0(void) { return (uint32_t)_xgetbv(0); }

uint32_t hyb_x86_isa_detect(void) {
    unsigned a, b, c, d, b7, c7;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return HYB_ISA_SCALAR;
    const unsigned leaf1 = BIT(12) | BIT(27) | BIT(28) | BIT(29); /* FMA, OSXSAVE, AVX, F16C */
    if ((c & leaf1) != leaf1 || (read_xcr0() & XCR0_AVX) != XCR0_AVX) return HYB_ISA_SCALAR;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d) || (b7 & BIT(5)) == 0) return HYB_ISA_SCALAR; /* AVX2 */
    uint32_t isa = HYB_ISA_AVX2;
    unsigned a1, b1, c1, d1;
    if (a >= 1 && __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1) && (a1 & BIT(4)) != 0) isa |= HYB_ISA_AVX_VNNI;
    const unsigned leaf7 = BIT(16) | BIT(17) | BIT(30) | BIT(31); /* AVX-512 F, DQ, BW, VL */
    if ((b7 & leaf7) != leaf7 || (read_xcr0() & XCR0_AVX512) != XCR0_AVX512) return isa;
    isa |= HYB_ISA_AVX512;
    if ((c7 & BIT(11)) != 0) isa |= HYB_ISA_AVX512_VNNI;
    return isa;
}

void hyb_x86_cpu_name(char name[HYB_CPU_NAME_BYTES]) {
    unsigned words[12]; /* three leaves of 16 characters */
    char text[sizeof words + 1] = "";
    for (unsigned leaf = 0; leaf < 3; ++leaf) {
        unsigned *w = words + 4 * leaf;
        if (!__get_cpuid(0x80000002u + leaf, w, w + 1, w + 2, w + 3)) return;
    }
    memcpy(text, words, sizeof words);
    const char *begin = text + strspn(text, " "); /* some processors pad on the left, most on the right */
    size_t n = strlen(begin);
    while (n > 0 && begin[n - 1] == ' ') --n;
    if (n == 0) return;
    memcpy(name, begin, n);
    name[n] = '\0';
}

#endif
