/* How fast is a bf16 matrix in memory quantized? GB/s of input, median of RUNS runs with least and
 * most, on the clock and in CPU time times threads: on a busy machine the second is what an idle
 * one can reach at best.
 *
 *     quantize_tensor [THREADS [ROWS COLS]]        2 threads, 4096 x 14336 */
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "timing.h"

enum { RUNS = 11 };

static const char *const schemes[] = {
    "int8_weight_only",
    "int8_weight_only:granularity=group,group_size=32",
    "int4_weight_only",
    "int4_weight_only:group_size=32",
    "int4_weight_only:numerics=tinygemm",
    "intx_weight_only:bits=4,granularity=group,group_size=32",
    "intx_weight_only:bits=3,granularity=group,group_size=128",
    "float8_weight_only",
    "qint8",
    "qint4",
    "qint2",
    "qfloat8",
};

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint16_t *weights(size_t n) {
    uint16_t *w = malloc(n * sizeof *w);
    uint64_t state = 1;
    for (size_t i = 0; w && i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const float x = (float)((int64_t)(state >> 40) - 8388608) * 0x1p-28f;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        w[i] = (uint16_t)(bits >> 16);
    }
    return w;
}

static int measure(nib_ctx *ctx, const nib_tensor *w, const char *text, int threads,
                   double gigabytes) {
    double wall[RUNS], cpu = 1e9;
    nib_config *config = nib_config_parse(text);
    if (!config) return 0;            /* not in this build */
    for (int r = -1; r < RUNS; r++) { /* the first one warms up */
        const size_t mark = nib_scope_begin(ctx);
        const double at = seconds(CLOCK_MONOTONIC), used = seconds(CLOCK_PROCESS_CPUTIME_ID);
        if (!nib_quantize_tensor(w, config)) {
            fprintf(stderr, "%s: %s\n", text, nib_last_error()->what);
            return 1;
        }
        const double took = seconds(CLOCK_MONOTONIC) - at;
        const double busy = seconds(CLOCK_PROCESS_CPUTIME_ID) - used;
        nib_scope_end(ctx, mark);
        if (r >= 0) wall[r] = took;
        if (busy < cpu) cpu = busy;
    }
    qsort(wall, RUNS, sizeof *wall, ascending);
    printf("| %-57s | %5.2f (%.2f - %.2f) | %5.2f |\n", text, gigabytes / wall[RUNS / 2],
           gigabytes / wall[RUNS - 1], gigabytes / wall[0], gigabytes / cpu * threads);
    nib_config_free(config);
    return 0;
}

int main(int argc, char **argv) {
    const int threads = argc > 1 ? atoi(argv[1]) : 2;
    const int64_t rows = argc > 3 ? atol(argv[2]) : 4096, cols = argc > 3 ? atol(argv[3]) : 14336;
    uint16_t *data = rows > 0 && cols > 0 ? weights((size_t)(rows * cols)) : NULL;
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
    nib_tensor *w =
        data ? nib_tensor_wrap(ctx, NIB_BF16, (nib_shape){2, {rows, cols}}, data, NULL, NULL)
             : NULL;
    int failed = !w;
    printf("[%lld, %lld] bf16, %d threads, %d runs\n\n| scheme | GB/s, median (least - most) | "
           "GB/s by CPU time |\n"
           "|---|---|---|\n",
           (long long)rows, (long long)cols, threads, RUNS);
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes && !failed; i++)
        failed = measure(ctx, w, schemes[i], threads, (double)(rows * cols * 2) / 1e9);
    nib_tensor_free(w);
    nib_ctx_free(ctx);
    free(data);
    return failed;
}
