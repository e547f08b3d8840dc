/* w8_lane16: 8-bit codes as kernels read them, 16 rows side by side (quant/lanes.h). */
#include "quant/lanes.h"

static bool holds(const nib_qdesc *d) { return nib_lanes_hold(d, NIB_LANE_W8); }

const nib_layout nib_layout_w8_lane16 = {
    .name = "w8_lane16",
    .doc = "prepared for kernels: 8-bit codes, 16 rows side by side",
    .holds = holds,
    .parts = nib_lanes_parts,
    .pack = nib_lanes_pack,
    .unpack = nib_lanes_unpack,
    .kernel = true,
};
