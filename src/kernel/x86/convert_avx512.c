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

/* A code's bits are put where an f16 has them, which is exact, denormals too, but makes a number
 * 2^8 (fnuz 2^7, e5m2 nothing) too small. */
static inline __attribute__((always_inline)) void
scale_format(float *out, const uint8_t *x, size_t n, float scale, const nib_dtype format) {
    const bool e5m2 = format == NIB_F8_E5M2, fnuz = format == NIB_F8_E4M3FNUZ;
    const __m512 up = _mm512_set1_ps(e5m2 ? 1.0f : fnuz ? 128.0f : 256.0f);
    const __m512 by = _mm512_set1_ps(scale),
                 nan = _mm512_castsi512_ps(_mm512_set1_epi32(fnuz ? 0x7f800001 : 0x7ff00000));
    const __m512i places = _mm512_set1_epi16((short)(e5m2 ? 0xffff : 0xbfff));
    const __m256i sign = _mm256_set1_epi8((char)0x80), ones = _mm256_set1_epi8((char)0xff);
    for (size_t i = 0; i < n; i += 32) {
        const __mmask32 first = n - i < 32 ? ((__mmask32)1 << (n - i)) - 1 : 0xffffffffu;
        const __m256i codes = _mm256_maskz_loadu_epi8(first, x + i);
        const __m512i half =
            _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), e5m2 ? 8 : 7), places);
        __m512 low = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(half)), up);
        __m512 high = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1)), up);
        /* what is no NaN as an f16: the NaN of base/halffloat.h, here too */
        const __m256i odds = fnuz ? _mm256_cmpeq_epi8(codes, sign)
                                  : _mm256_cmpeq_epi8(_mm256_or_si256(codes, sign), ones);
        const __mmask32 odd = e5m2 ? 0 : (__mmask32)_mm256_movemask_epi8(odds);
        if (__builtin_expect(odd != 0, 0)) {
            low = _mm512_mask_mov_ps(low, (__mmask16)odd, fnuz ? nan : _mm512_or_ps(low, nan));
            high = _mm512_mask_mov_ps(high, (__mmask16)(odd >> 16),
                                      fnuz ? nan : _mm512_or_ps(high, nan));
        }
        low = _mm512_mul_ps(low, by);
        high = _mm512_mul_ps(high, by);
        if (n - i >= 32) {
            _mm512_storeu_ps(out + i, low);
            _mm512_storeu_ps(out + i + 16, high);
        } else {
            _mm512_mask_storeu_ps(out + i, (__mmask16)first, low);
            if (n - i > 16) _mm512_mask_storeu_ps(out + i + 16, (__mmask16)(first >> 16), high);
        }
    }
}

static void scale_f8(float *out, const uint8_t *x, size_t n, nib_dtype format, float scale) {
    if (format == NIB_F8_E4M3FN)
        scale_format(out, x, n, scale, NIB_F8_E4M3FN);
    else if (format == NIB_F8_E5M2)
        scale_format(out, x, n, scale, NIB_F8_E5M2);
    else
        scale_format(out, x, n, scale, NIB_F8_E4M3FNUZ);
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
    k->scale_f8 = scale_f8;
}
const nib_kernel_set nib_kernels_convert_avx512 = {
    .name = "convert_avx512", .needs = NIB_CPU_AVX512, .install = install};
