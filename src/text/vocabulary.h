/* vocabulary.h: pieces by id and ids by piece. */
#ifndef NIB_TEXT_VOCABULARY_H
#define NIB_TEXT_VOCABULARY_H
#include "base/json.h"
#include "base/mem.h"

/* Ids lie below this: far over any vocabulary there is, yet its tables fit in memory. */
enum { NIB_MAX_TOKENS = 1 << 22 };

typedef struct nib_vocabulary_entry {
    uint32_t start, length; /* in bytes; length UINT32_MAX: no such id */
} nib_vocabulary_entry;

typedef struct nib_vocabulary {
    nib_mem *mem;
    char *bytes; /* every piece, each ended by a zero byte */
    size_t bytes_size;
    nib_vocabulary_entry *entries; /* [size], by id */
    size_t size;                   /* highest id + 1 */
    size_t count;                  /* ids that have a piece */
    int32_t *slots;                /* hash table of ids, -1 where empty */
    size_t slot_count;             /* a power of two */
} nib_vocabulary;

/* Read {"piece": id, ...}. Fails: NIB_E_FORMAT when it is empty, when an id is no integer, out of
 * range or given twice. On failure *vocabulary is empty and needs no free. */
nib_status nib_vocabulary_read(nib_vocabulary *vocabulary, nib_mem *mem, const json_t *object);
void nib_vocabulary_free(nib_vocabulary *vocabulary);

int32_t nib_vocabulary_id(const nib_vocabulary *vocabulary, const char *piece, size_t length);

/* Borrowed; NULL when the id has no piece. */
const char *nib_vocabulary_piece(const nib_vocabulary *vocabulary, int32_t id, size_t *length);
#endif
