/* file_write.c: files that appear whole or not at all.
 *
 *   open    .name.pid.count.tmp, new, in the same folder      the name holds what it held
 *   put     anywhere in it
 *   sync    fsync, close                                      a failed fsync is final: the kernel
 *                                                             may have dropped the pages
 *   commit  rename, fsync of the folder                       the name holds the new file */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "base/path.h"
#include "base/sys.h"

/* Often enough that the disk is never idle, seldom enough that looking for dirty pages costs
 * nothing. */
enum { WRITE_BACK_BYTES = 64 << 20 };

struct nib_file_writer {
    nib_mem *mem;
    char *path, *temp, *parent;
    int fd; /* -1 once synced and closed */
    size_t size;
    bool failed;     /* a write or sync failed: nothing may be committed */
    size_t unsynced; /* bytes put since the disk was last told to begin */
};

/* A folder of many writers needs names that differ; O_EXCL finds out when one does not. */
static char *temp_name(nib_mem *mem, const char *parent, const char *path) {
    static atomic_uint count;
    char name[256];
    snprintf(name, sizeof name, ".%.200s.%ld.%u.tmp", nib_path_base(path), (long)getpid(),
             atomic_fetch_add(&count, 1));
    return nib_path_join(mem, parent, name);
}

static void writer_free(nib_file_writer *writer) {
    nib_mem_strfree(writer->mem, writer->path);
    nib_mem_strfree(writer->mem, writer->temp);
    nib_mem_strfree(writer->mem, writer->parent);
    nib_mem_free(writer->mem, writer, sizeof *writer);
}

static nib_status check_target(const char *path) {
    if (!nib_path_is_plain(nib_path_base(path))) {
        NIB_RAISE(NIB_E_ARGUMENT, "does not name a file to write");
        return nib_error_at(path, NULL, -1);
    }
    nib_path_kind kind;
    NIB_TRY(nib_path_look(path, false, &kind));
    if (kind == NIB_PATH_NONE || kind == NIB_PATH_FILE) return NIB_OK;
    NIB_RAISE(NIB_E_ARGUMENT, "not written: %s is there; remove it or choose another name",
              kind == NIB_PATH_LINK     ? "a symbolic link"
              : kind == NIB_PATH_FOLDER ? "a folder"
                                        : "a device or pipe");
    return nib_error_at(path, NULL, -1);
}

/* Reserve the space, so that a full disk is known now. File systems that cannot are no reason to
 * stop. A file larger than the process may write is refused here, because the kernel answers the
 * write itself with a signal that ends the process. */
static nib_status reserve(const nib_file_writer *writer) {
    size_t most;
    if (nib_sys_size_limit(&most) < 0)
        return NIB_RAISE_OS(errno, "cannot ask how large a file may be");
    if (writer->size > most)
        return NIB_RAISE_OS(EFBIG, "this file needs %zu bytes; the process may write %zu",
                            writer->size, most);
    if (writer->size == 0) return NIB_OK;
    const int reason = nib_sys_fallocate(writer->fd, writer->size);
    if (!reason) return NIB_OK;
    if (reason == EOPNOTSUPP || reason == EINVAL || reason == ENOSYS) {
        /* at least the size, by which work that goes on later knows its file */
        if (nib_sys_ftruncate(writer->fd, writer->size) == 0) return NIB_OK;
        return NIB_RAISE_OS(errno, "cannot make a file of %zu bytes", writer->size);
    }
    size_t spare;
    if (nib_path_free_bytes(writer->parent, &spare) == NIB_OK)
        return NIB_RAISE_OS(reason, "no room for the %zu bytes of this file, %zu are free",
                            writer->size, spare);
    return NIB_RAISE_OS(reason, "no room for the %zu bytes of this file", writer->size);
}

static nib_file_writer *writer_new(nib_mem *mem, const char *path, size_t size) {
    NIB_TRY_NULL(check_target(path));
    nib_file_writer *writer = nib_mem_alloc_zero(mem, sizeof *writer);
    if (!writer) return NULL;
    *writer = (nib_file_writer){.mem = mem, .fd = -1, .size = size};
    writer->path = nib_mem_strdup(mem, path);
    writer->parent = writer->path ? nib_path_parent(mem, path) : NULL;
    if (writer->parent) return writer;
    writer_free(writer);
    return NULL;
}

nib_file_writer *nib_file_writer_open(nib_mem *mem, const char *path, size_t size) {
    nib_file_writer *writer = writer_new(mem, path, size);
    if (!writer) goto fail;
    for (int tries = 0; writer->fd < 0; tries++) {
        char *temp = temp_name(mem, writer->parent, path);
        if (!temp) goto fail;
        writer->fd = nib_sys_open(temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (writer->fd >= 0) {
            writer->temp = temp;
            break;
        }
        const int reason = errno;
        nib_mem_strfree(mem, temp);
        if (reason != EEXIST || tries == 100) {
            NIB_RAISE_OS(reason, "cannot write a file here");
            goto fail;
        }
    }
    if (reserve(writer) == NIB_OK) return writer;
fail:
    nib_error_at(path, NULL, -1);
    nib_file_writer_abort(writer);
    return NULL;
}

nib_file_writer *nib_file_writer_reopen(nib_mem *mem, const char *path, size_t size,
                                        bool *continued) {
    char name[256];
    struct stat about;
    *continued = false;
    nib_file_writer *writer = writer_new(mem, path, size);
    if (!writer) goto fail;
    snprintf(name, sizeof name, ".%.200s.part", nib_path_base(path));
    writer->temp = nib_path_join(mem, writer->parent, name);
    if (!writer->temp) goto fail;
    writer->fd = nib_sys_open(writer->temp, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (writer->fd < 0 || nib_sys_fstat(writer->fd, &about) < 0) {
        NIB_RAISE_OS(errno, "cannot write a file here");
        goto fail;
    }
    *continued = S_ISREG(about.st_mode) && (size_t)about.st_size == size;
    if (*continued) return writer;
    if (nib_sys_ftruncate(writer->fd, 0) < 0) {
        NIB_RAISE_OS(errno, "cannot empty the file that was left here");
        goto fail;
    }
    if (reserve(writer) == NIB_OK) return writer;
fail:
    nib_error_at(path, NULL, -1);
    nib_file_writer_leave(writer); /* what interrupted work left is not ours to remove */
    return NULL;
}

nib_status nib_file_writer_get(const nib_file_writer *writer, void *to, size_t size,
                               size_t offset) {
    nib_file file = {.mem = writer->mem, .path = writer->path, .fd = writer->fd};
    return nib_file_read(&file, to, size, offset);
}

nib_status nib_file_writer_put(nib_file_writer *writer, const void *from, size_t size,
                               size_t offset) {
    size_t end;
    if (nib_add_size(offset, size, &end) || end > writer->size || writer->fd < 0) {
        NIB_RAISE(NIB_E_ARGUMENT, "%zu bytes at %zu do not fit a file planned as %zu bytes", size,
                  offset, writer->size);
        return nib_error_at(writer->path, NULL, (int64_t)offset);
    }
    const unsigned char *at = from;
    for (size_t done = 0; done < size;) {
        const ssize_t moved = nib_sys_pwrite(writer->fd, at + done, size - done, offset + done);
        if (moved <= 0) { /* 0 for a request of more is no progress: ENOSPC */
            writer->failed = true;
            NIB_RAISE_OS(moved < 0 ? errno : ENOSPC, "cannot write %zu bytes", size - done);
            return nib_error_at(writer->path, NULL, (int64_t)(offset + done));
        }
        done += (size_t)moved;
    }
    writer->unsynced += size;
    if (writer->unsynced >= WRITE_BACK_BYTES) {
        nib_sys_write_back(writer->fd, 0, 0); /* all of the file that is dirty */
        writer->unsynced = 0;
    }
    return NIB_OK;
}

nib_status nib_file_writer_sync(nib_file_writer *writer) {
    if (writer->failed) {
        NIB_RAISE(NIB_E_IO, "an earlier write of this file failed");
        return nib_error_at(writer->path, NULL, -1);
    }
    if (writer->fd < 0) return NIB_OK;
    int reason = nib_sys_fsync(writer->fd) < 0 ? errno : 0;
    if (nib_sys_close(writer->fd) < 0 && !reason) reason = errno; /* where NFS tells its errors */
    writer->fd = -1;
    if (!reason) return NIB_OK;
    writer->failed = true;
    NIB_RAISE_OS(reason, "cannot bring the file to disk");
    return nib_error_at(writer->path, NULL, -1);
}

const char *nib_file_writer_temp(const nib_file_writer *writer) { return writer->temp; }

nib_status nib_file_writer_commit(nib_file_writer *writer) {
    nib_status status = nib_file_writer_sync(writer);
    if (status == NIB_OK) status = check_target(writer->path);
    if (status == NIB_OK) status = nib_path_rename(writer->temp, writer->path);
    if (status < NIB_OK) {
        nib_file_writer_abort(writer);
        return status;
    }
    status = nib_dir_sync(writer->parent);
    writer_free(writer);
    return status;
}

void nib_file_writer_abort(nib_file_writer *writer) {
    if (!writer) return;
    if (writer->fd >= 0) nib_sys_close(writer->fd);
    if (writer->temp) nib_sys_unlink(writer->temp); /* the error on record is the one that counts */
    writer_free(writer);
}

void nib_file_writer_leave(nib_file_writer *writer) {
    if (!writer) return;
    if (writer->fd >= 0) nib_sys_close(writer->fd);
    writer_free(writer);
}

nib_status nib_file_write_whole(nib_mem *mem, const char *path, const void *bytes, size_t size) {
    nib_file_writer *writer = nib_file_writer_open(mem, path, size);
    if (!writer) return nib_last_error()->status;
    const nib_status status = nib_file_writer_put(writer, bytes, size, 0);
    if (status == NIB_OK) return nib_file_writer_commit(writer);
    nib_file_writer_abort(writer);
    return status;
}

nib_status nib_file_copy(nib_mem *mem, const char *from, const char *to) {
    enum { PIECE = 1 << 20 }; /* large enough that calls cost nothing beside copying */
    nib_file file;
    NIB_TRY(nib_file_open(mem, from, &file));
    unsigned char *piece = nib_mem_alloc(mem, PIECE);
    nib_file_writer *writer = piece ? nib_file_writer_open(mem, to, file.size) : NULL;
    nib_status status = writer ? NIB_OK : nib_last_error()->status;
    for (size_t at = 0; status == NIB_OK && at < file.size; at += PIECE) {
        const size_t size = file.size - at < PIECE ? file.size - at : PIECE;
        status = nib_file_read(&file, piece, size, at);
        if (status == NIB_OK) status = nib_file_writer_put(writer, piece, size, at);
    }
    if (status == NIB_OK)
        status = nib_file_writer_commit(writer);
    else
        nib_file_writer_abort(writer);
    nib_mem_free(mem, piece, PIECE);
    nib_file_close(&file);
    return status;
}
