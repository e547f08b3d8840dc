/* zip_bytes.h: archives put together byte by byte, so that every field of them can lie. */
#ifndef NIB_TESTS_ZIP_BYTES_H
#define NIB_TESTS_ZIP_BYTES_H
#include <stdlib.h>
#include <string.h>

#include "test.h"

typedef struct zip_part { /* an entry; zero fields tell the truth */
    const char *name;
    const void *bytes;
    size_t size;
    size_t claimed;        /* unpacked size that the headers tell, when not `size` */
    size_t packed_claimed; /* packed size, likewise */
    uint32_t crc;
    uint16_t method, flags;
    const char *local_name; /* of the local header, when not `name` */
    uint32_t local_size;    /* in the local header alone */
    uint32_t offset;        /* of the local header that the directory tells */
} zip_part;

typedef struct zip_bytes {
    unsigned char data[1 << 16];
    size_t size;
} zip_bytes;

static inline void zip_put(zip_bytes *z, uint64_t value, int width) {
    for (int i = 0; i < width; i++, value = i < 8 ? value >> 8 : 0)
        z->data[z->size++] = (unsigned char)(value & 255);
}
static inline void zip_add(zip_bytes *z, const void *bytes, size_t size) {
    if (z->size + size > sizeof z->data) abort();
    if (size) memcpy(z->data + z->size, bytes, size);
    z->size += size;
}

/* signature .. sizes, as both headers have them */
static inline void zip_common(zip_bytes *z, const zip_part *p, uint32_t size) {
    zip_put(z, p->flags, 2);
    zip_put(z, p->method, 2);
    zip_put(z, 0, 4); /* time, date */
    zip_put(z, p->crc, 4);
    zip_put(z, p->packed_claimed ? p->packed_claimed : p->size, 4);
    zip_put(z, size, 4);
}

static inline void zip_make(zip_bytes *z, const zip_part *parts, size_t count) {
    size_t at[16];
    z->size = 0;
    for (size_t i = 0; i < count; i++) {
        const zip_part *p = &parts[i];
        const char *name = p->local_name ? p->local_name : p->name;
        at[i] = z->size;
        zip_add(z, "PK\3\4", 4);
        zip_put(z, 20, 2);
        zip_common(z, p,
                   (uint32_t)(p->local_size ? p->local_size
                              : p->claimed  ? p->claimed
                                            : p->size));
        zip_put(z, strlen(name), 2);
        zip_put(z, 0, 2);
        zip_add(z, name, strlen(name));
        zip_add(z, p->bytes, p->size);
    }
    const size_t directory = z->size;
    for (size_t i = 0; i < count; i++) {
        const zip_part *p = &parts[i];
        zip_add(z, "PK\1\2", 4);
        zip_put(z, 20, 2);
        zip_put(z, 20, 2);
        zip_common(z, p, (uint32_t)(p->claimed ? p->claimed : p->size));
        zip_put(z, strlen(p->name), 2);
        zip_put(z, 0, 2 + 2 + 2 + 2 + 4); /* extra, comment, disk, attributes */
        zip_put(z, p->offset ? p->offset : at[i], 4);
        zip_add(z, p->name, strlen(p->name));
    }
    const size_t end = z->size;
    zip_add(z, "PK\5\6", 4);
    zip_put(z, 0, 4);
    zip_put(z, count, 2);
    zip_put(z, count, 2);
    zip_put(z, end - directory, 4);
    zip_put(z, directory, 4);
    zip_put(z, 0, 2);
}
#endif
