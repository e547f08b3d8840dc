/* progress.c: telling a waiting person how long, and hearing when they have waited enough.
 *
 * Signal handlers here only set a flag, or write a message and leave; the library installs none.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- signals ---- */

static volatile sig_atomic_t asked_to_stop;

static void on_interrupt(int signal) {
    (void)signal;
    asked_to_stop = 1;
}

bool cli_interrupted(void) { return asked_to_stop != 0; }

static void write_text(const char *text) {
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
}

/* Value of the hex digits at *at, which moves behind them. */
static uintptr_t read_hex(const char **at) {
    uintptr_t value = 0;
    for (;; ++*at) {
        const char c = **at;
        if (c >= '0' && c <= '9')
            value = value * 16 + (uintptr_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + (uintptr_t)(c - 'a' + 10);
        else
            return value;
    }
}

/* The file mapped at `address` per /proc/self/maps, in line (so that nothing is allocated), or
 * NULL. Lines read "from-to rights offset device inode   /path". */
static const char *mapped_file(const void *address, char line[1200]) {
    const int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    size_t length = 0;
    char c;
    while (read(fd, &c, 1) == 1) {
        if (c != '\n') {
            if (length < 1199) line[length++] = c;
            continue;
        }
        line[length] = 0;
        length = 0;
        const char *at = line;
        const uintptr_t from = read_hex(&at), to = read_hex((at++, &at));
        if ((uintptr_t)address < from || (uintptr_t)address >= to) continue;
        close(fd);
        return strchr(line, '/');
    }
    close(fd);
    return NULL;
}

/* A page of a mapped file is no longer there: the file was cut or replaced under us, or its disk
 * failed. Without a mapped file at the address it is a fault of ours and takes its usual course. */
static void on_bus_error(int number, siginfo_t *info, void *context) {
    (void)context;
    char line[1200];
    const char *path = mapped_file(info->si_addr, line);
    if (!path) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    write_text("nibble: a part of this file vanished while it was in use: ");
    write_text(path);
    write_text("\n(replace model files by renaming, never in place; --no-mmap reads a copy)\n");
    _exit(CLI_BAD_FILE);
}

void cli_signals(void) {
    struct sigaction stop = {0}, bus = {0};
    stop.sa_handler = on_interrupt;
    stop.sa_flags = (int)SA_RESETHAND | SA_RESTART; /* asked a second time: end at once */
    sigemptyset(&stop.sa_mask);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    bus.sa_sigaction = on_bus_error;
    bus.sa_flags = SA_SIGINFO;
    sigemptyset(&bus.sa_mask);
    sigaction(SIGBUS, &bus, NULL);
}

/* ---- the line ---- */

static struct {
    char what[64]; /* the work the line is about; another name starts the clock anew */
    double started, printed;
    bool on_screen; /* a rewritten line stands there without its end */
} line;

double cli_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void print_duration(char *text, size_t room, double seconds) {
    if (!(seconds < 1e7))
        snprintf(text, room, "?");
    else if (seconds < 90)
        snprintf(text, room, "%.0f s", seconds);
    else if (seconds < 5400)
        snprintf(text, room, "%.0f min", seconds / 60);
    else
        snprintf(text, room, "%.1f h", seconds / 3600);
}

/* Bytes are the only totals above some millions. */
static void print_amount(char *text, size_t room, double done, double total) {
    if (total >= 1e9)
        snprintf(text, room, "%.2f/%.2f GB", done / 1e9, total / 1e9);
    else if (total >= 1e7)
        snprintf(text, room, "%.0f/%.0f MB", done / 1e6, total / 1e6);
    else
        snprintf(text, room, "%.0f/%.0f", done, total);
}

bool cli_progress(void *user, const char *what, double done, double total) {
    const cli *c = user;
    if (asked_to_stop) return false;
    if (c->quiet) return true;
    const bool terminal = isatty(STDERR_FILENO);
    const double time = cli_now();
    if (strncmp(line.what, what, sizeof(line.what) - 1) != 0) {
        cli_progress_end();
        snprintf(line.what, sizeof(line.what), "%s", what);
        line.started = line.printed = time;
        return true; /* work that ends at once says nothing */
    }
    if (time - line.printed < (terminal ? 0.1 : 5.0)) return true;
    line.printed = time;
    const double share = total > 0 ? done / total : 0;
    char left[32], amount[64];
    print_duration(left, sizeof(left),
                   share > 0 ? (time - line.started) / share * (1 - share) : 1e9);
    print_amount(amount, sizeof(amount), done, total);
    fprintf(stderr, "%s%s: %3.0f %%  %s  %s left%s", terminal ? "\r" : "", what, share * 100,
            amount, left, terminal ? "\033[K" : "\n");
    fflush(stderr);
    line.on_screen = terminal;
    return true;
}

void cli_progress_end(void) {
    if (line.on_screen) fputs("\r\033[K", stderr);
    line.on_screen = false;
    line.what[0] = 0;
}
