/* lane_planes_avx2.h: codes of 1, 3, 5, 6 or 7 bits, whose bits lie in planes of 4, 2 and 1 bits:
 * put together in registers, four columns of 16 channels at a time. */
#ifndef NIB_KERNEL_X86_LANE_PLANES_AVX2_H
#define NIB_KERNEL_X86_LANE_PLANES_AVX2_H
#include "kernel/x86/lane_i8_avx2.h"

/* 32 columns of a panel; planes that are not there are not looked at. */
typedef struct lane_chunk {
    const uint8_t *four, *two, *one;
} lane_chunk;

INLINE lane_chunk lane_chunk_at(const nib_lane_weight *w, int64_t panel, int64_t k) {
    const int64_t Kp = (w->K + 31) / 32 * 32;
    const uint8_t *four = w->codes + panel * w->panel_bytes;
    const uint8_t *two = four + (w->bits & 4 ? Kp * 8 : 0);
    const uint8_t *one = two + (w->bits & 2 ? Kp * 4 : 0);
    return (lane_chunk){four + k * 8, two + k * 4, one + k * 2};
}

/* Bits [0, count) of the codes at bit `from` of every byte, moved to bit `to`. */
INLINE __m256i lane_bits(const uint8_t *at, const int from, const int count, const int to) {
    const __m256i mask = _mm256_set1_epi8((char)(((1 << count) - 1) << to)), v = lane_load(at);
    return _mm256_and_si256(
        from > to ? _mm256_srli_epi16(v, from - to) : _mm256_slli_epi16(v, to - from), mask);
}

/* Columns [4 j, 4 j + 4) of a chunk, channels 0-7 or 8-15 (h 0 or 1), a byte a code. */
INLINE __m256i lane_put_together(const int bits, lane_chunk at, const int j, const int h) {
    const int with_four = bits & 4, with_six = bits & 6;
    __m256i u = _mm256_setzero_si256();
    if (bits & 4) u = lane_bits(at.four + j / 2 * 64 + 32 * h, j % 2 * 4, 4, 0);
    if (bits & 2)
        u = _mm256_or_si256(u, lane_bits(at.two + j / 4 * 64 + 32 * h, j % 4 * 2, 2, with_four));
    if (bits & 1) u = _mm256_or_si256(u, lane_bits(at.one + 32 * h, j, 1, with_six));
    return u;
}

/* Ask for the chunk that lies LANE_AHEAD further, in each plane. */
INLINE void lane_fetch_chunk(const int bits, lane_chunk at) {
    for (int i = 0; i < 4 && bits & 4; i++) lane_fetch(at.four + 64 * i, LANE_AHEAD);
    for (int i = 0; i < 2 && bits & 2; i++) lane_fetch(at.two + 64 * i, LANE_AHEAD / 2);
    if (bits & 1) lane_fetch(at.one, LANE_AHEAD / 4);
}

/* Columns of 4-bit or 2-bit codes that begin there, a byte each. */
INLINE void lane_unpack_cells(const int bits, uint8_t *out, const uint8_t *codes, int64_t columns) {
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
    for (int64_t k = 0; k < columns; k += 32 / bits, codes += 64) {
        const __m256i low = lane_load(codes), high = lane_load(codes + 32);
        lane_fetch(codes, LANE_AHEAD);
        LANE_UNROLL
        for (int i = 0; i < 8 / bits; i++, out += 64) {
            const __m256i a = _mm256_and_si256(_mm256_srli_epi16(low, i * bits), mask);
            const __m256i b = _mm256_and_si256(_mm256_srli_epi16(high, i * bits), mask);
            _mm256_storeu_si256((__m256i *)out, a);
            _mm256_storeu_si256((__m256i *)(out + 32), b);
        }
    }
}

INLINE void lane_unpack_chunks(const int bits, uint8_t *out, lane_chunk at, int64_t columns) {
    for (; columns > 0; columns -= 32, at.four += 256, at.two += 128, at.one += 64) {
        lane_fetch_chunk(bits, at);
        LANE_UNROLL
        for (int j = 0; j < 8; j++, out += 64)
            for (int h = 0; h < 2; h++)
                _mm256_storeu_si256((__m256i *)(out + 32 * h), lane_put_together(bits, at, j, h));
    }
}

/* Columns [k, k + columns) as cells of one byte a code; k a multiple of 32. */
static void lane_unpack_planes(uint8_t *out, const nib_lane_weight *w, int64_t panel, int64_t k,
                               int64_t columns) {
    const lane_chunk at = lane_chunk_at(w, panel, k);
    if (w->bits == 1) lane_unpack_chunks(1, out, at, columns);
    if (w->bits == 3) lane_unpack_chunks(3, out, at, columns);
    if (w->bits == 5) lane_unpack_chunks(5, out, at, columns);
    if (w->bits == 6) lane_unpack_chunks(6, out, at, columns);
    if (w->bits == 7) lane_unpack_chunks(7, out, at, columns);
}

/* Columns [k, k + columns) of a panel of less than 8 bits as bytes: the `codes` of a lane_method.
 */
static const uint8_t *lane_unpack(uint8_t *out, const nib_lane_weight *w, int64_t panel, int64_t k,
                                  int64_t columns) {
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    if (w->lane == NIB_LANE_W4)
        lane_unpack_cells(4, out, codes + k * 8, columns);
    else if (w->lane == NIB_LANE_W2)
        lane_unpack_cells(2, out, codes + k * 4, columns);
    else
        lane_unpack_planes(out, w, panel, k, columns);
    return out;
}
#endif
