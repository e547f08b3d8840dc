/* op_rope.c: rotary position embedding. Angles are f32 products as in training code; their cosine
 * and sine are taken in double and rounded once, so that they do not hang on a libm's floats. */
#include <math.h>

#include "base/error.h"
#include "op/calls.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0], *positions = args->in[1], *inv_freq = args->in[2];
    const int64_t heads = args->attr[0].i;
    NIB_TRY(nib_op_want_dense_f32(args->op, "x", x));
    NIB_TRY(nib_op_want_dense_f32(args->op, "inv_freq", inv_freq));
    char text[96];
    if (x->shape.ndim != 2 || heads <= 0 || inv_freq->shape.ndim != 1 ||
        x->shape.dim[1] != heads * inv_freq->shape.dim[0] * 2)
        return NIB_RAISE(NIB_E_SHAPE, "rope: x is %s, want %lld heads of 2 x %lld columns",
                         nib_shape_text(&x->shape, text, sizeof text), (long long)heads,
                         (long long)(inv_freq->shape.ndim == 1 ? inv_freq->shape.dim[0] : -1));
    if (positions->dtype != NIB_I32 || positions->shape.ndim != 1 ||
        positions->shape.dim[0] != x->shape.dim[0])
        return NIB_RAISE(NIB_E_SHAPE, "rope: want one i32 position for each of %lld rows",
                         (long long)x->shape.dim[0]);
    *out = x->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

const nib_op nib_op_rope = {
    .name = "rope",
    .nout = 1,
    .shape = shape,
    .schema = "nib::rope(Tensor x, Tensor positions, Tensor inv_freq, int heads, float scale=1.0) "
              "-> Tensor",
};

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[0];
    const int64_t M = x->shape.dim[0], heads = args->attr[0].i, half = args->in[2]->shape.dim[0];
    const int32_t *position = nib_tensor_data(args->in[1]);
    const float *inv_freq = nib_tensor_data(args->in[2]), *data = nib_tensor_data(x);
    const double scale = args->attr[1].d;
    float *y = nib_tensor_data_mut(args->out[0]);
    nib_mem *mem = nib_ctx_mem(args->ctx);
    float *turn = nib_mem_alloc_array(mem, (size_t)half, 2 * sizeof *turn);
    if (!turn) return nib_last_error()->status;
    for (int64_t m = 0; m < M; m++) {
        for (int64_t j = 0; j < half; j++) {
            const double angle = (double)((float)position[m] * inv_freq[j]);
            turn[2 * j] = (float)cos(angle) * (float)scale;
            turn[2 * j + 1] = (float)sin(angle) * (float)scale;
        }
        for (int64_t h = 0; h < heads; h++) {
            const float *x_h = data + (m * heads + h) * 2 * half;
            float *y_h = y + (m * heads + h) * 2 * half;
            for (int64_t j = 0; j < half; j++) {
                const float a = x_h[j], b = x_h[j + half], c = turn[2 * j], s = turn[2 * j + 1];
                y_h[j] = a * c - b * s;
                y_h[j + half] = b * c + a * s;
            }
        }
    }
    nib_mem_free(mem, turn, (size_t)half * 2 * sizeof *turn);
    return NIB_OK;
}

const nib_impl nib_impl_rope_f32 = {.op = &nib_op_rope,
                                    .device = "cpu",
                                    .layouts = "x:dense f32, positions:i32, inv_freq:f32",
                                    .run = run};

nib_tensor *nib_rope(const nib_tensor *x, const nib_tensor *positions, const nib_tensor *inv_freq,
                     int64_t heads, double scale) {
    if (!x || !positions || !inv_freq) return NULL;
    return nib_call_one(x->ctx, &nib_op_rope, 3, (const nib_tensor *[]){x, positions, inv_freq}, 2,
                        (nib_attr[]){{.i = heads}, {.d = scale}});
}
