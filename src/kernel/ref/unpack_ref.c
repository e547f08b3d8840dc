/* unpack_ref.c: 4-bit codes, one a byte or two a byte; codes to lines of lanes. */
#include <math.h>
#include <string.h>

#include "base/bits.h"
#include "kernel/kernel.h"

static void pack_u4(uint8_t *out, const uint8_t *codes, size_t n) {
    nib_bits_put(out, codes, n, 4);
}
static void unpack_u4(uint8_t *codes, const uint8_t *bytes, size_t n) {
    nib_bits_get(codes, bytes, n, 4);
}
static void unpack_bits(uint8_t *codes, const uint8_t *bytes, size_t n, int bits) {
    nib_bits_get(codes, bytes, n, bits);
}

static void lay_lines(uint8_t *to, const uint32_t *words, int64_t lines, nib_lane lane,
                      uint32_t flip, int shift, int64_t every, int32_t *sums) {
    static const int bits_of[] = {[NIB_LANE_W8] = 8,
                                  [NIB_LANE_W4] = 4,
                                  [NIB_LANE_W2] = 2,
                                  [NIB_LANE_WX] = 1,
                                  [NIB_LANE_F8] = 8};
    const int bits = bits_of[lane], n = 8 / bits;
    const uint32_t mask = 0x01010101u * ((1u << bits) - 1);
    for (int64_t i = 0; i < lines; i++, words += n * NIB_PANEL, to += 4 * NIB_PANEL)
        for (int c = 0; c < NIB_PANEL; c++) {
            uint32_t line = 0;
            if (lane == NIB_LANE_F8) {
                for (int j = 0; j < 4; j++) to[j * NIB_PANEL + c] = (uint8_t)(words[c] >> 8 * j);
                continue;
            }
            for (int w = 0; w < n; w++) {
                const uint32_t u = (words[w * NIB_PANEL + c] ^ flip) >> shift & mask;
                for (int j = 0; j < 4; j++)
                    sums[i / every * NIB_PANEL + c] += (int32_t)(u >> 8 * j & 0xff);
                line |= u << bits * w;
            }
            memcpy(to + 4 * c, &line, sizeof line);
        }
}

static void lay_halves(uint8_t *to, const uint32_t *words, int64_t lines, uint32_t flip,
                       int64_t every, int32_t *sums) {
    for (int64_t i = 0; i < lines; i++, words += NIB_PANEL, to += 4 * NIB_PANEL)
        for (int c = 0; c < NIB_PANEL; c++) {
            const uint32_t codes = words[c] ^ flip;
            for (int j = 0; j < 4; j++) {
                const uint32_t low = codes >> 4 * j & 15, high = codes >> (16 + 4 * j) & 15;
                to[4 * c + j] = (uint8_t)(low | high << 4);
                sums[i / every * NIB_PANEL + c] += (int32_t)(low + high);
            }
        }
}

static void correct_lines(float acc[NIB_PANEL], const float *scale, const float *zero,
                          nib_offset kind, const int32_t *sums, int64_t groups, int32_t less,
                          float columns) {
    for (int64_t i = 0; i < groups * NIB_PANEL; i++) {
        float *a = &acc[i % NIB_PANEL];
        *a = fmaf(scale[i], (float)(sums[i] - less), *a);
        if (kind == NIB_OFFSET_NONE) continue;
        const float offset = kind == NIB_OFFSET_ADD   ? zero[i]
                             : kind == NIB_OFFSET_SUB ? -zero[i]
                                                      : -(scale[i] * zero[i]);
        *a = fmaf(offset, columns, *a);
    }
}
static void lines_laid(void) {}

static void install(nib_kernels *k) {
    k->pack_u4 = pack_u4;
    k->unpack_u4 = unpack_u4;
    k->unpack_bits = unpack_bits;
    k->lay_lines = lay_lines;
    k->lay_halves = lay_halves;
    k->correct_lines = correct_lines;
    k->lines_laid = lines_laid;
}
const nib_kernel_set nib_kernels_unpack_ref = {.name = "unpack_ref", .install = install};
