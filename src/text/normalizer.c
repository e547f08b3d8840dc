#include "text/normalizer.h"

#include <string.h>
#include <utf8proc.h>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/kinds.h"
#include "text/unicode_property.h"

struct nib_normalize_step {
    nib_status (*run)(const nib_normalize_step *step, nib_matcher *matcher, const char *text,
                      size_t length, nib_text *out);
    nib_unicode_form form;
    nib_pattern *pattern; /* Replace */
    char *content;        /* Replace, Prepend */
    bool left, right;     /* Strip */
};

/* ---- running ---- */

static nib_status run_form(const nib_normalize_step *step, nib_matcher *matcher, const char *text,
                           size_t length, nib_text *out) {
    (void)matcher;
    return nib_unicode_form_apply(step->form, text, length, out);
}

/* Capitals that Unicode 16 and 17 added, which Rust's tables have and older ones of utf8proc lack:
 * from the first to the last (in steps) each has its small letter that far away. */
static int32_t to_lower(int32_t code) {
    static const struct {
        int32_t first, last, step, distance;
    } newer[] = {
        {0x1C89, 0x1C89, 1, 1},      {0xA7CB, 0xA7CB, 1, 0x264 - 0xA7CB},
        {0xA7CC, 0xA7CE, 2, 1},      {0xA7D2, 0xA7D4, 2, 1},
        {0xA7DA, 0xA7DA, 1, 1},      {0xA7DC, 0xA7DC, 1, 0x19B - 0xA7DC},
        {0x10D50, 0x10D65, 1, 0x20}, {0x16EA0, 0x16EB8, 1, 0x1B},
    };
    for (size_t i = 0; i < sizeof newer / sizeof *newer && code >= newer[0].first; i++)
        if (code >= newer[i].first && code <= newer[i].last &&
            (code - newer[i].first) % newer[i].step == 0)
            return code + newer[i].distance;
    return utf8proc_tolower(code);
}

/* Each character alone, so that a final sigma is none: as Rust's char::to_lowercase. */
static nib_status run_lowercase(const nib_normalize_step *step, nib_matcher *matcher,
                                const char *text, size_t length, nib_text *out) {
    (void)step;
    (void)matcher;
    for (size_t at = 0; at < length;) {
        const int32_t code = nib_utf8_next(text, &at);
        utf8proc_uint8_t bytes[4];
        const utf8proc_ssize_t n = utf8proc_encode_char(to_lower(code), bytes);
        if (code == 0x130) /* the one that becomes two: i and a dot above */
            nib_text_append(out, "i\xCC\x87", 3);
        else
            nib_text_append(out, (const char *)bytes, (size_t)n);
    }
    return NIB_OK;
}

static nib_status run_prepend(const nib_normalize_step *step, nib_matcher *matcher,
                              const char *text, size_t length, nib_text *out) {
    (void)matcher;
    if (length) nib_text_add(out, step->content);
    nib_text_append(out, text, length);
    return NIB_OK;
}

static nib_status run_replace(const nib_normalize_step *step, nib_matcher *matcher,
                              const char *text, size_t length, nib_text *out) {
    nib_match match = {0};
    size_t done = 0;
    nib_status status;
    while ((status = nib_pattern_next(step->pattern, matcher, text, length, &match)) == NIB_OK) {
        nib_text_append(out, text + done, match.start - done);
        nib_text_add(out, step->content);
        done = match.end;
    }
    nib_text_append(out, text + done, length - done);
    return status == NIB_END ? NIB_OK : status;
}

static nib_status run_strip(const nib_normalize_step *step, nib_matcher *matcher, const char *text,
                            size_t length, nib_text *out) {
    size_t start = 0, end = length;
    (void)matcher;
    for (size_t at = 0; step->left && at < length;) {
        if (!nib_is_space(nib_utf8_next(text, &at))) break;
        start = at;
    }
    while (step->right && end > start) {
        size_t before = nib_utf8_back(text, end), at = before;
        if (!nib_is_space(nib_utf8_next(text, &at))) break;
        end = before;
    }
    nib_text_append(out, text + start, end - start);
    return NIB_OK;
}

static nib_status run_bytes(const nib_normalize_step *step, nib_matcher *matcher, const char *text,
                            size_t length, nib_text *out) {
    (void)step;
    (void)matcher;
    nib_byte_alphabet_encode(text, length, out);
    return NIB_OK;
}

nib_status nib_normalizer_run(const nib_normalizer *n, nib_matcher *matcher, const char *text,
                              size_t length, nib_text *out, nib_text *spare) {
    out->length = 0;
    out->failed = false;
    if (!n->count) nib_text_append(out, text, length);
    for (size_t i = 0; i < n->count; i++) {
        const nib_text input = *out; /* the result of the step before, then the new spare */
        if (i) *out = *spare;
        out->length = 0;
        out->failed = false;
        if (i) *spare = input;
        const nib_status status = n->steps[i].run(&n->steps[i], matcher, i ? input.data : text,
                                                  i ? input.length : length, out);
        if (status < NIB_OK) return status;
        if (!out->failed && !out->data) nib_text_add(out, "");
        if (out->failed) break;
    }
    return out->failed ? NIB_E_MEMORY : NIB_OK;
}

/* ---- reading ---- */

static nib_normalize_step *add_step(nib_normalizer *n) {
    void *steps = n->steps;
    if (nib_kinds_grow(n->mem, &steps, n->count, sizeof *n->steps) < NIB_OK) return NULL;
    n->steps = steps;
    return &n->steps[n->count++];
}

static nib_status add_form(void *self, nib_unicode_form form) {
    nib_normalize_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->run = run_form;
    step->form = form;
    return NIB_OK;
}

static nib_status read_nfc(void *self, const json_t *o) { return (void)o, add_form(self, NIB_NFC); }
static nib_status read_nfd(void *self, const json_t *o) { return (void)o, add_form(self, NIB_NFD); }
static nib_status read_nfkc(void *self, const json_t *o) {
    return (void)o, add_form(self, NIB_NFKC);
}
static nib_status read_nfkd(void *self, const json_t *o) {
    return (void)o, add_form(self, NIB_NFKD);
}

static nib_status read_lowercase(void *self, const json_t *object) {
    (void)object;
    nib_normalize_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->run = run_lowercase;
    return NIB_OK;
}

static nib_status read_bytes(void *self, const json_t *object) {
    (void)object;
    nib_normalize_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->run = run_bytes;
    return NIB_OK;
}

static nib_status read_prepend(void *self, const json_t *object) {
    nib_normalizer *n = self;
    const char *content = NULL;
    NIB_TRY(nib_json_string(object, "prepend", true, &content));
    nib_normalize_step *step = add_step(n);
    if (!step) return NIB_E_MEMORY;
    step->run = run_prepend;
    step->content = nib_mem_strdup(n->mem, content);
    return step->content ? NIB_OK : NIB_E_MEMORY;
}

static nib_status read_replace(void *self, const json_t *object) {
    nib_normalizer *n = self;
    const char *content = NULL;
    NIB_TRY(nib_json_string(object, "content", true, &content));
    nib_normalize_step *step = add_step(n);
    if (!step) return NIB_E_MEMORY;
    step->run = run_replace;
    step->content = nib_mem_strdup(n->mem, content);
    if (!step->content) return NIB_E_MEMORY;
    return nib_kinds_pattern(n->mem, object, "pattern", &step->pattern);
}

static nib_status read_strip(void *self, const json_t *object) {
    bool left = false, right = false;
    NIB_TRY(nib_json_bool(object, "strip_left", true, &left));
    NIB_TRY(nib_json_bool(object, "strip_right", true, &right));
    nib_normalize_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->run = run_strip;
    step->left = left;
    step->right = right;
    return NIB_OK;
}

static const nib_kind kinds[] = {
    {"NFC", read_nfc},
    {"NFD", read_nfd},
    {"NFKC", read_nfkc},
    {"NFKD", read_nfkd},
    {"Lowercase", read_lowercase},
    {"Prepend", read_prepend},
    {"Replace", read_replace},
    {"Strip", read_strip},
    {"ByteLevel", read_bytes},
    {NULL, NULL},
};

nib_status nib_normalizer_read(nib_normalizer *n, nib_mem *mem, const json_t *object) {
    *n = (nib_normalizer){.mem = mem};
    const nib_status status = nib_kinds_read("normalizer", "normalizers", kinds, object, n);
    if (status < NIB_OK) nib_normalizer_free(n);
    return status;
}

void nib_normalizer_free(nib_normalizer *n) {
    for (size_t i = 0; i < n->count; i++) {
        nib_pattern_free(n->steps[i].pattern);
        nib_mem_strfree(n->mem, n->steps[i].content);
    }
    nib_mem_free(n->mem, n->steps, n->count * sizeof *n->steps);
    *n = (nib_normalizer){0};
}
