/* file.h: reading, mapping and writing of files.
 *
 * Reading never trusts a size it was told: a file that ends early is an error that names the
 * byte. Writing never shows half a file: bytes go to a temporary sibling that takes the name in
 * one rename, after fsync. Offsets and sizes are in bytes. */
#ifndef NIB_BASE_FILE_H
#define NIB_BASE_FILE_H
#include <nibble/nibble.h>

#include "base/mem.h"

/* ---- reading ---- */
typedef struct nib_file {
    nib_mem *mem;
    char *path; /* NULL: not open */
    int fd;
    size_t size; /* at the time of opening */
} nib_file;

/* Open a regular file; folders, devices and pipes are refused. On failure *file is closed. */
nib_status nib_file_open(nib_mem *mem, const char *path, nib_file *file);
void nib_file_close(nib_file *file); /* a zeroed or closed one is fine */

/* All `size` bytes at `offset`, or an error with the byte where the file ended. May be called
 * from several threads at once, though only the thread that owns the call may raise. */
nib_status nib_file_read(const nib_file *file, void *to, size_t size, size_t offset);

/* A whole file and one zero byte behind it (not counted in *size). More than `most` bytes is
 * NIB_E_FORMAT. Give back with nib_mem_free(mem, bytes, *size + 1). */
char *nib_file_read_whole(nib_mem *mem, const char *path, size_t most, size_t *size);

/* ---- mapping: read-only; lives on after the file is closed ---- */
typedef struct nib_map {
    const unsigned char *data; /* NULL when the file is empty or not mapped */
    size_t size;
} nib_map;

/* The file as it is now; NIB_E_FORMAT when its size is no longer file->size, as a page past the
 * end of a file that shrank would kill the process. */
nib_status nib_file_map(const nib_file *file, nib_map *map);
typedef enum nib_map_advice {
    NIB_MAP_WILL_NEED, /* soon: read from the disk what is not in memory */
    NIB_MAP_NOW, /* at once, all of it: one call is cheaper than a fault for every few pages */
    NIB_MAP_DONE,
} nib_map_advice;
void nib_map_advise(const nib_map *map, size_t offset, size_t size, nib_map_advice advice);
void nib_map_close(nib_map *map);

/* ---- writing: all or nothing ---- */
typedef struct nib_file_writer nib_file_writer;

/* A file of `size` bytes to be, its space reserved now (so that a full disk is known before the
 * work). An existing file stays as it is until the commit. A symbolic link, folder or device
 * under the name is refused. */
nib_file_writer *nib_file_writer_open(nib_mem *mem, const char *path, size_t size);
nib_status nib_file_writer_put(nib_file_writer *writer, const void *from, size_t size,
                               size_t offset);

/* The same, but under one temporary name, so that work which was interrupted can go on: *continued
 * tells that such a file of this size was there, and its bytes still are. Only for folders that
 * one process holds (nib_dir_lock). */
nib_file_writer *nib_file_writer_reopen(nib_mem *mem, const char *path, size_t size,
                                        bool *continued);

/* Bytes written before, or by the work that is continued. */
nib_status nib_file_writer_get(const nib_file_writer *writer, void *to, size_t size, size_t offset);

/* Put everything on disk; after it nothing more can be written. The bytes can be read back under
 * nib_file_writer_temp until the commit. */
nib_status nib_file_writer_sync(nib_file_writer *writer);
const char *nib_file_writer_temp(const nib_file_writer *writer);

/* Sync if that was not done, take the name, sync the folder. Frees the writer in every case; on
 * failure the temporary file is gone and the name holds what it held, or (only when the folder
 * cannot be synced) the whole new file. */
nib_status nib_file_writer_commit(nib_file_writer *writer);
void nib_file_writer_abort(nib_file_writer *writer); /* NULL is fine */

/* Give up for now: the temporary file stays, for nib_file_writer_reopen. NULL is fine. */
void nib_file_writer_leave(nib_file_writer *writer);

/* A whole small file by the same rules. */
nib_status nib_file_write_whole(nib_mem *mem, const char *path, const void *bytes, size_t size);

/* A copy by the same rules; the source may be reached through links. */
nib_status nib_file_copy(nib_mem *mem, const char *from, const char *to);
#endif
