#include "base/pages.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/sys.h"

void nib_pages_init(nib_pages *p) {
    *p = (nib_pages){.page = (size_t)sysconf(_SC_PAGESIZE)};
    atomic_flag_clear(&p->taken);
}

size_t nib_pages_whole(const nib_pages *p, size_t size) {
    return size > SIZE_MAX - p->page ? 0 : (size + p->page - 1) & ~(p->page - 1);
}

static bool enter(nib_pages *p) {
    return !atomic_flag_test_and_set_explicit(&p->taken, memory_order_acquire);
}

/* `kept` is written by who has entered, and read by all. */
static void leave(nib_pages *p, size_t kept) {
    atomic_store_explicit(&p->kept, kept, memory_order_relaxed);
    atomic_flag_clear_explicit(&p->taken, memory_order_release);
}

static size_t kept_now(const nib_pages *p) {
    return atomic_load_explicit(&p->kept, memory_order_relaxed);
}

static void forget(nib_pages *p, int i) {
    p->count--;
    memmove(&p->run[i], &p->run[i + 1], (size_t)(p->count - i) * sizeof *p->run);
}

/* The smallest run of at least `size` bytes; -1: none. */
static int smallest(const nib_pages *p, size_t size) {
    int best = -1;
    for (int i = 0; i < p->count; i++)
        if (p->run[i].size >= size && (best < 0 || p->run[i].size < p->run[best].size)) best = i;
    return best;
}

void *nib_pages_take(nib_pages *p, size_t size) {
    const size_t whole = nib_pages_whole(p, size);
    if (!whole || kept_now(p) < whole || !enter(p)) return NULL;
    size_t kept = kept_now(p);
    char *block = NULL;
    const int i = smallest(p, whole);
    if (i >= 0) {
        nib_run *run = &p->run[i];
        block = run->at;
        run->at += whole;
        run->size -= whole;
        kept -= whole;
        if (!run->size) forget(p, i);
    }
    leave(p, kept);
    return block;
}

void *nib_pages_new(const nib_pages *p, size_t size) {
    const size_t whole = nib_pages_whole(p, size);
    void *block = whole ? nib_sys_map_fresh(whole) : MAP_FAILED;
    return block == MAP_FAILED ? NULL : block;
}

/* Put a run among the others; false: the table is full. */
static bool put(nib_pages *p, char *at, size_t size) {
    int i = 0; /* the first run above */
    for (int above = p->count; i < above;) {
        const int half = i + (above - i) / 2;
        if (p->run[half].at < at)
            i = half + 1;
        else
            above = half;
    }
    nib_run *below = i > 0 ? &p->run[i - 1] : NULL, *above = i < p->count ? &p->run[i] : NULL;
    const bool joins_below = below && below->at + below->size == at;
    const bool joins_above = above && at + size == above->at;
    if (joins_below) {
        below->size += size;
        if (joins_above) {
            below->size += above->size;
            forget(p, i);
        }
    } else if (joins_above) {
        above->at = at;
        above->size += size;
    } else {
        if (p->count == NIB_MOST_RUNS) return false;
        memmove(&p->run[i + 1], &p->run[i], (size_t)(p->count - i) * sizeof *p->run);
        p->run[i] = (nib_run){at, size};
        p->count++;
    }
    return true;
}

void nib_pages_give(nib_pages *p, void *block, size_t size) {
    const size_t whole = nib_pages_whole(p, size);
    bool keeps = false;
    if (enter(p)) {
        keeps = put(p, block, whole);
        leave(p, kept_now(p) + (keeps ? whole : 0));
    }
    if (!keeps) (void)nib_sys_unmap(block, whole);
}

void nib_pages_cut(nib_pages *p, size_t size) {
    if (!enter(p)) return;
    size_t kept = kept_now(p), left = size < kept ? nib_pages_whole(p, size) : kept;
    while (left) {
        const int i = smallest(p, 0);
        nib_run *run = &p->run[i];
        const size_t cut = run->size < left ? run->size : left;
        run->size -= cut;
        (void)nib_sys_unmap(run->at + run->size, cut);
        if (!run->size) forget(p, i);
        left -= cut;
        kept -= cut;
    }
    leave(p, kept);
}
