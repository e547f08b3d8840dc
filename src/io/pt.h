/* pt.h: what torch.save writes: .pt, .pth, pytorch_model.bin.
 *
 *   since 1.6   a zip archive: NAME/data.pkl says what there is, NAME/data/<key> are the storages'
 *               bytes, NAME/byteorder their order
 *   before      pickles one after the other (magic number, version, sizes of the writer's types,
 *               the object, keys of storages), then for each storage its length and bytes
 *
 * Read is what torch.load(weights_only=True) would give of it: tensors in dicts, lists and tuples,
 * however deep, as one table with dotted names ("model.fc.weight", "optimizer.state.0.exp_avg");
 * numbers and texts among them become metadata. Nothing in a pickle is executed. Tensors are views
 * of storages: several may share bytes. */
#ifndef NIB_IO_PT_H
#define NIB_IO_PT_H
#include "io/tensor_file.h"

bool nib_pt_looks_like(const void *bytes, size_t size); /* from a file's first bytes */
bool nib_pt_is_name(const char *name);                  /* ends with .pt, .pth or .bin */

/* Fails: NIB_E_FORMAT naming file, tensor or entry, and byte; NIB_E_UNSUPPORTED for sparse and
 * quantized tensors, other byte orders, archives of torch.jit. */
nib_tensor_file *nib_pt_open(nib_mem *mem, const char *path);

/* The same of bytes in memory: entries tell where tensors lie in them, and cannot be read. */
nib_tensor_file *nib_pt_parse(nib_mem *mem, const char *path, const void *bytes, size_t size);
#endif
