/* gemm_f32_avx2.c: f32 products, channels in lanes, so every result stays one chain over k.
 *
 * A tile is `rows` rows by `panels` panels of 16 channels, its sums in registers: 12 of the 16
 * at most, 2 hold weights, 1 a broadcast input. Few rows take several panels at a time, because
 * 8 independent chains are what hides the latency of an FMA (4 cycles, two a cycle).
 * Many rows go in blocks of K, so that a panel's block (KC * 16 floats, 16 KiB) stays in L1 while
 * the rows (ROW_BLOCK * KC floats, 144 KiB on the stack, in L2) pass over it; sums wait in y
 * between blocks, which rounds nothing. */
#include <immintrin.h>
#include <string.h>

#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))

enum { KC = 256, ROWS = 6, ROW_BLOCK = 144 };

/* y [rows, panels * 16], all of it there. Constant `rows` and `panels` unroll away. */
INLINE void tile(const int rows, const int panels, float *y, int64_t ldy, const float *x,
                 int64_t ldx, const int64_t step, const float *w, int64_t panel_stride, int64_t K,
                 bool accumulate) {
    __m256 acc[ROWS][8];
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 8
        for (int c = 0; c < 2 * panels; c++)
            acc[m][c] = accumulate ? _mm256_loadu_ps(y + m * ldy + 8 * c) : _mm256_setzero_ps();
    for (int64_t k = 0; k < K; k++) {
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) {
            const float *w_k = w + p * panel_stride + k * NIB_PANEL;
            const __m256 low = _mm256_loadu_ps(w_k), high = _mm256_loadu_ps(w_k + 8);
#pragma GCC unroll 6
            for (int m = 0; m < rows; m++) {
                const __m256 x_k = _mm256_broadcast_ss(x + m * ldx + k * step);
                acc[m][2 * p] = _mm256_fmadd_ps(x_k, low, acc[m][2 * p]);
                acc[m][2 * p + 1] = _mm256_fmadd_ps(x_k, high, acc[m][2 * p + 1]);
            }
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 8
        for (int c = 0; c < 2 * panels; c++) _mm256_storeu_ps(y + m * ldy + 8 * c, acc[m][c]);
}

/* The same for a last panel of N < 16 channels, by way of a whole tile beside y. */
INLINE void ragged_tile(const int rows, float *y, int64_t ldy, int64_t N, const float *x,
                        int64_t ldx, int64_t step, const float *w, int64_t K, bool accumulate) {
    float whole[ROWS * NIB_PANEL] = {0};
    if (accumulate)
        for (int m = 0; m < rows; m++)
            for (int64_t n = 0; n < N; n++) whole[m * NIB_PANEL + n] = y[m * ldy + n];
    tile(rows, 1, whole, NIB_PANEL, x, ldx, step, w, 0, K, accumulate);
    for (int m = 0; m < rows; m++)
        for (int64_t n = 0; n < N; n++) y[m * ldy + n] = whole[m * NIB_PANEL + n];
}

/* All channels for a fixed number of rows, `panels` at a time. */
INLINE void rows_by_panels(const int rows, const int panels, float *y, int64_t ldy, const float *x,
                           int64_t ldx, const float *w, int64_t stride, int64_t N, int64_t K,
                           bool accumulate) {
    int64_t n = 0;
    for (; n + panels * NIB_PANEL <= N; n += panels * NIB_PANEL)
        tile(rows, panels, y + n, ldy, x, ldx, 1, w + n / NIB_PANEL * stride, stride, K,
             accumulate);
    for (; n + NIB_PANEL <= N; n += NIB_PANEL)
        tile(rows, 1, y + n, ldy, x, ldx, 1, w + n / NIB_PANEL * stride, stride, K, accumulate);
    if (n < N)
        ragged_tile(rows, y + n, ldy, N - n, x, ldx, 1, w + n / NIB_PANEL * stride, K, accumulate);
}

static void few_rows(int64_t M, float *y, int64_t ldy, const float *x, int64_t ldx, const float *w,
                     int64_t stride, int64_t N, int64_t K, bool accumulate) {
    switch (M) {
    case 1:
        rows_by_panels(1, 4, y, ldy, x, ldx, w, stride, N, K, accumulate);
        break;
    case 2:
        rows_by_panels(2, 2, y, ldy, x, ldx, w, stride, N, K, accumulate);
        break;
    case 3:
        rows_by_panels(3, 2, y, ldy, x, ldx, w, stride, N, K, accumulate);
        break;
    case 4:
        rows_by_panels(4, 1, y, ldy, x, ldx, w, stride, N, K, accumulate);
        break;
    case 5:
        rows_by_panels(5, 1, y, ldy, x, ldx, w, stride, N, K, accumulate);
        break;
    default:
        rows_by_panels(6, 1, y, ldy, x, ldx, w, stride, N, K, accumulate);
        break;
    }
}

/* Rows [ROWS, K] side by side, [K, ROWS]: what a tile broadcasts lies in one stream, while rows a
 * power of two apart would fight for the same lines of the cache. */
static void interleave(float *out, const float *x, int64_t ldx, int64_t K) {
    for (int64_t k = 0; k < K; k++)
        for (int m = 0; m < ROWS; m++) out[k * ROWS + m] = x[m * ldx + k];
}

/* A block of rows and of K: panel by panel, all rows over one panel's block. */
static void block(float *y, int64_t ldy, const float *x, int64_t ldx, const float *w,
                  int64_t stride, int64_t M, int64_t N, int64_t K, bool accumulate) {
    float rows[ROW_BLOCK * KC];
    const int64_t whole = M / ROWS * ROWS, rest = M - whole;
    for (int64_t m = 0; m < whole; m += ROWS) interleave(rows + m * K, x + m * ldx, ldx, K);
    for (int64_t n = 0; n < N; n += NIB_PANEL) {
        const float *w_n = w + n / NIB_PANEL * stride;
        const int64_t channels = N - n < NIB_PANEL ? N - n : NIB_PANEL;
        for (int64_t m = 0; m < whole; m += ROWS) {
            float *y_m = y + m * ldy + n;
            if (channels == NIB_PANEL)
                tile(ROWS, 1, y_m, ldy, rows + m * K, 1, ROWS, w_n, 0, K, accumulate);
            else
                few_rows(ROWS, y_m, ldy, x + m * ldx, ldx, w_n, stride, channels, K, accumulate);
        }
        if (rest)
            few_rows(rest, y + whole * ldy + n, ldy, x + whole * ldx, ldx, w_n, stride, channels, K,
                     accumulate);
    }
}

static void gemm_f32(float *y, int64_t ldy, const float *x, int64_t ldx, const float *panels,
                     int64_t panel_stride, int64_t M, int64_t N, int64_t K, bool accumulate) {
    if (M <= 0) return;
    if (M < ROWS) {
        few_rows(M, y, ldy, x, ldx, panels, panel_stride, N, K, accumulate);
        return;
    }
    int64_t k = 0;
    do {
        const int64_t kc = K - k < KC ? K - k : KC;
        for (int64_t m = 0; m < M; m += ROW_BLOCK)
            block(y + m * ldy, ldy, x + m * ldx + k, ldx, panels + k * NIB_PANEL, panel_stride,
                  M - m < ROW_BLOCK ? M - m : ROW_BLOCK, N, kc, accumulate || k > 0);
        k += kc;
    } while (k < K);
}

/* Tiles of 6 rows, [K, 6] each, the rest as they are. */
static void pack_rows_f32(float *out, const float *x, int64_t ldx, int64_t M, int64_t K) {
    int64_t m = 0;
    for (; m + ROWS <= M; m += ROWS) interleave(out + m * K, x + m * ldx, ldx, K);
    for (; m < M; m++) memcpy(out + m * K, x + m * ldx, (size_t)K * sizeof *x);
}

static void gemm_rows_f32(float *y, int64_t ldy, const float *rows, int64_t M, int64_t K, int64_t k,
                          int64_t kc, const float *panels, int64_t panel_stride, int64_t N) {
    const int64_t whole = M / ROWS * ROWS;
    for (int64_t n = 0; n < N; n += NIB_PANEL) {
        const float *w_n = panels + n / NIB_PANEL * panel_stride;
        const int64_t channels = N - n < NIB_PANEL ? N - n : NIB_PANEL;
        for (int64_t m = 0; m < whole; m += ROWS) {
            const float *x_m = rows + m * K + k * ROWS;
            if (channels == NIB_PANEL)
                tile(ROWS, 1, y + m * ldy + n, ldy, x_m, 1, ROWS, w_n, 0, kc, k > 0);
            else
                ragged_tile(ROWS, y + m * ldy + n, ldy, channels, x_m, 1, ROWS, w_n, kc, k > 0);
        }
    }
    if (whole < M)
        few_rows(M - whole, y + whole * ldy, ldy, rows + whole * K + k, K, panels, panel_stride, N,
                 kc, k > 0);
}

/* Eight columns of eight rows, to eight of 16 channels. */
INLINE void pack_eight(float *out, const float *rows, int64_t ldw) {
    __m256 r[8], s[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(rows + i * ldw);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(out + i * NIB_PANEL, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(out + (i + 4) * NIB_PANEL, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

/* Eight rows at a time, and of each the columns of a whole line: sixteen lines that begin a power
 * of two apart would drive each other out of the first cache. Fewer than 16 rows leave zeros. */
static void pack_f32(float *panel, const float *w, int64_t ldw, int64_t n, int64_t K) {
    int64_t k = 0;
    if (n == NIB_PANEL) {
        for (; k + 16 <= K; k += 16)
            for (int half = 0; half < 16; half += 8)
                for (int q = 0; q < 16; q += 8)
                    pack_eight(panel + (k + q) * NIB_PANEL + half, w + half * ldw + k + q, ldw);
        for (; k + 8 <= K; k += 8)
            for (int half = 0; half < 16; half += 8)
                pack_eight(panel + k * NIB_PANEL + half, w + half * ldw + k, ldw);
    }
    for (; k < K; k++)
        for (int64_t c = 0; c < NIB_PANEL; c++)
            panel[k * NIB_PANEL + c] = c < n ? w[c * ldw + k] : 0.0f;
}

static void install(nib_kernels *k) {
    k->pack_f32 = pack_f32;
    k->gemm_f32 = gemm_f32;
    k->pack_rows_f32 = pack_rows_f32;
    k->gemm_rows_f32 = gemm_rows_f32;
}
const nib_kernel_set nib_kernels_gemm_f32_avx2 = {
    .name = "gemm_f32_avx2", .needs = NIB_CPU_AVX2, .install = install};
