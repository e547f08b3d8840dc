#include "io/zip_write.h"

#include <string.h>

#include "base/checked.h"

enum { LOCAL_SIZE = 30 };

nib_status nib_zip_place_next(nib_zip_place *e, size_t size, size_t *end) {
    e->size = size;
    const size_t head = LOCAL_SIZE + strlen(e->name) + (size >= UINT32_MAX ? 20 : 0) + 4;
    e->header = *end;
    if (nib_add_size(*end, head, end) || nib_align_size(*end, NIB_ZIP_ALIGN, &e->offset) ||
        nib_add_size(e->offset, size, end) || *end > INT64_MAX)
        return NIB_RAISE(NIB_E_ARGUMENT, "the tensors together overflow a file");
    e->extra = e->offset - e->header - LOCAL_SIZE - strlen(e->name);
    return NIB_OK;
}

/* Sizes and places over 32 bits: the field says 2^32 - 1, and an extra field the truth. */
static uint32_t field(size_t value) { return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX; }

static void put_common(nib_text *t, const nib_zip_place *e) {
    const bool wide = e->size >= UINT32_MAX || e->header >= UINT32_MAX;
    nib_text_little(t, wide ? 45 : 20, 2);
    nib_text_little(t, 1 << 11, 2); /* names are UTF-8 */
    nib_text_little(t, 0, 2);       /* stored */
    nib_text_little(t, 0, 2);       /* 1980-01-01 00:00: equal plans give equal bytes */
    nib_text_little(t, 1 << 5 | 1, 2);
    nib_text_little(t, e->crc, 4);
    nib_text_little(t, field(e->size), 4);
    nib_text_little(t, field(e->size), 4);
    nib_text_little(t, strlen(e->name), 2);
}

/* The local header, its extra field filled up so that the bytes behind it are aligned. */
void nib_zip_put_local(nib_text *t, const nib_zip_place *e) {
    const bool wide = e->size >= UINT32_MAX;
    nib_text_append(t, "PK\3\4", 4);
    put_common(t, e);
    nib_text_little(t, e->extra, 2);
    nib_text_add(t, e->name);
    if (wide) {
        nib_text_little(t, 1, 2);
        nib_text_little(t, 16, 2);
        nib_text_little(t, e->size, 8);
        nib_text_little(t, e->size, 8);
    }
    const size_t fill = e->extra - (wide ? 20 : 0) - 4;
    nib_text_append(t, "FB", 2); /* as torch marks it */
    nib_text_little(t, fill, 2);
    for (size_t i = 0; i < fill; i++) nib_text_add(t, "Z");
}

static void put_line(nib_text *t, const nib_zip_place *e) {
    const bool wide = e->size >= UINT32_MAX, far = e->header >= UINT32_MAX;
    const size_t extra = (wide ? 16U : 0U) + (far ? 8U : 0U);
    nib_text_append(t, "PK\1\2", 4);
    nib_text_little(t, wide || far ? 45 : 20, 2);
    put_common(t, e);
    nib_text_little(t, extra ? extra + 4 : 0, 2);
    nib_text_little(t, 0, 2); /* comment */
    nib_text_little(t, 0, 2); /* disk */
    nib_text_little(t, 0, 2); /* attributes */
    nib_text_little(t, 0, 4);
    nib_text_little(t, field(e->header), 4);
    nib_text_add(t, e->name);
    if (!extra) return;
    nib_text_little(t, 1, 2);
    nib_text_little(t, extra, 2);
    if (wide) {
        nib_text_little(t, e->size, 8);
        nib_text_little(t, e->size, 8);
    }
    if (far) nib_text_little(t, e->header, 8);
}

void nib_zip_put_directory(nib_text *t, const nib_zip_place *entries, size_t count, size_t offset) {
    const size_t before = t->length;
    for (size_t i = 0; i < count; i++) put_line(t, &entries[i]);
    const size_t size = t->length - before, end = offset + size;
    if (count >= UINT16_MAX || end >= UINT32_MAX) {
        nib_text_append(t, "PK\6\6", 4);
        nib_text_little(t, 44, 8);
        nib_text_little(t, 45, 2);
        nib_text_little(t, 45, 2);
        nib_text_little(t, 0, 8); /* disks */
        nib_text_little(t, count, 8);
        nib_text_little(t, count, 8);
        nib_text_little(t, size, 8);
        nib_text_little(t, offset, 8);
        nib_text_append(t, "PK\6\7", 4);
        nib_text_little(t, 0, 4);
        nib_text_little(t, end, 8);
        nib_text_little(t, 1, 4);
    }
    const bool many = count >= UINT16_MAX;
    nib_text_append(t, "PK\5\6", 4);
    nib_text_little(t, 0, 4);
    nib_text_little(t, many ? UINT16_MAX : count, 2);
    nib_text_little(t, many ? UINT16_MAX : count, 2);
    nib_text_little(t, field(size), 4);
    nib_text_little(t, end >= UINT32_MAX ? UINT32_MAX : offset, 4);
    nib_text_little(t, 0, 2);
}
