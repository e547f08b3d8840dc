#include "text/token_decoder.h"

#include <string.h>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/kinds.h"
#include "text/unicode_property.h"

struct nib_decode_step {
    nib_status (*run)(const nib_decode_step *step, nib_matcher *matcher, const nib_pieces *from,
                      nib_pieces *to);
    nib_pattern *pattern; /* Replace */
    char *content;        /* Replace: what to put; Strip, Metaspace: one character */
    size_t left, right;   /* Strip: how many at most */
    bool keeps_first;     /* Metaspace: the first piece's sign is a space, too */
};

static const char replacement_character[] = "\xEF\xBF\xBD";

/* Append bytes as UTF-8: each longest part of a character that ends wrongly becomes one U+FFFD,
 * as the Unicode standard recommends (chapter 3.9). */
static void add_repaired(nib_text *out, const char *bytes, size_t length) {
    size_t at = 0;
    while (at < length) {
        const size_t good = nib_utf8_valid(bytes + at, length - at);
        nib_text_append(out, bytes + at, good);
        at += good;
        if (at == length) break;
        /* How far the bytes could still have become a character: the second byte of some leads is
         * bounded (no overlong forms, surrogates or codes over U+10FFFF). */
        const unsigned char lead = (unsigned char)bytes[at];
        unsigned char low = 0x80, high = 0xBF;
        size_t most = 1;
        if (lead >= 0xC2 && lead <= 0xDF) most = 2;
        if (lead >= 0xE0 && lead <= 0xEF) most = 3;
        if (lead >= 0xF0 && lead <= 0xF4) most = 4;
        if (lead == 0xE0) low = 0xA0;
        if (lead == 0xED) high = 0x9F;
        if (lead == 0xF0) low = 0x90;
        if (lead == 0xF4) high = 0x8F;
        size_t n = 1;
        while (n < most && at + n < length && (unsigned char)bytes[at + n] >= low &&
               (unsigned char)bytes[at + n] <= high) {
            low = 0x80;
            high = 0xBF;
            n++;
        }
        nib_text_append(out, replacement_character, 3);
        at += n;
    }
}

/* ---- running ---- */

/* All pieces together are spelled bytes; a piece with a foreign character is taken as it is. */
static nib_status run_byte_level(const nib_decode_step *step, nib_matcher *matcher,
                                 const nib_pieces *from, nib_pieces *to) {
    (void)step;
    (void)matcher;
    nib_text bytes = {.mem = to->text.mem};
    for (size_t i = 0; i < from->count; i++) {
        const char *piece = from->text.data + from->spans[i].start;
        const size_t length = from->spans[i].end - from->spans[i].start, before = bytes.length;
        for (size_t at = 0; at < length;) {
            const int byte = nib_byte_alphabet_decode(nib_utf8_next(piece, &at));
            if (byte < 0) {
                bytes.length = before;
                nib_text_append(&bytes, piece, length);
                break;
            }
            const char one = (char)byte;
            nib_text_append(&bytes, &one, 1);
        }
    }
    if (bytes.length) add_repaired(&to->text, bytes.data, bytes.length);
    const bool failed = bytes.failed;
    nib_text_free(&bytes);
    return failed ? NIB_E_MEMORY : nib_pieces_close(to, 0, true);
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The byte of a piece spelled <0xNN>, with exactly two hexadecimal digits; -1 for other pieces. */
static int byte_of_piece(const char *piece, size_t length) {
    if (length != 6 || memcmp(piece, "<0x", 3) != 0 || piece[5] != '>') return -1;
    const int high = hex_value(piece[3]), low = hex_value(piece[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of byte pieces is one text if it is UTF-8 as a whole, else one U+FFFD for each byte. */
static nib_status close_bytes(nib_pieces *to, size_t start) {
    const size_t n = to->text.length - start;
    if (!n) return NIB_OK;
    if (!to->text.failed && nib_utf8_valid(to->text.data + start, n) < n) {
        to->text.length = start;
        for (size_t i = 0; i < n; i++) {
            const size_t one = to->text.length;
            nib_text_append(&to->text, replacement_character, 3);
            NIB_TRY(nib_pieces_close(to, one, true));
        }
        return NIB_OK;
    }
    return nib_pieces_close(to, start, true);
}

static nib_status run_byte_fallback(const nib_decode_step *step, nib_matcher *matcher,
                                    const nib_pieces *from, nib_pieces *to) {
    (void)step;
    (void)matcher;
    size_t start = 0; /* of the run of bytes at the end of to->text */
    for (size_t i = 0; i < from->count; i++) {
        const char *piece = from->text.data + from->spans[i].start;
        const size_t length = from->spans[i].end - from->spans[i].start;
        const int byte = byte_of_piece(piece, length);
        if (byte >= 0) {
            const char one = (char)byte;
            nib_text_append(&to->text, &one, 1);
            continue;
        }
        NIB_TRY(close_bytes(to, start));
        start = to->text.length;
        nib_text_append(&to->text, piece, length);
        NIB_TRY(nib_pieces_close(to, start, true));
        start = to->text.length;
    }
    return close_bytes(to, start);
}

static nib_status run_fuse(const nib_decode_step *step, nib_matcher *matcher,
                           const nib_pieces *from, nib_pieces *to) {
    (void)step;
    (void)matcher;
    for (size_t i = 0; i < from->count; i++)
        nib_text_append(&to->text, from->text.data + from->spans[i].start,
                        from->spans[i].end - from->spans[i].start);
    return nib_pieces_close(to, 0, true);
}

static nib_status run_replace(const nib_decode_step *step, nib_matcher *matcher,
                              const nib_pieces *from, nib_pieces *to) {
    for (size_t i = 0; i < from->count; i++) {
        const char *piece = from->text.data + from->spans[i].start;
        const size_t length = from->spans[i].end - from->spans[i].start, start = to->text.length;
        nib_match match = {0};
        size_t done = 0;
        nib_status status = NIB_END;
        while (length && (status = nib_pattern_next(step->pattern, matcher, piece, length,
                                                    &match)) == NIB_OK) {
            nib_text_append(&to->text, piece + done, match.start - done);
            nib_text_add(&to->text, step->content);
            done = match.end;
        }
        if (status < NIB_OK) return status;
        nib_text_append(&to->text, piece + done, length - done);
        NIB_TRY(nib_pieces_close(to, start, true));
    }
    return NIB_OK;
}

static nib_status run_strip(const nib_decode_step *step, nib_matcher *matcher,
                            const nib_pieces *from, nib_pieces *to) {
    (void)matcher;
    const size_t n = strlen(step->content);
    for (size_t i = 0; i < from->count; i++) {
        const char *piece = from->text.data + from->spans[i].start;
        size_t length = from->spans[i].end - from->spans[i].start;
        const size_t start = to->text.length;
        for (size_t k = 0; k < step->left && length >= n && !memcmp(piece, step->content, n); k++) {
            piece += n;
            length -= n;
        }
        for (size_t k = 0;
             k < step->right && length >= n && !memcmp(piece + length - n, step->content, n); k++)
            length -= n;
        nib_text_append(&to->text, piece, length);
        NIB_TRY(nib_pieces_close(to, start, true));
    }
    return NIB_OK;
}

static nib_status run_metaspace(const nib_decode_step *step, nib_matcher *matcher,
                                const nib_pieces *from, nib_pieces *to) {
    (void)matcher;
    const size_t n = strlen(step->content);
    for (size_t i = 0; i < from->count; i++) {
        const char *piece = from->text.data + from->spans[i].start;
        const size_t length = from->spans[i].end - from->spans[i].start, start = to->text.length;
        for (size_t at = 0; at < length;) {
            const size_t before = at;
            nib_utf8_next(piece, &at);
            if (at - before != n || memcmp(piece + before, step->content, n) != 0)
                nib_text_append(&to->text, piece + before, at - before);
            else if (i || step->keeps_first)
                nib_text_append(&to->text, " ", 1);
        }
        NIB_TRY(nib_pieces_close(to, start, true));
    }
    return NIB_OK;
}

nib_status nib_token_decoder_run(const nib_token_decoder *d, nib_matcher *matcher,
                                 nib_pieces *pieces, nib_pieces *spare) {
    for (size_t i = 0; i < d->count; i++) {
        nib_pieces_clear(spare);
        nib_text_append(&spare->text, "", 0); /* so that its data is there */
        NIB_TRY(d->steps[i].run(&d->steps[i], matcher, pieces, spare));
        const nib_pieces swap = *pieces;
        *pieces = *spare;
        *spare = swap;
    }
    return NIB_OK;
}

/* ---- reading ---- */

static nib_decode_step *add_step(nib_token_decoder *d) {
    void *steps = d->steps;
    if (nib_kinds_grow(d->mem, &steps, d->count, sizeof *d->steps) < NIB_OK) return NULL;
    d->steps = steps;
    return &d->steps[d->count++];
}

static nib_status read_byte_level(void *self, const json_t *object) {
    (void)object;
    nib_token_decoder *d = self;
    nib_decode_step *step = add_step(d);
    if (!step) return NIB_E_MEMORY;
    step->run = run_byte_level;
    d->spelled_bytes |= d->count == 1;
    return NIB_OK;
}

static nib_status read_byte_fallback(void *self, const json_t *object) {
    (void)object;
    nib_decode_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->run = run_byte_fallback;
    return NIB_OK;
}

static nib_status read_fuse(void *self, const json_t *object) {
    (void)object;
    nib_decode_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->run = run_fuse;
    return NIB_OK;
}

static nib_status read_replace(void *self, const json_t *object) {
    nib_token_decoder *d = self;
    const char *content = NULL;
    NIB_TRY(nib_json_string(object, "content", true, &content));
    nib_decode_step *step = add_step(d);
    if (!step) return NIB_E_MEMORY;
    step->run = run_replace;
    step->content = nib_mem_strdup(d->mem, content);
    if (!step->content) return NIB_E_MEMORY;
    return nib_kinds_pattern(d->mem, object, "pattern", &step->pattern);
}

/* A key that holds exactly one character, copied. */
static nib_status read_character(nib_token_decoder *d, const json_t *object, const char *key,
                                 char **copy) {
    const char *text = NULL;
    size_t one = 0;
    NIB_TRY(nib_json_string(object, key, true, &text));
    if (*text) nib_utf8_next(text, &one);
    if (!one || text[one])
        return NIB_RAISE(NIB_E_FORMAT, "decoder: %s \"%.40s\" is not one character", key, text);
    *copy = nib_mem_strdup(d->mem, text);
    return *copy ? NIB_OK : NIB_E_MEMORY;
}

static nib_status read_strip(void *self, const json_t *object) {
    int64_t left = 0, right = 0;
    NIB_TRY(nib_json_int(object, "start", 0, INT32_MAX, true, &left));
    NIB_TRY(nib_json_int(object, "stop", 0, INT32_MAX, true, &right));
    nib_decode_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->run = run_strip;
    step->left = (size_t)left;
    step->right = (size_t)right;
    return read_character(self, object, "content", &step->content);
}

static nib_status read_metaspace(void *self, const json_t *object) {
    const char *prepend = "always";
    bool prefix_space = true;
    NIB_TRY(nib_json_string(object, "prepend_scheme", false, &prepend));
    NIB_TRY(nib_json_bool(object, "add_prefix_space", false, &prefix_space));
    nib_decode_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->run = run_metaspace;
    step->keeps_first = !prefix_space || !strcmp(prepend, "never");
    return read_character(self, object, "replacement", &step->content);
}

static const nib_kind kinds[] = {
    {"ByteLevel", read_byte_level},
    {"ByteFallback", read_byte_fallback},
    {"Fuse", read_fuse},
    {"Replace", read_replace},
    {"Strip", read_strip},
    {"Metaspace", read_metaspace},
    {NULL, NULL},
};

nib_status nib_token_decoder_read(nib_token_decoder *d, nib_mem *mem, const json_t *object) {
    *d = (nib_token_decoder){.mem = mem, .spaced = !object || json_is_null(object)};
    const nib_status status = nib_kinds_read("decoder", "decoders", kinds, object, d);
    if (status < NIB_OK) nib_token_decoder_free(d);
    return status;
}

void nib_token_decoder_free(nib_token_decoder *d) {
    for (size_t i = 0; i < d->count; i++) {
        nib_pattern_free(d->steps[i].pattern);
        nib_mem_strfree(d->mem, d->steps[i].content);
    }
    nib_mem_free(d->mem, d->steps, d->count * sizeof *d->steps);
    *d = (nib_token_decoder){0};
}
