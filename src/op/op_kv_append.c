/* op_kv_append.c: rows of K or V go into a cache that keeps each key head's tokens together. They
 * are rounded to the cache's codes one head of one token at a time, so what a token is rounded to
 * depends on nothing but itself. With angles they are turned on the way, as rope does it. */
#include <float.h>
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "op/kv.h"
#include "quant/codes.h"
#include "quant/layout_part.h"
#include "tensor/context.h"

nib_status nib_kv_want(const nib_op *op, const char *what, const nib_tensor *t) {
    if (!t->layout)
        NIB_TRY(nib_op_want_dense_f32(op, what, t));
    else if (!nib_kv_form_of(t->layout))
        return NIB_RAISE(NIB_E_UNSUPPORTED, "%s: %s is in layout %s, want a layout of a cache",
                         op->name, what, t->layout->name);
    char text[96];
    if (t->shape.ndim != 3 || (t->layout && t->shape.dim[1] % NIB_ATTENTION_BLOCK))
        return NIB_RAISE(NIB_E_SHAPE, "%s: %s is %s, want heads, tokens (%s) and columns", op->name,
                         what, nib_shape_text(&t->shape, text, sizeof text),
                         t->layout ? "in blocks of 64" : "any number");
    return NIB_OK;
}

size_t nib_kv_part_step(const nib_tensor *t, int i) {
    const int64_t d = t->shape.dim[2];
    if (!t->layout) return (size_t)(NIB_ATTENTION_BLOCK * d) * sizeof(float);
    const nib_kv_form *form = nib_kv_form_of(t->layout);
    if (i == 0) return (size_t)nib_kv_block_bytes(form, d);
    return (size_t)(NIB_ATTENTION_BLOCK * nib_kv_groups(form, d)) *
           (form->scale_dtype == NIB_F32 ? 4 : 2);
}

enum { CACHE, ROWS, ANGLES, INPUTS };

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    (void)out;
    (void)dtype;
    const nib_tensor *cache = args->in[CACHE], *rows = args->in[ROWS], *angles = args->in[ANGLES];
    const int64_t start = args->attr[0].i;
    NIB_TRY(nib_kv_want(args->op, "cache", cache));
    NIB_TRY(nib_op_want_dense_f32(args->op, "rows", rows));
    if (angles != NIB_NONE) NIB_TRY(nib_op_want_dense_f32(args->op, "angles", angles));
    char a[96], b[96];
    if (angles != NIB_NONE &&
        (angles->shape.ndim != 3 || angles->shape.dim[0] != rows->shape.dim[0] ||
         angles->shape.dim[1] != 2 || 2 * angles->shape.dim[2] != cache->shape.dim[2]))
        return NIB_RAISE(NIB_E_SHAPE, "kv_append: the angles are %s for rows of %s",
                         nib_shape_text(&angles->shape, a, sizeof a),
                         nib_shape_text(&rows->shape, b, sizeof b));
    if (rows->shape.ndim != 2 || rows->shape.dim[1] != cache->shape.dim[0] * cache->shape.dim[2] ||
        (cache->layout && cache->shape.dim[2] > NIB_ATTENTION_HEAD))
        return NIB_RAISE(NIB_E_SHAPE, "kv_append: rows are %s but the cache is %s",
                         nib_shape_text(&rows->shape, a, sizeof a),
                         nib_shape_text(&cache->shape, b, sizeof b));
    if (start < 0 || start > cache->shape.dim[1] - rows->shape.dim[0])
        return NIB_RAISE(NIB_E_FULL, "kv_append: %lld rows at %lld pass the cache's %lld tokens",
                         (long long)rows->shape.dim[0], (long long)start,
                         (long long)cache->shape.dim[1]);
    return NIB_OK;
}

/* Rows get what their tokens of the cache got, turned back, and straight through where they were
 * rounded; what the cache held there gets nothing. */
static nib_status backward(nib_backward_args *args) {
    const nib_call_args *call = args->call;
    const nib_tensor *cache = call->in[CACHE], *g = args->out[0], *angles = call->in[ANGLES];
    nib_tensor *old = args->wants[CACHE] ? nib_gradient_like(cache) : NULL;
    nib_tensor *rows = nib_gradient_like(call->in[ROWS]);
    if (!rows || (args->wants[CACHE] && !old)) return nib_last_error()->status;
    const int64_t Hk = cache->shape.dim[0], T = cache->shape.dim[1], d = cache->shape.dim[2];
    const float *from = nib_tensor_data(g);
    float *to = nib_tensor_data_mut(rows), *rest = old ? nib_tensor_data_mut(old) : NULL;
    if (rest) memcpy(rest, from, nib_tensor_bytes(old));
    for (int64_t m = 0; m < rows->shape.dim[0]; m++)
        for (int64_t h = 0; h < Hk; h++) {
            const int64_t at = (h * T + call->attr[0].i + m) * d;
            memcpy(to + (m * Hk + h) * d, from + at, (size_t)d * sizeof *to);
            if (rest) memset(rest + at, 0, (size_t)d * sizeof *rest);
        }
    args->in[CACHE] = old;
    args->in[ROWS] = rows;
    if (angles == NIB_NONE) return NIB_OK;
    const nib_call_args turn = {.ctx = call->ctx,
                                .op = &nib_op_rope,
                                .nin = 2,
                                .nattr = 1,
                                .in = {rows, angles},
                                .attr = {{.i = Hk}}};
    nib_backward_args rope = {
        .call = &turn, .out = {rows}, .wants = {args->wants[ROWS], args->wants[ANGLES]}};
    NIB_TRY(nib_op_rope.backward(&rope));
    args->in[ROWS] = rope.in[0];
    return NIB_OK;
}

const nib_op nib_op_kv_append = {
    .name = "kv_append",
    .nout = 0,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(ANGLES),
    .schema = "nib::kv_append(Tensor(a!) cache, Tensor rows, SymInt start, Tensor? angles=None) "
              "-> ()",
};

/* NULL: rows go in as they are. */
static const float *angles_of(const nib_call_args *args) {
    return args->in[ANGLES] == NIB_NONE ? NULL : nib_tensor_data(args->in[ANGLES]);
}

/* One head of row m, in place. */
static void turn(const nib_kernels *k, float *head, const float *angles, int64_t m, int64_t d) {
    const float *cosine = angles + m * d;
    k->rope_f32(head, cosine, cosine + d / 2, (size_t)(d / 2));
}

static nib_status run_dense(const nib_call_args *args) {
    nib_tensor *cache =
        (nib_tensor *)(uintptr_t)args->in[CACHE]; /* the schema says that it changes */
    const nib_tensor *rows = args->in[ROWS];
    const float *angles = angles_of(args);
    const int64_t Hk = cache->shape.dim[0], T = cache->shape.dim[1], d = cache->shape.dim[2];
    float *to = nib_tensor_data_mut(cache);
    if (!to) return nib_last_error()->status;
    const float *from = nib_tensor_data(rows);
    for (int64_t m = 0; m < rows->shape.dim[0]; m++)
        for (int64_t h = 0; h < Hk; h++) {
            float *head = to + (h * T + args->attr[0].i + m) * d;
            memcpy(head, from + (m * Hk + h) * d, (size_t)d * sizeof *to);
            if (angles) turn(&args->ctx->kernels, head, angles, m, d);
        }
    return NIB_OK;
}

static bool is_dense(const nib_call_args *args) { return !args->in[CACHE]->layout; }

const nib_impl nib_impl_kv_append_f32 = {.op = &nib_op_kv_append,
                                         .device = "cpu",
                                         .layouts = "cache:dense f32, rows, angles:dense f32",
                                         .accepts = is_dense,
                                         .run = run_dense};

typedef struct append {
    const nib_kernels *k;
    const nib_kv_form *form;
    const float *rows, *angles;
    unsigned char *part[3];
    size_t head[3]; /* bytes of a head in each part */
    int64_t M, Hk, d, start;
    nib_dtype math; /* scales are rounded to it */
} append;

static float at_least(float scale, float least) { return scale < least ? least : scale; }

/* Codes of one token and head; -> scales and shifts of its groups. */
static void encode(const append *a, const float *x, uint8_t *codes, float *scale, float *shift) {
    const nib_kv_form *form = a->form;
    const int64_t d = a->d, G = form->group ? form->group : d;
    if (form->code == NIB_U4) {
        for (int64_t i = 0; i < d; i += G, scale++, shift++) {
            const int64_t n = d - i < G ? d - i : G;
            float low, high;
            a->k->minmax_f32(&low, &high, x + i, 1, n);
            *scale = nib_round_to(at_least((high - low) / 15.0f, FLT_MIN), NIB_BF16);
            low = nib_round_to(low, NIB_BF16);
            *shift = -low;
            a->k->quantize_divided(codes + i, x + i, 1, n, &low, scale, NULL, 0, 15, NIB_F32);
        }
        return;
    }
    float most;
    a->k->absmax_f32(&most, x, 1, d);
    if (form->code == NIB_I8) {
        *scale = at_least(most / 127.0f, a->math == NIB_F32 ? FLT_MIN : 1e-5f);
        const float inverse = 1.0f / *scale;
        a->k->quantize_scaled(codes, x, 1, d, &inverse, NULL, -127, 127, NIB_F32);
        *scale = nib_round_to(*scale, a->math);
    } else {
        *scale = at_least(most / 448.0f, FLT_MIN);
        a->k->quantize_f8(codes, x, 1, d, scale, 448.0f, NIB_F8_E4M3FN, NIB_F32);
    }
}

static void append_heads(void *user, int64_t begin, int64_t end) {
    const append *a = user;
    const int64_t groups = nib_kv_groups(a->form, a->d);
    for (int64_t h = begin; h < end; h++) {
        for (int64_t m = 0; m < a->M; m++) {
            uint8_t codes[NIB_ATTENTION_HEAD];
            float scale[NIB_ATTENTION_HEAD / NIB_KV_GROUP],
                shift[NIB_ATTENTION_HEAD / NIB_KV_GROUP];
            const int64_t t = a->start + m;
            const float *head = a->rows + (m * a->Hk + h) * a->d;
            float turned[NIB_ATTENTION_HEAD];
            if (a->angles) {
                memcpy(turned, head, (size_t)a->d * sizeof *turned);
                turn(a->k, turned, a->angles, m, a->d);
                head = turned;
            }
            encode(a, head, codes, scale, shift);
            a->form->put(a->part[0] + (size_t)h * a->head[0], t, codes, a->d);
            for (int64_t g = 0; g < groups; g++) {
                const int64_t at = nib_kv_scale_at(a->form, t, g, groups);
                const nib_dtype dtype = a->form->scale_dtype;
                nib_part_store(dtype, a->part[1] + (size_t)h * a->head[1], at, scale + g, 1);
                if (a->form->shifted)
                    nib_part_store(dtype, a->part[2] + (size_t)h * a->head[2], at, shift + g, 1);
            }
        }
    }
}

static nib_status run_quantized(const nib_call_args *args) {
    const nib_tensor *cache = args->in[CACHE], *rows = args->in[ROWS];
    append a = {.k = &args->ctx->kernels,
                .form = nib_kv_form_of(cache->layout),
                .rows = nib_tensor_data(rows),
                .angles = angles_of(args),
                .M = rows->shape.dim[0],
                .Hk = cache->shape.dim[0],
                .d = cache->shape.dim[2],
                .start = args->attr[0].i,
                .math = cache->desc.math};
    for (int i = 0; i < cache->nparts; i++) {
        if (cache->part[i]->constant)
            return NIB_RAISE(NIB_E_ARGUMENT, "kv_append: the cache is read-only memory");
        a.part[i] = (unsigned char *)(uintptr_t)nib_tensor_part(cache, i);
        a.head[i] =
            nib_kv_part_step(cache, i) * (size_t)(cache->shape.dim[1] / NIB_ATTENTION_BLOCK);
    }
    const int64_t few = 16; /* rows that are not worth waking a thread for */
    nib_parallel_for(args->ctx->pool, a.Hk, a.M < few ? a.Hk : 1, append_heads, &a);
    return NIB_OK;
}

const nib_impl nib_impl_kv_append_quantized = {.op = &nib_op_kv_append,
                                               .device = "cpu",
                                               .layouts = "cache:kv_*, rows, angles:dense f32",
                                               .run = run_quantized};

nib_status nib_kv_append(nib_tensor *cache, const nib_tensor *rows, int64_t start) {
    if (!cache || !rows) return nib_last_error()->status;
    nib_call_args args = {.ctx = rows->ctx,
                          .op = &nib_op_kv_append,
                          .nin = INPUTS,
                          .nattr = 1,
                          .in = {cache, rows, NIB_NONE},
                          .attr = {{.i = start}}};
    return nib_call(&args);
}
