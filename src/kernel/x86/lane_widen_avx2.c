/* lane_widen_avx2.c: weights in lanes to f32, for products with many rows. */
#include "kernel/x86/lane_floats_avx2.h"

/* What pads the last panel is stored as zeros. */
INLINE void store(float *out, const nib_lane_weight *w, int64_t panel, lanes16 weights) {
    for (int h = 0; h < 2; h++)
        _mm256_storeu_ps(out + 8 * h,
                         _mm256_and_ps(weights.v[h], _mm256_castsi256_ps(lane_mask(w, panel, h))));
}

/* Columns with NaN among them, and narrow floats that lane_column does not take. */
static void one_by_one(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    for (int64_t i = k; i < k + kc; i++, out += NIB_PANEL) {
        const lane_group at = lane_group_of(w, panel, i / w->G);
        store(out, w, panel, lane_weights(&at, lane_narrow(w->code, codes + i * NIB_PANEL)));
    }
}

INLINE void widen(const lane_kind kind, float *out, const nib_lane_weight *w, int64_t panel,
                  int64_t k, int64_t kc) {
    const int columns = lane_columns(kind);
    const lane_codec d = lane_codec_of(kind, w);
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    for (const int64_t stop = k + kc; k < stop;) {
        lane_group at = lane_group_of(w, panel, k / w->G);
        const int64_t group_end = (k / w->G + 1) * w->G, end = group_end < stop ? group_end : stop;
        const bool odd = kind == FLOAT8 && lane_rescale(&d, &at);
        for (; k < end; k += columns) {
            const uint8_t *cell = codes + k / columns * 64;
            const int64_t left = end - k;
            if (kind == FLOAT8 &&
                (odd || lane_is_odd(lane_see(&d, _mm256_setzero_si256(), cell)))) {
                one_by_one(out, w, panel, k, left < columns ? left : columns);
                out += columns * NIB_PANEL;
                continue;
            }
#pragma GCC unroll 16
            for (int i = 0; i < columns; i++) {
                if (i >= left) break;
                store(out, w, panel, lane_weights(&at, lane_column(kind, &d, cell, i)));
                out += NIB_PANEL;
            }
        }
        k = end;
    }
}

static void w8(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    widen(INT8, out, w, panel, k, kc);
}
static void w4(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    widen(INT4, out, w, panel, k, kc);
}
static void w2(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    widen(INT2, out, w, panel, k, kc);
}
static void f8(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    if (w->code != NIB_F8_E5M2FNUZ)
        widen(FLOAT8, out, w, panel, k, kc);
    else
        one_by_one(out, w, panel, k, kc);
}

static void install(nib_kernels *k) {
    k->lane_widen[NIB_LANE_W8] = w8;
    k->lane_widen[NIB_LANE_W4] = w4;
    k->lane_widen[NIB_LANE_W2] = w2;
    k->lane_widen[NIB_LANE_F8] = f8;
}
const nib_kernel_set nib_kernels_lane_widen_avx2 = {
    .name = "lane_widen_avx2", .needs = NIB_CPU_AVX2, .install = install};
