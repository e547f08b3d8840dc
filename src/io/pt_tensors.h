/* pt_tensors.h: from a pickle's values to a table of tensors: the walk through dicts and lists, and
 * what a tensor of torch is made of. Where its storages lie is the caller's to say, as that is
 * what the two layouts of pt.h differ in. */
#ifndef NIB_IO_PT_TENSORS_H
#define NIB_IO_PT_TENSORS_H
#include "io/pickle.h"
#include "io/tensor_file.h"

typedef struct nib_pt_storage { /* as a persistent id names it */
    const char *key;            /* borrowed from the pickle, not terminated */
    size_t key_length;
    nib_dtype dtype;       /* 0: bytes */
    size_t size;           /* bytes that the id claims */
    size_t offset;         /* where they lie in the file, once found */
    nib_pickle_value from; /* the id, for errors */
} nib_pt_storage;

/* Find storage->offset, or raise. */
typedef nib_status (*nib_pt_locate)(void *user, const nib_pickle *pickle, nib_pt_storage *storage);

/* What a persistent id says. `root` is that of the legacy layout's views: the storage is `size`
 * bytes of it from *view on; else *view is 0. */
nib_status nib_pt_storage_of(const nib_pickle *pickle, const nib_pickle_value *id,
                             nib_pt_storage *storage, size_t *view, size_t *size);

/* Fill file->entries, names, strides, metadata from the pickle's root. */
nib_status nib_pt_collect(const nib_pickle *pickle, nib_pt_locate locate, void *user,
                          nib_tensor_file *file);
#endif
