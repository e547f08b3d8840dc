/* postprocessor.h: the special ids that go before and behind the ids of a text. */
#ifndef NIB_TEXT_POSTPROCESSOR_H
#define NIB_TEXT_POSTPROCESSOR_H
#include <nibble/io.h>

#include "base/json.h"
#include "base/mem.h"

typedef struct nib_postprocessor {
    nib_mem *mem;
    nib_ids before, behind;
} nib_postprocessor;

/* Read the "post_processor" of a tokenizer.json; null adds nothing. Ids have to lie below `size`.
 * On failure it needs no free. */
nib_status nib_postprocessor_read(nib_postprocessor *post, nib_mem *mem, const json_t *object,
                                  size_t size);
void nib_postprocessor_free(nib_postprocessor *post);
#endif
