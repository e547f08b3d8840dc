#include "nn/quantized.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "nn/module.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "quant/gptq.h"
#include "quant/layouts.h"
#include "quant/quanto.h"
#include "quant/scheme.h"
#include "quant/sums.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

const char *nib_module_site(const nib_module *m) {
    static const struct {
        const char *kind, *site;
    } sites[] = {{"Linear", "linear"}, {"Conv2d", "conv2d"}, {"LayerNorm", "layer_norm"}};
    const nib_module_kind *kind = nib_module_kind_of(m);
    for (size_t i = 0; kind && i < sizeof sites / sizeof *sites; i++)
        if (strcmp(kind->name, sites[i].kind) == 0) return sites[i].site;
    return NULL;
}

nib_tensor *nib_scale_tensor(nib_ctx *ctx, nib_dtype dtype, float value) {
    nib_tensor *t = nib_tensor_new(ctx, dtype, (nib_shape){0});
    if (!t) return NULL;
    void *to = nib_tensor_data_mut(t);
    if (dtype == NIB_BF16)
        ctx->kernels.f32_to_bf16(to, &value, 1);
    else if (dtype == NIB_F16)
        ctx->kernels.f32_to_f16(to, &value, 1);
    else
        memcpy(to, &value, sizeof value);
    return t;
}

/* That of the weight; f32 for a norm without one. */
static nib_dtype scale_dtype(const nib_module *m) {
    const nib_tensor *weight = nib_module_parameter(m, "weight");
    return weight && nib_quanto_math(weight->dtype) ? weight->dtype : NIB_F32;
}

nib_status nib_module_set_scale(nib_module *m, const char *name, float scale) {
    return nib_module_set_buffer(m, name,
                                 nib_scale_tensor(nib_module_ctx(m), scale_dtype(m), scale));
}

float nib_module_scale(const nib_module *m, const char *name) {
    const nib_tensor *t = nib_module_buffer(m, name);
    float scale = 1;
    if (t) nib_to_f32(t->dtype, &scale, nib_tensor_data(t), 1);
    return scale;
}

/* The config as this module carries it: error feedback is for rows of inputs that meet a weight as
 * they are, as a Linear's do; a convolution's codes are searched for without data. */
static nib_config *carried(const nib_config *config, const char *site) {
    if (strcmp(site, "linear") == 0 || !nib_config_option_is(config, "algo", "gptq"))
        return nib_config_copy(config);
    static const char was[] = "algo=gptq", is[] = "algo=mse";
    nib_text text = {0};
    nib_config_print(config, &text);
    char *at = text.failed ? NULL : strstr(text.data, was);
    if (at) {
        memcpy(at, is, sizeof is - 1);
        memmove(at + sizeof is - 1, at + sizeof was - 1, strlen(at + sizeof was - 1) + 1);
    }
    nib_config *out = at ? nib_config_parse(text.data) : NULL;
    nib_text_free(&text);
    return out;
}

nib_status nib_module_quantize(nib_module *m, const nib_config *config) {
    const char *site = nib_module_site(m);
    nib_act in = {0}, out = {0};
    bool weight = false;
    if (!site || !config->scheme->module ||
        !config->scheme->module(config, site, &weight, &in, &out))
        return NIB_RAISE(NIB_E_ARGUMENT, "%s leaves a %s as it is", config->scheme->name,
                         nib_module_kind_of(m)->name);
    nib_mem *mem = nib_ctx_mem(nib_module_ctx(m));
    nib_quantized *q = nib_mem_alloc_zero(mem, sizeof *q);
    if (!q) return nib_last_error()->status;
    *q = (nib_quantized){.config = carried(config, site),
                         .weight = weight,
                         .input = in.when == NIB_ACT_STATIC ? in.dtype : (nib_dtype)0,
                         .output = out.when == NIB_ACT_STATIC ? out.dtype : (nib_dtype)0};
    q->activations = q->output ? q->output : q->input;
    nib_module_unquantize(m);
    nib_module_carry(m, q);
    if (q->config && nib_module_set_scale(m, "input_scale", 1) >= NIB_OK &&
        nib_module_set_scale(m, "output_scale", 1) >= NIB_OK)
        return NIB_OK;
    nib_module_unquantize(m);
    return nib_last_error()->status;
}

void nib_module_unquantize(nib_module *m) {
    nib_quantized *q = nib_module_quantized(m);
    if (!q) return;
    nib_module_carry(m, NULL);
    nib_module_drop(m, "input_scale");
    nib_module_drop(m, "output_scale");
    nib_quantized_free(nib_ctx_mem(nib_module_ctx(m)), q);
}

void nib_quantized_free(nib_mem *mem, nib_quantized *q) {
    if (!q) return;
    nib_config_free(q->config);
    nib_mem_free(mem, q->sums, (size_t)(q->K * q->K) * sizeof *q->sums);
    nib_mem_free(mem, q->outs, (size_t)(q->N * q->N) * sizeof *q->outs);
    nib_mem_free(mem, q, sizeof *q);
}

bool nib_quantized_feeds(const nib_quantized *q) {
    return q && q->weight && nib_config_option_is(q->config, "algo", "gptq");
}

nib_status nib_quantized_feed(nib_ctx *ctx, nib_quantized *q, const nib_tensor *x) {
    const int64_t K = x->shape.ndim ? x->shape.dim[x->shape.ndim - 1] : 0;
    if (x->layout || x->dtype != NIB_F32 || !nib_tensor_contiguous(x) || K < 1)
        return NIB_RAISE(NIB_E_DTYPE, "error feedback looks at inputs of f32 floats");
    if (!q->sums) {
        q->sums = nib_mem_alloc_array(nib_ctx_mem(ctx), (size_t)(K * K), sizeof *q->sums);
        if (!q->sums) return nib_last_error()->status;
        q->K = K;
    }
    if (q->K != K)
        return NIB_RAISE(NIB_E_SHAPE, "inputs had %lld columns and now have %lld", (long long)q->K,
                         (long long)K);
    return nib_sums_add(ctx, q->sums, nib_tensor_data(x), NULL, nib_tensor_count(x) / K, K);
}

static double *sums_of(nib_ctx *ctx, double **sums, int64_t *have, int64_t want) {
    if (!*sums) {
        *sums = nib_mem_alloc_array(nib_ctx_mem(ctx), (size_t)(want * want), sizeof **sums);
        *have = want;
    }
    if (*sums && *have != want)
        return NIB_RAISE_NULL(NIB_E_SHAPE, "a module had %lld columns and now has %lld",
                              (long long)*have, (long long)want);
    return *sums;
}

nib_status nib_quantized_sense(nib_ctx *ctx, nib_quantized *q, const float *x, const float *g,
                               int64_t M, int64_t K, int64_t N) {
    /* More would take 128 MiB and up for each linear: then inputs are weighed alone. */
    enum { MOST_OUTPUTS = 4096 };
    if (!sums_of(ctx, &q->sums, &q->K, K) ||
        (N <= MOST_OUTPUTS && !sums_of(ctx, &q->outs, &q->N, N)))
        return nib_last_error()->status;
    nib_mem *mem = nib_ctx_mem(ctx);
    float *weight = nib_mem_alloc_array(mem, (size_t)M, sizeof *weight);
    if (!weight) return nib_last_error()->status;
    for (int64_t m = 0; m < M; m++) {
        const float *g_m = g + m * N;
        weight[m] = sqrtf(ctx->kernels.sum_squares_f32(g_m, (size_t)N) / (float)N);
    }
    nib_status status = nib_sums_add(ctx, q->sums, x, weight, M, K);
    if (status >= NIB_OK && q->outs) status = nib_sums_add(ctx, q->outs, g, NULL, M, N);
    nib_mem_free(mem, weight, (size_t)M * sizeof *weight);
    return status;
}

void nib_quantized_forget_inputs(nib_module *m) {
    nib_quantized *q = nib_module_quantized(m);
    if (!q) return;
    nib_mem *mem = nib_ctx_mem(nib_module_ctx(m));
    nib_mem_free(mem, q->sums, (size_t)(q->K * q->K) * sizeof *q->sums);
    nib_mem_free(mem, q->outs, (size_t)(q->N * q->N) * sizeof *q->outs);
    q->sums = q->outs = NULL;
    q->K = q->N = 0;
}

/* The codes that error feedback gives. */
static nib_tensor *fed_weight(const nib_quantized *q, const nib_tensor *weight, const float *more) {
    const nib_site site = {"linear", "weight", weight->shape, weight->dtype};
    nib_qdesc desc;
    nib_act in, out;
    nib_codes codes;
    NIB_TRY_NULL(nib_scheme_plan(q->config, &site, &desc, &in, &out));
    if (q->K != desc.cols)
        return NIB_RAISE_NULL(NIB_E_SHAPE, "inputs had %lld columns, the weight has %lld",
                              (long long)q->K, (long long)desc.cols);
    nib_mem *mem = nib_ctx_mem(weight->ctx);
    NIB_TRY_NULL(nib_codes_alloc(mem, &desc, &codes));
    nib_tensor *t = NULL;
    const nib_layout *layout = nib_layout_for(&desc);
    if (layout &&
        nib_gptq(weight->ctx, nib_tensor_data(weight), more, q->sums, q->outs, &codes) >= NIB_OK)
        t = nib_pack_tensor(weight->ctx, layout, &codes);
    nib_codes_free(mem, &codes);
    if (t && nib_scheme_note(t, q->config) < NIB_OK) {
        nib_tensor_free(t);
        t = NULL;
    }
    return nib_scope_own(weight->ctx, t);
}

nib_tensor *nib_module_frozen_weight(nib_module *m) {
    const nib_quantized *q = nib_module_quantized(m);
    const nib_tensor *weight = nib_module_parameter(m, "weight");
    if (!nib_quantized_feeds(q) || !weight || weight->layout) return nib_module_weight(m);
    return nib_module_fed_weight(m, NULL);
}

nib_tensor *nib_module_fed_weight(nib_module *m, const float *more) {
    const nib_quantized *q = nib_module_quantized(m);
    if (q->sums) return fed_weight(q, nib_module_parameter(m, "weight"), more);
    return NIB_RAISE_NULL(NIB_E_ARGUMENT, "error feedback (gptq) saw no inputs of this module; run "
                                          "data through it between nib_calibrate_begin and _end");
}

nib_tensor *nib_module_weight(nib_module *m) {
    nib_tensor *weight = m->weight;
    const nib_quantized *q = m->quantized;
    if (!weight || !q || !q->weight || weight->layout) return weight;
    if (nib_quantized_feeds(q)) return weight; /* float until what its codes depend on is known */
    return nib_quantize_weight(weight, q->config);
}

nib_status nib_quantized_enter(nib_module *m, nib_tensor **x) {
    const nib_quantized *q = nib_module_quantized(m);
    if (!q->input || !nib_tensor_count(*x)) return NIB_OK;
    if (nib_act8_is(*x)) {
        if ((*x)->desc.code == q->input) return NIB_OK;
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "a %s takes activations of %s, and what comes in is quantized to %s; "
                         "give both modules one type",
                         nib_module_kind_of(m)->name, nib_dtype_name(q->input),
                         nib_dtype_name((*x)->desc.code));
    }
    if (nib_conv_module_quantizes(m, *x)) return NIB_OK;
    *x = nib_quantize_activation(*x, nib_module_buffer(m, "input_scale"), q->input);
    return *x ? NIB_OK : nib_last_error()->status;
}

bool nib_quantized_makes_codes(const nib_module *m, const nib_tensor *x) {
    const nib_quantized *q = nib_module_quantized(m);
    return q && q->output && x && !x->ctx->nmodes && nib_tensor_count(x);
}

nib_status nib_quantized_leave(nib_module *m, nib_tensor **y) {
    const nib_quantized *q = nib_module_quantized(m);
    if (!q->output || !nib_tensor_count(*y)) return NIB_OK;
    if (nib_act8_is(*y) && (*y)->desc.code == q->output) return NIB_OK;
    *y = nib_quantize_activation(*y, nib_module_buffer(m, "output_scale"), q->output);
    return *y ? NIB_OK : nib_last_error()->status;
}
