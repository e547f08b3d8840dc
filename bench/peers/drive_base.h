/* drive_base.h: the clock and the way to give up, of everything that races here. */
#ifndef DRIVE_BASE_H
#define DRIVE_BASE_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline double drive_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void drive_fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}
#endif
