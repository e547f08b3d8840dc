#include "flow/select.h"

#include <string.h>

#include "base/error.h"
#include "base/text_util.h"
#include "quant/scheme.h"

nib_status nib_selection_open(nib_mem *mem, const nib_rule *rules, size_t nrules,
                              const nib_select *select, nib_selection *out) {
    *out = (nib_selection){.mem = mem};
    if (select) {
        const size_t given = select->size ? select->size : sizeof *select;
        memcpy(&out->select, select, given < sizeof *select ? given : sizeof *select);
    }
    if (!rules || !nrules) return NIB_RAISE(NIB_E_ARGUMENT, "no scheme was given");
    out->rules = nib_mem_alloc_array(mem, nrules, sizeof *out->rules);
    if (!out->rules) return nib_last_error()->status;
    out->rules_room = nrules;
    for (; out->nrules < nrules; out->nrules++) {
        const nib_rule *from = &rules[out->nrules];
        nib_rule *to = &out->rules[out->nrules];
        if (!from->config) { /* a config whose parse failed: its cause is on record */
            nib_selection_close(out);
            return nib_last_error()->status;
        }
        *to = (nib_rule){0};
        to->glob = from->glob ? nib_mem_strdup(mem, from->glob) : NULL;
        if (from->config == NIB_LEAVE)
            to->config = NIB_LEAVE;
        else if (nib_config_check(from->config) >= NIB_OK)
            to->config = nib_config_copy(from->config);
        if (!to->config || (from->glob && !to->glob)) {
            out->nrules++; /* what there is of this one is released with the others */
            nib_selection_close(out);
            return nib_last_error()->status;
        }
    }
    return NIB_OK;
}

void nib_selection_close(nib_selection *s) {
    for (size_t i = 0; i < s->nrules; i++) {
        nib_mem_strfree(s->mem, (char *)(uintptr_t)s->rules[i].glob);
        if (s->rules[i].config != NIB_LEAVE)
            nib_config_free((nib_config *)(uintptr_t)s->rules[i].config);
    }
    nib_mem_free(s->mem, s->rules, s->rules_room * sizeof *s->rules);
    s->rules = NULL;
    s->nrules = 0;
}

const nib_config *nib_selection_config(const nib_selection *s, const nib_candidate *c,
                                       const char **why_left) {
    const bool included = s->select.include && nib_glob_match(s->select.include, c->name);
    *why_left = NULL;
    if (s->select.include && !included)
        *why_left = "not included";
    else if (s->select.exclude && nib_glob_match(s->select.exclude, c->name))
        *why_left = "excluded";
    else if (!included && !c->linear)
        *why_left = c->why_not;
    else if (!included && c->head && !s->select.head)
        *why_left = "the output head";
    else if (s->select.filter && c->module && !s->select.filter(c->module, c->name, s->select.user))
        *why_left = "filtered out";
    if (*why_left) return NULL;
    for (size_t i = 0; i < s->nrules; i++) {
        if (s->rules[i].glob && !nib_glob_match(s->rules[i].glob, c->name)) continue;
        if (s->rules[i].config == NIB_LEAVE) *why_left = "left by a rule";
        return s->rules[i].config == NIB_LEAVE ? NULL : s->rules[i].config;
    }
    *why_left = "no rule is about it";
    return NULL;
}
