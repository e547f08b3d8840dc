/* lane_wx_avx2.c: float inputs and weights of 1, 3, 5, 6 or 7 bits in planes of lanes. */
#include "kernel/x86/lane_rows_avx2.h"
#include "kernel/x86/lane_widen_avx2.h"

LANE_ROWS(rows1, BITS1)
LANE_ROWS(rows3, BITS3)
LANE_ROWS(rows5, BITS5)
LANE_ROWS(rows6, BITS6)
LANE_ROWS(rows7, BITS7)

static void lane_rows(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
                      const nib_lane_weight *w, int64_t panel, int64_t panels) {
    (w->bits == 1   ? rows1
     : w->bits == 3 ? rows3
     : w->bits == 5 ? rows5
     : w->bits == 6 ? rows6
                    : rows7)(y, ldy, x, ldx, M, w, panel, panels);
}

static void widen(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    if (w->bits == 1) lane_widen_of(BITS1, out, w, panel, k, kc);
    if (w->bits == 3) lane_widen_of(BITS3, out, w, panel, k, kc);
    if (w->bits == 5) lane_widen_of(BITS5, out, w, panel, k, kc);
    if (w->bits == 6) lane_widen_of(BITS6, out, w, panel, k, kc);
    if (w->bits == 7) lane_widen_of(BITS7, out, w, panel, k, kc);
}

static void install(nib_kernels *k) {
    k->lane_rows[NIB_LANE_WX] = lane_rows;
    k->lane_widen[NIB_LANE_WX] = widen;
}
const nib_kernel_set nib_kernels_lane_wx_avx2 = {
    .name = "lane_wx_avx2", .needs = NIB_CPU_AVX2, .install = install};
