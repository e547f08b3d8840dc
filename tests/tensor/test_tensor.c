#include "tensor/tensor.h"

#include "base/mem.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "test.h"

static int released;
static void count_release(void *user) {
    (void)user;
    released++;
}

TEST(wrapped_bytes_go_back_after_the_last_view) {
    static const float data[6] = {0, 1, 2, 3, 4, 5};
    nib_ctx *ctx = nib_ctx_new(NULL);
    released = 0;
    nib_tensor *t =
        nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {2, 3}}, data, count_release, NULL);
    nib_tensor *row = nib_tensor_slice(t, 0, 1, 1);
    nib_tensor_free(t);
    CHECK_INT(released, 0);
    CHECK(((const float *)nib_tensor_data(row))[0] == 3.0f);
    CHECK(nib_tensor_data_mut(row) == NULL);
    nib_tensor_free(row);
    CHECK_INT(released, 1);
    nib_ctx_free(ctx);
}

TEST(a_scope_frees_what_was_not_kept) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const size_t before = nib_mem_used(nib_ctx_mem(ctx));
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *a = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {100}}));
    nib_tensor *b = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {50}}));
    CHECK(a && b && nib_keep(b) == b);
    nib_scope_end(ctx, mark);
    const size_t slots = ctx->owned_room * sizeof *ctx->owned;
    CHECK_INT(nib_mem_used(nib_ctx_mem(ctx)),
              before + slots + nib_tensor_bytes(b) + sizeof(nib_tensor) + sizeof(nib_storage));
    nib_tensor_free(b);
    nib_ctx_free(ctx);
}

TEST(null_in_is_null_out_and_keeps_the_cause) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *bad = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {INT64_MAX, 3}});
    CHECK(!bad && nib_last_error()->status == NIB_E_SHAPE);
    CHECK(!nib_tensor_reshape(bad, (nib_shape){1, {3}}));
    CHECK(strstr(nib_last_error()->what, "9223372036854775807"));
    nib_ctx_free(ctx);
}

TEST(views_share_bytes_and_know_when_they_are_not_contiguous) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {3, 4}});
    float *data = nib_tensor_data_mut(t);
    for (int i = 0; i < 12; i++) data[i] = (float)i;
    nib_tensor *column = nib_tensor_slice(t, 1, 2, 1), *turned = nib_tensor_transpose(t, 0, 1);
    CHECK(!nib_tensor_contiguous(column) && !nib_tensor_contiguous(turned));
    CHECK(((const float *)nib_tensor_data(column))[column->stride[0]] == 6.0f);
    CHECK_INT(turned->shape.dim[0], 4);
    CHECK(!nib_tensor_reshape(turned, (nib_shape){1, {12}}));
    CHECK(!nib_tensor_slice(t, 0, 2, 2) && nib_last_error()->status == NIB_E_SHAPE);
    nib_tensor_free(column);
    nib_tensor_free(turned);
    nib_tensor_free(t);
    nib_ctx_free(ctx);
}

TEST(elements_are_read_row_by_row_whatever_the_strides) {
    static const float data[6] = {0, 1, 2, 3, 4, 5}, turned[6] = {0, 3, 1, 4, 2, 5};
    float out[6];
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *t = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {2, 3}}, data, NULL, NULL);
    nib_tensor *view = nib_tensor_transpose(t, 0, 1), *column = nib_tensor_slice(t, 1, 2, 1);
    nib_tensor *nothing = nib_tensor_slice(t, 0, 1, 0);
    CHECK_OK(nib_tensor_read(t, out, sizeof out));
    CHECK_BYTES(out, data, sizeof out);
    CHECK_OK(nib_tensor_read(view, out, sizeof out));
    CHECK_BYTES(out, turned, sizeof out);
    CHECK_OK(nib_tensor_read(column, out, 2 * sizeof *out));
    CHECK(out[0] == 2.0f && out[1] == 5.0f);
    CHECK_OK(nib_tensor_read(nothing, NULL, 0));
    CHECK_FAILS(nib_tensor_read(column, out, sizeof out), NIB_E_SHAPE, "has 8 bytes");
    CHECK_FAILS(nib_tensor_read(NIB_NONE, out, 0), NIB_E_ARGUMENT, "NIB_NONE");
    nib_tensor_free(nothing);
    nib_tensor_free(column);
    nib_tensor_free(view);
    nib_tensor_free(t);
    nib_ctx_free(ctx);
}

TEST(every_dtype_has_a_name_and_sub_byte_ones_pack) {
    size_t bytes;
    CHECK(!nib_dtype_bytes(NIB_U4, 5, &bytes) && bytes == 3);
    CHECK(!nib_dtype_bytes(NIB_I3, 8, &bytes) && bytes == 3);
    CHECK(nib_dtype_bytes(NIB_F64, INT64_MAX, &bytes));
    CHECK_TEXT(nib_dtype_name(NIB_F8_E4M3FN), "f8_e4m3fn");
    CHECK_INT(nib_dtype_from_torch_name("torch.bfloat16"), NIB_BF16);
    CHECK_INT(nib_dtype_from_torch_name("complex256"), 0);
}

TESTS(RUNS(wrapped_bytes_go_back_after_the_last_view), RUNS(a_scope_frees_what_was_not_kept),
      RUNS(null_in_is_null_out_and_keeps_the_cause),
      RUNS(views_share_bytes_and_know_when_they_are_not_contiguous),
      RUNS(elements_are_read_row_by_row_whatever_the_strides),
      RUNS(every_dtype_has_a_name_and_sub_byte_ones_pack))
