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

#include "base/clock.h"
#include "base/cpu.h"

enum { MOST_THREADS = 1024, SPIN_NS = 30000, WAIT_NS = 400000, SPINS_PER_LOOK = 64 };

/* A system may wake a worker on the processor of the caller, or the caller on that of a worker,
 * though others are idle, and leave both there for tens of milliseconds: two threads are slower
 * than one then. A worker that finds itself there moves away, but not more often than this:
 * something else may have put it there, which knows better. */
enum { MOVE_NS = 200000 };

/* A worker whose core something else wants as well is put off it in the middle of a piece, often
 * for milliseconds, while the caller has nothing left to do but to wait. Where such stalls sum up
 * to more than an eighth of the time, the worker is better sent to rest for many times what it
 * cost: the caller alone is then faster than both. Each time in a row it rests twice as long, up to
 * half a second or so. */
enum { STALL_NS = 1000000, STALL_SHARE = 8, RESTS_PER_STALL = 32, MOST_RESTS = 128 };

typedef struct worker {
    _Alignas(64) pthread_t thread;
    clockid_t clock; /* its own CPU time, where has_clock */
    bool has_clock;
    atomic_bool busy;            /* claims and runs pieces */
    _Atomic int64_t rests_until; /* ns; the caller's word to the worker */
    int64_t since, stalled;      /* ns: the caller counts stalls from when on, and their sum */
    int rests;                   /* times its stalls, the next time */
    int64_t moved;               /* ns: when it last left the caller's processor */
    nib_pool *pool;
} worker;

struct nib_pool {
    nib_mem *mem;
    unsigned family;   /* of processes: what `forks` was where the workers were started */
    int started, room; /* workers */
    bool spreads;      /* there is a processor for each thread */
    worker *worker;
    atomic_flag taken; /* a caller has the workers */
    /* The job, on one line with the counter: who claims a piece then has what it needs to know. */
    _Alignas(64) _Atomic int64_t left; /* pieces that nobody claimed; zero or less: none */
    int64_t count, grain, pieces;
    atomic_int processor; /* of the caller */
    void (*body)(void *user, int64_t begin, int64_t end);
    void *user;
    _Alignas(64) _Atomic int64_t unfinished; /* pieces that are not done */
    _Alignas(64) atomic_bool stop;
    atomic_bool caller_sleeps;
    atomic_int sleeping; /* workers */
    pthread_mutex_t lock;
    pthread_cond_t wake, done, rested;
};

static _Thread_local bool inside; /* this thread runs a body */

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
        const int64_t now = nib_now_ns();
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

static void rest(nib_pool *pool, int64_t until) {
    const struct timespec end = {(time_t)(until / 1000000000), (long)(until % 1000000000)};
    pthread_mutex_lock(&pool->lock);
    while (!stopped(pool) && nib_now_ns() < until)
        pthread_cond_timedwait(&pool->rested, &pool->lock, &end);
    pthread_mutex_unlock(&pool->lock);
}

static void leave_caller(worker *self) {
    const int processor = atomic_load_explicit(&self->pool->processor, memory_order_relaxed);
    if (!self->pool->spreads || processor < 0 || nib_cpu_here() != processor) return;
    const int64_t now = nib_now_ns();
    if (now - self->moved < MOVE_NS) return;
    self->moved = now;
    nib_cpu_leave(processor);
}

static void *work(void *argument) {
    worker *self = argument;
    nib_pool *pool = self->pool;
    while (!stopped(pool)) {
        const int64_t until = atomic_load_explicit(&self->rests_until, memory_order_relaxed);
        if (until) {
            rest(pool, until);
            atomic_store_explicit(&self->rests_until, 0, memory_order_relaxed);
        } else if (has_work(pool)) {
            leave_caller(self);
            atomic_store_explicit(&self->busy, true, memory_order_relaxed);
            run_pieces(pool);
            atomic_store_explicit(&self->busy, false, memory_order_relaxed);
        } else if (!spin_for_work(pool)) {
            sleep_until_work(pool);
        }
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
    pool->spreads = threads <= nib_cpu_cores();
    pool->worker = nib_mem_alloc_array(mem, (size_t)pool->room, sizeof(worker));
    if (!pool->worker) {
        nib_mem_free(mem, pool, sizeof(*pool));
        return NULL;
    }
    atomic_flag_clear(&pool->taken);
    /* With default attributes these cannot fail on the systems we build for; a pool whose
     * locks were refused would simply have no workers. */
    if (pthread_mutex_init(&pool->lock, NULL) != 0) return pool;
    if (pthread_cond_init(&pool->wake, NULL) != 0) return pool;
    if (pthread_cond_init(&pool->done, NULL) != 0) return pool;
    pthread_condattr_t steady; /* rests end by the clock that nib_now_ns reads */
    if (pthread_condattr_init(&steady) != 0) return pool;
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    const bool can_rest = pthread_cond_init(&pool->rested, &steady) == 0;
    pthread_condattr_destroy(&steady);
    if (!can_rest) return pool;

    sigset_t all, old;
    sigfillset(&all);
    /* ... but faults of the worker itself, which a blocked signal would turn into sudden death:
     * a program may answer a mapped file that was cut under it. */
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* workers inherit it; signals are the caller's */
    while (forks_counted && pool->started < pool->room) {
        worker *w = &pool->worker[pool->started];
        *w = (worker){.pool = pool, .since = nib_now_ns(), .rests = RESTS_PER_STALL};
        if (pthread_create(&w->thread, NULL, work, w) != 0) break;
        w->has_clock = pthread_getcpuclockid(w->thread, &w->clock) == 0;
        pool->started++;
    }
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
            pthread_cond_broadcast(&pool->rested);
            pthread_mutex_unlock(&pool->lock);
            for (int i = 0; i < pool->started; i++) pthread_join(pool->worker[i].thread, NULL);
        }
        pthread_cond_destroy(&pool->rested);
        pthread_cond_destroy(&pool->done);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->lock);
    }
    nib_mem_free(pool->mem, pool->worker, (size_t)pool->room * sizeof(worker));
    nib_mem_free(pool->mem, pool, sizeof(*pool));
}

int nib_pool_threads(const nib_pool *pool) { return pool ? pool->started + 1 : 1; }

/* Time that a worker was kept from running while the caller waited from `began` to `end`, of which
 * it had `used` of its core before. */
static int64_t stall(const worker *w, int64_t began, int64_t end, int64_t used) {
    struct timespec t;
    if (clock_gettime(w->clock, &t) != 0) return 0;
    return end - began - ((int64_t)t.tv_sec * 1000000000 + t.tv_nsec - used);
}

enum { WATCHED = 64 }; /* workers that are looked at while the caller waits */

/* Sleep until the workers are done, and send those to rest that were long kept from running. */
static void sleep_until_done(nib_pool *pool) {
    int64_t used[WATCHED];
    const int watched = pool->started < WATCHED ? pool->started : WATCHED;
    const int64_t began = nib_now_ns();
    for (int i = 0; i < watched; i++) {
        const worker *w = &pool->worker[i];
        struct timespec t;
        used[i] = -1;
        if (w->has_clock && atomic_load_explicit(&w->busy, memory_order_relaxed) &&
            clock_gettime(w->clock, &t) == 0)
            used[i] = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->unfinished) > 0) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);

    const int64_t end = nib_now_ns();
    for (int i = 0; i < watched; i++) {
        worker *w = &pool->worker[i];
        if (used[i] < 0) continue;
        w->stalled += stall(w, began, end, used[i]);
        if (w->stalled < STALL_NS) continue;
        if (w->stalled > (end - w->since) / STALL_SHARE) {
            w->since = end + w->rests * w->stalled;
            w->rests = w->rests < MOST_RESTS ? 2 * w->rests : MOST_RESTS;
            atomic_store_explicit(&w->rests_until, w->since, memory_order_relaxed);
        } else {
            w->since = end;
            w->rests = RESTS_PER_STALL;
        }
        w->stalled = 0;
    }
}

/* Wait for the workers: a while by spinning, since they are on their last piece. */
static void wait_for_unfinished(nib_pool *pool) {
    int64_t until = 0, now;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++)
            if (atomic_load_explicit(&pool->unfinished, memory_order_acquire) == 0) return;
        now = nib_now_ns();
        if (!until) until = now + WAIT_NS;
    } while (now < until);
    sleep_until_done(pool);
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
    atomic_store_explicit(&pool->processor, nib_cpu_here(), memory_order_relaxed);
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
