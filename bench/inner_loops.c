/* How close do the inner loops of products come to the units they use? Tiles of many rows by 8-bit
 * inputs, one function call over 4096 columns of two panels, and few rows by float inputs, as
 * floats or as digits of 8 bits, all in the first two caches; multiply-adds beside the peak of the
 * same unit, one thread, in turns.
 *
 *     inner_loops           needs AVX-512 with VNNI, the kernels it looks into
 *
 * `at most` counts what the loop must do by the same units besides: one fma for each group, row and
 * 16 channels beside 8-bit products (a second where there is an offset), one for each 16 weights
 * beside those of float rows. */
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512VNNI__)
#define nib_kernels_lane_i8_avx512vnni nib_looked_into /* not the library's */
#include "kernel/x86/lane_i8_avx512vnni.c"
#include "timing.h"

enum { ROUNDS = 15, K = 4096, G = 64, ROWS = 84, LD = K + 64, N = 128 };

static void *filled(size_t size, int byte) {
    void *p = aligned_alloc(4096, (size + 8191) / 4096 * 4096);
    if (!p) exit(1);
    return memset(p, byte, (size + 8191) / 4096 * 4096);
}

typedef struct loop {
    const char *what;
    int bits;
    bool offset;
    int rows; /* of float inputs; 0: a tile */
    double at_most;
} loop;

static const loop loops[] = {
    {"8 bits, one group, tile 12 x 2", 8, false, 0, 1},
    {"4 bits, groups of 64, tile 6 x 2", 4, false, 0, 16.0 / 17},
    {"the same with an offset", 4, true, 0, 16.0 / 18},
    {"2 bits, groups of 64, tile 6 x 2", 2, false, 0, 16.0 / 17},
    {"4 bits, float inputs as digits, 1 row", 4, true, 1, 16.0 / 18},
    {"4 bits, float inputs as digits, 4 rows", 4, true, 4, 16.0 / 18},
    {"2 bits, float inputs as digits, 1 row", 2, true, 1, 16.0 / 18},
    {"8 bits, float inputs, 1 row", 8, false, 1, 1.0 / 2},
    {"8 bits, float inputs, 8 rows", 8, false, 8, 8.0 / 9},
};

typedef struct room {
    tile_scratch *scratch;
    uint8_t *codes, *scale;
    int8_t *q;
    float *x, *y;
    int32_t *sums;
    nib_kernels kernels;
} room;

/* Operations a second, two for each multiply-add, of what the loop is for. */
static double rate_of(const loop *l, const room *m) {
    const int64_t groups = l->bits == 8 ? 1 : K / G;
    double work = 0;
    const double began = now();
    double passed;
    do {
        for (int turn = 0; turn < 8; turn++) {
            if (l->rows) {
                const nib_lane_weight w = {.lane = l->bits == 8   ? NIB_LANE_W8
                                                   : l->bits == 4 ? NIB_LANE_W4
                                                                  : NIB_LANE_W2,
                                           .bits = l->bits,
                                           .mid = 1 << (l->bits - 1),
                                           .N = N,
                                           .K = K,
                                           .G = K / groups,
                                           .groups = groups,
                                           .codes = m->codes,
                                           .panel_bytes = (int64_t)K * NIB_PANEL * l->bits / 8,
                                           .scale = m->scale,
                                           .offset = m->scale,
                                           .scale_dtype = NIB_BF16,
                                           .offset_kind =
                                               l->offset ? NIB_OFFSET_ADD : NIB_OFFSET_NONE};
                if (l->bits < 8) {
                    const int rows = NIB_DIGITS * l->rows;
                    const nib_rows_i8 digits = {
                        .q = m->q, .ld = LD, .scale = m->x, .sums = m->sums};
                    (l->bits == 4 ? lane_w4 : lane_w2)(m->y, N, &digits, rows, &w, 0, N / NIB_PANEL,
                                                       m->scratch);
                    work += 2.0 * rows * N * K;
                    continue;
                }
                m->kernels.lane_rows[NIB_LANE_W8](m->y, N, m->x, K, l->rows, &w, 0, N / NIB_PANEL);
                work += 2.0 * l->rows * N * K;
                continue;
            }
            const int height = l->bits == 8 ? TALL_ROWS : TILE_ROWS;
            const nib_lane_weight w = {.N = N, .K = K, .G = K / groups, .groups = groups};
            const nib_rows_i8 x = {.q = m->q, .ld = LD, .scale = m->x};
            const tile_job job = {.y = m->y, .ldy = N, .x = &x, .w = &w, .s = m->scratch};
            const tile_block b = {
                .job = &job,
                .panels = TILE_PANELS,
                .q = m->q,
                .ld = LD,
                .codes = {m->codes, m->codes + (size_t)K * NIB_PANEL * (size_t)l->bits / 8},
                .groups = groups,
                .cells = (int64_t)K * l->bits / 32 / groups,
                .begins = true,
                .fresh = true,
                .ends = groups > 1,
                .complete = true,
                .offset = l->offset};
            tile_function *one = l->bits == 8 ? tall_12 : l->bits == 4 ? tile_4_6 : tile_2_6;
            one(&b, m->scratch, turn * height % (ROWS - height));
            work += 2.0 * height * TILE_PANELS * NIB_PANEL * K;
        }
        passed = now() - began;
    } while (passed < 0.005);
    return work / passed;
}

int main(void) {
    enum { LOOPS = sizeof loops / sizeof *loops };
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    nib_limits *limits = ctx ? nib_limits_new(ctx) : NULL;
    if (!limits) {
        fprintf(stderr, "inner_loops: %s\n", nib_last_error()->what);
        return 1;
    }
    room m = {.scratch = filled(sizeof(tile_scratch), 0),
              .codes = filled((size_t)K * N, 0x5a),
              .scale = filled((size_t)K / G * N * 2, 0x3c),
              .q = filled((size_t)ROWS * LD, 3),
              .x = filled(sizeof(float) * 8 * K, 0x3c), /* and scales of rows */
              .y = filled(sizeof(float) * ROWS * N, 0),
              .sums = filled(sizeof(int32_t) * NIB_DIGITS * 8 * K / G, 0)};
    nib_kernels_fill(&m.kernels, NIB_CPU_AVX2 | NIB_CPU_AVX512 | NIB_CPU_AVX512VNNI);
    static double share[LOOPS][ROUNDS];
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < LOOPS; i++) {
            const nib_limit unit =
                loops[i].rows && loops[i].bits == 8 ? NIB_LIMIT_F32 : NIB_LIMIT_U8;
            const double before = nib_limits_measure(limits, ctx, unit);
            const double rate = rate_of(&loops[i], &m);
            const double after = nib_limits_measure(limits, ctx, unit);
            share[i][r] = rate / (before > after ? before : after);
        }
    printf("| loop | at most | of the unit's peak | least | most |\n|---|--:|--:|--:|--:|\n");
    for (int i = 0; i < LOOPS; i++) {
        qsort(share[i], ROUNDS, sizeof share[i][0], ascending);
        printf("| %s | %.1f %% | %.1f %% | %.1f %% | %.1f %% |\n", loops[i].what,
               100 * loops[i].at_most, 100 * share[i][ROUNDS / 2], 100 * share[i][0],
               100 * share[i][ROUNDS - 1]);
    }
    nib_limits_free(limits);
    nib_ctx_free(ctx);
    return 0;
}
#else
int main(void) {
    fprintf(stderr, "inner_loops: built for a machine without AVX-512 and VNNI\n");
    return 1;
}
#endif
