/* Of a TemplateProcessing only what is made of a single text counts; pairs belong to classifiers.
 * Several in a row wrap each other: a later one goes around what the earlier ones gave. */
#include "text/postprocessor.h"

#include <string.h>

#include "base/error.h"
#include "text/ids.h"
#include "text/kinds.h"

typedef struct reader {
    nib_postprocessor *post;
    size_t size;
} reader;

static nib_status read_id(const json_t *value, const char *what, size_t size, nib_ids *ids) {
    const int64_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (id < 0 || (uint64_t)id >= size)
        return NIB_RAISE(NIB_E_FORMAT,
                         "post_processor: the id of \"%.60s\" is not one of the %zu "
                         "of the vocabulary",
                         what, size);
    const int32_t id32 = (int32_t)id;
    return nib_ids_append(ids, &id32, 1);
}

/* Put `first` ids before those that `ids` holds. */
static nib_status prepend(nib_ids *ids, nib_ids *first) {
    NIB_TRY(nib_ids_append(first, ids->data, ids->count));
    const nib_ids swap = *ids;
    *ids = *first;
    *first = swap;
    return NIB_OK;
}

static nib_status read_special(const json_t *template, const json_t *piece, size_t size,
                               nib_ids *ids) {
    const char *name = NULL;
    json_t *tokens = NULL, *token = NULL, *list = NULL;
    NIB_TRY(nib_json_string(piece, "id", true, &name));
    NIB_TRY(nib_json_object(template, "special_tokens", true, &tokens));
    NIB_TRY(nib_json_object(tokens, name, true, &token));
    NIB_TRY(nib_json_array(token, "ids", true, &list));
    for (size_t i = 0; i < json_array_size(list); i++)
        NIB_TRY(read_id(json_array_get(list, i), name, size, ids));
    return NIB_OK;
}

static nib_status read_pieces(const reader *r, const json_t *template, nib_ids *before,
                              nib_ids *behind) {
    json_t *single = NULL;
    bool seen = false;
    NIB_TRY(nib_json_array(template, "single", true, &single));
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *entry = json_array_get(single, i);
        json_t *special = NULL, *sequence = NULL;
        const char *name = NULL;
        if (!json_is_object(entry))
            return NIB_RAISE(NIB_E_FORMAT, "post_processor: piece %zu is not an object", i);
        NIB_TRY(nib_json_object(entry, "SpecialToken", false, &special));
        if (special) {
            NIB_TRY(read_special(template, special, r->size, seen ? behind : before));
            continue;
        }
        NIB_TRY(nib_json_object(entry, "Sequence", true, &sequence));
        NIB_TRY(nib_json_string(sequence, "id", true, &name));
        if (seen || strcmp(name, "A") != 0)
            return NIB_RAISE(NIB_E_UNSUPPORTED,
                             "post_processor: a single text as sequence \"%.20s\""
                             "%s",
                             name, seen ? " after sequence A" : "");
        seen = true;
    }
    if (!seen) return NIB_RAISE(NIB_E_UNSUPPORTED, "post_processor: a template without the text");
    return NIB_OK;
}

static nib_status wrap(reader *r, nib_ids *before, const nib_ids *behind) {
    NIB_TRY(prepend(&r->post->before, before));
    return nib_ids_append(&r->post->behind, behind->data, behind->count);
}

static nib_status read_template(void *self, const json_t *object) {
    reader *r = self;
    nib_ids before = {0}, behind = {0};
    nib_ids_open(&before, r->post->mem);
    nib_ids_open(&behind, r->post->mem);
    nib_status status = read_pieces(r, object, &before, &behind);
    if (status == NIB_OK) status = wrap(r, &before, &behind);
    nib_ids_free(&before);
    nib_ids_free(&behind);
    return status;
}

/* {"cls": ["<s>", 0], "sep": ["</s>", 2]} around the text: BERT's and RoBERTa's own kinds. */
static nib_status read_cls_sep(void *self, const json_t *object) {
    reader *r = self;
    nib_ids ids[2] = {{0}, {0}};
    nib_status status = NIB_OK;
    for (int i = 0; i < 2 && status == NIB_OK; i++) {
        json_t *pair = NULL;
        const char *key = i ? "sep" : "cls";
        nib_ids_open(&ids[i], r->post->mem);
        status = nib_json_array(object, key, true, &pair);
        if (status == NIB_OK) status = read_id(json_array_get(pair, 1), key, r->size, &ids[i]);
    }
    if (status == NIB_OK) status = wrap(r, &ids[0], &ids[1]);
    nib_ids_free(&ids[0]);
    nib_ids_free(&ids[1]);
    return status;
}

/* Moves offsets of ids in the text, which nibble does not keep. */
static nib_status read_byte_level(void *self, const json_t *object) {
    (void)self;
    (void)object;
    return NIB_OK;
}

static const nib_kind kinds[] = {
    {"TemplateProcessing", read_template},
    {"RobertaProcessing", read_cls_sep},
    {"BertProcessing", read_cls_sep},
    {"ByteLevel", read_byte_level},
    {NULL, NULL},
};

nib_status nib_postprocessor_read(nib_postprocessor *post, nib_mem *mem, const json_t *object,
                                  size_t size) {
    *post = (nib_postprocessor){.mem = mem};
    nib_ids_open(&post->before, mem);
    nib_ids_open(&post->behind, mem);
    reader r = {post, size};
    const nib_status status = nib_kinds_read("post_processor", "processors", kinds, object, &r);
    if (status < NIB_OK) nib_postprocessor_free(post);
    return status;
}

void nib_postprocessor_free(nib_postprocessor *post) {
    nib_ids_free(&post->before);
    nib_ids_free(&post->behind);
}
