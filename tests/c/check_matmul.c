/* check_matmul.c - every variant of the integer matrix products against the reference, bit for bit: random odd sizes,
 * the extremes of the number range, memory that ends at a guard page, results that begin poisoned.
 * With --bench [tier]: speed. With --run TIER ternary|int8|lookup ROWS COLUMNS TOKENS TIMES: nothing but that product,
 * for tools/count_instructions.
 */
#include "testing.h"

#include <time.h>

#include <hybrid/quantize.h>

#include "matmul.h"

#define MAX_TIERS 5

typedef void (*matmul_kernel)(const hyb_matmul_job *job);

/* What is multiplied: the layouts of packed weights. */
enum { INT8, TERNARY, LOOKUP, N_KINDS };
static const char *const kind_names[] = {"int8", "ternary", "lookup"};

typedef struct tier {
    const char *name;
    matmul_kernel ternary, int8, lookup; /* lookup may be NULL */
} tier;

static matmul_kernel kernel_of(const tier *t, int kind) {
    return kind == LOOKUP ? t->lookup : kind == TERNARY ? t->ternary : t->int8;
}

/* The reference, and the variants that this processor runs. */
static size_t find_tiers(tier *tiers) {
    size_t n = 0;
    tiers[n++] = (tier){"scalar", hyb_matmul_ternary_ref, hyb_matmul_int8_ref, hyb_matmul_lookup_ref};
#if HYB_X86
    static hyb_kernels avx2, avxvnni, vnni256, avx512;
    if (hyb_isa_detect() & HYB_ISA_AVX2) {
        hyb_install_matmul_avx2(&avx2);
        tiers[n++] = (tier){"avx2", avx2.matmul_ternary, avx2.matmul_int8, NULL};
    }
    if ((hyb_isa_detect() & HYB_ISA_AVX_VNNI) != 0) {
        hyb_install_matmul_avxvnni(&avxvnni);
        if (avxvnni.matmul_ternary != NULL)
            tiers[n++] = (tier){"avxvnni", avxvnni.matmul_ternary, avxvnni.matmul_int8, NULL};
    }
    if (hyb_isa_detect() & HYB_ISA_AVX512_VNNI) {
        hyb_install_matmul_vnni256(&vnni256); /* the source of avxvnni in the encoding that this processor has */
        tiers[n++] = (tier){"vnni256", vnni256.matmul_ternary, vnni256.matmul_int8, NULL};
        hyb_install_matmul_avx512(&avx512);
        hyb_install_matmul_lookup512(&avx512);
        tiers[n++] = (tier){"avx512", avx512.matmul_ternary, avx512.matmul_int8, avx512.matmul_lookup};
    }
#elif HYB_ARM64
    static hyb_kernels neon, dotprod, i8mm;
    hyb_install_matmul_neon(&neon);
    tiers[n++] = (tier){"neon", neon.matmul_ternary, neon.matmul_int8, NULL};
    if (hyb_isa_detect() & HYB_ISA_NEON_DOTPROD) {
        hyb_install_matmul_dotprod(&dotprod);
        tiers[n++] = (tier){"dotprod", dotprod.matmul_ternary, dotprod.matmul_int8, NULL};
    }
    if (hyb_isa_detect() & HYB_ISA_NEON_I8MM) {
        hyb_install_matmul_i8mm(&i8mm);
        tiers[n++] = (tier){"i8mm", i8mm.matmul_ternary, i8mm.matmul_int8, NULL};
    }
#endif
    return n;
}

/* Where the codes and activations of a case come from. */
typedef enum fill { FILL_RANDOM, FILL_LARGEST, FILL_MIXED_EXTREMES, FILL_BITNET_OVERFLOW } fill;

static int random_code(fill how, int largest, uint64_t *state) {
    switch (how) {
    case FILL_LARGEST:
        return largest;
    case FILL_MIXED_EXTREMES:
        return test_random(state) & 1 ? largest : -largest;
    case FILL_BITNET_OVERFLOW:
        return 1;
    default:
        return (int)test_random_below(state, (size_t)largest * 2 + 1) - largest;
    }
}

/* A job in guarded memory; its y has a wider ld than rows, so that writes between tokens show. */
typedef struct test_case {
    int kind;
    size_t n_rows, n_cols, n_tokens, block_bytes, n_blocks;
    uint8_t *weights, *scratch;
    int8_t *codes, *x;
    int32_t *x_sums, *y_i32;
    float *x_scales, *row_scales, *y, *added_to;
    size_t weight_bytes, x_bytes, y_bytes, scratch_bytes;
    hyb_matmul_job job;
} test_case;

/* In the layout for look-ups, as kernels.h words it. The codes of padding are as they come: 0. */
static void pack_lookup(test_case *c) {
    static const int powers[] = {1, 3, 9};
    size_t n_words = HYB_LOOKUP_WORDS(c->job.n_k16);
    for (size_t r = 0; r < c->n_blocks * 32; ++r)
        for (size_t w = 0; w < n_words; ++w) {
            unsigned word = 0;
            for (size_t k = 0; k < 9; ++k) {
                int is_padding = r >= c->n_rows || 9 * w + k >= c->n_cols;
                int code = is_padding ? 0 : c->codes[r * c->n_cols + 9 * w + k];
                word += (unsigned)((code + 1) * powers[k % 3]) << (k / 3 * 5);
            }
            size_t at = (r / 32 * n_words + w) * 32 + r % 32;
            c->weights[2 * at] = (uint8_t)word;
            c->weights[2 * at + 1] = (uint8_t)(word >> 8);
        }
}

static void pack_weights(test_case *c, fill how, uint64_t *state) {
    if (c->kind == LOOKUP) {
        for (size_t i = 0; i < c->n_rows * c->n_cols; ++i) c->codes[i] = (int8_t)random_code(how, 1, state);
        pack_lookup(c);
        return;
    }
    size_t n_k16 = c->job.n_k16;
    for (size_t r = 0; r < c->n_blocks * 16; ++r)
        for (size_t k = 0; k < n_k16 * 16; ++k) {
            int code = 0;
            if (r < c->n_rows && k < c->n_cols) {
                code = random_code(how, c->kind == TERNARY ? 1 : 127, state);
                c->codes[r * c->n_cols + k] = (int8_t)code;
            }
            uint8_t *block = c->weights + r / 16 * c->block_bytes;
            if (c->kind == TERNARY)
                block[(k / 16 * 16 + r % 16) * 4 + k % 4] |= (uint8_t)((code + 1) << (k % 16 / 4 * 2));
            else
                block[(k / 4 * 16 + r % 16) * 4 + k % 4] = (uint8_t)code;
        }
}

static void make_case(test_case *c, int kind, size_t n_rows, size_t n_cols, size_t n_tokens, fill how,
                      uint64_t *state) {
    memset(c, 0, sizeof *c);
    c->kind = kind;
    c->n_rows = n_rows;
    c->n_cols = n_cols;
    c->n_tokens = n_tokens;
    size_t n_k16 = hyb_ceil_div(n_cols, 16), ld_y = n_rows + test_random_below(state, 3);
    size_t ld_x = 16 * (n_k16 + test_random_below(state, 3));
    c->n_blocks = hyb_ceil_div(n_rows, kind == LOOKUP ? 32 : 16);
    c->block_bytes = kind == LOOKUP ? HYB_LOOKUP_BLOCK_BYTES(n_k16) : n_k16 * (kind == TERNARY ? 64u : 256u);
    c->weight_bytes = c->n_blocks * c->block_bytes;
    c->x_bytes = (n_tokens - 1) * ld_x + 16 * n_k16;
    c->y_bytes = ((n_tokens - 1) * ld_y + n_rows) * 4;
    c->scratch_bytes = kind == LOOKUP ? HYB_LOOKUP_SCRATCH_BYTES : HYB_MATMUL_SCRATCH_BYTES(n_k16);
    c->weights = test_guarded_alloc(c->weight_bytes);
    c->x = test_guarded_alloc(c->x_bytes);
    c->x_sums = test_guarded_alloc(n_tokens * 4);
    c->x_scales = test_guarded_alloc(n_tokens * 4);
    c->row_scales = test_guarded_alloc(n_rows * 4);
    c->y = test_guarded_alloc(c->y_bytes);
    c->added_to = test_guarded_alloc(c->y_bytes);
    c->y_i32 = test_guarded_alloc(c->y_bytes);
    c->scratch = test_guarded_alloc(c->scratch_bytes);
    c->codes = malloc(n_rows * n_cols);
    memset(c->weights, 0, c->weight_bytes);
    memset(c->x, 0, c->x_bytes);
    c->job = (hyb_matmul_job){.weights = c->weights,
                              .n_rows = n_rows,
                              .n_k16 = n_k16,
                              .x = c->x,
                              .ld_x = ld_x,
                              .x_sums = c->x_sums,
                              .n_tokens = n_tokens,
                              .x_scales = c->x_scales,
                              .row_scales = c->row_scales,
                              .ld_y = ld_y,
                              .scratch = c->scratch};
    pack_weights(c, how, state);
    for (size_t t = 0; t < n_tokens; ++t) {
        c->x_sums[t] = 0;
        for (size_t k = 0; k < n_cols; ++k) {
            int code = how == FILL_BITNET_OVERFLOW ? 64 : random_code(how, 127, state);
            c->x[t * ld_x + k] = (int8_t)code;
            c->x_sums[t] += code;
        }
        c->x_scales[t] = test_random_float(state);
    }
    for (size_t r = 0; r < n_rows; ++r) c->row_scales[r] = test_random_float(state);
}

static void free_case(test_case *c) {
    test_guarded_free(c->weights, c->weight_bytes);
    test_guarded_free(c->x, c->x_bytes);
    test_guarded_free(c->x_sums, c->n_tokens * 4);
    test_guarded_free(c->x_scales, c->n_tokens * 4);
    test_guarded_free(c->row_scales, c->n_rows * 4);
    test_guarded_free(c->y, c->y_bytes);
    test_guarded_free(c->added_to, c->y_bytes);
    test_guarded_free(c->y_i32, c->y_bytes);
    test_guarded_free(c->scratch, c->scratch_bytes);
    free(c->codes);
}

static void run_case(test_case *c, matmul_kernel kernel) {
    memset(c->y, 0xa5, c->y_bytes);
    memset(c->y_i32, 0xa5, c->y_bytes);
    memset(c->scratch, 0xa5, c->scratch_bytes);
    c->job.y = c->y;
    c->job.y_i32 = NULL;
    kernel(&c->job);
    memset(c->scratch, 0x5a, c->scratch_bytes);
    memset(c->added_to, 0x3f, c->y_bytes); /* 0.747 */
    c->job.y = c->added_to;
    c->job.accumulate = 1;
    kernel(&c->job);
    c->job.accumulate = 0;
    c->job.y = NULL;
    c->job.y_i32 = c->y_i32;
    kernel(&c->job);
}

/* The reference equals a sum written out from the row-major codes, in a 64-bit integer. */
static void check_reference(const test_case *c) {
    size_t n_wrong = 0;
    for (size_t t = 0; t < c->n_tokens; ++t)
        for (size_t r = 0; r < c->n_rows; ++r) {
            int64_t sum = 0;
            for (size_t k = 0; k < c->n_cols; ++k)
                sum += (int64_t)c->codes[r * c->n_cols + k] * c->x[t * c->job.ld_x + k];
            volatile float scale = c->x_scales[t] * c->row_scales[r];
            volatile float y = (float)sum * scale;
            n_wrong += c->y_i32[t * c->job.ld_y + r] != sum;
            n_wrong += hyb_bits_of(c->y[t * c->job.ld_y + r]) != hyb_bits_of(y);
            volatile float sum_f32 = hyb_float_of(0x3f3f3f3fu) + y;
            n_wrong += hyb_bits_of(c->added_to[t * c->job.ld_y + r]) != hyb_bits_of(sum_f32);
        }
    CHECK(n_wrong == 0);
}

/* One size and filling, on every tier; whole buffers are compared, so stray writes between rows show too. */
static void check_size(const tier *tiers, size_t n_tiers, int kind, size_t n_rows, size_t n_cols, size_t n_tokens,
                       fill how, uint64_t *state) {
    test_case c;
    make_case(&c, kind, n_rows, n_cols, n_tokens, how, state);
    run_case(&c, kernel_of(&tiers[0], kind));
    check_reference(&c);
    float *y = malloc(c.y_bytes), *added_to = malloc(c.y_bytes);
    int32_t *y_i32 = malloc(c.y_bytes);
    memcpy(y, c.y, c.y_bytes);
    memcpy(added_to, c.added_to, c.y_bytes);
    memcpy(y_i32, c.y_i32, c.y_bytes);
    for (size_t i = 1; i < n_tiers; ++i) {
        if (kernel_of(&tiers[i], kind) == NULL) continue;
        run_case(&c, kernel_of(&tiers[i], kind));
        int same = memcmp(y, c.y, c.y_bytes) == 0 && memcmp(y_i32, c.y_i32, c.y_bytes) == 0 &&
                   memcmp(added_to, c.added_to, c.y_bytes) == 0;
        if (!same)
            fprintf(stderr, "%s %s differs: %zu rows, %zu columns, %zu tokens, filling %d\n", tiers[i].name,
                    kind_names[kind], n_rows, n_cols, n_tokens, (int)how);
        CHECK(same);
    }
    free(y);
    free(added_to);
    free(y_i32);
    free_case(&c);
}

/* What only look-ups have: tiles of four row blocks and of fewer, the largest job, and columns that end at, before and
 * after a run of words and a pass. */
static void check_lookup_edges(const tier *tiers, size_t n_tiers, uint64_t *state) {
    static const size_t rows[] = {96, 128, 129, 200, 256, 300, 385, HYB_LOOKUP_JOB_ROWS - 1, HYB_LOOKUP_JOB_ROWS};
    static const size_t cols[] = {1, 9, 16, 17, 240, 252, 256, 500, 505, 1008, 1009, 1024, 2100, 5040, 5060};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; ++r)
        for (size_t n_tokens = 1; n_tokens <= 7; ++n_tokens)
            check_size(tiers, n_tiers, LOOKUP, rows[r], 1 + test_random_below(state, 600), n_tokens,
                       (fill)(n_tokens % 3), state);
    for (size_t c = 0; c < sizeof cols / sizeof *cols; ++c)
        for (size_t n_tokens = 1; n_tokens <= 6; ++n_tokens)
            check_size(tiers, n_tiers, LOOKUP, 150, cols[c], n_tokens, (fill)((c + n_tokens) % 3), state);
    for (size_t n_tokens = 1; n_tokens <= 5; n_tokens += 2) /* every look-up at its largest: 381 */
        for (fill how = FILL_LARGEST; how <= FILL_MIXED_EXTREMES; how = (fill)(how + 1))
            check_size(tiers, n_tiers, LOOKUP, 140, 5000, n_tokens, how, state);
}

/* ---- benchmark ---- */

/* Of this thread, so that other programs' turns on a shared machine do not count. */
static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void *aligned(size_t n_bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, n_bytes) != 0) abort();
    return memory;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct bench {
    int kind;
    size_t n_rows, n_cols, n_tokens, n_copies; /* copies of the weights, read in turn: 1 is hot */
    size_t block_bytes, ld;
    uint8_t *weights, *scratch;
    int8_t *x;
    int32_t *sums;
    float *x_scales, *row_scales, *y;
} bench;

static void bench_pass(const bench *b, matmul_kernel kernel, size_t copy) {
    hyb_matmul_job job = {.n_k16 = b->n_cols / 16,
                          .x = b->x,
                          .ld_x = b->ld,
                          .x_sums = b->sums,
                          .n_tokens = b->n_tokens,
                          .x_scales = b->x_scales,
                          .ld_y = b->n_rows,
                          .scratch = b->scratch};
    size_t block_rows = b->kind == LOOKUP ? 32 : 16, n_blocks = hyb_ceil_div(b->n_rows, block_rows);
    size_t job_rows = b->kind == LOOKUP ? HYB_LOOKUP_JOB_ROWS : HYB_MATMUL_JOB_ROWS;
    for (size_t row = 0; row < b->n_rows; row += job_rows) {
        job.weights = b->weights + (copy * n_blocks + row / block_rows) * b->block_bytes;
        job.n_rows = hyb_min_size(job_rows, b->n_rows - row);
        job.row_scales = b->row_scales + row;
        job.y = b->y + row;
        kernel(&job);
    }
}

static bench bench_make(int kind, size_t n_rows, size_t n_cols, size_t n_tokens, int cold) {
    bench b = {.kind = kind, .n_rows = n_rows, .n_cols = n_cols, .n_tokens = n_tokens};
    b.block_bytes = n_cols / 16 * (kind == TERNARY ? 64u : 256u);
    if (kind == LOOKUP) b.block_bytes = HYB_LOOKUP_BLOCK_BYTES(n_cols / 16);
    size_t bytes = hyb_ceil_div(n_rows, kind == LOOKUP ? 32 : 16) * b.block_bytes;
    b.n_copies = cold ? ((size_t)192 << 20) / bytes + 1 : 1; /* several times the last-level cache */
    b.ld = hyb_activations_ld(n_cols);
    b.weights = aligned(bytes * b.n_copies);
    b.scratch = aligned(HYB_MATMUL_SCRATCH_BYTES(n_cols / 16) + HYB_LOOKUP_SCRATCH_BYTES);
    b.x = aligned(n_tokens * b.ld);
    b.sums = calloc(n_tokens, 4);
    b.x_scales = calloc(n_tokens, 4);
    b.row_scales = calloc(n_rows, 4);
    b.y = aligned(n_tokens * n_rows * 4);
    memset(b.weights, kind == INT8 ? 0x11 : 0x64, bytes * b.n_copies);
    memset(b.x, 3, n_tokens * b.ld);
    return b;
}

static void bench_free(bench *b) {
    free(b->weights), free(b->scratch), free(b->x), free(b->sums), free(b->x_scales), free(b->row_scales), free(b->y);
}

static void bench_one(const tier *t, int kind, size_t n_rows, size_t n_cols, size_t n_tokens, int cold) {
    matmul_kernel kernel = kernel_of(t, kind);
    if (kernel == NULL) return;
    bench b = bench_make(kind, n_rows, n_cols, n_tokens, cold);
    size_t bytes = hyb_ceil_div(n_rows, kind == LOOKUP ? 32 : 16) * b.block_bytes;
    double operations = 2.0 * (double)n_rows * (double)n_cols * (double)n_tokens, times[15], started = seconds();
    bench_pass(&b, kernel, 0);
    size_t repeats = (size_t)(0.02 / (seconds() - started + 1e-9)) + 1, n = 0, copy = 0;
    for (; n < 15 && (n < 3 || seconds() - started < 1.0); ++n) {
        double begin = seconds();
        for (size_t i = 0; i < repeats; ++i, copy = (copy + 1) % b.n_copies) bench_pass(&b, kernel, copy);
        times[n] = (seconds() - begin) / (double)repeats;
    }
    qsort(times, n, sizeof times[0], compare_doubles);
    double median = times[n / 2];
    printf("%-7s %-7s %5zu x %4zu, %3zu tokens %-4s %9.1f us %7.1f GOP/s %6.1f GB/s, best %7.1f GOP/s\n", t->name,
           kind_names[kind], n_rows, n_cols, n_tokens, cold ? "DRAM" : "hot", median * 1e6, operations / median * 1e-9,
           (double)bytes / median * 1e-9, operations / times[0] * 1e-9);
    fflush(stdout);
    bench_free(&b);
}

/* only: NULL, or the name of one tier. */
static int run_benchmark(const tier *tiers, size_t n_tiers, const char *only) {
    static const size_t shapes[][2] = {{768, 768}, {4096, 4096}, {11008, 4096}}, tokens[] = {8, 128, 512};
    /* Rows, columns, tokens of the training step of presets small and base: forward, and gradients of weights. */
    static const size_t steps[][3] = {{128, 128, 2048}, {384, 128, 2048}, {128, 2048, 384}, {1280, 512, 2048}};
    char name[128];
    hyb_cpu_name(name, sizeof name);
    printf("%s, compiler %s, one thread, its processor time, median of up to 15 and best\n", name, __VERSION__);
#if HYB_X86
    if (hyb_isa_detect() & HYB_ISA_AVX512_VNNI) {
        double begin = seconds();
        int is_faster = hyb_lookup512_is_faster();
        printf("a context chooses %s; its measurement takes %.0f us\n", is_faster ? "lookup" : "ternary",
               (seconds() - begin) * 1e6);
    }
#endif
    for (size_t i = n_tiers; i-- > 0;) {
        if (only != NULL && strcmp(only, tiers[i].name) != 0) continue;
        for (int kind = N_KINDS - 1; kind >= 0; --kind)
            for (size_t s = 0; s < 3; ++s) {
                bench_one(&tiers[i], kind, shapes[s][0], shapes[s][1], 1, 0);
                bench_one(&tiers[i], kind, shapes[s][0], shapes[s][1], 1, 1);
                for (size_t t = 0; t < 3 && (i > 0 || t < 1); ++t)
                    bench_one(&tiers[i], kind, shapes[s][0], shapes[s][1], tokens[t], 0);
            }
        for (size_t s = 0; s < sizeof steps / sizeof *steps && i > 0; ++s)
            for (int kind = TERNARY; kind >= INT8; --kind)
                bench_one(&tiers[i], kind, steps[s][0], steps[s][1], steps[s][2], 0);
    }
    return 0;
}

/* arguments: tier, format, rows and columns (multiples of 16), tokens, times. */
static int run_only(const tier *tiers, size_t n_tiers, char **arguments) {
    int kind = LOOKUP;
    while (kind > 0 && strcmp(arguments[1], kind_names[kind]) != 0) --kind;
    size_t sizes[4];
    for (size_t i = 0; i < 4; ++i) sizes[i] = (size_t)strtoul(arguments[2 + i], NULL, 10);
    for (size_t i = 0; i < n_tiers; ++i) {
        if (strcmp(arguments[0], tiers[i].name) != 0) continue;
        if (kernel_of(&tiers[i], kind) == NULL) break;
        bench b = bench_make(kind, sizes[0], sizes[1], sizes[2], 0);
        for (size_t n = 0; n < sizes[3]; ++n) bench_pass(&b, kernel_of(&tiers[i], kind), 0);
        bench_free(&b);
        return 0;
    }
    TEST_SKIP("this processor does not have that tier, or the tier no such kernel");
}

int main(int argc, char **argv) {
    tier tiers[MAX_TIERS];
    size_t n_tiers = find_tiers(tiers);
    if (argc == 8 && strcmp(argv[1], "--run") == 0) return run_only(tiers, n_tiers, argv + 2);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return run_benchmark(tiers, n_tiers, argc > 2 ? argv[2] : NULL);
    uint64_t state = 2;
    for (int kind = 0; kind < N_KINDS; ++kind) {
        for (int i = 0; i < 300; ++i) {
            size_t n_rows = 1 + test_random_below(&state, HYB_MATMUL_JOB_ROWS);
            size_t n_cols = 1 + test_random_below(&state, i % 4 == 0 ? 1500 : 100);
            size_t n_tokens = i % 3 == 0 ? 1 : 1 + test_random_below(&state, 20);
            check_size(tiers, n_tiers, kind, n_rows, n_cols, n_tokens, (fill)(i % 3), &state);
        }
        /* More tokens than one variant prepares at once, and an odd number of them. */
        for (size_t n_tokens = 47; n_tokens <= 101; n_tokens += 18)
            check_size(tiers, n_tiers, kind, 37, 75, n_tokens, FILL_RANDOM, &state);
        /* Several panels of columns, parts of the tokens, and rows that fill no block; extremes in each. */
        for (fill how = FILL_RANDOM; how <= FILL_MIXED_EXTREMES; how = (fill)(how + 1)) {
            check_size(tiers, n_tiers, kind, 59, 500, 148, how, &state);
            check_size(tiers, n_tiers, kind, 41, 272, 67, how, &state);
            check_size(tiers, n_tiers, kind, 16, 256, 65, how, &state);
        }
        /* Sums near the edges of int16 and int32; the shape where 16-bit accumulators of a known library overflow. */
        check_size(tiers, n_tiers, kind, 64, 4096, 1, FILL_BITNET_OVERFLOW, &state);
        check_size(tiers, n_tiers, kind, 64, 4096, 7, FILL_BITNET_OVERFLOW, &state);
        for (size_t n_tokens = 1; n_tokens <= 3; n_tokens += 2)
            for (fill how = FILL_RANDOM; how <= FILL_MIXED_EXTREMES; how = (fill)(how + 1))
                check_size(tiers, n_tiers, kind, 33, HYB_MATMUL_MAX_COLS, n_tokens, how, &state);
    }
    check_lookup_edges(tiers, n_tiers, &state);
    for (size_t i = 1; i < n_tiers; ++i) printf("%s: equal to the reference\n", tiers[i].name);
    if (n_tiers == 1 && test_failures == 0) TEST_SKIP("the reference is right; this processor has no other variant");
    return TEST_RESULT();
}
