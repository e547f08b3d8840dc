/* scope.c: results of operations belong to the innermost open scope. Slots form a stack; a scope
 * is a mark in it, so that beginning and ending one costs nothing. */
#include "base/error.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

size_t nib_scope_begin(nib_ctx *ctx) { return ctx ? ctx->owned_count : 0; }

void nib_scope_end(nib_ctx *ctx, size_t mark) {
    if (!ctx) return;
    while (ctx->owned_count > mark) {
        nib_tensor *t = ctx->owned[--ctx->owned_count];
        if (!t) continue;
        t->scope_index = -1;
        nib_tensor_free(t);
    }
}

nib_tensor *nib_scope_own(nib_ctx *ctx, nib_tensor *t) {
    if (!t) return NULL;
    if (ctx->owned_count == ctx->owned_room) {
        const size_t room = ctx->owned_room ? ctx->owned_room * 2 : 64;
        nib_tensor **grown = nib_mem_realloc(&ctx->mem, ctx->owned, ctx->owned_room * sizeof *grown,
                                             room * sizeof *grown);
        if (!grown) {
            nib_tensor_free(t);
            return NULL;
        }
        ctx->owned = grown;
        ctx->owned_room = room;
    }
    t->scope_index = (int64_t)ctx->owned_count;
    ctx->owned[ctx->owned_count++] = t;
    return t;
}

nib_tensor *nib_keep(nib_tensor *t) {
    if (!t || t->scope_index < 0) return t;
    t->ctx->owned[t->scope_index] = NULL;
    t->scope_index = -1;
    return t;
}
