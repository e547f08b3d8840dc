/* dense_avx2.c: few rows by f32, f16 or bf16 weights where they lie, row-major.
 *
 * Eight channels by eight columns are transposed in registers and widened, so that lanes are
 * channels and a result is one chain over k. A chain alone would wait for its own fma, so few rows
 * take several groups of channels at a time. */
#include <immintrin.h>

#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    GROUP = 8,
    MOST_GROUPS = 4,
    FETCHED = 384, /* bytes of a row that are asked for, from L2, before they are needed */
};

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

/* 16 bytes of rows i and i + 4, one after the other, at column k. */
INLINE __m256i two_rows(const char *const row[GROUP], int i, size_t at) {
    const __m128i low = _mm_loadu_si128((const __m128i *)(const void *)(row[i] + at));
    const __m128i high = _mm_loadu_si128((const __m128i *)(const void *)(row[i + 4] + at));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

/* r[i] = column k + i of eight rows, four columns of f32: unpacking twice leaves channels 0 to 3 in
 * one half and 4 to 7 in the other. */
INLINE void four_columns(__m256 r[4], const char *const row[GROUP], int64_t k) {
    __m256 a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) a[i] = _mm256_castsi256_ps(two_rows(row, i, (size_t)k * 4));
    const __m256 low = _mm256_unpacklo_ps(a[0], a[1]), high = _mm256_unpackhi_ps(a[0], a[1]);
    const __m256 more = _mm256_unpacklo_ps(a[2], a[3]), most = _mm256_unpackhi_ps(a[2], a[3]);
    r[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(low), _mm256_castps_pd(more)));
    r[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(low), _mm256_castps_pd(more)));
    r[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(high), _mm256_castps_pd(most)));
    r[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(high), _mm256_castps_pd(most)));
}

/* Eight columns of any dtype. Of 16 bits two columns come out side by side, and unpacking them once
 * more, zeros below, makes bf16 f32. */
INLINE void eight_columns(const nib_dtype dtype, __m256 r[GROUP], const char *const row[GROUP],
                          int64_t k) {
    if (dtype == NIB_F32) {
        four_columns(r, row, k);
        four_columns(r + 4, row, k + 4);
        return;
    }
    __m256i a[4], pair[4]; /* of columns (0, 1), (2, 3) ... */
    const __m256i zero = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) a[i] = two_rows(row, i, (size_t)k * 2);
    const __m256i low = _mm256_unpacklo_epi16(a[0], a[1]), high = _mm256_unpackhi_epi16(a[0], a[1]);
    const __m256i more = _mm256_unpacklo_epi16(a[2], a[3]),
                  most = _mm256_unpackhi_epi16(a[2], a[3]);
    pair[0] = _mm256_unpacklo_epi32(low, more), pair[1] = _mm256_unpackhi_epi32(low, more);
    pair[2] = _mm256_unpacklo_epi32(high, most), pair[3] = _mm256_unpackhi_epi32(high, most);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        if (dtype == NIB_BF16) {
            r[2 * i] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, pair[i]));
            r[2 * i + 1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, pair[i]));
        } else {
            const __m256i halves = _mm256_permute4x64_epi64(pair[i], 0xd8);
            r[2 * i] = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
            r[2 * i + 1] = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
        }
    }
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
    /* A line of the cache at a time of each row: rows a power of two apart are all in one set, and
     * more of them than it has places would put each other out between two steps. */
    const int64_t line = groups > 1 ? 64 / (int64_t)width : GROUP;
    int64_t k = 0;
    for (int64_t columns; k + GROUP <= K; k += columns) {
        columns = k + line <= K ? line : GROUP;
#pragma GCC unroll 4
        for (int g = 0; g < groups; g++) {
            for (int i = 0; i < GROUP && groups > 1;
                 i++) /* beyond a row's end: another's beginning */
                _mm_prefetch((const char *)((uintptr_t)row[g][i] + (size_t)k * width + FETCHED),
                             _MM_HINT_T1);
            for (int64_t c = k; c < k + columns; c += GROUP) {
                __m256 r[GROUP];
                eight_columns(dtype, r, row[g], c);
#pragma GCC unroll 8
                for (int i = 0; i < GROUP; i++)
#pragma GCC unroll 8
                    for (int m = 0; m < M; m++)
                        acc[m][g] = _mm256_fmadd_ps(_mm256_broadcast_ss(x + m * ldx + c + i), r[i],
                                                    acc[m][g]);
            }
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
            rows(3, 2, dtype, y, ldy, x, ldx, w, ldw, N, K);                                       \
            return;                                                                                \
        case 4:                                                                                    \
            rows(4, 2, dtype, y, ldy, x, ldx, w, ldw, N, K);                                       \
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
