/* on_codes.c: the table of ops that take quantized activations, as optimum-quanto dispatches them.
 * An op that has no row, or whose row gives NIB_END, gets the floats: any op takes any activation.
 *
 *   op                      integer codes                    float codes
 *   linear, conv1d, conv2d  integer product -> float         floats
 *   dequantize              floats                           floats
 *   relu, neg               on the codes                     floats
 *   cat of two              codes, where scales are equal    floats
 *   mul, div by one number  on the scale                     on the scale
 *   permute                 on the codes                     on the codes
 *   softmax                 in floats, then codes of scale 1 / largest code, as it is normalized
 *   reshape, rows of it     views of the codes (tensor/view.c) */
#include "op/on_codes.h"

#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "op/calls.h"
#include "op/product.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "tensor/context.h"

bool nib_codes_among(const nib_call_args *args) {
    for (int i = 0; i < args->nin; i++)
        if (nib_act8_is(args->in[i])) return true;
    return false;
}

nib_status nib_codes_drop(nib_call_args *args) {
    for (int i = 0; i < args->nin; i++) {
        if (!nib_act8_is(args->in[i])) continue;
        const nib_tensor *floats = nib_dequantize(args->in[i]);
        if (!floats) return nib_last_error()->status;
        args->in[i] = floats;
    }
    return NIB_OK;
}

/* One result that the caller owns, or NULL after a failure, to the open scope. */
static nib_status give(nib_call_args *args, nib_tensor *made) {
    args->nout = 1;
    args->out[0] = nib_scope_own(args->ctx, made);
    return args->out[0] ? NIB_OK : nib_last_error()->status;
}

static bool integer(const nib_tensor *t) { return t->desc.code == NIB_I8; }

/* ---- products ---- */

typedef struct laying {
    const int8_t *from;
    float scale;
    int64_t K;
    nib_rows_made to;
} laying;

static void lay_rows(void *user, int64_t begin, int64_t end) {
    const laying *l = user;
    for (int64_t m = begin; m < end; m++) {
        int8_t *q = l->to.q + m * l->to.ld;
        memcpy(q, l->from + m * l->K, (size_t)l->K);
        memset(q + l->K, 0, (size_t)(l->to.ld - l->K));
        l->to.scale[m] = l->scale;
    }
}

/* Int8 codes times integer weights of any width: the same kernels as for inputs that are quantized
 * token by token, all rows with one scale. */
static nib_status linear(nib_call_args *args) {
    const nib_tensor *x = args->in[0], *w = args->in[1], *bias = args->in[2];
    if (!nib_act8_is(x) || !integer(x) || nib_act8_is(w) || !w->layout ||
        !nib_qdesc_integer(&w->desc) || w->shape.ndim != 2 || x->shape.ndim < 1 ||
        x->shape.dim[x->shape.ndim - 1] != w->shape.dim[1])
        return NIB_END;
    nib_tensor asks = *w; /* lives shorter than w: no reference is counted */
    const int64_t K = w->shape.dim[1];
    asks.act = (nib_act){
        .when = NIB_ACT_DYNAMIC, .dtype = NIB_I8, .symmetric = true, .block = {2, {1, K}}};
    nib_rows_kind kind;
    if (!nib_product_wants(&asks, &kind)) return NIB_END;
    const int64_t M = nib_product_rows(x);
    nib_shape shape = x->shape;
    shape.dim[shape.ndim - 1] = nib_rows_width(&kind);
    nib_tensor *rows = nib_tensor_new(args->ctx, NIB_I8, shape);
    if (!rows) return nib_last_error()->status;
    shape.dim[shape.ndim - 1] = w->shape.dim[0];
    nib_tensor *y = nib_tensor_new(args->ctx, NIB_F32, shape);
    nib_status status = y ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK) {
        laying l = {.from = nib_act8_data(x), .scale = nib_act8_scale(x), .K = K};
        l.to = nib_rows_within(&kind, M, nib_tensor_data_mut(rows));
        nib_parallel_for(M > 1 ? args->ctx->pool : NULL, M, 8, lay_rows, &l);
        if (l.to.sums && kind.group) {
            const nib_rows_i8 made = nib_rows_read(&kind, &l.to);
            nib_sum_rows(args->ctx, &made, M, K, kind.group, l.to.sums);
        }
        const nib_product product = {.weight = &asks,
                                     .bias = bias,
                                     .up = NIB_NONE,
                                     .up_bias = NIB_NONE,
                                     .y = nib_tensor_data_mut(y)};
        status = nib_products(args->ctx, rows, &product, 1);
    }
    nib_tensor_free(rows);
    if (status >= NIB_OK) return give(args, y);
    nib_tensor_free(y);
    return status;
}

static nib_status dequantize(nib_call_args *args) {
    const nib_tensor *t = args->in[0];
    nib_tensor *out = nib_tensor_new(args->ctx, t->desc.math, t->shape);
    if (!out) return nib_last_error()->status;
    enum { RUN = 1024 };
    const int64_t count = nib_tensor_count(t);
    void *to = nib_tensor_data_mut(out);
    const nib_kernels *k = &args->ctx->kernels;
    if (t->desc.math == NIB_F32) nib_act8_to_f32(t, 0, count, to);
    float run[RUN];
    for (int64_t i = 0, n; t->desc.math != NIB_F32 && i < count; i += n) {
        n = count - i < RUN ? count - i : RUN;
        nib_act8_to_f32(t, i, n, run);
        if (t->desc.math == NIB_BF16)
            k->f32_to_bf16((uint16_t *)to + i, run, (size_t)n);
        else
            k->f32_to_f16((uint16_t *)to + i, run, (size_t)n);
    }
    return give(args, out);
}

/* ---- on the codes alone ---- */

static nib_status each_code(nib_call_args *args, int8_t (*of)(int8_t code)) {
    const nib_tensor *x = args->in[0];
    if (!integer(x)) return NIB_END;
    nib_tensor *y =
        nib_act8_new(args->ctx, x->desc.code, x->desc.math, x->shape, nib_act8_scale(x));
    if (!y) return nib_last_error()->status;
    const int8_t *from = nib_act8_data(x);
    int8_t *to = nib_act8_data_mut(y);
    const int64_t count = nib_tensor_count(x);
    for (int64_t i = 0; i < count; i++) to[i] = of(from[i]);
    return give(args, y);
}

static int8_t relu_of(int8_t q) { return q < 0 ? 0 : q; }
static int8_t neg_of(int8_t q) { return (int8_t)(uint8_t)(0u - (uint8_t)q); } /* -128 stays */
static nib_status relu(nib_call_args *args) { return each_code(args, relu_of); }
static nib_status neg(nib_call_args *args) { return each_code(args, neg_of); }

/* Two of one scale and type; more, or others, as floats. */
static bool alike(const nib_call_args *args) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    return args->nin == 2 && nib_act8_is(a) && nib_act8_is(b) && a->desc.code == b->desc.code &&
           a->desc.math == b->desc.math && nib_act8_scale(a) == nib_act8_scale(b);
}

static nib_status cat(nib_call_args *args) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    if (!alike(args) || !integer(a) || args->attr[0].i != 0 || a->shape.ndim < 1) return NIB_END;
    nib_shape shape = a->shape, other = b->shape;
    if (nib_add_i64(shape.dim[0], other.dim[0], &shape.dim[0])) return NIB_END;
    other.dim[0] = a->shape.dim[0];
    if (!nib_shape_equal(&a->shape, &other)) return NIB_END; /* the op itself complains */
    nib_tensor *y = nib_act8_new(args->ctx, a->desc.code, a->desc.math, shape, nib_act8_scale(a));
    if (!y) return nib_last_error()->status;
    char *to = nib_act8_data_mut(y);
    memcpy(to, nib_act8_data(a), (size_t)nib_tensor_count(a));
    memcpy(to + nib_tensor_count(a), nib_act8_data(b), (size_t)nib_tensor_count(b));
    return give(args, y);
}

/* ---- on the scale ---- */

/* The number that a dense tensor of one element without dimensions is. */
static bool one_number(const nib_tensor *t, float *value) {
    if (nib_act8_is(t) || t->layout || t->shape.ndim || t->dtype != NIB_F32) return false;
    *value = *(const float *)nib_tensor_data(t);
    return true;
}

static nib_status with_scale(nib_call_args *args, const nib_tensor *x, float scale) {
    nib_tensor *codes = nib_act8_codes(x);
    nib_tensor *y =
        codes ? nib_act8_over(codes, x->desc.math, nib_round_to(scale, x->desc.math)) : NULL;
    nib_tensor_free(codes);
    return give(args, y);
}

static nib_status mul(nib_call_args *args) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    float number;
    if (nib_act8_is(a) && one_number(b, &number))
        return with_scale(args, a, number * nib_act8_scale(a));
    if (nib_act8_is(b) && one_number(a, &number))
        return with_scale(args, b, number * nib_act8_scale(b));
    return NIB_END;
}

static nib_status divide(nib_call_args *args) {
    const nib_tensor *a = args->in[0];
    float number;
    if (!nib_act8_is(a) || !one_number(args->in[1], &number)) return NIB_END;
    return with_scale(args, a, nib_act8_scale(a) / number);
}

static nib_status permute(nib_call_args *args) {
    const nib_tensor *x = args->in[0];
    const int n = x->shape.ndim;
    nib_shape shape = {.ndim = n};
    int64_t step[NIB_MAX_DIMS], stride = 1, at[NIB_MAX_DIMS] = {0}, from = 0;
    bool seen[NIB_MAX_DIMS] = {0};
    if (args->nattr != n) return NIB_END; /* the op itself complains */
    for (int i = n - 1; i >= 0; i--) {
        step[i] = stride;
        stride *= x->shape.dim[i];
    }
    int64_t move[NIB_MAX_DIMS];
    for (int i = 0; i < n; i++) {
        const int64_t dim = args->attr[i].i;
        if (dim < 0 || dim >= n || seen[dim]) return NIB_END;
        seen[dim] = true;
        shape.dim[i] = x->shape.dim[dim];
        move[i] = step[dim];
    }
    nib_tensor *y = nib_act8_new(args->ctx, x->desc.code, x->desc.math, shape, nib_act8_scale(x));
    if (!y) return nib_last_error()->status;
    const uint8_t *q = nib_act8_data(x);
    uint8_t *to = nib_act8_data_mut(y);
    const int64_t count = nib_tensor_count(x);
    for (int64_t i = 0; i < count; i++) {
        to[i] = q[from];
        for (int d = n - 1; d >= 0; d--) { /* as an odometer counts */
            from += move[d];
            if (++at[d] < shape.dim[d]) break;
            from -= move[d] * at[d];
            at[d] = 0;
        }
    }
    return give(args, y);
}

/* What a softmax gives lies between 0 and 1, so the best scale is known. */
static nib_status softmax(nib_call_args *args) {
    const nib_tensor *x = args->in[0];
    nib_call_args plain = *args;
    const float scale = nib_round_to(1.0f / nib_act8_largest(x->desc.code), x->desc.math);
    NIB_TRY(nib_codes_drop(&plain));
    NIB_TRY(nib_call_outputs(&plain));
    const nib_impl *impl = nib_call_choose(&plain);
    if (!impl) return nib_last_error()->status;
    NIB_TRY(impl->run(&plain));
    nib_tensor *one = nib_tensor_new(args->ctx, NIB_F32, (nib_shape){0});
    if (!one) return nib_last_error()->status;
    memcpy(nib_tensor_data_mut(one), &scale, sizeof scale);
    args->out[0] = nib_quantize_activation(plain.out[0], one, x->desc.code);
    args->nout = 1;
    nib_tensor_free(one);
    return args->out[0] ? NIB_OK : nib_last_error()->status;
}

/* ---- the table ---- */

static const struct row {
    const char *op;
    nib_status (*run)(nib_call_args *args);
} table[] = {
    {"cat", cat},
    {"dequantize", dequantize},
    {"div", divide},
    {"linear", linear},
    {"mul", mul},
    {"neg", neg},
    {"permute", permute},
    {"relu", relu},
    {"softmax", softmax},
};

static const struct row *row_of(const nib_op *op) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].op, op->name) == 0) return &table[i];
    return NULL;
}

bool nib_codes_keeps(const nib_op *op) { return row_of(op) != NULL; }
nib_status nib_codes_run(nib_call_args *args) { return row_of(args->op)->run(args); }
