/* kvcache.h: keys and values of one sequence, for each layer, growing as the sequence does. */
#ifndef NIB_MODEL_KVCACHE_H
#define NIB_MODEL_KVCACHE_H
#include <nibble/nibble.h>

typedef struct nib_kvcache {
    nib_ctx *ctx;
    int64_t layers, heads, head_dim;
    int64_t room;                /* tokens that fit now */
    nib_tensor **keys, **values; /* [layers] of [heads, room, head_dim] f32 */
} nib_kvcache;

/* An empty cache; memory comes with nib_kvcache_reserve. */
nib_status nib_kvcache_init(nib_ctx *ctx, int64_t layers, int64_t heads, int64_t head_dim,
                            nib_kvcache *out);
void nib_kvcache_free(nib_kvcache *cache); /* a zeroed struct is fine */

/* Room for `tokens` in all, the first `used` kept. On failure the cache is as it was. */
nib_status nib_kvcache_reserve(nib_kvcache *cache, int64_t tokens, int64_t used);
#endif
