/* on_codes.c: the table of ops that take quantized activations, as optimum-quanto dispatches them.
 * An op that has no row, or whose row gives NIB_END, gets the floats: any op takes any activation.
 *
 *   op                      integer codes                    float codes
 *   lt                      codes, where scales are equal    floats
 *   cat of two              codes, where scales are equal    floats
 *   stack of two            codes, where scales are equal    codes, where scales are equal
 *   mul, div by one number  on the scale                     on the scale
 *   permute, expand, split  on the codes                     on the codes
 *   softmax                 in floats, then codes of scale 1 / largest code, as it is normalized
 *   where                   in floats, then codes of the scale that self had
 *   reshape, rows of it     views of the codes (tensor/view.c)
 * By themselves (nib_op.codes) linear, conv1d, conv2d, bmm, mm, scaled_dot_product_attention, relu,
 * neg and max_pool2d take integer codes; dequantize and functions of every element (pointwise.h)
 * take any.
 *
 * What a row does is a few steps on tensors that are no codes. It does not run them: the door, or a
 * trace, gives the function that does, so that both know the same rows. */
#include "op/on_codes.h"

#include <string.h>

#include "base/error.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "tensor/context.h"

bool nib_codes_among(const nib_call_args *args) {
    for (int i = 0; i < args->nin; i++)
        if (nib_act8_is(args->in[i])) return true;
    return false;
}

nib_status nib_codes_at_once(void *user, nib_call_args *args) {
    (void)user;
    if (args->op == &nib_op_dequantize || args->op == &nib_op_quantize_activation)
        return nib_call(args); /* modes see these as they see those of a module */
    NIB_TRY(nib_call_outputs(args));
    const nib_impl *impl = nib_call_choose(args);
    return impl ? impl->run(args) : nib_last_error()->status;
}

nib_status nib_codes_drop(nib_call_args *args, nib_codes_step *step, void *user) {
    for (int i = 0; i < args->nin; i++) {
        if (!nib_act8_is(args->in[i])) continue;
        nib_call_args floats = {.ctx = args->ctx, .op = &nib_op_dequantize, .nin = 1};
        floats.in[0] = args->in[i];
        NIB_TRY(step(user, &floats));
        args->in[i] = floats.out[0];
    }
    return NIB_OK;
}

/* A call of a row, and what runs its steps. */
typedef struct call {
    nib_call_args *args;
    nib_codes_step *step;
    void *user;
} call;

/* One result that the caller owns, or NULL after a failure, to the open scope. */
static nib_status give(nib_call_args *args, nib_tensor *made) {
    args->nout = 1;
    args->out[0] = nib_scope_own(args->ctx, made);
    return args->out[0] ? NIB_OK : nib_last_error()->status;
}

static bool integer(const nib_tensor *t) { return nib_act8_integer(t->desc.code); }

/* ---- where they lie ---- */

/* The op on the codes, whatever they mean: *plain has its results. */
static nib_status run_on_data(const call *c, nib_call_args *plain) {
    *plain = *c->args;
    for (int i = 0; i < plain->nin; i++) {
        plain->in[i] = nib_scope_own(plain->ctx, nib_act8_codes(plain->in[i]));
        if (!plain->in[i]) return nib_last_error()->status;
    }
    return c->step(c->user, plain);
}

/* Codes in other places stand for floats of the same scale. */
static nib_status on_data(const call *c) {
    nib_call_args *args = c->args, plain;
    const nib_tensor *x = args->in[0];
    NIB_TRY(run_on_data(c, &plain));
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

static nib_status stack(const call *c) { return alike(c->args) ? on_data(c) : NIB_END; }
static nib_status cat(const call *c) { return integer(c->args->in[0]) ? stack(c) : NIB_END; }

/* What is smaller has the smaller code, unless the scale turns the order around. */
static nib_status lt(const call *c) {
    nib_call_args *args = c->args;
    if (!alike(args) || !integer(args->in[0]) || !(nib_act8_scale(args->in[0]) > 0)) return NIB_END;
    nib_call_args plain;
    NIB_TRY(run_on_data(c, &plain));
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

static nib_status mul(const call *c) {
    nib_call_args *args = c->args;
    const nib_tensor *a = args->in[0], *b = args->in[1];
    float number;
    if (nib_act8_is(a) && one_number(b, &number))
        return with_scale(args, a, number * nib_act8_scale(a));
    if (nib_act8_is(b) && one_number(a, &number))
        return with_scale(args, b, number * nib_act8_scale(b));
    return NIB_END;
}

static nib_status divide(const call *c) {
    nib_call_args *args = c->args;
    const nib_tensor *a = args->in[0];
    float number;
    if (!nib_act8_is(a) || !one_number(args->in[1], &number)) return NIB_END;
    return with_scale(args, a, nib_act8_scale(a) / number);
}

/* ---- in floats, and codes again ---- */

/* The op on floats, and its result as codes of this scale. */
static nib_status requantized(const call *c, nib_dtype code, float scale) {
    nib_call_args *args = c->args, plain = *args;
    NIB_TRY(nib_codes_drop(&plain, c->step, c->user));
    NIB_TRY(c->step(c->user, &plain));
    nib_tensor *one = nib_scope_own(args->ctx, nib_tensor_new(args->ctx, NIB_F32, (nib_shape){0}));
    if (!one) return nib_last_error()->status;
    memcpy(nib_tensor_data_mut(one), &scale, sizeof scale);
    nib_call_args codes = {.ctx = args->ctx,
                           .op = &nib_op_quantize_activation,
                           .nin = 2,
                           .in = {plain.out[0], one},
                           .nattr = 1,
                           .attr = {{.i = code}}};
    NIB_TRY(c->step(c->user, &codes));
    args->out[0] = codes.out[0];
    args->nout = 1;
    return NIB_OK;
}

/* What a softmax gives lies between 0 and 1, so the best scale is known. */
static nib_status softmax(const call *c) {
    const nib_qdesc *x = &c->args->in[0]->desc;
    return requantized(c, x->code, nib_round_to(1.0f / nib_act8_largest(x->code), x->math));
}

static nib_status where(const call *c) {
    const nib_tensor *self = c->args->in[1];
    if (!nib_act8_is(self) || nib_act8_is(c->args->in[2])) return NIB_END;
    return requantized(c, self->desc.code, nib_act8_scale(self));
}

/* ---- the table ---- */

static const struct row {
    const char *op;
    nib_status (*run)(const call *c);
} table[] = {
    {"cat", cat},     {"div", divide},      {"expand", on_data},  {"lt", lt},
    {"mul", mul},     {"permute", on_data}, {"softmax", softmax}, {"split", on_data},
    {"stack", stack}, {"where", where},
};

static const struct row *row_of(const nib_op *op) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].op, op->name) == 0) return &table[i];
    return NULL;
}

bool nib_codes_keeps(const nib_op *op) { return op->codes || row_of(op); }
nib_status nib_codes_run(nib_call_args *args, nib_codes_step *step, void *user) {
    const struct row *row = row_of(args->op);
    return row ? row->run(&(call){args, step, user}) : NIB_END;
}
