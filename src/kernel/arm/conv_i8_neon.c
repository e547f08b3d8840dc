/* conv_i8_neon.c: codes of a convolution put into words, and one filter of codes on neighbours. */
#include "kernel/arm/conv_i8_neon.h"

static void words_of_rows(uint32_t *out, int64_t step, const int8_t *const rows[4], int64_t n,
                          int64_t stride) {
    int64_t i = 0;
    for (; stride == 1 && i + NIB_PANEL <= n; i += NIB_PANEL, out += step) {
        uint8x16x4_t v;
        for (int j = 0; j < 4; j++)
            v.val[j] = veorq_u8(vreinterpretq_u8_s8(vld1q_s8(rows[j] + i)), vdupq_n_u8(0x80));
        vst4q_u8((uint8_t *)out, v);
    }
    for (const int64_t first = i; i < n; i++) {
        uint32_t word = 0;
        for (int j = 0; j < 4; j++) word |= (uint32_t)(uint8_t)rows[j][i * stride] << 8 * j;
        out[(i - first) / NIB_PANEL * step + (i - first) % NIB_PANEL] = word ^ 0x80808080u;
    }
}

/* n <= 8 codes, `stride` apart; none behind them is read. */
static inline int8x8_t first_codes(const int8_t *x, int64_t n, int64_t stride) {
    if (n >= 8 && stride == 1) return vld1_s8(x);
    if (n >= 8) return vuzp1_s8(vld1_s8(x), vext_s8(vld1_s8(x + 7), vdup_n_s8(0), 1));
    int8_t v[8] = {0};
    for (int64_t i = 0; i < n; i++) v[i] = x[i * stride];
    return vld1_s8(v);
}

/* n <= 16 neighbours. */
static inline void neighbours(const nib_conv_i8 *c, const int8_t *x, const int64_t *taps, int64_t n,
                              int64_t stride, int64_t to) {
    int32x4_t acc[CONV_QUARTERS];
    for (int i = 0; i < CONV_QUARTERS; i++) acc[i] = vdupq_n_s32(0);
    for (int64_t k = 0; k < c->K; k++) {
        const int8x8_t w = vdup_n_s8(c->filters[k]);
        const int16x8_t low = vmull_s8(first_codes(x + taps[k], n, stride), w);
        acc[0] = vaddw_s16(acc[0], vget_low_s16(low));
        acc[1] = vaddw_s16(acc[1], vget_high_s16(low));
        if (n <= 8) continue;
        const int16x8_t high = vmull_s8(first_codes(x + taps[k] + 8 * stride, n - 8, stride), w);
        acc[2] = vaddw_s16(acc[2], vget_low_s16(high));
        acc[3] = vaddw_s16(acc[3], vget_high_s16(high));
    }
    conv_put(c, 0, acc, to, n);
}

static void taps_i8(const nib_conv_i8 *c, const int8_t *x, const int64_t *taps, int64_t n,
                    int64_t rows, int64_t step, int64_t stride) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i += NIB_PANEL)
            neighbours(c, x + r * step + i * stride, taps, n - i < NIB_PANEL ? n - i : NIB_PANEL,
                       stride, r * c->ldy + i);
}

static void install(nib_kernels *k) {
    k->words_of_rows = words_of_rows;
    k->taps_i8 = taps_i8;
}
const nib_kernel_set nib_kernels_conv_i8_neon = {
    .name = "conv_i8_neon", .needs = NIB_CPU_NEON, .install = install};
