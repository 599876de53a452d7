/* testing.h - what every C test uses: checks that count failures, a seeded generator, memory with a guard page behind
 * it. A test program returns TEST_RESULT() from main: 0 passed, 1 failed, 77 skipped (visibly, with the reason).
 */
#ifndef HYB_TESTING_H
#define HYB_TESTING_H

#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <hybrid/base.h>

static int test_failures;
static int test_checks;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        ++test_checks;                                                                                                 \
        if (!(condition)) {                                                                                            \
            ++test_failures;                                                                                           \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                    \
        }                                                                                                              \
    } while (0)

#define CHECK_STATUS(expression, expected)                                                                             \
    do {                                                                                                               \
        hyb_status test_status = (expression);                                                                         \
        ++test_checks;                                                                                                 \
        if (test_status != (expected)) {                                                                               \
            ++test_failures;                                                                                           \
            fprintf(stderr, "%s:%d: %s gave %d (%s)\n", __FILE__, __LINE__, #expression, (int)test_status,             \
                    hyb_status_string(test_status));                                                                   \
        }                                                                                                              \
    } while (0)

#define CHECK_OK(expression) CHECK_STATUS(expression, HYB_OK)

#define TEST_SKIP(reason)                                                                                              \
    do {                                                                                                               \
        printf("SKIPPED: %s\n", reason);                                                                               \
        return 77;                                                                                                     \
    } while (0)

#define TEST_RESULT()                                                                                                  \
    (printf("%d checks, %d failures\n", test_checks, test_failures), test_failures == 0 && test_checks > 0 ? 0 : 1)

/* splitmix64: the same numbers on every machine. */
static inline uint64_t test_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline size_t test_random_below(uint64_t *state, size_t n) { return (size_t)(test_random(state) % n); }
/* Uniform in [-1, 1). */
static inline float test_random_float(uint64_t *state) {
    return (float)(int32_t)(test_random(state) >> 32) * (1.0f / 2147483648.0f);
}

/* n_bytes that end exactly at an unreadable page: an access past the end traps. Freed with test_guarded_free. */
static inline void *test_guarded_alloc(size_t n_bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (n_bytes + page - 1) / page * page;
    uint8_t *base = mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + body, page, PROT_NONE) != 0) abort();
    memset(base, 0xa5, body);
    return base + (body - n_bytes);
}
static inline void test_guarded_free(void *memory, size_t n_bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (n_bytes + page - 1) / page * page;
    munmap((uint8_t *)memory - (body - n_bytes), body + page);
}

#endif /* HYB_TESTING_H */
