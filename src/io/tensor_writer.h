/* tensor_writer.h: one file of tensors to be, of the kind that its name tells: .pt, .pth and .bin
 * as torch.save writes them (pt_write.h), everything else safetensors. */
#ifndef NIB_IO_TENSOR_WRITER_H
#define NIB_IO_TENSOR_WRITER_H
#include "io/safetensors.h"

/* Does this name ask for one file rather than a folder: .safetensors, .pt, .pth or .bin? */
bool nib_tensor_writer_is_name(const char *path);

typedef struct nib_tensor_writer nib_tensor_writer;

/* As nib_safetensors_writer_open and what follows it there; plans are the same. */
nib_status nib_tensor_plan_size(nib_mem *mem, const char *path, const nib_safetensors_plan *plan,
                                size_t *size, size_t *payload);
nib_tensor_writer *nib_tensor_writer_open(nib_mem *mem, const char *path,
                                          const nib_safetensors_plan *plan);
void nib_tensor_writer_size(const nib_tensor_writer *writer, size_t *size, size_t *payload);
bool nib_tensor_writer_find(const nib_tensor_writer *writer, const char *name, size_t *index,
                            nib_safetensors_planned *planned);
nib_status nib_tensor_writer_put(nib_tensor_writer *writer, size_t index, const void *from,
                                 size_t size, size_t offset);
nib_status nib_tensor_writer_finish(nib_tensor_writer *writer);
void nib_tensor_writer_abort(nib_tensor_writer *writer); /* NULL is fine */
#endif
