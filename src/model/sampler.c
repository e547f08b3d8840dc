#include "model/sampler.h"

#include "base/error.h"
#include "graph/node.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

static const int32_t nothing[1]; /* stands for the history while it is empty */

typedef struct body {
    const nib_sampler *sampler;
    int64_t step;
} body;

static nib_status draw(void *user, nib_tensor **token) {
    const body *b = user;
    const nib_sampler *s = b->sampler;
    *token = nib_sample(s->logits, s->seen, &s->how, s->seed, b->step);
    return *token ? NIB_OK : nib_last_error()->status;
}

static nib_graph *trace_at(const nib_sampler *s, int64_t step) {
    body b = {s, step};
    nib_tensor *inputs[] = {s->logits, s->seen};
    return nib_trace(s->ctx, inputs, s->seen == NIB_NONE ? 1 : 2, &step, 1, draw, &b);
}

nib_status nib_sampler_init(nib_ctx *ctx, const nib_sampling *how, uint64_t seed, int64_t V,
                            nib_sampler *s) {
    *s = (nib_sampler){.ctx = ctx, .how = *how, .seed = seed, .seen = NIB_NONE};
    const bool counts = how->repetition_penalty > 0 && how->repetition_penalty != 1.0f;
    s->logits = nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {V}});
    if (counts) {
        s->history = nothing;
        s->seen = nib_tensor_wrap(ctx, NIB_I32, (nib_shape){1, {1}}, nothing, NULL, NULL);
    }
    nib_graph *other = NULL;
    if (!s->logits || !s->seen) goto fail;
    s->graph = trace_at(s, 0);
    other = s->graph ? trace_at(s, 1) : NULL;
    if (!other) goto fail;
    NIB_TRY_GOTO(nib_trace_learn(s->graph, other), fail);
    NIB_TRY_GOTO(nib_graph_plan(s->graph), fail);
    nib_graph_free(other);
    return NIB_OK;
fail:
    nib_graph_free(other);
    nib_sampler_free(s);
    return nib_last_error()->status;
}

void nib_sampler_free(nib_sampler *s) {
    nib_graph_free(s->graph);
    nib_tensor_free(s->seen);
    nib_tensor_free(s->logits);
    *s = (nib_sampler){0};
}

/* The header over the history is made again only when that has moved. */
static nib_status look_at(nib_sampler *s, const int32_t *history, int64_t count, int64_t room) {
    if (s->seen == NIB_NONE) return NIB_OK;
    if (!count) history = nothing, room = 1;
    if (history != s->history || count > s->seen_room) {
        nib_tensor *seen =
            nib_tensor_wrap(s->ctx, NIB_I32, (nib_shape){1, {room}}, history, NULL, NULL);
        if (!seen) return nib_last_error()->status;
        nib_tensor_free(s->seen);
        s->seen = seen;
        s->history = history;
        s->seen_room = room;
    }
    s->seen->shape.dim[0] = count;
    return NIB_OK;
}

nib_status nib_sampler_draw(nib_sampler *s, const int32_t *history, int64_t count, int64_t room,
                            int64_t step, int32_t *token) {
    NIB_TRY(look_at(s, history, count, room));
    nib_tensor *inputs[] = {s->logits, s->seen};
    const nib_tensor *id;
    NIB_TRY(nib_graph_execute(s->graph, inputs, &step, &id));
    *token = *(const int32_t *)nib_tensor_data(id);
    return NIB_OK;
}
