/* dense_avx512.c: few rows by f32, f16 or bf16 weights where they lie, row-major.
 *
 * Sixteen channels by 64 bytes are loaded and transposed in registers, so that lanes are channels
 * and a result is one chain over k. Transposing the next block fills the time that a chain waits
 * for its own fma. Rows of a weight are often a power of two apart: what is fetched ahead goes to
 * L2, since sixteen such lines do not fit one set of L1, and more rows at a time were slower. */
#include <immintrin.h>

#include "kernel/kernel.h"
#include "kernel/x86/transpose_avx512.h"

#define INLINE static inline __attribute__((always_inline))

enum { AHEAD = 1024 /* bytes of each row */ };

/* Words: r[i] = columns i and i + 8 of the sixteen rows, r[i + 8] = columns i + 16 and i + 24. */
INLINE void transpose_words(__m512i r[16]) {
    __m512i s[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_epi16(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi16(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* words 0 1, 2 3, 4 5, 6 7 of four rows */
        r[i] = _mm512_unpacklo_epi32(s[i], s[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi32(s[i], s[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi32(s[i + 1], s[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi32(s[i + 1], s[i + 3]);
    }
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* word 2 i, then 2 i + 1, of rows 0 to 7 and 8 to 15 */
        const __m512i a = _mm512_unpacklo_epi64(r[i], r[i + 4]);
        const __m512i b = _mm512_unpacklo_epi64(r[i + 8], r[i + 12]);
        const __m512i c = _mm512_unpackhi_epi64(r[i], r[i + 4]);
        const __m512i d = _mm512_unpackhi_epi64(r[i + 8], r[i + 12]);
        s[2 * i] = _mm512_permutex2var_epi64(a, low, b);
        s[2 * i + 8] = _mm512_permutex2var_epi64(a, high, b);
        s[2 * i + 1] = _mm512_permutex2var_epi64(c, low, d);
        s[2 * i + 9] = _mm512_permutex2var_epi64(c, high, d);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = s[i];
}

/* Column i, a constant, of 16 or 32 that transpose or transpose_words left. */
INLINE __m512 column(const nib_dtype dtype, const __m512i r[16], const int i) {
    if (dtype == NIB_F32) return _mm512_castsi512_ps(r[i]);
    if (dtype == NIB_BF16)
        return _mm512_castsi512_ps(
            i % 2 ? _mm512_and_si512(r[i / 2], _mm512_set1_epi32((int)0xffff0000))
                  : _mm512_slli_epi32(r[i / 2], 16));
    const __m512i two = r[i / 16 * 8 + i % 8];
    return _mm512_cvtph_ps(i / 8 % 2 ? _mm512_extracti64x4_epi64(two, 1)
                                     : _mm512_castsi512_si256(two));
}

INLINE void load(const nib_dtype dtype, __m512i r[16], const char *const row[16], int64_t byte,
                 __mmask64 bytes) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        r[i] = bytes == ~(__mmask64)0 ? _mm512_loadu_si512(row[i] + byte)
                                      : _mm512_maskz_loadu_epi8(bytes, row[i] + byte);
    if (dtype == NIB_F16)
        transpose_words(r);
    else
        transpose(r);
}

INLINE void block(const nib_dtype dtype, const int rows, float *y, int64_t ldy, const float *x,
                  int64_t ldx, int64_t M, const char *w, int64_t row_bytes, int64_t N, int64_t K) {
    const float *x_m[NIB_LANE_ROWS];
    for (int m = 0; m < rows; m++) x_m[m] = x + (m < M ? m : M - 1) * ldx;
    const int width = dtype == NIB_F32 ? 4 : 2, columns = 64 / width;
    const char *row[NIB_PANEL];
    for (int64_t n = 0; n < NIB_PANEL; n++) /* missing channels: the last one again */
        row[n] = w + (n < N ? n : N - 1) * row_bytes;
    __m512 acc[NIB_LANE_ROWS];
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) acc[m] = _mm512_setzero_ps();
    __m512i r[16];
    int64_t k = 0;
    for (; k + columns <= K; k += columns) {
        for (int n = 0; n < NIB_PANEL; n++)
            _mm_prefetch((const char *)((uintptr_t)row[n] + (uintptr_t)(k * width) + AHEAD),
                         _MM_HINT_T1);
        load(dtype, r, row, k * width, ~(__mmask64)0);
#pragma GCC unroll 32
        for (int i = 0; i < columns; i++) {
            const __m512 v = column(dtype, r, i);
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++)
                acc[m] = _mm512_fmadd_ps(_mm512_set1_ps(x_m[m][k + i]), v, acc[m]);
        }
    }
    if (k < K) {
        float rest[32][NIB_PANEL];
        load(dtype, r, row, k * width, ((__mmask64)1 << ((K - k) * width)) - 1);
#pragma GCC unroll 32
        for (int i = 0; i < columns; i++) _mm512_storeu_ps(rest[i], column(dtype, r, i));
        for (int i = 0; i < K - k; i++)
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++)
                acc[m] = _mm512_fmadd_ps(_mm512_set1_ps(x_m[m][k + i]), _mm512_loadu_ps(rest[i]),
                                         acc[m]);
    }
    const __mmask16 channels = (__mmask16)(N < NIB_PANEL ? (1 << N) - 1 : 0xffff);
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
        if (m < M) _mm512_mask_storeu_ps(y + m * ldy, channels, acc[m]);
}

INLINE void all(const nib_dtype dtype, const int rows, float *y, int64_t ldy, const float *x,
                int64_t ldx, int64_t M, const void *w, int64_t ldw, int64_t N, int64_t K) {
    const int64_t bytes = ldw * (dtype == NIB_F32 ? 4 : 2);
    for (int64_t n = 0; n < N; n += NIB_PANEL)
        block(dtype, rows, y + n, ldy, x, ldx, M, (const char *)w + n * bytes, bytes, N - n, K);
}

#define DTYPE(name, dtype)                                                                         \
    static void name(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const void *w, \
                     int64_t ldw, int64_t N, int64_t K) {                                          \
        if (M == 1)                                                                                \
            all(dtype, 1, y, ldy, x, ldx, M, w, ldw, N, K);                                        \
        else if (M == 2)                                                                           \
            all(dtype, 2, y, ldy, x, ldx, M, w, ldw, N, K);                                        \
        else if (M > 0 && M <= 4)                                                                  \
            all(dtype, 4, y, ldy, x, ldx, M, w, ldw, N, K);                                        \
        else if (M > 0)                                                                            \
            all(dtype, 8, y, ldy, x, ldx, M, w, ldw, N, K);                                        \
    }
DTYPE(f32, NIB_F32)
DTYPE(f16, NIB_F16)
DTYPE(bf16, NIB_BF16)

static void dense_rows(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const void *w,
                       nib_dtype dtype, int64_t ldw, int64_t N, int64_t K) {
    (dtype == NIB_F32 ? f32 : dtype == NIB_F16 ? f16 : bf16)(y, ldy, x, ldx, M, w, ldw, N, K);
}

static void install(nib_kernels *k) { k->dense_rows = dense_rows; }
const nib_kernel_set nib_kernels_dense_avx512 = {
    .name = "dense_avx512", .needs = NIB_CPU_AVX512, .install = install};
