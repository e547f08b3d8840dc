/* state_file.c: the state of a tree from a checkpoint, and as one file. */
#include <nibble/nn.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/path.h"
#include "io/config_text.h"
#include "io/tensor_writer.h"
#include "io/weights.h"
#include "nn/quantized.h"
#include "nn/state.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

static const char *name_of(void *self, size_t i) { return nib_weights_name(self, i); }
static bool has(void *self, const char *name) { return nib_weights_has(self, name); }
static nib_tensor *get(void *self, const char *name, const nib_shape *shape) {
    return nib_weights_get_any(self, name, shape);
}

/* config.json beside the weights, which says what quantized ones are; NULL: there is none. */
static nib_status read_config(nib_mem *mem, const char *path, json_t **config) {
    char *text = NULL;
    nib_checkpoint *checkpoint = nib_checkpoint_open(mem, path);
    if (!checkpoint) return nib_last_error()->status;
    const nib_status status = nib_config_text_load(mem, checkpoint, config, &text);
    nib_mem_strfree(mem, text);
    nib_checkpoint_close(checkpoint);
    return status;
}

nib_status nib_module_load(nib_module *root, const char *path, const nib_state_options *options) {
    if (!root) return nib_last_error()->status;
    if (!path) return NIB_RAISE(NIB_E_ARGUMENT, "no path to load the state of modules from");
    nib_ctx *ctx = nib_module_ctx(root);
    json_t *config = NULL;
    NIB_TRY(read_config(nib_ctx_mem(ctx), path, &config));
    /* Copies: the tree outlives the file. */
    nib_weights *weights = nib_weights_open(ctx, path, config, (nib_dtype)0, true);
    json_decref(config);
    if (!weights) return nib_last_error()->status;
    const nib_state_source source = {weights, nib_weights_count(weights), name_of, has, get};
    nib_status status = nib_state_take(root, &source, options);
    if (status < NIB_OK) status = nib_error_at(path, NULL, -1);
    nib_weights_close(weights);
    return status;
}

/* ---- out ---- */

typedef struct save {
    nib_mem *mem;
    nib_safetensors_planned *planned;
    nib_tensor **tensors; /* beside them, borrowed */
    size_t count, room;
} save;

static nib_status count_one(void *user, const char *dotted, nib_module *owner, const char *name,
                            nib_tensor *t) {
    (void)dotted, (void)owner, (void)name, (void)t;
    ((save *)user)->room++;
    return NIB_OK;
}

static nib_status plan_one(void *user, const char *dotted, nib_module *owner, const char *name,
                           nib_tensor *t) {
    (void)owner, (void)name;
    save *s = user;
    if (t->layout || !nib_tensor_contiguous(t)) {
        NIB_RAISE(NIB_E_UNSUPPORTED, "%s is %s; nib_module_save writes dense tensors", dotted,
                  t->layout ? t->layout->name : "a view with gaps");
        return nib_error_at(NULL, dotted, -1);
    }
    char *copy = nib_mem_strdup(s->mem, dotted);
    if (!copy) return nib_last_error()->status;
    s->tensors[s->count] = nib_tensor_retain(t); /* parts of a weight are made for the visit */
    s->planned[s->count++] = (nib_safetensors_planned){copy, t->dtype, t->shape};
    return NIB_OK;
}

static nib_status write_file(const save *s, const char *path) {
    static const nib_safetensors_pair metadata = {"format", "pt"}; /* as torch's users save */
    const nib_safetensors_plan plan = {s->planned, s->count, &metadata, 1};
    nib_tensor_writer *writer = nib_tensor_writer_open(s->mem, path, &plan);
    nib_status status = writer ? NIB_OK : nib_last_error()->status;
    for (size_t i = 0; i < s->count && status >= NIB_OK; i++)
        status = nib_tensor_writer_put(writer, i, nib_tensor_data(s->tensors[i]),
                                       nib_tensor_bytes(s->tensors[i]), 0);
    if (status >= NIB_OK) return nib_tensor_writer_finish(writer);
    nib_tensor_writer_abort(writer);
    return status;
}

static nib_status see_quantized(void *user, const char *dotted, nib_module *module) {
    const nib_tensor *weight = nib_module_parameter(module, "weight");
    (void)dotted;
    if (nib_module_quantized(module) || (weight && weight->layout)) *(bool *)user = true;
    return NIB_OK;
}

/* quanto_qmap.json in the folder of the file. */
static nib_status write_map(nib_mem *mem, nib_module *root, const char *path) {
    char *folder = nib_path_parent(mem, path);
    char *at = folder ? nib_path_join(mem, folder, "quanto_qmap.json") : NULL;
    char *map = at ? nib_quantization_map(root) : NULL;
    nib_status status = map ? NIB_OK : nib_last_error()->status;
    if (map) {
        const size_t size = strlen(map);
        nib_file_writer *writer = nib_file_writer_open(mem, at, size);
        status = writer ? nib_file_writer_put(writer, map, size, 0) : nib_last_error()->status;
        if (writer && status >= NIB_OK)
            status = nib_file_writer_commit(writer);
        else
            nib_file_writer_abort(writer);
    }
    nib_text_release(map);
    nib_mem_strfree(mem, at);
    nib_mem_strfree(mem, folder);
    return status;
}

nib_status nib_module_save(nib_module *root, const char *path) {
    if (!root) return nib_last_error()->status;
    if (!path) return NIB_RAISE(NIB_E_ARGUMENT, "no path to save the state of modules to");
    nib_mem *mem = nib_ctx_mem(nib_module_ctx(root));
    save s = {.mem = mem};
    bool quantized = false;
    NIB_TRY(nib_module_walk(root, see_quantized, &quantized));
    NIB_TRY(nib_module_walk_saved(root, count_one, &s));
    s.planned = nib_mem_alloc_array(mem, s.room, sizeof *s.planned);
    s.tensors = s.planned ? nib_mem_alloc_array(mem, s.room, sizeof *s.tensors) : NULL;
    nib_status status = s.tensors ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK) status = nib_module_walk_saved(root, plan_one, &s);
    if (status >= NIB_OK) status = write_file(&s, path);
    if (status >= NIB_OK && quantized) status = write_map(mem, root, path);
    for (size_t i = 0; i < s.count; i++) {
        nib_mem_strfree(mem, (char *)(uintptr_t)s.planned[i].name);
        nib_tensor_free(s.tensors[i]);
    }
    nib_mem_free(mem, s.planned, s.room * sizeof *s.planned);
    nib_mem_free(mem, s.tensors, s.room * sizeof *s.tensors);
    return status;
}
