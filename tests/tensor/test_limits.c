#include <math.h>

#include "base/mem.h"
#include "tensor/context.h"
#include "test.h"

TEST(every_limit_is_a_rate) {
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    CHECK_INT(nib_ctx_threads(ctx), 2);
    nib_limits *limits = nib_limits_new(ctx);
    CHECK_MADE(limits);
    for (int i = 0; i < NIB_LIMITS; i++) {
        const double rate = nib_limits_measure(limits, ctx, (nib_limit)i);
        if (!(rate > 0 && isfinite(rate))) FAIL_AT("limit %d is %g", i, rate);
    }
    CHECK(isnan(nib_limits_measure(limits, ctx, NIB_LIMITS)));
    CHECK(isnan(nib_limits_measure(limits, NULL, NIB_LIMIT_F32)));
    nib_limits_free(limits);
    nib_ctx_free(ctx);
}

TEST(no_room_for_either_block_is_a_failure_that_leaves_nothing) {
    static const size_t allowed[] = {1 << 20, 400u << 20};
    for (int i = 0; i < 2; i++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1, .memory_limit = allowed[i]});
        const size_t before = nib_mem_used(nib_ctx_mem(ctx));
        CHECK(!nib_limits_new(ctx));
        CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
        CHECK_INT(nib_mem_used(nib_ctx_mem(ctx)), before);
        nib_ctx_free(ctx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        RUNS(every_limit_is_a_rate),
        RUNS(no_room_for_either_block_is_a_failure_that_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
