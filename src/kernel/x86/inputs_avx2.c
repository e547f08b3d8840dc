/* inputs_avx2.c: a row is read twice: once for its range, once to make codes of it, when it lies
 * in the first-level cache. */
#include <string.h>

#include "kernel/fixed_point.h"
#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

#define INLINE static inline __attribute__((always_inline))

/* Least, greatest, and the largest magnitude as bits, which a NaN puts above those of infinity.
 * Comparisons pass over NaN: min and max give their second operand then. */
typedef struct range {
    __m256 low, high;
    __m256i most;
} range;

INLINE range range_none(void) {
    return (range){_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_si256()};
}

INLINE void range_add(range *r, __m256 x, const bool both) {
    const __m256i magnitude =
        _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
    r->most = _mm256_max_epi32(r->most, magnitude);
    if (!both) return;
    r->low = _mm256_min_ps(x, r->low);
    r->high = _mm256_max_ps(x, r->high);
}

INLINE range range_join(range a, range b) {
    return (range){_mm256_min_ps(a.low, b.low), _mm256_max_ps(a.high, b.high),
                   _mm256_max_epi32(a.most, b.most)};
}

static float least_of(__m256 v) {
    __m128 four = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_min_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_min_ss(four, _mm_movehdup_ps(four)));
}
static float most_of(__m256 v) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
static float magnitude_of(__m256i v) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(four));
}

/* What codes are made with. */
typedef struct rule {
    float scale, inverse;
    int zero, qmin, qmax;
    bool plain; /* every product is a number that 32 bits hold */
} rule;

static rule rule_of(const range *r, bool symmetric, int bits, float eps) {
    const int qmax = (1 << (bits - 1)) - 1, qmin = -qmax - 1;
    const float steps = (float)(qmax - qmin), most = magnitude_of(r->most);
    rule u = {.qmin = qmin, .qmax = qmax};
    if (symmetric) {
        u.scale = most / (steps / 2);
    } else {
        const bool nan = most != most;
        const float low = nan ? NAN : least_of(r->low), high = nan ? NAN : most_of(r->high);
        u.scale = (high - low) / steps;
        const float s = u.scale < eps ? eps : u.scale;
        const float point = (float)qmin - rintf(low / s);
        if (point == point)
            u.zero = point > (float)qmax ? qmax : point < (float)qmin ? qmin : (int)point;
    }
    if (u.scale < eps) u.scale = eps;
    u.inverse = 1.0f / u.scale;
    u.plain = most < INFINITY && u.inverse < INFINITY;
    return u;
}

INLINE __m256i codes_of(__m256 x, const rule *u, const bool plain) {
    const __m256i zero = _mm256_set1_epi32(u->zero);
    __m256 d = _mm256_mul_ps(x, _mm256_set1_ps(u->inverse));
    if (plain) return _mm256_add_epi32(_mm256_cvtps_epi32(d), zero);
    const __m256i number = _mm256_castps_si256(_mm256_cmp_ps(d, d, _CMP_ORD_Q));
    d = _mm256_max_ps(d, _mm256_set1_ps((float)(u->qmin - u->zero)));
    d = _mm256_min_ps(d, _mm256_set1_ps((float)(u->qmax - u->zero)));
    return _mm256_and_si256(_mm256_add_epi32(_mm256_cvtps_epi32(d), zero), number);
}

INLINE __m128i clamp16(__m128i bytes, const rule *u) {
    bytes = _mm_max_epi8(bytes, _mm_set1_epi8((char)u->qmin));
    return _mm_min_epi8(bytes, _mm_set1_epi8((char)u->qmax));
}

/* Packing saturates to 8 bits, so only a reduced range is left to be cut. */
INLINE __m128i narrow8(__m256i codes, const rule *u) {
    const __m128i halves =
        _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    return clamp16(_mm_packs_epi16(halves, halves), u);
}

/* Packing works within 128-bit halves: 4-byte pieces end up as a0 b0 c0 d0 a1 b1 c1 d1, and one
 * permutation sorts them. */
INLINE __m256i narrow32(const __m256i c[4], const rule *u) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
    bytes = _mm256_max_epi8(bytes, _mm256_set1_epi8((char)u->qmin));
    bytes = _mm256_min_epi8(bytes, _mm256_set1_epi8((char)u->qmax));
    return _mm256_permutevar8x32_epi32(bytes, order);
}

INLINE void write_codes(int8_t *q, const float *x, int64_t n, const rule *u, const bool plain) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i c[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) c[j] = codes_of(_mm256_loadu_ps(x + i + 8 * j), u, plain);
        _mm256_storeu_si256((void *)(q + i), narrow32(c, u));
    }
    for (; i + 8 <= n; i += 8)
        _mm_storel_epi64((void *)(q + i), narrow8(codes_of(_mm256_loadu_ps(x + i), u, plain), u));
    if (i < n) {
        int8_t rest[16];
        const __m256i c = codes_of(avx2_load_first(x + i, (size_t)(n - i)), u, plain);
        _mm_storeu_si128((void *)rest, narrow8(c, u));
        memcpy(q + i, rest, (size_t)(n - i));
    }
}

static void codes_by(int8_t *q, float *scale, int32_t *zero, const float *x, int64_t n,
                     const rule *u) {
    *scale = u->scale;
    if (zero) *zero = u->zero;
    if (u->plain)
        write_codes(q, x, n, u, true);
    else
        write_codes(q, x, n, u, false);
}

INLINE range range_of(const float *x, int64_t n, const bool both) {
    range a = range_none(), b = a;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        range_add(&a, _mm256_loadu_ps(x + i), both);
        range_add(&b, _mm256_loadu_ps(x + i + 8), both);
    }
    for (; i < n; i += 8) range_add(&a, avx2_load_first(x + i, (size_t)(n - i)), both);
    return range_join(a, b);
}

static void quantize_row(int8_t *q, float *scale, int32_t *zero, const float *x, int64_t n,
                         int bits, float eps) {
    const range r = zero ? range_of(x, n, true) : range_of(x, n, false);
    const rule u = rule_of(&r, !zero, bits, eps);
    codes_by(q, scale, zero, x, n, &u);
}

static void rms_norm_quantize_i8(int8_t *q, float *scale, int32_t *zero, float *normed,
                                 const float *x, const float *weight, int64_t n, float epsilon,
                                 int bits, float eps) {
    const float mean = avx2_dot(x, x, (size_t)n) / (float)n;
    const __m256 factor = _mm256_set1_ps(1.0f / sqrtf(mean + epsilon));
    range r = range_none();
    for (int64_t i = 0; i < n; i += 8) {
        const size_t rest = (size_t)(n - i);
        __m256 y = _mm256_mul_ps(avx2_load_first(x + i, rest), factor);
        if (weight) y = _mm256_mul_ps(y, avx2_load_first(weight + i, rest));
        avx2_store_first(normed + i, rest, y);
        /* What is not there may be 0 * inf. */
        if (rest < 8) y = _mm256_and_ps(y, _mm256_castsi256_ps(avx2_first(rest)));
        range_add(&r, y, true);
    }
    const rule u = rule_of(&r, !zero, bits, eps);
    codes_by(q, scale, zero, normed, n, &u);
}

/* Adding 128 to a digit before it is cut off carries what the next is to have, and turns its
 * topmost bit. Then the bytes of four numbers at a time change places: 0, 1 and 2 of each. */
INLINE __m256i digits_of(__m256 x, const fixed_point *to) {
    const __m256i half = _mm256_set1_epi32(0x8080);
    const __m256i order = _mm256_setr_epi8(2, 6, 10, 14, 1, 5, 9, 13, 0, 4, 8, 12, -1, -1, -1, -1,
                                           2, 6, 10, 14, 1, 5, 9, 13, 0, 4, 8, 12, -1, -1, -1, -1);
    __m256i c = _mm256_setzero_si256();
    if (to->finite) c = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(to->inverse)));
    c = _mm256_shuffle_epi8(_mm256_xor_si256(_mm256_add_epi32(c, half), half), order);
    return _mm256_permutevar8x32_epi32(c, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static void digits_row_i8(int8_t *q, int64_t ld, float scale[NIB_DIGITS], const float *x,
                          int64_t n) {
    const range r = range_of(x, n, false);
    const float most = magnitude_of(r.most);
    uint32_t bits;
    memcpy(&bits, &most, sizeof bits);
    const fixed_point to = fixed_point_of(bits, scale);
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i v[4]; /* eight of each digit in a quarter */
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) v[j] = digits_of(_mm256_loadu_ps(x + i + 8 * j), &to);
        const __m256i ab = _mm256_unpacklo_epi64(v[0], v[1]),
                      cd = _mm256_unpacklo_epi64(v[2], v[3]);
        const __m256i AB = _mm256_unpackhi_epi64(v[0], v[1]),
                      CD = _mm256_unpackhi_epi64(v[2], v[3]);
        _mm256_storeu_si256((void *)(q + i), _mm256_permute2x128_si256(ab, cd, 0x20));
        _mm256_storeu_si256((void *)(q + ld + i), _mm256_permute2x128_si256(AB, CD, 0x20));
        _mm256_storeu_si256((void *)(q + 2 * ld + i), _mm256_permute2x128_si256(ab, cd, 0x31));
    }
    for (; i < n; i += 8) {
        const int64_t here = n - i < 8 ? n - i : 8;
        int8_t digits[32];
        _mm256_storeu_si256((void *)digits,
                            digits_of(avx2_load_first(x + i, (size_t)(n - i)), &to));
        for (int d = 0; d < NIB_DIGITS; d++) memcpy(q + d * ld + i, digits + 8 * d, (size_t)here);
    }
}

static void add_digits(float *y, const float *t, int64_t ld, size_t n) {
    for (size_t i = 0; i < n; i += 8, t += 8) {
        const size_t rest = n - i;
        const __m256 v = _mm256_add_ps(avx2_load_first(t, rest), avx2_load_first(t + ld, rest));
        avx2_store_first(y + i, rest, _mm256_add_ps(v, avx2_load_first(t + 2 * ld, rest)));
    }
}

static int32_t sum_of(__m256i v) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

/* Pairs of 8 bits as 16, at most 256, then pairs of those as 32. */
INLINE __m256i sums_of_four(const int8_t *q) {
    const __m256i pairs =
        _mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_loadu_si256((const void *)q));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

static void sums_i8(int32_t *sums, const int8_t *q, int64_t groups, int64_t G) {
    for (int64_t g = 0; g < groups; g++, q += G) {
        __m256i sum = _mm256_setzero_si256();
        int64_t i = 0;
        for (; i + 32 <= G; i += 32) sum = _mm256_add_epi32(sum, sums_of_four(q + i));
        int32_t rest = 0;
        for (; i < G; i++) rest += q[i];
        sums[g] = sum_of(sum) + rest;
    }
}

static void quantize_rows_i8(int8_t *q, int64_t ldq, float *scale, int32_t *zero, int32_t *sums,
                             const float *x, int64_t rows, int64_t n, int bits, float eps) {
    for (int64_t m = 0; m < rows; m++, q += ldq) {
        quantize_row(q, scale + m, zero ? zero + m : NULL, x + m * n, n, bits, eps);
        if (sums) sums_i8(sums + m, q, 1, n);
    }
}

static void install(nib_kernels *k) {
    k->quantize_rows_i8 = quantize_rows_i8;
    k->rms_norm_quantize_i8 = rms_norm_quantize_i8;
    k->digits_row_i8 = digits_row_i8;
    k->add_digits = add_digits;
    k->sums_i8 = sums_i8;
}
const nib_kernel_set nib_kernels_inputs_avx2 = {
    .name = "inputs_avx2", .needs = NIB_CPU_AVX2, .install = install};
