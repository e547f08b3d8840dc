/* kinds.h: the parts of a tokenizer.json that come in kinds: {"type": "NFC", ...}. */
#ifndef NIB_TEXT_KINDS_H
#define NIB_TEXT_KINDS_H
#include "base/json.h"
#include "base/mem.h"

typedef struct nib_kind {
    const char *name;
    nib_status (*read)(void *self, const json_t *object); /* add it to what `self` collects */
} nib_kind;

/* Read a part, taking apart each {"type": "Sequence", list_key: [...]}, in order. A null adds
 * nothing. Fails: NIB_E_UNSUPPORTED naming a kind that is not in `kinds`, which ends with a NULL
 * name; NIB_E_FORMAT for what is no kind at all. `part` names it all in errors. */
nib_status nib_kinds_read(const char *part, const char *list_key, const nib_kind *kinds,
                          const json_t *object, void *self);

/* Room for one more of `size` bytes in a list that stays as it is once loaded. */
nib_status nib_kinds_grow(nib_mem *mem, void **items, size_t count, size_t size);

/* {"String": "..."} or {"Regex": "..."} at `key`. */
struct nib_pattern;
nib_status nib_kinds_pattern(nib_mem *mem, const json_t *object, const char *key,
                             struct nib_pattern **pattern);
#endif
