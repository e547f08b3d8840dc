/* added_tokens.h: tokens that are found in the text as they stand, before the model sees it. */
#ifndef NIB_TEXT_ADDED_TOKENS_H
#define NIB_TEXT_ADDED_TOKENS_H
#include "base/json.h"
#include "text/normalizer.h"
#include "text/vocabulary.h"

typedef struct nib_added_token {
    int32_t id;
    char *content;                /* as the file has it */
    char *sought;                 /* as it is looked for: normal form if `normalized` */
    bool single_word;             /* not inside of a word */
    bool takes_left, takes_right; /* the white space before or behind it is part of it */
    bool normalized;              /* looked for in normal text, not in the given one */
    bool special;
} nib_added_token;

/* The tokens looked for in one of the two texts, ordered by their bytes. */
typedef struct nib_added_set {
    const nib_added_token **tokens;
    size_t count;
    uint32_t first[257]; /* those that start with byte b: [first[b], first[b+1]) */
} nib_added_set;

typedef struct nib_added_tokens {
    nib_mem *mem;
    nib_added_token *tokens; /* by id */
    size_t count, room;
    nib_added_set raw, normal;
} nib_added_tokens;

/* Read the "added_tokens" of a tokenizer.json. Fails: NIB_E_FORMAT when an id is taken by another
 * piece, or a piece known under another id. On failure it needs no free. */
nib_status nib_added_tokens_read(nib_added_tokens *added, nib_mem *mem, const json_t *list,
                                 const nib_vocabulary *vocabulary,
                                 const nib_normalizer *normalizer);
void nib_added_tokens_free(nib_added_tokens *added);

const nib_added_token *nib_added_tokens_by_id(const nib_added_tokens *added, int32_t id);
const nib_added_token *nib_added_tokens_by_content(const nib_added_tokens *added,
                                                   const char *content, size_t length);

/* The next token of `set` in text[*at, length): NIB_OK with the token and the bytes it takes, the
 * ones between *done and *start being ordinary text; NIB_END when there is no more. Start with
 * *at = *done = 0; the caller sets *done to *end. */
nib_status nib_added_set_next(const nib_added_set *set, const char *text, size_t length, size_t *at,
                              size_t done, size_t *start, size_t *end,
                              const nib_added_token **token);
#endif
