/* Every public function takes NULL for every pointer without crashing: what makes gives NULL, what
 * does gives a failure, what asks gives nothing, what frees does nothing. A call runs in a child of
 * its own, so that one that crashes is named and the others are still tried. */
#include <dirent.h>
#include <nibble/extend.h>
#include <nibble/graph.h>
#include <nibble/io.h>
#include <nibble/train.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

/* `ctx` is one that works, for the functions that want one before they look at the rest. */
typedef bool attempt(nib_ctx *ctx); /* true: behaved */
typedef struct call {
    const char *name;
    attempt *try;
} call;

static const nib_shape shape = {1, {4}};
static nib_codes no_codes;
static nib_part parts[NIB_MAX_PARTS];

static bool try_nib_ctx_new(nib_ctx *ctx) {
    nib_ctx *made = nib_ctx_new(NULL); /* NULL: all defaults */
    nib_ctx_free(made);
    return made && ctx;
}
static bool try_nib_limits_measure(nib_ctx *ctx) {
    const double none = nib_limits_measure(NULL, ctx, NIB_LIMIT_F32);
    const double neither = nib_limits_measure(NULL, NULL, NIB_LIMIT_READ_1);
    return none != none && neither != neither;
}
static bool try_nib_optimizer_new(nib_ctx *ctx) {
    nib_gradients *g = nib_gradients_new(ctx);
    const nib_optimizer_config none = {0};
    const bool refused = !nib_optimizer_new(NULL, NULL) && !nib_optimizer_new(g, NULL) &&
                         !nib_optimizer_new(g, &none) && !nib_optimizer_new(g, NIB_SGD());
    nib_gradients_free(g);
    return refused;
}

/* The same with the object there and the rest missing. */
static bool half_session(nib_ctx *ctx) {
    static const int32_t prompt[] = {1, 2, 3};
    int32_t token;
    nib_model *model = nib_model_load(ctx, "models/kjv-llama", NULL);
    nib_session *s = nib_session_new(ctx, model, NULL);
    const bool fed = nib_session_feed(s, NULL, 3) < NIB_OK &&
                     nib_session_next(s, &token) < NIB_OK &&
                     nib_session_feed(s, prompt, 3) == NIB_OK;
    const bool stepped = nib_session_next(s, NULL) < NIB_OK &&
                         nib_sessions_step(&s, 1, NULL) < NIB_OK &&
                         nib_sessions_step((nib_session *[]){s, NULL}, 2, &token) < NIB_OK &&
                         nib_session_logits(s, NULL) && nib_session_next(s, &token) == NIB_OK;
    nib_session_free(s);
    nib_model_free(model);
    return fed && stepped;
}

static bool half_model(nib_ctx *ctx) {
    nib_model *model = nib_model_load(ctx, "models/kjv-llama", NULL);
    nib_module *root = nib_model_root(model);
    nib_eval eval = {0};
    const nib_rule rule = {NULL, NULL};
    const bool behaved = nib_eval_file(ctx, model, NULL, NULL, &eval) < NIB_OK &&
                         nib_eval_file(ctx, model, "perplexity", NULL, &eval) < NIB_OK &&
                         nib_eval_file(ctx, model, "perplexity", "README.md", NULL) < NIB_OK &&
                         nib_model_save(model, NULL, NULL) < NIB_OK &&
                         nib_quantize(root, NULL, NULL) < NIB_OK &&
                         nib_quantize_inputs(root, NULL) < NIB_OK &&
                         nib_quantize_rules(root, NULL, 1, NULL) < NIB_OK &&
                         nib_quantize_rules(root, &rule, 1, NULL) < NIB_OK;
    nib_model_free(model);
    return behaved;
}

static bool half_module(nib_ctx *ctx) {
    static const nib_module_kind plain = {.name = "Plain"};
    nib_module *m = nib_module_new(ctx, &plain, NULL);
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    const bool behaved = !nib_module_parameter(m, NULL) && !nib_module_child(m, NULL) &&
                         !nib_module_forward(m, NULL) && nib_module_add(m, "a", NULL) < NIB_OK &&
                         nib_module_set(m, "a", NULL) < NIB_OK &&
                         nib_module_set(m, "a", NIB_NONE) < NIB_OK &&
                         nib_module_walk(m, NULL, NULL) < NIB_OK &&
                         nib_module_walk_parameters(m, NULL, NULL) < NIB_OK &&
                         nib_module_add(m, NULL, nib_module_new(ctx, &plain, NULL)) < NIB_OK &&
                         nib_module_set(m, NULL, nib_tensor_new(ctx, NIB_F32, shape)) < NIB_OK &&
                         !nib_linear(t, NIB_NONE, NIB_NONE) && !nib_quantize_tensor(t, NULL) &&
                         !nib_repack(t, NULL) && nib_tensor_read(t, NULL, 16) < NIB_OK &&
                         nib_npy_save(t, NULL) < NIB_OK;
    nib_tensor_free(t);
    nib_module_free(m);
    return behaved;
}

static bool half_reader(nib_ctx *ctx) {
    nib_reader *r = nib_reader_open(ctx, "models/kjv-llama");
    const bool behaved = r && !nib_reader_metadata(r, NULL) && !nib_reader_load(r, NULL) &&
                         nib_reader_next(r, NULL, NULL) == NIB_OK &&
                         nib_reader_next_weight(r, NULL) == NIB_OK;
    nib_reader_free(r);
    return behaved;
}

static bool half_writer(nib_ctx *ctx) {
    const nib_tensor_info nameless = {.dtype = NIB_F32, .shape = shape};
    const nib_metadata keyless = {NULL, NULL};
    const nib_tensor_info one = {.name = "a", .dtype = NIB_F32, .shape = shape};
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    nib_writer *w = nib_writer_open(ctx, "null_arguments.safetensors", &one, 1, NULL, 0);
    const bool behaved =
        w && !nib_writer_open(ctx, "null_arguments.other", &nameless, 1, NULL, 0) &&
        !nib_writer_open(ctx, "null_arguments.other", &one, 1, &keyless, 1) &&
        nib_writer_put(w, NULL, 0, t) < NIB_OK && nib_writer_put(w, "a", 0, NULL) < NIB_OK &&
        nib_writer_put(w, "a", 0, NIB_NONE) < NIB_OK &&
        nib_writer_predict(ctx, &one, 1, NULL, 0, NULL) < NIB_OK;
    nib_writer_cancel(w);
    nib_tensor_free(t);
    return behaved;
}

static bool half_tokenizer(nib_ctx *ctx) {
    nib_tokenizer *t = nib_tokenizer_load(ctx, "models/kjv-llama");
    nib_detokenizer *d = nib_detokenizer_new(t, false);
    nib_ids ids = {0};
    nib_string text = {0};
    const bool behaved = d && nib_tokenizer_encode(t, NULL, 3, false, &ids) < NIB_OK &&
                         nib_tokenizer_encode(t, "a", 1, false, NULL) < NIB_OK &&
                         nib_tokenizer_decode(t, NULL, 3, false, &text) < NIB_OK &&
                         nib_tokenizer_decode(t, (const int32_t[]){1}, 1, false, NULL) < NIB_OK &&
                         nib_tokenizer_id(t, NULL, 3) == -1 &&
                         nib_tokenizer_special(t, NULL) == -1 && nib_tokenizer_piece(t, 5, NULL) &&
                         nib_detokenizer_next(d, 5, NULL) < NIB_OK &&
                         nib_detokenizer_end(d, NULL) < NIB_OK;
    nib_ids_free(&ids);
    nib_string_free(&text);
    nib_detokenizer_free(d);
    nib_tokenizer_free(t);
    return behaved;
}

static bool half_codes(nib_ctx *ctx) {
    static const nib_shape two = {2, {2, 4}};
    int8_t q[8] = {0};
    float scale[2] = {1, 1};
    nib_codes codes = {.desc = {.code = NIB_I8,
                                .scale_dtype = NIB_F32,
                                .math = NIB_F32,
                                .rows = 2,
                                .cols = 4,
                                .block_rows = 1,
                                .block_cols = 4,
                                .shape = two},
                       .q = q,
                       .code_bytes = 1,
                       .scale = scale};
    int count = 0;
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, two);
    void *none[NIB_MAX_PARTS] = {NULL};
    nib_codes empty = codes;
    empty.q = NULL;
    const bool fits =
        nib_layout_parts("int8_row", &codes.desc, parts, &count) == NIB_OK && count > 0;
    const bool behaved =
        nib_choose_qparams(t, NIB_MAP_SYMMETRIC, 0, &empty) < NIB_OK &&
        nib_choose_qparams(NIB_NONE, NIB_MAP_SYMMETRIC, 0, &codes) < NIB_OK &&
        nib_quantize_block(t, &empty) < NIB_OK && nib_dequantize_block(&codes, NULL) < NIB_OK &&
        nib_pack("int8_row", &codes, NULL) < NIB_OK &&
        nib_pack("int8_row", &codes, none) < NIB_OK &&
        nib_unpack("int8_row", &codes.desc, NULL, 0, &codes) < NIB_OK &&
        nib_unpack("int8_row", &codes.desc, (const void *const *)none, 0, &codes) < NIB_OK &&
        nib_layout_parts("int8_row", &codes.desc, parts, NULL) < NIB_OK;
    nib_tensor_free(t);
    return fits && behaved;
}

#define CALL(name, behaves)                                                                        \
    static bool try_##name(nib_ctx *ctx) {                                                         \
        (void)ctx;                                                                                 \
        return behaves;                                                                            \
    }
#define FREES(name, expression) CALL(name, ((expression), true))
#define TRIED(name)
#include "null_arguments_list.h"
#undef CALL
#undef FREES
#undef TRIED

static const call calls[] = {
#define CALL(name, behaves)     {#name, try_##name},
#define FREES(name, expression) {#name, try_##name},
#define TRIED(name)             {#name, try_##name},
#include "null_arguments_list.h"
    {"session", half_session}, {"model", half_model},   {"module", half_module},
    {"reader", half_reader},   {"writer", half_writer}, {"tokenizer", half_tokenizer},
    {"codes", half_codes},
};
enum { NCALLS = sizeof calls / sizeof *calls };

/* NULL: behaved; else what happened in place of it. */
static const char *outcome(const call *c) {
    static const int deadly[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) signal(deadly[i], SIG_DFL);
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
        const bool behaved = ctx && c->try(ctx);
        nib_ctx_free(ctx);
        _exit(behaved ? 0 : 77);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return "could not be tried";
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return NULL;
    return WIFEXITED(status) && WEXITSTATUS(status) == 77 ? "did not fail" : "crashed";
}

TEST(null_is_a_failure_everywhere_and_a_crash_nowhere) {
    int wrong = 0;
    for (size_t i = 0; i < NCALLS; i++) {
        const char *wrongly = outcome(&calls[i]);
        if (wrongly) print_message("%s %s\n", calls[i].name, wrongly);
        wrong += wrongly != NULL;
    }
    CHECK_INT(wrong, 0);
}

/* "nib_x(" anywhere in a header, but for the types of functions. */
static int count_missing(const char *text) {
    static const char *const types[] = {"nib_filter", "nib_module_visit", "nib_parameter_visit"};
    int missing = 0;
    for (const char *at = text; (at = strstr(at, "nib_")) != NULL;) {
        const size_t length = strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789_");
        bool known = at[length] != '(' || (at > text && at[-1] == '_');
        for (size_t i = 0; i < sizeof types / sizeof *types; i++)
            known |= strlen(types[i]) == length && !memcmp(at, types[i], length);
        for (size_t i = 0; !known && i < NCALLS; i++)
            known |= strlen(calls[i].name) == length && !memcmp(at, calls[i].name, length);
        if (!known) print_message("%.*s is not in the table above\n", (int)length, at);
        missing += !known;
        at += length;
    }
    return missing;
}

TEST(every_function_of_the_public_headers_is_tried) {
    DIR *folder = opendir("include/nibble");
    CHECK(folder);
    int headers = 0, missing = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (!strstr(entry->d_name, ".h")) continue;
        char path[512];
        static char text[1 << 17];
        snprintf(path, sizeof path, "include/nibble/%s", entry->d_name);
        FILE *f = fopen(path, "rb");
        CHECK(f);
        const size_t size = fread(text, 1, sizeof text - 1, f);
        fclose(f);
        text[size] = 0;
        missing += count_missing(text);
        headers++;
    }
    closedir(folder);
    CHECK(headers >= 4);
    CHECK_INT(missing, 0);
}

TESTS(RUNS(null_is_a_failure_everywhere_and_a_crash_nowhere),
      RUNS(every_function_of_the_public_headers_is_tried))
