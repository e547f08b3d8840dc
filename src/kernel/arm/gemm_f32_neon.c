/* gemm_f32_neon.c: f32 products, channels in lanes, so every result stays one chain over k.
 *
 * A tile is `rows` rows by `panels` panels of 16 channels, its sums in registers: 24 of the 32 at
 * most, 4 hold weights. Few rows take several panels at a time, so that independent chains hide
 * the latency of an FMA. Many rows go in blocks of K, so that a panel's block (KC * 16 floats,
 * 16 KiB) stays in L1 while the rows pass over it; sums wait in y between blocks, which rounds
 * nothing. */
#include <arm_neon.h>
#include <string.h>

#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))

enum { KC = 256, ROWS = 6, ROW_BLOCK = 144, QUADS = NIB_PANEL / 4 };

/* y [rows, panels * 16], all of it there. Constant `rows` and `panels` unroll away. */
INLINE void tile(const int rows, const int panels, float *y, int64_t ldy, const float *x,
                 int64_t ldx, const float *w, int64_t panel_stride, int64_t K, bool accumulate) {
    float32x4_t acc[ROWS][4 * QUADS];
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 16
        for (int c = 0; c < QUADS * panels; c++)
            acc[m][c] = accumulate ? vld1q_f32(y + m * ldy + 4 * c) : vdupq_n_f32(0);
    for (int64_t k = 0; k < K; k++) {
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) {
            const float *w_k = w + p * panel_stride + k * NIB_PANEL;
            float32x4_t w_c[QUADS];
#pragma GCC unroll 4
            for (int c = 0; c < QUADS; c++) w_c[c] = vld1q_f32(w_k + 4 * c);
#pragma GCC unroll 6
            for (int m = 0; m < rows; m++) {
                const float32x4_t x_k = vld1q_dup_f32(x + m * ldx + k);
#pragma GCC unroll 4
                for (int c = 0; c < QUADS; c++)
                    acc[m][QUADS * p + c] = vfmaq_f32(acc[m][QUADS * p + c], x_k, w_c[c]);
            }
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 16
        for (int c = 0; c < QUADS * panels; c++) vst1q_f32(y + m * ldy + 4 * c, acc[m][c]);
}

/* The same for a last panel of N < 16 channels, by way of a whole tile beside y. */
INLINE void ragged_tile(const int rows, float *y, int64_t ldy, int64_t N, const float *x,
                        int64_t ldx, const float *w, int64_t K, bool accumulate) {
    float whole[ROWS * NIB_PANEL] = {0};
    if (accumulate)
        for (int m = 0; m < rows; m++)
            for (int64_t n = 0; n < N; n++) whole[m * NIB_PANEL + n] = y[m * ldy + n];
    tile(rows, 1, whole, NIB_PANEL, x, ldx, w, 0, K, accumulate);
    for (int m = 0; m < rows; m++)
        for (int64_t n = 0; n < N; n++) y[m * ldy + n] = whole[m * NIB_PANEL + n];
}

/* All channels for a fixed number of rows, `panels` at a time. */
INLINE void rows_by_panels(const int rows, const int panels, float *y, int64_t ldy, const float *x,
                           int64_t ldx, const float *w, int64_t stride, int64_t N, int64_t K,
                           bool accumulate) {
    int64_t n = 0;
    for (; n + panels * NIB_PANEL <= N; n += panels * NIB_PANEL)
        tile(rows, panels, y + n, ldy, x, ldx, w + n / NIB_PANEL * stride, stride, K, accumulate);
    for (; n + NIB_PANEL <= N; n += NIB_PANEL)
        tile(rows, 1, y + n, ldy, x, ldx, w + n / NIB_PANEL * stride, stride, K, accumulate);
    if (n < N)
        ragged_tile(rows, y + n, ldy, N - n, x, ldx, w + n / NIB_PANEL * stride, K, accumulate);
}

static void some_rows(int64_t M, float *y, int64_t ldy, const float *x, int64_t ldx, const float *w,
                      int64_t stride, int64_t N, int64_t K, bool accumulate) {
#define ROWS_BY_PANELS(rows, panels)                                                               \
    rows_by_panels(rows, panels, y, ldy, x, ldx, w, stride, N, K, accumulate)
    switch (M) {
    case 1:
        ROWS_BY_PANELS(1, 4);
        break;
    case 2:
        ROWS_BY_PANELS(2, 2);
        break;
    case 3:
        ROWS_BY_PANELS(3, 2);
        break;
    case 4:
        ROWS_BY_PANELS(4, 1);
        break;
    case 5:
        ROWS_BY_PANELS(5, 1);
        break;
    default:
        ROWS_BY_PANELS(6, 1);
        break;
    }
}

static void gemm_f32(float *y, int64_t ldy, const float *x, int64_t ldx, const float *panels,
                     int64_t panel_stride, int64_t M, int64_t N, int64_t K, bool accumulate) {
    if (M <= 0) return;
    if (M < ROWS) {
        some_rows(M, y, ldy, x, ldx, panels, panel_stride, N, K, accumulate);
        return;
    }
    int64_t k = 0;
    do {
        const int64_t kc = K - k < KC ? K - k : KC;
        for (int64_t begin = 0; begin < M; begin += ROW_BLOCK) {
            const int64_t end = M - begin < ROW_BLOCK ? M : begin + ROW_BLOCK;
            for (int64_t n = 0; n < N; n += NIB_PANEL)
                for (int64_t m = begin; m < end; m += ROWS)
                    some_rows(end - m < ROWS ? end - m : ROWS, y + m * ldy + n, ldy,
                              x + m * ldx + k, ldx,
                              panels + n / NIB_PANEL * panel_stride + k * NIB_PANEL, panel_stride,
                              N - n < NIB_PANEL ? N - n : NIB_PANEL, kc, accumulate || k > 0);
        }
        k += kc;
    } while (k < K);
}

/* Rows [16, K] to columns, four k of four rows at a time; fewer than 16 rows leave zeros. */
static void pack_f32(float *panel, const float *w, int64_t ldw, int64_t n, int64_t K) {
    int64_t k = 0;
    if (n == NIB_PANEL) {
        for (; k + 4 <= K; k += 4) {
            for (int c = 0; c < NIB_PANEL; c += 4) {
                const float *rows = w + c * ldw + k;
                const float32x4x2_t ab = vtrnq_f32(vld1q_f32(rows), vld1q_f32(rows + ldw));
                const float32x4x2_t cd =
                    vtrnq_f32(vld1q_f32(rows + 2 * ldw), vld1q_f32(rows + 3 * ldw));
                float *out = panel + k * NIB_PANEL + c;
                for (int i = 0; i < 2; i++) {
                    const float32x4_t p = ab.val[i], q = cd.val[i];
                    vst1q_f32(out + i * NIB_PANEL, vcombine_f32(vget_low_f32(p), vget_low_f32(q)));
                    vst1q_f32(out + (i + 2) * NIB_PANEL,
                              vcombine_f32(vget_high_f32(p), vget_high_f32(q)));
                }
            }
        }
    }
    for (; k < K; k++)
        for (int64_t c = 0; c < NIB_PANEL; c++)
            panel[k * NIB_PANEL + c] = c < n ? w[c * ldw + k] : 0.0f;
}

static void pack_rows_f32(float *out, const float *x, int64_t ldx, int64_t M, int64_t K) {
    for (int64_t m = 0; m < M; m++) memcpy(out + m * K, x + m * ldx, (size_t)K * sizeof *x);
}

static void gemm_rows_f32(float *y, int64_t ldy, const float *rows, int64_t M, int64_t K, int64_t k,
                          int64_t kc, const float *panels, int64_t panel_stride, int64_t N) {
    gemm_f32(y, ldy, rows + k, K, panels, panel_stride, M, N, kc, k > 0);
}

static void install(nib_kernels *k) {
    k->pack_f32 = pack_f32;
    k->gemm_f32 = gemm_f32;
    k->pack_rows_f32 = pack_rows_f32;
    k->gemm_rows_f32 = gemm_rows_f32;
}
const nib_kernel_set nib_kernels_gemm_f32_neon = {
    .name = "gemm_f32_neon", .needs = NIB_CPU_NEON, .install = install};
