/* model.c: a folder becomes a model: config.json, weights where they lie in the mapped files, and
 * a tree of modules over them. After this a model never changes while sessions run, so that
 * contexts on other threads may share it. */
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/path.h"
#include "flow/prepare.h"
#include "model/arch.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

/* A JSON file of the folder; *found is NULL when it may be and is missing. */
static nib_status read_json(nib_mem *mem, const char *folder, const char *name, bool required,
                            json_t **found) {
    *found = NULL;
    char *path = nib_path_join(mem, folder, name), *text = NULL;
    size_t size = 0;
    nib_path_kind kind;
    if (!path) return nib_last_error()->status;
    nib_status status = nib_path_look(path, true, &kind);
    if (status >= NIB_OK && (required || kind != NIB_PATH_NONE)) {
        text = nib_file_read_whole(mem, path, NIB_JSON_MAX_BYTES, &size);
        if (text) *found = nib_json_parse(text, size, path, 0);
        if (*found && !json_is_object(*found)) {
            json_decref(*found);
            *found = NULL;
            NIB_RAISE(NIB_E_FORMAT, "%s is not an object", name);
            nib_error_at(path, NULL, 0);
        }
        if (!*found) status = nib_last_error()->status;
    }
    if (text) nib_mem_free(mem, text, size + 1);
    nib_mem_strfree(mem, path);
    return status;
}

/* A model that runs is a folder with a config.json. */
static nib_status check_folder(nib_mem *mem, const char *path) {
    nib_path_kind kind;
    NIB_TRY(nib_path_look(path, true, &kind));
    nib_status status = NIB_OK;
    if (kind == NIB_PATH_NONE)
        status = NIB_RAISE(NIB_E_IO, "there is no such folder");
    else if (kind != NIB_PATH_FOLDER)
        status = NIB_RAISE(NIB_E_ARGUMENT, "this is a file; a model that runs is a folder which "
                                           "holds config.json beside the weights: name that");
    if (status < NIB_OK) return nib_error_at(path, NULL, -1);
    char *config = nib_path_join(mem, path, "config.json");
    if (!config) return nib_last_error()->status;
    status = nib_path_look(config, true, &kind);
    if (status >= NIB_OK && kind == NIB_PATH_NONE) {
        NIB_RAISE(NIB_E_FORMAT, "there is no such file, and nothing else says what model this is");
        status = nib_error_at(config, NULL, -1);
    }
    nib_mem_strfree(mem, config);
    return status;
}

/* Both configs to hyper-parameters; errors name config.json, or the other when it is to blame. */
static nib_status read_hparams(nib_model *m, const json_t *config, const json_t *generation) {
    const char *type = NULL, *name = "config.json";
    nib_status status = nib_json_string(config, "model_type", true, &type);
    if (status >= NIB_OK) {
        m->arch = nib_arch_for(type);
        status = m->arch ? m->arch->read(config, NULL, &m->hparams) : nib_last_error()->status;
    }
    if (status >= NIB_OK && generation) {
        name = "generation_config.json";
        status = m->arch->read(config, generation, &m->hparams);
    }
    if (status >= NIB_OK) return status;
    char *path = nib_path_join(&m->ctx->mem, m->path, name);
    nib_error_at(path, NULL, -1);
    nib_mem_strfree(&m->ctx->mem, path);
    return status;
}

/* Bytes of each storage once: a tied table counts once, parts of one mapped file are summed. */
typedef struct parts {
    const void **at;
    size_t count, room;
    size_t bytes;
} parts;

static nib_status add_parts(void *user, const char *dotted, nib_module *owner, const char *name,
                            nib_tensor *t) {
    (void)dotted;
    (void)owner;
    (void)name;
    parts *p = user;
    const void *first = nib_tensor_data(t);
    for (size_t i = 0; i < p->count; i++)
        if (p->at[i] == first) return NIB_OK;
    if (p->count < p->room) p->at[p->count++] = first;
    p->bytes += nib_tensor_bytes(t) + (t->kept ? t->kept->size : 0);
    return NIB_OK;
}

size_t nib_model_resident_bytes(const nib_model *model) {
    const void *at[8192];
    parts p = {.at = at, .room = sizeof at / sizeof *at};
    nib_module_walk_parameters(model->root, add_parts, &p);
    return p.bytes;
}

int64_t nib_model_max_tokens(const nib_model *model) {
    const nib_rope_params *rope = &model->hparams.rope;
    const bool stretched = rope->kind == NIB_ROPE_DYNAMIC || rope->kind == NIB_ROPE_LINEAR;
    const double most =
        (double)model->hparams.max_position_embeddings * (stretched ? rope->factor : 1);
    return most < (double)(1 << 30) ? (int64_t)most : 1 << 30;
}

/* Activations with static scales need data first. */
static nib_status refuse_uncalibrated(const nib_config *config) {
    bool weight;
    nib_act in = {0}, out = {0};
    if (!config->scheme || !config->scheme->module ||
        !config->scheme->module(config, "linear", &weight, &in, &out) ||
        (in.when != NIB_ACT_STATIC && out.when != NIB_ACT_STATIC))
        return NIB_OK;
    return NIB_RAISE(NIB_E_ARGUMENT,
                     "static activations are calibrated with data, not chosen while loading: see "
                     "nib_calibrate_begin, or nibble calibrate");
}

nib_model *nib_model_load(nib_ctx *ctx, const char *path, const nib_load_options *options) {
    if (!ctx || !path) return NULL;
    nib_load_options o = {0};
    if (options)
        memcpy(&o, options, options->size && options->size < sizeof o ? options->size : sizeof o);
    json_t *config = NULL, *generation = NULL;
    nib_model *m = nib_mem_alloc_zero(&ctx->mem, sizeof *m);
    if (!m) return NULL;
    m->ctx = ctx;
    (void)pthread_mutex_init(&m->preparing, NULL); /* of the plain kind: cannot fail on Linux */
    m->path = nib_mem_strdup(&ctx->mem, path);
    if (!m->path) goto fail;
    NIB_TRY_GOTO(check_folder(&ctx->mem, path), fail);
    NIB_TRY_GOTO(read_json(&ctx->mem, path, "config.json", true, &config), fail);
    NIB_TRY_GOTO(read_json(&ctx->mem, path, "generation_config.json", false, &generation), fail);
    NIB_TRY_GOTO(read_hparams(m, config, generation), fail);
    m->weights = nib_weights_open(ctx, path, config, o.dtype, o.no_mmap);
    if (!m->weights) goto fail;
    m->file_bytes = nib_weights_file_bytes(m->weights);
    m->root = m->arch->build(ctx, &m->hparams, m->weights);
    if (!m->root) goto fail;
    if (nib_model_attach_activations(m->root, m->weights) < NIB_OK) goto fail;
    nib_weights_settle(m->weights);
    m->hparams.layers = NULL; /* config.json goes */
    if (o.quantize && refuse_uncalibrated(o.quantize) < NIB_OK) goto fail;
    if (o.quantize && nib_quantize(m->root, o.quantize, NULL) < NIB_OK) {
        nib_error_at(path, NULL, -1);
        goto fail;
    }
    if (o.activations) NIB_TRY_GOTO(nib_quantize_inputs(m->root, o.activations), fail);
    json_decref(config);
    json_decref(generation);
    return m;
fail:
    json_decref(config);
    json_decref(generation);
    nib_model_free(m);
    return NULL;
}

void nib_model_free(nib_model *m) {
    if (!m) return;
    nib_mem *mem = &m->ctx->mem;
    nib_module_free(m->root);
    nib_weights_close(m->weights);
    nib_mem_strfree(mem, m->path);
    (void)pthread_mutex_destroy(&m->preparing);
    nib_mem_free(mem, m, sizeof *m);
}

nib_status nib_model_prepare(nib_ctx *ctx, const nib_model *model) {
    nib_model *m = (nib_model *)(uintptr_t)model; /* bookkeeping: what it computes stays */
    (void)pthread_mutex_lock(&m->preparing);
    const nib_status status = m->prepared ? NIB_OK : nib_prepare_with(ctx, m->root);
    m->prepared = status >= NIB_OK;
    (void)pthread_mutex_unlock(&m->preparing);
    return status;
}

nib_module *nib_model_root(nib_model *model) { return model ? model->root : NULL; }
