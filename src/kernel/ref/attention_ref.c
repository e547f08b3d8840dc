/* attention_ref.c: softmax(q K^T) V for one query, in parts of 64 tokens that merge in order. */
#include <assert.h>

#include "kernel/kernel.h"
#include "kernel/ref/float_ref.h"

static void attention_block_f32(float *out, float *max, float *sum, const float *q, const float *k,
                                int64_t ldk, const float *v, int64_t ldv, int64_t tokens, int64_t d,
                                float scale) {
    assert(tokens >= 1);
    assert(tokens <= NIB_ATTENTION_BLOCK);
    float p[NIB_ATTENTION_BLOCK], most = -INFINITY;
    for (int64_t t = 0; t < tokens; t++) {
        p[t] = ref_dot(q, k + t * ldk, (size_t)d) * scale;
        most = p[t] > most ? p[t] : most;
    }
    for (int64_t t = 0; t < tokens; t++) p[t] = ref_exp(p[t] - most);
    for (int64_t i = 0; i < d; i++) {
        float acc = 0;
        for (int64_t t = 0; t < tokens; t++) acc = fmaf(p[t], v[t * ldv + i], acc);
        out[i] = acc;
    }
    *max = most + 0.0f; /* a zero without its sign: lanes may have met either first */
    *sum = ref_sum(p, (size_t)tokens);
}

static void attention_merge_f32(float *out, float *max, float *sum, const float *part,
                                float part_max, float part_sum, int64_t d) {
    const float most = part_max > *max ? part_max : *max;
    const float old = ref_exp(*max - most), new = ref_exp(part_max - most);
    for (int64_t i = 0; i < d; i++) out[i] = fmaf(part[i], new, out[i] * old);
    *sum = fmaf(part_sum, new, *sum * old);
    *max = most;
}

static void install(nib_kernels *k) {
    k->attention_block_f32 = attention_block_f32;
    k->attention_merge_f32 = attention_merge_f32;
}
const nib_kernel_set nib_kernels_attention_ref = {.name = "attention_ref", .install = install};
