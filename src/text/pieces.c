#include "text/pieces.h"

void nib_pieces_clear(nib_pieces *pieces) {
    pieces->text.length = 0;
    pieces->text.failed = false;
    pieces->count = 0;
}

void nib_pieces_free(nib_pieces *pieces) {
    nib_mem_free(pieces->text.mem, pieces->spans, pieces->room * sizeof *pieces->spans);
    nib_text_free(&pieces->text);
    pieces->spans = NULL;
    pieces->count = pieces->room = 0;
}

static nib_status push(nib_pieces *pieces, size_t start, size_t end) {
    if (pieces->count == pieces->room) {
        const size_t room = pieces->room ? pieces->room * 2 : 64;
        nib_span *grown = nib_mem_realloc(pieces->text.mem, pieces->spans,
                                          pieces->room * sizeof *grown, room * sizeof *grown);
        if (!grown) return NIB_E_MEMORY;
        pieces->spans = grown;
        pieces->room = room;
    }
    pieces->spans[pieces->count++] = (nib_span){start, end};
    return NIB_OK;
}

nib_status nib_pieces_add(nib_pieces *pieces, size_t start, size_t end) {
    return start < end ? push(pieces, start, end) : NIB_OK;
}

nib_status nib_pieces_close(nib_pieces *pieces, size_t start, bool keep) {
    if (pieces->text.failed) return NIB_E_MEMORY;
    return keep || start < pieces->text.length ? push(pieces, start, pieces->text.length) : NIB_OK;
}
