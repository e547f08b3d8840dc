/* smooth.c: scales moved between a norm, or a linear whose rows feed columns one by one, and the
 * linears after it; the function stays, and what is hard to quantize moves to where it is easy.
 *
 *   norm.weight[j] /= s[j], norm.bias[j] /= s[j]      W[:, j] *= s[j]
 *
 * Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
 * Models", 2023, with the constants of optimum-quanto's script; Lin et al., "AWQ: Activation-aware
 * Weight Quantization for LLM Compression and Acceleration", 2024: the power of the mean |x| is
 * searched for, here over all linears of a place together. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "model/samples.h"
#include "model/scorer.h"
#include "nn/quantized.h"
#include "quant/codes.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { TARGETS = 3, MAX_ROWS = 256, STRIDE = 37, POWERS = 20 };

/* Names below a layer. AWQ alone uses places whose source is a linear. */
static const struct place_names {
    const char *source, *targets[TARGETS];
    bool linear;
} known[] = {
    {"input_layernorm", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, false},
    {"post_attention_layernorm", {"mlp.gate_proj", "mlp.up_proj"}, false},
    {"mlp.up_proj", {"mlp.down_proj"}, true},
    {"self_attn.v_proj", {"self_attn.o_proj"}, true},
    {"self_attn_layer_norm", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, false},
    {"final_layer_norm", {"fc1"}, false},
    {"input_layernorm", {"self_attention.query_key_value"}, false},
    {"post_attention_layernorm", {"mlp.dense_h_to_4h"}, false},
};

typedef struct place {
    nib_module *source, *targets[TARGETS];
    int ntargets;
    bool linear;
    int64_t K, rows, seen;
    float *most, *sum, *x; /* [K] largest and summed |x|; [MAX_ROWS, K] rows of it */
} place;

typedef struct smoothing {
    nib_ctx *ctx;
    nib_mem *mem;
    bool search;
    place *places;
    size_t count, room;
} smoothing;

/* ---- places ---- */

static bool is_float_matrix(const nib_module *m) {
    const nib_tensor *w = m ? nib_module_parameter(m, "weight") : NULL;
    return w && !w->layout && w->shape.ndim == 2 && nib_tensor_contiguous(w);
}

static nib_status add_place(smoothing *s, nib_module *layer, const struct place_names *names) {
    place p = {.source = nib_module_child(layer, names->source), .linear = names->linear};
    const nib_tensor *weight = p.source ? nib_module_parameter(p.source, "weight") : NULL;
    for (int i = 0; i < TARGETS && names->targets[i]; i++) {
        nib_module *target = nib_module_child(layer, names->targets[i]);
        if (!is_float_matrix(target)) return NIB_OK;
        p.targets[p.ntargets++] = target;
    }
    if (!weight || weight->layout || (p.linear && (!s->search || !is_float_matrix(p.source))))
        return NIB_OK;
    p.K = nib_module_parameter(p.targets[0], "weight")->shape.dim[1];
    if (weight->shape.dim[0] != p.K) return NIB_OK; /* grouped heads, or a norm of something else */
    if (s->count == s->room) {
        const size_t room = s->room ? s->room * 2 : 32;
        place *grown =
            nib_mem_realloc(s->mem, s->places, s->room * sizeof *grown, room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        s->places = grown;
        s->room = room;
    }
    const size_t K = (size_t)p.K;
    p.most = nib_mem_alloc_array(s->mem, K * (2 + MAX_ROWS), sizeof *p.most);
    if (!p.most) return nib_last_error()->status;
    p.sum = p.most + K;
    p.x = p.sum + K;
    s->places[s->count++] = p;
    return NIB_OK;
}

static nib_status find_places(void *user, const char *dotted, nib_module *module) {
    (void)dotted;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        NIB_TRY(add_place(user, module, &known[i]));
    return NIB_OK;
}

/* ---- what comes in ---- */

static nib_status enter_module(void *self, nib_module *module, nib_tensor **input) {
    smoothing *s = self;
    const nib_tensor *x = *input;
    for (size_t i = 0; i < s->count; i++) {
        place *p = &s->places[i];
        if (p->targets[0] != module) continue; /* its companions see the same */
        const int64_t rows = nib_tensor_count(x) / p->K;
        const float *data = nib_tensor_data(x);
        for (int64_t m = 0; m < rows; m++) {
            const float *x_m = data + m * p->K;
            for (int64_t k = 0; k < p->K; k++) {
                const float size = fabsf(x_m[k]);
                p->sum[k] += size;
                if (size > p->most[k]) p->most[k] = size;
            }
            if (p->seen++ % STRIDE == 0 && p->rows < MAX_ROWS)
                memcpy(p->x + p->rows++ * p->K, x_m, (size_t)p->K * sizeof *x_m);
        }
    }
    return NIB_OK;
}

static const nib_mode mode = {.name = "smooth", .enter_module = enter_module};

/* ---- choosing ---- */

/* A copy of a weight in f32, caller owns. */
static float *floats_of(nib_mem *mem, const nib_tensor *t) {
    float *out = nib_mem_alloc_array(mem, (size_t)nib_tensor_count(t), sizeof *out);
    if (out) nib_to_f32(t->dtype, out, nib_tensor_data(t), (size_t)nib_tensor_count(t));
    return out;
}

static void put(nib_ctx *ctx, nib_dtype dtype, void *to, const float *from, size_t n) {
    if (dtype == NIB_F16)
        ctx->kernels.f32_to_f16(to, from, n);
    else if (dtype == NIB_BF16)
        ctx->kernels.f32_to_bf16(to, from, n);
    else
        memcpy(to, from, n * sizeof *from);
}

/* rows of t divided, or columns multiplied, as a new tensor; caller owns. */
static nib_tensor *scaled(nib_ctx *ctx, const nib_tensor *t, const float *s, bool divide) {
    nib_mem *mem = nib_ctx_mem(ctx);
    const int64_t count = nib_tensor_count(t), rows = t->shape.dim[0], cols = count / rows;
    float *w = floats_of(mem, t);
    nib_tensor *out = w ? nib_tensor_new(ctx, t->dtype, t->shape) : NULL;
    for (int64_t i = 0; out && i < count; i++)
        w[i] = divide ? w[i] / s[i / cols] : w[i] * s[i % cols];
    if (out) put(ctx, t->dtype, nib_tensor_data_mut(out), w, (size_t)count);
    nib_mem_free(mem, w, (size_t)count * sizeof *w);
    return out;
}

static nib_status choose_smooth(const smoothing *c, const place *p, double alpha, float *s) {
    for (int64_t k = 0; k < p->K; k++) s[k] = 1e-5f;
    for (int i = 0; i < p->ntargets; i++) {
        const nib_tensor *t = nib_module_parameter(p->targets[i], "weight");
        float *w = floats_of(c->mem, t);
        if (!w) return nib_last_error()->status;
        for (int64_t n = 0; n < nib_tensor_count(t); n++)
            if (fabsf(w[n]) > s[n % p->K]) s[n % p->K] = fabsf(w[n]);
        nib_mem_free(c->mem, w, (size_t)nib_tensor_count(t) * sizeof *w);
    }
    for (int64_t k = 0; k < p->K; k++)
        s[k] = (float)fmax(1e-5, pow((double)p->most[k], alpha) / pow((double)s[k], 1 - alpha));
    return NIB_OK;
}

/* What the codes of W s miss of the outputs, for the rows at hand. */
static nib_status missed(const smoothing *c, const place *p, const nib_config *config,
                         const float *s, double *loss) {
    nib_status status = NIB_OK;
    *loss = 0;
    for (int i = 0; i < p->ntargets && status >= NIB_OK; i++) {
        const nib_tensor *t = nib_module_parameter(p->targets[i], "weight");
        const size_t mark = nib_scope_begin(c->ctx);
        nib_tensor *w = scaled(c->ctx, t, s, false);
        nib_tensor *back = w ? nib_dequantize(nib_quantize_tensor(w, config)) : NULL;
        float *v = back ? floats_of(c->mem, back) : NULL, *u = v ? floats_of(c->mem, t) : NULL;
        const int64_t N = t->shape.dim[0], K = p->K;
        if (!u) status = nib_last_error()->status;
        for (int64_t n = 0; u && n < N; n++) {
            for (int64_t k = 0; k < K; k++) v[n * K + k] = v[n * K + k] / s[k] - u[n * K + k];
            for (int64_t m = 0; m < p->rows; m++) {
                const float e = c->ctx->kernels.dot_f32(v + n * K, p->x + m * K, (size_t)K);
                *loss += (double)e * (double)e;
            }
        }
        nib_mem_free(c->mem, u, (size_t)(N * K) * sizeof *u);
        nib_mem_free(c->mem, v, (size_t)(N * K) * sizeof *v);
        nib_tensor_free(w);
        nib_scope_end(c->ctx, mark);
    }
    return status;
}

static nib_status choose_search(const smoothing *c, const place *p, const nib_config *config,
                                float *s) {
    double best = INFINITY;
    float *tried = nib_mem_alloc_array(c->mem, (size_t)p->K, sizeof *tried);
    nib_status status = tried ? NIB_OK : nib_last_error()->status;
    for (int r = 0; r < POWERS && status >= NIB_OK; r++) {
        const double power = (double)r / POWERS;
        double low = INFINITY, high = 0, loss;
        for (int64_t k = 0; k < p->K; k++) {
            const double mean = (double)p->sum[k] / (double)(p->seen ? p->seen : 1);
            tried[k] = (float)fmax(pow(mean, power), 1e-4);
            low = fmin(low, (double)tried[k]);
            high = fmax(high, (double)tried[k]);
        }
        for (int64_t k = 0; k < p->K; k++) tried[k] = (float)((double)tried[k] / sqrt(low * high));
        status = missed(c, p, config, tried, &loss);
        if (status < NIB_OK || !(loss < best)) continue;
        best = loss;
        memcpy(s, tried, (size_t)p->K * sizeof *s);
    }
    nib_mem_free(c->mem, tried, (size_t)p->K * sizeof *tried);
    return status;
}

/* ---- applying ---- */

static nib_status apply(const smoothing *c, const place *p, const float *s) {
    static const char *const names[] = {"weight", "bias"};
    nib_tensor *made[2 + TARGETS] = {0};
    nib_status status = NIB_OK;
    for (int i = 0; i < 2 && status >= NIB_OK; i++) {
        const nib_tensor *t = nib_module_parameter(p->source, names[i]);
        if (t && !(made[i] = scaled(c->ctx, t, s, true))) status = nib_last_error()->status;
    }
    for (int i = 0; i < p->ntargets && status >= NIB_OK; i++) {
        made[2 + i] = scaled(c->ctx, nib_module_parameter(p->targets[i], "weight"), s, false);
        if (!made[2 + i]) status = nib_last_error()->status;
    }
    for (int i = 0; i < 2 + TARGETS; i++) {
        if (status < NIB_OK)
            nib_tensor_free(made[i]);
        else if (made[i]) /* replaces what is there: cannot fail */
            (void)nib_module_set(i < 2 ? p->source : p->targets[i - 2], i < 2 ? names[i] : "weight",
                                 made[i]);
    }
    return status;
}

/* ---- all of it ---- */

static nib_status run(smoothing *c, nib_model *model, const nib_samples *samples, size_t most,
                      float *first, size_t room) {
    nib_scorer scorer = {0};
    nib_status status = nib_scorer_open(c->ctx, model, NULL, &scorer);
    for (size_t i = 0, begin = 0; i < samples->samples && i < most && status >= NIB_OK;
         begin = samples->ends[i++]) {
        const int64_t count = (int64_t)(samples->ends[i] - begin);
        const float *logits;
        status = nib_samples_begin(samples, i, &scorer);
        if (status >= NIB_OK)
            status = nib_scorer_step(&scorer, samples->ids + begin, 0, count, count, NIB_WANT_LAST,
                                     &logits);
        if (status >= NIB_OK && i == 0) memcpy(first, logits, room * sizeof *first);
    }
    nib_scorer_close(&scorer);
    return status;
}

static nib_status smooth_all(smoothing *c, nib_model *model, const nib_samples *samples,
                             double alpha, const nib_config *config) {
    const size_t V = (size_t)model->hparams.vocab_size;
    float *logits = nib_mem_alloc_array(c->mem, 2 * V, sizeof *logits), *s = NULL;
    nib_status status = logits ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK) status = nib_mode_push(c->ctx, &mode, c);
    if (status >= NIB_OK) {
        status = run(c, model, samples, SIZE_MAX, logits, V);
        nib_mode_pop(c->ctx);
    }
    for (size_t i = 0; i < c->count && status >= NIB_OK; i++) {
        place *p = &c->places[i];
        s = nib_mem_alloc_array(c->mem, (size_t)p->K, sizeof *s);
        status = !s       ? nib_last_error()->status
                 : config ? choose_search(c, p, config, s)
                          : choose_smooth(c, p, alpha, s);
        if (status >= NIB_OK) status = apply(c, p, s);
        nib_mem_free(c->mem, s, (size_t)p->K * sizeof *s);
        if (status >= NIB_OK)
            status = nib_ctx_progress(c->ctx, "smooth", (double)(i + 1), (double)c->count);
    }
    if (status >= NIB_OK) status = run(c, model, samples, 1, logits + V, V);
    double far = 0, size = 0;
    for (size_t k = 0; status >= NIB_OK && k < V; k++) {
        far = fmax(far, fabs((double)logits[k] - (double)logits[V + k]));
        size = fmax(size, fabs((double)logits[k]));
    }
    if (status >= NIB_OK && !(far <= 0.05 * size))
        status = NIB_RAISE(NIB_E_DIFFERS,
                           "smoothing moved logits by %.3g of %.3g: a norm of this "
                           "model feeds more than the linears after it",
                           far, size);
    nib_mem_free(c->mem, logits, 2 * V * sizeof *logits);
    return status;
}

nib_status nib_model_smooth(nib_ctx *ctx, nib_model *model, nib_data *data, double smooth,
                            const nib_config *awq) {
    if (!ctx || !model) return nib_last_error()->status;
    if (!data || !(smooth >= 0 && smooth <= 1) || (!awq && !(smooth > 0)))
        return NIB_RAISE(NIB_E_ARGUMENT, "smoothing needs data, and a power in 0 to 1 or a config");
    nib_data d = {0};
    const size_t known_bytes = data->size && data->size < sizeof d ? data->size : sizeof d;
    memcpy(&d, data, known_bytes);
    smoothing c = {.ctx = ctx, .mem = nib_ctx_mem(ctx), .search = awq != NULL};
    nib_samples samples = {.mem = c.mem};
    nib_status status = nib_module_walk(model->root, find_places, &c);
    if (status >= NIB_OK && !c.count)
        status = NIB_RAISE(NIB_E_UNSUPPORTED,
                           "%s: no norms with float linears after them are known "
                           "in this model",
                           model->path);
    if (status >= NIB_OK) status = nib_samples_read(ctx, model, &d, &samples);
    if (status >= NIB_OK) status = smooth_all(&c, model, &samples, smooth, awq);
    d.tokens = (int64_t)samples.count;
    nib_samples_free(&samples);
    for (size_t i = 0; i < c.count; i++)
        nib_mem_free(c.mem, c.places[i].most,
                     (size_t)c.places[i].K * (2 + MAX_ROWS) * sizeof *c.places[i].most);
    nib_mem_free(c.mem, c.places, c.room * sizeof *c.places);
    if (status >= NIB_OK) memcpy(data, &d, known_bytes);
    return status;
}
