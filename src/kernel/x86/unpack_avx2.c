/* unpack_avx2.c: 4-bit codes, 32 bytes of one to 16 of the other. */
#include <immintrin.h>

#include "kernel/kernel.h"

static void pack_u4(uint8_t *out, const uint8_t *codes, size_t n) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i weights = _mm256_set1_epi16(0x1001); /* even + 16 * odd, within 255 */
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i c = _mm256_and_si256(_mm256_loadu_si256((const void *)(codes + i)), low);
        const __m256i pairs = _mm256_maddubs_epi16(c, weights);
        _mm_storeu_si128(
            (void *)(out + i / 2),
            _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1)));
    }
    for (; i + 2 <= n; i += 2) out[i / 2] = (uint8_t)((codes[i] & 15) | (codes[i + 1] & 15) << 4);
    if (i < n) out[i / 2] = codes[i] & 15;
}

static void unpack_u4(uint8_t *codes, const uint8_t *bytes, size_t n) {
    const __m256i low = _mm256_set1_epi8(15);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(bytes + i / 2)));
        const __m256i spread = _mm256_or_si256(b, _mm256_slli_epi16(b, 4));
        _mm256_storeu_si256((void *)(codes + i), _mm256_and_si256(spread, low));
    }
    for (; i < n; i++) codes[i] = i % 2 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15;
}

static void install(nib_kernels *k) {
    k->pack_u4 = pack_u4;
    k->unpack_u4 = unpack_u4;
}
const nib_kernel_set nib_kernels_unpack_avx2 = {
    .name = "unpack_avx2", .needs = NIB_CPU_AVX2, .install = install};
