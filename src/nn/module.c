/* module.c: the tree. Children and parameters keep the order in which they were added, since that
 * is the order in which people read a model. */
#include <nibble/nn.h>
#include <string.h>

#include "base/error.h"
#include "base/text_util.h"
#include "op/mode.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

enum { MAX_DEPTH = 32, MAX_NAME = 512 };

typedef struct named_child {
    char *name;
    nib_module *module;
} named_child;
typedef struct named_parameter {
    char *name;
    nib_tensor *tensor;
} named_parameter;

struct nib_module {
    nib_ctx *ctx;
    const nib_module_kind *kind;
    void *self;
    bool head;
    named_child *children;
    named_parameter *parameters;
    size_t nchildren, nparameters, children_room, parameters_room;
};

nib_module *nib_module_new(nib_ctx *ctx, const nib_module_kind *kind, void *self) {
    if (!ctx || !kind) return NULL;
    nib_module *m = nib_mem_alloc_zero(&ctx->mem, sizeof *m);
    if (!m) return NULL;
    m->ctx = ctx;
    m->kind = kind;
    m->self = self;
    return m;
}

void nib_module_free(nib_module *m) {
    if (!m) return;
    nib_mem *mem = &m->ctx->mem;
    for (size_t i = 0; i < m->nchildren; i++) {
        nib_mem_strfree(mem, m->children[i].name);
        nib_module_free(m->children[i].module);
    }
    for (size_t i = 0; i < m->nparameters; i++) {
        nib_mem_strfree(mem, m->parameters[i].name);
        nib_tensor_free(m->parameters[i].tensor);
    }
    if (m->kind->free) m->kind->free(m);
    nib_mem_free(mem, m->children, m->children_room * sizeof *m->children);
    nib_mem_free(mem, m->parameters, m->parameters_room * sizeof *m->parameters);
    nib_mem_free(mem, m, sizeof *m);
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

nib_status nib_module_add(nib_module *m, const char *name, nib_module *child) {
    if (!m || !child) {
        nib_module_free(child);
        return nib_last_error()->status;
    }
    char *copy = NULL;
    NIB_TRY_GOTO(check_name(name), fail);
    named_child *grown =
        grow(&m->ctx->mem, m->children, m->nchildren, &m->children_room, sizeof *grown);
    if (!grown) goto fail;
    m->children = grown;
    copy = nib_mem_strdup(&m->ctx->mem, name);
    if (!copy) goto fail;
    m->children[m->nchildren++] = (named_child){copy, child};
    return NIB_OK;
fail:
    nib_module_free(child);
    return nib_last_error()->status;
}

nib_status nib_module_set(nib_module *m, const char *name, nib_tensor *parameter) {
    if (!m || !parameter) {
        nib_tensor_free(parameter);
        return nib_last_error()->status;
    }
    NIB_TRY_GOTO(check_name(name), fail);
    if (parameter == NIB_NONE) {
        NIB_RAISE(NIB_E_ARGUMENT, "a %s's %s cannot be NIB_NONE", m->kind->name, name);
        goto fail;
    }
    for (size_t i = 0; i < m->nparameters; i++) {
        if (strcmp(m->parameters[i].name, name) != 0) continue;
        nib_tensor_free(m->parameters[i].tensor);
        m->parameters[i].tensor = parameter;
        return NIB_OK;
    }
    named_parameter *grown =
        grow(&m->ctx->mem, m->parameters, m->nparameters, &m->parameters_room, sizeof *grown);
    if (!grown) goto fail;
    m->parameters = grown;
    char *copy = nib_mem_strdup(&m->ctx->mem, name);
    if (!copy) goto fail;
    m->parameters[m->nparameters++] = (named_parameter){copy, parameter};
    return NIB_OK;
fail:
    nib_tensor_free(parameter);
    return nib_last_error()->status;
}

nib_tensor *nib_module_forward(nib_module *m, nib_tensor *x) {
    if (!m || !x) return NULL;
    if (!m->kind->forward)
        return NIB_RAISE_NULL(NIB_E_UNSUPPORTED, "a %s has no forward of its own", m->kind->name);
    nib_ctx *ctx = x->ctx; /* of the caller: the tree may be shared by several */
    NIB_TRY_NULL(nib_modes_enter_module(ctx, m, &x));
    nib_tensor *y = m->kind->forward(m, x);
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(ctx, m, &y));
    return y;
}

void *nib_module_self(const nib_module *m) { return m ? m->self : NULL; }
const nib_module_kind *nib_module_kind_of(const nib_module *m) { return m ? m->kind : NULL; }
nib_ctx *nib_module_ctx(const nib_module *m) { return m ? m->ctx : NULL; }
bool nib_module_is_head(const nib_module *m) { return m && m->head; }
void nib_module_set_head(nib_module *m, bool head) {
    if (m) m->head = head;
}

nib_tensor *nib_module_parameter(const nib_module *m, const char *name) {
    if (!m || !name) return NULL;
    for (size_t i = 0; i < m->nparameters; i++)
        if (strcmp(m->parameters[i].name, name) == 0) return m->parameters[i].tensor;
    return NULL;
}

nib_module *nib_module_child(const nib_module *m, const char *dotted) {
    if (!dotted) return NULL;
    while (m && *dotted) {
        const size_t length = strcspn(dotted, ".");
        const nib_module *next = NULL;
        for (size_t i = 0; i < m->nchildren && !next; i++)
            if (strlen(m->children[i].name) == length &&
                memcmp(m->children[i].name, dotted, length) == 0)
                next = m->children[i].module;
        m = next;
        dotted += length + (dotted[length] == '.');
    }
    return (nib_module *)(uintptr_t)m;
}

/* Put `name` behind the dotted prefix in `path` and return the new length. */
static nib_status join(char path[MAX_NAME], size_t length, const char *name, size_t *joined) {
    const size_t more = strlen(name);
    if (length + more + 2 > MAX_NAME)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "the name of %s is over %d bytes long", name, MAX_NAME);
    if (length) path[length++] = '.';
    memcpy(path + length, name, more + 1);
    *joined = length + more;
    return NIB_OK;
}

static nib_status walk(nib_module *m, char path[MAX_NAME], size_t length, int depth,
                       nib_module_visit *visit, nib_parameter_visit *visit_parameter, void *user) {
    if (depth == MAX_DEPTH)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "%s nests over %d modules deep", path, MAX_DEPTH);
    size_t joined = 0;
    if (visit) NIB_TRY(visit(user, path, m));
    for (size_t i = 0; visit_parameter && i < m->nparameters; i++) {
        NIB_TRY(join(path, length, m->parameters[i].name, &joined));
        NIB_TRY(visit_parameter(user, path, m, m->parameters[i].name, m->parameters[i].tensor));
        path[length] = '\0';
    }
    for (size_t i = 0; i < m->nchildren; i++) {
        NIB_TRY(join(path, length, m->children[i].name, &joined));
        NIB_TRY(walk(m->children[i].module, path, joined, depth + 1, visit, visit_parameter, user));
        path[length] = '\0';
    }
    return NIB_OK;
}

nib_status nib_module_walk(nib_module *root, nib_module_visit *visit, void *user) {
    if (!root) return nib_last_error()->status;
    if (!visit) return NIB_RAISE(NIB_E_ARGUMENT, "walking needs a function to visit modules with");
    char path[MAX_NAME] = "";
    return walk(root, path, 0, 0, visit, NULL, user);
}

nib_status nib_module_walk_parameters(nib_module *root, nib_parameter_visit *visit, void *user) {
    if (!root) return nib_last_error()->status;
    if (!visit)
        return NIB_RAISE(NIB_E_ARGUMENT, "walking needs a function to visit parameters with");
    char path[MAX_NAME] = "";
    return walk(root, path, 0, 0, NULL, visit, user);
}

static nib_status print_one(void *user, const char *dotted, nib_module *m) {
    nib_text *text = user;
    int depth = *dotted != '\0';
    for (const char *p = dotted; *p; p++) depth += *p == '.';
    const char *last = strrchr(dotted, '.');
    for (int i = 0; i < depth; i++) nib_text_add(text, "  ");
    if (*dotted) nib_text_format(text, "%s: ", last ? last + 1 : dotted);
    nib_text_add(text, m->kind->name);
    for (size_t i = 0; i < m->nparameters; i++) {
        const nib_tensor *t = m->parameters[i].tensor;
        char shape[96];
        nib_text_format(text, "  %s %s %s", m->parameters[i].name,
                        nib_shape_text(&t->shape, shape, sizeof shape),
                        t->layout ? t->layout->name : nib_dtype_name(t->dtype));
    }
    nib_text_add(text, "\n");
    return NIB_OK;
}

char *nib_module_print(nib_module *root) {
    nib_text text = {0};
    if (nib_module_walk(root, print_one, &text) < NIB_OK || text.failed) {
        nib_text_free(&text);
        return NULL;
    }
    char *out = nib_mem_strdup(NULL, text.data);
    nib_text_free(&text);
    return out;
}

void nib_text_release(char *text) { nib_mem_strfree(NULL, text); }
