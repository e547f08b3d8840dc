/* across.h: linears that lie across in files, [in, out]: the Conv1D of GPT-2 and its relatives.
 *
 * Here such a weight is what every other linear's is, [out, in]: in memory always, in files once it
 * is quantized, so that a scale belongs to an output. A float one stays [in, out] in files. */
#ifndef NIB_MODEL_ACROSS_H
#define NIB_MODEL_ACROSS_H
#include "io/checkpoint.h"

/* Is that a name of such weights, in a checkpoint that has them? */
bool nib_across_name(const char *tensor);

/* Does this float checkpoint have them? Linears of the same names that lie as usual have as many
 * biases as rows; these have as many as columns. */
bool nib_across_checkpoint(const nib_checkpoint *checkpoint);

/* The other way round, [cols, rows]. */
nib_shape nib_across_shape(const nib_shape *shape);

/* to[c, r] = from[r, c]; elements of `size` bytes, 2 or 4; rows of each ld elements apart. */
void nib_across_copy(void *to, int64_t ld_to, const void *from, int64_t ld_from, int64_t rows,
                     int64_t cols, size_t size);

/* As nib_checkpoint_read, of the bytes that the tensor would have as [out, in]: whole rows. */
nib_status nib_across_read(const nib_checkpoint *checkpoint, const nib_checkpoint_tensor *tensor,
                           void *to, size_t size, size_t offset);
#endif
