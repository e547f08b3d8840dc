#include "io/shard_index.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/json_scan.h"
#include "base/path.h"
#include "base/text_util.h"

typedef struct parser {
    nib_scan scan;
    nib_shard_index *index;
    size_t names_used;
} parser;

static nib_status kept_string(parser *p, const char **string) {
    size_t length;
    *string = p->index->names + p->names_used;
    NIB_TRY(nib_scan_string(&p->scan, p->index->names + p->names_used, &length));
    p->names_used += length + 1;
    return NIB_OK;
}

/* The next key, looked at and forgotten; *offset is where it stands. */
static nib_status passing_key(parser *p, const char **key, size_t *offset) {
    const size_t used = p->names_used;
    nib_scan_space(&p->scan);
    *offset = p->scan.base + p->scan.at;
    NIB_TRY(kept_string(p, key));
    p->names_used = used;
    return nib_scan_expect(&p->scan, ':');
}

static nib_status twice(const parser *p, const char *key, size_t offset) {
    NIB_RAISE(NIB_E_FORMAT, "\"%s\" is there twice", key);
    return nib_error_at(p->scan.path, NULL, (int64_t)offset);
}

/* Some writers spell the size as a float, 1024.0. */
static nib_status scan_total(parser *p) {
    nib_scan_space(&p->scan);
    const size_t start = p->scan.at;
    NIB_TRY(nib_scan_skip(&p->scan));
    char number[32];
    const size_t length = p->scan.at - start;
    double value;
    p->index->total_size_offset = p->scan.base + start;
    if (length < sizeof number) {
        memcpy(number, p->scan.text + start, length);
        number[length] = '\0';
        if (nib_text_to_int(number, &p->index->total_size) && p->index->total_size >= 0)
            return NIB_OK;
        if (nib_text_to_double(number, &value) && value >= 0 && value < 9e15 &&
            (double)(int64_t)value == value) {
            p->index->total_size = (int64_t)value;
            return NIB_OK;
        }
    }
    NIB_RAISE(NIB_E_FORMAT, "total_size is no number of bytes");
    return nib_error_at(p->scan.path, NULL, (int64_t)p->index->total_size_offset);
}

static nib_status scan_metadata(parser *p) {
    NIB_TRY(nib_scan_expect(&p->scan, '{'));
    if (nib_scan_take(&p->scan, '}')) return NIB_OK;
    do {
        const char *key;
        size_t offset;
        NIB_TRY(passing_key(p, &key, &offset));
        if (strcmp(key, "total_size") != 0) {
            NIB_TRY(nib_scan_skip(&p->scan));
        } else {
            if (p->index->total_size >= 0) return twice(p, "total_size", offset);
            NIB_TRY(scan_total(p));
        }
    } while (nib_scan_take(&p->scan, ','));
    return nib_scan_expect(&p->scan, '}');
}

static nib_status scan_weight_map(parser *p) {
    nib_shard_index *index = p->index;
    NIB_TRY(nib_scan_expect(&p->scan, '{'));
    if (nib_scan_take(&p->scan, '}')) return NIB_OK;
    do {
        if (index->count == index->room) {
            const size_t room = index->room ? 2 * index->room : 64;
            nib_shard_entry *moved = nib_mem_realloc(
                index->mem, index->entries, index->room * sizeof *moved, room * sizeof *moved);
            if (!moved) return NIB_E_MEMORY;
            index->entries = moved;
            index->room = room;
        }
        nib_shard_entry *entry = &index->entries[index->count];
        nib_scan_space(&p->scan);
        *entry = (nib_shard_entry){.offset = p->scan.base + p->scan.at};
        NIB_TRY(kept_string(p, &entry->name));
        nib_status status = nib_scan_expect(&p->scan, ':');
        if (status == NIB_OK) status = kept_string(p, &entry->file);
        if (status == NIB_OK &&
            (!nib_path_is_plain(entry->file) ||
             !(nib_text_ends(entry->file, ".safetensors") || nib_text_ends(entry->file, ".bin"))))
            status = NIB_RAISE(NIB_E_FORMAT,
                               "\"%.100s\" is no plain name of a .safetensors or .bin file",
                               entry->file);
        if (status < NIB_OK) return nib_error_at(p->scan.path, entry->name, (int64_t)entry->offset);
        index->count++;
    } while (nib_scan_take(&p->scan, ','));
    return nib_scan_expect(&p->scan, '}');
}

static nib_status scan_index(parser *p) {
    bool had_metadata = false, had_map = false;
    NIB_TRY(nib_scan_expect(&p->scan, '{'));
    bool more = !nib_scan_take(&p->scan, '}');
    while (more) {
        const char *key;
        size_t offset;
        NIB_TRY(passing_key(p, &key, &offset));
        const bool metadata = strcmp(key, "metadata") == 0, map = strcmp(key, "weight_map") == 0;
        if ((metadata && had_metadata) || (map && had_map)) return twice(p, key, offset);
        had_metadata |= metadata;
        had_map |= map;
        NIB_TRY(metadata ? scan_metadata(p) : map ? scan_weight_map(p) : nib_scan_skip(&p->scan));
        more = nib_scan_take(&p->scan, ',');
        if (!more) NIB_TRY(nib_scan_expect(&p->scan, '}'));
    }
    nib_scan_space(&p->scan);
    if (p->scan.at < p->scan.length)
        return nib_scan_unexpected(&p->scan, "nothing behind the last '}'");
    if (had_map && p->index->count) return NIB_OK;
    return NIB_RAISE(NIB_E_FORMAT,
                     had_map ? "\"weight_map\" is empty" : "\"weight_map\" is missing");
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const nib_shard_entry *)a)->name, ((const nib_shard_entry *)b)->name);
}
static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sort the names, refuse one that is there twice, and number the files. */
static nib_status settle(const parser *p) {
    nib_shard_index *index = p->index;
    qsort(index->entries, index->count, sizeof *index->entries, by_name);
    for (size_t i = 1; i < index->count; i++) {
        const nib_shard_entry *a = &index->entries[i - 1], *b = &index->entries[i];
        if (strcmp(a->name, b->name) != 0) continue;
        NIB_RAISE(NIB_E_FORMAT, "this tensor is in the index twice");
        return nib_error_at(p->scan.path, a->name,
                            (int64_t)(a->offset > b->offset ? a->offset : b->offset));
    }
    index->shards = nib_mem_alloc_array(index->mem, index->count, sizeof *index->shards);
    if (!index->shards) return NIB_E_MEMORY;
    index->shard_room = index->count;
    for (size_t i = 0; i < index->count; i++) index->shards[i] = index->entries[i].file;
    qsort(index->shards, index->count, sizeof *index->shards, by_text);
    for (size_t i = 0; i < index->count; i++)
        if (i == 0 || strcmp(index->shards[i], index->shards[index->shard_count - 1]) != 0)
            index->shards[index->shard_count++] = index->shards[i];
    for (size_t i = 0; i < index->count; i++) {
        const char *const *at = bsearch(&index->entries[i].file, index->shards, index->shard_count,
                                        sizeof *index->shards, by_text);
        index->entries[i].shard = (size_t)(at - index->shards);
    }
    return NIB_OK;
}

nib_shard_index *nib_shard_index_parse(nib_mem *mem, const char *path, const char *text,
                                       size_t length) {
    nib_shard_index *index = nib_mem_alloc_zero(mem, sizeof *index);
    if (!index) return NULL;
    *index = (nib_shard_index){.mem = mem, .total_size = -1, .names_size = length + 1};
    index->names = nib_mem_alloc(mem, index->names_size);
    parser p = {.index = index, .scan = {.text = text, .length = length, .path = path}};
    if (index->names && scan_index(&p) == NIB_OK && settle(&p) == NIB_OK) return index;
    nib_shard_index_free(index);
    nib_error_at(path, NULL, -1);
    return NULL;
}

nib_shard_index *nib_shard_index_load(nib_mem *mem, const char *path) {
    size_t length;
    char *text = nib_file_read_whole(mem, path, NIB_JSON_MAX_BYTES, &length);
    if (!text) return NULL;
    nib_shard_index *index = nib_shard_index_parse(mem, path, text, length);
    nib_mem_free(mem, text, length + 1);
    return index;
}

const nib_shard_entry *nib_shard_index_find(const nib_shard_index *index, const char *name) {
    const nib_shard_entry key = {.name = name};
    return bsearch(&key, index->entries, index->count, sizeof *index->entries, by_name);
}

void nib_shard_index_free(nib_shard_index *index) {
    if (!index) return;
    nib_mem *mem = index->mem;
    nib_mem_free(mem, index->entries, index->room * sizeof *index->entries);
    nib_mem_free(mem, index->shards, index->shard_room * sizeof *index->shards);
    nib_mem_free(mem, index->names, index->names_size);
    nib_mem_free(mem, index, sizeof *index);
}

/* ---- writing ---- */

typedef struct mapped {
    const char *tensor, *file;
} mapped;

static int by_tensor(const void *a, const void *b) {
    return strcmp(((const mapped *)a)->tensor, ((const mapped *)b)->tensor);
}

char *nib_shard_index_text(nib_mem *mem, const char *const *tensors, const char *const *files,
                           size_t count, size_t total_size) {
    mapped *pairs = nib_mem_alloc_array(mem, count, sizeof *pairs);
    if (!pairs) return NULL;
    for (size_t i = 0; i < count; i++) pairs[i] = (mapped){tensors[i], files[i]};
    if (count) qsort(pairs, count, sizeof *pairs, by_tensor);
    nib_text text = {.mem = mem};
    nib_text_format(&text,
                    "{\n  \"metadata\": {\n    \"total_size\": %zu\n  },\n  \"weight_map\": {",
                    total_size);
    for (size_t i = 0; i < count; i++) {
        nib_text_add(&text, i ? ",\n    " : "\n    ");
        nib_text_json_ascii(&text, pairs[i].tensor, strlen(pairs[i].tensor));
        nib_text_add(&text, ": ");
        nib_text_json_ascii(&text, pairs[i].file, strlen(pairs[i].file));
    }
    nib_text_add(&text, count ? "\n  }\n}\n" : "}\n}\n");
    nib_mem_free(mem, pairs, count * sizeof *pairs);
    return nib_text_take(&text);
}
