/* kernel_list.h: one line for each file of kernels, plainest first; a later one overrides. */
X(convert_ref)
X(gemm_f32_ref)
X(reduce_ref)
X(quantize_ref)
X(unpack_ref)
X(softmax_ref)
X(norm_ref)
X(attention_ref)
