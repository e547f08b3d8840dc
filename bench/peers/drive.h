/* drive.h: what the drivers of a race share. A driver holds one kind of weight of one library and
 * multiplies when race.py says so, so that libraries with pools of their own stay in processes of
 * their own and take turns:
 *     driver N K MOST_M TYPE [more]
 *     <- "ready BYTES COPIES NOTE"          BYTES of one weight; NOTE: what the library says it
 * runs
 *     -> "M THREADS SECONDS"                again and again
 *     <- "MS PRODUCTS"                      time of one product, how many were timed
 * Up to 8 rows, products go through copies of the weight, more than 256 MB together. */
#ifndef DRIVE_H
#define DRIVE_H
#include <stdint.h>

#include "drive_base.h"

enum { DRIVE_ROTATED = 8 };

typedef struct drive {
    int64_t N, K, most; /* most rows of inputs there will be */
    const char *type;
    char **more; /* what follows TYPE, ended by NULL */
    int64_t bytes, copies;
    char note[200];
} drive;

/* Copies of a weight of d->bytes that the rows of this race want. */
static inline int64_t drive_copies(const drive *d) { return 2 + 272000000 / d->bytes; }

/* Three functions of each driver. Failing is printing why to stderr and exit(1). */
static void drive_start(drive *d); /* sets bytes, copies, note */
static void drive_threads(int threads);
static int64_t drive_batch(drive *d, int64_t M); /* some products, one after another; -> how many */

/* Numbers as weights and inputs have them, the same in every driver: sums of four uniform ones. */
static inline void drive_fill(float *x, size_t n, float size) {
    uint32_t state = 2463534242u;
    for (size_t i = 0; i < n; i++) {
        float sum = -2;
        for (int k = 0; k < 4; k++) {
            state ^= state << 13, state ^= state >> 17, state ^= state << 5;
            sum += (float)(state >> 8) / (1 << 24);
        }
        x[i] = sum * 1.7320508f * size;
    }
}

/* 64-byte aligned, filled with `byte`. */
static inline void *drive_alloc(size_t size, int byte) {
    void *p = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!p) drive_fail("no memory");
    return memset(p, byte, size);
}

int main(int argc, char **argv) {
    if (argc < 5) drive_fail("driver N K MOST_M TYPE [more]");
    drive d = {.N = atoll(argv[1]),
               .K = atoll(argv[2]),
               .most = atoll(argv[3]),
               .type = argv[4],
               .more = argv + 5};
    drive_start(&d);
    printf("ready %lld %lld %s\n", (long long)d.bytes, (long long)d.copies, d.note);
    fflush(stdout);
    char line[100];
    while (fgets(line, sizeof line, stdin)) {
        long long M;
        int threads;
        double seconds;
        if (sscanf(line, "%lld %d %lf", &M, &threads, &seconds) != 3) break;
        drive_threads(threads);
        /* One look at the clock a batch; a batch too short to be timed is run more often. */
        int64_t products = 0;
        const double began = drive_now();
        double passed;
        do products += drive_batch(&d, M);
        while ((passed = drive_now() - began) < seconds);
        printf("%.9g %lld\n", 1e3 * passed / (double)products, (long long)products);
        fflush(stdout);
    }
    return 0;
}
#endif
