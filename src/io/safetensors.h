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

#include "io/tensor_file.h"

enum { NIB_SAFETENSORS_MAX_HEADER = 32 << 20 }; /* bytes; larger ones are refused */

/* "BF16", "F8_E4M3": how the format spells a dtype; "" for one that it cannot hold. */
const char *nib_safetensors_dtype_name(nib_dtype dtype);

/* Its place among the format's dtypes, by which files are ordered; -1: not one of them. */
int nib_safetensors_dtype_rank(nib_dtype dtype);

/* ---- reading ---- */
typedef nib_tensor_entry nib_safetensors_entry;
typedef nib_tensor_pair nib_safetensors_pair;
typedef nib_tensor_file nib_safetensors;

/* Open and check. Fails: NIB_E_FORMAT naming file, tensor and byte; NIB_E_UNSUPPORTED for more
 * than NIB_MAX_DIMS dimensions; NIB_E_IO; NIB_E_MEMORY. */
nib_safetensors *nib_safetensors_open(nib_mem *mem, const char *path);

/* The same checks on the first bytes of a file: at least its header, or all of it when it is
 * shorter. `file_size` is that of the whole file. `path` is for errors and may be NULL. */
nib_safetensors *nib_safetensors_parse(nib_mem *mem, const char *path, const void *bytes,
                                       size_t size, size_t file_size);

/* What every file of tensors can do, by the format's name. */
static inline void nib_safetensors_close(nib_safetensors *file) { nib_tensor_file_close(file); }
static inline const nib_safetensors_entry *nib_safetensors_find(const nib_safetensors *file,
                                                                const char *name) {
    return nib_tensor_file_find(file, name);
}
static inline const char *nib_safetensors_metadata(const nib_safetensors *file, const char *key) {
    return nib_tensor_file_metadata(file, key);
}
static inline nib_status nib_safetensors_read(const nib_safetensors *file,
                                              const nib_safetensors_entry *entry, void *to,
                                              size_t size, size_t offset) {
    return nib_tensor_file_read(file, entry, to, size, offset);
}
static inline const void *nib_safetensors_data(nib_safetensors *file,
                                               const nib_safetensors_entry *entry) {
    return nib_tensor_file_data(file, entry);
}

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
