/* config_text.h: config.json changed in one key and in nothing else.
 *
 * Reading a JSON file and writing it again respells numbers (1e-05), reorders or drops what the
 * reader did not know. A quantized model's config.json is the input's, byte for byte, but for the
 * keys that had to change. */
#ifndef NIB_IO_CONFIG_TEXT_H
#define NIB_IO_CONFIG_TEXT_H
#include <jansson.h>
#include <nibble/nibble.h>

#include "base/mem.h"
#include "io/checkpoint.h"

/* config.json beside the weights; both NULL with NIB_OK when there is none (a single file, a folder
 * without). json_decref gives the document back, nib_mem_strfree the text, which may be NULL. */
nib_status nib_config_text_load(nib_mem *mem, const nib_checkpoint *checkpoint, json_t **config,
                                char **text);

/* The text with `key` of its outermost object set to `value`, or removed for a NULL value. A new
 * key comes last, in the indentation of the others. `path` is for errors and may be NULL. Give
 * back with nib_mem_strfree. Fails: NIB_E_FORMAT for text that is no JSON object. */
char *nib_config_text_set(nib_mem *mem, const char *text, size_t length, const char *key,
                          const json_t *value, const char *path);

/* A value as Hugging Face's files spell it: two blanks of indentation, ASCII, and a line end.
 * nib_mem_strfree. */
char *nib_config_text_dump(nib_mem *mem, const json_t *value);
#endif
