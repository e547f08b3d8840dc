#include "base/bits.h"

#include "test.h"

/* The definition, bit by bit. */
static int stream_bit(const uint8_t *bytes, size_t b) { return bytes[b / 8] >> (b % 8) & 1; }

TEST(code_i_lies_at_bit_i_times_bits_lowest_first) {
    uint64_t seed = test_seed();
    for (int bits = 1; bits <= 8; bits++) {
        for (size_t n = 0; n < 70; n++) {
            uint8_t codes[70], bytes[72], back[70];
            for (size_t i = 0; i < n; i++) codes[i] = (uint8_t)test_random(&seed);
            memset(bytes, 0xee, sizeof(bytes));
            nib_bits_put(bytes, codes, n, bits);
            const size_t size = nib_bits_size(n, bits);
            for (size_t b = 0; b < n * (size_t)bits; b++)
                CHECK_INT(stream_bit(bytes, b), codes[b / (size_t)bits] >> (b % (size_t)bits) & 1);
            for (size_t b = n * (size_t)bits; b < size * 8; b++) CHECK_INT(stream_bit(bytes, b), 0);
            CHECK_INT(bytes[size], 0xee); /* nothing past the end */
            nib_bits_get(back, bytes, n, bits);
            for (size_t i = 0; i < n; i++) {
                CHECK_INT(back[i], codes[i] & ((1 << bits) - 1));
                CHECK_INT(nib_bits_at(bytes, i, bits), back[i]);
            }
        }
    }
}

TEST(setting_one_code_leaves_its_neighbours) {
    uint64_t seed = test_seed();
    for (int bits = 1; bits <= 8; bits++) {
        uint8_t codes[40], bytes[41] = {0};
        for (size_t i = 0; i < 40; i++)
            codes[i] = (uint8_t)(test_random(&seed) & ((1u << bits) - 1));
        nib_bits_put(bytes, codes, 40, bits);
        for (int round = 0; round < 500; round++) {
            const size_t i = test_random(&seed) % 40;
            const uint8_t code = (uint8_t)test_random(&seed);
            nib_bits_set(bytes, i, bits, code);
            codes[i] = (uint8_t)(code & ((1 << bits) - 1));
            for (size_t j = 0; j < 40; j++) CHECK_INT(nib_bits_at(bytes, j, bits), codes[j]);
        }
    }
}

TESTS(RUNS(code_i_lies_at_bit_i_times_bits_lowest_first),
      RUNS(setting_one_code_leaves_its_neighbours))
