/* dispatch.c: the list of kernel sets, and the choice of those that a machine can run. */
#include <assert.h>
#include <string.h>

#include "kernel/kernel.h"

#define X(name) extern const nib_kernel_set nib_kernels_##name;
#include "kernel/kernel_list.h"
#undef X

static const nib_kernel_set *const sets[] = {
#define X(name) &nib_kernels_##name,
#include "kernel/kernel_list.h"
#undef X
};
enum { SETS = sizeof(sets) / sizeof(sets[0]) };

void nib_kernels_fill(nib_kernels *kernels, uint32_t features) {
    memset(kernels, 0, sizeof(*kernels));
    for (size_t i = 0; i < SETS; i++) {
        assert(strrchr(sets[i]->name, '_'));
        if ((sets[i]->needs & ~features) == 0) sets[i]->install(kernels);
    }
}

const nib_kernel_set *nib_kernel_set_at(size_t i) { return i < SETS ? sets[i] : NULL; }
