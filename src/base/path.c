/* path.c: everything that works on names rather than on open files. */
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/sys.h"

char *nib_path_join(nib_mem *mem, const char *dir, const char *name) {
    if (!dir[0] || strcmp(dir, ".") == 0) return nib_mem_strdup(mem, name);
    size_t d = strlen(dir);
    while (d > 1 && dir[d - 1] == '/') d--;
    const size_t slash = dir[d - 1] == '/' ? 0 : 1, n = strlen(name);
    char *path = nib_mem_alloc(mem, d + slash + n + 1);
    if (!path) return NULL;
    memcpy(path, dir, d);
    if (slash) path[d] = '/';
    memcpy(path + d + slash, name, n + 1);
    return path;
}

char *nib_path_with_suffix(nib_mem *mem, const char *path, const char *suffix) {
    const size_t p = strlen(path), n = strlen(suffix);
    char *whole = nib_mem_alloc(mem, p + n + 1);
    if (!whole) return NULL;
    memcpy(whole, path, p);
    memcpy(whole + p, suffix, n + 1);
    return whole;
}

char *nib_path_parent(nib_mem *mem, const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--; /* "a/b/" names what "a/b" names */
    while (end > 0 && path[end - 1] != '/') end--;
    while (end > 1 && path[end - 1] == '/') end--;
    if (end == 0) return nib_mem_strdup(mem, ".");
    char *parent = nib_mem_alloc(mem, end + 1);
    if (!parent) return NULL;
    memcpy(parent, path, end);
    parent[end] = '\0';
    return parent;
}

const char *nib_path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool nib_path_is_plain(const char *name) {
    return name[0] && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static nib_path_kind kind_of(const struct stat *about) {
    if (S_ISREG(about->st_mode)) return NIB_PATH_FILE;
    if (S_ISDIR(about->st_mode)) return NIB_PATH_FOLDER;
    return S_ISLNK(about->st_mode) ? NIB_PATH_LINK : NIB_PATH_OTHER;
}

/* stat or lstat; *there is false when nothing is under the name. */
static nib_status look(const char *path, bool follow, struct stat *about, bool *there) {
    *there = (follow ? nib_sys_stat(path, about) : nib_sys_lstat(path, about)) == 0;
    if (*there || errno == ENOENT || errno == ENOTDIR) return NIB_OK;
    NIB_RAISE_OS(errno, "cannot look at this path");
    return nib_error_at(path, NULL, -1);
}

nib_status nib_path_look(const char *path, bool follow, nib_path_kind *kind) {
    struct stat about;
    bool there;
    NIB_TRY(look(path, follow, &about, &there));
    *kind = there ? kind_of(&about) : NIB_PATH_NONE;
    return NIB_OK;
}

nib_status nib_path_same(const char *a, const char *b, bool *same) {
    struct stat at_a, at_b;
    bool there_a, there_b;
    NIB_TRY(look(a, true, &at_a, &there_a));
    NIB_TRY(look(b, true, &at_b, &there_b));
    *same = there_a && there_b && at_a.st_dev == at_b.st_dev && at_a.st_ino == at_b.st_ino;
    return NIB_OK;
}

nib_status nib_path_free_bytes(const char *path, size_t *bytes) {
    struct statvfs about;
    if (nib_sys_statvfs(path, &about) < 0) {
        NIB_RAISE_OS(errno, "cannot ask how much space is free");
        return nib_error_at(path, NULL, -1);
    }
    if (nib_mul_size(about.f_bavail, about.f_frsize, bytes)) *bytes = SIZE_MAX;
    return NIB_OK;
}

nib_status nib_path_unlink(const char *path) {
    if (nib_sys_unlink(path) == 0) return NIB_OK;
    NIB_RAISE_OS(errno, "cannot remove the file");
    return nib_error_at(path, NULL, -1);
}

nib_status nib_path_rename(const char *from, const char *to) {
    if (nib_sys_rename(from, to) == 0) return NIB_OK;
    NIB_RAISE_OS(errno, "cannot rename \"%s\" to this", nib_path_base(from));
    return nib_error_at(to, NULL, -1);
}

nib_status nib_path_exchange(const char *a, const char *b, const char *spare) {
    if (nib_sys_exchange(a, b) == 0) return NIB_OK;
    if (errno != ENOSYS && errno != EINVAL && errno != EOPNOTSUPP) {
        NIB_RAISE_OS(errno, "cannot exchange it with \"%s\"", nib_path_base(a));
        return nib_error_at(b, NULL, -1);
    }
    NIB_TRY(nib_path_rename(b, spare));
    if (nib_path_rename(a, b) == NIB_OK) return nib_path_rename(spare, a);
    const nib_error why = *nib_last_error();
    nib_sys_rename(spare, b);
    nib_error_restore(&why);
    return why.status;
}

/* ---- folders ---- */
void nib_dir_list_free(nib_dir_list *list) {
    for (size_t i = 0; i < list->count; i++) nib_mem_strfree(list->mem, list->entries[i].name);
    nib_mem_free(list->mem, list->entries, list->room * sizeof *list->entries);
    *list = (nib_dir_list){.mem = list->mem};
}

static nib_status add_entry(nib_dir_list *list, const char *dir, const char *name) {
    if (list->count == list->room) {
        const size_t room = list->room ? 2 * list->room : 16;
        nib_dir_entry *grown = nib_mem_realloc(list->mem, list->entries, list->room * sizeof *grown,
                                               room * sizeof *grown);
        if (!grown) return NIB_E_MEMORY;
        list->entries = grown;
        list->room = room;
    }
    char *path = nib_path_join(list->mem, dir, name);
    if (!path) return NIB_E_MEMORY;
    struct stat about;
    bool there;
    const nib_status status = look(path, true, &about, &there);
    nib_mem_strfree(list->mem, path);
    NIB_TRY(status);
    nib_dir_entry *entry = &list->entries[list->count];
    entry->name = nib_mem_strdup(list->mem, name);
    if (!entry->name) return NIB_E_MEMORY;
    entry->kind = there ? kind_of(&about) : NIB_PATH_OTHER; /* a link to nowhere */
    entry->size = entry->kind == NIB_PATH_FILE ? (size_t)about.st_size : 0;
    list->count++;
    return NIB_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const nib_dir_entry *)a)->name, ((const nib_dir_entry *)b)->name);
}

nib_status nib_dir_read(nib_mem *mem, const char *path, nib_dir_list *list) {
    *list = (nib_dir_list){.mem = mem};
    DIR *dir = nib_sys_opendir(path);
    if (!dir) {
        NIB_RAISE_OS(errno, "cannot open the folder");
        return nib_error_at(path, NULL, -1);
    }
    nib_status status = NIB_OK;
    for (struct dirent *d; status == NIB_OK && (d = nib_sys_readdir(dir)) != NULL;)
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
            status = add_entry(list, path, d->d_name);
    if (status == NIB_OK && errno) { /* readdir stopped, and not at the end */
        status = NIB_RAISE_OS(errno, "cannot list the folder");
        nib_error_at(path, NULL, -1);
    }
    nib_sys_closedir(dir);
    if (status < NIB_OK) {
        nib_dir_list_free(list);
        return status;
    }
    if (list->count) qsort(list->entries, list->count, sizeof *list->entries, by_name);
    return NIB_OK;
}

const nib_dir_entry *nib_dir_find(const nib_dir_list *list, const char *name) {
    for (size_t low = 0, high = list->count; low < high;) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(name, list->entries[middle].name);
        if (order == 0) return &list->entries[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

nib_status nib_dir_make(const char *path) {
    if (nib_sys_mkdir(path) == 0) return NIB_OK;
    NIB_RAISE_OS(errno, "cannot make the folder");
    return nib_error_at(path, NULL, -1);
}

void nib_dir_remove_empty(const char *path) { nib_sys_rmdir(path); }

nib_status nib_dir_lock(const char *path, int *handle) {
    *handle = nib_sys_open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (*handle < 0) {
        NIB_RAISE_OS(errno, "cannot open the folder");
        return nib_error_at(path, NULL, -1);
    }
    if (nib_sys_lock(*handle) == 0 || errno == ENOLCK || errno == EOPNOTSUPP || errno == EINVAL)
        return NIB_OK;
    if (errno == EWOULDBLOCK)
        NIB_RAISE(NIB_E_IO, "another process is writing here");
    else
        NIB_RAISE_OS(errno, "cannot lock the folder");
    nib_sys_close(*handle);
    *handle = -1;
    return nib_error_at(path, NULL, -1);
}

void nib_dir_unlock(int handle) {
    if (handle >= 0) nib_sys_close(handle);
}

nib_status nib_dir_sync(const char *path) {
    const int fd = nib_sys_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    int reason = fd < 0 ? errno : 0;
    /* Some file systems cannot sync a folder and say so; they have nothing better to offer. */
    if (fd >= 0 && nib_sys_fsync(fd) < 0 && errno != EINVAL && errno != ENOTSUP) reason = errno;
    if (fd >= 0) nib_sys_close(fd);
    if (!reason) return NIB_OK;
    NIB_RAISE_OS(reason, "cannot sync the folder");
    return nib_error_at(path, NULL, -1);
}

nib_status nib_dir_remove(nib_mem *mem, const char *path) {
    nib_dir_list list;
    NIB_TRY(nib_dir_read(mem, path, &list));
    nib_status status = NIB_OK;
    for (size_t i = 0; i < list.count && status == NIB_OK; i++) {
        struct stat about;
        bool there;
        char *inner = nib_path_join(mem, path, list.entries[i].name);
        status = inner ? look(inner, false, &about, &there) : NIB_E_MEMORY;
        if (status == NIB_OK && there && S_ISDIR(about.st_mode)) {
            status = NIB_RAISE(NIB_E_IO, "not removed: it holds the folder \"%s\"",
                               list.entries[i].name);
            nib_error_at(path, NULL, -1);
        }
        nib_mem_strfree(mem, inner);
    }
    for (size_t i = 0; i < list.count && status == NIB_OK; i++) {
        char *inner = nib_path_join(mem, path, list.entries[i].name);
        status = inner ? nib_path_unlink(inner) : NIB_E_MEMORY;
        nib_mem_strfree(mem, inner);
    }
    nib_dir_list_free(&list);
    NIB_TRY(status);
    if (nib_sys_rmdir(path) == 0) return NIB_OK;
    NIB_RAISE_OS(errno, "cannot remove the folder");
    return nib_error_at(path, NULL, -1);
}
