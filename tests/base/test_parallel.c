#include "base/parallel.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

enum { MOST = 5000 };

typedef struct {
    nib_pool *pool;
    int visits[MOST];
    int64_t count, grain;
    atomic_int calls, wrong_bounds;
} marks;

static void mark(void *user, int64_t begin, int64_t end) {
    marks *m = user;
    const int64_t want = begin + m->grain < m->count ? begin + m->grain : m->count;
    if (begin % m->grain != 0 || end != want) atomic_fetch_add(&m->wrong_bounds, 1);
    for (int64_t i = begin; i < end; i++) m->visits[i]++;
    atomic_fetch_add(&m->calls, 1);
}

static const char *check_marks(const marks *m) {
    if (m->wrong_bounds) return "a piece has the wrong bounds";
    if (m->calls != (m->count + m->grain - 1) / m->grain) return "wrong number of pieces";
    for (int64_t i = 0; i < MOST; i++)
        if (m->visits[i] != (i < m->count)) return "an element was not visited exactly once";
    return NULL;
}

TEST(every_piece_of_the_fixed_partition_runs_exactly_once) {
    static const int64_t counts[] = {0, 1, 2, 63, 64, 65, 1000, MOST};
    static const int64_t grains[] = {1, 2, 7, 64, 4999, 1 << 20};
    for (int threads = 1; threads <= 5; threads++) {
        nib_pool *pool = nib_pool_new(NULL, threads);
        CHECK_MADE(pool);
        CHECK_INT(nib_pool_threads(pool), threads);
        for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
            for (size_t g = 0; g < sizeof(grains) / sizeof(grains[0]); g++) {
                marks m = {.count = counts[c], .grain = grains[g]};
                nib_parallel_for(pool, m.count, m.grain, mark, &m);
                const char *wrong = check_marks(&m);
                if (wrong)
                    FAIL_AT("%s: count %d grain %d threads %d", wrong, (int)m.count, (int)m.grain,
                            threads);
            }
        }
        nib_pool_free(pool);
    }
}

TEST(no_pool_means_the_serial_loop) {
    marks m = {.count = 100, .grain = 7};
    nib_parallel_for(NULL, m.count, m.grain, mark, &m);
    CHECK(!check_marks(&m));
    CHECK_INT(nib_pool_threads(NULL), 1);
    nib_pool_free(NULL);
}

TEST(thousands_of_short_jobs_in_a_row_lose_nothing) {
    nib_pool *pool = nib_pool_new(NULL, 4);
    CHECK_MADE(pool);
    for (int round = 0; round < 3000; round++) {
        marks m = {.count = 16 + round % 50, .grain = 1};
        nib_parallel_for(pool, m.count, m.grain, mark, &m);
        CHECK(!check_marks(&m));
        if (round % 500 == 0) usleep(2000); /* long enough for the workers to fall asleep */
    }
    nib_pool_free(pool);
}

static void nest(void *user, int64_t begin, int64_t end) {
    marks *outer = user;
    for (int64_t i = begin; i < end; i++) {
        marks m = {.count = 50, .grain = 3};
        const pthread_t self = pthread_self();
        nib_parallel_for(outer->pool, m.count, m.grain, mark, &m);
        if (check_marks(&m) || !pthread_equal(self, pthread_self()))
            atomic_fetch_add(&outer->wrong_bounds, 1);
        outer->visits[i]++;
    }
    atomic_fetch_add(&outer->calls, 1);
}

TEST(a_call_from_inside_a_body_runs_in_place) {
    nib_pool *pool = nib_pool_new(NULL, 3);
    CHECK_MADE(pool);
    marks m = {.pool = pool, .count = 40, .grain = 1};
    nib_parallel_for(pool, m.count, m.grain, nest, &m);
    CHECK(!check_marks(&m));
    nib_pool_free(pool);
}

static void *call_often(void *argument) {
    nib_pool *pool = argument;
    for (int round = 0; round < 500; round++) {
        marks m = {.count = 30, .grain = 1};
        nib_parallel_for(pool, m.count, m.grain, mark, &m);
        if (check_marks(&m)) return argument;
    }
    return NULL;
}

TEST(several_threads_may_call_at_once) {
    nib_pool *pool = nib_pool_new(NULL, 3);
    CHECK_MADE(pool);
    pthread_t caller[4];
    for (int i = 0; i < 4; i++) CHECK_INT(pthread_create(&caller[i], NULL, call_often, pool), 0);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(caller[i], &wrong);
        CHECK(!wrong);
    }
    nib_pool_free(pool);
}

static atomic_bool neighbours_stay;
static void *spin(void *argument) {
    while (atomic_load_explicit(&neighbours_stay, memory_order_relaxed)) {
    }
    return argument;
}

/* Long enough for workers to be put off their cores amid a piece, and to be sent to rest for it. */
TEST(workers_that_must_share_their_cores_lose_nothing) {
    enum { NEIGHBOURS = 4 };
    nib_pool *pool = nib_pool_new(NULL, 3);
    CHECK_MADE(pool);
    pthread_t neighbour[NEIGHBOURS];
    atomic_store(&neighbours_stay, true);
    for (int i = 0; i < NEIGHBOURS; i++)
        CHECK_INT(pthread_create(&neighbour[i], NULL, spin, NULL), 0);
    struct timespec began, at;
    clock_gettime(CLOCK_MONOTONIC, &began);
    do {
        for (int round = 0; round < 20; round++) {
            marks m = {.count = MOST, .grain = 50};
            nib_parallel_for(pool, m.count, m.grain, mark, &m);
            CHECK(!check_marks(&m));
        }
        clock_gettime(CLOCK_MONOTONIC, &at);
    } while ((at.tv_sec - began.tv_sec) * 1000 + (at.tv_nsec - began.tv_nsec) / 1000000 < 300);
    atomic_store(&neighbours_stay, false);
    for (int i = 0; i < NEIGHBOURS; i++) pthread_join(neighbour[i], NULL);
    nib_pool_free(pool); /* also while a worker rests */
}

/* Run `what` in a child process; its exit code. */
static int in_child(int (*what)(nib_pool *pool), nib_pool *pool) {
    const pid_t child = fork();
    if (child == 0) _exit(what(pool));
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + status;
}

static int use_after_fork(nib_pool *pool) {
    marks m = {.count = 1000, .grain = 1};
    nib_parallel_for(pool, m.count, m.grain, mark, &m);
    nib_pool_free(pool);
    return check_marks(&m) != NULL;
}

TEST(a_child_after_fork_runs_serially_and_the_parent_goes_on) {
    nib_pool *pool = nib_pool_new(NULL, 3);
    CHECK_MADE(pool);
    for (int i = 0; i < 20; i++) {
        CHECK_INT(in_child(use_after_fork, pool), 0);
        marks m = {.count = 1000, .grain = 1};
        nib_parallel_for(pool, m.count, m.grain, mark, &m);
        CHECK(!check_marks(&m));
    }
    nib_pool_free(pool);
}

static int starve(nib_pool *none) {
    (void)none;
    /* No room for a thread's stack: less address space than this process already has. */
    const struct rlimit little = {1 << 20, 1 << 20};
    if (setrlimit(RLIMIT_AS, &little) != 0) return 2;
    nib_pool *pool = nib_pool_new(NULL, 200); /* more than the C library keeps old stacks for */
    if (!pool) return 3;
    if (nib_pool_threads(pool) > 100) return 4;
    static marks m = {.count = 1000, .grain = 1};
    nib_parallel_for(pool, m.count, m.grain, mark, &m);
    nib_pool_free(pool);
    return check_marks(&m) ? 5 : 0;
}

TEST(workers_that_cannot_start_mean_fewer_workers) {
    if (TEST_SANITIZED) {
        print_message("skipped: sanitizers need more address space than this test leaves\n");
        return;
    }
    /* A few blocks freed beforehand stay in the allocator, for the pool itself. */
    void *spare = malloc(16384);
    free(spare);
    CHECK_INT(in_child(starve, NULL), 0);
}

TEST(no_memory_is_an_error_and_no_leak) {
    nib_mem mem = {0};
    for (long n = 0; n < 2; n++) {
        nib_mem_fail_after(n, false);
        CHECK(!nib_pool_new(&mem, 2));
        nib_mem_fail_after(-1, false);
        CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
        CHECK_INT(nib_mem_used(&mem), 0);
    }
    nib_pool *pool = nib_pool_new(&mem, 2);
    CHECK_MADE(pool);
    nib_pool_free(pool);
    CHECK_INT(nib_mem_used(&mem), 0);
}

TESTS(RUNS(every_piece_of_the_fixed_partition_runs_exactly_once),
      RUNS(no_pool_means_the_serial_loop), RUNS(thousands_of_short_jobs_in_a_row_lose_nothing),
      RUNS(a_call_from_inside_a_body_runs_in_place), RUNS(several_threads_may_call_at_once),
      RUNS(workers_that_must_share_their_cores_lose_nothing),
      RUNS(a_child_after_fork_runs_serially_and_the_parent_goes_on),
      RUNS(workers_that_cannot_start_mean_fewer_workers), RUNS(no_memory_is_an_error_and_no_leak))
