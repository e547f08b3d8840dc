/* conv_ref.c: what convolutions gather of their input, and a filter by itself. */
#include <math.h>
#include <string.h>

#include "kernel/kernel.h"

static void words_by_taps(void *panel, const void *words, const int64_t *taps, int64_t kc,
                          const int64_t *from, int lanes) {
    enum { WORD = 4 };
    memset(panel, 0, (size_t)kc * NIB_PANEL * WORD);
    for (int64_t k = 0; k < kc; k++)
        for (int l = 0; l < lanes; l++)
            memcpy((char *)panel + (k * NIB_PANEL + l) * WORD,
                   (const char *)words + (taps[k] + from[l]) * WORD, WORD);
}

static void taps_f32(float *y, int64_t n, const float *x, const int64_t *taps, const float *w,
                     int64_t K) {
    for (int64_t i = 0; i < n; i++) {
        float acc = 0;
        for (int64_t k = 0; k < K; k++) acc = fmaf(x[taps[k] + i], w[k], acc);
        y[i] = acc;
    }
}

static void taps_i8(float *y, int64_t n, const int8_t *x, const int64_t *taps, const float *w,
                    int64_t K) {
    for (int64_t i = 0; i < n; i++) {
        float acc = 0;
        for (int64_t k = 0; k < K; k++) acc = fmaf((float)x[taps[k] + i], w[k], acc);
        y[i] = acc;
    }
}

static void scale_add_f32(float *x, size_t n, float a, float b, float c) {
    for (size_t i = 0; i < n; i++) x[i] = x[i] * a * b + c;
}

static void install(nib_kernels *k) {
    k->words_by_taps = words_by_taps;
    k->taps_f32 = taps_f32;
    k->taps_i8 = taps_i8;
    k->scale_add_f32 = scale_add_f32;
}
const nib_kernel_set nib_kernels_conv_ref = {.name = "conv_ref", .install = install};
