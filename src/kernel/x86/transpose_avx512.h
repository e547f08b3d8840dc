/* transpose_avx512.h: sixteen rows of sixteen dwords, in registers. */
#ifndef NIB_KERNEL_X86_TRANSPOSE_AVX512_H
#define NIB_KERNEL_X86_TRANSPOSE_AVX512_H
#include <immintrin.h>

/* r[i] = dword i of the sixteen rows that r held. */
static inline __attribute__((always_inline)) void transpose(__m512i r[16]) {
    __m512i s[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* r[i + c]: dword c of rows i to i + 3, in each quarter */
        r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512i a = _mm512_shuffle_i32x4(r[c], r[c + 4], 0x88); /* quarters 0 and 2 */
        const __m512i b = _mm512_shuffle_i32x4(r[c + 8], r[c + 12], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(r[c], r[c + 4], 0xdd); /* 1 and 3 */
        const __m512i e = _mm512_shuffle_i32x4(r[c + 8], r[c + 12], 0xdd);
        r[c] = _mm512_shuffle_i32x4(a, b, 0x88);
        r[c + 8] = _mm512_shuffle_i32x4(a, b, 0xdd);
        r[c + 4] = _mm512_shuffle_i32x4(d, e, 0x88);
        r[c + 12] = _mm512_shuffle_i32x4(d, e, 0xdd);
    }
}
#endif
