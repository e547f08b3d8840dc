/* gzip.h: a file packed by gzip, in memory: data sets such as MNIST come so. */
#ifndef NIB_IO_GZIP_H
#define NIB_IO_GZIP_H
#include <nibble/nibble.h>

#include "base/mem.h"

bool nib_gzip_looks_like(const void *bytes, size_t size); /* from a file's first bytes */

/* What `size` bytes unpack to, at most `most` bytes; give back with nib_mem_free(mem, it,
 * *unpacked). `path` is for errors. One member; its own size and CRC are checked. Fails:
 * NIB_E_FORMAT with the byte of the file; one that says it unpacks more than 1100-fold, which
 * deflate cannot, before any memory is taken. */
unsigned char *nib_gzip_unpack(nib_mem *mem, const char *path, const void *bytes, size_t size,
                               size_t most, size_t *unpacked);
#endif
