/* format.h: how one system writes quantized checkpoints, one file each: format_<name>.c. */
#ifndef NIB_IO_FORMAT_H
#define NIB_IO_FORMAT_H
#include "base/text_util.h"
#include "io/manifest.h"
#include "io/safetensors.h"

/* Pairs for __metadata__; strings belong to the list. */
typedef struct nib_metadata_list {
    nib_mem *mem;
    nib_safetensors_pair *pairs;
    size_t count, room;
} nib_metadata_list;
nib_status nib_metadata_add(nib_metadata_list *metadata, const char *key, const char *value);
void nib_metadata_free(nib_metadata_list *metadata);

typedef struct nib_format {
    const char *name, *doc; /* "torchao" */

    /* The layout in which this format holds such codes of such a scheme, or NULL. */
    const nib_layout *(*layout)(const nib_config *config, const nib_qdesc *desc);
    const char *wants; /* optional: what it holds, in words, for those who asked for more */

    /* Name in the file of a part of the weight `name`; nib_mem_strfree gives it back. */
    char *(*part_name)(nib_mem *mem, const char *name, const nib_part *part);

    /* Scalars that this format keeps beside a weight: appended to item->constants. NULL: none. */
    nib_status (*constants)(nib_mem *mem, nib_stored *item);

    /* Put the scales of a module's activations in place of those constants. NULL: this format has
     * no place for static activations. */
    void (*scales)(nib_stored *item, const nib_stored_module *module);

    /* __metadata__ of one shard, when all of `manifest` is written. */
    nib_status (*metadata)(const nib_manifest *manifest, size_t shard, nib_metadata_list *out);

    /* Put "quantization_config" (or nothing) into config.json. */
    nib_status (*config)(const nib_manifest *manifest, json_t *config);

    /* A further file, such as quanto_qmap.json: its name, or NULL for none; text is filled. */
    const char *(*side_file)(const nib_manifest *manifest, nib_text *text, nib_status *status);

    /* Whether a checkpoint speaks this format, in *speaks; and if so, its weights. */
    nib_status (*detect)(const nib_checkpoint *checkpoint, const json_t *config, bool *speaks);
    nib_status (*read)(const nib_checkpoint *checkpoint, const json_t *config, nib_manifest *out);
} nib_format;

/* Configs that a format cannot spell, such as an older epsilon: `spell` appends what would be read
 * back for a weight (NULL: nothing is), and where that is another config, __metadata__["nibble"] of
 * every file has
 *     {"version": 1, "schemes": {"a.weight": "intx_weight_only:bits=4,eps=v0.17"}}
 * Other readers pass over it. nib_format_noted gives the "schemes" (json_decref) or NULL: none, or
 * a failure in *status. */
nib_status nib_format_note(const nib_manifest *manifest,
                           nib_status (*spell)(const nib_manifest *, const nib_stored *,
                                               nib_text *),
                           nib_metadata_list *out);
json_t *nib_format_noted(const nib_checkpoint *checkpoint, nib_status *status);

/* "quantization_config" of config.json (or of NULL), and its "quant_method"; NULL: none. */
const json_t *nib_format_about(const json_t *config);
const char *nib_format_method(const json_t *config);

const nib_format *nib_format_find(const char *name); /* NULL: unknown */
const nib_format *nib_format_at(size_t i);           /* in list order; NULL: no more */
#endif
