/* zlib_memory.h: zlib's own memory goes through ours, so that it is counted and may fail in tests.
 * zlib frees without a size: it stands in front of the block. A z_stream takes
 *     .zalloc = nib_zlib_alloc, .zfree = nib_zlib_free, .opaque = mem */
#ifndef NIB_IO_ZLIB_MEMORY_H
#define NIB_IO_ZLIB_MEMORY_H
#include <string.h>
#include <zlib.h>

#include "base/checked.h"
#include "base/mem.h"

enum { NIB_ZLIB_SIZE_ROOM = 16 };

static inline void *nib_zlib_alloc(void *user, unsigned count, unsigned size) {
    size_t bytes;
    if (nib_mul_size(count, size, &bytes) || nib_add_size(bytes, NIB_ZLIB_SIZE_ROOM, &bytes))
        return NULL;
    unsigned char *block = nib_mem_alloc_zero(user, bytes);
    if (!block) return NULL;
    memcpy(block, &bytes, sizeof bytes);
    return block + NIB_ZLIB_SIZE_ROOM;
}

static inline void nib_zlib_free(void *user, void *address) {
    size_t bytes;
    unsigned char *block = (unsigned char *)address - NIB_ZLIB_SIZE_ROOM;
    memcpy(&bytes, block, sizeof bytes);
    nib_mem_free(user, block, bytes);
}
#endif
