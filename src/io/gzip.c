#include "io/gzip.h"

#include "base/error.h"
#include "io/zlib_memory.h"

/* header 10, at least 2 of deflate, CRC-32 4, size of what was packed modulo 2^32 4 */
enum { LEAST = 20, MOST_FOLD = 1100 };

bool nib_gzip_looks_like(const void *bytes, size_t size) {
    const unsigned char *b = bytes;
    return size >= 2 && b[0] == 0x1f && b[1] == 0x8b;
}

static unsigned char *wrong(const char *path, size_t at, const char *what) {
    NIB_RAISE(NIB_E_FORMAT, "%s", what);
    nib_error_at(path, NULL, (int64_t)at);
    return NULL;
}

unsigned char *nib_gzip_unpack(nib_mem *mem, const char *path, const void *bytes, size_t size,
                               size_t most, size_t *unpacked) {
    if (size < LEAST || !nib_gzip_looks_like(bytes, size))
        return wrong(path, size < LEAST ? size : 0, "the gzip file ends within its header");
    const unsigned char *end = (const unsigned char *)bytes + size;
    const size_t said =
        (size_t)end[-4] | (size_t)end[-3] << 8 | (size_t)end[-2] << 16 | (size_t)end[-1] << 24;
    if (said > most || said / MOST_FOLD > size || size > UINT32_MAX) {
        NIB_RAISE(NIB_E_FORMAT,
                  "the gzip file is cut or damaged: it says that its %zu bytes unpack to %zu", size,
                  said);
        nib_error_at(path, NULL, (int64_t)(size - 4));
        return NULL;
    }
    unsigned char *out = nib_mem_alloc(mem, said);
    if (!out) {
        nib_error_at(path, NULL, -1);
        return NULL;
    }
    z_stream z = {.zalloc = nib_zlib_alloc,
                  .zfree = nib_zlib_free,
                  .opaque = mem,
                  .next_in = (unsigned char *)(uintptr_t)bytes,
                  .avail_in = (unsigned)size,
                  .next_out = out,
                  .avail_out = (unsigned)said};
    int result = inflateInit2(&z, 16 + MAX_WBITS); /* 16: gzip's header and end */
    if (result == Z_OK) {
        result = inflate(&z, Z_FINISH);
        inflateEnd(&z);
    }
    if (result == Z_STREAM_END && !z.avail_in && !z.avail_out) {
        *unpacked = said;
        return out;
    }
    nib_mem_free(mem, out, said);
    if (result == Z_MEM_ERROR) {
        nib_error_at(path, NULL, -1);
        return NULL;
    }
    const size_t at = size - z.avail_in;
    return wrong(
        path, at,
        result == Z_STREAM_END
            ? "the gzip file does not unpack to as many bytes as it says, or goes on behind "
              "its end"
        : z.avail_in ? "the gzip file's bytes are damaged"
                     : "the gzip file is cut: its packed bytes end here");
}
