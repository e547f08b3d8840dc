/* fault_scenarios.h: whole jobs on a tiny model, for the loops that make one allocation or one
 * system call of them fail: oom.c, oom_foreign.c, syscalls.c.
 *
 * A scenario makes its own context, works below `dir` and gives back all that it took, whatever
 * fails. One that writes makes dir/out. *result is a digest of what it found out. */
#ifndef NIB_TESTS_FAULT_SCENARIOS_H
#define NIB_TESTS_FAULT_SCENARIOS_H
#include <nibble/io.h>
#include <nibble/train.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "quant/scheme.h"
#include "test_files.h"

#define TINY "tests/golden/eval/with_bos"

/* Under a sanitizer a run costs tens of times as much: every so many-th fault is taken then. */
enum { FAULT_STEP = TEST_SANITIZED ? 13 : 1 };

typedef struct scenario {
    const char *name;
    nib_status (*run)(const struct scenario *s, const char *dir, uint64_t *result);
    const char *scheme, *format; /* NULL: does not matter, that of the scheme */
    bool writes;
} scenario;

/* ---- a context whose memory is counted ---- */
static atomic_long blocks_live;

static void *counted_alloc(void *user, size_t size, size_t align) {
    (void)user;
    void *p = aligned_alloc(align, (size + align - 1) / align * align);
    if (p) atomic_fetch_add(&blocks_live, 1);
    return p;
}
static void counted_dealloc(void *user, void *p, size_t size) {
    (void)user;
    (void)size;
    atomic_fetch_sub(&blocks_live, 1);
    free(p);
}
static int scenario_threads = 2;
static nib_ctx *counted_ctx(void) {
    return nib_ctx_new(&(nib_ctx_options){
        .threads = scenario_threads, .alloc = counted_alloc, .dealloc = counted_dealloc});
}

static nib_status failed_or(bool made) { return made ? NIB_OK : nib_last_error()->status; }
static void mix(uint64_t *result, uint64_t value) { *result = (*result ^ value) * 1099511628211u; }

/* ---- the jobs ---- */
static nib_status tokenizer_job(const scenario *s, const char *dir, uint64_t *result) {
    (void)s;
    (void)dir;
    static const char text[] = "In the beginning, caf\xc3\xa9 \xe4\xb8\xad 12.";
    nib_ctx *ctx = counted_ctx();
    nib_tokenizer *t = ctx ? nib_tokenizer_load(ctx, TINY) : NULL;
    nib_ids ids = {0};
    nib_string back = {0};
    nib_status status = failed_or(t != NULL);
    if (status >= NIB_OK) status = nib_tokenizer_encode(t, text, sizeof text - 1, true, &ids);
    if (status >= NIB_OK) status = nib_tokenizer_decode(t, ids.data, ids.count, false, &back);
    nib_detokenizer *stream = status >= NIB_OK ? nib_detokenizer_new(t, true) : NULL;
    if (status >= NIB_OK) status = failed_or(stream != NULL);
    for (size_t i = 0; i < ids.count && status >= NIB_OK; i++) {
        mix(result, (uint64_t)ids.data[i]);
        status = nib_detokenizer_next(stream, ids.data[i], &back);
    }
    if (status >= NIB_OK) status = nib_detokenizer_end(stream, &back);
    for (size_t i = 0; i < back.length && status >= NIB_OK; i++)
        mix(result, (unsigned char)back.data[i]);
    nib_detokenizer_free(stream);
    nib_ids_free(&ids);
    nib_string_free(&back);
    nib_tokenizer_free(t);
    nib_ctx_free(ctx);
    return status;
}

static nib_status generate(nib_ctx *ctx, const nib_model *model, uint64_t *result) {
    static const int32_t prompt[] = {0, 5, 9};
    nib_session *s = nib_session_new(
        ctx, model,
        &(nib_session_options){
            .ignore_eos = true, .temperature = 0.8f, .top_k = 8, .top_p = 0.9f, .seed = 3});
    nib_status status = s ? nib_session_feed(s, prompt, 3) : nib_last_error()->status;
    for (int i = 0; i < 2 && status >= NIB_OK; i++) {
        int32_t token = 0;
        status = nib_session_next(s, &token);
        if (status >= NIB_OK) mix(result, (uint64_t)token);
    }
    nib_session_free(s);
    return status;
}

static nib_model *load_quantized(nib_ctx *ctx, const char *scheme, nib_status *status) {
    nib_config *config = nib_config_parse(scheme);
    nib_model *model = config ? nib_model_load(ctx, TINY, NULL) : NULL;
    *status = failed_or(model != NULL);
    if (model)
        *status = nib_quantize(nib_model_root(model), config, &(nib_select){.leave_unfit = true});
    nib_config_free(config);
    return model;
}

/* Load, quantize in memory, two tokens. */
static nib_status memory_job(const scenario *s, const char *dir, uint64_t *result) {
    (void)dir;
    nib_status status;
    nib_ctx *ctx = counted_ctx();
    if (!ctx) return nib_last_error()->status;
    nib_model *model = load_quantized(ctx, s->scheme, &status);
    if (status >= NIB_OK) status = generate(ctx, model, result);
    nib_model_free(model);
    nib_ctx_free(ctx);
    return status;
}

static nib_status save_job(const scenario *s, const char *dir, uint64_t *result) {
    (void)result;
    nib_status status;
    nib_ctx *ctx = counted_ctx();
    if (!ctx) return nib_last_error()->status;
    nib_model *model = load_quantized(ctx, s->scheme, &status);
    if (status >= NIB_OK) status = nib_model_save(model, IN(dir, "out"), s->format);
    nib_model_free(model);
    nib_ctx_free(ctx);
    return status;
}

static nib_status file_job(const scenario *s, const char *dir, uint64_t *result) {
    (void)result;
    nib_ctx *ctx = counted_ctx();
    nib_config *config = ctx ? nib_config_parse(s->scheme) : NULL;
    const nib_rule rules[] = {{"*.q_proj", NIB_LEAVE}, {"*", config}};
    nib_report report = {0};
    nib_status status = failed_or(config != NULL);
    if (status >= NIB_OK)
        status = nib_quantize_file(ctx, TINY, IN(dir, "out"), rules, 2,
                                   &(nib_select){.leave_unfit = true, .report = &report},
                                   &(nib_file_options){.format = s->format});
    nib_config_free(config);
    nib_ctx_free(ctx);
    return status;
}

/* The folder dir/in, which prepare() wrote: loaded, run, verified, listed. */
static nib_status reload_job(const scenario *s, const char *dir, uint64_t *result) {
    (void)s;
    nib_ctx *ctx = counted_ctx();
    nib_model *model = ctx ? nib_model_load(ctx, IN(dir, "in"), NULL) : NULL;
    nib_status status = model ? generate(ctx, model, result) : nib_last_error()->status;
    nib_model_free(model);
    nib_ctx_free(ctx);
    return status;
}

static nib_status verify_job(const scenario *s, const char *dir, uint64_t *result) {
    (void)s;
    (void)result;
    nib_ctx *ctx = counted_ctx();
    const nib_status status =
        ctx ? nib_verify_file(ctx, IN(dir, "in"), TINY, NULL) : nib_last_error()->status;
    nib_ctx_free(ctx);
    return status;
}

static nib_status list_job(const scenario *s, const char *dir, uint64_t *result) {
    (void)s;
    nib_ctx *ctx = counted_ctx();
    nib_reader *reader = ctx ? nib_reader_open(ctx, IN(dir, "in")) : NULL;
    nib_status status = failed_or(reader != NULL);
    nib_weight_info info;
    while (status == NIB_OK && (status = nib_reader_next_weight(reader, &info)) == NIB_OK)
        mix(result, info.bytes);
    nib_reader_free(reader);
    nib_ctx_free(ctx);
    return status < NIB_OK ? status : NIB_OK;
}

static nib_status eval_job(const scenario *s, const char *dir, uint64_t *result) {
    nib_ctx *ctx = counted_ctx();
    nib_model *model = ctx ? nib_model_load(ctx, TINY, NULL) : NULL;
    nib_model *reference = model ? nib_model_load(ctx, TINY, NULL) : NULL;
    nib_eval e = {.context = 32, .reference = s->scheme ? NULL : reference};
    nib_status status = failed_or(reference != NULL);
    if (status >= NIB_OK)
        status = nib_eval_file(ctx, model, s->scheme ? s->scheme : "perplexity",
                               s->scheme ? IN(dir, "task") : IN(dir, "text"), &e);
    if (status >= NIB_OK)
        mix(result, (uint64_t)(1e6 * (e.perplexity + e.acc)) ^ (uint64_t)e.tokens);
    nib_model_free(model);
    nib_model_free(reference);
    nib_ctx_free(ctx);
    return status;
}

/* Modules by hand: torch's state into a tree, some of it, one pass, and out again. */
static nib_status modules_job(const scenario *s, const char *dir, uint64_t *result) {
    (void)s;
    (void)dir;
    static const float x[60] = {1, 2, 3};
    nib_ctx *ctx = counted_ctx();
    nib_tensor *filters = ctx ? nib_tensor_new(ctx, NIB_F32, (nib_shape){4, {4, 2, 3, 3}}) : NULL;
    nib_module *conv = nib_conv2d_new(ctx, filters, NIB_NONE, NULL), *net = nib_sequential_new(ctx);
    nib_status status = nib_module_add(net, "conv", conv);
    if (status >= NIB_OK)
        status =
            nib_module_load(net, "tests/golden/nn/state.pt", &(nib_state_options){.lenient = true});
    nib_tensor *in = status >= NIB_OK
                         ? nib_tensor_wrap(ctx, NIB_F32, (nib_shape){3, {2, 5, 6}}, x, NULL, NULL)
                         : NULL;
    nib_tensor *out = nib_module_forward(net, in);
    if (status >= NIB_OK) status = failed_or(out != NULL);
    float y[48];
    if (status >= NIB_OK) status = nib_tensor_read(out, y, sizeof y);
    for (int i = 0; i < 48 && status >= NIB_OK; i++) mix(result, (uint64_t)(int64_t)(1e6f * y[i]));
    nib_tensor_free(in);
    nib_module_free(net);
    nib_ctx_free(ctx);
    return status;
}

/* One step of a network that is quantized and not frozen, a second time over. */
static nib_status step_of(nib_module *m, nib_tensor *x, nib_tensor *target, nib_optimizer *o,
                          float *loss) {
    nib_ctx *ctx = nib_module_ctx(m);
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *l = nib_cross_entropy(nib_module_forward(m, x), target);
    nib_status status = nib_tensor_read(l, loss, sizeof *loss);
    if (status >= NIB_OK) status = nib_backward(l, NIB_NONE);
    if (status >= NIB_OK) status = nib_optimizer_step(o);
    nib_scope_end(ctx, mark);
    return status;
}
static nib_status train_job(const scenario *s, const char *dir, uint64_t *result) {
    (void)dir;
    static const float weight[4 * 32] = {1, -2, 3, -4}, images[2 * 32] = {1, 2, 3},
                                  more[3 * 4] = {1};
    static const int32_t classes[2] = {2, 0};
    nib_ctx *ctx = counted_ctx();
    nib_config *config = ctx && s->scheme ? nib_config_parse(s->scheme) : NULL;
    nib_module *m =
        ctx ? nib_sequential_of(
                  ctx,
                  (nib_module *[]){
                      nib_linear_new(ctx,
                                     nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {4, 32}}, weight,
                                                     NULL, NULL),
                                     NIB_NONE),
                      nib_relu_new(ctx),
                      nib_linear_new(
                          ctx,
                          nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {3, 4}}, more, NULL, NULL),
                          NIB_NONE)},
                  3)
            : NULL;
    nib_tensor *x =
        ctx ? nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {2, 32}}, images, NULL, NULL) : NULL;
    nib_tensor *target =
        ctx ? nib_tensor_wrap(ctx, NIB_I32, (nib_shape){1, {2}}, classes, NULL, NULL) : NULL;
    nib_status status = failed_or(m && x && target && (config || !s->scheme));
    if (status >= NIB_OK && config) status = nib_quantize(m, config, NULL);
    nib_gradients *g = status >= NIB_OK ? nib_gradients_new(ctx) : NULL;
    if (status >= NIB_OK) status = g ? nib_gradients_watch_module(g, m) : nib_last_error()->status;
    nib_optimizer *o = status >= NIB_OK ? nib_optimizer_new(g, NIB_ADAMW(.rate = 0.01)) : NULL;
    if (status >= NIB_OK) status = failed_or(o);
    if (status >= NIB_OK) status = nib_tape_begin(ctx, g);
    const bool begun = status >= NIB_OK;
    for (int i = 0; i < 2 && status >= NIB_OK; i++) {
        float loss = 0;
        uint32_t bits;
        status = step_of(m, x, target, o, &loss);
        memcpy(&bits, &loss, sizeof bits);
        mix(result, bits);
    }
    if (begun) nib_tape_end(ctx);
    nib_optimizer_free(o);
    nib_gradients_free(g);
    nib_tensor_free(x);
    nib_tensor_free(target);
    nib_module_free(m);
    nib_config_free(config);
    nib_ctx_free(ctx);
    return status;
}

/* Linears frozen in turn by a text. */
static nib_status in_turn_job(const scenario *s, const char *dir, uint64_t *result) {
    (void)dir;
    nib_ctx *ctx = counted_ctx();
    nib_config *config = nib_config_parse(s->scheme);
    const nib_select some = {.include = "model.layers.1.self_attn.*"};
    nib_model *m = ctx ? nib_model_load(ctx, TINY, NULL) : NULL;
    nib_data data = {.file = "tests/golden/eval/text.txt", .samples = 4, .context = 50};
    nib_status status = failed_or(m != NULL && config != NULL);
    if (status >= NIB_OK) {
        status = nib_calibrate_begin(nib_model_root(m), config, &some);
        if (status >= NIB_OK) {
            status = nib_model_feed(ctx, m, &data);
            const nib_status ended = nib_calibrate_end(nib_model_root(m), NULL);
            if (status >= NIB_OK) status = ended;
        }
        if (status >= NIB_OK) status = nib_model_freeze(ctx, m, &data);
    }
    if (status >= NIB_OK) status = generate(ctx, m, result);
    nib_model_free(m);
    nib_config_free(config);
    nib_ctx_free(ctx);
    return status;
}

/* What is said in a sound: by the model as it is, or with a scheme calibrated on it, frozen and
 * saved. */
static nib_status speech_job(const scenario *s, const char *dir, uint64_t *result) {
    enum { SAMPLES = 6400 };
    static float samples[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) samples[i] = (float)(i * i % 97) * 0.01f - 0.5f;
    const nib_transcribe_options brief = {.max_tokens = s->scheme ? 1 : 3};
    nib_ctx *ctx = counted_ctx();
    nib_config *config = s->scheme ? nib_config_parse(s->scheme) : NULL;
    nib_model *m = ctx ? nib_model_load(ctx, "tests/golden/model/whisper_english", NULL) : NULL;
    nib_tensor *sound =
        m ? nib_tensor_wrap(ctx, NIB_F32, (nib_shape){1, {SAMPLES}}, samples, NULL, NULL) : NULL;
    nib_status status = failed_or(sound != NULL && (config || !s->scheme));
    nib_ids ids = {0};
    if (status >= NIB_OK && config) {
        status = nib_calibrate_begin(nib_model_root(m), config, NULL);
        if (status >= NIB_OK) {
            status = nib_transcribe(ctx, m, sound, &brief, NULL);
            const nib_status ended = nib_calibrate_end(nib_model_root(m), NULL);
            if (status >= NIB_OK) status = ended;
        }
        if (status >= NIB_OK) status = nib_freeze(nib_model_root(m));
    }
    if (status >= NIB_OK) status = nib_transcribe(ctx, m, sound, &brief, &ids);
    if (status >= NIB_OK && config) status = nib_model_save(m, IN(dir, "out"), NULL);
    for (size_t i = 0; i < ids.count && status >= NIB_OK; i++) mix(result, (uint64_t)ids.data[i]);
    nib_ids_free(&ids);
    nib_tensor_free(sound);
    nib_model_free(m);
    nib_config_free(config);
    nib_ctx_free(ctx);
    return status;
}

/* ---- all of them ---- */
static const char *const scenario_schemes[] = {
    "int8_weight_only",
    "int4_weight_only:group_size=32",
    "int4_weight_only:group_size=32,numerics=tinygemm,algo=hqq",
    "intx_weight_only:bits=3",
    "intx_weight_only:bits=4,granularity=group,group_size=32,algo=hqq",
    "float8_weight_only",
    "float8_weight_only:granularity=tensor",
    "qint8",
    "qint4",
    "qint2:algo=hqq",
    "qfloat8",
};
enum {
    SCHEMES = sizeof scenario_schemes / sizeof *scenario_schemes,
    MOST_SCENARIOS = 8 * SCHEMES + 9
};

static size_t add_scenario(scenario *list, size_t n, const char *name,
                           nib_status (*run)(const scenario *, const char *, uint64_t *),
                           const char *scheme, const char *format, bool writes) {
    list[n] = (scenario){name, run, scheme, format, writes};
    return n + 1;
}

static size_t all_scenarios(scenario list[MOST_SCENARIOS]) {
    const char *quanto = "quanto:weights=qint8,activations=qint8";
    nib_config *known = nib_config_parse(quanto);
    if (!known) quanto = NULL; /* a build without it */
    nib_config_free(known);
    size_t n = 0;
    n = add_scenario(list, n, "tokenizer", tokenizer_job, NULL, NULL, false);
    n = add_scenario(list, n, "modules by hand", modules_job, NULL, NULL, false);
    n = add_scenario(list, n, "two steps of training", train_job, NULL, NULL, false);
    if (test_has_scheme("quanto"))
        n = add_scenario(list, n, "two steps of tuning", train_job,
                         "quanto:weights=qint4,activations=qint8", NULL, false);
    n = add_scenario(list, n, "perplexity and KL", eval_job, NULL, NULL, false);
    n = add_scenario(list, n, "lambada", eval_job, "lambada", NULL, false);
    n = add_scenario(list, n, "load Whisper, transcribe", speech_job, NULL, NULL, false);
    if (quanto) n = add_scenario(list, n, "calibrate Whisper", speech_job, quanto, NULL, true);
    if (test_has_scheme("quanto"))
        n = add_scenario(list, n, "freeze in turn", in_turn_job,
                         "quanto:weights=qint8,activations=none,algo=gptq", NULL, false);
    for (int i = 0; i < SCHEMES; i++) {
        const char *scheme = scenario_schemes[i];
        nib_config *config = nib_config_parse(scheme);
        if (!config) continue; /* a build without it */
        nib_config_free(config);
        n = add_scenario(list, n, "quantize in memory, generate", memory_job, scheme, NULL, false);
        n = add_scenario(list, n, "quantize a file", file_job, scheme, NULL, true);
        n = add_scenario(list, n, "quantize a file as native", file_job, scheme, "native", true);
        n = add_scenario(list, n, "save", save_job, scheme, NULL, true);
        n = add_scenario(list, n, "reload, generate", reload_job, scheme, NULL, false);
        n = add_scenario(list, n, "verify", verify_job, scheme, NULL, false);
        n = add_scenario(list, n, "list", list_job, scheme, NULL, false);
    }
    return n;
}

/* What a scenario reads below `dir`. */
static void prepare(void **state_, const scenario *s, const char *dir) {
    size_t size = 0;
    uint64_t unused = 0;
    char *text = test_read("tests/golden/eval/text.txt", &size);
    CHECK(text && size > 300);
    test_write(IN(dir, "text"), text, 300);
    free(text);
    text = test_read("tests/golden/eval/lambada.jsonl", &size);
    CHECK(text && strchr(text, '\n'));
    test_write(IN(dir, "task"), text, (size_t)(strchr(text, '\n') - text) + 1);
    free(text);
    if (s->run != reload_job && s->run != verify_job && s->run != list_job) return;
    CHECK_OK(file_job(s, dir, &unused));
    CHECK(rename(IN(dir, "out"), IN(dir, "in")) == 0);
}
#endif
