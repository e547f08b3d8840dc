/* lane_rows_avx512.c: float inputs and weights of 8 bits in lanes, M <= 8.
 *
 * A result is one chain of fma over k, so what hides its latency is several panels at a time. */
#include "kernel/x86/lane_avx512.h"

enum { MOST = 4 };     /* panels at a time */
enum { AHEAD = 2048 }; /* bytes that are asked for before they are needed */

/* One panel of narrow floats, one by one: where lane_column does not do. */
static void odd_panel(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
                      const nib_lane_weight *w, int64_t panel) {
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    __m512 acc[NIB_LANE_ROWS];
    for (int64_t m = 0; m < M; m++) acc[m] = _mm512_setzero_ps();
    for (int64_t k = 0; k < w->K; k++) {
        const lane_group at = lane_group_of(w, panel, k / w->G);
        const __m512 c = lane_narrow(w->code, codes + k * NIB_PANEL);
        const __m512 v = _mm512_fmadd_ps(at.scale, c, at.offset);
        for (int64_t m = 0; m < M; m++)
            acc[m] = _mm512_fmadd_ps(_mm512_set1_ps(x[m * ldx + k]), v, acc[m]);
    }
    for (int64_t m = 0; m < M; m++)
        _mm512_mask_storeu_ps(y + m * ldy + panel * NIB_PANEL, lane_mask(w, panel), acc[m]);
}

/* y of `panels` panels from `panel` on and of `rows` rows; those past `last` and past M are
 * computed as those, once more, and not stored. */
INLINE void block(const lane_kind kind, const int rows, const int panels, float *y, int64_t ldy,
                  const float *x, int64_t ldx, int64_t M, const nib_lane_weight *w, int64_t panel,
                  int64_t last) {
    enum { columns = LANE_COLUMNS };
    const lane_codec d = lane_codec_of(kind, w);
    const float *x_m[NIB_LANE_ROWS];
    for (int m = 0; m < rows; m++) x_m[m] = x + (m < M ? m : M - 1) * ldx;
    const uint8_t *codes[MOST];
    __m512 acc[NIB_LANE_ROWS][MOST];
    __m512i seen = _mm512_setzero_si512(); /* of narrow floats */
    bool odd = false;
    for (int p = 0; p < panels; p++) {
        codes[p] = w->codes + (panel + p < last ? panel + p : last) * w->panel_bytes;
        for (int m = 0; m < rows; m++) acc[m][p] = _mm512_setzero_ps();
    }
    for (int64_t g = 0; g < w->groups; g++) {
        lane_group at[MOST];
        for (int p = 0; p < panels; p++) {
            at[p] = lane_group_of(w, panel + p < last ? panel + p : last, g);
            if (kind == FLOAT8) {
                odd |= lane_too_large(at[p].scale) != 0;
                at[p].scale = _mm512_mul_ps(at[p].scale, _mm512_set1_ps(d.factor));
            }
        }
        const int64_t end = (g + 1) * w->G;
        int64_t k = g * w->G;
        for (; k + columns <= end; k += columns) {
            const uint8_t *cell[MOST];
            const int64_t here = k / columns * 64, left = w->panel_bytes - here;
            /* past its end a long panel is followed by the one this loop has next */
            const int64_t ahead = left > AHEAD ? AHEAD : AHEAD + (panels - 1) * w->panel_bytes;
#pragma GCC unroll 4
            for (int p = 0; p < panels; p++) {
                cell[p] = codes[p] + here;
                if (rows <= 4) /* more are bound by arithmetic */
                    _mm_prefetch((const char *)((uintptr_t)cell[p] + (uintptr_t)ahead),
                                 _MM_HINT_T0);
                if (kind == FLOAT8) seen = lane_see(&d, seen, cell[p]);
            }
#pragma GCC unroll 4
            for (int i = 0; i < columns; i++)
#pragma GCC unroll 4
                for (int p = 0; p < panels; p++) {
                    const __m512 v = _mm512_fmadd_ps(at[p].scale, lane_column(kind, &d, cell[p], i),
                                                     at[p].offset);
#pragma GCC unroll 8
                    for (int m = 0; m < rows; m++)
                        acc[m][p] = _mm512_fmadd_ps(_mm512_set1_ps(x_m[m][k + i]), v, acc[m][p]);
                }
        }
        for (int p = 0; k < end && p < panels; p++) { /* part of a last cell */
            const uint8_t *cell = codes[p] + k / columns * 64;
            float rest[LANE_COLUMNS][NIB_PANEL];
            if (kind == FLOAT8) seen = lane_see(&d, seen, cell);
#pragma GCC unroll 4
            for (int i = 0; i < columns; i++)
                _mm512_storeu_ps(rest[i], lane_column(kind, &d, cell, i));
            for (int i = 0; i < end - k; i++) {
                const __m512 v =
                    _mm512_fmadd_ps(at[p].scale, _mm512_loadu_ps(rest[i]), at[p].offset);
                for (int m = 0; m < rows; m++)
                    acc[m][p] = _mm512_fmadd_ps(_mm512_set1_ps(x_m[m][k + i]), v, acc[m][p]);
            }
        }
    }
    for (int p = 0; p < panels && panel + p <= last; p++) {
        if (kind == FLOAT8 && (odd || lane_is_odd(seen))) {
            odd_panel(y, ldy, x, ldx, M, w, panel + p);
            continue;
        }
        for (int m = 0; m < rows && m < M; m++)
            _mm512_mask_storeu_ps(y + m * ldy + (panel + p) * NIB_PANEL, lane_mask(w, panel + p),
                                  acc[m][p]);
    }
}

#define ROWS(name, kind, rows, panels)                                                             \
    static void name(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,                \
                     const nib_lane_weight *w, int64_t panel, int64_t end) {                       \
        for (; panel < end; panel += panels)                                                       \
            block(kind, rows, panels, y, ldy, x, ldx, M, w, panel, end - 1);                       \
    }
#define LANE(name, kind)                                                                           \
    ROWS(name##_1, kind, 1, 4)                                                                     \
    ROWS(name##_2, kind, 2, 4)                                                                     \
    ROWS(name##_4, kind, 4, 4)                                                                     \
    ROWS(name##_8, kind, 8, 2)                                                                     \
    static void name(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,                \
                     const nib_lane_weight *w, int64_t panel, int64_t panels) {                    \
        if (M == 1)                                                                                \
            name##_1(y, ldy, x, ldx, M, w, panel, panel + panels);                                 \
        else if (M == 2)                                                                           \
            name##_2(y, ldy, x, ldx, M, w, panel, panel + panels);                                 \
        else if (M > 0 && M <= 4)                                                                  \
            name##_4(y, ldy, x, ldx, M, w, panel, panel + panels);                                 \
        else if (M > 0)                                                                            \
            name##_8(y, ldy, x, ldx, M, w, panel, panel + panels);                                 \
    }
LANE(w8, INT8)
LANE(narrow, FLOAT8)

static void f8(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
               const nib_lane_weight *w, int64_t panel, int64_t panels) {
    if (w->code != NIB_F8_E5M2FNUZ)
        narrow(y, ldy, x, ldx, M, w, panel, panels);
    else
        for (int64_t p = panel; p < panel + panels; p++) odd_panel(y, ldy, x, ldx, M, w, p);
}

static void install(nib_kernels *k) {
    k->lane_rows[NIB_LANE_W8] = w8;
    k->lane_rows[NIB_LANE_F8] = f8;
}
const nib_kernel_set nib_kernels_lane_rows_avx512 = {
    .name = "lane_rows_avx512", .needs = NIB_CPU_AVX512, .install = install};
