/* taps_i8_avx512vnni.c: one filter of codes on neighbours.
 *
 * Taps side by side are one word of the filter. A word of the input that begins p bytes further on
 * is what position p sees, so loads at 0, 1, 2 and 3 are words of 64 positions as they lie in
 * memory: lane j of vector p is position 4 j + p (with a stride of 2, loads at 0 and 2 are those of
 * 32). Putting four codes of a lane beside each other puts them in order. */
#include "kernel/x86/conv_i8_avx512vnni.h"

enum { MOST_WORDS = 32, FOUR = 4 };

typedef struct word { /* taps [at, at + wide) of the input; bytes of `four` from `wide` on are 0 */
    int64_t at;
    int32_t four;
    int wide;
} word;

typedef struct word_list { /* of a filter */
    word some[MOST_WORDS];
    int n, all; /* those here, and the others */
} word_list;

INLINE word word_of(const nib_conv_i8 *c, const int64_t *taps, int64_t k) {
    int8_t four[FOUR] = {c->filters[k]};
    word w = {.at = taps[k], .wide = 1};
    for (; w.wide < FOUR && k + w.wide < c->K && taps[k + w.wide] == w.at + w.wide; w.wide++)
        four[w.wide] = c->filters[k + w.wide];
    memcpy(&w.four, four, sizeof four);
    return w;
}

static void list_words(word_list *l, const nib_conv_i8 *c, const int64_t *taps) {
    l->n = l->all = 0;
    for (int64_t k = 0; k < c->K; l->all++) {
        const word w = word_of(c, taps, k);
        if (l->n < MOST_WORDS) l->some[l->n++] = w;
        k += w.wide;
    }
}

/* Bytes that a load p further on has of `bytes` from the first on. */
INLINE __mmask64 bytes_at(int64_t bytes, int p) {
    return bytes <= p ? 0 : ~(__mmask64)0 >> (64 - least(bytes - p, 64));
}
INLINE __m512i codes_at(const int8_t *x, __mmask64 some) {
    return _mm512_xor_si512(_mm512_maskz_loadu_epi8(some, x), _mm512_set1_epi8((char)0x80));
}

/* The words of a row of `bytes` that begin p bytes on, of which there are more than 64 only if it
 * is `far`. A load that crosses a line costs two, so one is shifted: what comes after the last lane
 * then is not looked at, or that of the next load. */
INLINE void shifted_words(const bool far, __m512i u[4], const int8_t *x, int64_t bytes) {
    u[0] = codes_at(x, bytes_at(bytes, 0));
    __m512i after = _mm512_shuffle_i32x4(u[0], u[0], 0x39);
    if (far) {
        const __m512i next = codes_at(x + 64, bytes_at(bytes, 64));
        after = _mm512_mask_mov_epi32(after, 0xf000, _mm512_shuffle_i32x4(next, next, 0));
    }
    u[1] = _mm512_alignr_epi8(after, u[0], 1);
    u[2] = _mm512_alignr_epi8(after, u[0], 2);
    u[3] = _mm512_alignr_epi8(after, u[0], 3);
}

/* Results of n <= 64 neighbours. Lane l of 128 bits of vector j has positions 16 l + 4 j on. */
INLINE void put_floats(float *out, const __m512 *y, int64_t n) {
    const __m512 a = _mm512_shuffle_f32x4(y[0], y[1], 0x44);
    const __m512 b = _mm512_shuffle_f32x4(y[2], y[3], 0x44);
    const __m512 d = _mm512_shuffle_f32x4(y[0], y[1], 0xee);
    const __m512 e = _mm512_shuffle_f32x4(y[2], y[3], 0xee);
    _mm512_mask_storeu_ps(out, first_of(n), _mm512_shuffle_f32x4(a, b, 0x88));
    if (n > 16) _mm512_mask_storeu_ps(out + 16, first_of(n - 16), _mm512_shuffle_f32x4(a, b, 0xdd));
    if (n > 32) _mm512_mask_storeu_ps(out + 32, first_of(n - 32), _mm512_shuffle_f32x4(d, e, 0x88));
    if (n > 48) _mm512_mask_storeu_ps(out + 48, first_of(n - 48), _mm512_shuffle_f32x4(d, e, 0xdd));
}

/* The same where lane j of vector p has position 4 j + p. */
INLINE void put_words(const __m512i *sums, const finish *f, const one *o, int64_t to, int64_t n) {
    const nib_conv_i8 *c = f->c;
    if (c->y) {
        __m512d two[4];
        __m512 y[4];
        UNROLL
        for (int p = 0; p < 4; p++) y[p] = value_of(sums[p], f, o);
        two[0] = _mm512_castps_pd(_mm512_unpacklo_ps(y[0], y[1]));
        two[1] = _mm512_castps_pd(_mm512_unpackhi_ps(y[0], y[1]));
        two[2] = _mm512_castps_pd(_mm512_unpacklo_ps(y[2], y[3]));
        two[3] = _mm512_castps_pd(_mm512_unpackhi_ps(y[2], y[3]));
        UNROLL
        for (int p = 0; p < 4; p += 2) {
            y[p] = _mm512_castpd_ps(_mm512_unpacklo_pd(two[p / 2], two[p / 2 + 2]));
            y[p + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(two[p / 2], two[p / 2 + 2]));
        }
        put_floats(c->y + to, y, n);
        return;
    }
    __m512i code[4];
    fixed_of(4, code, sums, f, o);
    const __mmask32 odd = 0xaaaaaaaa;
    const __m512i even = _mm512_mask_mov_epi16(_mm512_srli_epi32(code[0], 16), odd, code[1]);
    const __m512i next = _mm512_mask_mov_epi16(_mm512_srli_epi32(code[2], 16), odd, code[3]);
    /* bytes of a lane: 0 1 4 5 8 9 12 13, then 2 3 6 7 10 11 14 15 */
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    const __m512i codes = in_bounds(_mm512_packs_epi16(even, next), f);
    _mm512_mask_storeu_epi8(c->q + to, ~(__mmask64)0 >> (64 - n),
                            _mm512_shuffle_epi8(codes, order));
}

/* Up to 64 positions of `rows` rows, `step` apart, by three words that are as far apart: each row
 * of the input is loaded once for all that see it. */
INLINE void three_rows(const int rows, const bool far, const finish *f, const one *o,
                       const word_list *l, const int8_t *x, int64_t step, int64_t n, int64_t to) {
    const int64_t bytes = n + l->some[0].wide - 1;
    __m512i acc[4][4], w[3], u[4];
    UNROLL
    for (int r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = acc[r][2] = acc[r][3] = _mm512_set1_epi32(o->start);
    UNROLL
    for (int t = 0; t < 3; t++) w[t] = _mm512_set1_epi32(l->some[t].four);
    x += l->some[0].at;
    UNROLL
    for (int r = 0; r < rows + 2; r++) {
        shifted_words(far, u, x + r * step, bytes);
        UNROLL
        for (int p = 0; p < 4; p++) {
            if (r < rows) DOT(acc[r][p], u[p], w[0]);
            if (r > 0 && r <= rows) DOT(acc[r - 1][p], u[p], w[1]);
            if (r > 1) DOT(acc[r - 2][p], u[p], w[2]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) put_words(acc[r], f, o, to + r * f->c->ldy, n);
}

/* Up to 64 positions. */
INLINE void any_words(const finish *f, const one *o, const word_list *l, const int64_t *taps,
                      const int8_t *x, int64_t n, int64_t to) {
    __m512i acc[4];
    UNROLL
    for (int p = 0; p < 4; p++) acc[p] = _mm512_set1_epi32(o->start);
    for (int64_t i = 0, k = 0; k < f->c->K; i++) {
        const word a = i < l->n ? l->some[i] : word_of(f->c, taps, k);
        const __m512i w = _mm512_set1_epi32(a.four);
        k += a.wide;
        UNROLL
        for (int p = 0; p < 4; p++) {
            const __m512i u = codes_at(x + a.at + p, bytes_at(n + a.wide - 1, p));
            DOT(acc[p], u, w);
        }
    }
    put_words(acc, f, o, to, n);
}

/* Up to 32 positions of stride 2, of one row or two: lane j of vector p has position 2 j + p. */
INLINE void every_second(const int rows, const bool far, const finish *f, const one *o,
                         const word_list *l, const int64_t *taps, const int8_t *x, int64_t step,
                         int64_t n, int64_t to) {
    const nib_conv_i8 *c = f->c;
    __m512i acc[4], code[4];
    UNROLL
    for (int p = 0; p < 2 * rows; p++) acc[p] = _mm512_set1_epi32(o->start);
    for (int64_t i = 0, k = 0; k < c->K; i++) {
        const word a = i < l->n ? l->some[i] : word_of(c, taps, k);
        const __m512i w = _mm512_set1_epi32(a.four);
        k += a.wide;
        UNROLL
        for (int r = 0; r < rows; r++) {
            __m512i u[4];
            shifted_words(far, u, x + a.at + r * step, 2 * (n - 1) + a.wide);
            DOT(acc[2 * r], u[0], w);
            DOT(acc[2 * r + 1], u[2], w);
        }
    }
    if (c->y) {
        const __m512i first =
            _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const __m512i next = _mm512_add_epi32(first, _mm512_set1_epi32(8));
        UNROLL
        for (int r = 0; r < rows; r++) {
            const __m512 a = value_of(acc[2 * r], f, o), b = value_of(acc[2 * r + 1], f, o);
            float *out = c->y + to + r * c->ldy;
            _mm512_mask_storeu_ps(out, first_of(n), _mm512_permutex2var_ps(a, first, b));
            if (n > 16)
                _mm512_mask_storeu_ps(out + 16, first_of(n - 16),
                                      _mm512_permutex2var_ps(a, next, b));
        }
        return;
    }
    fixed_of(2 * rows, code, acc, f, o);
    UNROLL
    for (int r = 0; r < rows; r++)
        code[r] =
            _mm512_mask_mov_epi16(_mm512_srli_epi32(code[2 * r], 16), 0xaaaaaaaa, code[2 * r + 1]);
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i codes =
        _mm512_permutexvar_epi64(order, in_bounds(_mm512_packs_epi16(code[0], code[rows - 1]), f));
    const __mmask32 some = (__mmask32)(~(uint32_t)0 >> (32 - n));
    _mm256_mask_storeu_epi8(c->q + to, some, _mm512_castsi512_si256(codes));
    if (rows > 1)
        _mm256_mask_storeu_epi8(c->q + to + c->ldy, some, _mm512_extracti64x4_epi64(codes, 1));
}

/* ---- taps that are not side by side ---- */

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

/* Four codes of the filter, from k on. */
INLINE __m512i four_of(const nib_conv_i8 *c, int64_t k) {
    return _mm512_set1_epi32(*(const four_codes *)(const void *)(c->filters + k));
}

/* Up to 64 positions. */
INLINE void many_neighbours(const finish *f, const one *o, const int8_t *x, const tap_list *taps,
                            int64_t n, int64_t to) {
    const nib_conv_i8 *c = f->c;
    const __m512i start = _mm512_set1_epi32(o->start);
    const __mmask64 some = ~(__mmask64)0 >> (64 - n);
    __m512i acc[4] = {start, start, start, start}, v[4];
    for (int64_t k = 0; k < c->K; k += 4) {
        const __m512i w = four_of(c, k);
        const int8_t *at[4];
        four_taps(at, x, taps, k);
        UNROLL
        for (int j = 0; j < 4; j++) v[j] = codes_at(at[j], some);
        const __m512i a = _mm512_unpacklo_epi8(v[0], v[1]), b = _mm512_unpackhi_epi8(v[0], v[1]);
        const __m512i d = _mm512_unpacklo_epi8(v[2], v[3]), e = _mm512_unpackhi_epi8(v[2], v[3]);
        DOT(acc[0], _mm512_unpacklo_epi16(a, d), w);
        DOT(acc[1], _mm512_unpackhi_epi16(a, d), w);
        DOT(acc[2], _mm512_unpacklo_epi16(b, e), w);
        DOT(acc[3], _mm512_unpackhi_epi16(b, e), w);
    }
    if (c->y) {
        __m512 y[4];
        UNROLL
        for (int j = 0; j < 4; j++) y[j] = value_of(acc[j], f, o);
        put_floats(c->y + to, y, n);
        return;
    }
    fixed_of(4, v, acc, f, o);
    UNROLL
    for (int j = 0; j < 4; j++) v[j] = _mm512_srai_epi32(v[j], 16);
    const __m512i low = _mm512_packs_epi32(v[0], v[1]), high = _mm512_packs_epi32(v[2], v[3]);
    _mm512_mask_storeu_epi8(c->q + to, some, in_bounds(_mm512_packs_epi16(low, high), f));
}

static void scattered(const nib_conv_i8 *c, const finish *f, const one *o, const int8_t *x,
                      const int64_t *taps, int64_t n, int64_t rows, int64_t step) {
    tap_list list;
    list_taps(&list, taps, c->K);
    for (int64_t r = 0; r < rows; r++, x += step)
        for (int64_t i = 0; i < n; i += 64)
            many_neighbours(f, o, x + i, &list, least(n - i, 64), r * c->ldy + i);
}

/* ---- which of them ---- */

static void rows_of_two(const finish *f, const one *o, const word_list *l, const int8_t *x,
                        const int64_t *taps, int64_t n, int64_t rows, int64_t step) {
    const int64_t ldy = f->c->ldy;
    for (int64_t i = 0; i < n; i += 32) {
        const int64_t count = least(n - i, 32);
        int64_t r = 0;
        if (count <= 31) /* 64 bytes, or fewer */
            for (; r + 2 <= rows; r += 2)
                every_second(2, false, f, o, l, taps, x + r * step + 2 * i, step, count,
                             r * ldy + i);
        for (; r < rows; r++)
            every_second(1, true, f, o, l, taps, x + r * step + 2 * i, step, count, r * ldy + i);
    }
}

static void taps_i8(const nib_conv_i8 *c, const int8_t *x, const int64_t *taps, int64_t n,
                    int64_t rows, int64_t step, int64_t stride) {
    const finish f = finish_of(c);
    const one o = one_of(&f, 0);
    word_list l;
    list_words(&l, c, taps);
    if (stride == 2) {
        rows_of_two(&f, &o, &l, x, taps, n, rows, step);
        return;
    }
    if (l.all > 2 * ((c->K + FOUR - 1) / FOUR)) {
        scattered(c, &f, &o, x, taps, n, rows, step);
        return;
    }
    const word *w = l.some;
    const bool three = l.all == 3 && w[1].at == w[0].at + step && w[2].at == w[1].at + step &&
                       w[1].wide == w[0].wide && w[2].wide == w[0].wide;
    for (int64_t i = 0; i < n; i += 64) {
        const int64_t count = least(n - i, 64);
        int64_t r = 0;
        const bool far = three && count + w[0].wide > 65;
        for (; three && !far && r + 4 <= rows; r += 4)
            three_rows(4, false, &f, &o, &l, x + r * step + i, step, count, r * c->ldy + i);
        for (; far && r + 4 <= rows; r += 4)
            three_rows(4, true, &f, &o, &l, x + r * step + i, step, count, r * c->ldy + i);
        for (; r < rows; r++) any_words(&f, &o, &l, taps, x + r * step + i, count, r * c->ldy + i);
    }
}

static void install(nib_kernels *k) { k->taps_i8 = taps_i8; }
const nib_kernel_set nib_kernels_taps_i8_avx512vnni = {
    .name = "taps_i8_avx512vnni", .needs = NIB_CPU_AVX512 | NIB_CPU_AVX512VNNI, .install = install};
