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

#define CALL(name, behaves)                                                                        \
    static bool try_##name(nib_ctx *ctx) {                                                         \
        (void)ctx;                                                                                 \
        return behaves;                                                                            \
    }
#define FREES(name, expression) CALL(name, ((expression), true))

static const nib_shape shape = {1, {4}};
static nib_codes no_codes;
static nib_part parts[NIB_MAX_PARTS];

/* nibble.h */
CALL(nib_last_error, nib_last_error() != NULL)
static bool try_nib_ctx_new(nib_ctx *ctx) {
    nib_ctx *made = nib_ctx_new(NULL); /* NULL: all defaults */
    nib_ctx_free(made);
    return made && ctx;
}
FREES(nib_ctx_free, nib_ctx_free(NULL))
CALL(nib_ctx_threads, nib_ctx_threads(NULL) == 0)
CALL(nib_dtype_name, strcmp(nib_dtype_name((nib_dtype)0), "?") == 0)
CALL(nib_tensor_new, !nib_tensor_new(NULL, NIB_F32, shape))
CALL(nib_tensor_wrap, !nib_tensor_wrap(NULL, NIB_F32, shape, NULL, NULL, NULL) &&
                          !nib_tensor_wrap(ctx, NIB_F32, shape, NULL, NULL, NULL))
FREES(nib_tensor_free, nib_tensor_free(NULL))
FREES(nib_tensor_dtype, nib_tensor_dtype(NULL))
CALL(nib_tensor_shape, nib_tensor_shape(NULL).ndim == 0)
FREES(nib_tensor_layout, nib_tensor_layout(NULL))
CALL(nib_tensor_read,
     nib_tensor_read(NULL, NULL, 4) < NIB_OK && nib_tensor_read(NIB_NONE, NULL, 0) < NIB_OK)
CALL(nib_linear, !nib_linear(NULL, NULL, NULL) && !nib_linear(NIB_NONE, NIB_NONE, NIB_NONE))
CALL(nib_dequantize, !nib_dequantize(NULL) && !nib_dequantize(NIB_NONE))
CALL(nib_keep, !nib_keep(NULL))
FREES(nib_scope_begin, nib_scope_begin(NULL))
FREES(nib_scope_end, nib_scope_end(NULL, 0))
CALL(nib_quantize, nib_quantize(NULL, NULL, NULL) < NIB_OK)
CALL(nib_quantize_rules, nib_quantize_rules(NULL, NULL, 0, NULL) < NIB_OK)
CALL(nib_quantize_inputs,
     nib_quantize_inputs(NULL, NULL) < NIB_OK && nib_quantize_inputs(NULL, "int8") < NIB_OK)
CALL(nib_inputs_name, !nib_inputs_name(NULL))
CALL(nib_calibrate_begin, nib_calibrate_begin(NULL, NULL, NULL) < NIB_OK)
CALL(nib_calibrate_end, nib_calibrate_end(NULL, NULL) < NIB_OK)
CALL(nib_freeze, nib_freeze(NULL) < NIB_OK)
CALL(nib_quantize_tensor, !nib_quantize_tensor(NULL, NULL) && !nib_quantize_tensor(NIB_NONE, NULL))
CALL(nib_quantize_file,
     nib_quantize_file(NULL, NULL, NULL, NULL, 0, NULL, NULL) < NIB_OK &&
         nib_quantize_file(ctx, NULL, NULL, NULL, 0, NULL, NULL) < NIB_OK &&
         nib_quantize_file(ctx, "models/kjv-llama", NULL, NULL, 1, NULL, NULL) < NIB_OK)
CALL(nib_verify_file, nib_verify_file(NULL, NULL, NULL, NULL) < NIB_OK &&
                          nib_verify_file(ctx, NULL, NULL, NULL) < NIB_OK &&
                          nib_verify_file(ctx, "models/kjv-llama", NULL, NULL) < NIB_OK)
CALL(nib_config_parse, !nib_config_parse(NULL))
FREES(nib_config_free, nib_config_free(NULL))
CALL(nib_model_load, !nib_model_load(NULL, NULL, NULL) && !nib_model_load(ctx, NULL, NULL))
CALL(nib_model_save, nib_model_save(NULL, NULL, NULL) < NIB_OK)
FREES(nib_model_free, nib_model_free(NULL))
CALL(nib_model_root, !nib_model_root(NULL))
CALL(nib_model_smooth, nib_model_smooth(NULL, NULL, NULL, 0.5, NULL) < NIB_OK &&
                           nib_model_smooth(ctx, NULL, NULL, 0.5, NULL) < NIB_OK)
CALL(nib_model_compare, nib_model_compare(NULL, NULL, NULL, NULL, NULL) < NIB_OK &&
                            nib_model_compare(ctx, NULL, NULL, NULL, NULL) < NIB_OK)
CALL(nib_module_walk_saved, nib_module_walk_saved(NULL, NULL, NULL) < NIB_OK)
CALL(nib_quantization_map, !nib_quantization_map(NULL))
CALL(nib_requantize, nib_requantize(NULL, NULL, 0, NULL, NULL) < NIB_OK)
CALL(nib_requantize_file, nib_requantize_file(NULL, NULL, NULL) < NIB_OK)
CALL(nib_model_sense,
     nib_model_sense(NULL, NULL, NULL) < NIB_OK && nib_model_sense(ctx, NULL, NULL) < NIB_OK)
CALL(nib_model_freeze,
     nib_model_freeze(NULL, NULL, NULL) < NIB_OK && nib_model_freeze(ctx, NULL, NULL) < NIB_OK)
CALL(nib_model_feed,
     nib_model_feed(NULL, NULL, NULL) < NIB_OK && nib_model_feed(ctx, NULL, NULL) < NIB_OK)
CALL(nib_session_new, !nib_session_new(NULL, NULL, NULL) && !nib_session_new(ctx, NULL, NULL))
CALL(nib_session_feed, nib_session_feed(NULL, NULL, 1) < NIB_OK)
CALL(nib_session_next, nib_session_next(NULL, NULL) < NIB_OK)
CALL(nib_sessions_step, nib_sessions_step(NULL, 1, NULL) < NIB_OK)
CALL(nib_session_logits, !nib_session_logits(NULL, NULL))
FREES(nib_session_free, nib_session_free(NULL))
CALL(nib_eval_file, nib_eval_file(NULL, NULL, NULL, NULL, NULL) < NIB_OK &&
                        nib_eval_file(ctx, NULL, NULL, NULL, NULL) < NIB_OK)
CALL(nib_profile_begin, nib_profile_begin(NULL) < NIB_OK)
CALL(nib_profile_end,
     nib_profile_end(NULL, NULL, NULL) < NIB_OK && nib_profile_end(ctx, NULL, NULL) < NIB_OK)
CALL(nib_limits_new, !nib_limits_new(NULL))
FREES(nib_limits_free, nib_limits_free(NULL))
static bool try_nib_limits_measure(nib_ctx *ctx) {
    const double none = nib_limits_measure(NULL, ctx, NIB_LIMIT_F32);
    const double neither = nib_limits_measure(NULL, NULL, NIB_LIMIT_READ_1);
    return none != none && neither != neither;
}
CALL(nib_list, !nib_list(NULL, 0, NULL) && nib_list("scheme", 0, NULL))
CALL(nib_version, nib_version() != NULL)

/* io.h */
CALL(nib_reader_open, !nib_reader_open(NULL, NULL) && !nib_reader_open(ctx, NULL))
FREES(nib_reader_free, nib_reader_free(NULL))
CALL(nib_reader_count, nib_reader_count(NULL) == 0)
CALL(nib_reader_metadata, !nib_reader_metadata(NULL, NULL))
CALL(nib_reader_next, nib_reader_next(NULL, NULL, NULL) < NIB_OK)
FREES(nib_reader_rewind, nib_reader_rewind(NULL))
CALL(nib_reader_next_weight, nib_reader_next_weight(NULL, NULL) < NIB_OK)
CALL(nib_reader_format, !nib_reader_format(NULL))
CALL(nib_reader_config, !nib_reader_config(NULL))
CALL(nib_reader_load, !nib_reader_load(NULL, NULL))
CALL(nib_writer_open, !nib_writer_open(NULL, NULL, NULL, 0, NULL, 0) &&
                          !nib_writer_open(ctx, NULL, NULL, 1, NULL, 1))
CALL(nib_writer_put, nib_writer_put(NULL, NULL, 0, NULL) < NIB_OK)
CALL(nib_writer_finish, nib_writer_finish(NULL) < NIB_OK)
FREES(nib_writer_cancel, nib_writer_cancel(NULL))
CALL(nib_writer_predict, nib_writer_predict(NULL, NULL, 1, NULL, 1, NULL) < NIB_OK &&
                             nib_writer_predict(ctx, NULL, 1, NULL, 1, NULL) < NIB_OK)
CALL(nib_npy_load, !nib_npy_load(NULL, NULL) && !nib_npy_load(ctx, NULL))
CALL(nib_audio_load, !nib_audio_load(NULL, NULL, 0) && !nib_audio_load(ctx, NULL, 0))
CALL(nib_log_mel, !nib_log_mel(NULL, 80, 0) && !nib_log_mel(NIB_NONE, 80, 0))
CALL(nib_transcribe, nib_transcribe(NULL, NULL, NULL, NULL, NULL) < NIB_OK &&
                         nib_transcribe(ctx, NULL, NULL, NULL, NULL) < NIB_OK)
CALL(nib_npy_save, nib_npy_save(NULL, NULL) < NIB_OK && nib_npy_save(NIB_NONE, NULL) < NIB_OK)
CALL(nib_idx_load, !nib_idx_load(NULL, NULL) && !nib_idx_load(ctx, NULL))
FREES(nib_ids_free, nib_ids_free(NULL))
FREES(nib_string_free, nib_string_free(NULL))
CALL(nib_tokenizer_load, !nib_tokenizer_load(NULL, NULL) && !nib_tokenizer_load(ctx, NULL))
CALL(nib_tokenizer_parse,
     !nib_tokenizer_parse(NULL, NULL, 1, NULL) && !nib_tokenizer_parse(ctx, NULL, 1, NULL))
FREES(nib_tokenizer_free, nib_tokenizer_free(NULL))
CALL(nib_tokenizer_encode, nib_tokenizer_encode(NULL, NULL, 1, false, NULL) < NIB_OK)
CALL(nib_tokenizer_decode, nib_tokenizer_decode(NULL, NULL, 1, false, NULL) < NIB_OK)
CALL(nib_tokenizer_size, nib_tokenizer_size(NULL) == 0)
CALL(nib_tokenizer_id, nib_tokenizer_id(NULL, NULL, 1) == -1)
CALL(nib_tokenizer_piece, !nib_tokenizer_piece(NULL, 0, NULL))
CALL(nib_tokenizer_special, nib_tokenizer_special(NULL, NULL) == -1)
CALL(nib_detokenizer_new, !nib_detokenizer_new(NULL, false))
CALL(nib_detokenizer_next, nib_detokenizer_next(NULL, 0, NULL) < NIB_OK)
CALL(nib_detokenizer_end, nib_detokenizer_end(NULL, NULL) < NIB_OK)
FREES(nib_detokenizer_free, nib_detokenizer_free(NULL))

/* nn.h */
CALL(nib_module_new, !nib_module_new(NULL, NULL, NULL) && !nib_module_new(ctx, NULL, NULL))
FREES(nib_module_free, nib_module_free(NULL))
CALL(nib_module_add, nib_module_add(NULL, NULL, NULL) < NIB_OK)
CALL(nib_module_set, nib_module_set(NULL, NULL, NULL) < NIB_OK)
CALL(nib_module_forward, !nib_module_forward(NULL, NULL))
CALL(nib_module_self, !nib_module_self(NULL))
CALL(nib_module_kind_of, !nib_module_kind_of(NULL))
CALL(nib_module_ctx, !nib_module_ctx(NULL))
CALL(nib_module_parameter, !nib_module_parameter(NULL, NULL))
CALL(nib_module_child, !nib_module_child(NULL, NULL))
CALL(nib_module_walk, nib_module_walk(NULL, NULL, NULL) < NIB_OK)
CALL(nib_module_walk_parameters, nib_module_walk_parameters(NULL, NULL, NULL) < NIB_OK)
CALL(nib_module_share, !nib_module_share(NULL))
CALL(nib_module_append, nib_module_append(NULL, NULL) < NIB_OK)
CALL(nib_module_set_buffer, nib_module_set_buffer(NULL, NULL, NULL) < NIB_OK)
CALL(nib_module_replace, nib_module_replace(NULL, NULL, NULL) < NIB_OK)
CALL(nib_module_forward_many,
     !nib_module_forward_many(NULL, NULL, 1) && !nib_module_forward_many(NULL, NULL, 0))
CALL(nib_module_buffer, !nib_module_buffer(NULL, NULL))
CALL(nib_module_children, nib_module_children(NULL) == 0)
CALL(nib_module_child_at, !nib_module_child_at(NULL, 0, NULL))
FREES(nib_module_train, nib_module_train(NULL, true))
CALL(nib_module_is_training, !nib_module_is_training(NULL))
CALL(nib_module_walk_state, nib_module_walk_state(NULL, NULL, NULL) < NIB_OK)
CALL(nib_module_load_state, nib_module_load_state(NULL, NULL, 1, NULL) < NIB_OK)
CALL(nib_module_load, nib_module_load(NULL, NULL, NULL) < NIB_OK)
CALL(nib_module_save, nib_module_save(NULL, NULL) < NIB_OK)
CALL(nib_module_to_dtype, nib_module_to_dtype(NULL, NIB_F16) < NIB_OK)
CALL(nib_module_to_device, nib_module_to_device(NULL, NULL) < NIB_OK)
CALL(nib_time_begin, nib_time_begin(NULL) < NIB_OK)
CALL(nib_time_end,
     nib_time_end(NULL, NULL, NULL, NULL) < NIB_OK && nib_time_end(ctx, NULL, NULL, NULL) < NIB_OK)
CALL(nib_sequential_new, !nib_sequential_new(NULL))
CALL(nib_sequential_of, !nib_sequential_of(NULL, NULL, 1) && !nib_sequential_of(ctx, NULL, 1))
CALL(nib_prepare, nib_prepare(NULL) < NIB_OK)
CALL(nib_module_print, !nib_module_print(NULL))
FREES(nib_text_release, nib_text_release(NULL))
CALL(nib_linear_new, !nib_linear_new(NULL, NULL, NULL) && !nib_linear_new(ctx, NULL, NULL) &&
                         !nib_linear_new(ctx, NIB_NONE, NIB_NONE))
CALL(nib_embedding_new, !nib_embedding_new(NULL, NULL) && !nib_embedding_new(ctx, NULL) &&
                            !nib_embedding_new(ctx, NIB_NONE))
CALL(nib_rms_norm_new, !nib_rms_norm_new(NULL, NULL, 0) && !nib_rms_norm_new(ctx, NULL, 0) &&
                           !nib_rms_norm_new(ctx, NIB_NONE, 0))
CALL(nib_layer_norm_new, !nib_layer_norm_new(NULL, NULL, NULL, 1, 0) &&
                             !nib_layer_norm_new(ctx, NULL, NIB_NONE, 1, 0) &&
                             !nib_layer_norm_new(ctx, NIB_NONE, NULL, 1, 0))
CALL(nib_conv1d_new, !nib_conv1d_new(NULL, NULL, NULL, NULL) &&
                         !nib_conv1d_new(ctx, NULL, NIB_NONE, NULL) &&
                         !nib_conv1d_new(ctx, NIB_NONE, NIB_NONE, NULL))
CALL(nib_conv2d_new, !nib_conv2d_new(NULL, NULL, NULL, NULL) &&
                         !nib_conv2d_new(ctx, NULL, NIB_NONE, NULL) &&
                         !nib_conv2d_new(ctx, NIB_NONE, NIB_NONE, NULL))
CALL(nib_batch_norm1d_new,
     !nib_batch_norm1d_new(NULL, NULL, NULL, NULL, NULL, NULL) &&
         !nib_batch_norm1d_new(ctx, NIB_NONE, NIB_NONE, NULL, NIB_NONE, NULL) &&
         !nib_batch_norm1d_new(ctx, NULL, NIB_NONE, NIB_NONE, NIB_NONE, NULL))
CALL(nib_batch_norm2d_new,
     !nib_batch_norm2d_new(NULL, NULL, NULL, NULL, NULL, NULL) &&
         !nib_batch_norm2d_new(ctx, NIB_NONE, NIB_NONE, NIB_NONE, NULL, NULL) &&
         !nib_batch_norm2d_new(ctx, NIB_NONE, NULL, NIB_NONE, NIB_NONE, NULL))
CALL(nib_group_norm_new,
     !nib_group_norm_new(NULL, 1, NULL, NULL, 0) && !nib_group_norm_new(ctx, 1, NULL, NIB_NONE, 0))
CALL(nib_relu_new, !nib_relu_new(NULL))
CALL(nib_relu6_new, !nib_relu6_new(NULL))
CALL(nib_hardtanh_new, !nib_hardtanh_new(NULL, 0, 1))
CALL(nib_leaky_relu_new, !nib_leaky_relu_new(NULL, 0))
CALL(nib_elu_new, !nib_elu_new(NULL, 1))
CALL(nib_gelu_new, !nib_gelu_new(NULL, true))
CALL(nib_silu_new, !nib_silu_new(NULL))
CALL(nib_tanh_new, !nib_tanh_new(NULL))
CALL(nib_sigmoid_new, !nib_sigmoid_new(NULL))
CALL(nib_hardswish_new, !nib_hardswish_new(NULL))
CALL(nib_hardsigmoid_new, !nib_hardsigmoid_new(NULL))
CALL(nib_softmax_new, !nib_softmax_new(NULL, 0))
CALL(nib_max_pool2d_new, !nib_max_pool2d_new(NULL, NULL) && !nib_max_pool2d_new(ctx, NULL))
CALL(nib_avg_pool2d_new, !nib_avg_pool2d_new(NULL, NULL) && !nib_avg_pool2d_new(ctx, NULL))
CALL(nib_adaptive_avg_pool2d_new, !nib_adaptive_avg_pool2d_new(NULL, 1, 1))
CALL(nib_dropout_new, !nib_dropout_new(NULL, 0.5))
CALL(nib_flatten_new, !nib_flatten_new(NULL, 1, -1))
CALL(nib_identity_new, !nib_identity_new(NULL))
CALL(nib_multihead_attention_new,
     !nib_multihead_attention_new(NULL, NULL, NULL, NULL, NULL) &&
         !nib_multihead_attention_new(ctx, NULL, NIB_NONE, NULL, NULL) &&
         !nib_multihead_attention_new(ctx, NIB_NONE, NIB_NONE, nib_relu_new(ctx), NULL))
CALL(nib_multihead_attention_weights, !nib_multihead_attention_weights(NULL, NULL, 0, false))
FREES(nib_module_set_head, nib_module_set_head(NULL, true))
CALL(nib_module_is_head, !nib_module_is_head(NULL))

/* extend.h */

/* graph.h */
CALL(nib_compile, !nib_compile(NULL, NULL, NULL) &&
                      !nib_compile(nib_module_new(NULL, NULL, NULL), NIB_NONE, NULL))
CALL(nib_graph_run, !nib_graph_run(NULL, NULL) && !nib_graph_run(NULL, NIB_NONE))
CALL(nib_graph_print, !nib_graph_print(NULL))
FREES(nib_graph_free, nib_graph_free(NULL))

/* train.h */
CALL(nib_gradients_new, !nib_gradients_new(NULL))
FREES(nib_gradients_free, nib_gradients_free(NULL))
CALL(nib_gradients_watch, nib_gradients_watch(NULL, NULL, NULL) < NIB_OK &&
                              nib_gradients_watch(NULL, NIB_NONE, NULL) < NIB_OK)
CALL(nib_gradients_watch_module, nib_gradients_watch_module(NULL, NULL) < NIB_OK)
CALL(nib_gradient_of, !nib_gradient_of(NULL, NULL))
FREES(nib_gradients_zero, nib_gradients_zero(NULL))
CALL(nib_gradients_at, nib_gradients_at(NULL, 0, NULL, NULL, NULL) < NIB_OK)
CALL(nib_tape_begin, nib_tape_begin(NULL, NULL) < NIB_OK && nib_tape_begin(ctx, NULL) < NIB_OK)
CALL(nib_backward, nib_backward(NULL, NULL) < NIB_OK && nib_backward(NIB_NONE, NIB_NONE) < NIB_OK)
CALL(nib_tape_end, nib_tape_end(NULL) < NIB_OK && nib_tape_end(ctx) < NIB_OK)
CALL(nib_cross_entropy, !nib_cross_entropy(NULL, NULL) && !nib_cross_entropy(NIB_NONE, NIB_NONE))
CALL(nib_mse, !nib_mse(NULL, NULL) && !nib_mse(NIB_NONE, NIB_NONE))
static bool try_nib_optimizer_new(nib_ctx *ctx) {
    nib_gradients *g = nib_gradients_new(ctx);
    const nib_optimizer_config none = {0};
    const bool refused = !nib_optimizer_new(NULL, NULL) && !nib_optimizer_new(g, NULL) &&
                         !nib_optimizer_new(g, &none) && !nib_optimizer_new(g, NIB_SGD());
    nib_gradients_free(g);
    return refused;
}
FREES(nib_optimizer_free, nib_optimizer_free(NULL))
CALL(nib_optimizer_step, nib_optimizer_step(NULL) < NIB_OK)
CALL(nib_optimizer_set_rate, nib_optimizer_set_rate(NULL, 1) < NIB_OK)
CALL(nib_optimizer_rate, nib_optimizer_rate(NULL) == 0)

CALL(nib_choose_qparams, nib_choose_qparams(NULL, NIB_MAP_SYMMETRIC, 0, NULL) < NIB_OK &&
                             nib_choose_qparams(NIB_NONE, NIB_MAP_SYMMETRIC, 0, &no_codes) < NIB_OK)
CALL(nib_quantize_block,
     nib_quantize_block(NULL, NULL) < NIB_OK && nib_quantize_block(NIB_NONE, &no_codes) < NIB_OK)
CALL(nib_dequantize_block,
     nib_dequantize_block(NULL, NULL) < NIB_OK && nib_dequantize_block(&no_codes, NULL) < NIB_OK)
CALL(nib_layout_parts, nib_layout_parts(NULL, NULL, NULL, NULL) < NIB_OK &&
                           nib_layout_parts("int8_row", NULL, parts, NULL) < NIB_OK)
CALL(nib_pack, nib_pack(NULL, NULL, NULL) < NIB_OK && nib_pack("int8_row", NULL, NULL) < NIB_OK &&
                   nib_pack("int8_row", &no_codes, NULL) < NIB_OK)
CALL(nib_repack, !nib_repack(NULL, NULL) && !nib_repack(NULL, "awq_v2"))
CALL(nib_unpack, nib_unpack(NULL, NULL, NULL, 0, NULL) < NIB_OK &&
                     nib_unpack("int8_row", &no_codes.desc, NULL, 0, &no_codes) < NIB_OK)
CALL(nib_scheme_find, !nib_scheme_find(NULL))
CALL(nib_mode_push,
     nib_mode_push(NULL, NULL, NULL) < NIB_OK && nib_mode_push(ctx, NULL, NULL) < NIB_OK)
CALL(nib_mode_pop, nib_mode_pop(NULL) < NIB_OK && nib_mode_pop(ctx) < NIB_OK)

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
                         !nib_linear(t, NIB_NONE, NIB_NONE) && !nib_quantize_tensor(t, NULL) && !nib_repack(t, NULL) &&
                         nib_tensor_read(t, NULL, 16) < NIB_OK && nib_npy_save(t, NULL) < NIB_OK;
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

#define ROW(name)                                                                                  \
    { #name, try_##name }
static const call calls[] = {
    ROW(nib_last_error),
    ROW(nib_ctx_new),
    ROW(nib_ctx_free),
    ROW(nib_ctx_threads),
    ROW(nib_dtype_name),
    ROW(nib_tensor_new),
    ROW(nib_tensor_wrap),
    ROW(nib_tensor_free),
    ROW(nib_tensor_dtype),
    ROW(nib_tensor_shape),
    ROW(nib_tensor_layout),
    ROW(nib_tensor_read),
    ROW(nib_linear),
    ROW(nib_dequantize),
    ROW(nib_keep),
    ROW(nib_scope_begin),
    ROW(nib_scope_end),
    ROW(nib_quantize),
    ROW(nib_quantize_rules),
    ROW(nib_quantize_inputs),
    ROW(nib_inputs_name),
    ROW(nib_quantize_tensor),
    ROW(nib_calibrate_begin),
    ROW(nib_calibrate_end),
    ROW(nib_freeze),
    ROW(nib_model_feed),
    ROW(nib_model_sense),
    ROW(nib_model_freeze),
    ROW(nib_model_compare),
    ROW(nib_model_smooth),
    ROW(nib_module_walk_saved),
    ROW(nib_quantization_map),
    ROW(nib_requantize),
    ROW(nib_requantize_file),
    ROW(nib_quantize_file),
    ROW(nib_verify_file),
    ROW(nib_config_parse),
    ROW(nib_config_free),
    ROW(nib_model_load),
    ROW(nib_model_save),
    ROW(nib_model_free),
    ROW(nib_model_root),
    ROW(nib_session_new),
    ROW(nib_session_feed),
    ROW(nib_session_next),
    ROW(nib_sessions_step),
    ROW(nib_session_logits),
    ROW(nib_session_free),
    ROW(nib_eval_file),
    ROW(nib_profile_begin),
    ROW(nib_profile_end),
    ROW(nib_limits_new),
    ROW(nib_limits_free),
    ROW(nib_limits_measure),
    ROW(nib_list),
    ROW(nib_version),
    ROW(nib_reader_open),
    ROW(nib_reader_free),
    ROW(nib_reader_count),
    ROW(nib_reader_metadata),
    ROW(nib_reader_next),
    ROW(nib_reader_rewind),
    ROW(nib_reader_next_weight),
    ROW(nib_reader_format),
    ROW(nib_reader_config),
    ROW(nib_reader_load),
    ROW(nib_writer_open),
    ROW(nib_writer_put),
    ROW(nib_writer_finish),
    ROW(nib_writer_cancel),
    ROW(nib_writer_predict),
    ROW(nib_npy_load),
    ROW(nib_audio_load),
    ROW(nib_log_mel),
    ROW(nib_transcribe),
    ROW(nib_npy_save),
    ROW(nib_idx_load),
    ROW(nib_ids_free),
    ROW(nib_string_free),
    ROW(nib_tokenizer_load),
    ROW(nib_tokenizer_parse),
    ROW(nib_tokenizer_free),
    ROW(nib_tokenizer_encode),
    ROW(nib_tokenizer_decode),
    ROW(nib_tokenizer_size),
    ROW(nib_tokenizer_id),
    ROW(nib_tokenizer_piece),
    ROW(nib_tokenizer_special),
    ROW(nib_detokenizer_new),
    ROW(nib_detokenizer_next),
    ROW(nib_detokenizer_end),
    ROW(nib_detokenizer_free),
    ROW(nib_module_new),
    ROW(nib_module_free),
    ROW(nib_module_add),
    ROW(nib_module_set),
    ROW(nib_module_forward),
    ROW(nib_module_self),
    ROW(nib_module_kind_of),
    ROW(nib_module_ctx),
    ROW(nib_module_parameter),
    ROW(nib_module_child),
    ROW(nib_module_walk),
    ROW(nib_module_walk_parameters),
    ROW(nib_module_share),
    ROW(nib_module_append),
    ROW(nib_module_set_buffer),
    ROW(nib_module_replace),
    ROW(nib_module_forward_many),
    ROW(nib_module_buffer),
    ROW(nib_module_children),
    ROW(nib_module_child_at),
    ROW(nib_module_train),
    ROW(nib_module_is_training),
    ROW(nib_module_walk_state),
    ROW(nib_module_load_state),
    ROW(nib_module_load),
    ROW(nib_module_save),
    ROW(nib_module_to_dtype),
    ROW(nib_module_to_device),
    ROW(nib_time_begin),
    ROW(nib_time_end),
    ROW(nib_sequential_new),
    ROW(nib_sequential_of),
    ROW(nib_prepare),
    ROW(nib_module_print),
    ROW(nib_text_release),
    ROW(nib_linear_new),
    ROW(nib_embedding_new),
    ROW(nib_rms_norm_new),
    ROW(nib_layer_norm_new),
    ROW(nib_conv1d_new),
    ROW(nib_conv2d_new),
    ROW(nib_batch_norm1d_new),
    ROW(nib_batch_norm2d_new),
    ROW(nib_group_norm_new),
    ROW(nib_relu_new),
    ROW(nib_relu6_new),
    ROW(nib_hardtanh_new),
    ROW(nib_leaky_relu_new),
    ROW(nib_elu_new),
    ROW(nib_gelu_new),
    ROW(nib_silu_new),
    ROW(nib_tanh_new),
    ROW(nib_sigmoid_new),
    ROW(nib_hardswish_new),
    ROW(nib_hardsigmoid_new),
    ROW(nib_softmax_new),
    ROW(nib_max_pool2d_new),
    ROW(nib_avg_pool2d_new),
    ROW(nib_adaptive_avg_pool2d_new),
    ROW(nib_dropout_new),
    ROW(nib_flatten_new),
    ROW(nib_identity_new),
    ROW(nib_multihead_attention_new),
    ROW(nib_multihead_attention_weights),
    ROW(nib_module_set_head),
    ROW(nib_module_is_head),
    ROW(nib_compile),
    ROW(nib_graph_run),
    ROW(nib_graph_print),
    ROW(nib_graph_free),
    ROW(nib_gradients_new),
    ROW(nib_gradients_free),
    ROW(nib_gradients_watch),
    ROW(nib_gradients_watch_module),
    ROW(nib_gradient_of),
    ROW(nib_gradients_zero),
    ROW(nib_gradients_at),
    ROW(nib_tape_begin),
    ROW(nib_backward),
    ROW(nib_tape_end),
    ROW(nib_cross_entropy),
    ROW(nib_mse),
    ROW(nib_optimizer_new),
    ROW(nib_optimizer_free),
    ROW(nib_optimizer_step),
    ROW(nib_optimizer_set_rate),
    ROW(nib_optimizer_rate),
    ROW(nib_choose_qparams),
    ROW(nib_quantize_block),
    ROW(nib_dequantize_block),
    ROW(nib_layout_parts),
    ROW(nib_pack),
    ROW(nib_repack),
    ROW(nib_unpack),
    ROW(nib_scheme_find),
    ROW(nib_mode_push),
    ROW(nib_mode_pop),
    {"session", half_session},
    {"model", half_model},
    {"module", half_module},
    {"reader", half_reader},
    {"writer", half_writer},
    {"tokenizer", half_tokenizer},
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
