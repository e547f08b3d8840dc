/* kvcache.c: room grows by half in steps of whole attention blocks, one layer at a time, so at
 * most one layer stands twice while it moves. Each key head's tokens lie together, as attention
 * reads them. What is reserved but not yet written is not touched, so it costs no memory. */
#include "model/kvcache.h"

#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "op/kv.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { STEP = NIB_ATTENTION_BLOCK }; /* tokens */

struct nib_kv_kind {
    const char *name;
    const char *keys, *values; /* layouts; NULL: dense f32 */
    nib_dtype code, scale;
    nib_dtype math; /* scales are rounded to it as well */
    int64_t group;  /* columns that share a scale; 0: all */
    bool shifted;
};

/* int8_torchao: codes and scales as torchao's demonstration of a quantized cache had them: scales
 * in bf16, none below 1e-5. */
static const nib_kv_kind kinds[] = {
    {.name = "float"},
    {"int8", "kv_k8", "kv_v8", NIB_I8, NIB_F32, NIB_F32, 0, false},
    {"int8_torchao", "kv_k8", "kv_v8", NIB_I8, NIB_F32, NIB_BF16, 0, false},
    {"int4", "kv_k4", "kv_v4", NIB_U4, NIB_BF16, NIB_F32, NIB_KV_GROUP, true},
    {"fp8", "kv_k8f", "kv_v8f", NIB_F8_E4M3FN, NIB_F32, NIB_F32, 0, false},
};

const nib_kv_kind *nib_kv_kind_find(const char *name) {
    if (!name) return &kinds[0];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, name) == 0) return &kinds[i];
    return NIB_RAISE_NULL(NIB_E_ARGUMENT,
                          "a cache \"%s\" is not known; use float, int8, int4, fp8 or int8_torchao",
                          name);
}

nib_status nib_kvcache_init(nib_ctx *ctx, const nib_kv_kind *kind, int64_t layers, int64_t heads,
                            int64_t head_dim, nib_kvcache *out) {
    *out = (nib_kvcache){
        .ctx = ctx, .kind = kind, .layers = layers, .heads = heads, .head_dim = head_dim};
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

/* An empty tensor of [heads, room, head_dim], its bytes uninitialised. */
static nib_tensor *empty(const nib_kvcache *cache, const char *layout, int64_t room) {
    const nib_kv_kind *kind = cache->kind;
    const nib_shape shape = {3, {cache->heads, room, cache->head_dim}};
    if (!layout) return nib_tensor_new(cache->ctx, NIB_F32, shape);
    const nib_layout *l = nib_layout_find(layout);
    nib_qdesc desc = {.code = kind->code,
                      .scale_dtype = kind->scale,
                      .zero_dtype = kind->shifted ? kind->scale : (nib_dtype)0,
                      .math = kind->math,
                      .zero_kind = kind->shifted ? NIB_ZERO_SHIFT : NIB_ZERO_NONE,
                      .shape = shape,
                      .rows = cache->heads * room,
                      .cols = cache->head_dim,
                      .block_rows = 1,
                      .block_cols = kind->group && kind->group < cache->head_dim ? kind->group
                                                                                 : cache->head_dim};
    NIB_TRY_NULL(nib_qdesc_check(&desc));
    nib_part parts[NIB_MAX_PARTS];
    nib_storage *storage[NIB_MAX_PARTS] = {0};
    const size_t offset[NIB_MAX_PARTS] = {0};
    const int n = l->parts(&desc, parts);
    nib_tensor *t = NULL;
    int made = 0;
    while (made < n &&
           (storage[made] = nib_storage_new(nib_ctx_mem(cache->ctx), nib_part_bytes(&parts[made]))))
        made++;
    if (made == n) t = nib_tensor_quantized(cache->ctx, l, &desc, storage, offset);
    for (int i = 0; i < made; i++) nib_storage_release(storage[i]); /* the tensor has its own */
    return t;
}

/* A tensor of `room` tokens that begins with the first `used` of `old`, which may be NULL. */
static nib_tensor *moved(const nib_kvcache *cache, const char *layout, const nib_tensor *old,
                         int64_t room, int64_t used) {
    nib_tensor *t = empty(cache, layout, room);
    if (!t || !old || !used) return t;
    const int64_t old_room = old->shape.dim[1];
    for (int i = 0; i < t->nparts; i++) {
        const size_t step = nib_kv_part_step(t, i); /* bytes of a block; rooms are whole blocks */
        const char *from = nib_tensor_part(old, i);
        char *to = (char *)t->data[i];
        for (int64_t h = 0; h < cache->heads; h++)
            memcpy(to + (size_t)(h * (room / STEP)) * step,
                   from + (size_t)(h * (old_room / STEP)) * step,
                   (size_t)((used + STEP - 1) / STEP) * step);
    }
    return t;
}

nib_status nib_kvcache_reserve(nib_kvcache *cache, int64_t tokens, int64_t used) {
    if (tokens <= cache->room) return NIB_OK;
    int64_t room = cache->room + cache->room / 2;
    if (cache->most && room > cache->most) room = cache->most;
    if (room < tokens) room = tokens;
    room = (room + STEP - 1) / STEP * STEP;
    /* Layers that have grown when a later one fails keep their tokens: attention and appending
     * take each tensor's own length, and `room` still says what all of them have. */
    for (int64_t i = 0; i < 2 * cache->layers; i++) {
        if (cache->keys[i] && cache->keys[i]->shape.dim[1] >= room) continue;
        const char *layout = i < cache->layers ? cache->kind->keys : cache->kind->values;
        nib_tensor *grown = moved(cache, layout, cache->keys[i], room, used);
        if (!grown) return nib_last_error()->status;
        nib_tensor_free(cache->keys[i]);
        cache->keys[i] = grown;
    }
    cache->room = room;
    return NIB_OK;
}
