/* conv_avx2.c: what convolutions gather of their input, and a filter by itself.
 *
 * Positions that are neighbours lie side by side in memory: a run of them is a masked load of each
 * half panel, from so far before its first word that its lanes come to lie where they belong. */
#include <immintrin.h>

#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct run {
    int64_t at; /* where lane 0 would be read */
    int first, end;
} run;

static int runs_of(const int64_t *from, int lanes, run runs[NIB_PANEL]) {
    int n = 0;
    for (int l = 0; l < lanes; l++) {
        if (!l || from[l] - l != runs[n - 1].at) runs[n++] = (run){from[l] - l, l, l};
        runs[n - 1].end = l + 1;
    }
    return n;
}

/* Lanes [first, end), counted from lane 0 of this half on. */
INLINE __m256i lanes_between(int first, int end) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1)),
                            _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
}

static void words_by_taps(void *panel, const void *words, const int64_t *taps, int64_t kc,
                          const int64_t *from, int lanes) {
    uint32_t *out = panel;
    run runs[NIB_PANEL];
    __m256i mask[NIB_PANEL][2];
    const int n = runs_of(from, lanes, runs);
    if (n == 1 && lanes == NIB_PANEL) {
        const uint32_t *at = (const uint32_t *)words + runs[0].at;
        for (int64_t k = 0; k < kc; k++, out += NIB_PANEL) {
            const __m256i low = _mm256_loadu_si256((const __m256i *)(at + taps[k])),
                          high = _mm256_loadu_si256((const __m256i *)(at + taps[k] + 8));
            _mm256_storeu_si256((__m256i *)out, low);
            _mm256_storeu_si256((__m256i *)(out + 8), high);
        }
        return;
    }
    for (int r = 0; r < n; r++)
        for (int h = 0; h < 2; h++)
            mask[r][h] = lanes_between(runs[r].first - 8 * h, runs[r].end - 8 * h);
    for (int64_t k = 0; k < kc; k++, out += NIB_PANEL) {
        __m256i low = _mm256_setzero_si256(), high = low;
        for (int r = 0; r < n; r++) {
            const int *at = (const int *)words + taps[k] + runs[r].at;
            low = _mm256_or_si256(low, _mm256_maskload_epi32(at, mask[r][0]));
            high = _mm256_or_si256(high, _mm256_maskload_epi32(at + 8, mask[r][1]));
        }
        _mm256_storeu_si256((__m256i *)out, low);
        _mm256_storeu_si256((__m256i *)(out + 8), high);
    }
}

/* `count` vectors, the last of them by its mask. */
INLINE void vectors(const int count, float *y, const float *x, const int64_t *taps, const float *w,
                    int64_t K, __m256i last) {
    __m256 acc[8];
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) acc[i] = _mm256_setzero_ps();
    for (int64_t k = 0; k < K; k++) {
        const __m256 w_k = _mm256_broadcast_ss(w + k);
        const float *at = x + taps[k];
#pragma GCC unroll 8
        for (int i = 0; i < count; i++) {
            const __m256 x_k =
                i + 1 < count ? _mm256_loadu_ps(at + 8 * i) : _mm256_maskload_ps(at + 8 * i, last);
            acc[i] = _mm256_fmadd_ps(x_k, w_k, acc[i]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i + 1 < count; i++) _mm256_storeu_ps(y + 8 * i, acc[i]);
    _mm256_maskstore_ps(y + 8 * (count - 1), last, acc[count - 1]);
}

static void taps_f32(float *y, int64_t n, const float *x, const int64_t *taps, const float *w,
                     int64_t K) {
    const __m256i all = _mm256_set1_epi32(-1);
    for (; n > 64; n -= 64, y += 64, x += 64) vectors(8, y, x, taps, w, K, all);
    for (; n > 32; n -= 32, y += 32, x += 32) vectors(4, y, x, taps, w, K, all);
    const __m256i last = lanes_between(0, (int)((n - 1) % 8 + 1));
    if (n > 24)
        vectors(4, y, x, taps, w, K, last);
    else if (n > 16)
        vectors(3, y, x, taps, w, K, last);
    else if (n > 8)
        vectors(2, y, x, taps, w, K, last);
    else if (n > 0)
        vectors(1, y, x, taps, w, K, last);
}

static void scale_add_f32(float *x, size_t n, float a, float b, float c) {
    const __m256 va = _mm256_set1_ps(a), vb = _mm256_set1_ps(b), vc = _mm256_set1_ps(c);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), va), vb);
        _mm256_storeu_ps(x + i, _mm256_add_ps(v, vc));
    }
    for (; i < n; i++) x[i] = x[i] * a * b + c;
}

/* Sixteen bytes from x on, or every second one of 31. */
INLINE __m128i sixteen(const int8_t *x, const int64_t stride) {
    const __m128i low = _mm_loadu_si128((const void *)x), mask = _mm_set1_epi16(0xff);
    if (stride == 1) return low;
    const __m128i high = _mm_loadu_si128((const void *)(x + 16));
    return _mm_packus_epi16(_mm_and_si128(low, mask), _mm_and_si128(high, mask));
}

/* The words of 16 positions. */
INLINE void words_of_16(uint32_t *out, const int8_t *const rows[4], int64_t at,
                        const int64_t stride) {
    const __m128i flip = _mm_set1_epi8((char)0x80);
    __m128i v[4];
    for (int j = 0; j < 4; j++) v[j] = _mm_xor_si128(sixteen(rows[j] + at, stride), flip);
    const __m128i a = _mm_unpacklo_epi8(v[0], v[1]), b = _mm_unpackhi_epi8(v[0], v[1]);
    const __m128i c = _mm_unpacklo_epi8(v[2], v[3]), d = _mm_unpackhi_epi8(v[2], v[3]);
    _mm_storeu_si128((void *)out, _mm_unpacklo_epi16(a, c));
    _mm_storeu_si128((void *)(out + 4), _mm_unpackhi_epi16(a, c));
    _mm_storeu_si128((void *)(out + 8), _mm_unpacklo_epi16(b, d));
    _mm_storeu_si128((void *)(out + 12), _mm_unpackhi_epi16(b, d));
}

/* All but the last few; the 32nd byte of a stride of 2 is there if another position follows. */
INLINE int64_t words_by_16(uint32_t *out, int64_t step, const int8_t *const rows[4], int64_t n,
                           const int64_t stride) {
    int64_t i = 0;
    for (; i + 15 + stride <= n; i += 16, out += step) words_of_16(out, rows, i * stride, stride);
    return i;
}

static void words_of_rows(uint32_t *out, int64_t step, const int8_t *const rows[4], int64_t n,
                          int64_t stride) {
    int64_t i = 0;
    if (stride == 1) i = words_by_16(out, step, rows, n, 1);
    if (stride == 2) i = words_by_16(out, step, rows, n, 2);
    for (; i < n; i++) {
        uint32_t word = 0;
        for (int j = 0; j < 4; j++) word |= (uint32_t)(uint8_t)rows[j][i * stride] << 8 * j;
        out[i / NIB_PANEL * step + i % NIB_PANEL] = word ^ 0x80808080u;
    }
}

static void install(nib_kernels *k) {
    k->words_by_taps = words_by_taps;
    k->words_of_rows = words_of_rows;
    k->taps_f32 = taps_f32;
    k->scale_add_f32 = scale_add_f32;
}
const nib_kernel_set nib_kernels_conv_avx2 = {
    .name = "conv_avx2", .needs = NIB_CPU_AVX2, .install = install};
