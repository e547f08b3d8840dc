/* tokenizer.h: the parts of a tokenizer, in the order in which text passes them. */
#ifndef NIB_TEXT_TOKENIZER_H
#define NIB_TEXT_TOKENIZER_H
#include <nibble/io.h>
#include <stdatomic.h>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pieces.h"
#include "text/postprocessor.h"
#include "text/pretokenizer.h"
#include "text/token_decoder.h"

enum { NIB_ROLES = 4 }; /* bos, eos, unk, pad */
extern const char *const nib_token_roles[NIB_ROLES];

/* What encoding and decoding write while they work. */
typedef struct nib_text_work {
    nib_mem *mem;
    nib_matcher *matcher;
    nib_bpe_work *bpe;
    nib_text normal, spare_normal;
    nib_pieces pieces, spare_pieces;
} nib_text_work;

struct nib_tokenizer {
    nib_mem *mem;
    nib_normalizer normalizer;
    nib_added_tokens added;
    nib_pretokenizer pretokenizer;
    nib_bpe bpe;
    nib_postprocessor post;
    nib_token_decoder decoder;
    size_t size;              /* highest id + 1, added tokens included */
    int32_t roles[NIB_ROLES]; /* ids, -1 where none is named */
    /* One work space waits here between calls; a thread that finds none makes its own, and the
     * last to finish leaves one. */
    _Atomic(nib_text_work *) work;
};

/* The tokenizer.json that vocab.json and merges.txt (`length` bytes) stand for, by what
 * tokenizer_config.json, or NULL, says. Caller owns. */
json_t *nib_vocab_merges_json(const json_t *vocab, const char *merges, size_t length,
                              const json_t *config);

/* The piece of an id as it goes into the decoder: of an added token that is looked for in normal
 * text, its normal form. NULL when the id has none, or is special and those are skipped. */
const char *nib_tokenizer_decoded_piece(const nib_tokenizer *t, int32_t id, bool skip_special,
                                        size_t *length);

#endif
