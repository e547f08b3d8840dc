/* file_config.h: config.json of a checkpoint, and the names of the tied head. */
#ifndef NIB_MODEL_FILE_CONFIG_H
#define NIB_MODEL_FILE_CONFIG_H
#include "io/checkpoint.h"

#include <jansson.h>

#include "base/text_util.h"

/* The weight of the head, by model_type: "lm_head.weight" nearly everywhere. `config` may be NULL.
 */
const char *nib_file_config_head(const json_t *config);

/* A head that shares the embedding's weight has none in the file. The table has another name in
 * each family, and one more where names lack the prefix of the whole model; ended by NULL. */
extern const char *const nib_tied_tables[];

/* Is the head the embedding, by what config.json says or by what its model_type takes for granted?
 */
bool nib_file_config_tied(const json_t *config);

/* The table that a tied head would share in this checkpoint; NULL: there is none. */
const nib_checkpoint_tensor *nib_tied_table_of(const nib_checkpoint *checkpoint);

/* The text of config.json with what `config` says of quantization, of tied weights and of the
 * dtype; everything else stays to the byte as it was written. */
nib_status nib_file_config_text(const char *text, const json_t *config, nib_text *out);
#endif
