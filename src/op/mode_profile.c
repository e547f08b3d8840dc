/* mode_profile.c: calls, time and bytes of each op between nib_profile_begin and _end. */
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "op/op.h"
#include "tensor/context.h"

enum { MAX_OPS = 128 };
typedef struct profile {
    nib_ctx *ctx;
    int64_t began_ns; /* of the call that runs now */
    struct {
        int64_t calls, time_ns;
        double bytes;
    } row[MAX_OPS];
} profile;

static size_t index_of(const nib_op *op) {
    size_t i = 0;
    while (nib_op_at(i) && nib_op_at(i) != op && i + 1 < MAX_OPS) i++;
    return i;
}

/* Of a table of rows, an embedding's or a cache's, only what is taken out or put in is touched. */
static bool is_table(const nib_op *op, int input) {
    return input == 0 && (op == &nib_op_embedding || op == &nib_op_kv_append);
}

static double bytes_touched(const nib_op *op, const nib_call_args *args) {
    double bytes = 0;
    for (int k = 0; k < args->nin; k++)
        if (args->in[k] != NIB_NONE && !is_table(op, k))
            bytes += (double)nib_tensor_bytes(args->in[k]);
    for (int k = 0; k < args->nout; k++) bytes += (double)nib_tensor_bytes(args->out[k]);
    return bytes;
}

static bool before_op(void *self, const nib_op *op, nib_call_args *args) {
    (void)op;
    (void)args;
    ((profile *)self)->began_ns = nib_now_ns();
    return false;
}

static nib_status after_op(void *self, const nib_op *op, nib_call_args *args) {
    profile *p = self;
    const size_t i = index_of(op);
    p->row[i].calls++;
    p->row[i].time_ns += nib_now_ns() - p->began_ns;
    p->row[i].bytes += bytes_touched(op, args);
    return NIB_OK;
}

static const nib_mode mode = {.name = "profile", .before_op = before_op, .after_op = after_op};

nib_status nib_profile_begin(nib_ctx *ctx) {
    if (!ctx) return NIB_RAISE(NIB_E_ARGUMENT, "profiling needs a context");
    profile *p = nib_mem_alloc_zero(&ctx->mem, sizeof *p);
    if (!p) return nib_last_error()->status;
    p->ctx = ctx;
    const nib_status status = nib_mode_push(ctx, &mode, p);
    if (status < NIB_OK) nib_mem_free(&ctx->mem, p, sizeof *p);
    return status;
}

nib_status nib_profile_end(nib_ctx *ctx,
                           void (*row)(void *user, const char *op, int64_t calls, double ms,
                                       double bytes),
                           void *user) {
    if (!ctx || !ctx->nmodes || ctx->modes[ctx->nmodes - 1].mode != &mode)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "profiling is not the innermost mode; end the others first");
    profile *p = ctx->modes[ctx->nmodes - 1].self;
    NIB_TRY(nib_mode_pop(ctx));
    for (size_t i = 0; i < MAX_OPS && nib_op_at(i); i++)
        if (p->row[i].calls && row)
            row(user, nib_op_at(i)->name, p->row[i].calls, (double)p->row[i].time_ns * 1e-6,
                p->row[i].bytes);
    nib_mem_free(&ctx->mem, p, sizeof *p);
    return NIB_OK;
}
