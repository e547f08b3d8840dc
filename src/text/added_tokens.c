#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "text/unicode_property.h"

/* Longer ones are refused: at each byte of the text up to this many may be compared. */
enum { MAX_CONTENT_BYTES = 4096 };

/* ---- finding ---- */

static int by_bytes(const void *a, const void *b) {
    const nib_added_token *x = *(const nib_added_token *const *)a;
    const nib_added_token *y = *(const nib_added_token *const *)b;
    const int order = strcmp(x->sought, y->sought);
    return order ? order : (x->id > y->id) - (x->id < y->id);
}

/* The longest token that text[at, length) starts with. The candidates, ordered, share ever more
 * bytes with the text; among those that do, one that ends here comes first. */
static const nib_added_token *longest_at(const nib_added_set *set, const char *text, size_t at,
                                         size_t length) {
    const unsigned char byte = (unsigned char)text[at];
    size_t low = set->first[byte], high = set->first[byte + 1];
    const nib_added_token *found = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (!set->tokens[low]->sought[depth]) found = set->tokens[low++];
        while (low < high && !set->tokens[low]->sought[depth]) low++; /* the same once more */
        if (low == high || at + depth == length) break;
        const unsigned char next = (unsigned char)text[at + depth];
        size_t a = low, b = high; /* the first whose byte is not below the text's */
        while (a < b) {
            const size_t middle = (a + b) / 2;
            if ((unsigned char)set->tokens[middle]->sought[depth] < next)
                a = middle + 1;
            else
                b = middle;
        }
        low = a;
        b = high;
        while (a < b) { /* the first whose byte is above it */
            const size_t middle = (a + b) / 2;
            if ((unsigned char)set->tokens[middle]->sought[depth] <= next)
                a = middle + 1;
            else
                b = middle;
        }
        high = a;
    }
    return found;
}

static bool word_before(const char *text, size_t at) {
    if (!at) return false;
    size_t before = nib_utf8_back(text, at);
    return nib_is_word(nib_utf8_next(text, &before));
}

static bool word_behind(const char *text, size_t length, size_t at) {
    return at < length && nib_is_word(nib_utf8_next(text, &at));
}

nib_status nib_added_set_next(const nib_added_set *set, const char *text, size_t length, size_t *at,
                              size_t done, size_t *start, size_t *end,
                              const nib_added_token **token) {
    if (!set->count) return NIB_END;
    while (*at < length) {
        const nib_added_token *found = longest_at(set, text, *at, length);
        if (!found) {
            ++*at;
            continue;
        }
        *start = *at;
        *end = *at += strlen(found->sought);
        if (found->single_word && (word_before(text, *start) || word_behind(text, length, *end)))
            continue;
        while (found->takes_left && *start > done) {
            size_t before = nib_utf8_back(text, *start), next = before;
            if (!nib_is_space(nib_utf8_next(text, &next))) break;
            *start = before;
        }
        for (size_t next = *end; found->takes_right && next < length;) {
            if (!nib_is_space(nib_utf8_next(text, &next))) break;
            *end = next;
        }
        *token = found;
        return NIB_OK;
    }
    return NIB_END;
}

static int by_id(const void *a, const void *b) {
    const nib_added_token *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

const nib_added_token *nib_added_tokens_by_id(const nib_added_tokens *added, int32_t id) {
    if (!added->count) return NULL;
    return bsearch(&(nib_added_token){.id = id}, added->tokens, added->count, sizeof *added->tokens,
                   by_id);
}

const nib_added_token *nib_added_tokens_by_content(const nib_added_tokens *added,
                                                   const char *content, size_t length) {
    for (size_t i = 0; i < added->count; i++)
        if (strlen(added->tokens[i].content) == length &&
            !memcmp(added->tokens[i].content, content, length))
            return &added->tokens[i];
    return NULL;
}

/* ---- reading ---- */

static nib_status read_token(nib_added_tokens *added, const json_t *object, size_t index,
                             const nib_vocabulary *vocabulary) {
    nib_added_token token = {0};
    const char *content = NULL;
    int64_t id = 0;
    if (!json_is_object(object))
        return NIB_RAISE(NIB_E_FORMAT, "added_tokens: entry %zu is not an object", index);
    NIB_TRY(nib_json_string(object, "content", true, &content));
    NIB_TRY(nib_json_int(object, "id", 0, NIB_MAX_TOKENS - 1, true, &id));
    NIB_TRY(nib_json_bool(object, "single_word", true, &token.single_word));
    NIB_TRY(nib_json_bool(object, "lstrip", true, &token.takes_left));
    NIB_TRY(nib_json_bool(object, "rstrip", true, &token.takes_right));
    NIB_TRY(nib_json_bool(object, "normalized", true, &token.normalized));
    NIB_TRY(nib_json_bool(object, "special", true, &token.special));
    const size_t length = strlen(content);
    if (!length) return NIB_OK; /* the original passes over it, too */
    if (length > MAX_CONTENT_BYTES)
        return NIB_RAISE(NIB_E_FORMAT, "added_tokens: entry %zu is over %d bytes long", index,
                         MAX_CONTENT_BYTES);
    token.id = (int32_t)id;
    const int32_t known = nib_vocabulary_id(vocabulary, content, length);
    const char *owner = nib_vocabulary_piece(vocabulary, token.id, NULL);
    if (known >= 0 ? known != token.id : owner != NULL)
        return NIB_RAISE(NIB_E_FORMAT,
                         "added_tokens: \"%.60s\" has id %d, but the vocab gives that id to "
                         "\"%.60s\" and the piece id %d",
                         content, (int)token.id, owner ? owner : "", (int)known);
    token.content = nib_mem_strdup(added->mem, content);
    if (!token.content) return NIB_E_MEMORY;
    added->tokens[added->count++] = token;
    return NIB_OK;
}

/* Same id or same content twice: an exact repetition would be harmless, but is no file's. */
static nib_status check_unique(nib_added_tokens *added) {
    for (size_t i = 1; i < added->count; i++)
        if (added->tokens[i].id == added->tokens[i - 1].id)
            return NIB_RAISE(NIB_E_FORMAT, "added_tokens: id %d belongs to \"%.60s\" and \"%.60s\"",
                             (int)added->tokens[i].id, added->tokens[i - 1].content,
                             added->tokens[i].content);
    return NIB_OK;
}

static nib_status make_sought(nib_added_tokens *added, const nib_normalizer *normalizer) {
    nib_text text = {.mem = added->mem}, spare = {.mem = added->mem};
    nib_matcher *matcher = nib_matcher_new(added->mem);
    nib_status status = matcher ? NIB_OK : NIB_E_MEMORY;
    for (size_t i = 0; i < added->count && status == NIB_OK; i++) {
        nib_added_token *t = &added->tokens[i];
        const char *sought = t->content;
        if (t->normalized) {
            status = nib_normalizer_run(normalizer, matcher, sought, strlen(sought), &text, &spare);
            if (status < NIB_OK) break;
            sought = text.data;
        }
        t->sought = nib_mem_strdup(added->mem, sought);
        if (!t->sought) status = NIB_E_MEMORY;
    }
    nib_matcher_free(matcher);
    nib_text_free(&text);
    nib_text_free(&spare);
    return status;
}

static nib_status make_set(nib_added_tokens *added, nib_added_set *set, bool normalized) {
    if (!added->room) return NIB_OK;
    set->tokens = nib_mem_alloc_array(added->mem, added->room, sizeof *set->tokens);
    if (!set->tokens) return NIB_E_MEMORY;
    for (size_t i = 0; i < added->count; i++)
        if (added->tokens[i].normalized == normalized && *added->tokens[i].sought)
            set->tokens[set->count++] = &added->tokens[i];
    if (set->count) qsort(set->tokens, set->count, sizeof *set->tokens, by_bytes);
    for (size_t i = 1; i < set->count; i++)
        if (!strcmp(set->tokens[i]->content, set->tokens[i - 1]->content))
            return NIB_RAISE(NIB_E_FORMAT, "added_tokens: \"%.60s\" has ids %d and %d",
                             set->tokens[i]->content, (int)set->tokens[i - 1]->id,
                             (int)set->tokens[i]->id);
    size_t at = 0;
    for (int byte = 0; byte <= 256; byte++) {
        while (at < set->count && (unsigned char)set->tokens[at]->sought[0] < byte) at++;
        set->first[byte] = (uint32_t)at;
    }
    return NIB_OK;
}

nib_status nib_added_tokens_read(nib_added_tokens *added, nib_mem *mem, const json_t *list,
                                 const nib_vocabulary *vocabulary,
                                 const nib_normalizer *normalizer) {
    *added = (nib_added_tokens){.mem = mem, .room = json_array_size(list)};
    if (!added->room) return NIB_OK;
    added->tokens = nib_mem_alloc_array(mem, added->room, sizeof *added->tokens);
    if (!added->tokens) goto fail;
    for (size_t i = 0; i < added->room; i++)
        NIB_TRY_GOTO(read_token(added, json_array_get(list, i), i, vocabulary), fail);
    qsort(added->tokens, added->count, sizeof *added->tokens, by_id);
    NIB_TRY_GOTO(check_unique(added), fail);
    NIB_TRY_GOTO(make_sought(added, normalizer), fail);
    NIB_TRY_GOTO(make_set(added, &added->raw, false), fail);
    NIB_TRY_GOTO(make_set(added, &added->normal, true), fail);
    return NIB_OK;
fail:
    nib_added_tokens_free(added);
    return nib_last_error()->status;
}

void nib_added_tokens_free(nib_added_tokens *added) {
    for (size_t i = 0; i < added->count; i++) {
        nib_mem_strfree(added->mem, added->tokens[i].content);
        nib_mem_strfree(added->mem, added->tokens[i].sought);
    }
    nib_mem_free(added->mem, added->raw.tokens, added->room * sizeof *added->raw.tokens);
    nib_mem_free(added->mem, added->normal.tokens, added->room * sizeof *added->normal.tokens);
    nib_mem_free(added->mem, added->tokens, added->room * sizeof *added->tokens);
    *added = (nib_added_tokens){0};
}
