/* quantize.c: quantize the weights of modules in memory, all of them or none. New tensors are
 * made first and kept aside; only when every one is there do the modules get them. */
#include <math.h>
#include <nibble/nn.h>
#include <string.h>

#include "base/error.h"
#include "flow/measure.h"
#include "flow/select.h"
#include "nn/quantized.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

typedef struct change {
    nib_module *module;
    nib_tensor *weight;       /* NULL: the module is to carry the config instead */
    const nib_config *config; /* of the selection */
} change;

typedef struct work {
    const nib_selection *selection;
    change *changes;
    size_t count, room;
    int matched, left, unfit, already;
    size_t bytes_before, bytes_after;
} work;

static void report_row(const work *w, const nib_report_row *row) {
    const nib_report *r = w->selection->select.report;
    if (r && r->row) r->row(r->user, row);
}

static nib_status keep_change(work *w, nib_ctx *ctx, nib_module *module, nib_tensor *weight,
                              const nib_config *config) {
    if (w->count == w->room) {
        const size_t room = w->room ? w->room * 2 : 32;
        change *grown = nib_mem_realloc(nib_ctx_mem(ctx), w->changes, w->room * sizeof *grown,
                                        room * sizeof *grown);
        if (!grown) {
            nib_tensor_free(weight);
            return nib_last_error()->status;
        }
        w->changes = grown;
        w->room = room;
    }
    w->changes[w->count++] = (change){module, weight, config};
    return NIB_OK;
}

/* Error of the codes against the weight, a run of rows at a time. */
static nib_status measure(nib_ctx *ctx, const nib_tensor *weight, const nib_site *site,
                          const nib_tensor *quantized, nib_measure *out) {
    enum { RUN = 16 };
    nib_tensor *matrix = nib_scheme_matrix(weight, site, &quantized->desc);
    if (!matrix) return nib_last_error()->status;
    const int64_t rows = quantized->desc.rows, cols = quantized->desc.cols;
    const size_t floats = (size_t)(RUN * cols), scratch = nib_rows_scratch_size(quantized, RUN);
    const size_t size = 2 * floats * sizeof(float) + scratch;
    float *before = nib_mem_alloc(nib_ctx_mem(ctx), size);
    if (!before) {
        nib_tensor_free(matrix);
        return nib_last_error()->status;
    }
    float *after = before + floats;
    for (int64_t row = 0; row < rows; row += RUN) {
        const int64_t n = rows - row < RUN ? rows - row : RUN;
        nib_rows_to_f32(matrix, row, n, before, after + floats);
        nib_rows_to_f32(quantized, row, n, after, after + floats);
        nib_measure_add(out, before, after, n * cols);
    }
    nib_mem_free(nib_ctx_mem(ctx), before, size);
    nib_tensor_free(matrix);
    return NIB_OK;
}

/* Do modules of this kind keep what they have and carry the config: until they are frozen, or for
 * their activations alone? */
static bool carries(const nib_config *config, const char *site) {
    bool weight = true;
    nib_act in = {0}, out = {0};
    if (!config->scheme->module || !config->scheme->module(config, site, &weight, &in, &out))
        return false;
    return !weight || in.when == NIB_ACT_STATIC || out.when == NIB_ACT_STATIC ||
           nib_config_option_int(config, "unfrozen") ||
           nib_config_option_is(config, "algo", "gptq"); /* which waits for data */
}

static nib_status quantize_one(work *w, const char *name, nib_module *module,
                               const nib_tensor *weight, const nib_config *config) {
    nib_ctx *ctx = nib_module_ctx(module);
    const nib_site site = {.kind = nib_module_site(module),
                           .name = name,
                           .shape = weight->shape,
                           .dtype = weight->dtype};
    nib_codes codes;
    nib_status status = nib_scheme_codes(config, &site, weight, &codes);
    if (status < NIB_OK) {
        const bool unfit = status == NIB_E_SHAPE || status == NIB_E_DTYPE;
        nib_error_at(NULL, name, -1);
        if (!unfit || !w->selection->select.leave_unfit) return status;
        w->left++;
        w->unfit++;
        w->bytes_after += nib_tensor_bytes(weight);
        report_row(w, &(nib_report_row){.name = name,
                                        .scheme = "",
                                        .why_left = nib_last_error()->what,
                                        .bytes_before = nib_tensor_bytes(weight),
                                        .bytes_after = nib_tensor_bytes(weight),
                                        .weights = nib_tensor_count(weight)});
        return NIB_OK;
    }
    const nib_layout *layout = nib_layout_for(&codes.desc);
    nib_tensor *quantized = layout ? nib_pack_tensor(ctx, layout, &codes) : NULL;
    nib_codes_free(nib_ctx_mem(ctx), &codes);
    nib_measure cost = {0};
    if (!quantized || nib_scheme_note(quantized, config) < NIB_OK ||
        measure(ctx, weight, &site, quantized, &cost) < NIB_OK) {
        nib_tensor_free(quantized);
        return nib_error_at(NULL, name, -1);
    }
    nib_text text = {.mem = nib_ctx_mem(ctx)};
    nib_config_print(config, &text);
    const nib_report_row row = {.name = name,
                                .scheme = text.data ? text.data : "",
                                .bytes_before = nib_tensor_bytes(weight),
                                .bytes_after = nib_tensor_bytes(quantized),
                                .sqnr_db = nib_measure_sqnr_db(&cost),
                                .max_error = cost.max_error,
                                .weights = nib_tensor_count(weight)};
    w->bytes_after += row.bytes_after;
    report_row(w, &row);
    nib_text_free(&text);
    if (carries(config, site.kind)) {
        nib_tensor_free(quantized);
        quantized = NULL;
    }
    return keep_change(w, ctx, module, quantized, config);
}

/* A module that stands in the tree under two names is one module. */
static bool is_changed(const work *w, const nib_module *module) {
    for (size_t i = 0; i < w->count; i++)
        if (w->changes[i].module == module) return true;
    return false;
}

/* Norms have no weight to quantize; some schemes quantize what they give. */
static nib_status visit_norm(work *w, const char *dotted, nib_module *module) {
    const char *why_left;
    const nib_candidate candidate = {.name = dotted, .module = module, .linear = true};
    const nib_config *config = nib_selection_config(w->selection, &candidate, &why_left);
    if (!config || !carries(config, "layer_norm")) return NIB_OK;
    return keep_change(w, nib_module_ctx(module), module, NULL, config);
}

static nib_status visit(void *user, const char *dotted, nib_module *module) {
    work *w = user;
    const char *site = nib_module_site(module);
    if (!site || is_changed(w, module)) return NIB_OK;
    if (strcmp(site, "layer_norm") == 0) return visit_norm(w, dotted, module);
    const nib_tensor *weight = nib_module_parameter(module, "weight");
    const char *why_left;
    const nib_candidate candidate = {.name = dotted,
                                     .module = module,
                                     .linear = !weight->layout,
                                     .head = nib_module_is_head(module),
                                     .why_not = "quantized already"};
    const nib_config *config = nib_selection_config(w->selection, &candidate, &why_left);
    const bool conv = strcmp(site, "conv2d") == 0;
    if (conv && (!config || !config->scheme->module)) return NIB_OK; /* of linears only */
    if (config && weight->layout)
        return NIB_RAISE(NIB_E_ARGUMENT, "%s is quantized already (%s); quantize a float model",
                         dotted, weight->layout->name);
    w->bytes_before += nib_tensor_bytes(weight);
    if (config) {
        w->matched++;
        return quantize_one(w, dotted, module, weight, config);
    }
    w->left++;
    w->already += weight->layout != NULL;
    w->bytes_after += nib_tensor_bytes(weight);
    report_row(w, &(nib_report_row){.name = dotted,
                                    .scheme = "",
                                    .why_left = why_left,
                                    .bytes_before = nib_tensor_bytes(weight),
                                    .bytes_after = nib_tensor_bytes(weight),
                                    .weights = nib_tensor_count(weight)});
    return NIB_OK;
}

/* Modules that carry a config are changed first, since only that can fail; a failure takes those
 * that were changed back. */
static nib_status carry_all(work *w) {
    for (size_t i = 0; i < w->count; i++) {
        if (w->changes[i].weight ||
            nib_module_quantize(w->changes[i].module, w->changes[i].config) >= NIB_OK)
            continue;
        while (i-- > 0)
            if (!w->changes[i].weight) nib_module_unquantize(w->changes[i].module);
        return nib_last_error()->status;
    }
    return NIB_OK;
}

nib_status nib_quantize_rules(nib_module *root, const nib_rule *rules, size_t n,
                              const nib_select *select) {
    if (!root) return nib_last_error()->status;
    nib_mem *mem = nib_ctx_mem(nib_module_ctx(root));
    nib_selection selection;
    NIB_TRY(nib_selection_open(mem, rules, n, select, &selection));
    work w = {.selection = &selection};
    nib_status status = nib_module_walk(root, visit, &w);
    if (status >= NIB_OK && !w.matched && !w.count) /* a norm counts as well */
        status = NIB_RAISE(NIB_E_ARGUMENT, "no Linear matches%s%s%s%s%s",
                           selection.select.include ? " include " : "",
                           selection.select.include ? selection.select.include : "",
                           selection.select.exclude ? " less exclude " : "",
                           selection.select.exclude ? selection.select.exclude : "",
                           w.already ? "; weights that are quantized already stay as they are, "
                                       "quantize the float model"
                                     : "");
    if (status >= NIB_OK) status = carry_all(&w);
    for (size_t i = 0; i < w.count; i++) {
        if (!w.changes[i].weight) continue;
        if (status >= NIB_OK) /* replaces a parameter that is there: cannot fail */
            (void)nib_module_set(w.changes[i].module, "weight", w.changes[i].weight);
        else
            nib_tensor_free(w.changes[i].weight);
    }
    nib_report *report = selection.select.report;
    if (status >= NIB_OK && report) {
        report->matched = w.matched;
        report->quantized = w.matched - w.unfit;
        report->left = w.left;
        report->bytes_before = w.bytes_before;
        report->bytes_after = w.bytes_after;
    }
    nib_mem_free(mem, w.changes, w.room * sizeof *w.changes);
    nib_selection_close(&selection);
    return status;
}

nib_status nib_quantize(nib_module *root, const nib_config *config, const nib_select *select) {
    return nib_quantize_rules(root, &(nib_rule){"*", config}, 1, select);
}
