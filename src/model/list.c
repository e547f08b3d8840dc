/* list.c: what this build can do, by name: the registries behind `nibble list`. */
#include <string.h>

#include "base/error.h"
#include "io/format.h"
#include "model/arch.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"

static const char *scheme(size_t i, const char **doc) {
    const nib_scheme *s = nib_scheme_at(i);
    if (s) *doc = s->doc;
    return s ? s->name : NULL;
}

static const char *format(size_t i, const char **doc) {
    const nib_format *f = nib_format_at(i);
    if (f) *doc = f->doc;
    return f ? f->name : NULL;
}

static const char *arch(size_t i, const char **doc) {
    const nib_arch *a = nib_arch_at(i);
    if (a) *doc = a->doc;
    return a ? a->name : NULL;
}

static const char *kernel(size_t i, const char **doc) {
    const char *name = nib_kernels_of_machine(i, doc);
    if (name && strcmp(*doc, "ref") == 0) *doc = "plain C, the judge of the others";
    return name;
}

/* Does a kernel read what a scheme makes by default? Its options may still ask for what none does.
 */
static bool fast(const nib_scheme *s) {
    const nib_site site = {"linear", "", {2, {1024, 1024}}, NIB_BF16};
    nib_config *config = nib_config_parse(s->name);
    nib_qdesc desc;
    nib_act in, out;
    const bool found = config && nib_scheme_plan(config, &site, &desc, &in, &out) >= NIB_OK &&
                       nib_layout_of_kernel(&desc);
    nib_config_free(config);
    return found;
}

/* What runs through plain C only, however fast the machine: schemes, then cases of any scheme. */
static const char *reference(size_t i, const char **doc) {
    static const char *const cases[][2] = {
        {"group_size", "of columns that are no multiple of 32"},
        {"granularity=row", "with over 65,536 columns in a row"},
        {"experts", "weights of more than two dimensions are stored, not run"},
    };
    for (size_t k = 0; nib_scheme_at(k); k++) {
        if (fast(nib_scheme_at(k)) || i-- > 0) continue;
        return scheme(k, doc);
    }
    if (i >= sizeof cases / sizeof *cases) return NULL;
    *doc = cases[i][1];
    return cases[i][0];
}

const char *nib_list(const char *kind, size_t i, const char **doc) {
    static const struct {
        const char *kind;
        const char *(*at)(size_t i, const char **doc);
    } kinds[] = {{"scheme", scheme},
                 {"format", format},
                 {"arch", arch},
                 {"kernel", kernel},
                 {"reference", reference}};
    const char *unused;
    for (size_t k = 0; kind && k < sizeof kinds / sizeof *kinds; k++)
        if (strcmp(kinds[k].kind, kind) == 0) return kinds[k].at(i, doc ? doc : &unused);
    return NIB_RAISE_NULL(NIB_E_ARGUMENT,
                          "nothing is listed under \"%s\"; want scheme, format, arch, kernel or "
                          "reference",
                          kind ? kind : "");
}
