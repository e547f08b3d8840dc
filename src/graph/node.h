/* node.h: what was called, as a list. A node is one call of an op record; a value is what nodes
 * take and give; a buffer is memory that one node's output fills and that views share.
 *
 *   made value      bytes [offset ...) of a buffer, which plan.c places in one block of memory
 *   input value     a tensor that the caller hands in for each run, or a view of one
 *   constant value  a tensor that was there before: weights; the graph holds it
 *
 * Nodes stand in the order in which they were called and run in that order, so a mutation (an op
 * whose schema has an `(a!)`) comes before and after what it came before and after. Integer
 * attributes may follow a symbol, such as the position: base + per * symbol. */
#ifndef NIB_GRAPH_NODE_H
#define NIB_GRAPH_NODE_H
#include <nibble/graph.h>

#include "op/op.h"

enum { NIB_MAX_SYMBOLS = 8, NIB_MAX_WAYS = 4, NIB_ABSENT = -1 };

typedef enum nib_value_kind { NIB_VALUE_MADE, NIB_VALUE_INPUT, NIB_VALUE_CONSTANT } nib_value_kind;

typedef struct nib_value {
    nib_value_kind kind;
    int of;             /* the buffer or input that it lies in */
    bool whole;         /* an input as it was handed in, not a view of it */
    size_t offset;      /* bytes from the first of the buffer or input */
    nib_tensor *tensor; /* owned. constant: itself; else a header over memory; NULL: not yet */
    nib_dtype dtype;
    nib_dtype
        code;    /* of a quantized activation, whose bytes are these codes; 0: floats, integers */
    float scale; /* of the codes */
    nib_shape shape;
    int64_t stride[NIB_MAX_DIMS];
} nib_value;

typedef struct nib_buffer {
    nib_storage *traced; /* what stood for it while tracing; NULL afterwards */
    size_t size, offset; /* bytes; place in the planned block */
    int first, last;     /* nodes that write it first and read it last; NIB_ABSENT: nobody */
    bool placed;
} nib_buffer;

typedef struct nib_node {
    const nib_impl *impl;
    nib_call_args args;     /* complete when planned; symbols are filled in at each run */
    int in[NIB_MAX_INPUTS]; /* values, or NIB_ABSENT */
    int out[NIB_MAX_OUTPUTS];
    int ways, way; /* that it may run in, to be measured; the one that is chosen */
    int64_t best_ns[NIB_MAX_WAYS];
} nib_node;

typedef struct nib_follows { /* attribute `attr` of a node follows a symbol */
    int node, attr, symbol;
    int64_t base, per;
} nib_follows;

typedef struct nib_graph_input {
    const nib_tensor *bound; /* borrowed during a run; between runs only compared, as is the next */
    const nib_storage *storage;
    bool changed; /* since the nodes last looked */
    const nib_layout *layout;
    nib_dtype dtype;
    nib_shape shape;
    nib_storage *traced; /* NULL after tracing */
} nib_graph_input;

struct nib_graph {
    nib_ctx *ctx;
    nib_node *nodes;
    nib_value *values;
    nib_buffer *buffers;
    nib_follows *follows;
    nib_graph_input *inputs;
    int nnodes, nvalues, nbuffers, nfollows, ninputs;
    int nodes_room, values_room, buffers_room, follows_room, inputs_room;
    int output;                      /* the value that running gives */
    int64_t symbol[NIB_MAX_SYMBOLS]; /* their values in the first trace */
    bool learned[NIB_MAX_SYMBOLS];   /* what follows it is known; nothing more may */
    int nsymbols;
    nib_storage *arena; /* every buffer; made by nib_graph_plan */
    bool ready;         /* every node has an implementation and fits its inputs */
    size_t arena_size;
    int tune_runs, tune_wanted; /* timed so far; when the choice is made */
    int64_t tune_ns;            /* that the timed runs took */
    char *tune_path;            /* where to keep it; NULL: nowhere */
};

/* An empty graph; nib_graph_free gives it back in any state. */
nib_graph *nib_graph_new(nib_ctx *ctx);

/* Append; the index, or -1 when there is no memory. */
int nib_graph_add_node(nib_graph *g, const nib_call_args *args);
int nib_graph_add_value(nib_graph *g, const nib_value *value);
int nib_graph_add_buffer(nib_graph *g, size_t size);
int nib_graph_add_follows(nib_graph *g, const nib_follows *follows);
int nib_graph_add_input(nib_graph *g, const nib_graph_input *input);

/* Take out the nodes whose `gone` is set, in order; `follows` goes along. */
void nib_graph_remove(nib_graph *g, const bool *gone);

/* Give back the room that nothing was added to. */
nib_status nib_graph_trim(nib_graph *g);

/* ---- trace.c ---- */
/* What a body calls between nib_trace's beginning and end; *output belongs to the open scope. */
typedef nib_status nib_trace_body(void *user, nib_tensor **output);

/* Record the ops that `body` calls, without running them: shapes are checked, results hold
 * nothing. inputs: the tensors that will be others at each run. `symbols` are the integers, known
 * to the body, that will be others at each run; see nib_trace_learn. Caller owns the graph. */
nib_graph *nib_trace(nib_ctx *ctx, nib_tensor *const *inputs, int ninputs, const int64_t *symbols,
                     int nsymbols, nib_trace_body *body, void *user);

/* Compare with another trace of the same body, made with one symbol changed: what differs follows
 * that symbol. Fails: NIB_E_UNSUPPORTED when the two differ in more than integer attributes, or in
 * a way that is no multiple of the symbol. */
nib_status nib_trace_learn(nib_graph *g, const nib_graph *other);

/* ---- fuse.c ---- */
/* Put neighbours together that are cheaper so; the bits stay. Before nib_graph_plan. */
nib_status nib_graph_fuse(nib_graph *g);

/* ---- plan.c ---- */
/* Choose implementations, place buffers, make the headers: everything that running needs. */
nib_status nib_graph_plan(nib_graph *g);

/* ---- tune.c ---- */
/* Runs that are timed: blocks of NIB_TUNE_BLOCK in each of a node's ways in turns, so that every
 * way has its turn NIB_TUNE_TURNS times; once is enough where that took more than a second. */
enum { NIB_TUNE_BLOCK = 4, NIB_TUNE_TURNS = 2 };

/* What all threads need longer for is not tried on one: handing work over costs a hundredth. */
enum { NIB_TUNE_ALONE_NS = 200000 };

/* A way to run a node: way 0 is what is best as a rule. */
typedef struct nib_way {
    bool alone;  /* on the caller's thread */
    int variant; /* of its implementation */
} nib_way;
nib_way nib_graph_way(const nib_graph *g, int way);

/* Take choices from the file, or have the next runs make them and write it. path NULL: no file.
 * After nib_graph_plan. Only a lack of memory fails. */
nib_status nib_graph_tune(nib_graph *g, const char *path);
void nib_graph_tuned_run(nib_graph *g); /* one more timed run is over */

/* All that follows a trace which began at `began` (nib_now_ns): fuse, plan, tune, and tell the log
 * how long it took. */
nib_status nib_graph_finish(nib_graph *g, bool fuse, const char *tune, int64_t began);

/* ---- run.c ---- */
/* Run all nodes with these inputs and symbols; *output is borrowed until the next run. */
nib_status nib_graph_execute(nib_graph *g, nib_tensor *const *inputs, const int64_t *symbols,
                             const nib_tensor **output);
#endif
