/* conv_i8_avx512vnni.c: filters of codes on panels of positions, and codes again.
 *
 * A tile is 8 filters by 3 panels: 24 sums in registers, 11 loads for 24 vpdpbusd. u = q + 128 is
 * the unsigned side; 128 times the sum of a filter is what its sums begin below. What follows a sum
 * is done in registers too, so that of floats none is stored where codes are wanted. */
#include "kernel/x86/float_avx512.h"
#include "kernel/x86/lane_avx512vnni.h"

enum { ROWS = NIB_FILTER_BLOCK, PANELS = 3 };

typedef struct finish { /* what all filters share */
    __m512 x_scale, y_scale, low, high;
    __m512 inverse; /* of y_scale */
} finish;

typedef struct one { /* filter */
    __m512 scale, bias;
    __m512i start;
} one;

INLINE finish finish_of(const nib_conv_i8 *c) {
    const float low = (float)c->low, high = (float)c->high;
    return (finish){_mm512_set1_ps(c->x_scale), _mm512_set1_ps(c->y_scale), _mm512_set1_ps(low),
                    _mm512_set1_ps(high), _mm512_set1_ps(avx512_inverse(c->y_scale, low, high))};
}
INLINE one one_of(const nib_conv_i8 *c, int64_t m) {
    return (one){_mm512_set1_ps(c->scale[m]), _mm512_set1_ps(c->bias ? c->bias[m] : -0.0f),
                 _mm512_set1_epi32(-128 * c->sums[m])};
}

INLINE __m512 value_of(__m512i sum, const finish *f, const one *o) {
    const __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), o->scale);
    return _mm512_add_ps(_mm512_mul_ps(v, f->x_scale), o->bias);
}
INLINE __m512i code_of(__m512 y, const finish *f) {
    const __m512 d = _mm512_div_ps(y, f->y_scale);
    const __mmask16 number = _mm512_cmp_ps_mask(d, d, _CMP_ORD_Q);
    const __m512 in_range = _mm512_min_ps(_mm512_max_ps(d, f->low), f->high);
    return _mm512_maskz_mov_epi32(number, _mm512_cvtps_epi32(in_range));
}

/* Codes of `count` vectors, a constant. Divisions take longer than all the rest. */
INLINE void codes_of(const int count, __m512i *code, const __m512 *y, const finish *f) {
    __mmask16 doubtful = 0;
    UNROLL
    for (int i = 0; i < count; i++)
        doubtful |= avx512_doubtful(&code[i], y[i], f->inverse, f->low, f->high);
    if (__builtin_expect(!doubtful, 1)) return;
    UNROLL
    for (int i = 0; i < count; i++) code[i] = code_of(y[i], f);
}

/* The results of up to 16 neighbours for each of `count` vectors, from element `to` on; n there are
 * in all. */
INLINE void put(const int count, const nib_conv_i8 *c, const __m512i *sums, const finish *f,
                const one *o, int64_t to, int64_t n) {
    __m512 y[PANELS];
    __m512i code[PANELS];
    UNROLL
    for (int i = 0; i < count; i++) y[i] = value_of(sums[i], f, o);
    if (c->y) {
        UNROLL
        for (int i = 0; i < count; i++)
            _mm512_mask_storeu_ps(c->y + to + 16 * i, first_of(n - 16 * i), y[i]);
        return;
    }
    codes_of(count, code, y, f);
    UNROLL
    for (int i = 0; i < count; i++)
        _mm_mask_storeu_epi8(c->q + to + 16 * i, first_of(n - 16 * i),
                             _mm512_cvtepi32_epi8(code[i]));
}

/* Filters [m, m + 8) on panels that begin at position i; `panels` is constant. */
INLINE void tile(const int panels, const nib_conv_i8 *c, const finish *f, int64_t m,
                 const uint32_t *words, int64_t stride, int64_t i, int64_t n) {
    const int32_t *w = (const int32_t *)(const void *)(c->filters + m * c->K * 4);
    const uint32_t *u[PANELS] = {words, words + (panels > 1 ? stride : 0),
                                 words + (panels > 2 ? 2 * stride : 0)};
    const int rows = (int)least(c->M - m, ROWS);
    __m512i acc[ROWS][PANELS];
    UNRELATED(u[0], u[1], u[2]);
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        acc[r][0] = _mm512_set1_epi32(r < rows ? -128 * c->sums[m + r] : 0);
        acc[r][1] = acc[r][2] = acc[r][0];
    }
    for (int64_t k = 0; k < c->K; k++, w += ROWS) {
        __m512i v[PANELS];
        UNROLL
        for (int p = 0; p < panels; p++) v[p] = _mm512_loadu_si512(u[p] + k * NIB_PANEL);
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            const __m512i four = _mm512_set1_epi32(*(const four_codes *)(w + r));
            UNROLL
            for (int p = 0; p < panels; p++) DOT(acc[r][p], v[p], four);
        }
    }
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        if (r < rows) {
            const one o = one_of(c, m + r);
            put(panels, c, acc[r], f, &o, (m + r) * c->ldy + i, n - i);
        }
    }
}

static void conv_i8(const nib_conv_i8 *c, const uint32_t *panels, int64_t stride, int64_t n) {
    const finish f = finish_of(c);
    for (int64_t m = 0; m < c->M; m += ROWS) {
        const uint32_t *u = panels;
        int64_t i = 0;
        for (; n - i > (PANELS - 1) * NIB_PANEL; i += PANELS * NIB_PANEL, u += PANELS * stride)
            tile(3, c, &f, m, u, stride, i, n);
        if (n - i > NIB_PANEL)
            tile(2, c, &f, m, u, stride, i, n);
        else if (n > i)
            tile(1, c, &f, m, u, stride, i, n);
    }
}

/* ---- one filter on neighbours ---- */

/* Taps of a multiple of four codes; those that are not there meet zeros of the filter. */
enum { SOME_TAPS = 64 };
typedef struct tap_list {
    int64_t some[SOME_TAPS];
    const int64_t *at; /* those, or the caller's */
    int64_t K, whole;  /* codes; those of whole fours that `at` has */
} tap_list;

INLINE void list_taps(tap_list *l, const int64_t *taps, int64_t K) {
    l->at = taps, l->K = K, l->whole = K / 4 * 4;
    if (K > SOME_TAPS) return;
    for (int64_t k = 0; k < (K + 3) / 4 * 4; k++) l->some[k] = taps[k < K ? k : K - 1];
    l->at = l->some, l->whole = SOME_TAPS;
}
INLINE void four_taps(const int8_t *at[4], const int8_t *x, const tap_list *l, int64_t k) {
    if (k < l->whole)
        for (int j = 0; j < 4; j++) at[j] = x + l->at[k + j];
    else
        for (int j = 0; j < 4; j++) at[j] = x + l->at[k + j < l->K ? k + j : k];
}

/* The results of up to 64 neighbours. Interleaving keeps to lanes of 128 bits: lane l of vector j
 * has positions 16 l + 4 j on, which packing, or exchanging lanes, puts in order. */
INLINE void put_interleaved(const nib_conv_i8 *c, const __m512i *sums, const finish *f,
                            const one *o, int64_t to, int64_t n) {
    __m512 y[4];
    __m512i code[4];
    UNROLL
    for (int j = 0; j < 4; j++) y[j] = value_of(sums[j], f, o);
    if (!c->y) {
        codes_of(4, code, y, f);
        const __m512i low = _mm512_packs_epi32(code[0], code[1]);
        const __m512i high = _mm512_packs_epi32(code[2], code[3]);
        _mm512_mask_storeu_epi8(c->q + to, ~(__mmask64)0 >> (64 - n),
                                _mm512_packs_epi16(low, high));
        return;
    }
    const __m512 a = _mm512_shuffle_f32x4(y[0], y[1], 0x44);
    const __m512 b = _mm512_shuffle_f32x4(y[2], y[3], 0x44);
    const __m512 d = _mm512_shuffle_f32x4(y[0], y[1], 0xee);
    const __m512 e = _mm512_shuffle_f32x4(y[2], y[3], 0xee);
    float *out = c->y + to;
    _mm512_mask_storeu_ps(out, first_of(n), _mm512_shuffle_f32x4(a, b, 0x88));
    if (n > 16) _mm512_mask_storeu_ps(out + 16, first_of(n - 16), _mm512_shuffle_f32x4(a, b, 0xdd));
    if (n > 32) _mm512_mask_storeu_ps(out + 32, first_of(n - 32), _mm512_shuffle_f32x4(d, e, 0x88));
    if (n > 48) _mm512_mask_storeu_ps(out + 48, first_of(n - 48), _mm512_shuffle_f32x4(d, e, 0xdd));
}

/* Four codes of the filter, from k on. */
INLINE __m512i four_of(const nib_conv_i8 *c, int64_t k) {
    return _mm512_set1_epi32(*(const four_codes *)(const void *)(c->filters + k));
}

/* Up to 64 positions. */
INLINE void many_neighbours(const nib_conv_i8 *c, const finish *f, const one *o, const int8_t *x,
                            const tap_list *taps, int64_t n, int64_t to) {
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    const __mmask64 some = ~(__mmask64)0 >> (64 - n);
    __m512i acc[4] = {o->start, o->start, o->start, o->start}, v[4];
    for (int64_t k = 0; k < c->K; k += 4) {
        const __m512i w = four_of(c, k);
        const int8_t *at[4];
        four_taps(at, x, taps, k);
        UNROLL
        for (int j = 0; j < 4; j++)
            v[j] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(some, at[j]), flip);
        const __m512i a = _mm512_unpacklo_epi8(v[0], v[1]), b = _mm512_unpackhi_epi8(v[0], v[1]);
        const __m512i d = _mm512_unpacklo_epi8(v[2], v[3]), e = _mm512_unpackhi_epi8(v[2], v[3]);
        DOT(acc[0], _mm512_unpacklo_epi16(a, d), w);
        DOT(acc[1], _mm512_unpackhi_epi16(a, d), w);
        DOT(acc[2], _mm512_unpacklo_epi16(b, e), w);
        DOT(acc[3], _mm512_unpackhi_epi16(b, e), w);
    }
    put_interleaved(c, acc, f, o, to, n);
}

/* Codes u of two taps, every second byte from each on, side by side. */
INLINE __m512i every_second(const int8_t *a, const int8_t *b, __mmask64 some) {
    const __m512i low = _mm512_maskz_loadu_epi8(some, a), high = _mm512_maskz_loadu_epi8(some, b);
    const __m512i both =
        _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaau, low, _mm512_slli_epi16(high, 8));
    return _mm512_xor_si512(both, _mm512_set1_epi8((char)0x80));
}

/* Up to 32 positions of stride 2: lane l of vector j has positions 8 l + 4 j on. */
INLINE void strided_neighbours(const nib_conv_i8 *c, const finish *f, const one *o, const int8_t *x,
                               const tap_list *taps, int64_t n, int64_t to) {
    const int64_t bytes = 2 * n - 1; /* that are there */
    const __mmask64 some = ~(__mmask64)0 >> (64 - least(bytes, 64));
    __m512i acc[2] = {o->start, o->start};
    __m512 y[2], sorted[2];
    __m512i code[2];
    for (int64_t k = 0; k < c->K; k += 4) {
        const __m512i w = four_of(c, k);
        const int8_t *at[4];
        four_taps(at, x, taps, k);
        const __m512i a = every_second(at[0], at[1], some), b = every_second(at[2], at[3], some);
        DOT(acc[0], _mm512_unpacklo_epi16(a, b), w);
        DOT(acc[1], _mm512_unpackhi_epi16(a, b), w);
    }
    UNROLL
    for (int j = 0; j < 2; j++) y[j] = value_of(acc[j], f, o);
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i next = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    if (c->y) {
        sorted[0] = _mm512_permutex2var_ps(y[0], first, y[1]);
        sorted[1] = _mm512_permutex2var_ps(y[0], next, y[1]);
        _mm512_mask_storeu_ps(c->y + to, first_of(n), sorted[0]);
        if (n > 16) _mm512_mask_storeu_ps(c->y + to + 16, first_of(n - 16), sorted[1]);
        return;
    }
    codes_of(2, code, y, f);
    const __m256i codes = _mm512_cvtepi16_epi8(_mm512_packs_epi32(code[0], code[1]));
    _mm256_mask_storeu_epi8(c->q + to, (__mmask32)(~(uint32_t)0 >> (32 - n)), codes);
}

/* Up to 16 positions. */
INLINE void few_neighbours(const nib_conv_i8 *c, const finish *f, const one *o, const int8_t *x,
                           const tap_list *taps, int64_t n, int64_t to) {
    const __m128i flip = _mm_set1_epi8((char)0x80);
    const __mmask16 some = first_of(n);
    __m512i acc = o->start;
    __m128i v[4];
    for (int64_t k = 0; k < c->K; k += 4) {
        const __m512i w = four_of(c, k);
        const int8_t *at[4];
        four_taps(at, x, taps, k);
        UNROLL
        for (int j = 0; j < 4; j++) v[j] = _mm_xor_si128(_mm_maskz_loadu_epi8(some, at[j]), flip);
        const __m128i a = _mm_unpacklo_epi8(v[0], v[1]), b = _mm_unpackhi_epi8(v[0], v[1]);
        const __m128i d = _mm_unpacklo_epi8(v[2], v[3]), e = _mm_unpackhi_epi8(v[2], v[3]);
        const __m256i low = _mm256_set_m128i(_mm_unpackhi_epi16(a, d), _mm_unpacklo_epi16(a, d));
        const __m256i high = _mm256_set_m128i(_mm_unpackhi_epi16(b, e), _mm_unpacklo_epi16(b, e));
        DOT(acc, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), w);
    }
    put(1, c, &acc, f, o, to, n);
}

static void taps_i8(const nib_conv_i8 *c, const int8_t *x, const int64_t *taps, int64_t n,
                    int64_t rows, int64_t step, int64_t stride) {
    const finish f = finish_of(c);
    const one o = one_of(c, 0);
    tap_list list;
    list_taps(&list, taps, c->K);
    for (int64_t r = 0; r < rows; r++, x += step) {
        const int64_t to = r * c->ldy;
        for (int64_t i = 0; i < n; i += stride == 2 ? 32 : 64)
            if (stride == 2)
                strided_neighbours(c, &f, &o, x + 2 * i, &list, least(n - i, 32), to + i);
            else if (n - i > 16)
                many_neighbours(c, &f, &o, x + i, &list, least(n - i, 64), to + i);
            else
                few_neighbours(c, &f, &o, x + i, &list, n - i, to + i);
    }
}

static void install(nib_kernels *k) {
    k->taps_i8 = taps_i8;
    k->conv_i8 = conv_i8;
}
const nib_kernel_set nib_kernels_conv_i8_avx512vnni = {
    .name = "conv_i8_avx512vnni", .needs = NIB_CPU_AVX512 | NIB_CPU_AVX512VNNI, .install = install};
