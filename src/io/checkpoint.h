/* checkpoint.h: a model on disk as one table of tensors: a Hugging Face folder (one file or shards
 * with an index, also diffusers' names; safetensors before pytorch_model.bin when both are there,
 * as transformers takes them) or a single .safetensors, .pt, .pth or .bin file. */
#ifndef NIB_IO_CHECKPOINT_H
#define NIB_IO_CHECKPOINT_H
#include "io/safetensors.h"
#include "io/shard_index.h"
#include "io/tensor_file.h"

typedef struct nib_checkpoint_tensor {
    const nib_tensor_entry *entry; /* name, dtype, shape, size */
    size_t shard;
} nib_checkpoint_tensor;

typedef struct nib_checkpoint_shard {
    char *name;    /* without its folder */
    char *written; /* the name that the same shard has as safetensors */
    nib_tensor_file *file;
} nib_checkpoint_shard;

typedef struct nib_checkpoint {
    nib_mem *mem;
    char *path;                   /* as given */
    char *folder;                 /* that holds the files */
    bool is_file;                 /* path is the file itself */
    bool pickled;                 /* pytorch_model.bin or shards of it */
    const char *stem;             /* of safetensors: "model" or "diffusion_pytorch_model"; NULL for
                                   * a file */
    char *index_path;             /* NULL: one file, no index */
    nib_checkpoint_shard *shards; /* by name */
    size_t shard_count;
    nib_checkpoint_tensor *tensors; /* shard by shard, by offset: the order to read them in */
    const nib_checkpoint_tensor **by_name;
    size_t count, payload; /* tensors; bytes of all of them */
    char **carried;        /* names of files that go along; config.json is not one */
    size_t carried_count, carried_room;
} nib_checkpoint;

/* Open all of it and check: every shard, every tensor in exactly the shard that the index names,
 * none besides, total_size (where an index of safetensors gives one) equal to the tensors' bytes.
 * Fails: NIB_E_FORMAT naming file, tensor and byte; NIB_E_IO. */
nib_checkpoint *nib_checkpoint_open(nib_mem *mem, const char *path);
void nib_checkpoint_close(nib_checkpoint *checkpoint); /* NULL is fine */

const nib_checkpoint_tensor *nib_checkpoint_find(const nib_checkpoint *checkpoint,
                                                 const char *name); /* NULL: not there */

/* A value of the shards' __metadata__, the first that has the key, or NULL. */
const char *nib_checkpoint_metadata(const nib_checkpoint *checkpoint, const char *key);

/* Part of a tensor; all of one that lies dense in the mapped shard. As in tensor_file.h. */
nib_status nib_checkpoint_read(const nib_checkpoint *checkpoint,
                               const nib_checkpoint_tensor *tensor, void *to, size_t size,
                               size_t offset);
const void *nib_checkpoint_data(const nib_checkpoint *checkpoint,
                                const nib_checkpoint_tensor *tensor);

/* The path of a file of the folder, such as config.json, whether it exists or not; of a single
 * file, one that lies beside it. Give back with nib_mem_strfree. */
char *nib_checkpoint_path(const nib_checkpoint *checkpoint, const char *name);

#endif
