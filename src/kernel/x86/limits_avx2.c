/* limits_avx2.c: reading, fused multiply-adds and products of 8-bit codes, 256 bits at a time.
 *
 * KEEP makes the compiler forget what a register holds, so that equal accumulators stay many and
 * a product of two constants is not taken out of the loop. It costs no instruction. */
#include <immintrin.h>
#include <string.h>

#include "kernel/kernel.h"

#define KEEP(v) __asm__ volatile("" : "+x"(v))

static __m256i load(const char *p) { return _mm256_loadu_si256((const void *)p); }

/* xor of 512 bytes into four vectors */
static void fold(__m256i sum[4], const char *p) {
    for (int i = 0; i < 16; i++) sum[i % 4] = _mm256_xor_si256(sum[i % 4], load(p + 32 * i));
}

static uint64_t limit_read(const void *a, const void *b, size_t size) {
    const char *p = a, *q = b;
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                      _mm256_setzero_si256()};
    size_t i = 0;
    if (q)
        for (; i + 512 <= size; i += 512) fold(sum, p + i), fold(sum, q + i);
    else
        for (; i + 512 <= size; i += 512) fold(sum, p + i);
    uint64_t word[4], rest = 0, next;
    const __m256i low = _mm256_xor_si256(sum[0], sum[1]), high = _mm256_xor_si256(sum[2], sum[3]);
    _mm256_storeu_si256((void *)word, _mm256_xor_si256(low, high));
    for (; i < size; i += 8) {
        memcpy(&next, p + i, 8);
        rest ^= next;
        if (!q) continue;
        memcpy(&next, q + i, 8);
        rest ^= next;
    }
    return rest ^ word[0] ^ word[1] ^ word[2] ^ word[3];
}

enum { CHAINS = 10 }; /* two units of four cycles' latency want 8 at least */

static float limit_fma(double *operations, float x, float y, size_t rounds) {
    const __m256 a = _mm256_set1_ps(x), b = _mm256_set1_ps(y);
    __m256 acc[CHAINS];
    for (int i = 0; i < CHAINS; i++) {
        acc[i] = _mm256_setzero_ps();
        KEEP(acc[i]);
    }
    for (size_t r = 0; r < rounds; r++)
        for (int step = 0; step < 8; step++)
            for (int i = 0; i < CHAINS; i++) acc[i] = _mm256_fmadd_ps(a, b, acc[i]);
    for (int i = 1; i < CHAINS; i++) KEEP(acc[i]);
    *operations = 2.0 * 8 * CHAINS * 8 * (double)rounds;
    return _mm256_cvtss_f32(acc[0]);
}

/* Exact for all codes: pairs of 16-bit numbers, as a panel that was widened before holds them. */
static int32_t limit_u8(double *operations, uint8_t u, int8_t s, size_t rounds) {
    __m256i a = _mm256_set1_epi16(u);
    const __m256i b = _mm256_set1_epi16(s);
    __m256i acc[4];
    for (int i = 0; i < 4; i++) {
        acc[i] = _mm256_setzero_si256();
        KEEP(acc[i]);
    }
    for (size_t r = 0; r < 2 * 8 * rounds; r++)
        for (int i = 0; i < 4; i++) {
            KEEP(a);
            acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(a, b));
            KEEP(acc[i]); /* else all products are made first, and wait in memory */
        }
    for (int i = 1; i < 4; i++) KEEP(acc[i]);
    *operations = 2.0 * 16 * 4 * 8 * 2 * (double)rounds;
    return _mm_cvtsi128_si32(_mm256_castsi256_si128(acc[0]));
}

/* Eight products of pairs fit 16 bits: 8 * 2 * 15 * 128 < 32768; so they are summed there first. */
static int32_t limit_u4(double *operations, uint8_t u, int8_t s, size_t rounds) {
    __m256i a = _mm256_set1_epi8((char)u);
    const __m256i b = _mm256_set1_epi8(s), ones = _mm256_set1_epi16(1);
    __m256i acc[4];
    for (int i = 0; i < 4; i++) {
        acc[i] = _mm256_setzero_si256();
        KEEP(acc[i]);
    }
    for (size_t r = 0; r < rounds; r++) {
        __m256i pairs[4];
        for (int i = 0; i < 4; i++) {
            KEEP(a);
            pairs[i] = _mm256_maddubs_epi16(a, b);
        }
        for (int step = 1; step < 8; step++)
            for (int i = 0; i < 4; i++) {
                KEEP(a);
                pairs[i] = _mm256_add_epi16(pairs[i], _mm256_maddubs_epi16(a, b));
                KEEP(pairs[i]);
            }
        for (int i = 0; i < 4; i++)
            acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs[i], ones));
    }
    for (int i = 1; i < 4; i++) KEEP(acc[i]);
    *operations = 2.0 * 32 * 4 * 8 * (double)rounds;
    return _mm_cvtsi128_si32(_mm256_castsi256_si128(acc[0]));
}

static void install(nib_kernels *k) {
    k->limit_read = limit_read;
    k->limit_fma = limit_fma;
    k->limit_u8 = limit_u8;
    k->limit_u4 = limit_u4;
}
const nib_kernel_set nib_kernels_limits_avx2 = {
    .name = "limits_avx2", .needs = NIB_CPU_AVX2, .install = install};
