/* conv_i8_avx2.c: codes by codes in convolutions. Both sides are widened to 16 bits: an unsigned
 * byte times a signed one, twice, does not fit what vpmaddubsw adds. */
#include <immintrin.h>

/* acc + the products of bytes 0 and 2 of each lane, then of bytes 1 and 3. */
static inline __attribute__((always_inline)) __m256i dot(__m256i acc, __m256i u, __m256i q) {
    const __m256i even = _mm256_and_si256(u, _mm256_set1_epi16(0xff)),
                  odd = _mm256_srli_epi16(u, 8);
    const __m256i q_even = _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8);
    const __m256i products = _mm256_madd_epi16(odd, _mm256_srai_epi16(q, 8));
    return _mm256_add_epi32(_mm256_add_epi32(acc, _mm256_madd_epi16(even, q_even)), products);
}
#define CONV_DOT(acc, u, q) dot(acc, u, q)
#include "kernel/x86/conv_i8_avx2.h"

/* n <= 16 codes from x on, `stride` apart; none behind them is read. */
INLINE __m128i first_codes(const int8_t *x, int64_t n, const int64_t stride) {
    uint64_t low = 0, high = 0;
    if (n == NIB_PANEL && stride == 1) return _mm_loadu_si128((const void *)x);
    if (n == NIB_PANEL) { /* bytes 0, 2 .. 14 and 16, 18 .. 30 */
        const __m128i a = _mm_loadu_si128((const void *)x);
        const __m128i b = _mm_loadu_si128((const void *)(x + 15));
        return _mm_packus_epi16(_mm_and_si128(a, _mm_set1_epi16(0xff)), _mm_srli_epi16(b, 8));
    }
    if (n >= 8 && stride == 1) {
        memcpy(&low, x, 8);
        memcpy(&high, x + n - 8, 8);
        high = n > 8 ? high >> 8 * (16 - n) : 0;
    } else {
        for (int64_t i = 0; i < n && i < 8; i++) low |= (uint64_t)(uint8_t)x[i * stride] << 8 * i;
        for (int64_t i = 8; i < n; i++) high |= (uint64_t)(uint8_t)x[i * stride] << 8 * (i - 8);
    }
    return _mm_set_epi64x((int64_t)high, (int64_t)low);
}

/* n <= 16 neighbours, two codes of the filter at a time. */
INLINE void neighbours(const nib_conv_i8 *c, const conv_one *o, const int8_t *x,
                       const int64_t *taps, int64_t n, const int64_t stride, int64_t to) {
    __m256i acc[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t k = 0; k < c->K; k += 2) {
        const int second = k + 1 < c->K ? c->filters[k + 1] : 0;
        const __m256i w =
            _mm256_set1_epi32((int32_t)((uint32_t)second << 16 | (uint16_t)c->filters[k]));
        const __m256i a = _mm256_cvtepi8_epi16(first_codes(x + taps[k], n, stride));
        const __m256i b =
            _mm256_cvtepi8_epi16(first_codes(x + taps[k + 1 < c->K ? k + 1 : k], n, stride));
        acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), w));
        acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), w));
    }
    conv_put(c, acc, o, to, n);
}

INLINE void row_of_neighbours(const nib_conv_i8 *c, const conv_one *o, const int8_t *x,
                              const int64_t *taps, int64_t n, const int64_t stride, int64_t to) {
    int64_t i = 0;
    for (; i + NIB_PANEL <= n; i += NIB_PANEL)
        neighbours(c, o, x + i * stride, taps, NIB_PANEL, stride, to + i);
    if (i < n) neighbours(c, o, x + i * stride, taps, n - i, stride, to + i);
}

static void taps_i8(const nib_conv_i8 *c, const int8_t *x, const int64_t *taps, int64_t n,
                    int64_t rows, int64_t step, int64_t stride) {
    const conv_one o = conv_one_of(c, 0);
    for (int64_t r = 0; r < rows; r++)
        if (stride == 1)
            row_of_neighbours(c, &o, x + r * step, taps, n, 1, r * c->ldy);
        else
            row_of_neighbours(c, &o, x + r * step, taps, n, 2, r * c->ldy);
}

static void install(nib_kernels *k) {
    k->taps_i8 = taps_i8;
    k->conv_i8 = conv_i8;
}
const nib_kernel_set nib_kernels_conv_i8_avx2 = {
    .name = "conv_i8_avx2", .needs = NIB_CPU_AVX2, .install = install};
