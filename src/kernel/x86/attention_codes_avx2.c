/* attention_codes_avx2.c: queries against a part of a cache of integers or of fp8. Tokens (keys)
 * and columns (values) are the lanes. Without a byte product that is exact for 15-bit codes, the
 * four bytes of a lane are widened to two pairs of 16 bits, (0, 2) and (1, 3), by a mask and a
 * shift; codes are laid out in that order, and pmaddwd multiplies and adds a pair. A code of e4m3fn
 * becomes an f16 by shifting, 256 times smaller, and so a float. */
#include <string.h>

#include "kernel/kv_place.h"
#include "kernel/x86/attention_avx2.h"

enum { R_MOST = 4, G = NIB_KV_GROUP };

/* What a part gives up to four rows. */
typedef struct results {
    float out[R_MOST * NIB_ATTENTION_HEAD], max[R_MOST], sum[R_MOST];
} results;

INLINE void merge_rows(float *out, float *max, float *sum, int64_t row, const int R,
                       const results *part, int64_t d) {
    for (int r = 0; r < R; r++)
        merge_part(out + (row + r) * d, &max[row + r], &sum[row + r], part->out + r * d,
                   part->max[r], part->sum[r], d);
}

/* Codes 0 1 2 3 4 5 6 7 -> 0 2 1 3 4 6 5 7 */
INLINE __m128i paired(__m128i codes) {
    return _mm_shuffle_epi8(codes,
                            _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
}

INLINE __m256i pair_at(const int16_t *codes) {
    int32_t pair;
    memcpy(&pair, codes, 4);
    return _mm256_set1_epi32(pair);
}

/* sums[r][half] = codes of R rows, `ld` apart, times `cells` cells of one panel of 16 lanes. */
INLINE void product_u8(__m256i sums[R_MOST][2], const int R, const uint8_t *x, int64_t cells,
                       const int16_t *codes, int64_t ld) {
    const __m256i mask = _mm256_set1_epi16(255);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    for (int64_t c = 0; c < cells; c++) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)(x + c * 64));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(x + c * 64 + 32));
        const __m256i a02 = _mm256_and_si256(a, mask), a13 = _mm256_srli_epi16(a, 8);
        const __m256i b02 = _mm256_and_si256(b, mask), b13 = _mm256_srli_epi16(b, 8);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m256i q02 = pair_at(codes + r * ld + c * 4);
            const __m256i q13 = pair_at(codes + r * ld + c * 4 + 2);
            sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(a02, q02));
            sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(b02, q02));
            sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(a13, q13));
            sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(b13, q13));
            __asm__("" : "+x"(sums[r][0]), "+x"(sums[r][1])); /* or gcc reorders, and spills */
        }
    }
}

/* The same for cells of two codes a byte, whose upper ones belong to the next four neighbours. */
INLINE void product_u4(__m256i sums[R_MOST][2], const int R, const uint8_t *x, int64_t cells,
                       const int16_t *codes, int64_t ld) {
    const __m256i mask = _mm256_set1_epi16(15);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    for (int64_t c = 0; c < cells; c++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const __m256i a = _mm256_loadu_si256((const __m256i *)(x + c * 64 + half * 32));
            const __m256i a02 = _mm256_and_si256(a, mask);
            const __m256i a13 = _mm256_and_si256(_mm256_srli_epi16(a, 8), mask);
            const __m256i a46 = _mm256_and_si256(_mm256_srli_epi16(a, 4), mask);
            const __m256i a57 = _mm256_srli_epi16(a, 12);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const int16_t *q = codes + r * ld + c * 8;
                const __m256i s02 = _mm256_madd_epi16(a02, pair_at(q));
                const __m256i s13 = _mm256_madd_epi16(a13, pair_at(q + 2));
                const __m256i s46 = _mm256_madd_epi16(a46, pair_at(q + 4));
                const __m256i s57 = _mm256_madd_epi16(a57, pair_at(q + 6));
                const __m256i s =
                    _mm256_add_epi32(_mm256_add_epi32(s02, s13), _mm256_add_epi32(s46, s57));
                sums[r][half] = _mm256_add_epi32(sums[r][half], s);
                __asm__("" : "+x"(sums[r][half]));
            }
        }
}

/* n codes, n a multiple of 16 */
static void pair_all(int16_t *out, const int16_t *code, int64_t n) {
    for (int64_t i = 0; i < n; i += 8)
        _mm_storeu_si128((__m128i *)(out + i),
                         paired(_mm_loadu_si128((const __m128i *)(code + i))));
}

/* Weights times the scales of the values, which are 0 where nothing is seen, as codes in pairs;
 * -> their step and their sum. */
static float weight_codes(int16_t code[BLOCK], int32_t *total, const float p[BLOCK],
                          const __m256 scale[8]) {
    const __m256 zero = _mm256_setzero_ps();
    __m256 w[8], most = zero, nan = zero;
    for (int j = 0; j < 8; j++) {
        w[j] = _mm256_mul_ps(_mm256_loadu_ps(p + 8 * j), scale[j]);
        most = _mm256_max_ps(w[j], most);
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(w[j], w[j], _CMP_UNORD_Q));
    }
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    const float top = _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
    const float step = (_mm256_movemask_ps(nan) ? NAN : top) / 32512.0f;
    const __m256 inverse = _mm256_set1_ps(step >= 0x1p-126f ? 1.0f / step : 0.0f);
    __m256i all = _mm256_setzero_si256();
    for (int j = 0; j < 8; j++) {
        const __m256i c =
            _mm256_cvtps_epi32(_mm256_max_ps(_mm256_mul_ps(w[j], inverse), zero)); /* NaN: 0 */
        all = _mm256_add_epi32(all, c);
        const __m128i narrow =
            _mm_packs_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
        _mm_storeu_si128((__m128i *)(code + 8 * j), paired(narrow));
    }
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    *total = _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
    return step;
}

/* Values of columns [begin, end): R rows of (sums - middle) * step - low. */
INLINE void values(float *out, int64_t d, int64_t begin, int64_t end, const int R, const bool u4,
                   const uint8_t *v, const int16_t *w, const int32_t *middle, const float *step,
                   const float *low) {
    for (int64_t i = begin; i < end && i < d; i += 16) {
        __m256i sums[R_MOST][2];
        if (u4)
            product_u4(sums, R, v + i / 16 * 512, 8, w, BLOCK);
        else
            product_u8(sums, R, v + i / 16 * 1024, 16, w, BLOCK);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m256 s = _mm256_set1_ps(step[r]);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const int64_t at = i + 8 * half;
                __m256i exact = sums[r][half];
                if (middle) exact = _mm256_sub_epi32(exact, _mm256_set1_epi32(128 * middle[r]));
                const __m256 x = _mm256_cvtepi32_ps(exact);
                const __m256 y =
                    low ? _mm256_fmsub_ps(x, s, _mm256_set1_ps(low[r])) : _mm256_mul_ps(x, s);
                if (at < d) avx2_store_first(out + r * d + at, (size_t)(d - at), y);
            }
        }
    }
}

INLINE void rows_i8(float *out, float *max, float *sum, const nib_attention_rows *a, int64_t row,
                    const int R, const nib_kv_part *part) {
    const int64_t d = a->d, dp = nib_kv_dp(d);
    int16_t q[R_MOST][NIB_ATTENTION_HEAD], w[R_MOST][BLOCK];
    float p[R_MOST][BLOCK], step[R_MOST];
    results found;
    int32_t middle[R_MOST];
    for (int r = 0; r < R; r++) pair_all(q[r], a->code + (row + r) * dp, dp);
    for (int t = 0; t < BLOCK; t += 16) {
        __m256i sums[R_MOST][2];
        product_u8(sums, R, (const uint8_t *)part->k + t * dp, dp / 4, q[0], NIB_ATTENTION_HEAD);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m256i mid = _mm256_set1_epi32(128 * a->code_sum[row + r]);
            const __m256 factor = _mm256_set1_ps(a->factor[row + r]);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const __m256 k = _mm256_loadu_ps((const float *)part->k_scale + t + 8 * half);
                const __m256 x = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[r][half], mid));
                _mm256_storeu_ps(p[r] + t + 8 * half, _mm256_mul_ps(_mm256_mul_ps(x, k), factor));
            }
        }
    }
    for (int r = 0; r < R; r++) {
        const int first = a->first[row + r], end = a->end[row + r];
        __m256 scale[8];
        weigh(p[r], a, row + r, &found.max[r], &found.sum[r]);
        for (int j = 0; j < 8; j++)
            scale[j] = _mm256_and_ps(seen_at(8 * j, first, end),
                                     _mm256_loadu_ps((const float *)part->v_scale + 8 * j));
        step[r] = weight_codes(w[r], &middle[r], p[r], scale);
    }
    values(found.out, d, 0, dp, R, false, part->v, w[0], middle, step, NULL);
    merge_rows(out, max, sum, row, R, &found, d);
}

INLINE __m256 bf16_at(const void *x, int64_t i) {
    const __m128i narrow = _mm_loadu_si128((const __m128i *)((const uint16_t *)x + i));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
}

/* Steps, codes and what is subtracted for one row and group of the values. */
static float values_i4(int16_t w[BLOCK], float *low, const float p[BLOCK], int first, int end,
                       const nib_kv_part *part, int64_t g) {
    __m256 scale[8], lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    int32_t unused;
    for (int j = 0; j < 8; j++) {
        const __m256 seen = seen_at(8 * j, first, end);
        const __m256 shift = bf16_at(part->v_shift, g * BLOCK + 8 * j);
        const __m256 more = _mm256_fmadd_ps(_mm256_loadu_ps(p + 8 * j), shift, lanes[j % 2]);
        lanes[j % 2] = _mm256_blendv_ps(lanes[j % 2], more, seen);
        scale[j] = _mm256_and_ps(seen, bf16_at(part->v_scale, g * BLOCK + 8 * j));
    }
    *low = avx2_tree(lanes[0], lanes[1]);
    return weight_codes(w, &unused, p, scale);
}

INLINE void rows_i4(float *out, float *max, float *sum, const nib_attention_rows *a, int64_t row,
                    const int R, const nib_kv_part *part) {
    const int64_t d = a->d, dp = nib_kv_dp(d), groups = (d + G - 1) / G;
    int16_t q[R_MOST][NIB_ATTENTION_HEAD], w[R_MOST][BLOCK];
    float p[R_MOST][BLOCK], step[R_MOST], low[R_MOST];
    results found;
    for (int r = 0; r < R; r++) pair_all(q[r], a->code + (row + r) * dp, dp);
    memset(p, 0, sizeof p);
    for (int t = 0; t < BLOCK; t += 16)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t begin = g * G, cells = (dp - begin < G ? dp - begin : G) / 8;
            const int64_t at = (t / 16 * groups + g) * 16;
            __m256i sums[R_MOST][2];
            product_u4(sums, R, (const uint8_t *)part->k + t * dp / 2 + begin * 8, cells,
                       q[0] + begin, NIB_ATTENTION_HEAD);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const __m256 total = _mm256_set1_ps((float)a->code_sum[(row + r) * groups + g]);
#pragma GCC unroll 2
                for (int half = 0; half < 2; half++) {
                    float *score = p[r] + t + 8 * half;
                    __m256 acc = _mm256_loadu_ps(score);
                    acc = _mm256_fmadd_ps(bf16_at(part->k_scale, at + 8 * half),
                                          _mm256_cvtepi32_ps(sums[r][half]), acc);
                    acc = _mm256_fnmadd_ps(bf16_at(part->k_shift, at + 8 * half), total, acc);
                    _mm256_storeu_ps(score, acc);
                }
            }
        }
    for (int r = 0; r < R; r++) {
        const __m256 factor = _mm256_set1_ps(a->factor[row + r]);
        for (int t = 0; t < BLOCK; t += 8)
            _mm256_storeu_ps(p[r] + t, _mm256_mul_ps(_mm256_loadu_ps(p[r] + t), factor));
        weigh(p[r], a, row + r, &found.max[r], &found.sum[r]);
    }
    for (int64_t g = 0; g < groups; g++) {
        for (int r = 0; r < R; r++)
            step[r] = values_i4(w[r], &low[r], p[r], a->first[row + r], a->end[row + r], part, g);
        values(found.out, d, g * G, (g + 1) * G < dp ? (g + 1) * G : dp, R, true, part->v, w[0],
               NULL, step, low);
    }
    merge_rows(out, max, sum, row, R, &found, d);
}

/* 16 codes of e4m3fn, 256 times smaller. */
INLINE void halves_of(__m256 out[2], const uint8_t *codes) {
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)codes));
    const __m256i half =
        _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((short)0xbfff));
    out[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(half));
    out[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1));
}

/* sums[r] += x[r * ld] times n rows of 16 codes that lie `step` bytes apart. */
INLINE void product_f8(__m256 sums[R_MOST][2], const int R, const uint8_t *codes, int64_t step,
                       const float *x, int64_t ld, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        __m256 h[2];
        halves_of(h, codes + i * step);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m256 by = _mm256_broadcast_ss(x + r * ld + i);
            sums[r][0] = _mm256_fmadd_ps(by, h[0], sums[r][0]);
            sums[r][1] = _mm256_fmadd_ps(by, h[1], sums[r][1]);
        }
    }
}

/* Rows that see the same tokens. */
INLINE void rows_f8(float *out, float *max, float *sum, const nib_attention_rows *a, int64_t row,
                    const int R, const nib_kv_part *part) {
    const int64_t d = a->d;
    const int first = a->first[row], end = a->end[row];
    const uint8_t *k = part->k, *v = (const uint8_t *)part->v + first * d;
    float p[R_MOST][BLOCK];
    results found;
    __m256 sums[R_MOST][2];
    for (int t = 0; t < BLOCK; t += 16) {
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
        product_f8(sums, R, k + t * d, 16, a->q + row * d, d, d);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const __m256 s = _mm256_loadu_ps((const float *)part->k_scale + t + 8 * half);
                _mm256_storeu_ps(
                    p[r] + t + 8 * half,
                    _mm256_mul_ps(_mm256_mul_ps(sums[r][half], s), _mm256_set1_ps(a->scale * 256)));
            }
    }
    for (int r = 0; r < R; r++) {
        weigh(p[r], a, row + r, &found.max[r], &found.sum[r]);
        for (int t = 0; t < BLOCK; t += 8) {
            const __m256 s = _mm256_loadu_ps((const float *)part->v_scale + t);
            const __m256 w = _mm256_mul_ps(_mm256_loadu_ps(p[r] + t), s);
            _mm256_storeu_ps(p[r] + t, _mm256_mul_ps(w, _mm256_set1_ps(256)));
        }
    }
    for (int64_t i = 0; i < d; i += 16) {
        uint8_t last[BLOCK * 16]; /* the columns of a tail, filled up */
        const int64_t n = d - i < 16 ? d - i : 16;
        memset(last, 0, n < 16 ? sizeof last : 0);
        for (int t = 0; n < 16 && t < end - first; t++)
            memcpy(last + t * 16, v + t * d + i, (size_t)n);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
        product_f8(sums, R, n < 16 ? last : v + i, n < 16 ? 16 : d, p[0] + first, BLOCK,
                   end - first);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            float *y = found.out + r * d + i;
            avx2_store_first(y, (size_t)n, sums[r][0]);
            if (n > 8) avx2_store_first(y + 8, (size_t)(n - 8), sums[r][1]);
        }
    }
    merge_rows(out, max, sum, row, R, &found, d);
}

static void attention_f8(float *out, float *max, float *sum, const nib_attention_rows *a,
                         const nib_kv_part *part) {
    for (int64_t r = 0; r < a->rows;) {
        int64_t n = 1;
        while (n < 4 && r + n < a->rows && a->first[r + n] == a->first[r] &&
               a->end[r + n] == a->end[r])
            n++;
        if (n == 4) rows_f8(out, max, sum, a, r, 4, part);
        if (n == 3) rows_f8(out, max, sum, a, r, 3, part);
        if (n == 2) rows_f8(out, max, sum, a, r, 2, part);
        if (n == 1) rows_f8(out, max, sum, a, r, 1, part);
        r += n;
    }
}

#define KERNEL(name)                                                                               \
    static void attention_##name(float *out, float *max, float *sum, const nib_attention_rows *a,  \
                                 const nib_kv_part *part) {                                        \
        int64_t r = 0;                                                                             \
        for (; r + 4 <= a->rows; r += 4) rows_##name(out, max, sum, a, r, 4, part);                \
        if (a->rows - r == 3) rows_##name(out, max, sum, a, r, 3, part);                           \
        if (a->rows - r == 2) rows_##name(out, max, sum, a, r, 2, part);                           \
        if (a->rows - r == 1) rows_##name(out, max, sum, a, r, 1, part);                           \
    }
KERNEL(i8)
KERNEL(i4)

static void install(nib_kernels *k) {
    k->attention_i8 = attention_i8;
    k->attention_i4 = attention_i4;
    k->attention_f8 = attention_f8;
}
const nib_kernel_set nib_kernels_attention_codes_avx2 = {
    .name = "attention_codes_avx2", .needs = NIB_CPU_AVX2, .install = install};
