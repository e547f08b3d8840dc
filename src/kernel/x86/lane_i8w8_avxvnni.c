/* lane_i8w8_avxvnni.c: 8-bit inputs with 8-bit weights in lanes: codes are taken as they lie, for
 * any number of rows. */
#include "kernel/x86/lane_tiles_avxvnni.h"

static const uint8_t *as_they_are(uint8_t *space, const nib_lane_weight *w, int64_t panel,
                                  int64_t k, int64_t columns) {
    (void)space, (void)columns;
    return w->codes + panel * w->panel_bytes + k * NIB_PANEL;
}

static void lane_i8(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                    const nib_lane_weight *w, int64_t panel, int64_t panels, void *scratch) {
    static const lane_method method = {as_they_are, lane_groups, lane_vnni_tiles, lane_finish};
    lane_many_rows(&method, y, ldy, rows, M, w, panel, panels, scratch);
}

static void install(nib_kernels *k) { k->lane_i8[NIB_LANE_W8] = lane_i8; }
const nib_kernel_set nib_kernels_lane_i8w8_avxvnni = {
    .name = "lane_i8w8_avxvnni", .needs = NIB_CPU_AVX2 | NIB_CPU_AVXVNNI, .install = install};
