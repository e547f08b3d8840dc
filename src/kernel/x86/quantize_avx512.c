/* quantize_avx512.c: floats to codes and back, 16 at a time, every float step rounded to `math`.
 * The three values of `math` become three copies of each loop, so the choice costs nothing. */
#include <stdlib.h>

#include "kernel/kernel.h"
#include "kernel/x86/float_avx512.h"

#define INLINE static inline __attribute__((always_inline))
#define FOR_EACH_MATH(math, call)                                                                  \
    do {                                                                                           \
        if (math == NIB_BF16)                                                                      \
            call(NIB_BF16);                                                                        \
        else if (math == NIB_F16)                                                                  \
            call(NIB_F16);                                                                         \
        else                                                                                       \
            call(NIB_F32);                                                                         \
    } while (0)

INLINE __m512 rounded(__m512 x, const nib_dtype math) {
    return math == NIB_BF16 ? avx512_round_bf16(x) : math == NIB_F16 ? avx512_round_f16(x) : x;
}

/* What one group needs, spread over lanes. */
typedef struct lanes {
    __m512 factor, shift; /* inverse or scale; what is subtracted or added */
    __m512 low, high;     /* bounds in code units, or of the fp8 format */
    __m512i zero;
    __m512 fixed, offset;   /* DIVIDED in f32: see fix; */
    __m512i least, largest; /* and codes, in words of 16 bits */
    bool rare;              /* fp8: a scale of 0, or a bound that the format has not */
} lanes;

/* The integer codes of 16 floats in code units. Conversion rounds to nearest even; clamping first
 * to whole bounds gives the same code, and keeps it in range. */
INLINE __m512i to_codes(__m512 d, const lanes *u) {
    const __mmask16 number = _mm512_cmp_ps_mask(d, d, _CMP_ORD_Q);
    const __m512 in_range = _mm512_min_ps(_mm512_max_ps(d, u->low), u->high);
    return _mm512_maskz_add_epi32(number, _mm512_cvtps_epi32(in_range), u->zero);
}

typedef enum step { SCALED, DIVIDED, SHIFTED_DIVIDED, F8 } step;

INLINE __m512i quantize16(__m512 x, const lanes *u, const step how, const nib_dtype format,
                          const nib_dtype math) {
    if (how == SCALED) return to_codes(rounded(_mm512_mul_ps(x, u->factor), math), u);
    const __m512 moved = how == SHIFTED_DIVIDED ? rounded(_mm512_sub_ps(x, u->shift), math) : x;
    const __m512 d = rounded(_mm512_div_ps(moved, u->factor), math);
    if (how != F8) return to_codes(d, u);

    const bool numbers = _mm512_cmp_ps_mask(d, d, _CMP_UNORD_Q) == 0;
    if (__builtin_expect(numbers & !u->rare, 1)) return avx512_f8_within(d, u->high, format);
    const __m512 zero = _mm512_setzero_ps(), sign = _mm512_set1_ps(-0.0f);
    const __m512 nan = _mm512_or_ps(_mm512_set1_ps(NAN), _mm512_and_ps(x, sign));
    const __mmask16 number = _mm512_cmp_ps_mask(d, d, _CMP_ORD_Q);
    __m512 in_range = _mm512_mask_min_ps(nan, number, _mm512_max_ps(d, u->low), u->high);
    const __mmask16 nothing =
        _mm512_cmp_ps_mask(x, zero, _CMP_EQ_OQ) & _mm512_cmp_ps_mask(u->factor, zero, _CMP_EQ_OQ);
    return avx512_f8_codes(_mm512_mask_mov_ps(in_range, nothing, zero), format);
}

/* ---- DIVIDED in f32, in fixed point: divisions take longer than all the rest ----
 * x * (2^16 / scale) + (zero + 1/2) * 2^16 + 8 has the code in its upper half unless the quotient
 * is too near to a tie. For quotients within 511 it is off by less than 8 steps of 2^-16 (4 by the
 * two roundings of factor and quotient, 1 by its own, 1/2 by becoming whole): right where the lower
 * half is 16 or more, and one time in 4096 what the division says. */
enum { POINT = 1 << 16, NEAR = 16 };

/* With a factor of 0 every quotient is near to a tie. */
INLINE void fix(lanes *u, float scale, int zero) {
    const bool usable = fabsf(scale) >= 0x1p-100f && fabsf(scale) <= 0x1p100f && abs(zero) <= 256;
    u->fixed = _mm512_set1_ps(usable ? (float)(POINT / (double)scale) : 0);
    u->offset = _mm512_set1_ps(usable ? (float)(zero * POINT + (POINT + NEAR) / 2) : 0);
}

static const uint16_t upper_halves[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                          23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                          45, 47, 49, 51, 53, 55, 57, 59, 61, 63};

/* Which of up to 64 there are. */
typedef struct part {
    __mmask16 some[4];
    __mmask64 bytes;
} part;
INLINE part part_of(int64_t n) {
    part p = {.bytes = ~(__mmask64)0 >> (64 - n)};
    for (int j = 0; j < 4; j++) p.some[j] = (__mmask16)(p.bytes >> 16 * j);
    return p;
}

/* Some, or the `whole` 64; words of 16 bits are held to the bounds, their low bytes stored. */
INLINE void quantize_64(uint8_t *q, const float *x, const part *p, const bool whole,
                        const lanes *u) {
    const __m512 most = _mm512_set1_ps(256.5f * POINT);
    const __m512i far = _mm512_set1_epi32(POINT - NEAR), none = _mm512_setzero_si512();
    __m512i codes[4];
    __m512 v[4];
    __mmask16 near = 0;
    for (int j = 0; j < 4; j++) {
        v[j] = whole ? _mm512_loadu_ps(x + 16 * j) : _mm512_maskz_loadu_ps(p->some[j], x + 16 * j);
        /* a NaN is the second operand, which is what comes out: INT32_MIN, near to a tie */
        codes[j] =
            _mm512_cvtps_epi32(_mm512_min_ps(most, _mm512_fmadd_ps(v[j], u->fixed, u->offset)));
        near |= _mm512_cmpeq_epi32_mask(_mm512_and_si512(codes[j], far), none);
    }
    if (__builtin_expect(near, 0))
        for (int j = 0; j < 4; j++)
            codes[j] = _mm512_slli_epi32(quantize16(v[j], u, DIVIDED, NIB_F32, NIB_F32), 16);
    const __m512i upper = _mm512_loadu_si512(upper_halves);
    __m512i two[2];
    for (int j = 0; j < 2; j++) {
        two[j] = _mm512_permutex2var_epi16(codes[2 * j], upper, codes[2 * j + 1]);
        two[j] = _mm512_min_epi16(_mm512_max_epi16(two[j], u->least), u->largest);
        two[j] = _mm512_and_si512(two[j], _mm512_set1_epi16(0xff));
    }
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i bytes = _mm512_permutexvar_epi64(order, _mm512_packus_epi16(two[0], two[1]));
    if (whole)
        _mm512_storeu_si512(q, bytes);
    else
        _mm512_mask_storeu_epi8(q, p->bytes, bytes);
}

INLINE void quantize_group(uint8_t *q, const float *x, int64_t G, const lanes *u, const step how,
                           const nib_dtype format, const nib_dtype math) {
    int64_t i = 0;
    if (how == DIVIDED && math == NIB_F32) {
        for (; i + 64 <= G; i += 64) quantize_64(q + i, x + i, NULL, true, u);
        if (i == G) return;
        const part last = part_of(G - i);
        quantize_64(q + i, x + i, &last, false, u);
        return;
    }
    for (; i + 16 <= G; i += 16) {
        const __m512i codes = quantize16(_mm512_loadu_ps(x + i), u, how, format, math);
        _mm_storeu_si128((void *)(q + i), _mm512_cvtepi32_epi8(codes));
    }
    if (i < G) {
        const __mmask16 first = avx512_first((size_t)(G - i));
        const __m512i codes = quantize16(_mm512_maskz_loadu_ps(first, x + i), u, how, format, math);
        _mm_mask_storeu_epi8(q + i, first, _mm512_cvtepi32_epi8(codes));
    }
}

INLINE void quantize_groups(uint8_t *q, const float *x, int64_t groups, int64_t G,
                            const float *shift, const float *factor, const int32_t *zero, int qmin,
                            int qmax, const step how, const nib_dtype math) {
    for (int64_t g = 0; g < groups; g++) {
        const int z = zero ? zero[g] : 0;
        const float low = (float)(qmin - z), high = (float)(qmax - z);
        lanes u = {.factor = _mm512_set1_ps(factor[g]),
                   .shift = _mm512_set1_ps(how == SHIFTED_DIVIDED ? shift[g] : 0.0f),
                   .low = _mm512_set1_ps(low),
                   .high = _mm512_set1_ps(high),
                   .zero = _mm512_set1_epi32(z)};
        if (how == DIVIDED && math == NIB_F32) {
            fix(&u, factor[g], z);
            u.least = _mm512_set1_epi16((short)qmin);
            u.largest = _mm512_set1_epi16((short)qmax);
        }
        quantize_group(q + g * G, x + g * G, G, &u, how, NIB_F32, math);
    }
}

static void quantize_scaled(uint8_t *q, const float *x, int64_t groups, int64_t G,
                            const float *inverse, const int32_t *zero, int qmin, int qmax,
                            nib_dtype math) {
#define SCALED_IN(m) quantize_groups(q, x, groups, G, NULL, inverse, zero, qmin, qmax, SCALED, m)
    FOR_EACH_MATH(math, SCALED_IN);
}

static void quantize_divided(uint8_t *q, const float *x, int64_t groups, int64_t G,
                             const float *shift, const float *scale, const int32_t *zero, int qmin,
                             int qmax, nib_dtype math) {
#define DIVIDED_IN(m) quantize_groups(q, x, groups, G, NULL, scale, zero, qmin, qmax, DIVIDED, m)
#define SHIFTED_IN(m)                                                                              \
    quantize_groups(q, x, groups, G, shift, scale, zero, qmin, qmax, SHIFTED_DIVIDED, m)
    if (shift)
        FOR_EACH_MATH(math, SHIFTED_IN);
    else
        FOR_EACH_MATH(math, DIVIDED_IN);
}

/* Asks for what lies so many floats on; it need not be there. */
INLINE void fetch(const float *x, int64_t ahead) {
    _mm_prefetch((const char *)(uintptr_t)((uintptr_t)x + (uintptr_t)ahead * sizeof *x),
                 _MM_HINT_T0);
}

static void quantize_lines(uint8_t *q, int64_t ldq, const float *x, int64_t ldx, int64_t rows,
                           int64_t n, float scale, int qmin, int qmax) {
    lanes u = {.factor = _mm512_set1_ps(scale),
               .low = _mm512_set1_ps((float)qmin),
               .high = _mm512_set1_ps((float)qmax),
               .least = _mm512_set1_epi16((short)qmin),
               .largest = _mm512_set1_epi16((short)qmax)};
    fix(&u, scale, 0);
    /* As many rows are likely to be next, and so on; memory is some 2048 floats away. */
    const int64_t ahead = rows * ldx * (1 + 2048 / (rows * n + 1));
    const part last = part_of(n % 64 ? n % 64 : 64);
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x + r * ldx;
        uint8_t *to = q + r * ldq;
        int64_t i = 0;
        for (; i + 64 <= n; i += 64) {
            for (int j = 0; j < 64; j += 16) fetch(from, ahead + i + j);
            quantize_64(to + i, from + i, NULL, true, &u);
        }
        if (i == n) continue;
        for (int64_t j = i; j < n; j += 16) fetch(from, ahead + j);
        quantize_64(to + i, from + i, &last, false, &u);
    }
}

INLINE void f8_groups(uint8_t *q, const float *x, int64_t groups, int64_t G, const float *scale,
                      float limit, const nib_dtype format, const nib_dtype math) {
    const float most = format == NIB_F8_E4M3FN ? 448 : format == NIB_F8_E5M2 ? 57344 : 240;
    for (int64_t g = 0; g < groups; g++) {
        const lanes u = {.factor = _mm512_set1_ps(scale[g]),
                         .low = _mm512_set1_ps(-limit),
                         .high = _mm512_set1_ps(limit),
                         .rare = scale[g] == 0 || !(limit >= 0 && limit <= most)};
        quantize_group(q + g * G, x + g * G, G, &u, F8, format, math);
    }
}

static void quantize_f8(uint8_t *q, const float *x, int64_t groups, int64_t G, const float *scale,
                        float limit, nib_dtype format, nib_dtype math) {
#define E4M3FN_IN(m)   f8_groups(q, x, groups, G, scale, limit, NIB_F8_E4M3FN, m)
#define E5M2_IN(m)     f8_groups(q, x, groups, G, scale, limit, NIB_F8_E5M2, m)
#define E4M3FNUZ_IN(m) f8_groups(q, x, groups, G, scale, limit, NIB_F8_E4M3FNUZ, m)
    if (format == NIB_F8_E4M3FN)
        FOR_EACH_MATH(math, E4M3FN_IN);
    else if (format == NIB_F8_E5M2)
        FOR_EACH_MATH(math, E5M2_IN);
    else
        FOR_EACH_MATH(math, E4M3FNUZ_IN);
}

/* out = (q - zero) * scale, and with `add` one more step. */
INLINE __m512 dequantize16(__m128i bytes, const bool is_signed, const lanes *u, const bool add,
                           const nib_dtype math) {
    const __m512i q = is_signed ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes);
    const __m512 steps = _mm512_cvtepi32_ps(_mm512_sub_epi32(q, u->zero));
    const __m512 product = rounded(_mm512_mul_ps(steps, u->factor), math);
    return add ? rounded(_mm512_add_ps(product, u->shift), math) : product;
}

INLINE void dequantize_groups(float *out, const uint8_t *q, int64_t groups, int64_t G,
                              bool is_signed, const float *scale, const int32_t *zero,
                              const float *shift, const bool add, const nib_dtype math) {
    for (int64_t g = 0; g < groups; g++, out += G, q += G) {
        const lanes u = {.factor = _mm512_set1_ps(scale[g]),
                         .shift = _mm512_set1_ps(add ? shift[g] : 0.0f),
                         .zero = _mm512_set1_epi32(zero ? zero[g] : 0)};
        int64_t i = 0;
        for (; i + 16 <= G; i += 16) {
            const __m128i bytes = _mm_loadu_si128((const void *)(q + i));
            _mm512_storeu_ps(out + i, dequantize16(bytes, is_signed, &u, add, math));
        }
        if (i < G) {
            const __mmask16 first = avx512_first((size_t)(G - i));
            const __m128i bytes = _mm_maskz_loadu_epi8(first, q + i);
            _mm512_mask_storeu_ps(out + i, first, dequantize16(bytes, is_signed, &u, add, math));
        }
    }
}

static void dequantize_scaled(float *out, const uint8_t *q, int64_t groups, int64_t G,
                              bool is_signed, const float *scale, const int32_t *zero,
                              nib_dtype math) {
#define BACK_IN(m) dequantize_groups(out, q, groups, G, is_signed, scale, zero, NULL, false, m)
    FOR_EACH_MATH(math, BACK_IN);
}

static void dequantize_shifted(float *out, const uint8_t *q, int64_t groups, int64_t G,
                               bool is_signed, const float *scale, const float *add,
                               nib_dtype math) {
#define BACK_AND_ADD_IN(m)                                                                         \
    dequantize_groups(out, q, groups, G, is_signed, scale, NULL, add, true, m)
    FOR_EACH_MATH(math, BACK_AND_ADD_IN);
}

static void install(nib_kernels *k) {
    k->quantize_scaled = quantize_scaled;
    k->quantize_divided = quantize_divided;
    k->quantize_lines = quantize_lines;
    k->quantize_f8 = quantize_f8;
    k->dequantize_scaled = dequantize_scaled;
    k->dequantize_shifted = dequantize_shifted;
}
const nib_kernel_set nib_kernels_quantize_avx512 = {
    .name = "quantize_avx512", .needs = NIB_CPU_AVX512, .install = install};
