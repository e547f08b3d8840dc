/* calibrate.c: a mode that watches what comes in and goes out of modules that carry a config with
 * static activations, and moves their scales:
 *
 *   scale of a batch   largest |x| / largest code, in the dtype of the scale
 *   then               momentum * scale + (1 - momentum) * that of the batch, each step rounded;
 *                      the first batch sets the scale
 *   input quantized    its scale is taken as it is
 *
 * The same batch already meets the moved scale: the mode sees a tensor before its module does.
 *
 * Streamlining: an output is worth codes only where an op keeps it so, or another module takes it
 * in. Which of the two a result meets shows until its module is entered again, or at the end; then
 * an output that nobody took as codes stays float.
 *
 * "upstream" does what optimum-quanto 0.2.7 does: inputs always have momentum 0.9, a scale of
 * exactly 1 counts as none yet, and since its tracker of results never sees one, every output of a
 * container's child is streamlined once the container has run. */
#include <math.h>
#include <nibble/nn.h>
#include <string.h>

#include "base/error.h"
#include "nn/quantized.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

typedef struct watched {
    nib_module *module;
    char *name;
    int64_t batches;
    bool streamline, upstream, required;
    double momentum;
    nib_storage
        *output; /* the codes of its latest output, held so that no other gets their place */
} watched;

typedef struct calibrating {
    nib_ctx *ctx;
    nib_module *root;
    watched *modules;
    size_t count, room;
    watched *leaving; /* the module whose output is quantized next */
} calibrating;

/* ---- arithmetic ---- */

/* A float option as the decimal it was written as: 0.9f stands for 0.9. */
static double decimal(double value) {
    const double written = rint(value * 1e6) / 1e6;
    return fabs(written - value) <= 1e-7 * value ? written : value;
}

/* Largest |x| / largest code; NaN where x has one. */
static nib_status batch_scale(nib_ctx *ctx, const nib_tensor *x, nib_dtype code, nib_dtype dtype,
                              float *scale) {
    enum { RUN = 1024 };
    float run[RUN], most = 0;
    const int64_t count = nib_tensor_count(x);
    if (x->layout || !nib_dtype_is_float(x->dtype) || nib_dtype_bits(x->dtype) > 32 ||
        !nib_tensor_contiguous(x))
        return NIB_RAISE(NIB_E_DTYPE, "calibrating: an activation is %s, want contiguous floats",
                         x->layout ? x->layout->name : nib_dtype_name(x->dtype));
    if (x->dtype == NIB_F32) {
        ctx->kernels.absmax_f32(&most, nib_tensor_data(x), 1, count);
    } else {
        for (int64_t i = 0, n; i < count; i += n) {
            float largest;
            n = count - i < RUN ? count - i : RUN;
            nib_to_f32(x->dtype, run, (const uint16_t *)nib_tensor_data(x) + i, (size_t)n);
            ctx->kernels.absmax_f32(&largest, run, 1, n);
            if (!(largest <= most)) most = largest;
        }
    }
    if (!(most <= 3.4028234663852886e38f))
        return NIB_RAISE(NIB_E_FORMAT,
                         "calibrating: an activation is %s; look for NaN or infinity "
                         "in weights or data",
                         most != most ? "not a number" : "infinite");
    *scale = nib_round_to(nib_round_to(most, dtype) / nib_act8_largest(code), dtype);
    return NIB_OK;
}

static float moved(float old, float batch, double momentum, nib_dtype dtype) {
    const float kept = nib_round_to((float)momentum * old, dtype);
    const float added = nib_round_to(batch * (float)(1.0 - momentum), dtype);
    return nib_round_to(kept + added, dtype);
}

static nib_status observe(calibrating *c, const watched *w, const char *name, const nib_tensor *x,
                          double momentum, bool *known) {
    const nib_quantized *q = nib_module_quantized(w->module);
    const nib_dtype dtype = nib_module_buffer(w->module, name)->dtype;
    const float old = nib_module_scale(w->module, name);
    float scale;
    if (nib_act8_is(x)) {
        scale = nib_round_to(nib_act8_scale(x), dtype);
    } else {
        NIB_TRY(batch_scale(c->ctx, x, q->activations, dtype, &scale));
        if (w->upstream ? old != 1 : *known) scale = moved(old, scale, momentum, dtype);
    }
    *known = true;
    return nib_module_set_scale(w->module, name, scale);
}

/* ---- the mode ---- */

static watched *find(calibrating *c, const nib_module *module) {
    for (size_t i = 0; i < c->count; i++)
        if (c->modules[i].module == module) return &c->modules[i];
    return NULL;
}

/* The module whose latest output these codes are. */
static watched *maker_of(calibrating *c, const nib_tensor *t) {
    for (size_t i = 0; nib_act8_is(t) && i < c->count; i++)
        if (c->modules[i].output == t->part[0]) return &c->modules[i];
    return NULL;
}

static void forget_output(watched *w) {
    nib_storage_release(w->output);
    w->output = NULL;
}

static void streamline(watched *w) {
    nib_quantized *q = nib_module_quantized(w->module);
    if (w->streamline && w->batches && !w->required) q->output = (nib_dtype)0;
}

/* What comes in, for error feedback: floats, also where it is quantized. */
static nib_status feed(calibrating *c, nib_quantized *q, const nib_tensor *x) {
    if (nib_act8_is(x) && !(x = nib_dequantize(x))) return nib_last_error()->status;
    return nib_quantized_feed(c->ctx, q, x);
}

static nib_status enter_module(void *self, nib_module *module, nib_tensor **input) {
    calibrating *c = self;
    watched *w = find(c, module);
    c->leaving = NULL;
    if (!w) return NIB_OK;
    nib_quantized *q = nib_module_quantized(module);
    watched *maker = maker_of(c, *input);
    if (maker && q->input && !w->upstream) maker->required = true;
    if (w->batches && !w->upstream) streamline(w);
    if (!nib_tensor_count(*input)) return NIB_OK;
    if (nib_quantized_feeds(q) && !q->sensed) NIB_TRY(feed(c, q, *input));
    if (!q->activations) return NIB_OK;
    return observe(c, w, "input_scale", *input, w->upstream ? 0.9 : w->momentum, &q->input_known);
}

static nib_status leave_module(void *self, nib_module *module, nib_tensor **output) {
    calibrating *c = self;
    watched *w = find(c, module);
    c->leaving = w;
    if (!w) { /* a container: upstream streamlines its children now */
        for (size_t i = 0; i < c->count; i++) {
            watched *child = &c->modules[i];
            const char *dot = strrchr(child->name, '.');
            if (child->upstream &&
                nib_module_child(module, dot ? dot + 1 : child->name) == child->module)
                streamline(child);
        }
        return NIB_OK;
    }
    if (!nib_tensor_count(*output)) return NIB_OK;
    nib_quantized *q = nib_module_quantized(module);
    w->batches++;
    if (!q->activations) return NIB_OK;
    NIB_TRY(observe(c, w, "output_scale", *output, w->momentum, &q->output_known));
    return NIB_OK;
}

static nib_status after_op(void *self, const nib_op *op, nib_call_args *args) {
    calibrating *c = self;
    bool codes = false;
    if (op == &nib_op_quantize_activation && c->leaving) {
        forget_output(c->leaving);
        c->leaving->output = nib_storage_retain(args->out[0]->part[0]);
        c->leaving = NULL;
    }
    for (int i = 0; i < args->nout; i++) codes |= nib_act8_is(args->out[i]);
    for (int i = 0; codes && i < args->nin; i++) {
        watched *maker = maker_of(c, args->in[i]);
        if (maker && !maker->upstream) maker->required = true;
    }
    return NIB_OK;
}

static const nib_mode mode = {.name = "calibrate",
                              .enter_module = enter_module,
                              .leave_module = leave_module,
                              .after_op = after_op};

/* ---- from begin to end ---- */

static void release(calibrating *c) {
    nib_mem *mem = nib_ctx_mem(c->ctx);
    for (size_t i = 0; i < c->count; i++) {
        forget_output(&c->modules[i]);
        nib_mem_strfree(mem, c->modules[i].name);
    }
    nib_mem_free(mem, c->modules, c->room * sizeof *c->modules);
    nib_mem_free(mem, c, sizeof *c);
}

static nib_status watch(void *user, const char *dotted, nib_module *module) {
    calibrating *c = user;
    const nib_quantized *q = nib_module_quantized(module);
    if (!q || (!q->activations && !nib_quantized_feeds(q)) || find(c, module)) return NIB_OK;
    nib_mem *mem = nib_ctx_mem(c->ctx);
    if (c->count == c->room) {
        const size_t room = c->room ? c->room * 2 : 32;
        watched *grown =
            nib_mem_realloc(mem, c->modules, c->room * sizeof *grown, room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        c->modules = grown;
        c->room = room;
    }
    char *name = nib_mem_strdup(mem, dotted);
    if (!name) return nib_last_error()->status;
    c->modules[c->count++] =
        (watched){.module = module,
                  .name = name,
                  .streamline = nib_config_option_is(q->config, "streamline", "on"),
                  .upstream = nib_config_option_is(q->config, "calibration", "upstream"),
                  .momentum = decimal(nib_config_option_float(q->config, "momentum"))};
    return NIB_OK;
}

nib_status nib_calibrate_begin(nib_module *root, const nib_config *config,
                               const nib_select *select) {
    if (!root) return nib_last_error()->status;
    nib_ctx *ctx = nib_module_ctx(root);
    if (config) NIB_TRY(nib_quantize(root, config, select));
    calibrating *c = nib_mem_alloc_zero(nib_ctx_mem(ctx), sizeof *c);
    if (!c) return nib_last_error()->status;
    c->ctx = ctx;
    c->root = root;
    nib_status status = nib_module_walk(root, watch, c);
    if (status >= NIB_OK && !c->count)
        status = NIB_RAISE(NIB_E_ARGUMENT, "no module has anything to calibrate; quantize with "
                                           "activations, such as \"qint8\", or algo gptq, first");
    if (status >= NIB_OK) status = nib_mode_push(ctx, &mode, c);
    if (status < NIB_OK) release(c);
    return status;
}

nib_status nib_calibrate_end(nib_module *root, nib_calibration *report) {
    if (!root) return nib_last_error()->status;
    nib_ctx *ctx = nib_module_ctx(root);
    calibrating *c = ctx->nmodes ? ctx->modes[ctx->nmodes - 1].self : NULL;
    if (!c || ctx->modes[ctx->nmodes - 1].mode != &mode || c->root != root)
        return NIB_RAISE(NIB_E_ARGUMENT, "calibrating this model is not the innermost mode; end "
                                         "the others first");
    NIB_TRY(nib_mode_pop(ctx));
    nib_calibration sum = {0};
    const size_t given =
        report && report->size && report->size < sizeof sum ? report->size : sizeof sum;
    if (report) memcpy(&sum, report, given);
    sum.modules = sum.streamlined = sum.missed = 0;
    for (size_t i = 0; i < c->count; i++) {
        watched *w = &c->modules[i];
        const nib_quantized *q = nib_module_quantized(w->module);
        if (!w->upstream) streamline(w);
        sum.modules++;
        sum.streamlined += q->activations && !q->output;
        sum.missed += !w->batches;
        if (!sum.row) continue;
        sum.row(sum.user,
                &(nib_calibrated){.name = w->name,
                                  .input_scale = nib_module_scale(w->module, "input_scale"),
                                  .output_scale = nib_module_scale(w->module, "output_scale"),
                                  .inputs = q->input != 0,
                                  .outputs = q->output != 0,
                                  .batches = w->batches});
    }
    if (report) memcpy(report, &sum, given);
    release(c);
    return NIB_OK;
}
