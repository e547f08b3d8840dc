/* pickle.h: what a Python pickle says, as a table of values; nothing of it is ever executed.
 *
 * Protocols 0 to 5, without the opcodes that no state dict needs. A global is a name out of the
 * caller's table, or an error; a call is noted with its arguments, never made, except that a call
 * of a dict's class gives an empty dict to be filled. Values refer to each other by index, so
 * that deep nesting and cycles cost nothing here: who walks them bounds his depth.
 * Opcodes: Lib/pickletools.py of CPython. */
#ifndef NIB_IO_PICKLE_H
#define NIB_IO_PICKLE_H
#include <nibble/nibble.h>

#include "base/mem.h"

enum { NIB_PICKLE_MAX = 32 << 20 }; /* bytes of one pickle; longer ones are refused */

typedef enum nib_pickle_kind {
    NIB_PICKLE_NONE,
    NIB_PICKLE_BOOL, /* integer is 0 or 1 */
    NIB_PICKLE_INT,
    NIB_PICKLE_LONG, /* over 64 bits: text is its little-endian bytes */
    NIB_PICKLE_FLOAT,
    NIB_PICKLE_TEXT,  /* bytes of UTF-8, unchecked; also the byte strings of Python 2 */
    NIB_PICKLE_BYTES, /* bytes and bytearrays */
    NIB_PICKLE_TUPLE,
    NIB_PICKLE_LIST,
    NIB_PICKLE_SET,
    NIB_PICKLE_DICT,       /* items are key, value, key, value ... */
    NIB_PICKLE_GLOBAL,     /* integer is an index into the caller's table */
    NIB_PICKLE_CALL,       /* items are the callee and a tuple of arguments */
    NIB_PICKLE_PERSISTENT, /* one item, the id of something outside the pickle */
} nib_pickle_kind;

typedef struct nib_pickle_value {
    uint32_t kind, at; /* at: byte of the pickle that made it */
    union {
        int64_t integer;
        double number;
        struct {
            uint32_t begin, length; /* in the pickle's bytes */
        } text;
        struct {
            uint32_t first, count, room; /* in pickle->items */
        } many;
    } as;
} nib_pickle_value;

typedef struct nib_pickle_global {
    const char *name; /* "collections.OrderedDict" */
    int what;         /* the caller's own */
    int about;        /* the caller's own */
    bool makes_dict;  /* a call of it gives an empty dict, or one of its list of pairs */
} nib_pickle_global;

typedef struct nib_pickle {
    nib_mem *mem;
    const char *path, *entry;   /* for errors: the file, and what in it ("data.pkl", may be NULL) */
    size_t base;                /* where the pickle begins in the file, for errors */
    const unsigned char *bytes; /* borrowed while the pickle lives */
    size_t size, used;          /* used: bytes up to and with its end */
    const nib_pickle_global *globals;
    size_t global_count;
    nib_pickle_value *values;
    size_t count, room;
    uint32_t *items; /* indices of values */
    size_t item_count, item_room;
    uint32_t *stack;
    size_t height, stack_room;
    uint32_t *marks; /* heights */
    size_t mark_count, mark_room;
    uint32_t *memo; /* index + 1; 0: nothing was put there */
    size_t memo_count, memo_room;
    uint32_t root;
    bool has_state; /* of the value that was given attributes last: */
    uint32_t state_of, state;
} nib_pickle;

/* Set mem, path, entry, base, bytes, size and globals, the rest zero.
 * Fails: NIB_E_FORMAT naming path, entry and byte for what is not a pickle, is cut short, or asks
 * for a global that is not in the table. To be freed in any case. */
nib_status nib_pickle_read(nib_pickle *pickle);
void nib_pickle_free(nib_pickle *pickle);

static inline const nib_pickle_value *nib_pickle_item(const nib_pickle *p,
                                                      const nib_pickle_value *of, uint32_t i) {
    return &p->values[p->items[of->as.many.first + i]];
}
static inline const char *nib_pickle_text(const nib_pickle *p, const nib_pickle_value *v) {
    return (const char *)p->bytes + v->as.text.begin;
}

/* Raise NIB_E_FORMAT (or `status`) at a value: path, entry and byte are said. */
nib_status nib_pickle_wrong(const nib_pickle *p, nib_status status, const nib_pickle_value *v,
                            const char *what);
#endif
