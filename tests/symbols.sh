#!/bin/sh
# The library never prints, exits, aborts, or changes locale, signals, rounding mode or the working
# folder, and goes past base/mem and base/file for nothing: it has no reference to the functions
# that do such things. NIB_LIB is the library to look at.
set -eu
cd "$(dirname "$0")/.."
lib=${NIB_LIB:-build/libnibble.a}
[ -f "$lib" ] || { echo "$lib is not there: build first, or set NIB_LIB"; exit 1; }
nm=${NM:-nm}

case $lib in
*.a) undefined="-u" ;;
*) undefined="-D -u" ;;
esac
# shellcheck disable=SC2086
"$nm" -A $undefined "$lib" 2>/dev/null | awk -v instrumented="${NIB_SANITIZE:-}" '
BEGIN {
    forbid("printf vprintf puts putchar fprintf vfprintf fputs fputc fwrite perror stdout stderr", "prints")
    forbid("exit _exit _Exit abort quick_exit atexit raise kill", "ends the process")
    forbid("setlocale uselocale newlocale", "changes the locale")
    forbid("signal sigaction sigprocmask sigsetjmp longjmp siglongjmp", "touches signals")
    forbid("fesetround fesetenv feholdexcept feenableexcept", "changes the rounding mode")
    forbid("chdir fchdir umask setenv putenv unsetenv system popen fork execve srand rand random", "changes the process")
    forbid("strtol strtoul strtoll strtoull strtod strtof atoi atol atof sscanf", "depends on the locale, or forgives leftovers")
    # Workers start with every signal blocked, so that the caller'"'"'s threads get them.
    keep("pthread_sigmask", "parallel.c", "touches signals")
    keep("malloc calloc realloc free aligned_alloc posix_memalign memalign strdup strndup asprintf vasprintf getline", "mem.c", "allocates past base/mem")
    keep("open openat creat close read write pread pwrite readv writev fopen fdopen fread fclose opendir readdir closedir stat fstat lstat fstatat mmap munmap madvise fsync fdatasync rename unlink rmdir mkdir truncate ftruncate fallocate posix_fallocate realpath statvfs", "sys.c", "reaches for a file past base/sys")
    forbid("strcpy strcat sprintf vsprintf gets strtok tmpnam mktemp", "knows no bounds, or keeps hidden state")
}
function keep(names, object, why,   i, n, list) {
    n = split(names, list, " ")
    for (i = 1; i <= n; i++) { home[list[i]] = object; astray[list[i]] = why }
}
function forbid(names, why,   i, n, list) {
    n = split(names, list, " ")
    for (i = 1; i <= n; i++) reason[list[i]] = why
}
{
    where = $1
    name = $NF
    sub(/@.*/, "", name)
    sub(/^__/, "", name); sub(/_chk$/, "", name); sub(/^isoc[0-9]+_/, "", name)
    seen++
    sub(/64$/, "", name)
    if (name in home && index(where, ":" home[name] ".o:") == 0) { print where " " $NF ": " astray[name]; bad = 1 }
    if (name in reason) { print where " " $NF ": " reason[name]; bad = 1 }
}
END {
    if (!seen) { print "no undefined symbol at all: is this the library?"; bad = 1 }
    exit bad
}'
