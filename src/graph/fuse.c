/* fuse.c: neighbours that are cheaper together, with the same bits.
 *
 *   silu_mul(linear(x, G), linear(x, U))   ->  linear_silu_mul
 *   add(r, linear(x, W))                   ->  linear_add
 *   linear(x, A), linear(x, B), ...        ->  linear_many
 *   rms_norm whose readers want codes      ->  rms_norm_quantize
 *   kv_append(cache, rope(x, angles))      ->  kv_append(cache, x, angles)
 *   quantize_activation(x) twice, alike    ->  once
 *   quantize_activation(act(linear(x, W))) ->  linear_act, codes straight out of the product
 *   relu of such codes                     ->  their floor
 *   quantize_activation(norm(x))           ->  norm_codes
 *   quantize_activation(conv2d(x, W))      ->  conv_codes
 *
 * A result that vanishes must have had no other reader, and no view of it may have one. A product
 * that moves to where another node of its group stands must find the same input there: weights are
 * constants, what nodes make is written once, and an op that mutates the input keeps it in place.
 */
#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "graph/node.h"
#include "op/calls.h"
#include "op/product.h"
#include "quant/act8.h"
#include "tensor/context.h"

typedef struct fusing {
    nib_graph *g;
    bool *gone;  /* [nodes] */
    int *reads;  /* [buffers]: by nodes and by the caller */
    bool failed; /* no memory */
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
    const nib_value *values = f->g->values;
    if (linear == NIB_ABSENT ||
        !nib_shape_equal(&values[n->in[0]].shape, &values[n->in[1]].shape)) /* one is repeated */
        return;
    const nib_node *l = &f->g->nodes[linear];
    const int in[] = {l->in[0], l->in[1], l->in[2], residual};
    f->gone[linear] = true;
    become(f, at, &nib_op_linear_add, in, 4);
}

/* ---- static activations ---- */

/* The node whose one and whole result is `value`, which nobody but the asker reads; what that node
 * reads is still there. */
static int sole_maker(const fusing *f, int value, int before) {
    const nib_graph *g = f->g;
    if (value == NIB_ABSENT || g->values[value].kind != NIB_VALUE_MADE ||
        f->reads[g->values[value].of] != 1)
        return NIB_ABSENT;
    for (int i = before - 1; i >= 0; i--) {
        const nib_node *n = &g->nodes[i];
        if (f->gone[i] || n->out[0] != value) continue;
        if (n->args.nout != 1) return NIB_ABSENT;
        for (int k = 0; k < n->args.nin; k++)
            if (n->in[k] != NIB_ABSENT && mutated(f, n->in[k], i, before)) return NIB_ABSENT;
        return i;
    }
    return NIB_ABSENT;
}

static bool makes_codes(const fusing *f, int at) {
    const nib_node *n = &f->g->nodes[at];
    return !f->gone[at] && n->args.op == &nib_op_quantize_activation;
}

/* Modules that meet the same input quantize it each for itself; where the scales are equal, so are
 * the codes. */
static void join_same_codes(fusing *f, int at) {
    nib_graph *g = f->g;
    if (!makes_codes(f, at)) return;
    const nib_node *n = &g->nodes[at];
    const int kept = n->out[0];
    for (int i = at + 1; i < g->nnodes; i++) {
        const nib_node *o = &g->nodes[i];
        const int other = o->out[0];
        if (!makes_codes(f, i) || o->in[0] != n->in[0] ||
            g->values[other].code != g->values[kept].code ||
            g->values[other].scale != g->values[kept].scale || mutated(f, n->in[0], at, i) ||
            g->values[g->output].of == g->values[other].of)
            continue;
        bool viewed = false; /* a view of them would have to move along */
        for (int k = i + 1; k < g->nnodes; k++)
            for (int j = 0; j < g->nodes[k].args.nin; j++) {
                const int in = g->nodes[k].in[j];
                viewed |= in != NIB_ABSENT && in != other && g->values[in].kind == NIB_VALUE_MADE &&
                          g->values[in].of == g->values[other].of;
            }
        if (viewed) continue;
        for (int k = i + 1; k < g->nnodes; k++)
            for (int j = 0; j < g->nodes[k].args.nin; j++)
                if (g->nodes[k].in[j] == other) g->nodes[k].in[j] = kept;
        f->gone[i] = true;
    }
}

/* The activation that a node is, of one float input; NIB_IDENTITY: another op. */
static nib_activation activation_of(const nib_node *n) {
    const nib_op *op = n->args.op;
    if (op == &nib_op_relu) return NIB_RELU;
    if (op == &nib_op_silu) return NIB_SILU;
    if (op != &nib_op_gelu) return NIB_IDENTITY;
    return strcmp(n->args.attr[0].s, "tanh") == 0 ? NIB_GELU_TANH : NIB_GELU;
}

/* Node `at` takes the place of the product at `linear`, which may be a gate and its other half. */
static void become_product(fusing *f, int at, int linear, nib_activation activation, int scale,
                           nib_dtype code) {
    const nib_node *l = &f->g->nodes[linear];
    const bool gated = l->args.op == &nib_op_linear_silu_mul;
    const int in[] = {l->in[0],
                      l->in[1],
                      gated ? l->in[3] : l->in[2],
                      gated ? l->in[2] : NIB_ABSENT,
                      gated ? l->in[4] : NIB_ABSENT,
                      scale};
    f->gone[linear] = true;
    become(f, at, &nib_op_linear_act, in, 6);
    nib_call_args *args = &f->g->nodes[at].args;
    args->nattr =
        nib_linear_act_attrs((int)(gated ? NIB_SILU : activation), code, false, args->attr);
}

static bool is_product(const fusing *f, int node) {
    return node != NIB_ABSENT &&
           (is_linear(f, node) || f->g->nodes[node].args.op == &nib_op_linear_silu_mul);
}

static void join_codes(fusing *f, int at) {
    nib_graph *g = f->g;
    if (!makes_codes(f, at)) return;
    const nib_node *n = &g->nodes[at];
    const nib_dtype code = g->values[n->out[0]].code;
    const int scale = n->in[1], maker = sole_maker(f, n->in[0], at);
    if (maker == NIB_ABSENT || g->values[n->in[0]].dtype != NIB_F32) return;
    const nib_node *m = &g->nodes[maker];
    const nib_op *op = m->args.op;
    if ((op == &nib_op_layer_norm || op == &nib_op_rms_norm) && is_constant(g, m->in[1]) &&
        is_constant(g, m->in[2]) &&
        (m->in[1] == NIB_ABSENT || !g->values[m->in[1]].tensor->layout)) {
        const bool rms = op == &nib_op_rms_norm;
        const int in[] = {m->in[0], m->in[1], rms ? NIB_ABSENT : m->in[2], scale};
        const int64_t dims = m->args.attr[0].i;
        const double eps = m->args.attr[1].d;
        f->gone[maker] = true;
        become(f, at, &nib_op_norm_codes, in, 4);
        g->nodes[at].args.nattr =
            nib_norm_codes_attrs(rms ? 1 : dims, eps, code, rms, g->nodes[at].args.attr);
        return;
    }
    if (op == &nib_op_conv1d || op == &nib_op_conv2d) {
        const int in[] = {m->in[0], m->in[1], m->in[2], scale, NIB_ABSENT};
        nib_attr attr[NIB_MAX_ATTRS];
        const int nattr = nib_conv_codes_attrs(&m->args, code, attr);
        f->gone[maker] = true;
        become(f, at, &nib_op_conv_codes, in, 5);
        g->nodes[at].args.nattr = nattr;
        memcpy(g->nodes[at].args.attr, attr, sizeof attr);
        return;
    }
    const nib_activation activation = activation_of(m);
    const int linear = activation == NIB_IDENTITY ? maker : sole_maker(f, m->in[0], maker);
    if (!is_product(f, linear) ||
        (activation != NIB_IDENTITY &&
         (!is_linear(f, linear) || mutated(f, g->nodes[linear].in[0], maker, at))))
        return;
    if (activation != NIB_IDENTITY) f->gone[maker] = true;
    become_product(f, at, linear, activation, scale, code);
}

/* relu of codes that a product or a convolution just made. */
static void join_floor(fusing *f, int at) {
    nib_graph *g = f->g;
    const nib_node *n = &g->nodes[at];
    if (f->gone[at] || n->args.op != &nib_op_relu || !nib_act8_integer(g->values[n->in[0]].code))
        return;
    const int maker = sole_maker(f, n->in[0], at);
    if (maker == NIB_ABSENT) return;
    nib_node *m = &g->nodes[maker];
    const nib_op *op = m->args.op;
    if (!(op == &nib_op_linear_act && nib_linear_act_set_floor(m->args.attr)) &&
        !(op == &nib_op_conv_codes && nib_conv_codes_set_floor(m->args.attr)))
        return;
    nib_attr attr[NIB_MAX_ATTRS];
    const int nattr = m->args.nattr;
    memcpy(attr, m->args.attr, sizeof attr);
    int in[NIB_MAX_INPUTS];
    memcpy(in, m->in, sizeof in);
    f->gone[maker] = true;
    become(f, at, op, in, m->args.nin);
    g->nodes[at].args.nattr = nattr;
    memcpy(g->nodes[at].args.attr, attr, sizeof attr);
}

/* An activation of a linear's floats. */
static void join_activation(fusing *f, int at) {
    const nib_node *n = &f->g->nodes[at];
    const nib_activation activation = f->gone[at] ? NIB_IDENTITY : activation_of(n);
    if (activation == NIB_IDENTITY || f->g->values[n->in[0]].code) return;
    const int linear = sole_linear(f, n->in[0], at);
    if (linear != NIB_ABSENT) become_product(f, at, linear, activation, NIB_ABSENT, (nib_dtype)0);
}

/* Where the weights of an op that may take codes for its input begin and end; 0: of another op. */
static int weights_of(const nib_node *n) {
    const nib_op *op = n->args.op;
    if (op == &nib_op_linear || op == &nib_op_linear_add) return 1;
    if (op == &nib_op_linear_silu_mul) return 2;
    return op == &nib_op_linear_many ? (n->args.nin - 1) / 2 : 0;
}

static bool same_rows(const nib_rows_kind *a, const nib_rows_kind *b) {
    return nib_rows_same(a, b) && a->group == b->group;
}

/* Does this node read `value` as nothing but the input of a product whose weights want one kind of
 * rows, that of the readers before it? */
static bool wants_codes(const fusing *f, int node, int value, nib_rows_kind *kind, bool *known) {
    const nib_node *n = &f->g->nodes[node];
    const int weights = weights_of(n);
    if (!weights || n->in[0] != value) return false;
    for (int k = 1; k < n->args.nin; k++) {
        if (n->in[k] == value) return false;
        if (k > weights) continue;
        nib_rows_kind own;
        const nib_value *w = &f->g->values[n->in[k]];
        if (w->kind != NIB_VALUE_CONSTANT || !nib_product_wants(w->tensor, &own) ||
            (*known && !same_rows(kind, &own)))
            return false;
        *kind = own;
        *known = true;
    }
    return true;
}

/* The result of a norm becomes codes, where all that read it make these of it anyway. */
static void join_norm(fusing *f, int at) {
    nib_graph *g = f->g;
    nib_node *n = &g->nodes[at];
    if (f->gone[at] || n->args.op != &nib_op_rms_norm) return;
    nib_value *v = &g->values[n->out[0]];
    nib_rows_kind kind = {0};
    bool known = false;
    int readers = 0;
    for (int i = at + 1; i < g->nnodes; i++) {
        bool reads = false;
        for (int k = 0; !f->gone[i] && k < g->nodes[i].args.nin; k++)
            reads |= g->nodes[i].in[k] == n->out[0];
        if (reads && !wants_codes(f, i, n->out[0], &kind, &known)) return;
        readers += reads;
    }
    const int last = v->shape.ndim - 1;
    if (!known || readers != f->reads[v->of] || !kind.K || kind.K != v->shape.dim[last]) return;
    nib_value made = *v;
    size_t size = 1;
    made.dtype = NIB_I8;
    made.shape.dim[last] = nib_rows_width(&kind);
    for (int i = last; i >= 0; i--) {
        made.stride[i] = (int64_t)size;
        if (nib_mul_size(size, (size_t)made.shape.dim[i], &size)) return;
    }
    *v = made;
    g->buffers[v->of].size = size;
    const int in[] = {n->in[0], n->in[1]};
    const double eps = n->args.attr[1].d;
    become(f, at, &nib_op_rms_norm_quantize, in, 2);
    n->args.nattr = nib_rms_norm_quantize_attrs(eps, &kind, n->args.attr);
    for (int i = at + 1; i < g->nnodes; i++) { /* only ops of the compiler read codes */
        nib_node *r = &g->nodes[i];
        if (!f->gone[i] && r->args.op == &nib_op_linear && r->in[0] == n->out[0])
            become(f, i, &nib_op_linear_many, (const int[]){r->in[0], r->in[1], r->in[2]}, 3);
    }
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

/* Rows [first, first + count) of a made value whose first dimension they are; -1: no memory. */
static int rows_of(fusing *f, int value, int64_t first, int64_t count) {
    nib_value v = f->g->values[value];
    if (first == 0 && count == v.shape.dim[0]) return value;
    v.offset += (size_t)(first * v.stride[0]) * sizeof(float);
    v.shape.dim[0] = count;
    const int index = nib_graph_add_value(f->g, &v);
    f->failed |= index < 0;
    return index;
}

/* Does this node append rows of what `rope` gave to a cache of such heads, and where do they begin?
 */
static bool appends(const fusing *f, int node, const nib_node *rope, int64_t *first) {
    const nib_graph *g = f->g;
    const nib_node *n = &g->nodes[node];
    if (f->gone[node] || n->args.op != &nib_op_kv_append || n->in[2] != NIB_ABSENT) return false;
    const nib_value *cache = &g->values[n->in[0]], *rows = &g->values[n->in[1]],
                    *made = &g->values[rope->out[0]], *angles = &g->values[rope->in[1]];
    const int64_t width = made->shape.dim[1];
    if (rows->kind != NIB_VALUE_MADE || rows->of != made->of || rows->shape.ndim != 2 ||
        rows->shape.dim[1] != width || rows->stride[0] != width || rows->stride[1] != 1)
        return false;
    *first = (int64_t)(rows->offset / sizeof(float)) / width;
    return (size_t)(*first * width) * sizeof(float) == rows->offset &&
           cache->shape.dim[0] == rope->args.attr[0].i &&
           cache->shape.dim[2] == 2 * angles->shape.dim[2];
}

/* Keys that only go into caches are turned on their way. */
static void join_rope(fusing *f, int at) {
    nib_graph *g = f->g;
    const nib_node rope = g->nodes[at];
    if (f->gone[at] || rope.args.op != &nib_op_rope || !g->values[rope.out[0]].shape.dim[1] ||
        g->values[rope.in[0]].kind != NIB_VALUE_MADE ||
        g->values[rope.in[1]].kind != NIB_VALUE_MADE)
        return;
    int64_t first;
    int readers = 0;
    for (int i = at + 1; i < g->nnodes; i++) {
        if (!appends(f, i, &rope, &first)) continue;
        if (mutated(f, rope.in[0], at, i) || mutated(f, rope.in[1], at, i)) return;
        readers++;
    }
    if (!readers || readers != f->reads[g->values[rope.out[0]].of]) return;
    for (int i = at + 1; i < g->nnodes && !f->failed; i++) {
        if (!appends(f, i, &rope, &first)) continue;
        nib_node *n = &g->nodes[i];
        const int64_t count = g->values[n->in[1]].shape.dim[0];
        n->in[1] = rows_of(f, rope.in[0], first, count);
        n->in[2] = rows_of(f, rope.in[1], first, count);
    }
    f->gone[at] = true;
}

nib_status nib_graph_fuse(nib_graph *g) {
    static void (*const joins[])(fusing *, int) = {join_same_codes, join_gate_and_up, join_codes,
                                                   join_floor,      join_activation,  join_residual,
                                                   join_linears,    join_norm,        join_rope};
    nib_mem *mem = &g->ctx->mem;
    const size_t nodes = (size_t)g->nnodes, buffers = (size_t)g->nbuffers;
    fusing f = {.g = g};
    f.gone = nib_mem_alloc_array(mem, nodes, sizeof *f.gone);
    f.reads = nib_mem_alloc_array(mem, buffers, sizeof *f.reads);
    const bool ready = f.gone && f.reads;
    for (size_t k = 0; ready && !f.failed && k < sizeof joins / sizeof *joins; k++) {
        count_reads(&f);
        for (int i = 0; i < g->nnodes; i++) joins[k](&f, i);
    }
    if (ready) nib_graph_remove(g, f.gone);
    nib_mem_free(mem, f.reads, buffers * sizeof *f.reads);
    nib_mem_free(mem, f.gone, nodes * sizeof *f.gone);
    return ready && !f.failed ? NIB_OK : nib_last_error()->status;
}
