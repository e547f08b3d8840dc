/* move.c: the floats of a tree in another dtype, and the question of another device. */
#include <string.h>

#include "base/error.h"
#include "nn/module.h"
#include "quant/cast.h"
#include "tensor/dtype.h"

static bool is_wide(nib_dtype dtype) {
    return dtype == NIB_F32 || dtype == NIB_F16 || dtype == NIB_BF16;
}

typedef struct cast_change {
    nib_module *owner;
    const char *name;
    nib_tensor *tensor;
} cast_change;

typedef struct move {
    nib_dtype dtype;
    cast_change *changes;
    size_t count, room;
} move;

static nib_status count_one(void *user, const char *dotted, nib_module *owner, const char *name,
                            nib_tensor *t) {
    (void)dotted, (void)owner, (void)name, (void)t;
    ((move *)user)->room++;
    return NIB_OK;
}

static nib_status cast_one(void *user, const char *dotted, nib_module *owner, const char *name,
                           nib_tensor *t) {
    move *m = user;
    if (!t->layout && (!nib_dtype_is_float(t->dtype) || t->dtype == m->dtype)) return NIB_OK;
    nib_tensor *made = nib_tensor_cast(t, m->dtype);
    if (!made) return nib_error_at(NULL, dotted, -1);
    m->changes[m->count++] = (cast_change){owner, name, made};
    return NIB_OK;
}

nib_status nib_module_to_dtype(nib_module *root, nib_dtype dtype) {
    if (!root) return nib_last_error()->status;
    if (!is_wide(dtype))
        return NIB_RAISE(NIB_E_DTYPE,
                         "modules are f32, f16 or bf16, not %s; codes are nib_quantize's",
                         nib_dtype_name(dtype));
    nib_mem *mem = nib_ctx_mem(root->ctx);
    move m = {.dtype = dtype};
    NIB_TRY(nib_module_walk_state(root, count_one, &m));
    m.changes = nib_mem_alloc_array(mem, m.room, sizeof *m.changes);
    if (!m.changes) return nib_last_error()->status;
    const nib_status status = nib_module_walk_state(root, cast_one, &m);
    for (size_t i = 0; i < m.count; i++) {
        const cast_change *c = &m.changes[i];
        if (status < NIB_OK)
            nib_tensor_free(c->tensor);
        else if (nib_module_buffer(c->owner, c->name))
            (void)nib_module_set_buffer(c->owner, c->name, c->tensor);
        else
            (void)nib_module_set(c->owner, c->name, c->tensor);
    }
    nib_mem_free(mem, m.changes, m.room * sizeof *m.changes);
    return status < NIB_OK ? status : NIB_OK;
}

nib_status nib_module_to_device(nib_module *root, const char *device) {
    if (!root) return nib_last_error()->status;
    if (device && (strcmp(device, "cpu") == 0 || strcmp(device, "cpu:0") == 0)) return NIB_OK;
    return NIB_RAISE(NIB_E_DEVICE, "there is no device \"%s\"; this build has \"cpu\" and no other",
                     device ? device : "");
}
