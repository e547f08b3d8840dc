/* fuzz_index.c: the index of shards on any bytes. What is accepted names plain files only, each
 * tensor once, and comes back the same when written; what is not names a byte. */
#include <stdlib.h>
#include <string.h>

#include "base/path.h"
#include "io/shard_index.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) abort();                                                                 \
    } while (0)

static void check_written(const nib_shard_index *index) {
    const char **tensors = calloc(index->count, sizeof *tensors);
    const char **files = calloc(index->count, sizeof *files);
    for (size_t i = 0; i < index->count; i++) {
        tensors[i] = index->entries[i].name;
        files[i] = index->entries[i].file;
    }
    char *text = nib_shard_index_text(NULL, tensors, files, index->count, 7);
    MUST(text);
    nib_shard_index *back = nib_shard_index_parse(NULL, NULL, text, strlen(text));
    MUST(back && back->count == index->count && back->total_size == 7);
    for (size_t i = 0; i < index->count; i++) {
        MUST(strcmp(back->entries[i].name, index->entries[i].name) == 0);
        MUST(strcmp(back->entries[i].file, index->entries[i].file) == 0);
    }
    nib_shard_index_free(back);
    nib_mem_strfree(NULL, text);
    free(tensors);
    free(files);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_shard_index *index = nib_shard_index_parse(NULL, "fuzz", (const char *)data, size);
    if (index) {
        MUST(index->count > 0 && index->shard_count > 0 && index->shard_count <= index->count);
        for (size_t i = 0; i < index->count; i++) {
            const nib_shard_entry *entry = &index->entries[i];
            MUST(nib_path_is_plain(entry->file));
            MUST(entry->shard < index->shard_count);
            MUST(strcmp(index->shards[entry->shard], entry->file) == 0);
            MUST(nib_shard_index_find(index, entry->name) == entry);
            MUST(entry->offset < size);
        }
        check_written(index);
        nib_shard_index_free(index);
    } else {
        MUST(nib_last_error()->status == NIB_E_FORMAT);
        MUST(strcmp(nib_last_error()->path, "fuzz") == 0);
        MUST(nib_last_error()->offset <= (int64_t)size);
    }
    MUST(nib_mem_used(NULL) == 0);
    return 0;
}
