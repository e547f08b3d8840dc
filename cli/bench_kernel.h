/* bench_kernel.h: `nibble bench --kernel` and `--limits`. */
#ifndef NIB_CLI_BENCH_KERNEL_H
#define NIB_CLI_BENCH_KERNEL_H
#include "cli.h"

typedef struct bench_kernel {
    const char *kernel;      /* "linear"; NULL: limits only */
    const char *scheme;      /* NULL: dense bf16 */
    const char *activations; /* NULL: as the scheme says; "int8" */
    const char *rows;        /* "1,4,512" */
    const char *threads;     /* "1,2"; NULL: one for each core */
    int64_t N, K, runs;
    cli_table_format format; /* when not c->json */
} bench_kernel;

int bench_kernel_run(cli *c, const bench_kernel *o); /* -> exit code */
#endif
