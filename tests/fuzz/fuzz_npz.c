/* fuzz_npz.c: an archive of NumPy arrays on any bytes. What is accepted lies within the file or was
 * unpacked; what is not names a byte. */
#include <stdlib.h>
#include <string.h>

#include "base/text_util.h"
#include "io/npz.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) abort();                                                                 \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_tensor_file *file = nib_npz_parse(NULL, "fuzz", data, size);
    if (file) {
        for (size_t i = 0; i < file->count; i++) {
            const nib_tensor_entry *t = &file->entries[i];
            MUST(t->memory || (t->offset <= size && t->size <= size - t->offset));
            MUST(nib_utf8_valid(t->name, strlen(t->name)) == strlen(t->name));
            MUST(nib_tensor_file_find(file, t->name) == t);
        }
        nib_tensor_file_close(file);
    } else {
        const nib_error *why = nib_last_error();
        MUST(why->status == NIB_E_FORMAT || why->status == NIB_E_UNSUPPORTED);
        MUST(strcmp(why->path, "fuzz") == 0);
        MUST(why->offset >= 0 && why->offset <= (int64_t)size);
    }
    MUST(nib_mem_used(NULL) == 0);
    return 0;
}
