/* How much faster is a compiled step than the forward op by op? compiled_step MODEL [SCHEME
 * [THREADS [TOKENS [TOGETHER]]]]: two sessions of one model in turns, a token each, so that
 * whatever else the machine does meets both alike; medians, and the quarter of tokens around them.
 * TOGETHER: as many sessions on either side step together, and a time is that of one step of them
 * all. Also what the log says of compiling, and what the tokens that measure take beside as many
 * later ones. The logits of both are compared at each token. */
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    PROMPT = 16,
    MEASURING = 32, /* tokens after the first; one thread has fewer ways and needs 24 */
    WARM = 40,      /* tokens before counting: the step is compiled and tuned by then */
    MOST_TOGETHER = 8,
};

static void hear(void *user, int level, const char *message) {
    (void)level;
    if (*(int *)user) printf("  %s\n", message);
}

static double now_us(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int fail(void) {
    fprintf(stderr, "%s\n", nib_last_error()->what);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "compiled_step MODEL [SCHEME [THREADS [TOKENS]]]\n"), 2;
    const int threads = argc > 3 ? atoi(argv[3]) : 0, most = argc > 4 ? atoi(argv[4]) : 400;
    nib_config *config = argc > 2 && argv[2][0] ? nib_config_parse(argv[2]) : NULL;
    if (argc > 2 && argv[2][0] && !config) return fail();
    const int n = argc > 5 ? atoi(argv[5]) : 1;
    if (n < 1 || n > MOST_TOGETHER) return fprintf(stderr, "1 to 8 sessions\n"), 2;
    int listening = 1;
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){
        .size = sizeof(nib_ctx_options), .threads = threads, .user = &listening, .log = hear});
    nib_model *model = nib_model_load(ctx, argv[1], &(nib_load_options){.quantize = config});
    if (!model) return fail();
    double *us[2] = {calloc((size_t)most, sizeof(double)), calloc((size_t)most, sizeof(double))};
    double measuring = 0, after = 0;
    int count = 0;
    for (int round = 0; count < most; round++) {
        nib_session *s[2][MOST_TOGETHER];
        for (int k = 0; k < 2; k++)
            for (int j = 0; j < n; j++) {
                s[k][j] = nib_session_new(
                    ctx, model,
                    &(nib_session_options){.ignore_eos = true,
                                           .compile = k ? NIB_COMPILE_ALWAYS : NIB_COMPILE_NEVER});
                int32_t prompt[PROMPT];
                for (int i = 0; i < PROMPT; i++) prompt[i] = 3 + i * 7 + round + j;
                if (nib_session_feed(s[k][j], prompt, PROMPT) < NIB_OK) return fail();
            }
        for (int i = 0; i < 200 && count < most; i++) {
            for (int way = 0; way < 2; way++) {
                const int k = (way + i) % 2;
                int32_t id[MOST_TOGETHER];
                const double began = now_us();
                if (nib_sessions_step(s[k], (size_t)n, id) < NIB_OK) return fail();
                const double took = now_us() - began;
                if (!round && k && i > 1 && i <= MEASURING) measuring += took; /* 1 compiles */
                if (!round && k && i > 1 + MEASURING && i <= 2 * MEASURING) after += took;
                if (i >= WARM) us[k][count] = took;
            }
            for (int j = 0; j < n; j++) {
                size_t V;
                const float *a = nib_session_logits(s[0][j], &V);
                if (memcmp(a, nib_session_logits(s[1][j], NULL), V * sizeof *a) != 0)
                    return printf("other bits\n"), 1;
            }
            count += i >= WARM;
        }
        listening = 0;
        for (int k = 0; k < 2; k++)
            for (int j = 0; j < n; j++) nib_session_free(s[k][j]);
    }
    for (int k = 0; k < 2; k++) qsort(us[k], (size_t)count, sizeof(double), by_value);
    printf(
        "%s, %d threads, %d together, %d tokens: op by op %.1f us [%.1f, %.1f], compiled %.1f us "
        "[%.1f, %.1f]: %.2fx; the %d tokens that measure %.1f ms, as many later ones %.1f ms\n",
        argc > 2 && argv[2][0] ? argv[2] : "as stored", threads, n, count, us[0][count / 2],
        us[0][count * 3 / 8], us[0][count * 5 / 8], us[1][count / 2], us[1][count * 3 / 8],
        us[1][count * 5 / 8], us[0][count / 2] / us[1][count / 2], MEASURING - 1, measuring * 1e-3,
        after * 1e-3);
    free(us[0]);
    free(us[1]);
    nib_config_free(config);
    nib_model_free(model);
    nib_ctx_free(ctx);
    return 0;
}
