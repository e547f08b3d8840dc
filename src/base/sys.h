/* sys.h: the one table of system calls that touch files or map memory, so that a test can replace
 * any of them or make the Nth fail. Only base/ calls these; everyone else uses file.h and path.h.
 */
#ifndef NIB_BASE_SYS_H
#define NIB_BASE_SYS_H
#include <dirent.h>
#include <nibble/nibble.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

/* Each member has the meaning and the errno of the call of its name. */
typedef struct nib_sys {
    int (*open)(const char *path, int flags, mode_t mode);
    int (*close)(int fd);
    ssize_t (*pread)(int fd, void *to, size_t size, off_t offset);
    ssize_t (*pwrite)(int fd, const void *from, size_t size, off_t offset);
    int (*fstat)(int fd, struct stat *about);
    int (*stat)(const char *path, struct stat *about);
    int (*lstat)(const char *path, struct stat *about);
    int (*fsync)(int fd);
    int (*fallocate)(int fd, off_t size);                /* returns the errno */
    int (*write_back)(int fd, off_t offset, off_t size); /* begin bringing it to disk */
    int (*size_limit)(size_t *most);                     /* RLIMIT_FSIZE */
    int (*ftruncate)(int fd, off_t size);
    int (*lock)(int fd); /* flock, exclusive, without waiting */
    int (*rename)(const char *from, const char *to);
    int (*exchange)(const char *a, const char *b); /* two names change places at once */
    int (*unlink)(const char *path);
    int (*mkdir)(const char *path, mode_t mode);
    int (*rmdir)(const char *path);
    void *(*mmap)(void *at, size_t size, int protection, int flags, int fd, off_t offset);
    int (*munmap)(void *at, size_t size);
    int (*madvise)(void *at, size_t size, int advice);
    DIR *(*opendir)(const char *path);
    struct dirent *(*readdir)(DIR *dir);
    int (*closedir)(DIR *dir);
    int (*statvfs)(const char *path, struct statvfs *about);
} nib_sys;

extern const nib_sys nib_sys_real; /* the system's own */

/* For tests: use another table from now on; NULL: the system's. Returns the table left. Not to be
 * changed while another thread works on files. */
const nib_sys *nib_sys_use(const nib_sys *sys);

/* For tests, process-wide: let `n` more calls through, then fail one with `os_errno`; a negative n
 * switches it off. A failed close, closedir or munmap still releases, as Linux does. Returns how
 * many calls were made since the last call of this. */
long nib_sys_fail_after(long n, int os_errno);

/* For tests: no pread or pwrite moves more than `most` bytes at once; 0: as many as asked. */
void nib_sys_short_io(size_t most);

/* The calls themselves, through table and hooks. */
int nib_sys_open(const char *path, int flags, mode_t mode);
int nib_sys_close(int fd);
ssize_t nib_sys_pread(int fd, void *to, size_t size, size_t offset);
ssize_t nib_sys_pwrite(int fd, const void *from, size_t size, size_t offset);
int nib_sys_fstat(int fd, struct stat *about);
int nib_sys_stat(const char *path, struct stat *about);
int nib_sys_lstat(const char *path, struct stat *about);
int nib_sys_fsync(int fd);
int nib_sys_fallocate(int fd, size_t size);                  /* returns the errno */
void nib_sys_write_back(int fd, size_t offset, size_t size); /* a hint: it cannot fail */
int nib_sys_size_limit(size_t *most);
int nib_sys_ftruncate(int fd, size_t size);
int nib_sys_lock(int fd);
int nib_sys_rename(const char *from, const char *to);
int nib_sys_exchange(const char *a, const char *b); /* ENOSYS where there is no such call */
int nib_sys_unlink(const char *path);
int nib_sys_mkdir(const char *path);
int nib_sys_rmdir(const char *path);
void *nib_sys_map(int fd, size_t size); /* read-only, private; MAP_FAILED and errno */
void *nib_sys_map_fresh(size_t size);   /* of memory, zeros, to be written; MAP_FAILED and errno */
int nib_sys_unmap(void *at, size_t size);
int nib_sys_advise(void *at, size_t size, int advice);
DIR *nib_sys_opendir(const char *path);
struct dirent *nib_sys_readdir(DIR *dir); /* NULL with errno 0: the end */
int nib_sys_closedir(DIR *dir);
int nib_sys_statvfs(const char *path, struct statvfs *about);
#endif
