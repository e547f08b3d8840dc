/* checkpoint.c: finding the weights, and proving that index and shards tell one story. */
#include "io/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/path.h"
#include "base/text_util.h"
#include "io/pt.h"

/* How the files of a folder are named: one alone, or `stem`-00001-of-00002 with an index. Those of
 * a lower rank are taken only when none of a higher one is there, as transformers does; two of one
 * rank are a question to the user. */
typedef struct naming {
    const char *stem, *single, *index;
    const char *safe; /* the stem of the same model as safetensors */
    int rank;
    bool pickled;
} naming;
#define INDEX ".index.json"
static const naming namings[] = {
    {"model", ".safetensors", ".safetensors" INDEX, "model", 0, false},
    {"diffusion_pytorch_model", ".safetensors", ".safetensors" INDEX, "diffusion_pytorch_model", 0,
     false},
    {"pytorch_model", ".bin", ".bin" INDEX, "model", 1, true},
    {"diffusion_pytorch_model", ".bin", ".bin" INDEX, "diffusion_pytorch_model", 1, true},
};
enum { NAMINGS = sizeof namings / sizeof *namings };

/* Which files of a folder hold the weights. */
typedef struct found {
    const naming *naming;
    bool has_index;
} found;

/* stem + suffix, in `name`. */
static const char *stem_file(char name[64], const char *stem, const char *suffix) {
    memcpy(name, stem, strlen(stem) + 1);
    memcpy(name + strlen(stem), suffix, strlen(suffix) + 1);
    return name;
}

static nib_status no_weights(const char *path, const nib_dir_list *list) {
    const char *other = NULL;
    for (size_t i = 0; i < list->count && !other; i++)
        if (nib_text_ends(list->entries[i].name, ".safetensors") ||
            nib_pt_is_name(list->entries[i].name))
            other = list->entries[i].name;
    if (other)
        NIB_RAISE(NIB_E_FORMAT,
                  "the folder holds no model.safetensors or pytorch_model.bin, nor an index of "
                  "shards; to read %.80s, give that file itself",
                  other);
    else
        NIB_RAISE(NIB_E_FORMAT, "the folder holds no weights: neither model.safetensors nor "
                                "model.safetensors.index.json, nor pytorch_model.bin or its index");
    return nib_error_at(path, NULL, -1);
}

static nib_status find_weights(const char *path, const nib_dir_list *list, found *f) {
    char name[64], first[64] = "";
    for (int i = 0; i < 2 * NAMINGS; i++) {
        const naming *n = &namings[i / 2];
        if (first[0] && n->rank > f->naming->rank) break;
        if (!nib_dir_find(list, stem_file(name, n->stem, i % 2 ? n->index : n->single))) continue;
        if (first[0]) {
            NIB_RAISE(NIB_E_FORMAT,
                      "the folder holds both %s and %s: which of them is the model? "
                      "Remove one, or give the file itself",
                      first, name);
            return nib_error_at(path, NULL, -1);
        }
        memcpy(first, name, sizeof first);
        *f = (found){.naming = n, .has_index = i % 2};
    }
    return first[0] ? NIB_OK : no_weights(path, list);
}

/* Does a file of this name go along when a checkpoint is written anew? Tokenizers, configurations
 * other than config.json, templates, code, licence and model card do; weights, whatever their
 * kind, and what describes their storage do not. */
static bool goes_along(const char *name) {
    static const char *const never[] = {".index.json", "config.json", "quant_report.json",
                                        "quanto_qmap.json", "quantize_config.json"};
    static const char *const suffixes[] = {".json", ".jsonl",    ".txt", ".model", ".jinja", ".md",
                                           ".py",   ".tiktoken", ".spm", ".bpe",   ".vocab"};
    static const char *const prefixes[] = {"LICENSE", "LICENCE", "NOTICE",
                                           "COPYING", "README",  "USE_POLICY"};
    if (name[0] == '.' || nib_text_ends(name, never[0])) return false;
    for (size_t i = 1; i < sizeof never / sizeof *never; i++)
        if (strcmp(name, never[i]) == 0) return false;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (nib_text_ends(name, suffixes[i])) return true;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (nib_text_starts(name, prefixes[i]) && !strchr(name, '.')) return true;
    return false;
}

static nib_status list_carried(nib_checkpoint *c, const nib_dir_list *list) {
    c->carried = nib_mem_alloc_array(c->mem, list->count, sizeof *c->carried);
    if (!c->carried) return NIB_E_MEMORY;
    c->carried_room = list->count;
    for (size_t i = 0; i < list->count; i++) {
        if (list->entries[i].kind != NIB_PATH_FILE) continue;
        if (!goes_along(list->entries[i].name)) continue;
        c->carried[c->carried_count] = nib_mem_strdup(c->mem, list->entries[i].name);
        if (!c->carried[c->carried_count]) return NIB_E_MEMORY;
        c->carried_count++;
    }
    return NIB_OK;
}

/* pytorch_model-00001-of-00002.bin -> model-00001-of-00002.safetensors */
static char *safe_name(const nib_checkpoint *c, const naming *n, const char *name) {
    if (!n || !n->pickled) return nib_mem_strdup(c->mem, name);
    nib_text text = {.mem = c->mem};
    const bool usual = nib_text_starts(name, n->stem) && nib_text_ends(name, n->single);
    const char *from = usual ? name + strlen(n->stem) : name;
    const size_t end = strlen(from) - (usual ? strlen(n->single) : 0);
    if (usual) nib_text_add(&text, n->safe);
    nib_text_append(&text, from, end);
    nib_text_add(&text, ".safetensors");
    return nib_text_take(&text);
}

static nib_status open_shard(nib_checkpoint *c, size_t i, const naming *n, const char *name,
                             const char *path) {
    c->shards[i].name = nib_mem_strdup(c->mem, name);
    c->shards[i].written = c->shards[i].name ? safe_name(c, n, name) : NULL;
    if (!c->shards[i].written) return NIB_E_MEMORY;
    c->shards[i].file = nib_tensor_file_open(c->mem, path);
    return c->shards[i].file ? NIB_OK : nib_last_error()->status;
}

static nib_status make_shards(nib_checkpoint *c, size_t count) {
    c->shards = nib_mem_alloc_array(c->mem, count, sizeof *c->shards);
    if (!c->shards) return NIB_E_MEMORY;
    c->shard_count = count;
    return NIB_OK;
}

/* The first tensor of the index that this shard should hold, for an error that names its line. */
static const nib_shard_entry *first_of_shard(const nib_shard_index *index, size_t shard) {
    const nib_shard_entry *first = NULL;
    for (size_t i = 0; i < index->count; i++)
        if (index->entries[i].shard == shard &&
            (!first || index->entries[i].offset < first->offset))
            first = &index->entries[i];
    return first;
}

static nib_status open_shards(nib_checkpoint *c, const naming *n, const nib_shard_index *index,
                              const nib_dir_list *list) {
    NIB_TRY(make_shards(c, index->shard_count));
    for (size_t i = 0; i < index->shard_count; i++) {
        const bool kind = nib_text_ends(index->shards[i], n->single);
        if (!kind || !nib_dir_find(list, index->shards[i])) {
            const nib_shard_entry *first = first_of_shard(index, i);
            if (kind)
                NIB_RAISE(NIB_E_FORMAT, "\"%.120s\" is named here but is not in the folder",
                          index->shards[i]);
            else
                NIB_RAISE(NIB_E_FORMAT, "\"%.120s\" is no plain name of a %s file",
                          index->shards[i], n->single);
            return nib_error_at(c->index_path, first->name, (int64_t)first->offset);
        }
        char *path = nib_path_join(c->mem, c->folder, index->shards[i]);
        const nib_status status = path ? open_shard(c, i, n, index->shards[i], path) : NIB_E_MEMORY;
        nib_mem_strfree(c->mem, path);
        NIB_TRY(status);
    }
    return NIB_OK;
}

/* Every tensor of every shard is in the index under that shard, and none is missing. */
static nib_status check_index(const nib_checkpoint *c, const nib_shard_index *index) {
    for (size_t s = 0; s < c->shard_count; s++) {
        const nib_tensor_file *file = c->shards[s].file;
        for (size_t i = 0; i < file->count; i++) {
            const nib_shard_entry *entry = nib_shard_index_find(index, file->entries[i].name);
            if (entry && entry->shard == s) continue;
            if (entry)
                NIB_RAISE(NIB_E_FORMAT,
                          "this tensor is here, but the index says that it is in %.100s",
                          entry->file);
            else
                NIB_RAISE(NIB_E_FORMAT, "this tensor is not in %.100s",
                          nib_path_base(c->index_path));
            return nib_error_at(file->file.path, file->entries[i].name,
                                (int64_t)file->entries[i].header_offset);
        }
    }
    for (size_t i = 0; i < index->count; i++) {
        const nib_shard_entry *entry = &index->entries[i];
        if (nib_tensor_file_find(c->shards[entry->shard].file, entry->name)) continue;
        NIB_RAISE(NIB_E_FORMAT, "this tensor should be in %.100s but is not", entry->file);
        return nib_error_at(c->index_path, entry->name, (int64_t)entry->offset);
    }
    /* That of pytorch_model.bin counts bytes that tensors share once, or, by old tools, wrongly. */
    if (c->pickled || index->total_size < 0 || (size_t)index->total_size == c->payload)
        return NIB_OK;
    NIB_RAISE(NIB_E_FORMAT,
              "total_size is %lld, but the tensors have %zu bytes; if nothing is "
              "missing, correct or remove it",
              (long long)index->total_size, c->payload);
    return nib_error_at(c->index_path, NULL, (int64_t)index->total_size_offset);
}

static int by_name(const void *a, const void *b) {
    const nib_checkpoint_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->entry->name, (*y)->entry->name);
}

static nib_status list_tensors(nib_checkpoint *c) {
    for (size_t s = 0; s < c->shard_count; s++) c->count += c->shards[s].file->count;
    c->tensors = nib_mem_alloc_array(c->mem, c->count, sizeof *c->tensors);
    c->by_name = c->tensors ? nib_mem_alloc_array(c->mem, c->count, sizeof *c->by_name) : NULL;
    if (!c->by_name) return NIB_E_MEMORY;
    size_t n = 0;
    for (size_t s = 0; s < c->shard_count; s++)
        for (size_t i = 0; i < c->shards[s].file->count; i++, n++) {
            c->tensors[n] = (nib_checkpoint_tensor){&c->shards[s].file->entries[i], s};
            c->by_name[n] = &c->tensors[n];
            c->payload += c->tensors[n].entry->size;
        }
    if (c->count) qsort(c->by_name, c->count, sizeof *c->by_name, by_name);
    return NIB_OK;
}

static nib_status open_folder(nib_checkpoint *c, const nib_dir_list *list) {
    found f = {0};
    char name[64];
    NIB_TRY(find_weights(c->path, list, &f));
    const naming *n = f.naming;
    c->stem = n->safe;
    c->pickled = n->pickled;
    NIB_TRY(list_carried(c, list));
    if (!f.has_index) {
        char *path = nib_path_join(c->mem, c->folder, stem_file(name, n->stem, n->single));
        nib_status status = path ? make_shards(c, 1) : NIB_E_MEMORY;
        if (status == NIB_OK) status = open_shard(c, 0, n, name, path);
        nib_mem_strfree(c->mem, path);
        NIB_TRY(status);
        return list_tensors(c);
    }
    c->index_path = nib_path_join(c->mem, c->folder, stem_file(name, n->stem, n->index));
    nib_shard_index *index = c->index_path ? nib_shard_index_load(c->mem, c->index_path) : NULL;
    if (!index) return nib_last_error()->status;
    nib_status status = open_shards(c, n, index, list);
    if (status == NIB_OK) status = list_tensors(c);
    if (status == NIB_OK) status = check_index(c, index);
    nib_shard_index_free(index);
    return status;
}

static nib_status open_any(nib_checkpoint *c) {
    nib_path_kind kind;
    NIB_TRY(nib_path_look(c->path, true, &kind));
    if (kind == NIB_PATH_NONE) {
        NIB_RAISE(NIB_E_IO, "there is no such file or folder");
        return nib_error_at(c->path, NULL, -1);
    }
    if (kind == NIB_PATH_FOLDER) {
        nib_dir_list list;
        c->folder = nib_mem_strdup(c->mem, c->path);
        if (!c->folder) return NIB_E_MEMORY;
        NIB_TRY(nib_dir_read(c->mem, c->path, &list));
        const nib_status status = open_folder(c, &list);
        nib_dir_list_free(&list);
        return status;
    }
    c->is_file = true;
    c->folder = nib_path_parent(c->mem, c->path);
    if (!c->folder) return NIB_E_MEMORY;
    NIB_TRY(make_shards(c, 1));
    NIB_TRY(open_shard(c, 0, NULL, nib_path_base(c->path), c->path));
    return list_tensors(c);
}

nib_checkpoint *nib_checkpoint_open(nib_mem *mem, const char *path) {
    nib_checkpoint *c = nib_mem_alloc_zero(mem, sizeof *c);
    if (c) *c = (nib_checkpoint){.mem = mem, .path = nib_mem_strdup(mem, path)};
    if (c && c->path && open_any(c) == NIB_OK) return c;
    nib_error_at(path, NULL, -1);
    nib_checkpoint_close(c);
    return NULL;
}

void nib_checkpoint_close(nib_checkpoint *c) {
    if (!c) return;
    nib_mem *mem = c->mem;
    for (size_t i = 0; i < c->carried_count; i++) nib_mem_strfree(mem, c->carried[i]);
    nib_mem_free(mem, c->carried, c->carried_room * sizeof *c->carried);
    nib_mem_free(mem, c->by_name, c->count * sizeof *c->by_name);
    nib_mem_free(mem, c->tensors, c->count * sizeof *c->tensors);
    for (size_t i = 0; i < c->shard_count; i++) {
        nib_tensor_file_close(c->shards[i].file);
        nib_mem_strfree(mem, c->shards[i].name);
        nib_mem_strfree(mem, c->shards[i].written);
    }
    nib_mem_free(mem, c->shards, c->shard_count * sizeof *c->shards);
    nib_mem_strfree(mem, c->index_path);
    nib_mem_strfree(mem, c->folder);
    nib_mem_strfree(mem, c->path);
    nib_mem_free(mem, c, sizeof *c);
}

const nib_checkpoint_tensor *nib_checkpoint_find(const nib_checkpoint *c, const char *name) {
    for (size_t low = 0, high = c->count; low < high;) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(name, c->by_name[middle]->entry->name);
        if (order == 0) return c->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *nib_checkpoint_metadata(const nib_checkpoint *c, const char *key) {
    const char *value = NULL;
    for (size_t i = 0; i < c->shard_count && !value; i++)
        value = nib_tensor_file_metadata(c->shards[i].file, key);
    return value;
}

nib_status nib_checkpoint_read(const nib_checkpoint *c, const nib_checkpoint_tensor *tensor,
                               void *to, size_t size, size_t offset) {
    return nib_tensor_file_read(c->shards[tensor->shard].file, tensor->entry, to, size, offset);
}

const void *nib_checkpoint_data(const nib_checkpoint *c, const nib_checkpoint_tensor *tensor) {
    return nib_tensor_file_data(c->shards[tensor->shard].file, tensor->entry);
}

char *nib_checkpoint_path(const nib_checkpoint *c, const char *name) {
    return nib_path_join(c->mem, c->folder, name);
}
