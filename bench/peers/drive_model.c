/* drive_model.c: a language model of nibble that decodes or reads a prompt when llama_pair.py says
 * so. drive_model FOLDER [ACTIVATIONS]
 *     <- "ready"
 *     -> "prompt N THREADS"       a session of its own reads N tokens
 *     -> "decode N THREADS"       a session that goes on from turn to turn makes N tokens
 *     -> "read 0 THREADS"         what can be read from memory now, GB/s: the best of four readers
 *     <- seconds, or GB/s */
#include <nibble/nibble.h>

#include "drive_base.h"

enum { MOST_THREADS = 64, ROOM = 1024, START = 8 };
static nib_ctx *ctx[MOST_THREADS + 1];
static nib_session *going[MOST_THREADS + 1];
static nib_limits *limits;

static void or_fail(bool ok) {
    if (!ok) drive_fail(nib_last_error()->what);
}

static nib_session *session(const nib_model *model, int threads, int tokens) {
    static int32_t ids[ROOM];
    for (int i = 0; i < ROOM; i++) ids[i] = (i * 7919 + 13) % 128000;
    nib_session *s = nib_session_new(
        ctx[threads], model, &(nib_session_options){.ignore_eos = true, .max_tokens = ROOM});
    or_fail(s && nib_session_feed(s, ids, (size_t)tokens) >= NIB_OK && nib_session_logits(s, NULL));
    return s;
}

static double decode(const nib_model *model, int threads, int n) {
    static int made[MOST_THREADS + 1];
    if (!going[threads] || made[threads] + n + START > ROOM) {
        nib_session_free(going[threads]);
        going[threads] = session(model, threads, START);
        made[threads] = 0;
    }
    made[threads] += n;
    const double began = drive_now();
    for (int i = 0; i < n; i++) {
        int32_t id;
        or_fail(nib_session_next(going[threads], &id) == NIB_OK);
    }
    return drive_now() - began;
}

static double reading(int threads) {
    double best = 0;
    for (int l = NIB_LIMIT_READ_1; l <= NIB_LIMIT_READ_2_HUGE; l++) {
        const double rate = nib_limits_measure(limits, ctx[threads], (nib_limit)l);
        if (rate > best) best = rate;
    }
    return best / 1e9;
}

int main(int argc, char **argv) {
    if (argc < 2) drive_fail("drive_model FOLDER [ACTIVATIONS]");
    nib_ctx *owner = nib_ctx_new(NULL);
    const nib_load_options how = {.activations = argc > 2 ? argv[2] : NULL};
    nib_model *model = owner ? nib_model_load(owner, argv[1], &how) : NULL;
    or_fail(model != NULL);
    limits = nib_limits_new(owner);
    or_fail(limits != NULL);
    puts("ready");
    fflush(stdout);
    char line[100], what[20];
    int n, threads;
    while (fgets(line, sizeof line, stdin) && sscanf(line, "%19s %d %d", what, &n, &threads) == 3) {
        if (threads < 1 || threads > MOST_THREADS || n < 0 || n > ROOM - START)
            drive_fail("no such turn");
        if (!ctx[threads]) ctx[threads] = nib_ctx_new(&(nib_ctx_options){.threads = threads});
        or_fail(ctx[threads] != NULL);
        double answer;
        if (strcmp(what, "prompt") == 0) {
            const double began = drive_now();
            nib_session *s = session(model, threads, n);
            answer = drive_now() - began;
            nib_session_free(s);
        } else {
            answer = strcmp(what, "read") == 0 ? reading(threads) : decode(model, threads, n);
        }
        printf("%.9g\n", answer);
        fflush(stdout);
    }
    return 0;
}
