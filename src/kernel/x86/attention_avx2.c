/* attention_avx2.c: queries against a part of a float cache; head elements in lanes. */
#include "kernel/x86/attention_avx2.h"

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

static void attention_f32(float *out, float *max, float *sum, const nib_attention_rows *a,
                          const nib_kv_part *part) {
    const float *k = part->k, *v = part->v;
    const int64_t d = a->d;
    for (int64_t r = 0; r < a->rows; r++) {
        const int first = a->first[r], end = a->end[r];
        float p[BLOCK] = {0}, y[NIB_ATTENTION_HEAD], part_max, part_sum;
        for (int t = first; t < end; t++)
            p[t] = avx2_dot(a->q + r * d, k + t * d, (size_t)d) * a->scale;
        weigh(p, a, r, &part_max, &part_sum);
        weighted_rows(y, p + first, v + first * d, d, end - first, d);
        merge_part(out + r * d, &max[r], &sum[r], y, part_max, part_sum, d);
    }
}

static void install(nib_kernels *k) {
    k->attention_f32 = attention_f32;
    k->attention_merge_f32 = merge_part;
}
const nib_kernel_set nib_kernels_attention_avx2 = {
    .name = "attention_avx2", .needs = NIB_CPU_AVX2, .install = install};
