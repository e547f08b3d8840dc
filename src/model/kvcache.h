/* kvcache.h: keys and values of one sequence, for each layer, growing as the sequence does. */
#ifndef NIB_MODEL_KVCACHE_H
#define NIB_MODEL_KVCACHE_H
#include <nibble/nibble.h>

typedef struct nib_kv_kind nib_kv_kind;

/* "float" (also NULL), "int8", "int8_torchao", "int4" or "fp8"; raises NIB_E_ARGUMENT for another,
 * naming those that are known. */
const nib_kv_kind *nib_kv_kind_find(const char *name);

typedef struct nib_kvcache {
    nib_ctx *ctx;
    const nib_kv_kind *kind;
    int64_t layers, heads, head_dim;
    int64_t room; /* tokens that fit now */
    int64_t most; /* tokens that it will ever be asked for; 0: not known */
    nib_tensor **keys,
        **values; /* [layers] of [heads, room, head_dim], dense f32 or a kv_* layout */
    /* What cross attention reads: keys and values of a sound, borrowed; NULL: nothing was heard. */
    const struct nib_kvcache *heard;
} nib_kvcache;

/* An empty cache; memory comes with nib_kvcache_reserve. */
nib_status nib_kvcache_init(nib_ctx *ctx, const nib_kv_kind *kind, int64_t layers, int64_t heads,
                            int64_t head_dim, nib_kvcache *out);
void nib_kvcache_free(nib_kvcache *cache); /* a zeroed struct is fine */

/* Room for `tokens` in all, the first `used` kept. On failure the cache is as it was. */
nib_status nib_kvcache_reserve(nib_kvcache *cache, int64_t tokens, int64_t used);
#endif
