/* Any safetensors checkpoint quantizes, also of an architecture that cannot run here: one with
 * shards, stacked experts, a convolution, a table of integers and names that say nothing. */
#include <nibble/io.h>
#include <sys/stat.h>

#include "quant/scheme.h"
#include "test_files.h"

typedef struct planned {
    const char *name;
    nib_dtype dtype;
    nib_shape shape;
    const char *why_left;
} planned;
#define BF16(name, why, ...)                                                                       \
    { name, NIB_BF16, __VA_ARGS__, why }

static const planned first[] =
    {
        BF16("model.embed_tokens.weight", "an embedding", {2, {100, 64}}),
        BF16("model.layers.0.mlp.experts.down_proj", NULL, {3, {4, 64, 64}}),
        BF16("model.layers.0.mlp.experts.gate_up_proj", NULL, {3, {4, 64, 128}}),
        BF16("model.layers.0.norm.weight", "", {1, {64}}),
        BF16("model.layers.0.self_attn.q_proj.weight", NULL, {2, {64, 128}}),
},
                     second[] = {
                         BF16("lm_head.weight", "the output head", {2, {100, 64}}),
                         BF16("model.layers.1.conv.weight", "not a linear weight by its shape",
                              {4, {8, 8, 3, 3}}),
                         {"model.layers.1.lookup", NIB_I64, {2, {3, 4}}, ""},
                         BF16("model.layers.1.mlp.experts.0.w1.weight", NULL, {2, {128, 64}}),
                         BF16("model.layers.1.odd_matrix", "not named like a linear weight",
                              {2, {7, 9}}),
};
enum {
    NFIRST = sizeof first / sizeof *first,
    NSECOND = sizeof second / sizeof *second,
    FLOATS = 8,
    LINEARS = 4
};

static void write_shard(void **state_, nib_ctx *ctx, const char *path, const planned *p, size_t n) {
    nib_tensor_info plan[8] = {{0}};
    CHECK(n <= 8);
    for (size_t i = 0; i < n; i++)
        plan[i] = (nib_tensor_info){.name = p[i].name, .dtype = p[i].dtype, .shape = p[i].shape};
    nib_writer *writer = nib_writer_open(ctx, path, plan, n, &(nib_metadata){"format", "pt"}, 1);
    CHECK_MADE(writer);
    static uint16_t values[4 * 64 * 128];
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) /* bf16 of +-1 to +-2 */
        values[i] = (uint16_t)(0x3f80 | (test_random(&seed) & 0x807f));
    for (size_t i = 0; i < n; i++) {
        nib_tensor *rows = nib_tensor_wrap(ctx, p[i].dtype, p[i].shape, values, NULL, NULL);
        CHECK_MADE(rows);
        CHECK_OK(nib_writer_put(writer, p[i].name, 0, rows));
        nib_tensor_free(rows);
    }
    CHECK_OK(nib_writer_finish(writer));
}

static void write_checkpoint(void **state_, nib_ctx *ctx, const char *folder) {
    static const char config[] =
        "{\"architectures\": [\"SomethingForCausalLM\"], \"model_type\": \"something\"}";
    CHECK(mkdir(folder, 0777) == 0);
    write_shard(state_, ctx, IN(folder, "model-00001-of-00002.safetensors"), first, NFIRST);
    write_shard(state_, ctx, IN(folder, "model-00002-of-00002.safetensors"), second, NSECOND);
    char index[2048];
    int at = snprintf(index, sizeof index, "{\"metadata\": {}, \"weight_map\": {");
    for (int i = 0; i < NFIRST + NSECOND; i++)
        at += snprintf(index + at, sizeof index - (size_t)at,
                       "%s\"%s\": \"model-0000%d-of-00002.safetensors\"", i ? ", " : "",
                       i < NFIRST ? first[i].name : second[i - NFIRST].name, i < NFIRST ? 1 : 2);
    at += snprintf(index + at, sizeof index - (size_t)at, "}}");
    test_write(IN(folder, "model.safetensors.index.json"), index, (size_t)at);
    test_write(IN(folder, "config.json"), config, sizeof config - 1);
}

/* Every float matrix has a row: quantized, or left with the reason that is expected. */
typedef struct seen {
    int right, wrong;
} seen;
static void see(void *user, const nib_report_row *row) {
    seen *s = user;
    const char *want = "no such weight";
    for (int i = 0; i < NFIRST + NSECOND; i++) {
        const planned *p = i < NFIRST ? &first[i] : &second[i - NFIRST];
        if (strcmp(p->name, row->name) == 0) want = p->why_left;
    }
    const bool same = !want == !row->why_left && (!want || strcmp(want, row->why_left) == 0);
    if (!same)
        print_message("%s: left because \"%s\"\n", row->name,
                      row->why_left ? row->why_left : "(not)");
    *(same ? &s->right : &s->wrong) += 1;
}

static size_t size_of(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 ? (size_t)about.st_size : 0;
}

TEST(every_scheme_quantizes_experts_shards_and_unknown_names_without_being_told_a_format) {
    for (size_t i = 0; nib_scheme_at(i); i++) {
        TEST_FOLDER(folder);
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
        write_checkpoint(state_, ctx, IN(folder, "in"));
        char text[128];
        snprintf(text, sizeof text, "%s%s", nib_scheme_at(i)->name,
                 strcmp(nib_scheme_at(i)->name, "int4_weight_only") == 0 ? ":group_size=32" : "");
        nib_config *config = nib_config_parse(text);
        CHECK_MADE(config);
        seen s = {0};
        nib_report report = {.row = see, .user = &s}, foretold = {0};
        const nib_rule rule = {"*", config};
        CHECK_OK(nib_quantize_file(ctx, IN(folder, "in"), NULL, &rule, 1,
                                   &(nib_select){.report = &foretold},
                                   &(nib_file_options){.dry_run = true}));
        CHECK_OK(nib_quantize_file(ctx, IN(folder, "in"), IN(folder, "out"), &rule, 1,
                                   &(nib_select){.report = &report}, NULL));
        CHECK_INT(s.wrong, 0);
        CHECK_INT(s.right, FLOATS);
        CHECK_INT(report.quantized, LINEARS);
        CHECK_INT(report.left, FLOATS - LINEARS);
        CHECK_INT(foretold.bytes_weights,
                  size_of(IN(folder, "out/model-00001-of-00002.safetensors")) +
                      size_of(IN(folder, "out/model-00002-of-00002.safetensors")));
        CHECK_INT(foretold.bytes_index, size_of(IN(folder, "out/model.safetensors.index.json")));
        CHECK_INT(foretold.bytes_config, size_of(IN(folder, "out/config.json")));
        CHECK_OK(nib_verify_file(ctx, IN(folder, "out"), IN(folder, "in"), NULL));
        nib_config_free(config);
        nib_ctx_free(ctx);
        test_folder_remove(folder);
    }
}

TEST(a_format_that_was_asked_for_and_has_no_stacks_is_refused_before_work) {
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    write_checkpoint(state_, ctx, IN(folder, "in"));
    nib_config *config = nib_config_parse("int8_weight_only");
    CHECK_FAILS(nib_quantize_file(ctx, IN(folder, "in"), IN(folder, "out"),
                                  &(nib_rule){"*", config}, 1, NULL,
                                  &(nib_file_options){.format = "torchao"}),
                NIB_E_ARGUMENT, "of bfloat16 [4, 64, 64]; formats that can: native");
    CHECK_TEXT(nib_last_error()->tensor, "model.layers.0.mlp.experts.down_proj");
    CHECK_INT(size_of(IN(folder, "out")) + size_of(IN(folder, "out.partial")), 0);
    nib_config_free(config);
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TESTS(RUNS(every_scheme_quantizes_experts_shards_and_unknown_names_without_being_told_a_format),
      RUNS(a_format_that_was_asked_for_and_has_no_stacks_is_refused_before_work))
