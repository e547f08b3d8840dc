#include "io/zip.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "io/zlib_memory.h"

enum {
    END_SIZE = 22,     /* end of directory, without its comment */
    END64_SIZE = 56,   /* zip64 end of directory */
    LOCATOR_SIZE = 20, /* that says where the zip64 end is */
    LINE_SIZE = 46,    /* of the directory, without name, extra field, comment */
    LOCAL_SIZE = 30,   /* local header, likewise */
    MAX_COMMENT = 65535,
    MAX_DIRECTORY = 64 << 20, /* bytes */
    FLAG_ENCRYPTED = 1,
    FLAG_SIZES_BEHIND = 8, /* the local header has no sizes: a descriptor follows the bytes */
    STORED = 0,
    DEFLATED = 8,
};
enum { BOMB_SIZE = 64 << 20, BOMB_RATIO = 200 }; /* weights never shrink so far */

static uint32_t u16_at(const unsigned char *b) { return (uint32_t)b[0] | (uint32_t)b[1] << 8; }
static uint32_t u32_at(const unsigned char *b) { return u16_at(b) | u16_at(b + 2) << 16; }
static uint64_t u64_at(const unsigned char *b) {
    return (uint64_t)u32_at(b) | (uint64_t)u32_at(b + 4) << 32;
}

bool nib_zip_looks_like(const void *bytes, size_t size) {
    return size >= 4 && (memcmp(bytes, "PK\3\4", 4) == 0 || memcmp(bytes, "PK\5\6", 4) == 0);
}

static nib_status wrong(const nib_zip *zip, size_t at, const char *what) {
    NIB_RAISE(NIB_E_FORMAT, "%s", what);
    return nib_error_at(zip->path, NULL, (int64_t)at);
}

static nib_status wrong_entry(const nib_zip *zip, const nib_zip_entry *entry, size_t at,
                              const char *what) {
    NIB_RAISE(NIB_E_FORMAT, "zip entry \"%.80s\": %s", entry->name, what);
    return nib_error_at(zip->path, NULL, (int64_t)at);
}

/* ---- the end: where the directory is ---- */
typedef struct place {
    size_t offset, size, count; /* of the directory; its lines */
    size_t end;                 /* where its end record begins */
} place;

static nib_status read_end64(const nib_zip *zip, const nib_source *source, size_t end, place *p) {
    unsigned char locator[LOCATOR_SIZE], b[END64_SIZE];
    if (end < LOCATOR_SIZE) return wrong(zip, end, "the zip64 end of the directory is missing");
    NIB_TRY(nib_source_read(source, locator, LOCATOR_SIZE, end - LOCATOR_SIZE));
    if (memcmp(locator, "PK\6\7", 4) != 0)
        return wrong(zip, end - LOCATOR_SIZE, "the zip64 end of the directory is missing");
    const uint64_t at = u64_at(locator + 8);
    if (end - LOCATOR_SIZE < END64_SIZE || at > end - LOCATOR_SIZE - END64_SIZE)
        return wrong(zip, end - LOCATOR_SIZE, "the zip64 end of the directory lies outside");
    NIB_TRY(nib_source_read(source, b, END64_SIZE, (size_t)at));
    if (memcmp(b, "PK\6\6", 4) != 0)
        return wrong(zip, (size_t)at, "the zip64 end of the directory is missing");
    if (u64_at(b + 4) != end - LOCATOR_SIZE - at - 12)
        return wrong(zip, (size_t)at, "the zip64 end of the directory has a wrong length");
    if (u32_at(b + 16) || u32_at(b + 20) || u64_at(b + 24) != u64_at(b + 32))
        return wrong(zip, (size_t)at, "an archive of several disks");
    *p =
        (place){(size_t)u64_at(b + 48), (size_t)u64_at(b + 40), (size_t)u64_at(b + 32), (size_t)at};
    return NIB_OK;
}

/* The last bytes that can be an end record whose comment ends with the file. */
static nib_status read_end(const nib_zip *zip, const nib_source *source, place *p) {
    unsigned char *tail = NULL;
    const size_t room =
        source->size < END_SIZE + MAX_COMMENT ? source->size : END_SIZE + MAX_COMMENT;
    const size_t base = source->size - room;
    nib_status status = NIB_E_FORMAT;
    tail = nib_mem_alloc(zip->mem, room);
    if (!tail) return NIB_E_MEMORY;
    NIB_TRY_GOTO(status = nib_source_read(source, tail, room, base), done);
    size_t i = room >= END_SIZE ? room - END_SIZE + 1 : 0, found = SIZE_MAX;
    while (i-- > 0 && found == SIZE_MAX)
        if (memcmp(tail + i, "PK\5\6", 4) == 0 && i + END_SIZE + u16_at(tail + i + 20) == room)
            found = i;
    if (found == SIZE_MAX) {
        status = wrong(zip, source->size,
                       "not a whole zip archive: no end of its directory; it may be cut short");
        goto done;
    }
    const unsigned char *b = tail + found;
    *p = (place){u32_at(b + 16), u32_at(b + 12), u16_at(b + 10), base + found};
    if (p->offset == UINT32_MAX || p->size == UINT32_MAX || p->count == UINT16_MAX)
        status = read_end64(zip, source, base + found, p);
    else if (u16_at(b + 4) || u16_at(b + 6) || u16_at(b + 8) != u16_at(b + 10))
        status = wrong(zip, base + found, "an archive of several disks");
    /* torch.save writes both ends when there is no need to: the locator is then between */
    else if (p->offset + p->size + END64_SIZE + LOCATOR_SIZE == p->end)
        status = read_end64(zip, source, base + found, p);
done:
    nib_mem_free(zip->mem, tail, room);
    NIB_TRY(status);
    if (p->size > MAX_DIRECTORY) {
        NIB_RAISE(NIB_E_FORMAT, "a directory of %zu bytes is over the limit of %d", p->size,
                  MAX_DIRECTORY);
        return nib_error_at(zip->path, NULL, (int64_t)p->end);
    }
    if (p->offset > p->end || p->end - p->offset != p->size)
        return wrong(zip, p->end, "the directory does not end where the archive's end begins");
    if (p->count > p->size / LINE_SIZE || (p->count == 0 && p->size))
        return wrong(zip, p->end, "the directory is too small or large for its entries");
    return NIB_OK;
}

/* ---- the directory ---- */
/* Sizes and offset over 32 bits stand in the extra field with id 1, those that are needed only. */
static bool read_extra64(const unsigned char *extra, size_t length, uint64_t *size,
                         uint64_t *packed, uint64_t *local) {
    uint64_t *const wanted[] = {size, packed, local};
    for (size_t at = 0; at + 4 <= length;) {
        const size_t n = u16_at(extra + at + 2);
        if (n > length - at - 4) return false;
        if (u16_at(extra + at) == 1) {
            size_t used = 0;
            for (int i = 0; i < 3; i++) {
                if (*wanted[i] != UINT32_MAX) continue;
                if (used + 8 > n) return false;
                *wanted[i] = u64_at(extra + at + 4 + used);
                used += 8;
            }
            return true;
        }
        at += 4 + n;
    }
    return *size != UINT32_MAX && *packed != UINT32_MAX && *local != UINT32_MAX;
}

/* One line, from directory[*at] on. The name is ended by a zero over what follows it, which was
 * read before. */
static nib_status read_line(nib_zip *zip, size_t base, size_t *at, nib_zip_entry *entry,
                            size_t *names, uint64_t *local) {
    unsigned char *b = (unsigned char *)zip->directory + *at;
    const size_t rest = zip->directory_size - *at;
    if (rest < LINE_SIZE || memcmp(b, "PK\1\2", 4) != 0)
        return wrong(zip, base + *at, "not a line of the directory");
    const size_t name = u16_at(b + 28), extra = u16_at(b + 30), comment = u16_at(b + 32);
    if (LINE_SIZE + name + extra + comment > rest)
        return wrong(zip, base + *at, "a line of the directory ends outside of it");
    uint64_t packed = u32_at(b + 20), size = u32_at(b + 24);
    const uint32_t flags = u16_at(b + 8), method = u16_at(b + 10);
    *local = u32_at(b + 42);
    const bool known = read_extra64(b + LINE_SIZE + name, extra, &size, &packed, local);
    *entry = (nib_zip_entry){.crc = u32_at(b + 16),
                             .deflated = method == DEFLATED,
                             .header_offset = base + *at,
                             .name = zip->directory + *names};
    /* names move to the front of what was read: there is always room, a line is longer */
    memmove(zip->directory + *names, b + LINE_SIZE, name);
    zip->directory[*names + name] = '\0';
    *names += name + 1;
    *at += LINE_SIZE + name + extra + comment;
    if (memchr(entry->name, '\0', name))
        return wrong_entry(zip, entry, entry->header_offset, "a zero byte in its name");
    if (!known)
        return wrong_entry(zip, entry, entry->header_offset, "sizes over 32 bits are missing");
    if (flags & FLAG_ENCRYPTED || (method != STORED && method != DEFLATED)) {
        NIB_RAISE(NIB_E_UNSUPPORTED, "zip entry \"%.80s\": %s is not read", entry->name,
                  flags & FLAG_ENCRYPTED ? "encryption" : "compression other than deflate");
        return nib_error_at(zip->path, NULL, (int64_t)entry->header_offset);
    }
    if (size > INT64_MAX || packed > INT64_MAX || (method == STORED && size != packed))
        return wrong_entry(zip, entry, entry->header_offset, "its sizes contradict each other");
    entry->size = (size_t)size;
    entry->packed = (size_t)packed;
    return NIB_OK;
}

/* The local header must tell the same, as far as it tells. `before`: where the directory begins. */
static nib_status read_local(const nib_zip *zip, const nib_source *source, nib_zip_entry *entry,
                             uint64_t local, size_t before, char *name_room) {
    unsigned char b[LOCAL_SIZE];
    if (local > before || before - local < LOCAL_SIZE)
        return wrong_entry(zip, entry, entry->header_offset, "lies outside the file");
    const size_t at = (size_t)local;
    NIB_TRY(nib_source_read(source, b, LOCAL_SIZE, at));
    if (memcmp(b, "PK\3\4", 4) != 0) return wrong_entry(zip, entry, at, "no local header here");
    const size_t name = u16_at(b + 26), extra = u16_at(b + 28), head = LOCAL_SIZE + name + extra;
    if (before - at < head || entry->packed > before - at - head)
        return wrong_entry(zip, entry, entry->header_offset,
                           "its bytes reach over the end of the archive's entries");
    entry->offset = at + head;
    if (name != strlen(entry->name))
        return wrong_entry(zip, entry, at, "the local header has another name");
    NIB_TRY(nib_source_read(source, name_room, name, at + LOCAL_SIZE));
    if (memcmp(name_room, entry->name, name) != 0)
        return wrong_entry(zip, entry, at, "the local header has another name");
    const uint32_t flags = u16_at(b + 6), packed = u32_at(b + 18), size = u32_at(b + 22);
    const bool behind = flags & FLAG_SIZES_BEHIND;
    if (u16_at(b + 8) != (entry->deflated ? DEFLATED : STORED))
        return wrong_entry(zip, entry, at, "the local header has another compression");
    if ((packed != UINT32_MAX && packed != (uint32_t)entry->packed && !(behind && packed == 0)) ||
        (size != UINT32_MAX && size != (uint32_t)entry->size && !(behind && size == 0)) ||
        (u32_at(b + 14) != entry->crc && !behind))
        return wrong_entry(zip, entry, at, "the local header has other sizes or another CRC");
    return NIB_OK;
}

static int by_offset(const void *a, const void *b) {
    const nib_zip_entry *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->packed < y->packed ? -1 : x->packed > y->packed;
}
static int by_name(const void *a, const void *b) {
    const nib_zip_entry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Apart from each other: no byte belongs to two entries, no header lies in another's bytes. */
static nib_status check_entries(nib_zip *zip) {
    if (zip->count) qsort(zip->entries, zip->count, sizeof *zip->entries, by_offset);
    for (size_t i = 1; i < zip->count; i++) {
        const nib_zip_entry *a = &zip->entries[i - 1], *b = &zip->entries[i];
        if (a->offset + a->packed + LOCAL_SIZE + strlen(b->name) <= b->offset) continue;
        return wrong_entry(zip, b, b->header_offset, "overlaps the entry before it");
    }
    zip->by_name = nib_mem_alloc_array(zip->mem, zip->count, sizeof *zip->by_name);
    if (!zip->by_name) return NIB_E_MEMORY;
    for (size_t i = 0; i < zip->count; i++) zip->by_name[i] = &zip->entries[i];
    if (zip->count) qsort(zip->by_name, zip->count, sizeof *zip->by_name, by_name);
    for (size_t i = 1; i < zip->count; i++)
        if (strcmp(zip->by_name[i - 1]->name, zip->by_name[i]->name) == 0)
            return wrong_entry(zip, zip->by_name[i], zip->by_name[i]->header_offset,
                               "two entries have this name");
    return NIB_OK;
}

nib_status nib_zip_read(nib_mem *mem, const nib_source *source, nib_zip *zip) {
    place p = {0};
    char name_room[MAX_COMMENT];
    *zip = (nib_zip){.mem = mem, .path = source->path};
    NIB_TRY(read_end(zip, source, &p));
    zip->directory = nib_mem_alloc(mem, p.size);
    if (!zip->directory) return NIB_E_MEMORY;
    zip->directory_size = p.size;
    NIB_TRY(nib_source_read(source, zip->directory, p.size, p.offset));
    zip->entries = nib_mem_alloc_array(mem, p.count, sizeof *zip->entries);
    if (!zip->entries) return NIB_E_MEMORY;
    zip->room = p.count;
    size_t at = 0, names = 0;
    for (; zip->count < p.count; zip->count++) {
        nib_zip_entry *entry = &zip->entries[zip->count];
        uint64_t local = 0;
        NIB_TRY(read_line(zip, p.offset, &at, entry, &names, &local));
        NIB_TRY(read_local(zip, source, entry, local, p.offset, name_room));
    }
    if (at != p.size) return wrong(zip, p.offset + at, "the directory has more than its entries");
    return check_entries(zip);
}

void nib_zip_free(nib_zip *zip) {
    nib_mem_free(zip->mem, zip->entries, zip->room * sizeof *zip->entries);
    nib_mem_free(zip->mem, zip->by_name, zip->count * sizeof *zip->by_name);
    nib_mem_free(zip->mem, zip->directory, zip->directory_size);
    *zip = (nib_zip){.mem = zip->mem};
}

const nib_zip_entry *nib_zip_find(const nib_zip *zip, const char *name) {
    const nib_zip_entry key = {.name = name}, *wanted = &key;
    if (!zip->count) return NULL;
    const nib_zip_entry *const *found =
        bsearch(&wanted, zip->by_name, zip->count, sizeof *zip->by_name, by_name);
    return found ? *found : NULL;
}

nib_status nib_zip_error_at(const nib_zip *zip, const nib_zip_entry *entry) {
    return nib_error_at(zip->path, NULL, (int64_t)entry->header_offset);
}

/* ---- bytes ---- */
static nib_status inflate_entry(const nib_zip *zip, const nib_source *source,
                                const nib_zip_entry *entry, unsigned char *to) {
    enum { RUN = 1 << 16 };
    z_stream z = {.zalloc = nib_zlib_alloc, .zfree = nib_zlib_free, .opaque = zip->mem};
    unsigned char *run = nib_mem_alloc(zip->mem, RUN);
    if (!run) return NIB_E_MEMORY;
    nib_status status = NIB_OK;
    size_t taken = 0, made = 0;
    int result = inflateInit2(&z, -MAX_WBITS);
    if (result != Z_OK) {
        nib_mem_free(zip->mem, run, RUN);
        return nib_last_error()->status;
    }
    unsigned char over; /* one byte more than it says would land here */
    while (result != Z_STREAM_END && status >= NIB_OK) {
        if (!z.avail_in && taken < entry->packed) {
            const size_t n = entry->packed - taken < RUN ? entry->packed - taken : RUN;
            status = nib_source_read(source, run, n, entry->offset + taken);
            z.next_in = run;
            z.avail_in = (unsigned)n;
            taken += n;
            if (status < NIB_OK) break;
        }
        const size_t left = entry->size - made, room = left < RUN ? left : RUN;
        z.next_out = left ? to + made : &over;
        z.avail_out = left ? (unsigned)room : 1;
        const unsigned given = z.avail_out;
        result = inflate(&z, Z_NO_FLUSH);
        const size_t n = given - z.avail_out;
        if (result == Z_MEM_ERROR)
            status = nib_last_error()->status;
        else if (!left && n)
            status = wrong_entry(zip, entry, entry->offset, "unpacks to more bytes than it says");
        else if (result == Z_OK || result == Z_STREAM_END)
            made += n;
        else
            status = wrong_entry(zip, entry, entry->offset + taken - z.avail_in,
                                 "its compressed bytes are damaged");
    }
    if (status >= NIB_OK && made != entry->size)
        status = wrong_entry(zip, entry, entry->offset, "unpacks to fewer bytes than it says");
    if (status >= NIB_OK && (z.avail_in || taken != entry->packed))
        status = wrong_entry(zip, entry, entry->offset, "has bytes behind its compressed ones");
    inflateEnd(&z);
    nib_mem_free(zip->mem, run, RUN);
    return status;
}

uint32_t nib_zip_crc(const void *from, size_t size) {
    const unsigned char *bytes = from;
    enum { RUN = 1 << 30 }; /* zlib counts in unsigned */
    unsigned long crc = crc32(0, NULL, 0);
    for (size_t at = 0; at < size; at += RUN)
        crc = crc32(crc, bytes + at, (unsigned)(size - at < RUN ? size - at : RUN));
    return (uint32_t)crc;
}

static nib_status check_bomb(const nib_zip *zip, const nib_zip_entry *entry) {
    if (entry->size <= BOMB_SIZE || entry->size / BOMB_RATIO <= entry->packed) return NIB_OK;
    NIB_RAISE(NIB_E_FORMAT,
              "zip entry \"%.80s\": %zu bytes that unpack to %zu are refused as a bomb; store "
              "them uncompressed",
              entry->name, entry->packed, entry->size);
    return nib_zip_error_at(zip, entry);
}

nib_status nib_zip_unpack(const nib_zip *zip, const nib_source *source, const nib_zip_entry *entry,
                          void *to) {
    NIB_TRY(check_bomb(zip, entry));
    NIB_TRY(entry->deflated ? inflate_entry(zip, source, entry, to)
                            : nib_source_read(source, to, entry->size, entry->offset));
    if (!entry->crc || nib_zip_crc(to, entry->size) == entry->crc) return NIB_OK;
    return wrong_entry(zip, entry, entry->offset, "its bytes do not have its CRC-32: damaged");
}

unsigned char *nib_zip_load(const nib_zip *zip, const nib_source *source,
                            const nib_zip_entry *entry, size_t most) {
    if (entry->size > most) {
        NIB_RAISE(NIB_E_FORMAT, "zip entry \"%.80s\": %zu bytes are over the limit of %zu",
                  entry->name, entry->size, most);
        nib_zip_error_at(zip, entry);
        return NULL;
    }
    NIB_TRY_NULL(check_bomb(zip, entry));
    unsigned char *bytes = nib_mem_alloc(zip->mem, entry->size);
    if (!bytes || nib_zip_unpack(zip, source, entry, bytes) >= NIB_OK) return bytes;
    nib_mem_free(zip->mem, bytes, entry->size);
    return NULL;
}
