/* attention_avx512vnni.c: queries against a part of a cache of integers. Tokens (keys) and columns
 * (values) are the lanes, so dpbusd adds four neighbours at a time and no sum crosses lanes. Codes
 * of 15 bits are taken as 256 * high + low and both halves meet a cell as it is loaded; the halves'
 * sums are put together at the end, modulo 2^32, in which the result fits.
 * gcc keeps sums in registers only where nothing else is alive: what holds such a loop is never
 * inlined into what calls it. */
#include <string.h>

#include "kernel/kv_place.h"
#include "kernel/x86/attention_avx512.h"

#define APART static __attribute__((noinline))
/* A sum stays in the register it is in: gcc would move all of them around in every step. */
#define KEEP(v) __asm__ volatile("" : "+v"(v))
enum { G = NIB_KV_GROUP, HIGH = 0, LOW = R_MOST * 64, CODES = 2 * R_MOST * 64 };

/* 64 codes of four rows: their high halves, row after row, then the low ones. */
typedef struct code_block {
    int8_t half[CODES];
} code_block;

INLINE __m512i four_at(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

/* 64 codes in two vectors of words, as the halves of one row of a block; `order` undoes what
 * packing them does to the order of dwords. */
INLINE void split(int8_t *block, int r, __m512i a, __m512i b, __m512i order) {
    const __m512i half = _mm512_set1_epi16(128);
    const __m512i a_high = _mm512_srai_epi16(_mm512_add_epi16(a, half), 8);
    const __m512i b_high = _mm512_srai_epi16(_mm512_add_epi16(b, half), 8);
    const __m512i a_low = _mm512_sub_epi16(a, _mm512_slli_epi16(a_high, 8));
    const __m512i b_low = _mm512_sub_epi16(b, _mm512_slli_epi16(b_high, 8));
    const __m512i high = _mm512_packs_epi16(a_high, b_high);
    const __m512i low = _mm512_packs_epi16(a_low, b_low);
    _mm512_storeu_si512(block + HIGH + r * 64, _mm512_permutexvar_epi32(order, high));
    _mm512_storeu_si512(block + LOW + r * 64, _mm512_permutexvar_epi32(order, low));
}

/* Queries to blocks; n, a multiple of 16, codes of each row. */
APART void split_queries(code_block *to, const int16_t *code, int R, int64_t n) {
    const __m512i order = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    for (int64_t i = 0; i < n; i += 64)
        for (int r = 0; r < R; r++) {
            const int16_t *from = code + r * n + i;
            const uint64_t there = n - i < 64 ? (1ull << (n - i)) - 1 : ~0ull;
            split(to[i / 64].half, r, _mm512_maskz_loadu_epi16((__mmask32)there, from),
                  _mm512_maskz_loadu_epi16((__mmask32)(there >> 32), from + 32), order);
        }
}

/* What is fetched while cells are multiplied: a line of `one` with each cell, and one of `two` with
 * each, or with every second one when `slow`. */
typedef struct ahead {
    const uint8_t *one, *two;
    bool slow;
} ahead;

/* sums[r][p] = codes of R rows times `cells` cells of P panels that lie `stride` bytes apart. */
INLINE void product(__m512i sums[R_MOST][2], const int R, const int P, const bool u4,
                    const uint8_t *x, int64_t stride, int64_t cells, const code_block *blocks,
                    ahead more) {
    const __m512i mask = _mm512_set1_epi8(15);
    const int64_t per = u4 ? 8 : 16; /* cells that 64 codes meet */
    __m512i low[R_MOST][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int p = 0; p < P; p++) sums[r][p] = low[r][p] = _mm512_setzero_si512();
    for (; cells > 0; cells -= per, blocks++) {
        const int8_t *q = blocks->half, *const end = q + (cells < per ? cells : per) * (u4 ? 8 : 4);
        for (; q < end; q += u4 ? 8 : 4, x += 64) {
            __m512i u[2][2];
            fetch(more.one);
            if (!more.slow || ((uintptr_t)more.one & 64)) fetch(more.two), more.two += 64;
            more.one += 64;
#pragma GCC unroll 2
            for (int p = 0; p < P; p++) {
                u[0][p] = _mm512_loadu_si512(x + p * stride);
                if (!u4) continue;
                u[1][p] = _mm512_and_si512(_mm512_srli_epi16(u[0][p], 4), mask);
                u[0][p] = _mm512_and_si512(u[0][p], mask);
            }
#pragma GCC unroll 2
            for (int h = 0; h <= (int)u4; h++)
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    const __m512i a = four_at(q + HIGH + r * 64 + 4 * h);
                    const __m512i b = four_at(q + LOW + r * 64 + 4 * h);
#pragma GCC unroll 2
                    for (int p = 0; p < P; p++) {
                        sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], u[h][p], a);
                        low[r][p] = _mm512_dpbusd_epi32(low[r][p], u[h][p], b);
                        KEEP(sums[r][p]);
                        KEEP(low[r][p]);
                    }
                }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int p = 0; p < P; p++)
            sums[r][p] = _mm512_add_epi32(_mm512_slli_epi32(sums[r][p], 8), low[r][p]);
}

/* Weights as codes, what those sum to, and their steps. */
typedef struct weights {
    code_block codes;
    int32_t total[R_MOST];
    float step[R_MOST];
} weights;

/* p times the scales of the values, which are not negative; nothing where nothing is seen. */
INLINE void code_weights(weights *out, float p[R_MOST][BLOCK], const int R,
                         const uint64_t seen[R_MOST], const __m512 scale[4]) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i rows[R_MOST];
    float inverses[R_MOST];
    /* no element has a sign but a NaN, and as bits, without it, that is the largest */
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
#pragma GCC unroll 4
    for (int r = 0; r < R_MOST; r++) {
        rows[r] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int j = 0; r < R && j < 4; j++) {
            const __m512 w =
                _mm512_maskz_mul_ps(seen_at(seen[r], j), _mm512_loadu_ps(p[r] + 16 * j), scale[j]);
            rows[r] =
                _mm512_max_epu32(rows[r], _mm512_and_si512(_mm512_castps_si512(w), magnitude));
        }
    }
    const __m128 top = _mm_castsi128_ps(four_max_bits(rows));
    const __m128 step = _mm_div_ps(top, _mm_set1_ps(32512.0f));
    const __m128 inverse =
        _mm_and_ps(_mm_div_ps(_mm_set1_ps(1.0f), step), _mm_cmpge_ps(step, _mm_set1_ps(0x1p-126f)));
    _mm_storeu_ps(inverses, inverse);
    _mm_storeu_ps(out->step, step);
    int32_t totals[R_MOST][16];
    for (int r = 0; r < R; r++) {
        const __m512 by = _mm512_set1_ps(inverses[r]);
        __m512i c[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512 w =
                _mm512_maskz_mul_ps(seen_at(seen[r], j), _mm512_loadu_ps(p[r] + 16 * j), scale[j]);
            const __m512 x = _mm512_max_ps(_mm512_mul_ps(w, by), _mm512_setzero_ps());
            c[j] = _mm512_cvtps_epi32(x); /* a NaN became 0 */
        }
        _mm512_storeu_si512(totals[r], _mm512_add_epi32(_mm512_add_epi32(c[0], c[1]),
                                                        _mm512_add_epi32(c[2], c[3])));
        split(out->codes.half, r, _mm512_packs_epi32(c[0], c[1]), _mm512_packs_epi32(c[2], c[3]),
              order);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R_MOST; r++) rows[r] = _mm512_loadu_si512(totals[r < R ? r : 0]);
    _mm_storeu_si128((__m128i *)out->total, four_sum(rows));
}

/* Values are fetched while the keys of their part are multiplied, the next part's keys while the
 * softmax (its first FIRST lines) and the values are: half a part is far enough ahead, and what
 * waits leaves the rest its place in the cache. */
#define FIRST(R, u4) ((u4 ? 4 : 8) * (R))
INLINE ahead ahead_of_keys(int64_t dp, int64_t panels, int64_t cells, const bool u4,
                           const nib_kv_part *part) {
    const int64_t panel = dp * (u4 ? 8 : 16);
    const uint8_t *v = (const uint8_t *)part->v + panels * panel + cells * 64;
    return (ahead){v, v + panel, false};
}
INLINE ahead ahead_of_values(int64_t d, int64_t i, const int R, const bool u4,
                             const uint8_t *next) {
    const int64_t half = nib_kv_dp(d) * (u4 ? 16 : 32), done = i * (u4 ? 16 : 32);
    const uint8_t *k = next + 64 * FIRST(R, u4);
    if (R < 4) return (ahead){k + done, k + half + done, false};
    return (ahead){k + done, k + half + done / 2, true};
}

/* Results of columns [i, i + 16 P): (sums - middle) * step - low; `low` NULL: codes are 128 too
 * large, and nothing is subtracted. */
INLINE void some_values(float *out, int64_t d, int64_t i, const int R, const int P, const bool u4,
                        const uint8_t *v, const weights *w, const float *low, const merge *by,
                        const uint8_t *next) {
    const int64_t panel = u4 ? 512 : 1024;
    __m512i sums[R_MOST][2];
    product(sums, R, P, u4, v + i / 16 * panel, panel, u4 ? 8 : 16, &w->codes,
            ahead_of_values(d, i, R, u4, next));
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int p = 0; p < P; p++) {
            const int64_t at = i + 16 * p;
            const __m512i exact =
                u4 ? sums[r][p]
                   : _mm512_sub_epi32(sums[r][p], _mm512_set1_epi32(128 * w->total[r]));
            const __m512 x = _mm512_cvtepi32_ps(exact), s = _mm512_set1_ps(w->step[r]);
            const __m512 y =
                u4 ? _mm512_fmsub_ps(x, s, _mm512_set1_ps(low[r])) : _mm512_mul_ps(x, s);
            if (at < d) merge_columns(out + r * d + at, d - at, by, r, y);
        }
}
INLINE void values(float *out, int64_t d, int64_t begin, int64_t end, const int R, const bool u4,
                   const uint8_t *v, const weights *w, const float *low, const merge *by,
                   const uint8_t *next) {
    int64_t i = begin;
    for (; i + 16 < end; i += 32) some_values(out, d, i, R, 2, u4, v, w, low, by, next);
    if (i < end) some_values(out, d, i, R, 1, u4, v, w, low, by, next);
}

/* Scores of the part's tokens. */
INLINE void scores_i8(float p[R_MOST][BLOCK], const int R, const nib_attention_rows *a, int64_t row,
                      const nib_kv_part *part, const code_block *q) {
    const int64_t dp = nib_kv_dp(a->d);
    for (int j = 0; j < 4; j += 2) {
        __m512i sums[R_MOST][2];
        product(sums, R, 2, false, (const uint8_t *)part->k + j * dp * 16, dp * 16, dp / 4, q,
                ahead_of_keys(dp, j, 0, false, part));
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            const __m512 scale = _mm512_loadu_ps((const float *)part->k_scale + 16 * (j + i));
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const __m512i mid = _mm512_set1_epi32(128 * a->code_sum[row + r]);
                const __m512 x = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][i], mid));
                const __m512 factor = _mm512_set1_ps(a->factor[row + r]);
                _mm512_storeu_ps(p[r] + 16 * (j + i),
                                 _mm512_mul_ps(_mm512_mul_ps(x, scale), factor));
            }
        }
    }
}

INLINE __m512 bf16_at(const void *x, int64_t i) {
    const __m256i narrow = _mm256_loadu_si256((const __m256i *)((const uint16_t *)x + i));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

INLINE void scores_i4(float p[R_MOST][BLOCK], const int R, const nib_attention_rows *a, int64_t row,
                      const nib_kv_part *part, const code_block *q) {
    const int64_t dp = nib_kv_dp(a->d), groups = (a->d + G - 1) / G;
    for (int j = 0; j < 4; j += 2) {
        for (int64_t g = 0; g < groups; g++) {
            const int64_t begin = g * G, cells = (dp - begin < G ? dp - begin : G) / 8;
            __m512i sums[R_MOST][2];
            product(sums, R, 2, true, (const uint8_t *)part->k + j * dp * 8 + begin * 8, dp * 8,
                    cells, q + g, ahead_of_keys(dp, j, begin / 8, true, part));
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                const __m512 scale = bf16_at(part->k_scale, ((j + i) * groups + g) * 16);
                const __m512 shift = bf16_at(part->k_shift, ((j + i) * groups + g) * 16);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    float *score = p[r] + 16 * (j + i);
                    const float total = (float)a->code_sum[(row + r) * groups + g];
                    __m512 y = g ? _mm512_loadu_ps(score) : _mm512_setzero_ps();
                    y = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sums[r][i]), y);
                    y = _mm512_fnmadd_ps(shift, _mm512_set1_ps(total), y);
                    if (g == groups - 1) y = _mm512_mul_ps(y, _mm512_set1_ps(a->factor[row + r]));
                    _mm512_storeu_ps(score, y);
                }
            }
        }
    }
}

/* Weights of the values as codes: of all columns, and of one group. */
INLINE void weights_i8(weights *w, float p[R_MOST][BLOCK], const int R, const uint64_t seen[R_MOST],
                       const nib_kv_part *part) {
    __m512 scale[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) scale[j] = _mm512_loadu_ps((const float *)part->v_scale + 16 * j);
    code_weights(w, p, R, seen, scale);
}
INLINE void weights_i4(weights *w, float low[R_MOST], float p[R_MOST][BLOCK], const int R,
                       const uint64_t seen[R_MOST], const nib_kv_part *part, int64_t g) {
    __m512 scale[4], lanes[R_MOST];
#pragma GCC unroll 4
    for (int r = 0; r < R_MOST; r++) lanes[r] = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 shift = bf16_at(part->v_shift, g * BLOCK + 16 * j);
        scale[j] = bf16_at(part->v_scale, g * BLOCK + 16 * j);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            lanes[r] = _mm512_mask3_fmadd_ps(_mm512_loadu_ps(p[r] + 16 * j), shift, lanes[r],
                                             seen_at(seen[r], j));
    }
    _mm_storeu_ps(low, four_tree(lanes));
    code_weights(w, p, R, seen, scale);
}

#define ROWS(R)                                                                                    \
    APART void scores_i8_##R(float p[R_MOST][BLOCK], const nib_attention_rows *a, int64_t row,     \
                             const nib_kv_part *part, const code_block *q) {                       \
        scores_i8(p, R, a, row, part, q);                                                          \
    }                                                                                              \
    APART void scores_i4_##R(float p[R_MOST][BLOCK], const nib_attention_rows *a, int64_t row,     \
                             const nib_kv_part *part, const code_block *q) {                       \
        scores_i4(p, R, a, row, part, q);                                                          \
    }                                                                                              \
    APART void values_i8_##R(float *out, int64_t d, const uint8_t *v, const weights *w,            \
                             const merge *by, const uint8_t *next) {                               \
        values(out, d, 0, nib_kv_dp(d), R, false, v, w, NULL, by, next);                           \
    }                                                                                              \
    APART void values_i4_##R(float *out, int64_t d, int64_t begin, int64_t end, const uint8_t *v,  \
                             const weights *w, const float *low, const merge *by,                  \
                             const uint8_t *next) {                                                \
        values(out, d, begin, end, R, true, v, w, low, by, next);                                  \
    }                                                                                              \
    APART void rows_i8_##R(float *out, float *max, float *sum, const nib_attention_rows *a,        \
                           int64_t row, const nib_kv_part *part) {                                 \
        const int64_t d = a->d, dp = nib_kv_dp(d);                                                 \
        const uint8_t *next = (const uint8_t *)part->k + dp * 64;                                  \
        code_block q[NIB_ATTENTION_HEAD / 64];                                                     \
        float p[R_MOST][BLOCK];                                                                    \
        uint64_t seen[R_MOST];                                                                     \
        weights w;                                                                                 \
        fetch_lines((const float *)part->k_scale + BLOCK, 4);                                      \
        fetch_lines((const float *)part->v_scale + BLOCK, 4);                                      \
        split_queries(q, a->code + row * dp, R, dp);                                               \
        scores_i8_##R(p, a, row, part, q);                                                         \
        for (int r = 0; r < R; r++) seen[r] = seen_of(a->first[row + r], a->end[row + r]);         \
        if (a->slope) lean(p, R, a, row);                                                          \
        const merge by = weigh(p, R, seen, max + row, sum + row, next, 2);                         \
        weights_i8(&w, p, R, seen, part);                                                          \
        values_i8_##R(out + row * d, d, part->v, &w, &by, next);                                   \
    }                                                                                              \
    APART void rows_i4_##R(float *out, float *max, float *sum, const nib_attention_rows *a,        \
                           int64_t row, const nib_kv_part *part) {                                 \
        const int64_t d = a->d, dp = nib_kv_dp(d), groups = (d + G - 1) / G;                       \
        const uint8_t *next = (const uint8_t *)part->k + dp * 32;                                  \
        code_block q[NIB_ATTENTION_HEAD / 64];                                                     \
        float p[R_MOST][BLOCK], low[R_MOST];                                                       \
        uint64_t seen[R_MOST];                                                                     \
        weights w;                                                                                 \
        for (int64_t g = groups; g < 2 * groups; g++) {                                            \
            fetch_lines((const uint16_t *)part->k_scale + g * BLOCK, 2);                           \
            fetch_lines((const uint16_t *)part->k_shift + g * BLOCK, 2);                           \
            fetch_lines((const uint16_t *)part->v_scale + g * BLOCK, 2);                           \
            fetch_lines((const uint16_t *)part->v_shift + g * BLOCK, 2);                           \
        }                                                                                          \
        split_queries(q, a->code + row * dp, R, dp);                                               \
        scores_i4_##R(p, a, row, part, q);                                                         \
        for (int r = 0; r < R; r++) seen[r] = seen_of(a->first[row + r], a->end[row + r]);         \
        if (a->slope) lean(p, R, a, row);                                                          \
        const merge by = weigh(p, R, seen, max + row, sum + row, next, 1);                         \
        for (int64_t g = 0; g < groups; g++) {                                                     \
            weights_i4(&w, low, p, R, seen, part, g);                                              \
            values_i4_##R(out + row * d, d, g * G, (g + 1) * G < dp ? (g + 1) * G : dp, part->v,   \
                          &w, low, &by, next);                                                     \
        }                                                                                          \
    }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)

#define KERNEL(name)                                                                               \
    static void attention_##name(float *out, float *max, float *sum, const nib_attention_rows *a,  \
                                 const nib_kv_part *part) {                                        \
        int64_t r = 0;                                                                             \
        for (; r + 4 <= a->rows; r += 4) rows_##name##_4(out, max, sum, a, r, part);               \
        if (a->rows - r == 3) rows_##name##_3(out, max, sum, a, r, part);                          \
        if (a->rows - r == 2) rows_##name##_2(out, max, sum, a, r, part);                          \
        if (a->rows - r == 1) rows_##name##_1(out, max, sum, a, r, part);                          \
    }
KERNEL(i8)
KERNEL(i4)

static void install(nib_kernels *k) {
    k->attention_i8 = attention_i8;
    k->attention_i4 = attention_i4;
}
const nib_kernel_set nib_kernels_attention_avx512vnni = {.name = "attention_avx512vnni",
                                                         .needs =
                                                             NIB_CPU_AVX512 | NIB_CPU_AVX512VNNI,
                                                         .install = install};
