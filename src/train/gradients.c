#include "train/gradients.h"

#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "tensor/context.h"

nib_gradients *nib_gradients_new(nib_ctx *ctx) {
    if (!ctx) return NULL;
    nib_gradients *g = nib_mem_alloc_zero(&ctx->mem, sizeof *g);
    if (g) g->ctx = ctx;
    return g;
}

static void forget_from(nib_gradients *g, size_t count) {
    while (g->count > count) {
        nib_watched *w = &g->list[--g->count];
        nib_mem_strfree(&g->ctx->mem, w->name);
        nib_tensor_free(w->tensor);
        nib_tensor_free(w->gradient);
    }
}

void nib_gradients_free(nib_gradients *g) {
    if (!g) return;
    forget_from(g, 0);
    nib_mem_free(&g->ctx->mem, g->list, g->room * sizeof *g->list);
    nib_mem_free(&g->ctx->mem, g, sizeof *g);
}

int64_t nib_gradients_find(const nib_gradients *g, const nib_place *place) {
    for (size_t i = 0; i < g->count; i++)
        if (nib_place_within(place, &g->list[i].place)) return (int64_t)i;
    return -1;
}

nib_status nib_gradients_watch(nib_gradients *g, nib_tensor *t, const char *name) {
    if (!g || !t) return nib_last_error()->status;
    nib_place place;
    if (t == NIB_NONE || t->layout || !nib_place_of(t, &place) || !nib_tensor_contiguous(t))
        return NIB_RAISE(NIB_E_DTYPE, "gradients are those of dense, contiguous floats; this is %s",
                         t == NIB_NONE ? "nothing"
                         : t->layout   ? t->layout->name
                                       : nib_dtype_name(t->dtype));
    if (nib_gradients_find(g, &place) >= 0) return NIB_OK;
    if (g->count == g->room) {
        const size_t room = g->room ? g->room * 2 : 16;
        nib_watched *grown =
            nib_mem_realloc(&g->ctx->mem, g->list, g->room * sizeof *grown, room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        g->list = grown;
        g->room = room;
    }
    char *own = nib_mem_strdup(&g->ctx->mem, name ? name : "");
    if (!own) return nib_last_error()->status;
    g->list[g->count++] =
        (nib_watched){.name = own, .tensor = nib_tensor_retain(t), .place = place};
    return NIB_OK;
}

/* ---- trees ---- */

typedef struct owning { /* a parameter in all its places: a table may be the head too */
    const nib_tensor *old;
    nib_tensor *with;
} owning;

static nib_status replace(void *user, const char *dotted, nib_module *owner, const char *name,
                          nib_tensor *t) {
    const owning *o = user;
    (void)dotted;
    if (t != o->old) return NIB_OK;
    return nib_module_set(owner, name, nib_tensor_retain(o->with)); /* is there: cannot fail */
}

typedef struct watching {
    nib_gradients *g;
    nib_module *root;
    bool any;
} watching;

/* Bytes of its own, so that an optimizer may write them: what a file or the caller lent stays. */
static nib_tensor *owned(const watching *w, nib_tensor *t) {
    if (!t->part[0]->constant) return t;
    nib_tensor *own = nib_tensor_new(t->ctx, t->dtype, t->shape);
    if (!own) return NULL;
    memcpy(nib_tensor_data_mut(own), nib_tensor_data(t), nib_tensor_bytes(t));
    const nib_status status = nib_module_walk_parameters(w->root, replace, &(owning){t, own});
    nib_tensor_free(own); /* the tree has it */
    return status >= NIB_OK ? own : NULL;
}

static nib_status watch(void *user, const char *dotted, nib_module *owner, const char *name,
                        nib_tensor *t) {
    watching *w = user;
    nib_place place;
    (void)owner;
    (void)name;
    if (t->layout || !nib_place_of(t, &place)) return NIB_OK;
    w->any = true;
    t = nib_tensor_contiguous(t) ? owned(w, t) : t;
    if (!t || nib_gradients_watch(w->g, t, dotted) < NIB_OK) return nib_error_at(NULL, dotted, -1);
    return NIB_OK;
}

nib_status nib_gradients_watch_module(nib_gradients *g, nib_module *root) {
    if (!g || !root) return nib_last_error()->status;
    const size_t before = g->count;
    watching w = {.g = g, .root = root};
    const nib_status status = nib_module_walk_parameters(root, watch, &w);
    if (status < NIB_OK) {
        forget_from(g, before);
        return status;
    }
    if (!w.any)
        return NIB_RAISE(NIB_E_ARGUMENT, "there is no float parameter to train in this tree");
    return NIB_OK;
}

/* ---- what was found ---- */

const nib_tensor *nib_gradient_of(const nib_gradients *g, const nib_tensor *t) {
    nib_place place;
    if (!g || !t || !nib_place_of(t, &place)) return NULL;
    const int64_t i = nib_gradients_find(g, &place);
    return i >= 0 && nib_place_equal(&place, &g->list[i].place) ? g->list[i].gradient : NULL;
}

void nib_gradients_zero(nib_gradients *g) {
    for (size_t i = 0; g && i < g->count; i++) {
        nib_tensor_free(g->list[i].gradient);
        g->list[i].gradient = NULL;
    }
}

nib_status nib_gradients_at(const nib_gradients *g, size_t index, const char **name,
                            nib_tensor **tensor, const nib_tensor **gradient) {
    if (!g) return NIB_RAISE(NIB_E_ARGUMENT, "which gradients?");
    if (index >= g->count) return NIB_END;
    if (name) *name = g->list[index].name;
    if (tensor) *tensor = g->list[index].tensor;
    if (gradient) *gradient = g->list[index].gradient;
    return NIB_OK;
}

/* In the tensor's shape, and nobody else's. */
nib_status nib_gradients_ready(nib_gradients *g, size_t index, nib_tensor **more) {
    const nib_tensor *t = g->list[index].tensor;
    nib_tensor *from = *more;
    const bool own = atomic_load(&from->refs) == 1 && atomic_load(&from->part[0]->refs) == 1;
    nib_tensor *ready =
        own ? nib_tensor_reshape(from, t->shape) : nib_tensor_new(g->ctx, NIB_F32, t->shape);
    if (!ready) return nib_last_error()->status;
    if (!own) memcpy(nib_tensor_data_mut(ready), nib_tensor_data(from), nib_tensor_bytes(ready));
    nib_tensor_free(from);
    *more = ready;
    return NIB_OK;
}

typedef struct adding {
    float *sum;
    const float *more;
} adding;

static void add(void *user, int64_t begin, int64_t end) {
    const adding *a = user;
    float *sum = a->sum;
    const float *more = a->more;
    for (int64_t i = begin; i < end; i++) sum[i] += more[i];
}

void nib_gradients_add(nib_gradients *g, size_t index, nib_tensor *more) {
    nib_tensor **to = &g->list[index].gradient;
    if (!*to) {
        *to = more;
        return;
    }
    adding a = {nib_tensor_data_mut(*to), nib_tensor_data(more)};
    nib_parallel_for(g->ctx->pool, nib_tensor_count(more), 8192, add, &a);
    nib_tensor_free(more);
}
