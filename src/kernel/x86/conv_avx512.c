/* conv_avx512.c: what convolutions gather of their input, and a filter by itself.
 *
 * Positions that are neighbours lie side by side in memory: a run of them is one masked load, from
 * so far before its first word that its lanes come to lie where they belong. */
#include <immintrin.h>

#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct run {
    int64_t at; /* where lane 0 would be read */
    __mmask16 mask;
} run;

static int runs_of(const int64_t *from, int lanes, run runs[NIB_PANEL]) {
    const unsigned all = (2u << (lanes - 1)) - 1;
    const __m512i one = _mm512_set1_epi64(1);
    unsigned on = 0; /* lanes that go on where the one before them ends */
    for (int h = 0; h < 2; h++) {
        const __mmask8 some = (__mmask8)(all >> 8 * h & 255),
                       but = (__mmask8)(h ? some : some & 254);
        const __m512i own = _mm512_maskz_loadu_epi64(some, from + 8 * h);
        const __m512i before = _mm512_maskz_loadu_epi64(but, from + 8 * h - 1);
        on |= (unsigned)_mm512_cmpeq_epi64_mask(own, _mm512_add_epi64(before, one)) << 8 * h;
    }
    unsigned first = (~on | 1) & all;
    int n = 0;
    for (; first; first &= first - 1, n++) {
        const unsigned begin = first & (0 - first), next = first ^ begin;
        const unsigned end = next ? next & (0 - next) : all + 1;
        const int l = __builtin_ctz(first);
        runs[n] = (run){from[l] - l, (__mmask16)(end - begin)};
    }
    return n;
}

/* `n` is constant, or at least 4. */
INLINE void gather(const int n, uint32_t *panel, const uint32_t *words, const int64_t *taps,
                   int64_t kc, const run *runs) {
    for (int64_t k = 0; k < kc; k++) {
        const uint32_t *at = words + taps[k];
        __m512i v = _mm512_maskz_loadu_epi32(runs[0].mask, at + runs[0].at);
        for (int r = 1; r < n; r++) v = _mm512_mask_loadu_epi32(v, runs[r].mask, at + runs[r].at);
        _mm512_storeu_si512(panel + k * NIB_PANEL, v);
    }
}

static void words_by_taps(void *panel, const void *words, const int64_t *taps, int64_t kc,
                          const int64_t *from, int lanes) {
    run runs[NIB_PANEL];
    const int n = runs_of(from, lanes, runs);
    if (n == 1)
        gather(1, panel, words, taps, kc, runs);
    else if (n == 2)
        gather(2, panel, words, taps, kc, runs);
    else if (n == 3)
        gather(3, panel, words, taps, kc, runs);
    else
        gather(n, panel, words, taps, kc, runs);
}

INLINE __m512 load_f32(const float *x, int64_t at, __mmask16 some) {
    return _mm512_maskz_loadu_ps(some, x + at);
}
/* `count` vectors from position i on, the last of them by its mask. */
INLINE void vectors(const int count, float *y, const float *x, int64_t i, const int64_t *taps,
                    const float *w, int64_t K, __mmask16 last) {
    __m512 acc[4];
#pragma GCC unroll 4
    for (int v = 0; v < count; v++) acc[v] = _mm512_setzero_ps();
    for (int64_t k = 0; k < K; k++) {
        const __m512 w_k = _mm512_set1_ps(w[k]);
#pragma GCC unroll 4
        for (int v = 0; v < count; v++) {
            const __m512 x_k =
                load_f32(x, taps[k] + i + 16 * v, v + 1 < count ? (__mmask16)0xffff : last);
            acc[v] = _mm512_fmadd_ps(x_k, w_k, acc[v]);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < count; v++)
        _mm512_mask_storeu_ps(y + i + 16 * v, v + 1 < count ? (__mmask16)0xffff : last, acc[v]);
}

static void taps_f32(float *y, int64_t n, const float *x, const int64_t *taps, const float *w,
                     int64_t K) {
    int64_t i = 0;
    for (; n - i > 64; i += 64) vectors(4, y, x, i, taps, w, K, 0xffff);
    const int64_t left = n - i;
    const __mmask16 last = (__mmask16)(0xffff >> (-left & 15));
    if (left > 48)
        vectors(4, y, x, i, taps, w, K, last);
    else if (left > 32)
        vectors(3, y, x, i, taps, w, K, last);
    else if (left > 16)
        vectors(2, y, x, i, taps, w, K, last);
    else if (left > 0)
        vectors(1, y, x, i, taps, w, K, last);
}

/* Codes of n <= 64 positions, `stride` 1 or 2, as u = q + 128; no byte behind them is read. */
INLINE __m512i some_codes(const int8_t *x, int64_t n, const int64_t stride) {
    const __mmask64 all = ~(__mmask64)0;
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    if (stride == 1) return _mm512_xor_si512(_mm512_maskz_loadu_epi8(all >> (64 - n), x), flip);
    const int64_t bytes = 2 * n - 1;
    const __mmask64 low = bytes < 64 ? all >> (64 - bytes) : all;
    const __mmask64 high = bytes > 64 ? all >> (128 - bytes) : 0;
    const __m256i a = _mm512_cvtepi16_epi8(_mm512_maskz_loadu_epi8(low, x));
    const __m256i b = _mm512_cvtepi16_epi8(_mm512_maskz_loadu_epi8(high, x + 64));
    return _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1), flip);
}

/* Interleaving keeps to lanes of 128 bits: lane l of vector j has positions 16 l + 4 j on. */
INLINE void words_of_64(uint32_t *out, int64_t step, const int8_t *const rows[4], int64_t i,
                        int64_t n, const int64_t stride) {
    __m512i v[4], w[4];
    for (int j = 0; j < 4; j++) v[j] = some_codes(rows[j] + i * stride, n, stride);
    const __m512i a = _mm512_unpacklo_epi8(v[0], v[1]), b = _mm512_unpackhi_epi8(v[0], v[1]);
    const __m512i c = _mm512_unpacklo_epi8(v[2], v[3]), d = _mm512_unpackhi_epi8(v[2], v[3]);
    w[0] = _mm512_unpacklo_epi16(a, c), w[1] = _mm512_unpackhi_epi16(a, c);
    w[2] = _mm512_unpacklo_epi16(b, d), w[3] = _mm512_unpackhi_epi16(b, d);
    const __m512i e = _mm512_shuffle_i32x4(w[0], w[1], 0x44);
    const __m512i f = _mm512_shuffle_i32x4(w[2], w[3], 0x44);
    const __m512i g = _mm512_shuffle_i32x4(w[0], w[1], 0xee);
    const __m512i h = _mm512_shuffle_i32x4(w[2], w[3], 0xee);
    v[0] = _mm512_shuffle_i32x4(e, f, 0x88), v[1] = _mm512_shuffle_i32x4(e, f, 0xdd);
    v[2] = _mm512_shuffle_i32x4(g, h, 0x88), v[3] = _mm512_shuffle_i32x4(g, h, 0xdd);
    for (int j = 0; j < 4; j++) {
        const int64_t left = n - 16 * j;
        if (left <= 0) break;
        _mm512_mask_storeu_epi32(out + j * step, (__mmask16)(0xffff >> (left < 16 ? 16 - left : 0)),
                                 v[j]);
    }
}

static void words_of_rows(uint32_t *out, int64_t step, const int8_t *const rows[4], int64_t n,
                          int64_t stride) {
    if (stride > 2) {
        for (int64_t i = 0; i < n; i++) {
            uint32_t word = 0;
            for (int j = 0; j < 4; j++) word |= (uint32_t)(uint8_t)rows[j][i * stride] << 8 * j;
            out[i / NIB_PANEL * step + i % NIB_PANEL] = word ^ 0x80808080u;
        }
        return;
    }
    for (int64_t i = 0; i < n; i += 64, out += 4 * step) {
        const int64_t some = n - i < 64 ? n - i : 64;
        if (stride == 1)
            words_of_64(out, step, rows, i, some, 1);
        else
            words_of_64(out, step, rows, i, some, 2);
    }
}

static void scale_add_f32(float *x, size_t n, float a, float b, float c) {
    const __m512 va = _mm512_set1_ps(a), vb = _mm512_set1_ps(b), vc = _mm512_set1_ps(c);
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 some = (__mmask16)(n - i < 16 ? (1u << (n - i)) - 1 : 0xffff);
        const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, x + i), va);
        _mm512_mask_storeu_ps(x + i, some, _mm512_add_ps(_mm512_mul_ps(v, vb), vc));
    }
}

static void install(nib_kernels *k) {
    k->words_by_taps = words_by_taps;
    k->words_of_rows = words_of_rows;
    k->taps_f32 = taps_f32;
    k->scale_add_f32 = scale_add_f32;
}
const nib_kernel_set nib_kernels_conv_avx512 = {
    .name = "conv_avx512", .needs = NIB_CPU_AVX512, .install = install};
