#include "model/array.h"

#include <nibble/io.h>
#include <string.h>

#include "base/error.h"
#include "base/text_util.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

bool nib_array_is(const char *path) {
    return nib_text_ends(path, ".npy") || nib_text_ends(path, ".npz");
}

static nib_status none_meant(nib_ctx *ctx, nib_reader *reader, const char *path, const char *name) {
    nib_text names = {.mem = nib_ctx_mem(ctx)};
    nib_tensor_info info;
    nib_reader_rewind(reader);
    while (names.length < 200 && nib_reader_next(reader, &info, NULL) == NIB_OK)
        nib_text_format(&names, "%s%s", names.length ? ", " : "", info.name);
    NIB_RAISE(NIB_E_FORMAT, "none of its arrays is named \"%s\", and there is more than one: %s",
              name, names.data ? names.data : "?");
    nib_text_free(&names);
    return nib_error_at(path, NULL, -1);
}

static nib_tensor *from_npz(nib_ctx *ctx, const char *path, const char *name) {
    nib_reader *reader = nib_reader_open(ctx, path);
    if (!reader) return NULL;
    nib_tensor_info info;
    bool named = false, only = nib_reader_count(reader) == 1;
    while (!named && nib_reader_next(reader, &info, NULL) == NIB_OK)
        named = only || strcmp(info.name, name) == 0;
    nib_tensor *t = NULL;
    if (named)
        t = nib_reader_load(reader, info.name);
    else
        none_meant(ctx, reader, path, name);
    nib_reader_free(reader);
    return t;
}

nib_tensor *nib_array_load(nib_ctx *ctx, const char *path, const char *name) {
    if (nib_text_ends(path, ".npz")) return from_npz(ctx, path, name);
    return nib_text_ends(path, ".npy") ? nib_npy_load(ctx, path) : nib_idx_load(ctx, path);
}

bool nib_array_of_ints(const nib_tensor *t) {
    switch (t->dtype) {
    case NIB_U8:
    case NIB_I8:
    case NIB_U16:
    case NIB_I16:
    case NIB_U32:
    case NIB_I32:
    case NIB_U64:
    case NIB_I64:
        return true;
    default:
        return false;
    }
}

int64_t nib_array_int(const nib_tensor *t, int64_t i) {
    const void *at = nib_tensor_data(t);
    switch (t->dtype) {
    case NIB_U8:
        return ((const uint8_t *)at)[i];
    case NIB_I8:
        return ((const int8_t *)at)[i];
    case NIB_U16:
        return ((const uint16_t *)at)[i];
    case NIB_I16:
        return ((const int16_t *)at)[i];
    case NIB_U32:
        return ((const uint32_t *)at)[i];
    case NIB_I32:
        return ((const int32_t *)at)[i];
    case NIB_U64:
    case NIB_I64:
        return ((const int64_t *)at)[i];
    default:
        return -1;
    }
}
