/* sys.c: system calls through a replaceable table, counted, and failing when a test asks. Calls
 * that the kernel may interrupt are repeated here, so nobody above sees EINTR. */
#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* open is variadic and some names may be macros, so the table holds functions of our own. */
static int real_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }
static int real_fstat(int fd, struct stat *about) { return fstat(fd, about); }
static int real_stat(const char *path, struct stat *about) { return stat(path, about); }
static int real_lstat(const char *path, struct stat *about) { return lstat(path, about); }

/* Where the file system cannot reserve, glibc's posix_fallocate writes to every block instead,
 * which takes as long as the work itself; the system call just says that it cannot. */
static int real_fallocate(int fd, off_t size) {
#ifdef __linux__
    return fallocate(fd, 0, 0, size) < 0 ? errno : 0;
#else
    return posix_fallocate(fd, 0, size);
#endif
}

/* The page cache would sit on most of a large file until fsync, and the disk idle until then. */
static int real_write_back(int fd, off_t offset, off_t size) {
#ifdef SYNC_FILE_RANGE_WRITE
    return sync_file_range(fd, offset, size, SYNC_FILE_RANGE_WRITE);
#else
    (void)fd, (void)offset, (void)size;
    return 0;
#endif
}

static int real_size_limit(size_t *most) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0) return -1;
    *most = limit.rlim_cur == RLIM_INFINITY ? SIZE_MAX : (size_t)limit.rlim_cur;
    return 0;
}

static int real_lock(int fd) { return flock(fd, LOCK_EX | LOCK_NB); }

static int real_exchange(const char *a, const char *b) {
#ifdef RENAME_EXCHANGE
    return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
#else
    (void)a, (void)b;
    errno = ENOSYS;
    return -1;
#endif
}

const nib_sys nib_sys_real = {
    .open = real_open,
    .close = close,
    .pread = pread,
    .pwrite = pwrite,
    .fstat = real_fstat,
    .stat = real_stat,
    .lstat = real_lstat,
    .fsync = fsync,
    .fallocate = real_fallocate,
    .write_back = real_write_back,
    .size_limit = real_size_limit,
    .ftruncate = ftruncate,
    .lock = real_lock,
    .rename = rename,
    .exchange = real_exchange,
    .unlink = unlink,
    .mkdir = mkdir,
    .rmdir = rmdir,
    .mmap = mmap,
    .munmap = munmap,
    .madvise = madvise,
    .opendir = opendir,
    .readdir = readdir,
    .closedir = closedir,
    .statvfs = statvfs,
};

static const nib_sys *table = &nib_sys_real;
static atomic_long made;
static atomic_long fail_at = -1;
static atomic_int fail_errno;
static atomic_size_t most_io;

const nib_sys *nib_sys_use(const nib_sys *sys) {
    const nib_sys *left = table;
    table = sys ? sys : &nib_sys_real;
    return left;
}

long nib_sys_fail_after(long n, int os_errno) {
    atomic_store(&fail_errno, os_errno);
    atomic_store(&fail_at, n);
    return atomic_exchange(&made, 0);
}

void nib_sys_short_io(size_t most) { atomic_store(&most_io, most); }

/* Count a call; true when it is the one to fail, with errno set. */
static bool fails(void) {
    const long now = atomic_fetch_add_explicit(&made, 1, memory_order_relaxed);
    if (now != atomic_load_explicit(&fail_at, memory_order_relaxed)) return false;
    errno = atomic_load(&fail_errno);
    return true;
}

static size_t shortened(size_t size) {
    const size_t most = atomic_load_explicit(&most_io, memory_order_relaxed);
    return most && size > most ? most : size;
}

/* result = call, again while a signal interrupts it */
#define REPEAT(result, call)                                                                       \
    do {                                                                                           \
        result = fails() ? -1 : (call);                                                            \
    } while (result < 0 && errno == EINTR)

int nib_sys_open(const char *path, int flags, mode_t mode) {
    int fd;
    REPEAT(fd, table->open(path, flags, mode));
    return fd;
}

/* Linux has let the descriptor go whatever close answers, so EINTR is no failure and a second
 * close would hit a stranger. */
int nib_sys_close(int fd) {
    const bool injected = fails();
    const int reason = errno;
    const int result = table->close(fd);
    if (injected) errno = reason;
    if (injected || result < 0) return errno == EINTR ? 0 : -1;
    return 0;
}

ssize_t nib_sys_pread(int fd, void *to, size_t size, size_t offset) {
    ssize_t moved;
    REPEAT(moved, table->pread(fd, to, shortened(size), (off_t)offset));
    return moved;
}

ssize_t nib_sys_pwrite(int fd, const void *from, size_t size, size_t offset) {
    ssize_t moved;
    REPEAT(moved, table->pwrite(fd, from, shortened(size), (off_t)offset));
    return moved;
}

int nib_sys_fstat(int fd, struct stat *about) {
    int result;
    REPEAT(result, table->fstat(fd, about));
    return result;
}

int nib_sys_stat(const char *path, struct stat *about) {
    int result;
    REPEAT(result, table->stat(path, about));
    return result;
}

int nib_sys_lstat(const char *path, struct stat *about) {
    int result;
    REPEAT(result, table->lstat(path, about));
    return result;
}

int nib_sys_fsync(int fd) {
    int result;
    REPEAT(result, table->fsync(fd));
    return result;
}

int nib_sys_fallocate(int fd, size_t size) {
    int result;
    do {
        result = fails() ? errno : table->fallocate(fd, (off_t)size);
    } while (result == EINTR);
    return result;
}

void nib_sys_write_back(int fd, size_t offset, size_t size) {
    const int before = errno;
    if (!fails()) (void)table->write_back(fd, (off_t)offset, (off_t)size);
    errno = before;
}

int nib_sys_size_limit(size_t *most) {
    int result;
    REPEAT(result, table->size_limit(most));
    return result;
}

int nib_sys_ftruncate(int fd, size_t size) {
    int result;
    REPEAT(result, table->ftruncate(fd, (off_t)size));
    return result;
}

int nib_sys_lock(int fd) {
    int result;
    REPEAT(result, table->lock(fd));
    return result;
}

int nib_sys_rename(const char *from, const char *to) {
    int result;
    REPEAT(result, table->rename(from, to));
    return result;
}

int nib_sys_exchange(const char *a, const char *b) {
    int result;
    REPEAT(result, table->exchange(a, b));
    return result;
}

int nib_sys_unlink(const char *path) {
    int result;
    REPEAT(result, table->unlink(path));
    return result;
}

int nib_sys_mkdir(const char *path) {
    int result;
    REPEAT(result, table->mkdir(path, 0777));
    return result;
}

int nib_sys_rmdir(const char *path) {
    int result;
    REPEAT(result, table->rmdir(path));
    return result;
}

static void *map(size_t size, int protection, int flags, int fd) {
    void *at;
    do {
        at = fails() ? MAP_FAILED : table->mmap(NULL, size, protection, flags, fd, 0);
    } while (at == MAP_FAILED && errno == EINTR);
    return at;
}

void *nib_sys_map(int fd, size_t size) { return map(size, PROT_READ, MAP_PRIVATE, fd); }

void *nib_sys_map_fresh(size_t size) {
    return map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

int nib_sys_unmap(void *at, size_t size) {
    const bool injected = fails();
    return table->munmap(at, size) < 0 || injected ? -1 : 0;
}

int nib_sys_advise(void *at, size_t size, int advice) {
    return fails() ? -1 : table->madvise(at, size, advice);
}

DIR *nib_sys_opendir(const char *path) {
    DIR *dir;
    do {
        dir = fails() ? NULL : table->opendir(path);
    } while (!dir && errno == EINTR);
    return dir;
}

struct dirent *nib_sys_readdir(DIR *dir) {
    struct dirent *entry;
    do {
        errno = 0; /* the only sign that tells the end from a failure */
        entry = fails() ? NULL : table->readdir(dir);
    } while (!entry && errno == EINTR);
    return entry;
}

int nib_sys_closedir(DIR *dir) {
    const bool injected = fails();
    return table->closedir(dir) < 0 || injected ? -1 : 0;
}

int nib_sys_statvfs(const char *path, struct statvfs *about) {
    int result;
    REPEAT(result, table->statvfs(path, about));
    return result;
}
