/* kvcache.c: room grows by half in steps of whole attention blocks, one layer at a time, so at
 * most one layer stands twice while it moves. Each key head's tokens lie together, as attention
 * reads them. */
#include "model/kvcache.h"

#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { STEP = 64 }; /* tokens */

nib_status nib_kvcache_init(nib_ctx *ctx, int64_t layers, int64_t heads, int64_t head_dim,
                            nib_kvcache *out) {
    *out = (nib_kvcache){.ctx = ctx, .layers = layers, .heads = heads, .head_dim = head_dim};
    out->keys = nib_mem_alloc_array(nib_ctx_mem(ctx), (size_t)layers * 2, sizeof *out->keys);
    if (!out->keys) {
        *out = (nib_kvcache){0};
        return nib_last_error()->status;
    }
    out->values = out->keys + layers;
    return NIB_OK;
}

void nib_kvcache_free(nib_kvcache *cache) {
    if (!cache->ctx) return;
    for (int64_t i = 0; i < 2 * cache->layers; i++) nib_tensor_free(cache->keys[i]);
    nib_mem_free(nib_ctx_mem(cache->ctx), cache->keys,
                 (size_t)cache->layers * 2 * sizeof *cache->keys);
    *cache = (nib_kvcache){0};
}

/* A tensor of `room` tokens that begins with the first `used` of `old`, which may be NULL. */
static nib_tensor *moved(const nib_kvcache *cache, const nib_tensor *old, int64_t room,
                         int64_t used) {
    nib_tensor *t =
        nib_tensor_new(cache->ctx, NIB_F32, (nib_shape){3, {cache->heads, room, cache->head_dim}});
    if (!t || !old || !used) return t;
    const int64_t d = cache->head_dim, old_room = old->shape.dim[1];
    const float *from = nib_tensor_data(old);
    float *to = nib_tensor_data_mut(t);
    for (int64_t h = 0; h < cache->heads; h++)
        memcpy(to + h * room * d, from + h * old_room * d, (size_t)(used * d) * sizeof *to);
    return t;
}

nib_status nib_kvcache_reserve(nib_kvcache *cache, int64_t tokens, int64_t used) {
    if (tokens <= cache->room) return NIB_OK;
    int64_t room = cache->room + cache->room / 2;
    if (room < tokens) room = tokens;
    room = (room + STEP - 1) / STEP * STEP;
    /* Layers that have grown when a later one fails keep their tokens: attention and appending
     * take each tensor's own length, and `room` still says what all of them have. */
    for (int64_t i = 0; i < 2 * cache->layers; i++) {
        if (cache->keys[i] && cache->keys[i]->shape.dim[1] >= room) continue;
        nib_tensor *grown = moved(cache, cache->keys[i], room, used);
        if (!grown) return nib_last_error()->status;
        nib_tensor_free(cache->keys[i]);
        cache->keys[i] = grown;
    }
    cache->room = room;
    return NIB_OK;
}
