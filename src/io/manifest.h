/* manifest.h: a checkpoint as its user sees it: named weights, each dense or quantized.
 *
 * A file holds tensors; a format says which of them are the parts of one quantized weight, and
 * how it was made. Reading a checkpoint gives a manifest; quantizing a float one plans a manifest,
 * and the format then tells what to write. */
#ifndef NIB_IO_MANIFEST_H
#define NIB_IO_MANIFEST_H
#include <jansson.h>
#include <nibble/extend.h>

#include "base/mem.h"
#include "io/checkpoint.h"

typedef struct nib_stored_part {
    char *name;    /* of the tensor in the file: "a.b._weight_scale" */
    nib_part part; /* what the layout says of it */
} nib_stored_part;

/* A tensor beside a weight that always holds the same number: quanto's scales of activations that
 * are not quantized. */
typedef struct nib_stored_constant {
    char *name;
    nib_dtype dtype; /* of a scalar */
    unsigned char bytes[8];
} nib_stored_constant;

enum { NIB_MAX_CONSTANTS = 2 };
typedef struct nib_stored { /* one weight */
    char *name;             /* "model.layers.0.mlp.up_proj.weight" */
    nib_dtype dtype;
    nib_shape shape;          /* seen from outside: those of the float weight */
    nib_config *config;       /* how it was quantized, owned; NULL: float, or not known */
    const nib_layout *layout; /* NULL: dense, one part of the same name */
    nib_qdesc desc;           /* quantized only */
    int nparts;
    nib_stored_part parts[NIB_MAX_PARTS];
    int nconstants;
    nib_stored_constant constants[NIB_MAX_CONSTANTS]; /* found when reading: whatever they hold */
    bool pending; /* the file does not tell the shape: see nib_manifest_resolve */
    size_t shard; /* the file that its first part lies in, or all go to */
} nib_stored;

/* A module whose inputs and outputs are quantized with static scales. */
typedef struct nib_stored_module {
    char *name; /* dotted */
    nib_config
        *config;    /* owned: says the type of the activations, and of the weight if it has any */
    bool weights;   /* an item of the manifest is its quantized weight */
    bool outputs;   /* false: what it gives stays float */
    float scale[2]; /* when writing: of inputs and outputs */
} nib_stored_module;

typedef struct nib_manifest {
    nib_mem *mem;
    const struct nib_format *format; /* NULL: every weight is float */
    const char *tied;  /* when writing: a second name of a weight, in no file; or NULL */
    bool alone;        /* when writing: without config.json or any other file beside */
    nib_stored *items; /* in file order */
    size_t count, room;
    nib_stored_module *modules; /* in file order */
    size_t nmodules, modules_room;
    const nib_stored **by_name; /* set by nib_manifest_index */
    size_t by_name_count;
} nib_manifest;

/* What a checkpoint holds, by the format that its config and metadata speak. `config` is
 * config.json or NULL. Fails with file and tensor named: parts that lack, that contradict the
 * layout, an unknown version. */
nib_status nib_manifest_read(nib_mem *mem, const nib_checkpoint *checkpoint, const json_t *config,
                             nib_manifest *out);
void nib_manifest_free(nib_manifest *manifest);

const nib_stored *nib_manifest_find(const nib_manifest *manifest, const char *name); /* or NULL */

/* Give a pending item its shape, which its parts must then fit; NIB_OK and nothing to do for
 * others. */
nib_status nib_manifest_resolve(nib_manifest *manifest, const nib_checkpoint *checkpoint,
                                const nib_stored *item, const nib_shape *shape);

/* Make find work, once every item is there; a name that is there twice is NIB_E_FORMAT. */
nib_status nib_manifest_index(nib_manifest *manifest);

int64_t nib_stored_count(const nib_stored *item); /* numbers in the weight */
size_t nib_stored_bytes(const nib_stored *item);  /* of all its parts, in the file */

/* How much of a weight's name is its module's: "a.b" of "a.b.weight", all of "a.b". */
size_t nib_module_length(const char *weight);

/* For formats that read: the path of a shard; nib_config_parse where the file is to blame for what
 * it says; and whether an item's parts are in the checkpoint, with the dtypes and shapes that the
 * layout calls for, which sets item->shard to the first one's. */
const char *nib_checkpoint_file(const nib_checkpoint *checkpoint, size_t shard);
nib_config *nib_manifest_config(const char *text);
nib_status nib_manifest_check_parts(const nib_checkpoint *checkpoint, nib_stored *item);

/* Append a module that quantizes activations; `name` and `config` are copied. */
nib_status nib_manifest_add_module(nib_manifest *manifest, const nib_stored_module *module);
const nib_stored_module *nib_manifest_module(const nib_manifest *manifest, const char *name,
                                             size_t length); /* or NULL */

/* Append an item (strings are copied); its parts come from the layout and the format. */
nib_status nib_manifest_add_dense(nib_manifest *manifest, const char *name, nib_dtype dtype,
                                  nib_shape shape, size_t shard);
nib_status nib_manifest_add_quantized(nib_manifest *manifest, const char *name,
                                      const nib_config *config, const nib_layout *layout,
                                      const nib_qdesc *desc, size_t shard);
#endif
