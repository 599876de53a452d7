/* cpu.c - what this processor and operating system offer. Asked anew each time: nothing is kept, so there is nothing to
 * initialise. The parts that know processors are x86/cpu_x86.c and arm/cpu_arm.c.
 */
#include "common.h"

uint32_t hyb_isa_detect(void) {
#if HYB_X86
    return hyb_x86_isa_detect();
#elif HYB_ARM64
    return hyb_arm_isa_detect();
#else
    return HYB_ISA_SCALAR;
#endif
}

void hyb_cpu_name(char *name, size_t capacity) {
    char text[HYB_CPU_NAME_BYTES] = "unknown";
#if HYB_X86
    hyb_x86_cpu_name(text);
#elif HYB_ARM64
    hyb_arm_cpu_name(text);
#endif
    if (name == NULL || capacity == 0) return;
    size_t n_bytes = hyb_min_size(strlen(text), capacity - 1);
    memcpy(name, text, n_bytes);
    name[n_bytes] = '\0';
}
