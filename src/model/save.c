/* save.c: a model in memory, written as the folder it came from would look if its weights were
 * these. Names, files and their order are the source's; weights that the source has and the model
 * does not use go along. Shares plan and protocol with quantizing from file to file, and gives its
 * bytes when the same rules were applied. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/config_text.h"
#include "io/tensor_writer.h"
#include "model/across.h"
#include "model/arch.h"
#include "model/file_config.h"
#include "model/shard_plan.h"
#include "nn/quantized.h"
#include "quant/codes.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

enum { COPY_BYTES = 1 << 20 };

typedef struct save {
    const nib_model *model;
    const nib_checkpoint *source;
    nib_manifest stored; /* what the source holds, read anew: a model that runs lets it go */
    nib_file_plan plan;
    nib_checkpoint_writer *out;
    nib_draft *drafts;
    const nib_tensor **tensors; /* beside drafts; NULL: only in the file */
    size_t count, room;
    bool untied;
    size_t scales; /* tensors of scales that stand by themselves */
    char (*scale_names)[512];
    size_t first; /* index in the shard of the item's first part */
    double done, total;
} save;

static const nib_tensor *parameter(const nib_model *model, const char *name) {
    char module[512];
    const char *dot = strrchr(name, '.');
    if (!dot || (size_t)(dot - name) >= sizeof module) return NULL;
    memcpy(module, name, (size_t)(dot - name));
    module[dot - name] = '\0';
    const nib_module *owner = nib_module_child(model->root, module);
    const nib_tensor *t = owner ? nib_module_parameter(owner, dot + 1) : NULL;
    return t || !owner ? t : nib_module_buffer(owner, dot + 1);
}

static bool lies_across(const nib_model *model, const char *name) {
    return model->arch->across && nib_across_name(name);
}

static nib_status add(save *s, const char *name, const nib_tensor *t, size_t shard) {
    if (!t->layout && !nib_tensor_contiguous(t)) {
        NIB_RAISE(NIB_E_UNSUPPORTED, "a view with gaps cannot be saved; copy it first");
        return nib_error_at(NULL, name, -1);
    }
    const bool across = lies_across(s->model, name);
    s->tensors[s->count] = t;
    s->drafts[s->count++] =
        (nib_draft){.name = name,
                    .dtype = t->dtype,
                    .shape = across && !t->layout ? nib_across_shape(&t->shape) : t->shape,
                    .across = across && t->layout,
                    .shard = shard,
                    .quantized = t->layout != NULL,
                    .config = t->config,
                    .desc = t->desc};
    return NIB_OK;
}

static nib_status add_stored(save *s, const nib_stored *item) {
    const nib_tensor *t = parameter(s->model, item->name);
    if (t) return add(s, item->name, t, item->shard);
    if (item->layout) {
        NIB_RAISE(NIB_E_UNSUPPORTED,
                  "this quantized weight of %s is none of the model's; it cannot be saved",
                  s->source->path);
        return nib_error_at(NULL, item->name, -1);
    }
    s->drafts[s->count++] = (nib_draft){
        .name = item->name, .dtype = item->dtype, .shape = item->shape, .shard = item->shard};
    return NIB_OK;
}

/* A head or table that was tied, and got a weight of its own since, goes where the other lies. */
static nib_status add_untied(save *s) {
    const char *names[] = {nib_file_config_head(s->plan.config), NULL};
    for (size_t i = 0; nib_tied_tables[i] && !names[1]; i++)
        if (parameter(s->model, nib_tied_tables[i])) names[1] = nib_tied_tables[i];
    for (int i = 0; i < 2 && names[1]; i++) {
        const nib_stored *other = nib_manifest_find(&s->stored, names[1 - i]);
        const nib_tensor *t = parameter(s->model, names[i]),
                         *twin = parameter(s->model, names[1 - i]);
        if (!t || !twin || !other || nib_manifest_find(&s->stored, names[i])) continue;
        if (nib_tensor_data(t) == nib_tensor_data(twin)) continue;
        NIB_TRY(add(s, names[i], t, other->shard));
        s->untied = true;
    }
    return NIB_OK;
}

/* What a module quantizes, for the format to write: a Linear's scales stand beside its weight,
 * others are tensors of their own, in the shard of their module's weight. */
static nib_status add_module(void *user, const char *dotted, nib_module *module) {
    save *s = user;
    const nib_quantized *q = nib_module_quantized(module);
    if (!q) return NIB_OK;
    const nib_tensor *weight = nib_module_parameter(module, "weight");
    if (q->weight && weight && !weight->layout) {
        NIB_RAISE(NIB_E_ARGUMENT, "this weight is not frozen yet; call nib_freeze first");
        return nib_error_at(NULL, dotted, -1);
    }
    if (!q->activations) return NIB_OK;
    s->scales += q->weight ? 0 : 2;
    return nib_manifest_add_module(
        &s->plan.manifest,
        &(nib_stored_module){.name = (char *)(uintptr_t)dotted,
                             .config = q->config,
                             .weights = q->weight,
                             .outputs = q->output != 0,
                             .scale = {nib_module_scale(module, "input_scale"),
                                       nib_module_scale(module, "output_scale")}});
}

static nib_status add_scales(save *s) {
    static const char *const names[] = {"input_scale", "output_scale"};
    for (size_t i = 0, k = 0; i < s->plan.manifest.nmodules; i++) {
        const nib_stored_module *m = &s->plan.manifest.modules[i];
        const nib_module *module = nib_module_child(s->model->root, m->name);
        if (m->weights) continue;
        for (int n = 0; n < 2; n++, k++) {
            char *name = s->scale_names[k];
            nib_text text = {.mem = s->plan.mem};
            nib_text_format(&text, "%s.weight", m->name);
            const nib_stored *weight =
                text.failed ? NULL : nib_manifest_find(&s->stored, text.data);
            nib_text_free(&text);
            if (snprintf(name, sizeof s->scale_names[k], "%s.%s", m->name, names[n]) >=
                (int)sizeof s->scale_names[k])
                return NIB_RAISE(NIB_E_UNSUPPORTED, "the name of %s is too long", m->name);
            if (nib_manifest_find(&s->stored, name))
                continue; /* the source has it: see add_stored */
            NIB_TRY(add(s, name, nib_module_buffer(module, names[n]), weight ? weight->shard : 0));
        }
    }
    return NIB_OK;
}

static nib_status look(void *user, const char *dotted, nib_module *owner, const char *name,
                       nib_tensor *t) {
    const save *s = user;
    (void)owner;
    (void)name;
    (void)t;
    if (nib_manifest_find(&s->stored, dotted) ||
        strcmp(dotted, nib_file_config_head(s->plan.config)) == 0)
        return NIB_OK;
    for (const char *const *table = nib_tied_tables; *table; table++)
        if (strcmp(dotted, *table) == 0) return NIB_OK;
    NIB_RAISE(NIB_E_UNSUPPORTED,
              "%s has no such weight, so that nothing says which file it belongs to",
              s->source->path);
    return nib_error_at(NULL, dotted, -1);
}

/* config.json names the dtype of the floats; another one may have been asked for when loading. */
static nib_status set_config(save *s) {
    static const char *const keys[] = {"torch_dtype", "dtype"};
    json_t *config = s->plan.config;
    int failed = 0;
    if (s->untied) failed |= json_object_set_new(config, "tie_word_embeddings", json_false());
    for (size_t i = 0; i < s->count; i++) {
        const nib_stored *item = nib_manifest_find(&s->stored, s->drafts[i].name);
        if (!item || item->layout || s->drafts[i].quantized || item->dtype == s->drafts[i].dtype)
            continue;
        for (int k = 0; k < 2; k++)
            if (json_is_string(json_object_get(config, keys[k])))
                failed |= json_object_set_new(
                    config, keys[k], json_string(nib_dtype_torch_name(s->drafts[i].dtype)));
        break;
    }
    return failed ? NIB_RAISE(NIB_E_MEMORY, "no memory for config.json") : NIB_OK;
}

/* The order in which a float file of these weights has them, that of the reference writer: wide
 * elements first, then by name. Of a quantized source the manifest's order is another. */
static int in_file_order(const void *a, const void *b) {
    const nib_stored *x = *(const nib_stored *const *)a, *y = *(const nib_stored *const *)b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    const int rank = nib_safetensors_dtype_rank(y->dtype) - nib_safetensors_dtype_rank(x->dtype);
    return rank ? rank : strcmp(x->name, y->name);
}

static nib_status add_all_stored(save *s) {
    nib_mem *mem = s->plan.mem;
    const size_t count = s->stored.count;
    const nib_stored **order = nib_mem_alloc_array(mem, count, sizeof *order);
    nib_status status = order ? NIB_OK : nib_last_error()->status;
    for (size_t i = 0; order && i < count; i++) order[i] = &s->stored.items[i];
    if (order && s->stored.format) qsort(order, count, sizeof *order, in_file_order);
    for (size_t i = 0; i < count && status >= NIB_OK; i++) status = add_stored(s, order[i]);
    nib_mem_free(mem, order, count * sizeof *order);
    return status;
}

static nib_status make_plan(save *s, const char *path, const char *format) {
    nib_mem *mem = s->plan.mem;
    NIB_TRY(nib_config_text_load(mem, s->source, &s->plan.config, &s->plan.config_text));
    NIB_TRY(nib_manifest_read(mem, s->source, s->plan.config, &s->stored));
    NIB_TRY(nib_module_walk_parameters(s->model->root, look, s));
    NIB_TRY(nib_module_walk(s->model->root, add_module, s));
    s->scale_names = nib_mem_alloc_array(mem, s->scales, sizeof *s->scale_names);
    if (!s->scale_names) return nib_last_error()->status;
    s->room = s->stored.count + 2 + s->scales;
    s->drafts = nib_mem_alloc_array(mem, s->room, sizeof *s->drafts);
    s->tensors = s->drafts ? nib_mem_alloc_array(mem, s->room, sizeof *s->tensors) : NULL;
    if (!s->tensors) return nib_last_error()->status;
    NIB_TRY(add_all_stored(s));
    NIB_TRY(add_untied(s));
    NIB_TRY(add_scales(s));
    if (s->plan.config) NIB_TRY(set_config(s));
    NIB_TRY(nib_file_plan_fill(&s->plan, s->drafts, s->count, format));
    return nib_file_plan_to(&s->plan, path);
}

/* ---- writing ---- */
static nib_status put_part(void *user, int part, const void *bytes, size_t size, size_t offset) {
    const save *s = user;
    return nib_checkpoint_writer_put(s->out, s->first + (size_t)part, bytes, size, offset);
}

static nib_status copy_from_file(save *s, const char *name) {
    const nib_checkpoint_tensor *t = nib_checkpoint_find(s->source, name);
    nib_mem *mem = s->plan.mem;
    void *bytes = nib_mem_alloc(mem, COPY_BYTES);
    nib_status status = bytes ? NIB_OK : nib_last_error()->status;
    for (size_t at = 0; at < t->entry->size && status >= NIB_OK; at += COPY_BYTES) {
        const size_t n = t->entry->size - at < COPY_BYTES ? t->entry->size - at : COPY_BYTES;
        status = nib_checkpoint_read(s->source, t, bytes, n, at);
        if (status >= NIB_OK) status = nib_checkpoint_writer_put(s->out, s->first, bytes, n, at);
    }
    nib_mem_free(mem, bytes, COPY_BYTES);
    return status;
}

/* A float weight [N, K] as the file has it, [K, N], some lines at a time. */
static nib_status put_across(save *s, const nib_tensor *t) {
    const int64_t N = t->shape.dim[0], K = t->shape.dim[1];
    const size_t element = (size_t)nib_dtype_bits(t->dtype) / 8, line = (size_t)N * element;
    const int64_t some = (int64_t)(COPY_BYTES / line) ? (int64_t)(COPY_BYTES / line) : 1;
    nib_mem *mem = s->plan.mem;
    unsigned char *lines = nib_mem_alloc_array(mem, (size_t)some, line);
    nib_status status = lines ? NIB_OK : nib_last_error()->status;
    for (int64_t k = 0; k < K && status >= NIB_OK; k += some) {
        const int64_t n = K - k < some ? K - k : some;
        nib_across_copy(lines, N, (const unsigned char *)nib_tensor_data(t) + (size_t)k * element,
                        K, N, n, element);
        status =
            nib_checkpoint_writer_put(s->out, s->first, lines, (size_t)n * line, (size_t)k * line);
    }
    nib_mem_free(mem, lines, (size_t)some * line);
    return status;
}

static nib_status put_item(save *s, const nib_stored *item, const nib_tensor *t) {
    if (!t) return copy_from_file(s, item->name);
    if (!t->layout && lies_across(s->model, item->name)) return put_across(s, t);
    if (!t->layout)
        return nib_checkpoint_writer_put(s->out, s->first, nib_tensor_data(t), nib_tensor_bytes(t),
                                         0);
    nib_stream stream = {
        .ctx = s->plan.ctx, .layout = item->layout, .desc = item->desc, .put = put_part, .user = s};
    NIB_TRY(nib_stream_repack(&stream, t));
    return nib_shard_plan_constants(item, s->first, s->out);
}

static nib_status write_shard(save *s, size_t shard) {
    const nib_manifest *manifest = &s->plan.manifest;
    nib_shard_plan about;
    nib_shard_state state;
    NIB_TRY(nib_shard_plan_open(&s->plan, shard, &about));
    const nib_safetensors_plan whole = {about.planned, about.count, about.metadata.pairs,
                                        about.metadata.count};
    nib_status status =
        nib_checkpoint_writer_begin(s->out, nib_shard_plan_name(&s->plan, shard), &whole, &state);
    nib_shard_plan_close(&about);
    s->first = 0;
    for (size_t i = 0; i < manifest->count && status >= NIB_OK; i++) {
        const nib_stored *item = &manifest->items[i];
        if (item->shard != shard) continue;
        status = put_item(s, item, s->tensors[i]);
        s->first += (size_t)item->nparts + (size_t)item->nconstants;
        s->done += (double)nib_stored_bytes(item);
        if (status >= NIB_OK) status = nib_ctx_progress(s->plan.ctx, "save", s->done, s->total);
    }
    return status >= NIB_OK ? nib_checkpoint_writer_end(s->out) : status;
}

static nib_status write_all(save *s, const char *path) {
    size_t weights = 0, index = 0, config = 0;
    NIB_TRY(nib_shard_plan_predict(&s->plan, &weights, &index, &config));
    s->total = (double)weights;
    const nib_checkpoint_output output = {.path = path,
                                          .input = s->source,
                                          .stem = s->source->stem,
                                          .only_new = true,
                                          .need = weights + index + config};
    s->out = nib_checkpoint_writer_open(s->plan.mem, &output);
    if (!s->out) return nib_last_error()->status;
    nib_status status = NIB_OK;
    for (size_t i = 0; i < s->source->shard_count && status >= NIB_OK; i++)
        status = write_shard(s, i);
    if (status >= NIB_OK && !nib_tensor_writer_is_name(path))
        status = nib_shard_plan_texts(&s->plan, s->out);
    if (status >= NIB_OK) return nib_checkpoint_writer_finish(s->out);
    const nib_error cause = *nib_last_error();
    nib_checkpoint_writer_abort(s->out);
    nib_error_restore(&cause);
    return status;
}

nib_status nib_model_save(const nib_model *model, const char *path, const char *format) {
    if (!model) return nib_last_error()->status;
    if (!path) return NIB_RAISE(NIB_E_ARGUMENT, "no path to save the model to");
    nib_mem *mem = nib_ctx_mem(model->ctx);
    save s = {
        .model = model, .source = nib_weights_checkpoint(model->weights), .stored = {.mem = mem}};
    s.plan = (nib_file_plan){.ctx = model->ctx,
                             .mem = mem,
                             .manifest = {.mem = mem},
                             .source = (nib_checkpoint *)(uintptr_t)s.source};
    nib_status status = make_plan(&s, path, format);
    if (status >= NIB_OK) status = write_all(&s, path);
    nib_mem_free(mem, s.drafts, s.room * sizeof *s.drafts);
    nib_mem_free(mem, s.tensors, s.room * sizeof *s.tensors);
    nib_mem_free(mem, s.scale_names, s.scales * sizeof *s.scale_names);
    nib_manifest_free(&s.stored);
    s.plan.source = NULL; /* the model's own */
    nib_file_plan_close(&s.plan);
    return status;
}
