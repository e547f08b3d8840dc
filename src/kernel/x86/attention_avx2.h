/* attention_avx2.h: what the AVX2 kernels of attention share: the softmax over a part, and how its
 * results are folded into those of parts before. */
#ifndef NIB_KERNEL_X86_ATTENTION_AVX2_H
#define NIB_KERNEL_X86_ATTENTION_AVX2_H
#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

#define INLINE static inline __attribute__((always_inline))
enum { BLOCK = NIB_ATTENTION_BLOCK };

/* All ones for tokens t .. t + 7 within [first, end). */
INLINE __m256 seen_at(int t, int first, int end) {
    const __m256i at =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(t));
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(end), at),
                         _mm256_cmpgt_epi32(at, _mm256_set1_epi32(first - 1))));
}

/* What ALiBi adds to the scores of row r. */
static inline void lean(float p[BLOCK], const nib_attention_rows *a, int64_t r) {
    const __m256 slope = _mm256_set1_ps(a->slope[r]);
    for (int t = 0; t < BLOCK; t += 8) {
        const __m256i from =
            _mm256_sub_epi32(_mm256_setr_epi32(t, t + 1, t + 2, t + 3, t + 4, t + 5, t + 6, t + 7),
                             _mm256_set1_epi32(a->own[r]));
        _mm256_storeu_ps(p + t,
                         _mm256_fmadd_ps(slope, _mm256_cvtepi32_ps(from), _mm256_loadu_ps(p + t)));
    }
}

/* Scores of row r to weights in place, 0 for those that are not seen. */
static inline void weigh(float p[BLOCK], const nib_attention_rows *a, int64_t r, float *max,
                         float *sum) {
    const int first = a->first[r], end = a->end[r];
    if (a->slope) lean(p, a, r);
    const float most = avx2_max(p + first, (size_t)(end - first));
    __m256 half[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int t = 0; t < BLOCK; t += 8) {
        const __m256 below = _mm256_sub_ps(_mm256_loadu_ps(p + t), _mm256_set1_ps(most));
        const __m256 e = _mm256_and_ps(avx2_exp(below), seen_at(t, first, end));
        _mm256_storeu_ps(p + t, e);
        half[t / 8 % 2] = _mm256_add_ps(half[t / 8 % 2], e); /* adding +0 changes no lane */
    }
    *max = most + 0.0f;
    *sum = avx2_tree(half[0], half[1]);
}

/* kernel.h: attention_merge_f32 */
static inline void merge_part(float *out, float *max, float *sum, const float *part, float part_max,
                              float part_sum, int64_t d) {
    const float most = part_max > *max ? part_max : *max;
    const __m256 old = avx2_exp(_mm256_set1_ps(*max - most));
    const __m256 new = avx2_exp(_mm256_set1_ps(part_max - most));
    for (int64_t i = 0; i < d; i += 8) {
        const size_t rest = (size_t)(d - i);
        const __m256 kept = _mm256_mul_ps(avx2_load_first(out + i, rest), old);
        avx2_store_first(out + i, rest,
                         _mm256_fmadd_ps(avx2_load_first(part + i, rest), new, kept));
    }
    *sum = fmaf(part_sum, _mm256_cvtss_f32(new), *sum * _mm256_cvtss_f32(old));
    *max = most;
}

#endif
