#include <nibble/io.h>

#include "base/mem.h"
#include "test_files.h"

#define GOLDEN "tests/golden/io/"

TEST(tensors_come_one_by_one_and_then_the_end) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_reader *reader = nib_reader_open(ctx, GOLDEN "shapes.safetensors");
    CHECK_MADE(reader);
    CHECK_INT(nib_reader_count(reader), 7);
    CHECK_TEXT(nib_reader_metadata(reader, "format"), "pt");
    nib_tensor_info info;
    size_t sum = 0;
    for (int i = 0; i < 7; i++) {
        nib_tensor *t = NULL;
        CHECK_OK(nib_reader_next(reader, &info, i % 2 ? &t : NULL));
        CHECK_TEXT(info.file, "shapes.safetensors");
        CHECK(!info.scheme);
        sum += info.bytes;
        if (t) {
            CHECK_INT(nib_tensor_dtype(t), info.dtype);
            CHECK_INT(nib_tensor_shape(t).ndim, info.shape.ndim);
        }
        nib_tensor_free(t);
    }
    CHECK_INT(sum, 34);
    CHECK_INT(nib_reader_next(reader, &info, NULL), NIB_END);
    CHECK_INT(nib_reader_next(reader, &info, NULL), NIB_END);
    nib_reader_rewind(reader);
    CHECK_OK(nib_reader_next(reader, &info, NULL));
    CHECK(!nib_reader_load(reader, "nothing"));
    CHECK_FAILS(nib_last_error()->status, NIB_E_ARGUMENT, "no tensor of this name");
    CHECK_TEXT(nib_last_error()->tensor, "nothing");
    nib_reader_free(reader);
    CHECK(!nib_reader_open(ctx, "no/such/model"));
    CHECK(!nib_reader_open(ctx, NULL));
    nib_ctx_free(ctx);
}

TEST(rows_written_in_any_order_read_back_the_same) {
    TEST_FOLDER(dir);
    nib_ctx *ctx = nib_ctx_new(NULL);
    const nib_tensor_info plan[] = {
        {.name = "w", .dtype = NIB_F32, .shape = {2, {4, 2}}},
        {.name = "b", .dtype = NIB_U8, .shape = {0, {0}}},
    };
    const nib_metadata metadata = {"format", "pt"};
    const float low[4] = {0, 1, 2, 3}, high[4] = {4, 5, 6, 7};
    const unsigned char one = 9;
    const char *path = IN(dir, "m.safetensors");
    nib_tensor *t_low = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {2, 2}}, low, NULL, NULL);
    nib_tensor *t_high = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {2, 2}}, high, NULL, NULL);
    nib_tensor *t_one = nib_tensor_wrap(ctx, NIB_U8, (nib_shape){0, {0}}, &one, NULL, NULL);
    size_t predicted = 0;
    CHECK_OK(nib_writer_predict(ctx, plan, 2, &metadata, 1, &predicted));
    nib_writer *writer = nib_writer_open(ctx, path, plan, 2, &metadata, 1);
    CHECK_MADE(writer);
    CHECK_OK(nib_writer_put(writer, "w", 2, t_high));
    CHECK_OK(nib_writer_put(writer, "b", 0, t_one));
    CHECK_FAILS(nib_writer_put(writer, "w", 3, t_low), NIB_E_SHAPE, "does not fit");
    CHECK_FAILS(nib_writer_put(writer, "w", -1, t_low), NIB_E_SHAPE, "does not fit");
    CHECK_FAILS(nib_writer_put(writer, "w", 1, t_low), NIB_E_ARGUMENT, "given twice");
    CHECK_FAILS(nib_writer_put(writer, "b", 0, t_low), NIB_E_DTYPE, "planned as u8, given as f32");
    CHECK_FAILS(nib_writer_put(writer, "x", 0, t_low), NIB_E_ARGUMENT, "not in the plan");
    CHECK_TEXT(nib_last_error()->path, path);
    CHECK_OK(nib_writer_put(writer, "w", 0, t_low));
    CHECK_OK(nib_writer_finish(writer));
    struct stat about;
    CHECK(stat(path, &about) == 0);
    CHECK_INT(about.st_size, predicted);

    nib_reader *reader = nib_reader_open(ctx, path);
    CHECK_MADE(reader);
    nib_tensor *w = nib_reader_load(reader, "w"), *b = nib_reader_load(reader, "b");
    CHECK(w && b);
    nib_writer *again = nib_writer_open(ctx, IN(dir, "again"), plan, 2, &metadata, 1);
    CHECK_OK(nib_writer_put(again, "w", 0, w));
    CHECK_FAILS(nib_writer_finish(again), NIB_E_ARGUMENT, "was not given");
    again = nib_writer_open(ctx, IN(dir, "again"), plan, 2, &metadata, 1);
    CHECK_OK(nib_writer_put(again, "w", 0, w));
    CHECK_OK(nib_writer_put(again, "b", 0, b));
    CHECK_OK(nib_writer_finish(again));
    size_t size = 0, again_size = 1;
    char *bytes = test_read(path, &size), *again_bytes = test_read(IN(dir, "again"), &again_size);
    CHECK(size == again_size);
    CHECK_BYTES(again_bytes, bytes, size);
    free(bytes);
    free(again_bytes);
    writer = nib_writer_open(ctx, IN(dir, "not"), plan, 2, NULL, 0);
    CHECK_MADE(writer);
    nib_writer_cancel(writer);
    nib_writer_cancel(NULL);
    CHECK(access(IN(dir, "not"), F_OK) != 0);
    nib_tensor_free(w);
    nib_tensor_free(b);
    nib_reader_free(reader);
    nib_tensor_free(t_low);
    nib_tensor_free(t_high);
    nib_tensor_free(t_one);
    nib_ctx_free(ctx);
    test_folder_remove(dir);
}

TEST(weights_of_a_quantized_checkpoint_come_whole_and_their_tensors_name_the_scheme) {
    static const struct {
        const char *scheme, *format, *layout;
        bool shape_known;
    } table[] = {
        {"int8_weight_only", "torchao", "int8_row", true},
        {"int8_weight_only:granularity=group,group_size=64", "native", "int8_row", true},
        {"qint4", "quanto", "quanto_bits", false},
    };
    for (size_t k = 0; k < sizeof table / sizeof *table; k++) {
        NEEDS_SCHEME(table[k].scheme);
        TEST_FOLDER(dir);
        nib_ctx *ctx = nib_ctx_new(NULL);
        nib_config *config = nib_config_parse(table[k].scheme);
        const nib_rule rule = {"*", config};
        CHECK_OK(nib_quantize_file(ctx, "models/kjv-llama", IN(dir, "q"), &rule, 1, NULL,
                                   &(nib_file_options){.format = table[k].format}));
        nib_reader *reader = nib_reader_open(ctx, IN(dir, "q"));
        CHECK_MADE(reader);
        CHECK_TEXT(nib_reader_format(reader), table[k].format);
        CHECK(strstr(nib_reader_config(reader), "\"LlamaForCausalLM\""));
        nib_weight_info w;
        int quantized = 0, all = 0;
        size_t bytes = 0, tensor_bytes = 0;
        for (nib_status status; (status = nib_reader_next_weight(reader, &w)) != NIB_END; all++) {
            CHECK_OK(status);
            bytes += w.bytes;
            if (!w.scheme) continue;
            quantized++;
            CHECK_TEXT(w.scheme, table[k].scheme);
            CHECK_TEXT(w.layout, table[k].layout);
            CHECK_INT(w.dtype, NIB_BF16);
            CHECK_INT(w.shape_known, table[k].shape_known);
            if (w.shape_known && strstr(w.name, "down_proj"))
                CHECK(w.shape.ndim == 2 && w.shape.dim[0] == 256 && w.shape.dim[1] == 768);
        }
        CHECK_INT(quantized, 35); /* 5 layers of 7 matrices, 11 norms, the table */
        CHECK_INT(all, 47);
        nib_tensor_info t;
        int parts = 0;
        while (nib_reader_next(reader, &t, NULL) == NIB_OK) {
            tensor_bytes += t.bytes;
            parts += t.scheme != NULL;
            if (t.scheme) CHECK_TEXT(t.scheme, table[k].scheme);
        }
        CHECK_INT(bytes, tensor_bytes);
        CHECK_INT(parts, nib_reader_count(reader) - 12);
        nib_reader_free(reader);
        reader = nib_reader_open(ctx, "models/kjv-llama");
        CHECK_MADE(reader);
        CHECK(!nib_reader_format(reader));
        nib_reader_free(reader);
        nib_config_free(config);
        nib_ctx_free(ctx);
        test_folder_remove(dir);
    }
}

TESTS(RUNS(tensors_come_one_by_one_and_then_the_end),
      RUNS(rows_written_in_any_order_read_back_the_same),
      RUNS(weights_of_a_quantized_checkpoint_come_whole_and_their_tensors_name_the_scheme))
