/* fuzz_npy.c: the description of a NumPy array on any bytes. What is accepted fills the file. */
#include <stdlib.h>
#include <string.h>

#include "io/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_npy array;
    const nib_status status = nib_npy_parse("fuzz", data, size, size, &array);
    if (status == NIB_OK) {
        if (array.offset + array.size != size) abort();
    } else {
        if (status != NIB_E_FORMAT && status != NIB_E_UNSUPPORTED) abort();
        if (strcmp(nib_last_error()->path, "fuzz") != 0) abort();
        if (nib_last_error()->offset < 0 || nib_last_error()->offset > (int64_t)size) abort();
    }
    return 0;
}
