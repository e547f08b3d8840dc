/* tensor_file.h: one open file of named tensors, whatever wrote it: the table of its entries, its
 * metadata, and how to get at their bytes. Each format has a reader that checks the file and fills
 * the table (safetensors.h, pt.h, npz.h); everything above knows the table alone.
 *
 * An entry's bytes are seen dense, little-endian and row-major. Most lie so in the file and are
 * mapped where they lie; a view with strides (.pt) is gathered as it is read, and what was
 * compressed (.npz) lies in memory. */
#ifndef NIB_IO_TENSOR_FILE_H
#define NIB_IO_TENSOR_FILE_H
#include <nibble/nibble.h>

#include "base/file.h"
#include "base/mem.h"

typedef struct nib_tensor_entry {
    const char *name;
    nib_dtype dtype;
    nib_shape shape;
    size_t offset, size;   /* where the first element lies in the file; bytes of all, dense */
    size_t header_offset;  /* where its entry stands, for errors */
    const int64_t *stride; /* [shape.ndim], in elements; NULL: it lies dense in the file */
    unsigned char *memory; /* its bytes when the file has them compressed, owned; else NULL */
} nib_tensor_entry;

typedef struct nib_tensor_pair {
    const char *key, *value;
} nib_tensor_pair;

typedef struct nib_tensor_file {
    nib_mem *mem;
    nib_file file;             /* not open for one that was parsed from memory */
    nib_map map;               /* once mapped */
    nib_tensor_entry *entries; /* by offset, the order in the file */
    size_t count, room;
    const nib_tensor_entry **by_name;
    nib_tensor_pair *metadata; /* in the order of the file */
    size_t metadata_count, metadata_room;
    const nib_tensor_pair **by_key;
    size_t data_offset; /* safetensors: where the tensors begin, 8 + N */
    char *names;        /* all decoded strings */
    size_t names_size;
    int64_t *strides; /* of all entries that have some */
    size_t strides_count;
} nib_tensor_file;

/* Open and check a file of any kind that is known, told by its first bytes: safetensors, what
 * torch.save writes, what numpy.savez writes. Fails as its reader does. */
nib_tensor_file *nib_tensor_file_open(nib_mem *mem, const char *path);
void nib_tensor_file_close(nib_tensor_file *file); /* NULL is fine */

const nib_tensor_entry *nib_tensor_file_find(const nib_tensor_file *file, const char *name);
const char *nib_tensor_file_metadata(const nib_tensor_file *file, const char *key); /* or NULL */

/* `size` bytes of a tensor from its byte `offset` on: by pread, or gathered from the map. */
nib_status nib_tensor_file_read(const nib_tensor_file *file, const nib_tensor_entry *entry,
                                void *to, size_t size, size_t offset);

/* True when nib_tensor_file_data can give the bytes where they lie. */
static inline bool nib_tensor_entry_dense(const nib_tensor_entry *entry) { return !entry->stride; }

/* The bytes of a dense tensor: in the mapped file, which is mapped on first use, or in memory;
 * unaligned. Borrowed until the file is closed. Passes that touch each tensor once read instead:
 * mapped pages count as resident memory. */
const void *nib_tensor_file_data(nib_tensor_file *file, const nib_tensor_entry *entry);

/* ---- for readers ---- */
/* Bring the entries into the order of the file, make by_name and by_key.
 * Fails: NIB_E_FORMAT for two tensors or two pairs of one name, the later one's byte on record. */
nib_status nib_tensor_file_index(nib_tensor_file *file, const char *path);

/* Room for one more at the end of an array; the new room in *room. NULL is on record. */
void *nib_tensor_file_grown(nib_mem *mem, void *array, size_t count, size_t *room, size_t size);

/* A file on disk or bytes in memory, read alike. */
typedef struct nib_source {
    const char *path;           /* for errors, may be NULL */
    const nib_file *file;       /* NULL: bytes */
    const unsigned char *bytes; /* [size] */
    size_t size;
} nib_source;
nib_status nib_source_read(const nib_source *source, void *to, size_t size, size_t offset);
#endif
