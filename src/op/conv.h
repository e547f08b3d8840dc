/* conv.h: convolution over one or two dimensions; what conv1d and conv2d are made of.
 *
 * The input is laid out so that a convolution is a product: 16 positions of the output side by
 * side, under them the numbers that each of them sees, ordered by channel, then row, then column of
 * the filter. What lies in the padding is 0 and takes part. So an output is one chain of fma over
 * the columns of its filter, then the bias, as docs/numerics.md says of products. Codes by codes
 * are summed exactly. */
#ifndef NIB_OP_CONV_H
#define NIB_OP_CONV_H
#include "op/calls.h"

/* Positions of a window along dimension i of an input of `length`; -1: none fits. With `ceil` the
 * last one may hang over the edge, but begins inside the input or its padding on the near side. */
int64_t nib_window_count(const nib_window *w, int i, int64_t length, bool ceil);

/* Strides and dilations at least 1, padding at least 0, and nothing so large that it overflows. */
nib_status nib_window_check(const nib_op *op, const nib_window *w);

typedef struct nib_conv {
    int dims; /* 1 or 2 */
    nib_window window;
    int64_t groups;
} nib_conv;

/* y of x [N, C, spatial] or [C, spatial], floats or codes of layout act8, and weight
 * [Cout, C / groups, size]. */
nib_status nib_conv_shape(const nib_op *op, const nib_conv *conv, const nib_tensor *x,
                          const nib_tensor *weight, const nib_tensor *bias, nib_shape *out);
bool nib_conv_accepts(const nib_call_args *args); /* any weight, dense bias */

/* How floats that come in become codes where a block reads them. */
typedef struct nib_conv_entry {
    float scale;
    nib_dtype code; /* I8 or I7 */
} nib_conv_entry;

/* Are these f32 that a convolution of integer filters may quantize so, without a pass of their own?
 * Where each is read by one block or two: filters of one pixel, and one filter a group. */
bool nib_conv_quantizes(const nib_conv *conv, const nib_tensor *x, const nib_tensor *weight,
                        nib_dtype code);

/* x is f32, or codes that nib_conv_takes_codes; y f32, or codes of layout act8 that
 * quantize_activation would make of these. `entry`: x is made codes first, or NULL; `floor`: no
 * code is below 0. Memory: the workspace of the context. */
nib_status nib_conv_run(nib_ctx *ctx, const nib_conv *conv, const nib_tensor *x,
                        const nib_tensor *weight, const nib_tensor *bias,
                        const nib_conv_entry *entry, bool floor, nib_tensor *y);
nib_status nib_conv_backward(nib_backward_args *args, const nib_conv *conv);

/* Do int8 codes x meet integer filters of one scale each here, in exact sums? Else they want
 * floats. */
bool nib_conv_takes_codes(const nib_tensor *x, const nib_tensor *weight);

/* Keep beside a weight [Cout, C / groups, size ...] the form that a convolution of floats, or of
 * `codes`, reads; nothing where it reads the weight as it is. While it is kept, the weight is not
 * to be written to through a pointer that was got before. */
nib_status nib_conv_keep(nib_ctx *ctx, nib_tensor *weight, int64_t groups, bool codes);
#endif
