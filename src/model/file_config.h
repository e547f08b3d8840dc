/* file_config.h: config.json of a checkpoint, and the names of the tied head. */
#ifndef NIB_MODEL_FILE_CONFIG_H
#define NIB_MODEL_FILE_CONFIG_H
#include "io/checkpoint.h"

#include <jansson.h>

#include "base/text_util.h"

/* A head that shares the embedding's weight has none in the file. */
#define NIB_TIED_HEAD  "lm_head.weight"
#define NIB_TIED_TABLE "model.embed_tokens.weight"

/* The text of config.json with what `config` says of quantization, of tied weights and of the
 * dtype; everything else stays to the byte as it was written. */
nib_status nib_file_config_text(const char *text, const json_t *config, nib_text *out);
#endif
