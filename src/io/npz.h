/* npz.h: what numpy.savez and savez_compressed write: a zip archive of .npy files, one for each
 * array, which has the file's name without its ending.
 *
 * Arrays that are stored lie in the file as npy.h says and are mapped there; compressed ones are
 * unpacked into memory as the file is opened, and checked against their CRCs. */
#ifndef NIB_IO_NPZ_H
#define NIB_IO_NPZ_H
#include "io/tensor_file.h"

bool nib_npz_is_name(const char *name); /* ends with .npz */

/* Fails: as zip.h and npy.h, with file, array and byte; NIB_E_FORMAT for an entry that is no .npy
 * file. */
nib_tensor_file *nib_npz_open(nib_mem *mem, const char *path);

/* The same of bytes in memory: stored entries tell where arrays lie in them, and cannot be read. */
nib_tensor_file *nib_npz_parse(nib_mem *mem, const char *path, const void *bytes, size_t size);
#endif
