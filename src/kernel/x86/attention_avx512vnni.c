/* attention_avx512vnni.c: queries against a part of a cache of integers. Tokens (keys) and columns
 * (values) are the lanes, so dpbusd adds four neighbours at a time and no sum crosses lanes. Codes
 * of 15 bits are taken as 256 * high + low: the high halves are summed first, shifted, and the low
 * halves added, all of it modulo 2^32, in which the result fits. */
#include <string.h>

#include "kernel/kernel.h"
#include "kernel/kv_place.h"
#include "kernel/x86/float_avx512.h"

#define INLINE static inline __attribute__((always_inline))
/* A sum stays in the register it is in: gcc would move all of them around in every step. */
#define KEEP(v) __asm__ volatile("" : "+v"(v))
enum { BLOCK = NIB_ATTENTION_BLOCK, R_MOST = 4, P_MOST = 4, G = NIB_KV_GROUP };

/* Both halves of the codes of up to four rows, `ld` bytes apart. */
typedef struct halves {
    const int8_t *high, *low;
    int64_t ld;
} halves;

INLINE void fetch(const uint8_t *x) { _mm_prefetch((const char *)x, _MM_HINT_T0); }

INLINE __m512i four_at(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

/* sums[r][p] += codes of R rows times `cells` cells of P panels that lie `stride` bytes apart. What
 * lies `ahead` bytes on, where the head's next part is, is fetched meanwhile: a part is too short
 * for the hardware to see the stream. */
INLINE void add_cells(__m512i sums[R_MOST][P_MOST], const int R, const int P, const uint8_t *x,
                      int64_t stride, int64_t cells, const int8_t *codes, int64_t ld, int64_t ahead,
                      const bool high) {
    for (int64_t c = 0; c < cells; c++) {
        __m512i u[P_MOST];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            u[p] = _mm512_loadu_si512(x + p * stride + c * 64);
            if ((p < 2) == high) fetch(x + p * stride + c * 64 + ahead);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m512i q = four_at(codes + r * ld + c * 4);
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) {
                sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], u[p], q);
                KEEP(sums[r][p]);
            }
        }
    }
}

/* The same for cells of two codes a byte, whose upper ones belong to the next four neighbours. */
INLINE void add_cells_u4(__m512i sums[R_MOST][P_MOST], const int R, const int P, const uint8_t *x,
                         int64_t stride, int64_t cells, const int8_t *codes, int64_t ld,
                         int64_t ahead, const bool high) {
    const __m512i mask = _mm512_set1_epi8(15);
    for (int64_t c = 0; c < cells; c++) {
        __m512i u[P_MOST], v[P_MOST];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            const __m512i both = _mm512_loadu_si512(x + p * stride + c * 64);
            if ((p < 2) == high) fetch(x + p * stride + c * 64 + ahead);
            u[p] = _mm512_and_si512(both, mask);
            v[p] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m512i q = four_at(codes + r * ld + c * 8),
                          w = four_at(codes + r * ld + c * 8 + 4);
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) {
                sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], u[p], q);
                KEEP(sums[r][p]);
            }
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) {
                sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], v[p], w);
                KEEP(sums[r][p]);
            }
        }
    }
}

INLINE void product(__m512i sums[R_MOST][P_MOST], const int R, const int P, const bool u4,
                    const uint8_t *x, int64_t stride, int64_t cells, halves codes, int64_t ahead) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) sums[r][p] = _mm512_setzero_si512();
    if (u4)
        add_cells_u4(sums, R, P, x, stride, cells, codes.high, codes.ld, ahead, true);
    else
        add_cells(sums, R, P, x, stride, cells, codes.high, codes.ld, ahead, true);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) sums[r][p] = _mm512_slli_epi32(sums[r][p], 8);
    if (u4)
        add_cells_u4(sums, R, P, x, stride, cells, codes.low, codes.ld, ahead, false);
    else
        add_cells(sums, R, P, x, stride, cells, codes.low, codes.ld, ahead, false);
}

/* n codes, n a multiple of 16 */
static void split(int8_t *high, int8_t *low, const int16_t *code, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        const __m512i c = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(code + i)));
        const __m512i h = _mm512_srai_epi32(_mm512_add_epi32(c, _mm512_set1_epi32(128)), 8);
        _mm_storeu_si128((__m128i *)(high + i), _mm512_cvtepi32_epi8(h));
        _mm_storeu_si128((__m128i *)(low + i), _mm512_cvtepi32_epi8(c));
    }
}

/* Tokens [first, end) as bits. */
INLINE uint64_t seen_of(int first, int end) { return ~0ull << first & ~0ull >> (BLOCK - end); }
INLINE __mmask16 seen_at(uint64_t seen, int j) { return (__mmask16)(seen >> 16 * j); }

/* Below, each step is taken for all rows before the next: the chains of one row are long, and
 * those of four run beside each other. */

/* Scores of 64 tokens to weights in place, 0 for those that are not seen. */
INLINE void weigh(__m512 p[R_MOST][4], const int R, const uint64_t seen[R_MOST], float *max,
                  float *sum) {
    __m512 most[R_MOST], lanes[R_MOST];
    float top[R_MOST];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        most[r] = _mm512_set1_ps(-INFINITY);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            most[r] = _mm512_mask_max_ps(most[r], seen_at(seen[r], j), p[r][j], most[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) top[r] = _mm512_reduce_max_ps(most[r]);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            p[r][j] = avx512_exp(_mm512_sub_ps(p[r][j], _mm512_set1_ps(top[r])));
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        lanes[r] = _mm512_setzero_ps();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            p[r][j] = _mm512_maskz_mov_ps(seen_at(seen[r], j), p[r][j]);
            lanes[r] = _mm512_add_ps(lanes[r], p[r][j]); /* adding +0 changes no lane */
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) max[r] = top[r] + 0.0f, sum[r] = avx512_tree(lanes[r]);
}

/* Weights as codes: both halves of each, what codes sum to, and their steps. */
typedef struct weights {
    int8_t high[R_MOST][BLOCK], low[R_MOST][BLOCK];
    int32_t total[R_MOST];
    float step[R_MOST];
} weights;

/* p times the scales of the values, in place: 0 where nothing is seen. */
INLINE void code_weights(weights *out, __m512 p[R_MOST][4], const int R,
                         const uint64_t seen[R_MOST], const __m512 scale[4]) {
    __m512 most[R_MOST];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        __mmask16 nan = 0;
        most[r] = _mm512_setzero_ps();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            p[r][j] = _mm512_maskz_mul_ps(seen_at(seen[r], j), p[r][j], scale[j]);
            most[r] = _mm512_max_ps(p[r][j], most[r]);
            nan |= _mm512_cmp_ps_mask(p[r][j], p[r][j], _CMP_UNORD_Q);
        }
        most[r] = _mm512_mask_mov_ps(most[r], (__mmask16)(nan ? 0xffff : 0), _mm512_set1_ps(NAN));
    }
    float tops[4] = {0}; /* a NaN is in all lanes, or in none */
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) tops[r] = _mm512_reduce_max_ps(most[r]);
    const __m128 top = _mm_setr_ps(tops[0], tops[1], tops[2], tops[3]);
    const __m128 step = _mm_div_ps(top, _mm_set1_ps(32512.0f));
    const __m128 inverse =
        _mm_and_ps(_mm_div_ps(_mm_set1_ps(1.0f), step), _mm_cmpge_ps(step, _mm_set1_ps(0x1p-126f)));
    float inverses[4], steps[4];
    _mm_storeu_ps(inverses, inverse);
    _mm_storeu_ps(steps, step);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        const __m512 by = _mm512_set1_ps(inverses[r]);
        __m512i all = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512 x = _mm512_max_ps(_mm512_mul_ps(p[r][j], by), _mm512_setzero_ps());
            const __m512i c = _mm512_cvtps_epi32(x); /* a NaN became 0 */
            const __m512i h = _mm512_srai_epi32(_mm512_add_epi32(c, _mm512_set1_epi32(128)), 8);
            all = _mm512_add_epi32(all, c);
            _mm_storeu_si128((__m128i *)(out->high[r] + 16 * j), _mm512_cvtepi32_epi8(h));
            _mm_storeu_si128((__m128i *)(out->low[r] + 16 * j), _mm512_cvtepi32_epi8(c));
        }
        out->total[r] = _mm512_reduce_add_epi32(all);
        out->step[r] = steps[r];
    }
}

/* Results of R rows for P panels of 16 columns from `i` on: (sums - middle) * step - low. */
INLINE void finish(float *out, int64_t d, int64_t i, const int R, const int P,
                   __m512i sums[R_MOST][P_MOST], const int32_t *middle, const float *step,
                   const float *low) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            const int64_t at = i + 16 * p;
            const __m512i exact =
                middle ? _mm512_sub_epi32(sums[r][p], _mm512_set1_epi32(128 * middle[r]))
                       : sums[r][p];
            const __m512 x = _mm512_cvtepi32_ps(exact), s = _mm512_set1_ps(step[r]);
            const __m512 y =
                low ? _mm512_fmsub_ps(x, s, _mm512_set1_ps(low[r])) : _mm512_mul_ps(x, s);
            if (at < d) avx512_store_first(out + r * d + at, (size_t)(d - at), y);
        }
}

/* Results of columns [begin, end); `low` NULL: codes are 128 too large, and nothing is subtracted.
 */
INLINE void values(float *out, int64_t d, int64_t begin, int64_t end, const int R, const bool u4,
                   const uint8_t *v, const weights *w, const float *low) {
    const int64_t panel = u4 ? 512 : 1024, ahead = nib_kv_dp(d) / 16 * panel;
    const halves codes = {w->high[0], w->low[0], BLOCK};
    const int32_t *middle = low ? NULL : w->total;
    __m512i sums[R_MOST][P_MOST];
    int64_t i = begin;
    for (; i + 48 < end; i += 64) {
        product(sums, R, 4, u4, v + i / 16 * panel, panel, u4 ? 8 : 16, codes, ahead);
        finish(out, d, i, R, 4, sums, middle, w->step, low);
    }
    for (; i < end; i += 16) {
        product(sums, R, 1, u4, v + i / 16 * panel, panel, u4 ? 8 : 16, codes, ahead);
        finish(out, d, i, R, 1, sums, middle, w->step, low);
    }
}

INLINE void rows_i8(float *out, float *max, float *sum, const nib_attention_rows *a, int64_t row,
                    const int R, const nib_kv_part *part) {
    const int64_t d = a->d, dp = nib_kv_dp(d);
    int8_t q[2][R_MOST][NIB_ATTENTION_HEAD];
    uint64_t seen[R_MOST];
    __m512i sums[R_MOST][P_MOST];
    __m512 p[R_MOST][4], scale[4];
    weights w;
    for (int r = 0; r < R; r++) split(q[0][r], q[1][r], a->code + (row + r) * dp, dp);
    product(sums, R, 4, false, part->k, dp * 16, dp / 4,
            (halves){q[0][0], q[1][0], NIB_ATTENTION_HEAD}, dp * 64);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) scale[j] = _mm512_loadu_ps((const float *)part->k_scale + 16 * j);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        const __m512i mid = _mm512_set1_epi32(128 * a->code_sum[row + r]);
        const __m512 factor = _mm512_set1_ps(a->factor[row + r]);
        seen[r] = seen_of(a->first[row + r], a->end[row + r]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512 x = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][j], mid));
            p[r][j] = _mm512_mul_ps(_mm512_mul_ps(x, scale[j]), factor);
        }
    }
    weigh(p, R, seen, max + row, sum + row);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) scale[j] = _mm512_loadu_ps((const float *)part->v_scale + 16 * j);
    code_weights(&w, p, R, seen, scale);
    values(out + row * d, d, 0, dp, R, false, part->v, &w, NULL);
}

INLINE __m512 bf16_at(const void *x, int64_t i) {
    const __m256i narrow = _mm256_loadu_si256((const __m256i *)((const uint16_t *)x + i));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

INLINE void rows_i4(float *out, float *max, float *sum, const nib_attention_rows *a, int64_t row,
                    const int R, const nib_kv_part *part) {
    const int64_t d = a->d, dp = nib_kv_dp(d), groups = (d + G - 1) / G;
    int8_t q[2][R_MOST][NIB_ATTENTION_HEAD];
    uint64_t seen[R_MOST];
    __m512i sums[R_MOST][P_MOST];
    __m512 p[R_MOST][4], weight[R_MOST][4];
    weights w;
    for (int r = 0; r < R; r++) split(q[0][r], q[1][r], a->code + (row + r) * dp, dp);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) p[r][j] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        const int64_t begin = g * G, cells = (dp - begin < G ? dp - begin : G) / 8;
        product(sums, R, 4, true, (const uint8_t *)part->k + begin * 8, dp * 8, cells,
                (halves){q[0][0] + begin, q[1][0] + begin, NIB_ATTENTION_HEAD}, dp * 32);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512 scale = bf16_at(part->k_scale, (j * groups + g) * 16);
            const __m512 shift = bf16_at(part->k_shift, (j * groups + g) * 16);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const float total = (float)a->code_sum[(row + r) * groups + g];
                p[r][j] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sums[r][j]), p[r][j]);
                p[r][j] = _mm512_fnmadd_ps(shift, _mm512_set1_ps(total), p[r][j]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        seen[r] = seen_of(a->first[row + r], a->end[row + r]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            p[r][j] = _mm512_mul_ps(p[r][j], _mm512_set1_ps(a->factor[row + r]));
    }
    weigh(p, R, seen, max + row, sum + row);
    for (int64_t g = 0; g < groups; g++) {
        __m512 scale[4], lanes[R_MOST];
        float low[R_MOST];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) lanes[r] = _mm512_setzero_ps();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512 shift = bf16_at(part->v_shift, g * BLOCK + 16 * j);
            scale[j] = bf16_at(part->v_scale, g * BLOCK + 16 * j);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                weight[r][j] = p[r][j];
                lanes[r] = _mm512_mask3_fmadd_ps(p[r][j], shift, lanes[r], seen_at(seen[r], j));
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) low[r] = avx512_tree(lanes[r]);
        code_weights(&w, weight, R, seen, scale);
        values(out + row * d, d, g * G, (g + 1) * G < dp ? (g + 1) * G : dp, R, true, part->v, &w,
               low);
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
}
const nib_kernel_set nib_kernels_attention_avx512vnni = {.name = "attention_avx512vnni",
                                                         .needs =
                                                             NIB_CPU_AVX512 | NIB_CPU_AVX512VNNI,
                                                         .install = install};
