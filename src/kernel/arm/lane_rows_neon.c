/* lane_rows_neon.c: float inputs with weights of 8 bits in lanes, or dense ones where they lie. 32
 * columns of a panel are widened to f32 in the first-level cache, [32][16], and meet all rows from
 * there: four rows at a time, whose sums fill 16 registers. */
#include "kernel/arm/float_neon.h"
#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))

enum { BLOCK = 32, QUADS = NIB_PANEL / 4 };

/* Sums of one panel, of every row. */
typedef struct sums {
    float row[NIB_LANE_ROWS][NIB_PANEL];
} sums;

/* rows [4 at most, kc] by w [kc][16], added to the sums of these rows. */
INLINE void add_rows(const int rows, float (*row)[NIB_PANEL], const float *x, int64_t ldx,
                     const float *w, int64_t kc) {
    float32x4_t acc[4][QUADS];
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int c = 0; c < QUADS; c++) acc[m][c] = vld1q_f32(row[m] + 4 * c);
    for (int64_t k = 0; k < kc; k++) {
#pragma GCC unroll 4
        for (int c = 0; c < QUADS; c++) {
            const float32x4_t w_c = vld1q_f32(w + k * NIB_PANEL + 4 * c);
#pragma GCC unroll 4
            for (int m = 0; m < rows; m++) acc[m][c] = vfmaq_n_f32(acc[m][c], w_c, x[m * ldx + k]);
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int c = 0; c < QUADS; c++) vst1q_f32(row[m] + 4 * c, acc[m][c]);
}

static void add_block(sums *s, const float *x, int64_t ldx, int64_t M, const float *w, int64_t kc) {
    for (int64_t m = 0; m < M; m += 4) {
        const float *x_m = x + m * ldx;
        switch (M - m) {
        case 1:
            add_rows(1, s->row + m, x_m, ldx, w, kc);
            break;
        case 2:
            add_rows(2, s->row + m, x_m, ldx, w, kc);
            break;
        case 3:
            add_rows(3, s->row + m, x_m, ldx, w, kc);
            break;
        default:
            add_rows(4, s->row + m, x_m, ldx, w, kc);
        }
    }
}

/* Bytes of up to 32 columns. Loading a cell in fours puts the 16 channels of one column side by
 * side. */
static void integer_codes(uint8x16_t code[BLOCK], const uint8_t *panel, int64_t k, int64_t kc) {
    const uint8_t *cell = panel + k * NIB_PANEL;
    for (int64_t i = 0; i < kc; i += 4, cell += 64) {
        const uint8x16x4_t four = vld4q_u8(cell);
        for (int j = 0; j < 4; j++) code[i + j] = four.val[j];
    }
}

/* Four narrow floats, one a lane, whose magnitude is 7 bits. Put where an f32 has its exponent and
 * multiplied by a power of two, every magnitude comes out exactly, denormals too. */
static float32x4_t widen_f8(uint32x4_t code, nib_dtype format) {
    const bool e4 = format == NIB_F8_E4M3FN || format == NIB_F8_E4M3FNUZ;
    const int bias = format == NIB_F8_E4M3FN     ? 7
                     : format == NIB_F8_E4M3FNUZ ? 8
                     : format == NIB_F8_E5M2     ? 15
                                                 : 16;
    const uint32x4_t magnitude = vandq_u32(code, vdupq_n_u32(0x7f));
    const uint32x4_t placed = vshlq_u32(magnitude, vdupq_n_s32(e4 ? 20 : 21));
    const float32x4_t factor =
        vreinterpretq_f32_u32(vdupq_n_u32((uint32_t)(127 + 127 - bias) << 23));
    float32x4_t x = vmulq_f32(vreinterpretq_f32_u32(placed), factor);
    const float32x4_t nan = vdupq_n_f32(NAN);
    if (format == NIB_F8_E4M3FN) {
        x = vbslq_f32(vceqq_u32(magnitude, vdupq_n_u32(0x7f)), nan, x);
    } else if (format == NIB_F8_E5M2) {
        x = vbslq_f32(vceqq_u32(magnitude, vdupq_n_u32(0x7c)), vdupq_n_f32(INFINITY), x);
        x = vbslq_f32(vcgtq_u32(magnitude, vdupq_n_u32(0x7c)), nan, x);
    } else { /* one NaN in the place of -0 */
        x = vbslq_f32(vceqq_u32(code, vdupq_n_u32(0x80)), nan, x);
    }
    const uint32x4_t sign = vshlq_n_u32(vandq_u32(code, vdupq_n_u32(0x80)), 24);
    return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(x), sign));
}

/* 16 values of a group's scales or offsets. */
static void widen_values(float32x4_t out[QUADS], nib_dtype dtype, const void *x, int64_t at) {
    for (int c = 0; c < QUADS; c++, at += 4) {
        if (dtype == NIB_F32) {
            out[c] = vld1q_f32((const float *)x + at);
        } else {
            const uint16x4_t code = vld1_u16((const uint16_t *)x + at);
            out[c] = dtype == NIB_F16 ? vcvt_f32_f16(vreinterpret_f16_u16(code))
                                      : vreinterpretq_f32_u32(vshll_n_u16(code, 16));
        }
    }
}

static void group_of(float32x4_t scale[QUADS], float32x4_t offset[QUADS], const nib_lane_weight *w,
                     int64_t panel, int64_t g) {
    const int64_t at = (panel * w->groups + g) * NIB_PANEL;
    widen_values(scale, w->scale_dtype, w->scale, at);
    for (int c = 0; c < QUADS; c++) offset[c] = vdupq_n_f32(-0.0f);
    if (w->offset_kind == NIB_OFFSET_NONE) return;
    widen_values(offset, w->scale_dtype, w->offset, at);
    for (int c = 0; c < QUADS; c++) {
        if (w->offset_kind == NIB_OFFSET_SUB) offset[c] = vnegq_f32(offset[c]);
        if (w->offset_kind == NIB_OFFSET_POINT)
            offset[c] = vnegq_f32(vmulq_f32(scale[c], offset[c]));
    }
}

/* Columns [k, k + kc) of a panel, k a multiple of 32 and kc at most 32: one group. */
static void widen_block(float *out, const nib_lane_weight *w, int64_t panel, int64_t k,
                        int64_t kc) {
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    const int16x8_t mid = vdupq_n_s16((int16_t)w->mid);
    float32x4_t scale[QUADS], offset[QUADS];
    uint8x16_t code[BLOCK];
    group_of(scale, offset, w, panel, k / w->G);
    if (w->lane == NIB_LANE_F8)
        for (int64_t i = 0; i < kc; i++) code[i] = vld1q_u8(codes + (k + i) * NIB_PANEL);
    else
        integer_codes(code, codes, k, kc);
    for (int64_t i = 0; i < kc; i++, out += NIB_PANEL) {
        const uint16x8_t low = vmovl_u8(vget_low_u8(code[i]));
        const uint16x8_t high = vmovl_u8(vget_high_u8(code[i]));
        float32x4_t value[QUADS];
        if (w->lane == NIB_LANE_F8) {
            value[0] = widen_f8(vmovl_u16(vget_low_u16(low)), w->code);
            value[1] = widen_f8(vmovl_u16(vget_high_u16(low)), w->code);
            value[2] = widen_f8(vmovl_u16(vget_low_u16(high)), w->code);
            value[3] = widen_f8(vmovl_u16(vget_high_u16(high)), w->code);
        } else {
            const int16x8_t a = vsubq_s16(vreinterpretq_s16_u16(low), mid);
            const int16x8_t b = vsubq_s16(vreinterpretq_s16_u16(high), mid);
            value[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(a)));
            value[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(a)));
            value[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(b)));
            value[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(b)));
        }
        for (int c = 0; c < QUADS; c++)
            vst1q_f32(out + 4 * c, vfmaq_f32(offset[c], scale[c], value[c]));
    }
}

static void write_sums(float *y, int64_t ldy, int64_t M, int64_t channels, const sums *s) {
    for (int64_t m = 0; m < M; m++)
        memcpy(y + m * ldy, s->row[m], (size_t)channels * sizeof(float));
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void lane_rows(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
                      const nib_lane_weight *w, int64_t panel, int64_t panels) {
    for (int64_t p = panel; p < panel + panels; p++) {
        sums s = {0};
        for (int64_t k = 0; k < w->K; k += BLOCK) {
            const int64_t kc = least(w->K - k, BLOCK);
            float block[BLOCK * NIB_PANEL];
            widen_block(block, w, p, k, kc);
            add_block(&s, x + k, ldx, M, block, kc);
        }
        write_sums(y + p * NIB_PANEL, ldy, M, least(w->N - p * NIB_PANEL, NIB_PANEL), &s);
    }
}

/* Channels that there are not come out as zeros. */
static void lane_widen(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    const int64_t channels = least(w->N - panel * NIB_PANEL, NIB_PANEL);
    for (int64_t i = 0; i < kc; i += BLOCK)
        widen_block(out + i * NIB_PANEL, w, panel, k + i, least(kc - i, BLOCK));
    for (int64_t i = 0; channels < NIB_PANEL && i < kc; i++)
        memset(out + i * NIB_PANEL + channels, 0, (size_t)(NIB_PANEL - channels) * sizeof(float));
}

/* Up to four neighbours of a row of dense weights; the rest zeros. */
INLINE float32x4_t dense_four(const uint8_t *w, const nib_dtype dtype, int64_t n) {
    if (dtype == NIB_F32) {
        float four[4] = {0};
        memcpy(four, w, (size_t)n * sizeof(float));
        return vld1q_f32(four);
    }
    uint16_t four[4] = {0};
    memcpy(four, w, (size_t)n * sizeof(uint16_t));
    const uint16x4_t code = vld1_u16(four);
    return dtype == NIB_F16 ? vcvt_f32_f16(vreinterpret_f16_u16(code))
                            : vreinterpretq_f32_u32(vshll_n_u16(code, 16));
}

/* Four columns of up to 16 channels as [4][16]. */
INLINE void dense_block(float *out, const uint8_t *w, const nib_dtype dtype, int64_t row_bytes,
                        int64_t channels, int64_t kc) {
    for (int c = 0; c < NIB_PANEL; c += 4) {
        float32x4_t row[4];
        for (int r = 0; r < 4; r++)
            row[r] =
                c + r < channels ? dense_four(w + (c + r) * row_bytes, dtype, kc) : vdupq_n_f32(0);
        const float32x4x2_t ab = vtrnq_f32(row[0], row[1]), cd = vtrnq_f32(row[2], row[3]);
        for (int i = 0; i < 2; i++) {
            const float32x4_t p = ab.val[i], q = cd.val[i];
            vst1q_f32(out + i * NIB_PANEL + c, vcombine_f32(vget_low_f32(p), vget_low_f32(q)));
            vst1q_f32(out + (i + 2) * NIB_PANEL + c,
                      vcombine_f32(vget_high_f32(p), vget_high_f32(q)));
        }
    }
}

INLINE void dense_by(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
                     const uint8_t *w, const nib_dtype dtype, int64_t ldw, int64_t N, int64_t K) {
    const int64_t width = dtype == NIB_F32 ? 4 : 2;
    for (int64_t n = 0; n < N; n += NIB_PANEL) {
        const int64_t channels = least(N - n, NIB_PANEL);
        sums s = {0};
        for (int64_t k = 0; k < K; k += BLOCK) {
            const int64_t kc = least(K - k, BLOCK);
            float block[BLOCK * NIB_PANEL];
            for (int64_t i = 0; i < kc; i += 4)
                dense_block(block + i * NIB_PANEL, w + (n * ldw + k + i) * width, dtype,
                            ldw * width, channels, least(kc - i, 4));
            add_block(&s, x + k, ldx, M, block, kc);
        }
        write_sums(y + n, ldy, M, channels, &s);
    }
}

static void dense_rows(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const void *w,
                       nib_dtype dtype, int64_t ldw, int64_t N, int64_t K) {
    if (dtype == NIB_F16)
        dense_by(y, ldy, x, ldx, M, w, NIB_F16, ldw, N, K);
    else if (dtype == NIB_BF16)
        dense_by(y, ldy, x, ldx, M, w, NIB_BF16, ldw, N, K);
    else
        dense_by(y, ldy, x, ldx, M, w, NIB_F32, ldw, N, K);
}

static void install(nib_kernels *k) {
    k->dense_rows = dense_rows;
    k->lane_rows[NIB_LANE_W8] = k->lane_rows[NIB_LANE_F8] = lane_rows;
    k->lane_widen[NIB_LANE_W8] = k->lane_widen[NIB_LANE_F8] = lane_widen;
}
const nib_kernel_set nib_kernels_lane_rows_neon = {
    .name = "lane_rows_neon", .needs = NIB_CPU_NEON, .install = install};
