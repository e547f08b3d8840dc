/* path.h: names of files, what lies under a name, and folders. */
#ifndef NIB_BASE_PATH_H
#define NIB_BASE_PATH_H
#include <nibble/nibble.h>

#include "base/mem.h"

/* "dir/name", or "name" alone when dir is "" or ".". Give back with nib_mem_strfree. */
char *nib_path_join(nib_mem *mem, const char *dir, const char *name);

/* "a/b" and ".c" -> "a/b.c". nib_mem_strfree. */
char *nib_path_with_suffix(nib_mem *mem, const char *path, const char *suffix);

/* The folder that holds it: "a/b" -> "a", "b" -> ".", "/b" -> "/". nib_mem_strfree. */
char *nib_path_parent(nib_mem *mem, const char *path);

const char *nib_path_base(const char *path); /* after the last '/', borrowed */

/* A plain name: not empty, no '/', no NUL, neither "." nor "..". What a file may name inside its
 * own folder. */
bool nib_path_is_plain(const char *name);

typedef enum nib_path_kind {
    NIB_PATH_NONE, /* nothing is there */
    NIB_PATH_FILE,
    NIB_PATH_FOLDER,
    NIB_PATH_OTHER, /* a device, pipe, socket */
    NIB_PATH_LINK,  /* a symbolic link, whatever it points to */
} nib_path_kind;

/* What is under this name. With `follow` a symbolic link counts as what it points to (a dangling
 * one as nothing). Fails: NIB_E_IO when it cannot be known, such as for lack of rights. */
nib_status nib_path_look(const char *path, bool follow, nib_path_kind *kind);

/* True when both names lead to one and the same file or folder (device and inode), through links
 * or not; false when either does not exist. */
nib_status nib_path_same(const char *a, const char *b, bool *same);

/* Bytes that an unprivileged process can still write on the file system of `path`. */
nib_status nib_path_free_bytes(const char *path, size_t *bytes);

nib_status nib_path_unlink(const char *path);
nib_status nib_path_rename(const char *from, const char *to);

/* Two names change places, at once where the file system can; else by way of a third name,
 * `spare`, put back when a step fails. */
nib_status nib_path_exchange(const char *a, const char *b, const char *spare);

/* ---- folders ---- */
typedef struct nib_dir_entry {
    char *name;
    nib_path_kind kind; /* links followed */
    size_t size;        /* of a file, bytes */
} nib_dir_entry;

typedef struct nib_dir_list {
    nib_mem *mem;
    nib_dir_entry *entries; /* by name, bytewise */
    size_t count, room;
} nib_dir_list;

/* What lies in a folder, without "." and "..". On failure the list is empty; free it either way. */
nib_status nib_dir_read(nib_mem *mem, const char *path, nib_dir_list *list);
const nib_dir_entry *nib_dir_find(const nib_dir_list *list, const char *name); /* NULL: not there */
void nib_dir_list_free(nib_dir_list *list);

/* Remove a folder if it is empty; whether it was does not matter to who asks, nor is it raised. */
void nib_dir_remove_empty(const char *path);
nib_status nib_dir_make(const char *path); /* fails when something is there already */

/* Hold a folder for this process alone, until *handle is given back. NIB_E_IO when another one
 * holds it. A file system without locks lets everybody in. */
nib_status nib_dir_lock(const char *path, int *handle);
void nib_dir_unlock(int handle);           /* negative: nothing was held */
nib_status nib_dir_sync(const char *path); /* renames inside become lasting */

/* Remove a folder and the files in it. A folder that holds folders is refused before anything is
 * removed: no caller here ever makes one. */
nib_status nib_dir_remove(nib_mem *mem, const char *path);
#endif
