/* threads.h - the operating system's threads, mutexes, conditions and processes behind our own names: the one place to
 * change for a platform without POSIX threads. Included by threads.c only.
 */
#ifndef HYB_THREADS_H
#define HYB_THREADS_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

typedef pthread_t hyb_thread;
typedef pthread_mutex_t hyb_mutex;
typedef pthread_cond_t hyb_condition;
typedef pid_t hyb_process;

static inline hyb_process hyb_process_self(void) { return getpid(); }

/* 1 on success. Both can be destroyed with hyb_wait_destroy. */
static inline int hyb_wait_init(hyb_mutex *mutex, hyb_condition *a, hyb_condition *b) {
    return pthread_mutex_init(mutex, NULL) == 0 && pthread_cond_init(a, NULL) == 0 && pthread_cond_init(b, NULL) == 0;
}
static inline void hyb_wait_destroy(hyb_mutex *mutex, hyb_condition *a, hyb_condition *b) {
    pthread_cond_destroy(a);
    pthread_cond_destroy(b);
    pthread_mutex_destroy(mutex);
}
static inline void hyb_lock(hyb_mutex *mutex) { pthread_mutex_lock(mutex); }
static inline void hyb_unlock(hyb_mutex *mutex) { pthread_mutex_unlock(mutex); }
static inline void hyb_wait(hyb_condition *condition, hyb_mutex *mutex) { pthread_cond_wait(condition, mutex); }
static inline void hyb_wake_all(hyb_condition *condition) { pthread_cond_broadcast(condition); }
static inline void hyb_yield(void) { sched_yield(); }

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

/* Processors that are online; 1 if unknown. */
static inline unsigned hyb_online_processors(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)n : 1;
}

#endif /* HYB_THREADS_H */
