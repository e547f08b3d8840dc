/* guarded.h: memory between two pages that nobody may touch, and ugly numbers to put there. */
#ifndef NIB_TESTS_KERNEL_GUARDED_H
#define NIB_TESTS_KERNEL_GUARDED_H
#include <float.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test.h"

typedef struct guarded {
    unsigned char *data; /* room bytes, a page without access on either side */
    size_t room;
} guarded;

static inline guarded guarded_new(size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (size + page) / page * page;
    unsigned char *all =
        mmap(NULL, room + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || mprotect(all, page, PROT_NONE) != 0 ||
        mprotect(all + page + room, page, PROT_NONE) != 0) {
        print_error("no guarded memory\n");
        exit(1);
    }
    return (guarded){all + page, room};
}

static inline void guarded_free(guarded g) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    munmap(g.data - page, g.room + 2 * page);
}

enum { GUARDED_MARGIN = 512 }; /* bytes on either side that are watched for stray writes */

static inline void guarded_watch(guarded g, size_t begin, size_t size, size_t *from, size_t *to) {
    *from = begin > GUARDED_MARGIN ? begin - GUARDED_MARGIN : 0;
    *to = g.room - begin - size > GUARDED_MARGIN ? begin + size + GUARDED_MARGIN : g.room;
}

static inline void *guarded_place(guarded g, size_t begin, size_t size) {
    size_t from, to;
    guarded_watch(g, begin, size, &from, &to);
    memset(g.data + from, 0xa5, to - from);
    return g.data + begin;
}
/* `size` bytes that end `gap` bytes before the upper guard, or begin so after the lower one; they
 * and their margins are set to a pattern first. */
static inline void *guarded_at_end(guarded g, size_t size, size_t gap) {
    return guarded_place(g, g.room - size - gap, size);
}
static inline void *guarded_at_start(guarded g, size_t size, size_t gap) {
    return guarded_place(g, gap, size);
}

/* At one guard or the other, by turns. */
static inline void *guarded_either(guarded g, size_t size) {
    static unsigned turn;
    return turn++ % 3 ? guarded_at_end(g, size, 0) : guarded_at_start(g, size, 0);
}

/* Was a byte of the margins of [p, p + size) written? */
static inline bool guarded_spilled(guarded g, const void *p, size_t size) {
    const size_t begin = (size_t)((const unsigned char *)p - g.data);
    size_t from, to;
    guarded_watch(g, begin, size, &from, &to);
    for (size_t i = from; i < to; i++)
        if ((i < begin || i >= begin + size) && g.data[i] != 0xa5) return true;
    return false;
}

enum { UGLY_KINDS = 9, UGLY_FINITE = 7 }; /* the last two kinds hold NaN and infinity */

/* Fill x with numbers of one kind; kinds from UGLY_FINITE on are not finite. */
static inline void ugly_fill(float *x, size_t n, int kind, uint64_t *seed) {
    for (size_t i = 0; i < n; i++) {
        const float u = test_uniform(seed);
        switch (kind) {
        case 0:
            x[i] = u;
            break;
        case 1:
            x[i] = 0.0f;
            break;
        case 2:
            x[i] = i % 2 ? -0.0f : 0.0f;
            break;
        case 3:
            x[i] = i % 2 ? -3e37f : 3e37f;
            break;
        case 4:
            x[i] = u * FLT_MIN;
            break; /* denormal */
        case 5:
            x[i] = (float)(int)(u * 300) * 0.5f;
            break; /* ties */
        case 6:
            x[i] = ldexpf(u, (int)(test_random(seed) % 60) - 30);
            break;
        case 7: {
            const uint32_t bits = (uint32_t)test_random(seed);
            memcpy(&x[i], &bits, sizeof(bits));
            break;
        }
        default: {
            static const float rare[] = {INFINITY, -INFINITY, NAN, -NAN, FLT_MAX, -FLT_MAX, 0.0f};
            x[i] = test_random(seed) % 8 ? u : rare[test_random(seed) % 7];
        }
        }
    }
}

/* The same bits, or both a NaN; the first place where not, or -1. */
static inline int64_t floats_differ(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u, v;
        memcpy(&u, a + i, 4);
        memcpy(&v, b + i, 4);
        if (u != v && !((u & 0x7fffffffu) > 0x7f800000u && (v & 0x7fffffffu) > 0x7f800000u))
            return (int64_t)i;
    }
    return -1;
}
#endif
