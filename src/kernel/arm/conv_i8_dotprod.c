/* conv_i8_dotprod.c: filters of codes on panels of positions, by sdot. A tile is 4 filters by one
 * panel, 16 sums in registers; a panel's u = q + 128 becomes q by a flipped bit. */
#include "kernel/arm/conv_i8_neon.h"

enum { ROWS = 4 };

#define SDOT(r) acc[r][i] = vdotq_laneq_s32(acc[r][i], q, w4, r)

/* Filters m to m + 3, the first or second half of a block, on a panel. */
static inline void tile(const nib_conv_i8 *c, int64_t m, const uint32_t *words, int64_t at,
                        int64_t n) {
    const int8_t *w =
        c->filters + m / NIB_FILTER_BLOCK * NIB_FILTER_BLOCK * c->K * 4 + m % NIB_FILTER_BLOCK * 4;
    const int64_t rows = c->M - m < ROWS ? c->M - m : ROWS;
    int32x4_t acc[ROWS][CONV_QUARTERS];
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < CONV_QUARTERS; i++) acc[r][i] = vdupq_n_s32(0);
    for (int64_t k = 0; k < c->K; k++, words += NIB_PANEL, w += NIB_FILTER_BLOCK * 4) {
        const int8x16_t w4 = vld1q_s8(w);
        for (int i = 0; i < CONV_QUARTERS; i++) {
            const uint32x4_t u = veorq_u32(vld1q_u32(words + 4 * i), vdupq_n_u32(0x80808080u));
            const int8x16_t q = vreinterpretq_s8_u32(u);
            SDOT(0);
            SDOT(1);
            SDOT(2);
            SDOT(3);
        }
    }
    for (int64_t r = 0; r < rows; r++)
        conv_put(c, m + r, acc[r], (m + r) * c->ldy + at, n - at < NIB_PANEL ? n - at : NIB_PANEL);
}

static void conv_i8(const nib_conv_i8 *c, const uint32_t *panels, int64_t stride, int64_t n) {
    for (int64_t m = 0; m < c->M; m += ROWS)
        for (int64_t i = 0; i < n; i += NIB_PANEL)
            tile(c, m, panels + i / NIB_PANEL * stride, i, n);
}

static void install(nib_kernels *k) { k->conv_i8 = conv_i8; }
const nib_kernel_set nib_kernels_conv_i8_dotprod = {
    .name = "conv_i8_dotprod", .needs = NIB_CPU_DOTPROD, .install = install};
