/* parallel.c: persistent workers around one job at a time.
 *
 * A job lives on its caller's stack. A worker may look at it only after it joined, under the
 * lock, while the pool still shows the job; the caller takes the job down, under the lock, when
 * no piece is unclaimed, then waits for those who joined. So nobody reads a job that has gone. */
#include "base/parallel.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "base/cpu.h"

enum { MOST_THREADS = 1024, SPIN_NS = 30000, SPINS_PER_LOOK = 64 };

typedef struct job {
    void (*body)(void *user, int64_t begin, int64_t end);
    void *user;
    int64_t count, grain, pieces;
    _Atomic int64_t next; /* piece not yet claimed */
    atomic_int joined;    /* workers that may still touch this; changed under the lock */
} job;

struct nib_pool {
    nib_mem *mem;
    pid_t owner;       /* the process that has the workers */
    int started, room; /* workers */
    pthread_t *worker;
    atomic_flag taken;  /* a caller has the workers */
    atomic_uint posted; /* jobs so far; what a spinning worker watches */
    atomic_bool stop;
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t wake, done;
    job *current;
    int sleeping;
};

static _Thread_local bool inside; /* this thread runs a body */

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void run_serially(int64_t count, int64_t grain,
                         void (*body)(void *user, int64_t begin, int64_t end), void *user) {
    for (int64_t begin = 0; begin < count;) {
        const int64_t end = count - begin > grain ? begin + grain : count;
        body(user, begin, end);
        begin = end;
    }
}

static void run_pieces(job *j) {
    inside = true;
    for (;;) {
        const int64_t piece = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
        if (piece >= j->pieces) break;
        const int64_t begin = piece * j->grain;
        j->body(j->user, begin, j->count - begin > j->grain ? begin + j->grain : j->count);
    }
    inside = false;
}

/* Wait without sleeping until the counter moves on from `seen`; false when the time is over. */
static bool spin_for_work(nib_pool *pool, unsigned seen) {
    const int64_t until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++)
            if (atomic_load_explicit(&pool->posted, memory_order_acquire) != seen ||
                atomic_load_explicit(&pool->stop, memory_order_relaxed))
                return true;
    } while (now_ns() < until);
    return false;
}

static void *work(void *argument) {
    nib_pool *pool = argument;
    unsigned seen = 0;
    pthread_mutex_lock(&pool->lock);
    while (!atomic_load_explicit(&pool->stop, memory_order_relaxed)) {
        const unsigned posted = atomic_load_explicit(&pool->posted, memory_order_relaxed);
        job *j = pool->current;
        if (posted == seen) { /* nothing since this worker last looked */
            pthread_mutex_unlock(&pool->lock);
            const bool more = spin_for_work(pool, seen);
            pthread_mutex_lock(&pool->lock);
            if (!more && atomic_load_explicit(&pool->posted, memory_order_relaxed) == seen &&
                !atomic_load_explicit(&pool->stop, memory_order_relaxed)) {
                pool->sleeping++;
                pthread_cond_wait(&pool->wake, &pool->lock);
                pool->sleeping--;
            }
            continue;
        }
        seen = posted;
        if (!j) continue; /* it came and went */
        atomic_fetch_add_explicit(&j->joined, 1, memory_order_relaxed);
        pthread_mutex_unlock(&pool->lock);
        run_pieces(j);
        pthread_mutex_lock(&pool->lock);
        if (atomic_fetch_sub_explicit(&j->joined, 1, memory_order_release) == 1)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

nib_pool *nib_pool_new(nib_mem *mem, int threads) {
    if (threads <= 0) threads = nib_cpu_cores();
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    nib_pool *pool = nib_mem_alloc_zero(mem, sizeof(*pool));
    if (!pool) return NULL;
    pool->mem = mem;
    pool->owner = getpid();
    pool->room = threads - 1;
    pool->worker = nib_mem_alloc_array(mem, (size_t)pool->room, sizeof(pthread_t));
    if (!pool->worker) {
        nib_mem_free(mem, pool, sizeof(*pool));
        return NULL;
    }
    atomic_flag_clear(&pool->taken);
    /* With default attributes these three cannot fail on the systems we build for; a pool whose
     * locks were refused would simply have no workers. */
    if (pthread_mutex_init(&pool->lock, NULL) != 0) return pool;
    if (pthread_cond_init(&pool->wake, NULL) != 0) return pool;
    if (pthread_cond_init(&pool->done, NULL) != 0) return pool;

    sigset_t all, old;
    sigfillset(&all);
    /* ... but faults of the worker itself, which a blocked signal would turn into sudden death:
     * a program may answer a mapped file that was cut under it. */
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* workers inherit it; signals are the caller's */
    while (pool->started < pool->room &&
           pthread_create(&pool->worker[pool->started], NULL, work, pool) == 0)
        pool->started++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return pool;
}

void nib_pool_free(nib_pool *pool) {
    if (!pool) return;
    if (getpid() == pool->owner) { /* a child after fork has neither the workers nor the locks */
        if (pool->started > 0) {
            pthread_mutex_lock(&pool->lock);
            atomic_store_explicit(&pool->stop, true, memory_order_relaxed);
            pthread_cond_broadcast(&pool->wake);
            pthread_mutex_unlock(&pool->lock);
            for (int i = 0; i < pool->started; i++) pthread_join(pool->worker[i], NULL);
        }
        pthread_cond_destroy(&pool->done);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->lock);
    }
    nib_mem_free(pool->mem, pool->worker, (size_t)pool->room * sizeof(pthread_t));
    nib_mem_free(pool->mem, pool, sizeof(*pool));
}

int nib_pool_threads(const nib_pool *pool) { return pool ? pool->started + 1 : 1; }

/* Wait for the workers that joined: a moment by spinning, since they are on their last piece. */
static void wait_for_joined(nib_pool *pool, job *j) {
    const int64_t until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++)
            if (atomic_load_explicit(&j->joined, memory_order_acquire) == 0) return;
    } while (now_ns() < until);
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&j->joined, memory_order_acquire) > 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void nib_parallel_for(nib_pool *pool, int64_t count, int64_t grain,
                      void (*body)(void *user, int64_t begin, int64_t end), void *user) {
    assert(grain >= 1);
    if (count <= 0) return;
    if (!pool || pool->started == 0 || inside || count <= grain || getpid() != pool->owner ||
        atomic_flag_test_and_set_explicit(&pool->taken, memory_order_acquire)) {
        run_serially(count, grain, body, user);
        return;
    }
    job j = {.body = body,
             .user = user,
             .count = count,
             .grain = grain,
             .pieces = (count - 1) / grain + 1};
    pthread_mutex_lock(&pool->lock);
    pool->current = &j;
    atomic_fetch_add_explicit(&pool->posted, 1, memory_order_release);
    if (pool->sleeping > 0) pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);

    run_pieces(&j);

    pthread_mutex_lock(&pool->lock);
    pool->current = NULL;
    pthread_mutex_unlock(&pool->lock);
    wait_for_joined(pool, &j);
    atomic_flag_clear_explicit(&pool->taken, memory_order_release);
}
