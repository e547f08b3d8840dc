/* How fast does one token attend to a long cache? Milliseconds a layer, GB/s of keys, values and
 * scales, and their share of what can be read in the same round; medians of interleaved rounds.
 * Shapes of Llama-3.1-8B: 32 query heads, 8 key heads of 128; so many layers that none is still in
 * a cache when its turn comes again.
 *
 *     attention_kv [TOKENS [THREADS [ROUNDS [KIND...]]]]      32768, 2, 15, int8 int4 fp8 float */
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache_fill.h"
#include "op/calls.h"
#include "tensor/context.h"
#include "timing.h"

enum { H = 32, HK = 8, D = 128, MOST_ROUNDS = 101 };
static const size_t rotated = 300u << 20; /* bytes */

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, ascending);
    return x[n / 2];
}

static int measure(nib_ctx *ctx, const nib_limits *limits, const char *name, int64_t tokens,
                   int threads, int rounds) {
    const nib_kv_kind *kind = nib_kv_kind_find(name);
    nib_kvcache cache;
    double ms[MOST_ROUNDS], read[4][MOST_ROUNDS], best = 0;
    size_t layer = 0;
    if (!kind || nib_kvcache_init(ctx, kind, 1, HK, D, &cache) < NIB_OK ||
        nib_kvcache_reserve(&cache, tokens, 0) < NIB_OK)
        return 0;
    for (int i = 0; i < 2; i++)
        for (int p = 0; p < cache.keys[i]->nparts; p++)
            layer += nib_kv_part_step(cache.keys[i], p) * (size_t)(HK * cache.room / 64);
    const int64_t layers = (int64_t)(rotated / layer) + 2;
    nib_kvcache_free(&cache);
    if (nib_kvcache_init(ctx, kind, layers, HK, D, &cache) < NIB_OK ||
        nib_kvcache_reserve(&cache, tokens, 0) < NIB_OK)
        return 0;
    fill_cache(&cache, 1);
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *q = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {1, H * D}}));
    uint64_t state = 99;
    float *x = q ? nib_tensor_data_mut(q) : NULL;
    for (int i = 0; x && i < H * D; i++) x[i] = fill_number(&state);
    int done = 0;
    for (int r = -1; x && r < rounds; r++) { /* the first one warms up */
        const size_t inner = nib_scope_begin(ctx);
        const double began = now();
        for (int64_t l = 0; l < layers; l++)
            if (!nib_attention(q, cache.keys[l], cache.values[l], H, tokens - 1, 0, 0.0883883))
                break;
        if (r >= 0) ms[r] = (now() - began) * 1e3 / (double)layers, done++;
        nib_scope_end(ctx, inner);
        for (int i = 0; i < 4; i++) {
            const double rate = nib_limits_measure(limits, ctx, (nib_limit)i);
            if (r >= 0) read[i][r] = rate;
        }
    }
    nib_scope_end(ctx, mark);
    nib_kvcache_free(&cache);
    if (done < rounds) return 0;
    double share[MOST_ROUNDS] = {0};
    for (int i = 0; i < 4; i++) {
        double sorted[MOST_ROUNDS];
        memcpy(sorted, read[i], sizeof sorted);
        const double m = median(sorted, rounds);
        if (m <= best) continue;
        best = m;
        for (int r = 0; r < rounds; r++) share[r] = (double)layer / ms[r] * 1e3 / read[i][r];
    }
    const double of_best = median(share, rounds);
    const double t = median(ms, rounds), rate = (double)layer / t * 1e3;
    printf("| %s | %lld | %d | %.1f | %.3f | %.3f | %.2f | %.2f | %.1f %% |\n", name,
           (long long)tokens, threads, (double)layer * 1e-6, t, ms[0], rate * 1e-9, best * 1e-9,
           100 * of_best);
    fflush(stdout);
    return 1;
}

int main(int argc, char **argv) {
    static const char *all[] = {"int8", "int4", "fp8", "float", NULL};
    const int64_t tokens = argc > 1 ? atoll(argv[1]) : 32768;
    const int threads = argc > 2 ? atoi(argv[2]) : 2, rounds = argc > 3 ? atoi(argv[3]) : 15;
    const char *const *kinds = argc > 4 ? (const char *const *)argv + 4 : all;
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
    nib_limits *limits = nib_limits_new(ctx);
    int ok = limits && tokens >= 64 && rounds >= 1 && rounds <= MOST_ROUNDS;
    if (!ok) fprintf(stderr, "TOKENS are 64 or more, ROUNDS 1 to %d\n", MOST_ROUNDS);
    printf(
        "| cache | tokens | threads | MB a layer | ms (median) | best | GB/s | read GB/s | share "
        "|\n|---|---|---|---|---|---|---|---|---|\n");
    for (; ok && *kinds; kinds++) {
        ok = measure(ctx, limits, *kinds, tokens, threads, rounds);
        if (!ok) fprintf(stderr, "%s: %s\n", *kinds, nib_last_error()->what);
    }
    nib_limits_free(limits);
    nib_ctx_free(ctx);
    return !ok;
}
