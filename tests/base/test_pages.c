#include "base/pages.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "base/sys.h"
#include "test.h"

enum { PAGE_ROOM = 1 << 16 }; /* a whole number of pages on any machine */

static size_t kept(const nib_pages *p) { return atomic_load(&p->kept); }

TEST(pages_that_come_back_in_any_order_are_one_run_again) {
    static const int orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {0, 2, 1, 3}, {1, 3, 2, 0}};
    for (size_t o = 0; o < sizeof orders / sizeof *orders; o++) {
        nib_pages p;
        nib_pages_init(&p);
        char *all = nib_pages_new(&p, 4 * PAGE_ROOM);
        CHECK(all);
        for (int i = 0; i < 4; i++) nib_pages_give(&p, all + orders[o][i] * PAGE_ROOM, PAGE_ROOM);
        CHECK_INT(p.count, 1);
        CHECK_INT(kept(&p), 4 * PAGE_ROOM);
        CHECK(nib_pages_take(&p, 4 * PAGE_ROOM) == all);
        CHECK_INT(kept(&p), 0);
        CHECK(!nib_pages_take(&p, 1));
        nib_pages_give(&p, all, 4 * PAGE_ROOM);
        nib_pages_cut(&p, SIZE_MAX);
        CHECK_INT(p.count, 0);
        CHECK_INT(kept(&p), 0);
    }
}

TEST(a_block_is_cut_from_the_smallest_run_that_holds_it) {
    nib_pages p;
    nib_pages_init(&p);
    char *all = nib_pages_new(&p, 8 * PAGE_ROOM);
    CHECK(all);
    nib_pages_give(&p, all, 4 * PAGE_ROOM); /* the fifth and the eighth stay in use */
    nib_pages_give(&p, all + 5 * PAGE_ROOM, 2 * PAGE_ROOM);
    CHECK_INT(p.count, 2);
    CHECK(!nib_pages_take(&p, 5 * PAGE_ROOM)); /* there are six, but not in a row */
    CHECK(nib_pages_take(&p, 2 * PAGE_ROOM - 1) == all + 5 * PAGE_ROOM);
    CHECK(nib_pages_take(&p, PAGE_ROOM) == all);
    CHECK(nib_pages_take(&p, PAGE_ROOM) == all + PAGE_ROOM);
    CHECK_INT(kept(&p), 2 * PAGE_ROOM);
    nib_pages_cut(&p, PAGE_ROOM);
    CHECK_INT(kept(&p), PAGE_ROOM);
    nib_pages_cut(&p, 2 * PAGE_ROOM);
    CHECK_INT(kept(&p), 0);
    munmap(all, 2 * PAGE_ROOM);
    munmap(all + 4 * PAGE_ROOM, 4 * PAGE_ROOM);
}

TEST(more_runs_than_the_table_holds_go_to_the_system) {
    enum { BLOCKS = 2 * NIB_MOST_RUNS + 20 };
    nib_pages p;
    nib_pages_init(&p);
    char *all = nib_pages_new(&p, BLOCKS * p.page);
    CHECK(all);
    for (int i = 0; i < BLOCKS; i += 2) nib_pages_give(&p, all + (size_t)i * p.page, p.page);
    CHECK_INT(p.count, NIB_MOST_RUNS);
    CHECK_INT(kept(&p), NIB_MOST_RUNS * p.page);
    for (int i = 1; i < BLOCKS; i += 2) nib_pages_give(&p, all + (size_t)i * p.page, p.page);
    CHECK_INT(kept(&p), (BLOCKS - 10) * p.page); /* all but ten */
    nib_pages_cut(&p, SIZE_MAX);
    CHECK_INT(kept(&p), 0);
}

TEST(no_size_overflows) {
    nib_pages p;
    nib_pages_init(&p);
    CHECK(!nib_pages_new(&p, SIZE_MAX) && !nib_pages_take(&p, SIZE_MAX));
    nib_sys_fail_after(0, ENOMEM);
    CHECK(!nib_pages_new(&p, PAGE_ROOM));
    nib_sys_fail_after(-1, 0);
}

/* Blocks of random sizes, each full of a byte of its own: none may overlap another. */
typedef struct user {
    nib_pages *pages;
    uint64_t seed;
    int name;
    bool whole;
} user;

static void *take_and_give(void *arg) {
    enum { BLOCKS = 12, ROUNDS = 4000 };
    user *u = arg;
    unsigned char *block[BLOCKS] = {NULL};
    size_t size[BLOCKS] = {0};
    for (int i = 0; i < ROUNDS + BLOCKS && u->whole; i++) {
        const int k = i < ROUNDS ? (int)(test_random(&u->seed) % BLOCKS) : i - ROUNDS;
        if (block[k]) {
            const unsigned char byte = (unsigned char)(u->name * BLOCKS + k);
            u->whole &= block[k][0] == byte && block[k][size[k] / 2] == byte;
            u->whole &= block[k][size[k] - 1] == byte;
            nib_pages_give(u->pages, block[k], size[k]);
            block[k] = NULL;
            if (i % 64 == 0) nib_pages_cut(u->pages, PAGE_ROOM);
        } else if (i < ROUNDS) {
            size[k] = 1 + test_random(&u->seed) % PAGE_ROOM;
            block[k] = nib_pages_take(u->pages, size[k]);
            if (!block[k]) block[k] = nib_pages_new(u->pages, size[k]);
            if (!block[k]) return NULL;
            memset(block[k], u->name * BLOCKS + k, size[k]);
        }
    }
    return u;
}

TEST(threads_never_get_the_same_page) {
    enum { THREADS = 4 };
    pthread_t thread[THREADS];
    user u[THREADS];
    nib_pages p;
    nib_pages_init(&p);
    const uint64_t seed = test_seed();
    for (int i = 0; i < THREADS; i++) {
        u[i] = (user){&p, seed + (uint64_t)i, i, true};
        CHECK_INT(pthread_create(&thread[i], NULL, take_and_give, &u[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *done;
        pthread_join(thread[i], &done);
        CHECK(done && u[i].whole);
    }
    size_t sum = 0;
    for (int i = 0; i < p.count; i++) {
        sum += p.run[i].size;
        CHECK(!i || p.run[i - 1].at + p.run[i - 1].size < p.run[i].at);
    }
    CHECK_INT(kept(&p), sum);
    nib_pages_cut(&p, SIZE_MAX);
}

TESTS(RUNS(pages_that_come_back_in_any_order_are_one_run_again),
      RUNS(a_block_is_cut_from_the_smallest_run_that_holds_it),
      RUNS(more_runs_than_the_table_holds_go_to_the_system), RUNS(no_size_overflows),
      RUNS(threads_never_get_the_same_page))
