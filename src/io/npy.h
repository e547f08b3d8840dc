/* npy.h: one NumPy array in a file.
 *
 *   | \x93NUMPY | major | minor | length of the text, u16 or u32 | text, padded to 64 | data |
 *
 * The text is a Python literal, {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }.
 * Format: numpy.lib.format, versions 1 to 3. */
#ifndef NIB_IO_NPY_H
#define NIB_IO_NPY_H
#include <nibble/nibble.h>

#include "base/mem.h"

enum { NIB_NPY_MAX_HEADER = (1 << 16) + 12 }; /* bytes; longer descriptions are refused */

typedef struct nib_npy {
    nib_dtype dtype;
    nib_shape shape;
    size_t offset, size; /* of the data, bytes */
} nib_npy;

/* The description, from the first bytes of a file (at least its header, or all of a shorter one).
 * Little-endian numbers, bool and complex64 in C order; `path` is for errors and may be NULL.
 * Fails: NIB_E_FORMAT with the byte; NIB_E_UNSUPPORTED for objects, records, other byte orders,
 * Fortran order of a matrix. */
nib_status nib_npy_parse(const char *path, const void *bytes, size_t size, size_t file_size,
                         nib_npy *array);

/* A whole array; give back *data with nib_mem_free(mem, data, array->size). */
nib_status nib_npy_read(nib_mem *mem, const char *path, nib_npy *array, void **data);

/* The bytes that numpy.save gives. NIB_E_DTYPE for what NumPy has no name for, such as bf16. */
nib_status nib_npy_write(nib_mem *mem, const char *path, nib_dtype dtype, const nib_shape *shape,
                         const void *data, size_t size);
#endif
