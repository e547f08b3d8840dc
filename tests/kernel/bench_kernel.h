/* bench_kernel.h: time and throughput of the slots that one kernel set fills, beside the judges'.
 * Each line: slot, shape, median and best of the runs, GB/s of what is read and written, GFLOP/s.
 */
#ifndef NIB_TESTS_KERNEL_BENCH_KERNEL_H
#define NIB_TESTS_KERNEL_BENCH_KERNEL_H
#include <time.h>

#include "kernel/kernel.h"
#include "test.h"

enum {
    BENCH_RUNS = 15,
    BENCH_N = 1 << 20,
    BENCH_K = 4096,
    BENCH_CHANNELS = 4096,
    BENCH_ROWS = 512
};

typedef struct bench {
    const nib_kernels *k;
    float *x, *w, *y;
    uint8_t *q;
    uint8_t *codes;        /* of weights; no NaN as narrow floats */
    int8_t *eight, *seven; /* codes of inputs, [BENCH_ROWS] rows BENCH_K + 64 apart */
    int32_t *sums;         /* of inputs: any will do */
} bench;

static inline double bench_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* own time: neighbours do not count */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int bench_order(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#define BENCH(label, bytes, flops, call)                                                           \
    do {                                                                                           \
        double t_[BENCH_RUNS];                                                                     \
        for (int r_ = 0; r_ < BENCH_RUNS; r_++) {                                                  \
            const double begin_ = bench_seconds();                                                 \
            call;                                                                                  \
            t_[r_] = bench_seconds() - begin_;                                                     \
        }                                                                                          \
        qsort(t_, BENCH_RUNS, sizeof(double), bench_order);                                        \
        const double median_ = t_[BENCH_RUNS / 2];                                                 \
        printf("  %-42s %9.3f ms (best %9.3f) %7.2f GB/s %7.1f GFLOP/s\n", label, median_ * 1e3,   \
               t_[0] * 1e3, (double)(bytes) / median_ * 1e-9, (double)(flops) / median_ * 1e-9);   \
    } while (0)

typedef void attention_fn(float *out, float *max, float *sum, const nib_attention_rows *rows,
                          const nib_kv_part *part);
enum { BENCH_HEADS = 4, BENCH_D = 128, BENCH_PARTS = 128 };

/* Parts of a key head one after the other, each `bytes` of keys, then of values. */
static inline void bench_parts(const bench *b, attention_fn *attend, size_t bytes,
                               const nib_attention_rows *rows, const float *scale) {
    float max[BENCH_HEADS] = {0}, sum[BENCH_HEADS] = {0};
    const unsigned char *k = (const unsigned char *)b->w;
    memset(b->y, 0, BENCH_HEADS * BENCH_D * sizeof *b->y);
    for (int p = 0; p < BENCH_PARTS; p++, k += 2 * bytes) {
        const nib_kv_part part = {k, k + bytes, scale, scale, scale, scale};
        attend(b->y, max, sum, rows, &part);
    }
}

/* Four query heads of 128 columns against 8192 tokens, as a step of decoding does it. */
static inline void bench_attention(const bench *b, const nib_kernels *ref) {
    enum { HEADS = BENCH_HEADS, D = BENCH_D };
    const nib_kernels *k = b->k;
    const struct {
        const char *name;
        attention_fn *attend, *judge;
        size_t bytes;
    } slots[] = {
        {"attention_f32, 4 x 8192 of 128", k->attention_f32, ref->attention_f32, 64 * D * 4},
        {"attention_f8, 4 x 8192 of 128", k->attention_f8, ref->attention_f8, 64 * D},
        {"attention_i8, 4 x 8192 of 128", k->attention_i8, ref->attention_i8, 64 * D},
        {"attention_i4, 4 x 8192 of 128", k->attention_i4, ref->attention_i4, 32 * D}};
    static const int32_t first[HEADS], end[HEADS] = {64, 64, 64, 64};
    static int16_t code[HEADS * D];
    static float scale[64];
    int32_t sums[HEADS * 2];
    float factor[HEADS];
    for (int i = 0; i < 64; i++) scale[i] = 0.01f;
    k->attention_codes(code, sums, factor, b->x, HEADS, D, NIB_KV_GROUP, 0.1f);
    const nib_attention_rows rows = {.rows = HEADS,
                                     .d = D,
                                     .first = first,
                                     .end = end,
                                     .q = b->x,
                                     .scale = 0.1f,
                                     .code = code,
                                     .code_sum = sums,
                                     .factor = factor};
    for (int s = 0; s < 4; s++)
        if (k == ref || slots[s].attend != slots[s].judge)
            BENCH(slots[s].name, 2.0 * BENCH_PARTS * (double)slots[s].bytes,
                  BENCH_PARTS * 64.0 * D * HEADS * 4,
                  bench_parts(b, slots[s].attend, slots[s].bytes, &rows, scale));
}

static inline void bench_merges(const bench *b) {
    float max = 0, sum = 1;
    for (int i = 0; i < 1000; i++)
        b->k->attention_merge_f32(b->y, &max, &sum, b->x, 0.5f, 2.0f, BENCH_D);
}

/* ---- weights in lanes: random codes, scales in f32 ---- */

static const struct bench_lane {
    const char *label;
    nib_lane lane;
    int bits;
    int64_t G; /* 0: a scale a channel */
    bool seven_bits;
} bench_lane_kinds[] = {
    {"W8", NIB_LANE_W8, 8, 0, false},
    {"W8, inputs of 7 bits", NIB_LANE_W8, 8, 0, true},
    {"W4, groups of 64", NIB_LANE_W4, 4, 64, false},
    {"W4, groups of 128", NIB_LANE_W4, 4, 128, false},
    {"W2, groups of 64", NIB_LANE_W2, 2, 64, false},
    {"1 bit, groups of 64", NIB_LANE_WX, 1, 64, false},
    {"3 bits, groups of 64", NIB_LANE_WX, 3, 64, false},
    {"5 bits, groups of 64", NIB_LANE_WX, 5, 64, false},
    {"6 bits, groups of 64", NIB_LANE_WX, 6, 64, false},
    {"7 bits, groups of 64", NIB_LANE_WX, 7, 64, false},
    {"e4m3fn", NIB_LANE_F8, 8, 0, false},
    {"e4m3fn, NaN among them", NIB_LANE_F8, 8, 0, false},
};

static inline void bench_lane(const bench *b, const nib_kernels *ref, const struct bench_lane *of,
                              bool nan) {
    const nib_kernels *k = b->k;
    const nib_lane lane = of->lane;
    const int64_t G = of->G ? of->G : BENCH_K, codes = (int64_t)BENCH_CHANNELS * BENCH_K;
    const int64_t panels = BENCH_CHANNELS / NIB_PANEL;
    const nib_lane_weight w = {.lane = lane,
                               .bits = of->bits,
                               .mid = lane == NIB_LANE_F8 ? 0 : 1 << (of->bits - 1),
                               .code = NIB_F8_E4M3FN,
                               .N = BENCH_CHANNELS,
                               .K = BENCH_K,
                               .G = G,
                               .groups = BENCH_K / G,
                               .codes = nan ? (const uint8_t *)b->w : b->codes,
                               .panel_bytes = (int64_t)BENCH_K * NIB_PANEL * of->bits / 8,
                               .scale = b->x,
                               .scale_dtype = NIB_F32};
    const double bytes = (double)codes * of->bits / 8 + (double)(codes / G) * 4;
    char label[64];
    for (int64_t M = 1; M <= NIB_LANE_ROWS && !of->seven_bits; M *= 2) {
        if (k->lane_rows[lane] == ref->lane_rows[lane]) break;
        snprintf(label, sizeof label, "lane_rows %s, M = %d", of->label, (int)M);
        BENCH(label, bytes, 2.0 * (double)M * (double)codes,
              k->lane_rows[lane](b->y, BENCH_CHANNELS, b->x, BENCH_K, M, &w, 0, panels));
    }
    if (k->lane_widen[lane] != ref->lane_widen[lane] && !of->seven_bits) {
        enum { KC = 256 };
        snprintf(label, sizeof label, "lane_widen %s, 16 of %d", of->label, KC);
        BENCH(label, KC * NIB_PANEL * (4 + of->bits / 8.0), 0,
              k->lane_widen[lane](b->y, &w, 0, 0, KC));
    }
    if (lane == NIB_LANE_F8 || k->lane_i8[lane] == ref->lane_i8[lane]) return;
    static uint8_t scratch[NIB_LANE_SCRATCH] __attribute__((aligned(64)));
    static float scale[BENCH_ROWS];
    const int64_t ld = BENCH_K + 64;
    const nib_rows_i8 rows = {.q = of->seven_bits ? b->seven : b->eight,
                              .ld = ld,
                              .scale = scale,
                              .sums = b->sums,
                              .seven_bits = of->seven_bits};
    static const int64_t some[] = {1, 4, 8, BENCH_ROWS};
    for (int i = 0; i < 4; i++) {
        snprintf(label, sizeof label, "lane_i8 %s, M = %d", of->label, (int)some[i]);
        BENCH(label, bytes, 2.0 * (double)some[i] * (double)codes,
              k->lane_i8[lane](b->y, BENCH_CHANNELS, &rows, some[i], &w, 0, panels, scratch));
    }
}

static inline void bench_lanes(const bench *b, const nib_kernels *ref) {
    const size_t kinds = sizeof bench_lane_kinds / sizeof *bench_lane_kinds;
    if (b->k == ref) return; /* the judges would take minutes */
    for (size_t i = 0; i < kinds; i++) bench_lane(b, ref, &bench_lane_kinds[i], i + 1 == kinds);
}

/* What a 3 x 3 convolution of 64 channels, 56 columns wide, gathers for a row, and does as one
 * filter of nine numbers. */
static inline void bench_taps(const bench *b) {
    enum { C = 64, LINE = 58, ROWS = 3, K = C * 9, N = 56 };
    int64_t taps[K], from[NIB_PANEL];
    for (int k = 0; k < K; k++) taps[k] = k / 9 * (ROWS * LINE) + k / 3 % 3 * LINE + k % 3;
    for (int l = 0; l < NIB_PANEL; l++) from[l] = l;
    BENCH("words_by_taps, 576 taps, a run", K * NIB_PANEL * 8, 0,
          b->k->words_by_taps(b->y, b->x, taps, K, from, NIB_PANEL));
    for (int l = 8; l < NIB_PANEL; l++) from[l] = l + 2;
    BENCH("words_by_taps, 576 taps, two runs", K * NIB_PANEL * 8, 0,
          b->k->words_by_taps(b->y, b->x, taps, K, from, NIB_PANEL));
    BENCH("taps_f32, 64 rows of 56 by 9 taps", C * N * 8, 2.0 * C * N * 9,
          for (int c = 0; c < C; c++)
              b->k->taps_f32(b->y + c * N, N, b->x + c * ROWS * LINE, taps, b->w, 9));
    BENCH("scale_add_f32, 1 Mi", 8.0 * BENCH_N, 3.0 * BENCH_N,
          b->k->scale_add_f32(b->y, BENCH_N, 1, 1, -0.0f));
}

/* The same by codes: 3 x 3 of one channel, 56 rows of 56; 64 filters of 64 channels. */
static inline void bench_codes(const bench *b, const nib_kernels *ref, bool all) {
    enum { C = 64, SIDE = 56, LINE = 58, N = 1024, K = C / 4 * 9 };
    int64_t taps[9];
    float scale[C];
    int32_t sums[C] = {0};
    for (int k = 0; k < 9; k++) taps[k] = k / 3 * LINE + k % 3;
    for (int m = 0; m < C; m++) scale[m] = 0x1p-12f;
    nib_conv_i8 c = {.M = 1,
                     .K = 9,
                     .filters = b->eight,
                     .sums = sums,
                     .scale = scale,
                     .x_scale = 1,
                     .y_scale = 1,
                     .low = -128,
                     .high = 127,
                     .ldy = SIDE,
                     .q = (int8_t *)b->q};
    const int8_t *rows[4] = {b->eight, b->eight + N, b->eight + 2 * N, b->eight + 3 * N};
    if (all || b->k->taps_i8 != ref->taps_i8)
        BENCH("taps_i8, 56 rows of 56 by 9 taps", SIDE * SIDE * 2, 2.0 * SIDE * SIDE * 9,
              b->k->taps_i8(&c, b->eight, taps, SIDE, SIDE, LINE, 1));
    if (all || b->k->conv_i8 != ref->conv_i8) {
        c.M = C, c.K = K, c.ldy = N;
        BENCH("conv_i8, 64 filters of 576 codes, 1024 positions", (double)N * K * 4,
              2.0 * C * N * K * 4,
              b->k->conv_i8(&c, (const uint32_t *)(const void *)b->x, K * NIB_PANEL, N));
    }
    if (all || b->k->words_of_rows != ref->words_of_rows)
        BENCH("words_of_rows, 4 by 1024", N * 8, 0,
              b->k->words_of_rows((uint32_t *)(void *)b->y, NIB_PANEL, rows, N, 1));
}

static inline void bench_slots(const bench *b, const nib_kernels *ref) {
    const nib_kernels *k = b->k;
    const double n = BENCH_N, M = BENCH_ROWS, K = BENCH_K, N = BENCH_CHANNELS;
    float inverse[BENCH_N / 32], scale[BENCH_N / 32], low[BENCH_N / 32];
    for (int g = 0; g < BENCH_N / 32; g++) inverse[g] = 60, scale[g] = 1.0f / 60, low[g] = -1;
    const bool all = k == ref;
    const size_t big = (size_t)BENCH_CHANNELS * BENCH_K;
#define IF(slot) if (all || k->slot != ref->slot)
    IF(bf16_to_f32) BENCH("bf16_to_f32, 1 Mi", 6 * n, 0, k->bf16_to_f32(b->y, b->x, BENCH_N));
    IF(f16_to_f32) BENCH("f16_to_f32, 1 Mi", 6 * n, 0, k->f16_to_f32(b->y, b->x, BENCH_N));
    IF(f32_to_bf16) BENCH("f32_to_bf16, 1 Mi", 6 * n, 0, k->f32_to_bf16(b->y, b->x, BENCH_N));
    IF(f32_to_e4m3fn) BENCH("f32_to_e4m3fn, 1 Mi", 5 * n, 0, k->f32_to_e4m3fn(b->q, b->x, BENCH_N));
    IF(table_to_f32)
    BENCH("table_to_f32, 1 Mi", 5 * n, 0, k->table_to_f32(b->y, b->q, BENCH_N, b->w));
    IF(scale_f8)
    BENCH("scale_f8 e4m3fn, 1 Mi", 5 * n, 0, k->scale_f8(b->y, b->q, BENCH_N, NIB_F8_E4M3FN, 0.1f));
    IF(dot_f32) BENCH("dot_f32, 4096", 8 * K, 2 * K, b->y[0] = k->dot_f32(b->x, b->w, BENCH_K));
    IF(minmax_f32)
    BENCH("minmax_f32, groups of 32", 4 * n, 0,
          k->minmax_f32(b->y, b->y + BENCH_N / 32, b->x, BENCH_N / 32, 32));
    IF(absmax_f32)
    BENCH("absmax_f32, rows of 4096", 4 * n, 0, k->absmax_f32(b->y, b->x, BENCH_N / 4096, 4096));
    IF(quantize_scaled) {
        BENCH("quantize_scaled f32, groups of 32", 5 * n, 0,
              k->quantize_scaled(b->q, b->x, BENCH_N / 32, 32, inverse, NULL, -128, 127, NIB_F32));
        BENCH("quantize_scaled bf16, rows of 4096", 5 * n, 0,
              k->quantize_scaled(b->q, b->x, BENCH_N / 4096, 4096, inverse, NULL, -128, 127,
                                 NIB_BF16));
    }
    IF(quantize_divided)
    BENCH("quantize_divided bf16, 128", 5 * n, 0,
          k->quantize_divided(b->q, b->x, BENCH_N / 128, 128, low, scale, NULL, 0, 15, NIB_BF16));
    IF(quantize_f8)
    BENCH("quantize_f8 e4m3fn f32, 4096", 5 * n, 0,
          k->quantize_f8(b->q, b->x, BENCH_N / 4096, 4096, scale, 448, NIB_F8_E4M3FN, NIB_F32));
    IF(dequantize_scaled)
    BENCH("dequantize_scaled f32, 4096", 5 * n, 0,
          k->dequantize_scaled(b->y, b->q, BENCH_N / 4096, 4096, true, scale, NULL, NIB_F32));
    IF(pack_u4) BENCH("pack_u4, 1 Mi", 1.5 * n, 0, k->pack_u4((uint8_t *)b->y, b->q, BENCH_N));
    IF(unpack_u4)
    BENCH("unpack_u4, 1 Mi", 1.5 * n, 0, k->unpack_u4((uint8_t *)b->y, b->q, BENCH_N));
    IF(unpack_bits)
    BENCH("unpack_bits 3, 1 Mi", 1.375 * n, 0, k->unpack_bits((uint8_t *)b->y, b->q, BENCH_N, 3));
    IF(lay_lines) {
        int32_t sums[NIB_PANEL] = {0};
        BENCH("lay_lines W4, 1 Mi", 1.5 * n, 0,
              k->lay_lines((uint8_t *)b->y, (const uint32_t *)(const void *)b->q, BENCH_N / 128,
                           NIB_LANE_W4, 0, 0, BENCH_N / 128, sums));
        BENCH("lay_halves, 1 Mi", n, 0,
              k->lay_halves((uint8_t *)b->y, (const uint32_t *)(const void *)b->q, BENCH_N / 128, 0,
                            BENCH_N / 128, sums));
    }
    IF(exp_f32) BENCH("exp_f32, 1 Mi", 8 * n, 0, k->exp_f32(b->y, b->x, BENCH_N));
    IF(silu_mul_f32)
    BENCH("silu_mul_f32, 1 Mi", 12 * n, 0, k->silu_mul_f32(b->y, b->x, b->w, BENCH_N));
    IF(softmax_f32) BENCH("softmax_f32, 4096", 8 * K, 0, k->softmax_f32(b->y, BENCH_K));
    IF(quantize_rows_i8) {
        float s, scales[4];
        int32_t zeros[4], sums[4];
        BENCH("quantize_rows_i8, 1 x 4096", 5 * K, 0,
              k->quantize_rows_i8((int8_t *)b->q, BENCH_K, &s, NULL, NULL, b->x, 1, BENCH_K, 8,
                                  0x1p-23f));
        BENCH("quantize_rows_i8, 4 x 1024", 5 * K, 0,
              k->quantize_rows_i8((int8_t *)b->q, BENCH_K / 4, scales, NULL, sums, b->x, 4,
                                  BENCH_K / 4, 8, 0x1p-23f));
        BENCH("quantize_rows_i8 with a zero, 4 x 1024", 5 * K, 0,
              k->quantize_rows_i8((int8_t *)b->q, BENCH_K / 4, scales, zeros, sums, b->x, 4,
                                  BENCH_K / 4, 8, 0x1p-23f));
        BENCH("rms_norm_quantize_i8, 4096", 9 * K, 0,
              k->rms_norm_quantize_i8((int8_t *)b->q, &s, NULL, b->y, b->x, b->w, BENCH_K, 1e-5f, 8,
                                      0x1p-23f));
    }
    IF(sums_i8) {
        BENCH("sums_i8, groups of 32, 4096", K, K,
              k->sums_i8((int32_t *)(void *)b->y, (const int8_t *)b->q, BENCH_K / 32, 32));
        BENCH("sums_i8, groups of 128, 4096", K, K,
              k->sums_i8((int32_t *)(void *)b->y, (const int8_t *)b->q, BENCH_K / 128, 128));
    }
    IF(rms_norm_f32)
    BENCH("rms_norm_f32, 4096", 12 * K, 0, k->rms_norm_f32(b->y, b->x, b->w, BENCH_K, 1e-5f));
    bench_attention(b, ref);
    IF(attention_merge_f32)
    BENCH("attention_merge_f32, 1000 of 128", 1000 * 12.0 * BENCH_D, 0, bench_merges(b));
    IF(pack_f32)
    BENCH("pack_f32, 16 of 4096", 16 * 8 * K, 0, k->pack_f32(b->y, b->x, BENCH_K, 16, BENCH_K));
    double ops;
    IF(limit_read) {
        BENCH("limit_read, 64 MB", 4 * N * K, 0,
              b->y[0] = (float)k->limit_read(b->w, NULL, 4 * big));
        BENCH("limit_read, 2 x 32 MB", 4 * N * K, 0,
              b->y[0] = (float)k->limit_read(b->w, b->w + big / 2, 2 * big));
    }
    IF(limit_fma)
    BENCH("limit_fma", 0, ops, b->y[0] = k->limit_fma(&ops, 1, 1, 100000));
    IF(limit_u8)
    BENCH("limit_u8 (GOP/s)", 0, ops, b->y[0] = (float)k->limit_u8(&ops, 200, -3, 100000));
    IF(limit_u4)
    BENCH("limit_u4 (GOP/s)", 0, ops, b->y[0] = (float)k->limit_u4(&ops, 15, -3, 100000));
    IF(gemm_f32) {
        const int64_t stride = BENCH_K * 16;
        BENCH("gemm_f32 1x4096x4096", 4 * N * K, 2 * N * K,
              k->gemm_f32(b->y, BENCH_CHANNELS, b->x, BENCH_K, b->w, stride, 1, BENCH_CHANNELS,
                          BENCH_K, false));
        BENCH("gemm_f32 1x256x512 (in L2)", 4 * 256 * 512, 2 * 256 * 512,
              k->gemm_f32(b->y, 512, b->x, 256, b->w, 256 * 16, 1, 512, 256, false));
        if (all) return; /* the judge would take minutes */
        BENCH("gemm_f32 4x4096x4096", 4 * N * K, 8 * N * K,
              k->gemm_f32(b->y, BENCH_CHANNELS, b->x, BENCH_K, b->w, stride, 4, BENCH_CHANNELS,
                          BENCH_K, false));
        BENCH("gemm_f32 512x4096x4096", 4 * (N * K + M * K + M * N), 2 * M * N * K,
              k->gemm_f32(b->y, BENCH_CHANNELS, b->x, BENCH_K, b->w, stride, BENCH_ROWS,
                          BENCH_CHANNELS, BENCH_K, false));
    }
    IF(words_by_taps) bench_taps(b);
    bench_codes(b, ref, all);
    IF(gemm_rows_f32) {
        BENCH("pack_rows_f32 512x4096", 8 * M * K, 0,
              k->pack_rows_f32(b->y, b->x, BENCH_K, BENCH_ROWS, BENCH_K));
        BENCH("gemm_rows_f32 512x64x256 (in L2)", 4 * (64 * 256 + M * 256 + M * 64),
              2 * M * 64 * 256,
              k->gemm_rows_f32(b->y, 64, b->x, BENCH_ROWS, 256, 0, 256, b->w, 256 * 16, 64));
    }
    bench_lanes(b, ref);
    IF(dense_rows) {
        if (all) return;
        BENCH("dense_rows f32 1x4096x4096", 4 * N * K, 2 * N * K,
              k->dense_rows(b->y, BENCH_CHANNELS, b->x, BENCH_K, 1, b->w, NIB_F32, BENCH_K,
                            BENCH_CHANNELS, BENCH_K));
        BENCH("dense_rows bf16 1x4096x4096", 2 * N * K, 2 * N * K,
              k->dense_rows(b->y, BENCH_CHANNELS, b->x, BENCH_K, 1, b->w, NIB_BF16, BENCH_K,
                            BENCH_CHANNELS, BENCH_K));
    }
#undef IF
}

static inline int bench_sets(const char *name) {
    const size_t big = (size_t)BENCH_CHANNELS * BENCH_K;
    const size_t inputs = (size_t)BENCH_ROWS * (BENCH_K + 64);
    bench b = {.x = malloc(big),
               .w = aligned_alloc(64, big * 4),
               .y = malloc(big),
               .q = malloc(BENCH_N),
               .codes = aligned_alloc(64, big),
               .eight = aligned_alloc(64, inputs),
               .seven = aligned_alloc(64, inputs),
               .sums = calloc(inputs, sizeof *b.sums)};
    nib_kernels ref, some;
    nib_kernels_fill(&ref, 0);
    int found = 0;
    if (!b.x || !b.w || !b.y || !b.q || !b.codes || !b.eight || !b.seven || !b.sums) return 1;
    uint64_t seed = 1;
    for (size_t i = 0; i < big / 4; i++) b.x[i] = test_uniform(&seed), b.y[i] = 0;
    for (size_t i = 0; i < big; i++) b.w[i] = b.x[i % (big / 4)];
    memset(b.q, 77, BENCH_N);
    for (size_t i = 0; i < big; i++) b.codes[i] = (uint8_t)(test_random(&seed) >> 9) & 0xbf;
    for (size_t i = 0; i < inputs; i++) {
        b.eight[i] = (int8_t)(test_random(&seed) >> 9);
        b.seven[i] = (int8_t)(b.eight[i] / 2);
    }
    printf("machine level %s; own CPU time, one thread, %d runs\n",
           nib_cpu_level(nib_cpu_features()), BENCH_RUNS);
    for (size_t i = 0; nib_kernel_set_at(i); i++) {
        const nib_kernel_set *set = nib_kernel_set_at(i);
        if (strcmp(name, "ref") == 0 ? i > 0 : set->needs == 0) continue;
        if (strcmp(name, "all") != 0 && strcmp(name, "ref") != 0 && strcmp(name, set->name) != 0)
            continue;
        if (set->needs & ~nib_cpu_features()) continue;
        some = ref;
        set->install(&some);
        b.k = strcmp(name, "ref") == 0 ? &ref : &some;
        printf("%s\n", strcmp(name, "ref") == 0 ? "ref" : set->name);
        bench_slots(&b, &ref);
        found++;
    }
    if (!found) fprintf(stderr, "no set named %s runs here\n", name);
    free(b.x), free(b.w), free(b.y), free(b.q);
    free(b.codes), free(b.eight), free(b.seven), free(b.sums);
    return !found;
}
#endif
