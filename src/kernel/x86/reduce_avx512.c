/* reduce_avx512.c: 16 lanes are one vector; ranges compare floats as integers. */
#include "kernel/kernel.h"
#include "kernel/x86/float_avx512.h"

static float dot_f32(const float *x, const float *y, size_t n) { return avx512_dot(x, y, n); }
static float sum_f32(const float *x, size_t n) { return avx512_sum(x, n); }
static float sum_squares_f32(const float *x, size_t n) { return avx512_dot(x, x, n); }

/* Integers in the order of the floats, -0 before +0; the map is its own inverse. */
static __m512i rank(__m512i bits) {
    const __m512i flip = _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 1);
    return _mm512_xor_si512(bits, flip);
}

static float of_rank(int32_t r) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(r < 0 ? r ^ 0x7fffffff : r)));
}

static void minmax_f32(float *min, float *max, const float *x, int64_t groups, int64_t G) {
    const int32_t rank_inf = 0x7f800000, rank_minus_inf = (int32_t)0x807fffffu;
    for (int64_t g = 0; g < groups; g++, x += G) {
        __m512i low = _mm512_set1_epi32(INT32_MAX), high = _mm512_set1_epi32(INT32_MIN);
        __m512i low2 = low, high2 = high;
        int64_t i = 0;
        for (; i + 32 <= G; i += 32) {
            const __m512i a = rank(_mm512_loadu_si512(x + i));
            const __m512i b = rank(_mm512_loadu_si512(x + i + 16));
            low = _mm512_min_epi32(low, a);
            high = _mm512_max_epi32(high, a);
            low2 = _mm512_min_epi32(low2, b);
            high2 = _mm512_max_epi32(high2, b);
        }
        for (; i < G; i += 16) {
            const __mmask16 first = avx512_first((size_t)(G - i));
            const __m512i a = rank(_mm512_maskz_loadu_epi32(first, x + i));
            low = _mm512_mask_min_epi32(low, first, low, a);
            high = _mm512_mask_max_epi32(high, first, high, a);
        }
        const int32_t least = _mm512_reduce_min_epi32(_mm512_min_epi32(low, low2));
        const int32_t most = _mm512_reduce_max_epi32(_mm512_max_epi32(high, high2));
        const bool nan = least < rank_minus_inf || most > rank_inf;
        min[g] = nan ? NAN : of_rank(least);
        max[g] = nan ? NAN : of_rank(most);
    }
}

static void absmax_f32(float *out, const float *x, int64_t groups, int64_t G) {
    const __m512i all_but_sign = _mm512_set1_epi32(0x7fffffff);
    for (int64_t g = 0; g < groups; g++, x += G) {
        __m512i a = _mm512_setzero_si512(), b = a;
        int64_t i = 0;
        for (; i + 32 <= G; i += 32) {
            const __m512i u = _mm512_loadu_si512(x + i), v = _mm512_loadu_si512(x + i + 16);
            a = _mm512_max_epi32(a, _mm512_and_si512(u, all_but_sign));
            b = _mm512_max_epi32(b, _mm512_and_si512(v, all_but_sign));
        }
        for (; i < G; i += 16) {
            const __m512i u = _mm512_maskz_loadu_epi32(avx512_first((size_t)(G - i)), x + i);
            a = _mm512_max_epi32(a, _mm512_and_si512(u, all_but_sign));
        }
        out[g] = of_rank(_mm512_reduce_max_epi32(_mm512_max_epi32(a, b)));
    }
}

static double tree(__m512d lanes) {
    const __m256d four =
        _mm256_add_pd(_mm512_castpd512_pd256(lanes), _mm512_extractf64x4_pd(lanes, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

/* Lanes that are missing add zeros. */
static void loss_f32(double *signal, double *noise, double *most, const float *w, const float *v,
                     size_t n) {
    __m512d kept = _mm512_setzero_pd(), lost = kept, worst = kept;
    for (size_t i = 0; i < n; i += 8) {
        const __mmask8 first = (__mmask8)avx512_first(n - i < 8 ? n - i : 8);
        const __m512d a = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(first, w + i));
        const __m512d error =
            _mm512_sub_pd(a, _mm512_cvtps_pd(_mm256_maskz_loadu_ps(first, v + i)));
        kept = _mm512_add_pd(kept, _mm512_mul_pd(a, a));
        lost = _mm512_add_pd(lost, _mm512_mul_pd(error, error));
        worst = _mm512_max_pd(worst, _mm512_andnot_pd(_mm512_set1_pd(-0.0), error));
    }
    *signal = tree(kept);
    *noise = tree(lost);
    const __m256d four =
        _mm256_max_pd(_mm512_castpd512_pd256(worst), _mm512_extractf64x4_pd(worst, 1));
    const __m128d two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    *most = _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

static void install(nib_kernels *k) {
    k->dot_f32 = dot_f32;
    k->sum_f32 = sum_f32;
    k->sum_squares_f32 = sum_squares_f32;
    k->minmax_f32 = minmax_f32;
    k->absmax_f32 = absmax_f32;
    k->loss_f32 = loss_f32;
}
const nib_kernel_set nib_kernels_reduce_avx512 = {
    .name = "reduce_avx512", .needs = NIB_CPU_AVX512, .install = install};
