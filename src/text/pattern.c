#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pattern.h"

#include <pcre2.h>
#include <string.h>

#include "text/pattern_rewrite.h"
#include "text/unicode_property.h"

/* Longer patterns than tokenizers have; what is longer is an attack on time or memory. */
enum { MAX_PATTERN_BYTES = 16 << 10 };

/* A search is given up after this many steps, and as many more as the text is long: a run of white
 * space is tried at each of its bytes. The default of PCRE2 is ten million. */
enum { STEPS = 200000, STEPS_PER_BYTE = 16 };
enum { HEAP_KIB = 64 << 10, JIT_STACK_START = 32 << 10, JIT_STACK_MOST = 1 << 20 };

struct nib_pattern {
    nib_mem *mem;
    pcre2_general_context *memory;
    pcre2_code *code; /* NULL: a string */
    char *string;
    size_t string_length, string_room;
};

struct nib_matcher {
    nib_mem *mem;
    pcre2_general_context *memory;
    pcre2_match_context *context;
    pcre2_match_data *data;
    pcre2_jit_stack *stack;
};

/* PCRE2 frees without a size, so each block it gets carries its own in front. */
enum { BLOCK_HEAD = 16 };
static void *block_alloc(size_t size, void *mem) {
    if (size > SIZE_MAX - BLOCK_HEAD) return NULL;
    char *block = nib_mem_alloc(mem, size + BLOCK_HEAD);
    if (!block) return NULL;
    memcpy(block, &size, sizeof size);
    return block + BLOCK_HEAD;
}

static void block_free(void *ptr, void *mem) {
    if (!ptr) return;
    char *block = (char *)ptr - BLOCK_HEAD;
    size_t size;
    memcpy(&size, block, sizeof size);
    nib_mem_free(mem, block, size + BLOCK_HEAD);
}

static nib_pattern *pattern_new(nib_mem *mem) {
    nib_pattern *p = nib_mem_alloc_zero(mem, sizeof *p);
    if (p) p->mem = mem;
    return p;
}

nib_pattern *nib_pattern_string(nib_mem *mem, const char *string, size_t length) {
    if (!length) return NIB_RAISE_NULL(NIB_E_UNSUPPORTED, "pattern: an empty string to look for");
    nib_pattern *p = pattern_new(mem);
    if (!p) return NULL;
    p->string_length = length;
    p->string_room = length + 1;
    p->string = nib_mem_alloc(mem, p->string_room);
    if (!p->string) {
        nib_pattern_free(p);
        return NULL;
    }
    memcpy(p->string, string, length);
    p->string[length] = '\0';
    return p;
}

/* What PCRE2 said, as an error of ours. */
static void raise_compile(int code, size_t at) {
    PCRE2_UCHAR text[120] = "";
    pcre2_get_error_message(code, text, sizeof text);
    if (code == PCRE2_ERROR_HEAP_FAILED)
        NIB_RAISE(NIB_E_MEMORY, "no memory for a pattern");
    else
        NIB_RAISE(NIB_E_UNSUPPORTED, "pattern: %s (at byte %zu as rewritten)", (const char *)text,
                  at);
}

nib_pattern *nib_pattern_regex(nib_mem *mem, const char *regex, size_t length) {
    if (length > MAX_PATTERN_BYTES)
        return NIB_RAISE_NULL(NIB_E_UNSUPPORTED, "pattern: %zu bytes are over the limit of %d",
                              length, MAX_PATTERN_BYTES);
    nib_pattern *p = pattern_new(mem);
    if (!p) return NULL;
    pcre2_compile_context *context = NULL;
    nib_text text = {.mem = mem};
    int error = 0;
    size_t at = 0;
    NIB_TRY_GOTO(nib_pattern_rewrite(&text, regex, length), fail);
    p->memory = pcre2_general_context_create(block_alloc, block_free, mem);
    if (!p->memory) goto fail;
    context = pcre2_compile_context_create(p->memory);
    if (!context) goto fail;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_bsr(context, PCRE2_BSR_UNICODE);
    pcre2_set_parens_nest_limit(context, 250);
    p->code = pcre2_compile((PCRE2_SPTR)(text.data ? text.data : ""), text.length,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK |
                                PCRE2_NEVER_BACKSLASH_C,
                            &error, &at, context);
    if (!p->code) {
        raise_compile(error, at);
        goto fail;
    }
    /* Without JIT (no executable memory, another machine) the same is done more slowly. */
    pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
    nib_text_free(&text);
    pcre2_compile_context_free(context);
    return p;
fail:
    nib_text_free(&text);
    if (context) pcre2_compile_context_free(context);
    nib_pattern_free(p);
    return NULL;
}

void nib_pattern_free(nib_pattern *p) {
    if (!p) return;
    if (p->code) pcre2_code_free(p->code);
    if (p->memory) pcre2_general_context_free(p->memory);
    nib_mem_free(p->mem, p->string, p->string_room);
    nib_mem_free(p->mem, p, sizeof *p);
}

nib_matcher *nib_matcher_new(nib_mem *mem) {
    nib_matcher *m = nib_mem_alloc_zero(mem, sizeof *m);
    if (!m) return NULL;
    m->mem = mem;
    m->memory = pcre2_general_context_create(block_alloc, block_free, mem);
    if (m->memory) m->context = pcre2_match_context_create(m->memory);
    if (m->context) m->data = pcre2_match_data_create(1, m->memory);
    if (!m->data) {
        nib_matcher_free(m);
        return NULL;
    }
    pcre2_set_heap_limit(m->context, HEAP_KIB);
    /* the stack is a mapping of PCRE2's own; without it JIT runs on the caller's */
    m->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MOST, m->memory);
    if (m->stack) pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return m;
}

void nib_matcher_free(nib_matcher *m) {
    if (!m) return;
    if (m->stack) pcre2_jit_stack_free(m->stack);
    if (m->data) pcre2_match_data_free(m->data);
    if (m->context) pcre2_match_context_free(m->context);
    if (m->memory) pcre2_general_context_free(m->memory);
    nib_mem_free(m->mem, m, sizeof *m);
}

static nib_status search(const nib_pattern *p, nib_matcher *m, const char *text, size_t length,
                         size_t from, nib_match *match) {
    if (p->string) {
        const char *found = memmem(text + from, length - from, p->string, p->string_length);
        if (!found) return NIB_END;
        match->start = (size_t)(found - text);
        match->end = match->start + p->string_length;
        return NIB_OK;
    }
    const size_t steps = STEPS + length * STEPS_PER_BYTE;
    pcre2_set_match_limit(m->context, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
    const PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int found =
        pcre2_match(p->code, subject, length, from, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(p->code, subject, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            m->data, m->context);
    if (found == PCRE2_ERROR_NOMATCH) return NIB_END;
    if (found < 0) {
        if (found == PCRE2_ERROR_NOMEMORY)
            NIB_RAISE(NIB_E_MEMORY, "no memory for matching a pattern");
        else
            NIB_RAISE(NIB_E_FORMAT,
                      "the tokenizer's pattern takes too many steps on this text "
                      "(PCRE2 code %d)",
                      found);
        return nib_error_at(NULL, NULL, (int64_t)from);
    }
    const size_t *ends = pcre2_get_ovector_pointer(m->data);
    match->start = ends[0];
    match->end = ends[1];
    if (match->start > match->end) /* \K in a lookahead */
        return NIB_RAISE(NIB_E_UNSUPPORTED, "pattern: a match that ends before it starts");
    return NIB_OK;
}

nib_status nib_pattern_next(const nib_pattern *p, nib_matcher *m, const char *text, size_t length,
                            nib_match *match) {
    size_t from = match->from;
    while (from <= length) {
        const size_t before = match->end;
        const nib_status status = search(p, m, text, length, from, match);
        if (status != NIB_OK) return status;
        if (match->start < match->end || !match->any || match->end != before) {
            match->from = match->end;
            match->any = true;
            return NIB_OK;
        }
        if (from == length) break;
        nib_utf8_next(text, &from);
    }
    return NIB_END;
}
