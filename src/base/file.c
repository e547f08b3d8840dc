/* file.c: reading and mapping. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/sys.h"

_Static_assert(sizeof(size_t) >= sizeof(off_t), "sizes of files are kept in size_t");

nib_status nib_file_open(nib_mem *mem, const char *path, nib_file *file) {
    *file = (nib_file){.mem = mem, .fd = -1};
    /* O_NONBLOCK: opening a pipe must not wait for a writer; a regular file ignores it. */
    const int fd = nib_sys_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0) {
        NIB_RAISE_OS(errno, "cannot open the file");
        return nib_error_at(path, NULL, -1);
    }
    struct stat about;
    if (nib_sys_fstat(fd, &about) < 0) {
        NIB_RAISE_OS(errno, "cannot ask for the file's size");
        goto fail;
    }
    if (!S_ISREG(about.st_mode)) {
        NIB_RAISE(NIB_E_IO,
                  S_ISDIR(about.st_mode) ? "is a folder, not a file" : "is not a regular file");
        goto fail;
    }
    file->path = nib_mem_strdup(mem, path);
    if (!file->path) goto fail;
    file->fd = fd;
    file->size = (size_t)about.st_size;
    return NIB_OK;
fail:
    nib_sys_close(fd);
    return nib_error_at(path, NULL, -1);
}

void nib_file_close(nib_file *file) {
    if (!file->path) return;
    nib_sys_close(file->fd); /* nothing was written: no news worth having */
    nib_mem_strfree(file->mem, file->path);
    file->path = NULL;
    file->fd = -1;
}

nib_status nib_file_read(const nib_file *file, void *to, size_t size, size_t offset) {
    unsigned char *at = to;
    size_t done = 0;
    while (done < size) {
        const ssize_t moved = nib_sys_pread(file->fd, at + done, size - done, offset + done);
        if (moved < 0) {
            NIB_RAISE_OS(errno, "cannot read %zu bytes", size - done);
            return nib_error_at(file->path, NULL, (int64_t)(offset + done));
        }
        if (moved == 0) {
            NIB_RAISE(NIB_E_FORMAT,
                      "the file is %zu bytes short: it ends here, within %zu bytes "
                      "that begin at %zu",
                      size - done, size, offset);
            return nib_error_at(file->path, NULL, (int64_t)(offset + done));
        }
        done += (size_t)moved;
    }
    return NIB_OK;
}

char *nib_file_read_whole(nib_mem *mem, const char *path, size_t most, size_t *size) {
    nib_file file;
    NIB_TRY_NULL(nib_file_open(mem, path, &file));
    char *bytes = NULL;
    if (file.size > most || file.size == SIZE_MAX) {
        NIB_RAISE(NIB_E_FORMAT, "the file has %zu bytes; more than %zu are not read here",
                  file.size, most);
        nib_error_at(path, NULL, -1);
        goto done;
    }
    bytes = nib_mem_alloc(mem, file.size + 1);
    if (!bytes) {
        nib_error_at(path, NULL, -1);
        goto done;
    }
    if (nib_file_read(&file, bytes, file.size, 0) < NIB_OK) {
        nib_mem_free(mem, bytes, file.size + 1);
        bytes = NULL;
        goto done;
    }
    bytes[file.size] = '\0';
    *size = file.size;
done:
    nib_file_close(&file);
    return bytes;
}

/* ---- mapping ---- */
nib_status nib_file_map(const nib_file *file, nib_map *map) {
    *map = (nib_map){0};
    struct stat about;
    if (nib_sys_fstat(file->fd, &about) < 0) {
        NIB_RAISE_OS(errno, "cannot ask for the file's size");
        return nib_error_at(file->path, NULL, -1);
    }
    if ((size_t)about.st_size != file->size) {
        NIB_RAISE(NIB_E_FORMAT, "the file had %zu bytes when it was opened and has %zu now",
                  file->size, (size_t)about.st_size);
        return nib_error_at(file->path, NULL, -1);
    }
    if (file->size == 0) return NIB_OK; /* mmap refuses length 0 */
    void *data = nib_sys_map(file->fd, file->size);
    if (data == MAP_FAILED) {
        NIB_RAISE_OS(errno, "cannot map %zu bytes", file->size);
        return nib_error_at(file->path, NULL, -1);
    }
    *map = (nib_map){.data = data, .size = file->size};
    return NIB_OK;
}

void nib_map_advise(const nib_map *map, size_t offset, size_t size, nib_map_advice advice) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!map->data || offset >= map->size) return;
    if (size > map->size - offset) size = map->size - offset;
    const size_t base = (size_t)(uintptr_t)map->data; /* of a part of a map: inside a page */
    size_t begin = base + offset, end = begin + size;
    if (advice != NIB_MAP_DONE) {
        begin &= ~(page - 1);
    } else { /* let go of whole pages only: neighbours may live */
        begin = (begin + page - 1) & ~(page - 1);
        if (base % page || end != base + map->size) end &= ~(page - 1);
    }
    if (begin >= end) return;
    /* Advice only: when it is refused the pages come and go as they would anyway. */
    static const int advices[] = {
        [NIB_MAP_WILL_NEED] = MADV_WILLNEED,
#if defined(MADV_POPULATE_READ)
        [NIB_MAP_NOW] = MADV_POPULATE_READ,
#else
        [NIB_MAP_NOW] = MADV_WILLNEED,
#endif
        [NIB_MAP_DONE] = MADV_DONTNEED,
    };
    (void)nib_sys_advise((void *)(uintptr_t)begin, end - begin, advices[advice]);
}

void nib_map_close(nib_map *map) {
    if (map->data) nib_sys_unmap((void *)(uintptr_t)map->data, map->size);
    *map = (nib_map){0};
}
