#include "graph/node.h"

#include <string.h>

#include "base/error.h"
#include "base/text_util.h"
#include "tensor/context.h"

nib_graph *nib_graph_new(nib_ctx *ctx) {
    nib_graph *g = nib_mem_alloc_zero(&ctx->mem, sizeof *g);
    if (!g) return NULL;
    g->ctx = ctx;
    g->output = NIB_ABSENT;
    return g;
}

void nib_graph_free(nib_graph *g) {
    if (!g) return;
    nib_mem *mem = &g->ctx->mem;
    for (int i = 0; i < g->nvalues; i++) nib_tensor_free(g->values[i].tensor);
    for (int i = 0; i < g->nbuffers; i++) nib_storage_release(g->buffers[i].traced);
    for (int i = 0; i < g->ninputs; i++) nib_storage_release(g->inputs[i].traced);
    nib_storage_release(g->arena);
    nib_mem_strfree(mem, g->tune_path);
    nib_mem_free(mem, g->nodes, (size_t)g->nodes_room * sizeof *g->nodes);
    nib_mem_free(mem, g->values, (size_t)g->values_room * sizeof *g->values);
    nib_mem_free(mem, g->buffers, (size_t)g->buffers_room * sizeof *g->buffers);
    nib_mem_free(mem, g->follows, (size_t)g->follows_room * sizeof *g->follows);
    nib_mem_free(mem, g->inputs, (size_t)g->inputs_room * sizeof *g->inputs);
    nib_mem_free(mem, g, sizeof *g);
}

/* Append one entry of `size` bytes to a growing array; its index, or -1. */
static int append(nib_graph *g, void *entries, int *count, int *room, const void *entry,
                  size_t size) {
    void **at = entries;
    if (*count == *room) {
        const int more = *room ? *room * 2 : 16;
        void *grown = nib_mem_realloc(&g->ctx->mem, *at, (size_t)*room * size, (size_t)more * size);
        if (!grown) return -1;
        *at = grown;
        *room = more;
    }
    memcpy((char *)*at + (size_t)*count * size, entry, size);
    return (*count)++;
}

int nib_graph_add_node(nib_graph *g, const nib_call_args *args) {
    nib_node node = {.args = *args};
    for (int i = 0; i < NIB_MAX_INPUTS; i++) node.in[i] = NIB_ABSENT;
    for (int i = 0; i < NIB_MAX_OUTPUTS; i++) node.out[i] = NIB_ABSENT;
    return append(g, &g->nodes, &g->nnodes, &g->nodes_room, &node, sizeof node);
}

int nib_graph_add_value(nib_graph *g, const nib_value *value) {
    return append(g, &g->values, &g->nvalues, &g->values_room, value, sizeof *value);
}

int nib_graph_add_buffer(nib_graph *g, size_t size) {
    const nib_buffer buffer = {.size = size, .first = NIB_ABSENT, .last = NIB_ABSENT};
    return append(g, &g->buffers, &g->nbuffers, &g->buffers_room, &buffer, sizeof buffer);
}

int nib_graph_add_follows(nib_graph *g, const nib_follows *follows) {
    return append(g, &g->follows, &g->nfollows, &g->follows_room, follows, sizeof *follows);
}

int nib_graph_add_input(nib_graph *g, const nib_graph_input *input) {
    return append(g, &g->inputs, &g->ninputs, &g->inputs_room, input, sizeof *input);
}

static nib_status trim(nib_graph *g, void *entries, int count, int *room, size_t size) {
    void **at = entries;
    if (*room == count) return NIB_OK;
    void *less = nib_mem_realloc(&g->ctx->mem, *at, (size_t)*room * size, (size_t)count * size);
    if (!less) return nib_last_error()->status;
    *at = less;
    *room = count;
    return NIB_OK;
}

nib_status nib_graph_trim(nib_graph *g) {
    NIB_TRY(trim(g, &g->nodes, g->nnodes, &g->nodes_room, sizeof *g->nodes));
    NIB_TRY(trim(g, &g->values, g->nvalues, &g->values_room, sizeof *g->values));
    NIB_TRY(trim(g, &g->buffers, g->nbuffers, &g->buffers_room, sizeof *g->buffers));
    NIB_TRY(trim(g, &g->follows, g->nfollows, &g->follows_room, sizeof *g->follows));
    return trim(g, &g->inputs, g->ninputs, &g->inputs_room, sizeof *g->inputs);
}

void nib_graph_remove(nib_graph *g, const bool *gone) {
    int follows = 0;
    for (int k = 0; k < g->nfollows; k++) {
        nib_follows f = g->follows[k];
        if (gone[f.node]) continue;
        int before = 0;
        for (int i = 0; i < f.node; i++) before += gone[i];
        f.node -= before;
        g->follows[follows++] = f;
    }
    g->nfollows = follows;
    int kept = 0;
    for (int i = 0; i < g->nnodes; i++)
        if (!gone[i]) g->nodes[kept++] = g->nodes[i];
    g->nnodes = kept;
}

static void print_value(nib_text *text, const nib_graph *g, int index) {
    char shape[96];
    if (index == NIB_ABSENT) {
        nib_text_add(text, "none");
        return;
    }
    const nib_value *v = &g->values[index];
    const char *layout = v->kind == NIB_VALUE_CONSTANT && v->tensor->layout
                             ? v->tensor->layout->name
                             : nib_dtype_name(v->dtype);
    static const char *const kinds[] = {"%", "input ", "constant "};
    if (v->kind == NIB_VALUE_CONSTANT)
        nib_text_format(text, "%s%s %s", kinds[v->kind],
                        nib_shape_text(&v->shape, shape, sizeof shape), layout);
    else
        nib_text_format(text, "%s%d %s%s%s", kinds[v->kind], v->of,
                        nib_shape_text(&v->shape, shape, sizeof shape), v->code ? " " : "",
                        v->code ? nib_dtype_name(v->code) : "");
    if (v->kind != NIB_VALUE_CONSTANT && v->offset) nib_text_format(text, " +%zu", v->offset);
}

char *nib_graph_print(const nib_graph *g) {
    if (!g) return NULL;
    nib_text text = {0};
    for (int i = 0; i < g->nnodes; i++) {
        const nib_node *node = &g->nodes[i];
        for (int k = 0; k < node->args.nout; k++) {
            print_value(&text, g, node->out[k]);
            const nib_value *v = &g->values[node->out[k]];
            nib_text_format(&text, " @%zu%s", g->buffers[v->of].offset + v->offset,
                            k + 1 < node->args.nout ? ", " : " = ");
        }
        nib_text_format(&text, "%s(", node->args.op->name);
        for (int k = 0; k < node->args.nin; k++) {
            print_value(&text, g, node->in[k]);
            if (k + 1 < node->args.nin) nib_text_add(&text, ", ");
        }
        const nib_way way = nib_graph_way(g, node->way);
        nib_text_add(&text, way.alone ? ") on one thread" : ")");
        if (way.variant) nib_text_format(&text, ", variant %d", way.variant);
        nib_text_add(&text, "\n");
    }
    nib_text_format(&text, "%d nodes, %zu bytes of results\n", g->nnodes, g->arena_size);
    return nib_text_take(&text);
}
