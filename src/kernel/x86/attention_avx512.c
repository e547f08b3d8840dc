/* attention_avx512.c: the merge of a part of attention into what came before it. */
#include "kernel/kernel.h"
#include "kernel/x86/float_avx512.h"

static void attention_merge_f32(float *out, float *max, float *sum, const float *part,
                                float part_max, float part_sum, int64_t d) {
    const float most = part_max > *max ? part_max : *max;
    /* both factors at once: the old one in even lanes, the new one in odd lanes */
    const __m512 below =
        _mm512_mask_mov_ps(_mm512_set1_ps(*max - most), 0xaaaa, _mm512_set1_ps(part_max - most));
    const __m512 both = avx512_exp(below);
    const __m512 old = _mm512_moveldup_ps(both), new = _mm512_movehdup_ps(both);
    int64_t i = 0;
    for (; i + 16 <= d; i += 16) {
        const __m512 kept = _mm512_mul_ps(_mm512_loadu_ps(out + i), old);
        _mm512_storeu_ps(out + i, _mm512_fmadd_ps(_mm512_loadu_ps(part + i), new, kept));
    }
    if (i < d) {
        const size_t rest = (size_t)(d - i);
        const __m512 kept = _mm512_mul_ps(avx512_load_first(out + i, rest), old);
        avx512_store_first(out + i, rest,
                           _mm512_fmadd_ps(avx512_load_first(part + i, rest), new, kept));
    }
    *sum = fmaf(part_sum, _mm512_cvtss_f32(new), *sum * _mm512_cvtss_f32(old));
    *max = most;
}

static void install(nib_kernels *k) { k->attention_merge_f32 = attention_merge_f32; }
const nib_kernel_set nib_kernels_attention_avx512 = {
    .name = "attention_avx512", .needs = NIB_CPU_AVX512, .install = install};
