/* lane_rows_avx2.c: float inputs and weights in lanes, M <= 8.
 *
 * A result is one chain of fma over k, and a panel is two vectors, so two panels make the four
 * chains that one row needs: half the fma are its own, half make weights of codes. */
#include "kernel/x86/lane_floats_avx2.h"

enum { MOST = 2 };     /* panels at a time */
enum { AHEAD = 2048 }; /* bytes that are asked for before they are needed */

INLINE void store(float *y, const nib_lane_weight *w, int64_t panel, lanes16 sum) {
    for (int h = 0; h < 2; h++)
        _mm256_maskstore_ps(y + panel * NIB_PANEL + 8 * h, lane_mask(w, panel, h), sum.v[h]);
}

INLINE lanes16 add(const float *x, lanes16 weights, lanes16 sum) {
    const __m256 x_k = _mm256_broadcast_ss(x);
    for (int h = 0; h < 2; h++) sum.v[h] = _mm256_fmadd_ps(x_k, weights.v[h], sum.v[h]);
    return sum;
}

/* One panel of narrow floats, one by one: where lane_column does not do. */
static void odd_panel(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
                      const nib_lane_weight *w, int64_t panel) {
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    lanes16 acc[NIB_LANE_ROWS];
    memset(acc, 0, sizeof acc);
    for (int64_t k = 0; k < w->K; k++) {
        const lane_group at = lane_group_of(w, panel, k / w->G);
        const lanes16 v = lane_weights(&at, lane_narrow(w->code, codes + k * NIB_PANEL));
        for (int64_t m = 0; m < M; m++) acc[m] = add(x + m * ldx + k, v, acc[m]);
    }
    for (int64_t m = 0; m < M; m++) store(y + m * ldy, w, panel, acc[m]);
}

/* y of `panels` panels from `panel` on and of `rows` rows; those past `last` and past M are
 * computed as those, once more, and not stored. */
INLINE void block(const lane_kind kind, const int rows, const int panels, float *y, int64_t ldy,
                  const float *x, int64_t ldx, int64_t M, const nib_lane_weight *w, int64_t panel,
                  int64_t last) {
    const int columns = lane_columns(kind);
    const lane_codec d = lane_codec_of(kind, w);
    const float *x_m[NIB_LANE_ROWS];
    const uint8_t *codes[MOST];
    lanes16 acc[NIB_LANE_ROWS][MOST];
    __m256i seen = _mm256_setzero_si256(); /* of narrow floats */
    bool odd = false;
    memset(acc, 0, sizeof acc);
    for (int m = 0; m < rows; m++) x_m[m] = x + (m < M ? m : M - 1) * ldx;
    for (int p = 0; p < panels; p++)
        codes[p] = w->codes + (panel + p < last ? panel + p : last) * w->panel_bytes;
    for (int64_t g = 0; g < w->groups; g++) {
        lane_group at[MOST];
        for (int p = 0; p < panels; p++) {
            at[p] = lane_group_of(w, panel + p < last ? panel + p : last, g);
            if (kind == FLOAT8) odd |= lane_rescale(&d, &at[p]);
        }
        const int64_t end = (g + 1) * w->G;
        int64_t k = g * w->G;
        for (; k + columns <= end; k += columns) {
            const uint8_t *cell[MOST];
            const int64_t here = k / columns * 64, left = w->panel_bytes - here;
            /* past its end a panel is followed by the one this loop has next, not by its neighbour
             */
            const int64_t ahead = left > AHEAD ? AHEAD : AHEAD + (panels - 1) * w->panel_bytes;
#pragma GCC unroll 2
            for (int p = 0; p < panels; p++) {
                cell[p] = codes[p] + here;
                if (rows <= 4) /* more are bound by arithmetic */
                    _mm_prefetch((const char *)((uintptr_t)cell[p] + (uintptr_t)ahead),
                                 _MM_HINT_T0);
                if (kind == FLOAT8) seen = lane_see(&d, seen, cell[p]);
            }
#pragma GCC unroll 16
            for (int i = 0; i < columns; i++)
#pragma GCC unroll 2
                for (int p = 0; p < panels; p++) {
                    const lanes16 v = lane_weights(&at[p], lane_column(kind, &d, cell[p], i));
#pragma GCC unroll 8
                    for (int m = 0; m < rows; m++) acc[m][p] = add(x_m[m] + k + i, v, acc[m][p]);
                }
        }
        for (int p = 0; k < end && p < panels; p++) { /* part of a last cell */
            const uint8_t *cell = codes[p] + k / columns * 64;
            lanes16 rest[16];
            if (kind == FLOAT8) seen = lane_see(&d, seen, cell);
#pragma GCC unroll 16
            for (int i = 0; i < columns; i++)
                rest[i] = lane_weights(&at[p], lane_column(kind, &d, cell, i));
            for (int i = 0; i < end - k; i++)
                for (int m = 0; m < rows; m++) acc[m][p] = add(x_m[m] + k + i, rest[i], acc[m][p]);
        }
    }
    for (int p = 0; p < panels && panel + p <= last; p++) {
        if (kind == FLOAT8 && (odd || lane_is_odd(seen))) {
            odd_panel(y, ldy, x, ldx, M, w, panel + p);
            continue;
        }
        for (int m = 0; m < rows && m < M; m++) store(y + m * ldy, w, panel + p, acc[m][p]);
    }
}

INLINE void all(const lane_kind kind, const int rows, const int panels, float *y, int64_t ldy,
                const float *x, int64_t ldx, int64_t M, const nib_lane_weight *w, int64_t panel,
                int64_t end) {
    for (; panel < end; panel += panels)
        block(kind, rows, panels, y, ldy, x, ldx, M, w, panel, end - 1);
}

#define LANE(name, kind)                                                                           \
    static void name(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,                \
                     const nib_lane_weight *w, int64_t panel, int64_t panels) {                    \
        if (M == 1)                                                                                \
            all(kind, 1, 2, y, ldy, x, ldx, M, w, panel, panel + panels);                          \
        else if (M == 2)                                                                           \
            all(kind, 2, 2, y, ldy, x, ldx, M, w, panel, panel + panels);                          \
        else if (M > 0 && M <= 4)                                                                  \
            all(kind, 4, 1, y, ldy, x, ldx, M, w, panel, panel + panels);                          \
        else if (M > 0)                                                                            \
            all(kind, 8, 1, y, ldy, x, ldx, M, w, panel, panel + panels);                          \
    }
LANE(w8, INT8)
LANE(w4, INT4)
LANE(w2, INT2)
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
    k->lane_rows[NIB_LANE_W4] = w4;
    k->lane_rows[NIB_LANE_W2] = w2;
    k->lane_rows[NIB_LANE_F8] = f8;
}
const nib_kernel_set nib_kernels_lane_rows_avx2 = {
    .name = "lane_rows_avx2", .needs = NIB_CPU_AVX2, .install = install};
