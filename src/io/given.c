#include "io/given.h"

#include <string.h>
#include <zlib.h>

#include "base/error.h"
#include "io/zip.h"

static uint32_t joined(const nib_given_range *a, const nib_given_range *b) {
    return (uint32_t)crc32_combine(a->crc, b->crc, (z_off_t)(b->end - b->begin));
}

nib_status nib_given_note(nib_mem *mem, nib_given *g, size_t begin, size_t end, const void *bytes) {
    nib_given_range one = {begin, end, 0};
    size_t i = g->count; /* the first range that ends behind `begin` */
    if (begin == end) return NIB_OK;
    while (i > 0 && g->ranges[i - 1].end > begin) i--;
    if (i < g->count && g->ranges[i].begin < end)
        return NIB_RAISE(NIB_E_ARGUMENT, "bytes %zu to %zu of a tensor were given twice", begin,
                         end);
    if (bytes) one.crc = nib_zip_crc(bytes, end - begin);
    nib_given_range *last = i > 0 && g->ranges[i - 1].end == begin ? &g->ranges[i - 1] : NULL;
    nib_given_range *next = i < g->count && g->ranges[i].begin == end ? &g->ranges[i] : NULL;
    if (last) {
        if (bytes) last->crc = joined(last, &one);
        last->end = end;
        if (!next) return NIB_OK;
        if (bytes) last->crc = joined(last, next);
        last->end = next->end;
        g->count--;
        memmove(g->ranges + i, g->ranges + i + 1, (g->count - i) * sizeof *g->ranges);
    } else if (next) {
        if (bytes) next->crc = joined(&one, next);
        next->begin = begin;
    } else {
        if (g->count == g->room) {
            const size_t room = g->room ? 2 * g->room : 4;
            nib_given_range *moved =
                nib_mem_realloc(mem, g->ranges, g->room * sizeof *moved, room * sizeof *moved);
            if (!moved) return NIB_E_MEMORY;
            g->ranges = moved;
            g->room = room;
        }
        memmove(g->ranges + i + 1, g->ranges + i, (g->count - i) * sizeof *g->ranges);
        g->ranges[i] = one;
        g->count++;
    }
    return NIB_OK;
}

nib_status nib_given_check(const nib_given *g, size_t size) {
    if (size == 0 || (g->count == 1 && g->ranges[0].begin == 0 && g->ranges[0].end == size))
        return NIB_OK;
    const size_t missing = !g->count || g->ranges[0].begin ? 0 : g->ranges[0].end;
    return NIB_RAISE(NIB_E_ARGUMENT, "was not given from its byte %zu on", missing);
}

void nib_given_free(nib_mem *mem, nib_given *g) {
    nib_mem_free(mem, g->ranges, g->room * sizeof *g->ranges);
    *g = (nib_given){0};
}
