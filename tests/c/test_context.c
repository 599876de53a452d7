/* test_context.c - contexts: options, environment, error details, allocators, kernel table, the known-answer test. */
#include "testing.h"

#include "common.h"

/* What a context uses, but for the form of products that a measurement chooses where nobody says which. */
static uint32_t tiers_of(const hyb_ctx *ctx) { return hyb_ctx_isa(ctx) & ~(uint32_t)HYB_ISA_AVX512_LOOKUP; }

static hyb_ctx_options options_of(uint32_t n_threads, uint32_t isa_mask) {
    hyb_ctx_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.n_threads = n_threads;
    options.isa_mask = isa_mask;
    return options;
}

static hyb_ctx *create(const hyb_ctx_options *options) {
    hyb_ctx *ctx = NULL;
    CHECK_OK(hyb_ctx_create(options, &ctx));
    if (ctx == NULL) exit(1);
    return ctx;
}

/* Messages that a context logged. */
typedef struct log_record {
    int n_messages, level;
    char message[300];
} log_record;

static void record_log(void *user, int level, const char *message) {
    log_record *record = user;
    ++record->n_messages;
    record->level = level;
    snprintf(record->message, sizeof record->message, "%s", message);
}

/* Defaults: one thread, everything that the processor has, no error yet; NULL is harmless everywhere. */
static void test_context_defaults(void) {
    unsetenv("HYB_NUM_THREADS");
    unsetenv("HYB_ISA");
    hyb_ctx *ctx = create(NULL);
    CHECK(hyb_ctx_n_threads(ctx) == 1);
    CHECK(tiers_of(ctx) == hyb_isa_detect());
    CHECK(strcmp(hyb_ctx_last_error(ctx), "") == 0);
    hyb_ctx_destroy(ctx);
    hyb_ctx_destroy(NULL);
    CHECK_STATUS(hyb_ctx_create(NULL, NULL), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strcmp(hyb_ctx_last_error(NULL), "") == 0);
    CHECK(hyb_ctx_n_threads(NULL) == 0 && hyb_ctx_isa(NULL) == 0 && hyb_ctx_kernel_count(NULL) == 0);
    CHECK(hyb_ctx_kernel_name(NULL, 0) == NULL && hyb_ctx_kernel_tier(NULL, 0) == NULL);
    CHECK_STATUS(hyb_ctx_set_n_threads(NULL, 1), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_ctx_self_test(NULL), HYB_ERROR_INVALID_ARGUMENT);
}

/* Options outside their range give a status and a logged detail, and leave the output untouched. */
static void test_context_bad_options(void) {
    log_record record = {0, 0, ""};
    hyb_ctx *const untouched = (hyb_ctx *)&record;
    hyb_ctx *ctx = untouched;
    hyb_ctx_options options = options_of(257, 0);
    options.log = record_log;
    options.log_user = &record;
    CHECK_STATUS(hyb_ctx_create(&options, &ctx), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(ctx == untouched && record.n_messages == 1 && strstr(record.message, "257") != NULL);
    options = options_of(1, 0);
    options.release = (void (*)(void *, void *))1; /* never called: the pair is incomplete */
    CHECK_STATUS(hyb_ctx_create(&options, &ctx), HYB_ERROR_INVALID_ARGUMENT);
    options = options_of(1, 0);
    options.struct_size = 0;
    CHECK_STATUS(hyb_ctx_create(&options, &ctx), HYB_ERROR_STRUCT_SIZE);
    options.struct_size = SIZE_MAX; /* not initialised: nothing behind the struct may be read */
    CHECK_STATUS(hyb_ctx_create(&options, &ctx), HYB_ERROR_STRUCT_SIZE);
    CHECK(ctx == untouched);
}

/* A shorter struct gives defaults for the rest; a longer one is accepted with a zero tail only. */
static void test_context_struct_sizes(void) {
    struct {
        hyb_ctx_options known;
        unsigned char tail[16];
    } newer;
    hyb_ctx *ctx = NULL;
    memset(&newer, 0, sizeof newer);
    newer.known = options_of(3, HYB_ISA_MASK_SCALAR);
    newer.known.struct_size = sizeof newer;
    CHECK_OK(hyb_ctx_create(&newer.known, &ctx));
    CHECK(hyb_ctx_n_threads(ctx) == 3 && hyb_ctx_isa(ctx) == 0);
    hyb_ctx_destroy(ctx);
    newer.tail[15] = 1;
    CHECK_STATUS(hyb_ctx_create(&newer.known, &ctx), HYB_ERROR_STRUCT_SIZE);
    newer.known.struct_size = offsetof(hyb_ctx_options, n_threads); /* as of a library without n_threads, isa_mask */
    CHECK_OK(hyb_ctx_create(&newer.known, &ctx));
    CHECK(hyb_ctx_n_threads(ctx) == 1 && tiers_of(ctx) == hyb_isa_detect());
    hyb_ctx_destroy(ctx);
}

/* HYB_NUM_THREADS counts only where the options leave the number open; what is no number is ignored with a warning. */
static void test_context_environment_threads(void) {
    static const char *const bad[] = {"0", "257", "two", "4x", "-1", "99999999999999999999"};
    log_record record = {0, 0, ""};
    hyb_ctx_options options = options_of(0, 0);
    options.log = record_log;
    options.log_user = &record;
    setenv("HYB_NUM_THREADS", "5", 1);
    hyb_ctx *ctx = create(&options);
    CHECK(hyb_ctx_n_threads(ctx) == 5);
    hyb_ctx_destroy(ctx);
    options.n_threads = 2;
    ctx = create(&options);
    CHECK(hyb_ctx_n_threads(ctx) == 2 && record.n_messages == 0);
    hyb_ctx_destroy(ctx);
    options.n_threads = 0;
    for (int i = 0; i < (int)(sizeof bad / sizeof *bad); ++i) {
        setenv("HYB_NUM_THREADS", bad[i], 1);
        ctx = create(&options);
        CHECK(hyb_ctx_n_threads(ctx) == 1);
        CHECK(record.n_messages == i + 1 && record.level == HYB_LOG_WARNING && strstr(record.message, bad[i]) != NULL);
        hyb_ctx_destroy(ctx);
    }
    unsetenv("HYB_NUM_THREADS");
}

/* Look-ups are used where mask or environment name them and neither forbids them, if the processor can. */
static void test_context_lookup(void) {
    static const struct {
        const char *environment;
        uint32_t mask;
        int looks_up;
    } cases[] = {{"lookup", 0, 1}, {"", 8, 1},       {"lookup", 31, 1}, {"", 23, 0},      {"avx512", 0, 0},
                 {"avx512", 8, 0}, {"lookup", 4, 0}, {"scalar", 8, 0},  {"lookup", 1, 0}, {"", 12, 1}};
    uint32_t can = (hyb_isa_detect() & HYB_ISA_AVX512_VNNI) != 0 ? HYB_ISA_AVX512_LOOKUP : 0;
    CHECK((hyb_isa_detect() & HYB_ISA_AVX512_LOOKUP) == 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        hyb_ctx_options options = options_of(1, cases[i].mask);
        setenv("HYB_ISA", cases[i].environment, 1);
        hyb_ctx *ctx = create(&options);
        CHECK((hyb_ctx_isa(ctx) & HYB_ISA_AVX512_LOOKUP) == (cases[i].looks_up ? can : 0));
        if (cases[i].looks_up) CHECK(tiers_of(ctx) == (hyb_isa_detect() & 23));
        hyb_ctx_destroy(ctx);
    }
    unsetenv("HYB_ISA");
}

/* HYB_ISA and isa_mask only ever lower what was detected; a tier brings those below it. */
static void test_context_isa(void) {
    static const struct {
        const char *name;
        uint32_t mask;
    } cases[] = {{"scalar", 0},    {"avx2", 1},    {"avxvnni", 17},      {"avx512", 23},  {"neon", 256},
                 {"dotprod", 768}, {"i8mm", 1792}, {"sse9", UINT32_MAX}, {"", UINT32_MAX}};
    log_record record = {0, 0, ""};
    hyb_ctx_options options = options_of(1, 0);
    options.log = record_log;
    options.log_user = &record;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        setenv("HYB_ISA", cases[i].name, 1);
        hyb_ctx *ctx = create(&options);
        CHECK(tiers_of(ctx) == (hyb_isa_detect() & cases[i].mask));
        if (cases[i].mask != UINT32_MAX) CHECK((hyb_ctx_isa(ctx) & HYB_ISA_AVX512_LOOKUP) == 0);
        hyb_ctx_destroy(ctx);
    }
    CHECK(record.n_messages == 1 && strstr(record.message, "sse9") != NULL);
    unsetenv("HYB_ISA");
    test_context_lookup();
    options.isa_mask = HYB_ISA_AVX512_VNNI;
    hyb_ctx *ctx = create(&options);
    CHECK(hyb_ctx_isa(ctx) == (hyb_isa_detect() & 23));
    hyb_ctx_destroy(ctx);
    options.isa_mask = HYB_ISA_NEON_I8MM;
    ctx = create(&options);
    CHECK(hyb_ctx_isa(ctx) == (hyb_isa_detect() & 1792));
    hyb_ctx_destroy(ctx);
    options.isa_mask = HYB_ISA_MASK_SCALAR;
    ctx = create(&options);
    CHECK(hyb_ctx_isa(ctx) == 0);
    hyb_ctx_destroy(ctx);
}

/* The kernel table names each entry, and tells a tier that the context may use. */
static void test_context_kernel_table(void) {
    hyb_ctx_options options = options_of(1, HYB_ISA_MASK_SCALAR);
    hyb_ctx *scalar = create(&options), *best = create(NULL);
    size_t n = hyb_ctx_kernel_count(best), n_fast = 0;
    CHECK(n == HYB_KERNEL_COUNT);
    for (size_t i = 0; i < n; ++i) {
        CHECK(hyb_ctx_kernel_name(best, i) != NULL && *hyb_ctx_kernel_name(best, i) != '\0');
        CHECK(strcmp(hyb_ctx_kernel_tier(scalar, i), "scalar") == 0);
        CHECK((best->kernels.tier[i] & ~hyb_isa_detect()) == 0);
        n_fast += strcmp(hyb_ctx_kernel_tier(best, i), "scalar") != 0;
    }
    CHECK(strcmp(hyb_ctx_kernel_name(best, HYB_KERNEL_dot_f32), "dot_f32") == 0);
    CHECK(hyb_ctx_kernel_name(best, n) == NULL && hyb_ctx_kernel_tier(best, n) == NULL);
    if ((hyb_isa_detect() & HYB_ISA_AVX2) != 0) CHECK(n_fast > 0);
    hyb_ctx_destroy(scalar);
    hyb_ctx_destroy(best);
}

static float wrong_dot(const float *a, const float *b, size_t n) { return a[0] * b[0] + (float)n; }
static float wrong_max(const float *x, size_t n) { return x[n - 1]; }

/* The known-answer test passes for every tier, and finds a kernel that computes something else. */
static void test_context_self_test(void) {
    static const uint32_t masks[] = {HYB_ISA_MASK_SCALAR, HYB_ISA_AVX2,          HYB_ISA_AVX512,
                                     HYB_ISA_AVX512_VNNI, HYB_ISA_AVX512_LOOKUP, 0};
    for (size_t i = 0; i < sizeof masks / sizeof *masks; ++i) {
        hyb_ctx_options options = options_of(1, masks[i]);
        hyb_ctx *ctx = create(&options);
        CHECK_OK(hyb_ctx_self_test(ctx));
        if (*hyb_ctx_last_error(ctx) != '\0') fprintf(stderr, "%s\n", hyb_ctx_last_error(ctx));
        ctx->kernels.dot_f32 = wrong_dot;
        CHECK_STATUS(hyb_ctx_self_test(ctx), HYB_ERROR_UNSUPPORTED);
        CHECK(strstr(hyb_ctx_last_error(ctx), "dot_f32") != NULL);
        hyb_kernels_select(&ctx->kernels, hyb_ctx_isa(ctx));
        ctx->kernels.max_f32 = wrong_max;
        CHECK_STATUS(hyb_ctx_self_test(ctx), HYB_ERROR_UNSUPPORTED);
        hyb_ctx_destroy(ctx);
    }
}

#if HYB_X86 && defined(__SSE2__)
#include <xmmintrin.h>
/* The known-answer test notices each processor mode that would change results: rounding, FTZ, DAZ. */
static void test_context_self_test_modes(void) {
    static const unsigned modes[] = {0x2000, 0x4000, 0x6000, 0x8000, 0x0040}; /* MXCSR: RC, FTZ, DAZ */
    hyb_ctx *ctx = create(NULL);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; ++i) {
        unsigned before = _mm_getcsr();
        _mm_setcsr(before | modes[i]);
        hyb_status status = hyb_ctx_self_test(ctx);
        _mm_setcsr(before);
        CHECK_STATUS(status, HYB_ERROR_UNSUPPORTED);
    }
    hyb_ctx_destroy(ctx);
}
#else
static void test_context_self_test_modes(void) {}
#endif

/* An allocator that counts, and fails from the n-th request on. */
typedef struct counting_allocator {
    size_t n_live, n_requests, fail_from;
    int is_aligned;
} counting_allocator;

static void *counting_allocate(void *user, size_t n_bytes, size_t alignment) {
    counting_allocator *a = user;
    void *memory = NULL;
    if (++a->n_requests >= a->fail_from || posix_memalign(&memory, alignment, n_bytes) != 0) return NULL;
    a->is_aligned &= alignment <= 64 && (uintptr_t)memory % alignment == 0;
    ++a->n_live;
    return memory;
}
static void counting_release(void *user, void *memory) {
    counting_allocator *a = user;
    --a->n_live;
    free(memory);
}

static void add_one(void *argument, size_t index, size_t worker) {
    (void)worker;
    ++((int *)argument)[index];
}

/* Whichever request fails: a status or a loop that ran all the same, no leak, no crash. */
static void test_context_allocation_failure(void) {
    for (size_t fail_from = 1; fail_from < 8; ++fail_from) {
        counting_allocator a = {0, 0, 0, 1};
        a.fail_from = fail_from;
        hyb_ctx_options options = options_of(2, 0);
        options.allocate = counting_allocate;
        options.release = counting_release;
        options.allocator_user = &a;
        hyb_ctx *ctx = NULL;
        hyb_status status = hyb_ctx_create(&options, &ctx);
        CHECK(status == (fail_from == 1 ? HYB_ERROR_OUT_OF_MEMORY : HYB_OK));
        if (status != HYB_OK) continue;
        int done[100] = {0};
        hyb_parallel(ctx, 100, add_one, done); /* without memory for a pool, the caller does it all */
        for (size_t i = 0; i < 100; ++i) CHECK(done[i] == 1);
        status = hyb_ctx_self_test(ctx);
        CHECK(status == HYB_OK || status == HYB_ERROR_OUT_OF_MEMORY);
        CHECK((hyb_scratch(ctx, 100) != NULL) == (a.n_requests < a.fail_from));
        (void)hyb_scratch(ctx, 100000);
        hyb_ctx_destroy(ctx);
        CHECK(a.n_live == 0 && a.is_aligned);
    }
}

/* Sizes that overflow are refused, zero bytes are not, and work memory only grows. */
static void test_context_memory(void) {
    hyb_ctx *ctx = create(NULL);
    CHECK(hyb_alloc(ctx, SIZE_MAX / 4, 8) == NULL);
    CHECK(hyb_alloc(ctx, SIZE_MAX, 1) == NULL);
    CHECK(hyb_scratch(ctx, SIZE_MAX) == NULL);
    void *empty = hyb_alloc(ctx, 0, 4);
    CHECK(empty != NULL);
    hyb_free(ctx, empty);
    hyb_free(ctx, NULL);
    unsigned char *zeroed = hyb_alloc_zeroed(ctx, 100, 3);
    for (size_t i = 0; i < 300; ++i) CHECK(zeroed[i] == 0);
    hyb_free(ctx, zeroed);
    void *small = hyb_scratch(ctx, 10);
    CHECK(small != NULL && hyb_scratch(ctx, 1) == small);
    unsigned char *large = hyb_scratch(ctx, 1000000);
    CHECK(large != NULL && (uintptr_t)large % 64 == 0);
    memset(large, 1, 1000000);
    CHECK(hyb_scratch(ctx, 10) == large);
    hyb_ctx_destroy(ctx);
}

/* Every status has its own words; errors carry a detail of bounded length, which may quote the one before. */
static void test_context_status(void) {
    static const hyb_status all[] = {HYB_OK,
                                     HYB_ERROR_INVALID_ARGUMENT,
                                     HYB_ERROR_STRUCT_SIZE,
                                     HYB_ERROR_OUT_OF_MEMORY,
                                     HYB_ERROR_TOO_SMALL,
                                     HYB_ERROR_UNSUPPORTED,
                                     HYB_ERROR_NOT_FINITE,
                                     HYB_ERROR_IO,
                                     HYB_ERROR_FORMAT,
                                     HYB_ERROR_TRUNCATED,
                                     HYB_ERROR_CHECKSUM,
                                     HYB_ERROR_VERSION,
                                     HYB_ERROR_STATE,
                                     HYB_ERROR_CANCELLED,
                                     HYB_ERROR_THREAD,
                                     HYB_ERROR_DEVICE};
    const size_t n = sizeof all / sizeof *all;
    for (size_t i = 0; i < n; ++i) {
        CHECK(strcmp(hyb_status_string(all[i]), "unknown status") != 0);
        for (size_t j = 0; j < i; ++j) CHECK(strcmp(hyb_status_string(all[i]), hyb_status_string(all[j])) != 0);
    }
    CHECK(strcmp(hyb_status_string((hyb_status)-12345), "unknown status") == 0);
    hyb_ctx *ctx = create(NULL);
    CHECK_STATUS(hyb_ctx_set_n_threads(ctx, 0), HYB_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(hyb_ctx_set_n_threads(ctx, 257), HYB_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(hyb_ctx_last_error(ctx), "257") != NULL && hyb_ctx_n_threads(ctx) == 1);
    CHECK_STATUS(hyb_fail(ctx, HYB_ERROR_IO, "again: %s", hyb_ctx_last_error(ctx)), HYB_ERROR_IO);
    CHECK(strncmp(hyb_ctx_last_error(ctx), "again: n_threads", 16) == 0);
    CHECK_STATUS(hyb_fail(ctx, HYB_ERROR_IO, "%1000d", 7), HYB_ERROR_IO);
    CHECK(strlen(hyb_ctx_last_error(ctx)) == sizeof ctx->last_error - 1);
    CHECK_STATUS(hyb_fail(NULL, HYB_ERROR_IO, "dropped"), HYB_ERROR_IO);
    hyb_ctx_destroy(ctx);
}

/* The library's versions are those of the headers; the processor's name respects the buffer. */
static void test_context_versions(void) {
    char expected[32], name[128] = "", cut[4] = "abc";
    snprintf(expected, sizeof expected, "%d.%d.%d", HYB_VERSION_MAJOR, HYB_VERSION_MINOR, HYB_VERSION_PATCH);
    CHECK(strcmp(hyb_version_string(), expected) == 0);
    CHECK(hyb_abi_version() == HYB_ABI_VERSION);
    hyb_cpu_name(name, sizeof name);
    CHECK(*name != '\0');
    hyb_cpu_name(cut, sizeof cut);
    CHECK(strlen(cut) == 3 && strncmp(cut, name, 3) == 0);
    hyb_cpu_name(cut, 0);
    hyb_cpu_name(NULL, 10);
}

int main(void) {
    test_context_defaults();
    test_context_bad_options();
    test_context_struct_sizes();
    test_context_environment_threads();
    test_context_isa();
    test_context_kernel_table();
    test_context_self_test();
    test_context_self_test_modes();
    test_context_allocation_failure();
    test_context_memory();
    test_context_status();
    test_context_versions();
    return TEST_RESULT();
}
