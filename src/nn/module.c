/* module.c: a module and what it holds. Children, parameters and buffers keep the order in which
 * they were added, since that is the order in which people read a model. */
#include "nn/module.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "nn/quantized.h"
#include "op/mode.h"

nib_module *nib_module_new(nib_ctx *ctx, const nib_module_kind *kind, void *self) {
    if (!ctx || !kind) return NULL;
    nib_module *m = nib_mem_alloc_zero(&ctx->mem, sizeof *m);
    if (!m) return NULL;
    m->ctx = ctx;
    m->kind = kind;
    m->self = self;
    m->refs = 1;
    return m;
}

void nib_module_free(nib_module *m) {
    if (!m || --m->refs > 0) return;
    nib_mem *mem = &m->ctx->mem;
    for (size_t i = 0; i < m->nchildren; i++) {
        nib_mem_strfree(mem, m->children[i].name);
        nib_module_free(m->children[i].module);
    }
    for (size_t i = 0; i < m->nstate; i++) {
        nib_mem_strfree(mem, m->state[i].name);
        nib_tensor_free(m->state[i].tensor);
    }
    if (m->kind->free) m->kind->free(m);
    nib_quantized_free(mem, m->quantized);
    nib_mem_free(mem, m->children, m->children_room * sizeof *m->children);
    nib_mem_free(mem, m->state, m->state_room * sizeof *m->state);
    nib_mem_free(mem, m, sizeof *m);
}

nib_module *nib_module_share(nib_module *m) {
    if (m) m->refs++;
    return m;
}

static nib_status check_name(const char *name) {
    if (!name || !*name || strchr(name, '.'))
        return NIB_RAISE(NIB_E_ARGUMENT, "\"%s\" cannot name a part of a module; use no dots",
                         name ? name : "");
    return NIB_OK;
}

/* Room for one more entry of `size` bytes; NULL when there is no memory. */
static void *grow(nib_mem *mem, void *entries, size_t count, size_t *room, size_t size) {
    if (count < *room) return entries;
    const size_t more = *room ? *room * 2 : 4;
    void *grown = nib_mem_realloc(mem, entries, *room * size, more * size);
    if (grown) *room = more;
    return grown;
}

/* ---- children ---- */

static nib_named_child *find_child(const nib_module *m, const char *name, size_t length) {
    for (size_t i = 0; i < m->nchildren; i++)
        if (strlen(m->children[i].name) == length && !memcmp(m->children[i].name, name, length))
            return &m->children[i];
    return NULL;
}

nib_status nib_module_add(nib_module *m, const char *name, nib_module *child) {
    if (!m || !child) {
        nib_module_free(child);
        return nib_last_error()->status;
    }
    char *copy = NULL;
    NIB_TRY_GOTO(check_name(name), fail);
    if (child == m || find_child(m, name, strlen(name))) {
        NIB_RAISE(NIB_E_ARGUMENT, "a %s %s %s; replace it with nib_module_replace", m->kind->name,
                  child == m ? "cannot be its own child" : "has a child already that is called",
                  name);
        goto fail;
    }
    nib_named_child *grown =
        grow(&m->ctx->mem, m->children, m->nchildren, &m->children_room, sizeof *grown);
    if (!grown) goto fail;
    m->children = grown;
    copy = nib_mem_strdup(&m->ctx->mem, name);
    if (!copy) goto fail;
    m->children[m->nchildren++] = (nib_named_child){copy, child};
    return NIB_OK;
fail:
    nib_module_free(child);
    return nib_last_error()->status;
}

nib_status nib_module_append(nib_module *m, nib_module *child) {
    char name[24];
    snprintf(name, sizeof name, "%zu", m ? m->nchildren : (size_t)0);
    return nib_module_add(m, name, child);
}

/* The entry of a dotted name, or NULL. */
static nib_named_child *find(const nib_module *m, const char *dotted) {
    nib_named_child *found = NULL;
    while (m && *dotted) {
        const size_t length = strcspn(dotted, ".");
        found = find_child(m, dotted, length);
        m = found ? found->module : NULL;
        dotted += length + (dotted[length] == '.');
    }
    return m ? found : NULL;
}

nib_module *nib_module_child(const nib_module *m, const char *dotted) {
    if (!m || !dotted) return NULL;
    if (!*dotted) return (nib_module *)(uintptr_t)m;
    const nib_named_child *found = find(m, dotted);
    return found ? found->module : NULL;
}

nib_status nib_module_replace(nib_module *root, const char *dotted, nib_module *with) {
    if (!root || !with) {
        nib_module_free(with);
        return nib_last_error()->status;
    }
    nib_named_child *found = dotted ? find(root, dotted) : NULL;
    if (!found) {
        nib_module_free(with);
        return NIB_RAISE(NIB_E_ARGUMENT, "there is no module \"%s\" below this %s to replace",
                         dotted ? dotted : "", root->kind->name);
    }
    nib_module_free(found->module);
    found->module = with;
    return NIB_OK;
}

size_t nib_module_children(const nib_module *m) { return m ? m->nchildren : 0; }

nib_module *nib_module_child_at(const nib_module *m, size_t index, const char **name) {
    if (!m || index >= m->nchildren) return NULL;
    if (name) *name = m->children[index].name;
    return m->children[index].module;
}

/* ---- parameters and buffers ---- */

static nib_named_state *find_state(const nib_module *m, const char *name) {
    for (size_t i = 0; i < m->nstate; i++)
        if (strcmp(m->state[i].name, name) == 0) return &m->state[i];
    return NULL;
}

static nib_tensor *get(const nib_module *m, const char *name, bool buffer) {
    const nib_named_state *found = m && name ? find_state(m, name) : NULL;
    return found && found->buffer == buffer ? found->tensor : NULL;
}

/* Most layers ask for these two at each forward, when the entries and names of a module that ran
 * long ago have left the caches: they stand beside what else a forward reads of it. */
static void note_parameters(nib_module *m) {
    m->weight = get(m, "weight", false);
    m->bias = get(m, "bias", false);
}

static nib_status set(nib_module *m, const char *name, nib_tensor *tensor, bool buffer) {
    if (!m || !tensor) {
        nib_tensor_free(tensor);
        return nib_last_error()->status;
    }
    NIB_TRY_GOTO(check_name(name), fail);
    if (tensor == NIB_NONE) {
        NIB_RAISE(NIB_E_ARGUMENT, "a %s's %s cannot be NIB_NONE", m->kind->name, name);
        goto fail;
    }
    nib_named_state *found = find_state(m, name);
    if (found) {
        nib_tensor_free(found->tensor);
        found->tensor = tensor;
        found->buffer = buffer;
        note_parameters(m);
        return NIB_OK;
    }
    nib_named_state *grown = grow(&m->ctx->mem, m->state, m->nstate, &m->state_room, sizeof *grown);
    if (!grown) goto fail;
    m->state = grown;
    char *copy = nib_mem_strdup(&m->ctx->mem, name);
    if (!copy) goto fail;
    m->state[m->nstate++] = (nib_named_state){copy, tensor, buffer};
    note_parameters(m);
    return NIB_OK;
fail:
    nib_tensor_free(tensor);
    return nib_last_error()->status;
}

nib_status nib_module_set(nib_module *m, const char *name, nib_tensor *parameter) {
    return set(m, name, parameter, false);
}
nib_status nib_module_set_buffer(nib_module *m, const char *name, nib_tensor *buffer) {
    return set(m, name, buffer, true);
}

nib_tensor *nib_module_parameter(const nib_module *m, const char *name) {
    return get(m, name, false);
}
nib_tensor *nib_module_buffer(const nib_module *m, const char *name) { return get(m, name, true); }

/* ---- what a module that is quantized carries ---- */

nib_quantized *nib_module_quantized(const nib_module *m) { return m ? m->quantized : NULL; }
void nib_module_carry(nib_module *m, nib_quantized *quantized) { m->quantized = quantized; }

void nib_module_drop(nib_module *m, const char *name) {
    nib_named_state *found = find_state(m, name);
    if (!found) return;
    nib_mem_strfree(&m->ctx->mem, found->name);
    nib_tensor_free(found->tensor);
    m->nstate--;
    memmove(found, found + 1, (size_t)(m->state + m->nstate - found) * sizeof *found);
    note_parameters(m);
}

/* ---- running ---- */

nib_tensor *nib_module_forward_many(nib_module *m, nib_tensor *const in[], int count) {
    if (!m || !in || count < 1) return NULL;
    for (int i = 0; i < count; i++)
        if (!in[i]) return NULL;
    nib_tensor *x = in[0];
    if (!m->kind->forward && !m->kind->forward_many)
        return NIB_RAISE_NULL(NIB_E_UNSUPPORTED, "a %s has no forward of its own", m->kind->name);
    if (count > NIB_MAX_INPUTS || (count > 1 && !m->kind->forward_many))
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "a %s takes %d inputs at most, not %d", m->kind->name,
                              m->kind->forward_many ? (int)NIB_MAX_INPUTS : 1, count);
    nib_ctx *ctx = x == NIB_NONE ? m->ctx : x->ctx; /* of the caller: threads may share the tree */
    NIB_TRY_NULL(nib_modes_enter_module(ctx, m, &x));
    if (m->quantized) NIB_TRY_NULL(nib_quantized_enter(m, &x));
    nib_tensor *all[NIB_MAX_INPUTS] = {x};
    for (int i = 1; i < count; i++) all[i] = in[i];
    nib_tensor *y = m->kind->forward && count == 1 ? m->kind->forward(m, x)
                                                   : m->kind->forward_many(m, all, count);
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(ctx, m, &y));
    if (m->quantized) NIB_TRY_NULL(nib_quantized_leave(m, &y));
    return y;
}

nib_tensor *nib_module_forward(nib_module *m, nib_tensor *x) {
    return nib_module_forward_many(m, &x, 1);
}

void *nib_module_self(const nib_module *m) { return m ? m->self : NULL; }
const nib_module_kind *nib_module_kind_of(const nib_module *m) { return m ? m->kind : NULL; }
nib_ctx *nib_module_ctx(const nib_module *m) { return m ? m->ctx : NULL; }
bool nib_module_is_head(const nib_module *m) { return m && m->head; }
void nib_module_set_head(nib_module *m, bool head) {
    if (m) m->head = head;
}

void nib_module_train(nib_module *m, bool training) {
    if (!m) return;
    m->training = training;
    for (size_t i = 0; i < m->nchildren; i++) nib_module_train(m->children[i].module, training);
}
bool nib_module_is_training(const nib_module *m) { return m && m->training; }

/* ---- for the layers ---- */

nib_module *nib_layer_new(nib_ctx *ctx, const nib_module_kind *kind, size_t size, int count,
                          int required, const char *const names[], nib_tensor *const tensors[]) {
    bool given = ctx != NULL;
    for (int i = 0; i < count; i++) given = given && tensors[i];
    void *self = given && size ? nib_mem_alloc_zero(&ctx->mem, size) : NULL;
    nib_module *m = given && (self || !size) ? nib_module_new(ctx, kind, self) : NULL;
    if (!m && self) nib_mem_free(&ctx->mem, self, size);
    nib_status status = m ? NIB_OK : nib_last_error()->status;
    for (int i = 0; i < count; i++) {
        if (tensors[i] == NIB_NONE && i >= required) continue;
        if (m && status >= NIB_OK)
            status = nib_module_set(m, names[i], tensors[i]);
        else
            nib_tensor_free(tensors[i]);
    }
    if (m && status >= NIB_OK) return m;
    nib_module_free(m);
    return NULL;
}

void nib_layer_free(nib_module *m, size_t size) { nib_mem_free(&m->ctx->mem, m->self, size); }

nib_tensor *nib_layer_parameter(const nib_module *m, const char *name) {
    nib_tensor *t = nib_module_parameter(m, name);
    return t ? t : NIB_NONE;
}

void nib_layer_options(void *to, size_t room, const void *given) {
    if (!given) return;
    size_t size;
    memcpy(&size, given, sizeof size);
    memcpy(to, given, size && size < room ? size : room);
}
