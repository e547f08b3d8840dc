/* op_kv_append.c: rows of K or V go into a cache that keeps each key head's tokens together. */
#include <string.h>

#include "base/error.h"
#include "op/calls.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    (void)out;
    (void)dtype;
    const nib_tensor *cache = args->in[0], *rows = args->in[1];
    const int64_t start = args->attr[0].i;
    NIB_TRY(nib_op_want_dense_f32(args->op, "cache", cache));
    NIB_TRY(nib_op_want_dense_f32(args->op, "rows", rows));
    char a[96], b[96];
    if (cache->shape.ndim != 3 || rows->shape.ndim != 2 ||
        rows->shape.dim[1] != cache->shape.dim[0] * cache->shape.dim[2])
        return NIB_RAISE(NIB_E_SHAPE, "kv_append: rows are %s but the cache is %s",
                         nib_shape_text(&rows->shape, a, sizeof a),
                         nib_shape_text(&cache->shape, b, sizeof b));
    if (start < 0 || start > cache->shape.dim[1] - rows->shape.dim[0])
        return NIB_RAISE(NIB_E_FULL, "kv_append: %lld rows at %lld pass the cache's %lld tokens",
                         (long long)rows->shape.dim[0], (long long)start,
                         (long long)cache->shape.dim[1]);
    return NIB_OK;
}

const nib_op nib_op_kv_append = {
    .name = "kv_append",
    .nout = 0,
    .shape = shape,
    .schema = "nib::kv_append(Tensor(a!) cache, Tensor rows, SymInt start) -> ()",
};

static nib_status run(const nib_call_args *args) {
    nib_tensor *cache = (nib_tensor *)(uintptr_t)args->in[0]; /* the schema says that it changes */
    const nib_tensor *rows = args->in[1];
    const int64_t Hk = cache->shape.dim[0], T = cache->shape.dim[1], d = cache->shape.dim[2];
    float *to = nib_tensor_data_mut(cache);
    if (!to) return nib_last_error()->status;
    const float *from = nib_tensor_data(rows);
    for (int64_t m = 0; m < rows->shape.dim[0]; m++)
        for (int64_t h = 0; h < Hk; h++)
            memcpy(to + (h * T + args->attr[0].i + m) * d, from + (m * Hk + h) * d,
                   (size_t)d * sizeof *to);
    return NIB_OK;
}

const nib_impl nib_impl_kv_append_f32 = {.op = &nib_op_kv_append,
                                         .device = "cpu",
                                         .layouts = "cache:dense f32, rows:dense f32",
                                         .run = run};

nib_status nib_kv_append(nib_tensor *cache, const nib_tensor *rows, int64_t start) {
    if (!cache || !rows) return nib_last_error()->status;
    nib_call_args args = {.ctx = rows->ctx,
                          .op = &nib_op_kv_append,
                          .nin = 2,
                          .nattr = 1,
                          .in = {cache, rows},
                          .attr = {{.i = start}}};
    return nib_call(&args);
}
