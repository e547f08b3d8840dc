/* attention_avx512vnni.c: queries against a part of a cache of integers. Tokens (keys) and columns
 * (values) are the lanes, so dpbusd adds four neighbours at a time and no sum crosses lanes. Codes
 * of 15 bits are taken as 256 * high + low: the high halves are summed first, shifted, and the low
 * halves added, all of it modulo 2^32, in which the result fits. */
#include <string.h>

#include "kernel/kernel.h"
#include "kernel/kv_place.h"
#include "kernel/x86/float_avx512.h"

#define INLINE static inline __attribute__((always_inline))
enum { BLOCK = NIB_ATTENTION_BLOCK, R_MOST = 4, P_MOST = 4, G = NIB_KV_GROUP };

/* Both halves of the codes of up to four rows, `ld` bytes apart. */
typedef struct halves {
    const int8_t *high, *low;
    int64_t ld;
} halves;

INLINE __m512i four_at(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

/* sums[r][p] += codes of R rows times `cells` cells of P panels that lie `stride` bytes apart. */
INLINE void add_cells(__m512i sums[R_MOST][P_MOST], const int R, const int P, const uint8_t *x,
                      int64_t stride, int64_t cells, const int8_t *codes, int64_t ld) {
    for (int64_t c = 0; c < cells; c++) {
        __m512i u[P_MOST];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) u[p] = _mm512_loadu_si512(x + p * stride + c * 64);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m512i q = four_at(codes + r * ld + c * 4);
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], u[p], q);
        }
    }
}

/* The same for cells of two codes a byte, whose upper ones belong to the next four neighbours. */
INLINE void add_cells_u4(__m512i sums[R_MOST][P_MOST], const int R, const int P, const uint8_t *x,
                         int64_t stride, int64_t cells, const int8_t *codes, int64_t ld) {
    const __m512i mask = _mm512_set1_epi8(15);
    for (int64_t c = 0; c < cells; c++) {
        __m512i u[P_MOST], v[P_MOST];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            const __m512i both = _mm512_loadu_si512(x + p * stride + c * 64);
            u[p] = _mm512_and_si512(both, mask);
            v[p] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m512i q = four_at(codes + r * ld + c * 8),
                          w = four_at(codes + r * ld + c * 8 + 4);
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], u[p], q);
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], v[p], w);
        }
    }
}

INLINE void product(__m512i sums[R_MOST][P_MOST], const int R, const int P, const bool u4,
                    const uint8_t *x, int64_t stride, int64_t cells, halves codes) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) sums[r][p] = _mm512_setzero_si512();
    if (u4)
        add_cells_u4(sums, R, P, x, stride, cells, codes.high, codes.ld);
    else
        add_cells(sums, R, P, x, stride, cells, codes.high, codes.ld);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) sums[r][p] = _mm512_slli_epi32(sums[r][p], 8);
    if (u4)
        add_cells_u4(sums, R, P, x, stride, cells, codes.low, codes.ld);
    else
        add_cells(sums, R, P, x, stride, cells, codes.low, codes.ld);
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

/* Scores of 64 tokens to weights in place, 0 for those that are not seen. */
INLINE void weigh(__m512 p[4], uint64_t seen, float *max, float *sum) {
    __m512 most = _mm512_set1_ps(-INFINITY);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) most = _mm512_mask_max_ps(most, seen_at(seen, j), p[j], most);
    const float top = _mm512_reduce_max_ps(most);
    __m512 lanes = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 e = avx512_exp(_mm512_sub_ps(p[j], _mm512_set1_ps(top)));
        p[j] = _mm512_maskz_mov_ps(seen_at(seen, j), e);
        lanes = _mm512_add_ps(lanes, p[j]); /* adding +0 changes no lane */
    }
    *max = top + 0.0f;
    *sum = avx512_tree(lanes);
}

/* Weights times the scales of the values as codes; -> their step, and what 256 * high + low sum to.
 */
INLINE float weight_codes(int8_t high[BLOCK], int8_t low[BLOCK], int32_t *total, const __m512 p[4],
                          const __m512 scale[4]) {
    __m512 w[4], most = _mm512_setzero_ps();
    __mmask16 nan = 0;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        w[j] = _mm512_mul_ps(p[j], scale[j]);
        most = _mm512_max_ps(w[j], most);
        nan |= _mm512_cmp_ps_mask(w[j], w[j], _CMP_UNORD_Q);
    }
    const float step = (nan ? NAN : _mm512_reduce_max_ps(most)) / 32512.0f;
    const __m512 inverse = _mm512_set1_ps(step >= 0x1p-126f ? 1.0f / step : 0.0f);
    __m512i all = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 x =
            _mm512_max_ps(_mm512_mul_ps(w[j], inverse), _mm512_setzero_ps()); /* NaN: 0 */
        const __m512i c = _mm512_cvtps_epi32(x);
        const __m512i h = _mm512_srai_epi32(_mm512_add_epi32(c, _mm512_set1_epi32(128)), 8);
        all = _mm512_add_epi32(all, c);
        _mm_storeu_si128((__m128i *)(high + 16 * j), _mm512_cvtepi32_epi8(h));
        _mm_storeu_si128((__m128i *)(low + 16 * j), _mm512_cvtepi32_epi8(c));
    }
    *total = _mm512_reduce_add_epi32(all);
    return step;
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

INLINE void values(float *out, int64_t d, int64_t i, const int R, const int P, const bool u4,
                   const uint8_t *v, halves w, const int32_t *middle, const float *step,
                   const float *low) {
    __m512i sums[R_MOST][P_MOST];
    const int64_t panel = u4 ? 512 : 1024;
    product(sums, R, P, u4, v + i / 16 * panel, panel, u4 ? 8 : 16, w);
    finish(out, d, i, R, P, sums, middle, step, low);
}

INLINE void all_values(float *out, int64_t d, int64_t begin, int64_t end, const int R,
                       const bool u4, const uint8_t *v, halves w, const int32_t *middle,
                       const float *step, const float *low) {
    int64_t i = begin;
    for (; i + 48 < end; i += 64) values(out, d, i, R, 4, u4, v, w, middle, step, low);
    for (; i < end; i += 16) values(out, d, i, R, 1, u4, v, w, middle, step, low);
}

INLINE void rows_i8(float *out, float *max, float *sum, const nib_attention_rows *a, int64_t row,
                    const int R, const nib_kv_part *part) {
    const int64_t d = a->d, dp = nib_kv_dp(d);
    int8_t q[2][R_MOST][NIB_ATTENTION_HEAD], w[2][R_MOST][BLOCK];
    int32_t middle[R_MOST];
    float step[R_MOST];
    __m512i sums[R_MOST][P_MOST];
    __m512 scale[4];
    for (int r = 0; r < R; r++) split(q[0][r], q[1][r], a->code + (row + r) * dp, dp);
    product(sums, R, 4, false, part->k, dp * 16, dp / 4,
            (halves){q[0][0], q[1][0], NIB_ATTENTION_HEAD});
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        const uint64_t seen = seen_of(a->first[row + r], a->end[row + r]);
        const __m512i mid = _mm512_set1_epi32(128 * a->code_sum[row + r]);
        const __m512 factor = _mm512_set1_ps(a->factor[row + r]);
        __m512 p[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512 k = _mm512_loadu_ps((const float *)part->k_scale + 16 * j);
            const __m512 x = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][j], mid));
            p[j] = _mm512_mul_ps(_mm512_mul_ps(x, k), factor);
            scale[j] =
                _mm512_maskz_loadu_ps(seen_at(seen, j), (const float *)part->v_scale + 16 * j);
        }
        weigh(p, seen, &max[row + r], &sum[row + r]);
        step[r] = weight_codes(w[0][r], w[1][r], &middle[r], p, scale);
    }
    all_values(out + row * d, d, 0, dp, R, false, part->v, (halves){w[0][0], w[1][0], BLOCK},
               middle, step, NULL);
}

INLINE __m512 bf16_at(const void *x, int64_t i) {
    const __m256i narrow = _mm256_loadu_si256((const __m256i *)((const uint16_t *)x + i));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

INLINE void rows_i4(float *out, float *max, float *sum, const nib_attention_rows *a, int64_t row,
                    const int R, const nib_kv_part *part) {
    const int64_t d = a->d, dp = nib_kv_dp(d), groups = (d + G - 1) / G;
    int8_t q[2][R_MOST][NIB_ATTENTION_HEAD], w[2][R_MOST][BLOCK];
    float scores[R_MOST][BLOCK];
    __m512i sums[R_MOST][P_MOST];
    for (int r = 0; r < R; r++) split(q[0][r], q[1][r], a->code + (row + r) * dp, dp);
    memset(scores, 0, sizeof scores);
    for (int64_t g = 0; g < groups; g++) {
        const int64_t begin = g * G, cells = (dp - begin < G ? dp - begin : G) / 8;
        product(sums, R, 4, true, (const uint8_t *)part->k + begin * 8, dp * 8, cells,
                (halves){q[0][0] + begin, q[1][0] + begin, NIB_ATTENTION_HEAD});
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m512 total = _mm512_set1_ps((float)a->code_sum[(row + r) * groups + g]);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const int64_t at = (j * groups + g) * 16;
                __m512 acc = _mm512_loadu_ps(scores[r] + 16 * j);
                acc = _mm512_fmadd_ps(bf16_at(part->k_scale, at), _mm512_cvtepi32_ps(sums[r][j]),
                                      acc);
                acc = _mm512_fnmadd_ps(bf16_at(part->k_shift, at), total, acc);
                _mm512_storeu_ps(scores[r] + 16 * j, acc);
            }
        }
    }
    for (int r = 0; r < R; r++) {
        const uint64_t seen = seen_of(a->first[row + r], a->end[row + r]);
        const __m512 factor = _mm512_set1_ps(a->factor[row + r]);
        __m512 p[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            p[j] = _mm512_mul_ps(_mm512_loadu_ps(scores[r] + 16 * j), factor);
        weigh(p, seen, &max[row + r], &sum[row + r]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(scores[r] + 16 * j, p[j]);
    }
    for (int64_t g = 0; g < groups; g++) {
        int32_t unused;
        float step[R_MOST], low[R_MOST];
        for (int r = 0; r < R; r++) {
            const uint64_t seen = seen_of(a->first[row + r], a->end[row + r]);
            __m512 p[4], scale[4], lanes = _mm512_setzero_ps();
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const int64_t at = g * BLOCK + 16 * j;
                p[j] = _mm512_loadu_ps(scores[r] + 16 * j);
                scale[j] = _mm512_maskz_mov_ps(seen_at(seen, j), bf16_at(part->v_scale, at));
                lanes = _mm512_mask3_fmadd_ps(p[j], bf16_at(part->v_shift, at), lanes,
                                              seen_at(seen, j));
            }
            low[r] = avx512_tree(lanes);
            step[r] = weight_codes(w[0][r], w[1][r], &unused, p, scale);
        }
        const int64_t end = (g + 1) * G < dp ? (g + 1) * G : dp;
        all_values(out + row * d, d, g * G, end, R, true, part->v,
                   (halves){w[0][0], w[1][0], BLOCK}, NULL, step, low);
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
