/* How much memory and time does a token take at the end of a long context? Loads a quantized model,
 * fills a cache of TOKENS with keys and values that no model made, decodes 16 tokens behind them,
 * and prints the peak of resident memory, loading included, and the time of each token. Then it
 * holds attention over that cache against float64 on sampled heads.
 *
 *     long_context MODEL [KIND [TOKENS [THREADS]]]           int8, 131072, 2
 *
 * bench/long_context.sh makes the model and runs this for int8 and int4. */
#include <math.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "cache_fill.h"
#include "model/arch.h"
#include "op/calls.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "tensor/context.h"

enum { NEW = 16, SAMPLES = 4 };

static int complain(const char *what) {
    fprintf(stderr, "long_context: %s: %s\n", what, nib_last_error()->what);
    return 1;
}

static double peak_gb(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss * 1024 * 1e-9;
}

static int decode(nib_ctx *ctx, const nib_model *model, nib_kvcache *cache, int64_t tokens,
                  double *ms) {
    int32_t id = 1;
    for (int k = 0; k < NEW; k++) {
        const int64_t start = tokens - NEW + k;
        const nib_segment segment = {cache, start, 1, tokens};
        const nib_batch batch = {.ctx = ctx,
                                 .tokens = &id,
                                 .segments = &segment,
                                 .nsegments = 1,
                                 .M = 1,
                                 .logits = NIB_WANT_LAST};
        nib_tensor *logits = NULL;
        const size_t mark = nib_scope_begin(ctx);
        const int64_t began = nib_now_ns();
        if (model->arch->forward(&model->hparams, model->root, &batch, &logits) < NIB_OK) return 0;
        const float *x = nib_tensor_data(logits);
        id = 0;
        for (int i = 1; i < model->hparams.vocab_size; i++)
            if (x[i] > x[id]) id = i;
        ms[k] = (double)(nib_now_ns() - began) * 1e-6;
        nib_scope_end(ctx, mark);
    }
    return 1;
}

/* Largest difference of one query head from softmax in double over what the cache stands for, as a
 * share of the largest value; negative after a failure. */
static double difference(const nib_tensor *k, const nib_tensor *v, const float *q, const float *got,
                         int64_t head, int64_t tokens, double scale) {
    const int64_t d = k->shape.dim[2], room = k->shape.dim[1];
    enum { STEP = 4096 };
    nib_codes keys, values;
    float *x = malloc((size_t)(2 * STEP * d) * sizeof *x);
    double out[NIB_ATTENTION_HEAD] = {0}, sum = 0, max = -INFINITY, worst = 0, most = 0;
    for (int64_t t = 0; x && t < tokens; t += STEP) {
        const int64_t n = tokens - t < STEP ? tokens - t : STEP;
        if (nib_unpack_rows(k, head * room + t, n, &keys) < NIB_OK) return -1;
        if (nib_unpack_rows(v, head * room + t, n, &values) < NIB_OK) return -1;
        nib_codes_dequantize(&keys, x);
        nib_codes_dequantize(&values, x + STEP * d);
        for (int64_t i = 0; i < n; i++) {
            double score = 0;
            for (int64_t j = 0; j < d; j++) score += (double)q[j] * (double)x[i * d + j];
            score *= scale;
            const double old = score > max ? exp(max - score) : 1;
            if (score > max) max = score;
            const double p = exp(score - max);
            sum = sum * old + p;
            for (int64_t j = 0; j < d; j++) {
                const double value = (double)x[(STEP + i) * d + j];
                out[j] = out[j] * old + p * value;
                if (fabs(value) > most) most = fabs(value);
            }
        }
        nib_codes_free(nib_ctx_mem(k->ctx), &keys);
        nib_codes_free(nib_ctx_mem(k->ctx), &values);
    }
    for (int64_t j = 0; j < d; j++) worst = fmax(worst, fabs(out[j] / sum - (double)got[j]));
    free(x);
    return worst / most;
}

static int check(nib_ctx *ctx, const nib_hparams *h, const nib_kvcache *cache, int64_t tokens) {
    const int64_t d = h->head_dim, H = h->num_attention_heads;
    const double scale = 1 / sqrt((double)d);
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *q = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {1, H * d}}));
    if (!q) return 0;
    uint64_t state = 12345;
    float *x = nib_tensor_data_mut(q);
    for (int64_t i = 0; i < H * d; i++) x[i] = 2 * fill_number(&state);
    for (int s = 0; s < SAMPLES; s++) {
        const int64_t layer = s * (cache->layers - 1) / (SAMPLES - 1), head = (s * 11 + 3) % H;
        const nib_tensor *y =
            nib_attention(q, cache->keys[layer], cache->values[layer], H, tokens - 1, 0, scale);
        if (!y) return 0;
        const double off = difference(cache->keys[layer], cache->values[layer], x + head * d,
                                      (const float *)nib_tensor_data(y) + head * d,
                                      head / (H / cache->heads), tokens, scale);
        if (off < 0) return 0;
        printf("attention, layer %lld, head %lld: %.2e of the largest value off float64\n",
               (long long)layer, (long long)head, off);
    }
    nib_scope_end(ctx, mark);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: long_context MODEL [KIND [TOKENS [THREADS]]]\n");
        return 2;
    }
    const char *name = argc > 2 ? argv[2] : "int8";
    const int64_t tokens = argc > 3 ? atoll(argv[3]) : 131072;
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = argc > 4 ? atoi(argv[4]) : 2});
    nib_model *model = nib_model_load(ctx, argv[1], NULL);
    const nib_kv_kind *kind = nib_kv_kind_find(name);
    nib_kvcache cache;
    double ms[NEW], sum = 0;
    if (!model || nib_model_prepare(ctx, model) < NIB_OK) return complain(argv[1]);
    printf("%s: weights %.3f GB, peak after loading %.3f GB\n", argv[1],
           (double)nib_model_resident_bytes(model) * 1e-9, peak_gb());
    const nib_hparams *h = &model->hparams;
    if (!kind || tokens < 2 * NEW ||
        nib_kvcache_init(ctx, kind, h->num_hidden_layers, h->num_key_value_heads, h->head_dim,
                         &cache) < NIB_OK ||
        nib_kvcache_reserve(&cache, tokens, 0) < NIB_OK)
        return complain(name);
    fill_cache(&cache, 1);
    if (!decode(ctx, model, &cache, tokens, ms)) return complain("decoding");
    for (int k = 0; k < NEW; k++) sum += ms[k];
    printf("%s cache, %lld tokens: peak %.3f GB; %d tokens, %.1f ms each (", name,
           (long long)tokens, peak_gb(), NEW, sum / NEW);
    for (int k = 0; k < NEW; k++) printf("%s%.0f", k ? " " : "", ms[k]);
    printf(")\n");
    fflush(stdout);
    const int ok = check(ctx, h, &cache, tokens);
    if (!ok) complain("checking");
    nib_kvcache_free(&cache);
    nib_model_free(model);
    nib_ctx_free(ctx);
    return !ok;
}
