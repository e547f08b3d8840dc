/* context.h: what everything made on one thread shares: memory, workers, kernels, open scopes,
 * modes, and how to tell the caller about progress. */
#ifndef NIB_TENSOR_CONTEXT_H
#define NIB_TENSOR_CONTEXT_H
#include <nibble/extend.h>

#include "base/mem.h"
#include "base/parallel.h"
#include "kernel/kernel.h"

enum { NIB_MAX_MODES = 16 };
typedef struct nib_pushed_mode {
    const nib_mode *mode;
    void *self;
    bool inside; /* one of its functions is running, so it is off */
} nib_pushed_mode;

struct nib_ctx {
    nib_mem mem;
    nib_pool *pool;
    nib_kernels kernels; /* for this machine, as far as the options allow */
    uint32_t features;   /* NIB_CPU_* that they may use */
    uint64_t seed;
    uint64_t streams; /* of random numbers that were given out */
    void *user;
    void (*log)(void *user, int level, const char *message);
    bool (*progress)(void *user, const char *what, double done, double total);
    /* Tensors owned by open scopes, outermost first; a slot is NULL once its tensor was kept. */
    nib_tensor **owned;
    size_t owned_count, owned_room;
    nib_pushed_mode modes[NIB_MAX_MODES];
    int nmodes;
    int variant;     /* of the op that runs, below its nib_impl.variants; 0: what is best as a rule */
    void *workspace; /* of the op that runs; grows, stays */
    size_t workspace_size;
};

/* Memory for the op that runs now, 64-byte aligned, contents undefined: asked once an op, and kept
 * for the next one, so that a step that was run before allocates none. */
void *nib_ctx_workspace(nib_ctx *ctx, size_t size);

/* The memory seam of a context; NULL for NULL, which stands for the process's own. */
nib_mem *nib_ctx_mem(nib_ctx *ctx);

/* The name of kernel set i among those that this machine can run, plainest first, and the highest
 * instruction set that it needs ("ref": none); NULL: no more. */
const char *nib_kernels_of_machine(size_t i, const char **level);

/* Tell the caller how far long work is; NIB_E_CANCELLED is raised when it wants to stop. */
nib_status nib_ctx_progress(nib_ctx *ctx, const char *what, double done, double total);

/* Hand a tensor that the caller owns to the innermost open scope; returns it. On failure the
 * tensor is released. NULL in, NULL out. */
nib_tensor *nib_scope_own(nib_ctx *ctx, nib_tensor *t);
#endif
