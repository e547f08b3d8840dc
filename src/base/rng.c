/* rng.c: Philox blocks of four, and the two shapes drawn from them.
 * Block b of a stream holds its elements 4 b .. 4 b + 3. */
#include "base/rng.h"

#include <math.h>
#include <string.h>

void nib_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9e3779b9u; /* golden ratio */
        k1 += 0xbb67ae85u; /* sqrt(3) - 1 */
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static void block_of(const nib_rng *rng, uint64_t block, uint32_t out[4]) {
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)rng->stream,
                                 (uint32_t)(rng->stream >> 32)};
    const uint32_t key[2] = {(uint32_t)rng->seed, (uint32_t)(rng->seed >> 32)};
    nib_philox(counter, key, out);
}

/* log(x) for x in (0, 1]: x = 2^e m, m in [sqrt(1/2), sqrt(2)), log m = 2 atanh((m - 1) / (m + 1));
 * |s| <= 0.172, so ten terms of the series leave 1e-17. */
static double log_of(double x) {
    int e;
    double m = frexp(x, &e);
    if (m < 0.70710678118654752440) m *= 2, e--;
    const double s = (m - 1) / (m + 1), z = s * s;
    double sum = 0;
    for (int k = 21; k >= 1; k -= 2) sum = sum * z + 1.0 / k;
    return 2 * s * sum + e * 0.69314718055994530942;
}

/* cos and sin of 2 pi t, t in [0, 1): the nearest quarter turn is taken out exactly, then the
 * Taylor series of an angle of at most pi / 4. */
static void circle(double t, double *cosine, double *sine) {
    const int quarter = (int)(t * 4 + 0.5);
    const double a = (t - quarter * 0.25) * 6.28318530717958647693, z = -a * a;
    double c = 0, s = 0;
    for (int k = 18; k >= 2; k -= 2) c = (c + 1) * z / (k * (k - 1));
    for (int k = 19; k >= 3; k -= 2) s = (s + 1) * z / (k * (k - 1));
    c += 1;
    s = (s + 1) * a;
    switch (quarter & 3) {
    case 0:
        *cosine = c, *sine = s;
        break;
    case 1:
        *cosine = -s, *sine = c;
        break;
    case 2:
        *cosine = -c, *sine = -s;
        break;
    default:
        *cosine = s, *sine = -c;
        break;
    }
}

static void uniform_block(const uint32_t bits[4], float out[4]) {
    for (int i = 0; i < 4; i++) out[i] = (float)(bits[i] >> 8) * 0x1p-24f;
}

/* Box and Muller: two uniform numbers to two normal ones. The first is in (0, 1], so log is finite.
 */
static void normal_block(const uint32_t bits[4], float out[4]) {
    for (int i = 0; i < 4; i += 2) {
        const double u = ((double)bits[i] + 1) * 0x1p-32, radius = sqrt(-2 * log_of(u));
        double cosine, sine;
        circle((double)bits[i + 1] * 0x1p-32, &cosine, &sine);
        out[i] = (float)(radius * cosine);
        out[i + 1] = (float)(radius * sine);
    }
}

static void as_is(const uint32_t bits[4], float out[4]) { memcpy(out, bits, 16); }

static void draw(const nib_rng *rng, uint64_t first, size_t n, void *out,
                 void (*shape)(const uint32_t bits[4], float out[4])) {
    for (size_t done = 0; done < n;) {
        const uint64_t at = first + done;
        const size_t skip = at % 4, take = n - done < 4 - skip ? n - done : 4 - skip;
        uint32_t bits[4];
        float made[4];
        block_of(rng, at / 4, bits);
        shape(bits, made);
        memcpy((char *)out + done * 4, made + skip, take * 4);
        done += take;
    }
}

void nib_rng_u32(const nib_rng *rng, uint64_t first, size_t n, uint32_t *out) {
    draw(rng, first, n, out, as_is);
}
void nib_rng_uniform(const nib_rng *rng, uint64_t first, size_t n, float *out) {
    draw(rng, first, n, out, uniform_block);
}
void nib_rng_normal(const nib_rng *rng, uint64_t first, size_t n, float *out) {
    draw(rng, first, n, out, normal_block);
}
