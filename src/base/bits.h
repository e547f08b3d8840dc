/* bits.h: codes of 1 to 7 bits (8 works too) in a stream of bytes, lowest bit first.
 *
 *   code i occupies bits [i * bits, (i + 1) * bits) of the stream; bit b of the stream is bit
 *   b % 8 of byte b / 8.   3 bits:  byte 0 = c2[1:0] c1[2:0] c0[2:0], byte 1 = ... c2[2]
 *
 * A run of codes that ends inside a byte leaves the rest of that byte zero. Bits of a code above
 * `bits` are dropped, so two's complement codes go in as they are and come out unsigned. */
#ifndef NIB_BASE_BITS_H
#define NIB_BASE_BITS_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes that n codes take. n * bits must not overflow: counts from files are checked before. */
static inline size_t nib_bits_size(size_t n, int bits) { return (n * (size_t)bits + 7) / 8; }

static inline void nib_bits_put(uint8_t *bytes, const uint8_t *codes, size_t n, int bits) {
    const uint32_t mask = (1u << bits) - 1;
    uint32_t held = 0; /* bits not yet written, and how many */
    int count = 0;
    for (size_t i = 0; i < n; i++) {
        held |= (codes[i] & mask) << count;
        for (count += bits; count >= 8; count -= 8, held >>= 8) *bytes++ = (uint8_t)held;
    }
    if (count > 0) *bytes = (uint8_t)held;
}

/* The lowest eight codes of a word, each moved to a byte of its own: halves apart, then halves of
 * those, then theirs. */
static inline uint64_t nib_bits_apart(uint64_t word, int bits) {
    const uint64_t four = (UINT64_C(1) << 4 * bits) - 1;
    const uint64_t two = ((UINT64_C(1) << 2 * bits) - 1) * 0x0000000100000001u;
    const uint64_t one = ((UINT64_C(1) << bits) - 1) * 0x0001000100010001u;
    word = (word & four) | (word >> 4 * bits & four) << 32;
    word = (word & two) | (word >> 2 * bits & two) << 16;
    return (word & one) | (word >> bits & one) << 8;
}

/* Reads nib_bits_size(n, bits) bytes and none after. */
static inline void nib_bits_get(uint8_t *codes, const uint8_t *bytes, size_t n, int bits) {
    const uint32_t mask = (1u << bits) - 1;
    const size_t size = nib_bits_size(n, bits);
    uint32_t held = 0;
    int count = 0;
    size_t i = 0;
    for (size_t at = 0; i + 8 <= n && at + 8 <= size; i += 8, at += (size_t)bits) {
        uint64_t word; /* the least significant byte first, as codes of lanes are kept too */
        memcpy(&word, bytes + at, 8);
        word = nib_bits_apart(word, bits);
        memcpy(codes + i, &word, 8);
    }
    bytes += i / 8 * (size_t)bits;
    for (; i < n; i++) {
        for (; count < bits; count += 8) held |= (uint32_t)*bytes++ << count;
        codes[i] = (uint8_t)(held & mask);
        held >>= bits;
        count -= bits;
    }
}

/* One code, wherever it lies; touches only the one or two bytes that hold it. */
static inline uint8_t nib_bits_at(const uint8_t *bytes, size_t i, int bits) {
    const size_t first = i * (size_t)bits;
    const int shift = (int)(first % 8);
    uint32_t held = bytes[first / 8];
    if (shift + bits > 8) held |= (uint32_t)bytes[first / 8 + 1] << 8;
    return (uint8_t)(held >> shift & ((1u << bits) - 1));
}

static inline void nib_bits_set(uint8_t *bytes, size_t i, int bits, uint8_t code) {
    const size_t first = i * (size_t)bits;
    const int shift = (int)(first % 8);
    const uint32_t mask = ((1u << bits) - 1) << shift;
    const uint32_t value = ((uint32_t)code << shift) & mask;
    bytes[first / 8] = (uint8_t)((bytes[first / 8] & ~mask) | value);
    if (shift + bits > 8)
        bytes[first / 8 + 1] = (uint8_t)((bytes[first / 8 + 1] & ~(mask >> 8)) | value >> 8);
}
#endif
