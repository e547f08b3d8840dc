/* prepare.c: each quantized weight of a tree is put in lanes, one weight at a time, so that at
 * most one of them stands twice; what it was made from is given back at once. */
#include "flow/prepare.h"

#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

/* Rows that are unpacked together: a few panels, so that work spreads over threads. */
enum { RUN = 4 * NIB_PANEL };

typedef struct packing {
    const nib_tensor *from;
    const nib_layout *layout;
    int count;
    nib_part parts[NIB_MAX_PARTS];
    unsigned char *bytes[NIB_MAX_PARTS];
    nib_scratch scratch;
} packing;

static void pack_rows(void *user, int64_t begin, int64_t end) {
    packing *p = user;
    int block;
    void *scratch = nib_scratch_take(&p->scratch, &block), *part[NIB_MAX_PARTS] = {0};
    const nib_codes codes = nib_rows_codes(p->from, begin, end - begin, scratch);
    for (int i = 0; i < p->count; i++)
        part[i] = p->bytes[i] +
                  nib_part_place(&p->parts[i], &p->from->desc, 1, begin, end - begin).offset;
    p->layout->pack(part, &codes);
    nib_scratch_give(&p->scratch, block);
}

/* The weight in lanes; caller owns. */
static nib_tensor *prepared(nib_ctx *ctx, const nib_tensor *from, const nib_layout *layout) {
    packing p = {.from = from, .layout = layout};
    nib_storage *storage[NIB_MAX_PARTS] = {0};
    const size_t offset[NIB_MAX_PARTS] = {0};
    nib_tensor *t = NULL;
    const int64_t runs = (from->desc.rows + RUN - 1) / RUN;
    p.count = layout->parts(&from->desc, p.parts);
    for (int i = 0; i < p.count; i++) {
        storage[i] = nib_storage_new(nib_ctx_mem(from->ctx), nib_part_bytes(&p.parts[i]));
        if (!storage[i]) goto done;
        p.bytes[i] = storage[i]->data;
    }
    NIB_TRY_GOTO(
        nib_scratch_open(&ctx->mem, ctx->pool, runs, nib_rows_scratch_size(from, RUN), &p.scratch),
        done);
    nib_parallel_for(ctx->pool, from->desc.rows, RUN, pack_rows, &p);
    nib_scratch_close(&p.scratch);
    t = nib_tensor_quantized(from->ctx, layout, &from->desc, storage, offset);
    if (t) t->act = from->act;
    if (t && from->config && !(t->config = nib_config_copy(from->config))) {
        nib_tensor_free(t);
        t = NULL;
    }
done:
    for (int i = 0; i < p.count; i++) nib_storage_release(storage[i]);
    return t;
}

typedef struct replacing {
    const nib_tensor *old;
    nib_tensor *with;
} replacing;

/* A weight may have several owners: a table that is the head too. */
static nib_status replace(void *user, const char *dotted, nib_module *owner, const char *name,
                          nib_tensor *t) {
    const replacing *r = user;
    (void)dotted;
    if (t != r->old) return NIB_OK;
    return nib_module_set(owner, name, nib_tensor_retain(r->with)); /* is there: cannot fail */
}

typedef struct preparing {
    nib_ctx *ctx;
    nib_module *root;
} preparing;

static nib_status visit(void *user, const char *dotted, nib_module *module) {
    const preparing *p = user;
    if (nib_module_kind_of(module) != &nib_kind_linear) return NIB_OK;
    const nib_tensor *weight = nib_module_parameter(module, "weight");
    if (!weight->layout || weight->layout->kernel) return NIB_OK;
    const nib_layout *layout = nib_layout_of_kernel(&weight->desc);
    if (!layout) return NIB_OK;
    nib_tensor *made = prepared(p->ctx, weight, layout);
    if (!made) return nib_error_at(NULL, dotted, -1);
    if (atomic_load(&weight->refs) == 1) return nib_module_set(module, "weight", made);
    const nib_status status =
        nib_module_walk_parameters(p->root, replace, &(replacing){weight, made});
    nib_tensor_free(made);
    return status;
}

nib_status nib_prepare_with(nib_ctx *ctx, nib_module *root) {
    if (!ctx || !root) return nib_last_error()->status;
    return nib_module_walk(root, visit, &(preparing){ctx, root});
}

nib_status nib_prepare(nib_module *root) { return nib_prepare_with(nib_module_ctx(root), root); }
