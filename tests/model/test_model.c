/* Loading: what config.json and the tensors may say, what stands in memory, who may share it. */
#include <errno.h>
#include <jansson.h>
#include <nibble/nn.h>
#include <pthread.h>

#include "base/mem.h"
#include "base/sys.h"
#include "golden_model.h"
#include "model/arch.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test_files.h"

static void copy(const char *from, const char *to) {
    size_t size;
    char *bytes = test_read(from, &size);
    if (!bytes) abort();
    test_write(to, bytes, size);
    free(bytes);
}

/* A copy of a golden case whose config.json is changed by a patch: {"key": value}, where a value
 * of "-" takes the key away. */
static void patched(const char *folder, const char *name, const char *patch) {
    copy(IN(GOLDEN, IN(name, "model.safetensors")), IN(folder, "model.safetensors"));
    json_t *config = json_load_file(IN(GOLDEN, IN(name, "config.json")), 0, NULL);
    json_t *changes = json_loads(patch, 0, NULL), *value;
    if (!config || !changes) abort();
    const char *key;
    json_object_foreach(changes, key, value) {
        const char *text = json_string_value(value);
        if (text && strcmp(text, "-") == 0)
            json_object_del(config, key);
        else
            json_object_set(config, key, value);
    }
    if (json_dump_file(config, IN(folder, "config.json"), 0)) abort();
    json_decref(config);
    json_decref(changes);
}

TEST(a_config_that_is_wrong_is_one_error_that_names_file_and_key) {
    static const struct {
        const char *name, *patch;
        nib_status status;
        const char *what, *tensor;
    } bad[] = {
        {"llama_gqa_bf16", "{\"model_type\":\"-\"}", NIB_E_FORMAT, "\"model_type\" is missing", ""},
        {"llama_gqa_bf16", "{\"model_type\":\"bert\"}", NIB_E_UNSUPPORTED,
         "known are llama, mistral, qwen2, qwen3, opt, bloom, gpt2", ""},
        {"llama_gqa_bf16", "{\"model_type\":7}", NIB_E_FORMAT, "\"model_type\" is not a string",
         ""},
        {"llama_gqa_bf16", "{\"hidden_size\":\"-\"}", NIB_E_FORMAT, "\"hidden_size\" is missing",
         ""},
        {"llama_gqa_bf16", "{\"vocab_size\":\"-\"}", NIB_E_FORMAT, "\"vocab_size\" is missing", ""},
        {"llama_gqa_bf16", "{\"intermediate_size\":\"-\"}", NIB_E_FORMAT,
         "\"intermediate_size\" is missing", ""},
        {"llama_gqa_bf16", "{\"num_hidden_layers\":\"-\"}", NIB_E_FORMAT,
         "\"num_hidden_layers\" is missing", ""},
        {"llama_gqa_bf16", "{\"num_attention_heads\":\"-\"}", NIB_E_FORMAT,
         "\"num_attention_heads\" is missing", ""},
        {"llama_gqa_bf16", "{\"num_attention_heads\":0}", NIB_E_FORMAT,
         "\"num_attention_heads\" is 0", ""},
        {"llama_gqa_bf16", "{\"num_key_value_heads\":0}", NIB_E_FORMAT,
         "\"num_key_value_heads\" is 0", ""},
        {"llama_gqa_bf16", "{\"num_key_value_heads\":3}", NIB_E_FORMAT, "no multiple", ""},
        {"llama_gqa_bf16", "{\"num_attention_heads\":5,\"num_key_value_heads\":5}", NIB_E_FORMAT,
         "no \"head_dim\"", ""},
        {"llama_gqa_bf16", "{\"num_attention_heads\":-4}", NIB_E_FORMAT, "is -4", ""},
        {"llama_gqa_bf16", "{\"hidden_size\":9223372036854775807}", NIB_E_FORMAT,
         "\"hidden_size\" is 9223372036854775807", ""},
        {"llama_gqa_bf16", "{\"hidden_size\":32.0}", NIB_E_FORMAT, "not an integer", ""},
        {"llama_gqa_bf16", "{\"hidden_size\":\"32\"}", NIB_E_FORMAT, "not an integer", ""},
        {"llama_gqa_bf16", "{\"head_dim\":0}", NIB_E_FORMAT, "\"head_dim\" is 0", ""},
        {"llama_gqa_bf16", "{\"head_dim\":7}", NIB_E_FORMAT, "even", ""},
        {"llama_gqa_bf16", "{\"num_hidden_layers\":2000}", NIB_E_FORMAT, "at most 1024", ""},
        {"llama_gqa_bf16", "{\"max_position_embeddings\":0}", NIB_E_FORMAT,
         "\"max_position_embeddings\" is 0", ""},
        {"llama_gqa_bf16", "{\"rms_norm_eps\":-1}", NIB_E_FORMAT, "\"rms_norm_eps\" is -1", ""},
        {"llama_gqa_bf16", "{\"rms_norm_eps\":\"small\"}", NIB_E_FORMAT, "not a number", ""},
        {"llama_gqa_bf16", "{\"tie_word_embeddings\":1}", NIB_E_FORMAT, "not true or false", ""},
        {"llama_gqa_bf16", "{\"hidden_act\":\"gelu\"}", NIB_E_UNSUPPORTED, "\"gelu\"", ""},
        {"llama_gqa_bf16", "{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}",
         NIB_E_UNSUPPORTED, "\"yarn\" is not known; known are default, linear, dynamic and llama3",
         ""},
        {"llama_gqa_bf16", "{\"rope_scaling\":{\"type\":\"linear\"}}", NIB_E_FORMAT,
         "\"factor\" is missing", ""},
        {"llama_gqa_bf16", "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", NIB_E_FORMAT,
         "positive", ""},
        {"llama_gqa_bf16", "{\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":0.5}}", NIB_E_FORMAT,
         "at least 1", ""},
        {"llama_gqa_bf16",
         "{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_"
         "factor\":4}}",
         NIB_E_FORMAT, "not over", ""},
        {"llama_gqa_bf16", "{\"rope_scaling\":[1]}", NIB_E_FORMAT, "not an object", ""},
        {"llama_gqa_bf16", "{\"rope_parameters\":{\"rope_theta\":-5}}", NIB_E_FORMAT,
         "\"rope_theta\" is -5", ""},
        {"llama_gqa_bf16", "{\"partial_rotary_factor\":0.5}", NIB_E_UNSUPPORTED,
         "partial_rotary_factor", ""},
        {"llama_gqa_bf16", "{\"eos_token_id\":64}", NIB_E_FORMAT,
         "\"eos_token_id\" is 64, the vocabulary has 64", ""},
        {"llama_gqa_bf16", "{\"eos_token_id\":[2,\"x\"]}", NIB_E_FORMAT, "eos_token_id", ""},
        {"llama_gqa_bf16", "{\"bos_token_id\":-7}", NIB_E_FORMAT, "bos_token_id", ""},
        {"mistral_window", "{\"sliding_window\":0}", NIB_E_FORMAT, "\"sliding_window\" is 0", ""},
        {"qwen2_layer_types", "{\"layer_types\":[\"full_attention\"]}", NIB_E_FORMAT,
         "1 entries for 2 layers", ""},
        {"qwen2_layer_types", "{\"layer_types\":[\"full_attention\",\"chunked\"]}",
         NIB_E_UNSUPPORTED, "\"chunked\" at 1", ""},
        {"qwen2_layer_types", "{\"use_sliding_window\":false}", NIB_E_FORMAT,
         "\"use_sliding_window\" is false", ""},
        /* contradicting the tensors */
        {"llama_gqa_bf16", "{\"vocab_size\":65}", NIB_E_FORMAT,
         "is [64, 32] but config.json asks for [65, 32]", "model.embed_tokens.weight"},
        {"llama_gqa_bf16", "{\"hidden_size\":64}", NIB_E_FORMAT, "asks for [64, 64]",
         "model.embed_tokens.weight"},
        {"llama_gqa_bf16", "{\"intermediate_size\":41}", NIB_E_FORMAT, "is [40, 32]",
         "model.layers.0.mlp.gate_proj.weight"},
        {"llama_gqa_bf16", "{\"num_key_value_heads\":4}", NIB_E_FORMAT, "is [16, 32]",
         "model.layers.0.self_attn.k_proj.weight"},
        {"llama_gqa_bf16", "{\"head_dim\":16}", NIB_E_FORMAT, "asks for [64, 32]",
         "model.layers.0.self_attn.q_proj.weight"},
        {"llama_gqa_bf16", "{\"num_hidden_layers\":3}", NIB_E_FORMAT, "there is no tensor",
         "model.layers.2.self_attn.q_proj.weight"},
        {"llama_gqa_bf16", "{\"num_hidden_layers\":1}", NIB_E_FORMAT, "\"num_hidden_layers\" is 1",
         "model.layers.1.input_layernorm.weight"},
        {"llama_gqa_bf16", "{\"attention_bias\":true}", NIB_E_FORMAT, "there is no tensor",
         "model.layers.0.self_attn.q_proj.bias"},
        {"llama_attention_bias", "{\"attention_bias\":false}", NIB_E_FORMAT, "no such bias",
         "model.layers.0.self_attn.q_proj.bias"},
        {"llama_tied_as_embed", "{\"tie_word_embeddings\":false}", NIB_E_FORMAT,
         "\"tie_word_embeddings\" is not true", "lm_head.weight"},
        {"opt_norm_before", "{\"ffn_dim\":\"-\"}", NIB_E_FORMAT, "\"ffn_dim\" is missing", ""},
        {"opt_norm_before", "{\"hidden_size\":30}", NIB_E_FORMAT,
         "\"hidden_size\" is 30, no multiple of \"num_attention_heads\", 4", ""},
        {"opt_norm_before", "{\"num_hidden_layers\":2000}", NIB_E_FORMAT, "at most 1024", ""},
        {"opt_norm_before", "{\"hidden_size\":4100}", NIB_E_FORMAT, "heads of 1025 columns", ""},
        {"opt_norm_before", "{\"word_embed_proj_dim\":0}", NIB_E_FORMAT,
         "\"word_embed_proj_dim\" is 0", ""},
        {"opt_norm_before", "{\"activation_function\":\"quick_gelu\"}", NIB_E_UNSUPPORTED,
         "\"activation_function\" is \"quick_gelu\"; known are relu, gelu", ""},
        {"opt_norm_before", "{\"do_layer_norm_before\":1}", NIB_E_FORMAT, "not true or false", ""},
        {"opt_norm_before", "{\"bos_token_id\":64}", NIB_E_FORMAT,
         "\"bos_token_id\" is 64, the vocabulary has 64", ""},
        {"opt_norm_before", "{\"max_position_embeddings\":64}", NIB_E_FORMAT,
         "is [130, 32] but config.json asks for [66, 32]", "model.decoder.embed_positions.weight"},
        {"opt_norm_before", "{\"num_hidden_layers\":1}", NIB_E_FORMAT, "\"num_hidden_layers\" is 1",
         "model.decoder.layers.1.fc1.weight"},
        {"opt_norm_before", "{\"enable_bias\":false}", NIB_E_FORMAT, "no such bias",
         "model.decoder.layers.0.self_attn.k_proj.bias"},
        {"opt_norm_before", "{\"layer_norm_elementwise_affine\":false}", NIB_E_FORMAT,
         "no such weight", "model.decoder.final_layer_norm.weight"},
        {"opt_norm_before", "{\"word_embed_proj_dim\":20}", NIB_E_FORMAT,
         "is [64, 32] but config.json asks for [64, 20]", "model.decoder.embed_tokens.weight"},
        {"opt_norm_after_projected", "{\"do_layer_norm_before\":true}", NIB_E_FORMAT,
         "there is no tensor", "model.decoder.final_layer_norm.weight"},
        {"opt_trunk_names", "{\"num_hidden_layers\":3}", NIB_E_FORMAT, "there is no tensor",
         "decoder.layers.2.self_attn.k_proj.bias"},
        {"gpt2_inner", "{\"n_embd\":\"-\"}", NIB_E_FORMAT, "\"n_embd\" is missing", ""},
        {"gpt2_inner", "{\"n_head\":3}", NIB_E_FORMAT,
         "\"n_embd\" is 32, no multiple of \"n_head\", 3", ""},
        {"gpt2_inner", "{\"n_inner\":0}", NIB_E_FORMAT, "\"n_inner\" is 0", ""},
        {"gpt2_inner", "{\"layer_norm_epsilon\":2}", NIB_E_FORMAT,
         "\"layer_norm_epsilon\" is 2, which is not from 0 to 1", ""},
        {"gpt2_inner", "{\"activation_function\":\"mish\"}", NIB_E_UNSUPPORTED, "\"mish\"", ""},
        {"gpt2_inner", "{\"add_cross_attention\":true}", NIB_E_UNSUPPORTED,
         "\"add_cross_attention\" is true", ""},
        {"gpt2_inner", "{\"scale_attn_weights\":\"yes\"}", NIB_E_FORMAT, "not true or false", ""},
        {"gpt2_inner", "{\"n_positions\":64}", NIB_E_FORMAT,
         "is [320, 32] but config.json asks for [64, 32]", "transformer.wpe.weight"},
        {"gpt2_inner", "{\"n_inner\":null}", NIB_E_FORMAT,
         "transformer.h.0.mlp.c_fc.bias is [48] but config.json asks for [128]",
         "transformer.h.0.mlp.c_fc.bias"},
        {"gpt2_inner", "{\"n_layer\":1}", NIB_E_FORMAT, "\"num_hidden_layers\" is 1",
         "transformer.h.1.ln_1.weight"},
        {"gpt2_trunk_names", "{\"n_layer\":3}", NIB_E_FORMAT, "there is no tensor",
         "h.2.ln_1.weight"},
        {"gpt2_inner", "{\"tie_word_embeddings\":false}", NIB_E_FORMAT,
         "\"tie_word_embeddings\" is not true", "lm_head.weight"},
        {"bloom_trunk_names", "{\"hidden_size\":\"-\"}", NIB_E_FORMAT, "\"n_embed\" is missing",
         ""},
        {"bloom_trunk_names", "{\"n_head\":5}", NIB_E_FORMAT,
         "\"hidden_size\" is 32, no multiple of \"n_head\", 5", ""},
        {"bloom_trunk_names", "{\"n_layer\":0}", NIB_E_FORMAT, "\"n_layer\" is 0", ""},
        {"bloom_trunk_names", "{\"apply_residual_connection_post_layernorm\":0}", NIB_E_FORMAT,
         "not true or false", ""},
        {"bloom_trunk_names", "{\"vocab_size\":63}", NIB_E_FORMAT,
         "is [64, 32] but config.json asks for [63, 32]", "word_embeddings.weight"},
        {"bloom_trunk_names", "{\"n_layer\":1}", NIB_E_FORMAT, "\"num_hidden_layers\" is 1",
         "h.1.input_layernorm.weight"},
        {"bloom_six_heads", "{\"n_layer\":3}", NIB_E_FORMAT, "there is no tensor",
         "transformer.h.2.input_layernorm.weight"},
        {"llama_gqa_bf16", "{\"model_type\":\"qwen3\",\"head_dim\":8}", NIB_E_FORMAT,
         "there is no tensor", "model.layers.0.self_attn.q_norm.weight"},
    };
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(folder);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        patched(folder, bad[i].name, bad[i].patch);
        char *before = test_picture(folder);
        nib_model *model = nib_model_load(ctx, folder, NULL);
        const nib_error *e = nib_last_error();
        if (model) FAIL_AT("%s loads", bad[i].patch);
        if (e->status != bad[i].status || !strstr(e->what, bad[i].what))
            FAIL_AT("%s: status %d \"%s\", want %d \"%s\"", bad[i].patch, e->status, e->what,
                    bad[i].status, bad[i].what);
        CHECK_TEXT(e->tensor, bad[i].tensor);
        CHECK(strncmp(e->path, folder, strlen(folder)) == 0);
        if (!*bad[i].tensor) CHECK_TEXT(e->path, IN(folder, "config.json"));
        char *after = test_picture(folder);
        CHECK_TEXT(after, before);
        free(before);
        free(after);
    }
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

TEST(files_that_are_missing_or_damaged_are_named) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(folder);
    CHECK(!nib_model_load(ctx, IN(folder, "nowhere"), NULL));
    CHECK_INT(nib_last_error()->status, NIB_E_IO);
    CHECK(!nib_model_load(ctx, folder, NULL));
    CHECK_TEXT(nib_last_error()->path, IN(folder, "config.json"));
    patched(folder, "llama_gqa_bf16", "{}");
    unlink(IN(folder, "model.safetensors"));
    CHECK(!nib_model_load(ctx, folder, NULL));
    CHECK(strstr(nib_last_error()->path, folder));
    patched(folder, "llama_gqa_bf16", "{}");
    test_write(IN(folder, "config.json"), "{\"model_type\": \"llama\"", 22);
    CHECK(!nib_model_load(ctx, folder, NULL));
    CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
    CHECK_TEXT(nib_last_error()->path, IN(folder, "config.json"));
    test_write(IN(folder, "config.json"), "[]", 2);
    CHECK(!nib_model_load(ctx, folder, NULL));
    CHECK(strstr(nib_last_error()->what, "not an object"));
    patched(folder, "llama_gqa_bf16", "{}");
    test_write(IN(folder, "generation_config.json"), "{\"eos_token_id\":[1,99]}", 23);
    CHECK(!nib_model_load(ctx, folder, NULL));
    CHECK_TEXT(nib_last_error()->path, IN(folder, "generation_config.json"));
    CHECK(strstr(nib_last_error()->what, "is 99"));
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

/* Whatever fails is the reason told, also where the folder would have been refused anyway. */
TEST(loading_survives_any_failing_call_or_allocation) {
    TEST_FOLDER(folder);
    char paths[3][256];
    snprintf(paths[0], sizeof paths[0], "%s", IN(folder, "m"));
    snprintf(paths[1], sizeof paths[1], "%s", IN(folder, "nowhere"));
    snprintf(paths[2], sizeof paths[2], "%s", folder);
    static const nib_status ends[] = {NIB_OK, NIB_E_IO, NIB_E_FORMAT};
    mkdir(paths[0], 0700);
    static const char *const cases[] = {"llama_gqa_bf16", "opt_norm_after_projected", "gpt2_inner",
                                        "bloom_trunk_names"};
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    const size_t used = nib_mem_used(&ctx->mem);
    for (int c = 0; c < 6; c++) {
        const int i = c < 4 ? 0 : c - 3; /* each case loads, other paths fail */
        if (i == 0) patched(paths[0], cases[c], "{}");
        for (int memory = 0; memory < 2; memory++)
            for (long n = 0;; n++) {
                if (memory)
                    nib_mem_fail_after(n, false);
                else
                    nib_sys_fail_after(n, EIO);
                nib_model *model = nib_model_load(ctx, paths[i], NULL);
                const long made =
                    memory ? nib_mem_fail_after(-1, false) : nib_sys_fail_after(-1, 0);
                const nib_status status = model ? NIB_OK : nib_last_error()->status;
                nib_model_free(model);
                CHECK_INT(nib_mem_used(&ctx->mem), used);
                const bool did_fail = made > n;
                if (did_fail && model) continue; /* what can be done without */
                CHECK_INT(status, !did_fail ? ends[i] : memory ? NIB_E_MEMORY : NIB_E_IO);
                if (!did_fail) break;
            }
    }
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TEST(ends_come_from_either_config_as_one_id_or_a_list) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(folder);
    static const struct {
        const char *patch, *generation;
        int n, eos[3];
    } cases[] = {
        {"{}", NULL, 1, {2}},
        {"{\"eos_token_id\":[4,5]}", NULL, 2, {4, 5}},
        {"{\"eos_token_id\":null}", NULL, 0, {0}},
        {"{\"eos_token_id\":\"-\"}", NULL, 0, {0}},
        {"{}", "{}", 1, {2}},
        {"{}", "{\"eos_token_id\":[7,8,9]}", 3, {7, 8, 9}},
        {"{\"eos_token_id\":[4,5]}", "{\"eos_token_id\":6}", 1, {6}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        patched(folder, "llama_gqa_bf16", cases[i].patch);
        unlink(IN(folder, "generation_config.json"));
        if (cases[i].generation)
            test_write(IN(folder, "generation_config.json"), cases[i].generation,
                       strlen(cases[i].generation));
        nib_model *model = nib_model_load(ctx, folder, NULL);
        CHECK_MADE(model);
        CHECK_INT(model->hparams.neos, cases[i].n);
        for (int k = 0; k < cases[i].n; k++) CHECK_INT(model->hparams.eos[k], cases[i].eos[k]);
        nib_model_free(model);
    }
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

/* The projections of GPT-2 lie across in its files: those are copied. */
static nib_status count_copied(void *user, const char *dotted, nib_module *owner, const char *name,
                               nib_tensor *t) {
    (void)owner;
    (void)name;
    if (!t->part[0]->lent && !(strstr(dotted, ".c_") && t->shape.ndim == 2)) ++*(int *)user;
    return NIB_OK;
}

TEST(a_loaded_model_stands_in_memory_once_where_the_file_is_mapped) {
    for (int i = 0; i < GOLDEN_CASES; i++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
        nib_model *model = nib_model_load(ctx, IN(GOLDEN, golden_cases[i]), NULL);
        CHECK_MADE(model);
        const size_t resident = nib_model_resident_bytes(model);
        /* the second copy of a table is let go; masks are no weights */
        const bool more = strcmp(golden_cases[i], "llama_tied_as_both") == 0 ||
                          strcmp(golden_cases[i], "gpt2_trunk_names") == 0;
        if (!more)
            CHECK_INT(resident, model->file_bytes);
        else
            CHECK(resident < model->file_bytes);
        int copied = 0; /* they are views of the map */
        CHECK_OK(nib_module_walk_parameters(model->root, count_copied, &copied));
        CHECK_INT(copied, 0);
        nib_model_free(model);
        nib_ctx_free(ctx);
    }
}

/* Each storage once: prepared weights are allocated, all others are views of the map. */
static nib_status add_mapped(void *user, const char *dotted, nib_module *owner, const char *name,
                             nib_tensor *t) {
    (void)dotted;
    (void)owner;
    if (t->part[0]->mapped && strcmp(name, "weight") == 0) *(size_t *)user += nib_tensor_bytes(t);
    return NIB_OK;
}

/* Bytes that stand in memory for a model that runs, over those of its file: mapped weights and all
 * that the library allocated for model and session, less the cache of the first 64 tokens. The
 * head of this model is its table, so it counts once. */
static double resident_share(void **state_, const char *folder) {
    enum { LAYERS = 5, KV_HEADS = 4, HEAD = 32, STEP = 64 };
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    const size_t before = nib_mem_used(&ctx->mem);
    nib_model *model = nib_model_load(ctx, folder, NULL);
    CHECK_MADE(model);
    nib_session *s = nib_session_new(ctx, model, &(nib_session_options){.max_tokens = 16});
    CHECK_OK(nib_session_feed(s, (int32_t[]){0, 296, 259}, 3));
    int32_t id;
    for (int i = 0; i < 5; i++) CHECK_OK(nib_session_next(s, &id));
    CHECK(ctx->workspace_size <= (size_t)2 << 20); /* of 2 threads, whatever the model's size */
    const size_t own = nib_mem_used(&ctx->mem) - ctx->workspace_size - before;
    const size_t cache = LAYERS * 2 * KV_HEADS * STEP * HEAD * sizeof(float);
    size_t mapped = 0, tied = 0;
    CHECK_OK(nib_module_walk_parameters(model->root, add_mapped, &mapped));
    const nib_tensor *head =
        nib_module_parameter(nib_module_child(model->root, "lm_head"), "weight");
    if (head == nib_module_parameter(nib_module_child(model->root, "model.embed_tokens"), "weight"))
        tied = head->part[0]->mapped ? nib_tensor_bytes(head) : 0;
    const size_t resident = mapped - tied + own - cache;
    const double share = (double)resident / (double)model->file_bytes;
    print_message("file %zu bytes, mapped %zu, own %zu, of them cache %zu: %.3f\n",
                  model->file_bytes, mapped - tied, own, cache, share);
    nib_session_free(s);
    nib_model_free(model);
    nib_ctx_free(ctx);
    return share;
}

TEST(running_a_float_or_quantized_model_adds_no_copy_of_the_weights) {
    CHECK(resident_share(state_, "models/kjv-llama") <= 1.1);
    static const char *const schemes[] = {"int8_weight_only", "int4_weight_only:group_size=32",
                                          "qint4"};
    TEST_FOLDER(folder);
    for (size_t i = 0; i < 3; i++) {
        nib_config *config = nib_config_parse(schemes[i]);
        if (!config) continue; /* a build without this scheme */
        nib_ctx *ctx = nib_ctx_new(NULL);
        CHECK_OK(nib_quantize_file(ctx, "models/kjv-llama", IN(folder, "out"),
                                   &(nib_rule){"*", config}, 1, NULL,
                                   &(nib_file_options){.overwrite = true}));
        nib_ctx_free(ctx);
        nib_config_free(config);
        CHECK(resident_share(state_, IN(folder, "out")) <= 1.1);
    }
    test_folder_remove(folder);
}

TEST(weights_may_be_read_instead_of_mapped_and_widened) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    float want[64], got[64];
    static const nib_load_options how[] = {{0}, {.no_mmap = true}, {.dtype = NIB_F32}};
    for (size_t i = 0; i < 3; i++) {
        nib_model *model = nib_model_load(ctx, GOLDEN "qwen3_qk_norm", &how[i]);
        nib_session *s = nib_session_new(ctx, model, NULL);
        CHECK_OK(nib_session_feed(s, (int32_t[]){9, 8, 7}, 3));
        memcpy(i ? got : want, nib_session_logits(s, NULL), sizeof want);
        if (i) CHECK_BYTES(got, want, sizeof want); /* widening is exact */
        nib_session_free(s);
        nib_model_free(model);
    }
    CHECK(!nib_model_load(ctx, GOLDEN "qwen3_qk_norm", &(nib_load_options){.dtype = NIB_I8}));
    CHECK_INT(nib_last_error()->status, NIB_E_DTYPE);
    nib_ctx_free(ctx);
}

typedef struct user {
    const nib_model *model;
    int32_t first;
    float logits[64];
    nib_status status;
} user;

static void *talk(void *given) {
    user *u = given;
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    nib_session *s = nib_session_new(ctx, u->model, &(nib_session_options){.ignore_eos = true});
    int32_t id = u->first;
    u->status = nib_session_feed(s, &id, 1);
    for (int i = 0; i < 20 && u->status == NIB_OK; i++) u->status = nib_session_next(s, &id);
    if (u->status == NIB_OK) memcpy(u->logits, nib_session_logits(s, NULL), sizeof u->logits);
    nib_session_free(s);
    nib_ctx_free(ctx);
    return NULL;
}

TEST(contexts_on_several_threads_share_one_model) {
    enum { USERS = 4 };
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, GOLDEN "qwen3_qk_norm", NULL);
    CHECK_MADE(model);
    user users[USERS], alone[USERS];
    pthread_t threads[USERS];
    for (int i = 0; i < USERS; i++) {
        users[i] = alone[i] = (user){.model = model, .first = 3 + i};
        CHECK_INT(pthread_create(&threads[i], NULL, talk, &users[i]), 0);
    }
    for (int i = 0; i < USERS; i++) CHECK_INT(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < USERS; i++) {
        talk(&alone[i]);
        CHECK_INT(users[i].status, NIB_OK);
        CHECK_BYTES(users[i].logits, alone[i].logits, sizeof alone[i].logits);
    }
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(stories260K_reproduces_its_reference) {
    char path[512], folder[512];
    if (!test_model("stories260K/reference.json", path)) return;
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
    json_t *reference = json_load_file(path, 0, NULL);
    CHECK(reference);
    const json_t *prompt = json_object_get(reference, "prompt_ids");
    const json_t *greedy = json_object_get(reference, "greedy_ids");
    const json_t *top = json_object_get(reference, "last_logits_top8");
    const size_t nprompt = json_array_size(prompt), ngreedy = json_array_size(greedy);
    CHECK(nprompt && ngreedy > nprompt && json_array_size(top) == 8);
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, folder, NULL);
    nib_session *s = nib_session_new(ctx, model, NULL);
    CHECK_MADE(s);
    for (size_t i = 0; i < nprompt; i++) {
        const int32_t id = (int32_t)json_integer_value(json_array_get(prompt, i));
        CHECK_OK(nib_session_feed(s, &id, 1));
    }
    const float *logits = nib_session_logits(s, NULL);
    for (size_t i = 0; i < 8; i++) {
        const json_t *pair = json_array_get(top, i);
        const double want = json_real_value(json_array_get(pair, 1));
        CHECK_NEAR(logits[json_integer_value(json_array_get(pair, 0))], want, 1e-4 * 17.8);
    }
    for (size_t i = nprompt; i < ngreedy; i++) { /* the list begins with the prompt */
        int32_t id;
        CHECK_INT(nib_session_next(s, &id), NIB_OK);
        CHECK_INT(id, json_integer_value(json_array_get(greedy, i)));
    }
    nib_session_free(s);
    nib_model_free(model);
    nib_ctx_free(ctx);
    json_decref(reference);
}

TESTS(RUNS(a_config_that_is_wrong_is_one_error_that_names_file_and_key),
      RUNS(files_that_are_missing_or_damaged_are_named),
      RUNS(loading_survives_any_failing_call_or_allocation),
      RUNS(ends_come_from_either_config_as_one_id_or_a_list),
      RUNS(a_loaded_model_stands_in_memory_once_where_the_file_is_mapped),
      RUNS(running_a_float_or_quantized_model_adds_no_copy_of_the_weights),
      RUNS(weights_may_be_read_instead_of_mapped_and_widened),
      RUNS(contexts_on_several_threads_share_one_model), RUNS(stories260K_reproduces_its_reference))
