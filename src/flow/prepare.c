/* prepare.c: each quantized weight of a tree is put in lanes, one weight at a time, so that at
 * most one of them stands twice; what it was made from is given back at once. Small weights share
 * allocations, because one that is read once a token from end to end wants pages larger than it
 * is: half a megabyte in plain ones is read a fifth slower. */
#include "flow/prepare.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "nn/quantized.h"
#include "op/conv.h"
#include "op/conv_filters.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "quant/lanes_lay.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum {
    RUN = 4 * NIB_PANEL, /* rows that are unpacked together: codes that L2 keeps */
    PIECE = 2 << 20,  /* bytes, of each band, that a thread makes at once: a large page, which two
                       * threads that touch it first would both clear */
    SHARES = 2,       /* pieces of each thread, at least */
    FEW = 64 << 10,   /* bytes whose pages are left to come as they are touched */
    ALONE = 4 << 20,  /* bytes of a weight from which it has an allocation to itself */
    SHELF = 16 << 20, /* of what smaller ones share */
};

typedef struct preparing {
    nib_ctx *ctx;
    nib_module *root;
    nib_storage *shelf;
    size_t used; /* bytes of the shelf */
} preparing;

/* The weight of a module that is to be put in lanes, and in which; NULL: there is none. */
static const nib_tensor *weight_of(const nib_module *module, const nib_layout **layout) {
    if (nib_module_kind_of(module) != &nib_kind_linear) return NULL;
    const nib_tensor *weight = nib_module_parameter(module, "weight");
    if (!weight->layout || weight->layout->kernel) return NULL;
    *layout = nib_layout_of_kernel(&weight->desc);
    return *layout ? weight : NULL;
}

/* Where the parts of a weight lie in one run of bytes, and its length. */
static size_t parts_in_a_run(const nib_tensor *from, const nib_layout *layout,
                             nib_part parts[NIB_MAX_PARTS], size_t at[NIB_MAX_PARTS]) {
    const int count = layout->parts(&from->desc, parts);
    size_t whole = 0, size;
    for (int i = 0; i < count; i++) {
        at[i] = whole;
        if (nib_align_size(nib_part_bytes(&parts[i]), NIB_MEM_ALIGN, &size) ||
            nib_add_size(whole, size, &whole))
            return SIZE_MAX; /* which no allocation grants */
    }
    return whole;
}

typedef struct shelf_plan {
    size_t bytes;
    bool full;
} shelf_plan;

static nib_status plan_shelf(void *user, const char *dotted, nib_module *module) {
    shelf_plan *plan = user;
    const nib_layout *layout;
    const nib_tensor *weight = plan->full ? NULL : weight_of(module, &layout);
    (void)dotted;
    if (!weight) return NIB_OK;
    nib_part parts[NIB_MAX_PARTS];
    size_t at[NIB_MAX_PARTS];
    const size_t size = parts_in_a_run(weight, layout, parts, at);
    if (size >= ALONE) return NIB_OK;
    plan->full = plan->bytes + size > SHELF;
    if (!plan->full) plan->bytes += size;
    return NIB_OK;
}

/* Room for a weight: on the shelf, a new one that just holds what comes next, or by itself. */
static nib_storage *room_for(preparing *p, nib_mem *mem, size_t size, size_t *offset) {
    *offset = 0;
    if (size >= ALONE) return nib_storage_new(mem, size);
    if (!p->shelf || p->shelf->size - p->used < size) {
        shelf_plan plan = {0};
        NIB_TRY_NULL(nib_module_walk(p->root, plan_shelf, &plan));
        nib_storage_release(p->shelf);
        nib_mem_trim(mem); /* what the weights on the last shelf were made from */
        p->shelf = nib_storage_new(mem, plan.bytes > size ? plan.bytes : size);
        p->used = 0;
        if (!p->shelf) return NULL;
    }
    *offset = p->used;
    p->used += size;
    return nib_storage_retain(p->shelf);
}

typedef struct packing {
    const nib_tensor *from;
    const nib_layout *layout;
    int count;
    nib_part parts[NIB_MAX_PARTS];
    unsigned char *bytes[NIB_MAX_PARTS];
    int bands;         /* of what it is made from */
    nib_stored stored; /* that, where it is known */
    nib_scratch scratch;
} packing;

/* Rows of every band of a file are about to be read. */
static void meet(const packing *p, int64_t row, int64_t rows) {
    const nib_tensor *from = p->from;
    nib_part parts[NIB_MAX_PARTS];
    const int count = from->layout->parts(&from->desc, parts);
    for (int i = 0; i < count; i++) {
        const nib_storage *s = from->part[i];
        if (!s->mapped) continue;
        const nib_part_runs runs = nib_part_place(&parts[i], &from->desc, p->bands, row, rows);
        for (int64_t r = 0; r < runs.count && runs.size >= FEW; r++)
            nib_map_advise(&(nib_map){s->data, s->size},
                           nib_tensor_offset(from, i) + runs.offset + (size_t)r * runs.step,
                           runs.size, NIB_MAP_NOW);
    }
}

static void pack_rows(void *user, int64_t begin, int64_t end) {
    packing *p = user;
    int block;
    void *scratch = nib_scratch_take(&p->scratch, &block);
    meet(p, begin, end - begin);
    for (int64_t rows; begin < end; begin += rows) {
        void *part[NIB_MAX_PARTS] = {0};
        rows = end - begin < RUN ? end - begin : RUN;
        const nib_codes codes = nib_rows_codes(p->from, begin, rows, scratch);
        for (int i = 0; i < p->count; i++)
            part[i] =
                p->bytes[i] + nib_part_place(&p->parts[i], &p->from->desc, 1, begin, rows).offset;
        p->layout->pack(part, &codes);
    }
    nib_scratch_give(&p->scratch, block);
}

/* The same where it is known how codes lie: of every band at once. */
static void lay_rows(void *user, int64_t begin, int64_t end) {
    packing *p = user;
    void *to[NIB_MAX_PARTS] = {0};
    for (int i = 0; i < p->count; i++) to[i] = p->bytes[i];
    meet(p, begin, end - begin);
    nib_lanes_lay(&p->from->desc, &p->stored, to, begin, end - begin);
}

/* A file that is not in memory yet is read in long runs, ahead of the threads that pack it. */
static void ask_for(const nib_tensor *from) {
    nib_part parts[NIB_MAX_PARTS];
    const int count = from->layout->parts(&from->desc, parts);
    for (int i = 0; i < count; i++) {
        const nib_storage *s = from->part[i];
        if (s->mapped)
            nib_map_advise(&(nib_map){s->data, s->size}, nib_tensor_offset(from, i),
                           nib_part_bytes(&parts[i]), NIB_MAP_WILL_NEED);
    }
}

/* Rows of a band that a thread takes at once: whole panels. */
static int64_t grain_of(const packing *p, const nib_pool *pool, size_t size) {
    const int64_t rows = p->from->desc.rows / p->bands;
    const int64_t row = (int64_t)(size / (size_t)p->from->desc.rows) + 1;
    const int64_t share = rows / (SHARES * nib_pool_threads(pool));
    const int64_t most = PIECE / row < share ? PIECE / row : share, least = RUN / p->bands;
    return most < least ? least : (most + NIB_PANEL - 1) / NIB_PANEL * NIB_PANEL;
}

/* The weight in lanes; caller owns. */
static nib_tensor *prepared(preparing *to, const nib_tensor *from, const nib_layout *layout) {
    nib_ctx *ctx = to->ctx;
    const void *parts[NIB_MAX_PARTS] = {0};
    packing p = {.from = from, .layout = layout, .bands = 1};
    nib_storage *storage[NIB_MAX_PARTS] = {0};
    size_t at[NIB_MAX_PARTS], begin;
    nib_tensor *t = NULL;
    const size_t size = parts_in_a_run(from, layout, p.parts, at);
    nib_storage *room = room_for(to, nib_ctx_mem(from->ctx), size, &begin);
    if (!room) return NULL;
    p.count = layout->parts(&from->desc, p.parts);
    ask_for(from);
    for (int i = 0; i < p.count; i++) {
        at[i] += begin;
        storage[i] = room;
        p.bytes[i] = room->data + at[i];
    }
    for (int i = 0; i < from->nparts; i++) parts[i] = nib_tensor_part(from, i);
    const bool known = nib_stored_of(from->layout, &from->desc, parts, &p.stored);
    if (known) p.bands = nib_layout_bands(from->layout, &from->desc);
    const int64_t rows = from->desc.rows / p.bands, grain = grain_of(&p, ctx->pool, size);
    if (known) {
        nib_parallel_for(ctx->pool, rows, grain, lay_rows, &p);
    } else {
        NIB_TRY_GOTO(nib_scratch_open(&ctx->mem, ctx->pool, (rows + grain - 1) / grain,
                                      nib_rows_scratch_size(from, RUN), &p.scratch),
                     done);
        nib_parallel_for(ctx->pool, rows, grain, pack_rows, &p);
        nib_scratch_close(&p.scratch);
    }
    t = nib_tensor_quantized(from->ctx, layout, &from->desc, storage, at);
    if (t) t->act = from->act;
    if (t && from->config && !(t->config = nib_config_copy(from->config))) {
        nib_tensor_free(t);
        t = NULL;
    }
done:
    nib_storage_release(room);
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

/* The filters of a convolution stay what they are: what its loops read of them stands beside. Not
 * those that are quantized anew at each forward. */
static nib_status keep_filters(preparing *p, nib_module *module, int64_t groups) {
    nib_tensor *weight = nib_module_parameter(module, "weight");
    const nib_quantized *q = nib_module_quantized(module);
    if (q && q->weight && !weight->layout) return NIB_OK;
    const bool codes = q && nib_act8_integer(q->input) && nib_filters_have_codes(weight);
    return nib_conv_keep(p->ctx, weight, groups, codes);
}

static nib_status visit(void *user, const char *dotted, nib_module *module) {
    preparing *p = user;
    const nib_layout *layout;
    const int64_t groups = nib_conv_module_groups(module);
    if (groups) {
        const nib_status status = keep_filters(p, module, groups);
        return status >= NIB_OK ? NIB_OK : nib_error_at(NULL, dotted, -1);
    }
    const nib_tensor *weight = weight_of(module, &layout);
    if (!weight) return NIB_OK;
    nib_tensor *made = prepared(p, weight, layout);
    if (!made) return nib_error_at(NULL, dotted, -1);
    if (atomic_load(&weight->refs) == 1) return nib_module_set(module, "weight", made);
    const nib_status status =
        nib_module_walk_parameters(p->root, replace, &(replacing){weight, made});
    nib_tensor_free(made);
    return status;
}

nib_status nib_prepare_with(nib_ctx *ctx, nib_module *root) {
    if (!ctx || !root) return nib_last_error()->status;
    preparing p = {.ctx = ctx, .root = root};
    const nib_status status = nib_module_walk(root, visit, &p);
    if (p.shelf) nib_mem_trim(nib_ctx_mem(ctx));
    nib_storage_release(p.shelf);
    return status;
}

nib_status nib_prepare(nib_module *root) { return nib_prepare_with(nib_module_ctx(root), root); }
