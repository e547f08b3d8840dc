/* PyTorch's files where safetensors files are taken: quantized from and into, verified, and with
 * the same bytes. */
#include <nibble/io.h>
#include <sys/stat.h>

#include "quant/scheme.h"
#include "test_files.h"

static const char *const names[2][2] = {
    {"model.layers.0.mlp.down_proj.weight", "model.layers.0.norm.weight"},
    {"model.layers.1.mlp.down_proj.weight", "model.layers.1.norm.weight"}};

static void write_shard(void **state_, nib_ctx *ctx, const char *path, int shard) {
    static uint16_t values[64 * 64];
    uint64_t seed = 7 + (uint64_t)shard;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) /* bf16 of +-1 to +-2 */
        values[i] = (uint16_t)(0x3f80 | (test_random(&seed) & 0x807f));
    const nib_tensor_info plan[2] = {
        {.name = names[shard][0], .dtype = NIB_BF16, .shape = {2, {64, 64}}},
        {.name = names[shard][1], .dtype = NIB_BF16, .shape = {1, {64}}}};
    nib_writer *w = nib_writer_open(ctx, path, plan, 2, &(nib_metadata){"format", "pt"}, 1);
    CHECK_MADE(w);
    for (int i = 0; i < 2; i++) {
        nib_tensor *rows = nib_tensor_wrap(ctx, NIB_BF16, plan[i].shape, values, NULL, NULL);
        CHECK_OK(nib_writer_put(w, plan[i].name, 0, rows));
        nib_tensor_free(rows);
    }
    CHECK_OK(nib_writer_finish(w));
}

/* Both shards and their index below `folder`, as PyTorch's or as safetensors. */
static void write_folder(void **state_, nib_ctx *ctx, const char *folder, const char *stem,
                         const char *ending) {
    char text[1024], file[64];
    CHECK(mkdir(folder, 0700) == 0);
    int n = snprintf(text, sizeof text, "{\"weight_map\": {");
    for (int s = 0; s < 2; s++) {
        snprintf(file, sizeof file, "%s-%05d-of-00002%s", stem, s + 1, ending);
        write_shard(state_, ctx, IN(folder, file), s);
        for (int i = 0; i < 2; i++)
            n += snprintf(text + n, sizeof text - (size_t)n, "%s\"%s\": \"%s\"", s + i ? ", " : "",
                          names[s][i], file);
    }
    n += snprintf(text + n, sizeof text - (size_t)n, "}}");
    snprintf(file, sizeof file, "%s%s.index.json", stem, ending);
    test_write(IN(folder, file), text, (size_t)n);
    test_write(IN(folder, "config.json"), "{\"architectures\": [\"Nothing\"]}", 30);
}

static nib_status quantize(nib_ctx *ctx, const char *from, const char *to, const char *format) {
    nib_config *config = nib_config_parse("int8_weight_only");
    const nib_rule rule = {"*", config};
    const nib_status status =
        nib_quantize_file(ctx, from, to, &rule, 1, &(nib_select){.leave_unfit = true},
                          &(nib_file_options){.format = format});
    nib_config_free(config);
    return status;
}

TEST(a_folder_of_pytorch_model_bin_quantizes_to_what_safetensors_give) {
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER(dir);
    nib_ctx *ctx = nib_ctx_new(NULL);
    write_folder(state_, ctx, IN(dir, "bin"), "pytorch_model", ".bin");
    write_folder(state_, ctx, IN(dir, "safe"), "model", ".safetensors");
    CHECK_OK(quantize(ctx, IN(dir, "bin"), IN(dir, "a"), NULL));
    CHECK_OK(quantize(ctx, IN(dir, "safe"), IN(dir, "b"), NULL));
    unlink(IN(dir, "a/quant_report.json")); /* names its source */
    unlink(IN(dir, "b/quant_report.json"));
    char *a = test_picture(IN(dir, "a")), *b = test_picture(IN(dir, "b"));
    CHECK_TEXT(a, b);
    CHECK(strstr(a, "model-00002-of-00002.safetensors"));
    CHECK_OK(nib_verify_file(ctx, IN(dir, "a"), IN(dir, "bin"), NULL));
    free(a);
    free(b);
    nib_ctx_free(ctx);
    test_folder_remove(dir);
}

TEST(an_output_whose_name_says_so_is_one_file_of_torchs) {
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER(dir);
    nib_ctx *ctx = nib_ctx_new(NULL);
    write_shard(state_, ctx, IN(dir, "in.pt"), 0);
    CHECK_OK(quantize(ctx, IN(dir, "in.pt"), IN(dir, "out.pth"), "native"));
    CHECK_OK(nib_verify_file(ctx, IN(dir, "out.pth"), IN(dir, "in.pt"), NULL));
    char first[4] = {0};
    FILE *f = fopen(IN(dir, "out.pth"), "rb");
    CHECK(f && fread(first, 1, 4, f) == 4 && memcmp(first, "PK\3\4", 4) == 0);
    fclose(f);
    nib_reader *r = nib_reader_open(ctx, IN(dir, "out.pth"));
    CHECK_MADE(r);
    CHECK_TEXT(nib_reader_format(r), "native");
    nib_reader_free(r);
    /* a byte changed is a difference, found in a .pt as elsewhere */
    size_t size = 0;
    char *bytes = test_read(IN(dir, "in.pt"), &size);
    CHECK(bytes != NULL);
    for (size_t at = size / 2; at < size / 2 + 64; at++) bytes[at] ^= 0x21;
    test_write(IN(dir, "other.pt"), bytes, size);
    CHECK(nib_verify_file(ctx, IN(dir, "out.pth"), IN(dir, "other.pt"), NULL) == NIB_E_DIFFERS);
    free(bytes);
    nib_ctx_free(ctx);
    test_folder_remove(dir);
}

TESTS(RUNS(a_folder_of_pytorch_model_bin_quantizes_to_what_safetensors_give),
      RUNS(an_output_whose_name_says_so_is_one_file_of_torchs))
