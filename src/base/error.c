/* error.c: one record for each thread, so that it needs no lock and no context. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A call that is handed NULL gives back the failure on record. Where nothing failed before, the
 * NULL was the caller's own, and the record says so from the start. */
static _Thread_local nib_error latest = {
    .status = NIB_E_ARGUMENT, .what = "a call was handed NULL", .offset = -1};

const nib_error *nib_last_error(void) { return &latest; }

/* Copy what fits; a path too long for the record keeps its end, which says more. */
static void copy_text(char *to, size_t room, const char *from) {
    const size_t length = strlen(from);
    if (length < room) {
        memcpy(to, from, length + 1);
        return;
    }
    memcpy(to, "...", 3);
    memcpy(to + 3, from + length - (room - 4), room - 3);
}

static void start_record(nib_status status, const char *file, int line) {
    latest.status = status;
    latest.path[0] = latest.tensor[0] = '\0';
    latest.offset = -1;
    latest.os_errno = 0;
    latest.file = file;
    latest.line = line;
}

nib_status nib_raise(nib_status status, const char *file, int line, const char *format, ...) {
    char what[sizeof latest.what]; /* arguments may point into the record being replaced */
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    start_record(status, file, line);
    memcpy(latest.what, what, sizeof what);
    return status;
}

nib_status nib_raise_os(int os_errno, const char *file, int line, const char *format, ...) {
    char what[sizeof latest.what], reason[96] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    const bool full = os_errno == ENOSPC || os_errno == EDQUOT || os_errno == EFBIG;
    start_record(full ? NIB_E_FULL : os_errno == ENOMEM ? NIB_E_MEMORY : NIB_E_IO, file, line);
    latest.os_errno = os_errno;
    const char *text = strerror_r(os_errno, reason, sizeof reason);
    const int room = (int)(sizeof latest.what - 4 - strlen(text));
    snprintf(latest.what, sizeof latest.what, "%.*s: %s", room, what, text);
    return latest.status;
}

nib_status nib_error_at(const char *path, const char *tensor, int64_t offset) {
    if (path && !latest.path[0]) copy_text(latest.path, sizeof latest.path, path);
    if (tensor && !latest.tensor[0]) copy_text(latest.tensor, sizeof latest.tensor, tensor);
    if (offset >= 0 && latest.offset < 0) latest.offset = offset;
    return latest.status;
}

void nib_error_restore(const nib_error *error) { latest = *error; }
