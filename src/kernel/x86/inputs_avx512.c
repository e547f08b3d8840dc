/* inputs_avx512.c: a row is read twice: once for its range, beside the codes of another, so that
 * neither waits for the other's scale or lines, and once to make codes of it, when it lies in
 * the first-level cache. Conversions to 8 bits saturate, so only a reduced range is left to be
 * cut. */
#include "kernel/fixed_point.h"
#include "kernel/kernel.h"
#include "kernel/x86/float_avx512.h"

#define INLINE static inline __attribute__((always_inline))

/* Least, greatest, and the largest magnitude as bits, which a NaN puts above those of infinity.
 * Comparisons pass over NaN: min and max give their second operand then. */
typedef struct range {
    __m512 low, high;
    __m512i most;
} range;

INLINE range range_none(void) {
    return (range){_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_si512()};
}

INLINE void range_add(range *r, __m512 x, const bool both) {
    r->most = _mm512_max_epi32(
        r->most, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
    if (!both) return;
    r->low = _mm512_min_ps(x, r->low);
    r->high = _mm512_max_ps(x, r->high);
}

INLINE range range_join(range a, range b) {
    return (range){_mm512_min_ps(a.low, b.low), _mm512_max_ps(a.high, b.high),
                   _mm512_max_epi32(a.most, b.most)};
}

/* What codes are made with. */
typedef struct rule {
    float scale, inverse;
    int zero, qmin, qmax;
    bool plain; /* every product is a number that 32 bits hold */
} rule;

static rule rule_of(const range *r, bool symmetric, int bits, float eps) {
    const int qmax = (1 << (bits - 1)) - 1, qmin = -qmax - 1;
    const float steps = (float)(qmax - qmin);
    const float most =
        _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(r->most))));
    rule u = {.qmin = qmin, .qmax = qmax};
    if (symmetric) {
        u.scale = most / (steps / 2);
    } else {
        const bool nan = most != most;
        const float low = nan ? NAN : _mm512_reduce_min_ps(r->low);
        const float high = nan ? NAN : _mm512_reduce_max_ps(r->high);
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

INLINE __m128i codes_of(__m512 x, const rule *u, const bool plain, const bool reduced) {
    const __m512i zero = _mm512_set1_epi32(u->zero);
    __m512 d = _mm512_mul_ps(x, _mm512_set1_ps(u->inverse));
    __m512i c;
    if (plain) {
        c = _mm512_add_epi32(_mm512_cvtps_epi32(d), zero);
    } else {
        const __mmask16 number = _mm512_cmp_ps_mask(d, d, _CMP_ORD_Q);
        d = _mm512_max_ps(d, _mm512_set1_ps((float)(u->qmin - u->zero)));
        d = _mm512_min_ps(d, _mm512_set1_ps((float)(u->qmax - u->zero)));
        c = _mm512_maskz_add_epi32(number, _mm512_cvtps_epi32(d), zero);
    }
    const __m128i bytes = _mm512_cvtsepi32_epi8(c);
    if (!reduced) return bytes;
    return _mm_min_epi8(_mm_max_epi8(bytes, _mm_set1_epi8(-64)), _mm_set1_epi8(63));
}

/* 64 codes: halves and bytes saturate as one conversion to bytes would, in steps that two units
 * take, and what a line of the cache holds is written at once. */
INLINE __m512i line_of_codes(const float *x, const rule *u, const bool symmetric,
                             const bool reduced) {
    const __m512 inverse = _mm512_set1_ps(u->inverse);
    const __m512i zero = _mm512_set1_epi32(u->zero);
    __m512i c[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        c[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * i), inverse));
        if (!symmetric) c[i] = _mm512_add_epi32(c[i], zero);
    }
    const __m512i mixed =
        _mm512_packs_epi16(_mm512_packs_epi32(c[0], c[1]), _mm512_packs_epi32(c[2], c[3]));
    const __m512i bytes = _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), mixed);
    if (!reduced) return bytes;
    return _mm512_min_epi8(_mm512_max_epi8(bytes, _mm512_set1_epi8(-64)), _mm512_set1_epi8(63));
}

INLINE void write_codes(int8_t *q, const float *x, int64_t n, const rule *u, const bool plain,
                        const bool reduced) {
    int64_t i = 0;
    for (; plain && i + 64 <= n; i += 64)
        _mm512_storeu_si512(q + i, line_of_codes(x + i, u, false, reduced));
    for (; i + 16 <= n; i += 16)
        _mm_storeu_si128((void *)(q + i), codes_of(_mm512_loadu_ps(x + i), u, plain, reduced));
    if (i < n) {
        const __mmask16 first = avx512_first((size_t)(n - i));
        const __m512 rest = _mm512_maskz_loadu_ps(first, x + i);
        _mm_mask_storeu_epi8(q + i, first, codes_of(rest, u, plain, reduced));
    }
}

static void codes_by(int8_t *q, float *scale, int32_t *zero, const float *x, int64_t n,
                     const rule *u) {
    *scale = u->scale;
    if (zero) *zero = u->zero;
    if (u->plain && u->qmax == 127)
        write_codes(q, x, n, u, true, false);
    else if (u->plain)
        write_codes(q, x, n, u, true, true);
    else
        write_codes(q, x, n, u, false, false); /* clamped as floats */
}

INLINE range range_of(const float *x, int64_t n, const bool both) {
    range a = range_none(), b = a;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        range_add(&a, _mm512_loadu_ps(x + i), both);
        range_add(&b, _mm512_loadu_ps(x + i + 16), both);
    }
    for (; i < n; i += 16) range_add(&a, avx512_load_first(x + i, (size_t)(n - i)), both);
    return range_join(a, b);
}

/* Of codes counted from -128, so that bytes are unsigned: what is too much is taken off at last. */
INLINE void sum_line(__m512i *sum, __m512i codes) {
    const __m512i bytes = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
    *sum = _mm512_add_epi64(*sum, _mm512_sad_epu8(bytes, _mm512_setzero_si512()));
}
INLINE __m256i half_of(__m512i v) {
    return _mm256_add_epi64(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
}
static int64_t sum_of(__m256i v) {
    const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two)));
}

static void sums_i8(int32_t *sums, const int8_t *q, int64_t groups, int64_t G) {
    const __m256i from_half = _mm256_set1_epi8(-128), no_half = _mm256_setzero_si256();
    for (int64_t g = 0; g < groups; g++, q += G) {
        __m512i wide = _mm512_setzero_si512();
        int64_t i = 0;
        for (; i + 64 <= G; i += 64) sum_line(&wide, _mm512_loadu_si512(q + i));
        __m256i half = half_of(wide);
        if (i + 32 <= G) {
            const __m256i v = _mm256_loadu_si256((const void *)(q + i));
            half = _mm256_add_epi64(half, _mm256_sad_epu8(_mm256_xor_si256(v, from_half), no_half));
            i += 32;
        }
        int64_t sum = sum_of(half) - 128 * i;
        for (; i < G; i++) sum += q[i];
        sums[g] = (int32_t)sum;
    }
}

/* Codes of a row of plain products and their sum, and the range of a later row, `next`. */
INLINE range codes_and_range(int8_t *q, int32_t *sum, const float *x, const float *next, int64_t n,
                             const rule *u, const bool symmetric, const bool reduced) {
    range r[2] = {range_none(), range_none()};
    __m512i wide = _mm512_setzero_si512();
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            range_add(&r[k % 2], _mm512_loadu_ps(next + i + 16 * k), !symmetric);
        const __m512i codes = line_of_codes(x + i, u, symmetric, reduced);
        _mm512_storeu_si512(q + i, codes);
        sum_line(&wide, codes);
    }
    write_codes(q + i, x + i, n - i, u, true, reduced);
    sums_i8(sum, q + i, 1, n - i);
    *sum =
        (int32_t)(*sum + sum_of(half_of(wide)) - 128 * i); /* of rows too long to have one, too */
    const range rest = range_of(next + i, n - i, !symmetric), most = range_join(r[0], r[1]);
    return range_join(most, rest);
}

/* The range of a row is read two rows ahead, so that its scale is there when it is wanted. */
INLINE void quantize_rows(int8_t *q, int64_t ldq, float *scale, int32_t *zero, int32_t *sums,
                          const float *x, int64_t rows, int64_t n, const bool symmetric, int bits,
                          float eps) {
    range r = range_of(x, n, !symmetric);
    rule next = rule_of(&r, symmetric, bits, eps);
    if (rows > 1) r = range_of(x + n, n, !symmetric);
    for (int64_t m = 0; m < rows; m++, q += ldq, x += n) {
        const rule u = next;
        if (m + 1 < rows) next = rule_of(&r, symmetric, bits, eps);
        const bool more = m + 2 < rows;
        if (!more || !u.plain) {
            codes_by(q, &scale[m], symmetric ? NULL : &zero[m], x, n, &u);
            if (sums) sums_i8(&sums[m], q, 1, n);
            if (more) r = range_of(x + 2 * n, n, !symmetric);
            continue;
        }
        int32_t sum;
        scale[m] = u.scale;
        if (!symmetric) zero[m] = u.zero;
        r = u.qmax == 127 ? codes_and_range(q, &sum, x, x + 2 * n, n, &u, symmetric, false)
                          : codes_and_range(q, &sum, x, x + 2 * n, n, &u, symmetric, true);
        if (sums) sums[m] = sum;
    }
}

static void quantize_rows_i8(int8_t *q, int64_t ldq, float *scale, int32_t *zero, int32_t *sums,
                             const float *x, int64_t rows, int64_t n, int bits, float eps) {
    if (rows <= 0) return;
    if (zero)
        quantize_rows(q, ldq, scale, zero, sums, x, rows, n, false, bits, eps);
    else
        quantize_rows(q, ldq, scale, NULL, sums, x, rows, n, true, bits, eps);
}

static void rms_norm_quantize_i8(int8_t *q, float *scale, int32_t *zero, float *normed,
                                 const float *x, const float *weight, int64_t n, float epsilon,
                                 int bits, float eps) {
    const float mean = avx512_dot(x, x, (size_t)n) / (float)n;
    const __m512 factor = _mm512_set1_ps(1.0f / sqrtf(mean + epsilon));
    range r = range_none();
    for (int64_t i = 0; i < n; i += 16) { /* what is not there may be 0 * inf: masked */
        const __mmask16 first = avx512_first((size_t)(n - i));
        __m512 y = _mm512_maskz_mul_ps(first, _mm512_maskz_loadu_ps(first, x + i), factor);
        if (weight) y = _mm512_maskz_mul_ps(first, y, _mm512_maskz_loadu_ps(first, weight + i));
        _mm512_mask_storeu_ps(normed + i, first, y);
        range_add(&r, y, true);
    }
    const rule u = rule_of(&r, !zero, bits, eps);
    codes_by(q, scale, zero, normed, n, &u);
}

/* Adding 128 to a digit before it is cut off carries what the next is to have, and turns its
 * topmost bit. */
static void digits_row_i8(int8_t *q, int64_t ld, float scale[NIB_DIGITS], const float *x,
                          int64_t n) {
    range r = range_none();
    for (int64_t i = 0; i < n; i += 16)
        range_add(&r, _mm512_maskz_loadu_ps(avx512_first((size_t)(n - i)), x + i), false);
    const fixed_point to = fixed_point_of((uint32_t)_mm512_reduce_max_epi32(r.most), scale);
    const __m512i half = _mm512_set1_epi32(0x8080);
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 here = avx512_first((size_t)(n - i));
        const __m512 v = _mm512_maskz_loadu_ps(here, x + i);
        __m512i c = _mm512_setzero_si512();
        if (to.finite) c = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(to.inverse)));
        c = _mm512_xor_si512(_mm512_add_epi32(c, half), half);
        const __m128i digit[NIB_DIGITS] = {_mm512_cvtepi32_epi8(_mm512_srli_epi32(c, 16)),
                                           _mm512_cvtepi32_epi8(_mm512_srli_epi32(c, 8)),
                                           _mm512_cvtepi32_epi8(c)};
#pragma GCC unroll 3
        for (int k = 0; k < NIB_DIGITS; k++) {
            if (n - i >= 16)
                _mm_storeu_si128((void *)(q + k * ld + i), digit[k]);
            else
                _mm_mask_storeu_epi8(q + k * ld + i, here, digit[k]);
        }
    }
}

static void add_digits(float *y, const float *t, int64_t ld, size_t n) {
    for (size_t i = 0; i < n; i += 16, t += 16) {
        const __mmask16 here = avx512_first(n - i);
        const __m512 v =
            _mm512_add_ps(_mm512_maskz_loadu_ps(here, t), _mm512_maskz_loadu_ps(here, t + ld));
        _mm512_mask_storeu_ps(y + i, here,
                              _mm512_add_ps(v, _mm512_maskz_loadu_ps(here, t + 2 * ld)));
    }
}

static void install(nib_kernels *k) {
    k->quantize_rows_i8 = quantize_rows_i8;
    k->rms_norm_quantize_i8 = rms_norm_quantize_i8;
    k->digits_row_i8 = digits_row_i8;
    k->add_digits = add_digits;
    k->sums_i8 = sums_i8;
}
const nib_kernel_set nib_kernels_inputs_avx512 = {
    .name = "inputs_avx512", .needs = NIB_CPU_AVX512, .install = install};
