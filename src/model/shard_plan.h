/* shard_plan.h: one output file of a plan: its tensors, its metadata, its exact size. */
#ifndef NIB_MODEL_SHARD_PLAN_H
#define NIB_MODEL_SHARD_PLAN_H
#include "io/checkpoint_write.h"
#include "model/file_plan.h"

typedef struct nib_shard_plan {
    nib_mem *mem;
    nib_safetensors_planned *planned;
    size_t count, room;
    nib_metadata_list metadata;
    size_t size, payload; /* of the file, and of its tensors */
} nib_shard_plan;

nib_status nib_shard_plan_open(const nib_file_plan *plan, size_t shard, nib_shard_plan *out);
void nib_shard_plan_close(nib_shard_plan *shard);

/* The file's name: that of the source's shard, or model.safetensors. */
const char *nib_shard_plan_name(const nib_file_plan *plan, size_t shard);

/* Bytes of all shards, of the index and of config.json to be. */
nib_status nib_shard_plan_predict(const nib_file_plan *plan, size_t *weights, size_t *index,
                                  size_t *config);

/* The constants of an item whose first part has index `first` in the shard that is being written.
 */
nib_status nib_shard_plan_constants(const nib_stored *item, size_t first,
                                    nib_checkpoint_writer *out);

/* Everything beside the shards: the format's own file, what the source carries along, config.json.
 */
nib_status nib_shard_plan_texts(const nib_file_plan *plan, nib_checkpoint_writer *out);
#endif
