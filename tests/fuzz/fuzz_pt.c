/* fuzz_pt.c: a file of torch.save on any bytes: archives, their directories, the old layout. What
 * is accepted lies within the file, every element of every view; what is not names a byte. */
#include <stdlib.h>
#include <string.h>

#include "base/text_util.h"
#include "io/pt.h"
#include "tensor/dtype.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) abort();                                                                 \
    } while (0)

static void check_entry(const nib_tensor_file *file, const nib_tensor_entry *t, size_t size) {
    const size_t width = (size_t)nib_dtype_bits(t->dtype) / 8;
    size_t count = 1, last = 0;
    MUST(width > 0 && t->shape.ndim >= 0 && t->shape.ndim <= NIB_MAX_DIMS);
    for (int d = 0; d < t->shape.ndim; d++) {
        count *= (size_t)t->shape.dim[d];
        if (t->stride && t->shape.dim[d])
            last += (size_t)(t->shape.dim[d] - 1) * (size_t)t->stride[d];
    }
    if (!t->stride) last = count ? count - 1 : 0;
    MUST(t->size == count * width);
    MUST(t->offset <= size && t->header_offset < size);
    if (count) MUST(t->offset + (last + 1) * width <= size);
    MUST(nib_utf8_valid(t->name, strlen(t->name)) == strlen(t->name));
    MUST(nib_tensor_file_find(file, t->name) == t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_tensor_file *file = nib_pt_parse(NULL, "fuzz", data, size);
    if (file) {
        for (size_t i = 0; i < file->count; i++) check_entry(file, &file->entries[i], size);
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
