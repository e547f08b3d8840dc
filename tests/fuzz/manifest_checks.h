/* manifest_checks.h: what holds of a manifest that was accepted, whatever said it, and of the error
 * of one that was not. */
#ifndef NIB_TESTS_MANIFEST_CHECKS_H
#define NIB_TESTS_MANIFEST_CHECKS_H
#include <stdio.h>
#include <stdlib.h>

#include "io/manifest.h"
#include "quant/layouts.h"
#include "quant/scheme.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) abort();                                                                 \
    } while (0)

static inline void check_parts(const nib_checkpoint *c, const nib_stored *item) {
    MUST(item->nparts > 0 && item->nparts <= NIB_MAX_PARTS && item->shard < c->shard_count);
    for (int p = 0; p < item->nparts; p++) {
        const nib_checkpoint_tensor *found = nib_checkpoint_find(c, item->parts[p].name);
        MUST(found);
        if (item->layout) MUST(found->entry->size == nib_part_bytes(&item->parts[p].part));
    }
}

static inline void check_config(const nib_config *config) {
    nib_text text = {0};
    nib_config_print(config, &text);
    nib_config *back = nib_config_parse(text.data);
    MUST(back && nib_config_same(config, back));
    nib_config_free(back);
    nib_text_free(&text);
}

static inline void check_refused(void) {
    const nib_error *e = nib_last_error();
    const bool known = e->status == NIB_E_FORMAT || e->status == NIB_E_UNSUPPORTED ||
                       e->status == NIB_E_SHAPE || e->status == NIB_E_DTYPE;
    if (!known) fprintf(stderr, "status %d: %s [%s]\n", (int)e->status, e->what, e->tensor);
    MUST(known && e->what[0]);
}

static inline void check_items(nib_manifest *m, const nib_checkpoint *c) {
    for (size_t i = 0; i < m->count; i++) {
        const nib_stored *item = &m->items[i];
        MUST(nib_manifest_find(m, item->name) == item);
        if (item->config) check_config(item->config);
        if (item->pending) {
            static const nib_shape shapes[] = {{2, {32, 32}}, {2, {16, 32}}, {3, {2, 8, 32}}};
            nib_status status = NIB_E_SHAPE;
            for (int s = 0; s < 3 && status < NIB_OK; s++) {
                status = nib_manifest_resolve(m, c, item, &shapes[s]);
                if (status < NIB_OK) check_refused();
            }
            if (status < NIB_OK) continue;
        }
        check_parts(c, item);
    }
}
#endif
