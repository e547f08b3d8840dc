/* wx_lane16: codes of 1, 3, 5, 6 or 7 bits in planes of 4, 2 and 1 as kernels read them, 16 rows
 * side by side (quant/lanes.h). */
#include "quant/lanes.h"

static bool holds(const nib_qdesc *d) { return nib_lanes_hold(d, NIB_LANE_WX); }

const nib_layout nib_layout_wx_lane16 = {
    .name = "wx_lane16",
    .doc = "prepared for kernels: codes of 1, 3, 5, 6 or 7 bits in planes of 4, 2 and 1, 16 rows "
           "side by side",
    .holds = holds,
    .parts = nib_lanes_parts,
    .pack = nib_lanes_pack,
    .unpack = nib_lanes_unpack,
    .kernel = true,
};
