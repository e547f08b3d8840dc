/* calls.h: the ops as C functions. Results belong to the innermost open scope; NULL in, NULL out.
 *
 * Legend: M rows (tokens), D model width, H query heads, Hk key heads, d head size, T cache length.
 */
#ifndef NIB_OP_CALLS_H
#define NIB_OP_CALLS_H
#include "op/op.h"
#include "op/quantize_rows.h"

/* Rows of a weight: out[m, :] = weight[indices[m], :].
 *   weight [V, D] dense or quantized, indices [M] i32  ->  [M, D] f32 */
nib_tensor *nib_embedding(const nib_tensor *weight, const nib_tensor *indices);

/* Floats as 8-bit codes with one scale: a tensor of layout act8.
 *   x any shape, f32, f16 or bf16, contiguous; scale one float; code NIB_I8 or an 8-bit float */
nib_tensor *nib_quantize_activation(const nib_tensor *x, const nib_tensor *scale, nib_dtype code);

/* A float weight as `config` quantizes it, which must live as long as a tape that records this. */
nib_tensor *nib_quantize_weight(const nib_tensor *weight, const nib_config *config);

/* x / sqrt(mean(x^2) + eps) * weight over the last dimension.
 *   x [..., D] f32, weight [D] f32, f16 or bf16  ->  [..., D] f32
 * Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019. */
nib_tensor *nib_rms_norm(const nib_tensor *x, const nib_tensor *weight, double eps);
/* Of every op that norms rows of its first input by its second. */
nib_status nib_rms_norm_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype);
bool nib_rms_norm_accepts(const nib_call_args *args);

/* (x - mean) / sqrt(variance + eps) * weight + bias over the last `dims` dimensions, variance that
 * of a population. weight and bias have the shape of these, f32, f16 or bf16, or are NIB_NONE.
 *   x [..., D] f32  ->  the same shape */
nib_tensor *nib_layer_norm(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                           int dims, double eps);

/* Of every element, f32; silu(x) = x / (1 + exp(-x)), gelu by erf or by tanh, as ATen has them. */
nib_tensor *nib_relu(const nib_tensor *x);
nib_tensor *nib_neg(const nib_tensor *x);
nib_tensor *nib_gelu(const nib_tensor *x, bool by_tanh);
nib_tensor *nib_silu(const nib_tensor *x);
nib_tensor *nib_tanh(const nib_tensor *x);
nib_tensor *nib_sigmoid(const nib_tensor *x);
nib_tensor *nib_leaky_relu(const nib_tensor *x, double slope);
nib_tensor *nib_hardtanh(const nib_tensor *x, double low, double high);
nib_tensor *nib_elu(const nib_tensor *x, double alpha);
nib_tensor *nib_hardsigmoid(const nib_tensor *x);
nib_tensor *nib_hardswish(const nib_tensor *x);

/* Convolution with zeros around, the input in `groups` that do not meet.
 *   x [N, C, H, W] or [C, H, W] f32, weight [Cout, C / groups, h, w] dense or quantized,
 *   bias [Cout] or NIB_NONE  ->  [N, Cout, OH, OW] or [Cout, OH, OW] f32
 * conv1d: the same of one dimension, the second one of the window. */
typedef struct nib_window { /* rows first, columns second */
    int64_t size[2], stride[2], padding[2],
        dilation[2]; /* size: the weight's, where there is one */
} nib_window;
nib_tensor *nib_conv2d(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                       const nib_window *window, int64_t groups);
nib_tensor *nib_conv1d(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                       const nib_window *window, int64_t groups);
/* Either, by the weight's dimensions, and nib_quantize_activation of it; with a scale for x, which
 * nib_conv_quantizes takes, of nib_quantize_activation of that, else NIB_NONE. With `floor`, of
 * integer codes and a scale above 0, nib_relu of it all. */
nib_tensor *nib_conv_codes(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                           const nib_window *window, int64_t groups, const nib_tensor *scale,
                           nib_dtype code, const nib_tensor *x_scale, nib_dtype x_code, bool floor);

/* Numbers around the last two dimensions: left, right, top, bottom. Modes "constant" (value),
 * "reflect", "replicate", "circular". f32. */
nib_tensor *nib_pad(const nib_tensor *x, const int64_t pad[4], const char *mode, double value);

/* f32, element by element; dimensions are matched from the last, one of length 1 is repeated. */
nib_tensor *nib_add(const nib_tensor *a, const nib_tensor *b);
nib_tensor *nib_sub(const nib_tensor *a, const nib_tensor *b);
nib_tensor *nib_mul(const nib_tensor *a, const nib_tensor *b);
nib_tensor *nib_div(const nib_tensor *a, const nib_tensor *b);

/* a < b, element by element as above, f32 or both I8  ->  bool.
 * where: self where the condition holds, else other. condition bool, self and other f32. */
nib_tensor *nib_lt(const nib_tensor *a, const nib_tensor *b);
nib_tensor *nib_where(const nib_tensor *condition, const nib_tensor *self, const nib_tensor *other);

/* Products of matrices, f32: a [M, K] by b [K, N]; bmm: batches [B, M, K] by [B, K, N], pair by
 * pair. matmul: ATen's of at least two dimensions each, leading ones matched from the last and
 * repeated. */
nib_tensor *nib_mm(const nib_tensor *a, const nib_tensor *b);
nib_tensor *nib_bmm(const nib_tensor *a, const nib_tensor *b);
nib_tensor *nib_matmul(const nib_tensor *a, const nib_tensor *b);

/* The same elements in another shape, one of whose lengths may be -1; dimensions start .. end as
 * one. Views of x or of its codes; a quantized weight is dequantized first. */
nib_tensor *nib_reshape(const nib_tensor *x, const nib_shape *shape);
nib_tensor *nib_flatten(const nib_tensor *x, int start, int end);
/* Dimension i of the result is dims[i] of x; or two of them change places. Elements are moved. Like
 * the next three, of any dtype of whole bytes. */
nib_tensor *nib_permute(const nib_tensor *x, const int dims[]);
nib_tensor *nib_transpose(const nib_tensor *x, int a, int b);
/* Dimensions of length 1 repeated, new ones in front; -1: as it is. */
nib_tensor *nib_expand(const nib_tensor *x, const nib_shape *size);
/* Pieces of `size` along a dimension, the last maybe shorter. How many; 0: failed. */
int nib_split(const nib_tensor *x, int64_t size, int dim, nib_tensor *out[NIB_MAX_OUTPUTS]);

/* exp(x) by its sum along one dimension, counted from the end where negative. */
nib_tensor *nib_softmax(const nib_tensor *x, int dim);

/* Attention of all rows to all keys, softmax(q k^T scale + mask) v. mask: NIB_NONE, f32 (added) or
 * bool (what takes part), repeated to [..., L, S]; causal: row i sees keys up to i. scale 0: 1 /
 * sqrt(E). query [..., L, E], key [..., S, E], value [..., S, V] f32  ->  [..., L, V] f32 */
nib_tensor *nib_scaled_dot_product_attention(const nib_tensor *query, const nib_tensor *key,
                                             const nib_tensor *value, const nib_tensor *mask,
                                             bool causal, double scale);

/* Each channel by its mean and variance, then times weight plus bias ([C] or NIB_NONE): those
 * given, or while training the batch's, which then move the ones given (or NIB_NONE) by `momentum`.
 *   x [N, C, ...] f32  ->  the same shape */
nib_tensor *nib_batch_norm(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                           nib_tensor *mean, nib_tensor *variance, bool training, double momentum,
                           double eps);
/* Groups of C / groups neighbouring channels by their own mean and variance. */
nib_tensor *nib_group_norm(const nib_tensor *x, int64_t groups, const nib_tensor *weight,
                           const nib_tensor *bias, double eps);

/* Pooling over the last two dimensions of x [N, C, H, W] or [C, H, W] f32. ceil: a last window may
 * hang over the edge. divisor 0: as many as there are, padding among them if it counts. */
nib_tensor *nib_max_pool2d(const nib_tensor *x, const nib_window *window, bool ceil);
nib_tensor *nib_avg_pool2d(const nib_tensor *x, const nib_window *window, bool ceil,
                           bool padding_counts, int64_t divisor);
nib_tensor *nib_adaptive_avg_pool2d(const nib_tensor *x, int64_t rows, int64_t columns);

/* While `train`: each number left out with probability p, the others times 1 / (1 - p), by the
 * random numbers (seed, stream). */
nib_tensor *nib_dropout(const nib_tensor *x, double p, bool train, uint64_t seed, uint64_t stream);

/* Tensors one after another along the first dimension, or another; the others are equal. stack:
 * along a new one, all being equal. At most NIB_MAX_INPUTS, of one dtype. */
nib_tensor *nib_cat(const nib_tensor *const tensors[], size_t count);
nib_tensor *nib_cat_along(const nib_tensor *const tensors[], size_t count, int dim);
nib_tensor *nib_stack(const nib_tensor *const tensors[], size_t count, int dim);

/* silu(gate) * up, the same shape, f32; silu(x) = x / (1 + exp(-x)). */
nib_tensor *nib_silu_mul(const nib_tensor *gate, const nib_tensor *up);

/* What the compiler makes of neighbours; the bits of the ops one by one. Weights of any layout,
 * biases [N] or NIB_NONE.
 *   linear_many      x [..., K], weights [Ni, K]  ->  out[i] [..., Ni], i < count
 *   linear_silu_mul  silu(x G^T + gate_bias) * (x U^T + up_bias)
 *   linear_add       residual + (x W^T + bias), residual of the product's shape
 * Where all its weights want one kind of rows, x may be what rms_norm_quantize gives: a norm's rows
 * as these codes and no more, I8 [..., nib_rows_width(kind)] of x [..., kind->K] f32. */
enum { NIB_MOST_LINEARS = 3 };
nib_status nib_linear_many(const nib_tensor *x, const nib_tensor *const weights[],
                           const nib_tensor *const biases[], int count, nib_tensor *out[]);
nib_tensor *nib_linear_silu_mul(const nib_tensor *x, const nib_tensor *gate, const nib_tensor *up,
                                const nib_tensor *gate_bias, const nib_tensor *up_bias);
nib_tensor *nib_linear_add(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                           const nib_tensor *residual);
int nib_rms_norm_quantize_attrs(double eps, const nib_rows_kind *kind, nib_attr attr[]); /* count */

/* Codes of one scale straight out of a linear or a norm, to the bit those that
 * nib_quantize_activation makes of its floats. x of a linear is f32, or int8 codes where it takes
 * them. */
nib_tensor *nib_linear_codes(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                             const nib_tensor *scale, nib_dtype code);
nib_tensor *nib_layer_norm_codes(const nib_tensor *x, const nib_tensor *weight,
                                 const nib_tensor *bias, int dims, double eps,
                                 const nib_tensor *scale, nib_dtype code);
/* Attributes of linear_act (inputs x, weight, bias, up, up_bias, scale; nib_activation as in
 * product.h) and norm_codes (x, weight, bias, scale), for those who make nodes; how many. */
int nib_linear_act_attrs(int activation, nib_dtype code, bool floor, nib_attr attr[]);
bool nib_linear_act_set_floor(nib_attr attr[]); /* false: it has one, or no integer codes */
int nib_conv_codes_attrs(const nib_call_args *conv, nib_dtype code, nib_attr attr[]); /* of a conv1d
                                                       or conv2d; inputs x, weight, bias, scale */
bool nib_conv_codes_set_floor(nib_attr attr[]);                                       /* the same */
int nib_norm_codes_attrs(int64_t dims, double eps, nib_dtype code, bool rms, nib_attr attr[]);

/* Queries, keys and values of a fused projection, each by itself: side by side in three blocks, or
 * `per_head`, where each head has its own three.
 *   x [M, 3 * heads * d] f32  ->  out[3] of [M, heads * d] */
nib_status nib_split_qkv(const nib_tensor *x, int64_t heads, bool per_head, nib_tensor *out[3]);

/* Cosine and sine of position * inv_freq[j], times `scale`: what nib_rope turns by.
 *   positions [M] i32, inv_freq [d/2] f32  ->  [M, 2, d/2] f32, cosines first */
nib_tensor *nib_rope_angles(const nib_tensor *positions, const nib_tensor *inv_freq, double scale);

/* Turn the pairs (j, j + d/2) of each head by the angles of its row.
 *   x [M, heads * d] f32, angles [M, 2, d/2] f32  ->  [M, heads * d] f32
 * Su et al., "RoFormer", 2021, in the half-split form of Hugging Face checkpoints. */
nib_tensor *nib_rope(const nib_tensor *x, const nib_tensor *angles, int64_t heads);

/* Write rows of K or V into a cache at positions start, start + 1, ... (a mutation of `cache`).
 *   cache [Hk, T, d] f32, rows [M, Hk * d] f32  ->  nothing */
nib_status nib_kv_append(nib_tensor *cache, const nib_tensor *rows, int64_t start);

/* Causal attention of M rows at positions start, start + 1, ... over a cache that already holds
 * their keys and values. Row m sees positions max(0, p - window + 1) .. p, p = start + m;
 * window 0: no limit. Query head h uses key head h / (H / Hk).
 *   q [M, H * d] f32, k and v [Hk, T, d] f32  ->  [M, H * d] f32 */
nib_tensor *nib_attention(const nib_tensor *q, const nib_tensor *k, const nib_tensor *v,
                          int64_t heads, int64_t start, int64_t window, double scale);

/* The same where query head h leans towards near tokens: slopes[h] * (token - position) is added to
 * its scores. slopes [H] f32 or NIB_NONE.
 * Press, Smith and Lewis, "Train Short, Test Long: Attention with Linear Biases", 2021. */
nib_tensor *nib_attention_alibi(const nib_tensor *q, const nib_tensor *k, const nib_tensor *v,
                                const nib_tensor *slopes, int64_t heads, int64_t start,
                                int64_t window, double scale);

/* How to choose a token from logits. */
typedef struct nib_sampling {
    float temperature;                      /* 0: the largest logit, lowest id first among equals */
    float top_p, min_p, repetition_penalty; /* 0: off */
    int top_k;                              /* 0: off */
} nib_sampling;

/* One token from one row of logits, with the numbers random(seed, step).
 *   logits [V] f32, seen [n] i32: ids that the repetition penalty counts, or NIB_NONE  ->  [1] i32
 */
nib_tensor *nib_sample(const nib_tensor *logits, const nib_tensor *seen,
                       const nib_sampling *sampling, uint64_t seed, int64_t step);
#endif
