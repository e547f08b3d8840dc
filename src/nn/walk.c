/* walk.c: a tree from its root down, by dotted names; and as text. */
#include <string.h>

#include "base/error.h"
#include "base/text_util.h"
#include "nn/module.h"
#include "tensor/dtype.h"

enum { MAX_NAME = NIB_MODULE_MAX_NAME };

typedef struct visitor {
    nib_module_visit *module;
    nib_parameter_visit *tensor;
    bool buffers; /* too */
    void *user;
} visitor;

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

static nib_status visit_state(nib_module *m, char path[MAX_NAME], size_t length, bool buffers,
                              const visitor *v) {
    size_t joined = 0;
    for (size_t i = 0; i < m->nstate; i++) {
        const nib_named_state *s = &m->state[i];
        if (s->buffer != buffers) continue;
        NIB_TRY(join(path, length, s->name, &joined));
        NIB_TRY(v->tensor(v->user, path, m, s->name, s->tensor));
        path[length] = '\0';
    }
    return NIB_OK;
}

static nib_status walk(nib_module *m, char path[MAX_NAME], size_t length, int depth,
                       const visitor *v) {
    if (depth == NIB_MODULE_MAX_DEPTH)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "%s nests over %d modules deep", path,
                         NIB_MODULE_MAX_DEPTH);
    size_t joined = 0;
    if (v->module) NIB_TRY(v->module(v->user, path, m));
    if (v->tensor) NIB_TRY(visit_state(m, path, length, false, v));
    if (v->tensor && v->buffers) NIB_TRY(visit_state(m, path, length, true, v));
    for (size_t i = 0; i < m->nchildren; i++) {
        NIB_TRY(join(path, length, m->children[i].name, &joined));
        NIB_TRY(walk(m->children[i].module, path, joined, depth + 1, v));
        path[length] = '\0';
    }
    return NIB_OK;
}

nib_status nib_module_walk(nib_module *root, nib_module_visit *visit, void *user) {
    if (!root) return nib_last_error()->status;
    if (!visit) return NIB_RAISE(NIB_E_ARGUMENT, "walking needs a function to visit modules with");
    char path[MAX_NAME] = "";
    return walk(root, path, 0, 0, &(visitor){.module = visit, .user = user});
}

static nib_status walk_tensors(nib_module *root, nib_parameter_visit *visit, bool buffers,
                               void *user) {
    if (!root) return nib_last_error()->status;
    if (!visit)
        return NIB_RAISE(NIB_E_ARGUMENT, "walking needs a function to visit parameters with");
    char path[MAX_NAME] = "";
    return walk(root, path, 0, 0, &(visitor){.tensor = visit, .buffers = buffers, .user = user});
}

nib_status nib_module_walk_parameters(nib_module *root, nib_parameter_visit *visit, void *user) {
    return walk_tensors(root, visit, false, user);
}
nib_status nib_module_walk_state(nib_module *root, nib_parameter_visit *visit, void *user) {
    return walk_tensors(root, visit, true, user);
}

static nib_status print_one(void *user, const char *dotted, nib_module *m) {
    nib_text *text = user;
    int depth = *dotted != '\0';
    for (const char *p = dotted; *p; p++) depth += *p == '.';
    const char *last = strrchr(dotted, '.');
    for (int i = 0; i < depth; i++) nib_text_add(text, "  ");
    if (*dotted) nib_text_format(text, "%s: ", last ? last + 1 : dotted);
    nib_text_add(text, m->kind->name);
    char options[256] = "";
    if (m->kind->describe) m->kind->describe(m, options, sizeof options);
    if (*options) nib_text_format(text, "(%s)", options);
    for (size_t i = 0; i < m->nstate; i++) {
        const nib_tensor *t = m->state[i].tensor;
        char shape[96];
        nib_text_format(text, "  %s %s %s", m->state[i].name,
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
