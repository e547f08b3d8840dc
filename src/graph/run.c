/* run.c: the executor. One node after the other, each as the door would run it, but for what is
 * known beforehand: shapes are checked and implementations chosen when an input of another kind
 * comes in, not at each run. */
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "graph/node.h"
#include "op/mode.h"
#include "tensor/context.h"

/* A header over part of an input. The first one is made, later ones only look elsewhere. */
static nib_status view_input(nib_graph *g, nib_value *v, const nib_tensor *input) {
    const size_t offset = nib_tensor_offset(input, 0) + v->offset;
    if (!v->tensor) {
        v->tensor = nib_tensor_over(g->ctx, v->dtype, v->shape, input->part[0], offset);
        if (!v->tensor) return nib_last_error()->status;
        memcpy(v->tensor->stride, v->stride, sizeof v->stride);
        return NIB_OK;
    }
    if (v->tensor->part[0] != input->part[0]) {
        nib_storage_release(v->tensor->part[0]);
        v->tensor->part[0] = nib_storage_retain(input->part[0]);
    }
    v->tensor->data[0] = input->part[0]->data + offset;
    return NIB_OK;
}

/* What was planned for must be what comes out; an input that only grew, such as a cache, may ask
 * for another implementation or more scratch. */
static nib_status prepare_node(nib_node *n) {
    nib_shape shape[NIB_MAX_OUTPUTS] = {0};
    nib_dtype dtype[NIB_MAX_OUTPUTS] = {0};
    NIB_TRY(n->args.op->shape(&n->args, shape, dtype));
    for (int i = 0; i < n->args.nout; i++)
        if (dtype[i] != n->args.out[i]->dtype ||
            !nib_shape_equal(&shape[i], &n->args.out[i]->shape)) {
            char a[96], b[96];
            return NIB_RAISE(NIB_E_SHAPE, "%s would give %s now, the graph was planned for %s",
                             n->args.op->name, nib_shape_text(&shape[i], a, sizeof a),
                             nib_shape_text(&n->args.out[i]->shape, b, sizeof b));
        }
    n->impl = nib_call_choose(&n->args);
    if (!n->impl) return nib_last_error()->status;
    return NIB_OK;
}

static bool same_kind(const nib_graph_input *in, const nib_tensor *t) {
    return in->bound == t && in->dtype == t->dtype && in->layout == t->layout &&
           in->storage == t->part[0] && nib_shape_equal(&in->shape, &t->shape);
}

static nib_status bind(nib_graph *g, int input, nib_tensor *t) {
    nib_graph_input *in = &g->inputs[input];
    if (t->dtype != in->dtype)
        return NIB_RAISE(NIB_E_DTYPE, "input %d is %s, the graph was made for %s", input,
                         nib_dtype_name(t->dtype), nib_dtype_name(in->dtype));
    char a[96], b[96];
    for (int i = 0; i < g->nvalues; i++) {
        nib_value *v = &g->values[i];
        if (v->kind != NIB_VALUE_INPUT || v->of != input || v->whole) continue;
        if (t->layout || !nib_shape_equal(&t->shape, &in->shape) || !nib_tensor_contiguous(t))
            return NIB_RAISE(NIB_E_SHAPE, "input %d is %s, the graph was made for %s", input,
                             nib_shape_text(&t->shape, a, sizeof a),
                             nib_shape_text(&in->shape, b, sizeof b));
        NIB_TRY(view_input(g, v, t));
    }
    in->bound = t;
    in->storage = t->part[0];
    in->layout = t->layout;
    in->shape = t->shape;
    in->changed = true;
    return NIB_OK;
}

/* Point the nodes at inputs that are others than last time, and look at those nodes again. */
static nib_status bind_all(nib_graph *g, nib_tensor *const *inputs) {
    bool any = false;
    for (int i = 0; i < g->ninputs; i++) {
        if (!inputs[i]) return nib_last_error()->status;
        if (same_kind(&g->inputs[i], inputs[i])) continue;
        NIB_TRY(bind(g, i, inputs[i]));
        any = true;
    }
    if (!any && g->ready) return NIB_OK;
    for (int i = 0; i < g->nnodes; i++) {
        nib_node *n = &g->nodes[i];
        bool again = !g->ready;
        for (int k = 0; k < n->args.nin; k++) {
            if (n->in[k] == NIB_ABSENT) continue;
            const nib_value *v = &g->values[n->in[k]];
            if (v->kind != NIB_VALUE_INPUT || !g->inputs[v->of].changed) continue;
            n->args.in[k] = v->whole ? g->inputs[v->of].bound : v->tensor;
            again = true;
        }
        if (again) NIB_TRY(prepare_node(n));
    }
    for (int i = 0; i < g->ninputs; i++) g->inputs[i].changed = false;
    g->ready = true;
    return NIB_OK;
}

static void set_symbols(nib_graph *g, const int64_t *symbols) {
    for (int k = 0; k < g->nfollows; k++) {
        const nib_follows *f = &g->follows[k];
        g->nodes[f->node].args.attr[f->attr].i = f->base + f->per * symbols[f->symbol];
    }
}

/* Nodes whose numbers follow a symbol are checked again: a position may pass the end of a cache. */
static nib_status check_symbols(const nib_graph *g) {
    nib_shape shape[NIB_MAX_OUTPUTS];
    nib_dtype dtype[NIB_MAX_OUTPUTS];
    for (int k = 0; k < g->nfollows; k++) {
        const nib_call_args *args = &g->nodes[g->follows[k].node].args;
        NIB_TRY(args->op->shape(args, shape, dtype));
    }
    return NIB_OK;
}

/* With modes pushed, such as profiling, each node passes them as at the door. */
static nib_status run_watched(nib_node *n) {
    nib_call_args args = n->args;
    if (nib_modes_before_op(&args)) {
        for (int i = 0; i < args.nout; i++)
            if (args.out[i] != n->args.out[i])
                return NIB_RAISE(NIB_E_UNSUPPORTED,
                                 "a mode answers %s itself; run it without compiling",
                                 args.op->name);
        return NIB_OK;
    }
    NIB_TRY(n->impl->run(&args));
    return nib_modes_after_op(&args);
}

/* On one thread by taking the pool away: a loop without one is the serial loop it equals. */
static nib_status run_node(const nib_graph *g, const nib_node *n, int number) {
    nib_ctx *ctx = g->ctx;
    if (!number) return n->impl->run(&n->args);
    const nib_way way = nib_graph_way(g, number);
    nib_pool *pool = ctx->pool;
    if (way.alone) ctx->pool = NULL;
    ctx->variant = way.variant < n->impl->variants ? way.variant : 0;
    const nib_status status = n->impl->run(&n->args);
    ctx->variant = 0;
    ctx->pool = pool;
    return status;
}

static nib_status run_timed(nib_graph *g) {
    for (int i = 0; i < g->nnodes; i++) {
        nib_node *n = &g->nodes[i];
        int way = g->tune_runs / NIB_TUNE_BLOCK % n->ways;
        if (nib_graph_way(g, way).alone && n->best_ns[0] > NIB_TUNE_ALONE_NS) way = 0;
        const int64_t began = nib_now_ns();
        NIB_TRY(run_node(g, n, way));
        const int64_t took = nib_now_ns() - began;
        if (took < n->best_ns[way]) n->best_ns[way] = took;
        g->tune_ns += took;
    }
    nib_graph_tuned_run(g);
    return NIB_OK;
}

nib_status nib_graph_execute(nib_graph *g, nib_tensor *const *inputs, const int64_t *symbols,
                             const nib_tensor **output) {
    set_symbols(g, symbols);
    const nib_status bound = bind_all(g, inputs);
    if (bound < NIB_OK) {
        g->ready = false; /* whatever comes next is bound afresh */
        for (int i = 0; i < g->ninputs; i++) g->inputs[i].bound = NULL;
        return bound;
    }
    NIB_TRY(check_symbols(g));
    if (g->ctx->nmodes) {
        for (int i = 0; i < g->nnodes; i++) NIB_TRY(run_watched(&g->nodes[i]));
    } else if (g->tune_runs < g->tune_wanted) {
        NIB_TRY(run_timed(g));
    } else {
        for (int i = 0; i < g->nnodes; i++) NIB_TRY(run_node(g, &g->nodes[i], g->nodes[i].way));
    }
    *output = g->values[g->output].tensor;
    return NIB_OK;
}
