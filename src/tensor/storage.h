/* storage.h: refcounted bytes: owned, or lent with a function to give them back. */
#ifndef NIB_TENSOR_STORAGE_H
#define NIB_TENSOR_STORAGE_H
#include <nibble/nibble.h>
#include <stdatomic.h>

#include "base/mem.h"

typedef struct nib_storage {
    atomic_int refs;
    nib_mem *mem;
    unsigned char *data;
    size_t size;
    bool result;         /* goes back as it came: base/mem.h */
    bool lent, constant; /* lent: release gives it back; constant: never written */
    bool mapped;         /* lent by a mapped file: its pages are let go with the last reference */
    void (*release)(void *user);
    void *user;
    int64_t version; /* counts mutations, for views that a tape has recorded */
    uint64_t id;     /* no other one of the process has it, before or after */
} nib_storage;

nib_storage *nib_storage_new(nib_mem *mem, size_t size);    /* uninitialised */
nib_storage *nib_storage_brief(nib_mem *mem, size_t size);  /* for what soon goes */
nib_storage *nib_storage_result(nib_mem *mem, size_t size); /* of an operation: base/mem.h */

/* Bytes of somebody else, such as a mapped file. On failure `release` is not called. */
nib_storage *nib_storage_lend(nib_mem *mem, const void *data, size_t size,
                              void (*release)(void *user), void *user);

nib_storage *nib_storage_retain(nib_storage *s);
void nib_storage_release(nib_storage *s); /* NULL is fine */
#endif
