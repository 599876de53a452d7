/* instruction_counter.c - a plug-in of QEMU's user-mode emulator: at the end it writes to standard error how many
 * instructions the emulated program executed. Built and used by tools/count_instructions.
 *
 * The emulator's header is not installed with it, so the few functions that are called are declared here (plug-in API
 * of QEMU 4.2 and later, docs/devel/tcg-plugins).
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define VISIBLE __attribute__((visibility("default")))

struct qemu_plugin_tb; /* a block of translated instructions without a branch inside */
enum { CALLBACK_USES_NO_REGISTERS = 0 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*callback)(uint64_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*callback)(unsigned cpu, void *user),
                                          int flags, void *user);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*callback)(uint64_t id, void *user), void *user);

VISIBLE int qemu_plugin_version = PLUGIN_VERSION;
VISIBLE int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

static uint64_t n_instructions; /* of a program with one thread */

static void block_executed(unsigned cpu, void *user) {
    (void)cpu;
    n_instructions += (uintptr_t)user;
}

static void block_translated(uint64_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, block_executed, CALLBACK_USES_NO_REGISTERS,
                                         (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

static void at_exit(uint64_t id, void *user) {
    (void)id, (void)user;
    fprintf(stderr, "instructions: %" PRIu64 "\n", n_instructions);
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
