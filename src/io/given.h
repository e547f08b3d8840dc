/* given.h: which bytes of a tensor a writer was given, as ranges that are apart and in order, and
 * their CRC-32 where the format keeps one: bytes come in any order, each once. */
#ifndef NIB_IO_GIVEN_H
#define NIB_IO_GIVEN_H
#include <nibble/nibble.h>

#include "base/mem.h"

typedef struct nib_given_range {
    size_t begin, end;
    uint32_t crc;
} nib_given_range;

typedef struct nib_given {
    nib_given_range *ranges;
    size_t count, room;
} nib_given;

/* [begin, end) was given; ranges that touch become one. `bytes` NULL: no CRC is kept.
 * Fails: NIB_E_ARGUMENT when a byte of it was given before. */
nib_status nib_given_note(nib_mem *mem, nib_given *given, size_t begin, size_t end,
                          const void *bytes);

/* All of [0, size)? Else NIB_E_ARGUMENT telling the first byte that is missing. */
nib_status nib_given_check(const nib_given *given, size_t size);
void nib_given_free(nib_mem *mem, nib_given *given);
#endif
