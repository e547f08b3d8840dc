/* pt_write.h: tensors as torch.save writes a state dict: an archive whose pickle is an OrderedDict
 * of tensors in the order of the plan, payloads at multiples of 64 bytes, that
 * torch.load(weights_only=True) opens and that is mapped where it lies.
 *
 *   archive/data.pkl, archive/byteorder, archive/data/0 .., archive/version, directory
 *
 * Metadata becomes the attribute "metadata" of the OrderedDict, a dict of texts. Equal plans give
 * equal bytes. The file appears whole when finished, as safetensors do. */
#ifndef NIB_IO_PT_WRITE_H
#define NIB_IO_PT_WRITE_H
#include "io/safetensors.h" /* plans are the same */

typedef struct nib_pt_writer nib_pt_writer;

/* Bytes of the file that this plan makes, exactly; `payload` (may be NULL) is the tensors' part. */
nib_status nib_pt_plan_size(nib_mem *mem, const nib_safetensors_plan *plan, size_t *size,
                            size_t *payload);

/* Fails: NIB_E_ARGUMENT for two tensors of one name, NIB_E_DTYPE for a dtype that torch has no
 * storage for, NIB_E_SHAPE for a number of elements that overflows; as nib_file_writer_open. */
nib_pt_writer *nib_pt_writer_open(nib_mem *mem, const char *path, const nib_safetensors_plan *plan);
void nib_pt_writer_size(const nib_pt_writer *writer, size_t *size, size_t *payload);
bool nib_pt_writer_find(const nib_pt_writer *writer, const char *name, size_t *index,
                        nib_safetensors_planned *planned);

/* `size` bytes of tensor `index` (of the plan) at its byte `offset`, in any order, each once. */
nib_status nib_pt_writer_put(nib_pt_writer *writer, size_t index, const void *from, size_t size,
                             size_t offset);

/* Check that every byte was given, write the CRCs, bring the file to disk, read it back, take the
 * name. Frees the writer in every case; on failure nothing is left of the new file. */
nib_status nib_pt_writer_finish(nib_pt_writer *writer);
void nib_pt_writer_abort(nib_pt_writer *writer); /* NULL is fine */
#endif
