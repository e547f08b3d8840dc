#include "io/pt_tensors.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/text_util.h"
#include "io/pt_globals.h"
#include "tensor/dtype.h"

enum {
    MAX_DEPTH = 32,           /* of dicts within dicts: a trainer's file has 5 */
    MAX_NAME = 1024,          /* bytes of a dotted name */
    MAX_REPEATED = 256 << 20, /* bytes that a view may make of fewer by repeating them */
};

static nib_status wrong(const nib_pickle *p, const nib_pickle_value *v, const char *what) {
    return nib_pickle_wrong(p, NIB_E_FORMAT, v, what);
}

/* The table's entry of a global; NULL for another value. */
static const nib_pickle_global *global_of(const nib_pickle *p, const nib_pickle_value *v) {
    return v->kind == NIB_PICKLE_GLOBAL ? &p->globals[v->as.integer] : NULL;
}
static bool is_global(const nib_pickle *p, const nib_pickle_value *v, int what) {
    const nib_pickle_global *g = global_of(p, v);
    return g && g->what == what;
}

static bool is_text(const nib_pickle *p, const nib_pickle_value *v, const char *text) {
    return v->kind == NIB_PICKLE_TEXT && v->as.text.length == strlen(text) &&
           memcmp(nib_pickle_text(p, v), text, strlen(text)) == 0;
}

/* A text that can be a C string: UTF-8 without zero bytes. */
static bool is_clean(const nib_pickle *p, const nib_pickle_value *v) {
    if (v->kind != NIB_PICKLE_TEXT) return false;
    const char *text = nib_pickle_text(p, v);
    const size_t length = v->as.text.length;
    return nib_utf8_valid(text, length) == length && !memchr(text, '\0', length);
}

/* ---- storages ---- */
nib_status nib_pt_storage_of(const nib_pickle *p, const nib_pickle_value *id,
                             nib_pt_storage *storage, size_t *view, size_t *size) {
    const nib_pickle_value *tuple =
        id->kind == NIB_PICKLE_PERSISTENT ? nib_pickle_item(p, id, 0) : NULL;
    if (!tuple) return wrong(p, id, "a tensor's storage is not there");
    if (tuple->kind != NIB_PICKLE_TUPLE || tuple->as.many.count < 5 || tuple->as.many.count > 6)
        return wrong(p, id, "a storage is not described by a tuple of 5");
    const nib_pickle_value *word = nib_pickle_item(p, tuple, 0),
                           *class = nib_pickle_item(p, tuple, 1),
                           *key = nib_pickle_item(p, tuple, 2),
                           *numel = nib_pickle_item(p, tuple, 4);
    const nib_pickle_global *g = global_of(p, class);
    if (!is_text(p, word, "storage")) return wrong(p, id, "a persistent id that is no storage");
    if (!g || g->what != NIB_PT_STORAGE) return wrong(p, id, "a storage of no known class");
    if (key->kind != NIB_PICKLE_TEXT || numel->kind != NIB_PICKLE_INT || numel->as.integer < 0)
        return wrong(p, id, "a storage without a key or a number of elements");
    *storage = (nib_pt_storage){.key = nib_pickle_text(p, key),
                                .key_length = key->as.text.length,
                                .dtype = (nib_dtype)g->about,
                                .from = *id};
    const size_t width = g->about ? (size_t)nib_dtype_bits((nib_dtype)g->about) / 8 : 1;
    if (nib_mul_size((size_t)numel->as.integer, width, &storage->size))
        return wrong(p, id, "the storage's number of elements overflows");
    *view = 0;
    *size = storage->size;
    const nib_pickle_value *about = tuple->as.many.count == 6 ? nib_pickle_item(p, tuple, 5) : NULL;
    if (!about || about->kind == NIB_PICKLE_NONE) return NIB_OK;
    /* a view of the legacy layout: its key, first element, number of elements */
    if (about->kind != NIB_PICKLE_TUPLE || about->as.many.count != 3)
        return wrong(p, id, "a view of a storage is not described by a tuple of 3");
    const nib_pickle_value *first = nib_pickle_item(p, about, 1),
                           *count = nib_pickle_item(p, about, 2);
    size_t end;
    if (first->kind != NIB_PICKLE_INT || count->kind != NIB_PICKLE_INT || first->as.integer < 0 ||
        count->as.integer < 0 || nib_mul_size((size_t)first->as.integer, width, view) ||
        nib_mul_size((size_t)count->as.integer, width, size) || nib_add_size(*view, *size, &end) ||
        end > storage->size)
        return wrong(p, id, "a view lies outside of its storage");
    return NIB_OK;
}

/* ---- one tensor ---- */
/* The walk runs twice: once to check and count, once to fill what was then made of that size. */
typedef struct collector {
    const nib_pickle *p;
    nib_pt_locate locate;
    void *user;
    nib_tensor_file *file;
    bool fill;
    nib_text name;                              /* of where the walk is */
    size_t tensors, pairs, strides, names_used; /* so far; names with their zeros, in bytes */
    size_t visits;                              /* containers walked into */
} collector;

/* A tuple of sizes or strides, or a torch.Size of one. */
static nib_status counts_of(const nib_pickle *p, const nib_pickle_value *v, int64_t *counts,
                            int *n) {
    if (v->kind == NIB_PICKLE_CALL && is_global(p, nib_pickle_item(p, v, 0), NIB_PT_SIZE)) {
        const nib_pickle_value *arguments = nib_pickle_item(p, v, 1);
        if (arguments->as.many.count != 1) return wrong(p, v, "a size that is not one tuple");
        v = nib_pickle_item(p, arguments, 0);
    }
    if (v->kind != NIB_PICKLE_TUPLE && v->kind != NIB_PICKLE_LIST)
        return wrong(p, v, "a tensor's size or stride is no tuple");
    if (v->as.many.count > NIB_MAX_DIMS)
        return nib_pickle_wrong(p, NIB_E_UNSUPPORTED, v, "a tensor of more than 8 dimensions");
    *n = (int)v->as.many.count;
    for (int i = 0; i < *n; i++) {
        const nib_pickle_value *item = nib_pickle_item(p, v, (uint32_t)i);
        if (item->kind != NIB_PICKLE_INT || item->as.integer < 0)
            return wrong(p, v, "a tensor's size or stride is no number from 0 on");
        counts[i] = item->as.integer;
    }
    return NIB_OK;
}

/* Do the strides run through the elements one after the other? Those of a dimension of 1 say
 * nothing. */
static bool is_dense(const nib_shape *shape, const int64_t *stride) {
    int64_t wanted = 1;
    for (int d = shape->ndim - 1; d >= 0; d--) {
        if (shape->dim[d] != 1 && stride[d] != wanted) return false;
        wanted *= shape->dim[d];
    }
    return true;
}

/* Elements from the first to the last, both counted; true: overflow. */
static bool reach_of(const nib_shape *shape, const int64_t *stride, int64_t *reach) {
    *reach = 1;
    for (int d = 0; d < shape->ndim; d++) {
        int64_t step;
        if (shape->dim[d] == 0) {
            *reach = 0;
            return false;
        }
        if (nib_mul_count(shape->dim[d] - 1, stride[d], &step) || nib_add_i64(*reach, step, reach))
            return true;
    }
    return false;
}

/* The arguments of a rebuilding function as an entry. */
static nib_status rebuild(collector *c, const nib_pickle_value *call,
                          const nib_pickle_value *arguments, bool v3, nib_tensor_entry *entry) {
    const nib_pickle *p = c->p;
    if (arguments->kind != NIB_PICKLE_TUPLE || arguments->as.many.count < (v3 ? 7U : 4U))
        return wrong(p, call, "a tensor of too few arguments");
    nib_pt_storage storage;
    size_t view, size, begin, end, reach_bytes;
    NIB_TRY(nib_pt_storage_of(p, nib_pickle_item(p, arguments, 0), &storage, &view, &size));
    entry->dtype = storage.dtype;
    if (v3 || !storage.dtype) {
        const nib_pickle_global *g = v3 ? global_of(p, nib_pickle_item(p, arguments, 6)) : NULL;
        if (!g || g->what != NIB_PT_DTYPE) return wrong(p, call, "a tensor without a dtype");
        entry->dtype = (nib_dtype)g->about;
        if (!entry->dtype)
            return nib_pickle_wrong(p, NIB_E_UNSUPPORTED, call, "a tensor of complex128");
    }
    const nib_pickle_value *first = nib_pickle_item(p, arguments, 1);
    int64_t stride[NIB_MAX_DIMS] = {0}, count, reach;
    int nstride = 0;
    if (first->kind != NIB_PICKLE_INT || first->as.integer < 0)
        return wrong(p, call, "a tensor's offset is no number from 0 on");
    NIB_TRY(counts_of(p, nib_pickle_item(p, arguments, 2), entry->shape.dim, &entry->shape.ndim));
    NIB_TRY(counts_of(p, nib_pickle_item(p, arguments, 3), stride, &nstride));
    if (nstride != entry->shape.ndim) return wrong(p, call, "a tensor's size and stride differ");
    const size_t width = (size_t)nib_dtype_bits(entry->dtype) / 8;
    if (nib_shape_count(&entry->shape, &count) || reach_of(&entry->shape, stride, &reach) ||
        nib_mul_size((size_t)count, width, &entry->size))
        return wrong(p, call, "the number of elements overflows");
    if (nib_mul_size((size_t)first->as.integer, width, &begin) ||
        nib_mul_size((size_t)reach, width, &reach_bytes) ||
        nib_add_size(begin, reach_bytes, &end) || (count && end > size))
        return wrong(p, call, "a tensor reaches over the end of its storage");
    NIB_TRY(c->locate(c->user, p, &storage));
    entry->offset = storage.offset + view + (count ? begin : 0);
    if (count == 0 || is_dense(&entry->shape, stride)) return NIB_OK;
    if (entry->size > reach_bytes && entry->size > MAX_REPEATED)
        return wrong(p, call, "a view repeats its few bytes over 256 MiB; save a copy of it");
    const size_t n = (size_t)entry->shape.ndim;
    if (c->fill) entry->stride = memcpy(c->file->strides + c->strides, stride, n * sizeof *stride);
    c->strides += n;
    return NIB_OK;
}

/* Is this call a tensor, and which one? */
static nib_status tensor_of(collector *c, const nib_pickle_value *call, nib_tensor_entry *entry,
                            bool *is_tensor) {
    const nib_pickle *p = c->p;
    const nib_pickle_value *callee = nib_pickle_item(p, call, 0),
                           *arguments = nib_pickle_item(p, call, 1);
    *is_tensor = true;
    for (int depth = 0; depth < 4; depth++) { /* a parameter of a subclass of a tensor */
        const nib_pickle_global *g = global_of(p, callee);
        const uint32_t count = arguments->as.many.count;
        switch (g ? g->what : NIB_PT_UNSUPPORTED) {
        case NIB_PT_REBUILD:
        case NIB_PT_REBUILD_V3:
            return rebuild(c, call, arguments, g->what == NIB_PT_REBUILD_V3, entry);
        case NIB_PT_PARAMETER:
            if (!count) return wrong(p, call, "a parameter of nothing");
            call = nib_pickle_item(p, arguments, 0);
            if (call->kind != NIB_PICKLE_CALL)
                return wrong(p, call, "a parameter of something that is no tensor");
            callee = nib_pickle_item(p, call, 0);
            arguments = nib_pickle_item(p, call, 1);
            break;
        case NIB_PT_FROM_TYPE:
            if (count < 3 || nib_pickle_item(p, arguments, 2)->kind != NIB_PICKLE_TUPLE)
                return wrong(p, call, "a tensor of a subclass without its arguments");
            callee = nib_pickle_item(p, arguments, 0);
            arguments = nib_pickle_item(p, arguments, 2);
            break;
        case NIB_PT_SIZE:
        case NIB_PT_OTHER:
            *is_tensor = false;
            return NIB_OK;
        default: {
            char what[160];
            snprintf(what, sizeof what, "a tensor made by %.60s is not read: dense tensors only",
                     g ? g->name : "no known function");
            return nib_pickle_wrong(p, NIB_E_UNSUPPORTED, call, what);
        }
        }
    }
    return wrong(p, call, "a parameter of a parameter of a parameter");
}

/* ---- the walk ---- */
/* A copy of a text among file->names. A pickle can name one text by two bytes any number of times:
 * what that may grow to is bounded. */
static nib_status keep_text(collector *c, const nib_pickle_value *v, const char *text,
                            size_t length, const char **kept) {
    if (c->names_used + length + 1 > 16 * c->p->used + 4096)
        return wrong(c->p, v, "the same long texts are there over and over");
    if (c->fill) {
        char *to = c->file->names + c->names_used;
        if (length) memcpy(to, text, length);
        to[length] = '\0';
        *kept = to;
    }
    c->names_used += length + 1;
    return NIB_OK;
}

static nib_status keep_name(collector *c, const nib_pickle_value *v, const char **kept) {
    if (c->name.length > MAX_NAME) return wrong(c->p, v, "a name of over 1024 bytes");
    return keep_text(c, v, c->name.data, c->name.length, kept);
}

static nib_status add_tensor(collector *c, const nib_pickle_value *v) {
    nib_tensor_entry entry = {.header_offset = c->p->base + v->at};
    bool is_tensor;
    NIB_TRY(tensor_of(c, v, &entry, &is_tensor));
    if (!is_tensor) return NIB_OK;
    NIB_TRY(keep_name(c, v, &entry.name));
    if (c->fill) c->file->entries[c->tensors] = entry;
    c->tensors++;
    return NIB_OK;
}

/* Numbers and texts beside tensors: "epoch" is "3". */
static nib_status add_scalar(collector *c, const nib_pickle_value *v) {
    char number[40];
    const char *text = number;
    size_t length;
    if (v->kind == NIB_PICKLE_TEXT) {
        text = nib_pickle_text(c->p, v);
        length = v->as.text.length;
        if (length > MAX_NAME || !is_clean(c->p, v)) return NIB_OK; /* not worth keeping */
    } else if (v->kind == NIB_PICKLE_FLOAT) {
        length = (size_t)snprintf(number, sizeof number, "%.17g", v->as.number);
    } else if (v->kind == NIB_PICKLE_BOOL) {
        length = (size_t)snprintf(number, sizeof number, v->as.integer ? "true" : "false");
    } else {
        length = (size_t)snprintf(number, sizeof number, "%lld", (long long)v->as.integer);
    }
    nib_tensor_pair pair;
    NIB_TRY(keep_name(c, v, &pair.key));
    NIB_TRY(keep_text(c, v, text, length, &pair.value));
    if (c->fill) c->file->metadata[c->pairs] = pair;
    c->pairs++;
    return NIB_OK;
}

/* What the table is made of; everything else (None, bytes, sets, dtypes) is passed over. */
static bool is_container(const nib_pickle_value *v) {
    return v->kind == NIB_PICKLE_DICT || v->kind == NIB_PICKLE_LIST || v->kind == NIB_PICKLE_TUPLE;
}
static bool is_scalar(const nib_pickle_value *v) {
    return v->kind == NIB_PICKLE_BOOL || v->kind == NIB_PICKLE_INT || v->kind == NIB_PICKLE_FLOAT ||
           v->kind == NIB_PICKLE_TEXT;
}

static nib_status add_leaf(collector *c, const nib_pickle_value *v) {
    if (v->kind == NIB_PICKLE_CALL) return add_tensor(c, v);
    if (v->kind == NIB_PICKLE_PERSISTENT)
        return nib_pickle_wrong(c->p, NIB_E_UNSUPPORTED, v, "a storage that is in no tensor");
    return add_scalar(c, v);
}

/* Append the name of a container's item to the name of the container. */
static nib_status enter_name(collector *c, const nib_pickle_value *key, uint32_t index) {
    if (c->name.length) nib_text_add(&c->name, ".");
    if (!key) {
        nib_text_format(&c->name, "%u", index);
    } else if (key->kind == NIB_PICKLE_INT) {
        nib_text_format(&c->name, "%lld", (long long)key->as.integer);
    } else if (key->kind == NIB_PICKLE_TEXT) {
        const char *text = nib_pickle_text(c->p, key);
        const size_t length = key->as.text.length;
        if (!is_clean(c->p, key)) return wrong(c->p, key, "a name that is not UTF-8");
        if (length > MAX_NAME) return wrong(c->p, key, "a name of over 1024 bytes");
        nib_text_append(&c->name, text, length);
    } else {
        return wrong(c->p, key, "a dict whose keys are neither texts nor numbers");
    }
    return c->name.failed ? NIB_E_MEMORY : NIB_OK;
}

typedef struct level {
    const nib_pickle_value *container;
    uint32_t next;      /* item */
    size_t name_length; /* of the container's own */
} level;

/* Go into a container, unless it is one that the walk is in already. */
static nib_status enter(collector *c, level *levels, int *depth, const nib_pickle_value *v) {
    for (int i = 0; i < *depth; i++)
        if (levels[i].container == v) return wrong(c->p, v, "a container that contains itself");
    if (*depth == MAX_DEPTH) return wrong(c->p, v, "containers nested deeper than 32");
    if (++c->visits > c->p->used)
        return wrong(c->p, v, "the same containers are there over and over");
    levels[(*depth)++] = (level){v, 0, c->name.length};
    return NIB_OK;
}

static nib_status walk(collector *c) {
    const nib_pickle_value *root = &c->p->values[c->p->root];
    level levels[MAX_DEPTH];
    int depth = 0;
    c->name.length = 0;
    if (!is_container(root)) { /* a file of one tensor has no name for it */
        nib_text_add(&c->name, "tensor");
        return c->name.failed ? NIB_E_MEMORY : add_leaf(c, root);
    }
    NIB_TRY(enter(c, levels, &depth, root));
    while (depth) {
        level *l = &levels[depth - 1];
        const bool dict = l->container->kind == NIB_PICKLE_DICT;
        c->name.length = l->name_length;
        if (l->next == l->container->as.many.count) {
            depth--;
            continue;
        }
        const uint32_t i = l->next;
        l->next += dict ? 2 : 1;
        const nib_pickle_value *v = nib_pickle_item(c->p, l->container, dict ? i + 1 : i);
        /* numbers are kept as metadata where they stand beside the tensors of a whole file */
        if (is_scalar(v) ? depth > 1 || !dict
                         : !is_container(v) && v->kind != NIB_PICKLE_CALL &&
                               v->kind != NIB_PICKLE_PERSISTENT)
            continue;
        NIB_TRY(enter_name(c, dict ? nib_pickle_item(c->p, l->container, i) : NULL, i));
        NIB_TRY(is_container(v) ? enter(c, levels, &depth, v) : add_leaf(c, v));
    }
    return NIB_OK;
}

/* The attribute "metadata" of the root, a dict of texts, as our own writer adds it. */
static nib_status add_metadata(collector *c) {
    const nib_pickle *p = c->p;
    if (!p->has_state || p->state_of != p->root) return NIB_OK;
    const nib_pickle_value *state = &p->values[p->state], *pairs = NULL;
    if (state->kind != NIB_PICKLE_DICT) return NIB_OK;
    for (uint32_t i = 0; i + 1 < state->as.many.count; i += 2)
        if (is_text(p, nib_pickle_item(p, state, i), "metadata"))
            pairs = nib_pickle_item(p, state, i + 1);
    if (!pairs || pairs->kind != NIB_PICKLE_DICT) return NIB_OK;
    for (uint32_t i = 0; i + 1 < pairs->as.many.count; i += 2) {
        const nib_pickle_value *key = nib_pickle_item(p, pairs, i),
                               *value = nib_pickle_item(p, pairs, i + 1);
        nib_tensor_pair pair;
        if (!is_clean(p, key) || !is_clean(p, value)) continue;
        NIB_TRY(keep_text(c, key, nib_pickle_text(p, key), key->as.text.length, &pair.key));
        NIB_TRY(keep_text(c, value, nib_pickle_text(p, value), value->as.text.length, &pair.value));
        if (c->fill) c->file->metadata[c->pairs] = pair;
        c->pairs++;
    }
    return NIB_OK;
}

static nib_status walk_all(collector *c) {
    NIB_TRY(walk(c));
    return add_metadata(c);
}

/* Make room for all that the first walk counted. */
static nib_status make_tables(collector *c) {
    nib_tensor_file *file = c->file;
    file->entries = nib_mem_alloc_array(file->mem, c->tensors, sizeof *file->entries);
    if (!file->entries) return NIB_E_MEMORY;
    file->room = c->tensors;
    file->metadata = nib_mem_alloc_array(file->mem, c->pairs, sizeof *file->metadata);
    if (!file->metadata) return NIB_E_MEMORY;
    file->metadata_room = c->pairs;
    file->strides = nib_mem_alloc_array(file->mem, c->strides, sizeof *file->strides);
    if (!file->strides) return NIB_E_MEMORY;
    file->strides_count = c->strides;
    file->names = nib_mem_alloc(file->mem, c->names_used);
    if (!file->names) return NIB_E_MEMORY;
    file->names_size = c->names_used;
    return NIB_OK;
}

nib_status nib_pt_collect(const nib_pickle *p, nib_pt_locate locate, void *user,
                          nib_tensor_file *file) {
    collector c = {
        .p = p, .locate = locate, .user = user, .file = file, .name = {.mem = file->mem}};
    nib_status status = walk_all(&c);
    if (status >= NIB_OK) status = make_tables(&c);
    if (status >= NIB_OK) {
        c.fill = true;
        c.tensors = c.pairs = c.strides = c.names_used = c.visits = 0;
        status = walk_all(&c);
    }
    if (status >= NIB_OK) {
        file->count = c.tensors;
        file->metadata_count = c.pairs;
    } else if (status != NIB_E_MEMORY && c.name.length) {
        nib_error_at(NULL, c.name.data, -1);
    }
    nib_text_free(&c.name);
    return status;
}
