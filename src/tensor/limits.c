/* limits.c: what this machine can do at most: how fast memory is read, how fast the units multiply.
 *
 * Memory is read in pieces that the threads of a context claim, as they claim the panels of a
 * weight; a piece is one stream or two. Both blocks are many times larger than caches are, and are
 * read from end to end in each round. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "tensor/context.h"

enum {
    BLOCK_SIZE = 320 << 20, /* bytes of each block */
    PIECE = 4 << 20,
    ROUNDS = 1 << 12, /* of a multiplying loop, between two looks at the clock */
    SHARES = 64,      /* pieces of multiplying for a thread */
};

struct nib_limits {
    nib_ctx *ctx;
    void *small, *huge; /* blocks of small and of 2 MiB pages */
};

/* A block whose pages are all there; zeros would all be one page. */
static void *block(nib_ctx *ctx, bool huge) {
    char *p = nib_mem_alloc(&ctx->mem, BLOCK_SIZE);
    if (!p) return NULL;
    nib_mem_hint_pages(p, BLOCK_SIZE, huge);
    return memset(p, 1, BLOCK_SIZE);
}

nib_limits *nib_limits_new(nib_ctx *ctx) {
    if (!ctx) return NIB_RAISE_NULL(NIB_E_ARGUMENT, "measuring limits needs a context");
    nib_limits *l = nib_mem_alloc_zero(&ctx->mem, sizeof *l);
    if (!l) return NULL;
    l->ctx = ctx;
    l->small = block(ctx, false);
    l->huge = l->small ? block(ctx, true) : NULL;
    if (l->huge) return l;
    nib_limits_free(l);
    return NULL;
}

void nib_limits_free(nib_limits *l) {
    if (!l) return;
    nib_mem_free(&l->ctx->mem, l->small, BLOCK_SIZE);
    nib_mem_free(&l->ctx->mem, l->huge, BLOCK_SIZE);
    nib_mem_free(&l->ctx->mem, l, sizeof *l);
}

typedef struct measuring {
    const nib_kernels *k;
    nib_limit which;
    const char *bytes;
    bool two;
} measuring;

/* What was read goes nowhere, but is passed on to where a compiler cannot see that. */
static _Atomic uint64_t sink;

static void read_pieces(void *user, int64_t begin, int64_t end) {
    const measuring *m = user;
    for (int64_t i = begin; i < end; i++) {
        const char *a = m->bytes + i * PIECE;
        sink = m->two ? m->k->limit_read(a, a + PIECE / 2, PIECE / 2)
                      : m->k->limit_read(a, NULL, PIECE);
    }
}

static void multiply(void *user, int64_t begin, int64_t end) {
    const measuring *m = user;
    double operations;
    for (int64_t i = begin; i < end; i++) {
        if (m->which == NIB_LIMIT_F32)
            sink = (uint64_t)m->k->limit_fma(&operations, 1, 1, ROUNDS);
        else if (m->which == NIB_LIMIT_U8)
            sink = (uint64_t)m->k->limit_u8(&operations, 3, 5, ROUNDS);
        else
            sink = (uint64_t)m->k->limit_u4(&operations, 3, 5, ROUNDS);
    }
}

double nib_limits_measure(const nib_limits *l, nib_ctx *ctx, nib_limit which) {
    if (!l || !ctx || (unsigned)which >= NIB_LIMITS) return NAN;
    measuring m = {.k = &ctx->kernels, .which = which};
    if (which <= NIB_LIMIT_READ_2_HUGE) {
        m.bytes = which >= NIB_LIMIT_READ_1_HUGE ? l->huge : l->small;
        m.two = which == NIB_LIMIT_READ_2 || which == NIB_LIMIT_READ_2_HUGE;
        const int64_t began = nib_now_ns();
        nib_parallel_for(ctx->pool, BLOCK_SIZE / PIECE, 1, read_pieces, &m);
        return BLOCK_SIZE * 1e9 / (double)(nib_now_ns() - began);
    }
    double operations = 0;
    if (which == NIB_LIMIT_F32)
        ctx->kernels.limit_fma(&operations, 1, 1, ROUNDS);
    else
        (which == NIB_LIMIT_U8 ? ctx->kernels.limit_u8 : ctx->kernels.limit_u4)(&operations, 1, 1,
                                                                                ROUNDS);
    const int64_t shares = SHARES * nib_pool_threads(ctx->pool), began = nib_now_ns();
    nib_parallel_for(ctx->pool, shares, 1, multiply, &m);
    return operations * (double)shares * 1e9 / (double)(nib_now_ns() - began);
}
