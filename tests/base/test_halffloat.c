/* test_halffloat.c: every code widened, and f32 narrowed at every tie, against torch's casts. */
#include "base/halffloat.h"

#include "golden/numbers/numbers.h"
#include "test.h"

#define FORMATS_OF_A_BYTE(X)                                                                       \
    X(f8_e4m3fn, 13)                                                                               \
    X(f8_e5m2, 13)                                                                                 \
    X(f8_e4m3fnuz, 13)                                                                             \
    X(f8_e5m2fnuz, 13) X(f8_e8m0, 13) X(f6_e2m3, 13) X(f6_e3m2, 13) X(f4_e2m1, 13)
#define FORMATS(X) FORMATS_OF_A_BYTE(X) X(f16, 20) X(bf16, 17)

static uint64_t mixed(uint64_t place, uint32_t code) {
    uint64_t z = place << 32 | code;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

TEST(every_code_of_8_bits_and_less_widens_as_in_torch) {
#define X(name, top)                                                                               \
    for (size_t i = 0; i < sizeof(decode_##name) / 4; i++) {                                       \
        const uint32_t bits = nib_f32_bits(nib_##name##_to_f32((uint8_t)i));                       \
        if (bits != decode_##name[i])                                                              \
            FAIL_AT(#name " %02zx widens to %08x, torch says %08x", i, bits, decode_##name[i]);    \
    }
    FORMATS_OF_A_BYTE(X)
#undef X
}

TEST(every_code_of_16_bits_widens_as_in_torch) {
    uint64_t f16 = 0, bf16 = 0;
    for (uint32_t i = 0; i < 1 << 16; i++) {
        f16 += mixed(i, nib_f32_bits(nib_f16_to_f32((uint16_t)i)));
        bf16 += mixed(i, nib_f32_bits(nib_bf16_to_f32((uint16_t)i)));
    }
    CHECK(f16 == decode_f16);
    CHECK(bf16 == decode_bf16);
}

/* The list of make_numbers.py: all patterns of the top bits, the rest at and beside the halves. */
static float adversarial(int top_bits, uint64_t i) {
    const int low = 32 - top_bits;
    const uint32_t half = 1u << (low - 1);
    const uint32_t rest[6] = {0, 1, half - 1, half, half + 1, 2 * half - 1};
    return nib_bits_f32((uint32_t)(i / 6) << low | rest[i % 6]);
}

TEST(f32_narrows_as_in_torch_at_and_beside_every_tie) {
#define X(name, top)                                                                               \
    for (uint64_t block = 0, i = 0; block < GOLDEN_BLOCKS; block++) {                              \
        const uint64_t size = (6ull << (top)) / GOLDEN_BLOCKS, first = i;                          \
        const int small = name##_has_no_nan;                                                       \
        uint64_t sum = 0;                                                                          \
        for (; i < first + size; i++) {                                                            \
            const float x = adversarial(top, i);                                                   \
            sum += mixed(i - first, nib_f32_to_##name(small && isnan(x) ? 0 : x));                 \
        }                                                                                          \
        if (sum != encode_##name[block])                                                           \
            FAIL_AT(#name ": block %d differs from torch, f32 %08x to %08x", (int)block,           \
                    nib_f32_bits(adversarial(top, first)), nib_f32_bits(adversarial(top, i - 1))); \
    }
    enum {
        f8_e4m3fn_has_no_nan = 0,
        f8_e5m2_has_no_nan = 0,
        f8_e4m3fnuz_has_no_nan = 0,
        f8_e5m2fnuz_has_no_nan = 0,
        f8_e8m0_has_no_nan = 0,
        f6_e2m3_has_no_nan = 1,
        f6_e3m2_has_no_nan = 1,
        f4_e2m1_has_no_nan = 1,
        f16_has_no_nan = 0,
        bf16_has_no_nan = 0,
    };
    FORMATS(X)
#undef X
}

TEST(widening_then_narrowing_gives_the_code_back) {
#define X(name, top)                                                                               \
    for (size_t i = 0; i < sizeof(decode_##name) / 4; i++) {                                       \
        const float x = nib_##name##_to_f32((uint8_t)i);                                           \
        if (!isnan(x) && !(isinf(x))) CHECK_INT(nib_f32_to_##name(x), i);                          \
    }
    FORMATS_OF_A_BYTE(X)
#undef X
    for (uint32_t i = 0; i < 1 << 16; i++) {
        const float f16 = nib_f16_to_f32((uint16_t)i), bf16 = nib_bf16_to_f32((uint16_t)i);
        if (!isnan(f16)) CHECK_INT(nib_f32_to_f16(f16), i);
        if (!isnan(bf16)) CHECK_INT(nib_f32_to_bf16(bf16), i);
    }
}

/* Not torch's, which leaves it open: what cannot be told is the largest, with its sign. */
TEST(a_nan_in_a_format_without_one_is_the_largest) {
    CHECK_INT(nib_f32_to_f4_e2m1(NAN), 7);
    CHECK_INT(nib_f32_to_f4_e2m1(-INFINITY), 15);
    CHECK_INT(nib_f32_to_f6_e2m3(NAN), 31);
    CHECK_INT(nib_f32_to_f6_e3m2(-INFINITY), 63);
}

TESTS(RUNS(every_code_of_8_bits_and_less_widens_as_in_torch),
      RUNS(every_code_of_16_bits_widens_as_in_torch),
      RUNS(f32_narrows_as_in_torch_at_and_beside_every_tie),
      RUNS(widening_then_narrowing_gives_the_code_back),
      RUNS(a_nan_in_a_format_without_one_is_the_largest))
