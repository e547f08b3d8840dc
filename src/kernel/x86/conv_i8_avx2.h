/* conv_i8_avx2.h: filters of codes on panels of positions, 8 positions a vector. The file that
 * includes it defines
 *   CONV_DOT(acc, u, q)   acc plus four products a lane, u8 * s8, exact; q the same in all lanes
 * A tile is 4 filters by one panel: 8 sums in registers. */
#ifndef NIB_KERNEL_X86_CONV_I8_AVX2_H
#define NIB_KERNEL_X86_CONV_I8_AVX2_H
#include <immintrin.h>
#include <string.h>

#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct conv_one { /* filter, and what all share */
    __m256 scale, bias, x_scale, y_scale, low, high;
} conv_one;

INLINE conv_one conv_one_of(const nib_conv_i8 *c, int64_t m) {
    return (conv_one){.scale = _mm256_set1_ps(c->scale[m]),
                      .bias = _mm256_set1_ps(c->bias ? c->bias[m] : -0.0f),
                      .x_scale = _mm256_set1_ps(c->x_scale),
                      .y_scale = _mm256_set1_ps(c->y_scale),
                      .low = _mm256_set1_ps((float)c->low),
                      .high = _mm256_set1_ps((float)c->high)};
}

INLINE __m256 conv_value(__m256i sum, const conv_one *o) {
    const __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), o->scale);
    return _mm256_add_ps(_mm256_mul_ps(v, o->x_scale), o->bias);
}
INLINE __m256i conv_code(__m256i sum, const conv_one *o) {
    const __m256 d = _mm256_div_ps(conv_value(sum, o), o->y_scale);
    const __m256i number = _mm256_castps_si256(_mm256_cmp_ps(d, d, _CMP_ORD_Q));
    const __m256 in_range = _mm256_min_ps(_mm256_max_ps(d, o->low), o->high);
    return _mm256_and_si256(_mm256_cvtps_epi32(in_range), number);
}

/* The results of n <= 16 neighbours to element `to`. The lanes of a[0] have positions 0 to 3 and 8
 * to 11, those of a[1] the others, which is how packing puts them in order. */
INLINE void conv_put(const nib_conv_i8 *c, const __m256i a[2], const conv_one *o, int64_t to,
                     int64_t n) {
    if (c->y) {
        const __m256 v[2] = {conv_value(a[0], o), conv_value(a[1], o)};
        float y[NIB_PANEL], *out = n < NIB_PANEL ? y : c->y + to;
        _mm256_storeu_ps(out, _mm256_permute2f128_ps(v[0], v[1], 0x20));
        _mm256_storeu_ps(out + 8, _mm256_permute2f128_ps(v[0], v[1], 0x31));
        if (n < NIB_PANEL) memcpy(c->y + to, y, (size_t)n * sizeof *y);
        return;
    }
    int8_t q[NIB_PANEL];
    const __m256i both = _mm256_packs_epi32(conv_code(a[0], o), conv_code(a[1], o));
    const __m128i codes =
        _mm_packs_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    _mm_storeu_si128((void *)(n < NIB_PANEL ? q : c->q + to), codes);
    if (n < NIB_PANEL) memcpy(c->q + to, q, (size_t)n);
}

/* Filters m to m + 3, the first or second half of a block, on a panel. */
INLINE void conv_tile(const nib_conv_i8 *c, int64_t m, const uint32_t *words, int64_t i,
                      int64_t n) {
    enum { ROWS = 4 };
    const int8_t *w =
        c->filters + m / NIB_FILTER_BLOCK * NIB_FILTER_BLOCK * c->K * 4 + m % NIB_FILTER_BLOCK * 4;
    const int rows = c->M - m < ROWS ? (int)(c->M - m) : ROWS;
    __m256i acc[ROWS][2];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
        acc[r][0] = acc[r][1] = _mm256_set1_epi32(r < rows ? -128 * c->sums[m + r] : 0);
    for (int64_t k = 0; k < c->K; k++, words += NIB_PANEL, w += NIB_FILTER_BLOCK * 4) {
        const __m256i a = _mm256_loadu_si256((const void *)words);
        const __m256i b = _mm256_loadu_si256((const void *)(words + 8));
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            int32_t four;
            memcpy(&four, w + 4 * r, 4);
            const __m256i q = _mm256_set1_epi32(four);
            acc[r][0] = CONV_DOT(acc[r][0], a, q);
            acc[r][1] = CONV_DOT(acc[r][1], b, q);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) {
        if (r >= rows) break;
        const conv_one o = conv_one_of(c, m + r);
        const __m256i mixed[2] = {_mm256_permute2x128_si256(acc[r][0], acc[r][1], 0x20),
                                  _mm256_permute2x128_si256(acc[r][0], acc[r][1], 0x31)};
        conv_put(c, mixed, &o, (m + r) * c->ldy + i, n - i < NIB_PANEL ? n - i : NIB_PANEL);
    }
}

static void conv_i8(const nib_conv_i8 *c, const uint32_t *panels, int64_t stride, int64_t n) {
    for (int64_t m = 0; m < c->M; m += 4)
        for (int64_t i = 0; i < n; i += NIB_PANEL)
            conv_tile(c, m, panels + i / NIB_PANEL * stride, i, n);
}
#endif
