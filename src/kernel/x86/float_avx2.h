/* float_avx2.h: what several AVX2 kernels are made of; step for step what ref/float_ref.h is. */
#ifndef NIB_KERNEL_X86_FLOAT_AVX2_H
#define NIB_KERNEL_X86_FLOAT_AVX2_H
#include <immintrin.h>
#include <math.h>
#include <nibble/nibble.h>
#include <stddef.h>
#include <stdint.h>

/* The first n <= 8 elements of a vector; the rest 0, and not touched in memory. */
static inline __m256i avx2_first(size_t n) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < 8 ? (int)n : 8), index);
}
static inline __m256 avx2_load_first(const float *x, size_t n) {
    return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, avx2_first(n));
}
/* Whole vectors go without a mask: storing under one takes some processors 20 times as long. */
static inline void avx2_store_first(float *out, size_t n, __m256 v) {
    if (n >= 8)
        _mm256_storeu_ps(out, v);
    else
        _mm256_maskstore_ps(out, avx2_first(n), v);
}

/* Lanes 0-7 and 8-15 by the tree: 16 -> 8 -> 4 -> 2 -> 1. */
static inline float avx2_tree(__m256 low, __m256 high) {
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float avx2_dot(const float *x, const float *y, size_t n) {
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        low = _mm256_fmadd_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i), low);
        high = _mm256_fmadd_ps(_mm256_loadu_ps(x + i + 8), _mm256_loadu_ps(y + i + 8), high);
    }
    if (i < n) { /* a missing element must leave its lane alone: fma(0, 0, -0) would be +0 */
        const size_t rest = n - i, more = rest > 8 ? rest - 8 : 0;
        const __m256 a = avx2_load_first(x + i, rest), b = avx2_load_first(y + i, rest);
        low = _mm256_blendv_ps(low, _mm256_fmadd_ps(a, b, low),
                               _mm256_castsi256_ps(avx2_first(rest)));
        if (more) {
            const __m256 c = avx2_load_first(x + i + 8, more), d = avx2_load_first(y + i + 8, more);
            high = _mm256_blendv_ps(high, _mm256_fmadd_ps(c, d, high),
                                    _mm256_castsi256_ps(avx2_first(more)));
        }
    }
    return avx2_tree(low, high);
}

static inline float avx2_sum(const float *x, size_t n) {
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        low = _mm256_add_ps(low, _mm256_loadu_ps(x + i));
        high = _mm256_add_ps(high, _mm256_loadu_ps(x + i + 8));
    }
    if (i < n) {
        const size_t rest = n - i, more = rest > 8 ? rest - 8 : 0;
        low = _mm256_blendv_ps(low, _mm256_add_ps(low, avx2_load_first(x + i, rest)),
                               _mm256_castsi256_ps(avx2_first(rest)));
        if (more)
            high = _mm256_blendv_ps(high, _mm256_add_ps(high, avx2_load_first(x + i + 8, more)),
                                    _mm256_castsi256_ps(avx2_first(more)));
    }
    return avx2_tree(low, high);
}

/* The largest, NaN passed over; -inf for none. Which zero is left open. */
static inline float avx2_max(const float *x, size_t n) {
    __m256 most = _mm256_set1_ps(-INFINITY), more = most;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        most = _mm256_max_ps(_mm256_loadu_ps(x + i), most);
        more = _mm256_max_ps(_mm256_loadu_ps(x + i + 8), more);
    }
    for (; i < n; i += 8) {
        const __m256i first = avx2_first(n - i);
        const __m256 v = _mm256_maskload_ps(x + i, first);
        most = _mm256_blendv_ps(most, _mm256_max_ps(v, most), _mm256_castsi256_ps(first));
    }
    most = _mm256_max_ps(most, more);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

static inline __m256 avx2_abs(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

static inline __m256 avx2_power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

static inline __m256 avx2_exp(__m256 x) {
    const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    const __m256 clamped =
        _mm256_min_ps(_mm256_set1_ps(89.0f), _mm256_max_ps(_mm256_set1_ps(-104.0f), x));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(clamped, _mm256_set1_ps(0x1.715476p+0f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62ep-1f), clamped);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.0bfbe8p-15f), r);
    __m256 q = _mm256_set1_ps(0x1.6a1a72p-10f);
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.123fc6p-7f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.555916p-5f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.55548ap-3f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.fffffcp-2f));
    const __m256 e =
        _mm256_add_ps(_mm256_set1_ps(1.0f), _mm256_fmadd_ps(_mm256_mul_ps(r, r), q, r));
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const __m256 scaled = _mm256_mul_ps(_mm256_mul_ps(e, avx2_power_of_two(half)),
                                        avx2_power_of_two(_mm256_sub_epi32(whole, half)));
    return _mm256_blendv_ps(scaled, x, nan);
}

static inline __m256 avx2_sigmoid(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f), zero = _mm256_setzero_ps();
    const __m256 e = avx2_exp(_mm256_or_ps(x, _mm256_set1_ps(-0.0f)));
    const __m256 above = _mm256_blendv_ps(one, e, _mm256_cmp_ps(x, zero, _CMP_LT_OQ));
    return _mm256_div_ps(above, _mm256_add_ps(one, e));
}

static inline __m256 avx2_tanh(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f), a = avx2_abs(x), z = _mm256_mul_ps(x, x);
    __m256 p = _mm256_set1_ps(-0x1.6f41eep-8f);
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.50b82p-6f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-0x1.b806a4p-5f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.1105a2p-3f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-0x1.55552cp-2f));
    const __m256 near = _mm256_fmadd_ps(_mm256_mul_ps(a, z), p, a);
    const __m256 e = avx2_exp(_mm256_add_ps(a, a));
    const __m256 far =
        _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(e, one)));
    const __m256 y =
        _mm256_blendv_ps(far, near, _mm256_cmp_ps(a, _mm256_set1_ps(0.625f), _CMP_LT_OQ));
    return _mm256_or_ps(y, _mm256_and_ps(x, _mm256_set1_ps(-0.0f))); /* y >= 0 or NaN */
}

static inline __m256 avx2_erf(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f), a = avx2_abs(x), z = _mm256_mul_ps(a, a);
    __m256 p = _mm256_set1_ps(-0x1.2740f2p-11f);
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.424744p-8f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-0x1.b5a37ap-6f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.ce0946p-4f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-0x1.812674p-2f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0x1.06eba2p-3f));
    const __m256 near = _mm256_fmadd_ps(a, p, a);
    const __m256 u = _mm256_div_ps(one, _mm256_fmadd_ps(a, _mm256_set1_ps(0.5f), one));
    __m256 r = _mm256_set1_ps(-0x1.3d88fap-5f);
    r = _mm256_fmadd_ps(r, u, _mm256_set1_ps(0x1.72835ep-1f));
    r = _mm256_fmadd_ps(r, u, _mm256_set1_ps(-0x1.f76690p-5f));
    r = _mm256_fmadd_ps(r, u, _mm256_set1_ps(0x1.91e13ap-2f));
    r = _mm256_fmadd_ps(r, u, _mm256_set1_ps(-0x1.ba93bap-7f));
    const __m256 e = avx2_exp(_mm256_xor_ps(z, _mm256_set1_ps(-0.0f)));
    const __m256 far = _mm256_sub_ps(one, _mm256_mul_ps(e, r));
    const __m256 y = _mm256_blendv_ps(far, near, _mm256_cmp_ps(a, one, _CMP_LT_OQ));
    return _mm256_or_ps(y, _mm256_and_ps(x, _mm256_set1_ps(-0.0f))); /* y >= 0 or NaN */
}

static inline __m256 avx2_gelu(__m256 x) {
    const __m256 below = avx2_erf(_mm256_mul_ps(x, _mm256_set1_ps(0x1.6a09e6p-1f)));
    return _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(0.5f), x),
                         _mm256_add_ps(_mm256_set1_ps(1.0f), below));
}
static inline __m256 avx2_gelu_tanh(__m256 x) {
    const __m256 cube = _mm256_mul_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0x1.6e4e26p-5f));
    const __m256 t = _mm256_fmadd_ps(cube, x, x);
    const __m256 below = avx2_tanh(_mm256_mul_ps(t, _mm256_set1_ps(0x1.988454p-1f)));
    return _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(0.5f), x),
                         _mm256_add_ps(_mm256_set1_ps(1.0f), below));
}

/* Every result of a float step rounded to bf16 and back; a NaN becomes ffff0000. */
static inline __m256i avx2_bf16_bits(__m256 x) { /* the code in the upper half of each element */
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_and_si256(_mm256_or_si256(rounded, nan), _mm256_set1_epi32((int)0xffff0000u));
}
static inline __m256 avx2_round_bf16(__m256 x) { return _mm256_castsi256_ps(avx2_bf16_bits(x)); }
static inline __m256 avx2_round_f16(__m256 x) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* ref: nib_round_magnitude and what follows it, for 8 values; a code in each element.
 * Below the first normal number, adding a power of two whose last place is the format's smallest
 * step makes the addition itself round to nearest even. */
static inline __m256i avx2_f8_codes(__m256 x, const nib_dtype format) {
    const int m = format == NIB_F8_E5M2 ? 2 : 3;
    const int bias = format == NIB_F8_E4M3FN ? 7 : format == NIB_F8_E5M2 ? 15 : 8;
    const int most = format == NIB_F8_E4M3FN ? 0x7e : format == NIB_F8_E5M2 ? 0x7c : 0x80;
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));

    const __m256i odd =
        _mm256_and_si256(_mm256_srli_epi32(magnitude, 23 - m), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32((1 << (22 - m)) - 1));
    const __m256i normal =
        _mm256_sub_epi32(_mm256_srli_epi32(_mm256_add_epi32(magnitude, up), 23 - m),
                         _mm256_set1_epi32((127 - bias) << m));
    const __m256 step = _mm256_castsi256_ps(_mm256_set1_epi32((151 - bias - m) << 23));
    const __m256i below =
        _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(magnitude), step)),
                         _mm256_castps_si256(step));
    const __m256i is_below = _mm256_cmpgt_epi32(_mm256_set1_epi32((128 - bias) << 23), magnitude);
    __m256i code = _mm256_blendv_epi8(normal, below, is_below);
    code = _mm256_min_epi32(code, _mm256_set1_epi32(most));

    const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    if (format == NIB_F8_E4M3FNUZ) { /* one zero without a sign, one NaN: 80 */
        code = _mm256_blendv_epi8(code, _mm256_set1_epi32(0x80), nan);
        const __m256i zero = _mm256_cmpeq_epi32(code, _mm256_setzero_si256());
        code = _mm256_or_si256(code, _mm256_andnot_si256(zero, sign));
    } else {
        code = _mm256_blendv_epi8(code, _mm256_set1_epi32(0x7f), nan);
        code = _mm256_or_si256(code, sign);
    }
    return code;
}

/* The same of numbers, clamped to [-limit, limit], a limit that the format has. */
static inline __m256i avx2_f8_within(__m256 x, __m256 limit, const nib_dtype format) {
    const int m = format == NIB_F8_E5M2 ? 2 : 3;
    const int bias = format == NIB_F8_E4M3FN ? 7 : format == NIB_F8_E5M2 ? 15 : 8;
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i magnitude = _mm256_min_epi32(
        _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)), _mm256_castps_si256(limit));
    const __m256i odd =
        _mm256_and_si256(_mm256_srli_epi32(magnitude, 23 - m), _mm256_set1_epi32(1));
    const __m256i up = _mm256_set1_epi32((1 << (22 - m)) - 1 - ((127 - bias) << 23));
    const __m256i normal =
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(magnitude, up), odd), 23 - m);
    const __m256i step = _mm256_set1_epi32((151 - bias - m) << 23);
    const __m256 sum = _mm256_add_ps(_mm256_castsi256_ps(magnitude), _mm256_castsi256_ps(step));
    const __m256i below = _mm256_sub_epi32(_mm256_castps_si256(sum), step);
    const __m256i is_below = _mm256_cmpgt_epi32(_mm256_set1_epi32((128 - bias) << 23), magnitude);
    const __m256i code = _mm256_blendv_epi8(normal, below, is_below);
    __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));
    if (format == NIB_F8_E4M3FNUZ) /* a zero has no sign */
        sign = _mm256_andnot_si256(_mm256_cmpeq_epi32(code, _mm256_setzero_si256()), sign);
    return _mm256_or_si256(code, sign);
}
/* The same in the low 8 bytes, of any x. */
static inline __m128i avx2_narrow_f8(__m256 x, const nib_dtype format) {
    const __m256i code = avx2_f8_codes(x, format);
    const __m128i half =
        _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    return _mm_packus_epi16(half, half);
}
#endif
