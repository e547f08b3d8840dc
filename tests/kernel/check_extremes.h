/* check_extremes.h: products of integers at the ends of their range, where a sum that is a bit too
 * narrow saturates or wraps; part of checkkernel.c, which includes it behind check_lanes.h. */
#ifndef NIB_TESTS_KERNEL_CHECK_EXTREMES_H
#define NIB_TESTS_KERNEL_CHECK_EXTREMES_H
#include "kernel/check_lanes.h"

/* Codes all least, all greatest, alternating; inputs all -128, all 127, alternating, and all -64 or
 * 64 where seven bits are promised: each with each, in every kind of tile. */
static void check_extremes(void **state_) {
    static const int64_t rows[] = {1, 2, 3, 4, 6, 8, 9, 12, 16, 33};
    static const int64_t depths[][2] = {{192, 32}, {96, 96}, {512, 128}, {1025, 1025}}; /* K, G */
    static const int inputs[] = {1, 2, 3, 5, 6};
    int turn = 0;
    for (size_t i = 0; i < sizeof lane_kinds / sizeof *lane_kinds; i++) {
        lane_case c = lane_kinds[i];
        if (c.lane == NIB_LANE_F8 || !CHANGED(lane_i8[c.lane])) continue;
        c.scale_dtype = NIB_F32;
        for (size_t m = 0; m < sizeof rows / sizeof *rows; m++)
            for (c.extreme = 1; c.extreme <= 3; c.extreme++)
                for (size_t in = 0; in < sizeof inputs / sizeof *inputs; in++, turn++) {
                    const int64_t *depth = depths[turn % 4];
                    c.K = depth[0], c.G = depth[1];
                    c.N = turn % 3 ? 16 : 48;
                    c.offset = (nib_offset)(turn / 4 % 4);
                    one_lane_i8(state_, &c, rows[m], turn % 2, inputs[in]);
                }
    }
}
#endif
