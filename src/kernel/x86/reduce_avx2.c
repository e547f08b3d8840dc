/* reduce_avx2.c: 16 lanes are two vectors; ranges compare floats as integers. */
#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

static float dot_f32(const float *x, const float *y, size_t n) { return avx2_dot(x, y, n); }
static float sum_f32(const float *x, size_t n) { return avx2_sum(x, n); }
static float sum_squares_f32(const float *x, size_t n) { return avx2_dot(x, x, n); }

/* Integers in the order of the floats, -0 before +0; the map is its own inverse. */
static __m256i rank(__m256i bits) {
    const __m256i flip = _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1);
    return _mm256_xor_si256(bits, flip);
}

static int32_t least_of(__m256i v) {
    __m128i four = _mm_min_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_min_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_min_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
static int32_t most_of(__m256i v) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

static float of_rank(int32_t r) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(r < 0 ? r ^ 0x7fffffff : r)));
}

static void minmax_f32(float *min, float *max, const float *x, int64_t groups, int64_t G) {
    const int32_t rank_inf = 0x7f800000, rank_minus_inf = (int32_t)0x807fffffu;
    for (int64_t g = 0; g < groups; g++, x += G) {
        __m256i low = _mm256_set1_epi32(INT32_MAX), high = _mm256_set1_epi32(INT32_MIN);
        __m256i low2 = low, high2 = high;
        int64_t i = 0;
        for (; i + 16 <= G; i += 16) {
            const __m256i a = rank(_mm256_loadu_si256((const void *)(x + i)));
            const __m256i b = rank(_mm256_loadu_si256((const void *)(x + i + 8)));
            low = _mm256_min_epi32(low, a);
            high = _mm256_max_epi32(high, a);
            low2 = _mm256_min_epi32(low2, b);
            high2 = _mm256_max_epi32(high2, b);
        }
        for (; i < G; i += 8) {
            const __m256i first = avx2_first((size_t)(G - i));
            const __m256i a = rank(_mm256_maskload_epi32((const void *)(x + i), first));
            low = _mm256_min_epi32(low, _mm256_blendv_epi8(low, a, first));
            high = _mm256_max_epi32(high, _mm256_blendv_epi8(high, a, first));
        }
        const int32_t least = least_of(_mm256_min_epi32(low, low2));
        const int32_t most = most_of(_mm256_max_epi32(high, high2));
        const bool nan = least < rank_minus_inf || most > rank_inf;
        min[g] = nan ? NAN : of_rank(least);
        max[g] = nan ? NAN : of_rank(most);
    }
}

static void absmax_f32(float *out, const float *x, int64_t groups, int64_t G) {
    const __m256i all_but_sign = _mm256_set1_epi32(0x7fffffff);
    for (int64_t g = 0; g < groups; g++, x += G) {
        __m256i a = _mm256_setzero_si256(), b = a;
        int64_t i = 0;
        for (; i + 16 <= G; i += 16) {
            const __m256i u = _mm256_loadu_si256((const void *)(x + i));
            const __m256i v = _mm256_loadu_si256((const void *)(x + i + 8));
            a = _mm256_max_epi32(a, _mm256_and_si256(u, all_but_sign));
            b = _mm256_max_epi32(b, _mm256_and_si256(v, all_but_sign));
        }
        for (; i < G; i += 8) {
            const __m256i first = avx2_first((size_t)(G - i));
            const __m256i u = _mm256_maskload_epi32((const void *)(x + i), first);
            a = _mm256_max_epi32(a, _mm256_and_si256(u, all_but_sign));
        }
        out[g] = of_rank(most_of(_mm256_max_epi32(a, b)));
    }
}

/* Lanes 0 to 3 and 4 to 7 of the sums, and the largest error of each lane. */
typedef struct losses {
    __m256d kept[2], lost[2], most;
} losses;

static inline void add_losses(losses *l, __m256 w, __m256 v) {
    const __m256d sign = _mm256_set1_pd(-0.0);
    const __m256d a[2] = {_mm256_cvtps_pd(_mm256_castps256_ps128(w)),
                          _mm256_cvtps_pd(_mm256_extractf128_ps(w, 1))};
    const __m256d b[2] = {_mm256_cvtps_pd(_mm256_castps256_ps128(v)),
                          _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
    for (int i = 0; i < 2; i++) {
        const __m256d error = _mm256_sub_pd(a[i], b[i]);
        l->kept[i] = _mm256_add_pd(l->kept[i], _mm256_mul_pd(a[i], a[i]));
        l->lost[i] = _mm256_add_pd(l->lost[i], _mm256_mul_pd(error, error));
        l->most = _mm256_max_pd(l->most, _mm256_andnot_pd(sign, error));
    }
}

static double tree(__m256d low, __m256d high) {
    const __m256d four = _mm256_add_pd(low, high);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

static void loss_f32(double *signal, double *noise, double *most, const float *w, const float *v,
                     size_t n) {
    losses l = {{_mm256_setzero_pd(), _mm256_setzero_pd()},
                {_mm256_setzero_pd(), _mm256_setzero_pd()},
                _mm256_setzero_pd()};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) add_losses(&l, _mm256_loadu_ps(w + i), _mm256_loadu_ps(v + i));
    if (i < n) { /* the lanes that are missing add zeros */
        const __m256i first = avx2_first(n - i);
        add_losses(&l, _mm256_maskload_ps(w + i, first), _mm256_maskload_ps(v + i, first));
    }
    *signal = tree(l.kept[0], l.kept[1]);
    *noise = tree(l.lost[0], l.lost[1]);
    const __m128d two =
        _mm_max_pd(_mm256_castpd256_pd128(l.most), _mm256_extractf128_pd(l.most, 1));
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
const nib_kernel_set nib_kernels_reduce_avx2 = {
    .name = "reduce_avx2", .needs = NIB_CPU_AVX2, .install = install};
