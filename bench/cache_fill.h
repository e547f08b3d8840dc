/* cache_fill.h: keys and values that no model made, written straight into a cache: any codes, and
 * scales that keep scores near those of a trained model. For measuring speed and memory. */
#ifndef NIB_BENCH_CACHE_FILL_H
#define NIB_BENCH_CACHE_FILL_H
#include <string.h>

#include "model/kvcache.h"
#include "op/kv.h"
#include "tensor/tensor.h"

static inline uint64_t fill_random(uint64_t *state) {
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}

/* Numbers of about one. */
static inline float fill_number(uint64_t *state) {
    return ((float)(fill_random(state) >> 40) * 0x1p-23f - 1.0f) * 1.7f;
}

/* Codes at random, and scales by which they come to about one. */
static inline void fill_part(nib_tensor *t, int i, uint64_t *state) {
    unsigned char *to = t->data[i];
    const size_t size = nib_kv_part_step(t, i) * (size_t)(t->shape.dim[0] * t->shape.dim[1] / 64);
    const bool f8 = t->layout && t->desc.code == NIB_F8_E4M3FN;
    if (!t->layout) {
        for (size_t at = 0; at < size; at += 4) {
            const float x = fill_number(state);
            memcpy(to + at, &x, 4);
        }
    } else if (i == 0) {
        for (size_t at = 0; at < size; at += 8) { /* fp8: no NaN, and nothing above 14 */
            const uint64_t x = fill_random(state) & (f8 ? 0xd7d7d7d7d7d7d7d7u : ~0ull);
            memcpy(to + at, &x, 8);
        }
    } else if (t->desc.scale_dtype == NIB_F32) {
        const float x = f8 ? 0.5f : 1.0f / 74;
        for (size_t at = 0; at < size; at += 4) memcpy(to + at, &x, 4);
    } else {
        const uint16_t x = i == 1 ? 0x3e80 : 0x3ff0; /* 0.25 and 1.875, in bf16 */
        for (size_t at = 0; at < size; at += 2) memcpy(to + at, &x, 2);
    }
}

static inline void fill_cache(nib_kvcache *cache, uint64_t seed) {
    for (int64_t i = 0; i < 2 * cache->layers; i++)
        for (int p = 0; p < cache->keys[i]->nparts; p++) {
            uint64_t state = seed + (uint64_t)i * 64 + (uint64_t)p + 1;
            for (int warm = 0; warm < 8; warm++) fill_random(&state);
            fill_part(cache->keys[i], p, &state);
        }
}
#endif
