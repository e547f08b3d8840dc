/* limits_avx512.c: reading and fused multiply-adds, 512 bits at a time. */
#include <immintrin.h>
#include <string.h>

#include "kernel/kernel.h"

#define KEEP(v) __asm__ volatile("" : "+v"(v)) /* see limits_avx2.c */

static void fold(__m512i sum[4], const char *p) {
    for (int i = 0; i < 8; i++)
        sum[i % 4] = _mm512_xor_si512(sum[i % 4], _mm512_loadu_si512(p + 64 * i));
}

static uint64_t limit_read(const void *a, const void *b, size_t size) {
    const char *p = a, *q = b;
    __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                      _mm512_setzero_si512()};
    size_t i = 0;
    if (q)
        for (; i + 512 <= size; i += 512) fold(sum, p + i), fold(sum, q + i);
    else
        for (; i + 512 <= size; i += 512) fold(sum, p + i);
    const __m512i low = _mm512_xor_si512(sum[0], sum[1]), high = _mm512_xor_si512(sum[2], sum[3]);
    uint64_t word[8], rest = 0, next;
    _mm512_storeu_si512(word, _mm512_xor_si512(low, high));
    for (int w = 0; w < 8; w++) rest ^= word[w];
    for (; i < size; i += 8) {
        memcpy(&next, p + i, 8);
        rest ^= next;
        if (!q) continue;
        memcpy(&next, q + i, 8);
        rest ^= next;
    }
    return rest;
}

enum { CHAINS = 12 };

static float limit_fma(double *operations, float x, float y, size_t rounds) {
    const __m512 a = _mm512_set1_ps(x), b = _mm512_set1_ps(y);
    __m512 acc[CHAINS];
    for (int i = 0; i < CHAINS; i++) {
        acc[i] = _mm512_setzero_ps();
        KEEP(acc[i]);
    }
    for (size_t r = 0; r < rounds; r++)
        for (int step = 0; step < 8; step++)
            for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_fmadd_ps(a, b, acc[i]);
    for (int i = 1; i < CHAINS; i++) KEEP(acc[i]);
    *operations = 2.0 * 16 * CHAINS * 8 * (double)rounds;
    return _mm512_cvtss_f32(acc[0]);
}

static void install(nib_kernels *k) {
    k->limit_read = limit_read;
    k->limit_fma = limit_fma;
}
const nib_kernel_set nib_kernels_limits_avx512 = {
    .name = "limits_avx512", .needs = NIB_CPU_AVX512, .install = install};
