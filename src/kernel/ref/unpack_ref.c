/* unpack_ref.c: 4-bit codes, one a byte or two a byte. */
#include "base/bits.h"
#include "kernel/kernel.h"

static void pack_u4(uint8_t *out, const uint8_t *codes, size_t n) {
    nib_bits_put(out, codes, n, 4);
}
static void unpack_u4(uint8_t *codes, const uint8_t *bytes, size_t n) {
    nib_bits_get(codes, bytes, n, 4);
}

static void install(nib_kernels *k) {
    k->pack_u4 = pack_u4;
    k->unpack_u4 = unpack_u4;
}
const nib_kernel_set nib_kernels_unpack_ref = {.name = "unpack_ref", .install = install};
