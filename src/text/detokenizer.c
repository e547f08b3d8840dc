/* Text as ids arrive.
 *
 * Decoders look at what came before: a space at the very beginning is cut off, a byte continues a
 * character. So the latest ids stay in a window; what is new is what decoding the window gives
 * behind the part of it that was shown. */
#include <string.h>

#include "base/error.h"
#include "text/ids.h"
#include "text/tokenizer.h"

/* A character has at most four bytes: what four ids did not mend stays broken. */
enum { MAX_HELD = 4, MAX_WINDOW = 16 };

struct nib_detokenizer {
    const nib_tokenizer *tokenizer;
    bool skip_special;
    nib_ids window;
    size_t context;   /* ids at its start whose text was shown before */
    nib_string shown; /* of the window's text, the part that was shown */
    nib_string whole; /* the window's text */
};

nib_detokenizer *nib_detokenizer_new(const nib_tokenizer *t, bool skip_special) {
    if (!t) return NULL;
    nib_detokenizer *d = nib_mem_alloc_zero(t->mem, sizeof *d);
    if (!d) return NULL;
    d->tokenizer = t;
    d->skip_special = skip_special;
    nib_ids_open(&d->window, t->mem);
    return d;
}

void nib_detokenizer_free(nib_detokenizer *d) {
    if (!d) return;
    nib_string_free(&d->whole);
    nib_string_free(&d->shown);
    nib_ids_free(&d->window);
    nib_mem_free(d->tokenizer->mem, d, sizeof *d);
}

static nib_status decode(nib_detokenizer *d, size_t from, nib_string *text) {
    text->length = 0;
    return nib_tokenizer_decode(d->tokenizer, d->window.data + from, d->window.count - from,
                                d->skip_special, text);
}

/* The window's text ends inside a character, which further ids may complete. */
static bool ends_broken(const nib_detokenizer *d) {
    const nib_string *w = &d->whole;
    return w->length >= 3 && !memcmp(w->data + w->length - 3, "\xEF\xBF\xBD", 3);
}

/* Keep the ids from `first` on; of their text all but the last `held` bytes was shown. */
static nib_status shorten(nib_detokenizer *d, size_t first, size_t held) {
    nib_ids *w = &d->window;
    memmove(w->data, w->data + first, (w->count - first) * sizeof *w->data);
    w->count -= first;
    NIB_TRY(decode(d, 0, &d->shown));
    d->shown.length -= held < d->shown.length ? held : d->shown.length;
    return NIB_OK;
}

static nib_status show(nib_detokenizer *d, bool last, nib_string *text) {
    NIB_TRY(decode(d, 0, &d->whole));
    size_t stable = d->whole.length, skip = d->shown.length;
    if (!last && ends_broken(d)) {
        /* Spelled bytes (ByteLevel) leave one U+FFFD; byte pieces (ByteFallback) turn to U+FFFD all
         * of them, so nothing of them is shown until they are whole. */
        if (d->tokenizer->decoder.spelled_bytes)
            stable -= 3;
        else if (d->window.count - d->context < MAX_HELD)
            return NIB_OK;
    }
    if (stable < skip || (skip && memcmp(d->whole.data, d->shown.data, skip) != 0)) {
        NIB_TRY(decode(d, d->context, &d->whole)); /* the context reads otherwise now */
        stable = d->whole.length;
        skip = 0;
    }
    NIB_TRY(nib_string_append(text, d->whole.data + skip, stable - skip));
    nib_ids *w = &d->window;
    const size_t held = d->whole.length - stable;
    if (stable > skip && !held) {
        NIB_TRY(shorten(d, d->context, 0));
        d->context = w->count;
    } else if (stable > skip) {
        /* a character that ids share: the ids from its first byte on are among the last three */
        const size_t first = w->count > MAX_WINDOW ? w->count - MAX_HELD : 0;
        NIB_TRY(shorten(d, first, held));
        d->context -= first < d->context ? first : d->context;
    } else if (!held) {
        /* Nothing to see. At the very beginning it stays, as it may have been cut off there. */
        if (d->shown.length) w->count = d->context;
        d->context = w->count;
    }
    return NIB_OK;
}

static nib_status open_result(const nib_detokenizer *d, nib_string *text) {
    if (!d) return nib_last_error()->status;
    if (!text) return NIB_RAISE(NIB_E_ARGUMENT, "detokenizer: no result was given");
    nib_string_open(text, d->tokenizer->mem);
    return nib_string_append(text, "", 0);
}

nib_status nib_detokenizer_next(nib_detokenizer *d, int32_t id, nib_string *text) {
    NIB_TRY(open_result(d, text));
    size_t length;
    if (id < 0) return NIB_RAISE(NIB_E_ARGUMENT, "detokenizer: id %d is negative", (int)id);
    if (!nib_tokenizer_decoded_piece(d->tokenizer, id, d->skip_special, &length)) return NIB_OK;
    NIB_TRY(nib_ids_append(&d->window, &id, 1));
    return show(d, false, text);
}

nib_status nib_detokenizer_end(nib_detokenizer *d, nib_string *text) {
    NIB_TRY(open_result(d, text));
    const nib_status status = d->window.count > d->context ? show(d, true, text) : NIB_OK;
    d->window.count = d->context = d->shown.length = 0;
    return status;
}
