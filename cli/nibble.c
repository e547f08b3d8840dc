/* nibble.c: the command. Finds the verb, reads its options, runs it, and makes sure that what it
 * printed arrived. The verbs are in verb_list.h. */
#include "cli.h"

#include <errno.h>
#include <string.h>

#define X(name) extern const cli_verb verb_##name;
#include "verb_list.h"
#undef X

#define X(name) &verb_##name,
static const cli_verb *const verbs[] = {
#include "verb_list.h"
};
#undef X
enum { NVERBS = sizeof(verbs) / sizeof(verbs[0]) };

static const char *verb_at(const void *list, size_t i) {
    (void)list;
    return i < NVERBS ? verbs[i]->name : NULL;
}

static void print_usage(FILE *out) {
    fprintf(out, "usage: nibble VERB [arguments]\n"
                 "  quantize neural networks, run them, and know what it cost\n\n");
    for (size_t i = 0; i < NVERBS; i++)
        fprintf(out, "  %-12s %s\n", verbs[i]->name, verbs[i]->summary);
    fprintf(out,
            "\nnibble VERB --help explains a verb; nibble --version says which nibble this is.\n"
            "Exit codes: 0 ok, 1 failure, 2 usage, 3 bad input file, 4 verification differs,\n"
            "5 out of space or memory, 130 interrupted.\n");
}

static const cli_verb *find_verb(const cli *c, const char *name) {
    for (size_t i = 0; i < NVERBS; i++)
        if (!strcmp(verbs[i]->name, name)) return verbs[i];
    const char *near = cli_nearest(name, verb_at, NULL);
    if (near)
        cli_usage_error(c, "unknown verb \"%s\"; did you mean %s?", name, near);
    else
        cli_usage_error(c, "unknown verb \"%s\"", name);
    return NULL;
}

/* A result that did not fit on the disk, or found nobody reading, is a failure of the run. */
static int check_output(cli *c, int code) {
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    int cause = errno;
    if (code != CLI_OK) return code;
    if (!cause && (putchar('\n') == EOF || fflush(stdout) != 0))
        cause = errno; /* a write before this failed; what is in its way is in the way of another */
    const bool full = cause == ENOSPC || cause == EDQUOT || cause == EFBIG;
    return cli_error(c, full ? CLI_FULL : CLI_FAILED, "writing the result: %s",
                     cause ? strerror(cause) : "failed");
}

static void log_line(void *user, int level, const char *message) {
    const cli *c = user;
    if (c->verbose || level > 0) cli_say(c, "%s", message);
}

nib_ctx *cli_context(cli *c) {
    if (!c->ctx)
        c->ctx = nib_ctx_new(&(nib_ctx_options){
            .size = sizeof(nib_ctx_options),
            .threads = (int)c->threads,
            .seed = c->seed,
            .user = c,
            .log = log_line,
            .progress = cli_progress,
        });
    return c->ctx;
}

nib_model *cli_load(cli *c, const char *path, const char *scheme, const char *activations) {
    if (!cli_context(c)) return NULL;
    nib_config *config = scheme ? nib_config_parse(scheme) : NULL;
    if (scheme && !config) return NULL;
    nib_model *model = nib_model_load(
        c->ctx, path,
        &(nib_load_options){.quantize = config, .no_mmap = c->no_mmap, .activations = activations});
    nib_config_free(config);
    return model;
}

static int run_verb(cli *c, const cli_verb *verb, int argc, char **argv) {
    c->verb = verb;
    int code = cli_parse(c, argc, argv);
    if (code == CLI_OK && c->help)
        cli_print_help(verb, stdout);
    else if (code == CLI_OK)
        code = verb->run(c);
    cli_progress_end();
    nib_ctx_free(c->ctx);
    cli_parse_end();
    return code;
}

int main(int argc, char **argv) {
    cli c = {0};
    const char *word = argc > 1 ? argv[1] : "";
    cli_signals();
    if (!strcmp(word, "--version") || !strcmp(word, "-V")) {
        printf("nibble %s\n", nib_version());
    } else if (!strcmp(word, "--help") || !strcmp(word, "-h") ||
               (!strcmp(word, "help") && argc == 2)) {
        print_usage(stdout);
    } else if (!*word) {
        print_usage(stderr);
        return CLI_USAGE;
    } else if (word[0] == '-') {
        return cli_usage_error(&c, "%s comes before any verb: nibble VERB %s", word, word);
    } else {
        const bool help = !strcmp(word, "help");
        const cli_verb *verb = find_verb(&c, help ? argv[2] : word);
        if (!verb) return CLI_USAGE;
        if (help)
            cli_print_help(verb, stdout);
        else
            return check_output(&c, run_verb(&c, verb, argc - 2, argv + 2));
    }
    return check_output(&c, CLI_OK);
}
