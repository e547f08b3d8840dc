/* timing.h: the clock of the benches, and the order that medians are taken in. */
#ifndef BENCH_TIMING_H
#define BENCH_TIMING_H
#include "base/clock.h"

/* Seconds since some moment. */
static inline double now(void) { return 1e-9 * (double)nib_now_ns(); }

/* Of doubles, for qsort. */
static inline int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
#endif
