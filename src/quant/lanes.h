/* lanes.h: weights as the kernels of kernel.h want them, "weights in lanes": panels of 16 rows.
 * Shared by the layouts layout_*_lane16.c and by whoever multiplies with such a weight.
 *
 *   lanes       u8  [panels, cells, 64]       the codes; one panel after the other
 *   scale       f   [panels, groups, 16]      f: as the file stores it
 *   offset      f   [panels, groups, 16]      only where there is a zero
 *   correction  f32 [panels, 16]              what a zero point of the inputs is multiplied with
 *
 * Rows that fill up the last panel have code mid and scale 0, columns that fill up a cell code
 * mid; so they add nothing to any product. */
#ifndef NIB_QUANT_LANES_H
#define NIB_QUANT_LANES_H
#include <nibble/extend.h>

#include "kernel/kernel.h"

/* Matrices of integer codes of 1 to 8 bits or of 8-bit floats, with one scale a row or one for
 * each group of a multiple of 32 columns. */
bool nib_lanes_hold(const nib_qdesc *desc, nib_lane lane);

int nib_lanes_parts(const nib_qdesc *desc, nib_part parts[NIB_MAX_PARTS]);
void nib_lanes_pack(void *const part[], const nib_codes *codes);
void nib_lanes_unpack(nib_codes *codes, const void *const part[], const nib_qdesc *desc,
                      int64_t row);

/* What kernels see of such parts; the parts must outlive it. */
nib_lane_weight nib_lanes_view(const nib_qdesc *desc, const void *const part[]);
#endif
