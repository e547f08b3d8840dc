#include "op/pointwise.h"

#include "base/error.h"
#include "base/parallel.h"
#include "quant/act8.h"
#include "tensor/context.h"

enum { GRAIN = 8192, CODES = 256 };

bool nib_pointwise_codes(const nib_call_args *args) {
    return nib_act8_is(args->in[0]) && args->in[0]->dtype == NIB_F32;
}

nib_status nib_pointwise_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    if (!nib_pointwise_codes(args)) NIB_TRY(nib_op_want_dense_f32(args->op, "self", args->in[0]));
    *out = args->in[0]->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

typedef struct elements {
    const nib_call_args *args;
    nib_pointwise_run *run;
    const float *x;
    const uint8_t *codes;
    float *y, table[CODES];
} elements;

static void some(void *user, int64_t begin, int64_t end) {
    const elements *e = user;
    e->run(e->args, e->y + begin, e->x + begin, (size_t)(end - begin));
}

static void look_up(void *user, int64_t begin, int64_t end) {
    const elements *e = user;
    e->args->ctx->kernels.table_to_f32(e->y + begin, e->codes + begin, (size_t)(end - begin),
                                       e->table);
}

nib_status nib_pointwise(const nib_call_args *args, nib_pointwise_run *run) {
    const nib_tensor *x = args->in[0];
    const int64_t count = nib_tensor_count(x);
    elements e = {.args = args, .run = run, .y = nib_tensor_data_mut(args->out[0])};
    if (!nib_act8_is(x)) {
        e.x = nib_tensor_data(x);
        nib_parallel_for(args->ctx->pool, count, GRAIN, some, &e);
        return NIB_OK;
    }
    float opened[CODES];
    if (count <= CODES) {
        nib_act8_to_f32(x, 0, count, opened);
        run(args, e.y, opened, (size_t)count);
    } else {
        nib_act8_values(x, opened);
        run(args, e.table, opened, CODES);
        e.codes = nib_act8_data(x);
        nib_parallel_for(args->ctx->pool, count, 4 * GRAIN, look_up, &e);
    }
    return NIB_OK;
}
