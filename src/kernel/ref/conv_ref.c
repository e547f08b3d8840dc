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

static void words_of_rows(uint32_t *out, int64_t step, const int8_t *const rows[4], int64_t n,
                          int64_t stride) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t word = 0;
        for (int j = 0; j < 4; j++) word |= (uint32_t)(rows[j][i * stride] + 128) << 8 * j;
        out[i / NIB_PANEL * step + i % NIB_PANEL] = word;
    }
}

static int32_t sum_at(const nib_conv_i8 *c, int64_t m, const uint32_t *words) {
    const int64_t block = m / NIB_FILTER_BLOCK, row = m % NIB_FILTER_BLOCK;
    int32_t sum = 0;
    for (int64_t k = 0; k < c->K; k++)
        for (int j = 0; j < 4; j++)
            sum += c->filters[((block * c->K + k) * NIB_FILTER_BLOCK + row) * 4 + j] *
                   ((int)(words[k * NIB_PANEL] >> 8 * j & 255) - 128);
    return sum;
}

/* The result at `at`, of filter m. */
static void finish(const nib_conv_i8 *c, int64_t m, int64_t at, int32_t sum) {
    const float y = (float)sum * c->scale[m] * c->x_scale + (c->bias ? c->bias[m] : -0.0f);
    if (c->y) {
        c->y[at] = y;
        return;
    }
    const float d = y / c->y_scale;
    const float in_range = fminf(fmaxf(d, (float)c->low), (float)c->high);
    c->q[at] = d == d ? (int8_t)lrintf(in_range) : 0;
}

static void taps_i8(const nib_conv_i8 *c, const int8_t *x, const int64_t *taps, int64_t n,
                    int64_t rows, int64_t step, int64_t stride) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++) {
            int32_t sum = 0;
            for (int64_t k = 0; k < c->K; k++)
                sum += c->filters[k] * x[r * step + taps[k] + i * stride];
            finish(c, 0, r * c->ldy + i, sum);
        }
}

static void conv_i8(const nib_conv_i8 *c, const uint32_t *panels, int64_t stride, int64_t n) {
    for (int64_t m = 0; m < c->M; m++)
        for (int64_t i = 0; i < n; i++)
            finish(c, m, m * c->ldy + i,
                   sum_at(c, m, panels + i / NIB_PANEL * stride + i % NIB_PANEL));
}

static void scale_add_f32(float *x, size_t n, float a, float b, float c) {
    for (size_t i = 0; i < n; i++) x[i] = x[i] * a * b + c;
}

static void install(nib_kernels *k) {
    k->words_by_taps = words_by_taps;
    k->taps_f32 = taps_f32;
    k->taps_i8 = taps_i8;
    k->words_of_rows = words_of_rows;
    k->conv_i8 = conv_i8;
    k->scale_add_f32 = scale_add_f32;
}
const nib_kernel_set nib_kernels_conv_ref = {.name = "conv_ref", .install = install};
