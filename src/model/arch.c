/* arch.c: the architectures that can run. */
#include "model/arch.h"

#include <string.h>

#include "base/error.h"

#define X(name) extern const nib_arch nib_arch_##name;
#include "model/arch_list.h"
#undef X

static const nib_arch *const archs[] = {
#define X(name) &nib_arch_##name,
#include "model/arch_list.h"
#undef X
    NULL};

const nib_arch *nib_arch_at(size_t i) { return i < sizeof archs / sizeof *archs ? archs[i] : NULL; }

const nib_arch *nib_arch_for(const char *model_type) {
    char known[160] = "";
    size_t used = 0;
    for (size_t i = 0; archs[i]; i++) {
        for (const char *const *type = archs[i]->model_types; *type; type++) {
            if (strcmp(*type, model_type) == 0) return archs[i];
            const size_t length = strlen(*type);
            if (used + length + 3 > sizeof known) continue;
            if (used) {
                memcpy(known + used, ", ", 2);
                used += 2;
            }
            memcpy(known + used, *type, length + 1);
            used += length;
        }
    }
    return NIB_RAISE_NULL(NIB_E_UNSUPPORTED, "model_type \"%.40s\" cannot run here; known are %s",
                          model_type, known);
}
