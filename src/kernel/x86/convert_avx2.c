/* convert_avx2.c: rows of narrow floats to and from f32, eight or sixteen at a time.
 * The last few elements pass through a full vector beside the row. */
#include <string.h>

#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

#define INLINE static inline __attribute__((always_inline))

static void f16_to_f32(float *out, const void *x, size_t n) {
    const char *bytes = x;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(bytes + 2 * i))));
    if (i < n) {
        uint16_t rest[8] = {0};
        memcpy(rest, bytes + 2 * i, 2 * (n - i));
        avx2_store_first(out + i, n - i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)rest)));
    }
}

static __m256 widen_bf16(__m128i codes) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16));
}

static void bf16_to_f32(float *out, const void *x, size_t n) {
    const char *bytes = x;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, widen_bf16(_mm_loadu_si128((const void *)(bytes + 2 * i))));
    if (i < n) {
        uint16_t rest[8] = {0};
        memcpy(rest, bytes + 2 * i, 2 * (n - i));
        avx2_store_first(out + i, n - i, widen_bf16(_mm_loadu_si128((const void *)rest)));
    }
}

static __m128i narrow_f16(__m256 x) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static __m128i narrow_bf16(__m256 x) {
    const __m256i codes = _mm256_srli_epi32(avx2_bf16_bits(x), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
}

#define NARROW_ROW(name, narrow)                                                                   \
    static void name(void *out, const float *x, size_t n) {                                        \
        char *bytes = out;                                                                         \
        size_t i = 0;                                                                              \
        for (; i + 8 <= n; i += 8)                                                                 \
            _mm_storeu_si128((void *)(bytes + 2 * i), narrow(_mm256_loadu_ps(x + i)));             \
        if (i < n) {                                                                               \
            uint16_t rest[8];                                                                      \
            _mm_storeu_si128((void *)rest, narrow(avx2_load_first(x + i, n - i)));                 \
            memcpy(bytes + 2 * i, rest, 2 * (n - i));                                              \
        }                                                                                          \
    }
NARROW_ROW(f32_to_f16, narrow_f16)
NARROW_ROW(f32_to_bf16, narrow_bf16)

#define NARROW_ROW_F8(name, format)                                                                \
    static void name(uint8_t *out, const float *x, size_t n) {                                     \
        size_t i = 0;                                                                              \
        for (; i + 8 <= n; i += 8)                                                                 \
            _mm_storel_epi64((void *)(out + i), avx2_narrow_f8(_mm256_loadu_ps(x + i), format));   \
        if (i < n) {                                                                               \
            uint8_t rest[16];                                                                      \
            _mm_storeu_si128((void *)rest, avx2_narrow_f8(avx2_load_first(x + i, n - i), format)); \
            memcpy(out + i, rest, n - i);                                                          \
        }                                                                                          \
    }
NARROW_ROW_F8(f32_to_e4m3fn, NIB_F8_E4M3FN)
NARROW_ROW_F8(f32_to_e5m2, NIB_F8_E5M2)
NARROW_ROW_F8(f32_to_e4m3fnuz, NIB_F8_E4M3FNUZ)

static void table_to_f32(float *out, const uint8_t *x, size_t n, const float table[256]) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(x + i)));
        _mm256_storeu_ps(out + i, _mm256_i32gather_ps(table, index, 4));
    }
    for (; i < n; i++) out[i] = table[x[i]];
}

/* Sixteen codes times a scale: their bits are put where an f16 has them, which is exact, denormals
 * too, but makes a number 2^8 (fnuz 2^7, e5m2 nothing) too small. */
INLINE void scale_sixteen(float *out, const uint8_t *x, __m256 scale, const nib_dtype format) {
    const bool e5m2 = format == NIB_F8_E5M2, fnuz = format == NIB_F8_E4M3FNUZ;
    const __m256 up = _mm256_set1_ps(e5m2 ? 1.0f : fnuz ? 128.0f : 256.0f);
    const __m128i codes = _mm_loadu_si128((const void *)x), sign = _mm_set1_epi8((char)0x80);
    const __m256i half =
        _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), e5m2 ? 8 : 7),
                         _mm256_set1_epi16((short)(e5m2 ? 0xffff : 0xbfff)));
    __m256 low = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(half)), up);
    __m256 high = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)), up);
    /* what is no NaN as an f16: the NaN of base/halffloat.h, here too */
    const __m128i odd = fnuz ? _mm_cmpeq_epi8(codes, sign)
                             : _mm_cmpeq_epi8(_mm_or_si128(codes, sign), _mm_set1_epi8(-1));
    if (!e5m2 && __builtin_expect(_mm_movemask_epi8(odd) != 0, 0)) {
        const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(fnuz ? 0x7f800001 : 0x7ff00000));
        const __m256i wide = _mm256_cvtepi8_epi16(odd);
        const __m256 a = _mm256_castsi256_ps(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(wide)));
        const __m256 b =
            _mm256_castsi256_ps(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(wide, 1)));
        low = _mm256_blendv_ps(low, fnuz ? nan : _mm256_or_ps(low, nan), a);
        high = _mm256_blendv_ps(high, fnuz ? nan : _mm256_or_ps(high, nan), b);
    }
    _mm256_storeu_ps(out, _mm256_mul_ps(low, scale));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(high, scale));
}

INLINE void scale_format(float *out, const uint8_t *x, size_t n, float scale,
                         const nib_dtype format) {
    const __m256 by = _mm256_set1_ps(scale);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) scale_sixteen(out + i, x + i, by, format);
    if (i < n) {
        uint8_t codes[16] = {0};
        float rest[16];
        memcpy(codes, x + i, n - i);
        scale_sixteen(rest, codes, by, format);
        memcpy(out + i, rest, (n - i) * sizeof *rest);
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
const nib_kernel_set nib_kernels_convert_avx2 = {
    .name = "convert_avx2", .needs = NIB_CPU_AVX2, .install = install};
