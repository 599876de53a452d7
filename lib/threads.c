/* threads.c - parallel loops: a pool of threads that is started by the first loop and belongs to one context.
 *
 * The caller takes part, and takes task numbers from the same counter as the workers. A worker joins a loop only while
 * it is open; the caller closes it when no task is left, and waits only for those that joined: a worker that wakes
 * late costs nothing. Between loops a worker spins for a short while before it sleeps, because the loops of a step
 * follow each other within microseconds.
 *
 * A forked child has none of its parent's threads. The pool remembers its process; a child forgets the pool and starts
 * its own, so nothing has to be registered with the system and no variable outlives a context.
 */
#define _GNU_SOURCE /* sched_getaffinity */
#include "threads.h"
#include "common.h"

/* How long to poll before sleeping: more than the gap between two loops, less than the cost of two wake-ups. */
#define SPIN_NS 50000
#define POLLS_A_CLOCK_READING 32

/* The state word: number of workers in the loop, whether it is open, and its number (which may wrap around: a worker
 * that slept through a whole turn only misses a loop that it could have joined). */
#define ACTIVE_MASK 0x3ffu /* holds HYB_MAX_THREADS */
#define OPEN_BIT 0x400u
#define LOOP_SHIFT 11

typedef struct worker {
    hyb_pool *pool;
    hyb_thread thread;
    size_t index; /* 1 .. n_workers; the caller is 0 */
} worker;

struct hyb_pool {
    hyb_process owner;
    hyb_mutex mutex; /* for sleeping and waking only */
    hyb_condition start, done;
    size_t n_sleeping; /* guarded by mutex */
    int may_spin;
    size_t n_workers;
    /* The loop: written by the caller while it is closed and nobody is in it. */
    hyb_task task;
    void *argument;
    size_t n_tasks;
    /* Atomic. */
    size_t next;
    uint32_t state;
    int stop;
    worker workers[HYB_MAX_THREADS];
};

static void take_tasks(hyb_pool *pool, size_t index) {
    for (;;) {
        size_t i = HYB_ATOMIC_FETCH_ADD(&pool->next, 1);
        if (i >= pool->n_tasks) return;
        pool->task(pool->argument, i, index);
    }
}

/* 1 once (state & mask) differs from `value`; 0 if that takes longer than is worth polling for. */
static int spin_until_changed(const hyb_pool *pool, uint32_t mask, uint32_t value) {
    if (!pool->may_spin) return (HYB_ATOMIC_LOAD(&pool->state) & mask) != value;
    uint64_t end = hyb_clock_ns() + SPIN_NS;
    do {
        for (int i = 0; i < POLLS_A_CLOCK_READING; ++i) {
            if ((HYB_ATOMIC_LOAD(&pool->state) & mask) != value) return 1;
            HYB_CPU_RELAX();
        }
    } while (hyb_clock_ns() < end);
    return 0;
}

/* ---- workers ---- */

/* Waits for a loop (or the end) after loop number `seen`. */
static void wait_for_loop(hyb_pool *pool, uint32_t seen) {
    const uint32_t mask = UINT32_MAX << LOOP_SHIFT, old = seen << LOOP_SHIFT;
    if (spin_until_changed(pool, mask, old)) return;
    hyb_lock(&pool->mutex);
    ++pool->n_sleeping;
    while ((HYB_ATOMIC_LOAD(&pool->state) & mask) == old) hyb_wait(&pool->start, &pool->mutex);
    --pool->n_sleeping;
    hyb_unlock(&pool->mutex);
}

/* Joins the loop if it is open still. *seen receives its number. */
static int join_loop(hyb_pool *pool, uint32_t *seen) {
    uint32_t state = HYB_ATOMIC_LOAD(&pool->state);
    while ((state & OPEN_BIT) != 0)
        if (HYB_ATOMIC_COMPARE_EXCHANGE(&pool->state, &state, state + 1)) break;
    *seen = state >> LOOP_SHIFT;
    return (state & OPEN_BIT) != 0;
}

static void leave_loop(hyb_pool *pool) {
    uint32_t before = HYB_ATOMIC_FETCH_SUB(&pool->state, 1);
    if ((before & OPEN_BIT) != 0 || (before & ACTIVE_MASK) != 1) return;
    hyb_lock(&pool->mutex); /* the last one out; the caller may be asleep */
    hyb_wake_all(&pool->done);
    hyb_unlock(&pool->mutex);
}

static void *run_worker(void *argument) {
    worker *self = argument;
    hyb_pool *pool = self->pool;
    uint32_t seen = 0;
    for (;;) {
        wait_for_loop(pool, seen);
        if (join_loop(pool, &seen)) {
            take_tasks(pool, self->index);
            leave_loop(pool);
        } else if (HYB_ATOMIC_LOAD(&pool->stop)) { /* read behind the state: the end, once seen, is not waited for */
            return NULL;
        }
    }
}

/* ---- the caller ---- */

/* Gives the state the next loop number, and wakes who sleeps. Nobody is in a loop. */
static void announce(hyb_pool *pool, uint32_t open_bit) {
    uint32_t loop = (HYB_ATOMIC_LOAD(&pool->state) >> LOOP_SHIFT) + 1;
    HYB_ATOMIC_STORE(&pool->state, loop << LOOP_SHIFT | open_bit);
    hyb_lock(&pool->mutex);
    if (pool->n_sleeping > 0) hyb_wake_all(&pool->start);
    hyb_unlock(&pool->mutex);
}

static void close_loop(hyb_pool *pool) {
    uint32_t state = HYB_ATOMIC_FETCH_SUB(&pool->state, OPEN_BIT) - OPEN_BIT;
    while ((state & ACTIVE_MASK) != 0) {
        if (!spin_until_changed(pool, UINT32_MAX, state)) {
            hyb_lock(&pool->mutex);
            while ((HYB_ATOMIC_LOAD(&pool->state) & ACTIVE_MASK) != 0) hyb_wait(&pool->done, &pool->mutex);
            hyb_unlock(&pool->mutex);
        }
        state = HYB_ATOMIC_LOAD(&pool->state);
    }
}

/* A pool with as many threads as could be had, or NULL. */
static hyb_pool *create_pool(hyb_ctx *ctx) {
    hyb_pool *pool = hyb_alloc_zeroed(ctx, 1, sizeof *pool);
    if (pool == NULL) return NULL;
    if (!hyb_wait_init(&pool->mutex, &pool->start, &pool->done)) {
        hyb_free(ctx, pool);
        return NULL;
    }
    pool->owner = hyb_process_self();
    pool->may_spin = ctx->options.n_threads <= hyb_usable_processors();
    for (size_t i = 1; i < ctx->options.n_threads; ++i) {
        worker *w = &pool->workers[i];
        w->pool = pool;
        w->index = i;
        if (!hyb_thread_start(&w->thread, run_worker, w)) {
            hyb_log(ctx, HYB_LOG_WARNING, "the system gave %lu of %lu threads: going on with these", (unsigned long)i,
                    (unsigned long)ctx->options.n_threads);
            break;
        }
        pool->n_workers = i;
    }
    return pool;
}

void hyb_pool_destroy(hyb_ctx *ctx) {
    hyb_pool *pool = ctx->pool;
    ctx->pool = NULL;
    if (pool == NULL) return;
    /* In a forked child the threads are not there, and the mutex may be as one of them left it: only the memory goes.
     */
    if (pool->owner == hyb_process_self()) {
        HYB_ATOMIC_STORE(&pool->stop, 1);
        announce(pool, 0);
        for (size_t i = 1; i <= pool->n_workers; ++i) hyb_thread_join(pool->workers[i].thread);
        hyb_wait_destroy(&pool->mutex, &pool->start, &pool->done);
    }
    hyb_free(ctx, pool);
}

/* The context's pool, started if need be; NULL if there is none to be had. */
static hyb_pool *running_pool(hyb_ctx *ctx) {
    if (ctx->pool != NULL && ctx->pool->owner != hyb_process_self()) hyb_pool_destroy(ctx);
    if (ctx->pool == NULL) ctx->pool = create_pool(ctx);
    return ctx->pool;
}

void hyb_parallel(hyb_ctx *ctx, size_t n_tasks, hyb_task task, void *argument) {
    size_t n_threads = ctx->options.n_threads;
    hyb_pool *pool = NULL;
    if (n_tasks > 1 && n_threads > 1) {
        if (ctx->options.parallel_for != NULL) {
            ctx->options.parallel_for(ctx->options.parallel_user, n_tasks, n_threads, task, argument);
            return;
        }
        pool = running_pool(ctx);
    }
    if (pool == NULL || pool->n_workers == 0) {
        for (size_t i = 0; i < n_tasks; ++i) task(argument, i, 0);
        return;
    }
    pool->task = task;
    pool->argument = argument;
    pool->n_tasks = n_tasks;
    HYB_ATOMIC_STORE(&pool->next, 0);
    announce(pool, OPEN_BIT);
    take_tasks(pool, 0);
    close_loop(pool);
}
