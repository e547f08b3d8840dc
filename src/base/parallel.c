/* parallel.c: persistent workers around one job at a time.
 *
 * The job stands in the pool. Who takes one from `left` and finds it above zero has claimed a piece
 * of whatever job stands there, and may read it until that piece is counted off `unfinished`; the
 * caller writes the next job only when nothing of this one is unfinished. So a job costs no lock:
 * that is for those who sleep. A step of a small model is some thirty jobs of a few microseconds.
 */
#include "base/parallel.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include "base/cpu.h"

enum { MOST_THREADS = 1024, SPIN_NS = 30000, SPINS_PER_LOOK = 64 };

struct nib_pool {
    nib_mem *mem;
    unsigned family;   /* of processes: what `forks` was where the workers were started */
    int started, room; /* workers */
    pthread_t *worker;
    atomic_flag taken; /* a caller has the workers */
    /* The job, on one line with the counter: who claims a piece then has what it needs to know. */
    _Alignas(64) _Atomic int64_t left; /* pieces that nobody claimed; zero or less: none */
    int64_t count, grain, pieces;
    void (*body)(void *user, int64_t begin, int64_t end);
    void *user;
    _Alignas(64) _Atomic int64_t unfinished; /* pieces that are not done */
    _Alignas(64) atomic_bool stop;
    atomic_bool caller_sleeps;
    atomic_int sleeping; /* workers */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
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

/* Claim pieces and run them until none is left; count them off together, since a line that another
 * core wrote takes as long to come as a small piece takes to run. */
static void run_pieces(nib_pool *pool) {
    inside = true;
    int64_t done = 0, left;
    while ((left = atomic_fetch_sub_explicit(&pool->left, 1, memory_order_acquire)) > 0) {
        const int64_t begin = (pool->pieces - left) * pool->grain, count = pool->count;
        pool->body(pool->user, begin, count - begin > pool->grain ? begin + pool->grain : count);
        done++;
    }
    inside = false;
    if (done && atomic_fetch_sub(&pool->unfinished, done) == done &&
        atomic_load(&pool->caller_sleeps)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_signal(&pool->done);
        pthread_mutex_unlock(&pool->lock);
    }
}

static bool has_work(const nib_pool *pool) {
    return atomic_load_explicit(&pool->left, memory_order_relaxed) > 0;
}

static bool stopped(const nib_pool *pool) {
    return atomic_load_explicit(&pool->stop, memory_order_relaxed);
}

/* Wait without sleeping until there is work; false when the time is over. */
static bool spin_for_work(const nib_pool *pool) {
    int64_t until = 0;
    for (;;) {
        for (int i = 0; i < SPINS_PER_LOOK; i++)
            if (has_work(pool) || stopped(pool)) return true;
        const int64_t now = now_ns();
        if (!until) until = now + SPIN_NS;
        if (now >= until) return false;
    }
}

/* Who posts a job writes `left`, then reads `sleeping`; who goes to sleep writes `sleeping`, then
 * reads `left`: in the one order of both, one of the two sees the other. */
static void sleep_until_work(nib_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleeping, 1);
    while (atomic_load(&pool->left) <= 0 && !stopped(pool))
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *work(void *argument) {
    nib_pool *pool = argument;
    while (!stopped(pool)) {
        if (has_work(pool))
            run_pieces(pool);
        else if (!spin_for_work(pool))
            sleep_until_work(pool);
    }
    return NULL;
}

/* The processes that fork() makes have no workers; each of them counts itself. Where they could
 * not know, there are no workers anywhere. */
static atomic_uint forks;
static bool forks_counted;
static pthread_once_t counting = PTHREAD_ONCE_INIT;
static void count_fork(void) { atomic_fetch_add(&forks, 1); }
static void count_forks(void) { forks_counted = pthread_atfork(NULL, NULL, count_fork) == 0; }

static bool has_workers(const nib_pool *pool) {
    return pool && pool->started > 0 &&
           atomic_load_explicit(&forks, memory_order_relaxed) == pool->family;
}

nib_pool *nib_pool_new(nib_mem *mem, int threads) {
    if (threads <= 0) threads = nib_cpu_cores();
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    nib_pool *pool = nib_mem_alloc_zero(mem, sizeof(*pool));
    if (!pool) return NULL;
    pool->mem = mem;
    pthread_once(&counting, count_forks);
    pool->family = atomic_load(&forks);
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
    while (forks_counted && pool->started < pool->room &&
           pthread_create(&pool->worker[pool->started], NULL, work, pool) == 0)
        pool->started++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return pool;
}

void nib_pool_free(nib_pool *pool) {
    if (!pool) return;
    /* A child after fork() has neither the workers nor the locks. */
    if (atomic_load(&forks) == pool->family) {
        if (pool->started > 0) {
            pthread_mutex_lock(&pool->lock);
            atomic_store(&pool->stop, true);
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

/* Wait for the workers: a moment by spinning, since they are on their last piece. */
static void wait_for_unfinished(nib_pool *pool) {
    int64_t until = 0, now;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++)
            if (atomic_load_explicit(&pool->unfinished, memory_order_acquire) == 0) return;
        now = now_ns();
        if (!until) until = now + SPIN_NS;
    } while (now < until);
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->unfinished) > 0) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

void nib_parallel_for(nib_pool *pool, int64_t count, int64_t grain,
                      void (*body)(void *user, int64_t begin, int64_t end), void *user) {
    assert(grain >= 1);
    if (count <= 0) return;
    if (!has_workers(pool) || inside || count <= grain ||
        atomic_flag_test_and_set_explicit(&pool->taken, memory_order_acquire)) {
        run_serially(count, grain, body, user);
        return;
    }
    pool->body = body;
    pool->user = user;
    pool->count = count;
    pool->grain = grain;
    pool->pieces = (count - 1) / grain + 1;
    atomic_store_explicit(&pool->unfinished, pool->pieces, memory_order_relaxed);
    atomic_store(&pool->left, pool->pieces);
    if (atomic_load(&pool->sleeping) > 0) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
    run_pieces(pool);
    if (atomic_load_explicit(&pool->unfinished, memory_order_acquire) > 0)
        wait_for_unfinished(pool);
    atomic_flag_clear_explicit(&pool->taken, memory_order_release);
}
