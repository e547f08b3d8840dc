/* array.h: one array of numbers as data: a .npy file, one of a .npz, or an idx file. */
#ifndef NIB_MODEL_ARRAY_H
#define NIB_MODEL_ARRAY_H
#include <nibble/nibble.h>

bool nib_array_is(const char *path); /* ends in .npy or .npz */

/* Of a .npz the array `name`, or the only one there is. Whatever is neither .npy nor .npz is read
 * as an idx file, plain or packed by gzip. Caller owns. Fails: as the readers do, with path and
 * byte; NIB_E_FORMAT, naming the arrays that a .npz has, where none of them is meant. */
nib_tensor *nib_array_load(nib_ctx *ctx, const char *path, const char *name);

/* Element i of an array of integers; those over 2^63 - 1 are negative. */
bool nib_array_of_ints(const nib_tensor *array);
int64_t nib_array_int(const nib_tensor *array, int64_t i);
#endif
