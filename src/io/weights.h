/* weights.h: the weights of a checkpoint by name, ready to run.
 *
 * A tensor is a view of the mapped file where it lies; only one that the file misaligns for its
 * dtype, or that was asked for in another dtype, is copied. Whatever the format of the files, a
 * weight comes under its own name ("model.layers.0.mlp.up_proj.weight"), dense or quantized. */
#ifndef NIB_IO_WEIGHTS_H
#define NIB_IO_WEIGHTS_H
#include <jansson.h>
#include <nibble/nibble.h>

#include "io/checkpoint.h"

typedef struct nib_weights nib_weights;

/* Open the checkpoint at `path` and check every header. `config` is its config.json. `dtype`: of
 * float weights, 0: as in the file. Tensors that it gave must be freed before it is closed. */
nib_weights *nib_weights_open(nib_ctx *ctx, const char *path, const json_t *config, nib_dtype dtype,
                              bool no_mmap);
void nib_weights_close(nib_weights *weights); /* NULL is fine */

/* All weights were taken: the tables of names go, files stay mapped. Only the sizes and closing may
 * follow. */
void nib_weights_settle(nib_weights *weights);

bool nib_weights_has(const nib_weights *weights, const char *name);

/* Caller owns. `shape` is what the model asks for, which some formats need to read their bytes by;
 * the tensor may turn out to have another. A name that is not there is NIB_E_FORMAT; path and
 * tensor are on record. */
nib_tensor *nib_weights_get(nib_weights *weights, const char *name, const nib_shape *shape);

/* The same for what need not take part in a product, such as a counter: dense tensors of any dtype,
 * as the file has them. */
nib_tensor *nib_weights_get_any(nib_weights *weights, const char *name, const nib_shape *shape);

/* Their names, in the order of the files. */
size_t nib_weights_count(const nib_weights *weights);
const char *nib_weights_name(const nib_weights *weights, size_t i);

/* Say of the latest failure that this tensor is to blame: its file, name and first byte, or the
 * checkpoint's path for one that is not there. */
nib_status nib_weights_error_at(const nib_weights *weights, const char *name);

const char *nib_weights_metadata(const nib_weights *weights, const char *key); /* or NULL */

/* Module i of those whose activations are quantized, in file order; NULL: no more. And the number
 * of its scale, "input_scale" or "output_scale". */
const struct nib_stored_module *nib_weights_module(const nib_weights *weights, size_t i);
nib_status nib_weights_scale(const nib_weights *weights, const char *module, const char *scale,
                             float *value);

/* The files behind the weights, borrowed. */
const nib_checkpoint *nib_weights_checkpoint(const nib_weights *weights);

/* Bytes of all tensors in the files. */
size_t nib_weights_file_bytes(const nib_weights *weights);
#endif
