/* convert_avx512.c: rows of narrow floats to and from f32, sixteen at a time; the last few under a
 * mask. */
#include "kernel/kernel.h"
#include "kernel/x86/float_avx512.h"

static __m512 widen_f16(__m256i codes) { return _mm512_cvtph_ps(codes); }
static __m512 widen_bf16(__m256i codes) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(codes), 16));
}
static __m256i narrow_f16(__m512 x) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static __m256i narrow_bf16(__m512 x) {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(avx512_bf16_bits(x), 16));
}

#define WIDEN_ROW(name, widen)                                                                     \
    static void name(float *out, const void *x, size_t n) {                                        \
        const char *bytes = x;                                                                     \
        size_t i = 0;                                                                              \
        for (; i + 16 <= n; i += 16)                                                               \
            _mm512_storeu_ps(out + i, widen(_mm256_loadu_si256((const void *)(bytes + 2 * i))));   \
        if (i < n) {                                                                               \
            const __mmask16 first = avx512_first(n - i);                                           \
            _mm512_mask_storeu_ps(out + i, first,                                                  \
                                  widen(_mm256_maskz_loadu_epi16(first, bytes + 2 * i)));          \
        }                                                                                          \
    }
WIDEN_ROW(f16_to_f32, widen_f16)
WIDEN_ROW(bf16_to_f32, widen_bf16)

#define NARROW_ROW(name, narrow)                                                                   \
    static void name(void *out, const float *x, size_t n) {                                        \
        char *bytes = out;                                                                         \
        size_t i = 0;                                                                              \
        for (; i + 16 <= n; i += 16)                                                               \
            _mm256_storeu_si256((void *)(bytes + 2 * i), narrow(_mm512_loadu_ps(x + i)));          \
        if (i < n) {                                                                               \
            const __mmask16 first = avx512_first(n - i);                                           \
            _mm256_mask_storeu_epi16(bytes + 2 * i, first,                                         \
                                     narrow(_mm512_maskz_loadu_ps(first, x + i)));                 \
        }                                                                                          \
    }
NARROW_ROW(f32_to_f16, narrow_f16)
NARROW_ROW(f32_to_bf16, narrow_bf16)

#define NARROW_ROW_F8(name, format)                                                                \
    static void name(uint8_t *out, const float *x, size_t n) {                                     \
        size_t i = 0;                                                                              \
        for (; i + 16 <= n; i += 16) {                                                             \
            const __m512i codes = avx512_f8_codes(_mm512_loadu_ps(x + i), format);                 \
            _mm_storeu_si128((void *)(out + i), _mm512_cvtepi32_epi8(codes));                      \
        }                                                                                          \
        if (i < n) {                                                                               \
            const __mmask16 first = avx512_first(n - i);                                           \
            const __m512i codes = avx512_f8_codes(_mm512_maskz_loadu_ps(first, x + i), format);    \
            _mm_mask_storeu_epi8(out + i, first, _mm512_cvtepi32_epi8(codes));                     \
        }                                                                                          \
    }
NARROW_ROW_F8(f32_to_e4m3fn, NIB_F8_E4M3FN)
NARROW_ROW_F8(f32_to_e5m2, NIB_F8_E5M2)
NARROW_ROW_F8(f32_to_e4m3fnuz, NIB_F8_E4M3FNUZ)

static void table_to_f32(float *out, const uint8_t *x, size_t n, const float table[256]) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(x + i)));
        _mm512_storeu_ps(out + i, _mm512_i32gather_ps(index, table, 4));
    }
    for (; i < n; i++) out[i] = table[x[i]];
}

static void install(nib_kernels *k) {
    k->f16_to_f32 = f16_to_f32;
    k->bf16_to_f32 = bf16_to_f32;
    k->f32_to_f16 = f32_to_f16;
    k->f32_to_bf16 = f32_to_bf16;
    k->f32_to_e4m3fn = f32_to_e4m3fn;
    k->f32_to_e5m2 = f32_to_e5m2;
    k->f32_to_e4m3fnuz = f32_to_e4m3fnuz;
    k->table_to_f32 = table_to_f32;
}
const nib_kernel_set nib_kernels_convert_avx512 = {
    .name = "convert_avx512", .needs = NIB_CPU_AVX512, .install = install};
