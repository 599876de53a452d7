/* threads.c - parallel loops: a pool of threads that is started by the first loop and belongs to one context.
 *
 * The caller takes part. Workers and caller take task numbers from one counter. Between loops a worker spins for a short
 * while before it sleeps, because the loops of a training step follow each other within microseconds. A forked child has
 * none of its parent's threads: it notices by the process id and starts its own.
 */
#define _DEFAULT_SOURCE /* sysconf's processor count, under -std=c99 */
#include "common.h"
#include "threads.h"

/* Polls before sleeping: some tens of microseconds, more than the gap between two loops. */
#define SPIN_POLLS 4000

typedef struct worker {
    hyb_pool *pool;
    hyb_thread thread;
    size_t index; /* 1 .. n_workers; the caller is 0 */
} worker;

struct hyb_pool {
    hyb_mutex mutex;
    hyb_condition start, done;
    hyb_process owner;
    size_t n_workers, n_polls;
    /* The current loop. Written by the caller before `generation` changes, read by workers after. */
    hyb_task task;
    void *argument;
    size_t n_tasks;
    int stop;
    uint32_t generation; /* atomic: one more for every loop */
    size_t next;         /* atomic: the next task */
    size_t n_running;    /* atomic: workers that have not finished the loop */
    worker workers[HYB_MAX_THREADS];
};

static void take_tasks(hyb_pool *pool, size_t index) {
    for (;;) {
        size_t i = HYB_ATOMIC_FETCH_ADD(&pool->next, 1);
        if (i >= pool->n_tasks) return;
        pool->task(pool->argument, i, index);
    }
}

/* Waits for a loop after `seen`. */
static uint32_t next_generation(hyb_pool *pool, uint32_t seen) {
    for (size_t i = 0; i < pool->n_polls; i++) {
        uint32_t generation = HYB_ATOMIC_LOAD(&pool->generation);
        if (generation != seen) return generation;
        HYB_CPU_RELAX();
    }
    hyb_lock(&pool->mutex);
    while (HYB_ATOMIC_LOAD(&pool->generation) == seen) hyb_wait(&pool->start, &pool->mutex);
    uint32_t generation = HYB_ATOMIC_LOAD(&pool->generation);
    hyb_unlock(&pool->mutex);
    return generation;
}

static void *run_worker(void *argument) {
    worker *self = argument;
    hyb_pool *pool = self->pool;
    uint32_t seen = 0;
    for (;;) {
        seen = next_generation(pool, seen);
        if (pool->stop) return NULL;
        take_tasks(pool, self->index);
        if (HYB_ATOMIC_FETCH_ADD(&pool->n_running, (size_t)-1) == 1) {
            hyb_lock(&pool->mutex);
            hyb_wake_all(&pool->done);
            hyb_unlock(&pool->mutex);
        }
    }
}

/* Makes the loop visible and wakes the sleepers. */
static void announce(hyb_pool *pool) {
    HYB_ATOMIC_FETCH_ADD(&pool->generation, 1);
    hyb_lock(&pool->mutex);
    hyb_wake_all(&pool->start);
    hyb_unlock(&pool->mutex);
}

static void wait_for_workers(hyb_pool *pool) {
    for (size_t i = 0; i < pool->n_polls; i++) {
        if (HYB_ATOMIC_LOAD(&pool->n_running) == 0) return;
        HYB_CPU_RELAX();
    }
    hyb_lock(&pool->mutex);
    while (HYB_ATOMIC_LOAD(&pool->n_running) != 0) hyb_wait(&pool->done, &pool->mutex);
    hyb_unlock(&pool->mutex);
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
    pool->n_polls = ctx->options.n_threads <= hyb_online_processors() ? SPIN_POLLS : 0;
    for (size_t i = 1; i < ctx->options.n_threads; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.pool = pool, .index = i};
        if (!hyb_thread_start(&w->thread, run_worker, w)) break;
        pool->n_workers = i;
    }
    return pool;
}

void hyb_pool_destroy(hyb_ctx *ctx) {
    hyb_pool *pool = ctx->pool;
    ctx->pool = NULL;
    if (pool == NULL) return;
    if (pool->owner == hyb_process_self()) {
        pool->stop = 1;
        announce(pool);
        for (size_t i = 1; i <= pool->n_workers; i++) hyb_thread_join(pool->workers[i].thread);
        hyb_wait_destroy(&pool->mutex, &pool->start, &pool->done);
    }
    hyb_free(ctx, pool);
}

static void run_inline(size_t n_tasks, hyb_task task, void *argument) {
    for (size_t i = 0; i < n_tasks; i++) task(argument, i, 0);
}

void hyb_parallel(hyb_ctx *ctx, size_t n_tasks, hyb_task task, void *argument) {
    size_t n_threads = ctx->options.n_threads;
    if (n_tasks <= 1 || n_threads <= 1) {
        run_inline(n_tasks, task, argument);
        return;
    }
    if (ctx->options.parallel_for != NULL) {
        ctx->options.parallel_for(ctx->options.parallel_user, n_tasks, n_threads, task, argument);
        return;
    }
    if (ctx->pool != NULL && ctx->pool->owner != hyb_process_self()) hyb_pool_destroy(ctx);
    if (ctx->pool == NULL) ctx->pool = create_pool(ctx);
    hyb_pool *pool = ctx->pool;
    if (pool == NULL || pool->n_workers == 0) {
        run_inline(n_tasks, task, argument);
        return;
    }
    pool->task = task;
    pool->argument = argument;
    pool->n_tasks = n_tasks;
    HYB_ATOMIC_STORE(&pool->next, 0);
    HYB_ATOMIC_STORE(&pool->n_running, pool->n_workers);
    announce(pool);
    take_tasks(pool, 0);
    wait_for_workers(pool);
}
