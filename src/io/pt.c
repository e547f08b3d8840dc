#include "io/pt.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/text_util.h"
#include "io/pt_globals.h"
#include "io/pt_tensors.h"
#include "io/zip.h"
#include "tensor/dtype.h"

enum { GLOBALS = sizeof nib_pt_globals / sizeof *nib_pt_globals };

/* The number 0x1950a86a20f9469cfc6c, pickled: how the old layout begins, behind the protocol and,
 * from protocol 4 on, the length of a frame. */
static const unsigned char magic[] = {0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9,
                                      0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};

static bool is_legacy(const unsigned char *b, size_t size) {
    const size_t at = size > 2 && b[2] == 0x95 ? 2 + 9 : 2;
    return size >= at + sizeof magic && b[0] == 0x80 && memcmp(b + at, magic, sizeof magic) == 0;
}

bool nib_pt_looks_like(const void *bytes, size_t size) {
    return nib_zip_looks_like(bytes, size) || is_legacy(bytes, size);
}

bool nib_pt_is_name(const char *name) {
    return nib_text_ends(name, ".pt") || nib_text_ends(name, ".pth") || nib_text_ends(name, ".bin");
}

static nib_status wrong(const nib_source *source, nib_status status, size_t at, const char *what) {
    NIB_RAISE(status, "%s", what);
    return nib_error_at(source->path, NULL, (int64_t)at);
}

/* ---- the zip layout ---- */
typedef struct archive {
    nib_zip zip;
    char *prefix; /* "NAME/", with room for "data/KEY" behind it */
    size_t prefix_length;
} archive;
enum { KEY_ROOM = 64 };

static nib_status locate_in_zip(void *user, const nib_pickle *p, nib_pt_storage *storage) {
    archive *a = user;
    char *name = a->prefix + a->prefix_length;
    if (storage->key_length > KEY_ROOM - 8 ||
        memchr(storage->key, '\0', storage->key_length) != NULL)
        return nib_pickle_wrong(p, NIB_E_FORMAT, &storage->from, "not a key of a storage");
    memcpy(name, "data/", 5);
    memcpy(name + 5, storage->key, storage->key_length);
    name[5 + storage->key_length] = '\0';
    const nib_zip_entry *entry = nib_zip_find(&a->zip, a->prefix);
    char what[200];
    nib_text text = {.mem = a->zip.mem};
    if (entry && !entry->deflated && entry->size == storage->size) {
        storage->offset = entry->offset;
        return NIB_OK;
    }
    const bool plain = nib_utf8_valid(name, strlen(name)) == strlen(name);
    if (!entry)
        nib_text_format(&text, "the archive has no \"%s\"", plain ? name : "?");
    else if (entry->deflated)
        nib_text_format(&text, "\"%s\" is compressed; torch.save stores it, zip -0 does too",
                        plain ? name : "?");
    else
        nib_text_format(&text, "a storage of %zu bytes, but \"%s\" has %zu", storage->size,
                        plain ? name : "?", entry->size);
    const size_t n = text.length < sizeof what ? text.length : sizeof what - 1;
    if (text.data) memcpy(what, text.data, n);
    what[text.data ? n : 0] = '\0';
    const bool failed = text.failed;
    nib_text_free(&text);
    return failed ? NIB_E_MEMORY : nib_pickle_wrong(p, NIB_E_FORMAT, &storage->from, what);
}

/* NAME/data.pkl: the only entry of that name one folder down. */
static const nib_zip_entry *find_pickle(const nib_zip *zip) {
    for (size_t i = 0; i < zip->count; i++) {
        const char *slash = strchr(zip->entries[i].name, '/');
        if (slash && strcmp(slash, "/data.pkl") == 0) return &zip->entries[i];
    }
    return NULL;
}

static nib_status check_byte_order(archive *a, const nib_source *source) {
    char order[8] = {0};
    memcpy(a->prefix + a->prefix_length, "byteorder", 10);
    const nib_zip_entry *entry = nib_zip_find(&a->zip, a->prefix);
    if (!entry || entry->size >= sizeof order) return NIB_OK;
    NIB_TRY(nib_zip_unpack(&a->zip, source, entry, order));
    if (strcmp(order, "little") == 0) return NIB_OK;
    return wrong(source, NIB_E_UNSUPPORTED, entry->offset,
                 "written on a big-endian machine; save it anew on a little-endian one");
}

static nib_status read_archive(archive *a, const nib_source *source, nib_tensor_file *file) {
    NIB_TRY(nib_zip_read(file->mem, source, &a->zip));
    const nib_zip_entry *entry = find_pickle(&a->zip);
    if (!entry)
        return wrong(source, NIB_E_FORMAT, 0,
                     "a zip archive, but none of torch.save: it has no folder with a data.pkl");
    a->prefix_length = strlen(entry->name) - strlen("data.pkl");
    a->prefix = nib_mem_alloc(file->mem, a->prefix_length + KEY_ROOM);
    if (!a->prefix) return NIB_E_MEMORY;
    memcpy(a->prefix, entry->name, a->prefix_length);
    memcpy(a->prefix + a->prefix_length, "constants.pkl", 14);
    if (nib_zip_find(&a->zip, a->prefix))
        return wrong(source, NIB_E_UNSUPPORTED, entry->offset,
                     "an archive of torch.jit; save model.state_dict() with torch.save");
    NIB_TRY(check_byte_order(a, source));
    unsigned char *bytes = nib_zip_load(&a->zip, source, entry, NIB_PICKLE_MAX);
    if (!bytes) return nib_last_error()->status;
    nib_pickle p = {.mem = file->mem,
                    .path = source->path,
                    .entry = "data.pkl",
                    .base = entry->offset,
                    .bytes = bytes,
                    .size = entry->size,
                    .globals = nib_pt_globals,
                    .global_count = GLOBALS};
    nib_status status = nib_pickle_read(&p);
    if (status >= NIB_OK) status = nib_pt_collect(&p, locate_in_zip, a, file);
    nib_pickle_free(&p);
    nib_mem_free(file->mem, bytes, entry->size);
    return status;
}

static nib_status read_zip(const nib_source *source, nib_tensor_file *file) {
    archive a = {.zip = {.mem = file->mem}};
    const nib_status status = read_archive(&a, source, file);
    nib_mem_free(file->mem, a.prefix, a.prefix ? a.prefix_length + KEY_ROOM : 0);
    nib_zip_free(&a.zip);
    return status;
}

/* ---- the old layout ---- */
typedef struct place { /* a storage: its key in the pickle, where it lies */
    const char *key;
    size_t length, size, offset;
    nib_dtype dtype;
} place;

typedef struct legacy {
    const nib_source *source;
    nib_mem *mem;
    const unsigned char *bytes; /* the file's beginning, all pickles in it */
    size_t size, at;
    nib_pickle object, keys;
    place *places; /* by key */
    size_t count;
} legacy;

static int by_key(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->length != y->length) return x->length < y->length ? -1 : 1;
    return memcmp(x->key, y->key, x->length);
}

static place *find_place(const legacy *l, const char *key, size_t length) {
    const place wanted = {.key = key, .length = length};
    return l->count ? bsearch(&wanted, l->places, l->count, sizeof *l->places, by_key) : NULL;
}

static nib_status locate_in_stream(void *user, const nib_pickle *p, nib_pt_storage *storage) {
    const place *found = find_place(user, storage->key, storage->key_length);
    if (!found)
        return nib_pickle_wrong(p, NIB_E_FORMAT, &storage->from,
                                "a storage that is not among the file's keys");
    if (found->size != storage->size)
        return nib_pickle_wrong(p, NIB_E_FORMAT, &storage->from,
                                "a storage whose sizes contradict each other");
    storage->offset = found->offset;
    return NIB_OK;
}

/* The next pickle of the file. */
static nib_status next_pickle(legacy *l, nib_pickle *p) {
    *p = (nib_pickle){.mem = l->mem,
                      .path = l->source->path,
                      .base = l->at,
                      .bytes = l->bytes + l->at,
                      .size = l->size - l->at,
                      .globals = nib_pt_globals,
                      .global_count = GLOBALS};
    NIB_TRY(nib_pickle_read(p));
    l->at += p->used;
    return NIB_OK;
}

static nib_status check_version(legacy *l) {
    nib_pickle p;
    nib_status status = next_pickle(l, &p); /* the magic number, seen before */
    nib_pickle_free(&p);
    NIB_TRY(status);
    status = next_pickle(l, &p);
    if (status >= NIB_OK) {
        const nib_pickle_value *v = &p.values[p.root];
        if (v->kind != NIB_PICKLE_INT || v->as.integer != 1001)
            status = nib_pickle_wrong(&p, NIB_E_UNSUPPORTED, v, "not version 1001 of torch.save");
    }
    nib_pickle_free(&p);
    return status;
}

/* {"protocol_version": 1001, "little_endian": True, "type_sizes": {...}} */
static nib_status check_system(legacy *l) {
    static const char name[] = "little_endian";
    nib_pickle p;
    nib_status status = next_pickle(l, &p);
    const nib_pickle_value *v = status >= NIB_OK ? &p.values[p.root] : NULL;
    if (v && v->kind != NIB_PICKLE_DICT)
        status = nib_pickle_wrong(&p, NIB_E_FORMAT, v, "the writer's sizes are no dict");
    for (uint32_t i = 0; status >= NIB_OK && i + 1 < v->as.many.count; i += 2) {
        const nib_pickle_value *key = nib_pickle_item(&p, v, i),
                               *said = nib_pickle_item(&p, v, i + 1);
        if (key->kind != NIB_PICKLE_TEXT || key->as.text.length != sizeof name - 1) continue;
        if (memcmp(nib_pickle_text(&p, key), name, sizeof name - 1) != 0) continue;
        if (said->kind != NIB_PICKLE_BOOL || !said->as.integer)
            status = nib_pickle_wrong(&p, NIB_E_UNSUPPORTED, v,
                                      "written on a big-endian machine; save it anew on a "
                                      "little-endian one");
    }
    nib_pickle_free(&p);
    return status;
}

/* What the object's persistent ids say of the storages of the list of keys. */
static nib_status describe_places(legacy *l) {
    const nib_pickle *p = &l->object;
    for (size_t i = 0; i < p->count; i++) {
        if (p->values[i].kind != NIB_PICKLE_PERSISTENT) continue;
        nib_pt_storage storage;
        size_t view, size;
        NIB_TRY(nib_pt_storage_of(p, &p->values[i], &storage, &view, &size));
        place *found = find_place(l, storage.key, storage.key_length);
        if (!found || (found->dtype && found->size == storage.size)) continue;
        if (found->dtype)
            return nib_pickle_wrong(p, NIB_E_FORMAT, &storage.from,
                                    "a storage whose sizes contradict each other");
        found->dtype = storage.dtype ? storage.dtype : NIB_U8;
        found->size = storage.size;
    }
    return NIB_OK;
}

static nib_status make_places(legacy *l, const nib_pickle_value *list) {
    const nib_pickle *p = &l->keys;
    if (list->kind != NIB_PICKLE_LIST)
        return nib_pickle_wrong(p, NIB_E_FORMAT, list, "the keys of storages are no list");
    l->places = nib_mem_alloc_array(l->mem, list->as.many.count, sizeof *l->places);
    if (!l->places) return NIB_E_MEMORY;
    l->count = list->as.many.count;
    for (uint32_t i = 0; i < list->as.many.count; i++) {
        const nib_pickle_value *key = nib_pickle_item(p, list, i);
        if (key->kind != NIB_PICKLE_TEXT)
            return nib_pickle_wrong(p, NIB_E_FORMAT, key, "a key of a storage is no text");
        l->places[i] = (place){.key = nib_pickle_text(p, key), .length = key->as.text.length};
    }
    if (l->count) qsort(l->places, l->count, sizeof *l->places, by_key);
    for (size_t i = 1; i < l->count; i++)
        if (by_key(&l->places[i - 1], &l->places[i]) == 0)
            return nib_pickle_wrong(p, NIB_E_FORMAT, list, "two storages have one key");
    return describe_places(l);
}

/* Behind the pickles: for each key its number of elements in 8 bytes, then the elements. */
static nib_status place_storages(legacy *l, const nib_pickle_value *list) {
    size_t at = l->at;
    for (uint32_t i = 0; i < list->as.many.count; i++) {
        const nib_pickle_value *key = nib_pickle_item(&l->keys, list, i);
        place *found = find_place(l, nib_pickle_text(&l->keys, key), key->as.text.length);
        unsigned char b[8];
        uint64_t count = 0;
        if (!found->dtype)
            return nib_pickle_wrong(&l->keys, NIB_E_FORMAT, key,
                                    "a storage that no tensor tells the dtype of");
        if (l->source->size - at < 8)
            return wrong(l->source, NIB_E_FORMAT, l->source->size,
                         "the file is cut short: a storage is missing");
        NIB_TRY(nib_source_read(l->source, b, 8, at));
        for (int k = 7; k >= 0; k--) count = count << 8 | b[k];
        const size_t width = (size_t)nib_dtype_bits(found->dtype) / 8;
        if (count != found->size / width)
            return wrong(l->source, NIB_E_FORMAT, at,
                         "a storage has another number of elements than its tensors say");
        if (l->source->size - at - 8 < found->size)
            return wrong(l->source, NIB_E_FORMAT, l->source->size,
                         "the file is cut short: it ends within a storage");
        found->offset = at + 8;
        at += 8 + found->size;
    }
    if (at == l->source->size) return NIB_OK;
    return wrong(l->source, NIB_E_FORMAT, at, "the file has bytes behind its last storage");
}

static nib_status read_stream(legacy *l, nib_tensor_file *file) {
    NIB_TRY(check_version(l));
    NIB_TRY(check_system(l));
    NIB_TRY(next_pickle(l, &l->object));
    NIB_TRY(next_pickle(l, &l->keys));
    const nib_pickle_value *list = &l->keys.values[l->keys.root];
    NIB_TRY(make_places(l, list));
    NIB_TRY(place_storages(l, list));
    return nib_pt_collect(&l->object, locate_in_stream, l, file);
}

/* The pickles' end shows only by reading them: of a mapped file no more is touched than they have.
 */
static nib_status read_legacy(const nib_source *source, nib_tensor_file *file) {
    legacy l = {.source = source, .mem = file->mem, .bytes = source->bytes, .size = source->size};
    nib_map map = {0};
    l.object.mem = l.keys.mem = file->mem;
    nib_status status = source->file ? nib_file_map(source->file, &map) : NIB_OK;
    if (source->file) l.bytes = map.data;
    if (status >= NIB_OK) status = read_stream(&l, file);
    nib_mem_free(file->mem, l.places, l.count * sizeof *l.places);
    nib_pickle_free(&l.object);
    nib_pickle_free(&l.keys);
    nib_map_close(&map);
    return status;
}

/* ---- either ---- */
static nib_status read_any(const nib_source *source, nib_tensor_file *file) {
    unsigned char first[32] = {0};
    const size_t size = source->size < sizeof first ? source->size : sizeof first;
    NIB_TRY(nib_source_read(source, first, size, 0));
    if (nib_zip_looks_like(first, size)) return read_zip(source, file);
    if (is_legacy(first, size)) return read_legacy(source, file);
    return wrong(source, NIB_E_FORMAT, 0,
                 "not a file of torch.save: neither a zip archive nor its older layout");
}

static nib_tensor_file *parse(nib_mem *mem, const nib_source *source) {
    nib_tensor_file *file = nib_mem_alloc_zero(mem, sizeof *file);
    if (!file) return NULL;
    file->mem = mem;
    if (read_any(source, file) >= NIB_OK && nib_tensor_file_index(file, source->path) >= NIB_OK)
        return file;
    nib_tensor_file_close(file);
    nib_error_at(source->path, NULL, -1);
    return NULL;
}

nib_tensor_file *nib_pt_parse(nib_mem *mem, const char *path, const void *bytes, size_t size) {
    const nib_source source = {.path = path, .bytes = bytes, .size = size};
    return parse(mem, &source);
}

nib_tensor_file *nib_pt_open(nib_mem *mem, const char *path) {
    nib_file open;
    NIB_TRY_NULL(nib_file_open(mem, path, &open));
    const nib_source source = {.path = path, .file = &open, .size = open.size};
    nib_tensor_file *file = parse(mem, &source);
    if (!file) {
        nib_file_close(&open);
        return NULL;
    }
    file->file = open;
    /* single elements of views are looked up in the map */
    if (!file->strides_count || nib_file_map(&file->file, &file->map) >= NIB_OK) return file;
    nib_tensor_file_close(file);
    return NULL;
}
