/* lane_ref.c: products with weights in lanes, channel by channel. */
#include <assert.h>
#include <math.h>

#include "base/halffloat.h"
#include "kernel/kernel.h"

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Bits [0, 1 << plane) of the code of channel n at column k, from a plane of 4, 2, 1 or 8 bits. */
static uint32_t plane_code(const uint8_t *plane, int bits, int64_t n, int64_t k) {
    const int64_t columns = 32 / bits; /* of a cell */
    const uint8_t *cell = plane + k / columns * 64 + n * 4;
    const int64_t in_cell = k % columns;
    return (uint32_t)cell[in_cell % 4] >> (in_cell / 4 * bits) & ((1u << bits) - 1);
}

/* The unsigned code of channel n of the panel at column k. */
static int32_t code_at(const nib_lane_weight *w, const uint8_t *panel, int64_t n, int64_t k) {
    if (w->lane != NIB_LANE_WX) return (int32_t)plane_code(panel, w->bits, n, k);
    const int64_t Kp = round_up(w->K, 32);
    uint32_t code = 0;
    int shift = 0;
    for (int bits = 4; bits; bits /= 2) {
        if (!(w->bits & bits)) continue;
        code |= plane_code(panel, bits, n, k) << shift;
        panel += Kp * NIB_PANEL * bits / 8;
        shift += bits;
    }
    return (int32_t)code;
}

static float narrow_value(nib_dtype code, uint8_t q) {
    switch (code) {
    case NIB_F8_E5M2:
        return nib_f8_e5m2_to_f32(q);
    case NIB_F8_E4M3FNUZ:
        return nib_f8_e4m3fnuz_to_f32(q);
    case NIB_F8_E5M2FNUZ:
        return nib_f8_e5m2fnuz_to_f32(q);
    default:
        return nib_f8_e4m3fn_to_f32(q);
    }
}

static float value_at(nib_dtype dtype, const void *x, int64_t i) {
    switch (dtype) {
    case NIB_F16:
        return nib_f16_to_f32(((const uint16_t *)x)[i]);
    case NIB_BF16:
        return nib_bf16_to_f32(((const uint16_t *)x)[i]);
    default:
        return ((const float *)x)[i];
    }
}

typedef struct group {
    float scale, offset;
} group;

static group group_of(const nib_lane_weight *w, int64_t panel, int64_t g, int64_t n) {
    const int64_t at = (panel * w->groups + g) * NIB_PANEL + n;
    group r = {value_at(w->scale_dtype, w->scale, at), -0.0f};
    if (w->offset_kind == NIB_OFFSET_NONE) return r;
    const float z = value_at(w->scale_dtype, w->offset, at);
    r.offset = w->offset_kind == NIB_OFFSET_ADD   ? z
               : w->offset_kind == NIB_OFFSET_SUB ? -z
                                                  : -(r.scale * z);
    return r;
}

/* Weight [channel n of the panel, k] as f32. */
static float weight_at(const nib_lane_weight *w, int64_t panel, int64_t n, int64_t k) {
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    const group g = group_of(w, panel, k / w->G, n);
    const float c = w->lane == NIB_LANE_F8 ? narrow_value(w->code, codes[k * NIB_PANEL + n])
                                           : (float)(code_at(w, codes, n, k) - w->mid);
    return fmaf(g.scale, c, g.offset);
}

static int64_t channels_of(const nib_lane_weight *w, int64_t panel) {
    const int64_t left = w->N - panel * NIB_PANEL;
    return left < NIB_PANEL ? left : NIB_PANEL;
}

static void lane_rows(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
                      const nib_lane_weight *w, int64_t panel, int64_t panels) {
    assert(M <= NIB_LANE_ROWS);
    for (int64_t p = panel; p < panel + panels; p++)
        for (int64_t n = 0; n < channels_of(w, p); n++) {
            float acc[NIB_LANE_ROWS] = {0};
            for (int64_t k = 0; k < w->K; k++) {
                const float w_nk = weight_at(w, p, n, k);
                for (int64_t m = 0; m < M; m++) acc[m] = fmaf(x[m * ldx + k], w_nk, acc[m]);
            }
            for (int64_t m = 0; m < M; m++) y[m * ldy + p * NIB_PANEL + n] = acc[m];
        }
}

static void lane_widen(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    assert(k % 32 == 0);
    const int64_t channels = channels_of(w, panel);
    for (int64_t i = 0; i < kc; i++)
        for (int64_t n = 0; n < NIB_PANEL; n++)
            out[i * NIB_PANEL + n] = n < channels ? weight_at(w, panel, n, k + i) : 0.0f;
}

static float product_i8(const nib_rows_i8 *rows, int64_t m, const nib_lane_weight *w, int64_t panel,
                        int64_t n) {
    const int8_t *q = rows->q + m * rows->ld;
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    float y = 0;
    for (int64_t g = 0; g < w->groups; g++) {
        const int32_t sum = rows->sums[m * w->groups + g];
        const group at = group_of(w, panel, g, n);
        int32_t t = 0;
        for (int64_t k = g * w->G; k < (g + 1) * w->G; k++) t += code_at(w, codes, n, k) * q[k];
        y = fmaf(at.scale, (float)(t - w->mid * sum), y);
        if (w->offset_kind != NIB_OFFSET_NONE) y = fmaf(at.offset, (float)sum, y);
    }
    if (rows->zero) y = fmaf(-(float)rows->zero[m], w->correction[panel * NIB_PANEL + n], y);
    return y * rows->scale[m];
}

static void lane_i8(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                    const nib_lane_weight *w, int64_t panel, int64_t panels, void *scratch) {
    (void)scratch;
    for (int64_t m = 0; m < M; m++)
        for (int64_t p = panel; p < panel + panels; p++)
            for (int64_t n = 0; n < channels_of(w, p); n++)
                y[m * ldy + p * NIB_PANEL + n] = product_i8(rows, m, w, p, n);
}

static void dense_rows(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const void *w,
                       nib_dtype dtype, int64_t ldw, int64_t N, int64_t K) {
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            float acc = 0;
            for (int64_t k = 0; k < K; k++)
                acc = fmaf(x[m * ldx + k], value_at(dtype, w, n * ldw + k), acc);
            y[m * ldy + n] = acc;
        }
}

static void install(nib_kernels *k) {
    k->lane_rows[NIB_LANE_W8] = k->lane_rows[NIB_LANE_F8] = lane_rows;
    k->lane_widen[NIB_LANE_W8] = k->lane_widen[NIB_LANE_F8] = lane_widen;
    for (int lane = 0; lane < NIB_INTEGER_LANES; lane++) k->lane_i8[lane] = lane_i8;
    k->dense_rows = dense_rows;
}
const nib_kernel_set nib_kernels_lane_ref = {.name = "lane_ref", .needs = 0, .install = install};
