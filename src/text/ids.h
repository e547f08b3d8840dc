/* ids.h: the growing results of io.h, from the side that fills them. */
#ifndef NIB_TEXT_IDS_H
#define NIB_TEXT_IDS_H
#include <nibble/io.h>

#include "base/mem.h"

/* Point a zeroed result at the seam it grows from; one in use keeps its own. */
void nib_ids_open(nib_ids *ids, nib_mem *mem);
void nib_string_open(nib_string *string, nib_mem *mem);

nib_status nib_ids_append(nib_ids *ids, const int32_t *more, size_t count);
nib_status nib_string_append(nib_string *string, const char *bytes, size_t length);
#endif
