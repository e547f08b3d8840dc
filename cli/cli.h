/* cli.h: what every verb of the command stands on.
 *
 * A verb is one file, cmd_<name>.c, that defines `const cli_verb verb_<name>`, and one line
 * X(<name>) in verb_list.h. Its options live in a static struct whose initialiser holds their
 * defaults, and a table says once how each is spelled, what it takes and what it means; parsing,
 * --help and "did you mean" come from that table:
 *
 *     static struct { const char *prompt; int64_t count; bool raw; } o = { .count = 64 };
 *     static const cli_option options[] = {
 *         { "prompt", 'p', "TEXT", CLI_TEXT, &o.prompt, "what to go on from", .needed = true },
 *         { NULL, 'n', "NEW", CLI_INT, &o.count, "new tokens at most (64)", .min = 1, .max = 1e9 },
 *         { "raw", 0, NULL, CLI_FLAG, &o.raw, "add no special tokens" },
 *         { 0 },
 *     };
 *     static int run(cli *c) { ... return CLI_OK; }
 *     const cli_verb verb_generate = { .name = "generate", .options = options, .run = run, ... };
 *
 * Results go to stdout, everything else to stderr. A failed library call ends a verb with
 * `return cli_fail(c);`, which prints the record and picks the exit code. */
#ifndef NIB_CLI_H
#define NIB_CLI_H
#include <jansson.h>
#include <nibble/nibble.h>
#include <stdio.h>

#if defined(__GNUC__)
#define CLI_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define CLI_PRINTF(text, first)
#endif

enum { /* exit codes, documented in the README */
       CLI_OK = 0,
       CLI_FAILED = 1,
       CLI_USAGE = 2,
       CLI_BAD_FILE = 3,
       CLI_DIFFERS = 4,
       CLI_FULL = 5, /* out of space or memory */
       CLI_INTERRUPTED = 130,
};

typedef enum cli_type {
    CLI_FLAG,   /* bool: present or not */
    CLI_TEXT,   /* const char *, borrowed from the command line */
    CLI_INT,    /* int64_t within min..max */
    CLI_NUMBER, /* double within min..max */
    CLI_SEED,   /* uint64_t, any */
    CLI_LIST,   /* cli_list: may be given again and again, order kept */
} cli_type;

typedef struct cli_list {
    const char **items;
    size_t count;
} cli_list;

typedef struct cli_option {
    const char *name;    /* without the dashes; NULL when it has only a letter */
    char letter;         /* 0: none */
    const char *metavar; /* what it takes, in capitals; NULL for a flag */
    cli_type type;
    void *into;       /* of the type's C type, holding the default */
    const char *help; /* one line, at most about 50 columns, with the default */
    double min, max;  /* of numbers; both 0: no limits */
    bool needed;      /* leaving it out is an error */
} cli_option;         /* tables end with { 0 } */

enum {                  /* which common options a verb takes; -h, -q and -v always */
       CLI_THREADS = 1, /* -t, --threads N */
       CLI_JSON = 2,    /* -j, --json */
       CLI_SEEDED = 4,  /* --seed S */
       CLI_MMAP = 8,    /* --no-mmap */
};

typedef struct cli cli;
typedef struct cli_verb {
    const char *name, *summary; /* summary: one line without a full stop */
    const char *synopsis;       /* after the name: "MODEL -o OUT --scheme S" */
    const char *example;        /* one line, without "nibble VERB" before it */
    const cli_option *options;  /* NULL: none of its own */
    unsigned common;
    int min_arguments, max_arguments; /* what is left when options are taken; max -1: any */
    int (*run)(cli *c);               /* -> exit code */
} cli_verb;

struct cli {
    const cli_verb *verb; /* NULL before one is chosen */
    char **arguments;     /* positional ones, in order */
    int narguments;
    int64_t threads; /* 0: one per physical core */
    uint64_t seed;   /* 0: the library's own */
    bool json, no_mmap, quiet, verbose, help;
    nib_ctx *ctx; /* made by cli_context, freed after run */
};

/* ---- the library, set up from the common options ---- */

/* The context of this run: threads, seed, progress on stderr, cancelled by Ctrl-C; log when
 * verbose. Belongs to the frame. NULL after a failure. */
nib_ctx *cli_context(cli *c);

/* A model for this run: its weights mapped or read, and quantized if `scheme` is not NULL. The
 * caller frees it. NULL after a failure. */
nib_model *cli_load(cli *c, const char *path, const char *scheme, const char *activations);

/* What --compile and --no-compile ask of a session; the second wins. */
static inline nib_compile_when cli_compile_when(bool yes, bool no) {
    return no ? NIB_COMPILE_NEVER : yes ? NIB_COMPILE_ALWAYS : NIB_COMPILE_AUTO;
}

double cli_now(void); /* seconds since some moment */

/* The user asked to stop; loops of a verb's own ask between steps and return CLI_INTERRUPTED. */
bool cli_interrupted(void);

/* ---- saying things ---- */

/* Print nib_last_error() as "nibble VERB: what (file F, tensor T, at byte N)"; -> its exit code. */
int cli_fail(cli *c);
int cli_exit_code(const nib_error *error);

/* "nibble VERB: ..." on stderr and where help is to be had; -> CLI_USAGE. */
int cli_usage_error(const cli *c, const char *format, ...) CLI_PRINTF(2, 3);

/* A failure that the command itself found: printed the same way; -> `code`. */
int cli_error(const cli *c, int code, const char *format, ...) CLI_PRINTF(3, 4);

/* A remark on stderr, kept back by -q. */
void cli_say(const cli *c, const char *format, ...) CLI_PRINTF(2, 3);

/* Print a document on stdout and release it; NULL (out of memory) fails. -> exit code */
int cli_print_json(cli *c, json_t *document);
json_t *cli_json_real(double value); /* null for NaN and infinity, which JSON lacks */

/* The entry nearest to `name`, or NULL when none is near enough to suggest; `at` reads entry i,
 * NULL after the last. */
const char *cli_nearest(const char *name, const char *(*at)(const void *list, size_t i),
                        const void *list);

/* ---- progress: one rewritten line with ETA on a terminal, a plain line every 5 s elsewhere ----
 */
bool cli_progress(void *user, const char *what, double done, double total);
void cli_progress_end(void); /* leave the line; before anything else is printed */
void cli_signals(void);      /* Ctrl-C asks to stop; a fault in a mapped file is exit 3 */

/* ---- options ---- */

/* Take options out of argv, leave positional arguments in c->arguments. -> CLI_OK or CLI_USAGE */
int cli_parse(cli *c, int argc, char **argv);
void cli_print_help(const cli_verb *verb, FILE *out);
void cli_parse_end(void); /* release the lists */

/* ---- tables: plain for people, md for notes, csv for spreadsheets ---- */
typedef enum cli_table_format { CLI_PLAIN, CLI_MARKDOWN, CLI_CSV } cli_table_format;
typedef struct cli_table cli_table;

/* Columns are the words of `heads` between '|'; one that begins with '>' is flushed right, as
 * numbers are: "tensor|dtype|>MB". NULL when out of memory, which the calls below take. */
cli_table *cli_table_new(const char *heads);
void cli_table_cell(cli_table *table, const char *format, ...) CLI_PRINTF(2, 3);
int cli_table_print(cli *c, cli_table *table, cli_table_format format); /* frees; -> exit code */
void cli_table_free(cli_table *table);                                  /* NULL is fine */
#endif
