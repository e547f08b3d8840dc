/* fuzz_idx.c: the description of an idx array on any bytes, and a gzip file. What is accepted fills
 * the file. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/gzip.h"
#include "io/idx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_failure(nib_status status, size_t size) {
    if (status != NIB_E_FORMAT && status != NIB_E_UNSUPPORTED) abort();
    if (strcmp(nib_last_error()->path, "fuzz") != 0) abort();
    if (nib_last_error()->offset < 0 || nib_last_error()->offset > (int64_t)size) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_idx array;
    const nib_status status = nib_idx_parse("fuzz", data, size, size, &array);
    if (status < NIB_OK)
        check_failure(status, size);
    else if (array.offset + array.size != size)
        abort();
    size_t unpacked = 0;
    unsigned char *bytes = nib_gzip_unpack(NULL, "fuzz", data, size, 1 << 20, &unpacked);
    if (!bytes) check_failure(nib_last_error()->status, size);
    nib_mem_free(NULL, bytes, unpacked);
    return 0;
}
