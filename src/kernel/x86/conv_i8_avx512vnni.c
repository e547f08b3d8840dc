/* conv_i8_avx512vnni.c: filters of codes on panels of positions, and codes again.
 *
 * A tile is 8 filters by 3 panels: 24 sums in registers, 11 loads for 24 vpdpbusd. u = q + 128 is
 * the unsigned side; 128 times the sum of a filter is what its sums begin below. What follows a sum
 * is done in registers too, so that of floats none is stored where codes are wanted. */
#include "kernel/x86/conv_i8_avx512vnni.h"

enum { ROWS = NIB_FILTER_BLOCK, PANELS = 3 };

/* The results of up to 16 neighbours for each of `count` vectors, from element `to` on; n there are
 * in all. */
INLINE void put(const int count, const __m512i *sums, const finish *f, const one *o, int64_t to,
                int64_t n) {
    const nib_conv_i8 *c = f->c;
    if (c->y) {
        UNROLL
        for (int i = 0; i < count; i++)
            _mm512_mask_storeu_ps(c->y + to + 16 * i, first_of(n - 16 * i),
                                  value_of(sums[i], f, o));
        return;
    }
    __m512i code[PANELS];
    fixed_of(count, code, sums, f, o);
    UNROLL
    for (int i = 0; i < count; i++) code[i] = _mm512_srai_epi32(code[i], 16);
    const __m512i low = _mm512_packs_epi32(code[0], code[count > 1 ? 1 : 0]);
    const __m512i high = _mm512_packs_epi32(code[count - 1], code[count - 1]);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i codes = in_bounds(_mm512_packs_epi16(low, high), f);
    _mm512_mask_storeu_epi8(c->q + to, ~(__mmask64)0 >> (64 - least(n, 16 * count)),
                            _mm512_permutexvar_epi32(order, codes));
}

/* Filters [m, m + 8) on panels that begin at position i; `panels` is constant. */
INLINE void tile(const int panels, const finish *f, const one *o, int64_t m, const uint32_t *words,
                 int64_t stride, int64_t i, int64_t n) {
    const nib_conv_i8 *c = f->c;
    const int32_t *w = (const int32_t *)(const void *)(c->filters + m * c->K * 4);
    const uint32_t *u[PANELS] = {words, words + (panels > 1 ? stride : 0),
                                 words + (panels > 2 ? 2 * stride : 0)};
    const int rows = (int)least(c->M - m, ROWS);
    __m512i acc[ROWS][PANELS];
    UNRELATED(u[0], u[1], u[2]);
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        acc[r][0] = _mm512_set1_epi32(o[r].start);
        acc[r][1] = acc[r][2] = acc[r][0];
    }
    for (int64_t k = 0; k < c->K; k++, w += ROWS) {
        __m512i v[PANELS];
        UNROLL
        for (int p = 0; p < panels; p++) v[p] = _mm512_loadu_si512(u[p] + k * NIB_PANEL);
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            const __m512i four = _mm512_set1_epi32(*(const four_codes *)(w + r));
            UNROLL
            for (int p = 0; p < panels; p++) DOT(acc[r][p], v[p], four);
        }
    }
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        if (r < rows) put(panels, acc[r], f, o + r, (m + r) * c->ldy + i, n - i);
    }
}

static void conv_i8(const nib_conv_i8 *c, const uint32_t *panels, int64_t stride, int64_t n) {
    const finish f = finish_of(c);
    for (int64_t m = 0; m < c->M; m += ROWS) {
        const uint32_t *u = panels;
        one o[ROWS] = {{0}};
        for (int r = 0; r < ROWS && m + r < c->M; r++) o[r] = one_of(&f, m + r);
        int64_t i = 0;
        for (; n - i > (PANELS - 1) * NIB_PANEL; i += PANELS * NIB_PANEL, u += PANELS * stride)
            tile(3, &f, o, m, u, stride, i, n);
        if (n - i > NIB_PANEL)
            tile(2, &f, o, m, u, stride, i, n);
        else if (n > i)
            tile(1, &f, o, m, u, stride, i, n);
    }
}

static void install(nib_kernels *k) { k->conv_i8 = conv_i8; }
const nib_kernel_set nib_kernels_conv_i8_avx512vnni = {
    .name = "conv_i8_avx512vnni", .needs = NIB_CPU_AVX512 | NIB_CPU_AVX512VNNI, .install = install};
