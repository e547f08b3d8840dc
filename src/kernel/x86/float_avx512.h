/* float_avx512.h: what several AVX-512 kernels are made of; step for step what ref/float_ref.h is.
 * The sixteen lanes of a sum are one vector. */
#ifndef NIB_KERNEL_X86_FLOAT_AVX512_H
#define NIB_KERNEL_X86_FLOAT_AVX512_H
#include <immintrin.h>
#include <math.h>
#include <nibble/nibble.h>
#include <stddef.h>
#include <stdint.h>

/* The first n elements of a vector, all 16 from 16 on. */
static inline __mmask16 avx512_first(size_t n) {
    return (__mmask16)(n < 16 ? (1u << n) - 1 : 0xffffu);
}
static inline __m512 avx512_load_first(const float *x, size_t n) {
    return _mm512_maskz_loadu_ps(avx512_first(n), x);
}
static inline void avx512_store_first(float *out, size_t n, __m512 v) {
    _mm512_mask_storeu_ps(out, avx512_first(n), v);
}

/* The tree over the lanes: 16 -> 8 -> 4 -> 2 -> 1. */
static inline float avx512_tree(__m512 lanes) {
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float avx512_dot(const float *x, const float *y, size_t n) {
    __m512 lanes = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        lanes = _mm512_fmadd_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(y + i), lanes);
    if (i < n) { /* a missing element leaves its lane alone */
        const __mmask16 first = avx512_first(n - i);
        lanes = _mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(first, x + i),
                                      _mm512_maskz_loadu_ps(first, y + i), lanes, first);
    }
    return avx512_tree(lanes);
}

static inline float avx512_sum(const float *x, size_t n) {
    __m512 lanes = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) lanes = _mm512_add_ps(lanes, _mm512_loadu_ps(x + i));
    if (i < n) {
        const __mmask16 first = avx512_first(n - i);
        lanes = _mm512_mask_add_ps(lanes, first, lanes, _mm512_maskz_loadu_ps(first, x + i));
    }
    return avx512_tree(lanes);
}

/* The largest, NaN passed over; -inf for none. Which zero is left open. */
static inline float avx512_max(const float *x, size_t n) {
    __m512 most = _mm512_set1_ps(-INFINITY), more = most;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        most = _mm512_max_ps(_mm512_loadu_ps(x + i), most);
        more = _mm512_max_ps(_mm512_loadu_ps(x + i + 16), more);
    }
    for (; i < n; i += 16) {
        const __mmask16 first = avx512_first(n - i);
        most = _mm512_mask_max_ps(most, first, _mm512_maskz_loadu_ps(first, x + i), most);
    }
    most = _mm512_max_ps(most, more);
    const __m256 eight =
        _mm256_max_ps(_mm512_castps512_ps256(most), _mm512_extractf32x8_ps(most, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/* exp of x <= 89 and not below -104, or of a NaN, which stays one in every step. scalef is the
 * exact product with 2^n, rounded once: what the two factors of ref_exp make. */
static inline __m512 avx512_exp_within(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62ep-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.0bfbe8p-15f), r);
    __m512 q = _mm512_set1_ps(0x1.6a1a72p-10f);
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.123fc6p-7f));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.555916p-5f));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.55548ap-3f));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.fffffcp-2f));
    const __m512 e =
        _mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_fmadd_ps(_mm512_mul_ps(r, r), q, r));
    return _mm512_scalef_ps(e, n);
}
/* max and min give their second operand where one is a NaN. */
static inline __m512 avx512_exp(__m512 x) {
    return avx512_exp_within(
        _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x)));
}

static inline __m512 avx512_sigmoid(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 e = avx512_exp(_mm512_or_ps(x, _mm512_set1_ps(-0.0f)));
    const __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_div_ps(_mm512_mask_mov_ps(one, below, e), _mm512_add_ps(one, e));
}

static inline __m512 avx512_tanh(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f), sign = _mm512_set1_ps(-0.0f);
    const __m512 a = _mm512_andnot_ps(sign, x), z = _mm512_mul_ps(x, x);
    __m512 p = _mm512_set1_ps(-0x1.6f41eep-8f);
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.50b82p-6f));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-0x1.b806a4p-5f));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.1105a2p-3f));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-0x1.55552cp-2f));
    const __m512 near = _mm512_fmadd_ps(_mm512_mul_ps(a, z), p, a);
    const __m512 e = avx512_exp(_mm512_add_ps(a, a));
    const __m512 far =
        _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(e, one)));
    const __mmask16 small = _mm512_cmp_ps_mask(a, _mm512_set1_ps(0.625f), _CMP_LT_OQ);
    return _mm512_or_ps(_mm512_mask_mov_ps(far, small, near), _mm512_and_ps(x, sign));
}

static inline __m512 avx512_erf(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f), sign = _mm512_set1_ps(-0.0f);
    const __m512 a = _mm512_andnot_ps(sign, x), z = _mm512_mul_ps(a, a);
    __m512 p = _mm512_set1_ps(-0x1.2740f2p-11f);
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.424744p-8f));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-0x1.b5a37ap-6f));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.ce0946p-4f));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-0x1.812674p-2f));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.06eba2p-3f));
    const __m512 near = _mm512_fmadd_ps(a, p, a);
    const __m512 u = _mm512_div_ps(one, _mm512_fmadd_ps(a, _mm512_set1_ps(0.5f), one));
    __m512 r = _mm512_set1_ps(-0x1.3d88fap-5f);
    r = _mm512_fmadd_ps(r, u, _mm512_set1_ps(0x1.72835ep-1f));
    r = _mm512_fmadd_ps(r, u, _mm512_set1_ps(-0x1.f76690p-5f));
    r = _mm512_fmadd_ps(r, u, _mm512_set1_ps(0x1.91e13ap-2f));
    r = _mm512_fmadd_ps(r, u, _mm512_set1_ps(-0x1.ba93bap-7f));
    const __m512 far = _mm512_sub_ps(one, _mm512_mul_ps(avx512_exp(_mm512_xor_ps(z, sign)), r));
    const __mmask16 small = _mm512_cmp_ps_mask(a, one, _CMP_LT_OQ);
    return _mm512_or_ps(_mm512_mask_mov_ps(far, small, near), _mm512_and_ps(x, sign));
}

static inline __m512 avx512_gelu(__m512 x) {
    const __m512 below = avx512_erf(_mm512_mul_ps(x, _mm512_set1_ps(0x1.6a09e6p-1f)));
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.5f), x),
                         _mm512_add_ps(_mm512_set1_ps(1.0f), below));
}
static inline __m512 avx512_gelu_tanh(__m512 x) {
    const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0x1.6e4e26p-5f));
    const __m512 t = _mm512_fmadd_ps(cube, x, x);
    const __m512 below = avx512_tanh(_mm512_mul_ps(t, _mm512_set1_ps(0x1.988454p-1f)));
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.5f), x),
                         _mm512_add_ps(_mm512_set1_ps(1.0f), below));
}

/* Every result of a float step rounded to bf16 and back; a NaN becomes ffff0000. */
static inline __m512i avx512_bf16_bits(__m512 x) { /* the code in the upper half of each element */
    const __m512i bits = _mm512_castps_si512(x), upper = _mm512_set1_epi32((int)0xffff0000u);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 number = _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q);
    return _mm512_mask_and_epi32(upper, number, rounded, upper);
}
static inline __m512 avx512_round_bf16(__m512 x) {
    return _mm512_castsi512_ps(avx512_bf16_bits(x));
}
static inline __m512 avx512_round_f16(__m512 x) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* ref: nib_round_magnitude and what follows it, for 16 values; a code in each element.
 * Below the first normal number, adding a power of two whose last place is the format's smallest
 * step makes the addition itself round to nearest even. */
static inline __m512i avx512_f8_codes(__m512 x, const nib_dtype format) {
    const int m = format == NIB_F8_E5M2 ? 2 : 3;
    const int bias = format == NIB_F8_E4M3FN ? 7 : format == NIB_F8_E5M2 ? 15 : 8;
    const int most = format == NIB_F8_E4M3FN ? 0x7e : format == NIB_F8_E5M2 ? 0x7c : 0x80;
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), _mm512_set1_epi32(0x80));

    const __m512i odd =
        _mm512_and_si512(_mm512_srli_epi32(magnitude, (unsigned)(23 - m)), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32((1 << (22 - m)) - 1));
    const __m512i normal =
        _mm512_sub_epi32(_mm512_srli_epi32(_mm512_add_epi32(magnitude, up), (unsigned)(23 - m)),
                         _mm512_set1_epi32((127 - bias) << m));
    const __m512i step = _mm512_set1_epi32((151 - bias - m) << 23);
    const __m512 sum = _mm512_add_ps(_mm512_castsi512_ps(magnitude), _mm512_castsi512_ps(step));
    const __mmask16 is_below =
        _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32((128 - bias) << 23));
    __m512i code = _mm512_mask_sub_epi32(normal, is_below, _mm512_castps_si512(sum), step);
    code = _mm512_min_epi32(code, _mm512_set1_epi32(most));

    const __mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
    if (format == NIB_F8_E4M3FNUZ) { /* one zero without a sign, one NaN: 80 */
        code = _mm512_mask_mov_epi32(code, nan, _mm512_set1_epi32(0x80));
        return _mm512_mask_or_epi32(code, _mm512_test_epi32_mask(code, code), code, sign);
    }
    return _mm512_or_si512(_mm512_mask_mov_epi32(code, nan, _mm512_set1_epi32(0x7f)), sign);
}

/* The same of numbers, clamped to [-limit, limit], a limit that the format has. */
static inline __m512i avx512_f8_within(__m512 x, __m512 limit, const nib_dtype format) {
    const int m = format == NIB_F8_E5M2 ? 2 : 3;
    const int bias = format == NIB_F8_E4M3FN ? 7 : format == NIB_F8_E5M2 ? 15 : 8;
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i magnitude = _mm512_min_epi32(
        _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)), _mm512_castps_si512(limit));
    const __m512i odd =
        _mm512_and_si512(_mm512_srli_epi32(magnitude, (unsigned)(23 - m)), _mm512_set1_epi32(1));
    const __m512i up = _mm512_set1_epi32((1 << (22 - m)) - 1 - ((127 - bias) << 23));
    const __m512i normal = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(magnitude, up), odd),
                                             (unsigned)(23 - m));
    const __m512i step = _mm512_set1_epi32((151 - bias - m) << 23);
    const __m512 sum = _mm512_add_ps(_mm512_castsi512_ps(magnitude), _mm512_castsi512_ps(step));
    const __mmask16 is_below =
        _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32((128 - bias) << 23));
    const __m512i code = _mm512_mask_sub_epi32(normal, is_below, _mm512_castps_si512(sum), step);
    const __m512i sign = _mm512_srli_epi32(bits, 24), top = _mm512_set1_epi32(0x80);
    if (format == NIB_F8_E4M3FNUZ) /* a zero has no sign */
        return _mm512_mask_ternarylogic_epi32(code, _mm512_test_epi32_mask(code, code), sign, top,
                                              0xf8);
    return _mm512_ternarylogic_epi32(code, sign, top, 0xf8); /* a | b & c */
}
#endif
