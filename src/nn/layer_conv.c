/* layer_conv.c: Conv1d and Conv2d. The weight is [out, in / groups, size ...], dense or quantized.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "nn/module.h"
#include "nn/quantized.h"
#include "op/calls.h"
#include "op/conv.h"
#include "quant/act8.h"

typedef struct conv {
    int dims;
    nib_window window;      /* what the op gets */
    int64_t padding[2];     /* as it was asked for */
    int64_t groups, pad[4]; /* left, right, top, bottom, before the op */
    bool same, padded;
    const char *mode; /* of pad; "constant" is zeros */
} conv;

bool nib_conv_module_quantizes(const nib_module *m, const nib_tensor *x) {
    if (!nib_conv_module_groups(m) || !nib_quantized_makes_codes(m, x)) return false;
    const conv *c = nib_module_self(m);
    const nib_tensor *weight = nib_module_parameter(m, "weight");
    const nib_conv of = {.dims = c->dims, .window = c->window, .groups = c->groups};
    return !c->padded && weight->layout &&
           nib_conv_quantizes(&of, x, weight, nib_module_quantized(m)->input);
}

static nib_tensor *convolve(nib_module *m, nib_tensor *x, bool floor) {
    const conv *c = nib_module_self(m);
    const nib_tensor *weight = nib_module_weight(m), *bias = nib_layer_bias(m);
    if (c->padded) x = nib_pad(x, c->pad, c->mode, 0.0);
    if (nib_quantized_makes_codes(m, x)) {
        const nib_quantized *q = nib_module_quantized(m);
        const bool enters = nib_conv_module_quantizes(m, x);
        return nib_conv_codes(
            x, weight, bias, &c->window, c->groups, nib_module_buffer(m, "output_scale"), q->output,
            enters ? nib_module_buffer(m, "input_scale") : NIB_NONE, q->input, floor);
    }
    return c->dims == 1 ? nib_conv1d(x, weight, bias, &c->window, c->groups)
                        : nib_conv2d(x, weight, bias, &c->window, c->groups);
}

static nib_tensor *forward(nib_module *m, nib_tensor *x) { return convolve(m, x, false); }

bool nib_conv_module_floors(const nib_module *m, const nib_tensor *x) {
    return nib_conv_module_groups(m) && nib_quantized_makes_codes(m, x) &&
           nib_act8_integer(nib_module_quantized(m)->output) &&
           nib_module_scale(m, "output_scale") > 0;
}

nib_tensor *nib_conv_module_floored(nib_module *m, nib_tensor *x) {
    NIB_TRY_NULL(nib_quantized_enter(m, &x));
    return convolve(m, x, true);
}

/* "(3, 3)", or "(3,)" of one dimension, as torch prints them. */
static void add_pair(char *text, size_t room, const char *name, const int64_t v[2], int dims) {
    const size_t at = strlen(text);
    if (dims == 2)
        snprintf(text + at, room - at, ", %s=(%lld, %lld)", name, (long long)v[0], (long long)v[1]);
    else
        snprintf(text + at, room - at, ", %s=(%lld,)", name, (long long)v[1]);
}

static void describe(const nib_module *m, char *text, size_t room) {
    const conv *c = nib_module_self(m);
    const nib_shape s = nib_tensor_shape(nib_module_parameter(m, "weight"));
    snprintf(text, room, "%lld, %lld", (long long)(s.dim[1] * c->groups), (long long)s.dim[0]);
    add_pair(text, room, "kernel_size", (const int64_t[2]){s.dim[2], s.dim[c->dims + 1]}, c->dims);
    add_pair(text, room, "stride", c->window.stride, c->dims);
    if (c->same)
        snprintf(text + strlen(text), room - strlen(text), ", padding=same");
    else if (c->padding[0] || c->padding[1])
        add_pair(text, room, "padding", c->padding, c->dims);
    if (c->window.dilation[0] != 1 || c->window.dilation[1] != 1)
        add_pair(text, room, "dilation", c->window.dilation, c->dims);
    if (c->groups != 1)
        snprintf(text + strlen(text), room - strlen(text), ", groups=%lld", (long long)c->groups);
    if (!nib_module_parameter(m, "bias"))
        snprintf(text + strlen(text), room - strlen(text), ", bias=False");
    if (strcmp(c->mode, "constant") != 0)
        snprintf(text + strlen(text), room - strlen(text), ", padding_mode=%s", c->mode);
}

int64_t nib_conv_module_groups(const nib_module *m) {
    const nib_module_kind *kind = nib_module_kind_of(m);
    return kind == &nib_kind_conv1d || kind == &nib_kind_conv2d
               ? ((const conv *)nib_module_self(m))->groups
               : 0;
}

static void release(nib_module *m) { nib_layer_free(m, sizeof(conv)); }

const nib_module_kind nib_kind_conv1d = {
    .name = "Conv1d", .forward = forward, .free = release, .describe = describe};
const nib_module_kind nib_kind_conv2d = {
    .name = "Conv2d", .forward = forward, .free = release, .describe = describe};

/* What the options say for a weight of this shape. */
static nib_status configure(conv *c, int dims, const nib_shape *weight,
                            const nib_conv_options *options) {
    static const char *const modes[] = {"zeros", "reflect", "replicate", "circular"};
    nib_conv_options o = {0};
    nib_layer_options(&o, sizeof o, options);
    char text[96];
    if (weight->ndim != dims + 2)
        return NIB_RAISE(NIB_E_SHAPE,
                         "a Conv%dd's weight is [out, in / groups, size ...] of %d "
                         "dimensions, not %s",
                         dims, dims + 2, nib_shape_text(weight, text, sizeof text));
    size_t mode = 0;
    while (o.padding_mode && mode < 4 && strcmp(o.padding_mode, modes[mode]) != 0) mode++;
    if (mode == 4 || (o.pad && strcmp(o.pad, "same") != 0 && strcmp(o.pad, "valid") != 0))
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "pad \"%s\", padding_mode \"%s\": want same or valid, and "
                         "zeros, reflect, replicate or circular",
                         o.pad ? o.pad : "", o.padding_mode ? o.padding_mode : "");
    *c = (conv){.dims = dims,
                .groups = o.groups ? o.groups : 1,
                .same = o.pad && strcmp(o.pad, "same") == 0,
                .mode = mode ? modes[mode] : "constant"};
    nib_window *w = &c->window;
    for (int i = 0; i < 2; i++) {
        const int from = i + dims - 2; /* of one dimension, it is the columns */
        const bool there = from >= 0;
        const int64_t stride = !there           ? 1
                               : o.stride[from] ? o.stride[from]
                                                : o.stride[0],
                      dilation = !there             ? 1
                                 : o.dilation[from] ? o.dilation[from]
                                                    : o.dilation[0];
        w->size[i] = there ? weight->dim[2 + from] : 1;
        w->stride[i] = stride ? stride : 1;
        w->dilation[i] = dilation ? dilation : 1;
        c->padding[i] = there && !o.pad ? o.padding[from] : 0;
        if (c->padding[i] < 0 || w->stride[i] < 0 || w->dilation[i] < 0 || c->groups < 0)
            return NIB_RAISE(NIB_E_ARGUMENT,
                             "a Conv%dd's stride, padding, dilation and groups "
                             "cannot be negative",
                             dims);
        if (c->same && w->stride[i] != 1)
            return NIB_RAISE(NIB_E_ARGUMENT, "pad \"same\" wants stride 1, not %lld",
                             (long long)w->stride[i]);
        /* torch puts what does not halve behind */
        const int64_t total = c->same ? w->dilation[i] * (w->size[i] - 1) : 2 * c->padding[i];
        const int64_t before = total / 2, after = total - before;
        if (mode || before != after) {
            c->padded = c->padded || total;
            c->pad[i == 1 ? 0 : 2] = before;
            c->pad[i == 1 ? 1 : 3] = after;
        } else {
            w->padding[i] = before;
        }
    }
    return NIB_OK;
}

static nib_module *conv_new(nib_ctx *ctx, const nib_module_kind *kind, int dims, nib_tensor *weight,
                            nib_tensor *bias, const nib_conv_options *options) {
    nib_module *m = nib_layer_new(ctx, kind, sizeof(conv), 2, 1, (const char *[]){"weight", "bias"},
                                  (nib_tensor *[]){weight, bias});
    if (!m || configure(nib_module_self(m), dims, &nib_module_parameter(m, "weight")->shape,
                        options) >= NIB_OK)
        return m;
    nib_module_free(m);
    return NULL;
}

nib_module *nib_conv1d_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias,
                           const nib_conv_options *options) {
    return conv_new(ctx, &nib_kind_conv1d, 1, weight, bias, options);
}
nib_module *nib_conv2d_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias,
                           const nib_conv_options *options) {
    return conv_new(ctx, &nib_kind_conv2d, 2, weight, bias, options);
}
