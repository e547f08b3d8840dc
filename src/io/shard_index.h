/* shard_index.h: model.safetensors.index.json and pytorch_model.bin.index.json, which say in which
 * file each tensor lies.
 *
 *   {"metadata": {"total_size": bytes}, "weight_map": {"tensor":
 * "model-00001-of-00002.safetensors"}} */
#ifndef NIB_IO_SHARD_INDEX_H
#define NIB_IO_SHARD_INDEX_H
#include <nibble/nibble.h>

#include "base/mem.h"

typedef struct nib_shard_entry {
    const char *name, *file; /* tensor, and a plain name of a file */
    size_t shard;            /* index into shards */
    size_t offset;           /* byte of the index where the entry stands */
} nib_shard_entry;

typedef struct nib_shard_index {
    nib_mem *mem;
    nib_shard_entry *entries; /* by name, bytewise */
    size_t count, room;
    const char **shards; /* by name, each once */
    size_t shard_count, shard_room;
    int64_t total_size; /* -1: the index does not say */
    size_t total_size_offset;
    char *names;
    size_t names_size;
} nib_shard_index;

/* From text; `path` is for errors and may be NULL. Fails: NIB_E_FORMAT with file, tensor and byte
 * for a tensor named twice, a file that is no plain name, anything wrongly typed. */
nib_shard_index *nib_shard_index_parse(nib_mem *mem, const char *path, const char *text,
                                       size_t length);
nib_shard_index *nib_shard_index_load(nib_mem *mem, const char *path);
const nib_shard_entry *nib_shard_index_find(const nib_shard_index *index, const char *name);
void nib_shard_index_free(nib_shard_index *index); /* NULL is fine */

/* The text of an index as transformers writes it: keys sorted, two blanks, everything outside
 * ASCII as \u escapes. tensors[i] lies in files[i]. Give back with nib_mem_strfree. */
char *nib_shard_index_text(nib_mem *mem, const char *const *tensors, const char *const *files,
                           size_t count, size_t total_size);
#endif
