/* on_codes.c: the table of ops that take quantized activations, as optimum-quanto dispatches them.
 * An op that has no row, or whose row gives NIB_END, gets the floats: any op takes any activation.
 *
 *   op                      integer codes                    float codes
 *   bmm, mm                 integer product -> float         floats (codes_product.c)
 *   neg                     on the codes                     floats
 *   lt                      codes, where scales are equal    floats
 *   cat of two              codes, where scales are equal    floats
 *   stack of two            codes, where scales are equal    codes, where scales are equal
 *   mul, div by one number  on the scale                     on the scale
 *   permute, expand, split  on the codes                     on the codes
 *   softmax                 in floats, then codes of scale 1 / largest code, as it is normalized
 *   where                   in floats, then codes of the scale that self had
 *   reshape, rows of it     views of the codes (tensor/view.c)
 * linear, conv1d, conv2d and relu take integer codes by themselves, dequantize any (nib_op.codes).
 */
#include "op/on_codes.h"

#include <string.h>

#include "base/error.h"
#include "op/calls.h"
#include "op/codes_product.h"
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

static bool integer(const nib_tensor *t) { return nib_act8_integer(t->desc.code); }

/* ---- on the codes alone ---- */

/* Of integers; -128 stays, and -64 of a reduced range, which has no 64, becomes 63. */
static nib_status neg(nib_call_args *args) {
    const nib_tensor *x = args->in[0];
    if (!integer(x)) return NIB_END;
    nib_tensor *y =
        nib_act8_new(args->ctx, x->desc.code, x->desc.math, x->shape, nib_act8_scale(x));
    if (!y) return nib_last_error()->status;
    const uint8_t *from = nib_act8_data(x);
    uint8_t *to = nib_act8_data_mut(y);
    const int64_t count = nib_tensor_count(x);
    for (int64_t i = 0; i < count; i++) to[i] = (uint8_t)(0u - from[i]);
    for (int64_t i = 0; x->desc.code == NIB_I7 && i < count; i++)
        if (to[i] == 64) to[i] = 63;
    return give(args, y);
}

/* ---- where they lie ---- */

/* The op on tensors that are no codes. */
static nib_status run_plain(nib_call_args *plain) {
    NIB_TRY(nib_call_outputs(plain));
    const nib_impl *impl = nib_call_choose(plain);
    return impl ? impl->run(plain) : nib_last_error()->status;
}

/* The op on the codes, whatever they mean: *plain has its results. */
static nib_status run_on_data(const nib_call_args *args, nib_call_args *plain) {
    *plain = *args;
    for (int i = 0; i < args->nin; i++) {
        plain->in[i] = nib_scope_own(args->ctx, nib_act8_codes(args->in[i]));
        if (!plain->in[i]) return nib_last_error()->status;
    }
    return run_plain(plain);
}

/* Codes in other places stand for floats of the same scale. */
static nib_status on_data(nib_call_args *args) {
    const nib_tensor *x = args->in[0];
    nib_call_args plain;
    NIB_TRY(run_on_data(args, &plain));
    for (int i = 0; i < plain.nout; i++) {
        args->out[i] = nib_scope_own(
            args->ctx, nib_act8_over(plain.out[i], x->desc.code, x->desc.math, nib_act8_scale(x)));
        if (!args->out[i]) return nib_last_error()->status;
    }
    args->nout = plain.nout;
    return NIB_OK;
}

/* Two of one scale and type; more, or others, as floats. */
static bool alike(const nib_call_args *args) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    return args->nin == 2 && nib_act8_is(a) && nib_act8_is(b) && a->desc.code == b->desc.code &&
           a->desc.math == b->desc.math && nib_act8_scale(a) == nib_act8_scale(b);
}

static nib_status stack(nib_call_args *args) { return alike(args) ? on_data(args) : NIB_END; }
static nib_status cat(nib_call_args *args) { return integer(args->in[0]) ? stack(args) : NIB_END; }

/* What is smaller has the smaller code, unless the scale turns the order around. */
static nib_status lt(nib_call_args *args) {
    if (!alike(args) || !integer(args->in[0]) || !(nib_act8_scale(args->in[0]) > 0)) return NIB_END;
    nib_call_args plain;
    NIB_TRY(run_on_data(args, &plain));
    args->nout = 1;
    args->out[0] = plain.out[0];
    return NIB_OK;
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
        codes ? nib_act8_over(codes, x->desc.code, x->desc.math, nib_round_to(scale, x->desc.math))
              : NULL;
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

/* ---- in floats, and codes again ---- */

/* The op on floats, and its result as codes of this scale. */
static nib_status requantized(nib_call_args *args, nib_dtype code, float scale) {
    nib_call_args plain = *args;
    NIB_TRY(nib_codes_drop(&plain));
    NIB_TRY(run_plain(&plain));
    nib_tensor *one = nib_tensor_new(args->ctx, NIB_F32, (nib_shape){0});
    if (!one) return nib_last_error()->status;
    memcpy(nib_tensor_data_mut(one), &scale, sizeof scale);
    args->out[0] = nib_quantize_activation(plain.out[0], one, code);
    args->nout = 1;
    nib_tensor_free(one);
    return args->out[0] ? NIB_OK : nib_last_error()->status;
}

/* What a softmax gives lies between 0 and 1, so the best scale is known. */
static nib_status softmax(nib_call_args *args) {
    const nib_qdesc *x = &args->in[0]->desc;
    return requantized(args, x->code, nib_round_to(1.0f / nib_act8_largest(x->code), x->math));
}

static nib_status where(nib_call_args *args) {
    const nib_tensor *self = args->in[1];
    if (!nib_act8_is(self) || nib_act8_is(args->in[2])) return NIB_END;
    return requantized(args, self->desc.code, nib_act8_scale(self));
}

/* ---- the table ---- */

static const struct row {
    const char *op;
    nib_status (*run)(nib_call_args *args);
} table[] = {
    {"bmm", nib_codes_bmm}, {"cat", cat},       {"div", divide},
    {"expand", on_data},    {"lt", lt},         {"mm", nib_codes_bmm},
    {"mul", mul},           {"neg", neg},       {"permute", on_data},
    {"softmax", softmax},   {"split", on_data}, {"stack", stack},
    {"where", where},
};

static const struct row *row_of(const nib_op *op) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].op, op->name) == 0) return &table[i];
    return NULL;
}

bool nib_codes_keeps(const nib_op *op) { return op->codes || row_of(op); }
nib_status nib_codes_run(nib_call_args *args) {
    const struct row *row = row_of(args->op);
    return row ? row->run(args) : NIB_END;
}
