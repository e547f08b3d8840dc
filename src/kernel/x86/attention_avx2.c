/* attention_avx2.c: one query against a block of tokens; head elements in lanes. */
#include <assert.h>

#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

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

static void attention_block_f32(float *out, float *max, float *sum, const float *q, const float *k,
                                int64_t ldk, const float *v, int64_t ldv, int64_t tokens, int64_t d,
                                float scale) {
    assert(tokens >= 1);
    assert(tokens <= NIB_ATTENTION_BLOCK);
    float p[NIB_ATTENTION_BLOCK];
    for (int64_t t = 0; t < tokens; t++) p[t] = avx2_dot(q, k + t * ldk, (size_t)d) * scale;
    const float most = avx2_max(p, (size_t)tokens);
    for (int64_t t = 0; t < tokens; t += 8) {
        const size_t rest = (size_t)(tokens - t);
        const __m256 below = _mm256_sub_ps(avx2_load_first(p + t, rest), _mm256_set1_ps(most));
        avx2_store_first(p + t, rest, avx2_exp(below));
    }
    weighted_rows(out, p, v, ldv, tokens, d);
    *max = most + 0.0f;
    *sum = avx2_sum(p, (size_t)tokens);
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
    k->attention_block_f32 = attention_block_f32;
    k->attention_merge_f32 = attention_merge_f32;
}
const nib_kernel_set nib_kernels_attention_avx2 = {
    .name = "attention_avx2", .needs = NIB_CPU_AVX2, .install = install};
