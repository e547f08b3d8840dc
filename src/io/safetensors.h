/* safetensors.h: one .safetensors file.
 *
 *   | u64 N | N bytes of JSON, padded with blanks | the tensors' bytes, no gap, no tail |
 *
 * Everything little-endian and row-major. A reader checks the whole header before anything is
 * read through it; a writer is given the whole plan before the first byte. Format: the README of
 * the safetensors project; the checks that go beyond it are listed above the parser. */
#ifndef NIB_IO_SAFETENSORS_H
#define NIB_IO_SAFETENSORS_H
#include <nibble/nibble.h>

#include "base/file.h"
#include "base/mem.h"

enum { NIB_SAFETENSORS_MAX_HEADER = 32 << 20 }; /* bytes; larger ones are refused */

/* "BF16", "F8_E4M3": how the format spells a dtype; "" for one that it cannot hold. */
const char *nib_safetensors_dtype_name(nib_dtype dtype);

/* Its place among the format's dtypes, by which files are ordered; -1: not one of them. */
int nib_safetensors_dtype_rank(nib_dtype dtype);

/* ---- reading ---- */
typedef struct nib_safetensors_entry {
    const char *name;
    nib_dtype dtype;
    nib_shape shape;
    size_t offset, size;  /* bytes in the file */
    size_t header_offset; /* where its entry stands, for errors */
} nib_safetensors_entry;

typedef struct nib_safetensors_pair {
    const char *key, *value;
} nib_safetensors_pair;

typedef struct nib_safetensors {
    nib_mem *mem;
    nib_file file;                  /* not open for one that was parsed from memory */
    nib_map map;                    /* once mapped */
    nib_safetensors_entry *entries; /* by offset, the order in the file */
    size_t count, room;
    const nib_safetensors_entry **by_name;
    nib_safetensors_pair *metadata; /* in the order of the file */
    size_t metadata_count, metadata_room;
    const nib_safetensors_pair **by_key;
    size_t data_offset; /* where the tensors begin: 8 + N */
    char *names;        /* all decoded strings */
    size_t names_size;
} nib_safetensors;

/* Open and check. Fails: NIB_E_FORMAT naming file, tensor and byte; NIB_E_UNSUPPORTED for more
 * than NIB_MAX_DIMS dimensions; NIB_E_IO; NIB_E_MEMORY. */
nib_safetensors *nib_safetensors_open(nib_mem *mem, const char *path);
void nib_safetensors_close(nib_safetensors *file); /* NULL is fine */

/* The same checks on the first bytes of a file: at least its header, or all of it when it is
 * shorter. `file_size` is that of the whole file. `path` is for errors and may be NULL. */
nib_safetensors *nib_safetensors_parse(nib_mem *mem, const char *path, const void *bytes,
                                       size_t size, size_t file_size);

const nib_safetensors_entry *nib_safetensors_find(const nib_safetensors *file, const char *name);
const char *nib_safetensors_metadata(const nib_safetensors *file, const char *key); /* or NULL */

/* `size` bytes of a tensor from its byte `offset` on, by pread. */
nib_status nib_safetensors_read(const nib_safetensors *file, const nib_safetensors_entry *entry,
                                void *to, size_t size, size_t offset);

/* The bytes of a tensor in the mapped file, which is mapped on first use; unaligned. Borrowed
 * until the file is closed. Passes that touch each tensor once read instead: mapped pages count
 * as resident memory. */
const void *nib_safetensors_data(nib_safetensors *file, const nib_safetensors_entry *entry);

/* ---- writing ---- */
typedef struct nib_safetensors_planned { /* the strings need to live only during the call */
    const char *name;
    nib_dtype dtype;
    nib_shape shape;
} nib_safetensors_planned;

typedef struct nib_safetensors_plan {
    const nib_safetensors_planned *tensors; /* in any order */
    size_t count;
    const nib_safetensors_pair *metadata; /* written in this order */
    size_t metadata_count;
} nib_safetensors_plan;

/* Bytes of the file that this plan makes, exactly; `payload` (may be NULL) is the tensors' part. */
nib_status nib_safetensors_plan_size(nib_mem *mem, const nib_safetensors_plan *plan, size_t *size,
                                     size_t *payload);

/* Its first bytes up to the tensors; give back with nib_mem_free(mem, bytes, *size). */
char *nib_safetensors_plan_header(nib_mem *mem, const nib_safetensors_plan *plan, size_t *size);

typedef struct nib_safetensors_writer nib_safetensors_writer;

/* Reserve the file and write its header. Tensors lie in the reference library's order (widest
 * dtype first, then by name), so that equal plans give equal bytes, and the same bytes as the
 * reference library's for at most one metadata key.
 * Fails: NIB_E_ARGUMENT for two tensors of one name, NIB_E_DTYPE for a dtype that the format
 * cannot hold, NIB_E_SHAPE for one that does not fill whole bytes; as nib_file_writer_open. */
nib_safetensors_writer *nib_safetensors_writer_open(nib_mem *mem, const char *path,
                                                    const nib_safetensors_plan *plan);

/* The same over what interrupted work left; *continued tells that a file of this very plan was
 * there. Its bytes count as given once nib_safetensors_writer_keep says so, tensor by tensor; look
 * at them first. As nib_file_writer_reopen. */
nib_safetensors_writer *nib_safetensors_writer_reopen(nib_mem *mem, const char *path,
                                                      const nib_safetensors_plan *plan,
                                                      bool *continued);
nib_status nib_safetensors_writer_get(const nib_safetensors_writer *writer, size_t index, void *to,
                                      size_t size, size_t offset);
nib_status nib_safetensors_writer_keep(nib_safetensors_writer *writer, size_t index);
void nib_safetensors_writer_leave(nib_safetensors_writer *writer); /* for reopening; NULL is fine */

/* Bytes of the whole file and of the tensors in it. */
void nib_safetensors_writer_size(const nib_safetensors_writer *writer, size_t *size,
                                 size_t *payload);

/* The plan's index of a tensor, and with `planned` what was planned (its name borrowed from the
 * writer). False when there is none of this name. */
bool nib_safetensors_writer_find(const nib_safetensors_writer *writer, const char *name,
                                 size_t *index, nib_safetensors_planned *planned);

/* `size` bytes of tensor `index` (of the plan) at its byte `offset`, in any order, each byte once.
 */
nib_status nib_safetensors_writer_put(nib_safetensors_writer *writer, size_t index,
                                      const void *from, size_t size, size_t offset);

/* Check that every byte was given, bring the file to disk, read its header back, take the name.
 * Frees the writer in every case; on failure nothing is left of the new file. */
nib_status nib_safetensors_writer_finish(nib_safetensors_writer *writer);
void nib_safetensors_writer_abort(nib_safetensors_writer *writer); /* NULL is fine */
#endif
