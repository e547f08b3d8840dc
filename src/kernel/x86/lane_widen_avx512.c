/* lane_widen_avx512.c: weights of 8 bits in lanes to f32, for products with many rows. */
#include "kernel/x86/lane_avx512.h"

/* Columns that do not fill a cell, and narrow floats that lane_column does not take. */
static void one_by_one(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    for (int64_t i = k; i < k + kc; i++, out += NIB_PANEL) {
        const lane_group at = lane_group_of(w, panel, i / w->G);
        const __m512 c = lane_narrow(w->code, codes + i * NIB_PANEL);
        const __m512 v = _mm512_fmadd_ps(at.scale, c, at.offset);
        _mm512_storeu_ps(out, _mm512_maskz_mov_ps(lane_mask(w, panel), v));
    }
}

INLINE void widen(const lane_kind kind, float *out, const nib_lane_weight *w, int64_t panel,
                  int64_t k, int64_t kc) {
    enum { columns = LANE_COLUMNS };
    const lane_codec d = lane_codec_of(kind, w);
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    const __mmask16 channels = lane_mask(w, panel);
    for (const int64_t stop = k + kc; k < stop;) {
        lane_group at = lane_group_of(w, panel, k / w->G);
        const int64_t group_end = (k / w->G + 1) * w->G, end = group_end < stop ? group_end : stop;
        bool odd = false;
        if (kind == FLOAT8) {
            odd = lane_too_large(at.scale) != 0;
            at.scale = _mm512_mul_ps(at.scale, _mm512_set1_ps(d.factor));
        }
        for (; k < end; k += columns) {
            const uint8_t *cell = codes + k / columns * 64;
            const int64_t left = end - k;
            if (kind == FLOAT8 &&
                (odd || lane_is_odd(lane_see(&d, _mm512_setzero_si512(), cell)))) {
                one_by_one(out, w, panel, k, left < columns ? left : columns);
                out += columns * NIB_PANEL;
                continue;
            }
#pragma GCC unroll 4
            for (int i = 0; i < columns; i++) {
                if (i >= left) break;
                const __m512 v =
                    _mm512_fmadd_ps(at.scale, lane_column(kind, &d, cell, i), at.offset);
                _mm512_storeu_ps(out, _mm512_maskz_mov_ps(channels, v));
                out += NIB_PANEL;
            }
        }
        k = end;
    }
}

static void w8(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    widen(INT8, out, w, panel, k, kc);
}
static void f8(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    if (w->code != NIB_F8_E5M2FNUZ)
        widen(FLOAT8, out, w, panel, k, kc);
    else
        one_by_one(out, w, panel, k, kc);
}

static void install(nib_kernels *k) {
    k->lane_widen[NIB_LANE_W8] = w8;
    k->lane_widen[NIB_LANE_F8] = f8;
}
const nib_kernel_set nib_kernels_lane_widen_avx512 = {
    .name = "lane_widen_avx512", .needs = NIB_CPU_AVX512, .install = install};
