/* attention_avx2.c: queries against a part of a float cache; head elements in lanes. */
#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

enum { BLOCK = NIB_ATTENTION_BLOCK };

/* out[0 .. 32) or less of the weighted rows: 4 chains at once hide the latency. */
static void weighted_rows(float *out, const float *p, const float *v, int64_t ldv, int64_t tokens,
                          int64_t d) {
    int64_t i = 0;
    for (; i + 32 <= d; i += 32) {
        __m256 a = _mm256_setzero_ps(), b = a, c = a, e = a;
        for (int64_t t = 0; t < tokens; t++) {
            const __m256 p_t = _mm256_broadcast_ss(p + t);
            const float *v_t = v + t * ldv + i;
            a = _mm256_fmadd_ps(p_t, _mm256_loadu_ps(v_t), a);
            b = _mm256_fmadd_ps(p_t, _mm256_loadu_ps(v_t + 8), b);
            c = _mm256_fmadd_ps(p_t, _mm256_loadu_ps(v_t + 16), c);
            e = _mm256_fmadd_ps(p_t, _mm256_loadu_ps(v_t + 24), e);
        }
        _mm256_storeu_ps(out + i, a);
        _mm256_storeu_ps(out + i + 8, b);
        _mm256_storeu_ps(out + i + 16, c);
        _mm256_storeu_ps(out + i + 24, e);
    }
    for (; i < d; i += 8) {
        __m256 a = _mm256_setzero_ps();
        for (int64_t t = 0; t < tokens; t++)
            a = _mm256_fmadd_ps(_mm256_broadcast_ss(p + t),
                                avx2_load_first(v + t * ldv + i, (size_t)(d - i)), a);
        avx2_store_first(out + i, (size_t)(d - i), a);
    }
}

/* Scores to weights in place: exp(p - max) within [first, end), 0 elsewhere. */
static void weigh(float p[BLOCK], int first, int end, float *max, float *sum) {
    const float most = avx2_max(p + first, (size_t)(end - first));
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 half[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int t = 0; t < BLOCK; t += 8) {
        const __m256i at = _mm256_add_epi32(index, _mm256_set1_epi32(t));
        const __m256i seen = _mm256_and_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(end), at),
                                              _mm256_cmpgt_epi32(at, _mm256_set1_epi32(first - 1)));
        const __m256 below = _mm256_sub_ps(_mm256_loadu_ps(p + t), _mm256_set1_ps(most));
        const __m256 e = _mm256_and_ps(avx2_exp(below), _mm256_castsi256_ps(seen));
        _mm256_storeu_ps(p + t, e);
        half[t / 8 % 2] = _mm256_add_ps(half[t / 8 % 2], e); /* adding +0 changes no lane */
    }
    *max = most + 0.0f;
    *sum = avx2_tree(half[0], half[1]);
}

static void attention_f32(float *out, float *max, float *sum, const nib_attention_rows *a,
                          const nib_kv_part *part) {
    const float *k = part->k, *v = part->v;
    const int64_t d = a->d;
    for (int64_t r = 0; r < a->rows; r++) {
        const int first = a->first[r], end = a->end[r];
        float p[BLOCK] = {0};
        for (int t = first; t < end; t++)
            p[t] = avx2_dot(a->q + r * d, k + t * d, (size_t)d) * a->scale;
        weigh(p, first, end, &max[r], &sum[r]);
        weighted_rows(out + r * d, p + first, v + first * d, d, end - first, d);
    }
}

static void attention_merge_f32(float *out, float *max, float *sum, const float *part,
                                float part_max, float part_sum, int64_t d) {
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

static void install(nib_kernels *k) {
    k->attention_f32 = attention_f32;
    k->attention_merge_f32 = attention_merge_f32;
}
const nib_kernel_set nib_kernels_attention_avx2 = {
    .name = "attention_avx2", .needs = NIB_CPU_AVX2, .install = install};
