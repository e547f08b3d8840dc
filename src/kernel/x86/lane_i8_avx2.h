/* lane_i8_avx2.h: what the AVX2 products of 8-bit inputs with weights in lanes share: scales and
 * offsets of a group, the last steps of a row, and the tile over unpacked 8-bit codes.
 *
 * AVX2 multiplies unsigned by signed bytes (vpmaddubsw), adding two products in 16 bits with
 * saturation. Weights are the unsigned side. A code below 2^bits times -128 .. 127, twice, is at
 * most 2^bits * 256 in magnitude, so 2^(7 - bits) of them may be summed in 16 bits before one
 * vpmaddwd with ones widens the sums: nothing is ever cut off. */
#ifndef NIB_KERNEL_X86_LANE_I8_AVX2_H
#define NIB_KERNEL_X86_LANE_I8_AVX2_H
#include <immintrin.h>

#include "kernel/kernel.h"
#include "kernel/lane_blocks.h"
#include "kernel/x86/float_avx2.h"

enum { LANE_AHEAD = 4096 }; /* bytes of codes to fetch ahead, a page */

#define INLINE static inline __attribute__((always_inline))

/* All turns of the loop that follows, at most eight, one after the other. */
#ifdef __clang__
#define LANE_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__SANITIZE_ADDRESS__)
#define LANE_UNROLL /* gcc warns of loops that were dissolved before it came to them */
#else
#define LANE_UNROLL _Pragma("GCC unroll 8")
#endif

/* Scale and offset of 16 channels; channels 0-7 and 8-15. */
typedef struct lane_pair {
    __m256 scale[2], offset[2];
} lane_pair;

INLINE __m256 lane_eight_values(nib_dtype dtype, const void *x, int64_t i) {
    if (dtype == NIB_F32) return _mm256_loadu_ps((const float *)x + i);
    const __m128i half = _mm_loadu_si128((const __m128i *)((const uint16_t *)x + i));
    if (dtype == NIB_F16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* Those of group g of a panel; offset 0 where there is none. */
INLINE lane_pair lane_group(const nib_lane_weight *w, int64_t panel, int64_t g) {
    const int64_t at = (panel * w->groups + g) * NIB_PANEL;
    lane_pair v;
    for (int h = 0; h < 2; h++) {
        v.scale[h] = lane_eight_values(w->scale_dtype, w->scale, at + 8 * h);
        v.offset[h] = _mm256_setzero_ps();
        if (w->offset_kind == NIB_OFFSET_NONE) continue;
        __m256 z = lane_eight_values(w->scale_dtype, w->offset, at + 8 * h);
        if (w->offset_kind == NIB_OFFSET_POINT) z = _mm256_mul_ps(v.scale[h], z);
        if (w->offset_kind != NIB_OFFSET_ADD) z = _mm256_xor_ps(z, _mm256_set1_ps(-0.0f));
        v.offset[h] = z;
    }
    return v;
}

/* -mid * sum in every lane: where the sum of products of a group begins. */
INLINE __m256i lane_start(const nib_lane_weight *w, int32_t sum) {
    return _mm256_set1_epi32((int32_t)(0 - (uint32_t)w->mid * (uint32_t)sum));
}

static void lane_groups(lane_values *out, const nib_lane_weight *w, int64_t panel, int64_t group,
                        int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const lane_pair v = lane_group(w, panel, group + i);
        for (int h = 0; h < 2; h++) {
            _mm256_storeu_ps(out[i].scale + 8 * h, v.scale[h]);
            _mm256_storeu_ps(out[i].offset + 8 * h, v.offset[h]);
        }
    }
}

/* y after one group: fma(scale, t, y), then fma(offset, sum, y). */
INLINE __m256 lane_flush(const nib_lane_weight *w, __m256 scale, __m256 offset, __m256i t,
                         int32_t sum, __m256 y) {
    y = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(t), y);
    if (w->offset_kind == NIB_OFFSET_NONE) return y;
    return _mm256_fmadd_ps(offset, _mm256_set1_ps((float)sum), y);
}

/* The last steps of 16 sums of row m, and the store of those channels that exist. */
INLINE void lane_finish(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t m,
                        const nib_lane_weight *w, int64_t panel, const float *sums) {
    __m256 low = _mm256_loadu_ps(sums), high = _mm256_loadu_ps(sums + 8);
    const int64_t left = w->N - panel * NIB_PANEL;
    float *out = y + m * ldy + panel * NIB_PANEL;
    if (rows->zero) {
        const float *correction = w->correction + panel * NIB_PANEL;
        const __m256 z = _mm256_set1_ps(-(float)rows->zero[m]);
        low = _mm256_fmadd_ps(z, _mm256_loadu_ps(correction), low);
        high = _mm256_fmadd_ps(z, _mm256_loadu_ps(correction + 8), high);
    }
    const __m256 scale = _mm256_set1_ps(rows->scale[m]);
    low = _mm256_mul_ps(low, scale), high = _mm256_mul_ps(high, scale);
    if (left >= NIB_PANEL) {
        _mm256_storeu_ps(out, low), _mm256_storeu_ps(out + 8, high);
        return;
    }
    avx2_store_first(out, (size_t)left, low);
    if (left > 8) avx2_store_first(out + 8, (size_t)left - 8, high);
}

INLINE __m256i lane_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* Four codes of an input in every lane. */
INLINE __m256i lane_four(const void *q) {
    int32_t four;
    __builtin_memcpy(&four, q, 4);
    return _mm256_set1_epi32(four);
}

/* Ask for what will be needed soon; an address outside the weights does nothing. */
INLINE void lane_fetch(const uint8_t *codes, int ahead) {
    _mm_prefetch((const char *)((uintptr_t)codes + (uintptr_t)ahead), _MM_HINT_T0);
}

/* Cells of four columns whose products may be summed in 16 bits: 2 * 128 * greatest * depth is at
 * most 32767. */
INLINE int lane_depth(int bits) {
    static const int depth[] = {0, 64, 42, 18, 8, 4, 2, 1};
    return depth[bits];
}

/* Keeps the compiler from moving the products of several steps before the sums c of R rows, for
 * which the registers do not suffice, */
INLINE void lane_keep(const int R, __m256i c[4][2]) {
    if (R == 1) __asm__ volatile("" : "+x"(c[0][0]), "+x"(c[0][1]));
    if (R == 2) __asm__ volatile("" : "+x"(c[0][0]), "+x"(c[0][1]), "+x"(c[1][0]), "+x"(c[1][1]));
    if (R == 3)
        __asm__ volatile(""
                         : "+x"(c[0][0]), "+x"(c[0][1]), "+x"(c[1][0]), "+x"(c[1][1]),
                           "+x"(c[2][0]), "+x"(c[2][1]));
    if (R == 4)
        __asm__ volatile(""
                         : "+x"(c[0][0]), "+x"(c[0][1]), "+x"(c[1][0]), "+x"(c[1][1]),
                           "+x"(c[2][0]), "+x"(c[2][1]), "+x"(c[3][0]), "+x"(c[3][1]));
}
/* from loading or unpacking two vectors again for every use, */
INLINE void lane_keep_two(__m256i *a, __m256i *b) { __asm__ volatile("" : "+x"(*a), "+x"(*b)); }
/* and from computing the addresses of rows from one another at every step. */
INLINE void lane_keep_rows(const int R, const uint8_t *q[4]) {
    if (R == 1) __asm__ volatile("" : "+r"(q[0]));
    if (R == 2) __asm__ volatile("" : "+r"(q[0]), "+r"(q[1]));
    if (R == 3) __asm__ volatile("" : "+r"(q[0]), "+r"(q[1]), "+r"(q[2]));
    if (R == 4) __asm__ volatile("" : "+r"(q[0]), "+r"(q[1]), "+r"(q[2]), "+r"(q[3]));
}
#endif
