/* graph.h: compile a module: what its forward calls, as a list that is planned once and run often.
 *
 *   nib_graph *g = nib_compile(module, x, NULL);
 *   const nib_tensor *y = nib_graph_run(g, x);       the bits of nib_module_forward(module, x)
 *
 * Sessions compile their decoding step by themselves (nib_session_options, `compile`); this is the
 * same for modules by hand. Running allocates nothing. */
#ifndef NIBBLE_GRAPH_H
#define NIBBLE_GRAPH_H
#include <nibble/nibble.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct nib_graph nib_graph;

typedef struct nib_compile_options {   /* zero means default */
    size_t size;
    bool no_fusion;                    /* one node for each op that forward calls */
    const char *tune;                  /* a file that keeps how each node runs fastest, which the first
                                          runs measure: on one thread or all, and how its work is cut;
                                          NULL: none. Whatever it holds, and wherever it is from, the
                                          bits are the same. What is missing, damaged or of another
                                          machine or version is measured again; a file that is
                                          something else is left as it is, and the log told so */
} nib_compile_options;

/* Record what the module's forward calls for an input like x, and plan it. Nothing is computed: a
 * forward whose calls hang on what its tensors hold cannot be compiled. Weights are taken as they
 * are now and held; the module may go. Belongs to the context and thread of x. Caller owns. */
nib_graph *nib_compile(nib_module *module, nib_tensor *x, const nib_compile_options *options);

/* The module's answer to x, which has the dtype and shape of the one it was compiled for. Borrowed
 * until the next run. Fails: NIB_E_SHAPE, NIB_E_DTYPE for another kind of x. */
const nib_tensor *nib_graph_run(nib_graph *graph, nib_tensor *x);

/* One node a line, with shapes, places in memory and implementations. Caller owns the string and
 * gives it back with nib_text_release (nn.h). */
char *nib_graph_print(const nib_graph *graph);

void nib_graph_free(nib_graph *graph);               /* NULL is fine */

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
