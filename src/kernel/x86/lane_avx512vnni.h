/* lane_avx512vnni.h: integer weights in lanes times 8-bit codes, what few rows and tiles share. */
#ifndef NIB_KERNEL_X86_LANE_AVX512VNNI_H
#define NIB_KERNEL_X86_LANE_AVX512VNNI_H
#include <immintrin.h>

#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__SANITIZE_ADDRESS__)
#define UNROLL /* gcc warns of loops that were dissolved before it came to them */
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* acc += four products a lane, u8 * s8, exact. Written out, because gcc 12 copies every
 * accumulator twice around the intrinsic. The second form takes four codes for all lanes. */
typedef int32_t __attribute__((may_alias)) four_codes;
#if defined(__AVX512VNNI__)
#define DOT(acc, u, q)     __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(q))
#define DOT_ALL(acc, u, q) __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(u), "m"(q))
#else
#define DOT(acc, u, q)     ((acc) = _mm512_dpbusd_epi32(acc, u, q))
#define DOT_ALL(acc, u, q) DOT(acc, u, _mm512_set1_epi32(q))
#endif

/* Steps that stay in the order in which they are written: products of four codes for all lanes, one
 * number in all, sums to floats, and y += v * t with 16 aligned floats v. */
#if defined(__AVX512VNNI__)
#define DOT_HERE(acc, u, q)                                                                        \
    __asm__ volatile("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(u), "m"(q))
#define ALL_LANES_HERE(to, n) __asm__ volatile("vpbroadcastd %1, %0" : "=v"(to) : "m"(n))
#define CONVERT_HERE(to, sum) __asm__ volatile("vcvtdq2ps %1, %0" : "=v"(to) : "v"(sum))
#define ADD_HERE(y, v, t)                                                                          \
    __asm__ volatile("vfmadd231ps %1, %2, %0" : "+v"(y) : "m"(*(const __m512 *)(v)), "v"(t))
#else
#define DOT_HERE(acc, u, q)   DOT_ALL(acc, u, q)
#define ALL_LANES_HERE(to, n) ((to) = _mm512_set1_epi32(n))
#define CONVERT_HERE(to, sum) ((to) = _mm512_cvtepi32_ps(sum))
#define ADD_HERE(y, v, t)     ((y) = _mm512_fmadd_ps(_mm512_load_ps(v), t, y))
#endif

/* Pointers between which the compiler is not to see any relation, and what it is to load once: it
 * would load a vector at each use, and loads are what opening codes waits for. */
#if defined(__AVX512VNNI__)
#define UNRELATED(a, b, c) __asm__("" : "+r"(a), "+r"(b), "+r"(c))
#define IN_REGISTER(v)     __asm__("" : "+v"(v))
#else
#define UNRELATED(a, b, c) ((void)0)
#define IN_REGISTER(v)     ((void)0)
#endif

/* Asks for a line that will be written. */
#if defined(__AVX512VNNI__)
#define EXPECT(p) __asm__ volatile("prefetchw %0" : : "m"(*(const char *)(p)))
#else
#define EXPECT(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#endif

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The first n lanes, all from 16 on. */
INLINE __mmask16 first_of(int64_t n) { return (__mmask16)((1u << least(n, 16)) - 1); }

/* Sixteen values of the weight's scale or offset, from element `at` on. */
INLINE __m512 values_at(nib_dtype dtype, const void *x, int64_t at) {
    if (dtype == NIB_F32) return _mm512_loadu_ps((const float *)x + at);
    const __m256i half = _mm256_loadu_si256((const void *)((const uint16_t *)x + at));
    if (dtype == NIB_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* The offset of what has this scale; only for kinds that have one. */
INLINE __m512 offset_at(const nib_lane_weight *w, int64_t at, __m512 scale) {
    const __m512 z = values_at(w->scale_dtype, w->offset, at);
    if (w->offset_kind == NIB_OFFSET_ADD) return z;
    const __m512 shift = w->offset_kind == NIB_OFFSET_SUB ? z : _mm512_mul_ps(scale, z);
    return _mm512_xor_ps(shift, _mm512_set1_ps(-0.0f));
}

/* Bits of 16-bit halves to the right; to the left for a negative count. */
typedef uint16_t __attribute__((vector_size(64))) halves;
INLINE __m512i shifted(__m512i v, const int right) {
    return right < 0 ? (__m512i)((halves)v << -right) : (__m512i)((halves)v >> right);
}

/* A cell of 8, 4 or 2 bits as its 8 / bits vectors of codes, four columns each; `placed`: the i-th
 * is 2^(i * bits) times its codes. */
INLINE void cell_codes(const int bits, const bool placed, const uint8_t *cell, __m512i *u) {
    __m512i all = _mm512_loadu_si512(cell);
    IN_REGISTER(all);
    UNROLL
    for (int i = 0; i < 8 / bits; i++) {
        const int mask = ((1 << bits) - 1) << (placed ? i * bits : 0);
        u[i] = i && !placed ? shifted(all, i * bits) : all;
        if (bits < 8) u[i] = _mm512_and_si512(u[i], _mm512_set1_epi8((char)mask));
    }
}

/* Thirty-two columns of planes of 4, 2 and 1 bits, eight vectors. */
INLINE void unit_codes(const int bits, const uint8_t *panel, int64_t Kp, int64_t k, __m512i *u) {
    int shift = 0;
    UNROLL
    for (int b = 4; b >= 1; b /= 2) {
        if (!(bits & b)) continue;
        const __m512i mask = _mm512_set1_epi8((char)(((1 << b) - 1) << shift));
        UNROLL
        for (int c = 0; c < b; c++) {
            const __m512i all = _mm512_loadu_si512(panel + k * NIB_PANEL * b / 8 + c * 64);
            UNROLL
            for (int i = 0; i < 8 / b; i++) {
                /* no bit of a neighbour survives the mask */
                const __m512i part = _mm512_and_si512(shifted(all, i * b - shift), mask);
                const int at = c * (8 / b) + i;
                u[at] = shift ? _mm512_or_si512(u[at], part) : part;
            }
        }
        panel += Kp * NIB_PANEL * b / 8;
        shift += b;
    }
}

/* The channels of a panel that there are. */
INLINE __mmask16 channels_of(const nib_lane_weight *w, int64_t panel) {
    return first_of(w->N - panel * NIB_PANEL);
}

/* The last steps of a row, and its store to the channels of `panel` that there are. */
INLINE void finish_row(float *y, __m512 v, const nib_rows_i8 *rows, int64_t m,
                       const nib_lane_weight *w, int64_t panel) {
    if (rows->zero)
        v = _mm512_fmadd_ps(_mm512_set1_ps(-(float)rows->zero[m]),
                            _mm512_loadu_ps(w->correction + panel * NIB_PANEL), v);
    v = _mm512_mul_ps(v, _mm512_set1_ps(rows->scale[m]));
    _mm512_mask_storeu_ps(y + panel * NIB_PANEL, channels_of(w, panel), v);
}
#endif
