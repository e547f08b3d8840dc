/* lane_widen_avx2.c: weights of 2, 4 or 8 bits in lanes to f32. */
#include "kernel/x86/lane_widen_avx2.h"

static void w8(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    if (w->mid)
        lane_widen_of(INT8, out, w, panel, k, kc);
    else
        lane_widen_of(UINT8, out, w, panel, k, kc);
}
static void w4(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    lane_widen_of(BITS4, out, w, panel, k, kc);
}
static void w2(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    lane_widen_of(BITS2, out, w, panel, k, kc);
}
static void f8(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    lane_widen_of(FLOAT8, out, w, panel, k, kc);
}

static void install(nib_kernels *k) {
    k->lane_widen[NIB_LANE_W8] = w8;
    k->lane_widen[NIB_LANE_W4] = w4;
    k->lane_widen[NIB_LANE_W2] = w2;
    k->lane_widen[NIB_LANE_F8] = f8;
}
const nib_kernel_set nib_kernels_lane_widen_avx2 = {
    .name = "lane_widen_avx2", .needs = NIB_CPU_AVX2, .install = install};
