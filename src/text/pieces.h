/* pieces.h: a text cut into pieces; what pre-tokenizers and decoders hand on to each other. */
#ifndef NIB_TEXT_PIECES_H
#define NIB_TEXT_PIECES_H
#include "base/text_util.h"

typedef struct nib_span {
    size_t start, end; /* bytes of the text, [start, end) */
} nib_span;

typedef struct nib_pieces {
    nib_text text; /* its mem is the seam of both */
    nib_span *spans;
    size_t count, room;
} nib_pieces;

void nib_pieces_clear(nib_pieces *pieces); /* keeps the room */
void nib_pieces_free(nib_pieces *pieces);
nib_status nib_pieces_add(nib_pieces *pieces, size_t start,
                          size_t end); /* empty ones are left out */

/* What was appended to the text since `start` becomes a piece, also when it is empty and `keep`. */
nib_status nib_pieces_close(nib_pieces *pieces, size_t start, bool keep);
#endif
