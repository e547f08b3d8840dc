#include "op/op.h"

#include <string.h>

#include "base/error.h"
#include "op/mode.h"
#include "op/on_codes.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

static const nib_op *const ops[] = {
#define X(name) &nib_op_##name,
#include "op/op_list.h"
#undef X
    NULL};

#define X(name) extern const nib_impl nib_impl_##name;
#include "op/impl_list.h"
#undef X

static const nib_impl *const impls[] = {
#define X(name) &nib_impl_##name,
#include "op/impl_list.h"
#undef X
    NULL};

const nib_op *nib_op_at(size_t i) { return i < sizeof ops / sizeof *ops ? ops[i] : NULL; }

const nib_op *nib_op_find(const char *name) {
    for (size_t i = 0; ops[i]; i++)
        if (strcmp(ops[i]->name, name) == 0) return ops[i];
    return NULL;
}

nib_status nib_op_want_dense(const nib_op *op, const char *what, const nib_tensor *t) {
    if (t->layout)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "%s: %s is quantized (%s); dequantize it first",
                         op->name, what, t->layout->name);
    if (nib_dtype_bits(t->dtype) % 8)
        return NIB_RAISE(NIB_E_DTYPE, "%s: %s is %s, whose elements share bytes", op->name, what,
                         nib_dtype_name(t->dtype));
    if (!nib_tensor_contiguous(t))
        return NIB_RAISE(NIB_E_UNSUPPORTED, "%s: %s is not contiguous", op->name, what);
    return NIB_OK;
}

nib_status nib_op_want_dense_f32(const nib_op *op, const char *what, const nib_tensor *t) {
    if (t->layout || t->dtype == NIB_F32) return nib_op_want_dense(op, what, t);
    return NIB_RAISE(NIB_E_DTYPE, "%s: %s is %s, want f32", op->name, what,
                     nib_dtype_name(t->dtype));
}

static nib_status no_impl(const nib_call_args *args) {
    char names[160] = "";
    for (size_t i = 0; impls[i]; i++) {
        if (impls[i]->op != args->op) continue;
        const size_t used = strlen(names), more = strlen(impls[i]->layouts);
        if (used + more + 3 > sizeof names) break;
        memcpy(names + used, used ? "; " : "", used ? 2 : 0);
        memcpy(names + used + (used ? 2 : 0), impls[i]->layouts, more + 1);
    }
    return NIB_RAISE(NIB_E_UNSUPPORTED,
                     "%s: no implementation takes these arguments; there are: %s", args->op->name,
                     names);
}

const nib_impl *nib_call_choose(const nib_call_args *args) {
    for (size_t i = 0; impls[i]; i++)
        if (impls[i]->op == args->op && (!impls[i]->accepts || impls[i]->accepts(args)))
            return impls[i];
    no_impl(args);
    return NULL;
}

int nib_op_variants(const nib_op *op) {
    int most = 1;
    for (size_t i = 0; impls[i]; i++)
        if (impls[i]->op == op && impls[i]->variants > most) most = impls[i]->variants;
    return most;
}

static int count_outputs(const nib_op *op, const nib_dtype dtype[NIB_MAX_OUTPUTS]) {
    int count = op->nout < 0 ? 0 : op->nout;
    while (op->nout < 0 && count < NIB_MAX_OUTPUTS && dtype[count]) count++;
    return count;
}

nib_status nib_call_outputs(nib_call_args *args) {
    nib_shape shape[NIB_MAX_OUTPUTS] = {0};
    nib_dtype dtype[NIB_MAX_OUTPUTS] = {0};
    NIB_TRY(args->op->shape(args, shape, dtype));
    args->nout = count_outputs(args->op, dtype);
    for (int i = 0; i < args->nout; i++) {
        nib_tensor *made = args->op->output ? args->op->output(args, i, dtype[i], shape[i])
                                            : nib_tensor_result(args->ctx, dtype[i], shape[i]);
        args->out[i] = nib_scope_own(args->ctx, made);
        if (!args->out[i]) return nib_last_error()->status;
    }
    return NIB_OK;
}

bool nib_call_takes_codes(const nib_call_args *args) {
    return args->op->codes && args->op->codes(args);
}

nib_status nib_call(nib_call_args *args) {
    for (int i = 0; i < args->nin; i++)
        if (!args->in[i]) return nib_last_error()->status;
    if (!args->ctx) /* that of the first tensor */
        return NIB_RAISE(NIB_E_ARGUMENT, "%s: its first tensor cannot be NIB_NONE", args->op->name);
    const bool codes = nib_codes_among(args) && !nib_call_takes_codes(args);
    if (codes && !nib_codes_keeps(args->op)) NIB_TRY(nib_codes_drop(args, nib_codes_at_once, NULL));
    if (nib_modes_before_op(args)) return NIB_OK;
    if (codes && nib_codes_keeps(args->op)) {
        const nib_status status = nib_codes_run(args, nib_codes_at_once, NULL);
        if (status == NIB_OK) return nib_modes_after_op(args);
        NIB_TRY(status);
        NIB_TRY(nib_codes_drop(args, nib_codes_at_once, NULL));
    }
    NIB_TRY(nib_call_outputs(args));
    const nib_impl *impl = nib_call_choose(args);
    if (!impl) return nib_last_error()->status;
    NIB_TRY(impl->run(args));
    return nib_modes_after_op(args);
}

nib_tensor *nib_call_one(nib_ctx *ctx, const nib_op *op, int nin, const nib_tensor *const in[],
                         int nattr, const nib_attr attr[]) {
    nib_call_args args = {.ctx = ctx, .op = op, .nin = nin, .nattr = nattr};
    for (int i = 0; i < nin; i++) args.in[i] = in[i];
    for (int i = 0; i < nattr; i++) args.attr[i] = attr[i];
    return nib_call(&args) == NIB_OK ? args.out[0] : NULL;
}
