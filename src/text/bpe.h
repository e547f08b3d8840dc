/* bpe.h: byte-pair encoding: a piece of text becomes single characters, and neighbours merge in
 * the order in which training learned the merges.
 *
 * Source: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword
 * Units", 2016; the details (ties, unknown characters, byte fallback) are those of the
 * `tokenizers` library. */
#ifndef NIB_TEXT_BPE_H
#define NIB_TEXT_BPE_H
#include <nibble/io.h>

#include "text/vocabulary.h"

typedef struct nib_merge {
    uint64_t pair; /* left id << 32 | right id; all bits set: empty slot */
    uint32_t rank; /* lower merges first */
    int32_t id;    /* what the two become */
} nib_merge;

typedef struct nib_bpe {
    nib_mem *mem;
    nib_vocabulary vocabulary;
    nib_merge *merges;           /* hash table by pair */
    size_t merge_slots;          /* a power of two */
    int32_t byte_ids[256];       /* of "<0x00>".."<0xFF>", -1 where missing */
    int32_t unknown;             /* id, or -1: unknown characters vanish */
    const char *prefix, *suffix; /* of characters not first, and last; "" for none */
    char *prefix_copy, *suffix_copy;
    bool fuse_unknown, byte_fallback, ignore_merges;
} nib_bpe;

/* What encoding writes while it works, and keeps from one piece to the next. One per thread. */
typedef struct nib_bpe_work nib_bpe_work;
nib_bpe_work *nib_bpe_work_new(nib_mem *mem);
void nib_bpe_work_free(nib_bpe_work *work);
size_t nib_bpe_work_bytes(const nib_bpe_work *work); /* what it holds now */

/* Read the "model" of a tokenizer.json. On failure *bpe is empty and needs no free. */
nib_status nib_bpe_read(nib_bpe *bpe, nib_mem *mem, const json_t *model);
void nib_bpe_free(nib_bpe *bpe);

/* Append the ids of one piece, valid UTF-8. Time n log n in its length. */
nib_status nib_bpe_encode(const nib_bpe *bpe, nib_bpe_work *work, const char *piece, size_t length,
                          nib_ids *ids);
#endif
