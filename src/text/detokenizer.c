/* Text as ids arrive.
 *
 * The ids whose text was shown last stay as context, since decoders look at what came before (a
 * space at the very beginning is cut off, a byte may continue a character). What is new is the
 * difference between decoding the context with and without the ids held back. */
#include <string.h>

#include "base/error.h"
#include "text/ids.h"
#include "text/tokenizer.h"

/* A character has at most four bytes: what is still broken after that many ids will stay so. */
enum { MAX_HELD = 4 };

struct nib_detokenizer {
    const nib_tokenizer *tokenizer;
    bool skip_special;
    nib_ids ids; /* context, then what is held back */
    size_t context;
    nib_string known, whole; /* texts of the context, and of all ids */
};

nib_detokenizer *nib_detokenizer_new(const nib_tokenizer *t, bool skip_special) {
    if (!t) return NULL;
    nib_detokenizer *d = nib_mem_alloc_zero(t->mem, sizeof *d);
    if (!d) return NULL;
    d->tokenizer = t;
    d->skip_special = skip_special;
    nib_ids_open(&d->ids, t->mem);
    return d;
}

void nib_detokenizer_free(nib_detokenizer *d) {
    if (!d) return;
    nib_string_free(&d->whole);
    nib_string_free(&d->known);
    nib_ids_free(&d->ids);
    nib_mem_free(d->tokenizer->mem, d, sizeof *d);
}

static nib_status decode(nib_detokenizer *d, size_t from, size_t n, nib_string *text) {
    text->length = 0;
    return nib_tokenizer_decode(d->tokenizer, d->ids.data + from, n, d->skip_special, text);
}

static bool ends_broken(const nib_string *text) {
    return text->length >= 3 && !memcmp(text->data + text->length - 3, "\xEF\xBF\xBD", 3);
}

/* Show what is held back, and make it the context. */
static nib_status show(nib_detokenizer *d, nib_string *text) {
    const size_t held = d->ids.count - d->context;
    size_t skip = d->known.length;
    if (d->whole.length < skip || (skip && memcmp(d->whole.data, d->known.data, skip) != 0)) {
        NIB_TRY(decode(d, d->context, held, &d->whole)); /* the context reads otherwise now */
        skip = 0;
    }
    NIB_TRY(nib_string_append(text, d->whole.data + skip, d->whole.length - skip));
    if (d->whole.length == skip) {
        /* Nothing to see. At the very beginning it stays, as it may have been cut off there. */
        if (d->known.length) d->ids.count = d->context;
        d->context = d->ids.count;
        return NIB_OK;
    }
    memmove(d->ids.data, d->ids.data + d->context, held * sizeof *d->ids.data);
    d->ids.count = d->context = held;
    return decode(d, 0, held, &d->known);
}

nib_status nib_detokenizer_next(nib_detokenizer *d, int32_t id, nib_string *text) {
    if (!d) return nib_last_error()->status;
    if (!text) return NIB_RAISE(NIB_E_ARGUMENT, "detokenizer: no result was given");
    nib_string_open(text, d->tokenizer->mem);
    NIB_TRY(nib_string_append(text, "", 0));
    if (id < 0) return NIB_RAISE(NIB_E_ARGUMENT, "detokenizer: id %d is negative", (int)id);
    size_t length;
    if (!nib_tokenizer_decoded_piece(d->tokenizer, id, d->skip_special, &length)) return NIB_OK;
    NIB_TRY(nib_ids_append(&d->ids, &id, 1));
    nib_status status = decode(d, 0, d->ids.count, &d->whole);
    if (status == NIB_OK && (!ends_broken(&d->whole) || d->ids.count - d->context >= MAX_HELD))
        status = show(d, text);
    if (status < NIB_OK && d->ids.count > d->context) d->ids.count--;
    return status;
}

nib_status nib_detokenizer_end(nib_detokenizer *d, nib_string *text) {
    if (!d) return nib_last_error()->status;
    if (!text) return NIB_RAISE(NIB_E_ARGUMENT, "detokenizer: no result was given");
    nib_string_open(text, d->tokenizer->mem);
    NIB_TRY(nib_string_append(text, "", 0));
    if (d->ids.count > d->context) {
        NIB_TRY(decode(d, 0, d->ids.count, &d->whole));
        NIB_TRY(show(d, text));
    }
    d->ids.count = d->context = d->known.length = 0;
    return NIB_OK;
}
