/* quantize_avx2.c: floats to codes and back, 8 at a time, every float step rounded to `math`.
 * The three values of `math` become three copies of each loop, so the choice costs nothing. */
#include <string.h>

#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m256 rounded(__m256 x, const nib_dtype math) {
    return math == NIB_BF16 ? avx2_round_bf16(x) : math == NIB_F16 ? avx2_round_f16(x) : x;
}

/* What one group needs, spread over lanes. */
typedef struct lanes {
    __m256 factor, shift; /* inverse or scale; what is subtracted or added */
    __m256 low, high;     /* bounds in code units, or of the fp8 format */
    __m256i zero;
    bool rare; /* fp8: a scale of 0, or a bound that the format has not */
} lanes;

/* The integer codes of 8 floats in code units. Conversion rounds to nearest even; clamping first
 * to whole bounds gives the same code, and keeps it in range. */
INLINE __m256i to_codes(__m256 d, const lanes *u) {
    const __m256i number = _mm256_castps_si256(_mm256_cmp_ps(d, d, _CMP_ORD_Q));
    const __m256 in_range = _mm256_min_ps(_mm256_max_ps(d, u->low), u->high);
    const __m256i codes = _mm256_add_epi32(_mm256_cvtps_epi32(in_range), u->zero);
    return _mm256_and_si256(codes, number);
}

INLINE __m256i low_bytes(__m256i codes) { return _mm256_and_si256(codes, _mm256_set1_epi32(0xff)); }

/* The low bytes of 8 integers, in the low half. */
INLINE __m128i narrow8(__m256i codes) {
    const __m256i bytes = low_bytes(codes);
    const __m128i halves =
        _mm_packus_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    return _mm_packus_epi16(halves, halves);
}

/* And of 32: packing works within 128-bit halves, so 4-byte pieces end up as
 * a0 b0 c0 d0 a1 b1 c1 d1, and one permutation sorts them. */
INLINE __m256i narrow32(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i ab = _mm256_packus_epi32(low_bytes(a), low_bytes(b));
    const __m256i cd = _mm256_packus_epi32(low_bytes(c), low_bytes(d));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(ab, cd), order);
}

typedef enum step { SCALED, DIVIDED, SHIFTED_DIVIDED, F8 } step;

INLINE __m256i quantize8(__m256 x, const lanes *u, const step how, const nib_dtype format,
                         const nib_dtype math) {
    if (how == SCALED) return to_codes(rounded(_mm256_mul_ps(x, u->factor), math), u);
    const __m256 moved = how == SHIFTED_DIVIDED ? rounded(_mm256_sub_ps(x, u->shift), math) : x;
    const __m256 d = rounded(_mm256_div_ps(moved, u->factor), math);
    if (how != F8) return to_codes(d, u);

    const bool numbers = _mm256_movemask_ps(_mm256_cmp_ps(d, d, _CMP_UNORD_Q)) == 0;
    if (__builtin_expect(numbers & !u->rare, 1)) return avx2_f8_within(d, u->high, format);
    const __m256 zero = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
    const __m256 nan = _mm256_or_ps(_mm256_set1_ps(NAN), _mm256_and_ps(x, sign));
    __m256 in_range = _mm256_min_ps(_mm256_max_ps(d, u->low), u->high);
    in_range = _mm256_blendv_ps(in_range, nan, _mm256_cmp_ps(d, d, _CMP_UNORD_Q));
    const __m256 nothing = _mm256_and_ps(_mm256_cmp_ps(x, zero, _CMP_EQ_OQ),
                                         _mm256_cmp_ps(u->factor, zero, _CMP_EQ_OQ));
    return avx2_f8_codes(_mm256_andnot_ps(nothing, in_range), format);
}

INLINE void quantize_group(uint8_t *q, const float *x, int64_t G, const lanes *u, const step how,
                           const nib_dtype format, const nib_dtype math) {
    int64_t i = 0;
    for (; i + 32 <= G; i += 32) {
        __m256i codes[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            codes[j] = quantize8(_mm256_loadu_ps(x + i + 8 * j), u, how, format, math);
        _mm256_storeu_si256((void *)(q + i), narrow32(codes[0], codes[1], codes[2], codes[3]));
    }
    for (; i + 8 <= G; i += 8)
        _mm_storel_epi64((void *)(q + i),
                         narrow8(quantize8(_mm256_loadu_ps(x + i), u, how, format, math)));
    if (i < G) {
        uint8_t rest[16];
        const size_t n = (size_t)(G - i);
        const __m256i codes = quantize8(avx2_load_first(x + i, n), u, how, format, math);
        _mm_storeu_si128((void *)rest, narrow8(codes));
        memcpy(q + i, rest, n);
    }
}

INLINE void quantize_groups(uint8_t *q, const float *x, int64_t groups, int64_t G,
                            const float *shift, const float *factor, const int32_t *zero, int qmin,
                            int qmax, const step how, const nib_dtype math) {
    for (int64_t g = 0; g < groups; g++) {
        const int z = zero ? zero[g] : 0;
        const lanes u = {.factor = _mm256_set1_ps(factor[g]),
                         .shift = _mm256_set1_ps(how == SHIFTED_DIVIDED ? shift[g] : 0.0f),
                         .low = _mm256_set1_ps((float)(qmin - z)),
                         .high = _mm256_set1_ps((float)(qmax - z)),
                         .zero = _mm256_set1_epi32(z)};
        quantize_group(q + g * G, x + g * G, G, &u, how, NIB_F32, math);
    }
}

static void quantize_scaled(uint8_t *q, const float *x, int64_t groups, int64_t G,
                            const float *inverse, const int32_t *zero, int qmin, int qmax,
                            nib_dtype math) {
    switch (math) {
    case NIB_BF16:
        quantize_groups(q, x, groups, G, NULL, inverse, zero, qmin, qmax, SCALED, NIB_BF16);
        break;
    case NIB_F16:
        quantize_groups(q, x, groups, G, NULL, inverse, zero, qmin, qmax, SCALED, NIB_F16);
        break;
    default:
        quantize_groups(q, x, groups, G, NULL, inverse, zero, qmin, qmax, SCALED, NIB_F32);
    }
}

INLINE void divided(uint8_t *q, const float *x, int64_t groups, int64_t G, const float *shift,
                    const float *scale, const int32_t *zero, int qmin, int qmax,
                    const nib_dtype math) {
    if (shift)
        quantize_groups(q, x, groups, G, shift, scale, zero, qmin, qmax, SHIFTED_DIVIDED, math);
    else
        quantize_groups(q, x, groups, G, NULL, scale, zero, qmin, qmax, DIVIDED, math);
}

static void quantize_divided(uint8_t *q, const float *x, int64_t groups, int64_t G,
                             const float *shift, const float *scale, const int32_t *zero, int qmin,
                             int qmax, nib_dtype math) {
    switch (math) {
    case NIB_BF16:
        divided(q, x, groups, G, shift, scale, zero, qmin, qmax, NIB_BF16);
        break;
    case NIB_F16:
        divided(q, x, groups, G, shift, scale, zero, qmin, qmax, NIB_F16);
        break;
    default:
        divided(q, x, groups, G, shift, scale, zero, qmin, qmax, NIB_F32);
    }
}

static void quantize_lines(uint8_t *q, int64_t ldq, const float *x, int64_t ldx, int64_t rows,
                           int64_t n, float scale, int qmin, int qmax) {
    const lanes u = {.factor = _mm256_set1_ps(scale),
                     .shift = _mm256_setzero_ps(),
                     .low = _mm256_set1_ps((float)qmin),
                     .high = _mm256_set1_ps((float)qmax),
                     .zero = _mm256_setzero_si256()};
    for (int64_t r = 0; r < rows; r++)
        quantize_group(q + r * ldq, x + r * ldx, n, &u, DIVIDED, NIB_F32, NIB_F32);
}

INLINE void f8_groups(uint8_t *q, const float *x, int64_t groups, int64_t G, const float *scale,
                      float limit, const nib_dtype format, const nib_dtype math) {
    const float most = format == NIB_F8_E4M3FN ? 448 : format == NIB_F8_E5M2 ? 57344 : 240;
    for (int64_t g = 0; g < groups; g++) {
        const lanes u = {.factor = _mm256_set1_ps(scale[g]),
                         .low = _mm256_set1_ps(-limit),
                         .high = _mm256_set1_ps(limit),
                         .rare = scale[g] == 0 || !(limit >= 0 && limit <= most)};
        quantize_group(q + g * G, x + g * G, G, &u, F8, format, math);
    }
}

INLINE void f8_format(uint8_t *q, const float *x, int64_t groups, int64_t G, const float *scale,
                      float limit, nib_dtype format, const nib_dtype math) {
    switch (format) {
    case NIB_F8_E4M3FN:
        f8_groups(q, x, groups, G, scale, limit, NIB_F8_E4M3FN, math);
        break;
    case NIB_F8_E5M2:
        f8_groups(q, x, groups, G, scale, limit, NIB_F8_E5M2, math);
        break;
    default:
        f8_groups(q, x, groups, G, scale, limit, NIB_F8_E4M3FNUZ, math);
    }
}

static void quantize_f8(uint8_t *q, const float *x, int64_t groups, int64_t G, const float *scale,
                        float limit, nib_dtype format, nib_dtype math) {
    switch (math) {
    case NIB_BF16:
        f8_format(q, x, groups, G, scale, limit, format, NIB_BF16);
        break;
    case NIB_F16:
        f8_format(q, x, groups, G, scale, limit, format, NIB_F16);
        break;
    default:
        f8_format(q, x, groups, G, scale, limit, format, NIB_F32);
    }
}

/* out = (q - zero) * scale, and with `add` one more step. */
INLINE __m256 dequantize8(__m128i bytes, bool is_signed, const lanes *u, const bool add,
                          const nib_dtype math) {
    const __m256i q = is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    const __m256 steps = _mm256_cvtepi32_ps(_mm256_sub_epi32(q, u->zero));
    const __m256 product = rounded(_mm256_mul_ps(steps, u->factor), math);
    return add ? rounded(_mm256_add_ps(product, u->shift), math) : product;
}

INLINE void dequantize_groups(float *out, const uint8_t *q, int64_t groups, int64_t G,
                              bool is_signed, const float *scale, const int32_t *zero,
                              const float *shift, const bool add, const nib_dtype math) {
    for (int64_t g = 0; g < groups; g++, out += G, q += G) {
        const lanes u = {.factor = _mm256_set1_ps(scale[g]),
                         .shift = _mm256_set1_ps(add ? shift[g] : 0.0f),
                         .zero = _mm256_set1_epi32(zero ? zero[g] : 0)};
        int64_t i = 0;
        for (; i + 8 <= G; i += 8) {
            const __m128i bytes = _mm_loadl_epi64((const void *)(q + i));
            _mm256_storeu_ps(out + i, dequantize8(bytes, is_signed, &u, add, math));
        }
        if (i < G) {
            uint8_t rest[16] = {0};
            const size_t n = (size_t)(G - i);
            memcpy(rest, q + i, n);
            const __m128i bytes = _mm_loadu_si128((const void *)rest);
            avx2_store_first(out + i, n, dequantize8(bytes, is_signed, &u, add, math));
        }
    }
}

static void dequantize_scaled(float *out, const uint8_t *q, int64_t groups, int64_t G,
                              bool is_signed, const float *scale, const int32_t *zero,
                              nib_dtype math) {
    switch (math) {
    case NIB_BF16:
        dequantize_groups(out, q, groups, G, is_signed, scale, zero, NULL, false, NIB_BF16);
        break;
    case NIB_F16:
        dequantize_groups(out, q, groups, G, is_signed, scale, zero, NULL, false, NIB_F16);
        break;
    default:
        dequantize_groups(out, q, groups, G, is_signed, scale, zero, NULL, false, NIB_F32);
    }
}

static void dequantize_shifted(float *out, const uint8_t *q, int64_t groups, int64_t G,
                               bool is_signed, const float *scale, const float *add,
                               nib_dtype math) {
    switch (math) {
    case NIB_BF16:
        dequantize_groups(out, q, groups, G, is_signed, scale, NULL, add, true, NIB_BF16);
        break;
    case NIB_F16:
        dequantize_groups(out, q, groups, G, is_signed, scale, NULL, add, true, NIB_F16);
        break;
    default:
        dequantize_groups(out, q, groups, G, is_signed, scale, NULL, add, true, NIB_F32);
    }
}

static void install(nib_kernels *k) {
    k->quantize_scaled = quantize_scaled;
    k->quantize_divided = quantize_divided;
    k->quantize_lines = quantize_lines;
    k->quantize_f8 = quantize_f8;
    k->dequantize_scaled = dequantize_scaled;
    k->dequantize_shifted = dequantize_shifted;
}
const nib_kernel_set nib_kernels_quantize_avx2 = {
    .name = "quantize_avx2", .needs = NIB_CPU_AVX2, .install = install};
