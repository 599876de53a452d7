/* threads.h - the operating system's threads, mutexes, conditions, processes and clock behind our own names: the one
 * place to change for a platform without POSIX threads. Included by threads.c and
 * limits.c only, which define _GNU_SOURCE first.
 */
#ifndef HYB_THREADS_H
#define HYB_THREADS_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

typedef pthread_t hyb_thread;
typedef pthread_mutex_t hyb_mutex;
typedef pthread_cond_t hyb_condition;
typedef pid_t hyb_process;

static inline hyb_process hyb_process_self(void) { return getpid(); }

/* A mutex and two conditions; 1 on success. They are destroyed with hyb_wait_destroy. */
static inline int hyb_wait_init(hyb_mutex *mutex, hyb_condition *a, hyb_condition *b) {
    if (pthread_mutex_init(mutex, NULL) != 0) return 0;
    if (pthread_cond_init(a, NULL) == 0) {
        if (pthread_cond_init(b, NULL) == 0) return 1;
        pthread_cond_destroy(a);
    }
    pthread_mutex_destroy(mutex);
    return 0;
}
static inline void hyb_wait_destroy(hyb_mutex *mutex, hyb_condition *a, hyb_condition *b) {
    pthread_cond_destroy(b);
    pthread_cond_destroy(a);
    pthread_mutex_destroy(mutex);
}
static inline void hyb_lock(hyb_mutex *mutex) { pthread_mutex_lock(mutex); }
static inline void hyb_unlock(hyb_mutex *mutex) { pthread_mutex_unlock(mutex); }
static inline void hyb_wait(hyb_condition *condition, hyb_mutex *mutex) { pthread_cond_wait(condition, mutex); }
static inline void hyb_wake_all(hyb_condition *condition) { pthread_cond_broadcast(condition); }

/* Starts a thread that no signal is delivered to: signals belong to the program's own threads. 1 on success. */
static inline int hyb_thread_start(hyb_thread *thread, void *(*function)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int started = pthread_create(thread, NULL, function, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}
static inline void hyb_thread_join(hyb_thread thread) { pthread_join(thread, NULL); }

/* Processors that this process may run on; 1 if unknown. */
static inline size_t hyb_usable_processors(void) {
#if defined(__linux__) && defined(CPU_COUNT)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return (size_t)CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (size_t)n : 1;
}

/* Time since some moment, which never goes back. */
static inline uint64_t hyb_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif /* HYB_THREADS_H */
