/* lane_widen_avx2.c: weights of 8 bits in lanes to f32, for products with many rows. */
#include "kernel/x86/lane_floats_avx2.h"

/* Columns [k, end) of one group and of an eight, to rows of NIB_PANEL floats; k at a cell. */
INLINE void lane_widen_group(const lane_kind kind, const lane_codec *d, float *out,
                             const nib_lane_weight *w, int64_t eight, int64_t k, int64_t end) {
    const int64_t offset = lane_offset(kind, eight);
    const __m256i zero = _mm256_setzero_si256();
    const uint8_t *at = w->codes + eight / 2 * w->panel_bytes + k * NIB_PANEL;
    lane_group of = lane_group_of(w, eight, k / w->G);
    const bool bad = _mm256_movemask_epi8(lane_rescale(kind, d, &of.scale)) != 0;
    for (; !bad && k + LANE_COLUMNS <= end;
         k += LANE_COLUMNS, at += 64, out += LANE_COLUMNS * NIB_PANEL) {
        if (kind == FLOAT8 && lane_is_odd(d, lane_see(d, zero, at))) {
            lane_exact(out, NIB_PANEL, w, eight, k, LANE_COLUMNS);
            continue;
        }
        const __m256i four = lane_four_columns(kind, d, at, offset);
#pragma GCC unroll 4
        for (int i = 0; i < LANE_COLUMNS; i++)
            _mm256_storeu_ps(
                out + i * NIB_PANEL,
                _mm256_fmadd_ps(of.scale, lane_column(kind, d, at, offset, four, i), of.offset));
    }
    lane_exact(out, NIB_PANEL, w, eight, k, end - k); /* part of a last cell, or all */
}

INLINE void lane_widen_of(const lane_kind kind, float *out, const nib_lane_weight *w, int64_t panel,
                          int64_t k, int64_t kc) {
    const lane_codec d = lane_codec_of(kind, w);
    const int64_t stop = k + kc, channels = w->N - panel * NIB_PANEL;
    for (int64_t begin = k, end; begin < stop; begin = end) {
        end = (begin / w->G + 1) * w->G;
        if (end > stop) end = stop;
        for (int64_t e = 2 * panel; e < 2 * panel + 2; e++)
            lane_widen_group(kind, &d, out + (begin - k) * NIB_PANEL + e % 2 * 8, w, e, begin, end);
    }
    for (int64_t i = 0; i < kc && channels < NIB_PANEL; i++) /* what pads the last panel */
        for (int64_t n = channels; n < NIB_PANEL; n++) out[i * NIB_PANEL + n] = 0;
}

static void w8(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    if (w->mid)
        lane_widen_of(INT8, out, w, panel, k, kc);
    else
        lane_widen_of(UINT8, out, w, panel, k, kc);
}
static void f8(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    lane_widen_of(FLOAT8, out, w, panel, k, kc);
}

static void install(nib_kernels *k) {
    k->lane_widen[NIB_LANE_W8] = w8;
    k->lane_widen[NIB_LANE_F8] = f8;
}
const nib_kernel_set nib_kernels_lane_widen_avx2 = {
    .name = "lane_widen_avx2", .needs = NIB_CPU_AVX2, .install = install};
