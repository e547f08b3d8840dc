/* compile.c: a module by hand, traced, planned, and run. */
#include <nibble/nn.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
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

nib_status nib_graph_finish(nib_graph *g, bool fuse, const char *tune, int64_t began) {
    const int64_t traced = nib_now_ns();
    const int calls = g->nnodes;
    if (fuse) NIB_TRY(nib_graph_fuse(g));
    NIB_TRY(nib_graph_plan(g));
    const int64_t planned = nib_now_ns();
    NIB_TRY(nib_graph_tune(g, tune));
    const int64_t tuned = nib_now_ns();
    if (!g->ctx->log) return NIB_OK;
    char line[200];
    snprintf(
        line, sizeof line,
        "compiled %d calls into %d nodes in %.1f ms: traced in %.1f, fused and planned in %.1f, "
        "%s in %.1f",
        calls, g->nnodes, (double)(tuned - began) * 1e-6, (double)(traced - began) * 1e-6,
        (double)(planned - traced) * 1e-6,
        tune && !g->tune_wanted ? "choices read" : "nothing chosen yet",
        (double)(tuned - planned) * 1e-6);
    g->ctx->log(g->ctx->user, 0, line);
    return NIB_OK;
}

nib_graph *nib_compile(nib_module *module, nib_tensor *x, const nib_compile_options *options) {
    if (!module || !x) return NULL;
    nib_compile_options o = {0};
    if (options)
        memcpy(&o, options, options->size && options->size < sizeof o ? options->size : sizeof o);
    if (x == NIB_NONE || x->layout || !nib_tensor_contiguous(x))
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "compiling wants a dense, contiguous input");
    call c = {module, x};
    const int64_t began = nib_now_ns();
    nib_graph *g = nib_trace(x->ctx, &x, 1, NULL, 0, forward, &c);
    if (g && nib_graph_finish(g, !o.no_fusion, o.tune, began) >= NIB_OK) return g;
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
