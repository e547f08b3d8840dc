#include "text/bpe.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "text/ids.h"
#include "text/unicode_property.h"

static const uint64_t NO_PAIR = UINT64_MAX;

/* ---- merging ---- */

typedef struct symbol {
    int32_t id;            /* -1: merged into a symbol before it */
    int32_t before, after; /* neighbours, -1 at the ends */
} symbol;

/* A merge that may be due: the lowest rank first, of equal ranks the leftmost. */
typedef struct candidate {
    uint64_t order; /* rank << 32 | position of the left symbol */
    int32_t id;     /* what it makes; another one by now: out of date */
} candidate;

/* Short pieces come again and again: their ids are remembered, each in the one place that its hash
 * gives it. */
enum { CACHE_SLOTS = 8192, CACHE_BYTES = 31, CACHE_IDS = 8 };
typedef struct cached {
    uint8_t length, count; /* length 0: empty */
    char bytes[CACHE_BYTES];
    int32_t ids[CACHE_IDS];
} cached;

struct nib_bpe_work {
    nib_mem *mem;
    symbol *symbols;
    size_t symbol_count, symbol_room;
    candidate *heap;
    size_t heap_count, heap_room;
    nib_text spelled; /* a character with prefix and suffix */
    cached *cache;
};

nib_bpe_work *nib_bpe_work_new(nib_mem *mem) {
    nib_bpe_work *work = nib_mem_alloc_zero(mem, sizeof *work);
    if (!work) return NULL;
    work->mem = work->spelled.mem = mem;
    work->cache = nib_mem_alloc_array(mem, CACHE_SLOTS, sizeof *work->cache);
    if (!work->cache) {
        nib_bpe_work_free(work);
        return NULL;
    }
    return work;
}

void nib_bpe_work_free(nib_bpe_work *work) {
    if (!work) return;
    nib_mem_free(work->mem, work->cache, CACHE_SLOTS * sizeof *work->cache);
    nib_text_free(&work->spelled);
    nib_mem_free(work->mem, work->heap, work->heap_room * sizeof *work->heap);
    nib_mem_free(work->mem, work->symbols, work->symbol_room * sizeof *work->symbols);
    nib_mem_free(work->mem, work, sizeof *work);
}

size_t nib_bpe_work_bytes(const nib_bpe_work *work) {
    return CACHE_SLOTS * sizeof *work->cache + work->heap_room * sizeof *work->heap +
           work->symbol_room * sizeof *work->symbols;
}

static size_t pair_hash(uint64_t pair) {
    pair ^= pair >> 32;
    pair *= 0x9e3779b97f4a7c15u; /* 2^64 divided by the golden ratio */
    return (size_t)(pair ^ pair >> 29);
}

static const nib_merge *find_merge(const nib_bpe *bpe, int32_t left, int32_t right) {
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t slot = pair_hash(pair) & (bpe->merge_slots - 1);
    for (; bpe->merges[slot].pair != NO_PAIR; slot = (slot + 1) & (bpe->merge_slots - 1))
        if (bpe->merges[slot].pair == pair) return &bpe->merges[slot];
    return NULL;
}

/* Room for one more; a work array grows like any other and stays for the next piece. */
static nib_status grow(nib_mem *mem, void **items, size_t count, size_t *room, size_t size) {
    if (count < *room) return NIB_OK;
    const size_t more = *room ? *room * 2 : 64;
    size_t bytes;
    if (nib_mul_size(more, size, &bytes))
        return NIB_RAISE(NIB_E_MEMORY, "a piece of %zu symbols is too long", count);
    void *grown = nib_mem_realloc(mem, *items, *room * size, bytes);
    if (!grown) return NIB_E_MEMORY;
    *items = grown;
    *room = more;
    return NIB_OK;
}

static nib_status add_symbol(nib_bpe_work *work, int32_t id) {
    void *items = work->symbols;
    if (work->symbol_count >= INT32_MAX)
        return NIB_RAISE(NIB_E_ARGUMENT, "a piece of more than 2^31 symbols");
    NIB_TRY(grow(work->mem, &items, work->symbol_count, &work->symbol_room, sizeof(symbol)));
    work->symbols = items;
    const int32_t at = (int32_t)work->symbol_count++;
    work->symbols[at] = (symbol){id, at - 1, -1};
    if (at) work->symbols[at - 1].after = at;
    return NIB_OK;
}

/* Put the merge of symbol `at` with the one behind it into the heap, if there is one. */
static nib_status add_candidate(const nib_bpe *bpe, nib_bpe_work *work, int32_t at) {
    if (at < 0 || work->symbols[at].after < 0) return NIB_OK;
    const nib_merge *merge =
        find_merge(bpe, work->symbols[at].id, work->symbols[work->symbols[at].after].id);
    if (!merge) return NIB_OK;
    void *items = work->heap;
    NIB_TRY(grow(work->mem, &items, work->heap_count, &work->heap_room, sizeof(candidate)));
    work->heap = items;
    const candidate added = {(uint64_t)merge->rank << 32 | (uint32_t)at, merge->id};
    size_t i = work->heap_count++;
    for (; i && work->heap[(i - 1) / 2].order > added.order; i = (i - 1) / 2)
        work->heap[i] = work->heap[(i - 1) / 2];
    work->heap[i] = added;
    return NIB_OK;
}

static candidate pop_candidate(nib_bpe_work *work) {
    candidate *heap = work->heap;
    const candidate top = heap[0], last = heap[--work->heap_count];
    const size_t n = work->heap_count;
    size_t i = 0;
    for (size_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && heap[child + 1].order < heap[child].order) child++;
        if (last.order <= heap[child].order) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

static nib_status merge_symbols(const nib_bpe *bpe, nib_bpe_work *work) {
    work->heap_count = 0;
    for (size_t i = 0; i + 1 < work->symbol_count; i++)
        NIB_TRY(add_candidate(bpe, work, (int32_t)i));
    symbol *s = work->symbols;
    while (work->heap_count) {
        const candidate top = pop_candidate(work);
        const int32_t left = (int32_t)(top.order & UINT32_MAX), right = s[left].after;
        if (s[left].id < 0 || right < 0) continue;
        const nib_merge *merge = find_merge(bpe, s[left].id, s[right].id);
        if (!merge || merge->id != top.id) continue; /* a neighbour changed meanwhile */
        s[left].id = top.id;
        s[left].after = s[right].after;
        s[right].id = -1;
        if (s[left].after >= 0) s[s[left].after].before = left;
        NIB_TRY(add_candidate(bpe, work, s[left].before));
        NIB_TRY(add_candidate(bpe, work, left));
    }
    return NIB_OK;
}

/* ---- from text to symbols ---- */

static bool has_all_bytes(const nib_bpe *bpe, const char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (bpe->byte_ids[(unsigned char)bytes[i]] < 0) return false;
    return true;
}

/* Each character becomes its own piece, its bytes, or the unknown token (several in a row only
 * once, if fused). An unknown character waits until the next known one, as in the original: bytes
 * that come in between overtake it. */
static nib_status spell(const nib_bpe *bpe, nib_bpe_work *work, const char *piece, size_t length) {
    const bool affixes = *bpe->prefix || *bpe->suffix;
    bool unknown_waits = false;
    work->symbol_count = 0;
    for (size_t at = 0; at < length;) {
        const size_t start = at;
        nib_utf8_next(piece, &at);
        const char *spelled = piece + start;
        size_t spelled_length = at - start;
        if (affixes) {
            work->spelled.length = 0;
            if (start) nib_text_add(&work->spelled, bpe->prefix);
            nib_text_append(&work->spelled, spelled, spelled_length);
            if (at == length) nib_text_add(&work->spelled, bpe->suffix);
            if (work->spelled.failed) {
                work->spelled.failed = false;
                return NIB_E_MEMORY;
            }
            spelled = work->spelled.data;
            spelled_length = work->spelled.length;
        }
        const int32_t id = nib_vocabulary_id(&bpe->vocabulary, spelled, spelled_length);
        if (id >= 0) {
            if (unknown_waits) NIB_TRY(add_symbol(work, bpe->unknown));
            unknown_waits = false;
            NIB_TRY(add_symbol(work, id));
        } else if (bpe->byte_fallback && has_all_bytes(bpe, spelled, spelled_length)) {
            for (size_t i = 0; i < spelled_length; i++)
                NIB_TRY(add_symbol(work, bpe->byte_ids[(unsigned char)spelled[i]]));
        } else if (bpe->unknown >= 0) {
            if (unknown_waits && !bpe->fuse_unknown) NIB_TRY(add_symbol(work, bpe->unknown));
            unknown_waits = true;
        }
    }
    if (unknown_waits) NIB_TRY(add_symbol(work, bpe->unknown));
    return NIB_OK;
}

static cached *cache_slot(nib_bpe_work *work, const char *piece, size_t length) {
    uint64_t h = length;
    for (size_t i = 0; i < length; i++) h = (h ^ (unsigned char)piece[i]) * 0x100000001b3u;
    return &work->cache[(h ^ h >> 23) % CACHE_SLOTS];
}

nib_status nib_bpe_encode(const nib_bpe *bpe, nib_bpe_work *work, const char *piece, size_t length,
                          nib_ids *ids) {
    if (bpe->ignore_merges) {
        const int32_t whole = nib_vocabulary_id(&bpe->vocabulary, piece, length);
        if (whole >= 0) return nib_ids_append(ids, &whole, 1);
    }
    cached *slot = length && length <= CACHE_BYTES ? cache_slot(work, piece, length) : NULL;
    if (slot && slot->length == length && !memcmp(slot->bytes, piece, length))
        return nib_ids_append(ids, slot->ids, slot->count);
    NIB_TRY(spell(bpe, work, piece, length));
    NIB_TRY(merge_symbols(bpe, work));
    const size_t first = ids->count;
    for (size_t i = 0; i < work->symbol_count; i++)
        if (work->symbols[i].id >= 0) NIB_TRY(nib_ids_append(ids, &work->symbols[i].id, 1));
    const size_t count = ids->count - first;
    if (slot && count <= CACHE_IDS) {
        slot->length = (uint8_t)length;
        slot->count = (uint8_t)count;
        memcpy(slot->bytes, piece, length);
        if (count) memcpy(slot->ids, ids->data + first, count * sizeof *slot->ids);
    }
    return NIB_OK;
}

/* ---- reading ---- */

/* The two sides of a merge, spelled "left right" or ["left", "right"]. */
static nib_status merge_sides(const json_t *merge, size_t index, const char **left,
                              size_t *left_length, const char **right, size_t *right_length) {
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (space && !strchr(space + 1, ' ')) {
            *left = text;
            *left_length = (size_t)(space - text);
            *right = space + 1;
            *right_length = strlen(space + 1);
            return NIB_OK;
        }
    } else if (json_is_array(merge) && json_array_size(merge) == 2) {
        const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
        if (json_is_string(a) && json_is_string(b)) {
            *left = json_string_value(a);
            *left_length = json_string_length(a);
            *right = json_string_value(b);
            *right_length = json_string_length(b);
            return NIB_OK;
        }
    }
    return NIB_RAISE(NIB_E_FORMAT, "merges: entry %zu is neither \"left right\" nor two strings",
                     index);
}

static nib_status known_piece(const nib_bpe *bpe, size_t index, const char *piece, size_t length,
                              int32_t *id) {
    *id = nib_vocabulary_id(&bpe->vocabulary, piece, length);
    if (*id >= 0) return NIB_OK;
    return NIB_RAISE(NIB_E_FORMAT, "merges: entry %zu names \"%.*s\", which is not in the vocab",
                     index, (int)(length < 60 ? length : 60), piece);
}

static nib_status read_merge(nib_bpe *bpe, const json_t *merge, size_t index, uint32_t rank,
                             nib_text *joined) {
    const char *left = NULL, *right = NULL;
    size_t left_length = 0, right_length = 0;
    int32_t left_id, right_id, id;
    NIB_TRY(merge_sides(merge, index, &left, &left_length, &right, &right_length));
    NIB_TRY(known_piece(bpe, index, left, left_length, &left_id));
    NIB_TRY(known_piece(bpe, index, right, right_length, &right_id));
    const size_t skip = strlen(bpe->prefix);
    if (skip > right_length || memcmp(right, bpe->prefix, skip) != 0)
        return NIB_RAISE(NIB_E_FORMAT, "merges: entry %zu lacks the prefix \"%.40s\" on its right",
                         index, bpe->prefix);
    joined->length = 0;
    nib_text_append(joined, left, left_length);
    nib_text_append(joined, right + skip, right_length - skip);
    if (joined->failed) return NIB_E_MEMORY;
    NIB_TRY(known_piece(bpe, index, joined->data, joined->length, &id));
    const uint64_t pair = (uint64_t)(uint32_t)left_id << 32 | (uint32_t)right_id;
    size_t slot = pair_hash(pair) & (bpe->merge_slots - 1);
    for (int steps = 0; bpe->merges[slot].pair != NO_PAIR && bpe->merges[slot].pair != pair;
         slot = (slot + 1) & (bpe->merge_slots - 1))
        if (++steps > 1000)
            return NIB_RAISE(NIB_E_FORMAT, "merges: pairs chosen to share one hash (entry %zu)",
                             index);
    bpe->merges[slot] = (nib_merge){pair, rank, id}; /* of two equal pairs the later counts */
    return NIB_OK;
}

static nib_status read_merges(nib_bpe *bpe, const json_t *model) {
    json_t *merges = NULL;
    NIB_TRY(nib_json_array(model, "merges", true, &merges));
    const size_t count = json_array_size(merges);
    bpe->merge_slots = 16;
    while (bpe->merge_slots < count * 2) bpe->merge_slots *= 2;
    bpe->merges = nib_mem_alloc_array(bpe->mem, bpe->merge_slots, sizeof *bpe->merges);
    if (!bpe->merges) return NIB_E_MEMORY;
    for (size_t i = 0; i < bpe->merge_slots; i++) bpe->merges[i].pair = NO_PAIR;
    nib_text joined = {.mem = bpe->mem};
    nib_status status = NIB_OK;
    uint32_t rank = 0;
    for (size_t i = 0; i < count && status == NIB_OK; i++) {
        const json_t *merge = json_array_get(merges, i);
        /* the head line of a merges.txt sometimes came along */
        if (json_is_string(merge) && nib_text_starts(json_string_value(merge), "#version"))
            continue;
        status = read_merge(bpe, merge, i, rank++, &joined);
    }
    nib_text_free(&joined);
    return status;
}

static nib_status read_affix(nib_bpe *bpe, const json_t *model, const char *key, char **copy,
                             const char **affix) {
    const char *given = "";
    *affix = "";
    NIB_TRY(nib_json_string(model, key, false, &given));
    if (!*given) return NIB_OK;
    *copy = nib_mem_strdup(bpe->mem, given);
    if (!*copy) return NIB_E_MEMORY;
    *affix = *copy;
    return NIB_OK;
}

static nib_status read_options(nib_bpe *bpe, const json_t *model) {
    double dropout = 0;
    NIB_TRY(nib_json_double(model, "dropout", false, &dropout));
    if (dropout != 0)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "model: dropout of %g makes ids random", dropout);
    NIB_TRY(nib_json_bool(model, "fuse_unk", false, &bpe->fuse_unknown));
    NIB_TRY(nib_json_bool(model, "byte_fallback", false, &bpe->byte_fallback));
    NIB_TRY(nib_json_bool(model, "ignore_merges", false, &bpe->ignore_merges));
    NIB_TRY(read_affix(bpe, model, "continuing_subword_prefix", &bpe->prefix_copy, &bpe->prefix));
    return read_affix(bpe, model, "end_of_word_suffix", &bpe->suffix_copy, &bpe->suffix);
}

static nib_status read_special_pieces(nib_bpe *bpe, const json_t *model) {
    const char *unknown = NULL;
    bpe->unknown = -1;
    NIB_TRY(nib_json_string(model, "unk_token", false, &unknown));
    if (unknown) {
        bpe->unknown = nib_vocabulary_id(&bpe->vocabulary, unknown, strlen(unknown));
        if (bpe->unknown < 0)
            return NIB_RAISE(NIB_E_FORMAT, "model: unk_token \"%.60s\" is not in the vocab",
                             unknown);
    }
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        bpe->byte_ids[byte] = nib_vocabulary_id(&bpe->vocabulary, name, 6);
    }
    return NIB_OK;
}

nib_status nib_bpe_read(nib_bpe *bpe, nib_mem *mem, const json_t *model) {
    json_t *vocab = NULL;
    *bpe = (nib_bpe){.mem = mem};
    NIB_TRY_GOTO(read_options(bpe, model), fail);
    NIB_TRY_GOTO(nib_json_object(model, "vocab", true, &vocab), fail);
    NIB_TRY_GOTO(nib_vocabulary_read(&bpe->vocabulary, mem, vocab), fail);
    NIB_TRY_GOTO(read_special_pieces(bpe, model), fail);
    NIB_TRY_GOTO(read_merges(bpe, model), fail);
    return NIB_OK;
fail:
    nib_bpe_free(bpe);
    return nib_last_error()->status;
}

void nib_bpe_free(nib_bpe *bpe) {
    nib_mem_strfree(bpe->mem, bpe->prefix_copy);
    nib_mem_strfree(bpe->mem, bpe->suffix_copy);
    nib_mem_free(bpe->mem, bpe->merges, bpe->merge_slots * sizeof *bpe->merges);
    nib_vocabulary_free(&bpe->vocabulary);
    *bpe = (nib_bpe){0};
}
