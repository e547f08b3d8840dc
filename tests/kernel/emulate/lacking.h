/* lacking.h: AVX-512 and AVX-VNNI intrinsics that SIMDe 0.7.4 (Debian 12) does not have, in the
 * plain meaning of Intel's description; a newer SIMDe's are put aside. A kernel that does not
 * compile here for want of an intrinsic ("target specific option mismatch"): add its name to the
 * list of names and its meaning below. */
#ifndef NIB_TESTS_KERNEL_EMULATE_LACKING_H
#define NIB_TESTS_KERNEL_EMULATE_LACKING_H
#pragma GCC system_header
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef union any512 {
    __m512i i;
    __m512 f;
    __m512d d;
    __m256i half[2];
    __m256 half_f[2];
    __m128i quarter[4];
    int8_t i8[64];
    uint8_t u8[64];
    int16_t i16[32];
    uint16_t u16[32];
    int32_t i32[16];
    uint32_t u32[16];
    int64_t i64[8];
    float f32[16];
    double f64[8];
} any512;

static inline int32_t lacking_clamp(int32_t x, int32_t low, int32_t high) {
    return x < low ? low : x > high ? high : x;
}
static inline int32_t lacking_at(const void *p) {
    int32_t x;
    memcpy(&x, p, sizeof(x));
    return x;
}
/* To the nearest, ties to even, and toward zero; out of range gives what the machine gives. */
static inline int32_t lacking_round(float x) {
    return x >= -0x1p31f && x < 0x1p31f ? (int32_t)nearbyintf(x) : INT32_MIN;
}
static inline int32_t lacking_truncate(float x) {
    return x >= -0x1p31f && x < 0x1p31f ? (int32_t)x : INT32_MIN;
}
static inline uint16_t lacking_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (isnan(x)) return (uint16_t)(bits >> 16 | 0x40);
    if ((bits & 0x7f800000u) == 0) return (uint16_t)(bits >> 31 << 15); /* denormals count as 0 */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- names ---- */
#define _mm512_mask_loadu_epi8    lacking_mm512_mask_loadu_epi8
#define _mm512_maskz_loadu_epi8   lacking_mm512_maskz_loadu_epi8
#define _mm512_mask_storeu_epi8   lacking_mm512_mask_storeu_epi8
#define _mm512_mask_loadu_epi16   lacking_mm512_mask_loadu_epi16
#define _mm512_maskz_loadu_epi16  lacking_mm512_maskz_loadu_epi16
#define _mm512_mask_storeu_epi16  lacking_mm512_mask_storeu_epi16
#define _mm512_mask_loadu_epi32   lacking_mm512_mask_loadu_epi32
#define _mm512_maskz_loadu_epi32  lacking_mm512_maskz_loadu_epi32
#define _mm512_mask_storeu_epi32  lacking_mm512_mask_storeu_epi32
#define _mm512_mask_loadu_epi64   lacking_mm512_mask_loadu_epi64
#define _mm512_maskz_loadu_epi64  lacking_mm512_maskz_loadu_epi64
#define _mm512_mask_storeu_epi64  lacking_mm512_mask_storeu_epi64
#define _mm512_mask_loadu_ps      lacking_mm512_mask_loadu_ps
#define _mm512_maskz_loadu_ps     lacking_mm512_maskz_loadu_ps
#define _mm512_mask_storeu_ps     lacking_mm512_mask_storeu_ps
#define _mm512_mask_loadu_pd      lacking_mm512_mask_loadu_pd
#define _mm512_maskz_loadu_pd     lacking_mm512_maskz_loadu_pd
#define _mm512_mask_storeu_pd     lacking_mm512_mask_storeu_pd
#define _mm256_mask_loadu_epi8    lacking_mm256_mask_loadu_epi8
#define _mm256_maskz_loadu_epi8   lacking_mm256_maskz_loadu_epi8
#define _mm256_mask_storeu_epi8   lacking_mm256_mask_storeu_epi8
#define _mm256_mask_loadu_epi16   lacking_mm256_mask_loadu_epi16
#define _mm256_maskz_loadu_epi16  lacking_mm256_maskz_loadu_epi16
#define _mm256_mask_storeu_epi16  lacking_mm256_mask_storeu_epi16
#define _mm256_mask_loadu_epi32   lacking_mm256_mask_loadu_epi32
#define _mm256_maskz_loadu_epi32  lacking_mm256_maskz_loadu_epi32
#define _mm256_mask_storeu_epi32  lacking_mm256_mask_storeu_epi32
#define _mm256_mask_loadu_ps      lacking_mm256_mask_loadu_ps
#define _mm256_maskz_loadu_ps     lacking_mm256_maskz_loadu_ps
#define _mm256_mask_storeu_ps     lacking_mm256_mask_storeu_ps
#define _mm_mask_loadu_epi8       lacking_mm_mask_loadu_epi8
#define _mm_maskz_loadu_epi8      lacking_mm_maskz_loadu_epi8
#define _mm_mask_storeu_epi8      lacking_mm_mask_storeu_epi8
#define _mm_mask_loadu_epi16      lacking_mm_mask_loadu_epi16
#define _mm_maskz_loadu_epi16     lacking_mm_maskz_loadu_epi16
#define _mm_mask_storeu_epi16     lacking_mm_mask_storeu_epi16
#define _mm_mask_loadu_epi32      lacking_mm_mask_loadu_epi32
#define _mm_maskz_loadu_epi32     lacking_mm_maskz_loadu_epi32
#define _mm_mask_storeu_epi32     lacking_mm_mask_storeu_epi32
#define _mm_mask_loadu_ps         lacking_mm_mask_loadu_ps
#define _mm_maskz_loadu_ps        lacking_mm_maskz_loadu_ps
#define _mm_mask_storeu_ps        lacking_mm_mask_storeu_ps
#define _mm512_cvtepi8_epi32      lacking_mm512_cvtepi8_epi32
#define _mm512_cvtepu8_epi32      lacking_mm512_cvtepu8_epi32
#define _mm512_cvtepi16_epi32     lacking_mm512_cvtepi16_epi32
#define _mm512_cvtepu16_epi32     lacking_mm512_cvtepu16_epi32
#define _mm512_cvtepi8_epi16      lacking_mm512_cvtepi8_epi16
#define _mm512_cvtepu8_epi16      lacking_mm512_cvtepu8_epi16
#define _mm512_cvtepi32_ps        lacking_mm512_cvtepi32_ps
#define _mm512_cvtps_pd           lacking_mm512_cvtps_pd
#define _mm512_cvtepi32_pd        lacking_mm512_cvtepi32_pd
#define _mm512_cvtpbh_ps          lacking_mm512_cvtpbh_ps
#define _mm512_cvtph_ps           lacking_mm512_cvtph_ps
#define _mm512_cvtepi32_epi8      lacking_mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi16     lacking_mm512_cvtepi32_epi16
#define _mm512_cvtsepi32_epi8     lacking_mm512_cvtsepi32_epi8
#define _mm512_cvtsepi32_epi16    lacking_mm512_cvtsepi32_epi16
#define _mm512_cvtusepi32_epi8    lacking_mm512_cvtusepi32_epi8
#define _mm512_cvtusepi32_epi16   lacking_mm512_cvtusepi32_epi16
#define _mm512_cvtepi16_epi8      lacking_mm512_cvtepi16_epi8
#define _mm512_cvtsepi16_epi8     lacking_mm512_cvtsepi16_epi8
#define _mm512_cvtusepi16_epi8    lacking_mm512_cvtusepi16_epi8
#define _mm512_cvtps_epi32        lacking_mm512_cvtps_epi32
#define _mm512_cvttps_epi32       lacking_mm512_cvttps_epi32
#define _mm512_cvtpd_ps           lacking_mm512_cvtpd_ps
#define _mm512_cvtss_f32          lacking_mm512_cvtss_f32
#define _mm512_cvtsi512_si32      lacking_mm512_cvtsi512_si32
#define _mm512_cvtneps_pbh        lacking_mm512_cvtneps_pbh
#define _mm512_cvtne2ps_pbh       lacking_mm512_cvtne2ps_pbh
#define _mm512_cvtps_ph           lacking_mm512_cvtps_ph
#define _mm512_movehdup_ps        lacking_mm512_movehdup_ps
#define _mm512_moveldup_ps        lacking_mm512_moveldup_ps
#define _mm512_broadcast_i32x8    lacking_mm512_broadcast_i32x8
#define _mm512_broadcast_f32x8    lacking_mm512_broadcast_f32x8
#define _mm512_broadcast_i64x2    lacking_mm512_broadcast_i64x2
#define _mm512_broadcast_i32x2    lacking_mm512_broadcast_i32x2
#define _mm512_zextsi128_si512    lacking_mm512_zextsi128_si512
#define _mm512_zextsi256_si512    lacking_mm512_zextsi256_si512
#define _mm512_zextps128_ps512    lacking_mm512_zextps128_ps512
#define _mm512_zextps256_ps512    lacking_mm512_zextps256_ps512
#define _mm512_shuffle_f32x4      lacking_mm512_shuffle_f32x4
#define _mm512_shuffle_f64x2      lacking_mm512_shuffle_f64x2
#define _mm512_shuffle_i32x4      lacking_mm512_shuffle_i32x4
#define _mm512_shuffle_i64x2      lacking_mm512_shuffle_i64x2
#define _mm512_shuffle_epi32      lacking_mm512_shuffle_epi32
#define _mm512_permute_ps         lacking_mm512_permute_ps
#define _mm512_shuffle_ps         lacking_mm512_shuffle_ps
#define _mm512_extractf32x8_ps    lacking_mm512_extractf32x8_ps
#define _mm512_extracti32x8_epi32 lacking_mm512_extracti32x8_epi32
#define _mm512_alignr_epi8        lacking_mm512_alignr_epi8
#define _mm512_alignr_epi32       lacking_mm512_alignr_epi32
#define _mm512_bslli_epi128       lacking_mm512_bslli_epi128
#define _mm512_bsrli_epi128       lacking_mm512_bsrli_epi128
#define _mm512_srai_epi32         lacking_mm512_srai_epi32
#define _mm512_srav_epi32         lacking_mm512_srav_epi32
#define _mm512_cmplt_epi32_mask   lacking_mm512_cmplt_epi32_mask
#define _mm512_cmple_epi32_mask   lacking_mm512_cmple_epi32_mask
#define _mm512_scalef_ps          lacking_mm512_scalef_ps
#define _mm512_mask3_fmadd_ps     lacking_mm512_mask3_fmadd_ps
#define _mm512_undefined_ps       lacking_mm512_undefined_ps
#define _mm512_undefined_epi32    lacking_mm512_undefined_epi32
#define _mm512_stream_load_si512  lacking_mm512_stream_load_si512
#define _mm512_stream_si512       lacking_mm512_stream_si512
#define _mm512_stream_ps          lacking_mm512_stream_ps
#define _mm512_i32gather_ps       lacking_mm512_i32gather_ps
#define _mm512_i32gather_epi32    lacking_mm512_i32gather_epi32
#define _mm512_reduce_add_ps      lacking_mm512_reduce_add_ps
#define _mm512_reduce_max_ps      lacking_mm512_reduce_max_ps
#define _mm512_reduce_min_ps      lacking_mm512_reduce_min_ps
#define _mm512_reduce_add_epi32   lacking_mm512_reduce_add_epi32
#define _mm512_reduce_max_epi32   lacking_mm512_reduce_max_epi32
#define _mm512_reduce_min_epi32   lacking_mm512_reduce_min_epi32
#define _mm512_reduce_max_epu32   lacking_mm512_reduce_max_epu32
#define _mm512_reduce_min_epu32   lacking_mm512_reduce_min_epu32
#define _cvtu32_mask8             lacking_cvtu32_mask8
#define _cvtu32_mask16            lacking_cvtu32_mask16
#define _cvtu32_mask32            lacking_cvtu32_mask32
#define _cvtu64_mask64            lacking_cvtu64_mask64
#define _cvtmask8_u32             lacking_cvtmask8_u32
#define _cvtmask16_u32            lacking_cvtmask16_u32
#define _cvtmask32_u32            lacking_cvtmask32_u32
#define _cvtmask64_u64            lacking_cvtmask64_u64
#define _kand_mask16              lacking_kand_mask16
#define _kor_mask16               lacking_kor_mask16
#define _knot_mask16              lacking_knot_mask16

/* ---- masked loads and stores: elements that the mask leaves out are not touched ---- */
#define MASKED(load, load_or_zero, store, vector, mask, type)                                      \
    static inline vector load(vector s, mask k, const void *p) {                                   \
        type x[sizeof(vector) / sizeof(type)];                                                     \
        memcpy(x, &s, sizeof(s));                                                                  \
        for (size_t i = 0; i < sizeof(vector) / sizeof(type); i++)                                 \
            if (k >> i & 1) memcpy(&x[i], (const char *)p + i * sizeof(type), sizeof(type));       \
        memcpy(&s, x, sizeof(s));                                                                  \
        return s;                                                                                  \
    }                                                                                              \
    static inline vector load_or_zero(mask k, const void *p) {                                     \
        vector zero;                                                                               \
        memset(&zero, 0, sizeof(zero));                                                            \
        return load(zero, k, p);                                                                   \
    }                                                                                              \
    static inline void store(void *p, mask k, vector s) {                                          \
        type x[sizeof(vector) / sizeof(type)];                                                     \
        memcpy(x, &s, sizeof(s));                                                                  \
        for (size_t i = 0; i < sizeof(vector) / sizeof(type); i++)                                 \
            if (k >> i & 1) memcpy((char *)p + i * sizeof(type), &x[i], sizeof(type));             \
    }
MASKED(_mm512_mask_loadu_epi8, _mm512_maskz_loadu_epi8, _mm512_mask_storeu_epi8, __m512i, uint64_t,
       int8_t)
MASKED(_mm512_mask_loadu_epi16, _mm512_maskz_loadu_epi16, _mm512_mask_storeu_epi16, __m512i,
       uint32_t, int16_t)
MASKED(_mm512_mask_loadu_epi32, _mm512_maskz_loadu_epi32, _mm512_mask_storeu_epi32, __m512i,
       uint16_t, int32_t)
MASKED(_mm512_mask_loadu_epi64, _mm512_maskz_loadu_epi64, _mm512_mask_storeu_epi64, __m512i,
       uint8_t, int64_t)
MASKED(_mm512_mask_loadu_ps, _mm512_maskz_loadu_ps, _mm512_mask_storeu_ps, __m512, uint16_t, float)
MASKED(_mm512_mask_loadu_pd, _mm512_maskz_loadu_pd, _mm512_mask_storeu_pd, __m512d, uint8_t, double)
MASKED(_mm256_mask_loadu_epi8, _mm256_maskz_loadu_epi8, _mm256_mask_storeu_epi8, __m256i, uint32_t,
       int8_t)
MASKED(_mm256_mask_loadu_epi16, _mm256_maskz_loadu_epi16, _mm256_mask_storeu_epi16, __m256i,
       uint16_t, int16_t)
MASKED(_mm256_mask_loadu_epi32, _mm256_maskz_loadu_epi32, _mm256_mask_storeu_epi32, __m256i,
       uint8_t, int32_t)
MASKED(_mm256_mask_loadu_ps, _mm256_maskz_loadu_ps, _mm256_mask_storeu_ps, __m256, uint8_t, float)
MASKED(_mm_mask_loadu_epi8, _mm_maskz_loadu_epi8, _mm_mask_storeu_epi8, __m128i, uint16_t, int8_t)
MASKED(_mm_mask_loadu_epi16, _mm_maskz_loadu_epi16, _mm_mask_storeu_epi16, __m128i, uint8_t,
       int16_t)
MASKED(_mm_mask_loadu_epi32, _mm_maskz_loadu_epi32, _mm_mask_storeu_epi32, __m128i, uint8_t,
       int32_t)
MASKED(_mm_mask_loadu_ps, _mm_maskz_loadu_ps, _mm_mask_storeu_ps, __m128, uint8_t, float)

/* Element i of the result r, from the inputs a and b seen as x and y. */
#define SEE_a                                                                                      \
    any512 x;                                                                                      \
    memcpy(&x, &a, sizeof(a));
#define SEE_ab                                                                                     \
    SEE_a any512 y;                                                                                \
    memcpy(&y, &b, sizeof(b));
#define NEW
#define EACH(type, name, parameters, see, n, element)                                              \
    static inline type name parameters {                                                           \
        any512 r;                                                                                  \
        see for (int i = 0; i < n; i++) r.element;                                                 \
        type result;                                                                               \
        memcpy(&result, &r, sizeof(result));                                                       \
        return result;                                                                             \
    }

/* ---- wider elements ---- */
EACH(__m512i, _mm512_cvtepi8_epi32, (__m128i a), SEE_a, 16, i32[i] = x.i8[i])
EACH(__m512i, _mm512_cvtepu8_epi32, (__m128i a), SEE_a, 16, i32[i] = x.u8[i])
EACH(__m512i, _mm512_cvtepi16_epi32, (__m256i a), SEE_a, 16, i32[i] = x.i16[i])
EACH(__m512i, _mm512_cvtepu16_epi32, (__m256i a), SEE_a, 16, i32[i] = x.u16[i])
EACH(__m512i, _mm512_cvtepi8_epi16, (__m256i a), SEE_a, 32, i16[i] = x.i8[i])
EACH(__m512i, _mm512_cvtepu8_epi16, (__m256i a), SEE_a, 32, i16[i] = x.u8[i])
EACH(__m512, _mm512_cvtepi32_ps, (__m512i a), SEE_a, 16, f32[i] = x.i32[i])
EACH(__m512d, _mm512_cvtps_pd, (__m256 a), SEE_a, 8, f64[i] = x.f32[i])
EACH(__m512d, _mm512_cvtepi32_pd, (__m256i a), SEE_a, 8, f64[i] = x.i32[i])
EACH(__m512, _mm512_cvtpbh_ps, (__m256bh a), SEE_a, 16, u32[i] = (uint32_t)x.u16[i] << 16)
EACH(__m512, _mm512_cvtph_ps, (__m256i a), SEE_a, 2, half_f[i] = _mm256_cvtph_ps(x.quarter[i]))

/* ---- narrower elements ---- */
EACH(__m128i, _mm512_cvtepi32_epi8, (__m512i a), SEE_a, 16, i8[i] = (int8_t)x.i32[i])
EACH(__m256i, _mm512_cvtepi32_epi16, (__m512i a), SEE_a, 16, i16[i] = (int16_t)x.i32[i])
EACH(__m128i, _mm512_cvtsepi32_epi8, (__m512i a), SEE_a, 16,
     i8[i] = (int8_t)lacking_clamp(x.i32[i], -128, 127))
EACH(__m256i, _mm512_cvtsepi32_epi16, (__m512i a), SEE_a, 16,
     i16[i] = (int16_t)lacking_clamp(x.i32[i], -32768, 32767))
EACH(__m128i, _mm512_cvtusepi32_epi8, (__m512i a), SEE_a, 16,
     u8[i] = (uint8_t)(x.u32[i] > 255 ? 255 : x.u32[i]))
EACH(__m256i, _mm512_cvtusepi32_epi16, (__m512i a), SEE_a, 16,
     u16[i] = (uint16_t)(x.u32[i] > 65535 ? 65535 : x.u32[i]))
EACH(__m256i, _mm512_cvtepi16_epi8, (__m512i a), SEE_a, 32, i8[i] = (int8_t)x.i16[i])
EACH(__m256i, _mm512_cvtsepi16_epi8, (__m512i a), SEE_a, 32,
     i8[i] = (int8_t)lacking_clamp(x.i16[i], -128, 127))
EACH(__m256i, _mm512_cvtusepi16_epi8, (__m512i a), SEE_a, 32,
     u8[i] = (uint8_t)(x.u16[i] > 255 ? 255 : x.u16[i]))
EACH(__m512i, _mm512_cvtps_epi32, (__m512 a), SEE_a, 16, i32[i] = lacking_round(x.f32[i]))
EACH(__m512i, _mm512_cvttps_epi32, (__m512 a), SEE_a, 16, i32[i] = lacking_truncate(x.f32[i]))
EACH(__m256, _mm512_cvtpd_ps, (__m512d a), SEE_a, 8, f32[i] = (float)x.f64[i])
EACH(float, _mm512_cvtss_f32, (__m512 a), SEE_a, 1, f32[i] = x.f32[i])
EACH(int, _mm512_cvtsi512_si32, (__m512i a), SEE_a, 1, i32[i] = x.i32[i])
EACH(__m256bh, _mm512_cvtneps_pbh, (__m512 a), SEE_a, 16, u16[i] = lacking_bf16(x.f32[i]))
EACH(__m512bh, _mm512_cvtne2ps_pbh, (__m512 a, __m512 b), SEE_ab, 32,
     u16[i] = lacking_bf16(i < 16 ? y.f32[i] : x.f32[i - 16]))
/* always to the nearest even, whatever the mode asks for */
EACH(__m256i, _mm512_cvtps_ph, (__m512 a, int mode), (void)mode;
     SEE_a, 2, quarter[i] = _mm256_cvtps_ph(x.half_f[i], 0))

/* ---- elements moved ---- */
EACH(__m512, _mm512_movehdup_ps, (__m512 a), SEE_a, 16, u32[i] = x.u32[i | 1])
EACH(__m512, _mm512_moveldup_ps, (__m512 a), SEE_a, 16, u32[i] = x.u32[i & ~1])
EACH(__m512i, _mm512_broadcast_i32x8, (__m256i a), NEW, 2, half[i] = a)
EACH(__m512, _mm512_broadcast_f32x8, (__m256 a), NEW, 2, half_f[i] = a)
EACH(__m512i, _mm512_broadcast_i64x2, (__m128i a), NEW, 4, quarter[i] = a)
EACH(__m512i, _mm512_broadcast_i32x2, (__m128i a), SEE_a, 8, i64[i] = x.i64[0])
EACH(__m512i, _mm512_zextsi128_si512, (__m128i a), SEE_a, 8, i64[i] = i < 2 ? x.i64[i] : 0)
EACH(__m512i, _mm512_zextsi256_si512, (__m256i a), SEE_a, 8, i64[i] = i < 4 ? x.i64[i] : 0)
EACH(__m512, _mm512_zextps128_ps512, (__m128 a), SEE_a, 8, i64[i] = i < 2 ? x.i64[i] : 0)
EACH(__m512, _mm512_zextps256_ps512, (__m256 a), SEE_a, 8, i64[i] = i < 4 ? x.i64[i] : 0)
EACH(__m512, _mm512_shuffle_f32x4, (__m512 a, __m512 b, int n), SEE_ab, 4,
     quarter[i] = (i < 2 ? x : y).quarter[n >> 2 * i & 3])
EACH(__m512d, _mm512_shuffle_f64x2, (__m512d a, __m512d b, int n), SEE_ab, 4,
     quarter[i] = (i < 2 ? x : y).quarter[n >> 2 * i & 3])
EACH(__m512i, _mm512_shuffle_i32x4, (__m512i a, __m512i b, int n), SEE_ab, 4,
     quarter[i] = (i < 2 ? x : y).quarter[n >> 2 * i & 3])
EACH(__m512i, _mm512_shuffle_i64x2, (__m512i a, __m512i b, int n), SEE_ab, 4,
     quarter[i] = (i < 2 ? x : y).quarter[n >> 2 * i & 3])
EACH(__m512i, _mm512_shuffle_epi32, (__m512i a, int n), SEE_a, 16,
     i32[i] = x.i32[(i & ~3) + (n >> 2 * (i & 3) & 3)])
EACH(__m512, _mm512_permute_ps, (__m512 a, int n), SEE_a, 16,
     u32[i] = x.u32[(i & ~3) + (n >> 2 * (i & 3) & 3)])
EACH(__m512, _mm512_shuffle_ps, (__m512 a, __m512 b, int n), SEE_ab, 16,
     u32[i] = (i & 2 ? y : x).u32[(i & ~3) + (n >> 2 * (i & 3) & 3)])
EACH(__m256, _mm512_extractf32x8_ps, (__m512 a, int n), SEE_a, 1, half_f[i] = x.half_f[n & 1])
EACH(__m256i, _mm512_extracti32x8_epi32, (__m512i a, int n), SEE_a, 1, half[i] = x.half[n & 1])
EACH(__m512i, _mm512_alignr_epi8, (__m512i a, __m512i b, int n), SEE_ab, 64,
     u8[i] = (i & 15) + n < 16   ? y.u8[i + n]
             : (i & 15) + n < 32 ? x.u8[i + n - 16]
                                 : 0)
EACH(__m512i, _mm512_alignr_epi32, (__m512i a, __m512i b, int n), SEE_ab, 16,
     i32[i] = i + n < 16 ? y.i32[i + n] : x.i32[i + n - 16])
EACH(__m512i, _mm512_bslli_epi128, (__m512i a, int n), SEE_a, 64,
     u8[i] = (i & 15) < n ? 0 : x.u8[i - n])
EACH(__m512i, _mm512_bsrli_epi128, (__m512i a, int n), SEE_a, 64,
     u8[i] = (i & 15) + n > 15 ? 0 : x.u8[i + n])
EACH(__m512i, _mm512_srai_epi32, (__m512i a, unsigned n), SEE_a, 16,
     i32[i] = x.i32[i] >> (n > 31 ? 31 : n))
EACH(__m512i, _mm512_srav_epi32, (__m512i a, __m512i b), SEE_ab, 16,
     i32[i] = x.i32[i] >> (y.u32[i] > 31 ? 31 : y.u32[i]))
EACH(__m512, _mm512_undefined_ps, (void), NEW, 16, u32[i] = 0)
EACH(__m512i, _mm512_undefined_epi32, (void), NEW, 16, u32[i] = 0)
EACH(__m512i, _mm512_stream_load_si512, (const void *p), NEW, 64, u8[i] = ((const uint8_t *)p)[i])
static inline void _mm512_stream_si512(void *p, __m512i a) { memcpy(p, &a, sizeof(a)); }
static inline void _mm512_stream_ps(void *p, __m512 a) { memcpy(p, &a, sizeof(a)); }
EACH(__m512, _mm512_i32gather_ps, (__m512i a, const void *p, int scale), SEE_a, 16,
     i32[i] = lacking_at((const char *)p + (int64_t)x.i32[i] * scale))
EACH(__m512i, _mm512_i32gather_epi32, (__m512i a, const void *p, int scale), SEE_a, 16,
     i32[i] = lacking_at((const char *)p + (int64_t)x.i32[i] * scale))

/* ---- arithmetic; SIMDe's scalef rounds the power of two before the product ---- */
EACH(__m512, _mm512_scalef_ps, (__m512 a, __m512 b), SEE_ab, 16,
     f32[i] = (float)((double)x.f32[i] * exp2(floor((double)y.f32[i]))))
EACH(__m512, _mm512_mask3_fmadd_ps, (__m512 a, __m512 b, __m512 c, uint16_t k), SEE_ab, 16,
     f32[i] = k >> i & 1 ? fmaf(x.f32[i], y.f32[i], c[i]) : c[i])

/* ---- all elements to one, by halves ---- */
#define HALVES(type, name, vector, element, fold)                                                  \
    static inline type name(vector a) {                                                            \
        SEE_a for (int half = 8; half; half /= 2) for (int i = 0; i < half; i++) {                 \
            const type p = x.element[i], q = x.element[i + half];                                  \
            x.element[i] = fold;                                                                   \
        }                                                                                          \
        return x.element[0];                                                                       \
    }
HALVES(float, _mm512_reduce_add_ps, __m512, f32, p + q)
HALVES(float, _mm512_reduce_max_ps, __m512, f32, p > q ? p : q)
HALVES(float, _mm512_reduce_min_ps, __m512, f32, p < q ? p : q)
HALVES(int32_t, _mm512_reduce_add_epi32, __m512i, i32, (int32_t)((uint32_t)p + (uint32_t)q))
HALVES(int32_t, _mm512_reduce_max_epi32, __m512i, i32, p > q ? p : q)
HALVES(int32_t, _mm512_reduce_min_epi32, __m512i, i32, p < q ? p : q)
HALVES(uint32_t, _mm512_reduce_max_epu32, __m512i, u32, p > q ? p : q)
HALVES(uint32_t, _mm512_reduce_min_epu32, __m512i, u32, p < q ? p : q)

/* ---- masks ---- */
#define COMPARE(name, element, comparison)                                                         \
    static inline uint16_t name(__m512i a, __m512i b) {                                            \
        unsigned k = 0;                                                                            \
        SEE_ab for (int i = 0; i < 16; i++) k |= (x.element[i] comparison y.element[i]) << i;      \
        return (uint16_t)k;                                                                        \
    }
COMPARE(_mm512_cmplt_epi32_mask, i32, <)
COMPARE(_mm512_cmple_epi32_mask, i32, <=)
static inline uint8_t _cvtu32_mask8(uint32_t a) { return (uint8_t)a; }
static inline uint16_t _cvtu32_mask16(uint32_t a) { return (uint16_t)a; }
static inline uint32_t _cvtu32_mask32(uint32_t a) { return a; }
static inline uint64_t _cvtu64_mask64(uint64_t a) { return a; }
static inline uint32_t _cvtmask8_u32(uint8_t a) { return a; }
static inline uint32_t _cvtmask16_u32(uint16_t a) { return a; }
static inline uint32_t _cvtmask32_u32(uint32_t a) { return a; }
static inline uint64_t _cvtmask64_u64(uint64_t a) { return a; }
static inline uint16_t _kand_mask16(uint16_t a, uint16_t b) { return a & b; }
static inline uint16_t _kor_mask16(uint16_t a, uint16_t b) { return a | b; }
static inline uint16_t _knot_mask16(uint16_t a) { return (uint16_t)~a; }

/* ---- AVX-VNNI's own names ---- */
#define _mm_dpbusd_avx_epi32     _mm_dpbusd_epi32
#define _mm_dpbusds_avx_epi32    _mm_dpbusds_epi32
#define _mm_dpwssd_avx_epi32     _mm_dpwssd_epi32
#define _mm256_dpbusd_avx_epi32  _mm256_dpbusd_epi32
#define _mm256_dpbusds_avx_epi32 _mm256_dpbusds_epi32
#define _mm256_dpwssd_avx_epi32  _mm256_dpwssd_epi32
#endif
