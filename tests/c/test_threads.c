/* test_threads.c - parallel loops: every task once, workers told apart, 1 to 8 threads, forked children, several
 * contexts at once and inside each other, the external hook, a changing number of threads.
 */
#include "testing.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "common.h"

#define MAX_TASKS 2000

/* ThreadSanitizer cannot follow a child that starts threads after a fork; AddressSanitizer's allocator may be locked by
 * another thread at the moment of the fork, and stays so in the child. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CAN_FORK 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define CAN_FORK 0
#endif
#endif
#ifndef CAN_FORK
#define CAN_FORK 1
#endif

static hyb_ctx *create(uint32_t n_threads) {
    hyb_ctx_options options;
    hyb_ctx *ctx = NULL;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.n_threads = n_threads;
    if (hyb_ctx_create(&options, &ctx) != HYB_OK) exit(1);
    return ctx;
}

typedef struct record {
    int n_runs[MAX_TASKS];        /* by task; a task is run by one worker */
    int is_busy[HYB_MAX_THREADS]; /* atomic, by worker */
    int n_clashes; /* atomic: two tasks at the same moment with the same worker, or a worker out of range */
    size_t n_workers;
} record;

static void note(void *argument, size_t index, size_t worker) {
    record *r = argument;
    if (worker >= r->n_workers || HYB_ATOMIC_FETCH_ADD(&r->is_busy[worker], 1) != 0)
        HYB_ATOMIC_FETCH_ADD(&r->n_clashes, 1);
    ++r->n_runs[index];
    if (worker < r->n_workers) HYB_ATOMIC_FETCH_SUB(&r->is_busy[worker], 1);
}

/* 1 if a loop of n_tasks ran every task exactly once, with distinct workers. */
static int loop_is_right(hyb_ctx *ctx, size_t n_tasks) {
    record *r = calloc(1, sizeof *r);
    if (r == NULL) exit(1);
    r->n_workers = hyb_ctx_n_threads(ctx);
    hyb_parallel(ctx, n_tasks, note, r);
    int right = r->n_clashes == 0;
    for (size_t i = 0; i < MAX_TASKS; ++i) right &= r->n_runs[i] == (i < n_tasks);
    free(r);
    return right;
}

/* Any number of tasks on any number of threads: each runs once, and no two share a worker at the same moment. */
static void test_threads_every_task_once(void) {
    static const uint32_t n_threads[] = {1, 2, 3, 8};
    static const size_t n_tasks[] = {0, 1, 2, 3, 7, 8, 100, MAX_TASKS};
    for (size_t t = 0; t < 4; ++t) {
        hyb_ctx *ctx = create(n_threads[t]);
        for (int turn = 0; turn < 20; ++turn)
            for (size_t i = 0; i < sizeof n_tasks / sizeof *n_tasks; ++i) CHECK(loop_is_right(ctx, n_tasks[i]));
        hyb_ctx_destroy(ctx);
    }
}

/* Loops that follow each other at once, and after a pause long enough for every worker to fall asleep. */
static void test_threads_back_to_back(void) {
    hyb_ctx *ctx = create(4);
    uint64_t random = 1;
    int right = 1;
    for (int i = 0; i < 3000; ++i) right &= loop_is_right(ctx, test_random_below(&random, 12));
    CHECK(right);
    for (int i = 0; i < 20; ++i) {
        usleep(1000);
        CHECK(loop_is_right(ctx, 9));
    }
    hyb_ctx_destroy(ctx);
}

/* Contexts that end while their workers are still waking for the last loop: none waits for another. */
static void test_threads_destroy_at_once(void) {
    for (int turn = 0; turn < 500; ++turn) {
        hyb_ctx *ctx = create(8);
        CHECK(loop_is_right(ctx, 2));
        hyb_ctx_destroy(ctx);
    }
}

/* The number of threads may change between loops. */
static void test_threads_set_n_threads(void) {
    static const uint32_t n_threads[] = {2, 8, 1, 3, 3};
    hyb_ctx *ctx = create(1);
    for (size_t i = 0; i < 5; ++i) {
        CHECK_OK(hyb_ctx_set_n_threads(ctx, n_threads[i]));
        CHECK(hyb_ctx_n_threads(ctx) == n_threads[i]);
        CHECK(loop_is_right(ctx, 200));
    }
    hyb_ctx_destroy(ctx);
}

/* No thread is started by a context that never runs a loop, or by loops of a single task. */
static void test_threads_start_lazily(void) {
    hyb_ctx *ctx = create(8);
    CHECK(loop_is_right(ctx, 1) && ctx->pool == NULL);
    CHECK(loop_is_right(ctx, 2) && ctx->pool != NULL);
    hyb_ctx_destroy(ctx);
}

/* 1 if a forked child exits with 0 within 20 seconds. */
static int child_succeeds(pid_t child) {
    int status = 0;
    for (int i = 0; i < 2000; ++i) {
        if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) && WEXITSTATUS(status) == 0;
        usleep(10000);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return 0;
}

/* A child of a process with a running pool can run loops, fork again and destroy the context; so can the parent. */
static void test_threads_fork(void) {
    for (int turn = 0; turn < 10; ++turn) {
        hyb_ctx *ctx = create(4);
        CHECK(loop_is_right(ctx, 100));
        if (turn % 2) usleep(2000); /* workers asleep, or still polling */
        pid_t child = fork();
        if (child == 0) {
            int right = loop_is_right(ctx, 100) && loop_is_right(ctx, 50);
            pid_t grandchild = fork();
            if (grandchild == 0) {
                right = loop_is_right(ctx, 100);
                hyb_ctx_destroy(ctx);
                _exit(!right);
            }
            right &= child_succeeds(grandchild) && loop_is_right(ctx, 100);
            hyb_ctx_destroy(ctx);
            _exit(!right);
        }
        CHECK(child > 0 && child_succeeds(child));
        CHECK(loop_is_right(ctx, 100));
        hyb_ctx_destroy(ctx);
    }
    hyb_ctx *ctx = create(4); /* a child that destroys at once, without a loop of its own */
    CHECK(loop_is_right(ctx, 100));
    pid_t child = fork();
    if (child == 0) {
        hyb_ctx_destroy(ctx);
        _exit(0);
    }
    CHECK(child > 0 && child_succeeds(child));
    hyb_ctx_destroy(ctx);
}

typedef struct nested {
    hyb_ctx *inner[3];
    int n_wrong; /* atomic */
} nested;

static void run_inner(void *argument, size_t index, size_t worker) {
    nested *n = argument;
    (void)index;
    if (!loop_is_right(n->inner[worker], 64)) HYB_ATOMIC_FETCH_ADD(&n->n_wrong, 1);
}

/* A task of one context may run loops of another. */
static void test_threads_nested_contexts(void) {
    hyb_ctx *outer = create(3);
    nested n = {{create(2), create(2), create(2)}, 0};
    for (int i = 0; i < 10; ++i) hyb_parallel(outer, 20, run_inner, &n);
    CHECK(n.n_wrong == 0);
    for (size_t i = 0; i < 3; ++i) hyb_ctx_destroy(n.inner[i]);
    hyb_ctx_destroy(outer);
}

static void *use_own_context(void *unused) {
    (void)unused;
    hyb_ctx *ctx = create(3);
    int right = 1;
    for (int i = 0; i < 200; ++i) right &= loop_is_right(ctx, 20);
    hyb_ctx_destroy(ctx);
    return right ? ctx : NULL; /* any pointer but NULL means success */
}

/* Contexts in different threads do not disturb each other. */
static void test_threads_independent_contexts(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; ++i)
        if (pthread_create(&threads[i], NULL, use_own_context, NULL) != 0) exit(1);
    for (int i = 0; i < 4; ++i) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        CHECK(result != NULL);
    }
}

typedef struct hook {
    size_t n_calls, n_tasks, n_workers;
} hook;

/* Runs backwards, with the workers in turn. */
static void external_for(void *user, size_t n_tasks, size_t n_workers, hyb_task task, void *argument) {
    hook *h = user;
    ++h->n_calls;
    h->n_tasks = n_tasks;
    h->n_workers = n_workers;
    for (size_t i = n_tasks; i-- > 0;) task(argument, i, i % n_workers);
}

/* With the external hook there is no pool; a loop that needs no help does not call it. */
static void test_threads_external_hook(void) {
    hook h = {0, 0, 0};
    hyb_ctx_options options;
    hyb_ctx *ctx = NULL;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.n_threads = 6;
    options.parallel_for = external_for;
    options.parallel_user = &h;
    CHECK_OK(hyb_ctx_create(&options, &ctx));
    CHECK(loop_is_right(ctx, 77));
    CHECK(h.n_calls == 1 && h.n_tasks == 77 && h.n_workers == 6 && ctx->pool == NULL);
    CHECK(loop_is_right(ctx, 1) && h.n_calls == 1);
    CHECK_OK(hyb_ctx_set_n_threads(ctx, 1));
    CHECK(loop_is_right(ctx, 77) && h.n_calls == 1);
    hyb_ctx_destroy(ctx);
}

int main(void) {
    test_threads_every_task_once();
    test_threads_back_to_back();
    test_threads_set_n_threads();
    test_threads_destroy_at_once();
    test_threads_start_lazily();
    if (!CAN_FORK)
        printf("SKIPPED: test_threads_fork, sanitizers cannot follow it\n");
    else if (getenv("HYB_TEST_EMULATED") != NULL)
        printf("SKIPPED: test_threads_fork, QEMU 7 itself fails when a forked child starts threads\n");
    else
        test_threads_fork();
    test_threads_nested_contexts();
    test_threads_independent_contexts();
    test_threads_external_hook();
    return TEST_RESULT();
}
