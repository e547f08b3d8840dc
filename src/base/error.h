/* error.h: the thread's latest failure.
 *
 * A failure is raised once, where it is found, with what was asked, what was found and what to
 * do; callers pass the status on with NIB_TRY and may add where it lies (file, tensor, offset)
 * if the record does not say yet. */
#ifndef NIB_BASE_ERROR_H
#define NIB_BASE_ERROR_H
#include <nibble/nibble.h>

#if defined(__GNUC__)
#define NIB_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define NIB_PRINTF(text, first)
#endif

/* Record a failure of this thread and return `status`. Starts a fresh record: no path, no
 * tensor, offset -1, os_errno 0. The message is one clause, without a final full stop. */
nib_status nib_raise(nib_status status, const char *file, int line, const char *format, ...)
    NIB_PRINTF(4, 5);
#define NIB_RAISE(status, ...)      nib_raise((status), __FILE__, __LINE__, __VA_ARGS__)
#define NIB_RAISE_NULL(status, ...) ((void)NIB_RAISE((status), __VA_ARGS__), NULL)

/* The same for a failed system call: adds the text of os_errno and keeps the number.
 * ENOSPC, EDQUOT and EFBIG become NIB_E_FULL, ENOMEM NIB_E_MEMORY, the rest NIB_E_IO. */
nib_status nib_raise_os(int os_errno, const char *file, int line, const char *format, ...)
    NIB_PRINTF(4, 5);
#define NIB_RAISE_OS(os_errno, ...) nib_raise_os((os_errno), __FILE__, __LINE__, __VA_ARGS__)

/* Say where the latest failure lies, for the parts that it does not name yet; returns its status.
 * NULL and a negative offset leave a part as it is. */
nib_status nib_error_at(const char *path, const char *tensor, int64_t offset);

/* Put a failure of another thread, or one set aside by a cleanup, back on record. */
void nib_error_restore(const nib_error *error);

#define NIB_TRY(call)                                                                              \
    do {                                                                                           \
        const nib_status try_status_ = (call);                                                     \
        if (try_status_ < NIB_OK) return try_status_;                                              \
    } while (0)
#define NIB_TRY_NULL(call)                                                                         \
    do {                                                                                           \
        if ((call) < NIB_OK) return NULL;                                                          \
    } while (0)
#define NIB_TRY_GOTO(call, label)                                                                  \
    do {                                                                                           \
        if ((call) < NIB_OK) goto label;                                                           \
    } while (0)
#endif
