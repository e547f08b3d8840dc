/* normalizer.h: what happens to text before it is cut: Unicode forms, replacements. */
#ifndef NIB_TEXT_NORMALIZER_H
#define NIB_TEXT_NORMALIZER_H
#include "base/json.h"
#include "base/text_util.h"
#include "text/pattern.h"

typedef struct nib_normalize_step nib_normalize_step;
typedef struct nib_normalizer {
    nib_mem *mem;
    nib_normalize_step *steps;
    size_t count;
} nib_normalizer;

/* Read the "normalizer" of a tokenizer.json; null is none. On failure it needs no free. */
nib_status nib_normalizer_read(nib_normalizer *normalizer, nib_mem *mem, const json_t *object);
void nib_normalizer_free(nib_normalizer *normalizer);

/* Put text, valid UTF-8, in normal form into `out`, which is emptied first; `spare` is used on the
 * way. Both carry the seam they grow from. */
nib_status nib_normalizer_run(const nib_normalizer *normalizer, nib_matcher *matcher,
                              const char *text, size_t length, nib_text *out, nib_text *spare);

/* One of the four Unicode forms, by name: "NFC", "NFD", "NFKC", "NFKD". In unicode_form.c. */
typedef enum nib_unicode_form { NIB_NFC, NIB_NFD, NIB_NFKC, NIB_NFKD } nib_unicode_form;
nib_status nib_unicode_form_apply(nib_unicode_form form, const char *text, size_t length,
                                  nib_text *out);
#endif
