/* compile.c: a module by hand, traced, planned, and run. */
#include <nibble/nn.h>
#include <string.h>

#include "base/error.h"
#include "graph/node.h"
#include "tensor/context.h"

typedef struct call {
    nib_module *module;
    nib_tensor *x;
} call;

static nib_status forward(void *user, nib_tensor **output) {
    const call *c = user;
    *output = nib_module_forward(c->module, c->x);
    return *output ? NIB_OK : nib_last_error()->status;
}

nib_graph *nib_compile(nib_module *module, nib_tensor *x, const nib_compile_options *options) {
    if (!module || !x) return NULL;
    nib_compile_options o = {0};
    if (options)
        memcpy(&o, options, options->size && options->size < sizeof o ? options->size : sizeof o);
    if (x == NIB_NONE || x->layout || !nib_tensor_contiguous(x))
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "compiling wants a dense, contiguous input");
    call c = {module, x};
    nib_graph *g = nib_trace(x->ctx, &x, 1, NULL, 0, forward, &c);
    if (g && (o.no_fusion || nib_graph_fuse(g) >= NIB_OK) && nib_graph_plan(g) >= NIB_OK &&
        nib_graph_tune(g, o.tune) >= NIB_OK)
        return g;
    nib_graph_free(g);
    return NULL;
}

const nib_tensor *nib_graph_run(nib_graph *g, nib_tensor *x) {
    if (!g || !x) return NULL;
    if (g->ninputs != 1 || g->nsymbols)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "this graph has %d inputs", g->ninputs);
    char a[96], b[96];
    if (x == NIB_NONE || x->layout || x->dtype != g->inputs[0].dtype || !nib_tensor_contiguous(x))
        return NIB_RAISE_NULL(NIB_E_DTYPE, "this graph wants a dense, contiguous %s input",
                              nib_dtype_name(g->inputs[0].dtype));
    if (!nib_shape_equal(&x->shape, &g->inputs[0].shape))
        return NIB_RAISE_NULL(NIB_E_SHAPE, "the input is %s, the graph was compiled for %s",
                              nib_shape_text(&x->shape, a, sizeof a),
                              nib_shape_text(&g->inputs[0].shape, b, sizeof b));
    const nib_tensor *y = NULL;
    return nib_graph_execute(g, &x, NULL, &y) < NIB_OK ? NULL : y;
}
