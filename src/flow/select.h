/* select.h: which weights get which config; one rule for modules in memory and for files. */
#ifndef NIB_FLOW_SELECT_H
#define NIB_FLOW_SELECT_H
#include <nibble/nibble.h>

#include "base/mem.h"

/* A selection taken from a caller: copies of everything, so that it outlives the call's literals.
 */
typedef struct nib_selection {
    nib_mem *mem;
    nib_select select; /* include, exclude and filter as given; report too */
    nib_rule *rules;   /* configs checked and copied; NIB_LEAVE as it is */
    size_t nrules, rules_room;
} nib_selection;

/* Fails on a config out of range. `select` may be NULL. */
nib_status nib_selection_open(nib_mem *mem, const nib_rule *rules, size_t nrules,
                              const nib_select *select, nib_selection *out);
void nib_selection_close(nib_selection *selection);

/* What a weight is, apart from its name. */
typedef struct nib_candidate {
    const char *name;         /* dotted, without .weight */
    const nib_module *module; /* NULL: a tensor in a file */
    bool linear;              /* selected unless excluded; others only by --include */
    bool head;                /* the output head: float unless asked for */
    const char *why_not;      /* why a tensor that is not `linear` is left: "an embedding" */
} nib_candidate;

/* The config that the first matching rule gives, or NULL with *why_left set to a constant. */
const nib_config *nib_selection_config(const nib_selection *selection, const nib_candidate *c,
                                       const char **why_left);
#endif
