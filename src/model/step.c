#include "model/step.h"

#include "base/clock.h"
#include "base/error.h"
#include "graph/node.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

/* Inputs of the graph: ids, positions, then the tensors of the cache; symbol 0: the position. */
enum { IDS, POSITIONS, CACHE };

struct nib_step {
    nib_ctx *ctx;
    nib_graph *graph;
    nib_tensor **inputs;
    int ninputs;
};

typedef struct body {
    const nib_model *model;
    nib_step *step;
    nib_kvcache *cache;
    int64_t position;
} body;

static nib_status forward(void *user, nib_tensor **logits) {
    const body *b = user;
    const int32_t token = 0;
    const nib_segment segment = {b->cache, b->position, 1, b->position + 1};
    const nib_batch batch = {.ctx = b->step->ctx,
                             .tokens = &token,
                             .segments = &segment,
                             .nsegments = 1,
                             .M = 1,
                             .logits = NIB_WANT_ALL,
                             .ids = b->step->inputs[IDS],
                             .positions = b->step->inputs[POSITIONS]};
    return b->model->arch->forward(&b->model->hparams, b->model->root, &batch, logits);
}

static nib_graph *trace_at(body *b, int64_t position) {
    b->position = position;
    return nib_trace(b->step->ctx, b->step->inputs, b->step->ninputs, &position, 1, forward, b);
}

/* The trace at `position`, and what of it follows the position. */
static nib_graph *trace(body *b, int64_t position) {
    const int64_t others[] = {position - 1, 0};
    nib_graph *g = trace_at(b, position);
    for (int i = 0; g && i < 2; i++) {
        nib_graph *other = trace_at(b, others[i]);
        const nib_status status = other ? nib_trace_learn(g, other) : nib_last_error()->status;
        nib_graph_free(other);
        if (status >= NIB_OK) continue;
        nib_graph_free(g);
        return NULL;
    }
    return g;
}

static void look_at_cache(nib_step *step, const nib_kvcache *cache) {
    for (int64_t i = 0; i < 2 * cache->layers; i++) step->inputs[CACHE + i] = cache->keys[i];
}

nib_step *nib_step_new(nib_ctx *ctx, const nib_model *model, nib_kvcache *cache, int64_t position,
                       const char *tune) {
    const nib_shape one = {1, {1}};
    const int64_t began = nib_now_ns();
    nib_step *step = nib_mem_alloc_zero(&ctx->mem, sizeof *step);
    if (!step) return NULL;
    step->ctx = ctx;
    step->ninputs = CACHE + 2 * (int)cache->layers;
    step->inputs = nib_mem_alloc_array(&ctx->mem, (size_t)step->ninputs, sizeof *step->inputs);
    if (!step->inputs) goto fail;
    step->inputs[IDS] = nib_tensor_new(ctx, NIB_I32, one);
    step->inputs[POSITIONS] = nib_tensor_new(ctx, NIB_I32, one);
    if (!step->inputs[IDS] || !step->inputs[POSITIONS]) goto fail;
    look_at_cache(step, cache);
    body b = {.model = model, .step = step, .cache = cache};
    step->graph = trace(&b, position);
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

nib_status nib_step_run(nib_step *step, nib_kvcache *cache, int32_t token, int64_t position,
                        const float **logits) {
    *(int32_t *)nib_tensor_data_mut(step->inputs[IDS]) = token;
    *(int32_t *)nib_tensor_data_mut(step->inputs[POSITIONS]) = (int32_t)position;
    look_at_cache(step, cache);
    const nib_tensor *out;
    NIB_TRY(nib_graph_execute(step->graph, step->inputs, &position, &out));
    *logits = nib_tensor_data(out);
    return NIB_OK;
}
