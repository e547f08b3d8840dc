/* state.c: parameters and buffers of a tree by dotted name, all or nothing. What comes in is made
 * first and kept aside; only when all of it is there and fits do the modules get it. */
#include "nn/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text_util.h"
#include "nn/module.h"
#include "quant/cast.h"
#include "tensor/dtype.h"

enum { NAMED = 4 }; /* names of one kind that a message gives; the report has them all */

typedef struct change {
    nib_module *owner;
    const char *name; /* of the owner's */
    nib_tensor *tensor;
    bool buffer;
} change;

typedef struct work {
    nib_mem *mem;
    const nib_state_source *source;
    nib_state_options options;
    char **known; /* dotted names of the tree */
    change *changes;
    size_t count, room, nknown;
    nib_text problems[NIB_STATE_PROBLEMS];
    int found[NIB_STATE_PROBLEMS];
} work;

static const char *const problem_names[NIB_STATE_PROBLEMS] = {"missing", "unexpected",
                                                              "of another shape"};

static void note(work *w, nib_state_problem problem, const char *dotted, const char *detail) {
    nib_state_report *report = w->options.report;
    nib_text *text = &w->problems[problem];
    if (report && report->row) report->row(report->user, problem, dotted, detail);
    if (w->found[problem]++ >= NAMED) return;
    nib_text_format(text, "%s%s%s", text->length ? ", " : "", dotted, detail ? detail : "");
}

/* Room for what the tree has, counted by a first walk. */
static nib_status count_one(void *user, const char *dotted, nib_module *owner, const char *name,
                            nib_tensor *t) {
    (void)dotted, (void)owner, (void)name, (void)t;
    ((work *)user)->room++;
    return NIB_OK;
}

static nib_status take_one(void *user, const char *dotted, nib_module *owner, const char *name,
                           nib_tensor *have) {
    work *w = user;
    const nib_state_source *s = w->source;
    w->known[w->nknown] = nib_mem_strdup(w->mem, dotted);
    if (!w->known[w->nknown]) return nib_last_error()->status;
    w->nknown++;
    if (!s->has(s->self, dotted)) {
        note(w, NIB_STATE_MISSING, dotted, NULL);
        return NIB_OK;
    }
    nib_tensor *t = s->get(s->self, dotted, &have->shape);
    if (!t) return nib_error_at(NULL, dotted, -1);
    if (!nib_shape_equal(&t->shape, &have->shape)) {
        char detail[224], a[96], b[96];
        snprintf(detail, sizeof detail, " is %s, the module's %s",
                 nib_shape_text(&t->shape, a, sizeof a), nib_shape_text(&have->shape, b, sizeof b));
        note(w, NIB_STATE_SHAPE, dotted, detail);
        nib_tensor_free(t);
        return NIB_OK;
    }
    if (!w->options.assign && !have->layout && !t->layout && t->dtype != have->dtype) {
        nib_tensor *cast = nib_tensor_cast(t, have->dtype);
        nib_tensor_free(t);
        if (!cast) return nib_error_at(NULL, dotted, -1);
        t = cast;
    }
    const bool buffer = nib_module_buffer(owner, name) != NULL;
    w->changes[w->count++] = (change){owner, name, t, buffer};
    return NIB_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names that the source has and the tree has not. */
static void look_for_unexpected(work *w) {
    const nib_state_source *s = w->source;
    if (w->nknown) qsort(w->known, w->nknown, sizeof *w->known, by_name);
    for (size_t i = 0; i < s->count; i++) {
        const char *name = s->name(s->self, i);
        if (!bsearch(&name, w->known, w->nknown, sizeof *w->known, by_name))
            note(w, NIB_STATE_UNEXPECTED, name, NULL);
    }
}

/* All that is wrong in one message. */
static nib_status judge(work *w) {
    nib_text text = {.mem = w->mem};
    int wrong = w->found[NIB_STATE_SHAPE];
    if (!w->options.lenient) wrong += w->found[NIB_STATE_MISSING] + w->found[NIB_STATE_UNEXPECTED];
    if (!wrong) return NIB_OK;
    for (int p = 0; p < NIB_STATE_PROBLEMS; p++) {
        if (!w->found[p] || (w->options.lenient && p != NIB_STATE_SHAPE)) continue;
        nib_text_format(&text, "%s%d %s (%s", text.length ? "; " : "", w->found[p],
                        problem_names[p], w->problems[p].data ? w->problems[p].data : "");
        if (w->found[p] > NAMED) nib_text_format(&text, " and %d more", w->found[p] - NAMED);
        nib_text_add(&text, ")");
    }
    const nib_status status = NIB_RAISE(w->found[NIB_STATE_SHAPE] ? NIB_E_SHAPE : NIB_E_FORMAT,
                                        "the state does not fit the modules: %s",
                                        text.data ? text.data : "no memory to say why");
    nib_text_free(&text);
    return status;
}

static nib_status take(work *w, nib_module *root) {
    NIB_TRY(nib_module_walk_state(root, count_one, w));
    w->known = nib_mem_alloc_array(w->mem, w->room, sizeof *w->known);
    w->changes = w->known ? nib_mem_alloc_array(w->mem, w->room, sizeof *w->changes) : NULL;
    if (!w->changes) return nib_last_error()->status;
    NIB_TRY(nib_module_walk_state(root, take_one, w));
    look_for_unexpected(w);
    NIB_TRY(judge(w));
    for (size_t i = 0; i < w->count; i++) { /* replacing what is there cannot fail */
        const change *c = &w->changes[i];
        nib_tensor *t = c->tensor;
        w->changes[i].tensor = NULL;
        if (c->buffer)
            (void)nib_module_set_buffer(c->owner, c->name, t);
        else
            (void)nib_module_set(c->owner, c->name, t);
    }
    return NIB_OK;
}

nib_status nib_state_take(nib_module *root, const nib_state_source *source,
                          const nib_state_options *options) {
    if (!root) return nib_last_error()->status;
    work w = {.mem = nib_ctx_mem(root->ctx), .source = source};
    nib_layer_options(&w.options, sizeof w.options, options);
    for (int p = 0; p < NIB_STATE_PROBLEMS; p++) w.problems[p].mem = w.mem;
    const nib_status status = take(&w, root);
    nib_state_report *report = w.options.report;
    if (report) {
        report->loaded = status >= NIB_OK ? (int)w.count : 0;
        report->missing = w.found[NIB_STATE_MISSING];
        report->unexpected = w.found[NIB_STATE_UNEXPECTED];
        report->mismatched = w.found[NIB_STATE_SHAPE];
    }
    for (int p = 0; p < NIB_STATE_PROBLEMS; p++) nib_text_free(&w.problems[p]);
    for (size_t i = 0; i < w.count; i++) nib_tensor_free(w.changes[i].tensor);
    for (size_t i = 0; i < w.nknown; i++) nib_mem_strfree(w.mem, w.known[i]);
    nib_mem_free(w.mem, w.known, w.room * sizeof *w.known);
    nib_mem_free(w.mem, w.changes, w.room * sizeof *w.changes);
    return status;
}

/* ---- from memory ---- */

typedef struct given {
    const nib_named_tensor *tensors;
    size_t count;
} given;

static const nib_named_tensor *find(const given *g, const char *name) {
    for (size_t i = 0; i < g->count; i++)
        if (g->tensors[i].name && strcmp(g->tensors[i].name, name) == 0) return &g->tensors[i];
    return NULL;
}
static const char *given_name(void *self, size_t i) {
    const char *name = ((const given *)self)->tensors[i].name;
    return name ? name : "";
}
static bool given_has(void *self, const char *name) { return find(self, name) != NULL; }
static nib_tensor *given_get(void *self, const char *name, const nib_shape *shape) {
    (void)shape;
    const nib_tensor *t = find(self, name)->tensor;
    if (t == NIB_NONE) return NIB_RAISE_NULL(NIB_E_ARGUMENT, "%s cannot be NIB_NONE", name);
    return nib_tensor_retain(t);
}

nib_status nib_module_load_state(nib_module *root, const nib_named_tensor *tensors, size_t count,
                                 const nib_state_options *options) {
    if (!root) return nib_last_error()->status;
    if (!tensors && count)
        return NIB_RAISE(NIB_E_ARGUMENT, "no tensors were given to load %zu of", count);
    for (size_t i = 0; i < count; i++)
        if (!tensors[i].tensor) return nib_last_error()->status;
    given g = {tensors, count};
    const nib_state_source source = {&g, count, given_name, given_has, given_get};
    return nib_state_take(root, &source, options);
}
