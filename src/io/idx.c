#include "io/idx.h"

#include <nibble/io.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "io/gzip.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

enum {
    MOST_BYTES = 1 << 30
}; /* of a file, and of what it unpacks to; MNIST's largest has 45 MiB */

static nib_dtype dtype_of(unsigned char type) {
    switch (type) {
    case 0x08:
        return NIB_U8;
    case 0x09:
        return NIB_I8;
    case 0x0b:
        return NIB_I16;
    case 0x0c:
        return NIB_I32;
    case 0x0d:
        return NIB_F32;
    case 0x0e:
        return NIB_F64;
    default:
        return (nib_dtype)0;
    }
}

static nib_status wrong(const char *path, size_t at, nib_status status, const char *what) {
    NIB_RAISE(status, "%s", what);
    return nib_error_at(path, NULL, (int64_t)at);
}

nib_status nib_idx_parse(const char *path, const void *bytes, size_t size, size_t file_size,
                         nib_idx *array) {
    const unsigned char *b = bytes;
    if (size < 4) return wrong(path, size, NIB_E_FORMAT, "an idx file begins with four bytes");
    if (b[0] || b[1])
        return wrong(path, 0, NIB_E_FORMAT, "an idx file begins with two zero bytes; this is none");
    *array = (nib_idx){.dtype = dtype_of(b[2])};
    if (!array->dtype) {
        NIB_RAISE(NIB_E_FORMAT, "an idx file has no element type 0x%02x", b[2]);
        return nib_error_at(path, NULL, 2);
    }
    if (b[3] > NIB_MAX_DIMS)
        return wrong(path, 3, NIB_E_UNSUPPORTED, "an array of more than 8 dimensions");
    array->shape.ndim = b[3];
    array->offset = 4 + 4 * (size_t)b[3];
    if (size < array->offset)
        return wrong(path, size, NIB_E_FORMAT, "the idx file ends within its dimensions");
    for (int i = 0; i < b[3]; i++) {
        const unsigned char *d = b + 4 + 4 * i;
        array->shape.dim[i] = (int64_t)d[0] << 24 | d[1] << 16 | d[2] << 8 | d[3];
    }
    int64_t count;
    char text[96];
    if (nib_shape_count(&array->shape, &count) ||
        nib_dtype_bytes(array->dtype, count, &array->size) ||
        array->size != file_size - array->offset) {
        NIB_RAISE(NIB_E_FORMAT, "%s of %s does not take the %zu bytes behind the header%s",
                  nib_shape_text(&array->shape, text, sizeof text), nib_dtype_name(array->dtype),
                  file_size - array->offset,
                  array->size > file_size - array->offset ? ": the idx file is cut" : "");
        return nib_error_at(path, NULL, (int64_t)array->offset);
    }
    return NIB_OK;
}

/* Big-endian numbers of `width` bytes to this machine's order, whatever that is. */
static void turn(unsigned char *to, const unsigned char *from, size_t size, size_t width) {
    const uint16_t one = 1;
    unsigned char little;
    memcpy(&little, &one, 1);
    for (size_t i = 0; i < size; i += width)
        for (size_t k = 0; k < width; k++) to[i + k] = from[i + (little ? width - 1 - k : k)];
}

static nib_tensor *load(nib_ctx *ctx, const char *path, const unsigned char *bytes, size_t size) {
    nib_idx array;
    NIB_TRY_NULL(nib_idx_parse(path, bytes, size, size, &array));
    nib_tensor *t = nib_tensor_new(ctx, array.dtype, array.shape);
    if (t)
        turn(nib_tensor_data_mut(t), bytes + array.offset, array.size,
             (size_t)nib_dtype_bits(array.dtype) / 8);
    else
        nib_error_at(path, NULL, -1);
    return t;
}

nib_tensor *nib_idx_load(nib_ctx *ctx, const char *path) {
    if (!ctx) return NULL;
    if (!path) return NIB_RAISE_NULL(NIB_E_ARGUMENT, "no path to read from");
    nib_mem *mem = nib_ctx_mem(ctx);
    size_t size = 0, unpacked = 0;
    char *bytes = nib_file_read_whole(mem, path, MOST_BYTES, &size);
    if (!bytes) return NULL;
    nib_tensor *t = NULL;
    if (nib_gzip_looks_like(bytes, size)) {
        unsigned char *inside = nib_gzip_unpack(mem, path, bytes, size, MOST_BYTES, &unpacked);
        if (inside) t = load(ctx, path, inside, unpacked);
        nib_mem_free(mem, inside, unpacked);
    } else {
        t = load(ctx, path, (const unsigned char *)bytes, size);
    }
    nib_mem_free(mem, bytes, size + 1);
    return t;
}
