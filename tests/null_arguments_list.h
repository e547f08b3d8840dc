/* null_arguments_list.h: how each public function behaves when all it is given is NULL, in the order of
 * the headers. CALL(name, true where it behaved); FREES(name, call): that it returns is enough;
 * TRIED(name): null_arguments.c has a try_name of its own. */
/* nibble.h */
CALL(nib_last_error, nib_last_error() != NULL)
TRIED(nib_ctx_new)
FREES(nib_ctx_free, nib_ctx_free(NULL))
FREES(nib_ctx_trim, nib_ctx_trim(NULL))
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
TRIED(nib_limits_measure)
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
TRIED(nib_optimizer_new)
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
