#include "text/tokenizer.h"

#include <string.h>

#include "base/error.h"
#include "text/ids.h"

/* ---- work space ---- */

static void work_free(nib_text_work *work) {
    if (!work) return;
    nib_pieces_free(&work->spare_pieces);
    nib_pieces_free(&work->pieces);
    nib_text_free(&work->spare_normal);
    nib_text_free(&work->normal);
    nib_bpe_work_free(work->bpe);
    nib_matcher_free(work->matcher);
    nib_mem_free(work->mem, work, sizeof *work);
}

static nib_text_work *work_take(const nib_tokenizer *t) {
    /* the one thing of a tokenizer that changes; it does so atomically */
    _Atomic(nib_text_work *) *slot = (_Atomic(nib_text_work *) *)(uintptr_t)&t->work;
    nib_text_work *work = atomic_exchange(slot, NULL);
    if (work) return work;
    work = nib_mem_alloc_zero(t->mem, sizeof *work);
    if (!work) return NULL;
    work->mem = work->normal.mem = work->spare_normal.mem = t->mem;
    work->pieces.text.mem = work->spare_pieces.text.mem = t->mem;
    work->matcher = nib_matcher_new(t->mem);
    if (work->matcher) work->bpe = nib_bpe_work_new(t->mem);
    if (work->bpe) return work;
    work_free(work);
    return NULL;
}

/* What a long text made large is given back rather than kept for the next. */
enum { MOST_KEPT_BYTES = 4 << 20 };
static size_t pieces_bytes(const nib_pieces *p) {
    return p->text.room + p->room * sizeof *p->spans;
}

static void work_give(const nib_tokenizer *t, nib_text_work *work) {
    const size_t bytes = work->normal.room + work->spare_normal.room + pieces_bytes(&work->pieces) +
                         pieces_bytes(&work->spare_pieces) + nib_bpe_work_bytes(work->bpe);
    if (bytes > MOST_KEPT_BYTES) {
        work_free(work);
        return;
    }
    _Atomic(nib_text_work *) *slot = (_Atomic(nib_text_work *) *)(uintptr_t)&t->work;
    work_free(atomic_exchange(slot, work));
}

void nib_tokenizer_free(nib_tokenizer *t) {
    if (!t) return;
    work_free(atomic_load(&t->work));
    nib_token_decoder_free(&t->decoder);
    nib_postprocessor_free(&t->post);
    nib_pretokenizer_free(&t->pretokenizer);
    nib_added_tokens_free(&t->added);
    nib_normalizer_free(&t->normalizer);
    nib_bpe_free(&t->bpe);
    nib_mem_free(t->mem, t, sizeof *t);
}

/* ---- encoding ---- */

/* Normal text without added tokens. */
static nib_status encode_plain(const nib_tokenizer *t, nib_text_work *work, const char *text,
                               size_t length, bool first, nib_ids *ids) {
    NIB_TRY(nib_pretokenizer_run(&t->pretokenizer, work->matcher, text, length, first,
                                 &work->pieces, &work->spare_pieces));
    for (size_t i = 0; i < work->pieces.count; i++) {
        const nib_span span = work->pieces.spans[i];
        NIB_TRY(nib_bpe_encode(&t->bpe, work->bpe, work->pieces.text.data + span.start,
                               span.end - span.start, ids));
    }
    return NIB_OK;
}

/* Given text between added tokens that are looked for in it. */
static nib_status encode_given(const nib_tokenizer *t, nib_text_work *work, const char *text,
                               size_t length, bool first, nib_ids *ids) {
    NIB_TRY(nib_normalizer_run(&t->normalizer, work->matcher, text, length, &work->normal,
                               &work->spare_normal));
    const char *normal = work->normal.data;
    const size_t size = work->normal.length;
    size_t at = 0, done = 0, start = 0, end = 0;
    const nib_added_token *token = NULL;
    while (nib_added_set_next(&t->added.normal, normal, size, &at, done, &start, &end, &token) ==
           NIB_OK) {
        if (start > done)
            NIB_TRY(encode_plain(t, work, normal + done, start - done, first && !done, ids));
        NIB_TRY(nib_ids_append(ids, &token->id, 1));
        done = end;
    }
    return done < size ? encode_plain(t, work, normal + done, size - done, first && !done, ids)
                       : NIB_OK;
}

static nib_status encode(const nib_tokenizer *t, nib_text_work *work, const char *text,
                         size_t length, nib_ids *ids) {
    size_t at = 0, done = 0, start = 0, end = 0;
    const nib_added_token *token = NULL;
    while (nib_added_set_next(&t->added.raw, text, length, &at, done, &start, &end, &token) ==
           NIB_OK) {
        if (start > done) NIB_TRY(encode_given(t, work, text + done, start - done, !done, ids));
        NIB_TRY(nib_ids_append(ids, &token->id, 1));
        done = end;
    }
    return done < length ? encode_given(t, work, text + done, length - done, !done, ids) : NIB_OK;
}

nib_status nib_tokenizer_encode(const nib_tokenizer *t, const char *text, size_t length,
                                bool add_special, nib_ids *ids) {
    if (!t) return nib_last_error()->status;
    if (!ids || (!text && length))
        return NIB_RAISE(NIB_E_ARGUMENT, "tokenizer: no %s was given", ids ? "text" : "result");
    const size_t valid = nib_utf8_valid(text, length);
    if (valid < length) {
        NIB_RAISE(NIB_E_FORMAT, "the text is not UTF-8 from byte %zu on", valid);
        return nib_error_at(NULL, NULL, (int64_t)valid);
    }
    nib_ids_open(ids, t->mem);
    const size_t before = ids->count;
    nib_text_work *work = work_take(t);
    if (!work) return NIB_E_MEMORY;
    nib_status status = NIB_OK;
    if (add_special) status = nib_ids_append(ids, t->post.before.data, t->post.before.count);
    if (status == NIB_OK) status = encode(t, work, text, length, ids);
    if (status == NIB_OK && add_special)
        status = nib_ids_append(ids, t->post.behind.data, t->post.behind.count);
    work_give(t, work);
    if (status < NIB_OK) ids->count = before;
    return status;
}

/* ---- decoding ---- */

const char *nib_tokenizer_decoded_piece(const nib_tokenizer *t, int32_t id, bool skip_special,
                                        size_t *length) {
    const nib_added_token *added = nib_added_tokens_by_id(&t->added, id);
    if (!added) return nib_vocabulary_piece(&t->bpe.vocabulary, id, length);
    if (added->special && skip_special) return NULL;
    *length = strlen(added->sought);
    return added->sought;
}

static nib_status decode(const nib_tokenizer *t, nib_text_work *work, const int32_t *ids, size_t n,
                         bool skip_special, nib_string *text) {
    nib_pieces *pieces = &work->pieces;
    nib_pieces_clear(pieces);
    nib_text_append(&pieces->text, "", 0);
    for (size_t i = 0; i < n; i++) {
        size_t length = 0;
        if (ids[i] < 0)
            return NIB_RAISE(NIB_E_ARGUMENT, "tokenizer: id %d (number %zu) is negative",
                             (int)ids[i], i);
        const char *piece = nib_tokenizer_decoded_piece(t, ids[i], skip_special, &length);
        if (!piece) continue;
        if (t->decoder.spaced && pieces->count) nib_text_append(&pieces->text, " ", 1);
        const size_t start = pieces->text.length;
        nib_text_append(&pieces->text, piece, length);
        NIB_TRY(nib_pieces_close(pieces, start, true));
    }
    if (t->decoder.spaced) return nib_string_append(text, pieces->text.data, pieces->text.length);
    NIB_TRY(nib_token_decoder_run(&t->decoder, work->matcher, pieces, &work->spare_pieces));
    for (size_t i = 0; i < pieces->count; i++)
        NIB_TRY(nib_string_append(text, pieces->text.data + pieces->spans[i].start,
                                  pieces->spans[i].end - pieces->spans[i].start));
    return NIB_OK;
}

nib_status nib_tokenizer_decode(const nib_tokenizer *t, const int32_t *ids, size_t n,
                                bool skip_special, nib_string *text) {
    if (!t) return nib_last_error()->status;
    if (!text || (!ids && n))
        return NIB_RAISE(NIB_E_ARGUMENT, "tokenizer: no %s was given", text ? "ids" : "result");
    nib_string_open(text, t->mem);
    NIB_TRY(nib_string_append(text, "", 0)); /* so that data is never NULL */
    const size_t before = text->length;
    nib_text_work *work = work_take(t);
    if (!work) return NIB_E_MEMORY;
    const nib_status status = decode(t, work, ids, n, skip_special, text);
    work_give(t, work);
    if (status < NIB_OK) {
        text->length = before;
        text->data[before] = '\0';
    }
    return status;
}

/* ---- looking up ---- */

size_t nib_tokenizer_size(const nib_tokenizer *t) { return t ? t->size : 0; }

int32_t nib_tokenizer_id(const nib_tokenizer *t, const char *piece, size_t length) {
    if (!t || !piece) return -1;
    const nib_added_token *added = nib_added_tokens_by_content(&t->added, piece, length);
    return added ? added->id : nib_vocabulary_id(&t->bpe.vocabulary, piece, length);
}

const char *nib_tokenizer_piece(const nib_tokenizer *t, int32_t id, size_t *length) {
    if (!t) return NULL;
    const nib_added_token *added = nib_added_tokens_by_id(&t->added, id);
    if (!added) return nib_vocabulary_piece(&t->bpe.vocabulary, id, length);
    if (length) *length = strlen(added->content);
    return added->content;
}

int32_t nib_tokenizer_special(const nib_tokenizer *t, const char *role) {
    for (int i = 0; t && role && i < NIB_ROLES; i++)
        if (!strcmp(role, nib_token_roles[i])) return t->roles[i];
    return -1;
}
