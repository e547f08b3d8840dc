/* op_attention.c: causal attention over a cache, in blocks of tokens that start at fixed
 * positions, merged in order; so a row's bits depend on what it sees and on nothing else: not on
 * the other rows of the call, the number of threads, or how a prompt was cut.
 * Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "tensor/context.h"

enum { MAX_HEAD = 1024 }; /* scratch on the stack of a worker */

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *q = args->in[0], *k = args->in[1], *v = args->in[2];
    const int64_t heads = args->attr[0].i, start = args->attr[1].i;
    NIB_TRY(nib_op_want_dense_f32(args->op, "q", q));
    NIB_TRY(nib_op_want_dense_f32(args->op, "k", k));
    NIB_TRY(nib_op_want_dense_f32(args->op, "v", v));
    char a[96], b[96];
    if (q->shape.ndim != 2 || k->shape.ndim != 3 || !nib_shape_equal(&k->shape, &v->shape) ||
        heads <= 0 || k->shape.dim[0] <= 0 || heads % k->shape.dim[0] != 0 ||
        q->shape.dim[1] != heads * k->shape.dim[2] || k->shape.dim[2] > MAX_HEAD)
        return NIB_RAISE(NIB_E_SHAPE, "attention: q is %s for %lld heads but the cache is %s",
                         nib_shape_text(&q->shape, a, sizeof a), (long long)heads,
                         nib_shape_text(&k->shape, b, sizeof b));
    if (start < 0 || start > k->shape.dim[1] - q->shape.dim[0])
        return NIB_RAISE(NIB_E_SHAPE, "attention: %lld rows at %lld pass the cache's %lld tokens",
                         (long long)q->shape.dim[0], (long long)start, (long long)k->shape.dim[1]);
    *out = q->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

const nib_op nib_op_attention = {
    .name = "attention",
    .nout = 1,
    .shape = shape,
    .schema = "nib::attention(Tensor q, Tensor k, Tensor v, int heads, SymInt start, int window, "
              "float scale) -> Tensor",
};

typedef struct attention {
    const nib_kernels *kernels;
    const float *q, *k, *v;
    float *y, scale;
    int64_t H, Hk, T, d, start, window;
} attention;

/* One query head of one row. */
static void attend(const attention *a, int64_t m, int64_t h) {
    const int64_t position = a->start + m, d = a->d, kv = h / (a->H / a->Hk) * a->T * d;
    const int64_t first = a->window > 0 && position >= a->window ? position - a->window + 1 : 0;
    const float *q = a->q + (m * a->H + h) * d;
    float *y = a->y + (m * a->H + h) * d, part[MAX_HEAD];
    float max = -INFINITY, sum = 0;
    memset(y, 0, (size_t)d * sizeof *y);
    for (int64_t t = first; t <= position;) {
        const int64_t end = (t / NIB_ATTENTION_BLOCK + 1) * NIB_ATTENTION_BLOCK;
        const int64_t tokens = (end <= position ? end : position + 1) - t;
        float part_max, part_sum;
        a->kernels->attention_block_f32(part, &part_max, &part_sum, q, a->k + kv + t * d, d,
                                        a->v + kv + t * d, d, tokens, d, a->scale);
        a->kernels->attention_merge_f32(y, &max, &sum, part, part_max, part_sum, d);
        t += tokens;
    }
    const float inverse = 1.0f / sum;
    for (int64_t i = 0; i < d; i++) y[i] *= inverse;
}

static void pairs(void *user, int64_t begin, int64_t end) {
    const attention *a = user;
    for (int64_t i = begin; i < end; i++) attend(a, i / a->H, i % a->H);
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *q = args->in[0], *k = args->in[1];
    attention a = {.kernels = &args->ctx->kernels,
                   .q = nib_tensor_data(q),
                   .k = nib_tensor_data(k),
                   .v = nib_tensor_data(args->in[2]),
                   .y = nib_tensor_data_mut(args->out[0]),
                   .scale = (float)args->attr[3].d,
                   .H = args->attr[0].i,
                   .Hk = k->shape.dim[0],
                   .T = k->shape.dim[1],
                   .d = k->shape.dim[2],
                   .start = args->attr[1].i,
                   .window = args->attr[2].i};
    nib_parallel_for(args->ctx->pool, q->shape.dim[0] * a.H, 4, pairs, &a);
    return NIB_OK;
}

const nib_impl nib_impl_attention_f32 = {
    .op = &nib_op_attention, .device = "cpu", .layouts = "q, k, v:dense f32", .run = run};

nib_tensor *nib_attention(const nib_tensor *q, const nib_tensor *k, const nib_tensor *v,
                          int64_t heads, int64_t start, int64_t window, double scale) {
    if (!q || !k || !v) return NULL;
    return nib_call_one(q->ctx, &nib_op_attention, 3, (const nib_tensor *[]){q, k, v}, 4,
                        (nib_attr[]){{.i = heads}, {.i = start}, {.i = window}, {.d = scale}});
}
