/* trace.c: a mode that answers every op in its place: it checks the shapes, makes results that
 * hold nothing, and writes down what was called with what.
 *
 * Which value a tensor is, its storage tells: headers come and go while a forward runs, views are
 * made without asking, but the storages of results are held until the trace ends, so that no
 * address stands for two of them. */
#include <string.h>

#include "base/error.h"
#include "graph/node.h"
#include "op/mode.h"
#include "op/on_codes.h"
#include "quant/act8.h"
#include "tensor/context.h"

static bool same_memory(const nib_value *a, const nib_value *b) {
    if (a->kind != b->kind || a->of != b->of || a->offset != b->offset || a->dtype != b->dtype ||
        a->code != b->code || (a->code && memcmp(&a->scale, &b->scale, sizeof a->scale) != 0) ||
        !nib_shape_equal(&a->shape, &b->shape))
        return false;
    for (int i = 0; i < a->shape.ndim; i++)
        if (a->stride[i] != b->stride[i]) return false;
    return true;
}

static nib_value describe(const nib_graph *g, const nib_tensor *t) {
    nib_value v = {.kind = NIB_VALUE_CONSTANT,
                   .offset = nib_tensor_offset(t, 0),
                   .dtype = t->dtype,
                   .shape = t->shape};
    memcpy(v.stride, t->stride, sizeof v.stride);
    if (nib_act8_is(t)) {
        v.code = t->desc.code;
        v.scale = nib_act8_scale(t);
        memset(v.stride, 0, sizeof v.stride); /* one way to lie only */
    }
    for (int i = g->nbuffers - 1; i >= 0; i--)
        if (g->buffers[i].traced == t->part[0]) {
            v.kind = NIB_VALUE_MADE;
            v.of = i;
            return v;
        }
    for (int i = 0; i < g->ninputs; i++) {
        const nib_graph_input *in = &g->inputs[i];
        if (in->traced != t->part[0]) continue;
        v.kind = NIB_VALUE_INPUT;
        v.of = i;
        v.whole = in->layout == t->layout && nib_shape_equal(&in->shape, &t->shape) &&
                  (t->layout || nib_tensor_contiguous(t));
        v.offset -= nib_tensor_offset(in->bound, 0);
        return v;
    }
    return v;
}

/* The value that this tensor is, added when it is met for the first time; -1: no memory. */
static int value_of(nib_graph *g, const nib_tensor *t) {
    nib_value v = describe(g, t);
    const bool constant = v.kind == NIB_VALUE_CONSTANT;
    for (int i = g->nvalues - 1; i >= 0; i--) {
        const nib_value *known = &g->values[i];
        if (same_memory(known, &v) && (!constant || (known->tensor->part[0] == t->part[0] &&
                                                     known->tensor->layout == t->layout)))
            return i;
    }
    if (constant) v.tensor = nib_tensor_retain(t);
    const int index = nib_graph_add_value(g, &v);
    if (index < 0) nib_tensor_free(v.tensor);
    return index;
}

static nib_status record(nib_graph *g, nib_call_args *args);

static nib_status record_step(void *user, nib_call_args *args) { return record(user, args); }

/* Codes times or by one number are codes of another scale, which must be known. */
static nib_status want_known_numbers(const nib_graph *g, const nib_call_args *args) {
    if (args->op != &nib_op_mul && args->op != &nib_op_div) return NIB_OK;
    for (int i = 0; i < args->nin; i++)
        if (!args->in[i]->shape.ndim && !nib_act8_is(args->in[i]) &&
            describe(g, args->in[i]).kind != NIB_VALUE_CONSTANT)
            return NIB_RAISE(NIB_E_UNSUPPORTED,
                             "%s of a quantized activation and a number that is computed cannot "
                             "be compiled; run it op by op",
                             args->op->name);
    return NIB_OK;
}

/* What the door does with codes that the op does not take as they are; NIB_END: it takes floats. */
static nib_status record_codes(nib_graph *g, nib_call_args *args) {
    NIB_TRY(want_known_numbers(g, args));
    const nib_status status = nib_codes_run(args, record_step, g);
    if (status != NIB_END) return status;
    NIB_TRY(nib_codes_drop(args, record_step, g));
    return NIB_END;
}

static nib_status record(nib_graph *g, nib_call_args *args) {
    if (nib_codes_among(args) && !nib_call_takes_codes(args)) {
        const nib_status status = record_codes(g, args);
        if (status != NIB_END) return status;
    }
    if (args->op == &nib_op_quantize_activation &&
        describe(g, args->in[1]).kind != NIB_VALUE_CONSTANT)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "the scale of an activation is computed: it cannot be "
                                            "compiled; run it op by op");
    NIB_TRY(nib_call_outputs(args));
    const int index = nib_graph_add_node(g, args);
    if (index < 0) return nib_last_error()->status;
    nib_node *node = &g->nodes[index];
    for (int i = 0; i < args->nin; i++) {
        if (args->in[i] == NIB_NONE) continue;
        node->in[i] = value_of(g, args->in[i]);
        if (node->in[i] < 0) return nib_last_error()->status;
    }
    for (int i = 0; i < args->nout; i++) {
        const int buffer = nib_graph_add_buffer(g, nib_tensor_bytes(args->out[i]));
        if (buffer < 0) return nib_last_error()->status;
        g->buffers[buffer].traced = nib_storage_retain(args->out[i]->part[0]);
        node->out[i] = value_of(g, args->out[i]);
        if (node->out[i] < 0) return nib_last_error()->status;
    }
    return NIB_OK;
}

typedef struct recorder {
    nib_graph *graph;
    nib_status status; /* the first failure: the door asks a mode for none */
} recorder;

/* After a failure results are missing, so that the body ends soon. */
static bool before_op(void *self, const nib_op *op, nib_call_args *args) {
    recorder *r = self;
    if (op == &nib_op_quantize_weight) return false; /* of a constant, which it stays */
    if (r->status >= NIB_OK) r->status = record(r->graph, args);
    if (r->status < NIB_OK) memset(args->out, 0, sizeof args->out);
    return true;
}

static const nib_mode mode = {.name = "trace", .before_op = before_op};

static nib_status run_body(nib_graph *g, nib_trace_body *body, void *user) {
    nib_tensor *output = NULL;
    recorder r = {.graph = g};
    NIB_TRY(nib_mode_push(g->ctx, &mode, &r));
    nib_status status = body(user, &output);
    nib_mode_pop(g->ctx);
    if (r.status < NIB_OK) status = r.status;
    if (status >= NIB_OK && !output) status = nib_last_error()->status;
    NIB_TRY(status);
    g->output = value_of(g, output);
    if (g->output < 0) return nib_last_error()->status;
    const nib_value *v = &g->values[g->output];
    if (v->kind != NIB_VALUE_MADE)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "what was traced gives back %s, not a result",
                         v->kind == NIB_VALUE_INPUT ? "its input" : "a constant");
    return NIB_OK;
}

nib_graph *nib_trace(nib_ctx *ctx, nib_tensor *const *inputs, int ninputs, const int64_t *symbols,
                     int nsymbols, nib_trace_body *body, void *user) {
    if (!ctx) return NULL;
    if (nsymbols > NIB_MAX_SYMBOLS)
        return NIB_RAISE_NULL(NIB_E_UNSUPPORTED, "%d symbols, a trace knows %d", nsymbols,
                              NIB_MAX_SYMBOLS);
    nib_graph *g = nib_graph_new(ctx);
    if (!g) return NULL;
    for (int i = 0; i < nsymbols; i++) g->symbol[i] = symbols[i];
    g->nsymbols = nsymbols;
    const size_t mark = nib_scope_begin(ctx);
    nib_status status = NIB_OK;
    for (int i = 0; i < ninputs && status >= NIB_OK; i++) {
        nib_graph_input in = {.bound = inputs[i],
                              .layout = inputs[i]->layout,
                              .dtype = inputs[i]->dtype,
                              .shape = inputs[i]->shape,
                              .traced = nib_storage_retain(inputs[i]->part[0])};
        if (nib_graph_add_input(g, &in) >= 0) continue;
        nib_storage_release(in.traced);
        status = nib_last_error()->status;
    }
    if (status >= NIB_OK) status = run_body(g, body, user);
    nib_scope_end(ctx, mark);
    for (int i = 0; i < g->nbuffers; i++) {
        nib_storage_release(g->buffers[i].traced);
        g->buffers[i].traced = NULL;
    }
    for (int i = 0; i < g->ninputs; i++) {
        nib_storage_release(g->inputs[i].traced);
        g->inputs[i].traced = NULL;
        g->inputs[i].bound = NULL;
    }
    if (status >= NIB_OK) return g;
    nib_graph_free(g);
    return NULL;
}

/* ---- what follows a symbol ---- */

static bool same_constant(const nib_tensor *a, const nib_tensor *b) {
    if (a->layout || b->layout || a->part[0] == b->part[0])
        return a->layout == b->layout && a->part[0] == b->part[0];
    return nib_tensor_contiguous(a) && nib_tensor_contiguous(b) &&
           memcmp(nib_tensor_data(a), nib_tensor_data(b), nib_tensor_bytes(a)) == 0;
}

static bool same_value(const nib_value *a, const nib_value *b) {
    if (a->kind != NIB_VALUE_CONSTANT || b->kind != NIB_VALUE_CONSTANT) return same_memory(a, b);
    return a->dtype == b->dtype && nib_shape_equal(&a->shape, &b->shape) &&
           same_constant(a->tensor, b->tensor);
}

static bool same_structure(const nib_graph *a, const nib_graph *b) {
    if (a->nnodes != b->nnodes || a->nvalues != b->nvalues || a->nbuffers != b->nbuffers ||
        a->output != b->output || a->nsymbols != b->nsymbols)
        return false;
    for (int i = 0; i < a->nvalues; i++)
        if (!same_value(&a->values[i], &b->values[i])) return false;
    for (int i = 0; i < a->nnodes; i++) {
        const nib_node *x = &a->nodes[i], *y = &b->nodes[i];
        if (x->args.op != y->args.op || x->args.nin != y->args.nin ||
            x->args.nattr != y->args.nattr || memcmp(x->in, y->in, sizeof x->in) != 0 ||
            memcmp(x->out, y->out, sizeof x->out) != 0)
            return false;
    }
    return true;
}

static nib_status learn_attr(nib_graph *g, int node, int attr, int symbol, int64_t here,
                             int64_t there, int64_t moved) {
    int64_t predicted = here;
    bool known = false;
    for (int k = 0; k < g->nfollows; k++) {
        const nib_follows *f = &g->follows[k];
        if (f->node != node || f->attr != attr) continue;
        known = true;
        predicted = here + f->per * (f->symbol == symbol ? moved : 0);
    }
    if (there == predicted) return NIB_OK;
    const int64_t per = (there - here) / moved;
    if (g->learned[symbol] || known || per * moved != there - here)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "an argument of %s is %lld, then %lld as a number moves by %lld: it is "
                         "no multiple of it",
                         g->nodes[node].args.op->name, (long long)here, (long long)there,
                         (long long)moved);
    const nib_follows f = {.node = node,
                           .attr = attr,
                           .symbol = symbol,
                           .per = per,
                           .base = here - per * g->symbol[symbol]};
    return nib_graph_add_follows(g, &f) < 0 ? nib_last_error()->status : NIB_OK;
}

nib_status nib_trace_learn(nib_graph *g, const nib_graph *other) {
    if (!same_structure(g, other))
        return NIB_RAISE(NIB_E_UNSUPPORTED, "two traces of one body called different things");
    int symbol = NIB_ABSENT;
    for (int i = 0; i < g->nsymbols; i++) {
        if (g->symbol[i] == other->symbol[i]) continue;
        if (symbol != NIB_ABSENT)
            return NIB_RAISE(NIB_E_UNSUPPORTED, "two traces differ in more than one symbol");
        symbol = i;
    }
    if (symbol == NIB_ABSENT) return NIB_OK;
    const int64_t moved = other->symbol[symbol] - g->symbol[symbol];
    for (int i = 0; i < g->nnodes; i++)
        for (int k = 0; k < g->nodes[i].args.nattr; k++)
            NIB_TRY(learn_attr(g, i, k, symbol, g->nodes[i].args.attr[k].i,
                               other->nodes[i].args.attr[k].i, moved));
    g->learned[symbol] = true;
    return NIB_OK;
}
