/* limits.c - measures what the processor can do at best: reading, copying, fp32 and int8 arithmetic.
 * The portable probes are plain C: what the compiler makes of them is a lower bound of the limit, and is named so.
 */
#define _GNU_SOURCE /* threads.h needs it */

#include "limits.h"

#include <hybrid/limits.h>

#include "threads.h"

#define ROUND_NS 4000000u   /* a round lasts at least so long: 10^5 times the clock's resolution */
#define BUDGET_NS 60000000u /* no further round begins after this */
#define MIN_ROUNDS 2
#define MIN_BYTES_PER_THREAD 4096
#define MAX_BYTES ((uint64_t)1 << 32)
#define READ_STEP 1024 /* working sets are rounded down to this, so that probes need no tail */

static uint64_t read_portable(const uint8_t *memory, size_t n_bytes) {
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < n_bytes; i += sizeof sums) {
        uint64_t words[8];
        memcpy(words, memory + i, sizeof words);
        for (size_t j = 0; j < 8; ++j) sums[j] += words[j];
    }
    uint64_t sum = 0;
    for (size_t j = 0; j < 8; ++j) sum += sums[j];
    return sum;
}

static uint64_t fma_portable(const uint8_t *operands, size_t n_turns) {
    float sums[32], factor, term;
    memcpy(&factor, operands, sizeof factor);
    memcpy(&term, operands + sizeof factor, sizeof term);
    for (size_t j = 0; j < 32; ++j) sums[j] = (float)j;
    for (size_t i = 0; i < n_turns; ++i)
        for (size_t j = 0; j < 32; ++j) sums[j] = sums[j] * factor + term;
    float sum = 0;
    for (size_t j = 0; j < 32; ++j) sum += sums[j];
    return hyb_bits_of(sum);
}

static uint64_t product_portable(const uint8_t *operands, size_t n_turns) {
    const int8_t *a = (const int8_t *)operands, *b = a + HYB_LIMIT_OPERAND_BYTES / 2;
    uint32_t sum = 0;
    for (size_t i = 0; i < n_turns; ++i) {
        int32_t part = 0; /* 64 products of at most 2^14 */
        size_t at = i * 64 % (HYB_LIMIT_OPERAND_BYTES / 2);
        for (size_t j = 0; j < 64; ++j) part += a[at + j] * b[at + j];
        sum += (uint32_t)part;
    }
    return sum;
}

static hyb_limit_probes choose_probes(uint32_t isa) {
    hyb_limit_probes probes = {.read = read_portable,
                               .read_method = "portable C",
                               .fma = fma_portable,
                               .fma_method = "portable C",
                               .fma_operations = 64,
                               .product = product_portable,
                               .product_method = "portable C",
                               .product_operations = 128};
#if HYB_X86
    hyb_limit_probes_x86(&probes, isa);
#else
    (void)isa;
#endif
    return probes;
}

typedef struct round_task {
    const hyb_limit_probes *probes;
    hyb_limit limit;
    uint8_t *memory; /* every thread's share, share_bytes each */
    size_t share_bytes;
    size_t n_turns;                  /* of the arithmetic probes, or passes over the share */
    uint64_t sinks[HYB_MAX_THREADS]; /* what the probes return */
} round_task;

static void run_share(void *argument, size_t index, size_t worker) {
    round_task *task = argument;
    uint8_t *share = task->memory + index * task->share_bytes;
    size_t half = task->share_bytes / 2;
    uint64_t sink = 0;
    (void)worker;
    switch (task->limit) {
    case HYB_LIMIT_READ:
        for (size_t i = 0; i < task->n_turns; ++i) sink += task->probes->read(share, task->share_bytes);
        break;
    case HYB_LIMIT_COPY:
        for (size_t i = 0; i < task->n_turns; ++i) memcpy(share + half, share, half);
        sink = share[task->share_bytes - 1];
        break;
    case HYB_LIMIT_FMA_F32:
        sink = task->probes->fma(share, task->n_turns);
        break;
    default:
        sink = task->probes->product(share, task->n_turns);
        break;
    }
    task->sinks[index] += sink;
}

/* Operations or bytes of one turn of one thread. */
static double amount_of_turn(const round_task *task) {
    switch (task->limit) {
    case HYB_LIMIT_READ:
        return (double)task->share_bytes;
    case HYB_LIMIT_COPY:
        return (double)task->share_bytes / 2;
    case HYB_LIMIT_FMA_F32:
        return task->probes->fma_operations;
    default:
        return task->probes->product_operations;
    }
}

static uint64_t time_round(hyb_ctx *ctx, round_task *task, size_t n_threads) {
    uint64_t start = hyb_clock_ns();
    hyb_parallel(ctx, n_threads, run_share, task);
    uint64_t ns = hyb_clock_ns() - start;
    return ns ? ns : 1;
}

/* Grows the number of turns until a round is long enough, then keeps the best round. */
static double best_rate(hyb_ctx *ctx, round_task *task, size_t n_threads) {
    task->n_turns = 1;
    uint64_t begin = hyb_clock_ns(), ns;
    while ((ns = time_round(ctx, task, n_threads)) < ROUND_NS) task->n_turns *= ns < ROUND_NS / 16 ? 8 : 2;
    uint64_t best = ns;
    for (int round = 1; round < MIN_ROUNDS || hyb_clock_ns() - begin < BUDGET_NS; ++round) {
        ns = time_round(ctx, task, n_threads);
        if (ns < best) best = ns;
    }
    return amount_of_turn(task) * (double)task->n_turns * (double)n_threads * 1e9 / (double)best;
}

/* Small fp32 values that read as small int8 codes too: neither denormal nor growing under multiply-add. */
static void fill_operands(uint8_t *memory, size_t n_bytes) {
    for (size_t i = 0; i + sizeof(float) <= n_bytes; i += sizeof(float)) {
        float value = 0.5f + (float)(i % 64) / 1024.0f;
        memcpy(memory + i, &value, sizeof value);
    }
}

hyb_status hyb_limits_measure(hyb_ctx *ctx, hyb_limit limit, size_t n_bytes, double *per_second) {
    if (ctx == NULL || per_second == NULL) return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "limits: NULL");
    if ((int)limit < HYB_LIMIT_READ || (int)limit > HYB_LIMIT_PRODUCT_I8)
        return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "limits: unknown limit %d", (int)limit);
    size_t n_threads = hyb_ctx_n_threads(ctx), share = HYB_LIMIT_OPERAND_BYTES;
    if (limit == HYB_LIMIT_READ || limit == HYB_LIMIT_COPY) {
        share = n_bytes / n_threads / READ_STEP * READ_STEP;
        if (share < MIN_BYTES_PER_THREAD || (uint64_t)n_bytes > MAX_BYTES)
            return hyb_fail(ctx, HYB_ERROR_INVALID_ARGUMENT, "limits: n_bytes must be 4096 times the threads to 2^32");
    }
    hyb_limit_probes probes = choose_probes(ctx->isa);
    round_task task = {.probes = &probes, .limit = limit, .share_bytes = share};
    task.memory = hyb_alloc(ctx, n_threads, share);
    if (task.memory == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "limits: work memory");
    fill_operands(task.memory, n_threads * share); /* touches every page too */
    *per_second = best_rate(ctx, &task, n_threads);
    volatile uint64_t sink = task.sinks[0];
    (void)sink;
    hyb_free(ctx, task.memory);
    return HYB_OK;
}

const char *hyb_limits_method(const hyb_ctx *ctx, hyb_limit limit) {
    hyb_limit_probes probes = choose_probes(ctx == NULL ? 0 : ctx->isa);
    switch (limit) {
    case HYB_LIMIT_READ:
        return probes.read_method;
    case HYB_LIMIT_COPY:
        return "memcpy";
    case HYB_LIMIT_FMA_F32:
        return probes.fma_method;
    case HYB_LIMIT_PRODUCT_I8:
        return probes.product_method;
    default:
        return "";
    }
}
