/* limits_avxvnni.c: products of 8-bit codes, four at once in each of 8 lanes. */
#include <immintrin.h>

#include "kernel/kernel.h"

#define KEEP(v) __asm__ volatile("" : "+x"(v)) /* see limits_avx2.c */

enum { CHAINS = 8 };

static int32_t limit_u8(double *operations, uint8_t u, int8_t s, size_t rounds) {
    const __m256i a = _mm256_set1_epi8((char)u), b = _mm256_set1_epi8(s);
    __m256i acc[CHAINS];
    for (int i = 0; i < CHAINS; i++) {
        acc[i] = _mm256_setzero_si256();
        KEEP(acc[i]);
    }
    for (size_t r = 0; r < rounds; r++)
        for (int step = 0; step < 8; step++)
            for (int i = 0; i < CHAINS; i++) acc[i] = _mm256_dpbusd_avx_epi32(acc[i], a, b);
    for (int i = 1; i < CHAINS; i++) KEEP(acc[i]);
    *operations = 2.0 * 32 * CHAINS * 8 * (double)rounds;
    return _mm_cvtsi128_si32(_mm256_castsi256_si128(acc[0]));
}

static void install(nib_kernels *k) {
    k->limit_u8 = limit_u8;
    k->limit_u4 = limit_u8;
}
const nib_kernel_set nib_kernels_limits_avxvnni = {
    .name = "limits_avxvnni", .needs = NIB_CPU_AVXVNNI, .install = install};
