/* tape.c: a mode that writes down the calls that watched tensors reach, and runs them backwards.
 *
 * A value is what a call made, or a watched tensor; its storage tells which one a tensor is, and a
 * view has its place in the sum of its value, so that views need no entries of their own. What
 * backward does not read is kept as a shape alone, and what it reads is let go as soon as its call
 * is done. */
#include <string.h>

#include "base/error.h"
#include "op/mode.h"
#include "op/op.h"
#include "tensor/context.h"
#include "train/gradients.h"
#include "train/tape.h"

typedef struct value {
    nib_place place;
    int64_t count;   /* elements */
    int64_t watched; /* index among the gradients; -1: a result */
    nib_tensor *sum; /* gradient so far, f32 [count] or any shape of that; NULL: none */
    int before;      /* the value before it whose storage has the same hash; -1: none */
} value;

typedef struct record {
    nib_call_args call;                           /* tensors held, or hollow */
    int in[NIB_MAX_INPUTS], out[NIB_MAX_OUTPUTS]; /* values; -1: none */
    nib_place place[NIB_MAX_INPUTS];              /* of the input within its value */
    int64_t in_version[NIB_MAX_INPUTS], out_version[NIB_MAX_OUTPUTS]; /* -1: not kept */
} record;

typedef struct tape {
    nib_ctx *ctx;
    nib_gradients *into;
    value *values;
    int *latest; /* [values_room], a power of two: the latest value of each hash; -1: none */
    record *records;
    size_t nvalues, values_room, nrecords, records_room;
    struct { /* of one op, every call is written down, and looked at on the way back */
        const nib_op *op;
        nib_tape_look *look;
        void *user;
    } looks;
    struct { /* the call that runs, to see which of its inputs it changes itself */
        const nib_op *op;
        int64_t version[NIB_MAX_INPUTS];
    } entered;
} tape;

static int64_t version_of(const nib_tensor *t) {
    return t == NIB_NONE || !t->nparts ? 0 : t->part[0]->version;
}

/* Ids of storages count up: their low bits are as good as any hash. */
static int *latest_of(const tape *t, const nib_place *place) {
    return &t->latest[place->storage & (t->values_room - 1)];
}

/* ---- forgetting ---- */

static void forget_record(record *r) {
    for (int i = 0; i < r->call.nin; i++) nib_tensor_free((nib_tensor *)(uintptr_t)r->call.in[i]);
    for (int i = 0; i < r->call.nout; i++) nib_tensor_free(r->call.out[i]);
    r->call.nin = r->call.nout = 0;
}

static void forget(tape *t) {
    while (t->nrecords > 0) forget_record(&t->records[--t->nrecords]);
    while (t->nvalues > 0) {
        const value *v = &t->values[--t->nvalues];
        nib_tensor_free(v->sum);
        *latest_of(t, &v->place) = -1;
    }
}

/* ---- writing down ---- */

static void link_value(tape *t, int i) {
    int *latest = latest_of(t, &t->values[i].place);
    t->values[i].before = *latest;
    *latest = i;
}

static bool more_values(tape *t) {
    const size_t had = t->values_room, room = had ? had * 2 : 64;
    int *latest = nib_mem_alloc_array(&t->ctx->mem, room, sizeof *latest);
    value *grown =
        latest ? nib_mem_realloc(&t->ctx->mem, t->values, had * sizeof *grown, room * sizeof *grown)
               : NULL;
    if (!grown) {
        nib_mem_free(&t->ctx->mem, latest, room * sizeof *latest);
        return false;
    }
    nib_mem_free(&t->ctx->mem, t->latest, had * sizeof *latest);
    t->values = grown;
    t->latest = latest;
    t->values_room = room;
    for (size_t i = 0; i < room; i++) latest[i] = -1;
    for (size_t i = 0; i < t->nvalues; i++) link_value(t, (int)i);
    return true;
}

static int add_value(tape *t, const nib_tensor *what, const nib_place *place, int64_t watched) {
    if (t->nvalues == t->values_room && !more_values(t)) return -1;
    t->values[t->nvalues] =
        (value){.place = *place, .count = nib_tensor_count(what), .watched = watched};
    link_value(t, (int)t->nvalues);
    return (int)t->nvalues++;
}

/* The value that a tensor is, or is a view of, latest first; -1: none, -2: no memory. */
static int value_of(tape *t, const nib_tensor *what, nib_place *place) {
    if (!nib_place_of(what, place)) return -1;
    for (int i = t->nvalues ? *latest_of(t, place) : -1; i >= 0; i = t->values[i].before)
        if (nib_place_within(place, &t->values[i].place)) return i;
    const int64_t watched = nib_gradients_find(t->into, place);
    if (watched < 0) return -1;
    const nib_watched *w = &t->into->list[watched];
    const int made = add_value(t, w->tensor, &w->place, watched);
    return made < 0 ? -2 : made;
}

static record *add_record(tape *t) {
    if (t->nrecords == t->records_room) {
        const size_t room = t->records_room ? t->records_room * 2 : 64;
        record *grown = nib_mem_realloc(&t->ctx->mem, t->records, t->records_room * sizeof *grown,
                                        room * sizeof *grown);
        if (!grown) return NULL;
        t->records = grown;
        t->records_room = room;
    }
    record *r = &t->records[t->nrecords++];
    *r = (record){0};
    return r;
}

/* A tensor to keep, or its shape alone. */
static nib_tensor *kept(const nib_tensor *t, bool whole) {
    if (t == NIB_NONE || whole) return nib_tensor_retain(t);
    return nib_tensor_hollow(t->ctx, t->dtype, t->shape);
}

static nib_status write_down(tape *t, const nib_call_args *args, const int in[],
                             const nib_place place[]) {
    record *r = add_record(t);
    if (!r) return nib_last_error()->status;
    const uint32_t saves = args->op->saves;
    const bool entered = t->entered.op == args->op;
    r->call = *args;
    r->call.nin = r->call.nout = 0; /* until they are held */
    for (int i = 0; i < args->nin; i++) {
        const int64_t version = version_of(args->in[i]);
        const bool whole =
            (saves & NIB_SAVES_IN(i)) && !(entered && version != t->entered.version[i]);
        r->in[i] = in[i];
        r->place[i] = place[i];
        r->in_version[i] = whole ? version : -1;
        r->call.in[i] = kept(args->in[i], whole);
        if (!r->call.in[i]) return nib_last_error()->status;
        r->call.nin++;
    }
    /* An op without results changes its first input, which is a new value from here on. */
    const bool changes = args->nout == 0 && args->nin > 0;
    for (int i = 0; i < (changes ? 1 : args->nout); i++) {
        const nib_tensor *out = changes ? args->in[0] : args->out[i];
        const bool whole = saves & NIB_SAVES_OUT(i);
        nib_place made;
        r->out_version[i] = whole ? version_of(out) : -1;
        r->out[i] = -1;
        r->call.out[i] = kept(out, whole);
        if (!r->call.out[i]) return nib_last_error()->status;
        r->call.nout++;
        if (!nib_place_of(out, &made)) continue;
        r->out[i] = add_value(t, out, &made, -1);
        if (r->out[i] < 0) return nib_last_error()->status;
    }
    return NIB_OK;
}

static bool before_op(void *self, const nib_op *op, nib_call_args *args) {
    tape *t = self;
    t->entered.op = op;
    for (int i = 0; i < args->nin; i++) t->entered.version[i] = version_of(args->in[i]);
    return false;
}

/* Yes and no have no slope: gradients end there, as in torch. */
static bool only_answers(const nib_call_args *args) {
    bool only = args->nout > 0;
    for (int i = 0; i < args->nout; i++) only = only && args->out[i]->dtype == NIB_BOOL;
    return only;
}

static nib_status after_op(void *self, const nib_op *op, nib_call_args *args) {
    tape *t = self;
    int in[NIB_MAX_INPUTS];
    nib_place place[NIB_MAX_INPUTS] = {0};
    bool reached = op == t->looks.op;
    for (int i = 0; i < args->nin; i++) {
        in[i] = value_of(t, args->in[i], &place[i]);
        if (in[i] < -1) return nib_last_error()->status;
        reached = reached || in[i] >= 0;
    }
    if (!reached || only_answers(args)) return NIB_OK;
    if (!op->backward)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "%s has no gradient, and what a tape watches reaches it", op->name);
    const size_t records = t->nrecords;
    const nib_status status = write_down(t, args, in, place);
    if (status < NIB_OK && t->nrecords > records) forget_record(&t->records[--t->nrecords]);
    return status;
}

static const nib_mode mode = {.name = "tape", .before_op = before_op, .after_op = after_op};

/* The innermost tape of a context; NULL: none. */
static nib_pushed_mode *tape_of(nib_ctx *ctx) {
    for (int i = ctx->nmodes - 1; i >= 0; i--)
        if (ctx->modes[i].mode == &mode) return &ctx->modes[i];
    return NULL;
}

nib_status nib_tape_begin(nib_ctx *ctx, nib_gradients *gradients) {
    if (!ctx || !gradients)
        return NIB_RAISE(NIB_E_ARGUMENT, "a tape needs a context and gradients to add to");
    if (tape_of(ctx)) return NIB_RAISE(NIB_E_ARGUMENT, "a tape of this context has begun already");
    tape *t = nib_mem_alloc_zero(&ctx->mem, sizeof *t);
    if (!t) return nib_last_error()->status;
    t->ctx = ctx;
    t->into = gradients;
    const nib_status status = nib_mode_push(ctx, &mode, t);
    if (status < NIB_OK) nib_mem_free(&ctx->mem, t, sizeof *t);
    return status;
}

nib_status nib_tape_look_at(nib_ctx *ctx, const nib_op *op, nib_tape_look *look, void *user) {
    nib_pushed_mode *pushed = tape_of(ctx);
    if (!pushed) return NIB_RAISE(NIB_E_ARGUMENT, "no tape of this context has begun");
    tape *t = pushed->self;
    t->looks.op = op;
    t->looks.look = look;
    t->looks.user = user;
    return NIB_OK;
}

nib_status nib_tape_end(nib_ctx *ctx) {
    if (!ctx || !ctx->nmodes || ctx->modes[ctx->nmodes - 1].mode != &mode)
        return NIB_RAISE(NIB_E_ARGUMENT, "a tape is not the innermost mode; end the others first");
    tape *t = ctx->modes[ctx->nmodes - 1].self;
    forget(t);
    nib_mem_free(&ctx->mem, t->latest, t->values_room * sizeof *t->latest);
    nib_mem_free(&ctx->mem, t->values, t->values_room * sizeof *t->values);
    nib_mem_free(&ctx->mem, t->records, t->records_room * sizeof *t->records);
    nib_mem_free(&ctx->mem, t, sizeof *t);
    return nib_mode_pop(ctx);
}

/* ---- backwards ---- */

static nib_status check_unchanged(const record *r) {
    for (int i = 0; i < r->call.nin; i++)
        if (r->in_version[i] >= 0 && r->in_version[i] != version_of(r->call.in[i]))
            return NIB_RAISE(NIB_E_ARGUMENT,
                             "the gradient of %s needs its input %d, which was changed since",
                             r->call.op->name, i);
    for (int i = 0; i < r->call.nout; i++)
        if (r->out_version[i] >= 0 && r->out_version[i] != version_of(r->call.out[i]))
            return NIB_RAISE(NIB_E_ARGUMENT,
                             "the gradient of %s needs its result, which was changed since",
                             r->call.op->name);
    return NIB_OK;
}

/* The gradient of a result in its shape, handed to the open scope; zeros where only others of the
 * call were reached. */
static nib_tensor *take_sum(tape *t, const record *r, int i) {
    nib_tensor **sum = r->out[i] < 0 ? NULL : &t->values[r->out[i]].sum;
    nib_tensor *g;
    if (sum && *sum) {
        g = nib_tensor_reshape(*sum, r->call.out[i]->shape);
        nib_tensor_free(*sum);
        *sum = NULL;
    } else {
        g = nib_tensor_result(t->ctx, NIB_F32, r->call.out[i]->shape);
        if (g) memset(nib_tensor_data_mut(g), 0, nib_tensor_bytes(g));
    }
    return nib_scope_own(t->ctx, g);
}

static nib_status run_record(tape *t, record *r) {
    nib_backward_args args = {.call = &r->call};
    bool reached = false;
    for (int i = 0; i < r->call.nout; i++)
        reached = reached || (r->out[i] >= 0 && t->values[r->out[i]].sum);
    if (!reached) return NIB_OK;
    NIB_TRY(check_unchanged(r));
    for (int i = 0; i < r->call.nout; i++) {
        args.out[i] = take_sum(t, r, i);
        if (!args.out[i]) return nib_last_error()->status;
    }
    bool wanted = false;
    for (int i = 0; i < r->call.nin; i++) {
        args.wants[i] = r->in[i] >= 0;
        wanted = wanted || args.wants[i];
    }
    if (r->call.op == t->looks.op) NIB_TRY(t->looks.look(t->looks.user, &args));
    if (!wanted) return NIB_OK;
    NIB_TRY(r->call.op->backward(&args));
    for (int i = 0; i < r->call.nin; i++) {
        if (!args.wants[i] || !args.in[i]) continue;
        value *v = &t->values[r->in[i]];
        NIB_TRY(
            nib_place_add(&v->sum, &v->place, v->count, &r->place[i], r->call.in[i], args.in[i]));
    }
    return NIB_OK;
}

static nib_status start(tape *t, const nib_tensor *result, const nib_tensor *gradient) {
    nib_place place;
    char shape[96], other[96];
    if (result == NIB_NONE) return NIB_RAISE(NIB_E_ARGUMENT, "which result to go back from?");
    const int v = value_of(t, result, &place);
    if (v < -1) return nib_last_error()->status;
    if (v < 0)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "no watched tensor reaches this result: it was made before the tape "
                         "began, was gone back from already, or hangs on none");
    if (gradient == NIB_NONE && nib_tensor_count(result) != 1)
        return NIB_RAISE(
            NIB_E_SHAPE,
            "the result is %s; what is not one number needs the gradient to begin with",
            nib_shape_text(&result->shape, shape, sizeof shape));
    if (gradient != NIB_NONE &&
        (gradient->layout || gradient->dtype != NIB_F32 || !nib_tensor_contiguous(gradient) ||
         !nib_shape_equal(&gradient->shape, &result->shape)))
        return NIB_RAISE(
            NIB_E_SHAPE, "the result is %s; its gradient is %s of %s, want f32 of that",
            nib_shape_text(&result->shape, shape, sizeof shape),
            nib_shape_text(&gradient->shape, other, sizeof other), nib_dtype_name(gradient->dtype));
    nib_tensor *first = nib_tensor_new(t->ctx, NIB_F32, result->shape);
    if (!first) return nib_last_error()->status;
    float *to = nib_tensor_data_mut(first);
    if (gradient == NIB_NONE)
        *to = 1;
    else
        memcpy(to, nib_tensor_data(gradient), nib_tensor_bytes(first));
    const nib_status status = nib_place_add(&t->values[v].sum, &t->values[v].place,
                                            t->values[v].count, &place, result, first);
    nib_tensor_free(first);
    return status;
}

/* All that may fail comes first, so that gradients change all together or not at all. */
static nib_status deliver(tape *t) {
    for (size_t i = 0; i < t->nvalues; i++) {
        value *v = &t->values[i];
        if (v->watched >= 0 && v->sum)
            NIB_TRY(nib_gradients_ready(t->into, (size_t)v->watched, &v->sum));
    }
    for (size_t i = 0; i < t->nvalues; i++) {
        value *v = &t->values[i];
        if (v->watched < 0 || !v->sum) continue;
        nib_gradients_add(t->into, (size_t)v->watched, v->sum);
        v->sum = NULL;
    }
    return NIB_OK;
}

static nib_status run(tape *t, const nib_tensor *result, const nib_tensor *gradient) {
    NIB_TRY(start(t, result, gradient));
    while (t->nrecords > 0) {
        record *r = &t->records[t->nrecords - 1];
        const size_t mark = nib_scope_begin(t->ctx);
        const nib_status status = run_record(t, r);
        nib_scope_end(t->ctx, mark);
        NIB_TRY(status);
        forget_record(r);
        t->nrecords--;
    }
    return deliver(t);
}

nib_status nib_backward(const nib_tensor *result, const nib_tensor *gradient) {
    if (!result || !gradient) return nib_last_error()->status;
    nib_pushed_mode *pushed = result == NIB_NONE ? NULL : tape_of(result->ctx);
    if (!pushed) return NIB_RAISE(NIB_E_ARGUMENT, "no tape of the result's context has begun");
    pushed->inside = true; /* what backwards call is not written down */
    const nib_status status = run(pushed->self, result, gradient);
    pushed->inside = false;
    forget(pushed->self);
    return status;
}
