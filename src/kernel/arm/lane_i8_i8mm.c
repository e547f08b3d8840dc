/* lane_i8_i8mm.c: 8-bit inputs with weights in lanes, by usdot and usmmla: unsigned codes with
 * signed inputs, nothing to flip. Up to two tiles of rows take codes as they lie; more meet them in
 * products of 2 channels by 2 rows over 8 columns, for which a block's cells are zipped in pairs:
 * [columns / 8][16][8]. */
#include "kernel/arm/lane_dot_neon.h"

static const uint8_t *zip(uint8_t *out, const nib_lane_weight *w, int64_t panel, int64_t k,
                          int64_t columns) {
    const uint8_t *bytes = lane_unpack(out, w, panel, k, columns);
    const int64_t cells = (columns + 3) / 4;
    for (int64_t c = 0; c < cells; c += 2) { /* in place: a pair is read before it is written */
        uint32x4_t first[4], second[4];
        for (int i = 0; i < 4; i++) {
            first[i] = vreinterpretq_u32_u8(vld1q_u8(bytes + c * 64 + i * 16));
            second[i] = c + 1 < cells
                            ? vreinterpretq_u32_u8(vld1q_u8(bytes + (c + 1) * 64 + i * 16))
                            : vdupq_n_u32(0);
        }
        for (int i = 0; i < 4; i++) {
            uint8_t *to = out + c * 64 + i * 32;
            vst1q_u8(to, vreinterpretq_u8_u32(vzip1q_u32(first[i], second[i])));
            vst1q_u8(to + 16, vreinterpretq_u8_u32(vzip2q_u32(first[i], second[i])));
        }
    }
    return out;
}

/* Two rows' eight columns; the second may be the first again. */
INLINE int8x16_t two_rows(const uint8_t *q, const uint8_t *next) {
    return vreinterpretq_s8_u8(vcombine_u8(vld1_u8(q), vld1_u8(next)));
}

INLINE void tile(const int pairs, const int R, const lane_block *b, const uint8_t *q, int64_t ldq,
                 const int32_t *sums, float *y, int32_t *parts) {
    const int64_t groups = b->w->groups;
    const uint8_t *w = b->codes;
    for (int64_t s = 0; s < b->segments; s++, sums++) {
        int32x4_t p[2][8]; /* channel 2 i with both rows, then channel 2 i + 1 */
        for (int j = 0; j < pairs; j++)
            for (int i = 0; i < 8; i++) p[j][i] = vdupq_n_s32(0);
        for (int64_t left = b->cells; left > 0; left -= 2, w += 128, q += 8) {
            int8x16_t x[2];
            for (int j = 0; j < pairs; j++)
                x[j] = two_rows(q + 2 * j * ldq, q + (2 * j + 1 < R ? 2 * j + 1 : 2 * j) * ldq);
            for (int i = 0; i < 8; i++) {
                const uint8x16_t u = vld1q_u8(w + i * 16);
                for (int j = 0; j < pairs; j++) p[j][i] = vusmmlaq_s32(p[j][i], u, x[j]);
            }
        }
        for (int r = 0; r < R; r++) {
            int32x4_t t[4];
            for (int i = 0; i < 4; i++) {
                const int32x4_t *two = &p[r / 2][2 * i];
                t[i] =
                    vaddq_s32(r % 2 ? vuzp2q_s32(two[0], two[1]) : vuzp1q_s32(two[0], two[1]),
                              lane_begin(b, i, b->w->mid, sums[r * groups], parts + r * NIB_PANEL));
            }
            lane_end(b, s, t, sums[r * groups], y + r * NIB_PANEL, parts + r * NIB_PANEL);
        }
    }
}
#define TILE(unused, R, ...) tile((R + 1) / 2, R, __VA_ARGS__)
LANE_ROWS_BY(rows_of_pairs, TILE, 0)
LANE_ROWS_BY(rows_of_unsigned, lane_dot_tile, LANE_UNSIGNED)
static const lane_method by_pairs = {zip, lane_groups, rows_of_pairs, lane_finish};
static const lane_method by_unsigned = {lane_as_they_are, lane_groups, rows_of_unsigned,
                                        lane_finish};

static void lane_i8(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                    const nib_lane_weight *w, int64_t panel, int64_t panels, void *scratch) {
    static const lane_method *const few[] = {[NIB_LANE_W8] = &by_unsigned,
                                             [NIB_LANE_W4] = &lane_by_nibbles,
                                             [NIB_LANE_W2] = &lane_by_crumbs,
                                             [NIB_LANE_WX] = &lane_by_bytes};
    lane_many_rows(M <= 2 * LANE_FEW ? few[w->lane] : &by_pairs, y, ldy, rows, M, w, panel, panels,
                   scratch);
}

static void install(nib_kernels *k) {
    for (int lane = 0; lane < NIB_INTEGER_LANES; lane++) k->lane_i8[lane] = lane_i8;
}
const nib_kernel_set nib_kernels_lane_i8_i8mm = {
    .name = "lane_i8_i8mm", .needs = NIB_CPU_I8MM | NIB_CPU_DOTPROD, .install = install};
