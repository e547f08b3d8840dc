/* zip.h: the table of a zip archive, as torch.save and numpy.savez write them.
 *
 *   | local header, name, padding | bytes | ... | directory | (zip64 end) | end |
 *
 * Read and checked here rather than by a library, because what is asked is small and strict: where
 * an entry's bytes lie, so that tensors are mapped where they are, and that no two headers
 * contradict each other. Refused: entries that overlap or lie outside the file, names that are
 * there twice, a directory and local headers that disagree, bytes behind the end, encryption,
 * archives of several disks. Format: PKWARE's APPNOTE.TXT 6.3.9. */
#ifndef NIB_IO_ZIP_H
#define NIB_IO_ZIP_H
#include "io/tensor_file.h"

typedef struct nib_zip_entry {
    const char *name;
    size_t offset, packed; /* of its bytes in the file */
    size_t size;           /* unpacked; equal to `packed` unless deflated */
    uint32_t crc;          /* CRC-32 of the unpacked bytes; torch can be told to write 0 */
    bool deflated;
    size_t header_offset; /* of its line in the directory, for errors */
} nib_zip_entry;

typedef struct nib_zip {
    nib_mem *mem;
    const char *path;       /* for errors, borrowed */
    nib_zip_entry *entries; /* in the order of their bytes */
    size_t count, room;
    const nib_zip_entry **by_name;
    char *directory; /* its bytes, names ended by zeros */
    size_t directory_size;
} nib_zip;

bool nib_zip_looks_like(const void *bytes, size_t size); /* from a file's first bytes */

/* Fails: NIB_E_FORMAT naming the entry in its text and the byte; NIB_E_UNSUPPORTED for
 * encryption, disks and compression other than deflate. The zip is to be freed in any case. */
nib_status nib_zip_read(nib_mem *mem, const nib_source *source, nib_zip *zip);
void nib_zip_free(nib_zip *zip);

const nib_zip_entry *nib_zip_find(const nib_zip *zip, const char *name); /* or NULL */

/* All bytes of an entry, entry->size of them, checked against its CRC unless that is 0. An entry
 * that unpacks to more or fewer bytes than it says is an error, as is one that says it unpacks
 * more than 200-fold to more than 64 MiB. */
nib_status nib_zip_unpack(const nib_zip *zip, const nib_source *source, const nib_zip_entry *entry,
                          void *to);

/* The same into memory of its own, at most `most` bytes; give back with
 * nib_mem_free(mem, bytes, entry->size). */
unsigned char *nib_zip_load(const nib_zip *zip, const nib_source *source,
                            const nib_zip_entry *entry, size_t most);

uint32_t nib_zip_crc(const void *bytes, size_t size); /* CRC-32 as zip has it */

/* Say of the latest failure that this entry is to blame. */
nib_status nib_zip_error_at(const nib_zip *zip, const nib_zip_entry *entry);
#endif
