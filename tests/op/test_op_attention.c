/* Attention over quantized caches: near softmax in double over what the cache stands for, and the
 * same bits however rows, tokens and threads are cut. */
#include <math.h>

#include "io/safetensors.h"
#include "kernel/kv_place.h"
#include "op/calls.h"
#include "op/kv.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "test.h"

typedef struct cache_kind {
    const char *name, *keys, *values;
    nib_dtype code, scale, math;
    int64_t group;
    double half_step; /* of a code, in shares of the group's range (int4) or largest (others) */
} cache_kind;

/* int8: 1 / 254. int4: a
 * step is range / 15, halved, and the lowest value is bf16: up to 2^-9 of a magnitude below 1 for
 * a range that is at least 1 here. fp8: half of the last of three bits of the largest. */
static const cache_kind kinds[] = {
    {"int8", "kv_k8", "kv_v8", NIB_I8, NIB_F32, NIB_F32, 0, 1.0 / 254},
    {"int8_torchao", "kv_k8", "kv_v8", NIB_I8, NIB_F32, NIB_BF16, 0, 0},
    {"int4", "kv_k4", "kv_v4", NIB_U4, NIB_BF16, NIB_F32, 64, 1.0 / 30 + 3.0 / 512},
    {"fp8", "kv_k8f", "kv_v8f", NIB_F8_E4M3FN, NIB_F32, NIB_F32, 0, 1.0 / 28},
};
enum { KINDS = sizeof kinds / sizeof *kinds };
#define FOR_KINDS(k) for (const cache_kind *k = kinds; k < kinds + KINDS; k++)

static nib_tensor *cache_of(nib_ctx *ctx, const cache_kind *k, const char *layout, int64_t heads,
                            int64_t T, int64_t d) {
    const bool shifted = k->code == NIB_U4;
    const nib_qdesc desc = {.code = k->code,
                            .scale_dtype = k->scale,
                            .zero_dtype = shifted ? k->scale : (nib_dtype)0,
                            .math = k->math,
                            .zero_kind = shifted ? NIB_ZERO_SHIFT : NIB_ZERO_NONE,
                            .shape = {3, {heads, T, d}},
                            .rows = heads * T,
                            .cols = d,
                            .block_rows = 1,
                            .block_cols = k->group && k->group < d ? k->group : d};
    nib_codes codes;
    if (nib_codes_alloc(NULL, &desc, &codes) < NIB_OK) return NULL;
    nib_tensor *t = nib_pack_tensor(ctx, nib_layout_find(layout), &codes);
    nib_codes_free(NULL, &codes);
    return nib_scope_own(ctx, t);
}

static nib_tensor *random_rows(nib_ctx *ctx, uint64_t *seed, int64_t rows, int64_t cols) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {rows, cols}}));
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; i < rows * cols; i++) data[i] = test_uniform(seed);
    return t;
}

enum { H = 6, HK = 2 };

typedef struct setting {
    nib_ctx *ctx;
    nib_tensor *q, *rows, *k, *v;
    int64_t d, T;
} setting;

static const void *golden(nib_safetensors *file, const char *name) {
    return nib_safetensors_data(file, nib_safetensors_find(file, name));
}

/* T rows of keys and values appended in pieces, T rows of queries. */
static setting set_up(void **state_, const cache_kind *kind, int threads, int64_t T, int64_t d,
                      int64_t piece) {
    uint64_t seed = 7;
    setting s = {.ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads}), .d = d, .T = T};
    s.q = random_rows(s.ctx, &seed, T, H * d);
    s.rows = random_rows(s.ctx, &seed, T, HK * d);
    nib_tensor *values = random_rows(s.ctx, &seed, T, HK * d);
    const int64_t room = (T + 63) / 64 * 64;
    s.k = cache_of(s.ctx, kind, kind->keys, HK, room, d);
    s.v = cache_of(s.ctx, kind, kind->values, HK, room, d);
    CHECK_MADE(s.k);
    CHECK_MADE(s.v);
    for (int64_t t = 0; t < T; t += piece) {
        const int64_t n = T - t < piece ? T - t : piece;
        CHECK_OK(nib_kv_append(s.k, nib_scope_own(s.ctx, nib_tensor_slice(s.rows, 0, t, n)), t));
        CHECK_OK(nib_kv_append(s.v, nib_scope_own(s.ctx, nib_tensor_slice(values, 0, t, n)), t));
    }
    return s;
}

TEST(what_is_appended_comes_back_within_half_a_step) {
    FOR_KINDS(kind) {
        if (kind->math == NIB_BF16) continue; /* dequantizing rounds each product to it */
        static const int64_t widths[] = {32, 80, 128};
        for (size_t w = 0; w < 3; w++) {
            const int64_t d = widths[w], T = 70, room = 128;
            const setting s = set_up(state_, kind, 1, T, d, 9);
            nib_tensor *back = nib_scope_own(s.ctx, nib_dequantize_tensor(s.k));
            CHECK_MADE(back);
            const float *x = nib_tensor_data(s.rows);
            float *y = nib_tensor_data_mut(back);
            for (int64_t t = 0; t < T; t++)
                for (int64_t h = 0; h < HK; h++)
                    for (int64_t i = 0; i < d; i++) /* |x| <= 1, a range of at most 2 */
                        CHECK_NEAR(y[(h * room + t) * d + i], x[(t * HK + h) * d + i],
                                   kind->half_step * (kind->code == NIB_U4 ? 2 : 1));
            nib_ctx_free(s.ctx);
        }
    }
}

/* Slopes of ALiBi, one a head. */
#define SLOPE(h) ldexpf(1, -(int)(h)-1)
static nib_tensor *slopes_of(nib_ctx *ctx) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {H}}));
    float *data = nib_tensor_data_mut(t);
    for (int h = 0; h < H; h++) data[h] = SLOPE(h);
    return t;
}

/* The steps of queries are 2^-14 of the largest, those of weights 2^-15: with scores below 10 and
 * values below 2 that is well within 2e-3; a wrong lane or scale is off by a hundred times that. */
TEST(attention_over_codes_equals_softmax_in_double) {
    static const int64_t windows[] = {0, 5, 64, 100};
    FOR_KINDS(kind) {
        if (kind->math == NIB_BF16) continue;
        for (int w = 0; w < 4; w++) {
            const int64_t d = w % 2 ? 40 : 80, T = 150, room = 192;
            const setting s = set_up(state_, kind, 2, T, d, 150);
            const nib_tensor *slopes = w % 2 ? slopes_of(s.ctx) : NIB_NONE; /* ALiBi */
            const nib_tensor *y =
                nib_attention_alibi(s.q, s.k, s.v, slopes, H, 0, windows[w], 0.35);
            CHECK_MADE(y);
            const float *k = nib_tensor_data(nib_scope_own(s.ctx, nib_dequantize_tensor(s.k)));
            const float *v = nib_tensor_data(nib_scope_own(s.ctx, nib_dequantize_tensor(s.v)));
            for (int64_t m = 0; m < T; m += 7)
                for (int64_t h = 0; h < H; h++) {
                    const float *q = (const float *)nib_tensor_data(s.q) + (m * H + h) * d;
                    const float *got = (const float *)nib_tensor_data(y) + (m * H + h) * d;
                    const int64_t kv = h / (H / HK) * room;
                    double sum = 0, out[128] = {0};
                    for (int64_t t = windows[w] && m >= windows[w] ? m - windows[w] + 1 : 0; t <= m;
                         t++) {
                        double score = 0;
                        for (int64_t i = 0; i < d; i++)
                            score += (double)q[i] * (double)k[(kv + t) * d + i];
                        const double lean = w % 2 ? (double)SLOPE(h) * (double)(t - m) : 0;
                        const double p = exp(score * 0.35 + lean);
                        sum += p;
                        for (int64_t i = 0; i < d; i++) out[i] += p * (double)v[(kv + t) * d + i];
                    }
                    for (int64_t i = 0; i < d; i++) CHECK_NEAR(got[i], out[i] / sum, 2e-3);
                }
            nib_ctx_free(s.ctx);
        }
    }
}

/* More than one span of 2048 tokens, so that threads share a row. */
TEST(bits_do_not_hang_on_threads_rows_or_how_tokens_were_appended) {
    FOR_KINDS(kind) {
        const int64_t T = 2048 + 150, d = 16;
        const setting one = set_up(state_, kind, 1, T, d, T);
        const nib_tensor *all =
            nib_attention_alibi(one.q, one.k, one.v, slopes_of(one.ctx), H, 0, 0, 0.35);
        CHECK_MADE(all);
        for (int threads = 1; threads <= 4; threads += 3) {
            const setting s = set_up(state_, kind, threads, T, d, 100);
            for (int64_t m = 0; m < T; m += 171) {
                const int64_t n = m % 2 ? 1 : 5, start = m + n < T ? m : T - n;
                nib_tensor *q = nib_scope_own(s.ctx, nib_tensor_slice(s.q, 0, start, n));
                const nib_tensor *y =
                    nib_attention_alibi(q, s.k, s.v, slopes_of(s.ctx), H, start, 0, 0.35);
                CHECK_MADE(y);
                CHECK_BYTES(nib_tensor_data(y), (const float *)nib_tensor_data(all) + start * H * d,
                            (size_t)(n * H * d) * sizeof(float));
            }
            nib_ctx_free(s.ctx);
        }
        nib_ctx_free(one.ctx);
    }
}

/* tests/golden/op/make_kv.py. What torchao's attention saw is codes * scales rounded to bf16, by up
 * to 2^-9 of each: scores, whose terms sum to less than 8, move by 2^-9 of that, weights by that
 * share of themselves, and values, below 6, by 2^-9 again. Against codes * scales as they are, only
 * the steps of queries and weights remain. */
TEST(int8_torchao_has_torchaos_codes_scales_and_attention) {
    nib_safetensors *file = nib_safetensors_open(NULL, "tests/golden/op/kv.safetensors");
    CHECK_MADE(file);
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    const cache_kind *kind = &kinds[1];
    CHECK(strcmp(kind->name, "int8_torchao") == 0);
    const nib_safetensors_entry *entry = nib_safetensors_find(file, "codes_k");
    const int64_t heads = entry->shape.dim[0], T = entry->shape.dim[1], d = entry->shape.dim[2];
    const int64_t room = (T + 63) / 64 * 64, dp = nib_kv_dp(d);
    nib_tensor *cache[2];
    for (int i = 0; i < 2; i++) {
        char name[16];
        cache[i] = cache_of(ctx, kind, i ? kind->values : kind->keys, heads, room, d);
        CHECK_MADE(cache[i]);
        snprintf(name, sizeof name, "rows_%c", "kv"[i]);
        nib_tensor *rows = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {T, heads * d}},
                                           golden(file, name), NULL, NULL);
        CHECK_OK(nib_kv_append(cache[i], rows, 0));
        nib_tensor_free(rows);
        snprintf(name, sizeof name, "codes_%c", "kv"[i]);
        const int8_t *codes = golden(file, name);
        snprintf(name, sizeof name, "scales_%c", "kv"[i]);
        const float *scales = golden(file, name);
        const uint8_t *got = nib_tensor_part(cache[i], 0);
        const float *got_scales = nib_tensor_part(cache[i], 1);
        for (int64_t h = 0; h < heads; h++)
            for (int64_t t = 0; t < T; t++) {
                CHECK_NEAR(got_scales[h * room + t], scales[h * T + t], 0);
                for (int64_t c = 0; c < d; c++) {
                    const int64_t at = i ? nib_kv_v8(t, c, dp) : nib_kv_k8(t, c, dp);
                    CHECK_INT(got[h * room * dp + at] - 128, codes[(h * T + t) * d + c]);
                }
            }
    }
    entry = nib_safetensors_find(file, "q");
    const int64_t M = entry->shape.dim[0], H_d = entry->shape.dim[1];
    nib_tensor *q =
        nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {M, H_d}}, golden(file, "q"), NULL, NULL);
    const nib_tensor *y = nib_attention(q, cache[0], cache[1], H_d / d, T - M, 0, 0.25);
    CHECK_MADE(y);
    const float *x = nib_tensor_data(y), *exact = golden(file, "exact"),
                *rounded = golden(file, "rounded");
    for (int64_t i = 0; i < M * H_d; i++) {
        CHECK_NEAR(x[i], exact[i], 2e-3);
        CHECK_NEAR(x[i], rounded[i], 6 * (8 + 1) / 512.0);
    }
    nib_tensor_free(q);
    nib_ctx_free(ctx);
    nib_safetensors_close(file);
}

TEST(what_does_not_belong_together_is_refused) {
    const setting s = set_up(state_, &kinds[0], 1, 64, 16, 64);
    nib_tensor *f8 = cache_of(s.ctx, &kinds[3], "kv_v8f", HK, 64, 16);
    CHECK(!nib_attention(s.q, s.k, f8, H, 0, 0, 1));
    CHECK_INT(nib_last_error()->status, NIB_E_UNSUPPORTED);
    CHECK(!nib_attention(s.q, s.k, s.v, H, 1, 0, 1));
    CHECK_INT(nib_last_error()->status, NIB_E_SHAPE);
    CHECK_FAILS(nib_kv_append(s.k, s.rows, 1), NIB_E_FULL, "64 tokens");
    nib_tensor *ragged = cache_of(s.ctx, &kinds[0], "kv_k8", HK, 65, 16);
    CHECK_FAILS(nib_kv_append(ragged, s.rows, 0), NIB_E_SHAPE, "blocks of 64");
    nib_ctx_free(s.ctx);
}

TESTS(RUNS(what_is_appended_comes_back_within_half_a_step),
      RUNS(attention_over_codes_equals_softmax_in_double),
      RUNS(bits_do_not_hang_on_threads_rows_or_how_tokens_were_appended),
      RUNS(int8_torchao_has_torchaos_codes_scales_and_attention),
      RUNS(what_does_not_belong_together_is_refused))
