#include "io/tensor_writer.h"

#include "base/error.h"
#include "base/path.h"
#include "base/text_util.h"
#include "io/pt.h"
#include "io/pt_write.h"

struct nib_tensor_writer {
    nib_mem *mem;
    nib_safetensors_writer *safe; /* one of the two */
    nib_pt_writer *pt;
};

bool nib_tensor_writer_is_name(const char *path) {
    return nib_text_ends(path, ".safetensors") || nib_pt_is_name(path);
}

nib_status nib_tensor_plan_size(nib_mem *mem, const char *path, const nib_safetensors_plan *plan,
                                size_t *size, size_t *payload) {
    return nib_pt_is_name(path) ? nib_pt_plan_size(mem, plan, size, payload)
                                : nib_safetensors_plan_size(mem, plan, size, payload);
}

nib_tensor_writer *nib_tensor_writer_open(nib_mem *mem, const char *path,
                                          const nib_safetensors_plan *plan) {
    nib_tensor_writer *w = nib_mem_alloc_zero(mem, sizeof *w);
    if (!w) return NULL;
    w->mem = mem;
    if (nib_pt_is_name(path))
        w->pt = nib_pt_writer_open(mem, path, plan);
    else
        w->safe = nib_safetensors_writer_open(mem, path, plan);
    if (w->pt || w->safe) return w;
    nib_mem_free(mem, w, sizeof *w);
    return NULL;
}

void nib_tensor_writer_size(const nib_tensor_writer *w, size_t *size, size_t *payload) {
    if (w->pt)
        nib_pt_writer_size(w->pt, size, payload);
    else
        nib_safetensors_writer_size(w->safe, size, payload);
}

bool nib_tensor_writer_find(const nib_tensor_writer *w, const char *name, size_t *index,
                            nib_safetensors_planned *planned) {
    return w->pt ? nib_pt_writer_find(w->pt, name, index, planned)
                 : nib_safetensors_writer_find(w->safe, name, index, planned);
}

nib_status nib_tensor_writer_put(nib_tensor_writer *w, size_t index, const void *from, size_t size,
                                 size_t offset) {
    return w->pt ? nib_pt_writer_put(w->pt, index, from, size, offset)
                 : nib_safetensors_writer_put(w->safe, index, from, size, offset);
}

nib_status nib_tensor_writer_finish(nib_tensor_writer *w) {
    const nib_status status =
        w->pt ? nib_pt_writer_finish(w->pt) : nib_safetensors_writer_finish(w->safe);
    nib_mem_free(w->mem, w, sizeof *w);
    return status;
}

void nib_tensor_writer_abort(nib_tensor_writer *w) {
    if (!w) return;
    nib_pt_writer_abort(w->pt);
    nib_safetensors_writer_abort(w->safe);
    nib_mem_free(w->mem, w, sizeof *w);
}
