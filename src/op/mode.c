#include "op/mode.h"

#include "base/error.h"
#include "tensor/context.h"

nib_status nib_mode_push(nib_ctx *ctx, const nib_mode *mode, void *self) {
    if (!ctx || !mode) return NIB_RAISE(NIB_E_ARGUMENT, "a mode needs a context and functions");
    if (ctx->nmodes == NIB_MAX_MODES)
        return NIB_RAISE(NIB_E_FULL, "mode %s: %d modes are pushed already", mode->name,
                         ctx->nmodes);
    ctx->modes[ctx->nmodes++] = (nib_pushed_mode){.mode = mode, .self = self};
    return NIB_OK;
}

nib_status nib_mode_pop(nib_ctx *ctx) {
    if (!ctx || !ctx->nmodes) return NIB_RAISE(NIB_E_ARGUMENT, "no mode is pushed");
    ctx->nmodes--;
    return NIB_OK;
}

bool nib_modes_before_op(nib_call_args *args) {
    nib_ctx *ctx = args->ctx;
    for (int i = ctx->nmodes - 1; i >= 0; i--) {
        nib_pushed_mode *m = &ctx->modes[i];
        if (m->inside || !m->mode->before_op) continue;
        m->inside = true;
        const bool answered = m->mode->before_op(m->self, args->op, args);
        m->inside = false;
        if (answered) return true;
    }
    return false;
}

nib_status nib_modes_after_op(nib_call_args *args) {
    nib_ctx *ctx = args->ctx;
    for (int i = ctx->nmodes - 1; i >= 0; i--) {
        nib_pushed_mode *m = &ctx->modes[i];
        if (m->inside || !m->mode->after_op) continue;
        m->inside = true;
        const nib_status status = m->mode->after_op(m->self, args->op, args);
        m->inside = false;
        NIB_TRY(status);
    }
    return NIB_OK;
}

nib_status nib_modes_enter_module(nib_ctx *ctx, nib_module *module, nib_tensor **input) {
    for (int i = ctx->nmodes - 1; i >= 0; i--) {
        nib_pushed_mode *m = &ctx->modes[i];
        if (m->inside || !m->mode->enter_module) continue;
        m->inside = true;
        const nib_status status = m->mode->enter_module(m->self, module, input);
        m->inside = false;
        NIB_TRY(status);
    }
    return NIB_OK;
}

nib_status nib_modes_leave_module(nib_ctx *ctx, nib_module *module, nib_tensor **output) {
    for (int i = ctx->nmodes - 1; i >= 0; i--) {
        nib_pushed_mode *m = &ctx->modes[i];
        if (m->inside || !m->mode->leave_module) continue;
        m->inside = true;
        const nib_status status = m->mode->leave_module(m->self, module, output);
        m->inside = false;
        NIB_TRY(status);
    }
    return NIB_OK;
}
