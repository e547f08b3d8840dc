/* What takes how long in Whisper: whisper MODEL [SCHEME|- [THREADS [TURNS [IDS]]]]: the encoder on
 * a window, the keys and values of cross attention, and an id of the decoder op by op and compiled,
 * in turns; the medians of TURNS (3), of IDS (64) ids, and once around, the ops of the encoder and
 * of an id. With TURNS 0 it does what each line of stdin says and prints the milliseconds:
 * "encode", "window" (encoder, keys, values) or "ids N" (N of them, compiled), so that another
 * program can go in turns. */
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/step.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "timing.h"

enum { FIRST = 4, MOST_TURNS = 64 };

typedef struct bench {
    nib_ctx *ctx;
    nib_model *model;
    nib_tensor *mel;
    nib_kvcache cache, heard;
    nib_step *step;
    int threads;
} bench;

static void die(void) {
    fprintf(stderr, "%s (%s)\n", nib_last_error()->what, nib_last_error()->path);
    exit(1);
}
static void must(nib_status status) {
    if (status < NIB_OK) die();
}

static double encode(bench *b, bool hear, double *hearing) {
    const nib_model *m = b->model;
    const size_t mark = nib_scope_begin(b->ctx);
    const double began = now();
    nib_tensor *encoded = m->arch->encode(&m->hparams, m->root, b->mel);
    if (!encoded) die();
    const double done = now();
    if (hear) must(m->arch->hear(&m->hparams, m->root, encoded, &b->heard));
    if (hearing) *hearing = now() - done;
    nib_scope_end(b->ctx, mark);
    return done - began;
}

static void run_rows(bench *b, const int32_t *ids, int64_t start, int64_t n) {
    const nib_segment segment = {&b->cache, start, n, start + n};
    const nib_batch batch = {.ctx = b->ctx,
                             .tokens = ids,
                             .segments = &segment,
                             .nsegments = 1,
                             .M = n,
                             .logits = NIB_WANT_LAST};
    nib_tensor *logits = NULL;
    const size_t mark = nib_scope_begin(b->ctx);
    must(nib_kvcache_reserve(&b->cache, start + n, start));
    must(b->model->arch->forward(&b->model->hparams, b->model->root, &batch, &logits));
    nib_scope_end(b->ctx, mark);
}

/* Seconds of the id at `at`. */
static double one_id(bench *b, int at, bool compiled) {
    const int32_t id = 100 + at * 37;
    const nib_step_row row = {&b->cache, at, id};
    const float *logits;
    const double began = now();
    if (!compiled) {
        run_rows(b, &id, at, 1);
    } else {
        must(nib_kvcache_reserve(&b->cache, at + 1, at));
        if (!b->step && !(b->step = nib_step_new(b->ctx, b->model, &row, 1, NULL))) die();
        must(nib_step_run(b->step, &row, &logits));
    }
    return now() - began;
}

static void prompt(bench *b) {
    static const int32_t first[FIRST] = {50258, 50259, 50360, 50364};
    run_rows(b, first, 0, FIRST);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, ascending);
    return x[n / 2];
}

static void see(void *user, const char *op, int64_t calls, double ms, double bytes) {
    (void)bytes;
    if (ms >= 0.02 * *(double *)user)
        printf("    %-30s %6lld calls %10.2f ms\n", op, (long long)calls, ms);
}

static void profile(bench *b, const char *what, double ms) {
    printf("  %s:\n", what);
    must(nib_profile_begin(b->ctx));
    if (what[0] == 'e')
        encode(b, false, NULL);
    else
        one_id(b, FIRST + 8, false);
    must(nib_profile_end(b->ctx, see, &ms));
}

static void measure(bench *b, int turns, int ids) {
    double window[MOST_TURNS], hearing[MOST_TURNS];
    double *us[2] = {calloc((size_t)ids, sizeof(double)), calloc((size_t)ids, sizeof(double))};
    if (!us[0] || !us[1]) exit(1);
    for (int i = 0; i < turns; i++) window[i] = encode(b, true, &hearing[i]);
    prompt(b);
    for (int i = 0; i < 32; i++) one_id(b, FIRST + i, true); /* measures and chooses */
    for (int i = 0; i < ids; i++)
        for (int way = 0; way < 2; way++) {
            const int k = (way + i) % 2;
            us[k][i] = one_id(b, FIRST + i % 400, k == 1);
        }
    const double encoder = 1e3 * median(window, turns), eager = 1e3 * median(us[0], ids);
    printf(
        "encoder %.1f ms [%.1f, %.1f], keys and values %.1f ms, an id op by op %.2f ms, compiled "
        "%.2f ms: %.2fx\n",
        encoder, 1e3 * window[0], 1e3 * window[turns - 1], 1e3 * median(hearing, turns), eager,
        1e3 * median(us[1], ids), eager / (1e3 * median(us[1], ids)));
    if (turns > 1) profile(b, "encoder", encoder);
    if (turns > 1) profile(b, "id", eager);
    free(us[0]);
    free(us[1]);
}

static void obey(bench *b) {
    char line[64];
    double hearing = 0, sum = 0;
    encode(b, true, NULL);
    prompt(b);
    for (int i = 0; i < 32; i++) one_id(b, FIRST + i, true);
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (strncmp(line, "encode", 6) == 0) sum = encode(b, false, NULL);
        if (strncmp(line, "window", 6) == 0) sum = encode(b, true, &hearing) + hearing;
        if (strncmp(line, "ids", 3) == 0) {
            const int n = atoi(line + 3);
            sum = 0;
            for (int i = 0; i < n; i++) sum += one_id(b, FIRST + i % 400, true);
        }
        printf("%.4f\n", 1e3 * sum);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "whisper MODEL [SCHEME|- [THREADS [TURNS [IDS]]]]\n"), 2;
    bench b = {.threads = argc > 3 ? atoi(argv[3]) : 0};
    const int turns = argc > 4 ? atoi(argv[4]) : 3, ids = argc > 5 ? atoi(argv[5]) : 64;
    const bool quantized = argc > 2 && strcmp(argv[2], "-") != 0;
    nib_config *config = quantized ? nib_config_parse(argv[2]) : NULL;
    if ((quantized && !config) || turns < 0 || turns > MOST_TURNS || ids < 1) die();
    b.ctx = nib_ctx_new(&(nib_ctx_options){.threads = b.threads});
    b.model = nib_model_load(b.ctx, argv[1], &(nib_load_options){.quantize = config});
    if (!b.model || !b.model->arch->hear) die();
    const nib_hparams *h = &b.model->hparams;
    const int bands = h->speech.num_mel_bins, frames = h->speech.max_source_positions * 2;
    b.mel = nib_tensor_new(b.ctx, NIB_F32, (nib_shape){2, {bands, frames}});
    if (!b.mel) die();
    float *mel = nib_tensor_data_mut(b.mel);
    for (int i = 0; i < bands * frames; i++) mel[i] = (float)(i * 7919 % 2000) * 1e-3f - 1;
    must(nib_model_prepare(b.ctx, b.model));
    nib_kvcache *both[] = {&b.cache, &b.heard};
    for (int i = 0; i < 2; i++)
        must(nib_kvcache_init(b.ctx, nib_kv_kind_find(NULL), h->num_hidden_layers,
                              h->num_key_value_heads, h->head_dim, both[i]));
    b.cache.most = h->max_position_embeddings;
    b.cache.heard = &b.heard;
    must(nib_kvcache_reserve(&b.heard, h->speech.max_source_positions, 0));
    if (turns)
        measure(&b, turns, ids);
    else
        obey(&b);
    nib_step_free(b.step);
    nib_kvcache_free(&b.cache);
    nib_kvcache_free(&b.heard);
    nib_tensor_free(b.mel);
    nib_model_free(b.model);
    nib_config_free(config);
    nib_ctx_free(b.ctx);
    return 0;
}
