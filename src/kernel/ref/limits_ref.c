/* limits_ref.c: what plain C reaches at most. Operands are volatile, since a compiler would else
 * see what the loops come to and not run them. */
#include <math.h>
#include <string.h>

#include "kernel/kernel.h"

static uint64_t limit_read(const void *a, const void *b, size_t size) {
    uint64_t sum = 0, word;
    for (size_t i = 0; i < size; i += 8) {
        memcpy(&word, (const char *)a + i, 8);
        sum ^= word;
        if (!b) continue;
        memcpy(&word, (const char *)b + i, 8);
        sum ^= word;
    }
    return sum;
}

static float limit_fma(double *operations, float x, float y, size_t rounds) {
    volatile float factor = x;
    float acc = 0;
    for (size_t i = 0; i < 8 * rounds; i++) acc = fmaf(factor, y, acc);
    *operations = 2 * 8 * (double)rounds;
    return acc;
}

static int32_t limit_u8(double *operations, uint8_t u, int8_t s, size_t rounds) {
    volatile int32_t factor = s;
    uint32_t acc = 0;
    for (size_t i = 0; i < 4 * 8 * rounds; i++) acc += (uint32_t)(u * factor);
    *operations = 2 * 4 * 8 * (double)rounds;
    return (int32_t)acc;
}

static void install(nib_kernels *k) {
    k->limit_read = limit_read;
    k->limit_fma = limit_fma;
    k->limit_u8 = limit_u8;
    k->limit_u4 = limit_u8;
}
const nib_kernel_set nib_kernels_limits_ref = {.name = "limits_ref", .install = install};
