/* fuse.c: neighbours that are cheaper together, with the same bits.
 *
 *   silu_mul(linear(x, G), linear(x, U))   ->  linear_silu_mul
 *   add(r, linear(x, W))                   ->  linear_add
 *   linear(x, A), linear(x, B), ...        ->  linear_many
 *
 * A result that vanishes must have had no other reader, and no view of it may have one. A product
 * that moves to where another node of its group stands must find the same input there: weights are
 * constants, what nodes make is written once, and an op that mutates the input keeps it in place.
 */
#include <assert.h>
#include <string.h>

#include "base/error.h"
#include "graph/node.h"
#include "op/calls.h"
#include "tensor/context.h"

typedef struct fusing {
    nib_graph *g;
    bool *gone; /* [nodes] */
    int *reads; /* [buffers]: by nodes and by the caller */
} fusing;

static void count_reads(fusing *f) {
    nib_graph *g = f->g;
    memset(f->reads, 0, (size_t)g->nbuffers * sizeof *f->reads);
    for (int i = 0; i < g->nnodes; i++)
        for (int k = 0; !f->gone[i] && k < g->nodes[i].args.nin; k++) {
            const int in = g->nodes[i].in[k];
            if (in != NIB_ABSENT && g->values[in].kind == NIB_VALUE_MADE)
                f->reads[g->values[in].of]++;
        }
    f->reads[g->values[g->output].of]++;
}

static bool is_constant(const nib_graph *g, int value) {
    return value == NIB_ABSENT || g->values[value].kind == NIB_VALUE_CONSTANT;
}

static bool is_linear(const fusing *f, int node) {
    const nib_node *n = &f->g->nodes[node];
    return !f->gone[node] && n->args.op == &nib_op_linear && is_constant(f->g, n->in[1]) &&
           is_constant(f->g, n->in[2]);
}

/* Does a node in (from, to) mutate the memory that `value` lies in? Schemas mark such a tensor, the
 * first of the op, with "(a!)". */
static bool mutated(const fusing *f, int value, int from, int to) {
    const nib_value *v = &f->g->values[value];
    for (int i = from + 1; i < to; i++) {
        const nib_node *n = &f->g->nodes[i];
        if (f->gone[i] || !n->args.nin || n->in[0] == NIB_ABSENT) continue;
        const nib_value *w = &f->g->values[n->in[0]];
        if (w->kind == v->kind && w->of == v->of && strstr(n->args.op->schema, "!)")) return true;
    }
    return false;
}

/* The linear whose whole result is `value` and which nobody but the asker reads. */
static int sole_linear(const fusing *f, int value, int before) {
    if (value == NIB_ABSENT || f->g->values[value].kind != NIB_VALUE_MADE ||
        f->reads[f->g->values[value].of] != 1)
        return NIB_ABSENT;
    for (int i = before - 1; i >= 0; i--)
        if (is_linear(f, i) && f->g->nodes[i].out[0] == value)
            return mutated(f, f->g->nodes[i].in[0], i, before) ? NIB_ABSENT : i;
    return NIB_ABSENT;
}

/* Node `at` becomes a call of `op` on these values; its results stay. */
static void become(fusing *f, int at, const nib_op *op, const int *in, int nin) {
    nib_node *n = &f->g->nodes[at];
    n->args.op = op;
    n->args.nin = nin;
    n->args.nattr = 0;
    for (int k = 0; k < NIB_MAX_INPUTS; k++) n->in[k] = k < nin ? in[k] : NIB_ABSENT;
}

static void join_gate_and_up(fusing *f, int at) {
    const nib_node *n = &f->g->nodes[at];
    if (f->gone[at] || n->args.op != &nib_op_silu_mul) return;
    const int gate = sole_linear(f, n->in[0], at), up = sole_linear(f, n->in[1], at);
    if (gate == NIB_ABSENT || up == NIB_ABSENT || gate == up) return;
    const nib_node *g = &f->g->nodes[gate], *u = &f->g->nodes[up];
    if (g->in[0] != u->in[0]) return;
    const int in[] = {g->in[0], g->in[1], u->in[1], g->in[2], u->in[2]};
    f->gone[gate] = f->gone[up] = true;
    become(f, at, &nib_op_linear_silu_mul, in, 5);
}

static void join_residual(fusing *f, int at) {
    const nib_node *n = &f->g->nodes[at];
    if (f->gone[at] || n->args.op != &nib_op_add || n->args.attr[0].d != 1.0) return;
    const int a = sole_linear(f, n->in[0], at), b = sole_linear(f, n->in[1], at);
    const int linear = b > a ? b : a, residual = b > a ? n->in[0] : n->in[1];
    if (linear == NIB_ABSENT) return;
    const nib_node *l = &f->g->nodes[linear];
    const int in[] = {l->in[0], l->in[1], l->in[2], residual};
    f->gone[linear] = true;
    become(f, at, &nib_op_linear_add, in, 4);
}

/* Linears of one input join the first of them: what they read is there by then. */
static void join_linears(fusing *f, int at) {
    nib_graph *g = f->g;
    if (!is_linear(f, at)) return;
    int group[NIB_MOST_LINEARS] = {at}, n = 1;
    for (int i = at + 1; i < g->nnodes && n < NIB_MOST_LINEARS; i++)
        if (is_linear(f, i) && g->nodes[i].in[0] == g->nodes[at].in[0] &&
            !mutated(f, g->nodes[i].in[0], at, i))
            group[n++] = i;
    if (n == 1) return;
    int in[1 + 2 * NIB_MOST_LINEARS] = {g->nodes[at].in[0]};
    for (int k = 0; k < n; k++) {
        in[1 + k] = g->nodes[group[k]].in[1];
        in[1 + n + k] = g->nodes[group[k]].in[2];
        if (k) f->gone[group[k]] = true;
    }
    for (int k = 1; k < n; k++) g->nodes[at].out[k] = g->nodes[group[k]].out[0];
    g->nodes[at].args.nout = n;
    become(f, at, &nib_op_linear_many, in, 1 + 2 * n);
}

nib_status nib_graph_fuse(nib_graph *g) {
    static void (*const joins[])(fusing *, int) = {join_gate_and_up, join_residual, join_linears};
    nib_mem *mem = &g->ctx->mem;
    const size_t nodes = (size_t)g->nnodes, buffers = (size_t)g->nbuffers;
    fusing f = {.g = g};
    f.gone = nib_mem_alloc_array(mem, nodes, sizeof *f.gone);
    f.reads = nib_mem_alloc_array(mem, buffers, sizeof *f.reads);
    const bool ready = f.gone && f.reads;
    for (size_t k = 0; ready && k < sizeof joins / sizeof *joins; k++) {
        count_reads(&f);
        for (int i = 0; i < g->nnodes; i++) joins[k](&f, i);
    }
    if (ready) nib_graph_remove(g, f.gone);
    nib_mem_free(mem, f.reads, buffers * sizeof *f.reads);
    nib_mem_free(mem, f.gone, nodes * sizeof *f.gone);
    return ready ? NIB_OK : nib_last_error()->status;
}
