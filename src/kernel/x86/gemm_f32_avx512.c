/* gemm_f32_avx512.c: f32 products, channels in lanes, so every result stays one chain over k.
 *
 * A tile is 12 rows by 2 panels of 16 channels: 24 of the 32 registers hold sums, 2 weights, and
 * 14 loads feed 24 fma. Its rows lie interleaved, [K, 12], and stay in L1 (12 KiB of them) while
 * the panels of a block of K come from L2. While it multiplies, a tile asks for the rows of the
 * next: where inputs are more than L2 holds each tile waited for its first ones. Fewer rows take
 * more panels, since eight independent chains are what hides the latency of an fma (4 cycles, two a
 * cycle). */
#include <immintrin.h>

#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))

enum { KC = 256, ROWS = 12, ROW_BLOCK = 144, WIDTH = 128 };

/* y [rows, panels * 16] += x W^T; of the last panel the channels in `last`. x [K, rows]; ahead:
 * what the next tile reads in its place. */
INLINE void tile(const int rows, const int panels, float *y, int64_t ldy, const float *x,
                 const float *w, int64_t stride, int64_t K, bool accumulate, __mmask16 last,
                 const float *ahead) {
    __m512 acc[ROWS][8];
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 8
        for (int p = 0; p < panels; p++)
            acc[m][p] = _mm512_maskz_loadu_ps(
                (__mmask16)(accumulate ? p + 1 < panels ? 0xffff : last : 0), y + m * ldy + 16 * p);
    for (int64_t k = 0; k < K; k++) {
        __m512 w_k[8];
        _mm_prefetch((const char *)(ahead + k * rows), _MM_HINT_T0);
#pragma GCC unroll 8
        for (int p = 0; p < panels; p++) w_k[p] = _mm512_loadu_ps(w + p * stride + k * NIB_PANEL);
#pragma GCC unroll 12
        for (int m = 0; m < rows; m++) {
            const __m512 x_k = _mm512_set1_ps(x[k * rows + m]);
#pragma GCC unroll 8
            for (int p = 0; p < panels; p++) acc[m][p] = _mm512_fmadd_ps(x_k, w_k[p], acc[m][p]);
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 8
        for (int p = 0; p < panels; p++)
            _mm512_mask_storeu_ps(y + m * ldy + 16 * p, p + 1 < panels ? 0xffff : last, acc[m][p]);
}

/* All channels for a fixed number of rows, `panels` at a time, then one by one. */
INLINE void all_panels(const int rows, const int panels, float *y, int64_t ldy, const float *x,
                       const float *w, int64_t stride, int64_t N, int64_t K, bool accumulate,
                       const float *ahead) {
    int64_t n = 0;
    for (; n + panels * NIB_PANEL <= N; n += panels * NIB_PANEL, w += panels * stride)
        tile(rows, panels, y + n, ldy, x, w, stride, K, accumulate, 0xffff, ahead);
    for (; n < N; n += NIB_PANEL, w += stride)
        tile(rows, 1, y + n, ldy, x, w, stride, K, accumulate,
             (__mmask16)(N - n < NIB_PANEL ? (1 << (N - n)) - 1 : 0xffff), ahead);
}

#define ROWS_BY(rows, panels)                                                                      \
    static void rows_##rows(float *y, int64_t ldy, const float *x, const float *w, int64_t stride, \
                            int64_t N, int64_t K, bool accumulate, const float *ahead) {           \
        all_panels(rows, panels, y, ldy, x, w, stride, N, K, accumulate, ahead);                   \
    }
ROWS_BY(1, 8)
ROWS_BY(2, 4)
ROWS_BY(3, 4)
ROWS_BY(4, 4)
ROWS_BY(5, 4)
ROWS_BY(6, 4)
ROWS_BY(7, 3)
ROWS_BY(8, 3)
ROWS_BY(9, 2)
ROWS_BY(10, 2)
ROWS_BY(11, 2)
ROWS_BY(12, 2)

/* x [K, rows] of 1 to 12 rows by all channels. */
static void tile_row(int64_t rows, float *y, int64_t ldy, const float *x, const float *w,
                     int64_t stride, int64_t N, int64_t K, bool accumulate, const float *ahead) {
    static void (*const by[])(float *, int64_t, const float *, const float *, int64_t, int64_t,
                              int64_t, bool, const float *) = {rows_1, rows_2,  rows_3,  rows_4,
                                                               rows_5, rows_6,  rows_7,  rows_8,
                                                               rows_9, rows_10, rows_11, rows_12};
    by[rows - 1](y, ldy, x, w, stride, N, K, accumulate, ahead);
}

/* ---- rows side by side ---- */

/* Four rows and 16 columns to out [16, step]. */
INLINE void four_rows(float *out, int64_t step, const float *x, int64_t ldx) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + ldx);
    const __m512 c = _mm512_loadu_ps(x + 2 * ldx), d = _mm512_loadu_ps(x + 3 * ldx);
    const __m512 ab = _mm512_unpacklo_ps(a, b), cd = _mm512_unpacklo_ps(c, d);
    const __m512 AB = _mm512_unpackhi_ps(a, b), CD = _mm512_unpackhi_ps(c, d);
    __m512 column[4]; /* columns i, i + 4, i + 8, i + 12 of all four rows */
    column[0] = _mm512_shuffle_ps(ab, cd, 0x44);
    column[1] = _mm512_shuffle_ps(ab, cd, 0xee);
    column[2] = _mm512_shuffle_ps(AB, CD, 0x44);
    column[3] = _mm512_shuffle_ps(AB, CD, 0xee);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm_storeu_ps(out + i * step, _mm512_castps512_ps128(column[i]));
        _mm_storeu_ps(out + (i + 4) * step, _mm512_extractf32x4_ps(column[i], 1));
        _mm_storeu_ps(out + (i + 8) * step, _mm512_extractf32x4_ps(column[i], 2));
        _mm_storeu_ps(out + (i + 12) * step, _mm512_extractf32x4_ps(column[i], 3));
    }
}

/* rows <= 12 rows to [K, rows] */
static void interleave(float *out, const float *x, int64_t ldx, int64_t rows, int64_t K) {
    int64_t k = 0;
    for (; k + 16 <= K; k += 16) {
        int64_t m = 0;
        for (; m + 4 <= rows; m += 4) four_rows(out + k * rows + m, rows, x + m * ldx + k, ldx);
        for (; m < rows; m++)
            for (int64_t i = k; i < k + 16; i++) out[i * rows + m] = x[m * ldx + i];
    }
    for (; k < K; k++)
        for (int64_t m = 0; m < rows; m++) out[k * rows + m] = x[m * ldx + k];
}

/* Tiles of 12 rows, a last one of fewer, each [K, its rows]. */
static void pack_rows_f32(float *out, const float *x, int64_t ldx, int64_t M, int64_t K) {
    for (int64_t m = 0; m < M; m += ROWS)
        interleave(out + m * K, x + m * ldx, ldx, M - m < ROWS ? M - m : ROWS, K);
}

static void gemm_rows_f32(float *y, int64_t ldy, const float *rows, int64_t M, int64_t K, int64_t k,
                          int64_t kc, const float *panels, int64_t panel_stride, int64_t N) {
    for (int64_t m = 0; m < M; m += ROWS) {
        const int64_t count = M - m < ROWS ? M - m : ROWS;
        const int64_t next = m + count < M ? m + count : 0;
        tile_row(count, y + m * ldy, ldy, rows + m * K + k * count, panels, panel_stride, N, kc,
                 k > 0, rows + next * K + k * (M - next < ROWS ? M - next : ROWS));
    }
}

static void gemm_f32(float *y, int64_t ldy, const float *x, int64_t ldx, const float *panels,
                     int64_t panel_stride, int64_t M, int64_t N, int64_t K, bool accumulate) {
    float rows[ROW_BLOCK * KC];
    for (int64_t k = 0; k < K || k == 0; k += KC)
        for (int64_t m = 0; m < M; m += ROW_BLOCK) {
            const int64_t kc = K - k < KC ? K - k : KC, end = M - m < ROW_BLOCK ? M : m + ROW_BLOCK;
            pack_rows_f32(rows, x + m * ldx + k, ldx, end - m, kc);
            for (int64_t n = 0; n < N; n += WIDTH)
                for (int64_t i = m; i < end; i += ROWS)
                    tile_row(end - i < ROWS ? end - i : ROWS, y + i * ldy + n, ldy,
                             rows + (i - m) * kc,
                             panels + n / NIB_PANEL * panel_stride + k * NIB_PANEL, panel_stride,
                             N - n < WIDTH ? N - n : WIDTH, kc, accumulate || k > 0, rows);
        }
}

static void install(nib_kernels *k) {
    k->pack_rows_f32 = pack_rows_f32;
    k->gemm_rows_f32 = gemm_rows_f32;
    k->gemm_f32 = gemm_f32;
}
const nib_kernel_set nib_kernels_gemm_f32_avx512 = {
    .name = "gemm_f32_avx512", .needs = NIB_CPU_AVX512, .install = install};
