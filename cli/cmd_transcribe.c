/* cmd_transcribe.c: what is said in a sound. */
#include <nibble/io.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static struct {
    const char *language, *scheme, *activations, *kv, *tune;
    int64_t count;
    bool translate, timestamps, compile, no_compile;
} o;

static const cli_option options[] = {
    {"language", 'l', "L", CLI_TEXT, &o.language, "what is spoken, such as en (heard)", 0, 0,
     false},
    {"translate", 0, NULL, CLI_FLAG, &o.translate, "say it in English", 0, 0, false},
    {"timestamps", 0, NULL, CLI_FLAG, &o.timestamps, "also from when to when", 0, 0, false},
    {"new", 'n', "NEW", CLI_INT, &o.count, "ids of a window at most (the model's room)", 0, 1e9,
     false},
    {"scheme", 's', "SCHEME", CLI_TEXT, &o.scheme, "quantize a float model while loading", 0, 0,
     false},
    {"activations", 0, "A", CLI_TEXT, &o.activations, "int8: quantize inputs too (as schemes say)",
     0, 0, false},
    {"kv", 0, "KIND", CLI_TEXT, &o.kv, "the caches: float, int8, int4 or fp8 (float)", 0, 0, false},
    {"compile", 0, NULL, CLI_FLAG, &o.compile, "fail where the step cannot be compiled", 0, 0,
     false},
    {"no-compile", 0, NULL, CLI_FLAG, &o.no_compile, "run it op by op: the same ids", 0, 0, false},
    {"tune", 0, "FILE", CLI_TEXT, &o.tune, "keep what a compiled step measures", 0, 0, false},
    {0},
};

typedef struct hearing {
    cli *c;
    nib_model *model;
    nib_tokenizer *tokenizer; /* NULL: the folder has none */
    nib_tensor *sound;
    nib_ids ids;
    nib_string text;
    json_t *pieces;
    double seconds;
} hearing;

static void print_time(double seconds) {
    const int64_t hundredths = (int64_t)(seconds * 100 + 0.5);
    printf("%02lld:%02lld.%02lld", (long long)(hundredths / 6000),
           (long long)(hundredths / 100 % 60), (long long)(hundredths % 100));
}

/* Each piece as it comes. */
static nib_status say(void *user, const nib_spoken *piece) {
    hearing *t = user;
    nib_string text = {0};
    if (t->tokenizer) {
        const nib_status status =
            nib_tokenizer_decode(t->tokenizer, piece->ids, piece->count, true, &text);
        if (status < NIB_OK) return status;
        if (t->c->json)
            (void)nib_tokenizer_decode(t->tokenizer, piece->ids, piece->count, true, &t->text);
    }
    if (t->pieces)
        json_array_append_new(t->pieces, json_pack("{s:f, s:f, s:s}", "start", piece->start, "end",
                                                   piece->end, "text", text.data ? text.data : ""));
    if (!t->c->json) {
        cli_progress_end();
        if (o.timestamps) {
            printf("[");
            print_time(piece->start);
            printf(" --> ");
            print_time(piece->end);
            printf("] ");
        }
        for (size_t i = 0; !t->tokenizer && i < piece->count; i++)
            printf(i ? ",%d" : "%d", (int)piece->ids[i]);
        if (text.length) fwrite(text.data, 1, text.length, stdout);
        if (o.timestamps || !t->tokenizer) printf("\n");
        fflush(stdout);
    }
    nib_string_free(&text);
    return NIB_OK;
}

static int hear(hearing *t) {
    cli *c = t->c;
    nib_ctx *ctx = cli_context(c);
    if (!ctx) return cli_fail(c);
    t->sound = nib_audio_load(ctx, c->arguments[1], 16000);
    if (!t->sound) return cli_fail(c);
    t->model = cli_load(c, c->arguments[0], o.scheme, o.activations);
    if (!t->model) return cli_fail(c);
    t->tokenizer = nib_tokenizer_load(ctx, c->arguments[0]);
    if (!t->tokenizer)
        cli_say(c, "no text is shown: %s: %s", nib_last_error()->path, nib_last_error()->what);
    const double began = cli_now();
    const nib_status status = nib_transcribe(
        ctx, t->model, t->sound,
        &(nib_transcribe_options){.language = o.language,
                                  .task = o.translate ? "translate" : NULL,
                                  .timestamps = o.timestamps,
                                  .max_tokens = (int)o.count,
                                  .kv = o.kv,
                                  .compile = cli_compile_when(o.compile, o.no_compile),
                                  .tune = o.tune,
                                  .piece = say,
                                  .user = t},
        &t->ids);
    t->seconds = cli_now() - began;
    cli_progress_end();
    if (status < NIB_OK) return cli_fail(c);
    if (!c->json && t->tokenizer && !o.timestamps) printf("\n");
    return CLI_OK;
}

static int print_json(hearing *t) {
    json_t *ids = json_array();
    for (size_t i = 0; i < t->ids.count; i++)
        json_array_append_new(ids, json_integer(t->ids.data[i]));
    return cli_print_json(t->c, json_pack("{s:o, s:s?, s:O, s:f, s:f}", "ids", ids, "text",
                                          t->tokenizer ? (t->text.data ? t->text.data : "") : NULL,
                                          "pieces", t->pieces, "sound_seconds",
                                          (double)nib_tensor_shape(t->sound).dim[0] / 16000,
                                          "seconds", t->seconds));
}

static int run(cli *c) {
    hearing t = {.c = c};
    if (o.compile && o.no_compile)
        return cli_usage_error(c, "--compile and --no-compile exclude each other");
    if (c->json && !(t.pieces = json_array())) return cli_error(c, CLI_FULL, "no memory");
    int code = hear(&t);
    if (code == CLI_OK && c->json) code = print_json(&t);
    if (code == CLI_OK && !c->json)
        cli_say(c, "%zu ids of %.1f s of sound in %.2f s; activations %s", t.ids.count,
                (double)nib_tensor_shape(t.sound).dim[0] / 16000, t.seconds,
                nib_inputs_name(nib_model_root(t.model)));
    json_decref(t.pieces);
    nib_ids_free(&t.ids);
    nib_string_free(&t.text);
    nib_tokenizer_free(t.tokenizer);
    nib_model_free(t.model);
    nib_tensor_free(t.sound);
    return code;
}

const cli_verb verb_transcribe = {
    .name = "transcribe",
    .summary = "write down what is said in a sound",
    .synopsis = "MODEL FILE.wav [--language L] [--timestamps]",
    .example = "whisper-tiny jfk.wav --timestamps",
    .options = options,
    .common = CLI_THREADS | CLI_JSON | CLI_MMAP,
    .min_arguments = 2,
    .max_arguments = 2,
    .run = run,
};
