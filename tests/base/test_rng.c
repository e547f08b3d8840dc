#include "base/rng.h"

#include "test.h"

/* Known answers published with Random123, the library of the paper's authors. */
TEST(philox_gives_the_published_answers) {
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } known[] = {
        {{0}, {0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        nib_philox(known[i].counter, known[i].key, out);
        CHECK_BYTES(out, known[i].want, sizeof(out));
    }
}

TEST(any_range_of_a_stream_is_the_same_numbers) {
    const nib_rng rng = {.seed = 7, .stream = 3};
    float whole[64], part[64];
    nib_rng_normal(&rng, 0, 64, whole);
    for (size_t first = 0; first < 20; first++) {
        for (size_t n = 0; n < 20; n++) {
            nib_rng_normal(&rng, first, n, part);
            CHECK_BYTES(part, whole + first, n * sizeof(float));
        }
    }
}

TEST(streams_and_seeds_differ) {
    uint32_t a[4], b[4], c[4];
    nib_rng_u32(&(nib_rng){.seed = 1}, 0, 4, a);
    nib_rng_u32(&(nib_rng){.seed = 2}, 0, 4, b);
    nib_rng_u32(&(nib_rng){.seed = 1, .stream = 1}, 0, 4, c);
    CHECK(memcmp(a, b, 16) != 0 && memcmp(a, c, 16) != 0 && memcmp(b, c, 16) != 0);
}

/* Mean and moments of n numbers have a standard error; five of them is the bound. */
TEST(uniform_and_normal_have_their_moments) {
    enum { N = 1 << 18 };
    float *x = malloc(N * sizeof(float));
    CHECK(x);
    const nib_rng rng = {.seed = 11};
    nib_rng_uniform(&rng, 0, N, x);
    double sum = 0;
    for (int i = 0; i < N; i++) {
        CHECK(x[i] >= 0 && x[i] < 1);
        sum += x[i];
    }
    CHECK_NEAR(sum / N, 0.5, 5 * sqrt(1.0 / 12 / N));
    nib_rng_normal(&rng, 0, N, x);
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
    int beyond = 0;
    for (int i = 0; i < N; i++) {
        const double v = x[i];
        m1 += v, m2 += v * v, m3 += v * v * v, m4 += v * v * v * v;
        beyond += fabs(v) > 1.959963985;
    }
    CHECK_NEAR(m1 / N, 0, 5 * sqrt(1.0 / N));
    CHECK_NEAR(m2 / N, 1, 5 * sqrt(2.0 / N));
    CHECK_NEAR(m3 / N, 0, 5 * sqrt(15.0 / N));
    CHECK_NEAR(m4 / N, 3, 5 * sqrt(96.0 / N));
    CHECK_NEAR((double)beyond / N, 0.05, 5 * sqrt(0.05 * 0.95 / N));
    free(x);
}

/* log and cos of the C library are the judges: Box-Muller from the same bits, in double. */
TEST(normal_numbers_are_box_muller_of_the_bits) {
    enum { N = 4096 };
    static uint32_t bits[N];
    static float x[N];
    const nib_rng rng = {.seed = 5, .stream = 9};
    nib_rng_u32(&rng, 0, N, bits);
    nib_rng_normal(&rng, 0, N, x);
    for (int i = 0; i < N; i += 2) {
        const double radius = sqrt(-2 * log((bits[i] + 1.0) / 4294967296.0));
        const double angle = 2 * M_PI * (bits[i + 1] / 4294967296.0);
        CHECK_NEAR(x[i], radius * cos(angle), 4e-7); /* half an ulp of f32 below 8 */
        CHECK_NEAR(x[i + 1], radius * sin(angle), 4e-7);
    }
}

TESTS(RUNS(philox_gives_the_published_answers), RUNS(any_range_of_a_stream_is_the_same_numbers),
      RUNS(streams_and_seeds_differ), RUNS(uniform_and_normal_have_their_moments),
      RUNS(normal_numbers_are_box_muller_of_the_bits))
