#include "tensor/context.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "tensor/tensor.h"

nib_ctx *nib_ctx_new(const nib_ctx_options *options) {
    nib_ctx_options o = {0};
    if (options) {
        const size_t given = options->size && options->size < sizeof o ? options->size : sizeof o;
        memcpy(&o, options, given);
    }
    if (o.threads < 0)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "%d threads asked for; 0 means one per core",
                              o.threads);
    if (!o.alloc != !o.dealloc)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "alloc and dealloc must be given together");
    nib_mem mem = {.user = o.user, .alloc = o.alloc, .dealloc = o.dealloc, .limit = o.memory_limit};
    nib_ctx *ctx = nib_mem_alloc_zero(&mem, sizeof *ctx);
    if (!ctx) return NULL;
    ctx->mem = mem; /* its account holds the context itself */
    nib_mem_keep(&ctx->mem);
    ctx->seed = o.seed ? o.seed : 0x6e6962;
    ctx->user = o.user;
    ctx->log = o.log;
    ctx->progress = o.progress;
    uint32_t mask;
    if (nib_cpu_parse(o.isa ? o.isa : getenv("NIB_ISA"), &mask) < NIB_OK) goto fail;
    ctx->features = nib_cpu_features() & mask;
    nib_kernels_fill(&ctx->kernels, ctx->features);
    ctx->pool = nib_pool_new(&ctx->mem, o.threads);
    if (!ctx->pool) goto fail;
    return ctx;
fail:
    nib_ctx_free(ctx);
    return NULL;
}

void nib_ctx_free(nib_ctx *ctx) {
    if (!ctx) return;
    nib_scope_end(ctx, 0);
    nib_pool_free(ctx->pool);
    nib_mem_free(&ctx->mem, ctx->workspace, ctx->workspace_size);
    nib_mem_free(&ctx->mem, ctx->owned, ctx->owned_room * sizeof *ctx->owned);
    nib_mem_keep_end(&ctx->mem);
    nib_mem mem = {.user = ctx->mem.user, .alloc = ctx->mem.alloc, .dealloc = ctx->mem.dealloc};
    nib_mem_free(&mem, ctx, sizeof *ctx);
}

void nib_ctx_trim(nib_ctx *ctx) {
    if (ctx) nib_mem_trim(&ctx->mem);
}

int nib_ctx_threads(const nib_ctx *ctx) { return ctx ? nib_pool_threads(ctx->pool) : 0; }

void *nib_ctx_workspace(nib_ctx *ctx, size_t size) {
    if (size <= ctx->workspace_size && ctx->workspace) return ctx->workspace;
    size_t room = ctx->workspace_size + ctx->workspace_size / 2;
    if (room < size) room = size;
    void *grown = nib_mem_alloc(&ctx->mem, room);
    if (!grown) return NULL;
    nib_mem_free(&ctx->mem, ctx->workspace, ctx->workspace_size);
    ctx->workspace = grown;
    ctx->workspace_size = room;
    return grown;
}

nib_mem *nib_ctx_mem(nib_ctx *ctx) { return ctx ? &ctx->mem : NULL; }

const char *nib_kernels_of_machine(size_t i, const char **level) {
    const uint32_t features = nib_cpu_features();
    const nib_kernel_set *set;
    for (size_t k = 0; (set = nib_kernel_set_at(k)); k++) {
        if (set->needs & ~features || i-- > 0) continue;
        *level = nib_cpu_level(set->needs);
        return set->name;
    }
    return NULL;
}

nib_status nib_ctx_progress(nib_ctx *ctx, const char *what, double done, double total) {
    if (ctx && ctx->progress && !ctx->progress(ctx->user, what, done, total))
        return NIB_RAISE(NIB_E_CANCELLED, "%s was cancelled", what);
    return NIB_OK;
}
