/* sweep.h: all 2^32 f32 in 256 blocks of 2^24 that share their upper 8 bits, over all cores, with
 * a dot for each eighth: one sees that it goes on. */
#ifndef NIB_TESTS_SWEEP_H
#define NIB_TESTS_SWEEP_H
#include "base/parallel.h"
#include "test.h"

enum { SWEEP_BLOCKS = 256, SWEEP_BLOCK = 1 << 24, SWEEP_DOTS = 8 };

typedef struct sweep {
    void (*block)(void *user, uint32_t top); /* many run at once; those of one user differ in top */
    void *user;
    uint32_t first;
} sweep;

static void sweep_some(void *user, int64_t begin, int64_t end) {
    const sweep *s = user;
    for (int64_t i = begin; i < end; i++) s->block(s->user, s->first + (uint32_t)i);
}

/* Prints the name and the dots; what came out ends the line. */
static inline void sweep_all(nib_pool *pool, const char *name, sweep s) {
    enum { SOME = SWEEP_BLOCKS / SWEEP_DOTS };
    printf("%s ", name);
    for (int dot = 0; dot < SWEEP_DOTS; dot++) {
        fflush(stdout);
        s.first = (uint32_t)dot * SOME;
        nib_parallel_for(pool, SOME, 1, sweep_some, &s);
        printf(".");
    }
    fflush(stdout);
}

/* Is `name` among the words of the command line, or is there none? */
static inline bool sweep_asked(int argc, char **argv, const char *name) {
    bool asked = argc < 2;
    for (int a = 1; a < argc; a++) asked |= strcmp(argv[a], name) == 0;
    return asked;
}

/* Sweeps those of `count` things that are asked for, `one` at a time; the exit status. */
static inline int sweep_asked_ones(int argc, char **argv, size_t count,
                                   const char *(*name)(size_t i),
                                   int (*one)(nib_pool *pool, size_t i)) {
    nib_pool *pool = nib_pool_new(NULL, 0);
    int failed = 0, found = 0;
    for (size_t i = 0; i < count; i++) {
        if (!sweep_asked(argc, argv, name(i))) continue;
        found++;
        failed |= one(pool, i);
    }
    nib_pool_free(pool);
    if (!found) printf("nothing here has that name\n");
    return failed || !found;
}
#endif
