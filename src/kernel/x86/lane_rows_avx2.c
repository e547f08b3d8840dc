/* lane_rows_avx2.c: float inputs and weights of 2, 4 or 8 bits in lanes, M <= 8. */
#include "kernel/x86/lane_rows_avx2.h"

LANE_ROWS(int8, INT8)
LANE_ROWS(uint8, UINT8)
LANE_ROWS(w4, BITS4)
LANE_ROWS(w2, BITS2)
LANE_ROWS(f8, FLOAT8)

static void w8(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
               const nib_lane_weight *w, int64_t panel, int64_t panels) {
    (w->mid ? int8 : uint8)(y, ldy, x, ldx, M, w, panel, panels);
}

static void install(nib_kernels *k) {
    k->lane_rows[NIB_LANE_W8] = w8;
    k->lane_rows[NIB_LANE_W4] = w4;
    k->lane_rows[NIB_LANE_W2] = w2;
    k->lane_rows[NIB_LANE_F8] = f8;
}
const nib_kernel_set nib_kernels_lane_rows_avx2 = {
    .name = "lane_rows_avx2", .needs = NIB_CPU_AVX2, .install = install};
