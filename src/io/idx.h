/* idx.h: one array in a file, as MNIST has its images and labels, plain or packed by gzip.
 *
 *   | 0 | 0 | type | dimensions | length of each, u32 | data |
 *
 * All numbers big-endian; types 0x08 u8, 0x09 i8, 0x0b i16, 0x0c i32, 0x0d f32, 0x0e f64. Format:
 * the description on the page of the MNIST database, LeCun, Cortes and Burges. */
#ifndef NIB_IO_IDX_H
#define NIB_IO_IDX_H
#include <nibble/nibble.h>

typedef struct nib_idx {
    nib_dtype dtype;
    nib_shape shape;
    size_t offset, size; /* of the data, bytes */
} nib_idx;

/* The description of an array, from its first bytes (at least the header, or all of a shorter
 * file). `path` is for errors and may be NULL. Fails: NIB_E_FORMAT with the byte; NIB_E_UNSUPPORTED
 * for more than NIB_MAX_DIMS dimensions. */
nib_status nib_idx_parse(const char *path, const void *bytes, size_t size, size_t file_size,
                         nib_idx *array);
#endif
