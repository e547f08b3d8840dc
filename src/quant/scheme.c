#include "quant/scheme.h"

#include <string.h>

#include "base/error.h"
#include "quant/codes.h"
#include "tensor/context.h"

#define X(name) extern const nib_scheme nib_scheme_##name;
#include "quant/scheme_list.h"
#undef X

#define X(name) &nib_scheme_##name,
static const nib_scheme *const schemes[] = {
#include "quant/scheme_list.h"
    NULL,
};
#undef X

const nib_scheme *nib_scheme_at(size_t i) {
    return i < sizeof schemes / sizeof *schemes ? schemes[i] : NULL;
}

const char *nib_scheme_alias(const char *name) {
    for (size_t i = 0; schemes[i]; i++)
        for (const char *const *a = schemes[i]->aliases; a && *a; a += 2)
            if (strcmp(a[0], name) == 0) return a[1];
    return NULL;
}

const nib_scheme *nib_scheme_find(const char *name) {
    for (size_t i = 0; name && schemes[i]; i++) {
        if (strcmp(schemes[i]->name, name) == 0) return schemes[i];
        for (const char *const *a = schemes[i]->aliases; a && *a; a += 2)
            if (strcmp(a[0], name) == 0) return schemes[i];
    }
    return NULL;
}

/* ---- a matrix in memory, through a scheme ---- */

nib_status nib_scheme_plan(const nib_config *config, const nib_site *site, nib_qdesc *desc,
                           nib_act *in, nib_act *out) {
    NIB_TRY(config->scheme->plan(config, site, desc, in, out));
    return nib_qdesc_check(desc);
}

nib_status nib_scheme_note(nib_tensor *t, const nib_config *config) {
    const nib_site site = {"linear", "weight", t->desc.shape, t->desc.math};
    nib_config *own = nib_config_copy(config);
    nib_qdesc desc;
    nib_act in = {0}, out = {0};
    nib_status status = own ? NIB_OK : nib_last_error()->status;
    if (own) status = own->scheme->plan(own, &site, &desc, &in, &out);
    if (in.when != NIB_ACT_STATIC) t->act = in; /* static ones are their module's to quantize */
    if (status < NIB_OK) {
        nib_config_free(own);
        return status;
    }
    nib_config_free(t->config);
    t->config = own;
    return NIB_OK;
}

nib_tensor *nib_scheme_matrix(const nib_tensor *weight, const nib_site *site,
                              const nib_qdesc *desc) {
    if (weight->layout || !nib_tensor_contiguous(weight))
        return NIB_RAISE_NULL(NIB_E_ARGUMENT,
                              "%s: only a dense, contiguous weight can be quantized", site->name);
    return nib_tensor_reshape(weight, (nib_shape){2, {desc->rows, desc->cols}});
}

static nib_status codes_of(const nib_config *config, const nib_tensor *matrix, nib_codes *out) {
    const nib_scheme *s = config->scheme;
    nib_stats stats = {0};
    if (s->measure) NIB_TRY(s->measure(config, &stats, matrix));
    return s->quantize(config, &stats, matrix, out);
}

nib_status nib_scheme_codes(const nib_config *config, const nib_site *site,
                            const nib_tensor *weight, nib_codes *out) {
    *out = (nib_codes){0};
    if (!config || !weight) return NIB_E_ARGUMENT;
    nib_qdesc desc;
    nib_act in = {0}, outgoing = {0};
    NIB_TRY(nib_config_check(config));
    NIB_TRY(nib_scheme_plan(config, site, &desc, &in, &outgoing));
    nib_tensor *matrix = nib_scheme_matrix(weight, site, &desc);
    if (!matrix) return nib_last_error()->status;
    nib_mem *mem = nib_ctx_mem(weight->ctx);
    nib_status status = nib_codes_alloc(mem, &desc, out);
    if (status == NIB_OK) {
        status = codes_of(config, matrix, out);
        if (status != NIB_OK) nib_codes_free(mem, out);
    }
    nib_tensor_free(matrix);
    return status;
}
