/* mode_time.c: calls and time of each module between nib_time_begin and _end. */
#include "base/clock.h"
#include "base/error.h"
#include "nn/module.h"

typedef struct timed {
    const nib_module *module;
    int64_t calls, time_ns;
} timed;

typedef struct timing {
    nib_ctx *ctx;
    timed *rows;
    size_t count, room;
    struct {
        const nib_module *module;
        int64_t began_ns;
    } open[NIB_MODULE_MAX_DEPTH]; /* modules that run now */
    int depth;
} timing;

static timed *row_of(const timing *t, const nib_module *module) {
    for (size_t i = 0; i < t->count; i++)
        if (t->rows[i].module == module) return &t->rows[i];
    return NULL;
}

static nib_status enter(void *self, nib_module *module, nib_tensor **input) {
    timing *t = self;
    (void)input;
    if (!row_of(t, module)) {
        if (t->count == t->room) {
            const size_t room = t->room ? t->room * 2 : 64;
            timed *grown = nib_mem_realloc(&t->ctx->mem, t->rows, t->room * sizeof *grown,
                                           room * sizeof *grown);
            if (!grown) return nib_last_error()->status;
            t->rows = grown;
            t->room = room;
        }
        t->rows[t->count++] = (timed){.module = module};
    }
    if (t->depth == NIB_MODULE_MAX_DEPTH)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "timing: modules run over %d deep",
                         NIB_MODULE_MAX_DEPTH);
    t->open[t->depth].module = module;
    t->open[t->depth++].began_ns = nib_now_ns();
    return NIB_OK;
}

static nib_status leave(void *self, nib_module *module, nib_tensor **output) {
    timing *t = self;
    (void)output;
    const int64_t now = nib_now_ns();
    while (t->depth > 0 && t->open[t->depth - 1].module != module)
        t->depth--;               /* a forward that failed never left */
    if (!t->depth) return NIB_OK; /* it was entered before the timing began */
    timed *row = row_of(t, module);
    row->calls++;
    row->time_ns += now - t->open[--t->depth].began_ns;
    return NIB_OK;
}

static const nib_mode mode = {.name = "time", .enter_module = enter, .leave_module = leave};

nib_status nib_time_begin(nib_ctx *ctx) {
    if (!ctx) return NIB_RAISE(NIB_E_ARGUMENT, "timing needs a context");
    timing *t = nib_mem_alloc_zero(&ctx->mem, sizeof *t);
    if (!t) return nib_last_error()->status;
    t->ctx = ctx;
    const nib_status status = nib_mode_push(ctx, &mode, t);
    if (status < NIB_OK) nib_mem_free(&ctx->mem, t, sizeof *t);
    return status;
}

typedef struct teller {
    timing *t;
    void (*row)(void *, const char *, const char *, int64_t, double);
    void *user;
} teller;

static nib_status tell(void *user, const char *dotted, nib_module *module) {
    const teller *to = user;
    timed *found = row_of(to->t, module);
    if (!found || !found->calls) return NIB_OK;
    to->row(to->user, dotted, module->kind->name, found->calls, (double)found->time_ns * 1e-6);
    found->calls = 0; /* a module in two places is told once */
    return NIB_OK;
}

nib_status nib_time_end(nib_ctx *ctx, nib_module *root,
                        void (*row)(void *user, const char *dotted, const char *kind, int64_t calls,
                                    double ms),
                        void *user) {
    if (!ctx || !ctx->nmodes || ctx->modes[ctx->nmodes - 1].mode != &mode)
        return NIB_RAISE(NIB_E_ARGUMENT, "timing is not the innermost mode; end the others first");
    timing *t = ctx->modes[ctx->nmodes - 1].self;
    NIB_TRY(nib_mode_pop(ctx));
    const nib_status status = row ? nib_module_walk(root, tell, &(teller){t, row, user}) : NIB_OK;
    nib_mem_free(&ctx->mem, t->rows, t->room * sizeof *t->rows);
    nib_mem_free(&ctx->mem, t, sizeof *t);
    return status;
}
