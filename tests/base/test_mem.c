#include "base/mem.h"

#include "base/error.h"
#include "test.h"

TEST(the_account_goes_back_to_zero_and_keeps_the_peak) {
    nib_mem mem = {0};
    void *a = nib_mem_alloc(&mem, 100), *b = nib_mem_alloc_zero(&mem, 28);
    CHECK(a && b && ((uintptr_t)a % NIB_MEM_ALIGN) == 0);
    CHECK_INT(nib_mem_used(&mem), 128);
    nib_mem_free(&mem, a, 100);
    nib_mem_free(&mem, b, 28);
    CHECK_INT(nib_mem_used(&mem), 0);
    CHECK_INT(nib_mem_peak(&mem), 128);
}

TEST(a_limit_is_kept_and_said) {
    nib_mem mem = {.limit = 64};
    void *a = nib_mem_alloc(&mem, 60);
    CHECK(a && !nib_mem_alloc(&mem, 5));
    CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
    CHECK_INT(nib_mem_used(&mem), 60);
    nib_mem_free(&mem, a, 60);
}

TEST(the_nth_allocation_can_be_made_to_fail) {
    nib_mem mem = {0};
    nib_mem_fail_after(1, false);
    void *a = nib_mem_alloc(&mem, 8), *b = nib_mem_alloc(&mem, 8), *c = nib_mem_alloc(&mem, 8);
    CHECK(a && !b && c);
    CHECK_INT(nib_mem_fail_after(-1, false), 3);
    nib_mem_free(&mem, a, 8);
    nib_mem_free(&mem, c, 8);
}

TEST(a_product_that_overflows_is_refused) {
    CHECK(!nib_mem_alloc_array(NULL, SIZE_MAX / 2, 3));
    CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
}

TESTS(RUNS(the_account_goes_back_to_zero_and_keeps_the_peak), RUNS(a_limit_is_kept_and_said),
      RUNS(the_nth_allocation_can_be_made_to_fail), RUNS(a_product_that_overflows_is_refused))
