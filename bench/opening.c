/* What does opening a quantized checkpoint cost? bench_opening MODEL [THREADS [ROUNDS]]: in turns,
 * in one process, medians of: reading all bytes of the folder's weights once (read, 1 MiB at a
 * time, into the same place), nib_model_load, nib_prepare; and reading them into memory of their
 * own, as who keeps them must. The files are in the page cache after the first turn, which is not
 * counted; so reading costs the least it can. */
#include <dirent.h>
#include <fcntl.h>
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "timing.h"

enum { MOST = 21, RUN = 1 << 20 };

static int fail(void) {
    fprintf(stderr, "%s\n", nib_last_error()->what);
    return 1;
}

typedef enum reading { ONCE, KEPT, DROPPED } reading;

/* All weights of the folder, their bytes in *bytes; each RUN over the last, or all kept until the
 * end of a file; or their pages are dropped from the cache. */
static void read_all(const char *folder, double *bytes, reading how) {
    static char run[RUN];
    DIR *dir = opendir(folder);
    char path[4096];
    *bytes = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        const char *end = strrchr(e->d_name, '.');
        if (!end || strcmp(end, ".safetensors") != 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        const int file = open(path, O_RDONLY);
        if (how == DROPPED && file >= 0) posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
        const off_t size = file >= 0 ? lseek(file, 0, SEEK_END) : 0;
        char *all = how == KEPT ? malloc((size_t)size + RUN) : NULL, *to = all ? all : run;
        if (file >= 0) lseek(file, 0, SEEK_SET);
        for (ssize_t n; how != DROPPED && file >= 0 && (n = read(file, to, RUN)) > 0;) {
            *bytes += (double)n;
            if (all) to += n;
        }
        free(all);
        if (file >= 0) close(file);
    }
    if (dir) closedir(dir);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, ascending);
    return values[n / 2];
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "bench_opening MODEL [THREADS [ROUNDS]]\n"), 2;
    const int threads = argc > 2 ? atoi(argv[2]) : 0, given = argc > 3 ? atoi(argv[3]) : 5;
    const int rounds = given < MOST ? given : MOST;
    const bool cold = argc > 4 && strcmp(argv[4], "cold") == 0;
    double bytes = 0, took[4][MOST], ratio[MOST];
    for (int round = -1; round < rounds; round++) {
        nib_ctx *ctx =
            nib_ctx_new(&(nib_ctx_options){.size = sizeof(nib_ctx_options), .threads = threads});
        if (!ctx) return fail();
        if (cold) read_all(argv[1], &bytes, DROPPED);
        const double began = now();
        read_all(argv[1], &bytes, ONCE);
        const double read = now() - began;
        if (cold) read_all(argv[1], &(double){0}, DROPPED);
        const double keeping = now();
        read_all(argv[1], &(double){0}, KEPT);
        const double kept = now() - keeping;
        if (cold) read_all(argv[1], &(double){0}, DROPPED);
        const double b = now();
        nib_model *model = nib_model_load(ctx, argv[1], NULL);
        if (!model) return fail();
        const double c = now();
        if (nib_prepare(nib_model_root(model)) < NIB_OK) return fail();
        const double d = now();
        nib_model_free(model);
        nib_ctx_free(ctx);
        if (round < 0) continue;
        took[0][round] = read;
        took[1][round] = c - b;
        took[2][round] = d - c;
        took[3][round] = kept;
        ratio[round] = (d - c) / read;
    }
    printf(
        "%s, %d threads, %d rounds: %.2f GB read in %.3f s, opened in %.4f s, prepared in %.3f s: "
        "%.2f times one read%s; read and kept in %.3f s\n",
        argv[1], threads, rounds, bytes / 1e9, median(took[0], rounds), median(took[1], rounds),
        median(took[2], rounds), median(ratio, rounds), cold ? ", cold" : "",
        median(took[3], rounds));
    return 0;
}
