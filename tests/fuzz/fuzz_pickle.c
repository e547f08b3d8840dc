/* fuzz_pickle.c: a pickle alone, as it stands in an archive of torch.save, with storages that are
 * wherever it says. The tables it makes stay within a multiple of its size. */
#include <stdlib.h>
#include <string.h>

#include "base/text_util.h"
#include "io/pt_globals.h"
#include "io/pt_tensors.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) abort();                                                                 \
    } while (0)

static nib_status anywhere(void *user, const nib_pickle *pickle, nib_pt_storage *storage) {
    (void)user;
    MUST(storage->key >= (const char *)pickle->bytes);
    MUST(storage->key + storage->key_length <= (const char *)pickle->bytes + pickle->size);
    storage->offset = 0;
    return NIB_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_tensor_file *file = calloc(1, sizeof *file);
    nib_pickle p = {.path = "fuzz",
                    .entry = "data.pkl",
                    .base = 100,
                    .bytes = data,
                    .size = size,
                    .globals = nib_pt_globals,
                    .global_count = sizeof nib_pt_globals / sizeof *nib_pt_globals};
    nib_status status = nib_pickle_read(&p);
    if (status >= NIB_OK) {
        MUST(p.used <= size && p.root < p.count && p.count <= size);
        MUST(p.item_count <= 8 * size + 64);
        status = nib_pt_collect(&p, anywhere, NULL, file);
    }
    if (status >= NIB_OK) {
        for (size_t i = 0; i < file->count; i++) {
            const char *name = file->entries[i].name;
            MUST(name >= file->names && name < file->names + file->names_size);
            MUST(nib_utf8_valid(name, strlen(name)) == strlen(name));
        }
    } else {
        const nib_error *why = nib_last_error();
        MUST(why->status == NIB_E_FORMAT || why->status == NIB_E_UNSUPPORTED);
        MUST(strcmp(why->path, "fuzz") == 0);
        MUST(why->offset >= 100 && why->offset <= (int64_t)size + 100);
        MUST(strncmp(why->what, "data.pkl: ", 10) == 0);
    }
    nib_pickle_free(&p);
    nib_mem_free(NULL, file->entries, file->room * sizeof *file->entries);
    nib_mem_free(NULL, file->metadata, file->metadata_room * sizeof *file->metadata);
    nib_mem_free(NULL, file->strides, file->strides_count * sizeof *file->strides);
    nib_mem_free(NULL, file->names, file->names_size);
    free(file);
    MUST(nib_mem_used(NULL) == 0);
    return 0;
}
