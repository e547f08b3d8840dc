/* io.h: files and text: tokenizers.
 *
 * Same conventions as nibble.h: makers return NULL, doers a status, and nib_last_error tells. */
#ifndef NIBBLE_IO_H
#define NIBBLE_IO_H
#include <nibble/nibble.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* ==== tokenizers: text to ids and back ============================================== */

/* Growing results. Zero one to begin with, let calls append to it, give it back with its free
 * function (before the context goes). A call that fails leaves what was there. */
typedef struct nib_ids {
    int32_t *data;
    size_t   count, room;
    void    *owner;                    /* nibble's own */
} nib_ids;
typedef struct nib_string {            /* `data` ends with a zero byte that `length` leaves out */
    char    *data;                     /* NULL while nothing was ever appended */
    size_t   length, room;
    void    *owner;
} nib_string;
void nib_ids_free(nib_ids *ids);
void nib_string_free(nib_string *string);

/* A tokenizer never changes after it was loaded: threads may share one, each with its own
 * results. It must outlive the detokenizers made from it. */
typedef struct nib_tokenizer nib_tokenizer;

/* From a Hugging Face folder (tokenizer.json, and what tokenizer_config.json says of special
 * tokens) or from a tokenizer.json itself. `ctx` may be NULL: the process's memory.
 * Fails: NIB_E_FORMAT for a damaged file, NIB_E_UNSUPPORTED naming the kind of model, normalizer,
 * pre-tokenizer, post-processor or decoder that nibble does not know. */
nib_tokenizer *nib_tokenizer_load(nib_ctx *ctx, const char *path);

/* The same from the bytes of a tokenizer.json; `name` stands in errors for the path. */
nib_tokenizer *nib_tokenizer_parse(nib_ctx *ctx, const char *json, size_t length,
                                   const char *name);
void nib_tokenizer_free(nib_tokenizer *tokenizer);

/* Append the ids of UTF-8 text, with those that the post-processor puts around it if
 * `add_special`. Added tokens are found in the text and become their ids.
 * Fails: NIB_E_FORMAT with the offset of the first byte that is not UTF-8. */
nib_status nib_tokenizer_encode(const nib_tokenizer *tokenizer, const char *text, size_t length,
                                bool add_special, nib_ids *ids);

/* Append the text of ids. An id without a piece (a model's table may be longer than the
 * vocabulary) stands for nothing; bytes that are not UTF-8 become U+FFFD.
 * Fails: NIB_E_ARGUMENT for a negative id. */
nib_status nib_tokenizer_decode(const nib_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                bool skip_special, nib_string *text);

size_t nib_tokenizer_size(const nib_tokenizer *tokenizer); /* one more than the highest id */

/* The id of a piece as the vocabulary spells it ("\xC4\xA0the"), or -1. */
int32_t nib_tokenizer_id(const nib_tokenizer *tokenizer, const char *piece, size_t length);

/* The piece of an id, borrowed, ended by a zero byte; NULL, without an error, if there is none. */
const char *nib_tokenizer_piece(const nib_tokenizer *tokenizer, int32_t id, size_t *length);

/* The id of "bos", "eos", "unk" or "pad" as far as the tokenizer's files say, or -1. A model's
 * generation_config.json may name further ends. */
int32_t nib_tokenizer_special(const nib_tokenizer *tokenizer, const char *role);

/* Text of ids as they arrive, for showing it while it grows: bytes that do not yet form a
 * character are held back. */
typedef struct nib_detokenizer nib_detokenizer;
nib_detokenizer *nib_detokenizer_new(const nib_tokenizer *tokenizer, bool skip_special);
nib_status nib_detokenizer_next(nib_detokenizer *stream, int32_t id, nib_string *text);
nib_status nib_detokenizer_end(nib_detokenizer *stream, nib_string *text); /* what was held back */
void nib_detokenizer_free(nib_detokenizer *stream);
/* ==== end of tokenizers ============================================================= */

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
