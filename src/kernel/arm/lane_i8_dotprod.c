/* lane_i8_dotprod.c: 8-bit inputs with weights in lanes, by sdot. Up to two tiles of rows take
 * codes as they lie; more unpack a block once for all of them. */
#include "kernel/arm/lane_dot_neon.h"

/* Eight-bit codes as u - 128, like bytes of 7 bits but for what they stand for. */
static const uint8_t *flip(uint8_t *out, const nib_lane_weight *w, int64_t panel, int64_t k,
                           int64_t columns) {
    const uint8_t *codes = lane_as_they_are(out, w, panel, k, columns);
    for (int64_t i = 0; i < (columns + 3) / 4 * 64; i += 16)
        vst1q_u8(out + i, veorq_u8(vld1q_u8(codes + i), vdupq_n_u8(0x80)));
    return out;
}

/* Rows of a block whose codes are flipped already. */
static void rows_of_flipped(const lane_block *b, const uint8_t *q, int64_t ldq, const int32_t *sums,
                            int64_t M, float *y, int32_t *parts) {
    nib_lane_weight w = *b->w;
    lane_block flipped = *b;
    w.mid -= 128, flipped.w = &w;
    rows_of_bytes(&flipped, q, ldq, sums, M, y, parts);
}

LANE_ROWS_BY(rows_to_flip, lane_dot_tile, LANE_FLIPPED)
static const lane_method by_flipping = {lane_as_they_are, lane_groups, rows_to_flip, lane_finish};
static const lane_method by_flipped = {flip, lane_groups, rows_of_flipped, lane_finish};

static void lane_i8(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                    const nib_lane_weight *w, int64_t panel, int64_t panels, void *scratch) {
    const bool few = M <= 2 * LANE_FEW;
    const lane_method *method = &lane_by_bytes;
    if (w->lane == NIB_LANE_W8) method = few ? &by_flipping : &by_flipped;
    if (w->lane == NIB_LANE_W4 && few) method = &lane_by_nibbles;
    if (w->lane == NIB_LANE_W2 && few) method = &lane_by_crumbs;
    lane_many_rows(method, y, ldy, rows, M, w, panel, panels, scratch);
}

static void install(nib_kernels *k) {
    for (int lane = 0; lane < NIB_INTEGER_LANES; lane++) k->lane_i8[lane] = lane_i8;
}
const nib_kernel_set nib_kernels_lane_i8_dotprod = {
    .name = "lane_i8_dotprod", .needs = NIB_CPU_DOTPROD, .install = install};
