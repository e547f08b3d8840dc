/* One answer for one question: logits of a whole model are the same bits for every instruction set
 * of this machine, number of threads, cut of the prompt, number of sessions beside it, eager and
 * compiled, for floats and for quantized weights and caches. */
#include <nibble/nn.h>

#include "base/cpu.h"
#include "test.h"

#define MODEL "models/kjv-llama"
enum { PROMPT = 70, NEW = 3, VOCABULARY = 2048, MOST_MATES = 4 }; /* over one attention block */

static const char *const levels[] = {"avx2",       "avxvnni", "avx512",  "avx512vnni",
                                     "avx512bf16", "neon",    "dotprod", "i8mm"};
static const int threads[] = {1, 2, 3, 4, 7, 8, 16};
static const int cuts[] = {PROMPT, 64, 1, 33, 7};
static const int mates[] = {0, 1, MOST_MATES};
#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

typedef struct trace {
    float logits[NEW + 1][VOCABULARY];
    int32_t ids[NEW];
} trace;

typedef struct way { /* of asking the same */
    int cut, mates;
    bool compiled;
    const char *kv;
} way;

static void ask(void **state_, nib_ctx *ctx, const nib_model *model, way w, trace *out) {
    nib_session *s[1 + MOST_MATES];
    int32_t prompt[PROMPT + MOST_MATES], ids[1 + MOST_MATES];
    uint64_t random = test_seed();
    for (int i = 0; i < PROMPT + MOST_MATES; i++)
        prompt[i] = (int32_t)(1 + test_random(&random) % (VOCABULARY - 1));
    const nib_session_options options = {.ignore_eos = true,
                                         .max_tokens = 200,
                                         .compile =
                                             w.compiled ? NIB_COMPILE_ALWAYS : NIB_COMPILE_NEVER};
    for (int k = 0; k <= w.mates; k++) {
        s[k] = nib_session_new(ctx, model, &options);
        CHECK_MADE(s[k]);
    }
    for (int i = 0; i < PROMPT; i += w.cut)
        CHECK_OK(
            nib_session_feed(s[0], prompt + i, (size_t)(PROMPT - i < w.cut ? PROMPT - i : w.cut)));
    for (int k = 1; k <= w.mates; k++) /* others, at other positions */
        CHECK_OK(nib_session_feed(s[k], prompt + k, (size_t)(3 + 16 * k)));
    memset(out, 0, sizeof *out);
    for (int i = 0; i <= NEW; i++) {
        size_t n;
        if (i) CHECK_OK(nib_sessions_step(s, (size_t)(1 + w.mates), ids));
        if (i) out->ids[i - 1] = ids[0];
        const float *logits = nib_session_logits(s[0], &n);
        CHECK_MADE(logits);
        CHECK_INT(n, VOCABULARY);
        memcpy(out->logits[i], logits, sizeof out->logits[i]);
    }
    for (int k = 0; k <= w.mates; k++) nib_session_free(s[k]);
}

static nib_model *load(void **state_, nib_ctx *ctx, const char *scheme) {
    nib_model *model = nib_model_load(ctx, MODEL, NULL);
    CHECK_MADE(model);
    if (scheme) {
        nib_config *config = nib_config_parse(scheme);
        CHECK_OK(nib_quantize(nib_model_root(model), config, &(nib_select){.leave_unfit = true}));
        nib_config_free(config);
    }
    return model;
}

/* The levels of this machine that add something to those before them. */
static int levels_here(const char *found[]) {
    uint32_t before = 0, mask;
    int n = 0;
    for (int i = 0; i < COUNT(levels); i++) {
        if (nib_cpu_parse(levels[i], &mask) < NIB_OK) continue; /* another machine's */
        mask &= nib_cpu_features();
        if (mask != before) found[n++] = levels[i];
        before = mask;
    }
    return n;
}

/* Each level with each number of threads, once; cuts, mates and compiling take turns over them. The
 * judge of all is plain C, eager, alone, the prompt in one piece. */
static int compare_all(void **state_, const char *scheme, const char *kv) {
    static trace want, got;
    const char *level[COUNT(levels)];
    const int nlevels = levels_here(level);
    nib_ctx *ref = nib_ctx_new(&(nib_ctx_options){.threads = 2, .isa = "ref"});
    nib_model *judge = load(state_, ref, scheme);
    ask(state_, ref, judge, (way){PROMPT, 0, false, kv}, &want);
    nib_model_free(judge);
    nib_ctx_free(ref);
    int tried = 0;
    static int turn; /* goes on over the schemes, so that each meets other ways */
    for (int l = 0; l < nlevels; l++) {
        for (int t = 0; t < COUNT(threads); t++, turn++) {
            if (TEST_SANITIZED && turn % 5) continue;
            const way w = {cuts[turn % COUNT(cuts)], mates[turn % COUNT(mates)], turn % 4 > 1, kv};
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads[t], .isa = level[l]});
            nib_model *model = load(state_, ctx, scheme);
            ask(state_, ctx, model, w, &got);
            if (memcmp(&got, &want, sizeof want) != 0)
                FAIL_AT("%s, cache %s, on %s: %d threads, prompt in pieces of %d, %d sessions "
                        "beside, %s: other bits than plain C",
                        scheme ? scheme : "float", kv ? kv : "float", level[l], threads[t], w.cut,
                        w.mates, w.compiled ? "compiled" : "eager");
            nib_model_free(model);
            nib_ctx_free(ctx);
            tried++;
        }
    }
    return tried;
}

TEST(a_float_model_answers_with_the_same_bits_everywhere) {
    print_message("%d ways\n", compare_all(state_, NULL, NULL));
}

TEST(a_quantized_cache_answers_with_the_same_bits_everywhere) {
    static const char *const kinds[] = {"int8", "int4", "fp8", "int8_torchao"};
    int tried = 0;
    for (int i = 0; i < COUNT(kinds); i++) tried += compare_all(state_, NULL, kinds[i]);
    print_message("%d ways\n", tried);
}

TEST(a_quantized_model_answers_with_the_same_bits_everywhere) {
    static const char *const schemes[] = {"int8_weight_only",
                                          "int4_weight_only:group_size=32",
                                          "intx_weight_only:bits=3,granularity=group,group_size=64",
                                          "float8_weight_only",
                                          "qint2",
                                          "int8_dynamic_activation_int8_weight",
                                          "int8_dynamic_activation_int4_weight"};
    int tried = 0;
    for (int i = 0; i < COUNT(schemes); i++) {
        nib_config *config = nib_config_parse(schemes[i]);
        if (!config) continue; /* a build without this scheme */
        nib_config_free(config);
        tried += compare_all(state_, schemes[i], NULL);
    }
    print_message("%d ways\n", tried);
}

TESTS(RUNS(a_float_model_answers_with_the_same_bits_everywhere),
      RUNS(a_quantized_cache_answers_with_the_same_bits_everywhere),
      RUNS(a_quantized_model_answers_with_the_same_bits_everywhere))
