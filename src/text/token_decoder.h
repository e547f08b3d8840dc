/* token_decoder.h: from the pieces of ids to text, the way back of normalizer and pre-tokenizer. */
#ifndef NIB_TEXT_TOKEN_DECODER_H
#define NIB_TEXT_TOKEN_DECODER_H
#include "base/json.h"
#include "text/pattern.h"
#include "text/pieces.h"

typedef struct nib_decode_step nib_decode_step;
typedef struct nib_token_decoder {
    nib_mem *mem;
    nib_decode_step *steps;
    size_t count;
    bool spaced;        /* none was given: pieces are joined by spaces */
    bool spelled_bytes; /* ByteLevel comes first: pieces may end inside a character */
} nib_token_decoder;

/* Read the "decoder" of a tokenizer.json. On failure it needs no free. */
nib_status nib_token_decoder_read(nib_token_decoder *decoder, nib_mem *mem, const json_t *object);
void nib_token_decoder_free(nib_token_decoder *decoder);

/* Turn pieces (empty ones count) into the pieces of the decoded text, in place; `spare` is used
 * on the way. The text is valid UTF-8 if the pieces were. */
nib_status nib_token_decoder_run(const nib_token_decoder *decoder, nib_matcher *matcher,
                                 nib_pieces *pieces, nib_pieces *spare);

#endif
