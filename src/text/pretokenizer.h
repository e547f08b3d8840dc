/* pretokenizer.h: cuts normal text into the pieces that the model then sees one by one. */
#ifndef NIB_TEXT_PRETOKENIZER_H
#define NIB_TEXT_PRETOKENIZER_H
#include "base/json.h"
#include "text/pattern.h"
#include "text/pieces.h"

typedef struct nib_cut_step nib_cut_step;
typedef struct nib_pretokenizer {
    nib_mem *mem;
    nib_cut_step *steps;
    size_t count;
} nib_pretokenizer;

/* Read the "pre_tokenizer" of a tokenizer.json; null is none: the whole text is one piece. On
 * failure it needs no free. */
nib_status nib_pretokenizer_read(nib_pretokenizer *pretokenizer, nib_mem *mem,
                                 const json_t *object);
void nib_pretokenizer_free(nib_pretokenizer *pretokenizer);

/* Cut text, valid UTF-8, into `out`, which is emptied first; `spare` is used on the way. `first`:
 * the text is the beginning of what the caller gave (Metaspace asks). */
nib_status nib_pretokenizer_run(const nib_pretokenizer *pretokenizer, nib_matcher *matcher,
                                const char *text, size_t length, bool first, nib_pieces *out,
                                nib_pieces *spare);
#endif
