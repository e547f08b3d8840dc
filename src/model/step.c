#include "model/step.h"

#include <assert.h>

#include "base/clock.h"
#include "base/error.h"
#include "graph/node.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

_Static_assert((int)NIB_STEP_ROWS <= (int)NIB_MAX_SYMBOLS, "each position is a symbol");

/* Inputs of the graph: ids, positions, then the tensors of each row's cache; symbol i: its
 * position. */
enum { IDS, POSITIONS, CACHES };

struct nib_step {
    nib_ctx *ctx;
    nib_graph *graph;
    nib_tensor **inputs;
    int ninputs, rows;
};

typedef struct body {
    const nib_model *model;
    nib_step *step;
    const nib_step_row *rows;
    int64_t position[NIB_STEP_ROWS];
} body;

static nib_status forward(void *user, nib_tensor **logits) {
    const body *b = user;
    const int n = b->step->rows;
    const int32_t tokens[NIB_STEP_ROWS] = {0};
    nib_segment segments[NIB_STEP_ROWS];
    for (int i = 0; i < n; i++)
        segments[i] = (nib_segment){b->rows[i].cache, b->position[i], 1, b->position[i] + 1};
    const nib_batch batch = {.ctx = b->step->ctx,
                             .tokens = tokens,
                             .segments = segments,
                             .nsegments = (size_t)n,
                             .M = n,
                             .logits = NIB_WANT_ALL,
                             .ids = b->step->inputs[IDS],
                             .positions = b->step->inputs[POSITIONS]};
    return b->model->arch->forward(&b->model->hparams, b->model->root, &batch, logits);
}

static nib_graph *trace_once(body *b) {
    const nib_step *s = b->step;
    return nib_trace(s->ctx, s->inputs, s->ninputs, b->position, s->rows, forward, b);
}

/* The trace as it is, and what of it follows each position: those before it and at 0 tell. */
static nib_graph *trace(body *b) {
    nib_graph *g = trace_once(b);
    for (int k = 0; g && k < 2 * b->step->rows; k++) {
        int64_t *position = &b->position[k / 2];
        const int64_t here = *position;
        *position = k % 2 ? 0 : here - 1;
        nib_graph *other = trace_once(b);
        *position = here;
        const nib_status status = other ? nib_trace_learn(g, other) : nib_last_error()->status;
        nib_graph_free(other);
        if (status >= NIB_OK) continue;
        nib_graph_free(g);
        return NULL;
    }
    return g;
}

static void look_at_caches(nib_step *step, const nib_step_row *rows) {
    nib_tensor **to = step->inputs + CACHES;
    for (int i = 0; i < step->rows; i++)
        for (int64_t k = 0; k < 2 * rows[i].cache->layers; k++) *to++ = rows[i].cache->keys[k];
}

nib_step *nib_step_new(nib_ctx *ctx, const nib_model *model, const nib_step_row *rows, int n,
                       const char *tune) {
    assert(n >= 1 && n <= NIB_STEP_ROWS);
    const nib_shape shape = {1, {n}};
    const int64_t began = nib_now_ns();
    nib_step *step = nib_mem_alloc_zero(&ctx->mem, sizeof *step);
    if (!step) return NULL;
    step->ctx = ctx;
    step->rows = n;
    step->ninputs = CACHES + n * 2 * (int)rows[0].cache->layers;
    step->inputs = nib_mem_alloc_array(&ctx->mem, (size_t)step->ninputs, sizeof *step->inputs);
    if (!step->inputs) goto fail;
    step->inputs[IDS] = nib_tensor_new(ctx, NIB_I32, shape);
    step->inputs[POSITIONS] = nib_tensor_new(ctx, NIB_I32, shape);
    if (!step->inputs[IDS] || !step->inputs[POSITIONS]) goto fail;
    look_at_caches(step, rows);
    body b = {.model = model, .step = step, .rows = rows};
    for (int i = 0; i < n; i++) b.position[i] = rows[i].position;
    step->graph = trace(&b);
    if (!step->graph) goto fail;
    NIB_TRY_GOTO(nib_graph_finish(step->graph, true, tune, began), fail);
    return step;
fail:
    nib_step_free(step);
    return NULL;
}

void nib_step_free(nib_step *step) {
    if (!step) return;
    nib_mem *mem = &step->ctx->mem;
    nib_graph_free(step->graph);
    if (step->inputs) {
        nib_tensor_free(step->inputs[IDS]);
        nib_tensor_free(step->inputs[POSITIONS]);
    }
    nib_mem_free(mem, step->inputs, (size_t)step->ninputs * sizeof *step->inputs);
    nib_mem_free(mem, step, sizeof *step);
}

bool nib_step_fits(const nib_ctx *ctx, const nib_model *model, int64_t position) {
    for (int i = 0; i < ctx->nmodes; i++) {
        const nib_mode *mode = ctx->modes[i].mode;
        if (mode->enter_module || mode->leave_module) return false;
    }
    return position >= 1 && !nib_rope_grows(&model->hparams.rope, position + 1);
}

nib_status nib_step_run(nib_step *step, const nib_step_row *rows, const float **logits) {
    int32_t *ids = nib_tensor_data_mut(step->inputs[IDS]);
    int32_t *positions = nib_tensor_data_mut(step->inputs[POSITIONS]);
    int64_t symbols[NIB_STEP_ROWS];
    for (int i = 0; i < step->rows; i++) {
        ids[i] = rows[i].token;
        symbols[i] = rows[i].position;
        positions[i] = (int32_t)rows[i].position;
    }
    look_at_caches(step, rows);
    const nib_tensor *out;
    NIB_TRY(nib_graph_execute(step->graph, step->inputs, symbols, &out));
    *logits = nib_tensor_data(out);
    return NIB_OK;
}
