#include "model/file_plan.h"

#include <string.h>

#include "base/error.h"
#include "base/text_util.h"
#include "flow/candidate.h"
#include "io/config_text.h"
#include "io/tensor_writer.h"
#include "model/across.h"
#include "model/file_config.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

void nib_file_plan_close(nib_file_plan *p) {
    for (size_t i = 0; i < p->items_room; i++) nib_mem_strfree(p->mem, p->items[i].why_left);
    nib_mem_free(p->mem, p->items, p->items_room * sizeof *p->items);
    nib_manifest_free(&p->manifest);
    nib_selection_close(&p->selection);
    if (p->config) json_decref(p->config);
    nib_mem_strfree(p->mem, p->config_text);
    nib_checkpoint_close(p->source);
    *p = (nib_file_plan){0};
}

/* Quantizing what is quantized already would need its floats, which are gone. */
static nib_status refuse_quantized(const nib_file_plan *p) {
    nib_manifest now;
    NIB_TRY(nib_manifest_read(p->mem, p->source, p->config, &now));
    const char *name = now.format ? now.format->name : NULL;
    nib_manifest_free(&now);
    const json_t *about = nib_format_about(p->config);
    if (!name) name = nib_format_method(p->config);
    if (!about && !name) return NIB_OK;
    NIB_RAISE(NIB_E_ARGUMENT,
              "this checkpoint is quantized already (%s); quantize the float one it came from",
              name ? name : "quantization_config");
    return nib_error_at(p->source->path, NULL, -1);
}

static nib_status plan_one(nib_file_plan *p, const char *name, const nib_checkpoint_tensor *t,
                           nib_file_item *item, nib_draft *d) {
    nib_tensor_candidate c;
    NIB_TRY(nib_tensor_candidate_of(name, t->entry->dtype, &t->entry->shape, &c));
    const char *why_left;
    *item = (nib_file_item){.source = t, .kind = c.kind, .matrix = c.matrix};
    *d = (nib_draft){
        .name = name, .dtype = t->entry->dtype, .shape = t->entry->shape, .shard = t->shard};
    d->config = nib_selection_config(&p->selection, &c.candidate, &why_left);
    if (d->config) {
        nib_site site = {c.kind, c.name, t->entry->shape, t->entry->dtype};
        item->across = p->has_across && t->entry->shape.ndim == 2 && nib_across_name(name);
        if (item->across) site.shape = nib_across_shape(&t->entry->shape);
        nib_act in = {0}, out = {0};
        const nib_status status = d->config->scheme->plan(d->config, &site, &d->desc, &in, &out);
        d->quantized = status >= NIB_OK;
        d->across = d->quantized && item->across;
        if (d->across) d->shape = site.shape;
        if (d->quantized && (in.when == NIB_ACT_STATIC || out.when == NIB_ACT_STATIC)) {
            NIB_RAISE(NIB_E_ARGUMENT, "static activations are calibrated with data, which no file "
                                      "of weights has: use nibble calibrate");
            return nib_error_at(NULL, c.name, -1);
        }
        if (d->quantized) return NIB_OK;
        item->across = false;
        nib_error_at(NULL, c.name, -1);
        if ((status != NIB_E_SHAPE && status != NIB_E_DTYPE) || !p->selection.select.leave_unfit)
            return status;
        d->config = NULL;
        why_left = nib_last_error()->what;
    }
    if (!why_left || !c.matrix) return NIB_OK;
    item->why_left = nib_mem_strdup(p->mem, why_left);
    return item->why_left ? NIB_OK : nib_last_error()->status;
}

/* Only our own format can do without knowing how the codes were made, and holds what lies across:
 * the libraries of the others leave such weights float. */
static const nib_layout *layout_in(const nib_format *format, const nib_draft *d) {
    if (d->across && strcmp(format->name, "native") != 0) return NULL;
    return d->config || strcmp(format->name, "native") == 0 ? format->layout(d->config, &d->desc)
                                                            : NULL;
}

/* Unasked, the format of the schemes' system; native where systems mix, or where that system has no
 * word for a stack of matrices or for GPT-2's linears, so that such a model quantizes like any
 * other. */
static const nib_format *choose_format(const nib_draft *drafts, size_t count, const char *asked) {
    const char *system = NULL;
    if (asked) {
        const nib_format *found = nib_format_find(asked);
        if (found) return found;
        const char *names[16] = {0};
        for (size_t i = 0; nib_format_at(i) && i < 15; i++) names[i] = nib_format_at(i)->name;
        const char *near = nib_text_nearest(asked, names);
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "unknown format \"%s\"%s%s%s", asked,
                              near ? ", did you mean \"" : "; `nibble list formats` shows them",
                              near ? near : "", near ? "\"?" : "");
    }
    for (size_t i = 0; i < count; i++) {
        if (!drafts[i].quantized) continue;
        const char *own = drafts[i].config ? drafts[i].config->scheme->system : "native";
        if (system && strcmp(system, own) != 0) return nib_format_find("native");
        system = own;
    }
    const nib_format *own = system ? nib_format_find(system) : NULL;
    for (size_t i = 0; own && i < count; i++)
        if (drafts[i].quantized && (drafts[i].shape.ndim > 2 || drafts[i].across) &&
            !layout_in(own, &drafts[i]))
            own = NULL;
    return own ? own : nib_format_find("native");
}

static nib_status refuse_format(const nib_format *format, const nib_draft *d) {
    nib_text able = {0}, scheme = {0};
    for (size_t i = 0; nib_format_at(i); i++)
        if (layout_in(nib_format_at(i), d))
            nib_text_format(&able, "%s%s", able.length ? ", " : "", nib_format_at(i)->name);
    if (d->config) nib_config_print(d->config, &scheme);
    char shape[96];
    NIB_RAISE(NIB_E_ARGUMENT, "format %s cannot hold %s of %s %s%s%s%s; formats that can: %s",
              format->name, scheme.data ? scheme.data : "codes of an unknown scheme",
              nib_dtype_torch_name(d->dtype), nib_shape_text(&d->shape, shape, sizeof shape),
              d->across ? ", a Conv1D, which its library leaves float" : "",
              format->wants ? "; it holds " : "", format->wants ? format->wants : "",
              able.data ? able.data : "none");
    nib_text_free(&able);
    nib_text_free(&scheme);
    return nib_error_at(NULL, d->name, -1);
}

/* A language model whose head is the embedding has that weight under two names. */
static bool is_tied_language_model(const nib_file_plan *p) {
    const char *kind =
        json_string_value(json_array_get(json_object_get(p->config, "architectures"), 0));
    bool has_table = false;
    for (const char *const *table = nib_tied_tables; *table; table++)
        has_table |= nib_manifest_find(&p->manifest, *table) != NULL;
    return nib_file_config_tied(p->config) && kind &&
           (nib_text_ends(kind, "ForCausalLM") || nib_text_ends(kind, "LMHeadModel")) &&
           has_table && !nib_manifest_find(&p->manifest, nib_file_config_head(p->config));
}

nib_status nib_file_plan_to(nib_file_plan *p, const char *to) {
    const nib_format *format = p->manifest.format;
    const bool single = to && nib_tensor_writer_is_name(to);
    p->to = to;
    p->manifest.alone = single || !p->config;
    if (!single || !format || !format->side_file) return NIB_OK;
    NIB_RAISE(NIB_E_ARGUMENT,
              "format %s keeps a further file beside the weights; name a folder, or use native",
              format->name);
    return nib_error_at(to, NULL, -1);
}

/* The scales of the module that this weight belongs to. */
static void put_scales(const nib_file_plan *p, nib_stored *item) {
    const size_t length = nib_module_length(item->name);
    const nib_stored_module *module = nib_manifest_module(&p->manifest, item->name, length);
    if (module) p->manifest.format->scales(item, module);
}

static nib_status refuse_activations(const nib_file_plan *p) {
    if (!p->manifest.nmodules || (p->manifest.format && p->manifest.format->scales)) return NIB_OK;
    NIB_RAISE(NIB_E_ARGUMENT,
              "format %s has no place for the scales of static activations; quanto has",
              p->manifest.format ? p->manifest.format->name : "none");
    return nib_error_at(NULL, p->manifest.modules[0].name, -1);
}

nib_status nib_file_plan_fill(nib_file_plan *p, const nib_draft *drafts, size_t count,
                              const char *asked) {
    const nib_format *format = choose_format(drafts, count, asked);
    if (!format) return nib_last_error()->status;
    for (size_t i = 0; i < count; i++)
        if (drafts[i].quantized) p->manifest.format = format;
    NIB_TRY(refuse_activations(p));
    for (size_t i = 0; i < count; i++) {
        const nib_draft *d = &drafts[i];
        if (!d->quantized) {
            NIB_TRY(nib_manifest_add_dense(&p->manifest, d->name, d->dtype, d->shape, d->shard));
            continue;
        }
        const nib_layout *layout = layout_in(format, d);
        if (!layout) return refuse_format(format, d);
        NIB_TRY(nib_manifest_add_quantized(&p->manifest, d->name, d->config, layout, &d->desc,
                                           d->shard));
        put_scales(p, &p->manifest.items[p->manifest.count - 1]);
    }
    NIB_TRY(nib_manifest_index(&p->manifest));
    if (!p->config) return NIB_OK;
    if (is_tied_language_model(p)) p->manifest.tied = nib_file_config_head(p->config);
    (void)json_object_del(p->config,
                          "quantization_config"); /* of another format: not there any more */
    return p->manifest.format && format->config ? format->config(&p->manifest, p->config) : NIB_OK;
}

/* A tied head asked for gets the embedding's weight, and the tie is cut; NULL: nothing to untie. */
static const nib_checkpoint_tensor *tied_source(const nib_file_plan *p) {
    const bool tied = p->config && nib_file_config_tied(p->config);
    if (!tied || !p->selection.select.head ||
        nib_checkpoint_find(p->source, nib_file_config_head(p->config)))
        return NULL;
    return nib_tied_table_of(p->source);
}

nib_status nib_file_plan_open(nib_ctx *ctx, const char *from, const nib_rule *rules, size_t nrules,
                              const nib_select *select, const nib_file_options *options,
                              nib_file_plan *p) {
    *p =
        (nib_file_plan){.ctx = ctx, .mem = nib_ctx_mem(ctx), .manifest = {.mem = nib_ctx_mem(ctx)}};
    nib_draft *drafts = NULL;
    size_t count = 0;
    NIB_TRY_GOTO(nib_nonfinite_parse(options->nonfinite, &p->nonfinite), fail);
    NIB_TRY_GOTO(nib_selection_open(p->mem, rules, nrules, select, &p->selection), fail);
    p->source = nib_checkpoint_open(p->mem, from);
    if (!p->source) goto fail;
    NIB_TRY_GOTO(nib_config_text_load(p->mem, p->source, &p->config, &p->config_text), fail);
    NIB_TRY_GOTO(refuse_quantized(p), fail);
    p->has_across = nib_across_checkpoint(p->source);
    const nib_checkpoint_tensor *tied = tied_source(p);
    count = p->source->count + (tied != NULL);
    p->items = nib_mem_alloc_array(p->mem, count, sizeof *p->items);
    if (!p->items) goto fail;
    p->items_room = count;
    drafts = nib_mem_alloc_array(p->mem, count, sizeof *drafts);
    if (!drafts) goto fail;
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        const bool head = i == p->source->count;
        const nib_checkpoint_tensor *t = head ? tied : &p->source->tensors[i];
        NIB_TRY_GOTO(plan_one(p, head ? nib_file_config_head(p->config) : t->entry->name, t,
                              &p->items[i], &drafts[i]),
                     fail_at);
        any |= drafts[i].quantized;
    }
    if (!any) {
        const nib_select *s = &p->selection.select;
        NIB_RAISE(NIB_E_ARGUMENT, "no weight of %zu tensors matches%s%s%s%s", count,
                  s->include ? " include " : "", s->include ? s->include : "",
                  s->exclude ? " less exclude " : "", s->exclude ? s->exclude : "");
        goto fail_at;
    }
    p->unties_head = tied && drafts[p->source->count].quantized;
    if (p->config && p->unties_head &&
        json_object_set_new(p->config, "tie_word_embeddings", json_false()) != 0) {
        NIB_RAISE(NIB_E_MEMORY, "no memory for config.json");
        goto fail;
    }
    NIB_TRY_GOTO(nib_file_plan_fill(p, drafts, count, options->format), fail_at);
    nib_mem_free(p->mem, drafts, count * sizeof *drafts);
    return NIB_OK;
fail_at:
    nib_error_at(from, NULL, -1);
fail:
    nib_mem_free(p->mem, drafts, count * sizeof *drafts);
    nib_file_plan_close(p);
    return nib_last_error()->status;
}

void nib_file_plan_report(const nib_file_plan *p, bool dry_run) {
    nib_report *r = p->selection.select.report;
    if (!r) return;
    r->matched = r->quantized = r->left = 0;
    r->bytes_before = r->bytes_after = 0;
    r->format = p->manifest.format ? p->manifest.format->name : NULL;
    for (size_t i = 0; i < p->manifest.count; i++) {
        const nib_stored *stored = &p->manifest.items[i];
        const nib_file_item *item = &p->items[i];
        const bool added = i == p->source->count;
        nib_text scheme = {.mem = p->mem};
        if (stored->layout) nib_config_print(stored->config, &scheme);
        const nib_report_row row = {
            .name = stored->name,
            .scheme = scheme.data ? scheme.data : "",
            .why_left = item->why_left,
            .bytes_before = added ? 0 : item->source->entry->size,
            .bytes_after = nib_stored_bytes(stored),
            .sqnr_db = dry_run ? 0 : item->sqnr_db,
            .max_error = dry_run ? 0 : item->max_error,
            .weights = nib_stored_count(stored),
        };
        r->bytes_before += row.bytes_before;
        r->bytes_after += row.bytes_after;
        if (stored->layout)
            r->quantized++;
        else if (item->matrix)
            r->left++;
        if (r->row && (stored->layout || item->matrix)) r->row(r->user, &row);
        nib_text_free(&scheme);
    }
    r->matched = r->quantized;
}
