/* unpack_neon.c: 4-bit codes, 32 bytes of one to 16 of the other. */
#include <arm_neon.h>

#include "kernel/kernel.h"

static void pack_u4(uint8_t *out, const uint8_t *codes, size_t n) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const uint8x16x2_t c = vld2q_u8(codes + i); /* even codes, odd codes */
        vst1q_u8(out + i / 2, vsliq_n_u8(vandq_u8(c.val[0], vdupq_n_u8(15)), c.val[1], 4));
    }
    for (; i + 2 <= n; i += 2) out[i / 2] = (uint8_t)((codes[i] & 15) | (codes[i + 1] & 15) << 4);
    if (i < n) out[i / 2] = codes[i] & 15;
}

static void unpack_u4(uint8_t *codes, const uint8_t *bytes, size_t n) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const uint8x16_t b = vld1q_u8(bytes + i / 2);
        const uint8x16x2_t c = {{vandq_u8(b, vdupq_n_u8(15)), vshrq_n_u8(b, 4)}};
        vst2q_u8(codes + i, c);
    }
    for (; i < n; i++) codes[i] = i % 2 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15;
}

static void install(nib_kernels *k) {
    k->pack_u4 = pack_u4;
    k->unpack_u4 = unpack_u4;
}
const nib_kernel_set nib_kernels_unpack_neon = {
    .name = "unpack_neon", .needs = NIB_CPU_NEON, .install = install};
