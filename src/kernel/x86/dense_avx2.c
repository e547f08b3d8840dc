/* dense_avx2.c: few rows by f32, f16 or bf16 weights where they lie, row-major.
 *
 * Eight channels by eight columns are widened and transposed in registers, so that lanes are
 * channels and a result is one chain over k. A chain alone would wait for its own fma, so few rows
 * take several groups of channels at a time. */
#include <immintrin.h>

#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

#define INLINE static inline __attribute__((always_inline))

enum { GROUP = 8, MOST_GROUPS = 4 };

INLINE size_t width_of(const nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

INLINE __m256 widened(const nib_dtype dtype, const char *w) {
    if (dtype == NIB_F32) return _mm256_loadu_ps((const float *)(const void *)w);
    const __m128i half = _mm_loadu_si128((const __m128i *)(const void *)w);
    if (dtype == NIB_F16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* One column of eight rows, for the last few. */
INLINE __m256 last_column(const nib_dtype dtype, const char *const row[GROUP], int64_t k) {
    float values[GROUP];
    uint16_t narrow[GROUP] = {0};
    for (int i = 0; i < GROUP; i++) {
        if (dtype == NIB_F32)
            values[i] = ((const float *)(const void *)row[i])[k];
        else
            narrow[i] = ((const uint16_t *)(const void *)row[i])[k];
    }
    return dtype == NIB_F32 ? _mm256_loadu_ps(values) : widened(dtype, (const char *)narrow);
}

/* r[i] = column i of the eight rows that r held. */
INLINE void transpose(__m256 r[GROUP]) {
    __m256 s[GROUP];
#pragma GCC unroll 4
    for (int i = 0; i < GROUP; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < GROUP; i += 4) {
        r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        s[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        s[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < GROUP; i++) r[i] = s[i];
}

/* Up to `groups` times eight channels, the last of them at `channels`; rows that are not there are
 * read as the last one and not stored. */
INLINE void tile(const int M, const int groups, const nib_dtype dtype, float *y, int64_t ldy,
                 const float *x, int64_t ldx, const char *w, int64_t ldw, int64_t channels,
                 int64_t K) {
    const size_t width = width_of(dtype);
    const char *row[MOST_GROUPS][GROUP];
    __m256 acc[NIB_LANE_ROWS][MOST_GROUPS];
    for (int64_t n = 0; n < groups * GROUP; n++) {
        const int64_t from = n < channels ? n : channels - 1;
        row[n / GROUP][n % GROUP] = w + (size_t)(from * ldw) * width;
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int g = 0; g < groups; g++) acc[m][g] = _mm256_setzero_ps();
    int64_t k = 0;
    for (; k + GROUP <= K; k += GROUP) {
#pragma GCC unroll 4
        for (int g = 0; g < groups; g++) {
            __m256 r[GROUP];
#pragma GCC unroll 8
            for (int i = 0; i < GROUP; i++) r[i] = widened(dtype, row[g][i] + (size_t)k * width);
            transpose(r);
#pragma GCC unroll 8
            for (int i = 0; i < GROUP; i++)
#pragma GCC unroll 8
                for (int m = 0; m < M; m++)
                    acc[m][g] =
                        _mm256_fmadd_ps(_mm256_broadcast_ss(x + m * ldx + k + i), r[i], acc[m][g]);
        }
    }
    for (; k < K; k++)
#pragma GCC unroll 4
        for (int g = 0; g < groups; g++) {
            const __m256 column = last_column(dtype, row[g], k);
#pragma GCC unroll 8
            for (int m = 0; m < M; m++)
                acc[m][g] =
                    _mm256_fmadd_ps(_mm256_broadcast_ss(x + m * ldx + k), column, acc[m][g]);
        }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int g = 0; g < groups; g++)
            if (g * GROUP < channels)
                avx2_store_first(y + m * ldy + g * GROUP, (size_t)(channels - g * GROUP),
                                 acc[m][g]);
}

INLINE void rows(const int M, const int groups, const nib_dtype dtype, float *y, int64_t ldy,
                 const float *x, int64_t ldx, const char *w, int64_t ldw, int64_t N, int64_t K) {
    for (int64_t n = 0; n < N; n += groups * GROUP)
        tile(M, groups, dtype, y + n, ldy, x, ldx, w + (size_t)(n * ldw) * width_of(dtype), ldw,
             N - n < groups * GROUP ? N - n : groups * GROUP, K);
}

#define OF_DTYPE(name, dtype)                                                                      \
    static void name(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const char *w, \
                     int64_t ldw, int64_t N, int64_t K) {                                          \
        switch (M) {                                                                               \
        case 1:                                                                                    \
            rows(1, 4, dtype, y, ldy, x, ldx, w, ldw, N, K);                                       \
            return;                                                                                \
        case 2:                                                                                    \
            rows(2, 2, dtype, y, ldy, x, ldx, w, ldw, N, K);                                       \
            return;                                                                                \
        case 3:                                                                                    \
            rows(3, 1, dtype, y, ldy, x, ldx, w, ldw, N, K);                                       \
            return;                                                                                \
        case 4:                                                                                    \
            rows(4, 1, dtype, y, ldy, x, ldx, w, ldw, N, K);                                       \
            return;                                                                                \
        case 5:                                                                                    \
            rows(5, 1, dtype, y, ldy, x, ldx, w, ldw, N, K);                                       \
            return;                                                                                \
        case 6:                                                                                    \
            rows(6, 1, dtype, y, ldy, x, ldx, w, ldw, N, K);                                       \
            return;                                                                                \
        case 7:                                                                                    \
            rows(7, 1, dtype, y, ldy, x, ldx, w, ldw, N, K);                                       \
            return;                                                                                \
        case 8:                                                                                    \
            rows(8, 1, dtype, y, ldy, x, ldx, w, ldw, N, K);                                       \
            return;                                                                                \
        }                                                                                          \
    }
OF_DTYPE(rows_f32, NIB_F32)
OF_DTYPE(rows_f16, NIB_F16)
OF_DTYPE(rows_bf16, NIB_BF16)

static void dense_rows(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const void *w,
                       nib_dtype dtype, int64_t ldw, int64_t N, int64_t K) {
    (dtype == NIB_F32   ? rows_f32
     : dtype == NIB_F16 ? rows_f16
                        : rows_bf16)(y, ldy, x, ldx, M, w, ldw, N, K);
}

static void install(nib_kernels *k) { k->dense_rows = dense_rows; }
const nib_kernel_set nib_kernels_dense_avx2 = {
    .name = "dense_avx2", .needs = NIB_CPU_AVX2, .install = install};
