/* checkpoint_write.h: a model on disk that appears whole or not at all.
 *
 *   OUT.partial/   grows: shards, then what describes them        the name OUT holds what it held
 *   OUT/           takes its place in one step                    the new model, all of it
 *
 * A kill leaves OUT.partial, which a later run continues or clears away. One process at a time
 * writes there. An OUT that ends with .safetensors, .pt, .pth or .bin is one file instead,
 * written as tensor_writer.h says; it takes no other files and cannot be continued. */
#ifndef NIB_IO_CHECKPOINT_WRITE_H
#define NIB_IO_CHECKPOINT_WRITE_H
#include "io/checkpoint.h"

typedef struct nib_checkpoint_output {
    const char *path;            /* OUT */
    const nib_checkpoint *input; /* must not be what OUT names; NULL: there is none */
    const char *stem;            /* "model" (also NULL) or "diffusion_pytorch_model" */
    size_t need;                 /* bytes that will be written; 0: not known */
    bool overwrite;              /* replace an OUT, clear away an OUT.partial */
    bool resume;                 /* go on in an OUT.partial */
    bool only_new;               /* neither can be asked for, so errors do not propose it */
} nib_checkpoint_output;

typedef struct nib_checkpoint_writer nib_checkpoint_writer;

/* Make or take over OUT.partial.
 * Fails: NIB_E_ARGUMENT when OUT is the input under whatever name, a link, something that is no
 * model, or there already without `overwrite`; NIB_E_FULL when `need` and 1 % is not free;
 * NIB_E_IO when another process is writing there. Nothing is changed then. */
nib_checkpoint_writer *nib_checkpoint_writer_open(nib_mem *mem,
                                                  const nib_checkpoint_output *output);

/* What interrupted work left to be read, or NULL with NIB_OK in *status: the bytes given to the
 * last nib_checkpoint_writer_note. Give back with nib_mem_free(mem, bytes, *size + 1). */
char *nib_checkpoint_writer_noted(nib_checkpoint_writer *writer, size_t *size, nib_status *status);

/* Keep a note beside the work (which tensors are done, from what), replaced as a whole each time;
 * it does not reach OUT. */
nib_status nib_checkpoint_writer_note(nib_checkpoint_writer *writer, const void *bytes,
                                      size_t size);

typedef enum nib_shard_state {
    NIB_SHARD_NEW,   /* nothing of it is there */
    NIB_SHARD_BEGUN, /* nib_checkpoint_writer_get and _keep apply */
    NIB_SHARD_DONE,  /* finished by interrupted work: get and keep likewise */
} nib_shard_state;

/* Begin the shard of this name; one at a time. `index` below is that of its plan. */
nib_status nib_checkpoint_writer_begin(nib_checkpoint_writer *writer, const char *name,
                                       const nib_safetensors_plan *plan, nib_shard_state *state);
nib_status nib_checkpoint_writer_put(nib_checkpoint_writer *writer, size_t index, const void *from,
                                     size_t size, size_t offset);
nib_status nib_checkpoint_writer_get(const nib_checkpoint_writer *writer, size_t index, void *to,
                                     size_t size, size_t offset);
nib_status nib_checkpoint_writer_keep(nib_checkpoint_writer *writer, size_t index);
nib_status nib_checkpoint_writer_end(nib_checkpoint_writer *writer); /* every byte given; synced */

/* A whole file beside the shards, such as config.json; and those that the input's folder carries
 * along, but not over a file that was written here. */
nib_status nib_checkpoint_writer_file(nib_checkpoint_writer *writer, const char *name,
                                      const void *bytes, size_t size);
nib_status nib_checkpoint_writer_carry(nib_checkpoint_writer *writer, const nib_checkpoint *from);

/* Write the index where there is one, and let OUT be the new model. Frees the writer in every
 * case. On failure OUT is what it was and OUT.partial is gone, except when only the clearing away
 * of a replaced model failed, which the message says. */
nib_status nib_checkpoint_writer_finish(nib_checkpoint_writer *writer);
void nib_checkpoint_writer_abort(nib_checkpoint_writer *writer); /* clears away; NULL is fine */
void nib_checkpoint_writer_leave(
    nib_checkpoint_writer *writer); /* OUT.partial stays; NULL is fine */
#endif
