/* zip_write.h: what surrounds the bytes of a zip archive's entries, which are stored as they are:
 * places, headers and the directory. The counterpart of zip.h; equal entries give equal bytes.
 * Format: PKWARE's APPNOTE.TXT 6.3.9, zip64 where sizes or places need it. */
#ifndef NIB_IO_ZIP_WRITE_H
#define NIB_IO_ZIP_WRITE_H
#include "base/text_util.h"

enum { NIB_ZIP_ALIGN = 64 }; /* entries' bytes begin at multiples of it in the file */

typedef struct nib_zip_place {
    char name[40];
    size_t header, offset, size; /* local header and bytes in the file */
    size_t extra;                /* bytes of the local header's extra field */
    uint32_t crc;                /* of its bytes; to be set before headers are put */
} nib_zip_place;

/* Place an entry of `size` bytes, whose name is set, behind byte *end of the file, and move *end
 * behind it. Fails: NIB_E_ARGUMENT where no file is so long. */
nib_status nib_zip_place_next(nib_zip_place *entry, size_t size, size_t *end);

/* What lies between entry->header and entry->offset. */
void nib_zip_put_local(nib_text *text, const nib_zip_place *entry);

/* The directory of all entries, which lies at byte `offset` of the file and is its end. */
void nib_zip_put_directory(nib_text *text, const nib_zip_place *entries, size_t count,
                           size_t offset);
#endif
