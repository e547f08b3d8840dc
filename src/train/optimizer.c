#include "train/optimizer.h"

#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "tensor/context.h"
#include "train/gradients.h"

static const nib_optimizer_kind *const kinds[] = {
#define X(name) &nib_optimizer_##name,
#include "train/optimizer_list.h"
#undef X
    NULL};

const nib_optimizer_kind *nib_optimizer_kind_at(size_t i) {
    return i < sizeof kinds / sizeof *kinds ? kinds[i] : NULL;
}

typedef struct moved {
    nib_tensor *tensor; /* held */
    nib_optimizer_slot slot;
} moved;

struct nib_optimizer {
    nib_gradients *gradients;
    nib_optimizer_config *config; /* own */
    moved *list;
    size_t count, room;
};

static nib_mem *mem_of(const nib_optimizer *o) { return &o->gradients->ctx->mem; }

void nib_optimizer_free(nib_optimizer *o) {
    if (!o) return;
    nib_mem *mem = mem_of(o);
    const nib_optimizer_kind *kind = o->config ? o->config->kind : NULL;
    for (size_t i = 0; i < o->count; i++) {
        moved *m = &o->list[i];
        for (int k = 0; k < kind->states; k++)
            nib_mem_free(mem, m->slot.state[k], (size_t)m->slot.count * sizeof(float));
        nib_tensor_free(m->tensor);
    }
    nib_mem_free(mem, o->list, o->room * sizeof *o->list);
    if (kind) nib_mem_free(mem, o->config, kind->config_size);
    nib_mem_free(mem, o, sizeof *o);
}

static nib_status add(nib_optimizer *o, const nib_watched *w) {
    const nib_optimizer_kind *kind = o->config->kind;
    if (w->tensor->dtype != NIB_F32) {
        (void)NIB_RAISE(NIB_E_DTYPE, "an optimizer moves f32, this is %s; see nib_module_to_dtype",
                        nib_dtype_name(w->tensor->dtype));
        return nib_error_at(NULL, w->name, -1);
    }
    if (w->tensor->part[0]->constant) {
        (void)NIB_RAISE(NIB_E_ARGUMENT, "a tensor that wraps const data cannot be moved");
        return nib_error_at(NULL, w->name, -1);
    }
    moved *m = &o->list[o->count++];
    *m = (moved){.tensor = nib_tensor_retain(w->tensor)};
    m->slot.count = nib_tensor_count(w->tensor);
    for (int k = 0; k < kind->states; k++) {
        m->slot.power[k] = 1;
        m->slot.state[k] = nib_mem_alloc_array(mem_of(o), (size_t)m->slot.count, sizeof(float));
        if (!m->slot.state[k]) return nib_last_error()->status;
    }
    return NIB_OK;
}

static nib_status fill(nib_optimizer *o, const nib_optimizer_config *config) {
    const nib_optimizer_kind *kind = config->kind;
    const nib_gradients *g = o->gradients;
    nib_optimizer_config *own = nib_mem_alloc_zero(mem_of(o), kind->config_size);
    if (!own) return nib_last_error()->status;
    memcpy(own, config, config->size < kind->config_size ? config->size : kind->config_size);
    o->config = own;
    NIB_TRY(kind->prepare(own));
    NIB_TRY(nib_optimizer_set_rate(o, nib_optimizer_rate(o)));
    if (!g->count) return NIB_RAISE(NIB_E_ARGUMENT, "%s: nothing is watched", kind->name);
    o->list = nib_mem_alloc_array(mem_of(o), g->count, sizeof *o->list);
    if (!o->list) return nib_last_error()->status;
    o->room = g->count;
    for (size_t i = 0; i < g->count; i++) NIB_TRY(add(o, &g->list[i]));
    return NIB_OK;
}

nib_optimizer *nib_optimizer_new(nib_gradients *gradients, const nib_optimizer_config *config) {
    if (!gradients || !config) return NULL;
    if (!config->kind || config->size < sizeof *config)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "this config is of no optimizer; write NIB_SGD()");
    nib_optimizer *o = nib_mem_alloc_zero(&gradients->ctx->mem, sizeof *o);
    if (!o) return NULL;
    o->gradients = gradients;
    if (fill(o, config) >= NIB_OK) return o;
    nib_optimizer_free(o);
    return NULL;
}

static double *rate_of(const nib_optimizer *o) {
    return (double *)(void *)((char *)o->config + o->config->kind->rate);
}

double nib_optimizer_rate(const nib_optimizer *o) { return o ? *rate_of(o) : 0; }

nib_status nib_optimizer_set_rate(nib_optimizer *o, double rate) {
    if (!o) return NIB_RAISE(NIB_E_ARGUMENT, "whose rate?");
    if (!(rate >= 0 && rate <= 3.4e38))
        return NIB_RAISE(NIB_E_ARGUMENT, "%s: rate is %g, want 0 or more", o->config->kind->name,
                         rate);
    *rate_of(o) = rate;
    return NIB_OK;
}

typedef struct stepping {
    const nib_optimizer_config *config;
    const nib_optimizer_slot *slot;
} stepping;

static void step_some(void *user, int64_t begin, int64_t end) {
    const stepping *s = user;
    s->config->kind->step(s->config, s->slot, begin, end);
}

nib_status nib_optimizer_step(nib_optimizer *o) {
    if (!o) return NIB_RAISE(NIB_E_ARGUMENT, "no optimizer to step");
    const nib_optimizer_kind *kind = o->config->kind;
    for (size_t i = 0; i < o->count; i++) {
        moved *m = &o->list[i];
        const nib_tensor *g = nib_gradient_of(o->gradients, m->tensor);
        if (!g) continue;
        m->slot.p = nib_tensor_data_mut(m->tensor);
        m->slot.g = nib_tensor_data(g);
        m->slot.steps++;
        for (int k = 0; k < kind->states && kind->decay; k++)
            m->slot.power[k] *= kind->decay(o->config, k);
        stepping s = {o->config, &m->slot};
        nib_parallel_for(o->gradients->ctx->pool, m->slot.count, 8192, step_some, &s);
    }
    return NIB_OK;
}
