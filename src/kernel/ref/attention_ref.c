/* attention_ref.c: softmax(q K^T) V over one part of a cache, for each of its kinds. */
#include <assert.h>

#include "kernel/kernel.h"
#include "kernel/kv_place.h"
#include "kernel/ref/float_ref.h"

enum { BLOCK = NIB_ATTENTION_BLOCK, HEAD = NIB_ATTENTION_HEAD };

/* Scores of row r to weights: p[t] = exp(p[t] - max) for first <= t < end, 0 elsewhere; their sum
 * has token t in lane t mod 16. */
static void weigh(float p[BLOCK], const nib_attention_rows *a, int64_t r, float *max, float *sum) {
    const int first = a->first[r], end = a->end[r];
    float most = -INFINITY, lane[16] = {0};
    assert(0 <= first);
    assert(first < end);
    assert(end <= BLOCK);
    for (int t = first; t < end && a->slope; t++)
        p[t] = fmaf(a->slope[r], (float)(t - a->own[r]), p[t]);
    for (int t = first; t < end; t++) most = p[t] > most ? p[t] : most;
    for (int t = 0; t < BLOCK; t++) {
        p[t] = t >= first && t < end ? ref_exp(p[t] - most) : 0.0f;
        if (t >= first && t < end) lane[t % 16] += p[t];
    }
    *max = most + 0.0f; /* a zero without its sign: lanes may have met either first */
    *sum = ref_tree(lane);
}

static void attention_merge_f32(float *out, float *max, float *sum, const float *part,
                                float part_max, float part_sum, int64_t d) {
    const float most = part_max > *max ? part_max : *max;
    const float old = ref_exp(*max - most), new = ref_exp(part_max - most);
    for (int64_t i = 0; i < d; i++) out[i] = fmaf(part[i], new, out[i] * old);
    *sum = fmaf(part_sum, new, *sum * old);
    *max = most;
}

static void attention_f32(float *out, float *max, float *sum, const nib_attention_rows *a,
                          const nib_kv_part *part) {
    const float *k = part->k, *v = part->v;
    for (int64_t r = 0; r < a->rows; r++, out += a->d) {
        float p[BLOCK], y[HEAD], part_max, part_sum;
        for (int t = a->first[r]; t < a->end[r]; t++)
            p[t] = ref_dot(a->q + r * a->d, k + t * a->d, (size_t)a->d) * a->scale;
        weigh(p, a, r, &part_max, &part_sum);
        for (int64_t i = 0; i < a->d; i++) {
            y[i] = 0;
            for (int t = a->first[r]; t < a->end[r]; t++) y[i] = fmaf(p[t], v[t * a->d + i], y[i]);
        }
        attention_merge_f32(out, &max[r], &sum[r], y, part_max, part_sum, a->d);
    }
}

/* A code of e4m3fn as the f16 of the same bits, further left: 256 times smaller. */
static float half_of(uint8_t code) {
    return nib_f16_to_f32((uint16_t)((code & 0x80) << 8 | (code & 0x7f) << 7));
}

static void attention_f8(float *out, float *max, float *sum, const nib_attention_rows *a,
                         const nib_kv_part *part) {
    const uint8_t *k = part->k, *v = part->v;
    const float *k_scale = part->k_scale, *v_scale = part->v_scale;
    for (int64_t r = 0; r < a->rows; r++, out += a->d) {
        float p[BLOCK], y[HEAD], part_max, part_sum, acc;
        for (int t = a->first[r]; t < a->end[r]; t++) {
            acc = 0;
            for (int64_t i = 0; i < a->d; i++)
                acc = fmaf(a->q[r * a->d + i], half_of(k[nib_kv_k8f(t, i, a->d)]), acc);
            p[t] = acc * k_scale[t] * (a->scale * 256);
        }
        weigh(p, a, r, &part_max, &part_sum);
        for (int64_t i = 0; i < a->d; i++) {
            y[i] = 0;
            for (int t = a->first[r]; t < a->end[r]; t++)
                y[i] = fmaf(p[t] * v_scale[t] * 256, half_of(v[t * a->d + i]), y[i]);
        }
        attention_merge_f32(out, &max[r], &sum[r], y, part_max, part_sum, a->d);
    }
}

/* Codes of n floats with the step that `most` shares out over `limit` of them; -> the step. */
static float codes_of(int16_t *code, const float *x, int64_t n, float most, float limit) {
    const float step = most / limit, inverse = step >= 0x1p-126f ? 1.0f / step : 0.0f;
    for (int64_t i = 0; i < n; i++) {
        const float c = rintf(x[i] * inverse);
        code[i] = isnan(c) ? 0 : (int16_t)(c < -limit ? -limit : c > limit ? limit : c);
    }
    return step;
}

/* Weights times the scales of the values, as codes: the largest has 32512. */
static float weight_codes(int16_t code[BLOCK], const float p[BLOCK], const float *scale, int first,
                          int end) {
    float w[BLOCK] = {0}, most = 0;
    for (int t = first; t < end; t++) {
        w[t] = p[t] * scale[t];
        most = isnan(most) || most > w[t] ? most : w[t]; /* a NaN stays */
    }
    return codes_of(code, w, BLOCK, most, 32512);
}

static void attention_i8(float *out, float *max, float *sum, const nib_attention_rows *a,
                         const nib_kv_part *part) {
    const uint8_t *k = part->k, *v = part->v;
    const float *k_scale = part->k_scale, *v_scale = part->v_scale;
    const int64_t dp = nib_kv_dp(a->d);
    for (int64_t r = 0; r < a->rows; r++, out += a->d) {
        const int16_t *q = a->code + r * dp;
        float p[BLOCK], y[HEAD], part_max, part_sum;
        int16_t w[BLOCK];
        for (int t = a->first[r]; t < a->end[r]; t++) {
            int32_t dot = 0;
            for (int64_t i = 0; i < a->d; i++) dot += q[i] * (k[nib_kv_k8(t, i, dp)] - 128);
            p[t] = (float)dot * k_scale[t] * a->factor[r];
        }
        weigh(p, a, r, &part_max, &part_sum);
        const float step = weight_codes(w, p, v_scale, a->first[r], a->end[r]);
        for (int64_t i = 0; i < a->d; i++) {
            int32_t dot = 0;
            for (int t = a->first[r]; t < a->end[r]; t++)
                dot += w[t] * (v[nib_kv_v8(t, i, dp)] - 128);
            y[i] = (float)dot * step;
        }
        attention_merge_f32(out, &max[r], &sum[r], y, part_max, part_sum, a->d);
    }
}

static float bf16_at(const void *x, int64_t i) { return nib_bf16_to_f32(((const uint16_t *)x)[i]); }

static void attention_i4(float *out, float *max, float *sum, const nib_attention_rows *a,
                         const nib_kv_part *part) {
    enum { G = NIB_KV_GROUP };
    const uint8_t *k = part->k, *v = part->v;
    const int64_t d = a->d, dp = nib_kv_dp(d), groups = (d + G - 1) / G;
    for (int64_t r = 0; r < a->rows; r++, out += d) {
        const int16_t *q = a->code + r * dp;
        const int first = a->first[r], end = a->end[r];
        float p[BLOCK], y[HEAD], part_max, part_sum;
        int16_t w[BLOCK];
        for (int t = first; t < end; t++) {
            float acc = 0;
            for (int64_t g = 0; g < groups; g++) {
                int32_t dot = 0;
                for (int64_t i = g * G; i < d && i < (g + 1) * G; i++)
                    dot += q[i] * (k[nib_kv_k4(t, i, dp)] >> nib_kv_k4_shift(i) & 15);
                const int64_t at = nib_kv_k4_scale(t, g, groups);
                acc = fmaf(bf16_at(part->k_scale, at), (float)dot, acc);
                acc = fmaf(-bf16_at(part->k_shift, at), (float)a->code_sum[r * groups + g], acc);
            }
            p[t] = acc * a->factor[r];
        }
        weigh(p, a, r, &part_max, &part_sum);
        for (int64_t g = 0; g < groups; g++) {
            float scale[BLOCK], lane[16] = {0};
            for (int t = first; t < end; t++) {
                scale[t] = bf16_at(part->v_scale, nib_kv_v4_scale(t, g, groups));
                const float shift = bf16_at(part->v_shift, nib_kv_v4_scale(t, g, groups));
                lane[t % 16] = fmaf(p[t], shift, lane[t % 16]);
            }
            const float step = weight_codes(w, p, scale, first, end), low = ref_tree(lane);
            for (int64_t i = g * G; i < d && i < (g + 1) * G; i++) {
                int32_t dot = 0;
                for (int t = first; t < end; t++)
                    dot += w[t] * (v[nib_kv_v4(t, i, dp)] >> nib_kv_v4_shift(t) & 15);
                y[i] = fmaf((float)dot, step, -low);
            }
        }
        attention_merge_f32(out, &max[r], &sum[r], y, part_max, part_sum, a->d);
    }
}

static void attention_codes(int16_t *code, int32_t *sum, float *factor, const float *q,
                            int64_t rows, int64_t d, int64_t group, float scale) {
    const int64_t dp = nib_kv_dp(d), groups = (d + group - 1) / group;
    for (int64_t r = 0; r < rows; r++, q += d, code += dp, sum += groups) {
        float most = 0;
        for (int64_t i = 0; i < d; i++)
            most = isnan(most) || most > fabsf(q[i]) ? most : fabsf(q[i]);
        factor[r] = codes_of(code, q, d, most, 16383) * scale;
        for (int64_t i = d; i < dp; i++) code[i] = 0;
        for (int64_t g = 0; g < groups; g++) {
            sum[g] = 0;
            for (int64_t i = g * group; i < d && i < (g + 1) * group; i++) sum[g] += code[i];
        }
    }
}

static void install(nib_kernels *k) {
    k->attention_f32 = attention_f32;
    k->attention_f8 = attention_f8;
    k->attention_i8 = attention_i8;
    k->attention_i4 = attention_i4;
    k->attention_codes = attention_codes;
    k->attention_merge_f32 = attention_merge_f32;
}
const nib_kernel_set nib_kernels_attention_ref = {.name = "attention_ref", .install = install};
