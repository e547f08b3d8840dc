#include "quant/mse.h"

#include "quant/codes.h"

enum { LANES = 8, STARTS = 11, TURNS = 6 };

/* To the nearest, ties to even, of what is less than 2^22 in size. */
static inline float rne(float x) {
    const float magic = 12582912.0f;
    return (x + magic) - magic;
}
static inline float clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

static double sum_of(const float lane[LANES]) {
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += (double)lane[i];
    return sum;
}

/* What the codes of a scale and shift miss, and the moments of codes and weights. */
typedef struct moments {
    double error, weight, q, w, qq, qw;
} moments;

static moments measure(const float *w, const float *importance, int64_t G, float low, float high,
                       float scale, float shift) {
    float e[LANES] = {0}, c[LANES] = {0}, q1[LANES] = {0}, w1[LANES] = {0}, qq[LANES] = {0},
          qw[LANES] = {0};
    const float inverse = 1 / scale;
    for (int64_t i = 0; i < G; i += LANES) {
        const int n = G - i < LANES ? (int)(G - i) : LANES;
        for (int k = 0; k < n; k++) {
            const float x = w[i + k], m = importance ? importance[i + k] : 1;
            const float q = rne(clamp((x + shift) * inverse, low, high));
            const float d = scale * q - shift - x;
            e[k] += m * d * d;
            c[k] += m;
            q1[k] += m * q;
            w1[k] += m * x;
            qq[k] += m * q * q;
            qw[k] += m * q * x;
        }
    }
    return (moments){sum_of(e), sum_of(c), sum_of(q1), sum_of(w1), sum_of(qq), sum_of(qw)};
}

static bool usable(float scale) { return scale > 0 && scale <= 3.4e38f && 1 / scale <= 3.4e38f; }

void nib_mse_affine(const float *w, const float *importance, int64_t G, int steps, nib_dtype math,
                    float *scale, float *shift) {
    if (!usable(*scale)) return;
    const float span = *scale * (float)steps, low = -*shift;
    double best = measure(w, importance, G, 0, (float)steps, *scale, *shift).error;
    const float first_scale = *scale;
    for (int start = 0; start < STARTS; start++) {
        const float kept = 1.0f - 0.05f * (float)start;
        float s = nib_round_to(first_scale * kept, math);
        float z = nib_round_to(-(low + span * (1 - kept) / 2), math);
        for (int turn = 0; turn < TURNS && usable(s); turn++) {
            const moments m = measure(w, importance, G, 0, (float)steps, s, z);
            if (m.error < best) {
                best = m.error;
                *scale = s;
                *shift = z;
            }
            const double variance = m.qq * m.weight - m.q * m.q;
            if (!(variance > 0) || !(m.weight > 0)) break;
            const double slope = (m.qw * m.weight - m.q * m.w) / variance;
            const float s2 = nib_round_to((float)slope, math);
            const float z2 = nib_round_to((float)((slope * m.q - m.w) / m.weight), math);
            if (s2 == s && z2 == z) break;
            s = s2;
            z = z2;
        }
    }
}

void nib_mse_symmetric(const float *w, const float *importance, int64_t G, nib_dtype math,
                       float *scale) {
    if (!usable(*scale)) return;
    const float first = *scale;
    double best = measure(w, importance, G, -128, 127, *scale, 0).error;
    for (int start = 0; start < STARTS; start++) {
        float s = nib_round_to(first * (1.0f - 0.03f * (float)start), math);
        for (int turn = 0; turn < TURNS && usable(s); turn++) {
            const moments m = measure(w, importance, G, -128, 127, s, 0);
            if (m.error < best) {
                best = m.error;
                *scale = s;
            }
            if (!(m.qq > 0)) break;
            const float s2 = nib_round_to((float)(m.qw / m.qq), math);
            if (s2 == s) break;
            s = s2;
        }
    }
}
