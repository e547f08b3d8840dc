/* Whisper folders that cannot be: each is one error that names the file and what in it. */
#include <jansson.h>

#include "golden_whisper.h"

#define CASE GOLDEN "whisper_f32/"

/* A copy of the case; `file`, if any, with a patch {"key": value}, where "-" takes the key away. */
static void patched(const char *folder, const char *file, const char *patch) {
    static const char *const names[] = {"config.json", "generation_config.json",
                                        "model.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size = 0;
        char *bytes = test_read(IN(CASE, names[i]), &size);
        if (!bytes) abort();
        test_write(IN(folder, names[i]), bytes, size);
        free(bytes);
    }
    if (!file) return;
    json_t *config = json_load_file(IN(folder, file), 0, NULL);
    json_t *changes = json_loads(patch, JSON_DECODE_ANY, NULL), *value;
    const char *key;
    if (!config || !changes) abort();
    json_object_foreach(changes, key, value) {
        const char *text = json_string_value(value);
        if (text && strcmp(text, "-") == 0)
            json_object_del(config, key);
        else
            json_object_set(config, key, value);
    }
    if (json_dump_file(config, IN(folder, file), 0)) abort();
    json_decref(config);
    json_decref(changes);
}

static void refused(void **state_, nib_ctx *ctx, const char *folder, const char *file,
                    const char *what, const char *tensor) {
    nib_model *m = nib_model_load(ctx, folder, NULL);
    const nib_error *e = nib_last_error();
    if (m || (e->status != NIB_E_FORMAT && e->status != NIB_E_UNSUPPORTED) ||
        !strstr(e->what, what) || strcmp(e->path, IN(folder, file)) != 0 ||
        strcmp(e->tensor, tensor) != 0)
        print_error("want %s of %s in %s;\n got %s of %s in %s\n", what, tensor, file,
                    m ? "a model" : e->what, e->tensor, e->path);
    CHECK(!m);
    CHECK(strstr(e->what, what));
    CHECK_TEXT(e->path, IN(folder, file));
    CHECK_TEXT(e->tensor, tensor);
}

TEST(a_field_that_is_missing_or_impossible_is_named) {
    static const struct {
        const char *file, *patch, *what;
    } bad[] = {
        {"config.json", "{\"d_model\": \"-\"}", "\"d_model\" is missing"},
        {"config.json", "{\"vocab_size\": \"-\"}", "\"vocab_size\" is missing"},
        {"config.json", "{\"encoder_layers\": \"-\"}", "\"encoder_layers\" is missing"},
        {"config.json", "{\"decoder_layers\": \"-\"}", "\"decoder_layers\" is missing"},
        {"config.json", "{\"encoder_attention_heads\": \"-\"}",
         "\"encoder_attention_heads\" is missing"},
        {"config.json", "{\"decoder_attention_heads\": \"-\"}",
         "\"decoder_attention_heads\" is missing"},
        {"config.json", "{\"encoder_ffn_dim\": \"-\"}", "\"encoder_ffn_dim\" is missing"},
        {"config.json", "{\"decoder_ffn_dim\": \"-\"}", "\"decoder_ffn_dim\" is missing"},
        {"config.json", "{\"d_model\": 0}", "\"d_model\" is 0"},
        {"config.json", "{\"d_model\": 33}", "no multiple"},
        {"config.json", "{\"d_model\": 32.5}", "not an integer"},
        {"config.json", "{\"d_model\": 9223372036854775807}", "\"d_model\" is 9223372036854775807"},
        {"config.json", "{\"encoder_layers\": -1}", "\"encoder_layers\" is -1"},
        {"config.json", "{\"encoder_layers\": 5000}", "at most 1024"},
        {"config.json", "{\"decoder_layers\": 5000}", "at most 1024"},
        {"config.json", "{\"encoder_attention_heads\": 5}",
         "no multiple of \"encoder_attention_heads\", 5"},
        {"config.json", "{\"decoder_attention_heads\": 5}", "\"decoder_attention_heads\""},
        {"config.json", "{\"num_mel_bins\": 0}", "\"num_mel_bins\" is 0"},
        {"config.json", "{\"num_mel_bins\": 129}", "\"num_mel_bins\" is 129"},
        {"config.json", "{\"max_source_positions\": 0}", "\"max_source_positions\" is 0"},
        {"config.json", "{\"max_source_positions\": 100000000}",
         "\"max_source_positions\" is 100000000"},
        {"config.json", "{\"max_target_positions\": 0}", "\"max_target_positions\" is 0"},
        {"config.json", "{\"activation_function\": \"sine\"}", "\"sine\""},
        {"config.json", "{\"tie_word_embeddings\": \"yes\"}", "not true or false"},
        {"generation_config.json", "{\"decoder_start_token_id\": 160}",
         "no id below the vocabulary of 160"},
        {"generation_config.json", "{\"no_timestamps_token_id\": -2}",
         "\"no_timestamps_token_id\""},
        {"generation_config.json", "{\"suppress_tokens\": [1, 999]}", "\"suppress_tokens\""},
        {"generation_config.json", "{\"suppress_tokens\": {}}", "\"suppress_tokens\""},
        {"generation_config.json", "{\"begin_suppress_tokens\": [null]}",
         "\"begin_suppress_tokens\""},
        {"generation_config.json", "{\"forced_decoder_ids\": [[2, 5]]}",
         "\"forced_decoder_ids\" entry 0"},
        {"generation_config.json", "{\"lang_to_id\": {\"en\": 102}}", "\"<|en|>\""},
        {"generation_config.json", "{\"lang_to_id\": {\"<|en|>\": 160}}", "\"lang_to_id\""},
        {"generation_config.json", "{\"task_to_id\": [1]}", "\"task_to_id\""},
        {"generation_config.json", "{\"max_initial_timestamp_index\": -1}",
         "\"max_initial_timestamp_index\""},
        {"generation_config.json", "{\"is_multilingual\": 1}", "not true or false"},
        {"generation_config.json", "{\"max_length\": 0}", "\"max_length\" is 0"},
    };
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(folder);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        patched(folder, bad[i].file, bad[i].patch);
        refused(state_, ctx, folder, bad[i].file, bad[i].what, "");
    }
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

TEST(sizes_that_contradict_the_tensors_name_the_tensor) {
    static const struct {
        const char *patch, *what, *tensor;
    } bad[] = {
        {"{\"vocab_size\": 161}", "asks for [161, 32]", "model.decoder.embed_tokens.weight"},
        {"{\"num_mel_bins\": 80}", "asks for [32, 80, 3]", "model.encoder.conv1.weight"},
        {"{\"max_source_positions\": 60}", "asks for [60, 32]",
         "model.encoder.embed_positions.weight"},
        {"{\"max_target_positions\": 29}", "asks for [29, 32]",
         "model.decoder.embed_positions.weight"},
        {"{\"encoder_ffn_dim\": 49}", "asks for [49]", "model.encoder.layers.0.fc1.bias"},
        {"{\"decoder_ffn_dim\": 41}", "asks for [41]", "model.decoder.layers.0.fc1.bias"},
        {"{\"encoder_layers\": 1}", "\"encoder_layers\" is 1", "model.encoder.layers.1.fc1.weight"},
        {"{\"decoder_layers\": 1}", "is 1", "model.decoder.layers.1.fc1.weight"},
        {"{\"encoder_layers\": 3}", "", "model.encoder.layers.2.self_attn.k_proj.weight"},
        {"{\"decoder_layers\": 3}", "", "model.decoder.layers.2.self_attn.k_proj.weight"},
    };
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(folder);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        patched(folder, "config.json", bad[i].patch);
        nib_model *m = nib_model_load(ctx, folder, NULL);
        CHECK(!m);
        CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
        if (!strstr(nib_last_error()->what, bad[i].what))
            FAIL_AT("%s: %s", bad[i].patch, nib_last_error()->what);
        CHECK_TEXT(nib_last_error()->tensor, bad[i].tensor);
    }
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

/* In the header of the file, in place: both texts are of one length. */
static void edit(const char *folder, const char *from, const char *to) {
    size_t size = 0;
    patched(folder, NULL, NULL);
    char *bytes = test_read(IN(folder, "model.safetensors"), &size);
    if (!bytes || strlen(from) != strlen(to)) abort();
    char *at = memmem(bytes, size, from, strlen(from));
    if (!at) abort();
    memcpy(at, to, strlen(to));
    test_write(IN(folder, "model.safetensors"), bytes, size);
    free(bytes);
}

TEST(a_tensor_that_is_missing_or_misshaped_is_named) {
    static const char *const missing[] = {
        "model.encoder.conv1.weight",
        "model.encoder.conv2.bias",
        "model.encoder.embed_positions.weight",
        "model.encoder.layers.1.fc2.bias",
        "model.encoder.layers.0.self_attn.k_proj.weight",
        "model.encoder.layer_norm.weight",
        "model.decoder.embed_positions.weight",
        "model.decoder.layers.1.encoder_attn.v_proj.weight",
        "model.decoder.layers.0.encoder_attn_layer_norm.bias",
        "model.decoder.layer_norm.bias",
    };
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(folder);
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++) {
        char from[200], to[200];
        snprintf(from, sizeof from, "\"%s\"", missing[i]);
        snprintf(to, sizeof to, "%s", from);
        to[strlen(to) - 2] = '_';
        edit(folder, from, to);
        CHECK(!nib_model_load(ctx, folder, NULL));
        CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
        CHECK_TEXT(nib_last_error()->tensor, missing[i]);
        CHECK_TEXT(nib_last_error()->path, folder);
    }
    static const struct {
        const char *from, *to, *tensor;
    } bent[] = {
        {"[32,16,3]", "[16,32,3]", "model.encoder.conv1.weight"},
        {"[32,32,3]", "[64,16,3]", "model.encoder.conv2.weight"},
        {"[50,32]", "[25,64]", "model.encoder.embed_positions.weight"},
        {"[28,32]", "[14,64]", "model.decoder.embed_positions.weight"},
    };
    for (size_t i = 0; i < sizeof bent / sizeof *bent; i++) {
        edit(folder, bent[i].from, bent[i].to);
        CHECK(!nib_model_load(ctx, folder, NULL));
        CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
        CHECK_TEXT(nib_last_error()->tensor, bent[i].tensor);
    }
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

TESTS(RUNS(a_field_that_is_missing_or_impossible_is_named),
      RUNS(sizes_that_contradict_the_tensors_name_the_tensor),
      RUNS(a_tensor_that_is_missing_or_misshaped_is_named))
