/* op_rope_angles.c: cosine and sine of each position times each frequency. Angles are f32 products
 * as in training code; their cosine and sine are taken in double and rounded once, so that they do
 * not hang on a libm's floats. Every layer of a step turns by the same ones. */
#include <math.h>

#include "base/error.h"
#include "base/parallel.h"
#include "op/calls.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *positions = args->in[0], *inv_freq = args->in[1];
    NIB_TRY(nib_op_want_dense_f32(args->op, "inv_freq", inv_freq));
    if (inv_freq->shape.ndim != 1 || positions->dtype != NIB_I32 || positions->shape.ndim != 1 ||
        !nib_tensor_contiguous(positions))
        return NIB_RAISE(NIB_E_SHAPE,
                         "rope_angles: want lists of i32 positions and of frequencies");
    *out = (nib_shape){3, {positions->shape.dim[0], 2, inv_freq->shape.dim[0]}};
    *dtype = NIB_F32;
    return NIB_OK;
}

const nib_op nib_op_rope_angles = {
    .name = "rope_angles",
    .nout = 1,
    .shape = shape,
    .schema = "nib::rope_angles(Tensor positions, Tensor inv_freq, float scale=1.0) -> Tensor",
};

typedef struct turning {
    const int32_t *position;
    const float *inv_freq;
    float *y, scale;
    int64_t half;
} turning;

static void rows(void *user, int64_t begin, int64_t end) {
    const turning *t = user;
    for (int64_t m = begin; m < end; m++) {
        float *cosine = t->y + m * 2 * t->half, *sine = cosine + t->half;
        for (int64_t j = 0; j < t->half; j++) {
            const double angle = (double)((float)t->position[m] * t->inv_freq[j]);
            cosine[j] = (float)cos(angle) * t->scale;
            sine[j] = (float)sin(angle) * t->scale;
        }
    }
}

static nib_status run(const nib_call_args *args) {
    turning t = {.position = nib_tensor_data(args->in[0]),
                 .inv_freq = nib_tensor_data(args->in[1]),
                 .y = nib_tensor_data_mut(args->out[0]),
                 .scale = (float)args->attr[0].d,
                 .half = args->in[1]->shape.dim[0]};
    nib_parallel_for(args->ctx->pool, args->in[0]->shape.dim[0], 4, rows, &t);
    return NIB_OK;
}

const nib_impl nib_impl_rope_angles_f32 = {.op = &nib_op_rope_angles,
                                           .device = "cpu",
                                           .layouts = "positions:i32, inv_freq:f32",
                                           .run = run};

nib_tensor *nib_rope_angles(const nib_tensor *positions, const nib_tensor *inv_freq, double scale) {
    if (!positions || !inv_freq) return NULL;
    return nib_call_one(inv_freq->ctx, &nib_op_rope_angles, 2,
                        (const nib_tensor *[]){positions, inv_freq}, 1, (nib_attr[]){{.d = scale}});
}
