/* fixed_point.h: the unit of digits_row_i8, from the exponent of a row's largest number. */
#ifndef NIB_KERNEL_FIXED_POINT_H
#define NIB_KERNEL_FIXED_POINT_H
#include <string.h>

#include "kernel/kernel.h"

typedef struct fixed_point {
    float inverse; /* of the last digit's scale */
    bool finite;
} fixed_point;

/* most: the bits of the largest magnitude, where a NaN is above infinity. */
static inline fixed_point fixed_point_of(uint32_t most, float scale[NIB_DIGITS]) {
    enum { BIAS = 127, LEAST = BIAS - 105, MANTISSA = 23, BELOW = 21, NOT_FINITE = 255 };
    uint32_t e = most >> MANTISSA;
    fixed_point to = {.finite = e < NOT_FINITE};
    if (e < LEAST) e = LEAST;
    for (int d = 0; d < NIB_DIGITS; d++) {
        uint32_t bits = (e - BELOW + 8 * (uint32_t)(NIB_DIGITS - 1 - d)) << MANTISSA;
        if (!to.finite) bits = 0x7fc00000;
        memcpy(&scale[d], &bits, sizeof bits);
    }
    const uint32_t inverse = (2 * BIAS + BELOW - e) << MANTISSA;
    memcpy(&to.inverse, &inverse, sizeof inverse);
    return to;
}
#endif
