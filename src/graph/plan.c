/* plan.c: memory for the results of a graph, placed once.
 *
 * A buffer lives from the node that writes it to the last that reads it or a view of it. Buffers
 * are placed largest first, each at the lowest address where none that lives at the same time
 * lies; so a decode step needs little more than its widest moment, and it stays in the cache.
 * Greedy by size, as in Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
 * Inference", 2020. */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "graph/node.h"
#include "quant/act8.h"
#include "tensor/context.h"

static void touch(nib_graph *g, int value, int node) {
    if (value == NIB_ABSENT || g->values[value].kind != NIB_VALUE_MADE) return;
    nib_buffer *b = &g->buffers[g->values[value].of];
    if (b->first == NIB_ABSENT) b->first = node;
    b->last = node;
}

static void find_lives(nib_graph *g) {
    for (int i = 0; i < g->nbuffers; i++) g->buffers[i].first = g->buffers[i].last = NIB_ABSENT;
    for (int i = 0; i < g->nnodes; i++) {
        for (int k = 0; k < g->nodes[i].args.nin; k++) touch(g, g->nodes[i].in[k], i);
        for (int k = 0; k < g->nodes[i].args.nout; k++) touch(g, g->nodes[i].out[k], i);
    }
    touch(g, g->output, g->nnodes); /* the caller reads it after the last node */
}

static bool overlap(const nib_buffer *a, const nib_buffer *b) {
    return a->first <= b->last && b->first <= a->last;
}

/* The lowest place for buffer `i` between those of `placed` that live when it does. */
static nib_status place(nib_graph *g, int i, const int *placed, int count) {
    nib_buffer *b = &g->buffers[i];
    size_t at = 0, end;
    for (bool moved = true; moved;) { /* each round passes one that is in the way */
        moved = false;
        if (nib_add_size(at, b->size, &end))
            return NIB_RAISE(NIB_E_MEMORY, "the results of a graph overflow");
        for (int k = 0; k < count; k++) {
            const nib_buffer *o = &g->buffers[placed[k]];
            if (!overlap(b, o) || end <= o->offset || o->offset + o->size <= at) continue;
            at = o->offset + o->size;
            moved = true;
            break;
        }
    }
    b->offset = at;
    if (end > g->arena_size) g->arena_size = end;
    return NIB_OK;
}

static nib_status place_all(nib_graph *g) {
    nib_mem *mem = &g->ctx->mem;
    const size_t size = (size_t)g->nbuffers * sizeof(int);
    int *placed = nib_mem_alloc(mem, size);
    if (!placed) return nib_last_error()->status;
    int count = 0;
    nib_status status = NIB_OK;
    g->arena_size = 0;
    for (int i = 0; i < g->nbuffers && status >= NIB_OK; i++)
        if (nib_align_size(g->buffers[i].size, NIB_MEM_ALIGN, &g->buffers[i].size))
            status = NIB_RAISE(NIB_E_MEMORY, "the results of a graph overflow");
    while (status >= NIB_OK) { /* largest first, the earlier of equals */
        int next = NIB_ABSENT;
        for (int i = 0; i < g->nbuffers; i++) {
            const nib_buffer *b = &g->buffers[i];
            if (b->first == NIB_ABSENT || b->placed) continue;
            if (next == NIB_ABSENT || b->size > g->buffers[next].size) next = i;
        }
        if (next == NIB_ABSENT) break;
        status = place(g, next, placed, count);
        g->buffers[next].placed = true;
        placed[count++] = next;
    }
    nib_mem_free(mem, placed, size);
    return status;
}

/* Headers over the block for what nodes make. Those over inputs come with the inputs. */
static nib_status make_headers(nib_graph *g) {
    for (int i = 0; i < g->nvalues; i++) {
        nib_value *v = &g->values[i];
        if (v->kind != NIB_VALUE_MADE || g->buffers[v->of].first == NIB_ABSENT) continue;
        v->tensor = nib_tensor_over(g->ctx, v->code ? nib_act8_stored(v->code) : v->dtype, v->shape,
                                    g->arena, g->buffers[v->of].offset + v->offset);
        if (!v->tensor) return nib_last_error()->status;
        if (v->code) {
            nib_tensor *codes = v->tensor;
            v->tensor = nib_act8_over(codes, v->code, v->dtype, v->scale);
            nib_tensor_free(codes);
            if (!v->tensor) return nib_last_error()->status;
            continue;
        }
        memcpy(v->tensor->stride, v->stride, sizeof v->stride);
    }
    return NIB_OK;
}

static void point(nib_graph *g) {
    for (int i = 0; i < g->nnodes; i++) {
        nib_node *n = &g->nodes[i];
        for (int k = 0; k < n->args.nin; k++)
            n->args.in[k] = n->in[k] == NIB_ABSENT ? NIB_NONE : g->values[n->in[k]].tensor;
        for (int k = 0; k < n->args.nout; k++) n->args.out[k] = g->values[n->out[k]].tensor;
    }
}

nib_status nib_graph_plan(nib_graph *g) {
    find_lives(g);
    NIB_TRY(place_all(g));
    g->arena = nib_storage_new(&g->ctx->mem, g->arena_size);
    if (!g->arena) return nib_last_error()->status;
    NIB_TRY(nib_graph_trim(g));
    NIB_TRY(make_headers(g));
    point(g);
    return NIB_OK;
}
