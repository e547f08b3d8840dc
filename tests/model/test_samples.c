/* Token ids as data: arrays of .npy and .npz beside the text that they are of. */
#include <nibble/io.h>
#include <nibble/nn.h>

#include "base/mem.h"
#include "model/samples.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test_files.h"

#define MODEL "tests/golden/eval/with_bos"
#define TEXT  "tests/golden/eval/text.txt"

static void save_ids(void **state_, nib_ctx *ctx, const char *path, nib_dtype dtype,
                     nib_shape shape, const void *data) {
    nib_tensor *t = nib_tensor_wrap(ctx, dtype, shape, data, NULL, NULL);
    CHECK_OK(nib_npy_save(t, path));
    nib_tensor_free(t);
}

/* The ids of the text's samples, 64 each, BOS first: rows of an array, of every type of integer. */
TEST(ids_of_an_array_are_the_samples_that_the_text_gives) {
    enum { ROWS = 3, COLUMNS = 64 };
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, MODEL, NULL);
    TEST_FOLDER(folder);
    nib_samples text, array;
    CHECK_OK(nib_samples_read(ctx, model, &(nib_data){.file = TEXT, .samples = ROWS, .context = 64},
                              &text));
    CHECK_INT(text.samples, ROWS);
    int64_t i64[ROWS * COLUMNS];
    int32_t i32[ROWS * COLUMNS];
    uint16_t u16[ROWS * COLUMNS];
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        i64[i] = i32[i] = text.ids[i];
        u16[i] = (uint16_t)text.ids[i];
    }
    const struct {
        nib_dtype dtype;
        const void *data;
    } types[] = {{NIB_I64, i64}, {NIB_U64, i64}, {NIB_I32, i32}, {NIB_U32, i32}, {NIB_U16, u16}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int flat = 0; flat < 2; flat++) {
            const nib_shape shape =
                flat ? (nib_shape){1, {ROWS * COLUMNS}} : (nib_shape){2, {ROWS, COLUMNS}};
            save_ids(state_, ctx, IN(folder, "ids.npy"), types[i].dtype, shape, types[i].data);
            CHECK_OK(nib_samples_read(
                ctx, model, &(nib_data){.file = IN(folder, "ids.npy"), .context = 64}, &array));
            CHECK_INT(array.samples, text.samples);
            CHECK_INT(array.count, text.count);
            CHECK(memcmp(array.ids, text.ids, text.count * sizeof *text.ids) == 0);
            CHECK(memcmp(array.ends, text.ends, text.samples * sizeof *text.ends) == 0);
            nib_samples_free(&array);
        }
    /* Rows are cut off at the context, a vector goes on in the next sample; `samples` is a limit.
     */
    CHECK_OK(nib_samples_read(ctx, model, &(nib_data){.file = IN(folder, "ids.npy"), .context = 50},
                              &array));
    CHECK_INT(array.samples, 4);
    CHECK_INT(array.count, ROWS * COLUMNS);
    nib_samples_free(&array);
    save_ids(state_, ctx, IN(folder, "ids.npy"), NIB_I64, (nib_shape){2, {ROWS, COLUMNS}}, i64);
    CHECK_OK(nib_samples_read(
        ctx, model, &(nib_data){.file = IN(folder, "ids.npy"), .context = 50, .samples = 2},
        &array));
    CHECK_INT(array.samples, 2);
    CHECK_INT(array.count, 100);
    nib_samples_free(&array);
    nib_samples_free(&text);
    test_folder_remove(folder);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(arrays_that_hold_no_ids_of_the_model_are_refused) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, MODEL, NULL);
    TEST_FOLDER(folder);
    const char *path = IN(folder, "ids.npy");
    const int64_t good[8] = {0, 1, 2, 3, 4, 5, 6, 7}, high[4] = {1, 2, 320, 3}, low[2] = {5, -1};
    const float real[4] = {1, 2, 3, 4};
    const struct {
        nib_dtype dtype;
        nib_shape shape;
        const void *data;
        const char *what;
    } bad[] = {
        {NIB_I64, {3, {2, 2, 2}}, good, "an array [2, 2, 2] of i64; token ids are integers"},
        {NIB_I64, {0, {0}}, good, "an array [] of i64"},
        {NIB_F32, {1, {4}}, real, "an array [4] of f32"},
        {NIB_I64,
         {2, {2, 2}},
         high,
         "element 2 is 320, which is none of the model's ids, 0 to 319"},
        {NIB_I64, {1, {2}}, low, "element 1 is -1"},
        {NIB_U64, {1, {2}}, low, "element 1 is -1"},
        {NIB_I64, {1, {1}}, good, "there is no sample of two ids"},
        {NIB_I64, {2, {8, 1}}, good, "there is no sample of two ids"},
        {NIB_I64, {2, {0, 8}}, good, "there is no sample of two ids"},
        {NIB_I64, {2, {8, 0}}, good, "there is no sample of two ids"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        save_ids(state_, ctx, path, bad[i].dtype, bad[i].shape, bad[i].data);
        nib_data d = {.file = path};
        CHECK_FAILS(nib_model_feed(ctx, model, &d), NIB_E_FORMAT, bad[i].what);
        CHECK(strcmp(nib_last_error()->path, path) == 0);
    }
    save_ids(state_, ctx, path, NIB_I64, (nib_shape){1, {8}}, good);
    size_t size = 0;
    char *whole = test_read(path, &size);
    test_write(path, whole, size - 9);
    nib_data d = {.file = path};
    CHECK_FAILS(nib_model_feed(ctx, model, &d), NIB_E_FORMAT, "9 bytes short");
    free(whole);
    test_folder_remove(folder);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(every_failed_allocation_with_ids_is_reported) {
    bool done = false;
    for (long n = 0; !done; n += n < 200 ? 1 : 13) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
        nib_model *model = nib_model_load(ctx, MODEL, NULL);
        nib_data d = {.file = "tests/golden/pictures/ids.npz"};
        nib_mem_fail_after(n, false);
        const nib_status status = nib_model_feed(ctx, model, &d);
        done = nib_mem_fail_after(-1, false) <= n;
        if (status != NIB_OK) CHECK_INT(status, NIB_E_MEMORY);
        CHECK(status == NIB_OK || !done);
        CHECK_INT(ctx->owned_count, 0);
        nib_model_free(model);
        nib_ctx_free(ctx);
    }
}

TESTS(RUNS(ids_of_an_array_are_the_samples_that_the_text_gives),
      RUNS(arrays_that_hold_no_ids_of_the_model_are_refused),
      RUNS(every_failed_allocation_with_ids_is_reported))
