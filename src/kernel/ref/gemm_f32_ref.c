/* gemm_f32_ref.c: products of f32 rows with packed f32 weights, one chain for each result. */
#include <math.h>

#include "kernel/kernel.h"

static void pack_f32(float *panel, const float *w, int64_t ldw, int64_t n, int64_t K) {
    for (int64_t k = 0; k < K; k++)
        for (int64_t c = 0; c < NIB_PANEL; c++)
            panel[k * NIB_PANEL + c] = c < n ? w[c * ldw + k] : 0.0f;
}

static void gemm_f32(float *y, int64_t ldy, const float *x, int64_t ldx, const float *panels,
                     int64_t panel_stride, int64_t M, int64_t N, int64_t K, bool accumulate) {
    for (int64_t m = 0; m < M; m++) {
        for (int64_t n = 0; n < N; n++) {
            const float *w_n = panels + n / NIB_PANEL * panel_stride + n % NIB_PANEL;
            float acc = accumulate ? y[m * ldy + n] : 0.0f;
            for (int64_t k = 0; k < K; k++) acc = fmaf(x[m * ldx + k], w_n[k * NIB_PANEL], acc);
            y[m * ldy + n] = acc;
        }
    }
}

static void pack_rows_f32(float *out, const float *x, int64_t ldx, int64_t M, int64_t K) {
    for (int64_t m = 0; m < M; m++)
        for (int64_t k = 0; k < K; k++) out[m * K + k] = x[m * ldx + k];
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
const nib_kernel_set nib_kernels_gemm_f32_ref = {.name = "gemm_f32_ref", .install = install};
